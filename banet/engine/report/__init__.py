"""HTML gallery and demonstration."""

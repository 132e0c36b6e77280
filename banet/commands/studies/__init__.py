"""The commands that repeat the paper's tables and figures."""

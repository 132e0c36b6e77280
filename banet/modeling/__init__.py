"""The network: backbone, heads, the two aggregation modules and their composition."""

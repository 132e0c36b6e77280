"""Weights on disk and on the hub, and warm starts from them."""

"""Panoptic quality, and what it consists of."""

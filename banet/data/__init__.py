"""Readers, transforms and the procedural scenes dataset."""

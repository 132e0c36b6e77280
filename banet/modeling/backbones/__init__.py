"""Backbones: a body that gives features at strides 4 to 32, and the feature pyramid on it."""

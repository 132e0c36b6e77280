"""Training: the loop, its data, checkpoints and processes."""

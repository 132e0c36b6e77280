"""Prediction on files: images, videos, and other programs' outputs."""

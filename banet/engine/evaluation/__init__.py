"""Evaluation: data with ground truth, PQ, AP of masks, mIoU of stuff."""

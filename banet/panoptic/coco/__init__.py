"""COCO panoptic files: PNG id maps, JSON annotations, run lengths, the 133 classes."""

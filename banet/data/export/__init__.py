"""COCO panoptic made into other formats, one module per format. Needs no torch.

What a format cannot hold is counted and reported (`ExportReport`).
"""

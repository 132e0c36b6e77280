"""Other formats made into COCO panoptic, one module a format. Needs no torch.

The images stay where they are: what is written names them relative to the folder that they are in.
"""

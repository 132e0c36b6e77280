"""Make the overlapping masks of another detector disjoint: an occlusion rule decides which object owns each pixel.

    python examples/other_detector.py photo.jpg detections.pt [RULE]

detections.pt holds what a Mask R-CNN of torchvision returns for the image, saved by `torch.save(model([x])[0], PATH)`.
Results of other libraries go through the same function: see docs/how_to/plug_in.md.
"""

import sys

import torch

from banet.data.images import read_image
from banet.panoptic import make_disjoint

image, rule = read_image(sys.argv[1]), sys.argv[3] if len(sys.argv) > 3 else "appearance"
detections = torch.load(sys.argv[2], weights_only=True)
disjoint = make_disjoint(detections, image=image, rule=rule)

for name, found in (("before", detections), ("after", disjoint)):
    claims = (found["masks"] >= 0.5).sum(0)  # (1, H, W): how many objects claim each pixel
    print(f"{name}: {len(found['masks'])} objects, {int((claims > 1).sum())} pixels claimed more than once")
torch.save(disjoint, f"{sys.argv[2].removesuffix('.pt')}_disjoint.pt")

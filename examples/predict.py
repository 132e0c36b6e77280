"""Segment an image, print what was found and write an overlay and a COCO panoptic PNG.

    python examples/predict.py photo.jpg [WEIGHTS] [OUT]

WEIGHTS: a .safetensors file, a run's folder or the name of bundled weights. The default, `scenes`, recognises the
classes of procedural scenes only.
"""

import sys
from pathlib import Path

import banet

image = Path(sys.argv[1])
weights = sys.argv[2] if len(sys.argv) > 2 else "scenes"
out = Path(sys.argv[3] if len(sys.argv) > 3 else ".")

model = banet.BANet.from_pretrained(weights)
result = model.predict(image)
for segment in result:
    score = "stuff" if segment.score is None else f"{segment.score:.2f}"
    print(f"{segment.id:4} {segment.label:12} {score:5} {segment.area:8} pixels")
result.save(out / f"{image.stem}_panoptic.png")  # and a .json beside it
result.draw(legend=True).save(out / f"{image.stem}_overlay.png")

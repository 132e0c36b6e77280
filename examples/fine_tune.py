"""Fine-tune weights on some 20 labelled images of your own, and look at the outcome early.

    python examples/fine_tune.py DATA OUT [WEIGHTS] [ITERATIONS]

DATA has images/, panoptic/ and panoptic.json, which `banet data convert` makes of other formats; fine_tune.yaml holds
the options. The network is that of WEIGHTS (by default `nuclei`), whose stem and first two stages do not learn. After a
sixth of the iterations and at the end OUT gets an overlay of the first image; the weights are OUT/model.safetensors.
"""

import sys
from pathlib import Path

import banet
from banet.cli import main

root, out = Path(sys.argv[1]), Path(sys.argv[2])
weights = sys.argv[3] if len(sys.argv) > 3 else "nuclei"
iterations = int(sys.argv[4]) if len(sys.argv) > 4 else 300

image = min((root / "images").iterdir())
recipe = ["--config", str(Path(__file__).with_name("fine_tune.yaml")), "--data.root", str(root), "--init", weights]
for steps in (max(1, iterations // 6), iterations):
    if main(["train", *recipe, f"--train.iterations={steps}", "--out", str(out), "--resume", "auto"]):
        sys.exit(1)
    banet.BANet.from_pretrained(out).predict(image).draw().save(out / f"after_{steps}.png")

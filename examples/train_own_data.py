"""Train on a data set in COCO panoptic format, and measure the result.

    python examples/train_own_data.py DATA OUT [ITERATIONS]

DATA has images/, panoptic/ and panoptic.json; `banet data convert` makes the last two from other formats, and
`banet data scenes --out DATA` draws some. The recipe starts from the small `scenes_r18`; what differs for these data is
set below. Measuring on the training data, as here, is for trying out: give `val` a split of its own.
"""

import json
import sys
from pathlib import Path

from banet.cli import main

root, out = Path(sys.argv[1]), Path(sys.argv[2])
iterations = int(sys.argv[3]) if len(sys.argv) > 3 else 1000
split = json.dumps({"images": "images", "panoptic": "panoptic", "json": "panoptic.json"})
data = {"kind": "coco", "root": root, "train": split, "val": split, "shorter": [256], "longer": 448, "workers": 0}
recipe = ["--config", "scenes_r18", *(f"--data.{name}={value}" for name, value in data.items())]

failed = main(["data", "check", str(root)])
failed = failed or main(["train", *recipe, f"--train.iterations={iterations}", "--out", str(out), "--resume", "auto"])
failed = failed or main(["evaluate", str(out), "--config", str(out / "recipe.yaml"), "--out", str(out / "val")])
sys.exit(failed)

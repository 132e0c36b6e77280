"""Learn eight real images by heart: shows that targets, losses and inference agree.

    python benchmarks/overfit.py --data DIR --out runs/overfit     # DIR: images/, panoptic/, panoptic.json

Cuts the JSON down to the images, trains a small BANet on them from random weights with `banet train`, goes on where
an earlier call stopped, and measures the same images with `banet evaluate`.
"""

from __future__ import annotations

import json
from pathlib import Path

from harness import Report, parser

from banet.cli import main as banet

# Two whose annotation is COCO's own, and six with few or large segments beside them.
PICTURES = (142238, 439180, 17914, 500044, 371376, 785, 1818, 580986)

RECIPE = """
name: overfit
model: {{backbone: resnet18, fpn_channels: 96, semantic_channels: [96, 96, 64], box_head_channels: 256,
         mask_head_channels: 96, i2s_channels: 64, anchor_sizes: [16, 32, 64, 128, 256], canonical_box_size: 128}}
inference: {{shorter: 320, longer: 512, proposals_per_level: 300, proposals: 300, stuff_area: 1024}}
loss: {{rpn_samples: 128, proposals_per_level: 300, proposals: 300, roi_samples: 64, seg_weight: 1.0, i2s_weight: 1.0}}
data:
  root: "{root}"
  train: &split {{images: "{data}/images", panoptic: "{data}/panoptic", json: subset.json}}
  val: *split
  shorter: [320]
  longer: 512
  flip: 0.0
  crop: [1.0, 1.0]
  workers: 1
train: {{init: random, iterations: {iterations}, batch: 2, optimizer: adamw, lr: 0.0006, weight_decay: 0.0, warmup: 30,
         warmup_factor: 0.01, schedule: cosine, milestones: [], clip: 10.0, checkpoint_every: 50, val_every: 100}}
"""


def main() -> None:
    command_line = parser(__doc__, threads=None)
    command_line.add_argument("--data", type=Path, required=True)
    command_line.add_argument("--out", type=Path, default=Path("runs/overfit"))
    command_line.add_argument("--iterations", type=int, default=400)
    options = command_line.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    content = json.loads((options.data / "panoptic.json").read_text())
    content["images"] = [image for image in content["images"] if image["id"] in PICTURES]
    content["annotations"] = [one for one in content["annotations"] if one["image_id"] in PICTURES]
    (options.out / "subset.json").write_text(json.dumps(content))
    recipe = options.out / "overfit.yaml"
    recipe.write_text(
        RECIPE.format(root=options.out.resolve(), data=options.data.resolve(), iterations=options.iterations)
    )
    run = options.out / "run"
    with Report(options, __file__) as report:
        status = banet(["train", "--config", str(recipe), "--out", str(run), "--resume", "auto"])
        status = status or banet(["evaluate", str(run), "--config", str(recipe), "--out", str(options.out / "results")])
        report.say(f"ended with {status}", status=status)
    raise SystemExit(status)


if __name__ == "__main__":
    main()

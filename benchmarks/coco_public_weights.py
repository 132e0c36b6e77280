"""COCO without training: public weights under every occlusion rule, scored as COCO does, as a table for the docs.

Downloads nothing: the weights must be in the hub's and torch's caches already (`banet predict` puts them there), or be
folders. Each image goes through a model once and is fused under every rule.

    python benchmarks/coco_public_weights.py --images val2017 --panoptic panoptic_val2017 \\
        --json panoptic_val2017.json --out coco_public.md
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

from tqdm import tqdm

from banet.composed.classes import ClassTable
from banet.composed.load import load
from banet.data.coco_panoptic import CocoPanoptic
from banet.errors import InputError
from banet.files.atomic import atomic_path
from banet.inference.device import pick_device
from banet.inference.predictor import Predictor
from banet.panoptic import PanopticQuality
from banet.panoptic.defaults import RuleName

MODELS = (
    "coco",
    "coco-small",
    "coco-large",
    "coco-detr",
    "torchvision:maskrcnn_resnet50_fpn_v2+hf:facebook/mask2former-swin-tiny-coco-panoptic",
)
COLUMNS = (
    ("All", "pq"),
    ("All", "sq"),
    ("All", "rq"),
    ("Things", "pq"),
    ("Things", "sq"),
    ("Things", "rq"),
    ("Stuff", "pq"),
)


def measure(model: Predictor, data: CocoPanoptic, limit: int | None) -> dict[str, dict[str, Any]]:
    """Return what `PanopticQuality.compute` gives by rule."""
    qualities = {rule: PanopticQuality(model.categories) for rule in get_args(RuleName)}
    for index in tqdm(range(min(limit or len(data), len(data))), unit="image"):
        image, truth = data.read(index)
        (unfused,) = model.predict_unfused([image])
        for rule, quality in qualities.items():
            quality.update(model.fuse(unfused, rule=rule), truth)
    return {rule: quality.compute() for rule, quality in qualities.items()}


def table(scores: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> str:
    """Return the figures by model and rule as Markdown, in per cent."""
    lines = ["| model | rule | PQ | SQ | RQ | PQ^Th | SQ^Th | RQ^Th | PQ^St |", "|---|---|" + "---|" * len(COLUMNS)]
    for model, rules in scores.items():
        for rule, result in rules.items():
            figures = " | ".join(f"{100 * result[subset][key]:.1f}" for subset, key in COLUMNS)
            lines.append(f"| `{model}` | {rule} | {figures} |")
    return "\n".join(lines) + "\n"


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", required=True, help="folder of the images")
    parser.add_argument("--panoptic", required=True, help="folder of the id PNGs")
    parser.add_argument("--json", required=True, help="COCO panoptic JSON")
    parser.add_argument("--out", required=True, type=Path, help="gets the table")
    parser.add_argument("--models", nargs="+", default=MODELS, help="as for banet predict --weights")
    parser.add_argument("--limit", type=int, help="only the first N images")
    parser.add_argument("--device", default="auto")
    options = parser.parse_args(arguments)
    data = CocoPanoptic(Path(options.images), Path(options.panoptic), Path(options.json))
    classes = ClassTable.default().for_categories(data.categories, options.json)
    scores = {}
    for name in options.models:
        try:
            model = load(name, device=pick_device(options.device), class_table=classes, offline=True)
        except InputError as error:
            warnings.warn(f"left out: {error}", stacklevel=1)
            continue
        scores[name] = measure(model, data, options.limit)
        with atomic_path(options.out) as temporary:  # after each model, as this takes long
            temporary.write_text(table(scores), encoding="utf-8")
    print(table(scores))


if __name__ == "__main__":
    main()

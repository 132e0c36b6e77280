"""Measure which boxes should feed RoIInlay: ``python benchmarks/inlay_boxes.py``.

The network runs once per scene. Its instances are the same in every row, as is fusion; only the semantic logits differ:
the first ones, which no instance feature has reached, and the final ones with the boxes of the row. Stuff is then
counted: PQ, and its false positives, which are segments of a class that the scene does not have there.

Rows `final, > S` are what `inference.inlay_score_threshold: S` does. `true boxes` is a bound, not a setting.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

import torch
from harness import Report, parser, use_threads
from torch import Tensor

from banet import BANet
from banet.data.scenes.generate import Scenes
from banet.inference.postprocess import postprocess
from banet.inference.preprocess import preprocess
from banet.modeling.instance_head import select_for_panoptic
from banet.modeling.outputs import Output
from banet.modeling.segmenters import AggregatedLogits
from banet.panoptic import PanopticQuality, PanopticSegmentation


@dataclass(frozen=True)
class Row:
    """The logits of one row for one scene.

    Attributes:
        name: of the row.
        boxes: how many feed RoIInlay.
        logits: (1, C, h, w).
    """

    name: str
    boxes: int
    logits: Tensor


def true_boxes(truth: PanopticSegmentation, scale: float) -> Tensor:
    """Return the boxes of all things, (N, 4) in pixels of the network's input."""
    boxes = torch.tensor([s.bbox for s in truth.segments if s.isthing], dtype=torch.float32).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    return boxes * scale


def rows(model: BANet, output: Output, truth: PanopticSegmentation, thresholds: Sequence[float]) -> Iterator[Row]:
    """Yield each row of one scene."""
    segmenter, limits, (candidates,) = model.segmenter, model.inference, output.candidates
    yield Row("first", 0, segmenter.first(output.semantic))
    sets = {"no box": output.detections[0].boxes[:0]}
    for score in thresholds:
        sets[f"> {score:g}"] = select_for_panoptic(
            candidates, score=score, iou=limits.nms_threshold, limit=limits.max_instances
        )[0]
    sets["true boxes"] = true_boxes(truth, output.sizes[0][0] / truth.ids.shape[0])
    for name, boxes in sets.items():
        f_ins = model.mask_head.features(output.rois.mask([boxes]))
        yield Row(f"final, {name}", len(boxes), segmenter(output.semantic, f_ins, [boxes], output.sizes))


@dataclass
class Counts:
    """What is counted over all scenes.

    Attributes:
        quality: by row and limit of stuff.
        boxes: that fed RoIInlay, by row.
    """

    quality: dict[tuple[str, int], PanopticQuality] = field(default_factory=dict)
    boxes: dict[str, int] = field(default_factory=dict)


def measure(model: BANet, scenes: Scenes, options: argparse.Namespace) -> Counts:
    """Count every row of every scene, under each limit of stuff."""
    counts = Counts()
    for index in range(options.scenes):
        image, truth = scenes.read(index)
        output = model([preprocess(image, model.inference)])
        for row in rows(model, output, truth, options.thresholds):
            counts.boxes[row.name] = counts.boxes.get(row.name, 0) + row.boxes
            (raw,) = replace(output, logits=row.logits).images
            unfused = postprocess(raw, image, model.categories, model.inference)
            for area in options.stuff_area:
                result = unfused.fuse(model.categories, replace(model.inference, stuff_area=area))
                quality = counts.quality.setdefault((row.name, area), PanopticQuality(model.categories))
                quality.update(result, truth)
    return counts


def say(report: Report, name: str, area: int, counts: PanopticQuality, boxes: float) -> None:
    """Print and keep the figures of one row."""
    found = counts.compute()
    pq, things, stuff = (100 * found[subset]["pq"] for subset in ("All", "Things", "Stuff"))
    wrong = int(counts.state["fp"][counts.categories.num_things :].sum())
    report.say(
        f"stuff from {area} px, {name:<18} {boxes:5.2f} boxes, PQ {pq:.2f}, PQ^Th {things:.2f}, PQ^St {stuff:.2f}, "
        f"{wrong} false positives of stuff",
        stuff_area=area, boxes=boxes, pq=pq, pq_things=things, pq_stuff=stuff, stuff_false_positives=wrong,
    )  # fmt: skip


def main() -> None:
    command_line = parser(__doc__, threads=1)
    command_line.add_argument("--weights", default="scenes", help="of a network with SIM, trained on scenes")
    command_line.add_argument("--scenes", type=int, default=120)
    command_line.add_argument("--side", type=int, default=256, help="of a scene, in pixels")
    command_line.add_argument("--seed", type=int, default=7019, help="of the scenes")
    command_line.add_argument("--thresholds", type=float, nargs="+", default=[0.6, 0.3, 0.1, 0.05])
    command_line.add_argument(
        "--stuff-area", type=int, nargs="+", default=[256, 874], help="limits of stuff, in pixels"
    )
    options = command_line.parse_args()
    use_threads(options.threads)
    torch.set_num_threads(options.threads)
    model = BANet.from_pretrained(options.weights)
    if not isinstance(model.segmenter, AggregatedLogits):
        raise SystemExit(f"--weights {options.weights}: its network has no SIM, hence no RoIInlay")
    with Report(options, __file__) as report, torch.inference_mode():
        found = measure(model, Scenes(options.seed, options.scenes, (options.side, options.side)), options)
        for area in options.stuff_area:
            for (name, limit), counts in found.quality.items():
                if limit == area:
                    say(report, name, area, counts, found.boxes[name] / options.scenes)


if __name__ == "__main__":
    main()

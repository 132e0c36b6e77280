"""How well weights find nuclei: ``python benchmarks/nuclei.py WEIGHTS --data DIR [--figure PNG] [--json JSON]``.

DIR holds one split: ``images/``, ``panoptic/``, ``panoptic.json``. For all images, and for fluorescence and stained
tissue apart, it prints PQ of nucleus and background, and for thresholds of IoU the score TP / (TP + FP + FN) of nuclei,
with TP, FP and FN pooled over the images and, beside it, the mean over images. A nucleus is found when a segment
overlaps it by more than the threshold; from 0.5 on no nucleus has two such segments. An image is taken for
fluorescence when it is grey and most of it is dark.

With ``--counts`` it also says how many nuclei are found when all images are inverted, and when they are stored with 12
bits in 16-bit samples, beside how many are found as they are: other cameras and displays should not change a count.

The figure shows the best, the median and the worst images by their score at 0.5.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from harness import Report, parser
from numpy.typing import NDArray
from tqdm import tqdm

from banet.engine.evaluation.evaluation_data import EvaluationImage, open_split
from banet.engine.recipe import SplitConfig
from banet.inference.banet import BANet
from banet.panoptic import PanopticQuality, PanopticSegmentation
from banet.types import BitDepth

THRESHOLDS = tuple(round(0.5 + 0.05 * k, 2) for k in range(9))
CHANNEL_GAP = 8
"""Grey levels that channels of a grey image may differ by."""


@dataclass(frozen=True)
class Scored:
    """One image: IoU of each pair of nuclei that is matched at 0.5, and how many nuclei there are on either side."""

    image: EvaluationImage
    prediction: PanopticSegmentation
    ious: NDArray[np.float64]
    found: int
    true: int
    fluorescence: bool

    def score(self, threshold: float) -> float:
        """TP / (TP + FP + FN); 1 where there is nothing and nothing is found."""
        return score([self], threshold)


def score(images: list[Scored], threshold: float) -> float:
    """TP / (TP + FP + FN), pooled."""
    hits = sum(int((each.ious > threshold).sum()) for each in images)
    union = sum(each.found + each.true for each in images) - hits
    return hits / union if union else 1.0


def is_fluorescence(image: NDArray[np.uint8]) -> bool:
    gap = image.max(axis=2).astype(int) - image.min(axis=2)
    return bool(np.quantile(gap, 0.99) <= CHANNEL_GAP and np.median(image) < 128)


def compare(picture: EvaluationImage, prediction: PanopticSegmentation) -> Scored:
    """Matches nuclei by their IoU, slowly and plainly, apart from PQ's own matching."""
    ours = [s.id for s in prediction.segments if s.isthing]
    theirs = [s.id for s in picture.ground_truth.segments if s.isthing]
    codes, counts = np.unique(
        picture.ground_truth.ids.astype(np.int64) << 32 | prediction.ids.astype(np.int64), return_counts=True
    )
    shared = dict(zip(codes.tolist(), counts.tolist(), strict=True))
    area = {
        (side, s.id): s.area for side, found in enumerate((picture.ground_truth, prediction)) for s in found.segments
    }
    mine, other = set(ours), set(theirs)
    ious = []
    for code, both in shared.items():
        t, p = code >> 32, code & 0xFFFFFFFF
        if t in other and p in mine:
            ious.append(both / (area[0, t] + area[1, p] - both))
    matched = np.array([iou for iou in ious if iou > 0.5])
    return Scored(picture, prediction, matched, len(ours), len(theirs), is_fluorescence(picture.image))


def summarize(name: str, images: list[Scored], report: Report) -> None:
    categories = images[0].image.ground_truth.categories
    quality = PanopticQuality(categories)
    for each in images:
        quality.update(each.prediction, each.image.ground_truth)
    result = quality.compute()
    pooled = [score(images, t) for t in THRESHOLDS]
    means = [float(np.mean([each.score(t) for each in images])) for t in THRESHOLDS]
    figures = {
        "pictures": len(images),
        "PQ of nuclei": 100 * result["Things"]["pq"],
        "SQ of nuclei": 100 * result["Things"]["sq"],
        "RQ of nuclei": 100 * result["Things"]["rq"],
        "PQ of background": 100 * result["Stuff"]["pq"],
        "score at 0.5": pooled[0],
        "mean score over 0.5..0.9": float(np.mean(pooled)),
        "score at 0.5, mean over pictures": means[0],
        "mean score over 0.5..0.9, mean over pictures": float(np.mean(means)),
    }
    report.say(f"\n{name}", **figures)
    for key, value in figures.items():
        report.say(f"  {key:46} {value:.0f}" if key == "pictures" else f"  {key:46} {value:.3f}")
    report.say("  pooled, by threshold: " + "  ".join(f"{t}: {s:.3f}" for t, s in zip(THRESHOLDS, pooled, strict=True)))


def count_variants(model: BANet, images: list[Scored], rule: str | None, report: Report) -> None:
    """Say how many nuclei are found in inverted and in 12-bit images, beside those in the images as they are."""
    plain = sum(each.found for each in images)
    variants: dict[str, tuple[Callable[[NDArray[np.uint8]], NDArray[Any]], BitDepth | None]] = {
        "inverted": (lambda image: 255 - image, None),
        "12 bits": (lambda image: image.astype(np.uint16) * 257 >> 4, 12),
    }
    report.say("\ncounts")
    for name, (change, bits) in variants.items():
        found = 0
        for each in tqdm(images, desc=name, unit="image"):
            result = model.predict(change(each.image.image), rule=rule, bit_depth=bits)
            found += sum(segment.isthing for segment in result)
        difference = 100 * (found / max(plain, 1) - 1)
        report.say(
            f"  {name}: {found} nuclei, {plain} as they are ({difference:+.1f} %)", name=name, difference=difference
        )


def draw(images: list[Scored], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    ranked = sorted(images, key=lambda each: -each.score(0.5))
    middle = len(ranked) // 2
    rows = {"best": ranked[:2], "median": ranked[middle - 1 : middle + 1], "worst": ranked[-2:]}
    figure, axes = pyplot.subplots(3, 6, figsize=(15, 7.8), layout="constrained")
    for line, (name, chosen) in zip(axes, rows.items(), strict=True):
        for k, each in enumerate(chosen):
            panels = (
                (each.image.image, f"{name}: {each.true} nuclei"),
                (each.prediction.draw(each.image.image), f"found {each.found}, score {each.score(0.5):.2f}"),
                (each.image.ground_truth.draw(each.image.image), "truth"),
            )
            for axis, (image, title) in zip(line[3 * k : 3 * k + 3], panels, strict=True):
                axis.imshow(image)
                axis.set_title(title, fontsize=9)
                axis.set_axis_off()
    figure.savefig(path, dpi=80)


def main() -> None:
    command_line = parser(__doc__, threads=None)
    command_line.add_argument("weights")
    command_line.add_argument("--data", required=True)
    command_line.add_argument("--rule")
    command_line.add_argument("--device", default="cpu")
    command_line.add_argument("--counts", action="store_true")
    command_line.add_argument("--figure", type=Path)
    options = command_line.parse_args()
    model = BANet.from_pretrained(options.weights, device=options.device)
    split = open_split(SplitConfig("images", "panoptic", "panoptic.json"), options.data)
    scored = []
    for index in tqdm(range(len(split)), unit="image"):
        picture = split[index]
        scored.append(compare(picture, model.predict(picture.image, rule=options.rule)))
    kinds = {
        "all": scored,
        "fluorescence": [each for each in scored if each.fluorescence],
        "stained tissue and bright field": [each for each in scored if not each.fluorescence],
    }
    with Report(options, __file__) as report:
        for name, chosen in kinds.items():
            if chosen:
                summarize(name, chosen, report)
        if options.counts:
            count_variants(model, scored, options.rule, report)
    if options.figure:
        draw(scored, options.figure)


if __name__ == "__main__":
    main()

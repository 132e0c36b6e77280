"""Occlusion rules on what a detector found: right owners, and PQ of things with and without each step.

    python benchmarks/real_detections.py --images DIR --detections results.json --instances instances.json
    python benchmarks/real_detections.py --images DIR --instances instances.json --detect torchvision --out results.json
    python benchmarks/real_detections.py --images DIR --instances instances.json --detect degraded --count 100

`--detections` is a COCO results JSON (run lengths or polygons, scores), `--instances` the truth (COCO instances). A
pair of detections of one image that overlap, however little, is measured where both are matched to a different instance
(IoU of masks at least 0.5) and one of the two instances holds more than two thirds of what both hold of the overlap. A
tie counts a half; intervals (95 %) come from drawing images again. PQ of things is measured after `fuse_panoptic`, the
truth being the instances, each pixel the smallest one's. `--detect torchvision` first runs public weights of
torchvision (`maskrcnn_resnet50_fpn_v2`, COCO's categories), which it downloads: for machines with a network. `--detect
degraded` makes detections of the truth, as a detector could give them: masks with errors, random scores, every fifth
object found twice under two classes, and one mask over every fifth two objects of one class that touch.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from harness import Report, parser
from numpy.typing import NDArray
from occlusion import interval, table
from occlusion_pairs import as_detected, dilate

from banet.data.images import read_image
from banet.files.names import safe_join
from banet.panoptic import (
    RULES,
    Categories,
    Category,
    MaskCrops,
    PanopticQuality,
    PanopticSegmentation,
    find_redundant,
    fuse_panoptic,
    resolve_occlusions,
)
from banet.panoptic.coco.rle import decode_segmentation, encode_rle
from banet.panoptic.occlusion.rules import Pairs

Mask = NDArray[np.bool_]
OFTEN = 0.2
"""How often a degraded detection is found twice, or is one mask over two."""
SIZES = ((0.0, 0.02), (0.02, 0.2), (0.2, 1.01))
"""Overlaps by their share of the smaller mask."""


@dataclass
class Image:
    """An image, what was found in it, and the truth.

    Attributes:
        name: of its file.
        pixels: (H, W, 3).
        masks: (N, H, W) detections above the score threshold.
        scores: (N,).
        labels: (N,) category ids.
        truth: (M, H, W) instances.
        classes: (M,) their category ids.
    """

    name: str
    pixels: NDArray[np.uint8]
    masks: Mask
    scores: NDArray[np.float64]
    labels: NDArray[np.int64]
    truth: Mask
    classes: NDArray[np.int64]
    known: list[tuple[int, int, int]] = field(default_factory=list)

    def owners(self) -> list[tuple[int, int, int]]:
        """Pairs whose owner is known: the two detections, i < j, and which of the two it is (0 or 1)."""
        matched, found = self._matches(), []
        pairs = Pairs.of(MaskCrops.from_masks(self.masks), self.scores, None)
        for i, j in zip(pairs.i.tolist(), pairs.j.tolist(), strict=True):
            a, b = matched[i], matched[j]
            if a < 0 or b < 0 or a == b:
                continue
            shared = self.masks[i] & self.masks[j]
            mine, theirs = (np.count_nonzero(shared & self.truth[n]) for n in (a, b))
            if 3 * max(mine, theirs) > 2 * (mine + theirs):
                found.append((i, j, int(theirs > mine)))
        return found

    def _matches(self) -> NDArray[np.int64]:
        if not len(self.masks) or not len(self.truth):
            return np.full(len(self.masks), -1)
        flat, true = (m.reshape(len(m), -1).astype(np.float32) for m in (self.masks, self.truth))
        shared = flat @ true.T
        iou = shared / np.maximum(flat.sum(axis=1)[:, None] + true.sum(axis=1) - shared, 1)
        return np.where(iou.max(axis=1) >= 0.5, iou.argmax(axis=1), -1)


def read(options: Any) -> tuple[list[Image], Categories]:
    truth, results = json.loads(options.instances.read_text()), json.loads(options.detections.read_text())
    by_image: dict[Any, tuple[list[Any], list[Any]]] = defaultdict(lambda: ([], []))
    for kind, entries in enumerate((results, truth["annotations"])):
        for one in entries:
            if kind or one["score"] > options.score:
                by_image[str(one["image_id"])][kind].append(one)
    images = []
    for info in truth["images"][: options.count]:
        found, real = by_image[str(info["id"])]
        pixels = np.asarray(read_image(safe_join(options.images, info["file_name"])))
        size = (pixels.shape[0], pixels.shape[1])

        def stack(entries: list[Any], size: tuple[int, int] = size) -> Mask:
            masks = [decode_segmentation(one["segmentation"], size) for one in entries]
            return np.stack(masks) if masks else np.zeros((0, *size), bool)

        labels = [np.array([int(one["category_id"]) for one in some], dtype=np.int64) for some in (found, real)]
        scores = np.array([one["score"] for one in found], dtype=np.float64)
        images.append(Image(info["file_name"], pixels, stack(found), scores, labels[0], stack(real), labels[1]))
        images[-1].known = images[-1].owners()
    ids = sorted({int(one["id"]) for one in truth["categories"]} | {int(one["category_id"]) for one in results})
    # Category ids of other programs begin at 0, which is void here: all are moved up by one.
    categories = Categories([Category(n + 1, f"{n}", True) for n in ids] + [Category(ids[-1] + 2, "rest", False)])
    return images, categories


def right(image: Image, pair: tuple[int, int, int], rule: str, threshold: float) -> float:
    """1 where most of the overlap goes to its owner, a half for as much to either, else 0."""
    i, j, owner = pair
    masks = image.masks[[i, j]]
    found = resolve_occlusions(
        masks, image.scores[[i, j]], image.pixels, rule=rule, overlap_threshold=threshold, removal_threshold=1
    )[masks[0] & masks[1]]
    share = float(np.mean(found == owner))
    return float(share > 0.5) + 0.5 * (share == 0.5)


def quality(images: list[Image], categories: Categories, gone: Sequence[str] = (), **options: Any) -> float:
    """PQ of things, %, without the detections that are redundant for one of these reasons."""
    score = PanopticQuality(categories)
    rest = categories[-1].id
    for image in images:
        ids = np.zeros(image.pixels.shape[:2], np.int32)
        order = np.argsort(-image.truth.sum(axis=(1, 2)), kind="stable").tolist()
        for n in order:
            ids[image.truth[n]] = n + 1
        there = np.unique(ids[ids > 0]).tolist()
        segments = [{"id": n, "category_id": int(image.classes[n - 1]) + 1} for n in there]
        if (ids == 0).any():
            ids[ids == 0] = len(image.truth) + 1
            segments.append({"id": len(image.truth) + 1, "category_id": rest})
        truth = PanopticSegmentation.from_ids(ids, segments, categories)
        redundant = {each.index for each in find_redundant(image.masks, image.scores) if each.reason in gone}
        kept = [n for n in range(len(image.masks)) if n not in redundant]
        result = fuse_panoptic(
            MaskCrops.from_masks(image.masks[kept]),
            image.scores[kept],
            image.labels[kept] + 1,
            np.full(ids.shape, rest),
            image.pixels,
            categories=categories,
            stuff_area=0,
            **options,
        )
        score.update(result, truth)
    return 100 * float(score.compute()["Things"]["pq"])


def run_torchvision(options: Any) -> None:
    import torch
    from torchvision.models.detection import MaskRCNN_ResNet50_FPN_V2_Weights, maskrcnn_resnet50_fpn_v2

    model = maskrcnn_resnet50_fpn_v2(weights=MaskRCNN_ResNet50_FPN_V2_Weights.DEFAULT).eval()
    entries = []
    with torch.inference_mode():
        for info in json.loads(options.instances.read_text())["images"][: options.count]:
            image = read_image(safe_join(options.images, info["file_name"])).convert("RGB")
            found = model([torch.from_numpy(np.array(image)).permute(2, 0, 1) / 255])[0]
            for label, score, mask in zip(found["labels"], found["scores"], found["masks"][:, 0] >= 0.5, strict=True):
                one = {"image_id": info["id"], "category_id": int(label), "score": float(score)}
                entries.append({**one, "segmentation": encode_rle(mask.numpy())})
    options.out.write_text(json.dumps(entries))


def degrade(options: Any) -> None:
    """Write detections of the truth as a detector could give them; only of `--count` images."""
    truth, rng, entries = json.loads(options.instances.read_text()), np.random.default_rng(0), []
    by_image: dict[Any, list[Any]] = defaultdict(list)
    for one in truth["annotations"]:
        if not one.get("iscrowd", 0):
            by_image[one["image_id"]].append(one)
    classes = [int(one["category_id"]) for ones in by_image.values() for one in ones]

    def add(image_id: Any, mask: Mask, category: int, score: float) -> None:
        found = as_detected(mask, rng)
        if found.any():
            one = {"image_id": image_id, "category_id": category, "score": score, "segmentation": encode_rle(found)}
            entries.append(one)

    for info in truth["images"][: options.count]:
        ones, size = by_image[info["id"]], (info["height"], info["width"])
        masks = [decode_segmentation(one["segmentation"], size) for one in ones]
        scores = rng.uniform(0.6, 1, len(masks)).tolist()
        for n, (mask, score, one) in enumerate(zip(masks, scores, ones, strict=True)):
            add(info["id"], mask, int(one["category_id"]), score)
            if rng.random() < OFTEN:
                add(info["id"], mask, classes[int(rng.integers(len(classes)))], score * rng.uniform(0.85, 1))
            for m in range(n):
                same = ones[m]["category_id"] == one["category_id"]
                if same and rng.random() < OFTEN and (dilate(mask, 2) & masks[m]).any():
                    worse = min(score, scores[m]) * rng.uniform(0.85, 1)
                    add(info["id"], mask | masks[m], int(one["category_id"]), worse)
    options.out.write_text(json.dumps(entries))


def main() -> None:
    command_line = parser(__doc__, threads=None)
    command_line.add_argument("--images", type=Path, required=True)
    command_line.add_argument("--instances", type=Path, required=True)
    command_line.add_argument("--detections", type=Path)
    command_line.add_argument(
        "--detect", choices=["torchvision", "degraded"], help="make --detections first, and write --out"
    )
    command_line.add_argument("--out", type=Path, default=Path("results.json"))
    command_line.add_argument("--count", type=int, help="only the first N images")
    command_line.add_argument("--score", type=float, default=0.5, help="detections score above this")
    command_line.add_argument("--rules", nargs="+", choices=list(RULES), default=list(RULES))
    command_line.add_argument("--thresholds", nargs="+", type=float, default=[0.0, 0.2])
    options = command_line.parse_args()
    if options.detect:
        {"torchvision": run_torchvision, "degraded": degrade}[options.detect](options)
        options.detections = options.out
    if options.detections is None:
        command_line.error("give --detections, or --detect to make them")
    with Report(options, __file__) as report:
        images, categories = read(options)
        pairs = [(image, pair) for image in images for pair in image.known]
        names = np.array([image.name for image, _ in pairs])
        shares = np.array(
            [
                np.count_nonzero(image.masks[i] & image.masks[j]) / image.masks[[i, j]].sum(axis=(1, 2)).min()
                for image, (i, j, _) in pairs
            ]
        )
        report.say(
            f"{len(images)} images, {sum(len(image.masks) for image in images)} detections above {options.score}, "
            f"{sum(len(image.truth) for image in images)} instances, {len(pairs)} pairs with a known owner"
        )
        rows = []
        for rule in options.rules if pairs else ():
            for threshold in options.thresholds:
                hits = np.array([right(image, pair, rule, threshold) for image, pair in pairs])
                row = [rule, f"{threshold:g}", "{:.1f} ({:.0f}–{:.0f})".format(*interval(hits, names))]
                for low, high in SIZES:
                    some = (shares >= low) & (shares < high)
                    row.append(f"{100 * hits[some].mean():.1f} of {np.count_nonzero(some)}" if some.any() else "–")
                rows.append(row)
        head = ["rule", "overlap threshold", "all", *(f"{low:.0%}–{min(high, 1):.0%}" for low, high in SIZES)]
        table(report, "Right owner, % (95 % interval), and by the overlap's share of the smaller mask", head, rows)
        rows = []
        for rule in options.rules:
            for threshold in options.thresholds:
                how: dict[str, Any] = {"rule": rule, "overlap_threshold": threshold}
                steps = [quality(images, categories, removal_threshold=1, **how)]
                steps += [
                    quality(images, categories, gone, **how)
                    for gone in ((), ("duplicate",), ("blob",), ("duplicate", "blob"))
                ]
                rows.append([rule, f"{threshold:g}", *(f"{value:.1f}" for value in steps)])
        head = ["nothing removed", "hidden ones removed", "duplicates too", "blobs too", "duplicates and blobs too"]
        head = ["rule", "overlap threshold", *head]
        table(report, "PQ of things, %", head, rows)


if __name__ == "__main__":
    main()

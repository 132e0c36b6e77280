"""What a panoptic quality is made of: which classes are taken for which, and what size and hiding do to objects.

Counted from the same matches as PQ itself (`quality.Match`), image by image.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from banet.errors import InputError, abbreviate
from banet.files.fields import read_image_id, read_integer, read_object
from banet.files.reading import stream_lists
from banet.panoptic.categories import Categories, Category
from banet.panoptic.coco.annotations import PanopticJson
from banet.panoptic.coco.rle import decode_crop
from banet.panoptic.coco.runs import Drawing
from banet.panoptic.id_maps import MAX_SEGMENT_ID, measure_ids, runs
from banet.panoptic.metrics.quality import Compared, Match, PanopticQuality, compare_folders, percent
from banet.types import ImageId, Progress, StrPath

__all__ = ["Breakdown", "crowding", "format_breakdown", "read_amodal_areas", "score_folders_in_detail"]

SIZES = {"small": 0, "medium": 32**2, "large": 96**2}
"""Least area in pixels of each size, as COCO draws the line; each ends where the next one begins."""

FRACTIONS = {"below 10 %": 0.0, "10 to 25 %": 0.1, "25 to 50 %": 0.25, "50 % and more": 0.5}
"""Least fraction of each step of hiding; each ends where the next one begins."""

Measure = Literal["hidden", "crowding"]

_TITLES: dict[Measure, str] = {
    "hidden": "by hidden fraction (1 - visible / whole area)",
    "crowding": "by crowding (share of its box that other things own)",
}
_CONFUSIONS_SHOWN = 20


class Breakdown:
    """Takes the counts of a `PanopticQuality` apart.

    *Confusion*: a ground-truth segment (not crowd) and a predicted one are one region when their IoU is above 1/2,
    whatever their classes, with the union that PQ takes; a segment is in one region at most. Regions of one class are
    PQ's matches. A region of two classes is a false negative of PQ, and a false positive too unless void and crowd
    excuse it.

    *Size*: matches and false negatives go by the pixels of the ground truth, false positives by those of the
    prediction. So each is in one size, and the counts of the sizes add up to the whole.

    *Hiding*: ground-truth segments go by a fraction that the caller gives. False positives have none, so there is no PQ
    here, but for each class recall TP / (TP + FN), SQ, and their product, the quality: IoU summed over matches / (TP +
    FN). As in PQ, averages are over classes that occur. TP and FN of the steps add up to those of all segments with a
    share.

    Memory is that of a count for each two classes that meet, whatever the number of images.

    Args:
        categories: the classes.
        measure: what the fractions are: "hidden" (of the object's whole area), or "crowding" (see `crowding`).
    """

    def __init__(
        self, categories: Categories | Iterable[Category | Mapping[str, Any]], measure: Measure = "crowding"
    ) -> None:
        self.categories = Categories.of(categories)
        self.measure: Measure = measure
        self._confusion: Counter[tuple[int, int]] = Counter()  # rows of a ground-truth and a predicted class
        self._sizes = [PanopticQuality(self.categories) for _ in SIZES]
        self._fractions = [PanopticQuality(self.categories) for _ in FRACTIONS]

    def add(self, found: Match, fractions: NDArray[np.float64]) -> None:
        """Count one image.

        Args:
            found: from `PanopticQuality.update` or `match`.
            fractions: (T,) by ground-truth segment, 0..1; NaN where it has none and is left out there.

        Raises:
            ValueError: there are not as many fractions as ground-truth segments, or one is outside 0..1.
        """
        if fractions.shape != found.ground_truth_areas.shape:
            raise ValueError(
                f"fractions must have shape {found.ground_truth_areas.shape}, one per segment, not {fractions.shape}"
            )
        if ((fractions < 0) | (fractions > 1)).any():
            raise ValueError("fractions must be in 0..1, or NaN where a segment has none")
        ground_truth, prediction = found.regions.T
        truths, predictions = found.ground_truth_classes[ground_truth], found.prediction_classes[prediction]
        self._confusion.update(zip(truths.tolist(), predictions.tolist(), strict=True))
        truth_sizes = _step(found.ground_truth_areas, SIZES)
        prediction_sizes = _step(found.prediction_areas, SIZES)
        for step, quality in enumerate(self._sizes):
            quality.add(_part(found, truth_sizes == step, prediction_sizes == step))
        steps = np.where(np.isnan(fractions), -1, _step(fractions, FRACTIONS))
        no_prediction = np.zeros(len(found.prediction_areas), dtype=bool)
        for step, quality in enumerate(self._fractions):
            quality.add(_part(found, steps == step, no_prediction))

    def merge(self, other: Breakdown) -> Breakdown:
        """Add another one's counts to these, and return self.

        Raises:
            ValueError: categories or measures differ.
        """
        if self.categories != other.categories or self.measure != other.measure:
            raise ValueError("breakdowns over different categories or measures cannot be merged")
        self._confusion += other._confusion
        for mine, theirs in zip(self._sizes + self._fractions, other._sizes + other._fractions, strict=True):
            mine.merge(theirs)
        return self

    def compute(self) -> dict[str, Any]:
        """Return the tables so far; fractions in 0..1, NaN where no class occurs.

        Returns:
            `confusion`, a list of `truth` and `prediction` (category ids) and `count`, for all pairs of classes that
            occur in a region, most frequent first. `by_size`: for each of `SIZES`, `All`, `Things` and `Stuff` as in
            `PanopticQuality.compute`, and the sums `iou`, `tp`, `fp`, `fn`. `by_hidden` or `by_crowding`: for each of
            `FRACTIONS`, `quality`, `sq`, `recall`, the number of classes `n`, and the sums `iou`, `tp`, `fn`.
        """
        ids = [int(category.id) for category in self.categories]
        ordered = sorted(self._confusion.items(), key=lambda entry: (-entry[1], entry[0]))
        return {
            "confusion": [
                {"truth": ids[row], "prediction": ids[column], "count": count} for (row, column), count in ordered
            ],
            "by_size": {name: _size_row(quality) for name, quality in zip(SIZES, self._sizes, strict=True)},
            f"by_{self.measure}": {
                name: _fraction_row(each) for name, each in zip(FRACTIONS, self._fractions, strict=True)
            },
        }


def crowding(ids: NDArray[np.int32], segments: Sequence[int], isthing: Sequence[bool]) -> NDArray[np.float64]:
    """Return how closely other things stand around each thing: the fraction of its box that other things own.

    A stand-in for the hidden fraction where only the panoptic map is known. It does not tell which object hides which:
    a thing in front of another one is as crowded as the one behind it.

    Args:
        ids: (H, W) id map.
        segments: (T,) the ids of all its segments.
        isthing: (T,) whether each is a thing; crowd counts as one.

    Returns:
        (T,) float64, 0 .. 1; NaN for stuff.
    """
    values, areas, boxes = measure_ids(ids)
    place = {int(value): index for index, value in enumerate(values)}
    starts, lengths = runs(ids)
    things = [segment for segment, thing in zip(segments, isthing, strict=True) if thing]
    owned = np.repeat(np.isin(ids.reshape(-1)[starts], things), lengths).reshape(ids.shape)
    fractions = np.full(len(segments), math.nan)
    for row, (segment, thing) in enumerate(zip(segments, isthing, strict=True)):
        if thing:
            x, y, width, height = boxes[place[segment]].tolist()
            others = np.count_nonzero(owned[y : y + height, x : x + width]) - areas[place[segment]]
            fractions[row] = others / (width * height)
    return fractions


def read_amodal_areas(path: StrPath, truth: PanopticJson) -> dict[ImageId, dict[int, int]]:
    """Read how large things are, hidden parts included.

    Args:
        path: COCO instances whose annotations have `image_id`, `panoptic_id` (the segment in the panoptic PNG) and
            `segmentation` (the whole mask), as `banet data` writes them to instances_amodal.json. Other images and
            segments are passed over; areas are counted from the masks.
        truth: the panoptic ground truth.

    Returns:
        Image id -> segment id -> pixels.

    Raises:
        InputError: the file is not of that kind, or a thing of the ground truth (crowd aside) has no mask in it.
    """
    areas: defaultdict[ImageId, dict[int, int]] = defaultdict(dict)
    drawings: defaultdict[ImageId, Drawing] = defaultdict(Drawing)
    for _, where, one in stream_lists(path, ("annotations",)):
        image_id = read_image_id(read_object(one, where), "image_id", where)
        segment = read_integer(one, "panoptic_id", where, 1, MAX_SEGMENT_ID)
        if image_id in truth.annotations:
            image = truth.images[image_id]
            try:
                crop = decode_crop(one.get("segmentation"), (image.height, image.width))
                drawings[image_id].add(crop)
            except ValueError as error:
                raise InputError(str(error), where=f"{where}.segmentation") from None
            areas[image_id][segment] = int(np.count_nonzero(crop.pixels))
    for image_id, annotation in truth.annotations.items():
        for info in annotation.segments:
            wanted = truth.categories.isthing(info.category_id) and not info.iscrowd
            if wanted and info.id not in areas[image_id]:
                what = f"image {abbreviate(image_id)}: no annotation with panoptic_id {info.id}"
                raise InputError(what, where=path, hint="add its mask")
    return dict(areas)


def score_folders_in_detail(
    gt_json: StrPath,
    gt_dir: StrPath,
    pred_json: StrPath,
    pred_dir: StrPath,
    workers: int = 1,
    progress: Progress | None = None,
    *,
    amodal: StrPath | None = None,
) -> tuple[PanopticQuality, Breakdown]:
    """`score_folders`, and its breakdown from the same pass.

    Args:
        gt_json: these and the next five as for `compare_folders`.
        gt_dir: folder of its PNGs.
        pred_json: JSON of the predictions.
        pred_dir: folder of their PNGs.
        workers: threads.
        progress: called after each image.
        amodal: whole masks of the ground truth's things (see `read_amodal_areas`): things go by the fraction that is
            hidden. Without it, they go by `crowding`.

    Raises:
        InputError: see `compare_folders` and `read_amodal_areas`; or a whole mask is smaller than its visible part.
    """
    truth, images = compare_folders(gt_json, gt_dir, pred_json, pred_dir, workers, progress)
    areas = {} if amodal is None else read_amodal_areas(amodal, truth)
    quality = PanopticQuality(truth.categories)
    breakdown = Breakdown(truth.categories, "crowding" if amodal is None else "hidden")
    for image in images:
        quality.add(image.found)
        if amodal is None:
            segments = image.annotation.segments
            isthing = [truth.categories.isthing(info.category_id) for info in segments]
            fractions = crowding(image.ground_truth_ids, [info.id for info in segments], isthing)
        else:
            fractions = _hidden(image, areas.get(image.annotation.image_id, {}), truth.categories, amodal)
        breakdown.add(image.found, fractions)
    return quality, breakdown


def format_breakdown(result: Mapping[str, Any], categories: Categories | Iterable[Category | Mapping[str, Any]]) -> str:
    """Lay out a result of `Breakdown.compute` as tables of percentages and counts.

    Args:
        result: the result, from `compute` or read from JSON.
        categories: names of the classes.

    Returns:
        Lines of text, without a final newline; "-" stands where no class occurs.
    """
    lines = ["by size", f"{'':<16}{'PQ':>7}{'PQ^Th':>7}{'PQ^St':>7}{'TP':>8}{'FP':>8}{'FN':>8}"]
    for name, row in result["by_size"].items():
        fractions = "".join(percent(row[group]["pq"]) for group in ("All", "Things", "Stuff"))
        lines.append(f"{name:<16}{fractions}{row['tp']:>8}{row['fp']:>8}{row['fn']:>8}")
    for measure, title in _TITLES.items():
        if f"by_{measure}" in result:
            lines += ["", f"things {title}", f"{'':<16}{'qual.':>7}{'SQ':>7}{'recall':>7}{'TP':>8}{'FN':>8}{'n':>8}"]
            for name, row in result[f"by_{measure}"].items():
                fractions = "".join(percent(row[key]) for key in ("quality", "sq", "recall"))
                lines.append(f"{name:<16}{fractions}{row['tp']:>8}{row['fn']:>8}{row['n']:>8}")

    names = {int(category.id): category.name for category in Categories.of(categories)}
    regions: defaultdict[int, int] = defaultdict(int)
    for pair in result["confusion"]:
        regions[pair["truth"]] += pair["count"]
    wrong = [pair for pair in result["confusion"] if pair["truth"] != pair["prediction"]]
    total = sum(regions.values())
    lines += ["", f"regions found (IoU > 50 %, any class): {total}, taken for another class: {_total(wrong)}"]
    shown = wrong[:_CONFUSIONS_SHOWN]
    width = max([len(names[pair[key]]) for pair in shown for key in ("truth", "prediction")], default=0)
    width = max(width, len("taken for")) + 2
    if shown:
        lines.append(f"{'truth':<{width}}{'taken for':<{width}}{'regions':>8}{'of found':>10}")
    for pair in shown:
        share = 100 * pair["count"] / regions[pair["truth"]]
        lines.append(
            f"{names[pair['truth']]:<{width}}{names[pair['prediction']]:<{width}}{pair['count']:>8}{share:>9.1f}%"
        )
    if len(wrong) > len(shown):
        lines.append(f"... and {_total(wrong[len(shown) :])} more")
    return "\n".join(lines)


def _step(values: NDArray[Any], limits: Mapping[str, float]) -> NDArray[np.int64]:
    return np.searchsorted(list(limits.values()), values, side="right") - 1


def _part(found: Match, truth: NDArray[np.bool_], prediction: NDArray[np.bool_]) -> Match:
    """Return the part of a match that concerns some ground-truth segments (T,) and some predictions (P,)."""
    kept = truth[found.ground_truth]
    return replace(
        found,
        ground_truth=found.ground_truth[kept],
        prediction=found.prediction[kept],
        iou=found.iou[kept],
        false_negatives=found.false_negatives[truth[found.false_negatives]],
        false_positives=found.false_positives[prediction[found.false_positives]],
    )


def _hidden(image: Compared, areas: Mapping[int, int], categories: Categories, source: StrPath) -> NDArray[np.float64]:
    fractions = np.full(len(image.annotation.segments), math.nan)
    visible = image.found.ground_truth_areas.tolist()
    for row, info in enumerate(image.annotation.segments):
        if categories.isthing(info.category_id) and not info.iscrowd:
            if areas[info.id] < visible[row]:
                raise InputError(
                    f"image {image.annotation.image_id}, panoptic_id {info.id}: the whole mask has "
                    f"{areas[info.id]} pixels, its visible part {visible[row]}",
                    where=source,
                    hint="give masks that include hidden parts",
                )
            fractions[row] = 1 - visible[row] / areas[info.id]
    return fractions


def _size_row(quality: PanopticQuality) -> dict[str, Any]:
    result = quality.compute()
    sums = {key: array.sum().item() for key, array in quality.state.items()}
    return {**{group: result[group] for group in ("All", "Things", "Stuff")}, **sums}


def _fraction_row(quality: PanopticQuality) -> dict[str, Any]:
    state = quality.state
    iou, tp, fn = state["iou"], state["tp"], state["fn"]
    occurs = tp + fn > 0
    n = int(occurs.sum())
    truths = np.maximum(tp + fn, 1)
    rows = np.stack([iou / truths, iou / np.maximum(tp, 1), tp / truths])[:, occurs]
    means = rows.mean(axis=1).tolist() if n else 3 * [math.nan]
    fractions = dict(zip(("quality", "sq", "recall"), means, strict=True))
    return {**fractions, "n": n, "iou": float(iou.sum()), "tp": int(tp.sum()), "fn": int(fn.sum())}


def _total(pairs: Iterable[Mapping[str, int]]) -> int:
    return sum(pair["count"] for pair in pairs)

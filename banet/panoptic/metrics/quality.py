"""Panoptic quality (PQ), exactly as COCO's panoptic task counts it.

PQ is defined by Kirillov et al., "Panoptic Segmentation" (CVPR 2019), section 4; what void and crowd do is settled by
the task's evaluation (https://cocodataset.org/#panoptic-eval). Areas are always counted from the id maps.
"""

from __future__ import annotations

import math
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from banet._renamed import old_attribute
from banet.errors import InputError, abbreviate_list
from banet.files.archives import InputFolder
from banet.panoptic.categories import Categories, Category
from banet.panoptic.coco.annotations import Annotation, PanopticJson
from banet.panoptic.coco.png import read_ids
from banet.panoptic.id_maps import sum_by
from banet.panoptic.metrics.overlaps import LabeledMap, Listed, Overlaps
from banet.types import Progress, StrPath

if TYPE_CHECKING:
    from banet.panoptic.segmentation import PanopticSegmentation

__all__ = [
    "Compared",
    "FolderPair",
    "Match",
    "PanopticQuality",
    "compare_folders",
    "compare_table",
    "format_table",
    "match",
    "match_overlaps",
    "percent",
    "score_folders",
    "to_json",
]

MAX_WORKERS = 4
"""Most threads that `compare_folders` uses: PNG decoding gains nothing from more, and each holds two images."""

_UNITS = 1 << 53


@dataclass(frozen=True)
class Match:
    """What the prediction and the ground truth of an image have in common. Indices are positions in the two lists.

    Attributes:
        ground_truth: (M,) matched ground-truth segments.
        prediction: (M,) the predictions they are matched with.
        iou: (M,) their intersection over union, float64.
        regions: (R, 2) ground-truth segment (not crowd) and prediction of every pair with an IoU above 1/2, whatever
            their classes; the pairs of one class are the matches. Each segment is in one pair at most.
        false_negatives: ground-truth segments (not crowd) without a match.
        false_positives: predictions without a match that void and crowd do not excuse.
        ground_truth_classes: class index of every ground-truth segment.
        prediction_classes: class index of every predicted segment.
        ground_truth_areas: pixels of every ground-truth segment.
        prediction_areas: pixels of every predicted segment.
    """

    ground_truth: NDArray[np.int64]
    prediction: NDArray[np.int64]
    iou: NDArray[np.float64]
    regions: NDArray[np.int64]
    false_negatives: NDArray[np.int64]
    false_positives: NDArray[np.int64]
    ground_truth_classes: NDArray[np.int64]
    prediction_classes: NDArray[np.int64]
    ground_truth_areas: NDArray[np.int64]
    prediction_areas: NDArray[np.int64]

    truth = old_attribute("truth", "ground_truth")
    misses = old_attribute("misses", "false_negatives")
    false_alarms = old_attribute("false_alarms", "false_positives")
    truth_classes = old_attribute("truth_classes", "ground_truth_classes")
    truth_areas = old_attribute("truth_areas", "ground_truth_areas")


class PanopticQuality:
    """Counts matches over a dataset and averages them to PQ, SQ and RQ.

    A prediction matches a ground-truth segment of the same category when their IoU is above 1/2, where the union leaves
    out the prediction's pixels on void; crowd matches nothing. Unmatched ground truth is a false negative, except
    crowd. An unmatched prediction is a false positive, unless void and the crowd of its category together cover more
    than half of it; of several crowd segments of one category in an image only the last one counts, as in the official
    evaluation. Source: Kirillov et al. 2019, section 4, and COCO's panoptic task.

    Memory is four numbers per class, whatever the number of images. The sums of IoU are exact: neither the order of the
    images nor who counted which of them changes a digit.

    Args:
        categories: the classes; segments name them by category id.
    """

    def __init__(self, categories: Categories | Iterable[Category | Mapping[str, Any]]) -> None:
        self.categories = Categories.of(categories)
        self.reset()

    def reset(self) -> None:
        """Forget all images."""
        count = len(self.categories)
        self._units = [0] * count  # sums of IoU in 2^-53, of which float64 from 1/2 to 1 are multiples
        self._tp: NDArray[np.int64] = np.zeros(count, dtype=np.int64)
        self._fp: NDArray[np.int64] = np.zeros(count, dtype=np.int64)
        self._fn: NDArray[np.int64] = np.zeros(count, dtype=np.int64)

    def update(self, prediction: PanopticSegmentation, truth: PanopticSegmentation) -> Match:
        """Count one image.

        Args:
            prediction: the result; ids (H, W).
            truth: the ground truth; ids (H, W). Its `iscrowd` counts, the prediction's does not.

        Returns:
            What was matched, for whoever wants to count more.

        Raises:
            ValueError: the sizes differ, a category is unknown, or map and records do not name the same ids.
        """
        found = match(prediction, truth, self.categories)
        self.add(found)
        return found

    def add(self, found: Match) -> None:
        """Count one image that was matched already; see `match`."""
        count = len(self.categories)
        classes = found.ground_truth_classes[found.ground_truth]
        for index, units in zip(classes.tolist(), (found.iou * _UNITS).astype(np.int64).tolist(), strict=True):
            self._units[index] += units
        self._tp += np.bincount(classes, minlength=count)
        self._fp += np.bincount(found.prediction_classes[found.false_positives], minlength=count)
        self._fn += np.bincount(found.ground_truth_classes[found.false_negatives], minlength=count)

    def merge(self, other: PanopticQuality) -> PanopticQuality:
        """Add another one's counts to these, and return self.

        Raises:
            ValueError: the categories differ.
        """
        if self.categories != other.categories:
            raise ValueError("counts over different categories cannot be merged")
        self._units = [mine + theirs for mine, theirs in zip(self._units, other._units, strict=True)]
        self._tp += other._tp
        self._fp += other._fp
        self._fn += other._fn
        return self

    def counts(self) -> dict[str, list[int]]:
        """Return the counts of the classes that occur, for JSON: class index -> sum of IoU in 2^-53, tp, fp, fn."""
        rows = zip(self._units, self._tp.tolist(), self._fp.tolist(), self._fn.tolist(), strict=True)
        return {str(index): list(row) for index, row in enumerate(rows) if any(row)}

    def add_counts(self, counts: Mapping[str, Sequence[int]]) -> None:
        """Add what `counts` of another one with the same categories returned."""
        for index, (units, tp, fp, fn) in ((int(key), row) for key, row in counts.items()):
            self._units[index] += units
            self._tp[index] += tp
            self._fp[index] += fp
            self._fn[index] += fn

    @property
    def _iou(self) -> NDArray[np.float64]:
        """The sums of IoU, each rounded once."""
        return np.array([units / _UNITS for units in self._units], dtype=np.float64)

    @property
    def state(self) -> dict[str, NDArray[Any]]:
        """Copies of the counts by class index, shape (C,): `iou` (sum over matches, float64), `tp`, `fp`, `fn` (int64).

        Can be set, to go on from stored counts.
        """
        return {"iou": self._iou, "tp": self._tp.copy(), "fp": self._fp.copy(), "fn": self._fn.copy()}

    @state.setter
    def state(self, state: Mapping[str, Any]) -> None:
        arrays: dict[str, NDArray[Any]] = {}
        for key in ("iou", "tp", "fp", "fn"):
            array = np.array(state[key], dtype=np.float64 if key == "iou" else np.int64)
            if array.shape != (len(self.categories),):
                raise ValueError(f"state[{key!r}] must have shape ({len(self.categories)},), not {array.shape}")
            arrays[key] = array
        self._units = [int(value * _UNITS) for value in arrays["iou"].tolist()]
        self._tp, self._fp, self._fn = arrays["tp"], arrays["fp"], arrays["fn"]

    def compute(self) -> dict[str, Any]:
        """PQ, SQ and RQ so far.

        Returns:
            `All`, `Things`, `Stuff`, each with `pq`, `sq`, `rq` in 0..1, averages over the classes that occur (in the
            ground truth or as a false positive), NaN where none does, and `n`, how many do. `per_class`: category id ->
            `pq`, `sq`, `rq` (NaN where the class does not occur), `iou` (sum over matches), `tp`, `fp`, `fn`.
        """
        weight = self._tp + 0.5 * self._fp + 0.5 * self._fn
        occurs = weight > 0
        safe = np.where(occurs, weight, 1.0)
        sums = self._iou
        rows = np.stack([sums / safe, sums / np.maximum(self._tp, 1), self._tp / safe])
        rows[:, ~occurs] = np.nan
        things = np.arange(len(self.categories)) < self.categories.num_things
        result: dict[str, Any] = {
            "All": _average(rows, occurs),
            "Things": _average(rows, occurs & things),
            "Stuff": _average(rows, occurs & ~things),
        }
        result["per_class"] = {
            category.id: {
                "pq": float(rows[0, index]),
                "sq": float(rows[1, index]),
                "rq": float(rows[2, index]),
                "iou": float(sums[index]),
                "tp": int(self._tp[index]),
                "fp": int(self._fp[index]),
                "fn": int(self._fn[index]),
            }
            for index, category in enumerate(self.categories)
        }
        return result

    def __repr__(self) -> str:
        return f"PanopticQuality({self.categories!r}, tp={self._tp.sum()}, fp={self._fp.sum()}, fn={self._fn.sum()})"


def match(prediction: PanopticSegmentation, truth: PanopticSegmentation, categories: Categories) -> Match:
    """Match the segments of one image; see `PanopticQuality` for the rules.

    Args:
        prediction: the result; ids (H, W).
        truth: the ground truth; ids (H, W).
        categories: the classes that both speak of, by category id.

    Raises:
        ValueError: the sizes differ, a category is unknown, or map and records do not name the same ids.
    """
    return match_overlaps(Overlaps.of(prediction, truth, categories))


@dataclass(frozen=True)
class Compared:
    """One image of two folders.

    Attributes:
        annotation: the ground truth's annotation; its segments are in the order that `found` counts them in.
        ground_truth_ids: (H, W) int32, the ground truth's id map.
        found: what ground truth and prediction have in common.
        overlaps: the pixels that their segments share.
    """

    annotation: Annotation
    ground_truth_ids: NDArray[np.int32]
    found: Match
    overlaps: Overlaps


def score_folders(
    gt_json: StrPath,
    gt_dir: StrPath,
    pred_json: StrPath,
    pred_dir: StrPath,
    workers: int = 1,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Score one COCO panoptic folder against another, image by image.

    Arguments and errors are those of `compare_folders`.

    Returns:
        See `PanopticQuality.compute`.
    """
    truth, images = compare_folders(gt_json, gt_dir, pred_json, pred_dir, workers, progress)
    quality = PanopticQuality(truth.categories)
    for image in images:
        quality.add(image.found)
    return quality.compute()


def compare_folders(
    gt_json: StrPath,
    gt_dir: StrPath,
    pred_json: StrPath,
    pred_dir: StrPath,
    workers: int = 1,
    progress: Progress | None = None,
) -> tuple[PanopticJson, Iterator[Compared]]:
    """Match one COCO panoptic folder with another, image by image.

    Every image that the ground truth has an annotation for counts; predictions for other images are left out, and so
    are the predictions' `images` and `categories`. The result does not depend on `workers`.

    Args:
        gt_json: JSON of the ground truth.
        gt_dir: folder of its PNGs, or of tar archives of them; or its URL.
        pred_json: JSON of the predictions; `annotations` is enough.
        pred_dir: folder of their PNGs, likewise.
        workers: threads that read and match, 1 .. 4 (more are not used). Images are handed out as they are needed, so
            that memory stays at a few images.
        progress: called after each image with (images done, images in all).

    Returns:
        The ground truth's JSON, and its images in order; they are read as one asks for them.

    Raises:
        InputError: a file is bad (see `PanopticJson.read` and `read_ids`), an annotated image has no prediction, map
            and JSON of an image do not name the same ids (they are listed), sizes differ, or a category is unknown.
        ValueError: fewer than one worker.
    """
    pair = FolderPair(gt_json, gt_dir, pred_json, pred_dir, workers)

    def images() -> Iterator[Compared]:
        annotations = pair.truth.annotations.values()
        for done, image in enumerate(pair.compare(annotations), start=1):
            yield image
            if progress is not None:
                progress(done, len(annotations))

    return pair.truth, images()


class FolderPair:
    """Two COCO panoptic folders, whose images are matched as one asks for them.

    Arguments and errors are those of `compare_folders`.

    Attributes:
        truth: JSON of the ground truth.
        predicted: JSON of the predictions.
    """

    def __init__(
        self, gt_json: StrPath, gt_dir: StrPath, pred_json: StrPath, pred_dir: StrPath, workers: int = 1
    ) -> None:
        if workers < 1:
            raise ValueError(f"workers must be at least 1, not {workers}")
        self._workers = min(workers, MAX_WORKERS)
        self.truth = PanopticJson.read(gt_json)
        self.predicted = PanopticJson.read(pred_json, truth=self.truth)
        self._gt_maps, self._pred_maps = InputFolder(gt_dir, {".png"}), InputFolder(pred_dir, {".png"})
        missing = [image_id for image_id in self.truth.annotations if image_id not in self.predicted.annotations]
        if missing:
            raise InputError(
                f"'annotations' has no prediction for image {abbreviate_list(missing)}",
                where=self.predicted.path,
                hint="add one for every image of the ground truth (it may have no segments)",
            )

    def compare(self, annotations: Iterable[Annotation]) -> Iterator[Compared]:
        """Yield some images of the ground truth, in order, matched with their predictions."""
        return _in_order(self._compare, annotations, self._workers)

    def _compare(self, annotation: Annotation) -> Compared:
        result = _read_side(self.predicted.annotations[annotation.image_id], self._pred_maps, self.truth.categories)
        target = _read_side(annotation, self._gt_maps, self.truth.categories)
        if result.ids.shape != target.ids.shape:
            raise InputError(
                f"is {result.ids.shape[1]}x{result.ids.shape[0]}, but {target.source} is "
                f"{target.ids.shape[1]}x{target.ids.shape[0]}",
                where=result.source,
                hint="write it at the size of the image",
            )
        try:
            overlaps = Overlaps.of_maps(result, target)
            return Compared(annotation, target.ids, match_overlaps(overlaps), overlaps)
        except ValueError as error:
            raise InputError(str(error), hint="make the PNG and 'segments_info' agree") from error


def to_json(result: Mapping[str, Any]) -> dict[str, Any]:
    """Return the result of `PanopticQuality.compute` with None for NaN and text for category ids, as JSON wants it."""

    def plain(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {str(key): plain(item) for key, item in value.items()}
        return None if isinstance(value, float) and math.isnan(value) else value

    return {str(key): plain(value) for key, value in result.items()}


def format_table(
    result: Mapping[str, Any],
    categories: Categories | Iterable[Category | Mapping[str, Any]] | None = None,
    *,
    per_class: bool = False,
) -> str:
    """Lay out a result of `PanopticQuality.compute` as a table of percentages.

    Args:
        result: the result.
        categories: names of the classes; needed with `per_class` only.
        per_class: add a row for each class that occurs, with its matches, false positives and false negatives.

    Returns:
        Lines of text, without a final newline; "-" stands where no class occurs.
    """
    lines = [f"{'':<8}{'PQ':>7}{'SQ':>7}{'RQ':>7}{'n':>6}"]
    lines += [f"{name:<8}{_percentages(result[name])}{result[name]['n']:>6}" for name in ("All", "Things", "Stuff")]
    if per_class:
        names = {} if categories is None else {category.id: category.name for category in Categories.of(categories)}
        rows = {key: row for key, row in result["per_class"].items() if row["tp"] + row["fp"] + row["fn"]}
        labels = {key: names.get(int(key), str(key)) for key in rows}
        width = max([len(label) for label in labels.values()], default=0) + 2
        lines += ["", f"{'':<{width}}{'PQ':>7}{'SQ':>7}{'RQ':>7}{'TP':>7}{'FP':>7}{'FN':>7}"]
        lines += [
            f"{labels[key]:<{width}}{_percentages(row)}{row['tp']:>7}{row['fp']:>7}{row['fn']:>7}"
            for key, row in rows.items()
        ]
    return "\n".join(lines)


def compare_table(results: Mapping[str, Mapping[str, Any]]) -> str:
    """Lay out results of `PanopticQuality.compute` as one table of PQ in percent, each with its gain over the first.

    Args:
        results: two or more, by title.

    Returns:
        Lines of text, without a final newline; "-" stands where no class occurs.
    """
    groups = {"PQ": "All", "PQ^Th": "Things", "PQ^St": "Stuff"}
    width = max(map(len, results)) + 2
    lines = [f"{'':<{width}}" + "".join(f"{name:>8}{'Δ':>7}" for name in groups)]
    first = next(iter(results.values()))
    for title, result in results.items():
        cells = []
        for group in groups.values():
            gain = 100 * (result[group]["pq"] - first[group]["pq"])
            told = "" if result is first else "-" if math.isnan(gain) else f"{gain:+.1f}"
            cells.append(f" {percent(result[group]['pq'])}{told:>7}")
        lines.append(f"{title:<{width}}" + "".join(cells))
    return "\n".join(line.rstrip() for line in lines)


# --- counting --------------------------------------------------------------------------------------------------------


def match_overlaps(overlaps: Overlaps) -> Match:
    """Match the segments of one image, or the tubes of a stretch of video; see `PanopticQuality` for the rules."""
    truth, prediction = overlaps.truth, overlaps.prediction
    row, column, inter = overlaps.row, overlaps.column, overlaps.pixels
    columns = len(prediction.ids) + 1
    truth_area, area = overlaps.truth_areas, overlaps.prediction_areas
    on_void = sum_by(column[row == 0], inter[row == 0], columns)

    both = (row > 0) & (column > 0)
    r, c, overlap = row[both] - 1, column[both] - 1, inter[both]
    union = truth_area[r + 1] + area[c + 1] - overlap - on_void[c + 1]
    hit = (2 * overlap > union) & ~truth.crowd[r]
    regions = np.stack([r[hit], c[hit]], axis=1)
    alike = hit & (truth.classes[r] == prediction.classes[c])
    r, c = r[alike], c[alike]
    iou = overlap[alike] / union[alike]

    missed = ~truth.crowd
    missed[r] = False
    unmatched = np.ones(columns - 1, dtype=bool)
    unmatched[c] = False
    # Later crowd segments of a class replace earlier ones.
    crowd_row = {int(truth.classes[k]): int(k) + 1 for k in np.flatnonzero(truth.crowd)}
    excused = on_void[1:].copy()
    if crowd_row:
        crowd_of = np.array([crowd_row.get(int(k), -1) for k in prediction.classes], dtype=np.int64)
        own = (column > 0) & (row > 0)
        own[own] = crowd_of[column[own] - 1] == row[own]
        excused += sum_by(column[own], inter[own], columns)[1:]
    false_alarm = unmatched & (2 * excused <= area[1:])
    return Match(
        ground_truth=r,
        prediction=c,
        iou=iou,
        regions=regions,
        false_negatives=np.flatnonzero(missed),
        false_positives=np.flatnonzero(false_alarm),
        ground_truth_classes=truth.classes,
        prediction_classes=prediction.classes,
        ground_truth_areas=truth_area[1:],
        prediction_areas=area[1:],
    )


def _read_side(annotation: Annotation, maps: InputFolder, categories: Categories) -> LabeledMap:
    path = maps.find(annotation.file_name, f"annotation of image {annotation.image_id}: file_name")
    listed = Listed(
        np.array([info.id for info in annotation.segments], dtype=np.int64),
        np.array([categories.index(info.category_id) for info in annotation.segments], dtype=np.int64),
        np.array([info.iscrowd for info in annotation.segments], dtype=bool),
    )
    return LabeledMap(read_ids(path), listed, f"{os.fspath(path)} (image {annotation.image_id})")


def _in_order(
    compare: Callable[[Annotation], Compared], annotations: Iterable[Annotation], workers: int
) -> Iterator[Compared]:
    if workers == 1:
        yield from map(compare, annotations)
        return
    # Threads are enough: PNG decoding lets go of the interpreter lock, and they need no second copy of the JSON.
    with ThreadPoolExecutor(workers) as pool:
        waiting: deque[Future[Compared]] = deque()
        try:
            for annotation in annotations:
                waiting.append(pool.submit(compare, annotation))
                if len(waiting) > 2 * workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


def _average(rows: NDArray[np.float64], which: NDArray[np.bool_]) -> dict[str, Any]:
    count = int(which.sum())
    pq, sq, rq = rows[:, which].mean(axis=1) if count else (math.nan, math.nan, math.nan)
    return {"pq": float(pq), "sq": float(sq), "rq": float(rq), "n": count}


def percent(fraction: float | None) -> str:
    """Return a column of a table, 7 wide: a fraction (0..1) in percent, "-" for NaN and for JSON's None."""
    return f"{'-':>7}" if fraction is None or math.isnan(fraction) else f"{100 * fraction:>7.1f}"


def _percentages(row: Mapping[str, Any]) -> str:
    return "".join(percent(row[key]) for key in ("pq", "sq", "rq"))

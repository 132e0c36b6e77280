"""Quality of panoptic segmentations of videos, in which an id stands for one object throughout: VPQ, STQ, IDF1.

VPQ: Kim et al., "Video Panoptic Segmentation" (CVPR 2020). STQ: Weber et al., "STEP: Segmenting and Tracking Every
Pixel" (NeurIPS Datasets 2021). IDF1: Ristani et al., "Performance Measures and a Data Set for Multi-Target,
Multi-Camera Tracking" (ECCV Workshops 2016). Areas are always counted from the id maps.
"""

from __future__ import annotations

import math
from collections import Counter, deque
from collections.abc import Iterable, Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from banet.errors import InputError
from banet.files.names import forward, natural_key
from banet.panoptic.categories import Categories, Category
from banet.panoptic.metrics.identity import Identities, IdentityCounts
from banet.panoptic.metrics.overlaps import Listed, Overlaps, join_overlaps
from banet.panoptic.metrics.quality import PanopticQuality, compare_folders, match_overlaps, percent
from banet.panoptic.segmentation import PanopticSegmentation
from banet.types import Progress, StrPath

__all__ = ["WINDOWS", "VideoQuality", "format_video_table", "score_videos"]

WINDOWS = (1, 2, 3, 4)
"""Frames of the windows that VPQ averages over, as for Cityscapes-VPS; VIPSeg takes 1, 2, 4 and 6."""


class VideoQuality:
    """Counts VPQ, STQ, IDF1 and id switches over videos, frame by frame.

    *VPQ.* Every window of k frames of a video is one image of k frames, in which an id is one tube; PQ over all these
    windows, with void and crowd as in `PanopticQuality`, averaged over the sizes k. A video of less than k frames has
    no window of k.

    *STQ* is the geometric mean of SQ, the mean IoU of the classes of all pixels, and AQ, the mean over the truth's
    tracks g of 1/|g| · Σ_p |p ∩ g| · IoU(p, g) over the predicted tracks p, where a track is all pixels of a thing's id
    in the video. Pixels that are void in the truth count in p, those of crowds do not. Both as in the authors' code,
    with one departure: predicted void misses the truth's class, but is not a class itself that the mean is taken over.

    *IDF1 and switches*: see `Identities`.

    Memory is some frames' overlaps and a few numbers per id and class, whatever the length.

    Args:
        categories: the classes; segments name them by category id.
        windows: sizes k of the windows, in frames.

    Raises:
        ValueError: a window is not of at least one frame.
    """

    def __init__(
        self,
        categories: Categories | Iterable[Category | Mapping[str, Any]],
        windows: Sequence[int] = WINDOWS,
    ) -> None:
        self.categories = Categories.of(categories)
        if not windows or min(windows) < 1:
            raise ValueError(f"windows must be of at least one frame, not {list(windows)}")
        self.windows = tuple(windows)
        self._tubes = {size: PanopticQuality(self.categories) for size in self.windows}
        self._pixels = _ClassPixels(len(self.categories))
        self._association, self._tracks = 0.0, 0
        self._identity = IdentityCounts()
        self._start_video()

    def _start_video(self) -> None:
        self._frames: deque[Overlaps] = deque(maxlen=max(self.windows))
        self._open = _Tracks(self.categories.num_things)
        self._identities = Identities(self.categories.num_things)
        self._classes: tuple[dict[int, int], dict[int, int]] = {}, {}

    def update(self, prediction: PanopticSegmentation, truth: PanopticSegmentation) -> None:
        """Count the next frame of the present video.

        Args:
            prediction: the result; ids (H, W).
            truth: the ground truth; ids (H, W). Its `iscrowd` counts, the prediction's does not.

        Raises:
            ValueError: the sizes differ, a category is unknown, map and records do not name the same ids, or an id has
                another class than in an earlier frame.
        """
        self.add(Overlaps.of(prediction, truth, self.categories))

    def add(self, overlaps: Overlaps) -> None:
        """Count the next frame of the present video, whose overlaps are counted already.

        Raises:
            ValueError: an id has another class than in an earlier frame.
        """
        for name, listed, known in zip(
            ("prediction", "truth"), (overlaps.prediction, overlaps.truth), self._classes, strict=True
        ):
            self._check_classes(name, listed, known)
        self._frames.append(overlaps)
        for size, tubes in self._tubes.items():
            if len(self._frames) >= size:
                tubes.add(match_overlaps(join_overlaps(list(self._frames)[-size:])))
        self._pixels.add(overlaps)
        self._open.add(overlaps)
        self._identities.add(overlaps)

    def _check_classes(self, name: str, listed: Listed, known: dict[int, int]) -> None:
        for one, index in zip(listed.ids.tolist(), listed.classes.tolist(), strict=True):
            if known.setdefault(one, index) != index:
                before, now = (self.categories[k].name for k in (known[one], index))
                raise ValueError(
                    f"{name}: the id {one} is {before} in one frame and {now} in another; give it one class"
                )

    def end_video(self) -> None:
        """End the present video: ids of further frames are other objects."""
        self._association += self._open.association()
        self._tracks += len(self._open.truth)
        self._identity += self._identities.counts()
        self._start_video()

    def compute(self) -> dict[str, Any]:
        """VPQ, STQ and what the ids are worth so far, the present video included.

        Returns:
            `vpq` with `All`, `Things` and `Stuff`, the averages over the windows, and `windows`, the result of
            `PanopticQuality.compute` by size of window; `stq` with `stq`, `aq` and `sq`; `identity`, which is what
            `IdentityCounts.compute` returns. Values are in 0..1, NaN where nothing was counted.
        """
        windows = {size: tubes.compute() for size, tubes in self._tubes.items()}
        vpq: dict[str, Any] = {
            group: float(np.mean([result[group]["pq"] for result in windows.values()]))
            for group in ("All", "Things", "Stuff")
        }
        tracks = self._tracks + len(self._open.truth)
        aq = (self._association + self._open.association()) / tracks if tracks else math.nan
        sq = self._pixels.mean_iou()
        return {
            "vpq": {**vpq, "windows": windows},
            "stq": {"stq": math.sqrt(aq * sq), "aq": aq, "sq": sq},
            "identity": (self._identity + self._identities.counts()).compute(),
        }


class _ClassPixels:
    """Pixels by the class that they have in the truth and in the prediction, void of the truth left out.

    Args:
        count: number of classes.
    """

    def __init__(self, count: int) -> None:
        self.count = count
        self.table: NDArray[np.int64] = np.zeros((count, count + 1), dtype=np.int64)

    def add(self, overlaps: Overlaps) -> None:
        """Count a frame."""
        truth = np.concatenate([[-1], overlaps.truth.classes])[overlaps.row]
        prediction = np.concatenate([[self.count], overlaps.prediction.classes])[overlaps.column]
        known = truth >= 0
        np.add.at(self.table, (truth[known], prediction[known]), overlaps.pixels[known])

    def mean_iou(self) -> float:
        """Return the mean IoU of the classes that occur; NaN where none does."""
        both = self.table.diagonal()
        union = self.table.sum(axis=1) + self.table[:, : self.count].sum(axis=0) - both
        occurs = union > 0
        return float((both[occurs] / union[occurs]).mean()) if occurs.any() else math.nan


class _Tracks:
    """Pixels of the tracks of one video, and of their overlaps.

    Args:
        num_things: how many classes, the first ones, are things.
    """

    def __init__(self, num_things: int) -> None:
        self.num_things = num_things
        self.truth: Counter[int] = Counter()
        self.prediction: Counter[int] = Counter()
        self.both: Counter[tuple[int, int]] = Counter()

    def add(self, overlaps: Overlaps) -> None:
        """Count a frame."""
        truth, prediction = overlaps.truth, overlaps.prediction
        thing = np.concatenate([[False], truth.classes < self.num_things])[overlaps.row]
        crowd = np.concatenate([[False], truth.crowd])[overlaps.row]
        found = np.concatenate([[False], prediction.classes < self.num_things])[overlaps.column] & ~(thing & crowd)
        track = thing & ~crowd
        for row, column, pixels, in_truth, in_prediction in zip(
            *(array.tolist() for array in (overlaps.row, overlaps.column, overlaps.pixels, track, found)), strict=True
        ):
            if in_truth:
                self.truth[int(truth.ids[row - 1])] += pixels
            if in_prediction:
                self.prediction[int(prediction.ids[column - 1])] += pixels
            if in_truth and in_prediction:
                self.both[int(truth.ids[row - 1]), int(prediction.ids[column - 1])] += pixels

    def association(self) -> float:
        """Return the sum over the truth's tracks of the quality of their association."""
        return math.fsum(
            shared * shared / (self.truth[track] + self.prediction[found] - shared) / self.truth[track]
            for (track, found), shared in self.both.items()
        )


def score_videos(
    gt_json: StrPath,
    gt_dir: StrPath,
    pred_json: StrPath,
    pred_dir: StrPath,
    workers: int = 1,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Score a COCO panoptic folder whose images are frames of videos against another, frame by frame.

    The folder that an image's `file_name` names is its video. The frames of a video stand together in `annotations`,
    in the order of the numbers in their names: `2.png` comes before `10.png`.

    Arguments are those of `compare_folders`.

    Returns:
        See `VideoQuality.compute`.

    Raises:
        InputError: see `compare_folders`; frames are not in order, or an id has several classes in a video.
    """
    truth, images = compare_folders(gt_json, gt_dir, pred_json, pred_dir, workers, progress)
    quality = VideoQuality(truth.categories)
    videos: dict[PurePosixPath, str] = {}
    for image in images:
        name = PurePosixPath(forward(truth.images[image.annotation.image_id].file_name))
        if videos and name.parent != next(reversed(videos)):
            quality.end_video()
        new = name.parent not in videos
        if not new and (
            name.parent != next(reversed(videos)) or natural_key(name.name) <= natural_key(videos[name.parent])
        ):
            problem = f"{name} does not follow the other frames of its video"
            hint = "sort 'annotations' by video and the numbers in the names of its frames"
            raise InputError(problem, where=gt_json, hint=hint)
        videos[name.parent] = name.name
        try:
            quality.add(image.overlaps)
        except ValueError as error:
            raise InputError(str(error), where=f"{pred_dir} or {gt_dir}, image {name}") from error
    return quality.compute()


def format_video_table(result: Mapping[str, Any]) -> str:
    """Lay out a result of `VideoQuality.compute` as lines of text, in percent, without a final newline."""
    lines = [f"{'':<8}{'All':>7}{'Things':>8}{'Stuff':>7}"]
    rows = {f"VPQ^{size}": {key: one[key]["pq"] for key in ("All", "Things", "Stuff")}
            for size, one in result["vpq"]["windows"].items()}  # fmt: skip
    rows["VPQ"] = result["vpq"]
    lines += [
        f"{name:<8}{percent(row['All'])} {percent(row['Things'])}{percent(row['Stuff'])}" for name, row in rows.items()
    ]
    stq, identity = result["stq"], result["identity"]
    lines += ["", f"{'STQ':<8}{percent(stq['stq'])}   AQ {percent(stq['aq'])}   SQ {percent(stq['sq'])}"]
    lines += [f"{'IDF1':<8}{percent(identity['idf1'])}   {identity['switches']} id switches,"
              f" {identity['switches_hidden']} of them at {identity['reappearances']} reappearances"]  # fmt: skip
    return "\n".join(lines)

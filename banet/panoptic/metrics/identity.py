"""How well the ids of things last over a video: IDF1 and id switches."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from banet.panoptic.metrics.overlaps import Overlaps
from banet.panoptic.metrics.quality import match_overlaps
from banet.panoptic.tracking.assignment import assign

__all__ = ["Identities", "IdentityCounts"]


@dataclass(frozen=True)
class IdentityCounts:
    """Counts over videos; they add up.

    Attributes:
        true_positives: frames in which an object has the one id that is assigned to it for the whole video.
        truth: segments of things in the truth, over all frames, crowd left out.
        prediction: predicted ones, without those that void and crowd excuse.
        switches: times that an object gets another id than it had when it was last found.
        switches_hidden: those at which it had been out of sight in between: the truth had no pixel of it in a frame.
        reappearances: times that an object which had been found is found again after it was out of sight.
    """

    true_positives: int = 0
    truth: int = 0
    prediction: int = 0
    switches: int = 0
    switches_hidden: int = 0
    reappearances: int = 0

    def __add__(self, other: IdentityCounts) -> IdentityCounts:
        return IdentityCounts(*(getattr(self, one.name) + getattr(other, one.name) for one in fields(self)))

    def compute(self) -> dict[str, Any]:
        """Return IDF1, ID precision and ID recall, in 0..1 or NaN, and the counts."""

        def share(part: int, whole: int) -> float:
            return part / whole if whole else math.nan

        return {
            "idf1": share(2 * self.true_positives, self.truth + self.prediction),
            "idp": share(self.true_positives, self.prediction),
            "idr": share(self.true_positives, self.truth),
            "switches": self.switches,
            "switches_hidden": self.switches_hidden,
            "reappearances": self.reappearances,
        }


class Identities:
    """Follows the ids of the things of one video.

    In each frame an object is found by the segment of its class with an IoU above 1/2, as in `PanopticQuality`. IDF1
    assigns each object of the truth one predicted id, so that most frames agree; a switch is an object that is found
    under another id than the last time, as MOTS counts them (Voigtlaender et al. 2019).

    Args:
        num_things: how many classes, the first ones, are things.

    Attributes:
        last: the id that each object was last found under.
        found: the objects that were found in the last frame.
    """

    def __init__(self, num_things: int) -> None:
        self.num_things = num_things
        self._together: Counter[tuple[int, int]] = Counter()
        self.last: dict[int, int] = {}
        self.found: set[int] = set()
        self._seen: dict[int, int] = {}  # object -> last frame with a pixel of it
        self._gaps: set[int] = set()  # objects that were out of sight since they were last found
        self._frame = 0
        self._counts = IdentityCounts()

    def add(self, overlaps: Overlaps) -> list[tuple[int, int, int]]:
        """Count a frame.

        Returns:
            The object's id in the truth, the id that it had and the one that it has now, of each switch in it.
        """
        found = match_overlaps(overlaps)
        things = found.ground_truth_classes[found.ground_truth] < self.num_things
        pairs = [
            (int(overlaps.truth.ids[row]), int(overlaps.prediction.ids[column]))
            for row, column in zip(found.ground_truth[things], found.prediction[things], strict=True)
        ]
        wanted = (overlaps.truth.classes < self.num_things) & ~overlaps.truth.crowd
        alarms = int((found.prediction_classes[found.false_positives] < self.num_things).sum())
        for one in overlaps.truth.ids[wanted].tolist():
            if self._seen.get(one, self._frame) < self._frame - 1 and one in self.last:
                self._gaps.add(one)
            self._seen[one] = self._frame
        switches = [(one, self.last[one], now) for one, now in pairs if self.last.get(one, now) != now]
        self.found = {one for one, _ in pairs}
        back = self.found & self._gaps
        self._counts += IdentityCounts(
            truth=int(np.count_nonzero(wanted)),
            prediction=len(pairs) + alarms,
            switches=len(switches),
            switches_hidden=sum(one in back for one, *_ in switches),
            reappearances=len(back),
        )
        self._gaps -= back
        self._together.update(pairs)
        self.last |= dict(pairs)
        self._frame += 1
        return switches

    def counts(self) -> IdentityCounts:
        """Return the counts so far."""
        rows = {one: k for k, one in enumerate(dict.fromkeys(one for one, _ in self._together))}
        columns = {one: k for k, one in enumerate(dict.fromkeys(one for _, one in self._together))}
        table = np.zeros((len(rows), len(columns)))
        for (truth, prediction), frames in self._together.items():
            table[rows[truth], columns[prediction]] = frames
        return self._counts + IdentityCounts(true_positives=int(table[assign(table)].sum()))

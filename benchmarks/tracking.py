"""Ids over occlusions: ``python benchmarks/tracking.py [--videos 6] [--frames 150] [--size 128] [--seed 9200]``.

Videos of procedural scenes, in which things cross, hide one another and come out again, have exact truth. Per-frame
results are derived from it, with ids drawn anew in each frame, and tracked by each contestant:

- truth: everything that can be seen, down to a pixel;
- handler: what a network with occlusion handling would show: a thing of which less than half can be seen, or less than
  20 pixels, is left out, and its pixels are void;
- degraded: like handler, and each thing is missed in 5 of 100 frames, its outline moves in or out by up to two pixels,
  one thing in 100 has another class, and each frame has a false alarm with a chance of 1 in 10.

The contestants are the tracker; the same without its occlusion memory; that without any memory, which forgets an object
in the frame in which it is not found; the tracker without images, so by place and shape alone; and, for scale, ids that
only continue while masks overlap between neighbouring frames, and the true ids on the same results, which no tracker
can be better than. Switches at occlusions are those of objects that were
less than half visible at some time since they were last found.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np
from harness import Report, parser
from numpy.typing import NDArray

from banet.data.scenes import SCENE_CATEGORIES, SceneFrame, SceneVideo
from banet.panoptic import PanopticSegmentation, VideoQuality
from banet.panoptic.id_maps import index_map
from banet.panoptic.metrics.identity import Identities
from banet.panoptic.metrics.overlaps import Overlaps
from banet.panoptic.tracking.tracker import Tracker, TrackingConfig

Step = Callable[[PanopticSegmentation], PanopticSegmentation]
KINDS = ("truth", "handler", "degraded")
_HIDDEN = 0.5  # visible fraction below which a thing counts as hidden
_SMALL = 20  # pixels below which a network shows nothing
_OTHER = 20_000  # ids from here on are of alarms and wrong classes, a range per frame
BOUND = "true ids"


def observed(
    frame: SceneFrame, kind: str, rng: np.random.Generator, number: int
) -> tuple[PanopticSegmentation, PanopticSegmentation]:
    """Derive the result of a frame, with ids drawn anew and with true ids, which alarms and wrong classes lack."""
    truth = frame.truth
    visible = dict(zip(frame.ids.tolist(), frame.visible.tolist(), strict=True))
    ids = truth.ids.copy()
    classes = {segment.id: segment.category_id for segment in truth.segments}
    for segment in truth.segments:
        mask = truth.ids == segment.id
        if kind != "truth" and segment.isthing and (visible[segment.id] < _HIDDEN or segment.area < _SMALL):
            ids[mask] = 0
        elif kind == "degraded" and segment.isthing:
            name = segment.id
            if rng.random() < 0.01:
                name += _OTHER + _OTHER * number
                classes[name] = draw_class(rng)
            degrade(ids, mask, name, rng)
    if kind == "degraded" and rng.random() < 0.1:
        height, width = ids.shape
        top, left = int(rng.integers(0, height - 16)), int(rng.integers(0, width - 16))
        false = _OTHER * (number + 1)
        ids[top : top + int(rng.integers(6, 16)), left : left + int(rng.integers(6, 16))] = false
        classes[false] = draw_class(rng)
    left_over = np.setdiff1d(np.unique(ids), [0])
    names = rng.permutation(len(left_over)) + 1
    anew = np.append(names, 0)[index_map(ids, left_over.tolist())]

    def result(of: NDArray[np.int64], named: NDArray[np.int64]) -> PanopticSegmentation:
        records = [
            {"id": int(name), "category_id": classes[one]}
            for one, name in zip(left_over.tolist(), named.tolist(), strict=True)
        ]
        return PanopticSegmentation.from_ids(of, records, SCENE_CATEGORIES, frame.image)

    return result(anew, names), result(ids, left_over)


def draw_class(rng: np.random.Generator) -> int:
    """Draw the category id of a thing."""
    return int(rng.choice(SCENE_CATEGORIES.ids[: SCENE_CATEGORIES.num_things]))


def degrade(ids: NDArray[np.int32], mask: NDArray[np.bool_], one: int, rng: np.random.Generator) -> None:
    """Miss a thing, or move its outline, in place."""
    if rng.random() < 0.05:
        ids[mask] = 0
        return
    step = int(rng.integers(-2, 3))
    changed = mask
    for _ in range(abs(step)):
        padded = np.pad(changed, 1, constant_values=step < 0)
        parts = (padded[:-2, 1:-1], padded[2:, 1:-1], padded[1:-1, :-2], padded[1:-1, 2:])
        for part in parts:
            changed = changed & part if step < 0 else changed | part
    if changed.any():
        ids[mask & ~changed] = 0
        ids[changed] = one


def contestants() -> Mapping[str, tuple[Callable[[], Step], bool]]:
    """Return by name what makes a fresh tracker, and whether it sees images."""
    plain = TrackingConfig()
    return {
        "tracker": (lambda: Tracker(plain).update, True),
        "no occlusion memory": (lambda: Tracker(replace(plain, occlusion_memory=False)).update, True),
        "no memory": (lambda: Tracker(replace(plain, occlusion_memory=False, patience=0)).update, True),
        "no images": (lambda: Tracker(plain).update, False),
        "overlap only": (lambda: overlap_only(), False),
    }


def overlap_only() -> Step:
    """Continue an id while the masks of neighbouring frames overlap by an IoU above 1/2; nothing else."""
    tracker = Tracker(TrackingConfig(occlusion_memory=False, patience=0, color_weight=0.0, min_gain=0.5))

    def step(result: PanopticSegmentation) -> PanopticSegmentation:
        for one in tracker.objects:
            one.speed = 0.0, 0.0
        return tracker.update(result)

    return step


@dataclass
class Occlusions:
    """Counts the switches of objects that were mostly hidden since they were last found, and their returns."""

    switches: int = 0
    returns: int = 0

    def follow(self) -> Callable[[SceneFrame, PanopticSegmentation], None]:
        """Return what takes the frames of one video."""
        identities, was_hidden = Identities(SCENE_CATEGORIES.num_things), set[int]()

        def add(frame: SceneFrame, result: PanopticSegmentation) -> None:
            overlaps = Overlaps.of(result, frame.truth, SCENE_CATEGORIES)
            known = set(identities.last)
            switched = {one for one, *_ in identities.add(overlaps)}
            now = set(frame.ids[frame.visible < _HIDDEN].tolist())
            back = {one for one in (was_hidden & known) - now if one in identities.found}
            self.switches += len(switched & was_hidden)
            self.returns += len(back)
            was_hidden.difference_update(identities.found - now)
            was_hidden.update(now)

        return add


def frames(
    video: SceneVideo, count: int, kind: str, seed: int
) -> Iterator[tuple[SceneFrame, PanopticSegmentation, PanopticSegmentation]]:
    """Yield the frames of a video with both results of each."""
    rng = np.random.default_rng(seed)
    for number, frame in enumerate(video.frames(count)):
        yield frame, *observed(frame, kind, rng, number)


def main() -> None:
    command_line = parser(__doc__, threads=None)
    command_line.add_argument("--videos", type=int, default=6)
    command_line.add_argument("--frames", type=int, default=150)
    command_line.add_argument("--size", type=int, default=128)
    command_line.add_argument("--seed", type=int, default=9200)
    options = command_line.parse_args()
    with Report(options, __file__) as report:
        for kind in KINDS:
            makers = contestants()
            scores = {name: (VideoQuality(SCENE_CATEGORIES), Occlusions()) for name in (*makers, BOUND)}
            for index in range(options.videos):
                video = SceneVideo(options.seed, index, (options.size, options.size))
                steps = {name: (make(), images, scores[name][1].follow()) for name, (make, images) in makers.items()}
                follow_bound = scores[BOUND][1].follow()
                for frame, result, bound in frames(video, options.frames, kind, index):
                    scores[BOUND][0].update(bound, frame.truth)
                    follow_bound(frame, bound)
                    for name, (step, images, follow) in steps.items():
                        tracked = step(result if images else replace(result, image=None))
                        scores[name][0].update(tracked, frame.truth)
                        follow(frame, tracked)
                for quality, _ in scores.values():
                    quality.end_video()
            report.say(f"{kind}: switches (at occlusions, of returns), IDF1, VPQ, VPQ^Th, STQ, AQ")
            for name, (quality, occlusions) in scores.items():
                found = quality.compute()
                identity, vpq, stq = found["identity"], found["vpq"], found["stq"]
                report.say(
                    f"  {name:<20} {identity['switches']:>5} ({occlusions.switches} of {occlusions.returns})"
                    f"  {100 * identity['idf1']:.1f}  {100 * vpq['All']:.1f}  {100 * vpq['Things']:.1f}"
                    f"  {100 * stq['stq']:.1f}  {100 * stq['aq']:.1f}",
                    kind=kind,
                    switches=identity["switches"],
                    at_occlusions=occlusions.switches,
                    returns=occlusions.returns,
                    idf1=identity["idf1"],
                    vpq=vpq["All"],
                    stq=stq["stq"],
                    aq=stq["aq"],
                )


if __name__ == "__main__":
    main()

"""Track objects over the frames of a video: per-frame results in, the same results with ids that last out."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from banet.errors import InputError
from banet.files.atomic import write_json
from banet.files.reading import open_file
from banet.panoptic.categories import Categories
from banet.panoptic.id_maps import centroids, index_map, measure_ids
from banet.panoptic.pixels import rgb_array
from banet.panoptic.segmentation import PanopticSegmentation
from banet.panoptic.segments import Segment
from banet.panoptic.tracking.appearance import color_histogram
from banet.panoptic.tracking.assignment import assign
from banet.panoptic.tracking.association import gains, weigh
from banet.panoptic.tracking.cuts import CutDetector
from banet.panoptic.tracking.memory import remember
from banet.panoptic.tracking.motion import Silhouette, complete, count_owners, displacement
from banet.panoptic.tracking.objects import Seen, TrackedObject
from banet.types import StrPath

__all__ = ["Tracker", "TrackingConfig", "track"]

_VERSION = 1
_AFTER_HIDDEN = 4  # times as long is an object missed that was hidden before
_LARGEST_STATE = 1 << 28  # bytes


@dataclass(frozen=True)
class TrackingConfig:
    """How objects are told apart and remembered.

    Attributes:
        occlusion_memory: an object that others hide keeps its id until it comes out again.
        patience: frames after which an object that is neither found nor hidden is forgotten.
        hidden_patience: the same for one that is hidden.
        hidden_share: fraction of an object's place that is covered when it counts as hidden.
        color_weight: how much colors count beside place, 0..1; without images they count nothing.
        min_gain: from what agreement in place and colors, 0..1, an object is taken to be found.
        remembered: objects out of sight that are remembered at most; the longest unseen is forgotten first.
        detect_cuts: a cut, or a jump of the camera, ends all objects.
    """

    occlusion_memory: bool = True
    patience: int = 8
    hidden_patience: int = 900
    hidden_share: float = 0.45
    color_weight: float = 0.35
    min_gain: float = 0.35
    remembered: int = 100
    detect_cuts: bool = True

    def __post_init__(self) -> None:
        for name in ("hidden_share", "color_weight", "min_gain"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must be in 0..1, not {getattr(self, name)}")
        for name in ("patience", "hidden_patience", "remembered"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative, not {getattr(self, name)}")


def track(
    results: Iterable[PanopticSegmentation], config: TrackingConfig | None = None
) -> Iterator[PanopticSegmentation]:
    """Give the objects of a video ids that last, frame by frame.

    Things that are the same object have one id in all frames, also after they were hidden; a stuff class has one id
    throughout. Ids are never given twice. Frames are taken and given one at a time, so a video may have any length.

    Args:
        results: the results of the frames, in order, of any program. With `image` colors help to tell objects apart,
            and cuts are seen better.
        config: see `TrackingConfig`.

    Yields:
        Each result with the lasting ids; stuff of one class is one segment.

    Raises:
        ValueError: there are no frames, or see `Tracker.update`.
        TypeError: see `Tracker.update`.
    """
    tracker = Tracker(config)
    for result in results:
        yield tracker.update(result)
    if not tracker.frames:
        raise ValueError("there are no frames to track; give the results of a video's frames")


class Tracker:
    """Tracks the objects of one video; `update` takes its frames in order.

    Memory is what is known of the objects in sight and of some that are out of sight, whatever the length of the video.

    Args:
        config: see `TrackingConfig`.

    Attributes:
        frames: how many frames there were.
        cuts: how many of them began anew.
        objects: those that have ids, in sight or remembered.
    """

    def __init__(self, config: TrackingConfig | None = None) -> None:
        self.config = config or TrackingConfig()
        self.frames = 0
        self.cuts = 0
        self.objects: list[TrackedObject] = []
        self._size: tuple[int, int] | None = None
        self._categories: Categories | None = None
        self._stuff: dict[tuple[int, bool], int] = {}
        self._next = 1
        self._detector = CutDetector()

    def update(self, result: PanopticSegmentation) -> PanopticSegmentation:
        """Take the next frame, and return it with lasting ids.

        Args:
            result: what was found in it.

        Raises:
            TypeError: it is not a `PanopticSegmentation`.
            ValueError: its size or its categories are not those of the first frame, it has no pixels, or map and
                records do not name the same ids.
        """
        self._validate(result)
        things = [segment for segment in result.segments if segment.isthing and not segment.iscrowd]
        frame = _Frame.of(result, things)
        for one in self.objects:
            if not one.unseen:
                one.silhouette = one.silhouette.moved(*one.speed)
        found, share = self._find(frame)
        if self.config.detect_cuts and self._detector.is_cut(frame.image, result.semantic, share):
            self.cuts, self.objects, found = self.cuts + 1, [], {}
        ids = self._take(frame, found)
        self.frames += 1
        return self._renamed(result, dict(zip((thing.id for thing in things), ids, strict=True)))

    def _validate(self, result: PanopticSegmentation) -> None:
        number = self.frames + 1
        if not isinstance(result, PanopticSegmentation):
            raise TypeError(f"frame {number} must be a PanopticSegmentation, not {type(result).__name__}")
        result.check(f"frame {number}")
        if self._size is None or self._categories is None:
            if not result.ids.size:
                raise ValueError(f"frame {number} has no pixels")
            self._size, self._categories = (result.height, result.width), result.categories
        if (result.height, result.width) != self._size:
            first = f"{self._size[1]}x{self._size[0]}"
            raise ValueError(
                f"frame {number} is {result.width}x{result.height}, the first {first}; resize them to one size"
            )
        shape = None if result.image is None else np.shape(result.image)[:2]
        if shape is not None and shape != self._size:
            raise ValueError(
                f"the image of frame {number} is {shape[1]}x{shape[0]}, its result {result.width}x{result.height}"
            )
        if result.categories != self._categories:
            raise ValueError(f"frame {number} has other categories than the first; all frames must have the same")

    def _find(self, frame: _Frame) -> tuple[dict[int, int], float | None]:
        """Return which thing of a frame each object is, and what fraction of those just seen is where it should be."""
        recent = [one.visible for one in self.objects]
        expected = sum(one.silhouette.area for one, now in zip(self.objects, recent, strict=True) if now)
        if not self.objects or not frame.things:
            return {}, 0.0 if expected else None
        under = np.stack([count_owners(one.silhouette, frame.owners, len(frame.things)) for one in self.objects])
        evidence = weigh(self.objects, frame.things, under, {one.id: one.silhouette.box for one in self.objects})
        worth = gains(evidence, recent, self.config.color_weight, self.config.min_gain)
        pairs = list(zip(*(chosen.tolist() for chosen in assign(worth)), strict=True))
        there = sum(self.objects[row].silhouette.area for row, column in pairs
                    if recent[row] and evidence.iou[row, column] >= 0.3)  # fmt: skip
        return dict(pairs), there / expected if expected else None

    def _take(self, frame: _Frame, found: Mapping[int, int]) -> list[int]:
        """Update the objects from a frame, add new ones, forget old ones; return the id of each thing."""
        ids = [0] * len(frame.things)
        for row, column in found.items():
            ids[column] = self.objects[row].id
        missing = [column for column, name in enumerate(ids) if not name]
        for column in missing:
            ids[column] = self._new_id()
        for row, one in enumerate(self.objects):
            if row in found:
                frame.follow(one, found[row])
            else:
                remember(one, frame.owners, frame.void, ids, self.config.hidden_share, self.config.occlusion_memory)
        config = self.config
        kept = [
            one for one in self.objects if one.unseen <= self._patience(one) and one.hidden <= config.hidden_patience
        ]
        gone = sorted((one for one in kept if not one.visible), key=lambda one: one.unseen + one.hidden)
        forgotten = {one.id for one in gone[config.remembered :]}
        self.objects = [one for one in kept if one.id not in forgotten]
        self.objects += [frame.appear(column, ids[column]) for column in missing]
        return ids

    def _patience(self, one: TrackedObject) -> int:
        """Return for how many frames an object may be missing: longer after it was hidden, as it may have turned."""
        return self.config.patience * (_AFTER_HIDDEN if one.hidden else 1)

    def _new_id(self) -> int:
        self._next += 1
        return self._next - 1

    def _renamed(self, result: PanopticSegmentation, things: Mapping[int, int]) -> PanopticSegmentation:
        names = [things.get(segment.id) or self._stuff_id(segment) for segment in result.segments]
        known = [segment.id for segment in result.segments]
        ids = np.array([*names, 0], dtype=np.int32)[index_map(result.ids, known)]
        records: dict[int, Segment] = {}
        for name, segment in zip(names, result.segments, strict=True):
            records.setdefault(name, replace(segment, id=name))
        renamed = PanopticSegmentation.from_ids(ids, records.values(), result.categories, result.image)
        renamed.domain = result.domain
        return renamed

    def _stuff_id(self, segment: Segment) -> int:
        """Return the id of a class of stuff, or of the crowds of a class, which nobody tells apart."""
        key = segment.category_id, segment.iscrowd
        if key not in self._stuff:
            self._stuff[key] = self._new_id()
        return self._stuff[key]

    def state(self) -> dict[str, Any]:
        """Return all that it knows, as JSON has it: `from_state` goes on from there, with equal ids."""
        categories = None if self._categories is None else self._categories.to_coco()
        return {
            "tracker": _VERSION,
            "config": asdict(self.config),
            "frames": self.frames,
            "cuts": self.cuts,
            "size": None if self._size is None else list(self._size),
            "categories": categories,
            "next": self._next,
            "stuff": [[category, crowd, one] for (category, crowd), one in self._stuff.items()],
            "objects": [one.to_json() for one in self.objects],
            "detector": self._detector.to_json(),
        }

    @classmethod
    def from_state(cls, state: Mapping[str, Any], source: str = "state") -> Tracker:
        """Return a tracker that goes on from where `state` was called.

        Args:
            state: what it returned.
            source: what to call it in errors.

        Raises:
            InputError: it is damaged, or of another version.
        """
        try:
            if state["tracker"] != _VERSION:
                raise InputError(f"is of version {state['tracker']!r}, not {_VERSION}", where=source, hint="start anew")
            made = cls(TrackingConfig(**state["config"]))
            made.frames, made.cuts, made._next = (int(state[name]) for name in ("frames", "cuts", "next"))
            if state["size"] is not None:
                height, width = state["size"]
                made._size, made._categories = (int(height), int(width)), Categories.of(state["categories"])
            made._stuff = {(int(category), bool(crowd)): int(one) for category, crowd, one in state["stuff"]}
            made.objects = [TrackedObject.from_json(entry) for entry in state["objects"]]
            made._detector = CutDetector.from_json(state["detector"])
        except InputError:
            raise
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
            problem = f"is not the state of a tracker, or is damaged ({type(error).__name__}: {error})"
            raise InputError(problem, where=source, hint="delete it and start anew") from error
        return made

    def save(self, path: StrPath) -> None:
        """Write the state to a file, atomically."""
        write_json(path, self.state())

    @classmethod
    def load(cls, path: StrPath) -> Tracker:
        """Read what `save` wrote.

        Raises:
            InputError: it cannot be read or is damaged.
        """
        with open_file(path) as stream:
            content = stream.read(_LARGEST_STATE)
        try:
            state = json.loads(content)
        except (ValueError, RecursionError) as error:
            raise InputError("is not JSON", where=path, hint="delete it and start anew") from error
        return cls.from_state(state, str(path))


@dataclass(frozen=True)
class _Frame:
    """The things of a frame.

    Attributes:
        owners: (H, W) 0 where no thing is, k + 1 on the k-th.
        void: (H, W) where the frame has no segment.
        things: what is seen of them.
        image: (H, W, 3) or None.
    """

    owners: NDArray[np.int32]
    void: NDArray[np.bool_]
    things: list[Seen]
    image: NDArray[np.uint8] | None

    @classmethod
    def of(cls, result: PanopticSegmentation, segments: list[Segment]) -> _Frame:
        known = [segment.id for segment in segments]
        owners = (index_map(result.ids, known) + 1) % (len(known) + 1)
        image = None if result.image is None else rgb_array(result.image)
        values, areas, boxes = measure_ids(owners)
        assert values.tolist() == list(range(1, len(known) + 1))
        corners = np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1)
        things = []
        for k, (segment, area, box, centre) in enumerate(
            zip(segments, areas.tolist(), corners.tolist(), centroids(owners, values.tolist()).tolist(), strict=True)
        ):
            x1, y1, x2, y2 = box
            window = slice(y1, y2), slice(x1, x2)
            colors = None if image is None else color_histogram(image[window][owners[window] == k + 1])
            cut_off = x1 == 0 or y1 == 0 or x2 == result.width or y2 == result.height
            things.append(Seen(segment.category_id, area, (x1, y1, x2, y2), (centre[0], centre[1]), colors, cut_off))
        return cls(owners, result.ids == 0, things, image)

    def appear(self, number: int, name: int) -> TrackedObject:
        """Return a thing as a new object: what is visible of it is its whole shape."""
        thing = self.things[number]
        x1, y1, x2, y2 = thing.box
        silhouette = Silhouette.of(self.owners[y1:y2, x1:x2] == number + 1, x1, y1)
        pixels = 0 if thing.colors is None else thing.area
        return TrackedObject(name, thing.category_id, silhouette, colors=thing.colors, color_pixels=pixels)

    def follow(self, one: TrackedObject, number: int) -> None:
        """Update an object that is found as a thing: place, speed, shape and colors."""
        thing = self.things[number]
        dx, dy, share = displacement(one.silhouette, self.owners, number + 1, thing.box)
        away = one.hidden + one.unseen
        rate = share * (1.0 if one.frames == 1 or away > 3 else 0.4)
        moved = one.silhouette.moved(dx, dy)
        if away:  # it may have stopped or turned meanwhile
            dx, dy = dx / (away + 1), dy / (away + 1)
        one.speed = one.speed[0] + rate * dx, one.speed[1] + rate * dy
        one.silhouette = complete(moved, self.owners, number + 1, thing.box)
        if thing.colors is not None:
            mix = thing.area / (thing.area + 4 * one.color_pixels)
            one.colors = thing.colors if one.colors is None else (1 - mix) * one.colors + mix * thing.colors
            one.color_pixels = max(one.color_pixels, thing.area)
        one.frames, one.unseen, one.hidden, one.hidden_by = one.frames + 1, 0, 0, ()

"""Videos of procedural scenes: things that move, cross, hide one another and come out again, with exact truth.

Frame t is a function of (seed, index, t), so that a video has any length, takes the memory of one frame, and can be
entered anywhere. Some things stand still; some go back and forth and turn, as often as not behind others; and passers
come in at one side and leave at the other, each once. Every thing has one id and one depth throughout.

    >>> video = SceneVideo(seed=0, index=3)
    >>> video.frame(100).truth
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from banet.data.scenes.generate import SCENE_CATEGORIES, STUFF_IDS, THING_IDS
from banet.data.scenes.painting import draw_gain, expose, owners, paint
from banet.data.scenes.stage import Stage, Thing
from banet.data.scenes.stuff import STUFF_NAMES, compose_stuff
from banet.data.scenes.things import Patch, render
from banet.files.atomic import atomic_path
from banet.files.outputs import Outputs
from banet.files.staging import JsonLists
from banet.panoptic.coco.png import write_ids
from banet.panoptic.segmentation import PanopticSegmentation
from banet.types import Progress

__all__ = ["SceneFrame", "SceneVideo", "write_videos"]

_MOVING = 0.75  # fraction of the persons, cars, balls and kites that move
_SLOTS = 2  # passers that are under way at most
_FASTENED = 8  # ids that a passer and what it carries have


@dataclass(frozen=True)
class SceneFrame:
    """One frame of H × W pixels, with its ground truth.

    Attributes:
        image: (H,W,3) uint8, RGB.
        truth: the segment that owns each pixel; there is no void, and ids last over the video.
        ids: (N,) those of the things that lie in the image, hidden ones included.
        masks: (N,H,W) bool, the full mask of each inside the image.
        order: (N,) rows of `masks` from the front to the back.
        visible: (N,) fraction of each full mask that can be seen.
    """

    image: NDArray[np.uint8]
    truth: PanopticSegmentation
    ids: NDArray[np.int64]
    masks: NDArray[np.bool_]
    order: NDArray[np.int64]
    visible: NDArray[np.float64]


@dataclass(frozen=True)
class _Pace:
    """A way back and forth around a place, in pixels, with some bobbing; `period` and `phase` in frames."""

    x: float
    reach: float
    period: float
    phase: float
    bob: float = 0.0

    def at(self, t: int) -> tuple[float, float]:
        turn = 2 * np.pi * (t + self.phase) / self.period
        return self.x + self.reach * float(np.sin(turn)), self.bob * float(np.sin(2.3 * turn))


@dataclass(frozen=True)
class _Passage:
    """A way through the image at one speed: x at frame `start`, and pixels per frame."""

    x: float
    speed: float
    start: int

    def at(self, t: int) -> tuple[float, float]:
        return self.x + self.speed * (t - self.start), 0.0


@dataclass(frozen=True)
class _Actor:
    """A thing, its id, and its way from where the stage put it: none for one that stands still."""

    id: int
    thing: Thing
    way: _Pace | _Passage | None = None

    def shift(self, t: int) -> tuple[float, float]:
        return (0.0, 0.0) if self.way is None else self.way.at(t)


class SceneVideo:
    """A video of a procedural scene; iterating gives its frames without end.

    Args:
        seed: the dataset; different seeds share no video.
        index: the video's number in it. The same (seed, index, size) always gives the same video.
        size: (H,W) in pixels, at least 32 each.

    Raises:
        ValueError: seed or index is negative, or the size is too small.
    """

    categories = SCENE_CATEGORIES

    def __init__(self, seed: int, index: int, size: tuple[int, int] = (256, 256)) -> None:
        height, width = size
        if height < 32 or width < 32:
            raise ValueError(f"size must be at least 32 x 32 pixels, not {height} x {width}")
        if seed < 0 or index < 0:
            raise ValueError(f"seed and index must not be negative, not {seed} and {index}")
        self.size = int(height), int(width)
        self._key = seed, index, 2
        rng = np.random.default_rng(self._key)
        self._ground = compose_stuff(rng, *self.size)
        self._light, self._gain, self._grain = float(rng.uniform(-1, 1)), draw_gain(rng), float(rng.uniform(2, 8))
        reach = max(1, round(min(self.size) / 128))
        dark = float(rng.uniform(0.15, 0.4)) if rng.random() < 0.7 else 0.0
        self._shadow = -round(2 * self._light * reach), reach, dark
        first = len(STUFF_NAMES) + 1  # below it are the ids of stuff
        self._cast = self._residents(rng, first)
        self._first_passer = first + len(self._cast)
        self._period = int(rng.integers(90, 150))
        self._passers = functools.lru_cache(maxsize=2 * _SLOTS)(self._draw_passer)
        self._still: dict[int, Patch | None] = {}

    def frame(self, t: int) -> SceneFrame:
        """Draw frame t, counted from 0.

        Raises:
            ValueError: t is negative.
        """
        if t < 0:
            raise ValueError(f"frames count from 0, not {t}")
        actors = [*self._cast, *(actor for slot in range(_SLOTS) for actor in self._passing(slot, t))]
        actors.sort(key=lambda actor: actor.thing.depth)
        patches = [(actor, patch) for actor in actors if (patch := self._patch(actor, t)) is not None]
        image = self._ground.image.copy()
        for _, patch in patches:
            paint(image, patch, self._shadow)
        expose(image, self._gain, self._grain, np.random.default_rng([*self._key, t]))
        return self._with_truth(np.clip(image, 0, 255, out=image).astype(np.uint8), patches)

    def frames(self, count: int) -> Iterator[SceneFrame]:
        """Draw the first `count` frames, one by one."""
        return (self.frame(t) for t in range(count))

    def _residents(self, rng: np.random.Generator, first: int) -> list[_Actor]:
        """Return the things that are there throughout; what is fastened to another shares its way."""
        stage = Stage(rng, self._ground, *self.size)
        wanted = int(rng.integers(4, 9))
        while len(stage.things) < wanted:
            stage.add_any()
        ways: dict[int, _Pace | None] = {}
        cast = []
        for number, thing in enumerate(stage.things):
            if thing.parent is not None:
                way = ways[id(thing.parent)]
            elif thing.name in ("person", "car", "ball", "kite") and rng.random() < _MOVING:
                way = self._pace(rng, thing)
            else:
                way = None
            ways[id(thing)] = way
            cast.append(_Actor(first + number, thing, way))
        return cast

    def _pace(self, rng: np.random.Generator, thing: Thing) -> _Pace:
        width = self.size[1]
        middle, reach = rng.uniform(0.3, 0.7) * width, rng.uniform(0.12, 0.4) * width
        bob = 0.03 * self.size[0] if thing.name in ("ball", "kite") else 0.0
        period = float(rng.uniform(100, 260))
        return _Pace(middle - float(thing.pose.offset[0]), reach, period, float(rng.uniform(0, period)), bob)

    def _passing(self, slot: int, t: int) -> Sequence[_Actor]:
        """Return the passer of a slot at a frame, with what it carries: one after the other, half a period apart."""
        number = (t + slot * self._period // _SLOTS) // self._period
        return self._passers(slot, number)

    def _draw_passer(self, slot: int, number: int) -> Sequence[_Actor]:
        rng = np.random.default_rng([*self._key, slot, number])
        stage = Stage(rng, self._ground, *self.size)
        _, y, size = stage.spot()
        if rng.random() < 0.7:
            stage.person_at(0.0, y, size)
        else:
            stage.put("car", 0.5 * size, 0.0, y)
        margin = 0.7 * size
        start = number * self._period - slot * self._period // _SLOTS
        speed = (self.size[1] + 2 * margin) / (rng.uniform(0.75, 0.98) * self._period)
        right = rng.random() < 0.5
        way = _Passage(-margin if right else self.size[1] + margin, speed if right else -speed, start)
        first = self._first_passer + (number * _SLOTS + slot) * _FASTENED
        return [_Actor(first + k, thing, way) for k, thing in enumerate(stage.things[:_FASTENED])]

    def _patch(self, actor: _Actor, t: int) -> Patch | None:
        if actor.way is None and actor.id in self._still:
            return self._still[actor.id]
        dx, dy = actor.shift(t)
        pose = actor.thing.pose
        moved = replace(pose, offset=pose.offset + np.array([dx, dy]))
        grain = np.random.default_rng([*self._key, actor.id, 0])  # the same in all frames
        patch = render(grain, actor.thing.shape, moved, self.size, self._light)
        if actor.way is None:
            self._still[actor.id] = patch
        return patch

    def _with_truth(self, image: NDArray[np.uint8], patches: Sequence[tuple[_Actor, Patch]]) -> SceneFrame:
        owner = owners([patch for _, patch in patches], self.size)
        ids = np.array([actor.id for actor, _ in patches], dtype=np.int64)
        full = np.array([patch.mask.sum() for _, patch in patches], dtype=np.int64)
        seen = np.bincount(owner.ravel(), minlength=len(patches) + 1)[1:]
        masks = np.zeros((len(patches), *self.size), dtype=bool)
        for mask, (_, patch) in zip(masks, patches, strict=True):
            mask[patch.box] = patch.mask
        stuff = np.arange(1, len(STUFF_NAMES) + 1, dtype=np.int32)[self._ground.labels]
        names = np.where(owner > 0, np.concatenate([[0], ids])[owner], stuff).astype(np.int32)
        there = np.unique(stuff[owner == 0]).tolist()
        records = [
            {"id": actor.id, "category_id": THING_IDS[actor.thing.name]}
            for (actor, _), pixels in zip(patches, seen, strict=True)
            if pixels
        ]
        records += [{"id": label, "category_id": STUFF_IDS[STUFF_NAMES[label - 1]]} for label in there]
        truth = PanopticSegmentation.from_ids(names, records, SCENE_CATEGORIES, image)
        return SceneFrame(image, truth, ids, masks, np.arange(len(patches))[::-1].copy(), seen / np.maximum(full, 1))


def write_videos(
    out_dir: str | Path,
    seed: int,
    count: int,
    length: int,
    size: tuple[int, int] = (256, 256),
    progress: Progress | None = None,
    *,
    overwrite: bool = False,
) -> Path:
    """Write videos 0..count-1 of a seed as frames, in COCO's panoptic format.

    Makes `images/VIDEO/*.png`, `panoptic/VIDEO/*.png` and `panoptic.json`, whose `images` have `video_id` and
    `frame_id`, counted from 0, and whose `videos` name the folders. Ids in the PNGs last over a video.

    Args:
        out_dir: the folder; made where it is missing.
        seed: see `SceneVideo`.
        count: how many videos.
        length: how many frames each.
        size: (H,W) in pixels.
        progress: called with the frames done and those in all, after each.
        overwrite: also replace files that this function did not write.

    Returns:
        The path of `panoptic.json`.

    Raises:
        InputError: see `Outputs`.
    """
    folders = [f"{seed:04d}_{index:06d}" for index in range(count)]
    names = [f"{folder}/{t + 1:06d}.png" for folder in folders for t in range(length)]
    files = [f"{kind}/{name}" for kind in ("images", "panoptic") for name in names]
    outputs = Outputs(out_dir, "banet data scenes", [*files, "panoptic.json"], overwrite=overwrite)
    height, width = size
    with outputs, JsonLists() as lists:
        for index, folder in enumerate(folders):
            for kind in ("images", "panoptic"):
                (outputs.folder / kind / folder).mkdir(parents=True, exist_ok=True)
            lists.add("videos", {"id": index + 1, "name": folder, "width": width, "height": height, "length": length})
            for t, frame in enumerate(SceneVideo(seed, index, size).frames(length)):
                image_id, name = index * length + t + 1, f"{folder}/{t + 1:06d}.png"
                with atomic_path(outputs.folder / "images" / name) as path:
                    Image.fromarray(frame.image).save(path, format="PNG")
                write_ids(outputs.folder / "panoptic" / name, frame.truth.ids)
                image: dict[str, Any] = {"id": image_id, "file_name": name, "width": width, "height": height}
                lists.add("images", {**image, "video_id": index + 1, "frame_id": t})
                lists.add("annotations", frame.truth.to_coco(image_id, name))
                if progress is not None:
                    progress(image_id, count * length)
        info = {"description": f"{count} videos of scenes of seed {seed}, {width} x {height}, {length} frames each"}
        fields = {"info": info, "videos": None, "images": None, "annotations": None}
        lists.write(outputs.folder / "panoptic.json", {**fields, "categories": SCENE_CATEGORIES.to_coco()})
    return outputs.folder / "panoptic.json"

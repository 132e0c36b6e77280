"""The tracked run of one video: ids that last, the files that hold them, and where a stopped run goes on."""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from shutil import copyfileobj
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from banet.data.images import find_images
from banet.errors import InputError
from banet.files.atomic import atomic_path, write_json
from banet.files.reading import open_file
from banet.files.staging import JsonLists
from banet.panoptic import PanopticSegmentation, Tracker
from banet.panoptic.coco.rle import encode_rle

__all__ = ["TRACK_OUTPUTS", "TrackRun"]

TRACK_OUTPUTS = ("_frames.json", "_vid.json", "_mots.txt", "_track.json")
"""What is written of a tracked video beside its overlay and its frames."""

_EVERY = 25  # frames after which the state is saved
_LARGEST = 1 << 28  # bytes of a saved state
_HEAD = 1 << 20  # bytes of a video that tell it from another


class TrackRun:
    """Gives the objects of one video ids that last, and writes what holds them.

    Beside the frames' PNGs, in the folder `NAME_frames`, there are `NAME_frames.json`, a COCO panoptic JSON of them
    with `video_id` and `frame_id`; `NAME_vid.json`, the things as COCO-VID annotations with `instance_id`;
    `NAME_mots.txt`; and `NAME_track.json`, the state, from which a stopped run goes on with equal ids, while the frames
    that were done are read from their PNGs. A context manager: at the end, after Ctrl-C too, the files are written from
    what was done.

    Args:
        source: The video.
        out: Folder of the outputs.
        name: Of the outputs.
        settings: What the results depend on, by option; a run that goes on must have the same.
        resume: Go on from the state, where there is one.

    Raises:
        InputError: The state is damaged, or of another video or other settings.

    Attributes:
        done: Frames that an earlier run has done.
    """

    def __init__(self, source: str, out: Path, name: str, settings: Mapping[str, str], *, resume: bool = False) -> None:
        self.frames = out / f"{name}_frames"
        self._paths = {ending: out / f"{name}{ending}" for ending in TRACK_OUTPUTS}
        self._run = {"video": _fingerprint(source), **settings}
        self._tracker = self._load() if resume and self._paths["_track.json"].exists() else Tracker()
        self.done = self._tracker.frames
        self._number = self._things = 0
        self._categories: list[dict[str, Any]] = []
        self._name = name
        self._size = 0, 0

    def __enter__(self) -> TrackRun:
        self._stack = ExitStack()
        self._panoptic, self._vid = (self._stack.enter_context(JsonLists()) for _ in range(2))
        self._mots = self._stack.enter_context(tempfile.SpooledTemporaryFile(1 << 20, "w+", encoding="ascii"))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._stack:
            if kind is None and self._number:
                self._write()

    def result(
        self, image: NDArray[np.uint8], segment: Callable[[NDArray[np.uint8]], PanopticSegmentation]
    ) -> PanopticSegmentation:
        """Return the next frame with lasting ids, segmented now or by an earlier run.

        Args:
            image: The frame (H, W, 3).
            segment: Segments a frame.

        Raises:
            InputError: What the earlier run wrote cannot be read, or its size or classes are others.
        """
        self._number += 1
        if self._number == 1 and not self.done:
            self._save()  # an older state would not fit the frames that are written from now on
        if self._number > self.done:
            try:
                return self._tracker.update(segment(image))
            except ValueError as error:
                raise InputError(str(error), where=self._name) from error
        try:
            found = PanopticSegmentation.load(self.frames / f"{self._number:06d}.png")
        except InputError as error:
            raise InputError(error.problem, where=error.where, hint="leave out --resume, to start anew") from error
        if found.ids.shape != image.shape[:2]:
            raise InputError("is not of the size of the video", where=self.frames, hint="leave out --resume")
        found.image = image
        return found

    def add(self, result: PanopticSegmentation) -> None:
        """Take a frame whose PNG is written into the lists, and save the state from time to time."""
        number = self._number
        self._size = result.width, result.height
        size = {"width": result.width, "height": result.height}
        image = {"id": number, "file_name": f"{number:06d}.png", **size, "video_id": 1, "frame_id": number - 1}
        self._panoptic.add("images", image)
        self._panoptic.add("annotations", result.to_coco(number, f"{number:06d}.png"))
        self._vid.add("images", image)
        for segment in result.segments:
            if segment.isthing and not segment.iscrowd:
                self._add_thing(number, segment.to_coco(), encode_rle(result.ids == segment.id))
        self._categories = result.categories.to_coco()
        if number > self.done and number % _EVERY == 0:
            self._save()

    def _add_thing(self, number: int, record: Mapping[str, Any], mask: Mapping[str, Any]) -> None:
        self._things += 1
        given = {key: record[key] for key in ("category_id", "area", "bbox", "iscrowd", "score") if key in record}
        place = {"id": self._things, "image_id": number, "video_id": 1, "instance_id": record["id"]}
        self._vid.add("annotations", {**place, **given, "segmentation": mask})
        height, width = mask["size"]
        self._mots.write(f"{number - 1} {record['id']} {record['category_id']} {height} {width} {mask['counts']}\n")

    def _write(self) -> None:
        if self._number >= self.done:
            self._save()
        size = {"width": self._size[0], "height": self._size[1]}
        video = {"id": 1, "name": self._name, **size, "length": self._number}
        things = [category for category in self._categories if category["isthing"]]
        for ending, lists, classes in (
            ("_frames.json", self._panoptic, self._categories),
            ("_vid.json", self._vid, things),
        ):
            fields = {"videos": [video], "images": None, "annotations": None, "categories": classes}
            lists.write(self._paths[ending], fields)
        with atomic_path(self._paths["_mots.txt"]) as path, path.open("w", encoding="ascii", newline="\n") as file:
            self._mots.seek(0)
            copyfileobj(self._mots, file)

    def _save(self) -> None:
        write_json(self._paths["_track.json"], {"run": self._run, "state": self._tracker.state()})

    def _load(self) -> Tracker:
        path = self._paths["_track.json"]
        anew = "leave out --resume, to start anew"
        with open_file(path) as stream:
            content = stream.read(_LARGEST)
        try:
            saved = json.loads(content)
            before, state = saved["run"], saved["state"]
            differing = [key for key in sorted({*before, *self._run}) if before.get(key) != self._run.get(key)]
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise InputError("is not the state of a tracked video", where=path, hint=anew) from error
        if differing:
            key = differing[0]
            problem = f"was begun with {key} {before.get(key)}, not {self._run.get(key)}"
            raise InputError(problem, where=path, hint=f"give the same, or {anew}")
        return Tracker.from_state(state, str(path))


def _fingerprint(source: str) -> str:
    """Return what tells a video from another: its bytes and a digest of its beginning, or of a folder's names."""
    path = Path(source)
    if path.is_dir():
        names = sorted(f"{image.name} {image.stat().st_size}" for image in find_images([source]).paths)
        return f"{len(names)} files, {hashlib.sha256(chr(10).join(names).encode('utf-8', 'replace')).hexdigest()[:16]}"
    if not path.is_file():
        return source
    with path.open("rb") as stream:
        return f"{path.stat().st_size} bytes, {hashlib.sha256(stream.read(_HEAD)).hexdigest()[:16]}"

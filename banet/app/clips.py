"""Bytes of a short video in, the same with its objects tracked and drawn out; nothing of it touches the disk."""

from __future__ import annotations

import base64
import io
import itertools
import json
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from banet.app.answers import Limits
from banet.engine.prediction.video import VideoReader, VideoWriter
from banet.errors import InputError
from banet.inference.predictor import Predictor
from banet.panoptic import Tracker
from banet.panoptic.drawing.colors import LastingColors

__all__ = ["Clip", "TrackedClip", "decode_clip"]

_AT_ONCE = 4  # frames between which other visitors have their turn


@dataclass(frozen=True)
class Clip:
    """The first frames of a video, and their times.

    Attributes:
        frames: Images (H, W, 3), reduced to `Limits.clip_side`.
        ticks: Of each.
        rate: See `VideoReader`, as `time_base` and `aspect`.
        notes: What was left out.
    """

    frames: list[NDArray[np.uint8]]
    ticks: list[int]
    rate: Fraction
    time_base: Fraction
    aspect: Fraction | None
    notes: list[str]


def decode_clip(data: bytes, name: str, limits: Limits) -> Clip:
    """Decode the first frames of a video file.

    Args:
        data: What the file holds.
        name: What to call it in errors.
        limits: Of these `pixels`, `clip_frames` and `clip_side`.

    Raises:
        InputError: It is not a video, has no frame, or too many pixels per frame.
        MissingExtraError: PyAV is not installed.
    """
    frames, ticks = [], []
    with VideoReader(name, data) as reader:
        width, height = reader.stream.width, reader.stream.height
        if width * height > limits.pixels:
            limit = f"{limits.pixels / 1e6:g} million"
            raise InputError(f"has {width * height / 1e6:.1f} million pixels, more than {limit}", where=name)
        for image, time in itertools.islice(reader, limits.clip_frames):
            small = Image.fromarray(image)
            small.thumbnail((limits.clip_side, limits.clip_side))
            frames.append(np.asarray(small))
            ticks.append(time)
        notes = [f"{reader.damaged} damaged packets were left out"] if reader.damaged else []
        if reader.total is not None and reader.total > len(frames) == limits.clip_frames:
            notes.append(f"the first {len(frames)} of {reader.total} frames")
        if not frames:
            raise InputError("no frame of it can be read", where=name, hint="play it to see whether it is whole")
        return Clip(frames, ticks, reader.rate, reader.time_base, reader.aspect, notes)


class TrackedClip:
    """Tracks the objects of a clip, some frames at a time.

    Args:
        model: Any network with `predict`.
        clip: The clip.
    """

    def __init__(self, model: Predictor, clip: Clip) -> None:
        self.model, self.clip = model, clip
        self._tracker, self._colors, self._done = Tracker(), LastingColors(), 0
        self._things: set[int] = set()
        self._file = io.BytesIO()
        self._writer = VideoWriter(self._file, clip)

    def step(self) -> bool:
        """Segment, track and draw the next frames; return whether there are more."""
        frames = self.clip.frames[self._done : self._done + _AT_ONCE]
        for image, ticks in zip(frames, self.clip.ticks[self._done :], strict=False):
            tracked = self._tracker.update(self.model.predict(image))
            self._things |= {segment.id for segment in tracked.segments if segment.isthing}
            colors = self._colors.choose(tracked.segments, tracked.categories)
            self._writer.write(np.asarray(tracked.draw(image, colors=colors)), ticks)
        self._done += len(frames)
        return self._done < len(self.clip.frames)

    def finish(self) -> bytes:
        """Return the answer to the page.

        Returns:
            JSON with `video`, an MP4 in base 64; `size` (width, height); `frames`, how many; `things`, how many ids
            there were; and `notes`.
        """
        self._writer.close()
        height, width = self.clip.frames[0].shape[:2]
        content = {
            "video": base64.b64encode(self._file.getvalue()).decode("ascii"),
            "size": (width, height),
            "frames": self._done,
            "things": len(self._things),
            "notes": self.clip.notes,
        }
        return json.dumps(content, separators=(",", ":")).encode()

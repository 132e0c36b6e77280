"""Short videos from memory: decoded as a whole, within limits. No torch, so that a worker process can do it."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from banet.engine.prediction.video import VideoReader
from banet.errors import InputError

__all__ = ["Clip", "decode_clip"]


@dataclass(frozen=True)
class Clip:
    """The first frames of a video, and their times.

    Attributes:
        frames: Images (H, W, 3), reduced to the longest side that was asked for.
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


def decode_clip(data: bytes, name: str, *, max_pixels: int, max_frames: int, max_side: int) -> Clip:
    """Decode the first frames of a video file.

    Args:
        data: What the file holds.
        name: What to call it in errors.
        max_pixels: Most pixels of a frame.
        max_frames: Frames to decode.
        max_side: Longest side that frames are reduced to.

    Raises:
        InputError: It is not a video, has no frame, or too many pixels per frame.
        MissingExtraError: PyAV is not installed.
    """
    frames, ticks = [], []
    with VideoReader(name, data) as reader:
        width, height = reader.stream.width, reader.stream.height
        if width * height > max_pixels:
            limit = f"{max_pixels / 1e6:g} million"
            raise InputError(f"has {width * height / 1e6:.1f} million pixels, more than {limit}", where=name)
        for image, time in itertools.islice(reader, max_frames):
            small = Image.fromarray(image)
            small.thumbnail((max_side, max_side))
            frames.append(np.asarray(small))
            ticks.append(time)
        notes = [f"{reader.damaged} damaged packets were left out"] if reader.damaged else []
        if reader.total is not None and reader.total > len(frames) == max_frames:
            notes.append(f"the first {len(frames)} of {reader.total} frames")
        if not frames:
            raise InputError("no frame of it can be read", where=name, hint="play it to see whether it is whole")
        return Clip(frames, ticks, reader.rate, reader.time_base, reader.aspect, notes)

"""Short videos of a bright square on dark ground, and what finds it without a network."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from banet.panoptic import Categories, PanopticSegmentation

av = pytest.importorskip("av")

CATEGORIES = Categories.of(
    [
        {"id": 7, "name": "cup", "isthing": 1, "color": [220, 30, 30]},
        {"id": 90, "name": "sky", "isthing": 0, "color": [60, 120, 230]},
    ]
)
RATE = Fraction(30000, 1001)
TICK = Fraction(1, 30000)


def picture(k: int, height: int, width: int) -> np.ndarray:
    """A bright square on dark ground that goes to the right."""
    array = np.full((height, width, 3), 30, dtype=np.uint8)
    array[4:20, 3 * k : 3 * k + 16] = (250, 240, 230)
    return array


def write(
    path: Path, size: tuple[int, int] = (48, 64), times: list[int] | None = None, codec: str = "libx264", turn: int = 0
) -> Path:
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=RATE, options={"crf": "10"} if codec == "libx264" else {})
        stream.height, stream.width = size
        stream.pix_fmt = {"libx264": "yuv444p", "png": "rgb24"}[codec]
        stream.time_base = stream.codec_context.time_base = TICK if codec == "libx264" else 1 / RATE
        if turn:
            if not hasattr(stream, "set_display_rotation"):
                pytest.skip("this PyAV cannot write it")
            stream.set_display_rotation(turn)
        for k, time in enumerate(times if times is not None else [1001 * k for k in range(6)]):
            frame = av.VideoFrame.from_ndarray(picture(k, *size), format="rgb24")
            frame.pts, frame.time_base = (time, TICK) if codec == "libx264" else (k, 1 / RATE)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def read(path: Path):
    """Stream facts, and each frame as RGB with its time in seconds."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        frames = [(frame.to_ndarray(format="rgb24"), frame.pts * frame.time_base) for frame in container.decode(stream)]
        return stream.average_rate, stream.codec_context.name, frames


def threshold(frame: np.ndarray) -> PanopticSegmentation:
    """Bright is a cup, the rest is sky."""
    bright = frame[..., 1] > 128
    found = [{"id": 1, "category_id": 7, "score": 0.9}] * bool(bright.any()) + [{"id": 2, "category_id": 90}]
    return PanopticSegmentation.from_ids(np.where(bright, 1, 2), found, CATEGORIES, frame)

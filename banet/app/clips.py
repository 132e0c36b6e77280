"""The frames of a short video in, the same with its objects tracked and drawn out; nothing of it touches the disk."""

from __future__ import annotations

import base64
import io
import json

import numpy as np

from banet.engine.prediction.clips import Clip
from banet.engine.prediction.video import VideoWriter
from banet.inference.predictor import Predictor
from banet.panoptic import Tracker
from banet.panoptic.drawing.colors import LastingColors

__all__ = ["TrackedClip"]

_AT_ONCE = 4  # frames between which other visitors have their turn


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

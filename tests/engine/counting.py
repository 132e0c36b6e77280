"""`banet` with a model that needs no torch, and finds what depends on the image alone: `python counting.py predict`."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from banet.inference.postprocess import Instances, UnfusedPrediction
from banet.inference.predictor import Predictor
from banet.modeling.config import InferenceConfig
from banet.panoptic import Categories, MaskCrops

if TYPE_CHECKING:
    import pytest

SECONDS = float(os.environ.get("COUNTING_SECONDS", "0"))
"""That an image takes; of commands without a model, until it is told of."""


class Counting(Predictor):
    """Finds the bright half of an image in two things that overlap, on a floor."""

    categories = Categories.of(
        [
            {"id": 5, "name": "cup", "isthing": 1},
            {"id": 9, "name": "book", "isthing": 1},
            {"id": 2, "name": "floor", "isthing": 0},
        ]
    )
    inference = InferenceConfig(stuff_area=0)

    def predict_unfused(self, images: Sequence[NDArray[np.uint8]]) -> list[UnfusedPrediction]:
        until = time.process_time() + SECONDS * len(images)
        while time.process_time() < until:
            pass
        return [self._one(image) for image in images]

    def _one(self, image: NDArray[np.uint8]) -> UnfusedPrediction:
        height, width = image.shape[:2]
        row = 1 + int(image.sum()) % (height - 1)
        masks = np.zeros((2, height, width), dtype=bool)
        masks[0, :row] = True
        masks[1, row // 2 :, : width // 2] = True
        found = Instances(
            MaskCrops.from_masks(masks), np.array([0.9, 0.7]), np.array([0, 1]), np.zeros((2, 4), dtype=np.float32)
        )
        return UnfusedPrediction(image, found, np.full((height, width), 2))


class Killed(BaseException):
    """In place of a kill: nothing is tidied up behind it."""


def stop_after(images: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a process stop once so many images were computed."""
    computed = Counting.predict_unfused
    left = [images]

    def compute(self: Counting, arrays: Sequence[NDArray[np.uint8]]) -> list[UnfusedPrediction]:
        left[0] -= 1
        if left[0] < 0:
            raise Killed
        return computed(self, arrays)

    monkeypatch.setattr(Counting, "predict_unfused", compute)


def opened(*_: Any, **__: Any) -> tuple[Predictor, str]:
    return Counting(), "cpu"


def share(root: str) -> None:
    """Let shared:// be a folder, as processes see an object store."""
    import fsspec
    from fsspec.implementations.dirfs import DirFileSystem

    class Shared(DirFileSystem):
        protocol = "shared"

        def __init__(self, **_: Any) -> None:
            super().__init__(root, fs=fsspec.filesystem("file"))

    fsspec.register_implementation("shared", Shared, clobber=True)


def slow_down() -> None:
    """Let each image take its time in commands that run no model."""
    from banet.engine.sharing.part import RunPart

    add = RunPart.add

    def late(self: RunPart, *told: Any) -> None:
        time.sleep(SECONDS)
        add(self, *told)

    RunPart.add = late  # type: ignore[method-assign]


def main() -> int:
    import banet.engine.prediction.predict as predict
    from banet.cli import main
    from banet.engine.sharing.shared_run import SharedRun

    if sys.argv[1] != "predict":
        slow_down()

    if "COUNTING_SHARED" in os.environ:
        share(os.environ["COUNTING_SHARED"])
    predict.open_model = opened
    SharedRun.patience = float(os.environ.get("COUNTING_PATIENCE", "60"))
    return main(sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())

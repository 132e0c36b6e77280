"""What the stages of `gpu.py` have in common: an item, what it needs to know, and how it says that it goes on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
SAVING = 25.0
"""Seconds before the end at which a training is told to save."""

Figures = dict[str, Any]


class Unfinished(Exception):
    """An item has used its time and goes on in the next call; holds how far it is."""

    def __init__(self, progress: Figures) -> None:
        super().__init__(str(progress))
        self.progress = progress


@dataclass(frozen=True)
class Setup:
    """What an item needs to know.

    Attributes:
        device: where to compute.
        rehearse: as small as possible.
        out: folder of the results.
        work: folder of checkpoints.
        nuclei: data set of nuclei, if it is at hand.
        until: time of `time.time` at which the item must have ended.
        workers: processes that draw data, per training.
    """

    device: str
    rehearse: bool
    out: Path
    work: Path
    nuclei: Path | None
    until: float
    workers: int


@dataclass(frozen=True)
class Item:
    """One measurement.

    Attributes:
        name: its key in the JSON.
        run: what measures it.
        seconds: most that it may take.
    """

    name: str
    run: Callable[[Setup], Figures]
    seconds: float

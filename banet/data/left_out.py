"""Objects without a pixel: left out, counted by kind, and reported."""

from __future__ import annotations

import contextlib
import warnings
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from banet.errors import InputError
from banet.types import StrPath

__all__ = ["COVERED", "LeftOut", "reported"]

COVERED = "covered by others"
"""Kind of the objects that have pixels, all of which belong to objects in front. For the others see `why_empty`."""

_NAMED = 5


@dataclass
class LeftOut:
    """Objects that annotations hold and that have no pixel.

    The one rule for every format: such an object is left out of what is written, counted and reported by kind.

    Args:
        strict: refuse the first one instead.

    Attributes:
        objects: number of all objects, those left out included.
        counts: number of those left out, by kind.
        named: places of the first few of each kind.
        overlaps: number of pairs of objects that shared pixels, of which a rule gave each to one.
        overlapping: the first few of them.
    """

    strict: bool = False
    objects: int = 0
    counts: Counter[str] = field(default_factory=Counter)
    named: dict[str, list[str]] = field(default_factory=dict)
    overlaps: int = 0
    overlapping: list[str] = field(default_factory=list)

    def add(self, kind: str, place: str, image: str, source: StrPath) -> None:
        """Leave an object out.

        Args:
            kind: why it has no pixel.
            place: its place in its file.
            image: name of its image.
            source: its file.

        Raises:
            InputError: `strict` is set.
        """
        if self.strict:
            raise InputError(
                f"the object has no pixel ({kind})",
                where=f"{source}: {place}, image {image}",
                hint="correct it, or leave out --strict",
            )
        self.counts[kind] += 1
        if self.counts[kind] <= _NAMED:
            self.named.setdefault(kind, []).append(f"{place} of {image}")

    def add_overlap(self, front: str, behind: str, pixels: int, image: str) -> None:
        """Count two objects that share pixels.

        Args:
            front: place of the one that got more of them.
            behind: place of the other.
            pixels: how many they share.
            image: name of their image.
        """
        self.overlaps += 1
        if self.overlaps <= _NAMED:
            self.overlapping.append(f"{front} over {behind} of {image} ({pixels:,} px)")

    @property
    def total(self) -> int:
        """Number of objects that were left out."""
        return self.counts.total()

    def to_json(self) -> dict[str, Any]:
        """Return the report as plain dicts and lists."""
        kinds = {kind: {"count": count, "first": self.named[kind]} for kind, count in self.counts.most_common()}
        overlaps = {"count": self.overlaps, "first": self.overlapping}
        return {"objects": self.objects, "left_out": self.total, "kinds": kinds, "overlaps": overlaps}

    def __str__(self) -> str:
        kept = self.objects - self.total
        read = f"{self.objects:,} object{'' if self.objects == 1 else 's'} read, {kept:,} with a pixel"
        lines = [read + ("; left out:" if self.counts else "")]
        for kind, count in self.counts.most_common():
            more = ", ..." if count > _NAMED else ""
            lines.append(f"  {count:,} {kind}: {', '.join(self.named[kind])}{more}")
        if self.overlaps:
            more = ", ..." if self.overlaps > _NAMED else ""
            pairs = "pair of objects shares" if self.overlaps == 1 else "pairs of objects share"
            lines.append(f"{self.overlaps:,} {pairs} pixels, which went to one: {', '.join(self.overlapping)}{more}")
        return "\n".join(lines)


@contextlib.contextmanager
def reported(left_out: LeftOut | None) -> Iterator[LeftOut]:
    """Yield the report that a caller wants to be filled in or, where there is none, one that ends as a warning."""
    report = LeftOut() if left_out is None else left_out
    yield report
    if left_out is None and report.counts:
        warnings.warn(str(report), stacklevel=4)

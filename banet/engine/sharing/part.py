"""A part of a run, in the files that one process at a time writes: what is finished, and the record of its outputs."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterator
from functools import cached_property
from typing import Any

from banet.files.outputs import PART_RECORD, Outputs, Record

__all__ = ["PartLine", "RunPart"]

PartLine = tuple[int, dict[str, Any]]
"""Place of a finished item in the list, and what the merge has to know of it."""


class RunPart:
    """One block of a run. Its files depend on the list alone, so that any process may go on with them.

    Args:
        outputs: The outputs.
        folder: Folder of the run, in that of the outputs.
        name: Of the part.
    """

    def __init__(self, outputs: Outputs, folder: str, name: str) -> None:
        self.name = name
        self._place, self._file = outputs.place, f"{folder}/{name}.jsonl"
        self._outputs, self._record = outputs, f"{folder}/{name}{PART_RECORD}"

    @cached_property
    def record(self) -> Record:
        """Return the record of its outputs."""
        return self._outputs.part_record(self._record)

    def exists(self) -> bool:
        """Return whether anything was told of it."""
        return self._place.exists(self._file)

    def lines(self) -> list[PartLine]:
        """Return the lines that are whole, each item's last, in the list's order."""
        try:
            with self._place.open(self._file) as file:
                data = file.read()
        except FileNotFoundError:
            return []
        found: dict[int, dict[str, Any]] = {}
        for line in data.split(b"\n"):
            try:
                place, content = json.loads(line)
                found[int(place)] = dict(content)
            except (ValueError, TypeError):  # cut off by a kill: that item is done again
                continue
        return sorted(found.items(), key=lambda each: each[0])

    def keep(self, places: Collection[int]) -> None:
        """Forget all items but some."""
        self._place.write(self._file, [_line(*each) for each in self.lines() if each[0] in places])

    def add(self, place: int, content: dict[str, Any]) -> None:
        """Tell of an item that is finished: its outputs are there, or it failed for good."""
        self._place.append(self._file, _line(place, content))

    def whole(
        self, kind: str, outputs_of: Callable[[dict[str, Any]], Collection[str]], *, failed: bool = False
    ) -> Iterator[int]:
        """Yield the items that are finished, and have all their outputs with the content recorded.

        Args:
            kind: Of the outputs.
            outputs_of: Names of an item's outputs, from its line.
            failed: Whether those that failed count too; otherwise they are tried again.
        """
        found: dict[str, bool] = {}  # an archive is the output of many
        for place, content in self.lines():
            if "failure" not in content or failed:
                for name in outputs_of(content):
                    found[name] = found.get(name) or self.record.find(name, kind) is not None
                if all(found[name] for name in outputs_of(content)):
                    yield place


def _line(place: int, content: dict[str, Any]) -> bytes:
    # A line begins with the break, too, so that one that was cut off costs that one only.
    return f"\n{json.dumps([place, content])}\n".encode()

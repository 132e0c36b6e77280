"""A part of a run, in the files that one process at a time writes: what is finished, and the record of its outputs."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any

from banet.files.outputs import PART_RECORD, Record

__all__ = ["PartLine", "RunPart"]

PartLine = tuple[int, dict[str, Any]]
"""Place of a finished item in the list, and what the merge has to know of it."""


class RunPart:
    """One block of a run. Its files depend on the list alone, so that any process may go on with them.

    Args:
        folder: Folder of the run.
        out: Folder of the outputs.
        name: Of the part.
    """

    def __init__(self, folder: Path, out: Path, name: str) -> None:
        self.path = folder / f"{name}.jsonl"
        self.record = Record(out, folder / f"{name}{PART_RECORD}")

    def lines(self) -> list[PartLine]:
        """Return the lines that are whole, each item's last, in the list's order."""
        try:
            data = self.path.read_bytes()
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
        kept = [_line(*each) for each in self.lines() if each[0] in places]
        temporary = self.path.with_suffix(f".{os.getpid()}.tmp")
        temporary.write_bytes(b"".join(kept))
        os.replace(temporary, self.path)

    def add(self, place: int, content: dict[str, Any]) -> None:
        """Tell of an item that is finished: its outputs are there, or it failed for good."""
        rest = _line(place, content)
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | getattr(os, "O_BINARY", 0)
        file = os.open(self.path, flags, 0o666)  # closed at once: a run may have thousands of parts
        try:
            while rest:  # a full disk takes a part first
                rest = rest[os.write(file, rest) :]
        except OSError as error:
            error.filename = str(self.path)  # a full disk does not say of which file
            raise
        finally:
            os.close(file)

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

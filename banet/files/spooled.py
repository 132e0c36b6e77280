"""A set of texts that is kept in order, and on disk where it is large."""

from __future__ import annotations

from collections.abc import Iterator

from banet.files.on_disk import DiskTable

__all__ = ["SpooledSet"]


class SpooledSet:
    """A set of texts; iterating gives them in ascending order, nothing may be added meanwhile.

    Args:
        in_memory: Most texts that are kept in memory; from then on all are in a `DiskTable`.
    """

    def __init__(self, in_memory: int = 1 << 14) -> None:
        self._limit = in_memory
        self._texts: set[str] = set()
        self._table: DiskTable | None = None

    def add(self, text: str) -> bool:
        """Add a text, and return whether it is new."""
        if text in self:
            return False
        if self._table is not None:
            self._table.add(text)
            return True
        self._texts.add(text)
        if len(self._texts) > self._limit:
            self._table = DiskTable()
            for each in sorted(self._texts):
                self._table.add(each)
            self._texts.clear()
        return True

    def __contains__(self, text: str) -> bool:
        return text in self._texts if self._table is None else text in self._table

    def __iter__(self) -> Iterator[str]:
        yield from sorted(self._texts) if self._table is None else self._table.in_order()

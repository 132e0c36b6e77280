"""What a run is to do, item by item, in a file: no list of it is ever in memory."""

from __future__ import annotations

import hashlib
import itertools
import json
import tempfile
import threading
from collections.abc import Iterable, Iterator, Mapping
from typing import IO, Any

__all__ = ["Numbered", "WorkList"]

Numbered = tuple[int, dict[str, Any]]
"""An item and its place in the list."""

_LEAST_BLOCKS = 4096  # so that a thousand processes have several each
_LARGEST_BLOCK = 1000  # items: what one process holds of a block, and does again where an archive was not finished
_REWRITTEN_BLOCK = 128


class WorkList:
    """Items in order, each a JSON object, on a line of a temporary file.

    A context manager, which deletes the file.

    Args:
        items: The items.
    """

    def __init__(self, items: Iterable[Mapping[str, Any]] = ()) -> None:
        self._file: IO[bytes] = tempfile.TemporaryFile(prefix="banet-list-")  # noqa: SIM115  # closed by __exit__
        self._lock = threading.Lock()  # of the place in the file
        self._count = 0
        digest = hashlib.sha256()
        try:
            for item in items:
                line = json.dumps(item).encode() + b"\n"
                self._file.write(line)
                digest.update(line)
                self._count += 1
        except BaseException:
            self._file.close()
            raise
        self.digest = digest.hexdigest()

    def __len__(self) -> int:
        return self._count

    def lines(self) -> Iterator[bytes]:
        """Yield the lines; several may read at the same time."""
        self._file.flush()
        at = 0
        rest = b""
        while True:
            with self._lock:
                self._file.seek(at)
                chunk = self._file.read(1 << 20)
            if not chunk:
                return
            at += len(chunk)
            *whole, rest = (rest + chunk).split(b"\n")
            yield from (line + b"\n" for line in whole)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return map(json.loads, self.lines())

    def block_size(self, group: int = 1, *, rewritten: bool = False) -> int:
        """Return how many items follow each other in one process: depends on the list alone, not on who works on it.

        Args:
            group: What is computed together must not be torn apart: the size is a multiple of this.
            rewritten: Whether what is told of a block is written again as a whole with each item.
        """
        size = min(max(1, len(self) // _LEAST_BLOCKS), _REWRITTEN_BLOCK if rewritten else _LARGEST_BLOCK)
        return -(-size // group) * group

    def blocks(
        self, size: int, rank: int = 0, world: int = 1
    ) -> Iterator[tuple[int, list[tuple[int, dict[str, Any]]]]]:
        """Yield the blocks of one process: every `world`-th, from the `rank`-th on.

        Yields:
            Number of the block, and its items, each with its place in the list.
        """
        lines = enumerate(self.lines())
        for number in range(-(-len(self) // size)):
            block = itertools.islice(lines, size)
            if number % world == rank:
                yield number, [(place, json.loads(line)) for place, line in block]
            else:
                for _ in block:
                    pass

    def close(self) -> None:
        """Delete the file."""
        self._file.close()

    def __enter__(self) -> WorkList:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

"""Records by key in a temporary file, so that what is in memory does not grow with their number."""

from __future__ import annotations

import errno
import json
import os
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

__all__ = ["DiskTable"]

_CACHE = 256  # kB per table


class DiskTable:
    """Records by key, in the order in which they were added; a key may have several.

    The file has no name and is deleted with the table. Threads take turns at it. All raise an `OSError` that names the
    temporary folder where that is full or fails.
    """

    def __init__(self) -> None:
        self._rows = sqlite3.connect("", isolation_level=None, check_same_thread=False)
        self._count = 0
        for command in (
            f"PRAGMA cache_size = -{_CACHE}",
            "PRAGMA journal_mode = OFF",
            "CREATE TABLE rows (place INTEGER PRIMARY KEY, key NOT NULL, record)",
            "BEGIN",  # one transaction, never ended: nothing of it is to last
        ):
            self._rows.execute(command)
        self._indexed = False

    def add(self, key: int | str, record: Any = None) -> None:
        """Add a record.

        Args:
            key: a text or an integer of 64 bits, which never equal each other.
            record: what JSON holds.
        """
        with _disk_errors():
            self._rows.execute("INSERT INTO rows (key, record) VALUES (?, ?)", (_coded(key), json.dumps(record)))
        self._count += 1

    def of(self, key: int | str) -> Iterator[Any]:
        """Yield the records of a key."""
        self._index()
        for (record,) in self._selected("SELECT record FROM rows WHERE key = ? ORDER BY place", _coded(key)):
            yield json.loads(record)

    def __iter__(self) -> Iterator[int | str]:
        """Yield all keys, each once, in the order in which they came first."""
        self._index()
        for (key,) in self._selected("SELECT key FROM rows GROUP BY key ORDER BY min(place)"):
            yield key.decode("utf-8", "surrogatepass") if isinstance(key, bytes) else key

    def in_order(self) -> Iterator[str]:
        """Yield all keys that are texts, each once, in ascending order."""
        self._index()
        for (key,) in self._selected("SELECT DISTINCT key FROM rows WHERE typeof(key) = 'blob' ORDER BY key"):
            yield key.decode("utf-8", "surrogatepass")

    def __contains__(self, key: int | str) -> bool:
        self._index()
        return next(self._selected("SELECT 1 FROM rows WHERE key = ? LIMIT 1", _coded(key)), None) is not None

    def keys(self) -> int:
        """Return how many different keys there are."""
        self._index()
        return int(next(self._selected("SELECT COUNT(DISTINCT key) FROM rows"))[0])

    def __len__(self) -> int:
        return self._count

    def __del__(self) -> None:
        self._rows.close()

    def _index(self) -> None:
        """Make the index when it is needed first: of many records at once this is faster than one by one."""
        if not self._indexed:
            with _disk_errors():
                self._rows.execute("CREATE INDEX keys ON rows (key)")
            self._indexed = True

    def _selected(self, query: str, *values: int | bytes) -> Iterator[tuple[Any, ...]]:
        with _disk_errors():
            rows = self._rows.execute(query, values)
        while True:
            with _disk_errors():
                row = rows.fetchone()
            if row is None:
                return
            yield row


@contextmanager
def _disk_errors() -> Iterator[None]:
    """Let what the database says of a full or broken disk be an OSError that names the temporary folder."""
    try:
        yield
    except sqlite3.OperationalError as error:
        number = errno.ENOSPC if "full" in str(error) else errno.EIO
        raise OSError(number, f"{os.strerror(number)} ({error})", tempfile.gettempdir()) from error


def _coded(key: int | str) -> int | bytes:
    """Return the key as the database holds it, where half a surrogate, which JSON may hold, is not text."""
    return key.encode("utf-8", "surrogatepass") if isinstance(key, str) else key

"""The record that a command keeps beside its outputs: a line of JSON per file, with name, kind, size and digest.

A line is appended before the file gets its name, so that the run after one that was killed knows all that it left. Each
line stands alone: a damaged one grants nothing, and neither does one whose file is another.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import stat
import threading
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, astuple, dataclass
from pathlib import Path
from typing import BinaryIO, cast

from banet.files.atomic import written_beside
from banet.files.on_disk import DiskTable
from banet.types import StrPath

__all__ = ["HEADER_LINE", "PART_RECORD", "RECORD", "RUN", "Entries", "Entry", "Record", "digest_of", "record_line"]

RECORD = ".banet-outputs.jsonl"
"""Name of the record in a folder of outputs."""

RUN = ".banet-run"
"""Name of the folder beside it in which a run keeps what is finished, while it is not finished as a whole."""

PART_RECORD = ".outputs.jsonl"
"""How the names of records of a part of a run end; they lie in `RUN`, and join the folder's own when the run ends."""

HEADER_LINE = b'{"banet-outputs": 1}\n'
"""The first line of a record."""

_LARGEST = 1 << 33  # bytes of a record, tens of millions of files; of a larger one nothing is believed
_LONGEST = 1 << 14  # bytes of one line
_IN_MEMORY = 1 << 15  # entries of a record; from then on they are on disk
_KEPT = 2  # entries per file that a rewritten record keeps: the file, and what was about to replace it
_CHUNK = 1 << 20


@dataclass(frozen=True, slots=True)
class Entry:
    """What was written under a name.

    Attributes:
        kind: The kind of output, such as `banet predict`.
        size: Bytes.
        sha256: Digest of these bytes, hexadecimal.
        source: What it was made from, relative to the folder; None where that does not matter.
        grows: More was appended later: only the first `size` bytes have that digest.
        run: Which run this file is the last of; None of all others.
    """

    kind: str
    size: int
    sha256: str
    source: str | None = None
    grows: bool = False
    run: str | None = None


class Entries:
    """What a record says of each name: in memory while it is little, and on disk from then on."""

    def __init__(self) -> None:
        self._some: dict[str, list[Entry]] = {}
        self._count = 0
        self._table: DiskTable | None = None
        self._runs: dict[str, list[str]] = {}

    def add(self, name: str, entry: Entry) -> None:
        """Add an entry of a name, where it is not the last one already."""
        if entry.run is not None:
            self._runs.setdefault(entry.run, []).append(name)
        if self._table is not None:
            self._table.add(name, astuple(entry))
            return
        entries = self._some.setdefault(name, [])
        if entries[-1:] == [entry]:
            return
        entries.append(entry)
        self._count += 1
        if self._count > _IN_MEMORY:
            self._table = DiskTable()
            for each, some in self._some.items():
                for one in some:
                    self._table.add(each, astuple(one))
            self._some.clear()

    def of(self, name: str) -> list[Entry]:
        """Return the entries of a name, the newest one last."""
        if self._table is not None:
            return [Entry(*fields) for fields in self._table.of(name)]
        return list(self._some.get(name, ()))

    def of_run(self, run: str) -> list[str]:
        """Return the names of the files that a run wrote last."""
        return self._runs.get(run, [])

    def __iter__(self) -> Iterator[str]:
        """Yield the names."""
        return cast(Iterator[str], iter(self._some if self._table is None else self._table))

    def __contains__(self, name: str) -> bool:
        return name in (self._some if self._table is None else self._table)

    def lines(self) -> Iterator[bytes]:
        """Yield the lines of a record that says the same, without entries that were replaced long ago."""
        for name in self:
            for entry in self.of(name)[-_KEPT:]:
                yield record_line(name, entry)

    def live(self) -> int:
        """Return how many entries `lines` gives, or where they are on disk, of how many names."""
        if self._table is not None:
            return self._table.keys()
        return sum(min(len(some), _KEPT) for some in self._some.values())


class Record:
    """The record of one folder: which files this library wrote there.

    Whatever is not a whole line of a regular file is not believed. Several processes may append at the same time.

    Args:
        folder: The folder; it may be missing.
        path: Another file than the folder's own record: that of a part of a run.
    """

    def __init__(self, folder: StrPath, path: Path | None = None) -> None:
        self.folder = Path(folder)
        self.path = path or self.folder / RECORD
        self.entries = Entries()
        self._sound = False  # may be appended to as it is
        self._read_of: tuple[int, int] | None = None  # the file that was read, and to where
        self._end = 0
        self._file: int | None = None
        self._lock = threading.RLock()
        self.read()

    def read(self) -> None:
        """Take in what the record holds, or what was added since the last time; a missing or foreign one is empty."""
        with self._lock:
            try:
                stream = _open_regular(self.path)
            except OSError:
                self._forget()
                return
            with stream:
                status = os.fstat(stream.fileno())
                if self._read_of != (status.st_dev, status.st_ino) or status.st_size < self._end:
                    self._forget()
                    self._read_of = status.st_dev, status.st_ino
                    self._sound = stream.readline(_LONGEST) == HEADER_LINE and status.st_nlink == 1
                    self._end = stream.tell()
                if status.st_size - self._end > _LARGEST:
                    self._forget()
                    return
                stream.seek(self._end)
                self._take(stream)

    def _forget(self) -> None:
        self.entries, self._sound, self._read_of, self._end = Entries(), False, None, 0

    def _take_all(self, stream: BinaryIO) -> None:
        """Take in a record from its beginning."""
        if stream.seek(0, os.SEEK_END) <= _LARGEST:
            stream.seek(0)
            self._sound = stream.readline(_LONGEST) == HEADER_LINE
            self._take(stream)

    def _take(self, stream: BinaryIO) -> None:
        count = 0
        while line := stream.readline(_LONGEST):
            self._end = stream.tell()
            count += 1
            if not line.strip():
                continue
            named = _entry(_parse(line))
            if named is None:
                self._sound = False
            else:
                self.entries.add(*named)
        # Runs that write other content each time leave lines behind: from a point on, the record is written anew.
        self._sound = self._sound and count <= 6 * self.entries.live() + 1000

    def find(self, name: str, kind: str) -> Entry | None:
        """Return the entry that a file has the content of, or None: it is missing, another's, or was changed.

        Args:
            name: The file, relative to the folder, with `/`.
            kind: The kind of output that it must have been written as.
        """
        entries = [entry for entry in self.entries.of(name) if entry.kind == kind]
        if not entries:
            return None
        with contextlib.suppress(OSError), self._output(name) as stream:
            size = stream.seek(0, os.SEEK_END)
            for entry in reversed(entries):
                if entry.size == size or (entry.grows and entry.size < size):
                    stream.seek(0)
                    if digest_of(stream, entry.size) == entry.sha256:
                        return entry
        return None

    def adopt(self, parts: Iterable[Record]) -> None:
        """Add what records of parts hold, without keeping it in memory.

        Raises:
            OSError: The record cannot be written.
        """
        with self._lock:
            for part in parts:
                self._write(b"".join(part.entries.lines()))

    def append(self, entries: Mapping[str, Entry]) -> None:
        """Add what is about to get its name.

        Raises:
            OSError: The record cannot be written.
        """
        with self._lock:
            new = {name: entry for name, entry in entries.items() if self.entries.of(name)[-1:] != [entry]}
            if new:
                self._write(b"".join(record_line(name, entry) for name, entry in new.items()))
            for name, entry in new.items():
                self.entries.add(name, entry)

    def _output(self, name: str) -> BinaryIO:
        """Open one of the files.

        Raises:
            OSError: There is no regular file of that name.
        """
        return _open_regular(self.folder / name)

    def _write(self, lines: bytes) -> None:
        file = self._open()
        while lines:  # a full disk takes a part first
            lines = lines[os.write(file, lines) :]

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            if self._file is not None:
                os.close(self._file)
                self._file = None

    def _open(self) -> int:
        """Return a descriptor that appends to the file that has the record's name now."""
        if self._file is not None:
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(self._file), os.lstat(self.path)):
                    return self._file
            self.close()
        self._catch_up()  # another process may have made the record or written it anew, or it was deleted
        if not self._sound:
            self._rewrite()
        flags = os.O_WRONLY | os.O_APPEND | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
        self._file = os.open(self.path, flags)
        return self._file

    def _catch_up(self) -> None:
        """Take in what others wrote since it was read; of files that it does not name, what was known stays."""
        known = self.entries
        self.read()
        for name in known if known is not self.entries else ():
            if name not in self.entries:
                self._sound = False
                for entry in known.of(name):
                    self.entries.add(name, entry)

    def _rewrite(self) -> None:
        """Write the record anew, under a name of its own first: never through a link that has its name."""
        with written_beside(self.path) as temporary, temporary.open("wb") as file:
            file.write(HEADER_LINE)
            file.writelines(self.entries.lines())
        self._sound = True


def _open_regular(path: Path) -> BinaryIO:
    """Open a regular file that is not a link, without waiting for what is not one, such as a pipe."""
    flags = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    if path.is_symlink():  # where there is no such flag
        raise OSError(f"{path} is a link")
    stream = os.fdopen(os.open(path, flags), "rb")
    if not stat.S_ISREG(os.fstat(stream.fileno()).st_mode):
        stream.close()
        raise OSError(f"{path} is not a regular file")
    return stream


def _parse(line: bytes) -> dict[str, object]:
    """Return the object of a line; an empty one where it is damaged or cut off."""
    try:
        value = json.loads(line) if line.endswith(b"\n") else None
    except (ValueError, RecursionError):
        value = None
    return value if isinstance(value, dict) else {}


def _entry(line: Mapping[str, object]) -> tuple[str, Entry] | None:
    """Name and entry of a line; None where it is not one."""
    name, kind, size, sha256 = (line.get(field) for field in ("name", "kind", "size", "sha256"))
    source, grows, run = line.get("source"), line.get("grows", False), line.get("run")
    if not (isinstance(name, str) and isinstance(kind, str) and type(size) is int and isinstance(sha256, str)):
        return None
    if not all(each is None or isinstance(each, str) for each in (source, run)) or not isinstance(grows, bool):
        return None
    if os.path.isabs(name) or ".." in Path(name).parts:
        return None
    return name, Entry(kind, size, sha256, cast(str | None, source), grows, cast(str | None, run))


def record_line(name: str, entry: Entry) -> bytes:
    """Return a line of a record. It begins with the break, too, so that one that was cut off costs that one only."""
    told = {key: value for key, value in asdict(entry).items() if value is not None and value is not False}
    return f"\n{json.dumps({'name': name, **told})}\n".encode()


def digest_of(stream: BinaryIO, size: int) -> str:
    """Return the SHA-256, hexadecimal, of the next `size` bytes, or of as many as there are."""
    digest = hashlib.sha256()
    while size > 0 and (chunk := stream.read(min(size, _CHUNK))):
        digest.update(chunk)
        size -= len(chunk)
    return digest.hexdigest()

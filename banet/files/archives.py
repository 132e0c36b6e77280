"""Files that are not files of their own: members of tar archives, and what lies behind a URL."""

from __future__ import annotations

import io
import os
import tarfile
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import BinaryIO

from banet.errors import InputError
from banet.files.reading import open_file
from banet.files.remote import open_remote
from banet.files.worker import isolated_items

__all__ = ["StoredFile", "archive_members"]


@dataclass(frozen=True, slots=True)
class StoredFile:
    """A file that is none of its own: a member of a tar archive, or what lies behind a URL.

    Attributes:
        path: The file, archive or URL.
        name: What to call it in messages; ends in its suffix.
        offset: Where it begins in an archive.
        size: Bytes of it there; None where it is all of `path`.
    """

    path: str
    name: str
    offset: int = 0
    size: int | None = None

    def __fspath__(self) -> str:
        """Return the name, so that readers of files take it for one; they open it with `open`."""
        return self.name

    def open(self) -> BinaryIO:
        """Return what it holds, as a file to read.

        Raises:
            InputError: It cannot be read.
        """
        if self.size is None:
            return open_remote(self.path)
        with open_file(self.path) as stream:
            stream.seek(self.offset)
            data = stream.read(self.size)
        if len(data) < self.size:
            raise InputError("is cut off", where=self.name, hint="write the archive again")
        return io.BytesIO(data)


@isolated_items
def archive_members(path: str, suffixes: Collection[str]) -> Iterator[tuple[str, int, int]]:
    """Yield name, place and size of the files in a tar archive that have one of some suffixes; only headers are read.

    Args:
        path: The archive or its URL.
        suffixes: In lower case, with the point. Hidden files are passed over.

    Raises:
        InputError: It cannot be read, is compressed or cut off.
    """
    count = 0
    with open_file(path) as stream:
        length = stream.seek(0, os.SEEK_END)
        stream.seek(0)
        archive = _archive(path, stream)
        while True:
            try:
                member = archive.next()
            except (tarfile.TarError, OSError) as error:
                raise _cut_off(path, count) from error
            if member is None:
                break
            archive.members = []  # type: ignore[attr-defined]  # or it would hold all of them
            if not member.isfile():
                continue
            if member.offset_data + member.size > length:
                raise _cut_off(path, count)
            name = PurePosixPath(member.name)
            if name.suffix.lower() in suffixes and not name.name.startswith("."):
                count += 1
                yield member.name, member.offset_data, member.size
        if archive.offset >= length:  # an archive ends in blocks of zeros
            raise _cut_off(path, count)


def _archive(path: str, stream: BinaryIO) -> tarfile.TarFile:
    try:
        return tarfile.open(fileobj=stream, mode="r:")
    except tarfile.TarError as error:
        stream.seek(0)
        packed = stream.read(6).startswith((b"\x1f\x8b", b"BZh", b"\xfd7zXZ\0", b"\x28\xb5\x2f\xfd"))
        problem = "is a compressed archive" if packed else "is not a tar archive, or is cut off"
        raise InputError(problem, where=path, hint="unpack it to a .tar" if packed else "write it again") from error


def _cut_off(path: str, count: int) -> InputError:
    return InputError(f"is cut off or damaged after {count} files", where=path, hint="write the archive again")

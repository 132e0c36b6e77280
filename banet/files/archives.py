"""Files that are not files of their own: members of tar archives, and what lies behind a URL; folders of all kinds."""

from __future__ import annotations

import io
import os
import posixpath
import tarfile
import threading
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from banet.errors import InputError
from banet.files.names import check_file_name, forward, safe_join
from banet.files.on_disk import DiskTable
from banet.files.reading import open_file
from banet.files.remote import RemoteFolder, is_remote, list_remote, open_remote, without_scheme
from banet.files.worker import isolated_items
from banet.types import StrPath

__all__ = ["InputFolder", "StoredFile", "archive_members", "place_of"]


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
        while archive.offset:  # 0 where there is no member, and Python 3.10 fails to look for the next one
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
        stream.seek(archive.offset)
        if stream.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):  # tarfile takes a bad header for the end, too
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


class InputFolder:
    """The files of a folder or behind its URL, by name; where there are none of a name, those in tar archives there.

    Args:
        folder: The folder; `banet predict --shards` writes such archives.
        suffixes: Of the files in archives, in lower case, with the point.

    Raises:
        InputError: It is not a folder.
        MissingExtraError: It is a URL, and fsspec is not installed.
    """

    def __init__(self, folder: StrPath, suffixes: Collection[str]) -> None:
        self._folder, self._suffixes = os.fspath(without_scheme(folder)), suffixes
        self._remote = RemoteFolder(self._folder) if is_remote(self._folder) else None
        if self._remote is None and not os.path.isdir(self._folder):
            raise InputError("is not a folder", where=self._folder, hint="check the path")
        self._members: DiskTable | None = None
        self._archives: list[str] = []
        self._lock = threading.Lock()

    def __reduce__(self) -> tuple[object, ...]:
        """Let another process have it."""
        return InputFolder, (self._folder, self._suffixes)

    def find(self, file_name: str, where: str) -> Path | StoredFile:
        """Return a file; one that there is not is said to be missing when it is read.

        Args:
            file_name: Relative name, as a JSON gives it.
            where: File and field that it comes from, for errors.

        Raises:
            InputError: The name leads out of the folder, or an archive is bad.
        """
        if self._remote is None:
            path: Path | StoredFile = safe_join(self._folder, file_name, where)
            if os.path.lexists(path):
                return path
        else:
            url = f"{self._remote.url}/{forward(check_file_name(file_name, where))}"
            path = StoredFile(url, url)
        with self._lock:
            if self._members is None:
                self._members = self._index()
            found = next(self._members.of(posixpath.normpath(forward(file_name))), None)
        if found is None:
            return path
        archive = self._archives[found[0]]
        return StoredFile(archive, f"{archive}/{file_name}", found[1], found[2])

    def _index(self) -> DiskTable:
        """Return archive, place and size of all files in archives.

        Raises:
            InputError: An archive is bad, or two hold one name.
        """
        members = DiskTable()
        try:
            self._archives = self.archives()
        except InputError:  # many servers of files list no folders: without their names there are no archives
            self._archives = []
        for number, archive in enumerate(self._archives):
            for member, offset, size in archive_members(archive, self._suffixes):
                name = posixpath.normpath(member)  # `tar -C dir .` writes ./a.png
                other = next(members.of(name), None)
                if other is not None:
                    problem = f"holds {name}, as {self._archives[other[0]]} does"
                    raise InputError(problem, where=archive, hint="leave one out")
                members.add(name, (number, offset, size))
        return members

    def archives(self) -> list[str]:
        """Return the tar archives there, in order."""
        if self._remote is None:
            return sorted(map(os.fspath, Path(self._folder).glob("*.tar")))
        return sorted(list_remote(f"{self._remote.url}/*.tar"))

    def has_files(self) -> bool:
        """Return whether one of the files is there outside of archives."""
        names = os.listdir(self._folder) if self._remote is None else list_remote(self._remote.url)
        return any(PurePosixPath(name).suffix.lower() in self._suffixes for name in names)


def place_of(file: StrPath | StoredFile) -> StrPath:
    """Return the path or URL that a file is at, or that of the archive that it is in."""
    return file.path if isinstance(file, StoredFile) else file

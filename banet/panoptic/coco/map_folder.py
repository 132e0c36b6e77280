"""Where the id maps of a data set are: in a folder, in tar archives in it, or behind a URL."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from pathlib import Path

from banet.errors import InputError
from banet.files.archives import StoredFile, archive_members
from banet.files.names import check_file_name, forward, safe_join
from banet.files.on_disk import DiskTable
from banet.files.remote import RemoteFolder, is_remote, list_remote
from banet.types import StrPath

__all__ = ["MapFolder"]


class MapFolder:
    """The PNGs of a folder or behind its URL; where there are none of a name, those in the tar archives there.

    Args:
        folder: The folder; `banet predict --shards` writes such archives.

    Raises:
        InputError: It is not a folder.
    """

    def __init__(self, folder: StrPath) -> None:
        self._folder = os.fspath(folder)
        self._remote = RemoteFolder(self._folder) if is_remote(folder) else None
        if self._remote is None and not os.path.isdir(folder):
            raise InputError("is not a folder", where=self._folder, hint="check the path")
        self._members: DiskTable | None = None
        self._archives: list[str] = []
        self._lock = threading.Lock()

    def find(self, file_name: str, where: str) -> StrPath | StoredFile:
        """Return a PNG; one that there is not is said to be missing when it is read.

        Args:
            file_name: Relative name, as a JSON gives it.
            where: File and field that it comes from, for errors.

        Raises:
            InputError: The name leads out of the folder, or an archive is bad.
        """
        if self._remote is None:
            path: StrPath = safe_join(self._folder, file_name, where)
            if os.path.lexists(path):
                return path
        else:
            path = f"{self._remote.url}/{forward(check_file_name(file_name, where))}"
        with self._lock:
            if self._members is None:
                self._members = self._index()
            found = next(self._members.of(forward(file_name)), None)
        if found is None:
            return path
        archive = self._archives[found[0]]
        return StoredFile(archive, f"{archive}/{file_name}", found[1], found[2])

    def _index(self) -> DiskTable:
        """Return archive, place and size of all PNGs in archives.

        Raises:
            InputError: An archive is bad, or two hold one name.
        """
        members = DiskTable()
        self._archives = sorted(self._tars())
        for number, archive in enumerate(self._archives):
            for name, offset, size in archive_members(archive, {".png"}):
                other = next(members.of(name), None)
                if other is not None:
                    problem = f"holds {name}, as {self._archives[other[0]]} does"
                    raise InputError(problem, where=archive, hint="leave one out")
                members.add(name, (number, offset, size))
        return members

    def _tars(self) -> Iterator[str]:
        if self._remote is None:
            yield from map(os.fspath, Path(self._folder).glob("*.tar"))
        else:
            yield from list_remote(f"{self._remote.url}/*.tar")

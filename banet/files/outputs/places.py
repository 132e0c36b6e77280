"""Folders that whole files appear in: of this machine, or behind a URL.

Processes of one run know of each other by such files alone, so that an object store, which can neither append nor
rename, must do.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO, Protocol

from banet.files.atomic import left_behind, written_beside
from banet.files.remote import RemoteFolder
from banet.files.scratch import ScratchFolder

__all__ = ["FolderPlace", "Place", "RemotePlace"]

_SOON = 5.0  # seconds after which what was appended is there for others to see


class Place(Protocol):
    """A folder; names are relative to it, with `/`.

    Attributes:
        rewrites: Whether a file that is appended to is written again as a whole.
    """

    rewrites: bool

    def exists(self, name: str) -> bool:
        """Return whether there is a file of that name."""

    def open(self, name: str) -> BinaryIO:
        """Open a file for reading.

        Raises:
            FileNotFoundError: There is none.
        """

    def write(self, name: str, lines: Iterable[bytes]) -> None:
        """Write a file whole, or not at all; what has its name is replaced."""

    def create(self, name: str) -> bool:
        """Make an empty file, and return whether it is new; of several processes one alone is told so."""

    def append(self, name: str, data: bytes) -> None:
        """Add to a file that one process at a time writes; see `flush`."""

    def flush(self) -> None:
        """Let others see all that was appended."""

    def names(self, folder: str) -> Iterator[str]:
        """Yield the names of the files in a folder and in those in it."""

    def delete(self, name: str) -> None:
        """Delete a file, if it is there."""

    def delete_tree(self, folder: str) -> None:
        """Delete a folder, if it is there, with all that is in it."""

    def tidy(self, folders: Iterable[str]) -> None:
        """Delete what processes that were killed left beside finished files.

        Args:
            folders: Where these are; ask only when no process is at work there.
        """


class FolderPlace:
    """A folder of this machine, see `Place`.

    Args:
        folder: The folder; it is made when it is written to.
    """

    rewrites = False

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def exists(self, name: str) -> bool:
        """Return whether there is a file of that name."""
        return (self._folder / name).is_file()

    def open(self, name: str) -> BinaryIO:
        """Open a file for reading."""
        return (self._folder / name).open("rb")

    def write(self, name: str, lines: Iterable[bytes]) -> None:
        """Write a file whole, or not at all."""
        path = self._folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with written_beside(path) as temporary, temporary.open("wb") as file:
            file.writelines(lines)

    def create(self, name: str) -> bool:
        """Make an empty file, and return whether it is new."""
        path = self._folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            return False
        return True

    def append(self, name: str, data: bytes) -> None:
        """Add to a file."""
        path = self._folder / name
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | getattr(os, "O_BINARY", 0)
        file = os.open(path, flags, 0o666)  # closed at once: a run may have thousands of parts
        try:
            while data:  # a full disk takes a part first
                data = data[os.write(file, data) :]
        except OSError as error:
            error.filename = str(path)
            raise
        finally:
            os.close(file)

    def flush(self) -> None:
        """Let others see all that was appended."""

    def names(self, folder: str) -> Iterator[str]:
        """Yield the names of the files in a folder and in those in it."""
        for at, _, files in os.walk(self._folder / folder):
            for file in files:
                yield (Path(at) / file).relative_to(self._folder).as_posix()

    def delete(self, name: str) -> None:
        """Delete a file, if it is there."""
        (self._folder / name).unlink(missing_ok=True)

    def delete_tree(self, folder: str) -> None:
        """Delete a folder with all that is in it."""
        shutil.rmtree(self._folder / folder, ignore_errors=True)

    def tidy(self, folders: Iterable[str]) -> None:
        """Delete what processes that were killed left."""
        for folder in {"", *folders}:
            for path in left_behind(self._folder / folder) if (self._folder / folder).is_dir() else ():
                path.unlink(missing_ok=True)


class RemotePlace:
    """A folder behind a URL, see `Place`.

    What is appended is kept on this machine, and the whole file is written again, some seconds later at the most.

    Args:
        folder: The folder.
    """

    rewrites = True

    def __init__(self, folder: RemoteFolder) -> None:
        self._folder = folder
        self._kept = ScratchFolder()
        self._tails: dict[str, Path] = {}  # what was appended to, the last one last
        self._waiting: set[str] = set()
        self._since = time.monotonic()
        self._lock = threading.RLock()

    def exists(self, name: str) -> bool:
        """Return whether there is a file of that name."""
        return self._folder.is_file(name)

    def open(self, name: str) -> BinaryIO:
        """Open a file for reading."""
        return self._folder.open(name)

    def write(self, name: str, lines: Iterable[bytes]) -> None:
        """Write a file whole, or not at all."""
        handle, path = tempfile.mkstemp(dir=self._kept.path)
        with os.fdopen(handle, "wb") as file:
            file.writelines(lines)
        self._folder.put({name: Path(path)})
        os.unlink(path)
        with self._lock:
            self._forget(name)

    def create(self, name: str) -> bool:
        """Make an empty file, and return whether it is new."""
        return self._folder.create(name)

    def append(self, name: str, data: bytes) -> None:
        """Add to a file."""
        with self._lock:
            if name not in self._tails:
                self._tails[name] = self._fetched(name)
            tail = self._tails[name] = self._tails.pop(name)
            with tail.open("ab") as file:
                file.write(data)
            self._waiting.add(name)
            if time.monotonic() - self._since > _SOON:
                self.flush()

    def _fetched(self, name: str) -> Path:
        """Return a copy of a file as it is, or an empty file; of older ones only some are kept."""
        if len(self._tails) >= 4:
            self.flush()
            self._forget(next(iter(self._tails)))
        handle, path = tempfile.mkstemp(dir=self._kept.path)
        with os.fdopen(handle, "wb") as file:
            try:
                with self.open(name) as there:
                    shutil.copyfileobj(there, file)
            except FileNotFoundError:
                pass
        return Path(path)

    def _forget(self, name: str) -> None:
        self._waiting.discard(name)
        if name in self._tails:
            self._tails.pop(name).unlink()

    def flush(self) -> None:
        """Let others see all that was appended."""
        with self._lock:
            if self._waiting:
                self._folder.put({name: self._tails[name] for name in sorted(self._waiting)})
            self._waiting.clear()
            self._since = time.monotonic()

    def names(self, folder: str) -> Iterator[str]:
        """Yield the names of the files in a folder and in those in it."""
        return self._folder.names(folder)

    def delete(self, name: str) -> None:
        """Delete a file, if it is there."""
        with self._lock:
            self._forget(name)
        self._folder.delete(name)

    def delete_tree(self, folder: str) -> None:
        """Delete a folder with all that is in it."""
        with self._lock:
            for name in [each for each in self._tails if each.startswith(f"{folder}/")]:
                self._forget(name)
        self._folder.delete_tree(folder)

    def tidy(self, folders: Iterable[str]) -> None:
        """Delete what processes that were killed left."""
        for name in self._folder.left_behind():
            self._folder.delete(name)

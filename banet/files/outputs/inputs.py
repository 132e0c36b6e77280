"""What a command reads, which it never replaces, however a path is spelled."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TypeAlias

from banet.files.remote import without_scheme
from banet.types import StrPath

__all__ = ["Again", "Inputs", "weight_files"]

_Key: TypeAlias = tuple[int, int] | str


class Again:
    """What may be iterated over several times, made anew each time: no list of it is held."""

    def __init__(self, make: Callable[[], Iterator[StrPath]]) -> None:
        self._make = make

    def __iter__(self) -> Iterator[StrPath]:
        return self._make()


class Inputs:
    """Files and folders that a command reads, known by what they are and not by how their paths are spelled.

    They are looked at only when a name that is to be written is taken.
    """

    def __init__(self, files: Iterable[StrPath], folders: Iterable[StrPath]) -> None:
        self._files, self._folders = files, [Path(folder) for folder in folders]
        self._keys: set[_Key] | None = None
        self._roots: set[_Key] | None = None
        self._inside: set[_Key] | None = None
        self._surrounded: dict[Path, bool] = {}

    def hold(self, target: Path) -> bool:
        """Return whether a file that exists is one of the files, or a link on the way to one."""
        if self._keys is None:
            self._keys = {
                key for file in self._files for link in _links(Path(without_scheme(file))) for key in _keys(link)
            }
        return not self._keys.isdisjoint(_keys(target))

    def surround(self, target: Path) -> bool:
        """Return whether a file that exists lies in one of the folders, or is a link to a file in one."""
        if self._roots is None:
            self._roots = {key for folder in self._folders for key in _keys(folder)}
        if not self._roots:
            return False
        if not self._roots.isdisjoint(_keys(target)) or self._in_root(Path(os.path.abspath(target)).parent):
            return True
        if target.is_symlink() and self._in_root(Path(os.path.realpath(target)).parent):
            return True
        if not target.exists() or target.stat().st_nlink < 2:
            return False
        if self._inside is None:  # the other name of a hard link can be anywhere
            files = (Path(at) / name for folder in self._folders for at, _, names in os.walk(folder) for name in names)
            self._inside = {key for file in files for key in _keys(file)}
        return not self._inside.isdisjoint(_keys(target))

    def _in_root(self, folder: Path) -> bool:
        assert self._roots is not None
        if folder not in self._surrounded:
            here = not self._roots.isdisjoint(_keys(folder))
            self._surrounded[folder] = here or (folder != folder.parent and self._in_root(folder.parent))
        return self._surrounded[folder]


def weight_files(weights: StrPath) -> list[Path]:
    """Return the files that hold weights, where these are named by a path and not by a name of the library's."""
    path = Path(weights)
    if path.is_dir():
        return [file for file in path.iterdir() if file.is_file()]
    return [path, path.with_suffix(".bin")] if path.suffix == ".xml" else [path]


def _keys(path: Path) -> set[_Key]:
    """Return what tells a file from all others, and where it is a link, the link: device and number, or the path."""
    found: set[_Key] = set()
    for look in (os.stat, os.lstat):
        with contextlib.suppress(OSError):
            status = look(path)
            numbered = status.st_ino != 0  # some file systems number nothing
            found.add((status.st_dev, status.st_ino) if numbered else os.path.normcase(os.path.realpath(path)))
    return found


def _links(path: Path) -> Iterator[Path]:
    """Return a path, and where it is a link, all the others on the way to the file."""
    for _ in range(40):  # as many as systems follow
        yield path
        try:
            if not path.is_symlink():
                return
            path = path.parent / os.readlink(path)
        except OSError:
            return

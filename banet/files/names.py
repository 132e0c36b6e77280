"""File names: from outside, which must stay inside their folder, and of outputs, no two of which may be one file."""

from __future__ import annotations

import os
import posixpath
import re
import unicodedata
from pathlib import Path, PurePosixPath, PureWindowsPath

from banet.errors import InputError, abbreviate
from banet.files.on_disk import DiskTable
from banet.types import StrPath

__all__ = ["DistinctNames", "check_file_name", "forward", "name_key", "natural_key", "safe_join", "without_suffix"]


def safe_join(folder: StrPath, file_name: str, where: str = "file_name") -> Path:
    """Join a file name from a JSON to a folder, and refuse one that leads out of the folder.

    Tools on Windows write `\\` between the parts of a name. Where no file of the name as it stands exists, it is taken
    for a separator.

    Args:
        folder: the folder.
        file_name: relative name; sub-folders are allowed.
        where: file and field it comes from, for the error.

    Raises:
        InputError: the name is empty, absolute, or has a part '..'.
    """
    path = Path(folder) / check_file_name(file_name, where)
    if "\\" in file_name and not os.path.lexists(path):
        return Path(folder) / forward(file_name)
    return path


def forward(file_name: str) -> str:
    """Return a relative file name with `/` between its parts, whatever system it was written on."""
    return file_name.replace("\\", "/")


def without_suffix(name: str) -> str:
    """Return a name with `/` between its parts without the suffix; a dot at its beginning or end starts none.

    `pathlib` disagrees about such names from one Python to the next.
    """
    name = str(PurePosixPath(name))  # `./a` is `a`
    stem, suffix = posixpath.splitext(name)
    return name if suffix == "." else stem


def check_file_name(name: object, where: str) -> str:
    """Return a relative file name that stays inside its folder.

    Raises:
        InputError: the name is empty, absolute, or has a part '..'.
    """
    if not isinstance(name, str) or not name or "\0" in name:
        raise InputError(f"must be a file name, not {abbreviate(name)}", where=where)
    if name != ".." and not any(mark in name for mark in "/\\:"):
        return name  # no parts and no drive, so nothing that could lead out
    windows = PureWindowsPath(name)
    if PurePosixPath(name).is_absolute() or windows.drive or windows.root or ".." in windows.parts:
        raise InputError(
            f"{abbreviate(name)} leads out of its folder", where=where, hint="give a relative name without '..'"
        )
    return name


def name_key(name: str) -> str:
    """Return what names share that are one file where a file system ignores case or how letters are composed."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


def natural_key(name: str) -> tuple[list[tuple[int, str]], str]:
    """Return what sorts names by the numbers in them: `2.png` comes before `10.png`."""
    parts = re.split(r"([0-9]+)", name)
    # Numbers are compared by how many digits they have: they may have more than `int` takes.
    digits = [part.lstrip("0") if k % 2 else part for k, part in enumerate(parts)]
    return [(len(part) if k % 2 else 0, part) for k, part in enumerate(digits)], name


class DistinctNames:
    """Chooses the names of outputs: no two are one file, on any file system.

    An input gives its own name without the suffix; where that is taken, the suffix becomes part of it, and then a
    number: `a.png`, `a.jpg` and `b/a.jpg` give `a`, `a_jpg` and `a_2`. The same inputs in the same order give the same
    names.

    Args:
        suffixes: Every name is used with all of these; none of the files may be taken.
        on_disk: Keep the names in a temporary file, so that millions of them take no memory.
    """

    def __init__(self, *suffixes: str, on_disk: bool = False) -> None:
        self._suffixes = suffixes or ("",)
        self._taken: set[str] | DiskTable = DiskTable() if on_disk else set()
        self._numbers: dict[str, int] = {}

    def choose(self, name: str) -> str:
        """Return the name of the outputs of an input.

        Args:
            name: The input's, with `/` or `\\` where it is in a folder that the outputs keep.
        """
        path = PurePosixPath(forward(name))
        stem = without_suffix(forward(name)) if path.name else name
        if self._take(stem):
            return stem
        if self._take(with_suffix := str(path.with_name(path.name.replace(".", "_")))):
            return with_suffix
        key = name_key(stem)
        while True:
            self._numbers[key] = number = self._numbers.get(key, 1) + 1
            if self._take(numbered := f"{stem}_{number}"):
                return numbered

    def _take(self, name: str) -> bool:
        files = {name_key(f"{name}{suffix}") for suffix in self._suffixes}
        free = not any(file in self._taken for file in files)
        if free:
            for file in files:
                self._taken.add(file)
        return free

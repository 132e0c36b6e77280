"""File names from outside, which must stay inside their folder."""

from __future__ import annotations

from pathlib import Path, PurePosixPath, PureWindowsPath

from banet.errors import InputError, shown
from banet.types import StrPath

__all__ = ["check_file_name", "safe_join"]


def safe_join(folder: StrPath, file_name: str, where: str = "file_name") -> Path:
    """Joins a file name from a JSON to a folder, and refuses one that leads out of the folder.

    Args:
        folder: the folder.
        file_name: relative name; sub-folders are allowed.
        where: file and field it comes from, for the error.

    Raises:
        InputError: the name is empty, absolute, or has a part '..'.
    """
    check_file_name(file_name, where)
    return Path(folder) / file_name


def check_file_name(name: object, where: str) -> str:
    """Return a relative file name that stays inside its folder.

    Raises:
        InputError: the name is empty, absolute, or has a part '..'.
    """
    if not isinstance(name, str) or not name or "\0" in name:
        raise InputError(f"must be a file name, not {shown(name)}", where=where)
    if name != ".." and not any(mark in name for mark in "/\\:"):
        return name  # no parts and no drive, so nothing that could lead out
    windows = PureWindowsPath(name)
    if PurePosixPath(name).is_absolute() or windows.drive or windows.root or ".." in windows.parts:
        raise InputError(
            f"{shown(name)} leads out of its folder", where=where, hint="give a relative name without '..'"
        )
    return name

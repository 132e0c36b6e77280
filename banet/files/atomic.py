"""Files that are written atomically: whole, or not at all."""

from __future__ import annotations

import contextlib
import errno
import glob
import json
import os
import re
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from banet.errors import InputError
from banet.types import StrPath

__all__ = ["Guard", "atomic_path", "commit", "guards", "is_temporary", "left_behind", "write_json", "written_beside"]


_STEM = 32
_TEMPORARY = re.compile(rf"\.(.{{0,{_STEM}}})\.\d+-\d+\.tmp(\..*)?", re.S)


class Guard(Protocol):
    """What decides on the files of a folder while a command writes there; see `banet.files.outputs.Outputs`."""

    def covers(self, target: str) -> int:
        """Return how near a file, given by its absolute path, is to what is guarded; 0 is not at all."""

    def commit(self, temporary: Path, target: Path, *, grows: bool = False) -> None:
        """Give a finished file its name, or raise an error."""


guards: list[Guard] = []
"""Those at work. A file of no guard's, such as one that Python code saves, replaces what has its name."""


@contextlib.contextmanager
def atomic_path(path: StrPath, *, grows: bool = False) -> Iterator[Path]:
    """Yields a temporary path beside `path`, which gets its name where no guard refuses; see `written_beside`.

    Args:
        path: the file to write.
        grows: more will be appended to it later on.

    Raises:
        InputError: its folder does not exist, it is a folder itself, or a guard of the folder refuses.
    """
    target = Path(path)
    if not target.parent.is_dir():
        raise InputError(f"the folder {target.parent} does not exist", where=target, hint="create it first")
    if target.is_dir():
        raise InputError("is a folder", where=target, hint="give the name of a file")
    with written_beside(target, partial(commit, grows=grows)) as temporary:
        yield temporary


@contextlib.contextmanager
def written_beside(target: Path, finish: Callable[[Path, Path], object] = os.replace) -> Iterator[Path]:
    """Yields a temporary path beside a file; gives it the file's name on success and deletes it on failure.

    The temporary name keeps the suffix, so that writers that go by it work. Readers see the old file or the new one,
    never half of one.

    Args:
        target: the file; its folder exists.
        finish: gives the temporary file its name; by default no guard is asked.
    """
    # Of the name a part only: with the rest it might become too long for the file system.
    temporary = target.with_name(f".{target.stem[:_STEM]}.{os.getpid()}-{threading.get_ident()}.tmp{target.suffix}")
    try:
        yield temporary
        finish(temporary, target)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG) and error.filename is None:
            error.filename = str(target)  # a full disk does not say of which file
        raise
    finally:
        temporary.unlink(missing_ok=True)


def is_temporary(path: StrPath) -> bool:
    """Return whether a file has a name that `atomic_path` gives to files that are not finished."""
    return _TEMPORARY.fullmatch(Path(path).name) is not None


def left_behind(folder: Path) -> Iterator[Path]:
    """Yield the temporary files of a folder whose finished file is there: processes that were killed left them.

    Ask only when no process is at work on these files.
    """
    with os.scandir(folder) as entries:
        found = [match for entry in entries if (match := _TEMPORARY.fullmatch(entry.name))]
    for match in found:
        stem, suffix = match[1], match[2] or ""
        finished = (folder / f"{stem}{suffix}").exists()
        if not finished and len(stem) == _STEM:  # a part of the name only
            finished = any(folder.glob(f"{glob.escape(stem)}*{glob.escape(suffix)}"))
        if finished:
            yield folder / match[0]


def commit(temporary: Path, target: Path, *, grows: bool = False) -> None:
    """Give a finished file its name; where a guard covers it, the nearest one does.

    Args:
        temporary: the file, in the folder of `target`.
        target: its name; what has it is replaced.
        grows: see `atomic_path`.

    Raises:
        InputError: the guard refuses.
    """
    whole = os.path.abspath(target)
    guard = max(guards, key=lambda one: one.covers(whole), default=None)
    if guard is not None and guard.covers(whole):
        guard.commit(temporary, target, grows=grows)
    else:
        os.replace(temporary, target)


def write_json(path: StrPath, content: Any, *, indent: int | None = None) -> None:
    """Write a JSON file at once or not at all.

    Raises:
        InputError: see `atomic_path`.
    """
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(content, allow_nan=False, indent=indent) + "\n", encoding="utf-8")

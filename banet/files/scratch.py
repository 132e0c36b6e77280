"""Temporary folders that are locked while their process lives, so that later ones remove what killed ones left."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterable
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import IO, Any

try:
    fcntl: Any = import_module("fcntl")
except ImportError:  # Windows has no such locks
    fcntl = None

__all__ = ["LOCK", "ScratchFolder", "hold", "remove_abandoned"]

LOCK = ".lock"
"""Name of the locked file in such a folder."""
_PREFIX = "banet-scratch-"


def hold(folder: Path) -> IO[str]:
    """Lock a file in a folder until it is closed or the process ends, however that ends."""
    new = folder / f"{LOCK}.new"
    file = new.open("w")
    if fcntl is not None:
        fcntl.flock(file, fcntl.LOCK_EX)
    new.rename(folder / LOCK)  # when it is locked: another process could take it in between
    return file


def remove_abandoned(folders: Iterable[Path]) -> None:
    """Remove those folders that processes held which were killed."""
    for folder in folders if fcntl is not None else ():
        with suppress(OSError), (folder / LOCK).open("r+") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # fails while its process lives
            shutil.rmtree(folder, ignore_errors=True)


class ScratchFolder:
    """A temporary folder of this process. Making one removes those of processes that were killed.

    Attributes:
        path: The folder.
    """

    def __init__(self) -> None:
        remove_abandoned(Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"))
        self._folder = tempfile.TemporaryDirectory(prefix=_PREFIX)
        self.path = Path(self._folder.name)
        self._lock = hold(self.path)

    def delete(self) -> None:
        """Delete the folder with all that is in it."""
        self._lock.close()
        self._folder.cleanup()

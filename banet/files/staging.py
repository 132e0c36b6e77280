"""Folders of outputs that are written beside their place first, and JSON files whose lists are written item by item."""

from __future__ import annotations

import glob
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from secrets import token_hex
from types import TracebackType
from typing import Any, BinaryIO

from banet.errors import InputError
from banet.files.atomic import atomic_path, commit
from banet.files.outputs import RECORD, NewFolder, Outputs
from banet.files.scratch import LOCK, hold, remove_abandoned
from banet.types import StrPath

__all__ = ["JsonLists", "staged"]

_IN_MEMORY = 1 << 20  # bytes of a list that are kept before it goes to a file


@contextmanager
def staged(outputs: Outputs, *, last: Iterable[str] = (), prune: Iterable[str] = ()) -> Iterator[Path]:
    """Yield a folder to write to, which gets the place of the outputs where the body ends without an error.

    Where their folder is empty or missing, it is renamed. Otherwise its files replace those of an earlier run one by
    one; so they do in a folder that cannot be replaced, such as the mounted one of a container. Where the body fails
    nothing is left of it; what a killed process left is removed by the next one.

    Args:
        outputs: the folder, and what may be replaced there.
        last: files, relative to the folder, that are replaced after all others: those that name them.
        prune: folders in it of which only new files stay, of those that earlier runs wrote.
    """
    folder = outputs.folder
    whole = Path(os.path.realpath(folder))  # of a link the folder that it leads to, on whose disk there is room
    fixed = whole.is_dir() and (os.path.ismount(whole) or not os.access(whole.parent, os.W_OK))
    place = whole if fixed else whole.parent
    temporary = place / f".{whole.name[:32]}.{os.getpid()}-{token_hex(4)}.tmp"
    remove_abandoned(_earlier(place, whole.name))
    temporary.mkdir(parents=True)
    try:
        with _held(temporary):
            with NewFolder(temporary, outputs.kind):
                yield temporary
            into = fixed or (whole.exists() and any(whole.iterdir()))
            if into:
                _replace_files(temporary, outputs, tuple(last))
                for tree in prune:
                    outputs.prune(tree)
        if not into:
            if whole.exists():
                whole.rmdir()
            os.replace(temporary, whole)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


@contextmanager
def _held(folder: Path) -> Iterator[None]:
    """Lock a file in a folder inside the block."""
    with hold(folder):
        try:
            yield
        finally:
            (folder / LOCK).unlink(missing_ok=True)


def _earlier(place: Path, name: str) -> Iterator[Path]:
    """Yield the folders in which processes write or wrote what is to get the place of a folder of this name."""
    for left in place.glob(f".{glob.escape(name[:32])}.*.tmp"):
        if (
            re.fullmatch(r"\d+(-[0-9a-f]{8})?", left.name.removesuffix(".tmp").rpartition(".")[2])
            and not left.is_symlink()
        ):
            yield left


def _replace_files(temporary: Path, outputs: Outputs, last: tuple[str, ...]) -> None:
    """Move new files over those of an earlier run, and links that are not there yet."""
    names = sorted(path.relative_to(temporary).as_posix() for path in temporary.rglob("*") if not path.is_dir())
    names = [name for name in names if name not in (LOCK, RECORD, *last)]
    links = [name for name in names if (temporary / name).is_symlink()]
    for name in links:
        link = outputs.folder / name
        if os.path.lexists(link) and not _same_link(link, temporary / name):
            raise InputError("exists already", where=link, hint=f"choose another {outputs.option}")
    with outputs:
        for name in [*names, *(name for name in last if (temporary / name).exists())]:
            target = outputs.folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            if name not in links:
                commit(temporary / name, target)
            elif not os.path.lexists(target):
                os.replace(temporary / name, target)


def _same_link(one: Path, other: Path) -> bool:
    return one.is_symlink() and os.path.realpath(one) == os.path.realpath(other)


class JsonLists:
    """A JSON object whose lists are written item by item, so that no list is in memory as a whole.

    A context manager, which deletes what it has set aside.
    """

    def __init__(self) -> None:
        self._parts: dict[str, Any] = {}

    def add(self, field: str, item: Any) -> None:
        """Add an item to the list of a field."""
        text = json.dumps(item, allow_nan=False).encode()
        if field in self._parts:
            text = b", " + text
        else:
            self._parts[field] = tempfile.SpooledTemporaryFile(_IN_MEMORY)  # noqa: SIM115  # closed by __exit__
        self._parts[field].write(text)

    def write(self, path: StrPath, fields: Mapping[str, Any]) -> None:
        """Write the file, at once or not at all.

        Args:
            path: the file.
            fields: all fields, in order; None stands for the list that was added to.
        """
        with atomic_path(path) as temporary, temporary.open("wb") as file:
            opening = "{"
            for field, value in fields.items():
                file.write(f"{opening}{json.dumps(field)}: ".encode())
                opening = ", "
                if value is None:
                    self._copy(field, file)
                else:
                    file.write(json.dumps(value, allow_nan=False).encode())
            file.write(b"}\n")

    def _copy(self, field: str, file: BinaryIO) -> None:
        file.write(b"[")
        if field in self._parts:
            self._parts[field].seek(0)
            shutil.copyfileobj(self._parts[field], file)
        file.write(b"]")

    def __enter__(self) -> JsonLists:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for part in self._parts.values():
            part.close()

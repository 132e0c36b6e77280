"""Files that are written atomically: whole, or not at all."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from banet.errors import InputError
from banet.types import StrPath

__all__ = ["atomic_path", "write_json"]


@contextlib.contextmanager
def atomic_path(path: StrPath) -> Iterator[Path]:
    """Yields a temporary path beside `path`; renames it to `path` on success and deletes it on failure.

    The temporary name keeps the suffix, so that writers that go by it work. Readers see the old file or the new one,
    never half of one.

    Args:
        path: the file to write.

    Raises:
        InputError: its folder does not exist, or it is a folder itself.
    """
    target = Path(path)
    if not target.parent.is_dir():
        raise InputError(f"the folder {target.parent} does not exist", where=target, hint="create it first")
    if target.is_dir():
        raise InputError("is a folder", where=target, hint="give the name of a file")
    # Of the name a part only: with the rest it might become too long for the file system.
    temporary = target.with_name(f".{target.stem[:32]}.{os.getpid()}-{threading.get_ident()}.tmp{target.suffix}")
    try:
        yield temporary
        os.replace(temporary, target)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG) and error.filename is None:
            error.filename = str(target)  # a full disk does not say of which file
        raise
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: StrPath, content: Any) -> None:
    """Writes a JSON file at once or not at all.

    Raises:
        InputError: see `atomic_path`.
    """
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(content, allow_nan=False) + "\n", encoding="utf-8")

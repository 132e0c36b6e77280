"""What lies in folders, here and behind URLs, but for the record of outputs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from banet.files.outputs import RECORD


def here(folder: Path) -> dict[str, bytes]:
    """Return the files of a folder, by their names in it."""
    paths = (path for path in folder.rglob("*") if path.is_file() and path.name != RECORD)
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


def there(system: Any, folder: str) -> dict[str, bytes]:
    """Return the files of a folder of a file system of fsspec."""
    names = {path: path.removeprefix(f"{folder}/") for path in system.find(folder)}
    return {name: system.cat_file(path) for path, name in names.items() if name != RECORD}

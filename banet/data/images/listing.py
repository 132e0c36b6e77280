"""Which image files a command is given: files, folders and patterns, with what is skipped in them."""

from __future__ import annotations

import glob
import os
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

from banet.data.images.formats import OTHER_SUFFIXES, SUFFIXES, readable_suffixes
from banet.errors import InputError, InputWarning
from banet.files.outputs import RECORD
from banet.files.spooled import SpooledSet

__all__ = ["ImageList", "ImageSearch", "find_images", "list_images"]


@dataclass
class ImageList:
    """Image files, and what lay beside them in folders.

    Attributes:
        paths: The images, each once.
        unreadable: One line per folder or pattern of images that cannot be read, by suffix: of formats that are not
            read, or links to files that are not there.
        skipped: One line per folder or pattern of what is not an image or is hidden, by suffix.
    """

    paths: list[Path] = field(default_factory=list)
    unreadable: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)


class ImageSearch:
    """Image files that files, folders and patterns name, found as one iterates: no list of them is held.

    A file is taken whatever its name. A folder gives the images that lie in it, by name. A pattern (`*`, `?`, `[..]`,
    `**` for any depth) gives the images that it matches, by name. No image comes twice.

    Args:
        inputs: Paths and patterns; `~` is the home folder.
        recursive: A folder also gives the images in its folders, but for hidden ones and links.

    Attributes:
        unreadable: See `ImageList`; complete when the iteration has ended.
        skipped: The same.

    Raises:
        InputError: While iterating: one of them names no image that can be read, or there is none at all.
    """

    def __init__(self, inputs: Sequence[str], *, recursive: bool = False) -> None:
        self.inputs = [os.fspath(inputs)] if isinstance(inputs, (str, os.PathLike)) else inputs
        self.recursive = recursive
        self.unreadable: list[str] = []
        self.skipped: list[str] = []

    def __iter__(self) -> Iterator[Path]:
        self.unreadable, self.skipped = [], []
        found = SpooledSet()
        path = None
        for text in self.inputs:
            given = Path(os.path.expanduser(text))
            is_file = os.path.exists(given) and not os.path.isdir(given)
            for path in [given] if is_file else self._search(text, given):
                if len(self.inputs) == 1 or found.add(str(path)):
                    yield path
        if path is None:
            raise InputError("no images given", hint="give at least one image, folder or pattern")

    def _search(self, text: str, path: Path) -> Iterator[Path]:
        """Yield the images in a folder or of a pattern, and tell what is skipped."""
        entries: Iterator[Path] = iter(())
        if os.path.isdir(path):
            entries = _sorted(_walk(path) if self.recursive else _entries(text, path))
        elif glob.has_magic(str(path)):
            entries = _sorted(_hits(path))
        known = readable_suffixes()
        unreadable, dangling, others = _Tally(), _Tally(), _Tally()
        seen = matched = folders = False
        for entry in entries:
            seen = True
            suffix, hidden, is_folder = entry.suffix.lower(), _is_hidden(entry), os.path.isdir(entry)
            folders |= is_folder
            if suffix in known and not hidden and os.path.isfile(entry):
                matched = True
                yield entry
            elif not is_folder and entry.name != RECORD:
                is_image = not hidden and suffix in SUFFIXES | OTHER_SUFFIXES
                (others if not is_image else unreadable if os.path.exists(entry) else dangling).add(entry)
        lines = _unreadable_lines(text, unreadable, dangling)
        if not matched:
            raise self._nothing(text, path, seen, folders, lines)
        self.unreadable += lines
        if others.kinds:
            self.skipped.append(f"{text}: skipped {others} (not images, or hidden)")

    def _nothing(self, text: str, path: Path, seen: bool, folders: bool, lines: list[str]) -> InputError:
        """Return the error of a folder or pattern without an image."""
        if os.path.isdir(path):
            problem = "the folder holds no image"
        elif glob.has_magic(str(path)):
            problem = "the pattern matches no image" if seen else "no file matches the pattern"
        else:
            problem = "is a link to a file that does not exist" if os.path.islink(path) else "does not exist"
        why = f" that can be read ({lines[0].partition(': ')[2]})" if lines else ""
        if os.path.isdir(path) and not self.recursive and folders:
            why += "; its folders are searched with --recursive"
        names = ", ".join(sorted(readable_suffixes()))
        return InputError(problem + why, where=text, hint=f"give images ({names}), a folder or a pattern")


def find_images(inputs: Sequence[str], *, recursive: bool = False) -> ImageList:
    """Return the images that files, folders and patterns name, and what was skipped; see `ImageSearch`.

    Args:
        inputs: paths and patterns; `~` is the home folder.
        recursive: a folder also gives the images in its folders, but for hidden ones and links.

    Raises:
        InputError: one of them names no image that can be read, or there is none at all.
    """
    search = ImageSearch(inputs, recursive=recursive)
    return ImageList(list(search), search.unreadable, search.skipped)


def list_images(inputs: Sequence[str]) -> list[Path]:
    """Return the images that files, folders and patterns name, as `find_images` does.

    What is skipped is told with a warning (`InputWarning`).

    Raises:
        InputError: See `find_images`.
    """
    images = find_images(inputs)
    for line in (*images.unreadable, *images.skipped):
        warnings.warn(line, InputWarning, stacklevel=2)
    return images.paths


def _sorted(paths: Iterable[Path]) -> Iterator[Path]:
    """Return paths in order, part by part."""
    keys = SpooledSet()
    for path in paths:
        keys.add(str(path).replace(os.sep, "\0"))
    return (Path(key.replace("\0", os.sep)) for key in keys)


def _entries(text: str, folder: Path) -> Iterator[Path]:
    try:
        with os.scandir(folder) as entries:
            yield from (folder / entry.name for entry in entries)
    except OSError as error:
        raise InputError(f"cannot be read ({error.strerror})", where=text, hint="check its permissions") from error


def _walk(folder: Path) -> Iterator[Path]:
    """Yield the files in a folder and in its folders, but for those that are hidden or links, which may form a loop."""

    def fail(error: OSError) -> NoReturn:
        place = os.fspath(error.filename or folder)
        raise InputError(f"cannot be read ({error.strerror})", where=place, hint="check its permissions") from error

    for place, folders, files in os.walk(folder, onerror=fail):
        folders[:] = [name for name in folders if not name.startswith(".")]
        yield from (Path(place) / name for name in files)


def _hits(pattern: Path) -> Iterator[Path]:
    """Yield what a pattern matches; nothing that is hidden."""
    if "**" not in pattern.parts:
        yield from map(Path, glob.iglob(str(pattern)))
        return
    # Here `glob` would follow links to folders, and where these form a loop, for ever. `Path.glob` does not.
    fixed = next(place for place, part in enumerate(pattern.parts) if glob.has_magic(part))
    root, parts = Path(*pattern.parts[:fixed]), pattern.parts[fixed:]
    hits = root.glob("/".join(parts if parts[-1] != "**" else (*parts, "*")))
    yield from (hit for hit in hits if not any(part.startswith(".") for part in hit.relative_to(root).parts))


def _is_hidden(path: Path) -> bool:
    return path.name.startswith(".")


class _Tally:
    """How many files there are, by suffix."""

    def __init__(self) -> None:
        self.kinds: Counter[str] = Counter()
        self.first: list[str] = []  # names

    def add(self, path: Path) -> None:
        self.kinds["hidden" if _is_hidden(path) else path.suffix.lower() or "without a suffix"] += 1
        if len(self.first) < 4:
            self.first.append(path.name)

    def __str__(self) -> str:
        """Return "2 .txt, 1 hidden"."""
        ordered = sorted(self.kinds.items(), key=lambda item: (-item[1], item[0]))
        return ", ".join(f"{count} {kind}" for kind, count in ordered)


def _unreadable_lines(text: str, others: _Tally, dangling: _Tally) -> list[str]:
    lines = []
    if others.kinds:
        heic = not SUFFIXES.isdisjoint(others.kinds)
        hint = "convert them to PNG or JPEG" + (", or install 'banet-panoptic[heic]' for HEIC" if heic else "")
        lines.append(f"{text}: cannot read {others}: not of a format that is read; {hint}")
    if dangling.kinds:
        names = ", ".join(dangling.first[:3]) + (", ..." if len(dangling.first) > 3 else "")
        lines.append(f"{text}: cannot read {dangling}: links to files that do not exist ({names})")
    return lines

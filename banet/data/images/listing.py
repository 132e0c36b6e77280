"""Which image files a command is given: files, folders and patterns, with what is skipped in them."""

from __future__ import annotations

import glob
import os
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from banet.data.images.formats import OTHER_SUFFIXES, SUFFIXES, readable_suffixes
from banet.errors import InputError, InputWarning
from banet.files.outputs import RECORD

__all__ = ["ImageList", "find_images", "list_images"]


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


def find_images(inputs: Sequence[str], *, recursive: bool = False) -> ImageList:
    """Return the images that files, folders and patterns name, and what was skipped.

    A file is taken whatever its name. A folder gives the images that lie in it, by name. A
    pattern (`*`, `?`, `[..]`, `**` for any depth) gives the images that it matches, by name. No image comes twice.

    Args:
        inputs: paths and patterns; `~` is the home folder.
        recursive: a folder also gives the images in its folders, but for hidden ones and links.

    Raises:
        InputError: one of them names no image that can be read, or there is none at all.
    """
    if isinstance(inputs, (str, os.PathLike)):
        inputs = [os.fspath(inputs)]
    found: dict[Path, None] = {}
    images = ImageList()
    for text in inputs:
        path = Path(os.path.expanduser(text))
        if os.path.exists(path) and not os.path.isdir(path):
            found[path] = None
        else:
            found.update(dict.fromkeys(_search(text, path, images, recursive)))
    if not found:
        raise InputError("no images given", hint="give at least one image, folder or pattern")
    images.paths = list(found)
    return images


def _search(text: str, path: Path, images: ImageList, recursive: bool) -> list[Path]:
    """Return the images in a folder or of a pattern; what is skipped is added to the lines of `images`."""
    if os.path.isdir(path):
        entries = sorted(_walk(path)) if recursive else _entries(text, path)
        problem = "the folder holds no image"
    elif glob.has_magic(str(path)):
        entries = sorted(_hits(path))
        problem = "the pattern matches no image" if entries else "no file matches the pattern"
    else:
        entries, problem = [], "is a link to a file that does not exist" if os.path.islink(path) else "does not exist"
    known = readable_suffixes()
    matches: list[Path] = []
    unreadable: list[Path] = []
    others: list[Path] = []
    for entry in entries:
        suffix = entry.suffix.lower()
        if suffix in known and not _is_hidden(entry) and os.path.isfile(entry):
            matches.append(entry)
        elif not os.path.isdir(entry) and entry.name != RECORD:
            is_image = not _is_hidden(entry) and suffix in SUFFIXES | OTHER_SUFFIXES
            (unreadable if is_image else others).append(entry)
    lines = _unreadable_lines(text, unreadable)
    if not matches:
        why = f" that can be read ({lines[0].partition(': ')[2]})" if lines else ""
        if os.path.isdir(path) and not recursive and any(os.path.isdir(entry) for entry in entries):
            why += "; its folders are searched with --recursive"
        names = ", ".join(sorted(known))
        raise InputError(problem + why, where=text, hint=f"give images ({names}), a folder or a pattern")
    images.unreadable += lines
    if others:
        images.skipped.append(f"{text}: skipped {_counted(others)} (not images, or hidden)")
    return matches


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


def _entries(text: str, folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except OSError as error:
        raise InputError(f"cannot be read ({error.strerror})", where=text, hint="check its permissions") from error


def _walk(folder: Path) -> Iterator[Path]:
    """Yield the files in a folder and in its folders, but for those that are hidden or links, which may form a loop."""
    for place, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        yield from (Path(place) / name for name in files)


def _hits(pattern: Path) -> list[Path]:
    """Return what a pattern matches; nothing that is hidden."""
    if "**" not in pattern.parts:
        return [Path(hit) for hit in glob.glob(str(pattern))]
    # Here `glob` would follow links to folders, and where these form a loop, for ever. `Path.glob` does not.
    fixed = next(place for place, part in enumerate(pattern.parts) if glob.has_magic(part))
    root, parts = Path(*pattern.parts[:fixed]), pattern.parts[fixed:]
    hits = root.glob("/".join(parts if parts[-1] != "**" else (*parts, "*")))
    return [hit for hit in hits if not any(part.startswith(".") for part in hit.relative_to(root).parts)]


def _is_hidden(path: Path) -> bool:
    return path.name.startswith(".")


def _unreadable_lines(text: str, paths: Sequence[Path]) -> list[str]:
    dangling = [path for path in paths if not os.path.exists(path)]
    others = [path for path in paths if os.path.exists(path)]
    lines = []
    if others:
        heic = any(path.suffix.lower() in SUFFIXES for path in others)
        hint = "convert them to PNG or JPEG" + (", or install 'banet-panoptic[heic]' for HEIC" if heic else "")
        lines.append(f"{text}: cannot read {_counted(others)}: not of a format that is read; {hint}")
    if dangling:
        names = ", ".join(path.name for path in dangling[:3]) + (", ..." if len(dangling) > 3 else "")
        lines.append(f"{text}: cannot read {_counted(dangling)}: links to files that do not exist ({names})")
    return lines


def _counted(paths: Iterable[Path]) -> str:
    """Return how many files, by suffix: "2 .txt, 1 hidden"."""
    kinds = Counter("hidden" if _is_hidden(path) else path.suffix.lower() or "without a suffix" for path in paths)
    return ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items(), key=lambda item: (-item[1], item[0])))

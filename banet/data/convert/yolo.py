"""YOLO segmentation: data.yaml, and beside each folder `images` one `labels` with a text file per image.

A line is a class index and the corners x y of one polygon, as fractions of width and height. Parts and holes of an
object are joined to one outline by lines that are walked there and back; filled even-odd they come out again.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from banet.data.convert.output import ConvertedImage, find_image_names, write_panoptic
from banet.data.convert.shapes import Shape, convert_shapes, everywhere, outlined, with_background
from banet.data.images import SUFFIXES, image_size
from banet.data.left_out import LeftOut, reported
from banet.errors import InputError, abbreviate, abbreviate_list
from banet.files.fields import as_number, as_numbers
from banet.files.reading import open_file
from banet.files.worker import isolated, isolated_items
from banet.panoptic.categories import Categories, Category
from banet.panoptic.coco.runs import Crop
from banet.panoptic.defaults import BEST_RULE
from banet.types import Progress, StrPath

__all__ = ["convert_yolo", "read_data_yaml"]

_LARGEST_YAML = 1 << 18  # bytes, which take 3 s
_LARGEST_LIST = 1 << 28
_LARGEST_LABELS = 1 << 26
_LONGEST_LINE = 1 << 22  # of 200,000 corners
_OUTSIDE = 0.01  # fraction of the image by which Ultralytics lets a corner lie outside


def convert_yolo(
    data: StrPath,
    split: str,
    out: StrPath,
    *,
    stuff: Collection[str] = (),
    overlaps: str = BEST_RULE,
    background: str = "",
    left_out: LeftOut | None = None,
    progress: Progress | None = None,
) -> Path:
    """Convert one split of a YOLO segmentation data set. Category ids are class indices + 1.

    Args:
        data: its data.yaml, or the folder of it.
        split: such as train, val or test.
        out: see `write_panoptic`. Image names are relative to the split's folder, or where the split has several or is
            a list, to the folder that all images are in.
        stuff: names of classes that are stuff.
        overlaps: `FAIL` or an occlusion rule.
        background: name of the stuff that pixels of no object are; void where it is empty.
        left_out: counts objects and names those without a pixel, or refuses them; by default they are a warning.
        progress: see `write_panoptic`.

    Returns:
        The path of panoptic.json.

    Raises:
        InputError: a file is missing or bad, a class is unknown, or objects overlap and may not.
    """
    file = Path(data)
    if file.is_dir():
        file = next(
            (file / name for name in ("data.yaml", "data.yml", "dataset.yaml") if (file / name).is_file()), file
        )
    names, sources = read_data_yaml(file, split)
    strange = sorted(set(stuff) - set(names.values()))
    if strange:
        raise InputError(
            f"{file} has no class of this name",
            where=f"--stuff {strange[0]}",
            hint=f"it has {abbreviate_list([*names.values()])}",
        )
    known = Categories(Category(index + 1, name, name not in stuff) for index, name in names.items())
    classes = with_background(known, background)
    root, images = _images(sources, file, split)
    if not any(_labels_of(root / name).is_file() for name in images):
        first = _labels_of(root / images[0])
        raise InputError(
            f"no image of it has labels: {first} does not exist",
            where=f"{file}: {split}",
            hint="put them where the last folder `images` of the image's path is `labels`",
        )

    def truths() -> Iterator[ConvertedImage]:
        for name in images:
            path = root / name
            labels, size = _labels_of(path), image_size(path)
            shapes = _shapes(labels, size, classes) if labels.is_file() else ()
            ground = everywhere(classes, background, size)
            yield convert_shapes(shapes, classes, root, name, size, overlaps, report, labels, ground=ground)

    with reported(left_out) as report:
        return write_panoptic(out, truths(), classes, len(images), progress)


@isolated
def read_data_yaml(file: Path, split: str = "") -> tuple[dict[int, str], list[Path]]:
    """Return the classes by index and the images of a split, if one is given: folders, or files that list images.

    Raises:
        InputError: the file is missing or bad, or has no such split.
    """
    with open_file(file) as stream:
        text = stream.read(_LARGEST_YAML + 1)
    try:
        if len(text) > _LARGEST_YAML:
            raise ValueError(f"larger than {_LARGEST_YAML >> 10} KB")
        content: Any = yaml.safe_load(text)
    except Exception as error:  # the constructors of YAML's types raise anything on bad data
        raise InputError(f"is not YAML ({' '.join(str(error).split())})", where=file, hint="write it again") from error
    if not isinstance(content, dict):
        raise InputError("must have the fields names and train", where=file, hint="give the data.yaml")
    content = {("val" if key == "validation" else key): value for key, value in content.items()}
    if not split:
        return _class_names(content, file), []
    if not content.get(split):
        known = [key for key in ("train", "val", "test", "minival") if content.get(key)]
        raise InputError(f"has no split {split}", where=file, hint=f"it has {', '.join(known) or 'none'}")
    base = content.get("path") or "."
    listed = content[split] if isinstance(content[split], list) else [content[split]]
    if not isinstance(base, str) or not all(isinstance(entry, str) for entry in listed):
        raise InputError("must be names of folders or files", where=f"{file}: {split}")
    return _class_names(content, file), [_located(file, base, entry, split) for entry in listed]


def _class_names(content: dict[Any, Any], file: Path) -> dict[int, str]:
    names, count = content.get("names"), content.get("nc")
    if names is None and type(count) is int and 0 < count < 1 << 16:
        return {index: f"class_{index}" for index in range(count)}
    found = dict(enumerate(names)) if isinstance(names, list) else names
    if not isinstance(found, dict) or not found:
        raise InputError("must be a list of names, or index: name", where=f"{file}: names", hint="add it")
    result: dict[int, str] = {}
    for index, name in found.items():
        number = int(index) if isinstance(index, str) and re.fullmatch("[0-9]{1,6}", index) else index
        if (
            type(number) is not int
            or not 0 <= number < 1 << 20
            or not isinstance(name, (str, int, float))
            or (type(name) is int and abs(name) >= 1 << 63)
            or name == ""
        ):
            raise InputError(f"{abbreviate(index)}: {abbreviate(name)} is not index: name", where=f"{file}: names")
        result[number] = str(name)
    double, times = Counter(result.values()).most_common(1)[0]
    if times > 1:
        raise InputError(f"{abbreviate(double)} occurs twice", where=f"{file}: names", hint="rename one")
    return result


def _located(file: Path, base: str, entry: str, split: str) -> Path:
    """Return the folder or list that an entry names: relative to `path`, which is relative to the file, or to it."""
    folder = file.parent
    roots = [folder / base, folder, *([folder / Path(base).name] if base != "." else [])]
    tried = [root / each for root in roots for each in (entry, entry.removeprefix("../"))]  # the latter: Roboflow's
    found = next((path for path in tried if os.path.exists(path)), None)  # false for names that no file can have
    if found is None:
        what = f"{abbreviate(str(tried[0]))} does not exist"
        raise InputError(what, where=f"{file}: {split}", hint="correct it, or 'path'")
    return found


def _images(sources: list[Path], file: Path, split: str) -> tuple[Path, list[str]]:
    """Return the folder of the images and their names in it."""
    if len(sources) == 1 and sources[0].is_dir():
        root = sources[0]
        names = find_image_names(root, f"{file}: {split}")
    else:
        paths = []
        for source in sources:
            if source.is_dir():
                paths += [Path(os.path.abspath(source)) / name for name in find_image_names(source, f"{file}: {split}")]
            else:
                paths += map(Path, _listed(source))
        root = Path(os.path.commonpath([path.parent for path in paths])) if paths else file.parent
        names = [path.relative_to(root).as_posix() for path in paths]
    if not names:
        raise InputError(f"there is no image in {sources[0]}", where=f"{file}: {split}", hint="correct it, or 'path'")
    return root, names


@isolated
def _listed(file: Path) -> list[str]:
    """Return the images that a text file lists, which must be there; names that begin with ./ are relative to it."""
    with open_file(file) as stream:
        data = stream.read(_LARGEST_LIST + 1)
    try:
        lines = data.decode("utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        raise InputError(f"is not text ({error})", where=file, hint="list one image per line") from None
    if len(data) > _LARGEST_LIST:
        raise InputError(f"is larger than {_LARGEST_LIST >> 20} MB", where=file, hint="split it up")
    paths: dict[str, None] = {}
    for name in map(str.strip, lines):
        if os.path.splitext(name)[1].lower() not in SUFFIXES:
            continue
        path = os.path.abspath(os.path.join(file.parent, name))
        if path in paths:
            raise InputError(f"lists {abbreviate(name)} twice", where=file, hint="keep one")
        if not os.path.isfile(path):
            raise InputError(f"{abbreviate(name)} does not exist", where=file, hint="take it out of the list")
        paths[path] = None
    return [*paths]


def _labels_of(image: Path) -> Path:
    """Return the text file of an image: the last folder `images` of its path is `labels`."""
    parts = list(image.parts)
    places = [place for place, part in enumerate(parts[:-1]) if part == "images"]
    if not places:  # of a relative path the folder above may be it
        return image.with_suffix(".txt")
    parts[places[-1]] = "labels"
    return Path(*parts).with_suffix(".txt")


@isolated_items
def _shapes(file: Path, size: tuple[int, int], classes: Categories) -> Iterator[Shape]:
    if not file.stat().st_size:
        return
    with open_file(file) as stream:
        data = stream.read(_LARGEST_LABELS + 1)
    if len(data) > _LARGEST_LABELS:
        raise InputError(f"is larger than {_LARGEST_LABELS >> 20} MB", where=file, hint="split up the image")
    seen: set[bytes] = set()
    for number, line in enumerate(data.removeprefix(b"\xef\xbb\xbf").splitlines(), start=1):
        if len(line) > _LONGEST_LINE:
            what = f"is longer than {_LONGEST_LINE:,} characters"
            raise InputError(what, where=f"{file}: line {number}", hint="draw it with fewer corners")
        line = line.strip()
        if not line or line in seen:  # Ultralytics leaves out doubles, too
            continue
        seen.add(line)
        where = f"{file}: line {number}"
        texts = line.decode("ascii", "replace").split()
        numbers = as_numbers(texts)
        if numbers is None:
            wrong = next((text for text in texts if as_number(text) is None), texts[0])
            raise InputError(f"holds {abbreviate(wrong)}, not a number", where=where)
        index = numbers.pop(0)
        if index % 1 or int(index) + 1 not in classes:
            raise InputError(f"class {index:g} is not in 'names'", where=where, hint="correct it, or data.yaml")
        crop, why = _crop(numbers, size, where)
        yield Shape(f"line {number}", int(index) + 1, crop, why=why)


def _crop(numbers: list[float], size: tuple[int, int], where: str) -> tuple[Crop, str]:
    """Return the pixels of a line without its class and, if there are none, why."""
    if len(numbers) in (4, 5):
        return Crop.empty(), "without an outline (a box)"
    if len(numbers) < 6:
        return Crop.empty(), "too few corners"
    if len(numbers) % 2:
        numbers = numbers[:-1]  # Ultralytics appends the confidence of predictions
    if min(numbers) < -_OUTSIDE or max(numbers) > 1 + _OUTSIDE:
        worst = max(numbers, key=lambda value: abs(value - 0.5))
        raise InputError(f"{worst:g} is not in 0..1", where=where, hint="divide by width and height of the image")
    corners = np.array(numbers).reshape(-1, 2) * size[::-1]
    try:
        return outlined([corners.ravel().tolist()], size)
    except ValueError as error:
        raise InputError(str(error), where=where, hint="draw it anew") from error

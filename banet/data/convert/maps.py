"""Folders of label maps and instance maps, and ADE20K, which comes as such."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from banet.data.convert.output import (
    ConvertedImage,
    find_image_files,
    from_classes,
    same_size,
    write_panoptic,
)
from banet.errors import InputError
from banet.files.reading import open_file
from banet.files.worker import isolated
from banet.panoptic.categories import Categories, Category
from banet.panoptic.coco.annotations import read_categories
from banet.panoptic.coco.png import read_ids, read_labels
from banet.types import Progress, StrPath

__all__ = ["ade20k_categories", "convert_ade20k", "convert_maps"]


def convert_maps(
    images: StrPath,
    labels: StrPath,
    categories: StrPath,
    out: StrPath,
    *,
    instances: StrPath | None = None,
    void: Sequence[int] = (),
    progress: Progress | None = None,
) -> Path:
    """Converts a folder of label maps, with or without instance maps.

    All three folders hold the same names, in the same folders, whatever their suffixes.

    Args:
        images: the images.
        labels: PNGs of category ids: grey, 8 or 16 bits, or palette.
        categories: JSON of the classes, see `read_categories`.
        out: see `write_panoptic`.
        instances: PNGs of instance numbers, 0 where there is none. Without them, and where they are 0, things are
            crowd.
        void: labels that are void; 0 is, unless it is a category's id.
        progress: see `write_panoptic`.

    Returns:
        The path of panoptic.json.

    Raises:
        InputError: a folder, map or image is missing or bad, or a label is unknown.
    """
    classes = read_categories(categories)
    image_files, label_maps = find_image_files(images), find_image_files(labels, "--labels")
    instance_maps = None if instances is None else find_image_files(instances, "--instances")
    for stem, name in label_maps.items():
        if stem not in image_files:
            raise InputError(
                f"there is no image of this name in {images}", where=Path(labels) / name, hint="add or remove it"
            )
        if instance_maps is not None and stem not in instance_maps:
            raise InputError(
                f"there is no instance map of this name in {instances}", where=Path(labels) / name, hint="add it"
            )

    def truths() -> Iterator[ConvertedImage]:
        for stem, name in label_maps.items():
            path = Path(labels) / name
            values, _ = read_labels(path)
            same_size(path, values.shape, Path(images) / image_files[stem])
            numbers = None
            if instances is not None and instance_maps is not None:
                numbers, _ = read_labels(Path(instances) / instance_maps[stem])
                same_size(Path(instances) / instance_maps[stem], numbers.shape, Path(images) / image_files[stem])
            yield ConvertedImage(image_files[stem], *from_classes(path, values, numbers, classes, void))

    return write_panoptic(out, truths(), classes, len(label_maps), progress)


def convert_ade20k(root: StrPath, split: str, out: StrPath, progress: Progress | None = None) -> Path:
    """Converts one split of ADEChallengeData2016 with its instances.

    Args:
        root: folder of images, annotations, annotations_instance, objectInfo150.txt and categoryMapping.txt.
        split: training or validation.
        out: see `write_panoptic`; its images are those of ROOT/images/SPLIT.
        progress: see `write_panoptic`.

    Returns:
        The path of panoptic.json. Category ids are the label maps' values, 1..150. Where label map and instance map
        differ the instance goes before; pixels of a thing that are of no instance are crowd.

    Raises:
        InputError: a file is missing or bad.
    """
    base = Path(root)
    classes, label_of = ade20k_categories(base)
    image_files = find_image_files(base / "images" / split, "--root")
    label_maps = find_image_files(base / "annotations" / split, "--root")
    missing = next((stem for stem in label_maps if stem not in image_files), None)
    if missing is not None:
        raise InputError(
            f"has no image {missing}.jpg", where=base / "images" / split, hint="add it or remove its annotation"
        )

    def truths() -> Iterator[ConvertedImage]:
        for stem, name in label_maps.items():
            image_path = base / "images" / split / image_files[stem]
            path = base / "annotations" / split / name
            labels, _ = read_labels(path)
            same_size(path, labels.shape, image_path)
            path = base / "annotations_instance" / split / name
            kind, numbers = _instances(path)
            same_size(path, numbers.shape, image_path)
            if kind.max() >= len(label_of):
                raise InputError(
                    f"holds instance class {kind.max()}, which categoryMapping.txt does not list", where=path
                )
            labels = np.where(numbers > 0, label_of[kind], labels)
            yield ConvertedImage(image_files[stem], *from_classes(path, labels, numbers, classes))

    return write_panoptic(out, truths(), classes, len(label_maps), progress)


def ade20k_categories(root: Path) -> tuple[Categories, NDArray[np.int32]]:
    """Return the classes of ADE20K and the label of each instance class (0: none), from the tables that it comes with.

    Raises:
        InputError: a table is missing, or a line of it is not understood.
    """
    names: dict[int, str] = {}
    file = root / "objectInfo150.txt"
    for number, line in _rows(file):
        cells = line.split("\t")
        name = cells[-1].strip().split(",")[0]
        if len(cells) < 2 or not name or (label := _label(cells[0])) is None:
            raise InputError(
                "must begin with a number and end with a name, with tabs between", where=f"{file}, line {number}"
            )
        names[label] = name
    label_of: dict[int, int] = {}
    file = root / "categoryMapping.txt"
    for number, line in _rows(file):
        kind, label = ([_label(cell) for cell in line.split()] + [None, None])[:2]
        if kind is None or label not in names:
            raise InputError(
                "must begin with an instance class and a line of objectInfo150.txt", where=f"{file}, line {number}"
            )
        label_of[kind] = label
    table = np.zeros(1 + max(label_of), np.int32)
    table[list(label_of)] = list(label_of.values())
    things = set(label_of.values())
    return Categories(Category(label, name, label in things) for label, name in names.items()), table


def _label(text: str) -> int | None:
    """Return a whole number in 0..65535; None where it is none."""
    digits = text.strip()
    return int(digits) if re.fullmatch("[0-9]{1,5}", digits) and int(digits) < 1 << 16 else None


@isolated
def _rows(file: Path) -> list[tuple[int, str]]:
    """Numbers and texts of a table's lines, without its head."""
    with open_file(file) as stream:
        data = stream.read(1 << 20)  # a hundred times what is in them
    try:
        lines = data.decode("utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise InputError(f"cannot be read ({error})", where=file, hint="copy it anew") from None
    rows = [(number, line) for number, line in enumerate(lines[1:], start=2) if line.strip()]
    if not rows:
        raise InputError("holds no line", where=file, hint="copy it anew")
    return rows


def _instances(path: Path) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Instance class (red) and instance number (green) of each pixel."""
    values = read_ids(path)
    return values & 0xFF, values >> 8 & 0xFF

"""Pascal VOC: PNGs of classes and of objects, with VOC's palette or as RGB in the colours of a labelmap.txt.

0 is the background and 255 the outline, which both are void. CVAT and datumaro write colours and a labelmap.txt,
labelme2voc.py writes a class_names.txt.
"""

from __future__ import annotations

import io
from collections.abc import Collection, Iterable, Iterator
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from banet.data.convert.output import ConvertedImage, find_image_files, from_classes, same_size, write_panoptic
from banet.errors import InputError, abbreviate, abbreviate_list
from banet.files.names import check_file_name, without_suffix
from banet.files.reading import open_file
from banet.files.worker import isolated_items
from banet.panoptic.categories import Categories, Category
from banet.panoptic.coco.png import read_labels
from banet.types import Progress, StrPath

__all__ = ["VOC_CLASSES", "VOID", "convert_voc", "read_voc_classes", "voc_colors"]

VOC_CLASSES = (
    *("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable", "dog"),
    *("horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor"),
)
"""Names of the classes 1 to 20."""

VOID = 255
"""The outline of objects, in both PNGs."""
_VOID_NAMES = ("background", "_background_", "ignored", "__ignore__", "void")
_LARGEST_TEXT = 1 << 26


def voc_colors(count: int = 256) -> NDArray[np.uint8]:
    """Return VOC's palette, (count, 3): the bits of an index, spread from the top over red, green and blue."""
    index = np.arange(count)
    colors = np.zeros((count, 3), np.int64)
    for bit in range(8):
        for channel in range(3):
            colors[:, channel] |= (index >> (3 * bit + channel) & 1) << (7 - bit)
    return colors.astype(np.uint8)


def convert_voc(
    root: StrPath,
    split: str,
    out: StrPath,
    *,
    stuff: Collection[str] = (),
    progress: Progress | None = None,
) -> Path:
    """Convert one split. Category ids are the indices of the class PNGs.

    Args:
        root: folder of JPEGImages, SegmentationClass, SegmentationObject and ImageSets/Segmentation; such as
            VOCdevkit/VOC2012.
        split: name of a list in ImageSets/Segmentation; or `all` for all that have a class PNG.
        out: see `write_panoptic`; its images are those of ROOT/JPEGImages.
        stuff: classes that are stuff; may hold the background.
        progress: see `write_panoptic`.

    Returns:
        The path of panoptic.json. Pixels of a thing that are of no object are crowd.

    Raises:
        InputError: a file is missing or bad.
    """
    base = Path(root)
    images, class_maps, object_maps = (
        base / name for name in ("JPEGImages", "SegmentationClass", "SegmentationObject")
    )
    for folder in (images, class_maps, object_maps):
        if not folder.is_dir():
            hint = "give the folder of JPEGImages, SegmentationClass and SegmentationObject"
            if folder == object_maps and class_maps.is_dir():
                hint = "class PNGs alone are for `banet data convert maps`"
            raise InputError("does not exist", where=folder, hint=hint)
    names, colors = read_voc_classes(base)
    strange = sorted(set(stuff) - set(names.values()))
    if strange:
        raise InputError(
            "is not a class", where=f"--stuff {strange[0]}", hint=f"there are {abbreviate_list([*names.values()])}"
        )
    kept = {index: name for index, name in names.items() if name in stuff or name not in _VOID_NAMES}
    classes = Categories(
        Category(index, name, name not in stuff, _color(colors, index)) for index, name in kept.items()
    )
    void = [VOID, *(index for index in names if index not in kept)]
    class_colors = {color: index for index, color in colors.items()} | {(224, 224, 192): VOID}
    object_colors = {(r, g, b): index for index, (r, g, b) in enumerate(voc_colors().tolist())}
    image_files = find_image_files(images)
    stems = _stems(base, split, class_maps, image_files)

    def truths() -> Iterator[ConvertedImage]:
        for stem in stems:
            path, other = class_maps / f"{stem}.png", object_maps / f"{stem}.png"
            labels, _ = read_labels(path, class_colors)
            same_size(path, labels.shape, images / image_files[stem])
            numbers, _ = read_labels(other, object_colors)
            same_size(other, numbers.shape, images / image_files[stem])
            labels[numbers == VOID] = VOID
            yield ConvertedImage(image_files[stem], *from_classes(path, labels, numbers, classes, void))

    return write_panoptic(out, truths(), classes, len(stems), progress)


def _color(colors: dict[int, tuple[int, int, int]], index: int) -> tuple[int, int, int]:
    return colors[index] if index in colors else tuple(voc_colors(index + 1)[index].tolist())


def read_voc_classes(base: Path) -> tuple[dict[int, str], dict[int, tuple[int, int, int]]]:
    """Return names and colours of the classes by index: of labelmap.txt, class_names.txt, or VOC's own."""
    palette: list[tuple[int, int, int]] = [(r, g, b) for r, g, b in voc_colors().tolist()]
    for name in ("labelmap.txt", "class_names.txt"):
        file = base / name
        if not file.is_file():
            continue
        lines = (line.strip() for line in _lines(file) if line.strip() and not line.startswith("#"))
        rows = [*islice(lines, VOID + 2)]  # one too many shows that there are
        if name == "class_names.txt":
            rows = [row for row in rows if row != "__ignore__"]  # which has the label -1, that is, 255
        if not 0 < len(rows) <= VOID:
            what = "no class" if not rows else f"more than {VOID} classes"
            raise InputError(f"holds {what}", where=file, hint="list 1 to 255")
        names = dict(enumerate(row.split(":")[0] if name == "labelmap.txt" else row for row in rows))
        double = next((each for each in names.values() if list(names.values()).count(each) > 1), None)
        if double is not None:
            raise InputError(f"{abbreviate(double)} occurs twice", where=file, hint="rename one")
        colors = dict(enumerate(palette[: len(rows)]))
        if name == "labelmap.txt":
            colors = {index: _color_of(row, palette[index], f"{file}: {row}") for index, row in enumerate(rows)}
        return names, colors
    names = {0: "background", **dict(enumerate(VOC_CLASSES, start=1))}
    return names, {index: palette[index] for index in names}


def _color_of(row: str, default: tuple[int, int, int], where: str) -> tuple[int, int, int]:
    """Return the colour of a line `label:red,green,blue:parts:actions`."""
    cell = row.partition(":")[2].partition(":")[0]
    if not cell.strip():
        return default
    parts = [int(part) if part.strip().isdecimal() and len(part.strip()) < 4 else 256 for part in cell.split(",")]
    if len(parts) != 3 or max(parts) > 255:
        raise InputError("must be label:red,green,blue:parts:actions", where=where)
    return parts[0], parts[1], parts[2]


def _stems(base: Path, split: str, class_maps: Path, image_files: Collection[str]) -> list[str]:
    """Return the names without suffix of the images of a split, of which `image_files` must have each."""
    if split == "all":
        maps = sorted(class_maps.rglob("*.png"))
        stems = [(without_suffix(path.relative_to(class_maps).as_posix()), path) for path in maps]
        return _checked(((stem, str(path)) for stem, path in stems), base, image_files)
    lists = base / "ImageSets" / "Segmentation"
    file = lists / f"{split}.txt"
    if not file.is_file():
        known = sorted(path.stem for path in lists.glob("*.txt")) if lists.is_dir() else []
        raise InputError("does not exist", where=file, hint=f"there are {', '.join([*known, 'all'])}")
    lines = ((line.strip(), f"{file}, line {n}") for n, line in enumerate(_lines(file), 1) if line.strip())
    return _checked(lines, base, image_files)


def _checked(stems: Iterable[tuple[str, str]], base: Path, image_files: Collection[str]) -> list[str]:
    """Return names, given with their places, each of which must be of an image and occur once."""
    found: dict[str, None] = {}
    for stem, where in stems:
        check_file_name(stem, where)
        if stem not in image_files:
            what = f"there is no image {abbreviate(stem)} in {base / 'JPEGImages'}"
            raise InputError(what, where=where, hint="add it, or take it out of the list")
        if stem in found:
            raise InputError(f"{abbreviate(stem)} is listed twice", where=where, hint="keep one")
        found[stem] = None
    return [*found]


@isolated_items
def _lines(file: Path) -> Iterator[str]:
    with open_file(file) as stream:
        data = io.BytesIO(stream.read(_LARGEST_TEXT))
    try:
        yield from io.TextIOWrapper(data, "utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"is not text ({error})", where=file, hint="write it again as UTF-8") from None

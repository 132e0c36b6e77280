"""Cityscapes: gtFine/SPLIT/CITY/*_gtFine_instanceIds.png beside leftImg8bit/SPLIT/CITY/*_leftImg8bit.png.

A pixel of an instance map holds 1000 times its label and the number of the instance; below 1000 it is the label alone:
stuff, or a group that nobody separated, which becomes a crowd. Labels that do not count in the benchmark become void.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from banet.data.convert.output import ConvertedImage, same_size, write_panoptic
from banet.errors import InputError
from banet.panoptic.categories import Categories, Category
from banet.panoptic.coco.png import read_labels
from banet.panoptic.segments import Segment
from banet.types import Progress, StrPath

__all__ = ["CATEGORIES", "convert_cityscapes"]

CATEGORIES = Categories(
    [
        Category(7, "road", False, (128, 64, 128)),
        Category(8, "sidewalk", False, (244, 35, 232)),
        Category(11, "building", False, (70, 70, 70)),
        Category(12, "wall", False, (102, 102, 156)),
        Category(13, "fence", False, (190, 153, 153)),
        Category(17, "pole", False, (153, 153, 153)),
        Category(19, "traffic light", False, (250, 170, 30)),
        Category(20, "traffic sign", False, (220, 220, 0)),
        Category(21, "vegetation", False, (107, 142, 35)),
        Category(22, "terrain", False, (152, 251, 152)),
        Category(23, "sky", False, (70, 130, 180)),
        Category(24, "person", True, (220, 20, 60)),
        Category(25, "rider", True, (255, 0, 0)),
        Category(26, "car", True, (0, 0, 142)),
        Category(27, "truck", True, (0, 0, 70)),
        Category(28, "bus", True, (0, 60, 100)),
        Category(31, "train", True, (0, 80, 100)),
        Category(32, "motorcycle", True, (0, 0, 230)),
        Category(33, "bicycle", True, (119, 11, 32)),
    ]
)
"""The 19 classes of the benchmark, by their label ids."""

_LABELS = 34  # 0..33; the licence plate's -1 is in no instance map
_SUFFIX = "_gtFine_instanceIds.png"


def convert_cityscapes(root: StrPath, split: str, out: StrPath, progress: Progress | None = None) -> Path:
    """Converts one split.

    Args:
        root: folder of gtFine and leftImg8bit.
        split: such as train or val.
        out: see `write_panoptic`; its images are those of ROOT/leftImg8bit/SPLIT.
        progress: see `write_panoptic`.

    Returns:
        The path of panoptic.json.

    Raises:
        InputError: a folder, a map or an image is missing or bad.
    """
    truth, images = Path(root) / "gtFine" / split, Path(root) / "leftImg8bit" / split
    for folder in (truth, images):
        if not folder.is_dir():
            raise InputError("does not exist", where=folder, hint="--root is the folder of gtFine and leftImg8bit")
    maps = sorted(truth.glob(f"*/*{_SUFFIX}"))
    if not maps:
        raise InputError(f"holds no CITY/*{_SUFFIX}", where=truth, hint="unpack gtFine_trainvaltest.zip there")
    return write_panoptic(out, _truths(maps, images), CATEGORIES, len(maps), progress)


def _truths(maps: list[Path], images: Path) -> Iterator[ConvertedImage]:
    for path in maps:
        name = f"{path.parent.name}/{path.name.removesuffix(_SUFFIX)}_leftImg8bit.png"
        values, _ = read_labels(path)
        same_size(path, values.shape, images / name)
        present = np.unique(values)
        labels = np.where(present < 1000, present, present // 1000)
        if labels.max() >= _LABELS:
            raise InputError(
                f"holds {present[labels.argmax()]}, which is of no label", where=path, hint="is it an instance map?"
            )
        ids = np.zeros(_LABELS * 1000, np.int32)
        segments: dict[int, Segment] = {}
        for value, label in zip(present.tolist(), labels.tolist(), strict=True):
            if label in CATEGORIES:
                ids[value] = value
                isthing = CATEGORIES.isthing(label)
                segments[value] = Segment(value, label, isthing, iscrowd=isthing and value < 1000)
        yield ConvertedImage(name, ids[values], segments)

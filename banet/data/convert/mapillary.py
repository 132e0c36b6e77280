"""Mapillary Vistas, v1.2 and v2.0: SPLIT/VERSION/panoptic, or SPLIT/VERSION/instances with config_VERSION.json.

A pixel of an instance map holds 256 times the place of its label in the configuration, and the number of the instance.
The first download of v1.2 has neither folders nor configurations named after a version.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np

from banet.data.convert.coco import panoptic_truths
from banet.data.convert.output import ConvertedImage, find_image_files, same_size, write_panoptic
from banet.data.left_out import LeftOut, reported
from banet.data.panoptic_stream import PanopticStream
from banet.errors import InputError
from banet.files.fields import read_flag, read_object
from banet.files.reading import read_json
from banet.panoptic.categories import Categories
from banet.panoptic.coco.png import read_labels
from banet.panoptic.segments import Segment
from banet.types import Progress, StrPath

__all__ = ["MapillaryVersion", "convert_mapillary"]

MapillaryVersion = Literal["v1.2", "v2.0"]
_PANOPTIC = {"v1.2": "panoptic_2018.json", "v2.0": "panoptic_2020.json"}


def convert_mapillary(
    root: StrPath,
    split: str,
    out: StrPath,
    *,
    version: MapillaryVersion = "v2.0",
    left_out: LeftOut | None = None,
    progress: Progress | None = None,
) -> Path:
    """Convert one split. Category ids are places in the configuration + 1, as in the panoptic files.

    Args:
        root: folder of training, validation and the configurations.
        split: training or validation.
        out: see `write_panoptic`; its images are those of ROOT/SPLIT/images.
        version: of the labels.
        left_out: counts segments and names those without a pixel, or refuses them; by default they are a warning.
        progress: see `write_panoptic`.

    Returns:
        The path of panoptic.json. Labels that are not evaluated are void.

    Raises:
        InputError: a file is missing or bad.
    """
    base = Path(root)
    folder, images = base / split, base / split / "images"
    if (folder / version).is_dir():
        folder = folder / version
    elif version == "v2.0" and not (folder / "panoptic" / _PANOPTIC[version]).is_file():
        raise InputError("does not exist", where=folder / version, hint="for the labels of v1.2 add --version v1.2")
    with reported(left_out) as report:
        panoptic = folder / "panoptic" / _PANOPTIC[version]
        if panoptic.is_file():
            stream = PanopticStream(panoptic, panoptic.parent)
            truths = panoptic_truths(stream, images, report)
            return write_panoptic(out, truths, stream.categories, len(stream.images), progress)
        maps = find_image_files(folder / "instances", "--root")
        classes = _categories(base, version)
        image_files = find_image_files(images, "--root")
        missing = next((stem for stem in maps if stem not in image_files), None)
        if missing is not None:
            raise InputError(f"has no image {missing}.jpg", where=images, hint="add it or remove its instance map")
        pairs = [(folder / "instances" / maps[stem], image_files[stem]) for stem in maps]
        return write_panoptic(out, _truths(pairs, images, classes, report), classes, len(pairs), progress)


def _categories(base: Path, version: str) -> Categories:
    files = [base / f"config_{version}.json", base / "config.json"]
    file = next((each for each in files if each.is_file()), files[0])
    content = read_json(file)
    labels = content.get("labels") if isinstance(content, dict) else None
    if not isinstance(labels, list) or not labels:
        raise InputError("'labels' is missing", where=file, hint="unpack it from the download")
    kept: list[dict[str, Any]] = []
    for place, entry in enumerate(labels):
        label = read_object(entry, f"{file}: labels[{place}]")
        if "evaluate" not in label or read_flag(label, "evaluate", f"{file}: labels[{place}]"):
            thing = read_flag(label, "instances", f"{file}: labels[{place}]")
            kept.append(
                {
                    "id": place + 1,
                    "name": label.get("readable") or label.get("name"),
                    "isthing": thing,
                    "color": label.get("color"),
                }
            )
    return Categories.from_coco(kept, f"{file}: labels")


def _truths(
    pairs: list[tuple[Path, str]], images: Path, classes: Categories, report: LeftOut
) -> Iterator[ConvertedImage]:
    for path, name in pairs:
        values, _ = read_labels(path)
        same_size(path, values.shape, images / name)
        present, place = np.unique(values, return_inverse=True)
        ids = np.zeros(len(present), np.int32)
        segments: dict[int, Segment] = {}
        stuff: dict[int, int] = {}
        for row, value in enumerate(present.tolist()):
            label = value // 256 + 1
            if label not in classes:
                continue
            isthing = classes.isthing(label)
            identity = stuff.setdefault(label, value + 1) if not isthing else value + 1
            ids[row] = identity
            segments[identity] = Segment(identity, label, isthing)
        report.objects += len(segments)
        yield ConvertedImage(name, ids[place.reshape(values.shape)], segments)

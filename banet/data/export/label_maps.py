"""Label maps: PNGs of classes with a colour table, and maps of instance numbers."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image

from banet.data.export.source import ExportFormat, ExportImage, ExportReport, stem_of
from banet.errors import InputError
from banet.files.atomic import atomic_path, write_json
from banet.files.names import DistinctNames
from banet.panoptic.categories import Categories
from banet.panoptic.coco.png import write_labels

__all__ = ["InstanceMaps", "SemanticMaps"]

_PNG = 1 << 16  # values of a grey PNG


class SemanticMaps(ExportFormat):
    """labels/SPLIT/NAME.png with a class per pixel, and classes.json with name and colour of each value.

    The PNGs have the classes' colours as their palette, where no value is above 255. Lost are instances.

    Args:
        split: name of the split.
        contiguous: number the classes from 0, things by id, then stuff by id, in place of their ids.
        void: value of void pixels; by default 255, or where a value is above that, 65535.
    """

    names = ("classes.json",)

    def __init__(self, split: str = "train", *, contiguous: bool = False, void: int | None = None) -> None:
        self._split, self._contiguous, self._void = split, contiguous, void
        self.trees = (f"labels/{split}",)
        self._names = DistinctNames(".png", on_disk=True)

    def begin(self, categories: Categories, final: Path) -> None:
        """Choose the value of each class."""
        ids = [category.id for category in categories]
        self._values = {i: index if self._contiguous else i for index, i in enumerate(ids)}
        highest = max(self._values.values())
        self._void_value = (255 if highest < 256 else _PNG - 1) if self._void is None else self._void
        if max(highest, self._void_value) >= _PNG:
            raise InputError(f"class {highest}: a PNG holds values up to {_PNG - 1}", hint="add --contiguous")
        if self._void_value in self._values.values():
            raise InputError(f"--void: {self._void_value} is the value of a class", hint="choose another")
        self._table: list[dict[str, Any]] = [
            {"id": value, "name": c.name, "isthing": int(c.isthing), "color": list(c.color)}
            for c, value in zip(categories, self._values.values(), strict=True)
        ]
        self._colors = None
        if max(highest, self._void_value) < 256:
            self._colors = np.zeros((256, 3), np.uint8)
            for entry in self._table:
                self._colors[entry["id"]] = entry["color"]

    def add(self, image: ExportImage, folder: Path, report: ExportReport) -> None:
        """Write one image."""
        things = sum(segment.isthing for segment in image.segments)
        if things:
            report.lost["segments of things, of which the class is kept"] += things
        labels = image.paint([self._values[s.category_id] for s in image.segments], self._void_value)
        path = folder / "labels" / self._split / f"{stem_of(self._names, image.file_name)}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_labels(path, labels, self._colors)

    def end(self, folder: Path) -> None:
        """Write the table."""
        write_json(folder / "classes.json", self._table, indent=1)


class InstanceMaps(ExportFormat):
    """masks/SPLIT/NAME_masks.tif with an object's number per pixel, 0 where there is none, as cell tools read it.

    Numbers are of 16 bits, of 32 where there are more objects (TIFF and NPY). Lost are stuff, crowds and classes.

    Args:
        split: name of the split.
        file_type: of the maps.
        suffix: what is put after the images' names.
    """

    def __init__(
        self, split: str = "train", *, file_type: Literal["tif", "png", "npy"] = "tif", suffix: str = "_masks"
    ) -> None:
        self._split, self._type, self._suffix = split, file_type, suffix
        self.trees = (f"masks/{split}",)
        self._names = DistinctNames(f"{suffix}.{file_type}", on_disk=True)

    def begin(self, categories: Categories, final: Path) -> None:
        """Take in the classes."""
        self._several = categories.num_things > 1

    def add(self, image: ExportImage, folder: Path, report: ExportReport) -> None:
        """Write one image."""
        objects = [segment.isthing and not segment.iscrowd for segment in image.segments]
        for segment, is_object in zip(image.segments, objects, strict=True):
            if not is_object:
                report.lost["crowd segments" if segment.iscrowd else "stuff segments"] += 1
            elif self._several:
                report.lost["classes of objects"] += 1
        numbers = image.paint(np.where(objects, np.cumsum(objects), 0).tolist(), 0)
        path = folder / "masks" / self._split
        path = path / f"{stem_of(self._names, image.file_name)}{self._suffix}.{self._type}"
        path.parent.mkdir(parents=True, exist_ok=True)
        wide = int(numbers.max(initial=0)) >= _PNG
        if wide and self._type == "png":
            raise InputError(f"image {image.file_name} has more than {_PNG - 1} objects", hint="add --file-type tif")
        array = numbers.astype(np.int32 if wide else np.uint16)
        with atomic_path(path) as temporary:
            if self._type == "npy":
                with temporary.open("wb") as file:
                    np.save(file, array, allow_pickle=False)
            else:
                options = {"compression": "tiff_deflate"} if self._type == "tif" else {}
                Image.fromarray(array).save(temporary, **options)

    def end(self, folder: Path) -> None:
        """Write nothing more."""

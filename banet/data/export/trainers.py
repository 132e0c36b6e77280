"""The folders that trainers of other panoptic networks read: Mask2Former (detectron2), EoMT and LightlyTrain."""

from __future__ import annotations

import io
import os
import shutil
import tempfile
import zipfile
from dataclasses import replace
from pathlib import Path, PurePosixPath

from banet.data.export.coco_instances import CocoInstances
from banet.data.export.source import (
    ExportFormat,
    ExportImage,
    ExportReport,
    code_anew,
    place_image,
    stem_of,
)
from banet.errors import InputError
from banet.files.atomic import atomic_path
from banet.files.names import DistinctNames
from banet.files.staging import JsonLists
from banet.panoptic.categories import Categories
from banet.panoptic.coco.png import write_ids, write_labels

__all__ = ["Eomt", "LightlyTrain", "Mask2Former"]

_VOID = 255


class _Panoptic(ExportFormat):
    """What the three have in common: images, id PNGs that are named after them, and a panoptic JSON.

    Attributes:
        images: folder of the images.
        pngs: folder of the id PNGs.
        jpeg: whether images must be JPEG files that end in .jpg.
        flat: whether images may not be in folders.
        upright: whether EXIF must not turn images, as id PNGs are upright and the reader may not turn images.
    """

    images = "images"
    pngs = "panoptic"
    jpeg = flat = False
    upright = True

    def __init__(self, *, link: bool = False) -> None:
        self._link = link
        self._names = DistinctNames(".png", on_disk=True)
        self._lists = JsonLists()

    def begin(self, categories: Categories, final: Path) -> None:
        """Take in the classes."""
        self.categories, self.final = categories, final

    def add(self, image: ExportImage, folder: Path, report: ExportReport) -> None:
        """Write one image."""
        stem = stem_of(self._names, image.file_name, flat=self.flat)
        name = f"{stem}{'.jpg' if self.jpeg else PurePosixPath(image.file_name).suffix}"
        image = replace(image, file_name=name)
        height, width = image.ids.shape
        self._lists.add("images", {"id": image.id, "file_name": name, "width": width, "height": height})
        segments = [segment.to_coco() for segment in image.segments]
        self._lists.add("annotations", {"image_id": image.id, "file_name": f"{stem}.png", "segments_info": segments})
        self.write(image, stem, folder, report)

    def write(self, image: ExportImage, stem: str, folder: Path, report: ExportReport) -> None:
        """Write the files of one image, which has its new name and id."""
        png = folder / self.pngs / f"{stem}.png"
        png.parent.mkdir(parents=True, exist_ok=True)
        write_ids(png, image.ids)
        target = folder / self.images / image.file_name
        place_image(image.path, target, self._link, report, jpeg=self.jpeg, upright=self.upright)

    def write_json(self, path: Path) -> None:
        """Write the panoptic JSON."""
        path.parent.mkdir(parents=True, exist_ok=True)
        with self._lists as lists:
            lists.write(path, {"images": None, "annotations": None, "categories": self.categories.to_coco()})


class LightlyTrain(_Panoptic):
    """images/SPLIT, annotations/SPLIT and annotations/SPLIT.json, for `train_panoptic_segmentation`. Nothing is lost.

    Args:
        split: name of the split.
        link: link to the images.
    """

    def __init__(self, split: str = "train", *, link: bool = False) -> None:
        super().__init__(link=link)
        self.images, self.pngs = f"images/{split}", f"annotations/{split}"
        self.names = (f"annotations/{split}.json",)
        self.trees = (self.pngs,) if link else (self.pngs, self.images)
        self.linked = self.images if link else None

    def end(self, folder: Path) -> None:
        """Write the JSON."""
        self.write_json(folder / self.names[0])


class Mask2Former(_Panoptic):
    """COCO's layout of detectron2, below DETECTRON2_DATASETS: coco/SPLIT2017, panoptic_SPLIT2017 and annotations.

    panoptic_semseg_SPLIT2017 holds class indices, which the evaluation reads: things by id, then stuff by id; void is
    255. Images are JPEGs, as detectron2 puts .jpg for .png in the names of the id PNGs.

    Args:
        split: train or val.
        link: link to the images.
    """

    jpeg = number_ids = True
    upright = False  # detectron2 turns images itself

    def __init__(self, split: str = "train", *, link: bool = False) -> None:
        super().__init__(link=link)
        year = f"{split}2017"
        self.images, self.pngs, self._semantic = f"coco/{year}", f"coco/panoptic_{year}", f"coco/panoptic_semseg_{year}"
        self._instances = CocoInstances(year)
        self.names = (f"coco/annotations/panoptic_{year}.json", *(f"coco/{name}" for name in self._instances.names))
        self.trees = (self.pngs, self._semantic, *(() if link else (self.images,)))
        self.linked = self.images if link else None

    def begin(self, categories: Categories, final: Path) -> None:
        """Take in the classes, of which a PNG of 8 bits holds 255."""
        super().begin(categories, final)
        self._instances.begin(categories, final)
        if len(categories) > _VOID:
            what = f"{len(categories)} classes, but the semantic PNGs hold {_VOID}"
            raise InputError(what, where="Mask2Former", hint="leave some out")

    def write(self, image: ExportImage, stem: str, folder: Path, report: ExportReport) -> None:
        """Write the files of one image, and its instances."""
        super().write(image, stem, folder, report)
        self._instances.add(image, folder, report)
        path = folder / self._semantic / f"{stem}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_labels(path, image.paint([self.categories.index(s.category_id) for s in image.segments], _VOID))

    def end(self, folder: Path) -> None:
        """Write the JSONs."""
        self.write_json(folder / self.names[0])
        self._instances.end(folder / "coco")


class Eomt(_Panoptic):
    """SPLIT2017.zip of the images, and panoptic_annotations_trainval2017.zip of a JSON and a zip of PNGs per split.

    Images are JPEGs without folders, as EoMT looks them up by their names. The second split is added to the first.

    Args:
        split: train or val.
    """

    jpeg = flat = True

    def __init__(self, split: str = "train") -> None:
        super().__init__()
        self._year = f"{split}2017"
        self._annotations = "panoptic_annotations_trainval2017.zip"
        self.names = (f"{self._year}.zip", self._annotations)
        self._pngs: zipfile.ZipFile | None = None
        self._photos: zipfile.ZipFile | None = None
        self._png_file = tempfile.TemporaryFile()  # noqa: SIM115  # closed with this object

    def write(self, image: ExportImage, stem: str, folder: Path, report: ExportReport) -> None:
        """Add one image and its id PNG to the zips."""
        if self._pngs is None or self._photos is None:
            self._pngs = zipfile.ZipFile(self._png_file, "w")
            self._photos = zipfile.ZipFile(folder / "images.tmp", "w")
        with tempfile.TemporaryDirectory() as temporary:
            png = Path(temporary) / "ids.png"
            write_ids(png, image.ids)
            _add(self._pngs, f"panoptic_{self._year}/{stem}.png", png.read_bytes())
        coded = io.BytesIO()
        anew = code_anew(image.path, coded, report, jpeg=self.jpeg, upright=self.upright)
        data = coded.getvalue() if anew else image.path.read_bytes()
        _add(self._photos, f"{self._year}/{image.file_name}", data)

    def end(self, folder: Path) -> None:
        """Close the zips, and put JSON and PNGs of this split beside those of others."""
        assert self._pngs is not None and self._photos is not None
        self._pngs.close()
        self._photos.close()
        if not (folder / "images.tmp").exists():  # a dry run deletes what it wrote
            return
        with atomic_path(folder / self.names[0]) as photos:
            os.replace(folder / "images.tmp", photos)
        own = (f"annotations/panoptic_{self._year}.json", f"annotations/panoptic_{self._year}.zip")
        with (
            atomic_path(folder / self._annotations) as target_zip,
            zipfile.ZipFile(target_zip, "w") as whole,
            tempfile.TemporaryDirectory() as temporary,
        ):
            if (self.final / self._annotations).is_file():
                with zipfile.ZipFile(self.final / self._annotations) as before:
                    for info in before.infolist():
                        if info.filename not in own:
                            with before.open(info) as source, whole.open(_entry(info.filename), "w") as target:
                                shutil.copyfileobj(source, target)
            json = Path(temporary) / "panoptic.json"
            self.write_json(json)
            self._png_file.seek(0)
            with json.open("rb") as file:
                for name, part in zip(own, (file, self._png_file), strict=True):
                    with whole.open(_entry(name), "w", force_zip64=True) as target:
                        shutil.copyfileobj(part, target)


def _entry(name: str) -> zipfile.ZipInfo:
    """Return the record of a file in a zip, whose date does not depend on the clock."""
    return zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0))


def _add(archive: zipfile.ZipFile, name: str, data: bytes) -> None:
    archive.writestr(_entry(name), data)

"""Pascal VOC: JPEGImages, SegmentationClass, SegmentationObject, ImageSets/Segmentation/SPLIT.txt and labelmap.txt."""

from __future__ import annotations

from pathlib import Path, PurePosixPath

from banet.data.convert.voc import VOID, read_voc_classes, voc_colors
from banet.data.export.source import ExportFormat, ExportImage, ExportReport, place_image, stem_of
from banet.errors import InputError
from banet.files.atomic import atomic_path
from banet.files.names import DistinctNames
from banet.panoptic.categories import Categories
from banet.panoptic.coco.png import write_labels

__all__ = ["Voc"]


class Voc(ExportFormat):
    """PNGs of classes and of objects with VOC's palette. Void is 255; 0, the background, does not occur.

    Classes are numbered from 1 in the order of their ids; labelmap.txt names them. Stuff is of no object, and neither
    is a crowd: of one class in one image the crowds become one. Lost are ids of classes and images.

    Args:
        split: name of the split.
        link: link to the images.
    """

    shared = True

    def __init__(self, split: str = "train", *, link: bool = False) -> None:
        self._split, self._link = split, link
        self.names = ("labelmap.txt", f"ImageSets/Segmentation/{split}.txt")
        self.trees = ("SegmentationClass", "SegmentationObject", *(() if link else ("JPEGImages",)))
        self._names = DistinctNames(".png", on_disk=True)
        self._stems: list[str] = []

    def begin(self, categories: Categories, final: Path) -> None:
        """Number the classes."""
        if len(categories) >= VOID:
            what = f"has {len(categories)} classes, VOC up to {VOID - 1}"
            raise InputError(what, where="the data set", hint="use `banet data export semantic`")
        ordered = sorted(categories, key=lambda category: category.id)
        self._index = {category.id: index for index, category in enumerate(ordered, start=1)}
        self._rows = ["background", *(category.name for category in ordered)]
        strange = next((name for name in self._rows[1:] if ":" in name or "\n" in name or name == "background"), None)
        if strange is not None:
            raise InputError(f"class {strange!r} cannot be named in labelmap.txt", hint="rename it")
        lists = [path for path in (final / "ImageSets" / "Segmentation").glob("*.txt") if path.stem != self._split]
        if not lists:
            return
        known, _ = read_voc_classes(final)
        if list(known.values()) != self._rows:
            what = f"has the classes {', '.join(known.values())}, not {', '.join(self._rows)}"
            hint = "choose another --out: all splits have the same classes"
            raise InputError(what, where=final / "labelmap.txt", hint=hint)
        for path in lists:  # all splits share the folders
            for stem in path.read_text(encoding="utf-8").split("\n"):
                self._names.choose(stem)

    def add(self, image: ExportImage, folder: Path, report: ExportReport) -> None:
        """Write one image."""
        objects = [segment.isthing and not segment.iscrowd for segment in image.segments]
        if sum(objects) >= VOID:
            what = f"image {image.file_name} has {sum(objects)} objects, VOC up to {VOID - 1}"
            raise InputError(what, hint="use `banet data export instance-maps`")
        crowds = [segment.category_id for segment in image.segments if segment.iscrowd]
        if len(crowds) > len(set(crowds)):
            report.lost["crowds, made one with another of their class"] += len(crowds) - len(set(crowds))
        numbers = [sum(objects[: row + 1]) if is_object else 0 for row, is_object in enumerate(objects)]
        stem = stem_of(self._names, image.file_name)
        classes = [self._index[segment.category_id] for segment in image.segments]
        for name, values in (("SegmentationClass", classes), ("SegmentationObject", numbers)):
            path = folder / name / f"{stem}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            write_labels(path, image.paint(values, VOID), voc_colors())
        target = folder / "JPEGImages" / f"{stem}{PurePosixPath(image.file_name).suffix}"
        place_image(image.path, target, self._link, report, upright=True)
        self._stems.append(stem)

    def end(self, folder: Path) -> None:
        """Write the lists."""
        colors = voc_colors(len(self._rows)).tolist()
        rows = [f"{name}:{','.join(map(str, color))}::" for name, color in zip(self._rows, colors, strict=True)]
        (folder / "ImageSets" / "Segmentation").mkdir(parents=True, exist_ok=True)
        with atomic_path(folder / "labelmap.txt") as temporary:
            temporary.write_text("\n".join(["# label:color_rgb:parts:actions", *rows]) + "\n", encoding="utf-8")
        with atomic_path(folder / self.names[1]) as temporary:
            temporary.write_text("".join(f"{stem}\n" for stem in self._stems), encoding="utf-8")

"""YOLO segmentation: data.yaml, images/SPLIT and labels/SPLIT."""

from __future__ import annotations

from pathlib import Path, PurePosixPath

import yaml

from banet.data.convert.yolo import read_data_yaml
from banet.data.export.source import ExportFormat, ExportImage, ExportReport, place_image, stem_of
from banet.errors import InputError
from banet.files.atomic import atomic_path
from banet.files.names import DistinctNames
from banet.panoptic.categories import Categories
from banet.panoptic.coco.outlines import join_outlines, trace_outlines

__all__ = ["Yolo"]


class Yolo(ExportFormat):
    """One line per object: its class index, and one outline along the edges of pixels, parts and holes joined.

    Lost are crowds, and stuff unless it is asked for; void becomes background. Images in a folder `images` of their
    own become names without folders, as readers would look for their labels elsewhere.

    Args:
        split: name of the split.
        stuff: make classes of stuff, too.
        link: link to the images.
    """

    names = ("data.yaml",)

    def __init__(self, split: str = "train", *, stuff: bool = False, link: bool = False) -> None:
        if split == "images":
            what = "is no name that a split of YOLO can have, whose readers put labels for it"
            raise InputError(what, where=f"--split {split}", hint="choose another one")
        self._split, self._stuff, self._link = split, stuff, link
        self.trees = (f"labels/{split}",) if link else (f"labels/{split}", f"images/{split}")
        self.linked = f"images/{split}" if link else None
        self._names = DistinctNames(".txt", on_disk=True)

    def begin(self, categories: Categories, final: Path) -> None:
        """Number the classes in the order of their ids, from 0."""
        kept = sorted((c for c in categories if c.isthing or self._stuff), key=lambda category: category.id)
        self._index = {category.id: index for index, category in enumerate(kept)}
        self._classes = {index: category.name for index, category in enumerate(kept)}
        self._final = final
        file = final / "data.yaml"
        if any(path.name != self._split for path in (final / "labels").glob("*")) and file.is_file():
            known, _ = read_data_yaml(file)
            if known != self._classes:
                what = f"has the classes {', '.join(known.values())}, not {', '.join(self._classes.values())}"
                raise InputError(what, where=file, hint="choose another --out: all splits have the same classes")

    def add(self, image: ExportImage, folder: Path, report: ExportReport) -> None:
        """Write one image."""
        height, width = image.ids.shape
        lines = []
        for segment in image.segments:
            if segment.category_id not in self._index or segment.iscrowd:
                report.lost["crowd segments" if segment.iscrowd else "stuff segments"] += 1
                continue
            crop = image.crop(segment)
            outline = join_outlines(trace_outlines(crop.pixels, *crop.box[:2])) / (width, height)
            corners = " ".join(f"{value:.7f}".rstrip("0").rstrip(".") for value in outline.ravel().tolist())
            lines.append(f"{self._index[segment.category_id]} {corners}\n")
        # Readers put labels for the last folder images of a path, which must be that of the split.
        inside = "images" in PurePosixPath(image.file_name).parts[:-1]
        if inside:
            report.lost["folders called images, which are part of the names of their images now"] += 1
        stem = stem_of(self._names, image.file_name, flat=inside)
        labels = folder / "labels" / self._split / f"{stem}.txt"
        labels.parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(labels) as temporary:
            temporary.write_text("".join(lines), encoding="ascii")
        suffix = PurePosixPath(image.file_name).suffix
        place_image(image.path, folder / "images" / self._split / f"{stem}{suffix}", self._link, report)

    def end(self, folder: Path) -> None:
        """Write data.yaml, with all splits that are there; where there is no val, the only split is that, too."""
        there = [path.name for path in sorted((self._final / "images").glob("*")) if path.is_dir()]
        splits = {name: f"images/{name}" for name in sorted({*there, self._split})}
        for needed in ("train", "val"):
            splits.setdefault(needed, splits.get("train", f"images/{self._split}"))
        with atomic_path(folder / "data.yaml") as temporary:
            content = {**splits, "nc": len(self._classes), "names": self._classes}
            temporary.write_text(yaml.safe_dump(content, sort_keys=False, allow_unicode=True), encoding="utf-8")

"""COCO instances: annotations/instances_SPLIT.json and annotations/stuff_SPLIT.json, as run lengths or polygons."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from banet.data.export.source import ExportFormat, ExportImage, ExportReport
from banet.files.staging import JsonLists
from banet.panoptic.categories import Categories
from banet.panoptic.coco.outlines import trace_outlines
from banet.panoptic.coco.rle import encode_rle

__all__ = ["CocoInstances"]


class CocoInstances(ExportFormat):
    """Things into instances_SPLIT.json, stuff into stuff_SPLIT.json. Nothing is lost.

    Args:
        split: name of the split.
        polygons: outlines in place of run lengths, along the edges of pixels: holes are joined to the outline around
            them, so that both fill the same pixels. Crowds are run lengths always, as COCO's tools ask for.
    """

    def __init__(self, split: str = "train", *, polygons: bool = False) -> None:
        self.names = (f"annotations/instances_{split}.json", f"annotations/stuff_{split}.json")
        self._polygons = polygons
        self._lists = JsonLists(), JsonLists()
        self._next = 1

    def begin(self, categories: Categories, final: Path) -> None:
        """Take in the classes."""
        self._categories = categories

    def add(self, image: ExportImage, folder: Path, report: ExportReport) -> None:
        """Write one image."""
        height, width = image.ids.shape
        record = {"id": image.id, "file_name": image.file_name, "width": width, "height": height}
        for lists in self._lists:
            lists.add("images", record)
        for segment in image.segments:
            crop = image.crop(segment)
            outline: Any
            if self._polygons and not segment.iscrowd:
                rings = trace_outlines(crop.pixels, *crop.box[:2])
                outline = [ring.ravel().tolist() for ring in rings]
            else:
                outline = encode_rle(crop.paste((height, width)))
            self._lists[not segment.isthing].add(
                "annotations",
                {
                    "id": self._next,
                    "image_id": image.id,
                    "category_id": segment.category_id,
                    "segmentation": outline,
                    "area": segment.area,
                    "bbox": list(segment.bbox),
                    "iscrowd": int(segment.iscrowd),
                },
            )
            self._next += 1

    def end(self, folder: Path) -> None:
        """Write the JSONs; one of stuff only where there are such classes."""
        (folder / "annotations").mkdir(exist_ok=True)
        for name, lists, isthing in zip(self.names, self._lists, (True, False), strict=True):
            listed = [entry for entry in self._categories.to_coco() if bool(entry["isthing"]) == isthing]
            with lists:
                if listed or isthing:
                    lists.write(folder / name, {"images": None, "annotations": None, "categories": listed})

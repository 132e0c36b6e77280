"""COCO panoptic files read image by image: what is in memory does not grow with their number."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from banet.errors import InputError, abbreviate
from banet.files.names import safe_join
from banet.files.on_disk import DiskTable
from banet.files.reading import stream_lists
from banet.panoptic.categories import Categories
from banet.panoptic.coco.annotations import Annotation, ImageInfo, read_annotation, read_images
from banet.panoptic.coco.png import read_ids
from banet.panoptic.id_maps import find_ids
from banet.types import ImageId, StrPath

__all__ = ["PanopticStream", "StoredImages"]


class StoredImages(Mapping[ImageId, ImageInfo]):
    """The `images` of COCO JSONs by id, in the file's order, on disk."""

    def __init__(self) -> None:
        self._table = DiskTable()

    def __setitem__(self, image_id: ImageId, info: ImageInfo) -> None:
        self._table.add(image_id, (info.file_name, info.width, info.height))

    def __getitem__(self, image_id: ImageId) -> ImageInfo:
        for record in self._table.of(image_id):
            return ImageInfo(image_id, *record)
        raise KeyError(image_id)

    def __contains__(self, image_id: object) -> bool:
        return isinstance(image_id, (int, str)) and image_id in self._table

    def __iter__(self) -> Iterator[ImageId]:
        return iter(self._table)

    def __len__(self) -> int:
        return len(self._table)


class PanopticStream:
    """A COCO panoptic JSON and its PNGs, one image at a time.

    Iterating gives each annotation with the record of its image, in the file's order, and reads the JSON anew.

    Args:
        json: the JSON.
        png_dir: folder of the PNGs.

    Attributes:
        path: the JSON.
        images: records of the images by id, on disk.
        categories: the classes; others with the same ids may be put in their place.

    Raises:
        InputError: see `read_images` and `Categories.from_coco`.
    """

    def __init__(self, json: StrPath, png_dir: StrPath) -> None:
        self.path, self._png_dir = Path(json), Path(png_dir)
        self.images = StoredImages()
        self.categories = Categories.from_coco(read_images(json, self.images), str(json))

    def __iter__(self) -> Iterator[tuple[ImageInfo, Annotation]]:
        seen = DiskTable()
        for _, where, entry in stream_lists(self.path, ["annotations"]):
            annotation = read_annotation(entry, where, self.categories)
            info = self.images.get(annotation.image_id)
            if info is None or info.id in seen:
                what = "has an annotation already" if info else "is not in 'images'"
                raise InputError(f"image {abbreviate(annotation.image_id)} {what}", where=f"{where}.image_id")
            seen.add(info.id)
            yield info, annotation

    def load(self, info: ImageInfo, annotation: Annotation) -> tuple[NDArray[np.int32], list[Any]]:
        """Return the id map of an annotation, (H, W), and those of its segments that have no pixel in it.

        Raises:
            InputError: see `read_ids`; the PNG has another size, or holds an id that no segment has.
        """
        path = safe_join(self._png_dir, annotation.file_name, f"{self.path}: file_name of image {info.id}")
        ids = read_ids(path)
        if ids.shape != (info.height, info.width):
            what = f"is {ids.shape[1]}x{ids.shape[0]}, but image {info.id} in {self.path} is {info.width}x{info.height}"
            raise InputError(what, where=path, hint="correct one of them")
        found = find_ids(ids)
        strange = np.setdiff1d(found, np.array([segment.id for segment in annotation.segments], np.int64))
        if len(strange):
            raise InputError(
                f"holds the id {strange[0]}, which no segment of image {info.id} has",
                where=path,
                hint=f"add it to 'segments_info' in {self.path}",
            )
        present = {*found.tolist()}
        return ids, [segment for segment in annotation.segments if segment.id not in present]

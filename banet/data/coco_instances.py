"""Things of a COCO instances JSON for the images of a panoptic data set: boxes and masks that may overlap.

A panoptic id map gives each pixel to one object, so what it knows of two objects that overlap is only what can be seen.
COCO's instances overlap where their outlines do. The annotations of an image are kept as compressed JSON, all of them
in one tensor, which worker processes share.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from banet.data.samples import InstanceMask
from banet.errors import InputError, abbreviate
from banet.files.fields import read_flag, read_image_id, read_integer, read_object
from banet.files.reading import stream_lists
from banet.files.remote import as_file
from banet.panoptic.categories import Categories
from banet.panoptic.coco.annotations import add_image
from banet.panoptic.coco.rle import decode_crop
from banet.panoptic.coco.runs import Drawing
from banet.panoptic.segments import ImageInfo
from banet.types import ImageId, StrPath

__all__ = ["InstanceIndex"]


@dataclass(frozen=True)
class InstanceIndex:
    """The instances of each of N images.

    Attributes:
        path: the JSON, for messages.
        data: bytes of the compressed annotations of all images.
        starts: (N+1,) int64, where those of each image begin.
    """

    path: StrPath
    data: Tensor
    starts: Tensor

    @classmethod
    def read(cls, path: StrPath, categories: Categories, images: Sequence[ImageInfo]) -> InstanceIndex:
        """Read and check a JSON piece by piece; masks are decoded when they are asked for.

        Args:
            path: the JSON, with `images` and `annotations`.
            categories: the classes of the data set.
            images: those of the data set, in its order.

        Raises:
            InputError: the file is bad, an image of the data set is not in it or has another size, or a class is not a
                thing of the data set.
        """
        file = as_file(path)
        infos: dict[ImageId, ImageInfo] = {}
        found: dict[ImageId, list[bytes]] = {}
        for field, where, entry in stream_lists(file, ("images", "annotations")):
            if field == "images":
                add_image(infos, entry, where)
            else:
                image_id, record = _record(entry, where, categories)
                found.setdefault(image_id, []).append(json.dumps(record, separators=(",", ":")).encode())
        for image in images:
            info = infos.get(image.id)
            if info is None:
                what = f"'images' lacks the id {abbreviate(image.id)} ({image.file_name})"
                raise InputError(what, where=file, hint="give the instances of the same split")
            if (info.width, info.height) != (image.width, image.height):
                sizes = f"{info.width}x{info.height}, {image.width}x{image.height} elsewhere"
                what = f"image {abbreviate(image.id)} is {sizes}"
                raise InputError(what, where=file, hint="give the instances of the same split")
        parts = [zlib.compress(b"[" + b",".join(found.get(image.id, [])) + b"]", 1) for image in images]
        starts = np.cumsum([0, *map(len, parts)], dtype=np.int64)
        return cls(file, torch.frombuffer(bytearray(b"".join(parts)), dtype=torch.uint8), torch.from_numpy(starts))

    def masks(self, row: int, image: ImageInfo) -> list[InstanceMask]:
        """Return the instances of image `row`, crowd included; those without a pixel are left out.

        Raises:
            InputError: a mask cannot be decoded.
        """
        start, stop = self.starts[row : row + 2].tolist()
        records: list[Any] = json.loads(zlib.decompress(self.data[start:stop].numpy().tobytes()))
        masks: list[InstanceMask] = []
        drawing = Drawing()
        for number, category_id, iscrowd, segmentation in records:
            try:
                crop = decode_crop(segmentation, (image.height, image.width))
            except ValueError as error:
                where = f"{self.path}: annotation {abbreviate(number)}: segmentation"
                raise InputError(str(error), where=where, hint="correct it or drop the annotation") from None
            try:
                drawing.add(crop)
            except ValueError as error:
                raise InputError(str(error), where=f"{self.path}: {image.file_name}", hint="leave some out") from None
            if crop.pixels.size:
                masks.append(InstanceMask(category_id, crop, iscrowd=iscrowd))
        return masks


def _record(entry: Any, where: str, categories: Categories) -> tuple[ImageId, list[Any]]:
    """Return the image of an annotation, and its id, class, crowd flag and segmentation."""
    read_object(entry, where)
    image_id = read_image_id(entry, "image_id", where)
    category_id = read_integer(entry, "category_id", where, 0)
    if category_id not in categories or not categories.isthing(category_id):
        raise InputError(
            f"{category_id} is not a thing of the panoptic JSON",
            where=f"{where}.category_id",
            hint="give both JSONs the same classes",
        )
    if "segmentation" not in entry:
        raise InputError("'segmentation' is missing", where=where, hint="add it")
    return image_id, [entry.get("id"), category_id, read_flag(entry, "iscrowd", where), entry["segmentation"]]

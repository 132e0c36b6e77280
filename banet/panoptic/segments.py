"""Records: a segment of an id map, and the entries `images` and `annotations` of a COCO JSON."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from banet.types import ImageId

__all__ = ["Annotation", "ImageInfo", "Segment", "as_image_id"]


@dataclass(frozen=True, slots=True)
class Segment:
    """One segment of an id map: its id, its class, and where it was measured its area and box.

    Results of a network, ground truth, entries of `segments_info` and the segments of generated scenes are all of this
    type. A segment that was measured has at least one pixel, so that an area of 0 means that it was not measured.

    Attributes:
        id: its value in the id map, 1 .. 2^24-1.
        category_id: the class, as in the dataset's categories.
        isthing: whether that class is a thing.
        score: confidence in 0..1, or None for stuff and for ground truth.
        area: number of pixels, 0 where it was not measured.
        bbox: tight box (x, y, width, height) in whole pixels, zeros where it was not measured.
        iscrowd: ground truth only: a region of many objects that nobody separated.
        label: name of the class; a `PanopticSegmentation` fills it in, outside of one it is empty.
    """

    id: int
    category_id: int
    isthing: bool
    score: float | None = None
    area: int = 0
    bbox: tuple[int, int, int, int] = (0, 0, 0, 0)
    iscrowd: bool = False
    label: str = field(default="", compare=False)

    def to_coco(self) -> dict[str, Any]:
        """Return the segment as an entry of `segments_info` in a COCO panoptic JSON."""
        info: dict[str, Any] = {
            "id": self.id,
            "category_id": self.category_id,
            "iscrowd": int(self.iscrowd),
            "area": self.area,
            "bbox": list(self.bbox),
        }
        return info if self.score is None else {**info, "score": self.score}


@dataclass(frozen=True, slots=True)
class ImageInfo:
    """An entry of `images`: id, file name of the image, width and height in pixels."""

    id: ImageId
    file_name: str
    width: int
    height: int


@dataclass(frozen=True, slots=True)
class Annotation:
    """An entry of `annotations`: the image, the PNG of its id map, and the segments in it, not measured."""

    image_id: ImageId
    file_name: str
    segments: tuple[Segment, ...]


def as_image_id(image_id: Any) -> ImageId:
    """Return the id of an image as JSON has it: that of a NumPy array is a number of its own."""
    plain: ImageId = image_id.item() if isinstance(image_id, np.generic) else image_id
    return plain

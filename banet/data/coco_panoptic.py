"""Datasets in COCO's panoptic format: a folder of images, a folder of id PNGs, a JSON."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Dataset

from banet.data.images import find_depth, to_rgb_array
from banet.data.panoptic_index import PanopticIndex
from banet.data.samples import AnnotatedImage, Sample, Transform, sample_of
from banet.errors import InputError
from banet.files.names import safe_join
from banet.panoptic.categories import Categories
from banet.panoptic.coco.annotations import load_ids
from banet.panoptic.sample_depth import SampleDepth
from banet.panoptic.segmentation import PanopticSegmentation
from banet.types import BitDepth, ImageId, StrPath

__all__ = ["CocoPanoptic"]


class CocoPanoptic(Dataset[Sample]):
    """A map-style dataset over the annotations of a COCO panoptic JSON, in the file's order.

    Crowd segments are not rows of the target's boxes, but keep their class in `semantic`. Images without things are
    samples like any other. Entries of `images` without an annotation are not in the dataset.

    Args:
        images: folder of the images.
        panoptic: folder of the id PNGs.
        json: the JSON with `images`, `annotations` and `categories`.
        transform: what is done to each image and its id map (see `banet.data.transforms`), or None.
        bit_depth: bits that samples of 16-bit images use; `auto` finds one number for all images before the first one
            is read (see `banet.data.images.find_depth`).

    Attributes:
        categories: the classes.
        image_ids: id of each image, in order.
        index: the annotations.

    Raises:
        InputError: a folder is missing, the JSON is bad (see `PanopticIndex.read`) or has no annotation. Indexing
            raises it too, naming the file, where an image or PNG is missing, bad, or does not fit the other.
    """

    def __init__(
        self,
        images: StrPath,
        panoptic: StrPath,
        json: StrPath,
        transform: Transform | None = None,
        bit_depth: BitDepth = "auto",
    ) -> None:
        self.images, self.panoptic, self.transform = Path(images), Path(panoptic), transform
        for folder, field in ((self.images, "images"), (self.panoptic, "panoptic")):
            if not folder.is_dir():
                what = "is not a folder" if folder.exists() else "does not exist"
                raise InputError(
                    f"the {field} folder {what}", where=folder, hint="give the folder of the dataset's files"
                )
        self.index = PanopticIndex.read(json)
        self.image_ids: list[ImageId] = self.index.image_ids.tolist()
        if not self.image_ids:
            raise InputError("'annotations' is empty", where=json, hint="a dataset needs at least one annotated image")
        self.categories: Categories = self.index.categories
        self.set_bit_depth(bit_depth)

    def __len__(self) -> int:
        return len(self.image_ids)

    def __getitem__(self, index: int) -> Sample:
        """Read, transform and check sample `index`."""
        return sample_of(
            self.read_annotated(index), self.categories, self.image_ids[index], self.file_name(index), self.transform
        )

    def set_bit_depth(self, bit_depth: BitDepth | SampleDepth) -> None:
        """Read 16-bit images with samples of so many bits."""
        self._bit_depth = bit_depth
        self._depth: SampleDepth | None = None

    @property
    def depth(self) -> SampleDepth:
        """How many bits samples of 16-bit images use."""
        if self._depth is None:
            names = (self.file_name(index) for index in range(len(self)))
            self._depth = find_depth((self.images / name for name in names), self._bit_depth)
        return self._depth

    def file_name(self, index: int) -> str:
        """Return the image's file name, as the JSON has it."""
        return self.index.image(index).file_name

    def files(self, index: int) -> list[Path]:
        """Return the files of image `index`: the image and its id PNG."""
        return [self.images / self.file_name(index), self.panoptic / self.index.annotation(index).file_name]

    def read(self, index: int) -> tuple[NDArray[np.uint8], PanopticSegmentation]:
        """Return the image, (H,W,3) uint8 RGB, and its ground truth, measured.

        Raises:
            InputError: see `read_annotated`.
        """
        annotated = self.read_annotated(index)
        return annotated.image, PanopticSegmentation.from_ids(annotated.ids, annotated.segments, self.categories)

    def read_annotated(self, index: int) -> AnnotatedImage:
        """Read an image and its ground truth; nothing is measured.

        Raises:
            InputError: a file is missing or bad, or they do not fit one another.
        """
        info, annotation = self.index.image(index), self.index.annotation(index)
        path = safe_join(self.images, info.file_name, f"{self.index.path}: images[].file_name")
        image = to_rgb_array(path, self.depth)
        ids = load_ids(annotation, self.panoptic, image=info)
        height, width = image.shape[:2]
        if ids.shape != (height, width):
            turned = " (turned by its EXIF data?)" if ids.shape == (width, height) else ""
            raise InputError(
                f"is {width}x{height}{turned}, but its id map {annotation.file_name} is {ids.shape[1]}x{ids.shape[0]}",
                where=path,
                hint="make them the same size",
            )
        return AnnotatedImage(image, ids, annotation.segments)

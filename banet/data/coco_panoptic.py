"""Data sets in COCO's panoptic format: a folder of images, a folder of id PNGs, a JSON.

The JSON is kept in a few arrays, so that the largest data sets fit into every worker process. COCO's training JSON
holds 118,287 images with 1.3 million segments. As Python objects they take about a gigabyte, and a copy of it in each
worker, since counting references writes to the pages that a fork shares. As tensors they take some tens of megabytes
that are never written to: forked workers share their pages, and torch hands them to spawned ones in shared memory.
"""

from __future__ import annotations

import json
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from banet.data.coco_instances import InstanceIndex
from banet.data.images import find_depth, to_rgb_array
from banet.data.images.formats import SUFFIXES
from banet.data.samples import AnnotatedImage, InstanceMask, Sample, sample_of
from banet.data.transforms import Transform
from banet.errors import InputError, abbreviate
from banet.files.archives import InputFolder, StoredFile, place_of
from banet.files.reading import stream_lists
from banet.files.remote import as_file
from banet.panoptic.categories import Categories
from banet.panoptic.coco.annotations import add_image, read_annotation
from banet.panoptic.coco.png import load_ids
from banet.panoptic.sample_depth import SampleDepth
from banet.panoptic.segmentation import PanopticSegmentation
from banet.panoptic.segments import Annotation, ImageInfo, Segment
from banet.types import BitDepth, ImageId, StrPath

__all__ = ["CocoPanoptic", "PanopticIndex"]


class CocoPanoptic(Dataset[Sample]):
    """A map-style dataset over the annotations of a COCO panoptic JSON, in the file's order.

    Crowd segments are not rows of the target's boxes, but keep their class in `semantic`. Images without things are
    samples like any other. Entries of `images` without an annotation are not in the dataset.

    Args:
        images: folder of the images, or of tar archives of them, or the URL of such a folder.
        panoptic: the same of the id PNGs.
        json: the JSON with `images`, `annotations` and `categories`.
        transform: what is done to each image and its id map (see `banet.data.transforms`), or None.
        bit_depth: bits that samples of 16-bit images use; `auto` finds one number for all images before the first one
            is read (see `banet.data.images.find_depth`).
        instances: a COCO instances JSON of the same images and classes, whose boxes and masks, which may overlap, are
            the things of samples; stuff and the class of each pixel come from the id maps.

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
        *,
        instances: StrPath | None = None,
    ) -> None:
        self.transform = transform
        for folder, field in ((as_file(images), "images"), (as_file(panoptic), "panoptic")):
            if isinstance(folder, Path) and not folder.is_dir():
                what = "is not a folder" if folder.exists() else "does not exist"
                raise InputError(
                    f"the {field} folder {what}", where=folder, hint="give the folder of the dataset's files"
                )
        self.images, self.panoptic = InputFolder(images, SUFFIXES), InputFolder(panoptic, {".png"})
        self.index = PanopticIndex.read(json)
        self.image_ids: list[ImageId] = self.index.image_ids.tolist()
        if not self.image_ids:
            raise InputError("'annotations' is empty", where=json, hint="a dataset needs at least one annotated image")
        self.categories: Categories = self.index.categories
        self.set_bit_depth(bit_depth)
        self.overlapping: InstanceIndex | None = None
        if instances is not None:
            infos = [self.index.image(row) for row in range(len(self))]
            self.overlapping = InstanceIndex.read(instances, self.categories, infos)

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
            self._depth = find_depth(map(self._image_file, range(len(self))), self._bit_depth)
        return self._depth

    def _image_file(self, index: int) -> Path | StoredFile:
        return self.images.find(self.file_name(index), f"{self.index.path}: images[].file_name")

    def file_name(self, index: int) -> str:
        """Return the image's file name, as the JSON has it."""
        return self.index.image(index).file_name

    def files(self, index: int) -> list[StrPath]:
        """Return the files of image `index`, or their URLs or archives: the image and its id PNG."""
        png = self.panoptic.find(self.index.annotation(index).file_name, f"{self.index.path}: annotations[].file_name")
        return [place_of(self._image_file(index)), place_of(png)]

    def read(self, index: int) -> tuple[NDArray[np.uint8], PanopticSegmentation]:
        """Return the image, (H,W,3) uint8 RGB, and its ground truth, measured.

        Raises:
            InputError: see `read_annotated`.
        """
        annotated = self.read_annotated(index)
        return annotated.image, PanopticSegmentation.from_ids(annotated.ids, annotated.segments, self.categories)

    def instances(self, index: int) -> list[InstanceMask] | None:
        """Return the things of image `index` with masks that may overlap; None without an instances JSON.

        Raises:
            InputError: a mask cannot be decoded.
        """
        return None if self.overlapping is None else self.overlapping.masks(index, self.index.image(index))

    def read_annotated(self, index: int) -> AnnotatedImage:
        """Read an image and its ground truth; nothing is measured.

        Raises:
            InputError: a file is missing or bad, or they do not fit one another.
        """
        info, annotation = self.index.image(index), self.index.annotation(index)
        path = self._image_file(index)
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
        return AnnotatedImage(image, ids, annotation.segments, self.instances(index))


@dataclass(frozen=True)
class _Texts:
    """Many short texts in two tensors: their UTF-8 bytes, and where each begins (one more for the end)."""

    data: Tensor
    starts: Tensor

    @classmethod
    def of(cls, texts: Sequence[str]) -> _Texts:
        coded = [text.encode("utf-8", "surrogatepass") for text in texts]
        starts = np.cumsum([0, *map(len, coded)], dtype=np.int64)
        return cls(torch.frombuffer(bytearray(b"".join(coded) or b"\0"), dtype=torch.uint8), torch.from_numpy(starts))

    def __getitem__(self, index: int) -> str:
        start, stop = self.starts[index : index + 2].tolist()
        return self.data[start:stop].numpy().tobytes().decode("utf-8", "surrogatepass")


@dataclass(frozen=True)
class _Ids:
    """Ids of images that are not all numbers, as JSON."""

    texts: _Texts

    @classmethod
    def of(cls, ids: Sequence[ImageId]) -> _Ids | Tensor:
        """Return ids in a tensor (N,) int64 where they are all numbers."""
        if all(isinstance(image_id, int) for image_id in ids):
            return _tensor(ids, np.int64)
        return cls(_Texts.of([json.dumps(image_id) for image_id in ids]))

    def __len__(self) -> int:
        return len(self.texts.starts) - 1

    def __getitem__(self, index: int) -> ImageId:
        image_id: ImageId = json.loads(self.texts[index])
        return image_id

    def tolist(self) -> list[ImageId]:
        return [self[index] for index in range(len(self))]


@dataclass(frozen=True)
class PanopticIndex:
    """The annotations of a COCO panoptic JSON, checked, with their images.

    Areas and boxes of the JSON are not kept: they are counted from the PNGs.

    Attributes:
        path: the file, for messages.
        categories: the classes.
        image_ids: the image of each annotation, in the file's order: (N,) int64 where all ids are numbers.
    """

    path: StrPath
    categories: Categories
    image_ids: Tensor | _Ids
    _sizes: Tensor  # (N,2) int64: width, height
    _file_names: _Texts
    _maps: _Texts
    _starts: Tensor  # (N+1,) int64: where the segments of each annotation begin
    _segments: Tensor  # (S,2) int32: id, class index
    _crowd: Tensor  # (S,) bool

    def __len__(self) -> int:
        return len(self.image_ids)

    def image_id(self, index: int) -> ImageId:
        """Return the id of the image of annotation `index`."""
        image_id = self.image_ids[index]
        return int(image_id) if isinstance(image_id, Tensor) else image_id

    def image(self, index: int) -> ImageInfo:
        """Return the image of annotation `index`."""
        width, height = self._sizes[index].tolist()
        return ImageInfo(self.image_id(index), self._file_names[index], width, height)

    @property
    def tall(self) -> NDArray[np.bool_]:
        """Return which images are taller than wide, (N,)."""
        return (self._sizes[:, 1] > self._sizes[:, 0]).numpy()

    def annotation(self, row: int) -> Annotation:
        """Return annotation `row`; its segments are not measured and have no score."""
        start, stop = self._starts[row : row + 2].tolist()
        rows, crowd = self._segments[start:stop].tolist(), self._crowd[start:stop].tolist()
        ids, things = self.categories.ids.tolist(), self.categories.num_things
        segments = tuple(
            Segment(segment_id, ids[index], index < things, iscrowd=flag)
            for (segment_id, index), flag in zip(rows, crowd, strict=True)
        )
        return Annotation(self.image_id(row), self._maps[row], segments)

    def count_things(self) -> dict[int, tuple[int, int]]:
        """Count the instances of each class of things that occurs: those that can be learnt from, and all.

        Crowds hold several objects that nobody separated, so that no instance can be learnt from them.

        Returns:
            Category id -> (segments without crowd, segments), in the order of the classes.
        """
        classes, crowd = self._segments[:, 1].numpy(), self._crowd.numpy()
        single, both = (np.bincount(some, minlength=len(self.categories)) for some in (classes[~crowd], classes))
        things = [category for category in self.categories if category.isthing]
        counts = zip(things, single.tolist(), both.tolist(), strict=False)
        return {category.id: (apart, total) for category, apart, total in counts if total}

    def unlearnable(self) -> list[str]:
        """Return a line for each class of things of which every segment is crowd: "car: 0 of 31 instances ..."."""
        return [
            f"{self.categories.by_id(category_id).name}: 0 of {total:,} instances can be learnt, as all are crowd"
            for category_id, (single, total) in self.count_things().items()
            if not single
        ]

    @classmethod
    def read(cls, path: StrPath) -> PanopticIndex:
        """Read and check a JSON piece by piece.

        Raises:
            InputError: as `banet.panoptic.coco.annotations.PanopticJson.read`.
        """
        file = as_file(path)
        images: dict[ImageId, ImageInfo] = {}
        categories: list[Any] = []
        ids, maps = list[ImageId](), list[str]()
        starts, segments, crowd = array("q", [0]), array("q"), bytearray()
        for field, where, item in stream_lists(file, ("images", "annotations", "categories")):
            if field == "categories":
                categories.append(item)
                continue
            if field == "images":
                add_image(images, item, where)
                continue
            annotation = read_annotation(item, where, None)
            ids.append(annotation.image_id)
            for segment in annotation.segments:
                segments.extend((segment.id, segment.category_id))
                crowd.append(segment.iscrowd)
            maps.append(annotation.file_name)
            starts.append(len(crowd))
        seen: set[ImageId] = set()
        for position, image_id in enumerate(ids):
            where = f"{file}: annotations[{position}].image_id"
            if image_id not in images:
                raise InputError(f"no image has the id {abbreviate(image_id)}", where=where, hint="add it to 'images'")
            if image_id in seen:
                raise InputError(
                    f"image {abbreviate(image_id)} has an annotation already", where=where, hint="keep one"
                )
            seen.add(image_id)
        classes = Categories.from_coco(categories, str(file))
        table = np.array(segments, np.int64).reshape(-1, 2)
        unknown = np.flatnonzero(~np.isin(table[:, 1], classes.ids))
        if len(unknown):
            row = int(unknown[0])
            position = int(np.searchsorted(starts, row, "right")) - 1
            where = f"{file}: annotations[{position}].segments_info[{row - starts[position]}].category_id"
            raise InputError(f"{table[row, 1]} is unknown", where=where, hint="add it to 'categories' or correct it")
        table[:, 1] = classes.indices_of(table[:, 1])
        return cls(
            path=file,
            categories=classes,
            image_ids=_Ids.of(ids),
            _sizes=_tensor([(images[i].width, images[i].height) for i in ids], np.int64).reshape(-1, 2),
            _file_names=_Texts.of([images[i].file_name for i in ids]),
            _maps=_Texts.of(maps),
            _starts=_tensor(starts, np.int64),
            _segments=_tensor(table, np.int32),
            _crowd=_tensor(crowd, np.bool_),
        )


def _tensor(values: Any, kind: type[np.generic]) -> Tensor:
    return torch.from_numpy(np.array(values, dtype=kind))

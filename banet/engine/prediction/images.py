"""Images of one call of `banet predict`: read ahead, run in batches, and written behind."""

from __future__ import annotations

import csv
import errno
import io
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from banet.data.images import read_image, to_rgb_array
from banet.data.images.large import CroppableImage, DecodedImage, open_image
from banet.engine.report.gallery import Gallery
from banet.errors import InputError, MissingExtraError, printable
from banet.files.atomic import atomic_path, write_json
from banet.inference.device import is_out_of_memory
from banet.inference.postprocess import Instances, UnfusedPrediction
from banet.inference.predictor import Predictor
from banet.panoptic import PanopticSegmentation
from banet.panoptic.id_maps import find_ids
from banet.panoptic.sample_depth import SampleDepth
from banet.panoptic.segmentation import COLUMNS
from banet.types import ImageId

__all__ = ["Done", "ImageRun", "Item", "enough_memory", "segment_table"]

_OVERLAY_SIDE = 4096
"""Pixels of the longer side to which the overlay of an image in tiles is reduced: bounds the memory."""
_FAILURES = (InputError, MissingExtraError)
_FOR_ALL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO)
"""Errors of the disk after which the next image cannot be written either."""


class Item(NamedTuple):
    """An image, or a page of a file of several; without `page` it is the first.

    Attributes:
        path: The file.
        name: Of its outputs.
        file_name: What `panoptic.json` calls it.
        page: From 0.
        image_id: In `panoptic.json`.
    """

    path: Path
    name: str
    file_name: str
    page: int | None = None
    image_id: ImageId = 1

    @property
    def title(self) -> str:
        """Return what the image is called in messages and tables."""
        return f"{self.path}" if self.page is None else f"{self.path} (page {self.page + 1})"


class Done(NamedTuple):
    """What is told of an image that was segmented: in words, and the number of things by class."""

    words: str
    counts: Counter[str]


class _Found(NamedTuple):
    """What was found in an image.

    Attributes:
        result: The result.
        image: The image, or in tiles, if it is large, a reduced copy.
        shown: The result at the size of `image`.
        instances: Those that the result was fused from, where they are known.
    """

    result: PanopticSegmentation
    image: NDArray[np.uint8]
    shown: PanopticSegmentation
    instances: Instances | None


Fuse = Callable[[], _Found]


@dataclass
class ImageRun:
    """The three steps that each group of images goes through: `read`, `run` and `write`.

    A group is a batch. An image of it that fails does not keep the others from being done: its error takes its place.

    Attributes:
        model: What segments.
        out: Folder of the outputs.
        depth: Bits of 16-bit samples.
        rule: Another rule than the model's.
        tile: Side of tiles.
        overlap: What they share.
        page: The gallery, if there is one.
        table: Gets a row per segment.
        drawing: Options of the overlays.
    """

    model: Predictor
    out: Path
    depth: SampleDepth
    rule: str | None = None
    tile: int | None = None
    overlap: int | None = None
    page: Gallery | None = None
    table: csv.DictWriter[str] | None = None
    drawing: Mapping[str, Any] = field(default_factory=dict)
    _images: list[dict[str, Any]] = field(default_factory=list)
    _annotations: list[dict[str, Any]] = field(default_factory=list)

    def read(self, group: Sequence[Item]) -> list[CroppableImage | Exception]:
        """Read the images of a group."""
        return [_attempt(self._read, item) for item in group]

    def _read(self, item: Item) -> CroppableImage:
        with enough_memory(item.path):
            if self.tile is not None:
                return open_image(item.path, bit_depth=self.depth, page=item.page)
            return DecodedImage(read_image(item.path, bit_depth=self.depth, page=item.page))

    def run(self, group: Sequence[Item], images: Sequence[CroppableImage | Exception]) -> list[Fuse | Exception]:
        """Run the network on a group, and return what is left to do of each image."""
        steps: list[Fuse | Exception | None] = [image if isinstance(image, Exception) else None for image in images]
        whole = [
            n
            for n, image in enumerate(images)
            if isinstance(image, DecodedImage) and (self.tile is None or max(image.shape[:2]) <= self.tile)
        ]
        if len(whole) > 1:
            for n, unfused in zip(whole, self._batch([_pixels(images[n]) for n in whole]) or (), strict=False):
                steps[n] = self._fuse_later(unfused)
        return [
            _attempt(self._run_alone, item, image, n in whole) if step is None else step
            for n, (item, image, step) in enumerate(zip(group, images, steps, strict=True))
        ]

    def _batch(self, arrays: list[NDArray[np.uint8]]) -> list[UnfusedPrediction] | None:
        """Run images together; None where the memory does not hold so many, or one fails: they then go one by one."""
        try:
            return self.model.predict_unfused(arrays)
        except _FAILURES:
            return None
        except Exception as error:
            if not is_out_of_memory(error):
                raise
        return None

    def _run_alone(self, item: Item, image: CroppableImage | Exception, whole: bool) -> Fuse:
        with enough_memory(item.path), named(item):
            if whole:
                (unfused,) = self.model.predict_unfused([_pixels(image)])
                return self._fuse_later(unfused)
            assert not isinstance(image, Exception)
            result = self.model.predict(image, rule=self.rule, tile=self.tile, overlap=self.overlap, progress=True)
            factor = -(-max(image.shape[:2]) // _OVERLAY_SIDE)
            found = _Found(result, image.reduced(factor), _reduced(result, factor), None)
            return lambda: found

    def _fuse_later(self, unfused: UnfusedPrediction) -> Fuse:
        def fuse() -> _Found:
            result = self.model.fuse(unfused, rule=self.rule)
            return _Found(result, unfused.image, result, unfused.instances)

        return fuse

    def write(self, group: Sequence[Item], steps: Sequence[Fuse | Exception]) -> list[Done | Exception]:
        """Fuse and write each image of a group."""
        return [
            step if isinstance(step, Exception) else _attempt(self._finish, item, step)
            for item, step in zip(group, steps, strict=True)
        ]

    def _finish(self, item: Item, fuse: Fuse) -> Done:
        """Fuse and write an image; where a file cannot be written, none of it is left."""
        with named(item):
            found = fuse()
        try:
            return self._write(item, found)
        except OSError as error:
            for suffix in (".png", ".json", "_overlay.jpg"):
                with suppress(OSError):
                    (self.out / f"{item.name}{suffix}").unlink(missing_ok=True)
            if error.errno in _FOR_ALL:
                raise
            what = f"its results cannot be written ({error.strerror or error})"
            raise InputError(what, where=item.title, hint="rename it, or choose another --out") from error

    def _write(self, item: Item, found: _Found) -> Done:
        result = found.result
        (self.out / item.name).parent.mkdir(parents=True, exist_ok=True)
        result.save(self.out / f"{item.name}.png", file_name=item.path.name, image_id=item.image_id)
        jpeg = io.BytesIO()  # given a file, Pillow would not notice that only a part of it fits on the disk
        found.shown.draw(found.image, legend=True, **self.drawing).save(jpeg, format="JPEG", quality=92)
        with atomic_path(self.out / f"{item.name}_overlay.jpg") as temporary:
            temporary.write_bytes(jpeg.getbuffer())
        size = {"width": result.width, "height": result.height}
        self._images.append({"id": item.image_id, "file_name": item.file_name, **size})
        self._annotations.append(result.to_coco(item.image_id, f"{item.name}.png"))
        if self.table is not None:
            self.table.writerows({"image": item.title, **_rounded(row)} for row in result.to_records())
        if self.page is not None:
            self.page.add(str(item.path), found.image, {"result": found.shown}, instances=self._kept(found.instances))
        return Done(result.describe(), Counter(result.counts()))

    def _kept(self, instances: Instances | None) -> Instances | None:
        """Return the instances of the classes that are kept; None where they are not all, as ids would not fit."""
        return instances if self.model.classes is None else None

    def write_json(self, path: Path) -> None:
        """Write the COCO panoptic JSON of all images that were written."""
        categories = self.model.categories.to_coco()
        write_json(path, {"images": self._images, "annotations": self._annotations, "categories": categories})


@contextmanager
def segment_table(path: Path) -> Iterator[csv.DictWriter[str]]:
    """Write a table of segments, a row at a time."""
    with (
        atomic_path(path) as temporary,  # names of files need not be text
        temporary.open("w", encoding="utf-8", errors="backslashreplace", newline="") as stream,
    ):
        table = csv.DictWriter(stream, ("image", *COLUMNS))
        table.writeheader()
        yield table


def _rounded(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return a row of the table without digits that say nothing."""
    return {key: round(value, 4) if isinstance(value, float) else value for key, value in row.items()}


@contextmanager
def enough_memory(source: str | Path) -> Iterator[None]:
    """Raise an error that says what to do when memory does not suffice for an image or video."""
    try:
        yield
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        raise InputError(
            "does not fit into the memory", where=source, hint="add --tile 512, or less, or --device cpu"
        ) from None


@contextmanager
def named(item: Item) -> Iterator[None]:
    """Let an error say of which image it is, where it is one of the network."""
    try:
        yield
    except InputError as error:
        if error.where.startswith(printable(f"{item.path}")):
            raise
        raise InputError(str(error), where=item.title) from error


def _attempt(step: Callable[..., Any], *arguments: Any) -> Any:
    """Return what a step returns, or its failure where that concerns one image only."""
    try:
        return step(*arguments)
    except _FAILURES as failure:
        return failure


def _pixels(image: CroppableImage | Exception) -> NDArray[np.uint8]:
    assert isinstance(image, DecodedImage)
    return to_rgb_array(image.image)


def _reduced(result: PanopticSegmentation, factor: int) -> PanopticSegmentation:
    """Return a result of every `factor`-th row and column, without the segments that fall between them."""
    ids = result.ids[::factor, ::factor]
    left = set(find_ids(ids).tolist())
    segments = [segment for segment in result.segments if segment.id in left]
    reduced = PanopticSegmentation.from_ids(ids, segments, result.categories)
    reduced.domain = result.domain
    return reduced

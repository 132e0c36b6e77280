"""Images of one call of `banet predict`: read ahead, run in batches, and written behind."""

from __future__ import annotations

import errno
import io
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from banet.data.images import read_image, to_rgb_array
from banet.data.images.large import CroppableImage, DecodedImage, open_image
from banet.engine.prediction.sources import OVERLAY, Item
from banet.engine.prediction.stores import FolderStore, archive_name
from banet.engine.sharing.part import RunPart
from banet.errors import InputError, MissingExtraError, printable
from banet.files.atomic import atomic_path
from banet.files.names import forward
from banet.inference.device import is_out_of_memory
from banet.inference.postprocess import Instances, UnfusedPrediction
from banet.inference.predictor import Predictor
from banet.panoptic import PanopticSegmentation
from banet.panoptic.id_maps import find_ids
from banet.panoptic.sample_depth import SampleDepth

__all__ = ["Done", "Group", "ImageRun", "enough_memory"]

_OVERLAY_SIDE = 4096
"""Pixels of the longer side to which the overlay of an image in tiles is reduced: bounds the memory."""
_FAILURES = (InputError, MissingExtraError)
_FOR_ALL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO)
"""Errors of the disk after which the next image cannot be written either."""


class Group(NamedTuple):
    """Images that are computed together.

    Attributes:
        part: The part of the run that they belong to.
        items: The images.
        places: Their places in the run's list.
    """

    part: RunPart
    items: Sequence[Item]
    places: Sequence[int]


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
        store: Where the outputs go.
        depth: Bits of 16-bit samples.
        rule: Another rule than the model's.
        tile: Side of tiles.
        overlap: What they share.
        gallery: Whether there will be a page of all images.
        drawing: Options of the overlays.
    """

    model: Predictor
    store: FolderStore
    depth: SampleDepth
    rule: str | None = None
    tile: int | None = None
    overlap: int | None = None
    gallery: bool = False
    drawing: Mapping[str, Any] = field(default_factory=dict)

    def read(self, group: Group) -> list[CroppableImage | Exception]:
        """Read the images of a group."""
        return [_attempt(self._read, item) for item in group.items]

    def _read(self, item: Item) -> CroppableImage:
        with enough_memory(item.file):
            source = item.source
            if self.tile is not None and isinstance(source, Path):
                return open_image(source, bit_depth=self.depth, page=item.page)
            return DecodedImage(read_image(source, bit_depth=self.depth, page=item.page))

    def run(self, group: Group, images: Sequence[CroppableImage | Exception]) -> list[Fuse | Exception]:
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
            for n, (item, image, step) in enumerate(zip(group.items, images, steps, strict=True))
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
        with enough_memory(item.file), named(item):
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

    def write(self, group: Group, steps: Sequence[Fuse | Exception]) -> list[Done | Exception]:
        """Fuse and write each image of a group, and tell the part of it."""
        self.store.enter(group.part, group.items)
        return [
            self._tell(group.part, place, item, step)
            for place, item, step in zip(group.places, group.items, steps, strict=True)
        ]

    def _tell(self, part: RunPart, place: int, item: Item, step: Fuse | Exception) -> Done | Exception:
        """Finish an image, and tell the part what became of it."""
        done = step if isinstance(step, Exception) else _attempt(self._finish, part, item, step)
        if isinstance(done, Exception):
            part.add(place, {"failure": str(done), "archive": archive_name(part.name)})
            return done
        content, found = done
        part.add(place, content)
        told: Done = found
        return told

    def _finish(self, part: RunPart, item: Item, fuse: Fuse) -> tuple[dict[str, Any], Done]:
        """Fuse and write an image; where a file cannot be written, none of it is left."""
        with enough_memory(item.file), named(item):
            found = fuse()
        try:
            with enough_memory(item.file):
                self._write(item, found)
            self.store.keep(item)
        except OSError as error:
            for suffix in self.store.suffixes:
                with suppress(OSError):
                    (self.store.folder / f"{item.name}{suffix}").unlink(missing_ok=True)
            if error.errno in _FOR_ALL:
                raise
            what = f"its results cannot be written ({error.strerror or error})"
            raise InputError(what, where=item.title, hint="rename it, or choose another --out") from error
        return self._content(part, item, found), Done(found.result.describe(), Counter(found.result.counts()))

    def _write(self, item: Item, found: _Found) -> None:
        """Write the files of one image."""
        folder = self.store.folder
        (folder / item.name).parent.mkdir(parents=True, exist_ok=True)
        name = PurePosixPath(forward(item.file_name)).name if item.offset is not None else Path(item.path).name
        found.result.save(folder / f"{item.name}.png", file_name=name, image_id=item.identity)
        if OVERLAY not in self.store.suffixes:
            return
        jpeg = io.BytesIO()  # given a file, Pillow would not notice that only a part of it fits on the disk
        found.shown.draw(found.image, legend=True, **self.drawing).save(jpeg, format="JPEG", quality=92)
        with atomic_path(folder / f"{item.name}{OVERLAY}") as temporary:
            temporary.write_bytes(jpeg.getbuffer())

    def _content(self, part: RunPart, item: Item, found: _Found) -> dict[str, Any]:
        """Return what the outputs of all images will say of one."""
        result, image_id = found.result, item.identity
        size = {"width": result.width, "height": result.height}
        content = {
            "name": item.name,
            "archive": archive_name(part.name),
            "title": item.title,
            "image": {"id": image_id, "file_name": item.file_name, **size},
            "annotation": result.to_coco(image_id, f"{item.name}.png"),
            "rows": [_rounded(row) for row in result.to_records()],
            "counts": result.counts(),
        }
        if self.gallery:
            from banet.engine.report.gallery import Gallery

            text = io.StringIO()
            page = Gallery(text, self.model.categories)
            page.add(
                item.file,
                found.image,
                {"result": found.shown},
                instances=self._kept(found.instances),
                rules={"result": (self.rule or self.model.inference.rule, self.model.inference.overlap_threshold)},
            )
            content["page"] = [text.getvalue(), page.images[0]]
        return content

    def _kept(self, instances: Instances | None) -> Instances | None:
        """Return the instances of the classes that are kept; None where they are not all, as ids would not fit."""
        return instances if self.model.classes is None else None


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
        if error.where.startswith(printable(item.file)):
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

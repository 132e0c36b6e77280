"""One training or evaluation sample: an image with its ground truth.

`Target` is made from an id map and its segments *after* the geometric transforms, so that boxes are always the tight
boxes of what can be seen.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from banet.data.transforms import Transform, transformed
from banet.errors import InputError
from banet.panoptic.categories import VOID, Categories
from banet.panoptic.coco.runs import Crop
from banet.panoptic.id_maps import measure_runs, runs
from banet.panoptic.segments import Segment
from banet.types import ImageId

__all__ = [
    "AnnotatedImage",
    "InstanceMask",
    "Sample",
    "Target",
    "collate",
    "image_seed",
    "make_target",
    "sample_of",
]


@dataclass(frozen=True)
class InstanceMask:
    """A thing whose mask may overlap those of others.

    Attributes:
        category_id: its class.
        crop: its mask, cut to its box.
        iscrowd: several objects that nobody separated.
    """

    category_id: int
    crop: Crop
    iscrowd: bool = False


@dataclass(frozen=True)
class AnnotatedImage:
    """An image with its ground truth, as they are in the files.

    Attributes:
        image: (H,W,3) uint8 RGB.
        ids: (H,W) int32, the segment of each pixel; 0 is void.
        segments: what the ids are; they need not be measured.
        instances: things with masks that may overlap, which take the place of those of the id map as boxes and masks to
            learn from; None where there are none of their own.
    """

    image: NDArray[np.uint8]
    ids: NDArray[np.int32]
    segments: Sequence[Segment]
    instances: Sequence[InstanceMask] | None = None


@dataclass(frozen=True)
class Target:
    """What is true of one image of H × W pixels with N countable things.

    Attributes:
        boxes: (N,4) float32, tight boxes x1 y1 x2 y2 in pixels, half-open (x2 is the last column + 1).
        labels: (N,) int64, class index of each thing, 0..num_things-1.
        instances: (H,W) int32, the row of `boxes` that each pixel belongs to; -1 on stuff, void and crowd. Where masks
            overlap, (L,H,W): each row is in one of L layers, and those of a layer do not overlap.
        semantic: (H,W) int64, class index of each pixel (things, then stuff); `VOID` (-1) where there is none. Crowd
            pixels keep their class.
        image_id: id of the image in its dataset.
        name: file name, for messages.
    """

    boxes: Tensor
    labels: Tensor
    instances: Tensor
    semantic: Tensor
    image_id: ImageId
    name: str

    @property
    def masks(self) -> Tensor:
        """(N,H,W) bool: one mask per thing, made on demand."""
        rows = torch.arange(len(self.labels), device=self.instances.device, dtype=self.instances.dtype)
        layers = self.instances.reshape(-1, *self.instances.shape[-2:])
        return (layers == rows[:, None, None, None]).any(1)

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Target:
        """Return the same target with its tensors on `device`."""
        names = ("boxes", "labels", "instances", "semantic")
        return replace(self, **{name: getattr(self, name).to(device, non_blocking=non_blocking) for name in names})

    def pin_memory(self) -> Target:
        """Return the same target in pinned memory (called by torch's DataLoader)."""
        names = ("boxes", "labels", "instances", "semantic")
        return replace(self, **{name: getattr(self, name).pin_memory() for name in names})


@dataclass(frozen=True)
class Sample:
    """An image, uint8 (3,H,W) RGB, and its `Target`."""

    image: Tensor
    target: Target

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Sample:
        """Return the same sample with its tensors on `device`."""
        return Sample(self.image.to(device, non_blocking=non_blocking), self.target.to(device, non_blocking))

    def pin_memory(self) -> Sample:
        """Return the same sample in pinned memory (called by torch's DataLoader)."""
        return Sample(self.image.pin_memory(), self.target.pin_memory())


def make_target(
    ids: NDArray[Any] | Tensor,
    segments: Iterable[Segment],
    categories: Categories,
    image_id: ImageId,
    name: str,
) -> Target:
    """Make the target of an image from its id map.

    Args:
        ids: (H,W) integers, the segment id of each pixel; 0 is void. Where it is negative, a crop has left too little
            of segment -id for an instance: such pixels keep their class.
        segments: the segments of the image; those that have no pixel in `ids` (cropped away) are left out.
        categories: the classes; they own the numbering.
        image_id: id of the image.
        name: file name, for messages.

    Returns:
        The target; things are in the order of `segments`.

    Raises:
        InputError: two segments have one id, a pixel's id belongs to no segment, or a category is unknown. The message
            starts with `name`.
    """
    array = np.ascontiguousarray(ids.numpy() if isinstance(ids, Tensor) else ids)
    if array.ndim != 2:
        raise ValueError(f"{name}: the id map must be (H,W), not {tuple(array.shape)}")
    starts, lengths = runs(array, rows=True)
    present, run_value = np.unique(array.reshape(-1)[starts], return_inverse=True)
    position = {int(identity): row for row, identity in enumerate(present)}
    semantic_of = np.full(len(present), VOID, np.int64)
    instance_of = np.full(len(present), -1, np.int32)
    labels: list[int] = []
    seen: set[int] = set()
    for segment in segments:
        if segment.id in seen or segment.id == 0:
            problem = "0 is void" if segment.id == 0 else "it occurs twice"
            raise InputError(f"segment id {segment.id}: {problem}", where=name, hint="number the segments from 1 up")
        seen.add(segment.id)
        index = categories.indices.get(segment.category_id)
        if index is None:
            raise InputError(
                f"segment {segment.id}: unknown category_id {segment.category_id}",
                where=name,
                hint="list it under 'categories'",
            )
        if (sliver := position.get(-segment.id)) is not None:
            semantic_of[sliver] = index
        row = position.get(segment.id)
        if row is None:
            continue
        semantic_of[row] = index
        if index < categories.num_things and not segment.iscrowd:
            instance_of[row] = len(labels)
            labels.append(index)
    unknown = [identity for identity in position if identity != 0 and abs(identity) not in seen]
    if unknown:
        raise InputError(
            f"pixels have segment ids that 'segments_info' does not list: {sorted(unknown)[:10]}",
            where=name,
            hint="list them or set the pixels to 0",
        )
    instances = instance_of[run_value]
    boxes = _tight_boxes(instances, starts, lengths, array.shape[1], len(labels))
    return Target(
        boxes=torch.from_numpy(boxes),
        labels=torch.tensor(labels, dtype=torch.int64),
        instances=torch.from_numpy(np.repeat(instances, lengths).reshape(array.shape)),
        semantic=torch.from_numpy(np.repeat(semantic_of[run_value], lengths).reshape(array.shape)),
        image_id=image_id,
        name=name,
    )


def image_seed(image_id: ImageId) -> int:
    """Return a number below 2^64 that stands for the id of an image in seeds."""
    if isinstance(image_id, int):
        return image_id % 2**64
    return int.from_bytes(hashlib.blake2b(image_id.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "big")


def sample_of(
    annotated: AnnotatedImage,
    categories: Categories,
    image_id: ImageId,
    name: str,
    transform: Transform | None = None,
) -> Sample:
    """Transform an image together with its id map, and make a sample of the outcome.

    Args:
        annotated: the image and its ground truth.
        categories: see `make_target`.
        image_id: id of the image.
        name: file name, for messages.
        transform: what is done to both, or None.

    Raises:
        InputError: see `make_target`.
    """
    if annotated.instances is None:
        pixels, owners = transformed(annotated.image, annotated.ids, transform)
        return Sample(pixels, make_target(owners, annotated.segments, categories, image_id, name))
    singles = [instance for instance in annotated.instances if not instance.iscrowd]
    planes = np.concatenate([annotated.ids[None], _layers(singles, annotated.ids.shape)])
    pixels, changed = transformed(annotated.image, planes, transform)
    target = make_target(changed[0], annotated.segments, categories, image_id, name)
    labels = [categories.index(instance.category_id) for instance in singles]
    return Sample(pixels, _with_instances(target, changed[1:].numpy(), labels))


def _layers(instances: Sequence[InstanceMask], size: tuple[int, ...]) -> NDArray[np.int32]:
    """Return masks as maps (L,H,W), none of which has two masks on a pixel: 1 + the row of `instances`, or 0."""
    layers = [np.zeros(size, np.int32)]
    for row, (window, pixels) in enumerate((each.crop.window, each.crop.pixels) for each in instances):
        free = (layer for layer in layers if not layer[window][pixels].any())
        layer = next(free, None)
        if layer is None:
            layer = np.zeros(size, np.int32)
            layers.append(layer)
        layer[window][pixels] = row + 1
    return np.stack(layers)


def _with_instances(target: Target, layers: NDArray[np.int32], labels: Sequence[int]) -> Target:
    """Return a target with other things: those of layers (L,H,W), as `_layers` numbers them, that still have pixels."""
    areas, boxes = np.zeros(len(labels), np.int64), np.zeros((len(labels), 4), np.int64)
    for layer in map(np.ascontiguousarray, layers):
        starts, lengths = runs(layer, rows=True)
        values = layer.reshape(-1)[starts]
        own = values > 0
        measured = measure_runs(
            values[own].astype(np.int64) - 1, len(labels), starts[own], lengths[own], layer.shape[1]
        )
        areas, boxes = areas + measured[0], boxes + measured[1]  # each is in one layer
    present = np.flatnonzero(areas)
    row_of = np.full(len(labels) + 1, -1, np.int32)
    row_of[present + 1] = np.arange(len(present), dtype=np.int32)
    boxes[:, 2:] += boxes[:, :2]
    return replace(
        target,
        boxes=torch.from_numpy(boxes[present].astype(np.float32)),
        labels=torch.tensor(labels, dtype=torch.int64)[torch.from_numpy(present)],
        instances=torch.from_numpy(row_of[np.maximum(layers, 0)]),
    )


def _tight_boxes(
    owner: NDArray[np.int32], starts: NDArray[np.int64], lengths: NDArray[np.int64], width: int, count: int
) -> NDArray[np.float32]:
    """Return the boxes x1 y1 x2 y2, (count,4), of the owners 0..count-1 of runs along rows; each owner has a run."""
    inside = owner >= 0
    _, boxes = measure_runs(owner[inside].astype(np.int64), count, starts[inside], lengths[inside], width)
    boxes[:, 2:] += boxes[:, :2]
    return boxes.astype(np.float32)


def collate(samples: Sequence[Sample]) -> list[Sample]:
    """Hand a batch on as a list: images keep their own sizes."""
    return list(samples)

"""Copy-paste augmentation: things of one image put in front of another (after Ghiasi et al., arXiv 2012.07177)."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from banet._moved import renamed
from banet.data.samples import AnnotatedImage, Sample, make_target
from banet.data.transforms import Transform, transformed
from banet.panoptic.categories import Categories
from banet.panoptic.id_maps import find_ids, runs
from banet.panoptic.segments import Segment
from banet.types import ImageId

__all__ = ["CopyPaste", "Labeled", "paste"]

__getattr__ = renamed(__name__, {"Labelled": "Labeled"})


@dataclass(frozen=True)
class Labeled:
    """An image with its id map.

    Attributes:
        image: (3,H,W) uint8.
        ids: (H,W) int32, the segment of each pixel; 0 is void.
        segments: what the ids are; those without a pixel may be among them.
    """

    image: Tensor
    ids: Tensor
    segments: tuple[Segment, ...]


def paste(under: Labeled, over: Labeled, chosen: Collection[int], offset: tuple[int, int] = (0, 0)) -> Labeled:
    """Put segments of one image in front of another.

    A pixel of a chosen segment takes colour and id with it and hides what was there, be it thing, stuff, crowd or void;
    every other pixel stays as it is. What is hidden as a whole is no longer a segment.

    Args:
        under: the image that is pasted on; not changed. (3,H,W).
        over: the image that the segments are of. (3,h,w).
        chosen: ids of segments of `over`.
        offset: row and column of `under` at which the upper left corner of `over` lies; may be negative. What lies
            outside is cut off.

    Returns:
        An image (3,H,W) with the segments of `under` that can still be seen, then the pasted ones, in the order of
        `over.segments`, with new ids above those of `under`.
    """
    (height, width), (h, w), (y, x) = under.ids.shape, over.ids.shape, offset
    there = (slice(max(y, 0), max(min(y + h, height), 0)), slice(max(x, 0), max(min(x + w, width), 0)))
    here = tuple(slice(s.start - at, max(s.stop, s.start) - at) for s, at in zip(there, offset, strict=True))
    source = over.ids[here].numpy()
    starts, lengths = runs(source)
    values = source.ravel()[starts]
    front = np.zeros(len(values), np.int32)  # of each run
    first = 1 + max([int(under.ids.max()), *(segment.id for segment in under.segments)])
    pasted: list[Segment] = []
    for segment in over.segments:
        if segment.id in chosen:
            pasted.append(replace(segment, id=first + len(pasted), area=0, bbox=(0, 0, 0, 0)))
            front[values == segment.id] = pasted[-1].id
    owner = torch.from_numpy(np.repeat(front, lengths).reshape(source.shape))
    image, ids = under.image.clone(), under.ids.clone()
    ids[there] = torch.where(owner > 0, owner, ids[there])
    colors, window = over.image[:, here[0], here[1]], image[:, there[0], there[1]]
    window[:] = torch.where(owner > 0, colors, window)
    visible = _visible(ids)
    return Labeled(image, ids, tuple(s for s in (*under.segments, *pasted) if {s.id, -s.id} & visible))


def _visible(ids: Tensor) -> set[int]:
    """Return the ids in a map, without 0; those of slivers (see `make_target`) are negative."""
    return set(find_ids(ids.numpy()).tolist())


class Readable(Protocol):
    """A map-style data set that also gives what is in its files."""

    categories: Categories
    transform: Transform | None

    @property
    def image_ids(self) -> Sequence[ImageId]: ...
    def __len__(self) -> int: ...
    def file_name(self, index: int) -> str: ...
    def read_annotated(self, index: int) -> AnnotatedImage: ...


class CopyPaste(Dataset[Sample]):
    """A data set whose images bear, at times, things of another of its images.

    Both images pass the data set's transform first, each with its own random numbers. Of the other image's things
    (without crowd) a random number is pasted, in their places; where the images differ in size, the smaller lies
    somewhere within the larger. All random numbers are torch's.

    Args:
        dataset: `CocoPanoptic` or `Scenes`.
        probability: how often something is pasted, 0..1.

    Raises:
        ValueError: the probability is out of range.
    """

    def __init__(self, dataset: Readable, probability: float) -> None:
        if not 0 <= probability <= 1:
            raise ValueError(f"probability must be in 0..1, not {probability}")
        self.dataset, self.probability, self.categories = dataset, probability, dataset.categories

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Sample:
        """Sample `index`, perhaps with things of another image.

        Raises:
            InputError: one of the two images cannot be read.
        """
        result = self._labeled(index)
        if float(torch.rand(())) < self.probability:
            over = self._labeled(int(torch.randint(len(self), ())))
            result = paste(result, over, self._choose(over), self._place(result, over))
        target = make_target(
            result.ids, result.segments, self.categories, self.dataset.image_ids[index], self.dataset.file_name(index)
        )
        return Sample(result.image, target)

    def _labeled(self, index: int) -> Labeled:
        annotated = self.dataset.read_annotated(index)
        return Labeled(*transformed(annotated.image, annotated.ids, self.dataset.transform), tuple(annotated.segments))

    def _choose(self, over: Labeled) -> set[int]:
        """Ids of one or more of the things that can be seen; none where there is none."""
        visible = _visible(over.ids)
        things = [
            s.id for s in over.segments if s.id in visible and not s.iscrowd and self.categories.isthing(s.category_id)
        ]
        if not things:
            return set()
        count = int(torch.randint(1, len(things) + 1, ()))
        return {things[k] for k in torch.randperm(len(things))[:count].tolist()}

    @staticmethod
    def _place(under: Labeled, over: Labeled) -> tuple[int, int]:
        """Row and column at which the smaller image lies within the larger, drawn for each side."""
        room = [a - b for a, b in zip(under.ids.shape, over.ids.shape, strict=True)]
        y, x = (int(torch.randint(min(0, n), max(0, n) + 1, ())) for n in room)
        return y, x

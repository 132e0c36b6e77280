"""Masks of queries at low resolution to instances and a semantic map at the image's size, strip by strip.

A model of the DETR kind gives each query a class, a score and a mask of probabilities. Its library gives each pixel to
the query of the largest score x probability, so its results are disjoint before an occlusion rule could see them. Here
a pixel that two or more things claim (a probability above one half) is left to the rule, and all other pixels go as in
the library.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import interpolate

from banet.inference.postprocess import Instances, UnfusedPrediction
from banet.panoptic import Categories, MaskCrops
from banet.panoptic.resampling import linear_taps
from banet.types import Size

__all__ = ["CropBuilder", "Enlargement", "Queries", "mask_instances", "resolve_queries", "strips"]

_STRIP = 1 << 23  # numbers of all queries that are enlarged together: bounds the memory
_DISPUTED = 0.501  # least probability of a claim where two meet: masks that touch share a border at one half


class Enlargement(NamedTuple):
    """One step of enlarging masks: what becomes of the values first, and the size that they are brought to.

    Attributes:
        sigmoid: Whether they are logits that become probabilities before they are enlarged.
        size: Height and width afterwards; None for the image's.
        crop: Rows and columns of the result that are not padding; None for all.
        extent: Rows and columns of what is enlarged that are not padding, in cells that may be cut; None for all.
    """

    sigmoid: bool
    size: Size | None = None
    crop: Size | None = None
    extent: tuple[float, float] | None = None


@dataclass(frozen=True)
class Queries:
    """Queries of one image that score high enough, as their model gave them.

    Attributes:
        masks: (Q, h, w) logits, on any device, in any type of float.
        scores: (Q,) float32, on the host.
        labels: (Q,) class index (`Categories`), on the host.
        stages: How the masks are brought to the image's size, as the model's library does it. After the last one the
            sigmoid is taken if no stage did.
        fill: Whether a pixel that no mask covers goes to the query of the largest product all the same.
        overlap: A query that keeps no more than this fraction of its mask yields no segment.
    """

    masks: Tensor
    scores: NDArray[np.float32]
    labels: NDArray[np.int64]
    stages: Sequence[Enlargement]
    fill: bool = True
    overlap: float = 0.8

    def __len__(self) -> int:
        return len(self.scores)

    def strip(self, top: int, bottom: int, size: Size) -> Tensor:
        """Return probabilities (Q, bottom - top, W) float32 in some rows of an image of `size` (H, W)."""
        return self._rows(len(self.stages), np.arange(top, bottom), size)

    def _rows(self, count: int, rows: NDArray[np.int64], size: Size) -> Tensor:
        """Return the masks after `count` stages in some rows; as probabilities after the last."""
        if count == 0:
            return self.masks[:, torch.from_numpy(rows)].float()
        stage = self.stages[count - 1]
        height, width = stage.size or size
        extent = stage.extent or self._size_before(count, size)
        above, below, share = linear_taps(rows + 0.5, extent[0] / height, math.ceil(extent[0]))
        wanted = np.union1d(above, below)
        values = self._rows(count - 1, wanted, size)
        if stage.sigmoid:
            values = values.sigmoid()
        first, second = (np.searchsorted(wanted, taps) for taps in (above, below))
        mixed = _mix(values, first, second, share, axis=1)
        if stage.extent is not None:
            left, right, across = linear_taps(np.arange(width) + 0.5, extent[1] / width, math.ceil(extent[1]))
            mixed = _mix(mixed, left, right, across, axis=2)
        elif width != extent[1]:
            mixed = interpolate(mixed[None], size=(len(rows), width), mode="bilinear", align_corners=False)[0]
        if stage.crop is not None:
            mixed = mixed[:, :, : stage.crop[1]]
        last = count == len(self.stages)
        return mixed.sigmoid() if last and not any(each.sigmoid for each in self.stages) else mixed

    def _size_before(self, count: int, size: Size) -> Size:
        """Return height and width of what stage `count`, from 1, enlarges."""
        if count == 1:
            return int(self.masks.shape[1]), int(self.masks.shape[2])
        stage = self.stages[count - 2]
        return stage.crop or stage.size or size


def _mix(
    values: Tensor, first: NDArray[np.int64], second: NDArray[np.int64], share: NDArray[np.float32], axis: int
) -> Tensor:
    """Return values (Q, h, w) between two samples of each point along an axis; `share` is the second one's weight."""
    one, two = (values.index_select(axis, torch.from_numpy(taps).to(values.device)) for taps in (first, second))
    weights = torch.from_numpy(share).to(values.device)
    return torch.lerp(one, two, weights[:, None] if axis == 1 else weights)


def strips(size: Size, count: int) -> Iterator[tuple[int, int]]:
    """Yield first row and end of strips of an image of `size` (H, W), small enough for `count` maps; none for 0."""
    rows = max(1, _STRIP // max(1, count * size[1]))
    for top in range(0, size[0] if count else 0, rows):
        yield top, min(top + rows, size[0])


class CropBuilder:
    """Gathers masks strip by strip, each as the smallest box that holds it.

    Args:
        count: How many masks.
        size: (H, W) of the image.
    """

    def __init__(self, count: int, size: Size) -> None:
        self.size = size
        self.parts: list[list[tuple[int, int, NDArray[np.bool_]]]] = [[] for _ in range(count)]

    def add(self, n: int, top: int, mask: NDArray[np.bool_]) -> None:
        """Add the part (h, W) of mask `n` that begins at row `top`; parts come from top to bottom."""
        columns = np.flatnonzero(mask.any(axis=0))
        if len(columns):
            left, right = int(columns[0]), int(columns[-1]) + 1
            self.parts[n].append((top, left, mask[:, left:right].copy()))

    def pop(self, n: int) -> tuple[tuple[int, int, int, int], NDArray[np.bool_]] | None:
        """Return box x1, y1, x2, y2 and pixels of mask `n`, and forget it; None of a mask without pixels."""
        parts, self.parts[n] = self.parts[n], []
        if not parts:
            return None
        left = min(x for _, x, _ in parts)
        right = max(x + part.shape[1] for _, x, part in parts)
        top, bottom = parts[0][0], parts[-1][0] + len(parts[-1][2])
        crop = np.zeros((bottom - top, right - left), dtype=bool)
        for y, x, part in parts:
            crop[y - top : y - top + len(part), x - left : x - left + part.shape[1]] = part
        rows = np.flatnonzero(crop.any(axis=1))
        low, high = int(rows[0]), int(rows[-1]) + 1
        return (left, top + low, right, top + high), crop[low:high]

    def instances(self, kept: Sequence[int], scores: NDArray[np.float32], labels: NDArray[np.int64]) -> Instances:
        """Return some masks as instances, without those that have no pixel.

        Args:
            kept: Which masks, in order.
            scores: Of all masks, and
            labels: their classes.
        """
        found = [(n, built) for n in kept if (built := self.pop(n)) is not None]
        boxes = np.array([built[0] for _, built in found], dtype=np.int64).reshape(-1, 4)
        order = [n for n, _ in found]
        return Instances(
            masks=MaskCrops(boxes, [built[1] for _, built in found], self.size),
            scores=scores[order].astype(np.float64),
            labels=labels[order],
            boxes=boxes.astype(np.float32),
        )


@torch.inference_mode()
def resolve_queries(
    queries: Queries, image: NDArray[np.uint8], categories: Categories, *, best_stuff: bool = False
) -> UnfusedPrediction:
    """Return instances and semantic map of one image.

    Args:
        queries: Those that score high enough, of things and stuff.
        image: (H, W, 3).
        categories: The model's.
        best_stuff: Whether the best stuff class of each pixel is wanted too.
    """
    size = (image.shape[0], image.shape[1])
    count, things = len(queries), np.flatnonzero(queries.labels < categories.num_things)
    builder = CropBuilder(len(things), size)
    winner = np.full(size, -1, dtype=np.int16)
    stuff = np.full(size, -1, dtype=winner.dtype) if best_stuff and len(things) < count else None
    areas = np.zeros(count, dtype=np.int64)  # of the whole mask of each query
    owned = np.zeros(count, dtype=np.int64)  # of what it keeps
    for top, bottom in strips(size, count):
        part = _resolve_strip(queries.strip(top, bottom, size), queries, things, stuff is not None)
        winner[top:bottom] = part.winner
        areas += part.areas
        owned += np.bincount(part.winner[part.winner >= 0].ravel(), minlength=count)
        if stuff is not None:
            stuff[top:bottom] = part.stuff
        for n, query in enumerate(things.tolist()):
            mask = part.winner == query
            if part.disputed is not None:
                gained = part.claims[n] & part.disputed
                owned[query] += np.count_nonzero(gained) - np.count_nonzero(mask & part.disputed)
                mask = np.where(part.disputed, part.claims[n], mask)
            builder.add(n, top, mask)
    valid = (owned > 0) & (areas > 0) & (owned > queries.overlap * areas)
    classes = np.append(np.where(valid, queries.labels, -1), -1)
    kept = [n for n, query in enumerate(things.tolist()) if valid[query]]
    instances = builder.instances(kept, queries.scores[things], queries.labels[things])
    stuff_map = None if stuff is None else classes[stuff]
    return UnfusedPrediction(image, instances, classes[winner], stuff_map)


class _Strip(NamedTuple):
    """What is known of some rows of an image.

    Attributes:
        winner: (h, W) the query with the largest product of score and probability, -1 where none covers the pixel.
        stuff: The same among stuff.
        areas: (Q,) pixels of each mask.
        disputed: (h, W) pixels that go to the rule, None where there are none.
        claims: (h, W) by thing, which pixels it claims; empty where none is disputed.
    """

    winner: NDArray[np.integer]
    stuff: NDArray[np.integer]
    areas: NDArray[np.int64]
    disputed: NDArray[np.bool_] | None
    claims: Sequence[NDArray[np.bool_]]


def _resolve_strip(probabilities: Tensor, queries: Queries, things: NDArray[np.int64], best_stuff: bool) -> _Strip:
    """Compare the queries one after the other, which is several times as fast as `argmax` over all of them."""
    shape, device = probabilities.shape[1:], probabilities.device
    areas = np.zeros(len(queries), dtype=np.int64)
    best = torch.full(shape, -1.0, device=device)
    winner = torch.zeros(shape, dtype=torch.int16, device=device)
    best_of_stuff, stuff = best.clone(), torch.full_like(winner, -1)
    once, twice = torch.zeros((2, *shape), dtype=torch.bool, device=device)
    claims: list[Tensor] = []
    is_thing = np.isin(np.arange(len(queries)), things)
    for query, score in enumerate(queries.scores.tolist()):
        probability = probabilities[query]
        areas[query] = np.count_nonzero((probability >= 0.5).cpu().numpy())
        weighted = probability * score
        winner.masked_fill_(weighted > best, query)
        torch.maximum(best, weighted, out=best)
        if is_thing[query]:
            claims.append(probability >= _DISPUTED)
            twice |= once & claims[-1]
            once |= claims[-1]
        elif best_stuff:
            stuff.masked_fill_(weighted > best_of_stuff, query)
            torch.maximum(best_of_stuff, weighted, out=best_of_stuff)
    won_by_thing = torch.from_numpy(is_thing).to(device)[winner.long()]
    disputed = twice & won_by_thing
    if not queries.fill:
        covered = probabilities.gather(0, winner[None].long())[0] >= 0.5
        winner.masked_fill_(~covered, -1)
    any_disputed = bool(disputed.any())
    return _Strip(
        winner.cpu().numpy(),
        stuff.cpu().numpy(),
        areas,
        disputed.cpu().numpy() if any_disputed else None,
        [claim.cpu().numpy() for claim in claims] if any_disputed else [],
    )


@torch.inference_mode()
def mask_instances(queries: Queries, size: Size, most: int) -> Instances:
    """Return the whole masks of queries, which may overlap, as instances of an image of `size` (H, W), best first.

    Args:
        queries: Of things.
        size: Of the image.
        most: How many instances at most.
    """
    things = np.argsort(-queries.scores, kind="stable")[:most]
    builder = CropBuilder(len(things), size)
    chosen = Queries(
        queries.masks[torch.from_numpy(things)], queries.scores[things], queries.labels[things], queries.stages
    )
    for top, bottom in strips(size, len(things)):
        inside = (chosen.strip(top, bottom, size) >= 0.5).cpu().numpy()
        for n in range(len(things)):
            builder.add(n, top, inside[n])
    return builder.instances(range(len(things)), chosen.scores, chosen.labels)

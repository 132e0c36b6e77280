"""Pixels grouped by who claims them: everything about overlapping masks is done on these groups, not on pixels."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from banet.panoptic.inputs import MaskCrops

__all__ = ["Regions"]

_PIXELS = 1 << 15  # looked at together: what is computed of them stays in the processor's cache
_COMBINATIONS = 1 << 20  # of claimants, looked at together: bounds the memory


@dataclass(frozen=True, eq=False)
class Regions:
    """The partition of an image into regions: two pixels share a region when the same objects claim both.

    Region 0 is what nobody claims. A picture has far fewer regions than pixels, and whatever an occlusion rule decides,
    it decides for whole regions or from sums over them.

    Attributes:
        label: (H, W) int64, the region of each pixel.
        sizes: (R,) int64, pixels in each region; regions that later masks cut up entirely are left with none.
        claims_region: (C,) int64, ascending, and
        claims_object: (C,) int64, ascending within a region: the regions with pixels and who claims them.
        starts: positions in the claims where a new region begins, one a region that has pixels and claimants.
    """

    label: NDArray[np.int64]
    sizes: NDArray[np.int64]
    claims_region: NDArray[np.int64]
    claims_object: NDArray[np.int64]
    starts: NDArray[np.int64]

    @classmethod
    def of(cls, masks: MaskCrops) -> Regions:
        """Cuts the image up, one mask after the other: each splits the regions it touches. Time: the crops' pixels."""
        label = np.zeros(masks.size, dtype=np.int64)
        parent: list[NDArray[np.int64]] = [np.zeros(1, dtype=np.int64)]  # the region that a region was cut out of
        cutter: list[NDArray[np.int64]] = [np.full(1, -1, dtype=np.int64)]  # the object that did it
        sizes = np.zeros(1024, dtype=np.int64)
        sizes[0] = label.size
        successor = np.zeros(1024, dtype=np.int64)
        count = 1
        for n, ((x1, y1, x2, y2), crop) in enumerate(zip(masks.boxes.tolist(), masks.crops, strict=True)):
            window = label[y1:y2, x1:x2]
            below = window[crop]
            hits = np.bincount(below)
            split = np.flatnonzero(hits)
            if count + len(split) > len(sizes):
                more = max(len(sizes), len(split))
                sizes, successor = np.pad(sizes, (0, more)), np.pad(successor, (0, more))
            fresh = slice(count, count + len(split))
            successor[split] = np.arange(fresh.start, fresh.stop)
            window[crop] = successor.take(below)
            sizes[split] -= hits[split]
            sizes[fresh] = hits[split]
            parent.append(split)
            cutter.append(np.full(len(split), n, dtype=np.int64))
            count = fresh.stop
        sizes = sizes[:count]
        region, claimant = _claims(sizes, np.concatenate(parent), np.concatenate(cutter))
        return cls(label, sizes, region, claimant, np.flatnonzero(np.diff(region, prepend=-1)))

    def areas(self, count: int) -> NDArray[np.int64]:
        """Pixels of each of the `count` masks, (N,) int64."""
        return _count(self.claims_object, self.sizes[self.claims_region], count)

    def pairs(self, count: int) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
        """Every two of `count` objects that share a pixel.

        Returns:
            i, j (the lower and the higher index) and overlap in pixels, (P,) int64 each, sorted by (i, j).
        """
        codes = [np.zeros(0, dtype=np.int64)]
        overlaps = [np.zeros(0, dtype=np.int64)]
        for region, block in self._combinations(count):
            code, place = np.unique(block, return_inverse=True)
            weight = np.repeat(self.sizes[region], block.shape[1])
            codes.append(code)
            overlaps.append(_count(place.ravel(), weight, len(code)))
        code, place = np.unique(np.concatenate(codes), return_inverse=True)
        i, j = np.divmod(code, max(1, count))
        return i, j, _count(place, np.concatenate(overlaps), len(code))

    def pair_sums(
        self, values: NDArray[np.float64], i: NDArray[np.int64], j: NDArray[np.int64], count: int
    ) -> NDArray[np.float64]:
        """Adds up values of regions over the overlap of each pair.

        Args:
            values: (C, R), one column a region.
            i, j: (P,) the pairs, i < j, sorted by (i, j).
            count: number of objects N.

        Returns:
            (C, P) float64.
        """
        total = np.zeros((len(values), len(i)))
        for region, pair in self.regions_of_pairs(i, j, count):
            for channel, value in zip(total, values, strict=True):
                channel += np.bincount(pair, weights=value[region], minlength=len(i))
        return total

    def shared(self, i: NDArray[np.int64], j: NDArray[np.int64], count: int) -> NDArray[np.bool_]:
        """The regions, (R,) bool, that lie in the overlap of at least one of the pairs i, j (sorted, i < j)."""
        found = np.zeros(len(self.sizes), dtype=bool)
        for region, _ in self.regions_of_pairs(i, j, count):
            found[region] = True
        return found

    def regions_of_pairs(
        self, i: NDArray[np.int64], j: NDArray[np.int64], count: int
    ) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
        """Which region lies in the overlap of which pair, block by block.

        Args:
            i, j: (P,) the pairs, i < j, sorted by (i, j).
            count: number of objects N.

        Yields:
            Regions (K,) and pairs (K,) as positions in i, j; each combination once.
        """
        codes = i * count + j
        if not len(codes):
            return
        for region, block in self._combinations(count):
            pair = np.minimum(np.searchsorted(codes, block), len(codes) - 1)
            row, column = np.nonzero(codes[pair] == block)
            yield region[row], pair[row, column]

    def _combinations(self, count: int) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
        """Regions (G,) and the codes i * count + j (G, K) of every two of their claimants, block by block."""
        for regions, claimants in self.by_depth():
            first, second = np.triu_indices(claimants.shape[1], 1)
            step = max(1, _COMBINATIONS // len(first))
            for at in range(0, len(regions), step):
                block = claimants[at : at + step]
                yield regions[at : at + step], block[:, first] * count + block[:, second]

    def by_depth(self, least: int = 2) -> list[tuple[NDArray[np.int64], NDArray[np.int64]]]:
        """Regions with equally many claimants together, from `least` claimants on.

        Returns:
            A list of (regions (G,), claimants (G, k) ascending) for each number k that occurs.
        """
        depth = np.diff(self.starts, append=len(self.claims_region))
        groups = []
        for k in np.unique(depth[depth >= least]).tolist():
            starts = self.starts[depth == k]
            groups.append((self.claims_region[starts], self.claims_object[starts[:, None] + np.arange(k)]))
        return groups

    def first_claimant(self, place: NDArray[np.int64]) -> NDArray[np.int64]:
        """Who owns each region when the claimant of the lowest `place` does.

        Args:
            place: (N,) distinct numbers below N, or N for an object that is out of the race.

        Returns:
            (R,) int64, -1 where nobody is left and for region 0.
        """
        owner = np.full(len(self.sizes), -1, dtype=np.int64)
        if len(self.starts):
            count = len(place)
            at_place = np.full(count + 1, -1, dtype=np.int64)
            at_place[place] = np.arange(count)
            at_place[count] = -1
            first = np.minimum.reduceat(place[self.claims_object], self.starts)
            owner[self.claims_region[self.starts]] = at_place[first]
        return owner

    def owned(self, owner: NDArray[np.int64], count: int) -> NDArray[np.int64]:
        """Pixels that each of `count` objects owns, given the owner of each region: (N,) int64."""
        return _count(owner + 1, self.sizes, count + 1)[1:]

    def paint(self, owner: NDArray[np.int64]) -> NDArray[np.int32]:
        """The owner of each pixel, (H, W) int32, given that of each region (R,)."""
        return owner.astype(np.int32).take(self.label)

    def pixels(self, wanted: NDArray[np.bool_]) -> NDArray[np.int64]:
        """Flat indices, ascending, of the pixels in the regions that `wanted` (R,) marks."""
        return np.flatnonzero(wanted.take(self.label))

    def sums(self, of: Callable[[NDArray[np.int64]], NDArray[Any]], wanted: NDArray[np.bool_]) -> NDArray[np.float64]:
        """Sums a quantity of pixels over regions.

        Args:
            of: gives the quantity (C, M) at pixels, flat indices (M,); called block by block.
            wanted: (R,) the regions to sum over.

        Returns:
            (C, R) float64, 0 for the others.
        """
        pixels = self.pixels(wanted)
        count = len(self.sizes)
        total: NDArray[np.float64] = np.zeros(())
        for at in range(0, max(1, len(pixels)), _PIXELS):
            block = pixels[at : at + _PIXELS]
            region = self.label.take(block)
            total = total + np.stack([np.bincount(region, weights=channel, minlength=count) for channel in of(block)])
        return total


def _claims(
    sizes: NDArray[np.int64], parent: NDArray[np.int64], cutter: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Claims of the regions with pixels: a region is claimed by its cutter and by all who claim its parent."""
    region = np.flatnonzero(sizes)
    ancestor = region
    regions, objects = [region[:0]], [region[:0]]
    while True:
        real = ancestor > 0
        region, ancestor = region[real], ancestor[real]
        if not len(region):
            break
        regions.append(region)
        objects.append(cutter[ancestor])
        ancestor = parent[ancestor]
    region, claimant = np.concatenate(regions), np.concatenate(objects)
    order = np.lexsort((claimant, region))
    return region[order], claimant[order]


def _count(index: NDArray[np.int64], weight: NDArray[np.int64], length: int) -> NDArray[np.int64]:
    """Integer sums by index; exact, as float64 holds every count of pixels."""
    return np.bincount(index, weights=weight, minlength=length).astype(np.int64)

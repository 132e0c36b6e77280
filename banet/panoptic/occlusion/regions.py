"""Pixels grouped by who claims them: everything about overlapping masks is done on these groups, not on pixels."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from banet.errors import InputError
from banet.panoptic.id_maps import sum_by
from banet.panoptic.validation import MaskCrops

__all__ = ["Regions", "ranges"]

_PIXELS = 1 << 13  # looked at together: what is computed of them stays in the processor's cache
_COMBINATIONS = 1 << 20  # of claimants, looked at together: bounds the memory
_MOST_INTERVALS = 1 << 22  # of all masks of an image along its rows; each takes some 100 bytes
_MOST_PAIRS = 1 << 18
"""Pairs of objects that overlap in one image; a table of more would take gigabytes and minutes."""


@dataclass(frozen=True, eq=False)
class Regions:
    """The partition of an image into regions: two pixels share a region when the same objects claim both.

    Region 0 is the pixels without a claimant. An image has far fewer regions than pixels, and whatever an occlusion
    rule decides, it decides for whole regions or from sums over them. Where they lie is told by *runs*: stretches of
    pixels, in reading order, along which the claimants stay the same. Each run has pixels, and so has each region but
    0.

    Attributes:
        size: (H, W) of the image.
        starts: (K,) int64, flat index of the first pixel of each run; ascending.
        lengths: (K,) int64, pixels of each run. All runs together are the image.
        labels: (K,) int64, the region of each run.
        sizes: (R,) int64, pixels in each region.
        claims_region: (C,) int64, ascending, and
        claims_object: (C,) int64, ascending within a region: who claims each region.
        heads: positions in the claims where a new region begins, one per region but region 0.
    """

    size: tuple[int, int]
    starts: NDArray[np.int64]
    lengths: NDArray[np.int64]
    labels: NDArray[np.int64]
    sizes: NDArray[np.int64]
    claims_region: NDArray[np.int64]
    claims_object: NDArray[np.int64]
    heads: NDArray[np.int64]

    @classmethod
    def of(cls, masks: MaskCrops) -> Regions:
        """Cut the image where a mask begins or ends along a row, and group the runs by who claims them.

        Claimants are told apart by the sum of random numbers of 64 bits, one per object, modulo 2^64: two given sets of
        objects have the same sum once in 10^19. Time: the crops' pixels, plus sorting the runs.

        Raises:
            InputError: The masks are cut into too many stretches.
        """
        area = masks.size[0] * masks.size[1]
        begin, end, claimant = _intervals(masks)
        cut = np.zeros(area + 1, dtype=bool)
        cut[0] = cut[area] = cut[begin] = cut[end] = True
        bounds = np.flatnonzero(cut)
        narrow = np.int32 if area < 2**31 else np.int64
        run_at: NDArray[np.integer[Any]] = np.empty(area + 1, dtype=narrow)  # of each bound; unset elsewhere
        run_at[bounds] = np.arange(len(bounds))
        first, last = run_at[begin], run_at[end]  # runs first .. last - 1 make up the interval

        key = np.random.default_rng(0).integers(2**64, size=len(masks), dtype=np.uint64)[claimant]
        change = np.zeros(len(bounds), dtype=np.uint64)
        np.add.at(change, first, key)
        np.subtract.at(change, last, key)
        # Nobody claims what follows the last bound, so that the sum 0, which sorts first, is always there.
        sums = np.cumsum(change)
        distinct = np.unique(sums)
        labels = np.searchsorted(distinct, sums[:-1])
        starts, lengths = bounds[:-1], np.diff(bounds)
        sizes = sum_by(labels, lengths, len(distinct))

        # One run per region is enough to see who claims it.
        example = np.zeros(len(distinct), dtype=np.int64)
        example[labels] = np.arange(len(labels))
        is_example = np.zeros(len(bounds), dtype=bool)
        is_example[example[1:]] = True
        before = np.cumsum(is_example) - is_example  # examples before each run
        seen = before[last] - before[first]
        region = labels[is_example[:-1]][ranges(before[first], seen)]
        order = np.argsort(region, kind="stable")
        region, claimant = region[order], np.repeat(claimant, seen)[order]
        heads = np.flatnonzero(np.diff(region, prepend=0))
        return cls(masks.size, starts, lengths, labels, sizes, region, claimant, heads)

    def areas(self, count: int) -> NDArray[np.int64]:
        """Return the pixels of each of the `count` masks, (N,) int64."""
        return sum_by(self.claims_object, self.sizes[self.claims_region], count)

    def pairs(self, count: int) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
        """Every two of `count` objects that share a pixel.

        Returns:
            i, j (the lower and the higher index) and overlap in pixels, (P,) int64 each, sorted by (i, j).

        Raises:
            InputError: More than `_MOST_PAIRS` do.
        """
        self._bound_depth()
        codes = [np.zeros(0, dtype=np.int64)]
        overlaps = [np.zeros(0, dtype=np.int64)]
        for region, combination in self._combinations(count):
            code, index = np.unique(combination, return_inverse=True)
            codes.append(code)
            overlaps.append(sum_by(index, self.sizes[region], len(code)))
            if sum(map(len, codes)) > 4 * _MOST_PAIRS:  # the same ones may be in several blocks
                code, index = np.unique(np.concatenate(codes), return_inverse=True)
                codes, overlaps = [code], [sum_by(index, np.concatenate(overlaps), len(code))]
                _bound(len(code))
        code, index = np.unique(np.concatenate(codes), return_inverse=True)
        _bound(len(code))
        i, j = np.divmod(code, max(1, count))
        return i, j, sum_by(index, np.concatenate(overlaps), len(code))

    def pair_sums(
        self, values: NDArray[np.float64], i: NDArray[np.int64], j: NDArray[np.int64], count: int
    ) -> NDArray[np.float64]:
        """Sum values of regions over the overlap of each pair.

        Args:
            values: (C, R), one column per region.
            i: (P,) the first of each pair, and
            j: (P,) the second; i < j, sorted by (i, j).
            count: number of objects N.

        Returns:
            (C, P) float64.
        """
        total = np.zeros((len(values), len(i)))
        for region, pair in self.regions_of_pairs(i, j, count):
            for channel, value in zip(total, values, strict=True):
                channel += np.bincount(pair, weights=value[region], minlength=len(i))
        return total

    def regions_of_pairs(
        self, i: NDArray[np.int64], j: NDArray[np.int64], count: int
    ) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
        """Yield which region lies in the overlap of which pair, block by block.

        Args:
            i: (P,) the first of each pair, and
            j: (P,) the second; i < j, sorted by (i, j).
            count: number of objects N.

        Yields:
            Regions (K,) and pairs (K,) as positions in i, j; each combination once.
        """
        codes = i * count + j
        if not len(codes):
            return
        for region, combination in self._combinations(count):
            pair = np.minimum(np.searchsorted(codes, combination), len(codes) - 1)
            found = codes[pair] == combination
            yield region[found], pair[found]

    def _combinations(self, count: int) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
        """Yield regions (K,) and codes i * count + j (K,) of every two of their claimants, block by block."""
        regions: list[NDArray[np.int64]] = []
        codes: list[NDArray[np.int64]] = []
        for some, claimants in self.by_depth():
            first, second = np.triu_indices(claimants.shape[1], 1)
            step = max(1, _COMBINATIONS // len(first))
            for at in range(0, len(some), step):
                block = claimants[at : at + step]
                regions.append(np.repeat(some[at : at + step], len(first)))
                codes.append((block[:, first] * count + block[:, second]).reshape(-1))
                if sum(map(len, codes)) >= _COMBINATIONS:
                    yield np.concatenate(regions), np.concatenate(codes)
                    regions, codes = [], []
        if codes:
            yield np.concatenate(regions), np.concatenate(codes)

    def _bound_depth(self) -> None:
        """Refuse pixels that so many objects share that the table of their pairs would not fit into the memory."""
        depth = int(self.depths().max(initial=0))
        _bound(depth * (depth - 1) // 2)

    def depths(self) -> NDArray[np.int64]:
        """Return how many objects claim each region, (R,) int64."""
        return np.bincount(self.claims_region, minlength=len(self.sizes))

    def by_depth(self, least: int = 2) -> list[tuple[NDArray[np.int64], NDArray[np.int64]]]:
        """Return the regions with equally many claimants together, from `least` claimants on.

        Returns:
            A list of (regions (G,), claimants (G, k) ascending) for each number k that occurs.
        """
        depth = np.diff(self.heads, append=len(self.claims_region))
        groups = []
        for k in np.unique(depth[depth >= least]).tolist():
            heads = self.heads[depth == k]
            groups.append((self.claims_region[heads], self.claims_object[heads[:, None] + np.arange(k)]))
        return groups

    def first_claimant(self, rank: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the owner of each region, which is its claimant of the lowest rank.

        Args:
            rank: (N,) distinct numbers below N, or N for an object that was removed.

        Returns:
            (R,) int64, -1 where nobody is left and for region 0.
        """
        owner = np.full(len(self.sizes), -1, dtype=np.int64)
        if len(self.heads):
            count = len(rank)
            of_rank = np.full(count + 1, -1, dtype=np.int64)
            of_rank[rank] = np.arange(count)
            of_rank[count] = -1
            first = np.minimum.reduceat(rank[self.claims_object], self.heads)
            owner[1:] = of_rank[first]
        return owner

    def owned(self, owner: NDArray[np.int64], count: int) -> NDArray[np.int64]:
        """Return the pixels that each of `count` objects owns, given the owner of each region: (N,) int64."""
        return sum_by(owner + 1, self.sizes, count + 1)[1:]

    def paint(self, owner: NDArray[np.int64]) -> NDArray[np.int32]:
        """Return the owner of each pixel, (H, W) int32, given that of each region (R,)."""
        return np.repeat(owner.astype(np.int32)[self.labels], self.lengths).reshape(self.size)

    def pixels(self, wanted: NDArray[np.bool_]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return flat indices, ascending, of the pixels in the regions that `wanted` (R,) marks, and their regions."""
        runs = np.flatnonzero(wanted[self.labels])
        lengths = self.lengths[runs]
        return ranges(self.starts[runs], lengths), np.repeat(self.labels[runs], lengths)

    def sums(self, of: Callable[[NDArray[np.int64]], NDArray[Any]], wanted: NDArray[np.bool_]) -> NDArray[np.float64]:
        """Sum a quantity over each of the regions that `wanted` (R,) marks.

        Args:
            of: gives the quantity (C, M) at pixels, flat indices (M,); called block by block.
            wanted: (R,).

        Returns:
            (C, R) float64, 0 for regions that are not wanted.
        """
        runs = np.flatnonzero(wanted[self.labels])
        if not len(runs):
            return np.zeros((len(of(runs)), len(wanted)))
        ends = np.cumsum(self.lengths[runs])
        parts = []
        for block in np.split(runs, np.flatnonzero(np.diff(ends // _PIXELS)) + 1):
            lengths = self.lengths[block]
            values = of(ranges(self.starts[block], lengths))
            parts.append(np.add.reduceat(values, np.cumsum(lengths) - lengths, axis=1))
        labels = self.labels[runs]
        of_runs = np.concatenate(parts, axis=1)
        return np.stack([np.bincount(labels, weights=channel, minlength=len(wanted)) for channel in of_runs])


def _bound(pairs: int) -> None:
    if pairs > _MOST_PAIRS:
        what = f"{pairs:,} or more pairs of objects overlap (the limit is {_MOST_PAIRS:,})"
        raise InputError(what, hint="leave out duplicates, or cut the image up")


def _intervals(masks: MaskCrops) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Return where masks begin and end along the rows: first pixels, pixels after the last (flat indices), and objects.

    Three arrays of one length, int64; sorted by object, then by pixel.
    """
    edges = []
    total = 0
    for crop in masks.crops:
        height, width = crop.shape
        flat = np.zeros(height * (width + 1) + 1, dtype=bool)  # a gap before each row, and one at the end
        flat[:-1].reshape(height, width + 1)[:, 1:] = crop
        changes = flat[1:] != flat[:-1]
        total += np.count_nonzero(changes)
        if total > 2 * _MOST_INTERVALS:
            what = f"masks have more than {_MOST_INTERVALS:,} stretches along the rows"
            raise InputError(what, hint="are they masks? Smooth them, or cut the image up")
        edges.append(np.flatnonzero(changes))
    counts = np.array([len(each) for each in edges], dtype=np.int64)
    left, top, right, _ = np.repeat(masks.boxes.T.reshape(4, -1), counts, axis=1)
    row, column = np.divmod(np.concatenate([*edges, np.zeros(0, dtype=np.int64)]), right - left + 1)
    index = (top + row) * masks.size[1] + left + column
    return index[::2], index[1::2], np.repeat(np.arange(len(masks)), counts // 2)


def ranges(starts: NDArray[np.int64], lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the numbers start .. start + length - 1 of each range, one range after the other."""
    ends = np.cumsum(lengths)
    ranges: NDArray[np.int64] = np.repeat(starts - ends + lengths, lengths)
    ranges += np.arange(len(ranges))
    return ranges

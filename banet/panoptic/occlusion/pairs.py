"""The table of overlapping pairs that occlusion rules are given."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from banet._renamed import old_attribute
from banet.panoptic.occlusion.colors import unit
from banet.panoptic.occlusion.regions import Regions
from banet.panoptic.validation import MaskCrops
from banet.types import Box

__all__ = ["NO_IMAGE", "Pairs"]

NO_IMAGE = "this rule looks at the image, but image is None"


@dataclass(frozen=True, eq=False)
class Pairs:
    """A table of P pairs of overlapping objects, and the N objects that it speaks of.

    A rule is given the pairs that it has to decide; a procedure is given all that overlap.

    Attributes:
        i: (P,) int64, the object of lower index in each pair, and
        j: (P,) int64, the one of higher index; sorted by (i, j).
        overlap: (P,) int64, pixels that both claim.
        areas: (N,) int64, pixels of each mask.
        scores: (N,) float64.
        masks: the N masks; `masks[n]` is the (H, W) bool mask of object n.
        image: (H, W, 3) RGB, 0..255, uint8 or float (a grey image has three equal channels); None if none was given.
        regions: the pixels grouped by their claimants, for sums (`mask_sums`, `overlap_sums`).
    """

    i: NDArray[np.int64]
    j: NDArray[np.int64]
    overlap: NDArray[np.int64]
    areas: NDArray[np.int64]
    scores: NDArray[np.float64]
    masks: MaskCrops
    image: NDArray[Any] | None
    regions: Regions

    @classmethod
    def of(cls, masks: MaskCrops, scores: NDArray[np.float64], image: NDArray[Any] | None) -> Pairs:
        """Return the table of all overlapping pairs of checked masks (numpy crops), scores and image."""
        count = len(masks)
        regions = Regions.of(masks)
        i, j, overlap = regions.pairs(count)
        return cls(i, j, overlap, regions.areas(count), scores, masks, image, regions)

    def __len__(self) -> int:
        return len(self.i)

    def where(self, wanted: NDArray[np.bool_]) -> Pairs:
        """Return the table of the pairs that `wanted` (P,) marks; the objects keep their numbers."""
        return replace(self, i=self.i[wanted], j=self.j[wanted], overlap=self.overlap[wanted])

    def at(self, rows: NDArray[np.int64]) -> Pairs:
        """Return the table of the pairs in these rows (K,); the objects keep their numbers."""
        return replace(self, i=self.i[rows], j=self.j[rows], overlap=self.overlap[rows])

    def occluded(self, threshold: float) -> NDArray[np.bool_]:
        """Return which pairs, (P,) bool, overlap by more than `threshold` of the one or the other."""
        exceeds: NDArray[np.bool_] = (self.overlap > threshold * self.areas[self.i]) | (
            self.overlap > threshold * self.areas[self.j]
        )
        return exceeds

    def overlap_mask(self, pair: int) -> tuple[Box, NDArray[np.bool_]]:
        """Return where the two objects of a pair overlap: a box x1, y1, x2, y2 and the mask inside it, (h, w) bool."""
        boxes = self.masks.boxes[[self.i[pair], self.j[pair]]]
        x1, y1 = (int(v) for v in boxes[:, :2].max(axis=0))
        x2, y2 = (int(v) for v in boxes[:, 2:].min(axis=0))
        cuts = [
            self.masks.crops[n][y1 - top : y2 - top, x1 - left : x2 - left]
            for n, (left, top) in zip((self.i[pair], self.j[pair]), boxes[:, :2].tolist(), strict=True)
        ]
        return (x1, y1, x2, y2), cuts[0] & cuts[1]

    def colors(self, pixels: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return RGB of pixels given as flat indices (M,): (3, M) float64. ValueError where there is no image."""
        if self.image is None:
            raise ValueError(NO_IMAGE)
        rgb: NDArray[np.float64] = self.image.reshape(-1, 3).take(pixels, axis=0).T.astype(np.float64, order="C")
        return rgb

    def overlap_sums(self, of: Callable[[NDArray[np.int64]], NDArray[Any]]) -> NDArray[np.float64]:
        """Sum a quantity over each overlap, visiting every pixel once however many pairs share it.

        Args:
            of: gives the quantity (C, M) at pixels, flat indices (M,) into the image; called block by block.

        Returns:
            (C, P) float64.
        """
        return self._of_overlaps(self.regions.sums(of, self.regions.depths() > 1))

    def mask_sums(self, of: Callable[[NDArray[np.int64]], NDArray[Any]]) -> NDArray[np.float64]:
        """Sum a quantity over each mask, as `overlap_sums`: (C, N) float64, 0 for objects that are in no pair."""
        return self._of_masks(self.regions.sums(of, self._claimed()))

    def color_sums(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return sums of RGB over each mask, (3, N), and of RGB scaled to length 1 over each overlap, (3, P)."""

        def plain_and_scaled(pixels: NDArray[np.int64]) -> NDArray[np.float64]:
            rgb = self.colors(pixels)
            return np.concatenate([rgb, unit(rgb)])

        deep = self.regions.depths() > 1
        shallow = self.regions.sums(self.colors, self._claimed() & ~deep)
        both = self.regions.sums(plain_and_scaled, deep)
        return self._of_masks(shallow + both[:3]), self._of_overlaps(both[3:])

    colours = old_attribute("colours", "colors")
    colour_sums = old_attribute("colour_sums", "color_sums")

    def _claimed(self) -> NDArray[np.bool_]:
        """Return the regions, (R,) bool, of objects that are in a pair."""
        paired = np.zeros(len(self.areas), dtype=bool)
        paired[self.i] = paired[self.j] = True
        claimed = np.zeros(len(self.regions.sizes), dtype=bool)
        claimed[self.regions.claims_region[paired[self.regions.claims_object]]] = True
        return claimed

    def _of_masks(self, sums: NDArray[np.float64]) -> NDArray[np.float64]:
        region, claimant = self.regions.claims_region, self.regions.claims_object
        return np.stack([np.bincount(claimant, weights=channel[region], minlength=len(self.areas)) for channel in sums])

    def _of_overlaps(self, sums: NDArray[np.float64]) -> NDArray[np.float64]:
        return self.regions.pair_sums(sums, self.i, self.j, len(self.areas))

"""Large images, tile by tile: each tile is segmented on its own, and objects are joined over the seams.

Any function can segment the tiles, as only their id maps are looked at, numpy in and numpy out. Memory holds
one tile at work, a byte for each pixel of each tile that is done, and the final id map.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from banet._renamed import accept_old_names
from banet.panoptic.categories import Categories
from banet.panoptic.defaults import REMOVAL_THRESHOLD
from banet.panoptic.id_maps import runs, sum_by
from banet.panoptic.segmentation import PanopticSegmentation
from banet.panoptic.segments import Segment
from banet.types import Box, Size

__all__ = ["Box", "merge_tiles", "segment_tiles", "tile_boxes"]

_SAME = 0.5
"""Two views are one object above this IoU. As in PQ, a segment can have at most one such partner in another tile."""

_FAR = 1 << 29
"""More than any distance in an image, and what a whole view is ahead of others in trust."""


def tile_boxes(size: Size, tile: int, overlap: int) -> list[Box]:
    """Return the boxes of tiles that cover an image, all of one size and evenly spread.

    Args:
        size: Height and width of the image.
        tile: Side of a tile in pixels; where the image is shorter, tiles are as short.
        overlap: Pixels that neighbours share at least.

    Returns:
        The boxes in reading order. One box where the image is not larger than a tile.

    Raises:
        ValueError: The image has no pixel, or `overlap` is not in 1 .. `tile` - 1.
    """
    if min(size) < 1:
        raise ValueError(f"an image must have at least one pixel, not {size[0]} x {size[1]} (H x W)")
    if not 1 <= overlap < tile:
        raise ValueError(f"overlap must be at least 1 and less than the tile of {tile} pixels, not {overlap}")
    rows, columns = (_spread(length, tile, overlap) for length in size)
    return [(x1, y1, x2, y2) for y1, y2 in rows for x1, x2 in columns]


def _spread(length: int, tile: int, overlap: int) -> list[tuple[int, int]]:
    """Return the ends of the tiles along one axis."""
    if length <= tile:
        return [(0, length)]
    steps = -(-(length - tile) // (tile - overlap))
    starts = [step * (length - tile) // steps for step in range(steps + 1)]
    return [(start, start + tile) for start in starts]


@accept_old_names
def segment_tiles(
    segment: Callable[[NDArray[Any]], PanopticSegmentation],
    image: Any,
    *,
    tile: int,
    overlap: int | None = None,
    stuff_area: int = 0,
    removal_threshold: float = REMOVAL_THRESHOLD,
    progress: Callable[[list[Box]], Iterable[Box]] = iter,
) -> PanopticSegmentation:
    """Segment an image tile by tile, and join the results; see `merge_tiles`.

    Args:
        segment: Segments one tile, (h, w, ...). It should keep stuff however small, as a tile may hold a corner of it.
        image: What has a shape (H, W, ...) and can be cut by rows and columns: an array, a memory map, an array on
            disk. It is cut in reading order, one row of tiles after the other.
        tile: Side of a tile in pixels.
        overlap: Pixels that neighbours share at least; a quarter of the tile by default. An object that is not larger
            lies whole in some tile.
        stuff_area: As for `merge_tiles`.
        removal_threshold: As for `merge_tiles`.
        progress: Given the tiles, gives them one by one; for a progress bar.

    Returns:
        The result, with `image` as its image if that is a numpy array.

    Raises:
        ValueError: See `tile_boxes` and `merge_tiles`.
    """
    size = (int(image.shape[0]), int(image.shape[1]))
    boxes = tile_boxes(size, tile, max(tile // 4, 1) if overlap is None else overlap)
    tiles = ((box, segment(np.asarray(image[box[1] : box[3], box[0] : box[2]]))) for box in progress(boxes))
    result = merge_tiles(tiles, size, stuff_area=stuff_area, removal_threshold=removal_threshold)
    result.image = image if isinstance(image, np.ndarray) else None
    return result


def merge_tiles(
    tiles: Iterable[tuple[Box, PanopticSegmentation]],
    size: Size,
    *,
    stuff_area: int = 0,
    removal_threshold: float = REMOVAL_THRESHOLD,
) -> PanopticSegmentation:
    """Join the results of overlapping tiles to one.

    1. A thing is seen by several tiles. Two views are the same object when they have one class and their IoU inside the
       two tiles' common rectangle is above 0.5. The best agreements are joined first, and never so that two things of
       one tile become one: a tile that saw two is right.
    2. A view is *whole* when it touches no side of its tile beyond which the image goes on. At each pixel the tiles
       that cover it are ranked: those whose claim is a whole thing come first, then those whose sides are farther away,
       which know more of what is around.
    3. A pixel goes to the claim of the first tile. An object that loses more than `removal_threshold` of the pixels
       that some view of it claims is removed: it was a fragment of something that another tile knew better. Objects are
       removed one at a time, the one with the largest lost fraction first (tie: lower score, then higher number), and
       their pixels go to the next claim, or else to void.
    4. Stuff is one segment per class, and void where it has fewer than `stuff_area` pixels.

    The result does not depend on the order of the tiles. One tile alone comes back as it is, small stuff aside.

    Args:
        tiles: The box of each tile in the image, and what was found in it. They are taken one by one.
        size: Height and width of the image.
        stuff_area: Fewest pixels of a stuff segment.
        removal_threshold: 0..1; 1 keeps every object that owns a pixel.

    Returns:
        Things with the ids 1 .. k in descending order of score (that of the best view), then stuff, in ascending order
        of category id. A pixel that no tile covers is void. No image.

    Raises:
        ValueError: There are no tiles; a box leaves the image, occurs twice, or is not of its result's size; the tiles
            have different categories; an option is out of range.
    """
    if stuff_area < 0:
        raise ValueError(f"stuff_area must not be negative, not {stuff_area}")
    if not 0 <= removal_threshold <= 1:
        raise ValueError(f"removal_threshold must be in 0..1, not {removal_threshold}")
    categories: Categories | None = None
    pieces = []
    for box, result in tiles:
        pieces.append(_Tile.of(box, result, size))
        categories = categories or result.categories
        if result.categories != categories:
            raise ValueError("all tiles must have the same categories")
    if categories is None:
        raise ValueError("there must be at least one tile")
    pieces.sort(key=lambda piece: (piece.box[1], piece.box[0], piece.box[3], piece.box[2]))
    if any(one.box == other.box for one, other in pairwise(pieces)):
        raise ValueError("each tile must have a box of its own")

    codes, scores, classes = _number(pieces, categories)
    mosaic = _Mosaic(pieces, codes, size)
    alive, areas = mosaic.settle(len(scores), 1 + len(classes), removal_threshold)
    kept = alive & (areas > 0)
    kept[0] = False
    kept[len(scores) + 1 :] &= areas[len(scores) + 1 :] >= stuff_area
    ids = np.zeros(len(kept), dtype=np.int32)
    ids[kept] = np.arange(1, kept.sum() + 1)
    found = [
        Segment(
            int(ids[code]), classes[code - 1], code <= len(scores), scores[code - 1] if code <= len(scores) else None
        )
        for code in np.flatnonzero(kept).tolist()
    ]
    return PanopticSegmentation.from_ids(mosaic.paint(alive, ids), found, categories)


# --- what the tiles say ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Tile:
    """A tile that is done.

    Attributes:
        box: Where it lies in the image.
        inner: Whether the image goes on beyond its left, top, right and bottom side.
        claims: (h, w), as small integers as will do: 0 is void, k the k-th of `segments`.
        segments: What was found.
    """

    box: Box
    inner: tuple[bool, bool, bool, bool]
    claims: NDArray[Any]
    segments: list[Segment]

    @classmethod
    def of(cls, box: Box, result: PanopticSegmentation, size: Size) -> _Tile:
        x1, y1, x2, y2 = box
        height, width = size
        if not (0 <= x1 < x2 <= width and 0 <= y1 < y2 <= height):
            raise ValueError(f"box {box} does not lie in the image of {height} x {width} (H x W)")
        if result.ids.shape != (y2 - y1, x2 - x1):
            raise ValueError(f"the result of box {box} is of size {result.ids.shape} (H, W)")
        result.check(f"box {box}")
        place = np.zeros(
            1 + max((each.id for each in result.segments), default=0), np.min_scalar_type(len(result.segments))
        )
        place[[each.id for each in result.segments]] = np.arange(1, len(result.segments) + 1)
        return cls(box, (x1 > 0, y1 > 0, x2 < width, y2 < height), place[result.ids], result.segments)

    def sees_whole(self, segment: Segment) -> bool:
        """Return whether a segment touches no side beyond which the image goes on."""
        x, y, width, height = segment.bbox
        rows, columns = self.claims.shape
        touches = (x == 0, y == 0, x + width == columns, y + height == rows)
        return not any(inner and touch for inner, touch in zip(self.inner, touches, strict=True))

    def cut(self, cell: Box) -> NDArray[Any]:
        """Return `claims` inside a rectangle of the image that lies in the tile."""
        x1, y1, _, _ = self.box
        return self.claims[cell[1] - y1 : cell[3] - y1, cell[0] - x1 : cell[2] - x1]

    def depth(self, cell: Box) -> NDArray[np.int32]:
        """Return pixels from each pixel of a rectangle, itself included, to the next inner side."""
        far = np.int32(_FAR - 1)
        axes = []
        for axis in (1, 0):
            pixel = np.arange(cell[axis], cell[axis + 2], dtype=np.int32)
            before = pixel - self.box[axis] + 1 if self.inner[axis] else far
            after = self.box[axis + 2] - pixel if self.inner[axis + 2] else far
            axes.append(np.minimum(np.minimum(before, after), np.full_like(pixel, far)))
        return np.minimum(axes[0][:, None], axes[1][None, :])


def _number(
    pieces: list[_Tile], categories: Categories
) -> tuple[list[NDArray[np.int32]], list[float | None], list[int]]:
    """Return one code for each object and each class of stuff.

    Returns:
        For each tile the code of each of its claims (0 for void); the scores of the objects 1 .. N, in descending
        order; and the category ids of the codes 1 .. N + S, stuff last.
    """
    views = [(tile, each) for tile, piece in enumerate(pieces) for each in piece.segments]
    root = _same(_agreements(pieces), [tile for tile, _ in views])
    best: dict[int, float] = {}  # the objects, by their first view
    for view, (_, each) in enumerate(views):
        if each.isthing:
            score = -math.inf if each.score is None else each.score
            best[root[view]] = max(best.get(root[view], -math.inf), score)
    order = sorted(best, key=lambda first: (-best[first], first))
    code = {first: number for number, first in enumerate(order, start=1)}
    of_views = [
        code[root[view]]
        if each.isthing
        else len(order) + 1 + categories.index(each.category_id) - categories.num_things
        for view, (_, each) in enumerate(views)
    ]
    ends = np.cumsum([len(piece.segments) for piece in pieces])[:-1]
    codes = [np.append(0, part).astype(np.int32) for part in np.split(np.array(of_views, dtype=np.int32), ends)]
    classes = [views[first][1].category_id for first in order] + categories.ids[categories.num_things :].tolist()
    return codes, [None if best[first] == -math.inf else best[first] for first in order], classes


def _agreements(pieces: list[_Tile]) -> list[tuple[float, int, int]]:
    """Return pairs of views that are the same object, as -IoU and their positions in the list of all views."""
    first = np.cumsum([0] + [len(piece.segments) for piece in pieces]).tolist()
    classes = [np.array([-1] + [s.category_id if s.isthing else -1 for s in piece.segments]) for piece in pieces]
    boxes = np.array([piece.box for piece in pieces])
    found: list[tuple[float, int, int]] = []
    for b, piece in enumerate(pieces):
        x1, y1, x2, y2 = piece.box
        before = boxes[:b]
        near = (before[:, 0] < x2) & (before[:, 2] > x1) & (before[:, 1] < y2) & (before[:, 3] > y1)
        for a in np.flatnonzero(near).tolist():
            left, top, right, bottom = pieces[a].box
            cell = (max(left, x1), max(top, y1), min(right, x2), min(bottom, y2))
            one, other = (np.ascontiguousarray(each.cut(cell)) for each in (pieces[a], piece))
            starts, lengths = runs(one, other)
            pairs = one.reshape(-1)[starts].astype(np.int64) * len(classes[b]) + other.reshape(-1)[starts]
            pairs, which = np.unique(pairs, return_inverse=True)
            common = np.bincount(which, weights=lengths)
            i, j = np.divmod(pairs, len(classes[b]))
            iou = common / (np.bincount(i, common)[i] + np.bincount(j, common)[j] - common)
            same = (iou > _SAME) & (classes[a][i] == classes[b][j]) & (classes[a][i] >= 0)
            found += zip(
                (-iou[same]).tolist(), (first[a] + i[same] - 1).tolist(), (first[b] + j[same] - 1).tolist(), strict=True
            )
    return found


def _same(pairs: list[tuple[float, int, int]], tiles: list[int]) -> list[int]:
    """Return the first view of each view's object, given each view's tile. No object gets two views of one tile."""
    first = list(range(len(tiles)))
    seen_by = [{tile} for tile in tiles]

    def find(view: int) -> int:
        while first[view] != view:
            first[view] = first[first[view]]
            view = first[view]
        return view

    for _, one, other in sorted(pairs):
        low, high = sorted((find(one), find(other)))
        if seen_by[low].isdisjoint(seen_by[high]):
            first[high] = low
            seen_by[low] |= seen_by[high]
    return [find(view) for view in range(len(tiles))]


# --- who gets which pixel --------------------------------------------------------------------------------------------


class _Mosaic:
    """The tiles laid over one another.

    Args:
        pieces: The tiles.
        codes: For each tile the code of each of its claims.
        size: Height and width of the image.
    """

    def __init__(self, pieces: list[_Tile], codes: list[NDArray[np.int32]], size: Size) -> None:
        self.pieces = pieces
        self.codes = codes
        self.size = size
        self.whole = [np.array([False] + [each.isthing and p.sees_whole(each) for each in p.segments]) for p in pieces]

    def cells(self) -> Iterator[tuple[Box, list[int]]]:
        """Return the rectangles inside which no tile begins or ends, and the tiles that cover each."""
        boxes = np.array([piece.box for piece in self.pieces])
        height, width = self.size
        across, down = (
            np.unique([0, end, *boxes[:, axis], *boxes[:, axis + 2]]) for axis, end in ((0, width), (1, height))
        )
        for top, bottom in pairwise(down.tolist()):
            here = np.flatnonzero((boxes[:, 1] <= top) & (boxes[:, 3] >= bottom))
            for left, right in pairwise(across.tolist()):
                over = here[(boxes[here, 0] <= left) & (boxes[here, 2] >= right)]
                if len(over):
                    yield (left, top, right, bottom), over.tolist()

    def claims(self, cell: Box, over: list[int]) -> tuple[NDArray[np.int32], NDArray[np.int64], NDArray[np.int32]]:
        """Return what the tiles that cover a cell (h, w) say.

        Returns:
            The codes (h, w) that the first of them gives; the M pixels, as flat indices, on which not all agree; and
            for these the codes (K, M) that the K tiles give, at each pixel the most trusted first.
        """
        cuts = [self.pieces[tile].cut(cell) for tile in over]
        codes = np.stack([self.codes[tile][cut] for tile, cut in zip(over, cuts, strict=True)])
        disputed = np.flatnonzero((codes != codes[0]).any(axis=0))
        trust = np.empty((len(over), len(disputed)), dtype=np.int32)
        for row, tile, cut in zip(trust, over, cuts, strict=True):
            whole = self.whole[tile][cut.reshape(-1)[disputed]]
            row[:] = self.pieces[tile].depth(cell).reshape(-1)[disputed] + whole * np.int32(_FAR)
        order = np.argsort(-trust, axis=0, kind="stable")
        return codes[0], disputed, np.take_along_axis(codes.reshape(len(over), -1)[:, disputed], order, axis=0)

    def settle(self, objects: int, total: int, removal_threshold: float) -> tuple[NDArray[np.bool_], NDArray[np.int64]]:
        """Remove objects that lose too many of their pixels, one at a time.

        Args:
            objects: How many there are, N: the codes 1 .. N, in descending order of score. Code 0 is void, and those
                above N are stuff; they stay.
            total: Number of codes.
            removal_threshold: 0..1.

        Returns:
            Whether each code is left, and how many pixels it owns, (total,) each.
        """
        rows, pixels = self._survey()
        claimed = np.zeros(total, dtype=np.int64)
        for rank in range(rows.shape[1]):
            fresh = (rows[:, :rank] != rows[:, rank : rank + 1]).all(axis=1)
            claimed += sum_by(rows[fresh, rank], pixels[fresh], total)
        winner = rows[:, 0].copy()
        owned = sum_by(winner, pixels, total)
        alive = np.ones(total, dtype=bool)
        while objects:
            lost = np.where(alive, 1 - owned / claimed.clip(min=1), 0)[1 : objects + 1]
            worst = 1 + int(np.flatnonzero(lost == lost.max())[-1])
            if lost[worst - 1] <= removal_threshold:
                break
            alive[worst], owned[worst] = False, 0
            hit = np.flatnonzero(winner == worst)
            winner[hit] = rows[hit, alive[rows[hit]].argmax(axis=1)]
            owned += sum_by(winner[hit], pixels[hit], total)
        return alive, owned

    def _survey(self) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
        """Return the lists of claims that occur, (M, K), the most trusted first and void last, and their pixels."""
        cells = list(self.cells())
        longest = 1 + max(len(over) for _, over in cells)
        lists, counts = [], []
        for cell, over in cells:
            agreed, disputed, ranked = self.claims(cell, over)
            pixels = np.bincount(agreed.reshape(-1))
            pixels -= np.bincount(agreed.reshape(-1)[disputed], minlength=len(pixels))
            codes = np.flatnonzero(pixels)
            starts, lengths = runs(*ranked)
            rows = np.zeros((len(codes) + len(starts), longest), dtype=np.int32)
            rows[: len(codes), 0] = codes
            rows[len(codes) :, : len(over)] = ranked[:, starts].T
            lists.append(rows)
            counts.append(np.concatenate([pixels[codes], lengths]))
        rows, which = np.unique(np.concatenate(lists), axis=0, return_inverse=True)
        return rows, sum_by(which.reshape(-1), np.concatenate(counts), len(rows))

    def paint(self, alive: NDArray[np.bool_], ids: NDArray[np.int32]) -> NDArray[np.int32]:
        """Return the id map (H, W), given which codes are left and the id of each code, 0 for one that is not."""
        canvas = np.zeros(self.size, dtype=np.int32)
        for cell, over in self.cells():
            codes, disputed, ranked = self.claims(cell, over)
            first = alive[ranked].argmax(axis=0)  # 0 where none is left: a code whose id is 0
            codes.reshape(-1)[disputed] = ranked[first, np.arange(len(disputed))]
            canvas[cell[1] : cell[3], cell[0] : cell[2]] = ids[codes]
        return canvas

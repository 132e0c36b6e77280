"""Pictures tile by tile, for any network that reads one picture as a `Readout`; free of torch."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from banet.data.images import to_rgb_array
from banet.modeling.config import InferenceConfig
from banet.modeling.instances import Readout
from banet.panoptic import Categories, PanopticSegmentation
from banet.panoptic.tiles import Box, segment_tiles

__all__ = ["predict_tiles"]


def predict_tiles(
    read: Callable[[NDArray[np.uint8]], Readout],
    image: Any,
    categories: Categories,
    options: InferenceConfig,
    *,
    rule: Any = None,
    tile: int,
    overlap: int | None = None,
    progress: bool = False,
) -> PanopticSegmentation:
    """Panoptic segmentation of one picture in tiles, joined over the seams by `banet.panoptic.tiles.merge_tiles`.

    Args:
        read: The network, of a picture (h, w, 3) that is no larger than a tile.
        image: As for `BANet.predict`; or something else that has a shape (H, W, 3) and gives uint8 arrays when it is
            cut by rows and columns, such as a memory map: only what is cut need be in memory.
        categories: The network's.
        options: Thresholds and the rule. Small stuff is judged on the whole picture.
        rule: Another rule than the one of `options`.
        tile: Side of a tile in pixels of the picture. Every tile is resized as a picture is.
        overlap: Pixels that neighbours share at least; a quarter of the tile by default.
        progress: Show a bar over the tiles.

    Raises:
        InputError: A file is not a picture.
        ValueError: The options do not fit together, or an array has another shape or range.
    """
    every_stuff = replace(options, stuff_area=0)
    lies_ready = getattr(image, "dtype", None) == np.uint8 and tuple(image.shape[2:]) == (3,)

    def bar(boxes: list[Box]) -> Iterable[Box]:
        return tqdm(boxes, desc="tiles", unit="tile", leave=False, disable=not progress or len(boxes) == 1)

    return segment_tiles(
        lambda part: read(to_rgb_array(part)).fuse(categories, every_stuff, rule=rule),
        image if lies_ready else to_rgb_array(image),
        tile=tile,
        overlap=overlap,
        stuff_area=options.stuff_area,
        removal_threshold=options.removal_threshold,
        progress=bar,
    )

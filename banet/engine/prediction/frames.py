"""A folder of images as a video: its frames, by name, all of one size."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from banet.data.images import find_depth, find_images, read_image
from banet.errors import InputError
from banet.files.names import natural_key
from banet.types import BitDepth

__all__ = ["FolderReader"]

_RATE = Fraction(25)


class FolderReader:
    """The images of a folder, in the order of their names (2 comes before 10), as frames of a video of 25 a second.

    Args:
        source: The folder.
        bit_depth: Bits of 16-bit samples; found in the frames by default.

    Raises:
        InputError: It holds no image.

    Attributes:
        live: False, as of a file.
        rate: Frames a second.
        time_base: Seconds a tick.
        total: How many frames there are.
        aspect: None, as pixels are square.
        damaged: 0: an image that cannot be read ends the video with an error.
        broken: None, likewise.
    """

    live = False
    rate = _RATE
    time_base = 1 / _RATE
    aspect: Fraction | None = None
    damaged = 0
    broken: str | None = None

    def __init__(self, source: str, bit_depth: BitDepth | None = None) -> None:
        self._bit_depth = bit_depth
        self.paths: list[Path] = sorted(find_images([source]).paths, key=lambda path: natural_key(path.name))
        self.total = len(self.paths)

    def __enter__(self) -> FolderReader:
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def __iter__(self) -> Iterator[tuple[NDArray[np.uint8], int]]:
        """Yield images (H, W, 3) and ticks since the first one.

        Raises:
            InputError: An image cannot be read, or is of another size than the first.
        """
        depth, size = find_depth(self.paths, self._bit_depth), None
        for ticks, path in enumerate(self.paths):
            image = np.asarray(read_image(path, bit_depth=depth))
            height, width = image.shape[:2]
            size = size or (width, height)
            if (width, height) != size:
                problem = f"is {width}x{height}, the first frame {size[0]}x{size[1]}"
                raise InputError(problem, where=path, hint="give frames of one size")
            yield image, ticks

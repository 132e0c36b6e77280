"""Any image in memory as RGB: one rule for layout, alpha, orientation and bits per sample. Never imports torch.

Alpha is left out, whatever it hides: the colours are those that are stored. Grey becomes three equal channels. Samples
of 16 bits are scaled to 8 by the range that they use; see `banet.panoptic.sample_depth.SampleDepth`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from banet.errors import InputError
from banet.files.exif import orientation, turn
from banet.panoptic.sample_depth import SampleDepth, to_8_bits
from banet.panoptic.validation import check_image
from banet.types import BitDepth

__all__ = ["deep_samples", "rgb_array", "rgb_image"]

_ROWS = 256  # of an image of 16 bits that are looked at together


def rgb_image(image: Image.Image, bit_depth: BitDepth | SampleDepth = "auto", name: object = "image") -> Image.Image:
    """Convert a Pillow image to mode RGB, as it is stored: not turned.

    Raises:
        InputError: Its pixels are floats or integers out of 0..65535; see also `SampleDepth.white`.
    """
    if image.mode == "RGB":
        return image
    samples = deep_samples(image, name)
    if samples is not None:
        white = SampleDepth.of(bit_depth).white(int(samples.max(initial=0)), None, name)
        return Image.fromarray(to_8_bits(samples, white)).convert("RGB")
    if image.mode in ("P", "PA"):  # by way of RGBA, so that a transparent colour is not lost
        return image.convert("RGBA").convert("RGB")
    return image.convert("RGB")


def deep_samples(image: Image.Image, name: object = "image") -> NDArray[np.uint16] | None:
    """Return the samples (H, W) of a grey image of more than 8 bits; None for other images.

    Raises:
        InputError: They are floats, or integers out of 0..65535.
    """
    if not (image.mode in ("I", "F") or image.mode.startswith("I;16")):
        return None
    samples: NDArray[np.uint16] = np.empty((image.height, image.width), np.uint16)
    for top in range(0, image.height, _ROWS):  # bounds the memory
        values = np.asarray(image.crop((0, top, image.width, min(top + _ROWS, image.height))))
        if image.mode == "F" or values.min(initial=0) < 0 or values.max(initial=0) > 65535:
            kind = "floating-point numbers" if image.mode == "F" else "32-bit integers"
            raise InputError(f"its pixels are {kind}", where=str(name), hint="save it with 8 or 16 bits per channel")
        samples[top : top + _ROWS] = values
    return samples


def rgb_array(image: Any, bit_depth: BitDepth | SampleDepth = "auto") -> NDArray[np.uint8]:
    """Return any image in memory as (H, W, 3) uint8, upright; of an array that is one there is no copy.

    Args:
        image: A Pillow image, or see `check_image`.
        bit_depth: See `check_image`.

    Raises:
        InputError: A Pillow image cannot be decoded, see `rgb_image`; or see `SampleDepth.white`.
        ValueError: See `check_image`.
    """
    if not isinstance(image, Image.Image):
        array = check_image(image, bit_depth)
        return array if array.dtype == np.uint8 else np.rint(array).astype(np.uint8)
    try:
        image.load()  # before it is asked how to turn it: Pillow turns TIFF files when it loads them
    except Exception as error:  # a decoder may raise anything on bad data
        raise InputError(f"is truncated or corrupt ({error})", where="image", hint="open another one") from error
    return np.array(turn(rgb_image(image, bit_depth), orientation(image)))

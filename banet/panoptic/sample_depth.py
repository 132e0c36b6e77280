"""How many bits the samples of 16-bit images use, and the scaling to 8 bits: the one place that decides it."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from banet.errors import InputError, InputWarning
from banet.types import BitDepth

__all__ = ["BIT_DEPTHS", "SampleDepth", "guess_bit_depth", "to_8_bits", "warn_of_guess"]

BIT_DEPTHS = (8, 10, 12, 14, 16)
"""Numbers of bits that samples of 16-bit images are taken to use: the fewest that hold the largest one."""

_BAND = 1 << 20  # samples that are scaled at a time: bounds the memory


def guess_bit_depth(maximum: int) -> int:
    """Return the least of `BIT_DEPTHS` whose range holds `maximum`, a sample of 16 bits."""
    return next(bits for bits in BIT_DEPTHS if maximum < 1 << bits)


def warn_of_guess(bits: int, stacklevel: int = 2) -> None:
    """Tell what was found with a warning (`InputWarning`)."""
    warnings.warn(
        f"16-bit images: samples are taken to use {bits} bits, as the largest one shows; "
        "set --bit-depth (bit_depth in Python) if they use another number",
        InputWarning,
        stacklevel=stacklevel + 1,
    )


@dataclass(frozen=True)
class SampleDepth:
    """How many bits the samples of 16-bit images use, hence which value is white.

    In order of precedence: the bits that the caller gives; what the image says of itself; the bits that were found for
    all images of a call or data set; the fewest of `BIT_DEPTHS` that hold the image's largest sample.

    Attributes:
        bits: 8 to 16, or None where each image decides.
        given: `bits` is what the caller gives, not what was found.
        warns: an image whose largest sample decides is told with a warning (`InputWarning`).
    """

    bits: int | None = None
    given: bool = False
    warns: bool = False

    def __post_init__(self) -> None:
        """Refuse numbers of bits that samples of 16 bits cannot have."""
        if self.bits is not None and not (isinstance(self.bits, int) and 8 <= self.bits <= 16):
            raise InputError(f"bit_depth: must be auto or 8 to 16 bits per sample, not {self.bits}")

    @classmethod
    def of(cls, bit_depth: BitDepth | SampleDepth | None) -> SampleDepth:
        """Return what a user's option means: a number of bits, or `auto`."""
        if isinstance(bit_depth, SampleDepth):
            return bit_depth
        return cls() if bit_depth is None or bit_depth == "auto" else cls(bit_depth, given=True)

    def white(self, maximum: int, stated: int | None = None, name: object = "image") -> int:
        """Return the sample that becomes 255.

        Args:
            maximum: The image's largest sample, 0..65535.
            stated: The largest sample that the image says it can have; None where it says nothing.
            name: What to call the image in errors.

        Raises:
            InputError: `maximum` does not fit into the bits that were given.
        """
        whole = (1 << self.bits) - 1 if self.bits else 0
        if self.given:
            if maximum > whole:
                raise InputError(
                    f"holds samples up to {maximum}, more than {self.bits} bits",
                    where=str(name),
                    hint="give another --bit-depth (bit_depth in Python), or auto",
                )
            return whole
        if stated is not None and maximum <= stated:
            return stated
        if self.warns and self.bits is None:
            warn_of_guess(guess_bit_depth(maximum))
        return max(whole, 1) if maximum <= whole else (1 << guess_bit_depth(maximum)) - 1


def to_8_bits(samples: NDArray[Any], white: int, *, inverted: bool = False) -> NDArray[np.uint8]:
    """Scale samples 0..`white` to 0..255, rounded to the nearest; same shape.

    Args:
        samples: Unsigned integers, none above `white`.
        white: The sample that becomes 255.
        inverted: It becomes 0 instead, and 0 becomes 255.
    """
    table = ((np.arange(white + 1, dtype=np.uint32) * 510 + white) // (2 * white)).astype(np.uint8)
    table = table[::-1] if inverted else table
    result = np.empty(samples.shape, dtype=np.uint8)
    rows = max(1, _BAND // max(1, samples[:1].size))
    for top in range(0, len(samples), rows):
        result[top : top + rows] = table[samples[top : top + rows]]
    return result

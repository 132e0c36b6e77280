"""Arguments of the occlusion handler, validated on entry: masks, scores and images, from numpy or from torch.

torch is never imported: a tensor is recognised through the module that its owner has already loaded.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from banet.errors import abbreviate
from banet.panoptic.sample_depth import SampleDepth, to_8_bits
from banet.types import BitDepth, Size

__all__ = [
    "MaskCrops",
    "as_input_type",
    "check_image",
    "check_instances",
    "check_masks",
    "check_scores",
    "color_samples",
    "is_array",
    "is_torch",
    "to_numpy",
]


@dataclass(frozen=True, eq=False)
class MaskCrops:
    """Masks of N objects, each stored only inside its box: the compact form of an (N, H, W) array.

    Nothing is validated here; the functions that are given crops do it with `check_masks`.

    Args:
        boxes: (N, 4) integers x1, y1, x2, y2, in pixels, half-open; a box need not be tight, and may be empty.
        crops: N boolean arrays, the n-th of shape (y2 - y1, x2 - x1).
        size: (H, W) of the image.
    """

    boxes: NDArray[np.int64]
    crops: Sequence[NDArray[np.bool_]]
    size: Size

    @classmethod
    def from_masks(cls, masks: NDArray[np.bool_]) -> MaskCrops:
        """Crop dense (N, H, W) boolean masks to their tight boxes; the crops are views, nothing is copied."""
        count, height, width = masks.shape
        boxes = np.zeros((count, 4), dtype=np.int64)
        crops = []
        if width % 8 == 0 and masks.flags.c_contiguous:  # eight pixels at a time
            hits = np.bitwise_or.reduce(masks.view(np.uint64), axis=2) != 0
        else:
            hits = np.any(masks, axis=2)
        for mask, box, hit in zip(masks, boxes, hits, strict=True):
            rows = np.flatnonzero(hit)
            if len(rows):
                columns = np.flatnonzero(mask[rows[0] : rows[-1] + 1].any(axis=0))
                box[:] = columns[0], rows[0], columns[-1] + 1, rows[-1] + 1
            x1, y1, x2, y2 = box.tolist()
            crops.append(mask[y1:y2, x1:x2])
        return cls(boxes, crops, (height, width))

    def to_masks(self) -> NDArray[np.bool_]:
        """Return the same masks as one dense (N, H, W) boolean array."""
        masks = np.zeros((len(self), *self.size), dtype=bool)
        for mask, (x1, y1, x2, y2), crop in zip(masks, self.boxes.tolist(), self.crops, strict=True):
            mask[y1:y2, x1:x2] = crop
        return masks

    def __len__(self) -> int:
        return len(self.crops)

    def __getitem__(self, n: int) -> NDArray[np.bool_]:
        """Return the mask of object `n` at full size, (H, W) bool."""
        mask = np.zeros(self.size, dtype=bool)
        x1, y1, x2, y2 = (int(v) for v in self.boxes[n])
        mask[y1:y2, x1:x2] = self.crops[n]
        return mask


def is_torch(x: object) -> bool:
    """Return whether `x` is a torch tensor; never imports torch."""
    torch = sys.modules.get("torch")
    tensor = getattr(torch, "Tensor", None)
    return tensor is not None and isinstance(x, tensor)


def is_array(x: object) -> bool:
    """Return whether `x` is a numpy array or a torch tensor."""
    return isinstance(x, np.ndarray) or is_torch(x)


def to_numpy(x: Any) -> NDArray[Any]:
    """Return a tensor (any device and dtype, with or without gradient), array or nested lists as a numpy array."""
    if not is_torch(x):
        return np.asarray(x)
    x = x.detach().cpu()
    if str(x.dtype) == "torch.bfloat16":  # numpy has no such type
        x = x.float()
    array: NDArray[Any] = x.numpy()
    return array


def as_input_type(array: NDArray[Any], masks: Any) -> Any:
    """Return `array` as a torch tensor on the device of `masks` if those are torch tensors, else as it is."""
    first = masks
    if isinstance(masks, MaskCrops):
        first = next((x for x in (*masks.crops, masks.boxes) if is_torch(x)), None)
    elif isinstance(masks, (list, tuple)):
        first = next((x for x in masks if is_torch(x)), None)
    if not is_torch(first):
        return array
    return sys.modules["torch"].from_numpy(array).to(first.device)


def check_instances(
    masks: Any, scores: Any, image: Any, size: Size | None = None
) -> tuple[MaskCrops, NDArray[np.float64], NDArray[Any] | None]:
    """Validate the instances of one image.

    Args:
        masks: see `check_masks`.
        scores: see `check_scores`.
        image: see `check_image`; None where there is none.
        size: (H, W) of the semantic map that goes with them, where there is one.

    Returns:
        Numpy crops of the N masks, their scores (N,) float64, and the image (H, W, 3) or None.

    Raises:
        ValueError: see these three; or masks, image and `size` are not of one size.
    """
    pixels = None if image is None else check_image(image)
    if scores is None:
        raise ValueError("scores are missing: give one per mask")
    if pixels is not None and size not in (None, pixels.shape[:2]):
        raise ValueError(f"semantic is of size {size} (H, W) but the image is of size {pixels.shape[:2]}")
    crops = check_masks(masks, size if pixels is None else (pixels.shape[0], pixels.shape[1]))
    return crops, check_scores(scores, len(crops)), pixels


def check_masks(masks: Any, size: Size | None = None) -> MaskCrops:
    """Return masks in any accepted form as numpy crops.

    Args:
        masks: (N, H, W) array or tensor, bool or integers 0 and 1; or a list of N such (H, W); or `MaskCrops`.
        size: (H, W) that the masks must have, where it is known.

    Returns:
        The same masks as `MaskCrops` of numpy arrays, int64 boxes and bool crops.

    Raises:
        ValueError: float masks, integers other than 0 and 1, another size than `size`, crops that leave the image or
            do not fit their boxes.
    """
    crops = _check_crops(masks) if isinstance(masks, MaskCrops) else _check_dense(masks, size)
    if size is not None and crops.size != size:
        raise ValueError(f"masks are of size {crops.size} (H, W) but the image is of size {size}")
    return crops


def check_scores(scores: Any, count: int) -> NDArray[np.float64]:
    """Return the N scores as float64; ValueError if there are not `count` of them or one is not finite."""
    array = to_numpy(scores)
    if array.shape != (count,):
        raise ValueError(f"scores must have shape ({count},), one per mask, not {array.shape}")
    if count and array.dtype.kind not in "fiu":
        raise ValueError(f"scores must be real numbers, not {array.dtype}")
    array = array.astype(np.float64)
    if not np.isfinite(array).all():
        raise ValueError(f"scores must be finite: score {int(np.flatnonzero(~np.isfinite(array))[0])} is not")
    return array


def check_image(image: Any, bit_depth: BitDepth | SampleDepth = "auto") -> NDArray[Any]:
    """Return an array or tensor as a contiguous numpy (H, W, 3) array of values in 0..255; no copy of one that is.

    Args:
        image: numpy (H, W, 3), (H, W, 4), (H, W, 1), torch (3, H, W), (4, H, W), (1, H, W), or (H, W) of either;
            uint8, uint16, or other numbers in 0..255.
        bit_depth: bits that the samples of a uint16 image use.

    Returns:
        uint8 where the image is uint8 or uint16, else its own data type.

    Raises:
        InputError: See `SampleDepth.white`.
        ValueError: Another shape or data type, values outside 0..255 or not finite, or a float image that looks scaled
            to 0..1 (its maximum is at most 1, but not 0).
    """
    array = color_samples(image)
    if array.dtype == np.uint16:
        array = to_8_bits(array, SampleDepth.of(bit_depth).white(int(array.max(initial=0))))
    elif array.dtype.kind not in "fiu":
        raise ValueError(f"images must be uint8, uint16 or float in 0..255, not {array.dtype}")
    elif array.dtype != np.uint8 and array.size:
        low, high = float(array.min()), float(array.max())
        if not (low >= 0 and high <= 255):  # also where they are NaN
            raise ValueError(f"image values must be in 0..255, or the image uint16; these are {low:g}..{high:g}")
        if array.dtype.kind == "f" and 0 < high <= 1:
            raise ValueError("float images must have values in 0..255; these are in 0..1: multiply them by 255")
    return np.ascontiguousarray(np.broadcast_to(array, (*array.shape[:2], 3)))


def color_samples(image: Any) -> NDArray[Any]:
    """Return the colours of an array or tensor as (H, W, 1) or (H, W, 3), without alpha, as they are.

    Raises:
        ValueError: Another shape, or a path.
    """
    if isinstance(image, (str, os.PathLike)):
        raise ValueError(f"image must be in memory, not the path {abbreviate(str(image))}: open it with PIL.Image.open")
    array = to_numpy(image)
    tensor = is_torch(image)
    shape = array.shape
    if array.ndim == 2:
        array = array[..., None]
    elif array.ndim == 3 and tensor:
        array = array.transpose(1, 2, 0)
    if array.ndim != 3 or array.shape[2] not in (1, 3, 4):
        layout = (
            "(3, H, W), (4, H, W), (1, H, W) or (H, W) as a tensor"
            if tensor
            else "(H, W, 3), (H, W, 4), (H, W, 1) or (H, W)"
        )
        raise ValueError(f"image must have shape {layout}, not {shape}")
    return array[..., :3]


def _check_dense(masks: Any, size: Size | None) -> MaskCrops:
    array = np.stack([to_numpy(m) for m in masks]) if isinstance(masks, (list, tuple)) and masks else to_numpy(masks)
    if array.shape[:1] == (0,) and array.ndim in (1, 3):  # no object at all: whatever the dtype
        shape = array.shape[1:] if array.ndim == 3 else size
        if shape is None:
            raise ValueError("an empty list of masks has no size: give masks of shape (0, H, W), or an image")
        return MaskCrops.from_masks(np.zeros((0, shape[0], shape[1]), dtype=bool))
    if array.ndim != 3:
        raise ValueError(f"masks must have shape (N, H, W), not {array.shape}")
    return MaskCrops.from_masks(_as_bool(array))


def _check_crops(masks: MaskCrops) -> MaskCrops:
    crops = [to_numpy(crop) for crop in masks.crops]
    boxes = to_numpy(masks.boxes)
    height, width = (int(v) for v in masks.size)
    if not crops and boxes.size == 0:
        return MaskCrops(np.zeros((0, 4), dtype=np.int64), [], (height, width))
    if boxes.shape != (len(crops), 4):
        raise ValueError(f"boxes of mask crops must have shape ({len(crops)}, 4), one per crop, not {boxes.shape}")
    if boxes.dtype.kind not in "iu":
        raise ValueError(f"boxes of mask crops must be integers, not {boxes.dtype}")
    for n, ((x1, y1, x2, y2), crop) in enumerate(zip(boxes.tolist(), crops, strict=True)):
        if not (0 <= x1 <= x2 <= width and 0 <= y1 <= y2 <= height):
            raise ValueError(f"crop {n} with box {[x1, y1, x2, y2]} leaves the image of size {(height, width)} (H, W)")
        if crop.shape != (y2 - y1, x2 - x1):
            raise ValueError(f"crop {n} has shape {crop.shape} but its box {[x1, y1, x2, y2]} is {(y2 - y1, x2 - x1)}")
    return MaskCrops(boxes.astype(np.int64), [_as_bool(crop) for crop in crops], (height, width))


def _as_bool(mask: NDArray[Any]) -> NDArray[np.bool_]:
    if mask.dtype == np.bool_:
        return mask
    if mask.dtype.kind not in "iu":
        raise ValueError(f"masks must be bool, or integers 0 and 1, not {mask.dtype}: threshold them first")
    if mask.size and (mask.min() < 0 or mask.max() > 1):
        raise ValueError(f"integer masks must hold only 0 and 1, not {mask.min()}..{mask.max()}")
    return mask.astype(bool)

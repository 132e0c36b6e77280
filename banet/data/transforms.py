"""What is done to an image and its id map before the network sees them: compositions of torchvision.transforms.v2.

Each takes and gives `(image, ids)`: `tv_tensors.Image` (3,H,W) uint8 and `tv_tensors.Mask` (H,W) of segment ids. The
random numbers are torch's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from banet.data.appearance import Blur, Noise, QuarterTurn, StainJitter
from banet.data.images.resizing import resize_bilinear, resize_image, resized_size
from banet.panoptic.id_maps import runs, sum_by

__all__ = [
    "CropShare",
    "Resize",
    "Transform",
    "eval_transform",
    "resize_image",
    "resized_size",
    "train_transform",
    "transformed",
]

Transform = Callable[[tv_tensors.Image, tv_tensors.Mask], tuple[Tensor, Tensor]]
"""Takes an image (3, H, W) uint8 and its id map (H, W) and gives both back, changed alike.

Any composition of torchvision.transforms.v2 will do."""


def transformed(image: NDArray[np.uint8], ids: NDArray[np.int32], transform: Transform | None) -> tuple[Tensor, Tensor]:
    """Return an image (H, W, 3) and its id maps (..., H, W) as tensors (3, H', W') uint8 and (..., H', W') int32."""
    pixels = tv_tensors.Image(torch.from_numpy(np.require(image, requirements=["C", "W"])).permute(2, 0, 1))
    owners = tv_tensors.Mask(torch.from_numpy(np.require(ids, np.int32, ["C", "W"])))
    changed: tuple[Tensor, Tensor] = (pixels, owners) if transform is None else transform(pixels, owners)
    new_pixels, new_owners = (tensor.as_subclass(Tensor) for tensor in changed)
    return new_pixels.contiguous(), new_owners


class Resize(v2.Transform):  # type: ignore[misc]
    """Resize so that the shorter side has one of the given lengths, or by a factor; the longer side has a limit.

    Images are resized bilinearly with antialiasing, id maps by the nearest pixel, both by pixel centres
    (torchvision's own `Resize` puts masks half a pixel off).

    Args:
        shorter: lengths in pixels; each call draws one.
        longer: limit in pixels.
        scale: range of the factor, which each call draws, in place of `shorter`; (0, 0) for none.

    Raises:
        ValueError: there is no length, one is not positive, or one is above the limit; or the factors are out of order.
    """

    def __init__(self, shorter: Sequence[int], longer: int, scale: tuple[float, float] = (0, 0)) -> None:
        super().__init__()
        if not shorter or min(shorter) < 1:
            raise ValueError(f"shorter must be one or more positive lengths, not {list(shorter)}")
        if longer < max(shorter):
            raise ValueError(f"longer ({longer}) must not be below shorter ({max(shorter)})")
        if tuple(scale) != (0, 0) and not 0 < scale[0] <= scale[1]:
            raise ValueError(f"scale must be two factors with 0 < low <= high, not {tuple(scale)}")
        self.shorter, self.longer, self.scale = list(shorter), longer, (float(scale[0]), float(scale[1]))

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        """Draw a length or a factor, and work out the new size."""
        height, width = (int(side) for side in flat_inputs[0].shape[-2:])
        low, high = self.scale
        choice = int(torch.randint(len(self.shorter), ())) if len(self.shorter) > 1 else 0
        scale = low if low == high else low * (high / low) ** float(torch.rand(()))
        return {"size": resized_size(height, width, self.shorter[choice], self.longer, scale)}

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        """Resize one image or id map."""
        size = params["size"]
        if tuple(inpt.shape[-2:]) == size:
            return inpt
        if isinstance(inpt, tv_tensors.Mask):
            rows, columns = (_nearest(old, new) for old, new in zip(inpt.shape[-2:], size, strict=True))
            ids = inpt.as_subclass(Tensor).numpy()  # whose `take` is six times faster than torch's indexing
            return tv_tensors.wrap(torch.from_numpy(ids.take(columns, -1).take(rows, -2)), like=inpt)
        return resize_bilinear(inpt, size)


def _nearest(old: int, new: int) -> NDArray[np.int64]:
    """(new,): for each new pixel, the old one in which its centre lies."""
    return (2 * np.arange(new) + 1) * old // (2 * new)


class _Crop(v2.Transform):  # type: ignore[misc]
    """Cut out a window that a subclass draws.

    Args:
        min_fraction: segments of which it leaves a smaller fraction are marked by a negative id: their pixels keep
            their class, and they are not instances (see `make_target`).

    Raises:
        ValueError: the fraction is out of range.
    """

    def __init__(self, min_fraction: float) -> None:
        super().__init__()
        if not 0 <= min_fraction <= 1:
            raise ValueError(f"min_fraction must be in 0..1, not {min_fraction}")
        self.min_fraction = min_fraction

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        """Cut the window out of one image or id map."""
        window = F.crop(inpt, **params)
        if not isinstance(inpt, tv_tensors.Mask) or self.min_fraction == 0 or window.shape == inpt.shape:
            return window
        before, after = (each.as_subclass(Tensor).reshape(-1, *each.shape[-2:]).numpy() for each in (inpt, window))
        marked = [_mark_slivers(*plane, self.min_fraction) for plane in zip(before, after, strict=True)]
        return tv_tensors.wrap(torch.from_numpy(np.stack(marked)).reshape(window.shape), like=window)


def _mark_slivers(before: NDArray[np.int32], after: NDArray[np.int32], min_fraction: float) -> NDArray[np.int32]:
    """Return a crop `after` of an id map, with negative ids where a smaller fraction of the segment is left."""
    ids, areas = _areas(before)
    here, left = _areas(after)
    slivers = here[(left < min_fraction * areas[np.searchsorted(ids, here)]) & (here > 0)]
    if not len(slivers):
        return after
    starts, lengths = runs(after)
    values = after.reshape(-1)[starts]
    return np.repeat(np.where(np.isin(values, slivers), -values, values), lengths).reshape(after.shape)


def _areas(ids: NDArray[np.int32]) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """Return the ids in a map, ascending (K,), and the number of pixels of each (K,)."""
    starts, lengths = runs(ids)
    found, index = np.unique(ids.reshape(-1)[starts], return_inverse=True)
    return found, sum_by(index, lengths, len(found))


class CropShare(_Crop):
    """Cut out a random window whose sides are a random share of the image's, drawn for each side.

    Args:
        share: lowest and highest share, within (0, 1].
        min_fraction: least fraction of a segment that may be left for it to be an instance.

    Raises:
        ValueError: the shares are out of order or out of range.
    """

    def __init__(self, share: tuple[float, float] = (0.8, 1.0), *, min_fraction: float = 0.0) -> None:
        super().__init__(min_fraction)
        low, high = share
        if not 0 < low <= high <= 1:
            raise ValueError(f"crop must be two shares with 0 < low <= high <= 1, not {share}")
        self.share = (float(low), float(high))

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        """Draw the window."""
        height, width = (int(side) for side in flat_inputs[0].shape[-2:])
        low, high = self.share
        draw = torch.rand(4).tolist()
        new_height, new_width = (
            max(1, round(side * (low + (high - low) * part)))
            for side, part in zip((height, width), draw[:2], strict=True)
        )
        top, left = int(draw[2] * (height - new_height + 1)), int(draw[3] * (width - new_width + 1))
        return {"top": top, "left": left, "height": new_height, "width": new_width}


class CropWindow(_Crop):
    """Cut out a random square window, or as much of it as the image holds.

    Args:
        side: of the window, in pixels.
        min_fraction: least fraction of a segment that may be left for it to be an instance.

    Raises:
        ValueError: the side is not positive.
    """

    def __init__(self, side: int, *, min_fraction: float = 0.0) -> None:
        super().__init__(min_fraction)
        if side < 1:
            raise ValueError(f"the side of a window must be positive, not {side}")
        self.side = side

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        """Draw the place."""
        height, width = (int(side) for side in flat_inputs[0].shape[-2:])
        new_height, new_width = min(self.side, height), min(self.side, width)
        draw = torch.rand(2).tolist()
        top, left = int(draw[0] * (height - new_height + 1)), int(draw[1] * (width - new_width + 1))
        return {"top": top, "left": left, "height": new_height, "width": new_width}


def train_transform(
    shorter: Sequence[int],
    longer: int,
    *,
    scale: tuple[float, float] = (0, 0),
    flip: float = 0.5,
    flip_vertical: float = 0.0,
    crop: tuple[float, float] = (0.8, 1.0),
    crop_size: int = 0,
    crop_min_fraction: float = 0.0,
    color_jitter: float = 0.0,
    quarter_turns: bool = False,
    stain_jitter: float = 0.0,
    invert: float = 0.0,
    blur: float = 0.0,
    noise: float = 0.0,
) -> v2.Compose:
    """Resize, flip, crop and perhaps change colours, at random.

    Args:
        shorter: lengths of the shorter side in pixels; each image draws one (several make it multi-scale).
        longer: limit of the longer side in pixels.
        scale: range of a factor in place of `shorter`; (0, 0) for none.
        flip: probability of a left-right flip.
        flip_vertical: probability of an upside-down flip.
        crop: lowest and highest share of each side that is kept; (1, 1) crops nothing.
        crop_size: side of a square window in place of `crop`, in pixels after resizing; 0 for none.
        crop_min_fraction: segments of which the crop leaves a smaller fraction are not instances.
        color_jitter: strength of the change of brightness, contrast and saturation, 0 (none) to 1.
        quarter_turns: whether each image is turned by a random multiple of 90 degrees.
        stain_jitter: see `appearance.StainJitter`.
        invert: probability of an inverted image.
        blur: see `appearance.Blur`.
        noise: see `appearance.Noise`.

    Raises:
        ValueError: an argument is out of range.
    """
    for name, probability in (("flip", flip), ("flip_vertical", flip_vertical), ("invert", invert)):
        if not 0 <= probability <= 1:
            raise ValueError(f"{name} must be a probability in 0..1, not {probability}")
    if not 0 <= color_jitter <= 1:
        raise ValueError(f"color_jitter must be in 0..1, not {color_jitter}")
    steps: list[v2.Transform] = [Resize(shorter, longer, scale)]
    if flip > 0:
        steps.append(v2.RandomHorizontalFlip(flip))
    if flip_vertical > 0:
        steps.append(v2.RandomVerticalFlip(flip_vertical))
    if quarter_turns:
        steps.append(QuarterTurn())
    if crop_size:
        steps.append(CropWindow(crop_size, min_fraction=crop_min_fraction))
    elif tuple(crop) != (1.0, 1.0):
        steps.append(CropShare(crop, min_fraction=crop_min_fraction))
    if color_jitter > 0:
        steps.append(v2.ColorJitter(color_jitter, color_jitter, color_jitter, 0.1 * color_jitter))
    if stain_jitter > 0:
        steps.append(StainJitter(stain_jitter))
    if invert > 0:
        steps.append(v2.RandomInvert(invert))
    if blur > 0:
        steps.append(Blur(blur))
    if noise > 0:
        steps.append(Noise(noise))
    return v2.Compose(steps)


def eval_transform(shorter: int, longer: int, scale: float = 0.0) -> v2.Compose:
    """Resize to `resized_size`: the shorter side to `shorter` pixels, unless the longer one would pass `longer`.

    Raises:
        ValueError: a length is not positive, or `longer` is below `shorter`.
    """
    return v2.Compose([Resize([shorter], longer, (scale, scale))])

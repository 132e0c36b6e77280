"""RoIAlign as this package uses it everywhere, and a pooler over the levels of a feature pyramid."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torchvision.ops
from torch import Tensor, nn
from torch.nn import functional as F

from banet.ops.bilinear import bin_samples, linear_taps
from banet.ops.host import true_rows

__all__ = ["PyramidRoIAlign", "box_levels", "roi_align"]


def roi_align(
    features: Tensor, boxes: Sequence[Tensor], output_size: int | tuple[int, int], spatial_scale: float = 1.0
) -> Tensor:
    """RoIAlign with half-pixel-correct boxes and two samples a bin side (``aligned=True, sampling_ratio=2``).

    Args:
        features: ``(N, C, H, W)`` map of N images.
        boxes: one ``(L_i, 4)`` tensor an image, ``x1, y1, x2, y2`` in input pixels.
        output_size: bins ``(m, n)``, or one number for both.
        spatial_scale: map pixels per input pixel.

    Returns:
        ``(K, C, m, n)`` of the features' dtype, the boxes of all images in order.

    Raises:
        ValueError: the number of box tensors differs from the number of images.
    """
    if len(boxes) != features.shape[0]:
        raise ValueError(f"features hold {features.shape[0]} images, but there are boxes of {len(boxes)}")
    rois = _with_image_index(boxes, features)
    return _align(features, rois, output_size, spatial_scale)


def box_levels(
    boxes: Tensor, lowest: int = 2, highest: int = 5, canonical_size: float = 224, canonical_level: int = 4
) -> Tensor:
    """Return the pyramid level of each box by its size (FPN, arXiv 1612.03144, eq. 1).

    Args:
        boxes: ``(K, 4)``, ``x1, y1, x2, y2`` in input pixels.
        lowest: finest level there is.
        highest: coarsest level there is.
        canonical_size: side of a square box that belongs on ``canonical_level``, in input pixels.
        canonical_level: see ``canonical_size``; each halving of the side goes one level down.

    Returns:
        ``(K,)`` int64, in ``lowest..highest``. A box without area goes to ``lowest``.
    """
    coordinates = boxes.detach().to(torch.promote_types(boxes.dtype, torch.float32))
    area = (coordinates[:, 2] - coordinates[:, 0]).clamp(min=0) * (coordinates[:, 3] - coordinates[:, 1]).clamp(min=0)
    # The small term keeps a box of exactly the canonical size on its level whatever the rounding of the logarithm.
    level = torch.floor(canonical_level + torch.log2(area.nan_to_num().sqrt() / canonical_size + 1e-6))
    return level.clamp(min=lowest, max=highest).to(torch.int64)


class PyramidRoIAlign(nn.Module):
    """RoIAlign of each box on the pyramid level that its size selects.

    Unlike ``torchvision.ops.MultiScaleRoIAlign`` it uses ``aligned=True`` and remembers nothing between calls.

    Args:
        output_size: bins ``(m, n)``, or one number for both.
        strides: input pixels per map pixel of each level, finest first, powers of two each twice the one before;
            stride 4 is level 2.
        canonical_size: see :func:`box_levels`.
        canonical_level: see :func:`box_levels`.

    Raises:
        ValueError: the strides are not such a sequence.
    """

    def __init__(
        self,
        output_size: int | tuple[int, int],
        strides: Sequence[int] = (4, 8, 16, 32),
        *,
        canonical_size: float = 224,
        canonical_level: int = 4,
    ) -> None:
        super().__init__()
        levels = [stride.bit_length() - 1 for stride in strides]
        if not levels or [1 << level for level in levels] != list(strides):
            raise ValueError(f"strides must be powers of two, got {tuple(strides)}")
        if levels != list(range(levels[0], levels[0] + len(levels))):
            raise ValueError(f"each stride must be twice the one before, got {tuple(strides)}")
        self.output_size = output_size
        self.strides = tuple(strides)
        self.lowest, self.highest = levels[0], levels[-1]
        self.canonical_size = canonical_size
        self.canonical_level = canonical_level

    def forward(self, features: Sequence[Tensor], boxes: Sequence[Tensor], finest: Tensor | None = None) -> Tensor:
        """Pool the boxes.

        Args:
            features: one ``(N, C, H_l, W_l)`` map a level, finest first.
            boxes: one ``(L_i, 4)`` tensor an image, in input pixels.
            finest: a map of the first one's shape; its crop is added to that of each box of another level than the
                finest. (Add it to the first map, and every box has it.)

        Returns:
            ``(K, C, m, n)`` of the features' dtype, the boxes of all images in order.

        Raises:
            ValueError: there are more or fewer maps than strides, or box tensors than images.
        """
        if len(features) != len(self.strides):
            raise ValueError(f"expected {len(self.strides)} feature maps, got {len(features)}")
        first = features[0]
        if len(boxes) != first.shape[0]:
            raise ValueError(f"features hold {first.shape[0]} images, but there are boxes of {len(boxes)}")
        rois = _with_image_index(boxes, first)
        levels = box_levels(rois[:, 1:], self.lowest, self.highest, self.canonical_size, self.canonical_level)
        places = true_rows([levels == number for number in range(self.lowest, self.highest + 1)])
        pooled = []
        for feature, stride, place in zip(features, self.strides, places, strict=True):
            pooled.append(_align(feature, rois[place], self.output_size, 1 / stride))
            if finest is not None and stride != self.strides[0]:
                pooled[-1] = pooled[-1] + _align(finest, rois[place], self.output_size, 1 / self.strides[0])
        order = torch.argsort(torch.cat(places))
        return torch.cat(pooled)[order]

    def extra_repr(self) -> str:
        """Show the options in ``print(module)``."""
        return f"output_size={self.output_size}, strides={self.strides}"


def _align(features: Tensor, rois: Tensor, output_size: int | tuple[int, int], spatial_scale: float) -> Tensor:
    """RoIAlign of ``(K, 5)`` boxes with image index, in float32 or wider: half precision would move the boxes."""
    wide = torch.promote_types(features.dtype, torch.float32)
    bins = output_size if isinstance(output_size, tuple) else (output_size, output_size)
    if features.device.type == "cpu" and not torch.compiler.is_exporting():
        return _align_rows(features.to(wide), rois.to(wide), bins, spatial_scale).to(features.dtype)
    pooled: Tensor = torchvision.ops.roi_align(
        features.to(wide), rois.to(wide), bins, spatial_scale, sampling_ratio=2, aligned=True
    )
    return pooled.to(features.dtype)


def _align_rows(features: Tensor, rois: Tensor, bins: tuple[int, int], spatial_scale: float) -> Tensor:
    """Return what torchvision's operator computes, as weighted sums of rows of channels: several times faster on CPUs.

    Two samples a bin side, each between two pixels, make 16 pixels a bin. Channels-last features are not copied.
    """
    channels, height, width = features.shape[1:]
    image = rois[:, 0].to(torch.int64) * (height * width)
    x1, y1, x2, y2 = (rois[:, 1:] * spatial_scale - 0.5).unbind(1)
    row, row_weight = _taps(y1, y2, bins[0], height)
    column, column_weight = _taps(x1, x2, bins[1], width)
    index = (image[:, None, None] + row * width)[:, :, None, :, None] + column[:, None, :, None, :]
    weight = row_weight[:, :, None, :, None] * column_weight[:, None, :, None, :]
    table = features.permute(0, 2, 3, 1).reshape(-1, channels)
    pooled = F.embedding_bag(index.reshape(-1, 16), table, per_sample_weights=weight.reshape(-1, 16), mode="sum")
    return pooled.view(len(rois), *bins, channels).permute(0, 3, 1, 2)


def _taps(start: Tensor, stop: Tensor, bins: int, length: int) -> tuple[Tensor, Tensor]:
    """One axis of every box: the four pixels that each bin's two samples lie between, and their weights, (K, bins, 4).

    As in torchvision, samples up to one pixel off the map take its border's value, those further off count nothing.
    """
    position = bin_samples(start, stop, bins)
    inside = (position >= -1) & (position <= length)
    pixel, weight = linear_taps(torch.where(inside, position, 0.0).clamp(0, length - 1), length)
    weight = weight * (0.5 * inside[..., None])
    return pixel.view(-1, bins, 4), weight.view(-1, bins, 4)


def _with_image_index(boxes: Sequence[Tensor], features: Tensor) -> Tensor:
    """Boxes of all images ``(K, 5)``, the image's index before the coordinates, float32 or wider."""
    if not boxes:
        return features.new_zeros((0, 5), dtype=torch.float32)
    joined = torch.cat([image_boxes.detach() for image_boxes in boxes])
    joined = joined.to(torch.promote_types(joined.dtype, torch.float32))
    index = torch.cat([joined.new_full((image_boxes.shape[0], 1), i) for i, image_boxes in enumerate(boxes)])
    return torch.cat([index, joined], 1)

"""RoIInlay (the paper's eq. 2 and 3) and AUNet's RoIUpsample: per-box features put back on the feature map."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

__all__ = ["RoIInlay", "roi_inlay", "roi_upsample"]


def roi_inlay(
    features: Tensor,
    boxes: Sequence[Tensor],
    output_size: tuple[int, int],
    spatial_scale: float = 1.0,
    aligned: bool = True,
) -> Tensor:
    """Put per-box features back on the map, so that it undoes RoIAlign (BANet, eq. 2 and 3).

    The ``m × n`` features of a box are samples at the centres of its bins. Each pixel inside the box takes the bilinear
    interpolation of its four nearest samples; beyond the outermost samples it takes the border's value. A pixel that
    several boxes cover takes their plain average; a pixel that none covers is zero. Unlike RoIAlign with
    ``aligned=False``, a box is never widened to one pixel.

    Note that ``aligned`` is True by default here, whereas ``torchvision.ops.roi_align`` has False: both must agree.

    Args:
        features: ``(K, C, m, n)``, floating point, the boxes of all images in order. Gradients flow to it.
        boxes: one ``(L_i, 4)`` tensor an image, ``x1, y1, x2, y2`` in input pixels; ``K = sum of L_i``. No gradient.
        output_size: ``(H, W)`` of the map.
        spatial_scale: map pixels per input pixel, such as ``1 / 4`` for a map of stride 4.
        aligned: shift boxes by half a map pixel, so that pixel ``(a, b)`` of the map is the square around its centre.

    Returns:
        ``(N, C, H, W)`` of the features' dtype, ``N = len(boxes)``. Boxes outside the map and boxes that cover no pixel
        centre leave no trace.

    Raises:
        ValueError: ``K`` differs from the number of boxes, a shape is wrong, or (on CPU, not compiled) a box has a NaN
            or infinite coordinate. On CUDA, compiled and exported such a box covers no pixel.
        TypeError: the features are not floating point, or ``boxes`` is one tensor.
    """
    coordinates, sizes = _check(features, boxes, output_size, spatial_scale, aligned)
    return _inlay_dense(features, coordinates, sizes, output_size)


def roi_upsample(
    features: Tensor,
    boxes: Sequence[Tensor],
    output_size: tuple[int, int],
    spatial_scale: float = 1.0,
    aligned: bool = True,
) -> Tensor:
    """Put per-box features back on the map as AUNet's RoIUpsample does (arXiv 1812.03904): for comparison only.

    Each sample is spread on its four nearest pixels with bilinear weights divided by
    ``(h_x² + l_x²)(h_y² + l_y²)``, where ``l`` is the fractional part of its coordinate and ``h = 1 - l``;
    contributions add. Where a box has more pixels than samples, pixels between the samples stay empty. The formula is
    taken from a secondary source, not verified against the authors' code.

    Arguments, result and errors are those of :func:`roi_inlay`.
    """
    coordinates, sizes = _check(features, boxes, output_size, spatial_scale, aligned)
    return _upsample_dense(features, coordinates, sizes, output_size)


class RoIInlay(nn.Module):
    """:func:`roi_inlay` as a module with a fixed scale.

    Args:
        spatial_scale: map pixels per input pixel.
        aligned: the half-pixel convention, see :func:`roi_inlay`.
    """

    def __init__(self, spatial_scale: float = 1.0, aligned: bool = True) -> None:
        super().__init__()
        self.spatial_scale = spatial_scale
        self.aligned = aligned

    def forward(self, features: Tensor, boxes: Sequence[Tensor], output_size: tuple[int, int]) -> Tensor:
        """``(K, C, m, n)`` features and the boxes of N images to an ``(N, C, H, W)`` map."""
        return roi_inlay(features, boxes, output_size, self.spatial_scale, self.aligned)

    def extra_repr(self) -> str:
        """Show the options in ``print(module)``."""
        return f"spatial_scale={self.spatial_scale}, aligned={self.aligned}"


def _check(
    features: Tensor, boxes: Sequence[Tensor], output_size: tuple[int, int], spatial_scale: float, aligned: bool
) -> tuple[Tensor, list[int]]:
    """Check the arguments; give the boxes in map pixels ``(K, 4)``, float32 or wider, and their number per image."""
    if not isinstance(boxes, (list, tuple)):
        raise TypeError(f"boxes must be a list of (L, 4) tensors, one an image, not {type(boxes).__name__}")
    if features.dim() != 4:
        raise ValueError(f"features must be (K, C, m, n), got {tuple(features.shape)}")
    if not features.is_floating_point():
        raise TypeError(f"features must be floating point, got {features.dtype}")
    if features.shape[2] == 0 or features.shape[3] == 0:
        raise ValueError(f"features must have at least one bin a side, got {tuple(features.shape)}")
    for image_boxes in boxes:
        if image_boxes.dim() != 2 or image_boxes.shape[1] != 4:
            raise ValueError(f"boxes of an image must be (L, 4), got {tuple(image_boxes.shape)}")
    if len(output_size) != 2:
        raise ValueError(f"output_size must be (H, W), got {output_size}")
    sizes = [image_boxes.shape[0] for image_boxes in boxes]
    if features.shape[0] != sum(sizes):
        raise ValueError(f"features hold {features.shape[0]} boxes, but the lists of boxes hold {sum(sizes)}")
    with torch.no_grad():
        joined = torch.cat(list(boxes)) if boxes else features.new_zeros((0, 4), dtype=torch.float32)
        wide = torch.promote_types(joined.dtype, torch.float32)
        coordinates = joined.to(wide) * spatial_scale - (0.5 if aligned else 0.0)
        if coordinates.device.type == "cpu" and not torch.compiler.is_compiling():
            finite = torch.isfinite(coordinates)
            if not bool(finite.all()):
                row = int((~finite).any(1).nonzero()[0])
                raise ValueError(f"box {row} has a NaN or infinite coordinate: {joined[row].tolist()}")
    return coordinates, sizes


def _axis_dense(start: Tensor, stop: Tensor, bins: int, length: int) -> tuple[Tensor, Tensor]:
    """One axis of every box: weights ``(K, length, bins)`` and which pixels are inside ``(K, length)``."""
    pixel = torch.arange(length, device=start.device, dtype=start.dtype)
    start, stop = start[:, None], stop[:, None]
    inside = (pixel >= start) & (pixel < stop) & torch.isfinite(start) & torch.isfinite(stop)
    size = torch.where(inside, stop - start, 1.0)
    position = torch.where(inside, (pixel - start) / size * bins - 0.5, 0.0).clamp(0, bins - 1)
    bin_index = torch.arange(bins, device=start.device, dtype=start.dtype)
    weights = (1 - (position[:, :, None] - bin_index).abs()).clamp(min=0)
    return weights * inside[:, :, None], inside


def _combine_dense(features: Tensor, rows: Tensor, columns: Tensor, sizes: list[int]) -> Tensor:
    """Sum over each image's boxes of ``rows · features · columnsᵀ``: ``(N, C, H, W)``, by two matrix products."""
    channels, bins = features.shape[1], features.shape[2]
    height, width = rows.shape[1], columns.shape[1]
    resampled = features.transpose(1, 2) @ columns.transpose(1, 2)[:, None]  # (K, m, C, W)
    maps = []
    for image_rows, image_features in zip(torch.split(rows, sizes), torch.split(resampled, sizes), strict=True):
        left = image_rows.transpose(0, 1).reshape(height, image_rows.shape[0] * bins)
        right = image_features.reshape(image_rows.shape[0] * bins, channels * width)
        maps.append((left @ right).reshape(height, channels, width).transpose(0, 1))
    return torch.stack(maps)


def _inlay_dense(features: Tensor, coordinates: Tensor, sizes: list[int], output_size: tuple[int, int]) -> Tensor:
    """RoIInlay by dense matrix products of standard operators."""
    height, width = output_size
    if not sizes:
        return features.new_zeros((0, features.shape[1], height, width))
    with torch.autocast(features.device.type, enabled=False):
        wide = torch.promote_types(features.dtype, torch.float32)
        x1, y1, x2, y2 = coordinates.unbind(1)
        rows, row_inside = _axis_dense(y1, y2, features.shape[2], height)
        columns, column_inside = _axis_dense(x1, x2, features.shape[3], width)
        total = _combine_dense(features.to(wide), rows.to(wide), columns.to(wide), sizes)
        counts = torch.stack(
            [
                r.to(wide).transpose(0, 1) @ c.to(wide)
                for r, c in zip(torch.split(row_inside, sizes), torch.split(column_inside, sizes), strict=True)
            ]
        )
        return (total / counts.clamp(min=1)[:, None]).to(features.dtype)


def _axis_spread(start: Tensor, stop: Tensor, bins: int, length: int) -> Tensor:
    """One axis of every box: RoIUpsample's weights ``(K, length, bins)``."""
    finite = torch.isfinite(start) & torch.isfinite(stop)
    start, stop = torch.where(finite, start, 0.0)[:, None], torch.where(finite, stop, 0.0)[:, None]
    point = start + (torch.arange(bins, device=start.device, dtype=start.dtype) + 0.5) * ((stop - start) / bins)
    low = point.floor()
    fraction = point - low
    norm = fraction**2 + (1 - fraction) ** 2
    pixel = torch.arange(length, device=start.device, dtype=start.dtype)[:, None]
    low, fraction, norm = low[:, None], fraction[:, None], norm[:, None]
    weights = (pixel == low) * ((1 - fraction) / norm) + (pixel == low + 1) * (fraction / norm)
    return weights * finite[:, None, None]


def _upsample_dense(features: Tensor, coordinates: Tensor, sizes: list[int], output_size: tuple[int, int]) -> Tensor:
    """RoIUpsample by dense matrix products of standard operators."""
    height, width = output_size
    if not sizes:
        return features.new_zeros((0, features.shape[1], height, width))
    with torch.autocast(features.device.type, enabled=False):
        wide = torch.promote_types(features.dtype, torch.float32)
        x1, y1, x2, y2 = coordinates.unbind(1)
        rows = _axis_spread(y1, y2, features.shape[2], height)
        columns = _axis_spread(x1, x2, features.shape[3], width)
        return _combine_dense(features.to(wide), rows.to(wide), columns.to(wide), sizes).to(features.dtype)

"""RoIInlay (the paper's eq. 2 and 3) and AUNet's RoIUpsample: per-box features put back on the feature map."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from banet.ops.bilinear import linear_taps, linear_weights
from banet.ops.host import to_device
from banet.panoptic.resampling import sample_positions

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
        aligned: shift boxes by half a map pixel, so that pixel ``(a, b)`` of the map is the square around its center.

    Returns:
        ``(N, C, H, W)`` of the features' dtype, ``N = len(boxes)``. Boxes outside the map and boxes that cover no pixel
        center leave no trace.

    Raises:
        ValueError: ``K`` differs from the number of boxes, a shape is wrong, or (on CPU, not compiled) a box has a NaN
            or infinite coordinate. On CUDA, compiled and exported such a box covers no pixel.
        TypeError: the features are not floating point, or ``boxes`` is one tensor.
    """
    coordinates, sizes = _check(features, boxes, output_size, spatial_scale, aligned)
    if torch.compiler.is_exporting():
        return _inlay_dense(features, coordinates, sizes, output_size)
    result: Tensor = _inlay_op(features, coordinates.cpu(), sizes, output_size[0], output_size[1])
    return result


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
    return _spread(features, coordinates, sizes, output_size)


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


# The operator is one sparse linear map (pixels × samples), applied by weighted bags of rows of channels. A pixel
# gathers four samples of each box that covers it; backward, a sample gathers the pixels near it, one axis at a time.


class _Axis(NamedTuple):
    """The pixels inside the boxes along one axis, box after box."""

    counts: Tensor  # (K,) pixels inside each box; 0 when the box covers no pixel of the map
    begin: Tensor  # (K,) where the box's entries begin
    owner: Tensor  # (S,) box
    pixel: Tensor  # (S,) pixel
    bin: Tensor  # (S,) lower one of the two bins that the pixel lies between
    fraction: Tensor  # (S,) weight of the upper one

    def to(self, device: torch.device) -> _Axis:
        """Return the same on a device, which the host does not wait for."""
        return _Axis(*(to_device(part, device) for part in self))


def _axes(coordinates: Tensor, bins: tuple[int, int], size: tuple[int, int]) -> tuple[_Axis, _Axis]:
    """Rows and columns of every box, ``coordinates`` ``(K, 4)`` in map pixels. Few numbers, so numpy, on the host."""
    boxes = coordinates.numpy()
    boxes = np.where(np.isfinite(boxes).all(1, keepdims=True), boxes, 0)
    first = [np.ceil(boxes[:, 1 - axis]).clip(0, size[axis]) for axis in range(2)]
    counts = [(np.ceil(boxes[:, 3 - axis]).clip(0, size[axis]) - first[axis]).clip(0) for axis in range(2)]
    covers = (counts[0] > 0) & (counts[1] > 0)
    axes = []
    for axis in range(2):
        start, stop = boxes[:, 1 - axis], boxes[:, 3 - axis]
        count = np.where(covers, counts[axis], 0).astype(np.int64)
        begin = count.cumsum() - count
        owner = np.repeat(np.arange(len(count)), count)
        pixel = np.arange(len(owner)) - begin[owner] + first[axis][owner].astype(np.int64)
        offset = pixel.astype(boxes.dtype) - start[owner]
        position = sample_positions(offset, bins[axis] / (stop[owner] - start[owner]), bins[axis])
        low = np.floor(position).clip(max=max(bins[axis] - 2, 0))
        arrays = (count, begin, owner, pixel, low.astype(np.int64), position - low)
        axes.append(_Axis(*(torch.from_numpy(array) for array in arrays)))
    return axes[0], axes[1]


def _begin(counts: Tensor) -> Tensor:
    """Exclusive running sum: where each group's entries begin."""
    return counts.cumsum(0) - counts


def _ragged(counts: Tensor, total: int) -> tuple[Tensor, Tensor]:
    """Entries of groups one after the other: each one's group and its number within the group, ``(total,)``."""
    group = _repeat(counts, total)
    return group, torch.arange(total, device=counts.device) - _begin(counts)[group]


def _image_of_box(sizes: Sequence[int], device: torch.device) -> Tensor:
    """``(K,)`` index of each box's image."""
    image = np.repeat(np.arange(len(sizes), dtype=np.int64), sizes)
    return to_device(torch.from_numpy(image), device)


def _integer(*largest: int) -> torch.dtype:
    """Return the narrower integer that holds these numbers: half the memory traffic of the index tables."""
    return torch.int32 if max(largest) < 2**31 else torch.int64


# The index tables take dozens of small steps. Were each split over the CPU's threads, their waiting for one another
# would cost more than the work as soon as the machine has anything else to do. So on CPU elementwise steps go in pieces
# that torch works on in one thread (and that stay in the cache), and a few others through numpy.


def _pieces(total: int, device: torch.device) -> Iterator[slice]:
    """``range(total)`` in pieces; on CUDA in one."""
    step = 32768 if device.type == "cpu" else max(total, 1)
    return (slice(begin, min(begin + step, total)) for begin in range(0, total, step))


def _numbers(part: slice, like: Tensor) -> Tensor:
    """Return the numbers of a piece's entries, of the dtype and on the device of ``like``."""
    return torch.arange(part.start, part.stop, dtype=like.dtype, device=like.device)


def _stable_order(keys: Tensor, limit: int) -> Tensor:
    """Indices that sort ``keys``, which are under ``limit``; equal ones keep their order."""
    if keys.device.type != "cpu":
        return keys.argsort(stable=True)
    array = keys.numpy()
    narrow = np.uint8 if limit <= 2**8 else np.uint16 if limit <= 2**16 else array.dtype  # for these it is a radix sort
    return torch.from_numpy(np.argsort(array.astype(narrow, copy=False), kind="stable"))


def _repeat(counts: Tensor, total: int) -> Tensor:
    """``(total,)``: index 0 ``counts[0]`` times, then 1 ``counts[1]`` times and so on, of the dtype of ``counts``."""
    if counts.device.type != "cpu":
        return torch.repeat_interleave(counts, output_size=total)
    array = counts.numpy()
    return torch.from_numpy(np.repeat(np.arange(len(array), dtype=array.dtype), array))


def _occurrences(values: Tensor, length: int) -> Tensor:
    """``(length,)`` int64: how often each of ``0..length - 1`` occurs."""
    if values.device.type != "cpu":  # where bincount would wait to learn the largest
        counts = torch.zeros(length, dtype=torch.int64, device=values.device)
        return counts.index_add_(0, values, torch.ones_like(values, dtype=torch.int64))
    return torch.from_numpy(np.bincount(values.numpy(), minlength=length))


def _offsets(counts: Tensor, dtype: torch.dtype, each: int = 1) -> Tensor:
    """``(B + 1,)`` where each bag of ``each * counts`` entries begins, and the end of the last."""
    offsets = torch.empty(len(counts) + 1, dtype=dtype, device=counts.device)
    offsets[0] = 0
    if counts.device.type != "cpu":
        torch.cumsum(counts, 0, dtype=dtype, out=offsets[1:])
        return offsets.mul_(each)
    array = offsets.numpy()
    np.cumsum(counts.numpy(), out=array[1:])
    array *= each
    return offsets


_COPY = 1 << 22
"""Numbers of a gradient copied at a time: memory of this size is used again, of larger sizes it is fetched anew."""


def _bags(table: Tensor, index: Tensor, weights: Tensor, offsets: Tensor) -> Tensor:
    """``(B, C)``: weighted sums of rows of ``table``; bag b holds entries ``offsets[b]:offsets[b + 1]``."""
    return F.embedding_bag(index, table, offsets, mode="sum", per_sample_weights=weights, include_last_offset=True)


def _rows_of_channels(source: Tensor, dtype: torch.dtype, limit: int, gather: Callable[[Tensor], Tensor]) -> Tensor:
    """``gather`` of the positions of ``source`` ``(N, C, H, W)`` as rows of channels, ``(N * H * W, C)`` to ``(B, C)``.

    Where these rows are a copy of more than ``limit`` numbers it is made, used and forgotten part by part.
    """
    channels = source.shape[1]
    rows = source.permute(0, 2, 3, 1)
    if rows.is_contiguous() and rows.dtype == dtype:
        return gather(rows.view(-1, channels))
    step = -(-channels * limit // max(source.numel(), 1))  # channels to a part, in steps of a cache line
    step = min(max(step - step % 16, 16), channels)
    result = None
    for begin in range(0, channels, step):
        part = slice(begin, min(begin + step, channels))
        table = source[:, part].to(dtype, memory_format=torch.channels_last, copy=True)
        gathered = gather(table.permute(0, 2, 3, 1).reshape(-1, table.shape[1]))
        if step == channels:
            return gathered
        if result is None:
            result = gathered.new_empty((gathered.shape[0], channels))
        result[:, part] = gathered
    assert result is not None  # there is at least one channel
    return result


@torch.library.custom_op("banet::roi_inlay", mutates_args=())
def _inlay_op(features: Tensor, coordinates: Tensor, sizes: Sequence[int], height: int, width: int) -> Tensor:
    """RoIInlay of boxes in map pixels, on the host. The result has channels-last strides: its rows are the bags."""
    boxes, channels, bins_y, bins_x = features.shape
    images, device = len(sizes), features.device
    rows, columns = _axes(coordinates, (bins_y, bins_x), (height, width))
    covered = int((rows.counts * columns.counts).sum())
    if covered == 0 or channels == 0:
        return features.new_zeros((images, height, width, channels)).permute(0, 3, 1, 2)
    integer = _integer(images * height * width, 4 * covered, boxes * bins_y * bins_x)
    rows, columns, image = rows.to(device), columns.to(device), _image_of_box(sizes, device)

    # One entry for each box and each pixel in it. Listed by column, then box, then row, and stably sorted by row, they
    # come in the order of the pixels.
    by_column = _stable_order(columns.pixel, width)
    owner = columns.owner[by_column]
    lengths = rows.counts[owner]
    slot = _repeat(lengths.to(integer), covered)
    begin = (rows.begin[owner] - _begin(lengths)).to(integer)
    lines = (image[rows.owner] * height + rows.pixel).to(integer)
    row, line, pixel = (torch.empty(covered, dtype=integer, device=device) for _ in range(3))
    for part in _pieces(covered, device):
        torch.add(begin.index_select(0, slot[part]), _numbers(part, begin), out=row[part])
        torch.index_select(lines, 0, row[part], out=line[part])
    order = _stable_order(line, images * height)
    row, slot = row.index_select(0, order), slot.index_select(0, order)
    del line, order
    line_start, column_pixel = lines * width, columns.pixel[by_column].to(integer)
    for part in _pieces(covered, device):
        torch.add(line_start.index_select(0, row[part]), column_pixel.index_select(0, slot[part]), out=pixel[part])
    counts = _occurrences(pixel, images * height * width)

    corner_x = (owner * (bins_y * bins_x) + columns.bin[by_column]).to(integer)
    corner_y = (rows.bin * bins_x).to(integer)
    compute = torch.promote_types(features.dtype, torch.float32)
    fraction_x, fraction_y = columns.fraction[by_column].to(compute), rows.fraction.to(compute)
    # With one bin on an axis, both its taps are that bin.
    across, down = min(bins_x - 1, 1), min(bins_y - 1, 1) * bins_x
    index = torch.empty((covered, 4), dtype=integer, device=device)
    weights = torch.empty((covered, 4), dtype=compute, device=device)
    shares = counts.to(compute).reciprocal_()
    for part in _pieces(covered, device):
        row_part, slot_part, index_part, weights_part = row[part], slot[part], index[part], weights[part]
        corner = corner_x.index_select(0, slot_part).add_(corner_y.index_select(0, row_part))
        for tap, step in enumerate((0, across, down, down + across)):
            torch.add(corner, step, out=index_part[:, tap])
        share = shares.index_select(0, pixel[part])
        right = fraction_x.index_select(0, slot_part)
        lower = fraction_y.index_select(0, row_part).mul_(share)
        for level, tap in ((share.sub_(lower), 0), (lower, 2)):
            torch.mul(level, right, out=weights_part[:, tap + 1])
            torch.sub(level, weights_part[:, tap + 1], out=weights_part[:, tap])

    offsets = _offsets(counts, integer, each=4)
    limit = images * height * width * channels // 2  # of what is copied at a time: half of the result
    result = _rows_of_channels(
        features, compute, limit, lambda table: _bags(table, index.view(-1), weights.view(-1), offsets)
    )
    return result.view(images, height, width, channels).to(features.dtype).permute(0, 3, 1, 2)


def _near(axis: _Axis, boxes: int, bins: int) -> tuple[Tensor, Tensor]:
    """For each box and bin the pixels that lie next to it: the first one's entry and their number, ``(K, bins)``."""
    in_bin = _occurrences(axis.owner * bins + axis.bin, boxes * bins).view(boxes, bins)
    before = F.pad(in_bin.cumsum(1), (2, 0))  # bin i takes part in the pixels of lower bin i - 1 and i
    return axis.begin[:, None] + before[:, :-2], before[:, 2:] - before[:, :-2]


@torch.library.custom_op("banet::roi_inlay_backward", mutates_args=())
def _inlay_backward_op(gradient: Tensor, coordinates: Tensor, sizes: Sequence[int], bins_y: int, bins_x: int) -> Tensor:
    """Return the transpose of :func:`_inlay_op`: ``(N, C, H, W)`` to ``(K, C, bins_y, bins_x)``, channels last."""
    images, channels, height, width = gradient.shape
    boxes, device = coordinates.shape[0], gradient.device
    rows, columns = _axes(coordinates, (bins_y, bins_x), (height, width))
    if len(rows.owner) == 0 or channels == 0:
        return gradient.new_zeros((boxes, bins_y, bins_x, channels)).permute(0, 3, 1, 2)
    compute = torch.promote_types(gradient.dtype, torch.float32)
    near_row, near_rows = _near(rows, boxes, bins_y)
    near_column, near_columns = _near(columns, boxes, bins_x)
    strips = columns.counts.repeat_interleave(bins_y)  # (K * bins_y,) columns of each box, for each of its rows of bins
    sums = torch.stack([strips.sum(), (near_rows.sum(1) * columns.counts).sum(), near_columns.sum() * bins_y]).tolist()
    integer = _integer(images * height * width, *sums, boxes * bins_y * bins_x)
    rows, columns, image = rows.to(device), columns.to(device), _image_of_box(sizes, device)
    near_row, near_rows, near_column, near_columns, strips = (
        to_device(part, device) for part in (near_row, near_rows, near_column, near_columns, strips)
    )

    # First along the rows: a bag for each box, row of bins and column of pixels.
    strip, rank = _ragged(strips, sums[0])
    column = rank + columns.begin.repeat_interleave(bins_y)[strip]
    lengths = near_rows.view(-1)[strip].to(integer)
    offsets = _offsets(lengths, integer)
    begin = (near_row.view(-1)[strip] - offsets[:-1]).to(integer)
    bag = _repeat(lengths, sums[1])
    strip_bin = (strip % bins_y).to(compute)
    strip_pixel = columns.pixel[column].to(integer)
    row_position = (rows.bin + rows.fraction).to(compute)
    row_pixel = ((image[rows.owner] * height + rows.pixel) * width).to(integer)
    pixel = torch.empty(sums[1], dtype=integer, device=device)
    weights = torch.empty(sums[1], dtype=compute, device=device)
    for part in _pieces(sums[1], device):
        bag_part = bag[part]
        row = begin.index_select(0, bag_part).add_(_numbers(part, begin))
        torch.add(row_pixel.index_select(0, row), strip_pixel.index_select(0, bag_part), out=pixel[part])
        distance = row_position.index_select(0, row).sub_(strip_bin.index_select(0, bag_part)).abs_()
        torch.sub(1, distance, out=weights[part])
    # Every pixel of a box has come once for each of the two bins it lies between.
    counts = _occurrences(pixel, images * height * width)
    for part in _pieces(sums[1], device):
        weights[part] *= counts.index_select(0, pixel[part]).to(compute).reciprocal_().mul_(min(bins_y, 2))

    # Then along the columns: a bag for each sample.
    lengths = near_columns[:, None].expand(-1, bins_y, -1).reshape(-1).to(integer)
    sample_offsets = _offsets(lengths, integer)
    begin = (near_column[:, None].expand(-1, bins_y, -1).reshape(-1) - sample_offsets[:-1]).to(integer)
    bag = _repeat(lengths, sums[2])
    shift = (_begin(strips) - columns.begin.repeat_interleave(bins_y)).repeat_interleave(bins_x).to(integer)
    sample_bin = torch.arange(bins_x, dtype=compute, device=device).repeat(boxes * bins_y)
    column_position = (columns.bin + columns.fraction).to(compute)
    index = torch.empty(sums[2], dtype=integer, device=device)
    sample_weights = torch.empty(sums[2], dtype=compute, device=device)
    for part in _pieces(sums[2], device):
        bag_part = bag[part]
        column = begin.index_select(0, bag_part).add_(_numbers(part, begin))
        distance = column_position.index_select(0, column).sub_(sample_bin.index_select(0, bag_part)).abs_()
        torch.sub(1, distance, out=sample_weights[part])
        torch.add(column, shift.index_select(0, bag_part), out=index[part])
    result = _rows_of_channels(
        gradient,
        compute,
        _COPY,
        lambda table: _bags(_bags(table, pixel, weights, offsets), index, sample_weights, sample_offsets),
    )
    return result.view(boxes, bins_y, bins_x, channels).to(gradient.dtype).permute(0, 3, 1, 2)


@_inlay_op.register_fake
def _(features: Tensor, coordinates: Tensor, sizes: Sequence[int], height: int, width: int) -> Tensor:
    return features.new_empty((len(sizes), height, width, features.shape[1])).permute(0, 3, 1, 2)


@_inlay_backward_op.register_fake
def _(gradient: Tensor, coordinates: Tensor, sizes: Sequence[int], bins_y: int, bins_x: int) -> Tensor:
    return gradient.new_empty((coordinates.shape[0], bins_y, bins_x, gradient.shape[1])).permute(0, 3, 1, 2)


def _remember(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    first, coordinates, ctx.sizes, _, _ = inputs
    ctx.save_for_backward(coordinates)
    ctx.size = first.shape[2:]


def _inlay_gradient(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None, None]:
    return _inlay_backward_op(gradient, *ctx.saved_tensors, ctx.sizes, *ctx.size), None, None, None, None


def _backward_gradient(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None, None]:
    return _inlay_op(gradient, *ctx.saved_tensors, ctx.sizes, *ctx.size), None, None, None, None


# Each is linear and the other's transpose, so that they differentiate each other, to any order.
_inlay_op.register_autograd(_inlay_gradient, setup_context=_remember)
_inlay_backward_op.register_autograd(_backward_gradient, setup_context=_remember)


# The same map in standard operators of fixed shapes, for export: dense matrix products.


def _axis_dense(start: Tensor, stop: Tensor, bins: int, length: int) -> tuple[Tensor, Tensor]:
    """One axis of every box: weights ``(K, length, bins)`` and which pixels are inside ``(K, length)``."""
    pixel = torch.arange(length, device=start.device, dtype=start.dtype)
    start, stop = start[:, None], stop[:, None]
    inside = (pixel >= start) & (pixel < stop) & torch.isfinite(start) & torch.isfinite(stop)
    size = torch.where(inside, stop - start, 1.0)
    position = torch.where(inside, (pixel - start) / size * bins - 0.5, 0.0).clamp(0, bins - 1)
    return linear_weights(position, bins) * inside[:, :, None], inside


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


def _axis_spread(start: Tensor, stop: Tensor, bins: int, length: int) -> tuple[Tensor, Tensor]:
    """One axis of every box: the two pixels next to each bin's center and their weights, ``(K, bins, 2)``."""
    finite = torch.isfinite(start) & torch.isfinite(stop)
    start, stop = torch.where(finite, start, 0.0)[:, None], torch.where(finite, stop, 0.0)[:, None]
    center = torch.arange(bins, device=start.device, dtype=start.dtype) + 0.5
    point = start + center * ((stop - start) / bins)
    pixel, weights = linear_taps(point, length)
    fraction = point - point.floor()
    divisor = (1 - fraction).square() + fraction.square()
    return pixel, weights / divisor[..., None] * finite[:, None, None]


def _spread(features: Tensor, coordinates: Tensor, sizes: list[int], output_size: tuple[int, int]) -> Tensor:
    """RoIUpsample: each sample is added to its four nearest pixels, those off the map left out."""
    channels, bins_y, bins_x = features.shape[1:]
    height, width = output_size
    compute = torch.promote_types(features.dtype, torch.float32)
    x1, y1, x2, y2 = coordinates.unbind(1)
    finite = torch.isfinite(coordinates).all(1).to(compute)
    row, row_weights = _axis_spread(y1, y2, bins_y, height)
    column, column_weights = _axis_spread(x1, x2, bins_x, width)
    image = torch.cat([row.new_full((size,), number) for number, size in enumerate(sizes)] or [row.new_zeros(0)])
    table = features.permute(0, 2, 3, 1).to(compute) * finite[:, None, None, None]
    result = table.new_zeros((len(sizes) * height * width, channels))
    for dy in range(2):
        for dx in range(2):
            weights = row_weights[:, :, None, dy] * column_weights[:, None, :, dx]
            pixel = (image[:, None, None] * height + row[:, :, None, dy]) * width + column[:, None, :, dx]
            values = (table * weights.to(compute)[..., None]).reshape(-1, channels)
            result = result.index_add(0, pixel.reshape(-1), values)
    return result.view(len(sizes), height, width, channels).permute(0, 3, 1, 2).to(features.dtype)

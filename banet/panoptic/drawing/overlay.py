"""Drawings of id maps: segments over their image, with names and a legend."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from banet.panoptic.categories import Categories
from banet.panoptic.defaults import DrawingStyle, StuffStyle
from banet.panoptic.drawing.colors import segment_colors
from banet.panoptic.drawing.labels import add_legend, write_labels
from banet.panoptic.id_maps import index_map
from banet.panoptic.pixels import rgb_array
from banet.panoptic.segments import Segment

__all__ = ["draw_segments", "image_array", "segment_colors"]

_PAPER = 255  # what lies under the segments where there is no image
_BAND = 1 << 20  # pixels that are painted at a time: bounds the memory
_LEGIBLE = 640  # pixels of the longer side below which an image with a legend is enlarged
_STUFF = 0.4  # opacity of stuff, as a fraction of that of things
_VOID = ((255, 255, 255), (40, 40, 40))  # two lines side by side, of which one shows on any ground
_VOID_OPACITY = 0.4


def draw_segments(
    ids: NDArray[np.int32],
    segments: Sequence[Segment],
    categories: Categories,
    image: Any = None,
    alpha: float = 0.5,
    *,
    legend: bool = False,
    style: DrawingStyle = "instance",
    stuff: StuffStyle = "outline",
    domain: str = "",
    colors: NDArray[np.uint8] | None = None,
) -> Image.Image:
    """Paint segments over their image; see `PanopticSegmentation.draw`.

    Memory is a few bytes per pixel, so that images of any size that Pillow reads can be drawn.

    Args:
        ids: (H, W), the segment of each pixel; 0 is void.
        segments: the segments, with areas and boxes.
        categories: their classes.
        image: PIL image, array or tensor, see `rgb_array`, or a bool mask; None for no image.
        alpha: 0 leaves the image as it is, 1 hides it under things.
        legend: names the classes below the image, and enlarges small images.
        style: what the colors tell apart.
        stuff: what is drawn of stuff; without an image it is filled at least.
        domain: what images the weights were trained on, for the legend.
        colors: RGB of each segment, (N, 3), in place of those of the style.

    Returns:
        RGB image of width W and height H; with a legend larger.

    Raises:
        ValueError: the image's size is not the id map's, alpha is outside 0..1, or `style` or `stuff` is unknown.
    """
    if not 0 <= alpha <= 1:
        raise ValueError(f"alpha must be in 0..1, not {alpha}")
    for name, value, known in (("style", style, get_args(DrawingStyle)), ("stuff", stuff, get_args(StuffStyle))):
        if value not in known:
            raise ValueError(f"{name} must be one of {', '.join(known)}, not {value!r}")
    height, width = ids.shape
    if image is None:
        pixels = np.full((height, width, 3), _PAPER, dtype=np.uint8)
        alpha, stuff = max(alpha, 0.8), "fill"
    else:
        pixels = image_array(image)
        if pixels.shape[:2] != (height, width):
            raise ValueError(
                f"the image is {pixels.shape[1]}x{pixels.shape[0]}, the result {width}x{height}; use one size"
            )
    if height == 0 or width == 0:
        return Image.new("RGB", (width, height))
    if legend and max(height, width) < _LEGIBLE:
        factor = -(-_LEGIBLE // max(height, width))
        segments = [_enlarged(segment, factor) for segment in segments]
        ids = ids.repeat(factor, axis=0).repeat(factor, axis=1)
        size = (width * factor, height * factor)
        pixels = np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC))
    colors = segment_colors(segments, categories, style) if colors is None else colors
    named = [k for k, segment in enumerate(segments) if segment.isthing or stuff != "none"]
    shown = [segments[k] for k in named]
    canvas = Image.fromarray(pixels)
    if alpha > 0:
        painter = _Painter(segments, colors, ids.shape, alpha, style, stuff)
        canvas = Image.fromarray(painter.paint(ids, pixels))
        write_labels(canvas, ids, shown, colors[named])
    if not legend:
        return canvas
    void = sum(segment.area for segment in segments) < ids.size
    return add_legend(canvas, shown, colors[named], void=void, domain=domain)


def image_array(image: Any) -> NDArray[np.uint8]:
    """Return an image as `rgb_array` does, or a bool mask as black and white: (H, W, 3) uint8."""
    mask = np.asarray(image) if getattr(image, "dtype", None) == np.bool_ else None
    return rgb_array(image if mask is None else np.where(mask, np.uint8(255), np.uint8(0)))


def _enlarged(segment: Segment, factor: int) -> Segment:
    """Return the segment with squares of `factor` x `factor` pixels in place of pixels."""
    x, y, width, height = (value * factor for value in segment.bbox)
    return replace(segment, area=segment.area * factor**2, bbox=(x, y, width, height))


class _Painter:
    """Paints fillings, contours, and thin stripes on void.

    A contour lies inside its segment. Things have one all round, stuff only towards other stuff: things have their own,
    and void has its stripes.

    Args:
        segments: N segments.
        colors: (N, 3).
        shape: (H, W) of the image.
        alpha: opacity of things.
        style: see `draw_segments`.
        stuff: see `draw_segments`.
    """

    def __init__(
        self,
        segments: Sequence[Segment],
        colors: NDArray[np.uint8],
        shape: tuple[int, ...],
        alpha: float,
        style: DrawingStyle,
        stuff: StuffStyle,
    ) -> None:
        self.ids = [segment.id for segment in segments]
        self.isthing = np.array([*(segment.isthing for segment in segments), False])
        self.isstuff = np.array([*(not segment.isthing for segment in segments), False])
        side = min(shape)
        typical = float(np.median([segment.area for segment in segments if segment.isthing] or [side**2]))
        self.thickness = max(1, round(min(side / 250, typical**0.5 / 14)))
        self.period = int(np.clip(side // 40, 6, 60))
        self.line = max(1, self.period // 12)
        fill = np.where(self.isthing[:-1], 0.0 if style == "contour" else alpha, alpha * _STUFF * (stuff == "fill"))
        contour = np.where(self.isthing[:-1], max(alpha, 0.95), max(alpha, 0.8) if stuff != "none" else 0.0)
        void = [0.0, *[1.0 if alpha == 1 else min(alpha, _VOID_OPACITY)] * 2]
        # Rows: filling and contour of each segment, then void between, on the light and on the dark line.
        self.opacity = np.concatenate([np.stack([fill, contour], axis=1).reshape(-1), void]).astype(np.float32)
        paints = [colors.repeat(2, axis=0), np.array([_VOID[0], *_VOID])]
        self.paints = np.concatenate(paints).astype(np.float32)

    def paint(self, ids: NDArray[np.int32], pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Return the image (H, W, 3) painted, band by band."""
        height, width = ids.shape
        painted = np.array(pixels, order="C")
        rows = max(1, _BAND // width)
        for top in range(0, height, rows):
            bottom = min(top + rows, height)
            low, high = max(0, top - self.thickness), min(height, bottom + self.thickness)
            index = index_map(ids[low:high], self.ids)
            row = self._rows(index, low)[top - low : bottom - low].reshape(-1)
            band = painted[top:bottom].reshape(-1, 3)
            changed = np.flatnonzero(self.opacity[row])  # mostly things and contours: a part of the image
            row, canvas = row[changed], band[changed].astype(np.float32)
            canvas += self.opacity[row][:, None] * (self.paints[row] - canvas)
            band[changed] = np.rint(canvas)
        return painted

    def _rows(self, index: NDArray[np.int32], top: int) -> NDArray[np.int64]:
        """Return the row of `paints` for each pixel of a band that begins at line `top` of the image."""
        count = len(self.ids)
        things, stuff = self.isthing[index], self.isstuff[index]
        edge = np.where(things, _edges(index, self.thickness), _edges(index, self.thickness, stuff))
        rows: NDArray[np.int64] = 2 * index.astype(np.int64) + edge
        void = np.flatnonzero(index == count)
        y, x = np.divmod(void, index.shape[1])
        phase = (top + y + x) % self.period
        rows.reshape(-1)[void] = 2 * count + np.where(phase < self.line, 1, np.where(phase < 2 * self.line, 2, 0))
        return rows


def _edges(index: NDArray[np.int32], thickness: int, among: NDArray[np.bool_] | None = None) -> NDArray[np.bool_]:
    """Return the pixels within `thickness` of a pixel of another segment, (H, W); where given, both are `among`."""
    edge = np.zeros(index.shape, dtype=bool)
    vertical = index[1:] != index[:-1]
    horizontal = index[:, 1:] != index[:, :-1]
    if among is not None:
        vertical &= among[1:] & among[:-1]
        horizontal &= among[:, 1:] & among[:, :-1]
    edge[1:] |= vertical
    edge[:-1] |= vertical
    edge[:, 1:] |= horizontal
    edge[:, :-1] |= horizontal
    for _ in range(thickness - 1):
        wider = edge.copy()
        wider[1:] |= edge[:-1]
        wider[:-1] |= edge[1:]
        wider[:, 1:] |= edge[:, :-1]
        wider[:, :-1] |= edge[:, 1:]
        edge = wider
    return edge

"""Drawings of id maps: segments over their image, with names and a legend."""

from __future__ import annotations

import colorsys
import contextlib
import functools
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from banet.panoptic.categories import Categories
from banet.panoptic.id_maps import index_map
from banet.panoptic.pixels import rgb_array
from banet.panoptic.segments import Segment
from banet.types import Box

__all__ = ["draw_segments", "image_array", "segment_colors"]

_GOLDEN = 0.6180339887498949
_HATCH = ((118, 118, 118), (168, 168, 168))  # grays of the stripes on void
_PAPER = 255  # what lies under the segments where there is no image
_GRID = 48  # cells a side at most when the middle of a segment is looked for
_BAND = 1 << 20  # pixels that are painted at a time: bounds the memory
_LEGIBLE = 320  # pixels of the longer side below which an image with a legend is enlarged
_MANY = 16  # things of one class that are all named; of more, those that hold their name well

# Large character sets first; of Linux, Windows and macOS.
_FONTS = ("NotoSansCJK-Regular.ttc", "msyh.ttc", "Arial Unicode.ttf", "DejaVuSans.ttf", "segoeui.ttf", "Arial.ttf")

_Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


def draw_segments(
    ids: NDArray[np.int32],
    segments: Sequence[Segment],
    categories: Categories,
    image: Any = None,
    alpha: float = 0.5,
    *,
    legend: bool = False,
) -> Image.Image:
    """Paint segments over their image; see `PanopticSegmentation.draw`.

    Memory is a few bytes per pixel, so that images of any size that Pillow reads can be drawn.

    Args:
        ids: (H, W), the segment of each pixel; 0 is void.
        segments: the segments, with areas and boxes.
        categories: their classes.
        image: PIL image, array or tensor, see `rgb_array`, or a bool mask; None for no image.
        alpha: 0 leaves the image as it is, 1 hides it.
        legend: names the classes below the image, and enlarges tiny images.

    Returns:
        RGB image of width W and height H; with a legend larger.

    Raises:
        ValueError: the image's size is not the id map's, or alpha is outside 0..1.
    """
    if not 0 <= alpha <= 1:
        raise ValueError(f"alpha must be in 0..1, not {alpha}")
    height, width = ids.shape
    if image is None:
        pixels = np.full((height, width, 3), _PAPER, dtype=np.uint8)
        alpha = max(alpha, 0.8)
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
        pixels = pixels.repeat(factor, axis=0).repeat(factor, axis=1)
    if alpha == 0:
        canvas = Image.fromarray(pixels)
    else:
        colors = segment_colors(segments, categories)
        canvas = Image.fromarray(_paint(ids, segments, pixels, colors, alpha))
        _write_labels(canvas, ids, segments, categories, colors)
    return _with_legend(canvas, segments, categories) if legend else canvas


def image_array(image: Any) -> NDArray[np.uint8]:
    """Return an image as `rgb_array` does, or a bool mask as black and white: (H, W, 3) uint8."""
    mask = np.asarray(image) if getattr(image, "dtype", None) == np.bool_ else None
    return rgb_array(image if mask is None else np.where(mask, np.uint8(255), np.uint8(0)))


def segment_colors(segments: Sequence[Segment], categories: Categories) -> NDArray[np.uint8]:
    """Return the RGB of each segment, (N, 3): its class's color, in another shade for each further thing of it."""
    colors = np.zeros((len(segments), 3), dtype=np.uint8)
    counts: dict[int, int] = {}
    for index, segment in enumerate(segments):
        color = categories.by_id(segment.category_id).color
        nth = counts.get(segment.category_id, 0) if segment.isthing else 0
        counts[segment.category_id] = nth + 1
        colors[index] = _shade(color, nth) if nth else color
    return colors


def _shade(color: tuple[int, int, int], nth: int) -> NDArray[np.uint8]:
    """Return a lighter or darker color of nearly the same hue. Shades in a row lie far apart from each other."""
    hue, lightness, saturation = colorsys.rgb_to_hls(*(channel / 255 for channel in color))
    shift = (nth * _GOLDEN + 0.5) % 1.0 - 0.5
    middle = min(max(lightness, 0.42), 0.62)  # so that there is room on both sides
    turn = ((nth * 0.7548776662) % 1.0 - 0.5) * 0.08
    shade = np.array(colorsys.hls_to_rgb((hue + turn) % 1.0, middle + 0.5 * shift, saturation))
    return (255 * shade + 0.5).astype(np.uint8)


# --- painting --------------------------------------------------------------------------------------------------------


def _paint(
    ids: NDArray[np.int32],
    segments: Sequence[Segment],
    pixels: NDArray[np.uint8],
    colors: NDArray[np.uint8],
    alpha: float,
) -> NDArray[np.uint8]:
    """Return the image with fillings, outlines and stripes on void, (H, W, 3), painted band by band."""
    height, width = ids.shape
    paint, weight = _paints(colors, [segment.isthing for segment in segments], alpha)
    typical = float(np.median([segment.area for segment in segments if segment.isthing] or [height * width]))
    thickness = max(1, round(min(min(height, width) / 250, typical**0.5 / 14)))
    stripe = int(np.clip(min(height, width) // 80, 2, 40))
    painted = np.empty_like(pixels)
    rows = max(1, _BAND // width)
    for top in range(0, height, rows):
        bottom = min(top + rows, height)
        low, high = max(0, top - thickness), min(height, bottom + thickness)
        edge = _edges(ids[low:high], thickness)[top - low : bottom - low]
        index = index_map(ids[top:bottom], [segment.id for segment in segments])
        stripes = (np.arange(top, bottom)[:, None] + np.arange(width)) // stripe % 2
        row = 2 * index + np.where(index < len(colors), edge, stripes)
        canvas = pixels[top:bottom].astype(np.float32)
        canvas += weight[row][..., None] * (paint[row] - canvas)
        painted[top:bottom] = np.rint(canvas)
    return painted


def _paints(
    colors: NDArray[np.uint8], isthing: Sequence[bool], alpha: float
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return paints (2N + 2, 3) and their opacity (2N + 2,): filling and outline of each segment, two stripes.

    Things stand out: their outlines are light and firm, and stuff is laid on more thinly.
    """
    things = np.array(isthing, dtype=bool)
    fill = colors.astype(np.float32)
    outline = np.where(things[:, None], fill + 0.65 * (255 - fill), 0.5 * fill)
    thin = alpha**1.4
    weight = np.stack([np.where(things, alpha, thin), np.where(things, max(alpha, 0.9), max(thin, 0.5))], axis=1)
    return (
        np.concatenate([np.stack([fill, outline], axis=1).reshape(-1, 3), np.array(_HATCH)]).astype(np.float32),
        np.append(weight.reshape(-1), [min(0.55, 1.1 * alpha) if alpha < 1 else 1.0] * 2).astype(np.float32),
    )


def _edges(ids: NDArray[np.int32], thickness: int) -> NDArray[np.bool_]:
    """Return the pixels within `thickness` of a pixel of another segment, (H, W)."""
    edge = np.zeros(ids.shape, dtype=bool)
    vertical = ids[1:] != ids[:-1]
    horizontal = ids[:, 1:] != ids[:, :-1]
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


def _enlarged(segment: Segment, factor: int) -> Segment:
    """Return the segment with squares of `factor` x `factor` pixels in place of pixels."""
    x, y, width, height = (value * factor for value in segment.bbox)
    return replace(segment, area=segment.area * factor**2, bbox=(x, y, width, height))


# --- writing ---------------------------------------------------------------------------------------------------------


class _Label(NamedTuple):
    """A name on its ground."""

    box: Box
    text: str
    at: tuple[float, float]


def _write_labels(
    canvas: Image.Image,
    ids: NDArray[np.int32],
    segments: Sequence[Segment],
    categories: Categories,
    colors: NDArray[np.uint8],
) -> None:
    """Write names on segments, the large ones first: in the thickest part, or else beside it.

    No name covers another one, much of another thing, or more than a twentieth of the image.
    """
    draw = ImageDraw.Draw(canvas)
    font, size = _font_for(canvas.size, segments, categories)
    # Among things and stuff alike the larger one is named first, but a thing before stuff of up to four times its area.
    order = sorted(range(len(segments)), key=lambda k: -segments[k].area * (4 if segments[k].isthing else 1))
    counts = Counter(segment.category_id for segment in segments)
    things = np.sort([segment.id for segment in segments if segment.isthing])
    taken: list[Box] = []
    for index in order:
        segment = segments[index]
        name = _name(categories, segment.category_id) + (" (crowd)" if segment.iscrowd else "")
        crowded = counts[segment.category_id] > _MANY
        for label in _candidates(font, size, canvas.size, ids, segment, name, crowded):
            x0, y0, x1, y1 = label.box
            inside = x0 >= 0 and y0 >= 0 and x1 <= canvas.width and y1 <= canvas.height
            covers = any(_overlap(label.box, box) for box in taken)
            if inside and not covers and not _hides(ids, label.box, segment, things, size):
                taken.append(label.box)
                _write(draw, font, size, label, colors[index])
                break


def _candidates(
    font: _Font,
    size: int,
    room: tuple[int, int],
    ids: NDArray[np.int32],
    segment: Segment,
    name: str,
    crowded: bool,
) -> Iterator[_Label]:
    """Yield where a name might stand, best first: on the segment where it is large enough, beside a small thing."""
    pad = max(size // 5, 2)
    _, top, _, bottom = font.getbbox("Ag")  # one height for all
    for text in [name] if segment.score is None else [f"{name} {100 * segment.score:.0f}%", name]:
        left, _, right, _ = font.getbbox(text)
        width, height = int(right - left) + 2 * pad, int(bottom - top) + 2 * pad
        if 2 * width <= room[0] and width * height <= 0.05 * room[0] * room[1]:
            break
    else:
        return

    def label(x: int, y: int) -> _Label:
        return _Label((x, y, x + width, y + height), text, (x + pad - left, y + pad - top))

    large = segment.area >= (3 if crowded else 1.5) * width * height
    if not large and (crowded or not segment.isthing or 4 * segment.area < width * height):
        return
    x, y = _middle(ids, segment)
    left_of = min(max(x - width // 2, 0), room[0] - width)
    if large:
        above = min(max(y - height // 2, 0), room[1] - height)
        yield from (label(left_of, above + step * height) for step in (0, -1, 1))
    if segment.isthing and not crowded:
        gap = max(1, size // 6)
        first, last = _stretch(ids[:, x] == segment.id, y)
        yield label(left_of, first - height - gap)
        yield label(left_of, last + gap)
        first, last = _stretch(ids[y] == segment.id, x)
        yield label(last + gap, y - height // 2)
        yield label(first - width - gap, y - height // 2)


def _stretch(line: NDArray[np.bool_], at: int) -> tuple[int, int]:
    """Return where the pixels that are set around `at` begin, and where they end."""
    before, after = np.flatnonzero(~line[:at]), np.flatnonzero(~line[at:])
    return int(before[-1]) + 1 if len(before) else 0, at + int(after[0]) if len(after) else len(line)


def _hides(ids: NDArray[np.int32], box: Box, segment: Segment, things: NDArray[np.int64], size: int) -> bool:
    """Return whether a quarter of what lies under a label is other things."""
    step = max(1, size // 10)
    under = ids[box[1] : box[3] : step, box[0] : box[2] : step]
    other = under[under != segment.id]
    return bool(4 * np.isin(other, things).sum() > under.size)


def _overlap(a: Box, b: Box) -> bool:
    return a[0] <= b[2] and b[0] <= a[2] and a[1] <= b[3] and b[1] <= a[3]  # touching is too close


def _write(draw: ImageDraw.ImageDraw, font: _Font, size: int, label: _Label, color: NDArray[np.uint8]) -> None:
    x0, y0, x1, y1 = label.box
    red, green, blue = (int(v) for v in color)
    draw.rounded_rectangle((x0, y0, x1 - 1, y1 - 1), radius=max(size // 5, 2), fill=(red, green, blue))
    draw.text(label.at, label.text, font=font, fill=_ink(color))


def _ink(color: NDArray[np.uint8]) -> str:
    """Black or white, whichever is easier to read on a colour (WCAG's relative luminance)."""
    share = color / 255
    linear = np.where(share <= 0.04045, share / 12.92, ((share + 0.055) / 1.055) ** 2.4)
    return "black" if linear @ (0.2126, 0.7152, 0.0722) > 0.179 else "white"


def _middle(ids: NDArray[np.int32], segment: Segment) -> tuple[int, int]:
    """Return a pixel (x, y) in the thickest part of a segment, found by erosion on a coarse grid."""
    x, y, width, height = segment.bbox
    step = max(1, -(-max(width, height) // _GRID))
    mask = np.pad(ids[y : y + height : step, x : x + width : step] == segment.id, 1)
    last = mask
    while mask.any():
        last, mask = mask, np.zeros_like(mask)
        mask[1:-1, 1:-1] = last[1:-1, 1:-1] & last[:-2, 1:-1] & last[2:, 1:-1] & last[1:-1, :-2] & last[1:-1, 2:]
    rows, columns = np.nonzero(last)
    if len(rows) == 0:
        return x + width // 2, y + height // 2
    nearest = np.argmin((rows - rows.mean()) ** 2 + (columns - columns.mean()) ** 2)
    return x + int(columns[nearest] - 1) * step, y + int(rows[nearest] - 1) * step


def _with_legend(canvas: Image.Image, segments: Sequence[Segment], categories: Categories) -> Image.Image:
    """Return the drawing with a strip below that names each class that occurs, counts its things, and explains void."""
    font, size = _font_for(canvas.size, segments, categories)
    counts = Counter(segment.category_id for segment in segments)
    areas: Counter[int] = Counter()
    for segment in segments:
        areas[segment.category_id] += segment.area
    classes = sorted(map(categories.by_id, counts), key=lambda c: (not c.isthing, -areas[c.id]))
    entries: list[tuple[str, tuple[int, int, int] | None]] = [
        (_name(categories, c.id) + (f" ({counts[c.id]})" if counts[c.id] > 1 else ""), c.color) for c in classes
    ]
    if areas.total() < canvas.width * canvas.height:
        entries.append(("void", None))
    line, gap = round(1.6 * size), size // 2
    longest = max((font.getlength(text) for text, _ in entries), default=0.0) + size + 3 * gap
    width = max(canvas.width, min(int(longest) + 1, _LEGIBLE))
    spots: list[tuple[int, int]] = []
    x, y = gap, gap
    for text, _ in entries:
        wide = size + gap + int(font.getlength(text)) + 1
        if x > gap and x + wide > width - gap:
            x, y = gap, y + line
        spots.append((x, y))
        x += wide + 2 * gap
    sheet = Image.new("RGB", (width, canvas.height + y + line), "white")
    sheet.paste(canvas, ((width - canvas.width) // 2, 0))
    pen = ImageDraw.Draw(sheet)
    stripes = np.add.outer(np.arange(size), np.arange(size)) // max(2, size // 6) % 2
    hatch = Image.fromarray(np.array(_HATCH, dtype=np.uint8)[stripes])
    _, top, _, bottom = font.getbbox("Ag")
    for (text, color), (x, y) in zip(entries, spots, strict=True):
        y += canvas.height
        if color is None:
            sheet.paste(hatch, (x, y))
        box = (x, y, x + size - 1, y + size - 1)
        pen.rounded_rectangle(box, radius=max(size // 5, 2), fill=color, outline=(90, 90, 90))
        pen.text((x + size + gap, y + (size - top - bottom) / 2), text, fill=(30, 30, 30), font=font)
    return sheet


def _name(categories: Categories, category_id: int) -> str:
    """Return the name of a class on one line."""
    return " ".join(categories.by_id(category_id).name.split())


def _font_for(size: tuple[int, int], segments: Sequence[Segment], categories: Categories) -> tuple[_Font, int]:
    """Return a font for the classes in an image of width x height, and its size in pixels."""
    points = max(11, round(min(size) / 34))
    names = {categories.by_id(segment.category_id).name for segment in segments}
    return _font(points, all(map(str.isascii, names))), points


@functools.lru_cache(maxsize=8)
def _font(size: int, ascii_only: bool) -> _Font:
    """Pillow's own font, which knows ASCII only, or for other names one that the system may have."""
    try:
        for file in () if ascii_only else _FONTS:
            with contextlib.suppress(OSError):
                return ImageFont.truetype(file, size)
        return ImageFont.load_default(size=size)
    except ImportError:  # a Pillow built without FreeType has one size only
        return ImageFont.load_default()

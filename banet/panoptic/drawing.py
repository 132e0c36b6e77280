"""Pictures of panoptic results."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from banet.panoptic.segmentation import runs

if TYPE_CHECKING:
    from banet.panoptic.segmentation import PanopticSegmentation, Segment

__all__ = ["draw_segmentation", "picture_array"]

_GOLDEN = 0.6180339887498949
_HATCH = ((118.0, 118.0, 118.0), (168.0, 168.0, 168.0))  # greys of the stripes on void
_VOID_ALPHA = 0.55
_PAPER = 255.0  # what lies under the segments where there is no picture
_GRID = 48  # cells a side at most when the middle of a segment is looked for


def draw_segmentation(result: PanopticSegmentation, image: Any = None, alpha: float = 0.5) -> Image.Image:
    """Paints a result over its picture; see `PanopticSegmentation.draw`.

    Args:
        result: what to paint, (H, W).
        image: PIL image or array (H, W, 3), (H, W, 4) or (H, W), 0..255; None for no picture.
        alpha: 0 leaves the picture as it is, 1 hides it.

    Returns:
        RGB image of width W and height H.

    Raises:
        ValueError: the picture's size is not the id map's, or alpha is outside 0..1.
    """
    if not 0 <= alpha <= 1:
        raise ValueError(f"alpha must be in 0..1, not {alpha}")
    height, width = result.ids.shape
    if image is None:
        canvas = np.full((height, width, 3), _PAPER, dtype=np.float32)
        alpha = max(alpha, 0.8)
    else:
        canvas = picture_array(image).astype(np.float32)
        if canvas.shape[:2] != (height, width):
            raise ValueError(
                f"the picture is {canvas.shape[1]}x{canvas.shape[0]}, the result {width}x{height}; use one size"
            )
    if height == 0 or width == 0:
        return Image.new("RGB", (width, height))

    segments = result.segments
    colors = _segment_colors(result)
    place = _place_map(result.ids, segments)  # k for the k-th segment, -1 on void
    paint = np.concatenate([colors, np.zeros((1, 3), dtype=np.float32)])[place]
    weight = np.where(place < 0, min(_VOID_ALPHA, alpha * 1.1), alpha).astype(np.float32)[..., None]
    period = int(np.clip(min(height, width) // 40, 4, 14))
    stripe = ((np.arange(height)[:, None] + np.arange(width)[None, :]) // max(period // 2, 1)) % 2
    hatch = np.array(_HATCH, dtype=np.float32)[stripe]
    void = place < 0
    paint[void] = hatch[void]
    canvas += weight * (paint - canvas)

    if alpha > 0:
        thickness = 1 if min(height, width) < 400 else 2 if min(height, width) < 1000 else 3
        edge = _edges(result.ids, thickness) & ~void
        isthing = np.array([segment.isthing for segment in segments] + [False])
        edges = np.concatenate([_edge_colors(colors, isthing[:-1]), np.zeros((1, 3), dtype=np.float32)])
        strength = np.where(isthing[place], 0.95, 0.45).astype(np.float32)[..., None]
        where = np.nonzero(edge)
        canvas[where] += strength[where] * (edges[place[where]] - canvas[where])
    picture = Image.fromarray(np.clip(np.rint(canvas), 0, 255).astype(np.uint8))
    if alpha > 0:
        _write_labels(picture, result, colors)
    return picture


def picture_array(image: Any) -> NDArray[np.uint8]:
    """Brings a picture into one form.

    Args:
        image: PIL image, or array (H, W, 3), (H, W, 4), (H, W, 1) or (H, W), 0..255 (bool is 0 or 255).

    Returns:
        (H, W, 3) uint8.

    Raises:
        ValueError: another shape, or values that are no numbers.
    """
    if isinstance(image, Image.Image):
        return np.array(image.convert("RGB"))
    array = np.asarray(image)
    if array.ndim == 2:
        array = array[..., None]
    if array.ndim != 3 or array.shape[2] not in (1, 3, 4):
        raise ValueError(f"the picture must have shape (H, W, 3) or (H, W), not {np.asarray(image).shape}")
    array = np.repeat(array, 3, axis=2) if array.shape[2] == 1 else array[..., :3]
    if array.dtype.kind not in "buif":
        raise ValueError(f"the picture must hold numbers, not {array.dtype}")
    if array.dtype == np.bool_:
        return np.where(array, 255, 0).astype(np.uint8)
    if array.dtype.kind == "f":
        array = np.rint(np.nan_to_num(array))
    return np.asarray(np.clip(array, 0, 255), dtype=np.uint8)


def _place_map(ids: NDArray[np.int32], segments: list[Segment]) -> NDArray[np.int64]:
    """The position in `segments` of each pixel's owner, -1 on void and on ids that no segment has."""
    starts, lengths = runs(ids)
    place = {segment.id: index for index, segment in enumerate(segments)}
    values, inverse = np.unique(ids.reshape(-1)[starts], return_inverse=True)
    mapped = np.array([place.get(int(value), -1) for value in values], dtype=np.int64)
    return np.repeat(mapped[inverse], lengths).reshape(ids.shape)


def _segment_colors(result: PanopticSegmentation) -> NDArray[np.float32]:
    """RGB of each segment, (N, 3): its class colour, lighter or darker for the second, third, ... thing of a class."""
    colors = np.zeros((len(result.segments), 3), dtype=np.float32)
    counts: dict[int, int] = {}
    for index, segment in enumerate(result.segments):
        color = np.array(result.categories.by_id(segment.category_id).color, dtype=np.float32)
        if segment.isthing:
            nth = counts.get(segment.category_id, 0)
            counts[segment.category_id] = nth + 1
            shift = ((nth * _GOLDEN + 0.5) % 1.0) - 0.5  # 0 for the first
            color = color + (255 - color) * shift * 1.1 if shift > 0 else color * (1 + shift * 0.8)
        colors[index] = color
    return colors


def _edge_colors(colors: NDArray[np.float32], isthing: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Things are outlined in a light tint of their colour, stuff in a dark one."""
    light = colors + (255 - colors) * 0.7
    return np.where(isthing[:, None], light, colors * 0.5).astype(np.float32)


def _edges(ids: NDArray[np.int32], thickness: int) -> NDArray[np.bool_]:
    """Pixels within `thickness` of a pixel of another segment, (H, W)."""
    edge = np.zeros(ids.shape, dtype=bool)
    for step in range(1, thickness + 1):
        vertical = ids[step:] != ids[:-step]
        horizontal = ids[:, step:] != ids[:, :-step]
        edge[step:] |= vertical
        edge[:-step] |= vertical
        edge[:, step:] |= horizontal
        edge[:, :-step] |= horizontal
    return edge


def _write_labels(picture: Image.Image, result: PanopticSegmentation, colors: NDArray[np.float32]) -> None:
    """Writes the name of each segment where it is thickest, big ones first, unless that would cover another name.

    In small pictures the score is left out, and then the name, so that it never hides more than it tells.
    """
    width, height = picture.size
    size = int(np.clip(min(width, height) / 32, 10, 30))
    font = _font(size)
    draw = ImageDraw.Draw(picture)
    pad = max(size // 5, 2)
    taken: list[tuple[int, int, int, int]] = []
    # Among things and stuff alike the larger one is named first, but a thing before stuff of up to four times its area.
    order = sorted(
        range(len(result.segments)),
        key=lambda k: -result.segments[k].area * (4 if result.segments[k].isthing else 1),
    )
    for index in order:
        segment = result.segments[index]
        name = result.categories.by_id(segment.category_id).name + (" (crowd)" if segment.iscrowd else "")
        text = name if segment.score is None else f"{name} {100 * segment.score:.0f}%"
        if draw.textlength(text, font=font) + 2 * pad > width / 2:
            text = name
        left, top, right, bottom = draw.textbbox((0, 0), text, font=font)
        box_width, box_height = int(right - left) + 2 * pad, int(bottom - top) + 2 * pad
        if box_width > 0.7 * width or box_height > height or 2 * segment.area < box_width * box_height:
            continue
        x, y = _middle(result.ids, segment)
        x0 = int(np.clip(x - box_width // 2, 0, width - box_width))
        y0 = int(np.clip(y - box_height // 2, 0, height - box_height))
        box = (x0, y0, x0 + box_width, y0 + box_height)
        if any(box[0] < b[2] and b[0] < box[2] and box[1] < b[3] and b[1] < box[3] for b in taken):
            continue
        taken.append(box)
        red, green, blue = (int(v) for v in colors[index] * 0.45)
        draw.rounded_rectangle((box[0], box[1], box[2] - 1, box[3] - 1), radius=pad, fill=(red, green, blue))
        draw.text((x0 + pad - left, y0 + pad - top), text, font=font, fill=(255, 255, 255))


def _middle(ids: NDArray[np.int32], segment: Segment) -> tuple[int, int]:
    """A pixel (x, y) in the thickest part of a segment, found by wearing it away on a coarse grid."""
    x, y, width, height = segment.bbox
    step = max(1, -(-max(width, height) // _GRID))
    mask = np.pad(ids[y : y + height : step, x : x + width : step] == segment.id, 1)
    last = mask
    while mask.any():
        last = mask
        mask = mask & np.roll(mask, 1, 0) & np.roll(mask, -1, 0) & np.roll(mask, 1, 1) & np.roll(mask, -1, 1)
    rows, columns = np.nonzero(last)
    if len(rows) == 0:
        return x + width // 2, y + height // 2
    nearest = np.argmin((rows - rows.mean()) ** 2 + (columns - columns.mean()) ** 2)
    return x + int(columns[nearest] - 1) * step, y + int(rows[nearest] - 1) * step


def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    try:
        return ImageFont.load_default(size=size)
    except ImportError:  # a Pillow built without FreeType has one size only
        return ImageFont.load_default()

"""Names on drawings: on segments where they fit, and in a legend."""

from __future__ import annotations

import contextlib
import functools
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from banet.panoptic.segments import Segment
from banet.types import Box

__all__ = ["add_legend", "write_labels"]

_GRID = 48  # cells a side at most when the middle of a segment is looked for
_MANY = 16  # things of one class that are all named; of more, those that hold their name well
_NARROWEST = 320  # pixels of the longest line of a legend, which may be wider than its image
_SWATCH = 3  # colors of things of one class that a legend shows

# Of Linux, macOS and Windows; where a name has characters that a font lacks, the next one is taken.
_FONTS = (
    *("DejaVuSans.ttf", "NotoSans-Regular.ttf", "LiberationSans-Regular.ttf", "segoeui.ttf", "Arial.ttf"),
    *("NotoSansCJK-Regular.ttc", "NotoSansSC-Regular.otf", "NotoSansCJKsc-Regular.otf", "SourceHanSans-Regular.ttc"),
    *("DroidSansFallbackFull.ttf", "wqy-microhei.ttc", "wqy-zenhei.ttc", "msyh.ttc", "simsun.ttc", "YuGothM.ttc"),
    *("malgun.ttf", "PingFang.ttc", "Hiragino Sans GB.ttc", "AppleSDGothicNeo.ttc", "Arial Unicode.ttf"),
    *("NotoSansDevanagari-Regular.ttf", "NotoSansArabic-Regular.ttf", "NotoSansHebrew-Regular.ttf"),
)
_ABSENT = "\U0010ffff"  # no font has it, so that it shows what a font draws for a missing character

_Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


class _Label(NamedTuple):
    """A name on its ground."""

    box: Box
    text: str
    at: tuple[float, float]


def write_labels(
    canvas: Image.Image, ids: NDArray[np.int32], segments: Sequence[Segment], colors: NDArray[np.uint8]
) -> None:
    """Write the names of segments where they fit, of the large ones first.

    A name stands on its segment where nearly all of the ground below it is the segment's, or beside a small thing where
    no other thing is covered. It never covers another name or more than a twentieth of the image.

    Args:
        canvas: the drawing, which is changed.
        ids: (H, W).
        segments: N segments, with areas and boxes.
        colors: (N, 3).
    """
    draw = ImageDraw.Draw(canvas)
    size = _size_for(canvas.size)
    # Among things and stuff alike the larger one is named first, but a thing before stuff of up to four times its area.
    order = sorted(range(len(segments)), key=lambda k: -segments[k].area * (4 if segments[k].isthing else 1))
    counts = Counter(segment.category_id for segment in segments)
    things = np.sort([segment.id for segment in segments if segment.isthing])
    taken: list[Box] = []
    for index in order:
        segment = segments[index]
        name, font = _name(segment, size)
        crowded = counts[segment.category_id] > _MANY
        for label in _candidates(
            font, size, canvas.size, ids, segment, name + (" (crowd)" if segment.iscrowd else ""), crowded
        ):
            x0, y0, x1, y1 = label.box
            inside = x0 >= 0 and y0 >= 0 and x1 <= canvas.width and y1 <= canvas.height
            if inside and not any(_overlap(label.box, box) for box in taken) and _fits(ids, label.box, segment, things):
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
    middle: tuple[int, int] | None = None
    for text in [name] if segment.score is None else [f"{name} {100 * segment.score:.0f}%", name]:
        left, _, right, _ = font.getbbox(text)
        width, height = int(right - left) + 2 * pad, int(bottom - top) + 2 * pad
        if 2 * width > room[0] or width * height > 0.05 * room[0] * room[1]:
            continue

        def label(x: int, y: int) -> _Label:
            return _Label((x, y, x + width, y + height), text, (x + pad - left, y + pad - top))  # noqa: B023

        x, y = middle = middle or _middle(ids, segment)
        left_of = min(max(x - width // 2, 0), room[0] - width)
        if segment.area >= 3 * width * height:
            above = min(max(y - height // 2, 0), room[1] - height)
            yield from (label(left_of, above + step * height) for step in (0, -1, 1))
        if segment.isthing and not crowded and 4 * segment.area >= width * height:
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


def _fits(ids: NDArray[np.int32], box: Box, segment: Segment, things: NDArray[np.int64]) -> bool:
    """Return whether what lies under a label is the segment's for the most part, or no other thing's at all."""
    under = ids[box[1] : box[3], box[0] : box[2]]
    own = (under == segment.id).mean()
    others = np.isin(under, things[things != segment.id]).mean()
    return bool(others < 0.03 and (own > 0.85 or (segment.isthing and own < 0.15)))


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


# --- legend ----------------------------------------------------------------------------------------------------------


class _Entry(NamedTuple):
    """A line of the legend: up to three colors, none for void; its text and font."""

    colors: list[tuple[int, int, int]]
    text: str
    font: _Font


def add_legend(
    canvas: Image.Image, segments: Sequence[Segment], colors: NDArray[np.uint8], *, void: bool, domain: str = ""
) -> Image.Image:
    """Return the drawing with a strip below that names each class that occurs, counts its things, and explains void.

    Args:
        canvas: the drawing.
        segments: N segments, with areas.
        colors: (N, 3).
        void: whether there is void.
        domain: what images the weights were trained on; empty where that is not known.
    """
    size = _size_for(canvas.size)
    entries = _entries(segments, colors, size)
    if void:
        entries.append(_Entry([], "void", _font("", size)))
    line, gap = round(1.6 * size), size // 2
    lengths = [int(entry.font.getlength(entry.text)) + 1 for entry in entries]
    width = max(canvas.width, min(max(lengths, default=0) + size + 3 * gap, _NARROWEST))
    spots: list[tuple[int, int]] = []
    x, y = gap, gap
    for length in lengths:
        wide = size + gap + length
        if x > gap and x + wide > width - gap:
            x, y = gap, y + line
        spots.append((x, y))
        x += wide + 2 * gap
    font = _font("", size)
    notes = _wrapped(f"Weights trained on: {domain}", font, width - 2 * gap) if domain else []
    below = canvas.height + y + line
    sheet = Image.new("RGB", (width, below + len(notes) * line), "white")
    sheet.paste(canvas, ((width - canvas.width) // 2, 0))
    pen = ImageDraw.Draw(sheet)
    for entry, (x, y) in zip(entries, spots, strict=True):
        y += canvas.height
        sheet.paste(_swatch(entry.colors, size), (x, y))
        _, top, _, bottom = entry.font.getbbox("Ag")
        pen.text((x + size + gap, y + (size - top - bottom) / 2), entry.text, fill=(30, 30, 30), font=entry.font)
    for nth, text in enumerate(notes):
        pen.text((gap, below + nth * line), text, fill=(90, 90, 90), font=font)
    return sheet


def _wrapped(text: str, font: _Font, width: int) -> list[str]:
    """Return a text as lines of at most `width` pixels, broken between words."""
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if lines[-1] and font.getlength(longer) > width:
            lines.append(word)
        else:
            lines[-1] = longer
    return lines


def _entries(segments: Sequence[Segment], colors: NDArray[np.uint8], size: int) -> list[_Entry]:
    """Return the entries of the classes: things before stuff, what covers more first."""
    groups: dict[int, list[int]] = {}
    for k, segment in enumerate(segments):
        groups.setdefault(segment.category_id, []).append(k)
    ordered = sorted(groups.values(), key=lambda g: (not segments[g[0]].isthing, -sum(segments[k].area for k in g)))
    entries = []
    for group in ordered:
        name, font = _name(segments[group[0]], size)
        shown = dict.fromkeys((int(red), int(green), int(blue)) for red, green, blue in colors[group])
        entries.append(_Entry(list(shown)[:_SWATCH], f"{name} ({len(group)})" if len(group) > 1 else name, font))
    return entries


def _swatch(colors: Sequence[tuple[int, int, int]], size: int) -> Image.Image:
    """Return a square of stripes of some colors, or without any, of the stripes of void."""
    square = Image.new("RGB", (size, size), "white")
    pen = ImageDraw.Draw(square)
    for k, color in enumerate(colors):
        pen.rectangle((k * size // len(colors), 0, (k + 1) * size // len(colors) - 1, size), fill=color)
    for x in range(-size, size, max(4, size // 3)) if not colors else ():
        pen.line((x, size, x + size, 0), fill=(150, 150, 150))
    pen.rectangle((0, 0, size - 1, size - 1), outline=(90, 90, 90))
    return square


# --- fonts -----------------------------------------------------------------------------------------------------------


def _name(segment: Segment, size: int) -> tuple[str, _Font]:
    """Return the name of a class on one line with a font for it; where no font has its characters, "class ID"."""
    name = " ".join(segment.label.split())
    try:
        return name, _font("" if name.isascii() else name, size)
    except LookupError:
        warnings.warn(
            f"no font of this system has all characters of {name!r}; drawn as 'class {segment.category_id}'; "
            "install one that has, such as Noto Sans CJK",
            stacklevel=2,
        )
        return f"class {segment.category_id}", _font("", size)


def _size_for(size: tuple[int, int]) -> int:
    """Return the height in pixels of letters on an image of width x height."""
    return max(11, round(min(size) / 34))


@functools.lru_cache(maxsize=256)
def _font(text: str, size: int) -> _Font:
    """Return Pillow's own font, or for a text with characters that it lacks one of the system's.

    Raises:
        LookupError: none has them all.
    """
    try:
        default = ImageFont.load_default(size=size)
    except ImportError:  # a Pillow built without FreeType has one font of one size, for Latin letters
        return ImageFont.load_default()
    for font in [default, *_system_fonts(size)] if text else [default]:
        if _has_characters(font, text):
            return font
    raise LookupError(text)


@functools.lru_cache(maxsize=8)
def _system_fonts(size: int) -> list[_Font]:
    fonts: list[_Font] = []
    for file in _FONTS:
        with contextlib.suppress(OSError):
            fonts.append(ImageFont.truetype(file, size))
    return fonts


def _has_characters(font: _Font, text: str) -> bool:
    absent = bytes(font.getmask(_ABSENT))
    return all(bytes(font.getmask(character)) != absent for character in set(text) if not character.isspace())

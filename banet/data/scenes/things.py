"""The shapes of a procedural scene's things, and how they are painted.

numpy and Pillow only. A shape is a list of `Part`s: polygons in the thing's own units (y points down), each with a
colour and perhaps a pattern. `render` moves the parts into the image and returns the patch of pixels with soft edges,
and the exact mask.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from banet.data.scenes.stuff import Floats, dim, hsv, value_noise

__all__ = ["SHAPES", "Part", "Patch", "Pose", "render"]

Points = NDArray[np.float64]
OVERSAMPLING = 3
"""Polygons are drawn at this many times the resolution, for soft edges."""


@dataclass(frozen=True)
class Pattern:
    """Stripes, dots or checks of a second colour, in the thing's own units."""

    kind: str
    color: Floats
    size: float
    angle: float = 0.0
    phase: float = 0.0

    def where(self, u: Floats, v: Floats) -> NDArray[np.bool_]:
        """Where the second colour is, for points (u,v)."""
        c, s = math.cos(self.angle), math.sin(self.angle)
        a, b = (c * u + s * v) / self.size + self.phase, (c * v - s * u) / self.size
        if self.kind == "stripes":
            return np.asarray(a % 1 < 0.45)
        if self.kind == "checks":
            return np.asarray((a % 1 < 0.5) ^ (b % 1 < 0.5))
        return np.asarray((a % 1 - 0.5) ** 2 + (b % 1 - 0.5) ** 2 < 0.085)


@dataclass(frozen=True)
class Part:
    """Polygons of one colour; later parts lie over earlier ones."""

    polygons: Sequence[Points]
    color: Floats
    pattern: Pattern | None = None


@dataclass(frozen=True)
class Sprite:
    """A thing in its own units, and the named points where other things can be fastened.

    Attributes:
        parts: what is painted, back to front.
        anchors: name → (u,v).
        color: the colour that a thing fastened to it should differ from.
        glossy: how strongly it is shaded like a ball (0..1); the others get a mild shade from side to side.
    """

    parts: list[Part]
    anchors: dict[str, tuple[float, float]] = field(default_factory=dict)
    color: Floats | None = None
    glossy: float = 0.0


@dataclass(frozen=True)
class Pose:
    """Where a shape goes: image = matrix · (u,v) + offset, in pixels."""

    matrix: NDArray[np.float64]
    offset: NDArray[np.float64]

    @classmethod
    def of(cls, scale: float, x: float, y: float, turn: float = 0.0, mirror: bool = False) -> Pose:
        """Scale in pixels a unit, place of the origin, turn in radians, mirrored left to right or not."""
        c, s = np.cos(turn) * scale, np.sin(turn) * scale
        flip = -1.0 if mirror else 1.0
        return cls(np.array([[c * flip, -s], [s * flip, c]]), np.array([x, y], np.float64))

    def at(self, u: float, v: float) -> tuple[float, float]:
        """Return the place of (u,v) in the image."""
        x, y = self.matrix @ np.array([u, v]) + self.offset
        return float(x), float(y)


@dataclass(frozen=True)
class Patch:
    """A painted thing: where it lies in the image and what it covers.

    Attributes:
        box: rows and columns of the image.
        color: (h,w,3) float32, already multiplied by `alpha`.
        alpha: (h,w) float32, the share of each pixel that the thing covers.
        mask: (h,w) bool, alpha ≥ ½: the truth.
    """

    box: tuple[slice, slice]
    color: Floats
    alpha: Floats
    mask: NDArray[np.bool_]


def render(rng: np.random.Generator, shape: Sprite, pose: Pose, size: tuple[int, int], light: float) -> Patch | None:
    """Paint a shape into the part of an image of `size` (H,W) that it covers; None where that is nothing.

    Args:
        rng: source of the grain.
        shape: the thing.
        pose: where it goes.
        size: (H,W) of the image.
        light: shade from side to side, -1 (light from the right) to 1.
    """
    placed = [(np.concatenate(part.polygons) @ pose.matrix.T + pose.offset, part) for part in shape.parts]
    points = np.concatenate([p for p, _ in placed])
    low, high = np.floor(points.min(0)).astype(int) - 1, np.ceil(points.max(0)).astype(int) + 1
    x0, y0 = max(int(low[0]), 0), max(int(low[1]), 0)
    x1, y1 = min(int(high[0]), size[1]), min(int(high[1]), size[0])
    if x1 <= x0 or y1 <= y0:
        return None
    w, h = x1 - x0, y1 - y0
    canvas = Image.new("P", (w * OVERSAMPLING, h * OVERSAMPLING))
    palette = np.zeros((256, 3), np.uint8)
    draw = ImageDraw.Draw(canvas)
    for number, (xy, part) in enumerate(placed, start=1):
        palette[number] = [min(max(int(level), 14), 255) for level in part.color]
        xy = (xy - (x0, y0)) * OVERSAMPLING - 0.5
        start = 0
        for polygon in part.polygons:
            draw.polygon(xy[start : start + len(polygon)].ravel().tolist(), fill=number)
            start += len(polygon)
    fine = np.asarray(canvas)
    canvas.putpalette(palette.tobytes())
    color = np.asarray(canvas.convert("RGB").reduce(OVERSAMPLING), np.float32)
    covered = Image.fromarray((fine > 0).view(np.uint8) * np.uint8(255))
    alpha = np.asarray(covered.reduce(OVERSAMPLING), np.float32) / np.float32(255)
    mask = alpha >= 0.5
    if not mask.any():
        return None
    inverse = np.linalg.inv(pose.matrix).astype(np.float32)
    x = np.arange(x0, x1, dtype=np.float32)[None] + np.float32(0.5 - pose.offset[0])
    y = np.arange(y0, y1, dtype=np.float32)[:, None] + np.float32(0.5 - pose.offset[1])
    middle = OVERSAMPLING // 2
    coarse = fine[middle::OVERSAMPLING, middle::OVERSAMPLING]
    for number, (_, part) in enumerate(placed, start=1):
        if part.pattern is not None:
            u, v = inverse[0, 0] * x + inverse[0, 1] * y, inverse[1, 0] * x + inverse[1, 1] * y
            second = (coarse == number) & part.pattern.where(u, v)
            np.copyto(color, np.clip(part.pattern.color, 14, 255) * alpha[..., None], where=second[..., None])
    span_x, span_y = max(float(np.ptp(points[:, 0])), 1.0), max(float(np.ptp(points[:, 1])), 1.0)
    center = (points.min(0) + points.max(0)) / 2 - pose.offset
    across, down = (x - np.float32(center[0])) / span_x, (y - np.float32(center[1])) / span_y
    grain = value_noise(rng, h, w, 3, 3)
    shade = 1 - 0.28 * light * across - 0.1 * down + 0.14 * (grain - 0.5)
    if shape.glossy:
        shade = shade * (1.15 - shape.glossy * 1.5 * ((across + 0.2 * light) ** 2 + (down + 0.2) ** 2))
    dim(color, shade)
    return Patch(box=(slice(y0, y1), slice(x0, x1)), color=color, alpha=alpha, mask=mask)


# Polygons.


def _polygon(*points: tuple[float, float]) -> Points:
    return np.array(points, np.float64)


def _box(x0: float, y0: float, x1: float, y1: float) -> Points:
    return _polygon((x0, y0), (x1, y0), (x1, y1), (x0, y1))


@functools.cache
def _circle(start: float, end: float, count: int) -> Points:
    t = np.linspace(start, end, count)
    return np.stack([np.cos(t), np.sin(t)], 1)


def _ellipse(
    cx: float, cy: float, rx: float, ry: float, start: float = 0.0, end: float = 2 * np.pi, count: int = 22
) -> Points:
    return _circle(start, end, count) * (rx, ry) + (cx, cy)


def _arc(cy: float, radius: float, start: float, end: float, count: int) -> Points:
    """Part of a circle around (0,cy)."""
    t = np.linspace(start, end, count)
    return np.stack([radius * np.cos(t), cy + radius * np.sin(t)], 1)


def _line(*points: tuple[float, float], width: float) -> list[Points]:
    """Return a stroke with round corners."""
    polygons = []
    for (x0, y0), (x1, y1) in itertools.pairwise(points):
        length = max(float(np.hypot(x1 - x0, y1 - y0)), 1e-9)
        nx, ny = -(y1 - y0) / length * width / 2, (x1 - x0) / length * width / 2
        polygons.append(_polygon((x0 + nx, y0 + ny), (x1 + nx, y1 + ny), (x1 - nx, y1 - ny), (x0 - nx, y0 - ny)))
    polygons += [_ellipse(x, y, width / 2, width / 2, count=9) for x, y in points[1:-1]]
    return polygons


def _vivid(rng: np.random.Generator, unlike: Floats | None = None) -> Floats:
    """Return a random clear colour; far in hue from `unlike` where that is given."""
    hue = rng.random()
    if unlike is not None and np.ptp(unlike) > 30:
        r, g, b = (float(c) / 255 for c in unlike)
        angle = np.arctan2(np.sqrt(3) * (g - b), 2 * r - g - b) / (2 * np.pi)
        hue = angle + 0.5 + rng.uniform(-0.2, 0.2)
    return hsv(hue, rng.uniform(0.6, 0.95), rng.uniform(0.5, 0.98))


def _pattern(rng: np.random.Generator, base: Floats, size: float, chance: float = 0.5) -> Pattern | None:
    if rng.random() > chance:
        return None
    second = base * np.float32(rng.choice([0.55, 1.45]))
    if rng.random() < 0.4:
        second = hsv(rng.random(), rng.uniform(0.0, 0.9), rng.uniform(0.3, 1.0))
    kind = ("stripes", "stripes", "dots", "checks")[rng.integers(4)]
    angle = rng.choice([0.0, np.pi / 2, 0.7])
    return Pattern(kind, second, size * rng.uniform(0.8, 1.4), float(angle), float(rng.random()))


def _pale(rng: np.random.Generator) -> Floats:
    return hsv(rng.random(), rng.uniform(0.0, 0.12), rng.uniform(0.85, 1.0))


# Shapes. The origin is where the thing stands, hangs or is held; one unit is its height, or its width for flat things.


def person(rng: np.random.Generator, unlike: Floats | None = None) -> Sprite:
    """Return a standing figure: legs, torso with a shirt, arms, head, hair."""
    skin = hsv(rng.uniform(0.05, 0.09), rng.uniform(0.3, 0.6), rng.uniform(0.4, 0.98))
    shirt = _pale(rng) if rng.random() < 0.25 else _vivid(rng)
    trousers = hsv(rng.choice([0.6, 0.08, rng.random()]), rng.uniform(0.2, 0.6), rng.uniform(0.2, 0.55))
    hair = hsv(rng.uniform(0.02, 0.12), rng.uniform(0.2, 0.7), rng.choice([0.15, 0.3, 0.7]))
    stride = rng.uniform(0.01, 0.08)
    shoulder, hip = rng.uniform(0.105, 0.135), rng.uniform(0.075, 0.1)
    raised = rng.random() < 0.25
    hands: list[tuple[float, float]] = []
    arms: list[Points] = []
    for side in (-1, 1):
        if raised and side == 1:
            elbow, hand = (0.19 * side, -0.78), (0.2 * side, -0.97)
        else:
            bend = rng.uniform(0.02, 0.09)
            elbow, hand = ((shoulder + bend) * side, -0.62), ((shoulder + rng.uniform(-0.02, 0.1)) * side, -0.46)
        arms += _line((shoulder * side * 0.85, -0.79), elbow, hand, width=0.062)
        hands.append(hand)
    legs = _line((-0.045, -0.47), (-0.05 - stride / 2, -0.25), (-0.05 - stride, -0.02), width=0.085)
    legs += _line((0.045, -0.47), (0.05 + stride / 2, -0.25), (0.05 + stride, -0.02), width=0.085)
    shoes = [_ellipse(side * (0.065 + stride), -0.015, 0.06, 0.028) for side in (-1, 1)]
    torso = _polygon((-shoulder, -0.82), (-0.03, -0.85), (0.03, -0.85), (shoulder, -0.82), (hip, -0.44), (-hip, -0.44))
    parts = [
        Part(legs, trousers),
        Part(shoes, np.asarray(trousers * 0.5, np.float32)),
        Part([_box(-0.03, -0.88, 0.03, -0.82)], skin * np.float32(0.85)),
        Part(arms, shirt * np.float32(0.86)),
        Part([_ellipse(x, y, 0.036, 0.036, count=12) for x, y in hands], skin),
        Part([torso], shirt, _pattern(rng, shirt, 0.06, 0.45)),
        Part([_ellipse(0, -0.925, 0.062, 0.075)], skin),
        Part([_ellipse(0, -0.945, 0.068, 0.066, np.pi * 0.95, np.pi * 2.05)], hair),
    ]
    if rng.random() < 0.3:
        parts.insert(0, Part([_ellipse(0, -0.9, 0.082, 0.1)], hair))
    return Sprite(parts, {"collar": (0.0, -0.825), "chest": (0.0, -0.6), "hand": hands[1], "head": (0.0, -0.98)}, shirt)


def tie(rng: np.random.Generator, unlike: Floats | None = None) -> Sprite:
    """Return a knot and a blade that widens and ends in a point; hangs from its origin, one unit long."""
    color = _vivid(rng, unlike)
    if unlike is not None and np.ptp(unlike) < 30 and rng.random() < 0.25:  # a dark one on a white shirt
        color = hsv(rng.random(), 0.2, 0.15)
    blade = _polygon((-0.07, 0.14), (0.07, 0.14), (0.155, 0.84), (0.0, 1.0), (-0.155, 0.84))
    pattern = Pattern("stripes", np.asarray(color * 0.55 + 90, np.float32), 0.26, 0.8) if rng.random() < 0.45 else None
    knot = _polygon((-0.12, 0.0), (0.12, 0.0), (0.075, 0.16), (-0.075, 0.16))
    return Sprite([Part([blade], color, pattern), Part([knot], color * np.float32(0.75))], color=color)


def umbrella(rng: np.random.Generator, unlike: Floats | None = None) -> Sprite:
    """Return a canopy of coloured panels on a thin pole; one unit wide, held at its origin."""
    first = _vivid(rng, unlike)
    second = _pale(rng) if rng.random() < 0.5 else np.asarray(first * 0.65, np.float32)
    pole = hsv(0.08, rng.uniform(0.1, 0.6), rng.uniform(0.2, 0.5))
    hook = _line((0, 0.08), (0.03, 0.13), (0.075, 0.1), width=0.032)
    parts = [Part([*_line((0, -0.8), (0, 0.08), width=0.026), *hook], pole)]
    rims = np.linspace(-0.5, 0.5, 6)
    for number, (left, right) in enumerate(itertools.pairwise(rims)):
        t = np.linspace(0, 1, 7)
        # The seams are arcs from the tip to the rim.
        down = [(left * np.sin(a * np.pi / 2), -0.85 + 0.34 * (1 - np.cos(a * np.pi / 2))) for a in t]
        up = [(right * np.sin(a * np.pi / 2), -0.85 + 0.34 * (1 - np.cos(a * np.pi / 2))) for a in t[::-1]]
        scallop = [((left + right) / 2, -0.545)]
        parts.append(Part([_polygon(*down, *scallop, *up)], second if number % 2 else first))
    parts.append(Part([_box(-0.012, -0.9, 0.012, -0.84)], pole))
    return Sprite(parts, color=first)


def ball(rng: np.random.Generator, unlike: Floats | None = None) -> Sprite:
    """Return a ball with panels, a band or plain; one unit across, lies on its origin."""
    base = _vivid(rng, unlike) if rng.random() < 0.75 else hsv(0.1, 0.05, 0.97)
    second = hsv(0.1, 0.03, 0.97) if np.ptp(base) > 40 else hsv(rng.random(), 0.2, 0.15)
    parts = [Part([_ellipse(0, -0.5, 0.5, 0.5, count=28)], base)]
    turn, kind = rng.uniform(0, np.pi), rng.integers(3)
    if kind == 0:  # beach ball
        for start in turn + np.arange(3) * 2 * np.pi / 3:
            arc = _arc(-0.5, 0.5, start, start + np.pi / 3, 9)
            parts.append(Part([np.concatenate([arc, _polygon((0.05, -0.55))])], second))
    elif kind == 1:  # football
        patches = [_arc(-0.5, 0.17, turn, turn + 2 * np.pi, 6)]
        for a in turn + np.arange(5) * 2 * np.pi / 5:
            patches.append(_ellipse(0.4 * np.cos(a), -0.5 + 0.4 * np.sin(a), 0.095, 0.095, count=7))
        parts.append(Part(patches, second))
    else:  # a band
        c, s = np.cos(turn), np.sin(turn)
        parts.append(Part(_line((-0.47 * c, -0.5 - 0.47 * s), (0.47 * c, -0.5 + 0.47 * s), width=0.2), second))
    return Sprite(parts, color=base, glossy=0.8)


def kite(rng: np.random.Generator, unlike: Floats | None = None) -> Sprite:
    """A diamond of four colours with a long string and bows; one unit high, its origin is where the spars cross."""
    colors = [_vivid(rng), _pale(rng)] if rng.random() < 0.5 else [_vivid(rng), _vivid(rng)]
    top, right, low, left = (0.0, -0.42), (0.34, 0.0), (0.0, 0.62), (-0.34, 0.0)
    sway = rng.uniform(-0.25, 0.25)
    t = np.linspace(0, 1, 12)
    string = [(float(sway * a * 2 + 0.09 * np.sin(7 * a + sway)), float(0.62 + a * 0.9)) for a in t]
    bows = []
    for x, y in string[3:-1:3]:
        bows += [_polygon((x, y), (x + side, y - 0.06), (x + side, y + 0.06)) for side in (-0.09, 0.09)]
    parts = [
        Part(_line(*string, width=0.036), hsv(0.1, 0.1, rng.choice([0.15, 0.95]))),
        Part(bows, colors[0]),
        Part([_polygon(top, right, (0, 0)), _polygon(low, left, (0, 0))], colors[0]),
        Part([_polygon(right, low, (0, 0)), _polygon(left, top, (0, 0))], colors[1]),
        Part([*_line(top, low, width=0.022), *_line(left, right, width=0.022)], colors[0] * np.float32(0.4)),
    ]
    return Sprite(parts, color=colors[0])


def cup(rng: np.random.Generator, unlike: Floats | None = None) -> Sprite:
    """Return a mug with a handle and an open rim; one unit high, stands on its origin."""
    color = _vivid(rng, unlike) if rng.random() < 0.75 else _pale(rng)
    band = (
        Pattern("stripes", np.asarray(color * 0.5 + 110, np.float32), 0.5, np.pi / 2, 0.2)
        if rng.random() < 0.4
        else None
    )
    handle = [(0.36, -0.78), (0.62, -0.7), (0.64, -0.4), (0.34, -0.26)]
    body = _polygon((-0.42, -0.93), (0.42, -0.93), (0.34, -0.06), (0.2, 0.0), (-0.2, 0.0), (-0.34, -0.06))
    parts = [
        Part(_line(*handle, width=0.13), color * np.float32(0.8)),
        Part([body], color, band),
        Part([_ellipse(0, -0.93, 0.42, 0.12)], np.asarray(color * 0.5 + 110, np.float32)),
        Part([_ellipse(0, -0.92, 0.33, 0.08)], hsv(0.06, 0.6, rng.uniform(0.2, 0.4))),
    ]
    return Sprite(parts, {}, color)


def chair(rng: np.random.Generator, unlike: Floats | None = None) -> Sprite:
    """Return a chair with thin legs and a slatted back; one unit high, stands on its origin."""
    wood = _vivid(rng)
    if rng.random() < 0.6:
        wood = hsv(rng.uniform(0.03, 0.11), rng.uniform(0.4, 0.8), rng.uniform(0.3, 0.8))
    seat = _vivid(rng, wood) if rng.random() < 0.5 else wood
    dark = wood * np.float32(0.7)
    back = [*_line((-0.24, -0.45), (-0.27, -0.98), width=0.05), *_line((0.16, -0.45), (0.13, -0.98), width=0.05)]
    slats = [_polygon((-0.26, -y), (0.14, -y), (0.14, -y + 0.085), (-0.26, -y + 0.085)) for y in (0.97, 0.81, 0.65)]
    parts = [
        Part(
            [*_line((-0.22, -0.45), (-0.22, -0.1), width=0.045), *_line((0.16, -0.45), (0.16, -0.1), width=0.045)], dark
        ),
        Part(back, wood),
        Part(slats, wood * np.float32(0.9)),
        Part(
            [*_line((-0.28, -0.42), (-0.29, 0.0), width=0.055), *_line((0.27, -0.42), (0.28, 0.0), width=0.055)], wood
        ),
        Part([_polygon((-0.24, -0.52), (0.19, -0.52), (0.31, -0.42), (-0.31, -0.42))], seat),
        Part([_box(-0.31, -0.42, 0.31, -0.37)], seat * np.float32(0.7)),
    ]
    return Sprite(parts, {"seat": (0.0, -0.46)}, seat)


def table(rng: np.random.Generator, unlike: Floats | None = None) -> Sprite:
    """Return a table seen from a little above; one unit wide, stands on its origin."""
    wood = _pale(rng)
    if rng.random() < 0.7:
        wood = hsv(rng.uniform(0.04, 0.11), rng.uniform(0.35, 0.75), rng.uniform(0.45, 0.85))
    cloth = _pattern(rng, wood, 0.1, 0.3)
    dark = wood * np.float32(0.62)
    legs_back = [*_line((-0.33, -0.4), (-0.33, -0.09), width=0.035), *_line((0.33, -0.4), (0.33, -0.09), width=0.035)]
    legs = [*_line((-0.45, -0.36), (-0.44, 0.0), width=0.045), *_line((0.45, -0.36), (0.44, 0.0), width=0.045)]
    parts = [
        Part(legs_back, dark * np.float32(0.75)),
        Part(legs, dark),
        Part([_box(-0.5, -0.4, 0.5, -0.33)], wood * np.float32(0.72)),
        Part([_polygon((-0.38, -0.56), (0.38, -0.56), (0.5, -0.4), (-0.5, -0.4))], wood, cloth),
    ]
    return Sprite(parts, {"left": (-0.28, -0.47), "middle": (0.02, -0.5), "right": (0.28, -0.45)}, wood)


def book(rng: np.random.Generator, unlike: Floats | None = None) -> Sprite:
    """Return a book, shut (title, spine, edge of the pages) or open (lines); one unit high, stands on its origin."""
    cover = _vivid(rng, unlike)
    paper, ink = hsv(0.12, 0.1, 0.97), hsv(0.6, 0.2, 0.3)
    if rng.random() < 0.35:
        lines = [_box(x, y, x + 0.4, y + 0.045) for x in (-0.53, 0.13) for y in (-0.72, -0.56, -0.4, -0.24)]
        pages = [_polygon((0, -0.86), (x, -0.92), (x, -0.08), (0, -0.02)) for x in (-0.62, 0.62)]
        fold = _box(-0.02, -0.86, 0.02, -0.02)
        back = Part([_box(-0.68, -0.96, 0.68, 0.0)], cover)
        return Sprite([back, Part(pages, paper), Part([fold, *lines], ink)], color=cover)
    title = [_box(-0.12, -0.78, 0.26, -0.68), _box(-0.06, -0.6, 0.2, -0.54)]
    parts = [
        Part(
            [_polygon((-0.36, -1.0), (0.36, -1.0), (0.44, -0.94), (0.44, 0.04), (-0.3, 0.04))], paper * np.float32(0.92)
        ),
        Part([_box(-0.36, -1.0, 0.36, 0.0)], cover),
        Part([_box(-0.36, -1.0, -0.24, 0.0)], cover * np.float32(0.6)),
        Part(title, paper),
    ]
    return Sprite(parts, color=cover)


def car(rng: np.random.Generator, unlike: Floats | None = None) -> Sprite:
    """Return a car from the side; one unit long, stands on its origin."""
    paint = _vivid(rng) if rng.random() < 0.7 else _pale(rng)
    roof = rng.uniform(-0.43, -0.36)
    glass, tyre = hsv(0.56, 0.3, rng.uniform(0.4, 0.8)), hsv(0.6, 0.1, 0.13)
    rear = rng.uniform(-0.36, -0.28) if rng.random() < 0.6 else -0.43
    body = _polygon((-0.5, -0.1), (-0.49, -0.25), (rear - 0.02, -0.27), (0.3, -0.26), (0.47, -0.22), (0.5, -0.1))
    cabin = _polygon((rear, -0.25), (rear + 0.09, roof), (0.1, roof), (0.27, -0.25))
    windows = [
        _polygon((rear + 0.06, -0.26), (rear + 0.12, roof + 0.035), (-0.06, roof + 0.035), (-0.06, -0.26)),
        _polygon((-0.03, -0.26), (-0.03, roof + 0.035), (0.085, roof + 0.035), (0.21, -0.26)),
    ]
    wheels = [_ellipse(x, -0.085, 0.09, 0.09) for x in (-0.29, 0.28)]
    parts = [
        Part([body, cabin], paint),
        Part([_box(-0.49, -0.13, 0.49, -0.1)], paint * np.float32(0.5)),
        Part(windows, glass),
        Part(wheels, tyre),
        Part([_ellipse(x, -0.085, 0.045, 0.045) for x in (-0.29, 0.28)], hsv(0.6, 0.03, 0.75)),
        Part([_ellipse(0.465, -0.19, 0.025, 0.02)], hsv(0.15, 0.4, 1.0)),
        Part([_ellipse(-0.48, -0.21, 0.018, 0.022)], hsv(0.0, 0.9, 0.9)),
    ]
    return Sprite(parts, {}, paint)


SHAPES: dict[str, Callable[[np.random.Generator, Floats | None], Sprite]] = {
    "person": person,
    "car": car,
    "umbrella": umbrella,
    "tie": tie,
    "ball": ball,
    "kite": kite,
    "cup": cup,
    "chair": chair,
    "table": table,
    "book": book,
}

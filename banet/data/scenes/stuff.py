"""The ground of a procedural scene: textured stuff, laid out in regions with wavy borders.

numpy and Pillow only. Every texture is a function `(rng, height, width) -> (height, width, 3) float32` in 0..255;
`compose_stuff` cuts the image into regions and fills each with the texture of its class.
"""

from __future__ import annotations

import colorsys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from banet.panoptic.id_maps import tight_box

__all__ = ["STUFF_NAMES", "TEXTURES", "Ground", "compose_stuff", "paint_stuff"]

Floats = NDArray[np.float32]
Texture = Callable[[np.random.Generator, int, int], Floats]

STUFF_NAMES = ("sky", "mountain", "water", "grass", "sand", "road", "wall", "floor")
SKY, MOUNTAIN, WATER, GRASS, SAND, ROAD, WALL, FLOOR = range(len(STUFF_NAMES))
SMALLEST_REGION = 0.015
"""A region with a smaller share of the image than this is given to the region that surrounds it."""


@dataclass(frozen=True)
class Ground:
    """The stuff of one scene.

    Attributes:
        labels: (H,W) int8, index into `STUFF_NAMES`.
        image: (H,W,3) float32, RGB in 0..255.
        horizon: row (pixels from the top) above which nothing stands on the ground.
        flat: True where the scene has no up and down (patches side by side).
    """

    labels: NDArray[np.int8]
    image: Floats
    horizon: float
    flat: bool


def hsv(hue: float, saturation: float, value: float) -> Floats:
    """RGB in 0..255 of a colour given by hue (any real number, one turn is 1), saturation and value (0..1)."""
    r, g, b = colorsys.hsv_to_rgb(hue % 1.0, min(max(saturation, 0.0), 1.0), min(max(value, 0.0), 1.0))
    return np.array([255 * r, 255 * g, 255 * b], np.float32)


def value_noise(rng: np.random.Generator, h: int, w: int, cell_y: float, cell_x: float) -> Floats:
    """Smooth noise (h,w) in about 0..1 with features of `cell_y` × `cell_x` pixels."""
    grid = rng.random((max(2, int(h / cell_y) + 2), max(2, int(w / cell_x) + 2)), dtype=np.float32)
    return np.asarray(Image.fromarray(grid).resize((w, h), Image.Resampling.BICUBIC))


# One channel at a time: much faster than broadcasting over a last axis of three.


def tint(color: Floats, light: NDArray[Any]) -> Floats:
    """(h,w,3): a colour at the brightness that light (h,w) gives."""
    image = np.empty((*light.shape, 3), np.float32)
    for channel in range(3):
        np.multiply(light, color[channel], out=image[..., channel])
    return image


def dim(image: Floats, light: NDArray[Any]) -> None:
    """Multiply an image (h,w,3) by light (h,w), in place."""
    for channel in range(3):
        image[..., channel] *= light


def blend(image: Floats, color: Floats, share: NDArray[Any]) -> None:
    """Move an image (h,w,3) to a colour, in place: not at all where share (h,w) is 0, wholly where it is 1."""
    for channel in range(3):
        image[..., channel] += (color[channel] - image[..., channel]) * share


def ramp(top: Floats, low: Floats, h: int, w: int) -> Floats:
    """(h,w,3): one colour at the top, another below."""
    rows = np.linspace(0, 1, h, dtype=np.float32)[:, None]
    return np.repeat((top + (low - top) * rows)[:, None], w, axis=1)


def _sky(rng: np.random.Generator, h: int, w: int) -> Floats:
    kind = rng.integers(4)
    if kind <= 1:  # day
        top, low = hsv(rng.uniform(0.54, 0.63), rng.uniform(0.5, 0.8), rng.uniform(0.7, 0.95)), hsv(0.56, 0.2, 0.98)
    elif kind == 2:  # evening
        top, low = hsv(rng.uniform(0.62, 0.8), 0.5, rng.uniform(0.45, 0.65)), hsv(rng.uniform(0.0, 0.1), 0.55, 1.0)
    else:  # overcast
        top, low = hsv(0.6, 0.12, rng.uniform(0.6, 0.75)), hsv(0.6, 0.05, 0.92)
    image = ramp(top, low, h, w)
    clouds = 0.65 * value_noise(rng, h, w, 22, 60) + 0.35 * value_noise(rng, h, w, 8, 18)
    cover = np.clip((clouds - np.float32(rng.uniform(0.42, 0.62))) * 5, 0, 0.9)
    blend(image, hsv(0.08, 0.15, 1.0) if kind == 2 else hsv(0.6, 0.03, 1.0), cover)
    return image


def _mountain(rng: np.random.Generator, h: int, w: int) -> Floats:
    base = hsv(rng.choice([0.07, 0.6, 0.75]) + rng.uniform(-0.04, 0.04), rng.uniform(0.12, 0.32), rng.uniform(0.4, 0.6))
    ridges = 0.7 * value_noise(rng, h, w, 14, 10) + 0.3 * value_noise(rng, h, w, 5, 4)
    light = 0.65 + 0.9 * np.abs(ridges - 0.5) + 0.15 * np.sign(np.diff(ridges, axis=1, append=ridges[:, -1:]))
    snow = np.clip((ridges - rng.uniform(0.6, 0.8)) * 9, 0, 1) * np.linspace(1, 0, h, dtype=np.float32)[:, None]
    image = tint(base, light)
    blend(image, hsv(0.6, 0.04, 0.97), snow)
    return image


def _water(rng: np.random.Generator, h: int, w: int) -> Floats:
    hue = rng.uniform(0.48, 0.64)
    far, near = hsv(hue, rng.uniform(0.4, 0.6), rng.uniform(0.65, 0.85)), hsv(hue + 0.02, 0.7, rng.uniform(0.4, 0.6))
    rows = np.arange(h, dtype=np.float32)[:, None]
    depth = np.sqrt(rows + 3)
    swell = value_noise(rng, h, w, 12, 50)
    waves = np.sin(depth * rng.uniform(4.5, 6.5) + 7 * swell + 3 * value_noise(rng, h, w, 4, 14))
    image = ramp(far, near, h, w)
    dim(image, 1 + 0.13 * waves)
    foam = np.clip((waves * value_noise(rng, h, w, 2.5, 12) - 0.62) * 5, 0, 0.75)
    blend(image, hsv(hue, 0.05, 1.0), foam)
    return image


def _grass(rng: np.random.Generator, h: int, w: int) -> Floats:
    base = hsv(rng.uniform(0.2, 0.34), rng.uniform(0.45, 0.7), rng.uniform(0.42, 0.6))
    blades = value_noise(rng, h, w, 6, 1.6)
    light = 0.62 + 0.65 * blades + 0.4 * value_noise(rng, h, w, 30, 45)
    image = tint(base, light)
    image[..., 0] += 22 * blades
    flowers = np.argwhere(rng.random((max(1, h // 3), max(1, w // 3)), dtype=np.float32) < rng.choice([0.0, 0.015])) * 3
    if len(flowers):
        petal = hsv(rng.random(), rng.choice([0.1, 0.6]), 1.0)
        for dy, dx in ((0, 0), (0, 1), (1, 0), (1, 1)):
            image[np.minimum(flowers[:, 0] + dy, h - 1), np.minimum(flowers[:, 1] + dx, w - 1)] = petal
    return image


def _sand(rng: np.random.Generator, h: int, w: int) -> Floats:
    base = hsv(rng.uniform(0.07, 0.13), rng.uniform(0.25, 0.45), rng.uniform(0.8, 0.95))
    rows = np.arange(h, dtype=np.float32)[:, None]
    ripples = np.sin(rows / rng.uniform(1.6, 2.6) + 14 * value_noise(rng, h, w, 35, 50))
    light = 0.92 + 0.05 * ripples + 0.12 * (rng.random((h, w), dtype=np.float32) - 0.5)
    return tint(base, light + 0.12 * (value_noise(rng, h, w, 40, 60) - 0.5))


def _road(rng: np.random.Generator, h: int, w: int) -> Floats:
    base = hsv(rng.uniform(0.55, 0.75), rng.uniform(0.02, 0.12), rng.uniform(0.3, 0.48))
    light = 0.9 + 0.3 * (rng.random((h, w), dtype=np.float32) - 0.5) + 0.25 * (value_noise(rng, h, w, 25, 40) - 0.5)
    return tint(base, light)


def _wall(rng: np.random.Generator, h: int, w: int) -> Floats:
    brick_h = rng.uniform(8, 14)
    brick_w = brick_h * rng.uniform(2.0, 2.8)
    hue, saturation = rng.choice([0.02, 0.08, 0.1, 0.6, 0.35]), rng.uniform(0.15, 0.6)
    base = hsv(hue + rng.uniform(-0.02, 0.02), saturation, rng.uniform(0.55, 0.8))
    mortar = hsv(0.1, 0.08, rng.choice([0.35, 0.85]))
    row_of = np.arange(h, dtype=np.float32) / brick_h
    row = row_of.astype(np.int64)
    column_of = np.arange(w, dtype=np.float32)[None] / brick_w + 0.5 * (row % 2)[:, None]
    column = column_of.astype(np.int64)
    shade = rng.uniform(0.82, 1.15, (row[-1] + 1, int(column.max()) + 1)).astype(np.float32)
    light = shade[row[:, None], column] * (0.94 + 0.12 * rng.random((h, w), dtype=np.float32))
    joint = ((row_of - row) * brick_h < 1.5)[:, None] | ((column_of - column) * brick_w < 1.5)
    image = tint(base, light)
    image[joint] = mortar
    return image


def _floor(rng: np.random.Generator, h: int, w: int) -> Floats:
    """Boards that run towards a vanishing point above the region."""
    base = hsv(rng.uniform(0.05, 0.1), rng.uniform(0.4, 0.65), rng.uniform(0.5, 0.8))
    rows = np.arange(h, dtype=np.float32)[:, None] + rng.uniform(0.5, 1.5) * h + 10
    across = (np.arange(w, dtype=np.float32)[None] - rng.uniform(0.2, 0.8) * w) / rows * rng.uniform(9, 15) + 64
    board = across.astype(np.int64)
    along = 90 / rows * rng.uniform(2, 4) + rng.random(256).astype(np.float32)[board & 255] * 3
    piece = along.astype(np.int64)
    shade = rng.uniform(0.78, 1.15, (256, 16)).astype(np.float32)[board & 255, piece & 15]
    grain = value_noise(rng, h, w, 40, 2.5)
    joint = ((across - board) < 0.05) | ((along - piece) < 0.03)
    light = shade * (0.88 + 0.24 * grain) * np.where(joint, np.float32(0.55), np.float32(1))
    return tint(base, light)


TEXTURES: dict[int, Texture] = {
    SKY: _sky,
    MOUNTAIN: _mountain,
    WATER: _water,
    GRASS: _grass,
    SAND: _sand,
    ROAD: _road,
    WALL: _wall,
    FLOOR: _floor,
}


def wavy(rng: np.random.Generator, w: int, level: float, rough: float) -> Floats:
    """Return a border line: row of the border for each of w columns."""
    x = np.linspace(0, 1, w, dtype=np.float32)
    line = level + rough * rng.normal() * (x - 0.5)
    for turns in (1.0, 2.3, 5.1):
        phase = turns * x * rng.uniform(0.7, 1.3) + rng.random()
        line += rough / turns * rng.normal() * 0.5 * np.sin(2 * np.pi * phase)
    return np.asarray(line, np.float32)


def blob(rng: np.random.Generator, h: int, w: int, cy: float, cx: float, ry: float, rx: float) -> NDArray[np.bool_]:
    """Return a patch with an uneven border, as (h,w) bool."""
    y = (np.arange(h, dtype=np.float32)[:, None] - cy) / ry
    x = (np.arange(w, dtype=np.float32)[None] - cx) / rx
    return np.asarray(y * y + x * x < 0.55 + 0.9 * value_noise(rng, h, w, 0.35 * ry + 6, 0.35 * rx + 6))


def _outdoor(rng: np.random.Generator, h: int, w: int) -> tuple[NDArray[np.int8], float]:
    rows = np.arange(h, dtype=np.float32)[:, None]
    horizon = h * rng.uniform(0.18, 0.55)
    labels = np.full((h, w), SKY, np.int8)
    if rng.random() < 0.45:
        peaks = value_noise(rng, 2, w, 2, w * rng.uniform(0.1, 0.3))[0]
        labels[rows > horizon - h * rng.uniform(0.08, 0.2) + h * 0.22 * (peaks - 0.5)] = MOUNTAIN
    grounds = rng.permutation([WATER, GRASS, GRASS, SAND, ROAD])
    labels[rows > wavy(rng, w, horizon, 0.03 * h)] = grounds[0]
    if rng.random() < 0.5:
        labels[rows > wavy(rng, w, horizon + (h - horizon) * rng.uniform(0.35, 0.75), 0.12 * h)] = grounds[1]
    kind = rng.random()
    if kind < 0.3:  # a road towards the horizon
        far, near = rng.uniform(0.2, 0.8) * w, rng.uniform(0.1, 0.9) * w
        t = (rows - horizon) / (h - horizon)
        middle = far + (near - far) * t + 0.12 * w * rng.normal() * np.sin(np.pi * np.clip(t, 0, 1))
        columns = np.arange(w, dtype=np.float32)[None]
        labels[(np.abs(columns - middle) < w * (0.03 + rng.uniform(0.15, 0.28) * t)) & (t > 0.03)] = ROAD
    elif kind < 0.55:
        cy, cx = rng.uniform(horizon + 0.1 * h, h), rng.uniform(0, w)
        patch = blob(rng, h, w, cy, cx, h * rng.uniform(0.1, 0.25), w * rng.uniform(0.2, 0.45))
        labels[patch & (labels != SKY) & (labels != MOUNTAIN)] = grounds[2]
    elif kind < 0.7:  # a wall from the side
        top = wavy(rng, w, horizon - h * rng.uniform(0.0, 0.12), 0.02 * h)
        low = wavy(rng, w, horizon + h * rng.uniform(0.04, 0.12), 0.03 * h)
        columns = np.arange(w, dtype=np.float32)[None]
        edge = rng.uniform(0.25, 0.8) * w
        labels[(rows > top) & (rows < low) & ((columns < edge) == (rng.random() < 0.5))] = WALL
    return labels, horizon + 0.03 * h


def _indoor(rng: np.random.Generator, h: int, w: int) -> tuple[NDArray[np.int8], float]:
    rows = np.arange(h, dtype=np.float32)[:, None]
    columns = np.arange(w, dtype=np.float32)[None]
    horizon = h * rng.uniform(0.3, 0.65)
    labels = np.full((h, w), WALL, np.int8)
    tilt = rng.normal() * 0.08
    labels[rows > horizon + tilt * (columns - 0.5 * w)] = FLOOR if rng.random() < 0.75 else ROAD
    if rng.random() < 0.5:  # a window, or the open sky over the wall
        y0, x0 = h * rng.uniform(0.02, 0.12), w * rng.uniform(0.05, 0.65)
        x1 = x0 + w * rng.uniform(0.2, 0.4)
        opening = (rows > y0) & (rows < y0 + 0.62 * horizon) & (columns > x0) & (columns < x1)
        bar = np.abs(columns - (x0 + 0.12 * w)) < 1.6
        labels[opening & ~bar & (labels == WALL)] = SKY if rng.random() < 0.75 else WATER
    elif rng.random() < 0.4:
        labels[rows < wavy(rng, w, horizon * rng.uniform(0.15, 0.5), 0.04 * h)] = SKY
    if rng.random() < 0.25:  # a rug of grass
        patch = blob(rng, h, w, rng.uniform(horizon + 0.1 * h, h), rng.uniform(0, w), 0.14 * h, 0.35 * w)
        labels[patch & (labels != WALL) & (labels != SKY)] = rng.choice([GRASS, SAND])
    return labels, horizon + abs(tilt) * 0.3 * w


def _patches(rng: np.random.Generator, h: int, w: int) -> tuple[NDArray[np.int8], float]:
    """Three or four classes anywhere: nearest of a few random points, with an uneven border."""
    count = int(rng.integers(3, 5))
    classes = rng.permutation(len(STUFF_NAMES))[:count].astype(np.int8)
    bend_y, bend_x = (value_noise(rng, h, w, 0.2 * h, 0.2 * w) - 0.5 for _ in range(2))
    rows = np.arange(h, dtype=np.float32)[:, None] + 0.25 * h * bend_y
    columns = np.arange(w, dtype=np.float32)[None] + 0.25 * w * bend_x
    distance = [(rows - rng.uniform(0, h)) ** 2 + (columns - rng.uniform(0, w)) ** 2 for _ in range(count)]
    return classes[np.argmin(distance, axis=0)], 0.2 * h


def _lane_marks(rng: np.random.Generator, image: Floats, region: NDArray[np.bool_]) -> None:
    """Paint a dashed line along the region of a road, in place."""
    rows = np.flatnonzero(region.any(1))
    if len(rows) < 8:
        return
    widths = region[rows].sum(1)
    columns = np.arange(region.shape[1], dtype=np.float32)
    middle = (region[rows] @ columns) / np.maximum(widths, 1)
    if np.median(widths) < 0.7 * region.shape[1]:  # runs away from us: along its middle
        kernel = np.ones(9, np.float32) / 9
        middle = np.convolve(np.pad(middle, 4, mode="edge"), kernel, mode="valid")
        along = np.sqrt(np.arange(len(rows), dtype=np.float32)) * 0.55
        dash = (along + rng.random()) % 1 < 0.55
        mark = (np.abs(columns[None] - middle[:, None]) < 0.5 + 0.025 * widths[:, None]) & dash[:, None]
        target = image[rows]
        target[mark & region[rows]] = hsv(0.14, 0.1, 0.92)
        image[rows] = target
    else:  # runs across
        level = rows[0] + rng.uniform(0.3, 0.7) * len(rows) + rng.normal() * 0.05 * (columns - columns.mean())
        half = max(1.2, 0.012 * len(columns))
        dash = (columns / (14 * half) + rng.random()) % 1 < 0.6
        mark = (np.abs(np.arange(region.shape[0])[:, None] - level[None]) < half) & dash[None] & region
        image[mark] = hsv(0.14, 0.1, 0.92)


def compose_stuff(rng: np.random.Generator, h: int, w: int) -> Ground:
    """Lay out and paint the stuff of one scene of h × w pixels."""
    kind = rng.random()
    flat = kind >= 0.85
    labels, horizon = (_patches if flat else _outdoor if kind < 0.57 else _indoor)(rng, h, w)
    return Ground(labels=labels, image=paint_stuff(rng, labels, TEXTURES), horizon=horizon, flat=flat)


def paint_stuff(rng: np.random.Generator, labels: NDArray[np.int8], textures: Mapping[int, Texture]) -> Floats:
    """Fill each region with the texture of its class; regions that are too small join the largest one first.

    Args:
        rng: source of the textures.
        labels: (H,W), index into `STUFF_NAMES`; small regions are changed in place.
        textures: of each class. A road of its own texture gets lane marks.

    Returns:
        (H,W,3), RGB in 0..255.
    """
    h, w = labels.shape
    counts = [int((labels == index).sum()) for index in range(len(STUFF_NAMES))]
    largest = int(np.argmax(counts))
    for index, count in enumerate(counts):
        if 0 < count < SMALLEST_REGION * h * w:
            labels[labels == index] = largest
            counts[index] = 0
    image = np.empty((h, w, 3), np.float32)
    for index in (index for index, count in enumerate(counts) if count):
        region = labels == index
        x1, y1, x2, y2 = tight_box(region)
        box = slice(y1, y2), slice(x1, x2)
        texture = textures[index](rng, y2 - y1, x2 - x1)
        for channel in range(3):
            np.copyto(image[box][..., channel], texture[..., channel], where=region[box])
        if index == ROAD and textures[ROAD] is _road:
            _lane_marks(rng, image, region)
    return image

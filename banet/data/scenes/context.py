"""Scenes in which context decides: things depend on the ground, and pairs of stuff look alike.

numpy only. Each ground has its own things (`GROUND_THINGS`): cars stand on roads; tables, chairs and cups on floors;
umbrellas on sand; balls lie on grass; kites fly before the sky, never before a wall. Persons are everywhere. Most
scenes are *plain*: both classes of each pair in `PAIRS` get their texture from the same distribution, and the same
shapes, so of a floor and a road that look alike only the things on it tell which it is.

One group of things in twenty is an exception and stands anywhere, as in scenes without context.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from banet.data.scenes.stage import Stage
from banet.data.scenes.stuff import (
    FLOOR,
    GRASS,
    MOUNTAIN,
    ROAD,
    SAND,
    SKY,
    TEXTURES,
    WALL,
    WATER,
    Floats,
    Ground,
    Texture,
    blend,
    blob,
    hsv,
    paint_stuff,
    ramp,
    tint,
    value_noise,
    wavy,
)

__all__ = ["GROUND_THINGS", "PAIRS", "ContextStage", "compose_context"]

PLAIN = 0.7
"""Fraction of the scenes in which the pairs look alike."""
EXCEPTIONS = 0.05
"""Fraction of the groups of things that stand anywhere."""

PAIRS: Sequence[tuple[int, int]] = ((ROAD, FLOOR), (SKY, WALL), (SAND, GRASS))
"""Classes of stuff that look alike in plain scenes."""

GROUND_THINGS: Mapping[int, tuple[Mapping[str, float], frozenset[str]]] = {
    ROAD: ({"car": 3.0, "person": 1.0, "crowd": 0.4}, frozenset({"tie", "book"})),
    FLOOR: ({"laid_table": 2.0, "chair": 1.5, "loose": 0.5, "person": 0.8}, frozenset({"tie", "book", "cup"})),
    SAND: ({"umbrella": 3.0, "person": 1.0, "crowd": 0.4}, frozenset({"umbrella", "book"})),
    GRASS: ({"ball": 3.0, "person": 1.0, "crowd": 0.4}, frozenset({"tie", "ball"})),
}
"""For each ground, the groups that stand on it by weight, and what persons, tables and chairs there may hold."""
_KITES = 1.3


def _slab(rng: np.random.Generator, h: int, w: int) -> Floats:
    """Grey ground of a road or a floor."""
    base = hsv(rng.uniform(0.0, 0.75), rng.uniform(0.02, 0.14), rng.uniform(0.35, 0.6))
    light = 0.9 + 0.25 * (rng.random((h, w), dtype=np.float32) - 0.5) + 0.25 * (value_noise(rng, h, w, 25, 40) - 0.5)
    return tint(base, light)


def _haze(rng: np.random.Generator, h: int, w: int) -> Floats:
    """Return a soft ramp of pale colours: an overcast sky, or a painted wall in changing light."""
    hue = rng.uniform(0.0, 1.0)
    top, low = hsv(hue, rng.uniform(0.05, 0.3), rng.uniform(0.55, 0.8)), hsv(hue, rng.uniform(0.02, 0.15), 0.92)
    image = ramp(top, low, h, w)
    blend(image, hsv(hue, 0.03, 1.0), np.clip(value_noise(rng, h, w, 30, 60) - 0.5, 0, 0.4))
    return image


def _tufts(rng: np.random.Generator, h: int, w: int) -> Floats:
    """Dry grass, or sand with some green: yellowish, with short strokes."""
    base = hsv(rng.uniform(0.11, 0.2), rng.uniform(0.3, 0.5), rng.uniform(0.6, 0.85))
    light = 0.78 + 0.3 * value_noise(rng, h, w, 6, 1.6) + 0.2 * value_noise(rng, h, w, 30, 45)
    return tint(base, light)


_LOOKALIKE: Mapping[int, Texture] = {
    **TEXTURES, ROAD: _slab, FLOOR: _slab, SKY: _haze, WALL: _haze, SAND: _tufts, GRASS: _tufts,
}  # fmt: skip


def compose_context(rng: np.random.Generator, h: int, w: int) -> Ground:
    """Lay out and paint the stuff of one scene of h x w pixels: a backdrop, a ground, perhaps a patch of another."""
    plain = rng.random() < PLAIN
    ground = int(rng.choice([ROAD, FLOOR, SAND, GRASS]))
    backdrop = {ROAD: SKY, FLOOR: WALL}.get(ground, SKY if rng.random() < 0.5 else WALL)
    horizon = h * rng.uniform(0.25, 0.55)
    rows = np.arange(h, dtype=np.float32)[:, None]
    labels = np.full((h, w), backdrop, np.int8)
    if not plain and backdrop == SKY and rng.random() < 0.8:  # what would tell a plain scene's sky
        labels[rows > wavy(rng, w, horizon - h * rng.uniform(0.08, 0.2), 0.05 * h)] = rng.choice([MOUNTAIN, WATER])
    labels[rows > wavy(rng, w, horizon, 0.04 * h)] = ground
    if rng.random() < 0.35:
        other = rng.choice([SAND, GRASS] if ground in (ROAD, FLOOR) else [ROAD, FLOOR])
        cy, cx = rng.uniform(horizon + 0.15 * h, h), rng.uniform(0, w)
        patch = blob(rng, h, w, cy, cx, h * rng.uniform(0.15, 0.3), w * rng.uniform(0.25, 0.5))
        labels[patch & (labels == ground)] = other
    image = paint_stuff(rng, labels, _LOOKALIKE if plain else TEXTURES)
    return Ground(labels=labels, image=image, horizon=horizon + 0.03 * h, flat=False)


class ContextStage(Stage):
    """Puts things on the grounds where they belong."""

    ground_class: int | None = None
    """Where the present group stands; None for an exception, which stands anywhere."""

    def fits(self, name: str) -> bool:
        """Return whether a thing of this class may be held by another, or lie on it, on the present ground."""
        return self.ground_class is None or name in GROUND_THINGS[self.ground_class][1]

    def spot(self) -> tuple[float, float, float]:
        """Return a place on the present ground: x, y and how large things are there."""
        labels: NDArray[np.int8] = self.ground.labels
        for _ in range(30):  # a patch of ground may be small
            x, y, size = super().spot()
            row, column = min(int(y), self.height - 1), min(int(x), self.width - 1)
            if self.ground_class is None or labels[row, column] == self.ground_class:
                break
        return x, y, size

    def add_any(self) -> None:
        """Put one group of things where it belongs."""
        grounds = [ground for ground in GROUND_THINGS if (self.ground.labels == ground).any()]
        if not grounds or self.rng.random() < EXCEPTIONS:
            self.ground_class = None
            return super().add_any()
        self.ground_class = grounds[self.rng.integers(len(grounds))]
        weights = dict(GROUND_THINGS[self.ground_class][0])
        if (self.ground.labels == SKY).any():
            weights["kite"] = _KITES
        self.add_group(weights)

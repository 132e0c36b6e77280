"""The stage of a procedural scene: things, alone and in groups that belong together, on the ground.

numpy only. `Stage` puts any thing on any ground; subclasses say what stands where.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np

from banet.data.scenes.stuff import Floats, Ground
from banet.data.scenes.things import SHAPES, Pose, Sprite

__all__ = ["GROUP_WEIGHTS", "Stage", "Thing"]


@dataclass(frozen=True)
class Thing:
    """A thing before it is painted; larger depth is nearer to us."""

    name: str
    shape: Sprite
    pose: Pose
    depth: float
    parent: Thing | None = None


class Stage:
    """Puts things on the ground of one scene."""

    def __init__(self, rng: np.random.Generator, ground: Ground, height: int, width: int) -> None:
        self.rng, self.ground, self.height, self.width = rng, ground, height, width
        self.unit = float(min(height, width))
        self.things: list[Thing] = []

    def spot(self) -> tuple[float, float, float]:
        """Return a place to stand: x, y and how large things are there."""
        rng = self.rng
        if self.ground.flat:
            y, near = rng.uniform(0.3, 1.05) * self.height, rng.uniform(0.3, 1.0)
        else:
            near = rng.uniform(0.08, 1.0)
            y = self.ground.horizon + near * (1.06 * self.height - self.ground.horizon)
        x = rng.uniform(0.04, 0.96) * self.width
        if self.things and rng.random() < 0.45:  # close to another thing, so that one hides part of the other
            x = self.things[rng.integers(len(self.things))].pose.offset[0] + rng.normal() * 0.12 * self.width
        return float(np.clip(x, 0, self.width)), float(y), float(self.unit * (0.55 + 0.6 * near))

    def put(
        self,
        name: str,
        scale: float,
        x: float,
        y: float,
        *,
        turn: float = 0.0,
        depth: float | None = None,
        parent: Thing | None = None,
        unlike: Floats | None = None,
    ) -> Thing:
        """Put one thing.

        Args:
            name: its class, a key of `SHAPES`.
            scale: pixels per unit of its shape, before some variation.
            x: where it stands, in pixels.
            y: likewise.
            turn: in radians.
            depth: larger is nearer to us; None takes it from `y`.
            parent: what it is fastened to.
            unlike: a colour that its own should differ from.
        """
        rng = self.rng
        scale = scale * rng.uniform(0.88, 1.14)
        stretch = np.diag([rng.uniform(0.92, 1.1), 1.0])
        pose = Pose.of(scale, x, y, turn + rng.normal() * 0.05, mirror=rng.random() < 0.5)
        pose = replace(pose, matrix=pose.matrix @ stretch)
        if depth is None:
            depth = y + rng.normal() * (0.3 if self.ground.flat else 0.02) * self.height
        thing = Thing(name, SHAPES[name](rng, unlike), pose, depth, parent)
        self.things.append(thing)
        return thing

    def fasten(
        self, name: str, scale: float, parent: Thing, anchor: str, *, turn: float = 0.0, unlike: bool = True
    ) -> Thing:
        """Put a thing on another one's anchor, just before it."""
        x, y = parent.pose.at(*parent.shape.anchors[anchor])
        depth = parent.depth + 1e-3 * (1 + len(self.things))
        color = parent.shape.color if unlike else None
        return self.put(name, scale, x, y, turn=turn, depth=depth, parent=parent, unlike=color)

    def fits(self, name: str) -> bool:
        """Return whether a thing of this class may be held by another, or lie on it, here."""
        return True

    # Groups of things that belong together.

    def person_at(self, x: float, y: float, size: float) -> None:
        """Put a person, perhaps with a tie and with something in the hand."""
        rng = self.rng
        person = self.put("person", 0.5 * size, x, y, turn=rng.normal() * 0.03)
        height = float(np.linalg.norm(person.pose.matrix[:, 1]))
        lean = float(np.arctan2(-person.pose.matrix[0, 1], person.pose.matrix[1, 1]))
        draw = rng.random()
        if draw < 0.5 and self.fits("tie"):
            self.fasten("tie", 0.37 * height, person, "collar", turn=lean)
        if 0.4 < draw < 0.52 and self.fits("book"):
            self.fasten("book", 0.22 * height, person, "chest", turn=lean + rng.normal() * 0.2)
        elif 0.52 < draw < 0.6 and self.fits("ball"):
            self.fasten("ball", 0.2 * height, person, "chest")
        elif 0.6 < draw < 0.68 and self.fits("cup"):
            self.fasten("cup", 0.13 * height, person, "hand")
        elif 0.68 < draw < 0.85 and self.fits("umbrella"):
            self.fasten("umbrella", 0.75 * height, person, "hand", turn=rng.normal() * 0.15, unlike=False)

    def person(self) -> None:
        """Put a person."""
        self.person_at(*self.spot())

    def crowd(self) -> None:
        """Put three or four persons close together."""
        x, y, size = self.spot()
        size = min(size, 0.9 * self.unit)
        for _ in range(int(self.rng.integers(3, 5))):
            self.person_at(x, y + self.rng.normal() * 0.02 * self.height, size)
            x += self.rng.uniform(0.08, 0.17) * size

    def laid_table(self) -> None:
        """Put a table with what lies on it, perhaps chairs, perhaps a person behind it."""
        rng = self.rng
        x, y, size = self.spot()
        if rng.random() < 0.5:
            self.put("chair", 0.42 * size, x + rng.choice([-1, 1]) * rng.uniform(0.15, 0.3) * size, y - 0.04 * size)
        if rng.random() < 0.35:
            self.person_at(x + rng.normal() * 0.1 * size, y - 0.05 * size, size)
        table = self.put("table", 0.55 * size, x, y)
        length = float(np.linalg.norm(table.pose.matrix[:, 0]))
        for anchor in ("left", "middle", "right"):
            name = ("cup", "book", "ball", "")[rng.choice(4, p=[0.35, 0.27, 0.13, 0.25])]
            if name and self.fits(name):
                self.fasten(name, length * {"cup": 0.15, "book": 0.25, "ball": 0.17}[name], table, anchor)
        if rng.random() < 0.35:
            self.put("chair", 0.45 * size, x + rng.normal() * 0.2 * size, y + 0.05 * size)

    def chair(self) -> None:
        """Put a chair, perhaps with something on its seat."""
        x, y, size = self.spot()
        chair = self.put("chair", 0.38 * size, x, y)
        if self.rng.random() < 0.4:
            name = ("ball", "book", "cup")[self.rng.integers(3)]
            if self.fits(name):
                self.fasten(name, {"ball": 0.09, "book": 0.1, "cup": 0.065}[name] * size, chair, "seat")

    def car(self) -> None:
        """Put a car."""
        x, y, size = self.spot()
        self.put("car", 0.5 * size, x, y)

    def ball(self) -> None:
        """Put a ball."""
        x, y, size = self.spot()
        self.put("ball", self.rng.uniform(0.08, 0.17) * size, x, y, turn=self.rng.uniform(-1, 1))

    def umbrella(self) -> None:
        """Put a beach umbrella."""
        x, y, size = self.spot()
        self.put("umbrella", 0.45 * size, x, y, turn=self.rng.normal() * 0.15)

    def kite(self) -> None:
        """Put a kite in the upper half, before or behind other things."""
        rng = self.rng
        x, y = rng.uniform(0.08, 0.92) * self.width, rng.uniform(0.08, 0.5) * self.height
        depth = None if rng.random() < 0.5 else self.height * rng.uniform(0.3, 1.2)
        self.put("kite", rng.uniform(0.15, 0.28) * self.unit, x, y, turn=rng.uniform(-0.7, 0.7), depth=depth)

    def loose(self) -> None:
        """Put a small thing on the ground."""
        x, y, size = self.spot()
        name = ("book", "cup")[self.rng.integers(2)]
        self.put(name, {"book": 0.15, "cup": 0.11}[name] * size, x, y)

    def add_group(self, weights: Mapping[str, float]) -> None:
        """Put one group of things, drawn by the weight of its name."""
        share = np.array(list(weights.values()))
        name = list(weights)[self.rng.choice(len(share), p=share / share.sum())]
        _GROUPS[name](self)

    def add_any(self) -> None:
        """Put one group of things somewhere."""
        self.add_group(GROUP_WEIGHTS)

    def fill(self) -> list[Thing]:
        """Return things from the back to the front."""
        rng = self.rng
        wanted = 0 if rng.random() < 0.04 else int(rng.integers(3, 11))
        while len(self.things) < wanted:
            self.add_any()
        return sorted(self.things, key=lambda thing: thing.depth)


GROUP_WEIGHTS: Mapping[str, float] = {
    "person": 2.2, "crowd": 0.8, "laid_table": 1.5, "chair": 1.0, "car": 1.3, "ball": 0.9, "umbrella": 0.6, "kite": 1.0,
    "loose": 0.7,
}  # fmt: skip
"""How often each group is drawn where any may stand."""

_GROUPS: Mapping[str, Callable[[Stage], None]] = {
    "person": Stage.person,
    "crowd": Stage.crowd,
    "laid_table": Stage.laid_table,
    "chair": Stage.chair,
    "car": Stage.car,
    "ball": Stage.ball,
    "umbrella": Stage.umbrella,
    "kite": Stage.kite,
    "loose": Stage.loose,
}

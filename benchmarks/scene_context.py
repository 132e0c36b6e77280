"""Measure how far context decides in scenes: ``python benchmarks/scene_context.py``.

Presence: for each class of things and each of stuff, the correlation over scenes of "occurs"; printed is the mean of
the 80 absolute values, beside what it is after the things of all scenes have been shuffled among the scenes (chance).

Texture: windows without a thing, wholly of one class, each described by means, deviations and mean absolute
differences of its colours. Printed is how often the 15 nearest windows of other scenes name the right class of a pair,
both classes equally often; one half is chance.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from harness import Report, parser
from numpy.typing import NDArray

from banet.data.scenes.context import PAIRS
from banet.data.scenes.generate import SCENE_CATEGORIES, Scene, make_scene
from banet.data.scenes.stuff import STUFF_NAMES

Floats = NDArray[np.float64]
WINDOW = 16
NEIGHBOURS = 15


def presence(scenes: Sequence[Scene]) -> NDArray[np.bool_]:
    """Return which classes occur, (scenes, classes)."""
    found = np.zeros((len(scenes), len(SCENE_CATEGORIES)), bool)
    for row, scene in zip(found, scenes, strict=True):
        row[[SCENE_CATEGORIES.index(segment.category_id) for segment in scene.segments]] = True
    return found


def mean_correlation(things: NDArray[np.bool_], stuff: NDArray[np.bool_]) -> float:
    """Return the mean absolute correlation of the columns of one with those of the other."""
    both = np.corrcoef(things.T, stuff.T)
    return float(np.abs(both[: things.shape[1], things.shape[1] :]).mean())


def describe(window: NDArray[np.uint8]) -> Floats:
    """Return twelve figures of the colours of a window."""
    values = window.astype(np.float64)
    steps = [np.abs(np.diff(values, axis=axis)).mean((0, 1)) for axis in (0, 1)]
    return np.concatenate([values.mean((0, 1)), values.std((0, 1)), *steps])


def windows(scene: Scene) -> list[tuple[int, Floats]]:
    """Return class index and description of the windows that lie wholly on one class of stuff."""
    found = []
    categories = {segment.id: segment.category_id for segment in scene.segments if not segment.isthing}
    height, width = scene.ids.shape
    for y in range(0, height - WINDOW + 1, WINDOW):
        for x in range(0, width - WINDOW + 1, WINDOW):
            ids = scene.ids[y : y + WINDOW, x : x + WINDOW]
            if (ids == ids[0, 0]).all() and int(ids[0, 0]) in categories:
                label = SCENE_CATEGORIES.index(categories[int(ids[0, 0])])
                found.append((label, describe(scene.image[y : y + WINDOW, x : x + WINDOW])))
    return found


def texture_accuracy(scenes: Sequence[Scene], pair: tuple[str, str], rng: np.random.Generator) -> float:
    """Return how often the nearest windows of other scenes name the right class of a pair."""
    ids = [next(c.id for c in SCENE_CATEGORIES if c.name == name) for name in pair]
    labels = [SCENE_CATEGORIES.index(identity) for identity in ids]
    rows = [(label, number, what) for number, scene in enumerate(scenes) for label, what in windows(scene)]
    by_class = [[row for row in rows if row[0] == label] for label in labels]
    count = min(1000, *map(len, by_class))
    chosen = [group[index] for group in by_class for index in rng.choice(len(group), count, replace=False)]
    truth = np.array([label == labels[1] for label, _, _ in chosen])
    scene_of = np.array([number for _, number, _ in chosen])
    features = np.stack([what for _, _, what in chosen])
    features = (features - features.mean(0)) / features.std(0)
    right = 0
    for number, feature in enumerate(features):
        distance = ((features - feature) ** 2).sum(1)
        distance[scene_of == scene_of[number]] = np.inf
        nearest = truth[np.argpartition(distance, NEIGHBOURS)[:NEIGHBOURS]]
        right += (nearest.mean() > 0.5) == truth[number]
    return right / len(features)


def main() -> None:
    command_line = parser(__doc__, threads=None)
    command_line.add_argument("--scenes", type=int, default=600)
    command_line.add_argument("--side", type=int, default=128, help="of a scene, in pixels")
    command_line.add_argument("--seed", type=int, default=7020, help="of the scenes")
    options = command_line.parse_args()
    split = SCENE_CATEGORIES.num_things
    with Report(options, __file__) as report:
        for context in (False, True):
            name = "with context" if context else "without"
            size = (options.side, options.side)
            scenes = [make_scene(options.seed, index, size, context=context) for index in range(options.scenes)]
            rng = np.random.default_rng(0)
            found = presence(scenes)
            real = mean_correlation(found[:, :split], found[:, split:])
            chance = mean_correlation(found[rng.permutation(len(found)), :split], found[:, split:])
            report.say(
                f"{name}: presence correlation {real:.3f}, chance {chance:.3f}", context=context, real=real,
                chance=chance,
            )  # fmt: skip
            for pair in ((STUFF_NAMES[a], STUFF_NAMES[b]) for a, b in PAIRS):
                share = texture_accuracy(scenes, pair, rng)
                report.say(f"{name}: {pair[0]} or {pair[1]} by texture: {100 * share:.1f} %", pair=pair, share=share)


if __name__ == "__main__":
    main()

"""Fusion beside a plain loop over boolean masks: ``python benchmarks/fusion.py [--threads 2] [--repeats 15]``.

`fuse_panoptic` with occlusion handling (the paper's rule, and the best one that decides every overlap) takes turns with
a plain loop that knows only the heuristic: best score first, drop what is more than half covered, paint full-size
masks, then one segment a stuff class. Medians and ratios of processor time are printed, which other programs disturb
less, and what the best rule takes of it per pair. Then: 1000 small objects as crops in an image of
4000 × 4000, time and peak memory in a process of its own; and more and more objects with equally many overlapping
pairs.

Objects are ellipses of random place, shape (sides 1:2 to 2:1) and size; areas are log-uniform, as COCO's nearly are,
between the bounds that are printed. In the image each has a colour of its own, with noise, and later ones lie on top.
"""

from __future__ import annotations

import time
from functools import partial
from typing import Any

import numpy as np
from harness import Report, own_process, parser, peak, take_turns, use_threads
from numpy.typing import NDArray

from banet.panoptic import RULES, Categories, MaskCrops, fuse_panoptic, resolve_occlusions
from banet.panoptic.coco.classes import coco_categories
from banet.panoptic.defaults import BEST_OVERLAP_THRESHOLD, BEST_RULE
from banet.panoptic.occlusion.rules import Pairs, Procedure
from banet.panoptic.validation import check_scores

CLASSES = coco_categories()
SIZE = (480, 640)
SCENES = (
    (30, (300, 60_000), 0.35, 0.6),
    (100, (300, 60_000), 0.45, 1.5),
)  # objects, areas, the goals: at most so much of the loop, with the paper's rule and with the best one
GOAL_SECONDS, GOAL_BYTES = 2.0, 1e9
GOAL_PER_PAIR = 0.1  # milliseconds of the best rule, where 100 objects share the image


def plain_loop(
    masks: NDArray[np.bool_],
    scores: NDArray[np.float64],
    labels: NDArray[np.int64],
    semantic: NDArray[np.int64],
    categories: Categories,
    stuff_area: int = 4096,
    removal_threshold: float = 0.5,
) -> tuple[NDArray[np.int32], list[dict[str, Any]]]:
    """Kirillov et al.'s combination of instances and stuff, written as everybody writes it."""
    ids = np.zeros(semantic.shape, dtype=np.int32)
    segments: list[dict[str, Any]] = []
    for n in np.argsort(-scores, kind="stable"):
        mask = masks[n]
        area = mask.sum()
        if area == 0:
            continue
        covered = (mask & (ids > 0)).sum()
        if covered > removal_threshold * area:
            continue
        if covered > 0:
            mask = mask & (ids == 0)
        segments.append({"id": len(segments) + 1, "category_id": int(labels[n]), "score": float(scores[n])})
        ids[mask] = len(segments)
    for category in np.unique(semantic):
        if category <= 0 or categories.isthing(int(category)):
            continue
        mask = (semantic == category) & (ids == 0)
        area = mask.sum()
        if area == 0 or area < stuff_area:
            continue
        segments.append({"id": len(segments) + 1, "category_id": int(category), "area": int(area)})
        ids[mask] = len(segments)
    return ids, segments


def draw_objects(count: int, areas: tuple[float, float], size: tuple[int, int], rng: np.random.Generator) -> MaskCrops:
    """Ellipses, cut off where they leave the image."""
    boxes, crops = [], []
    for _ in range(count):
        area, ratio = np.exp(rng.uniform(*np.log(areas))), np.exp(rng.uniform(-np.log(2), np.log(2)))
        half = np.sqrt(area / np.pi * np.array([ratio, 1 / ratio]))  # height, width
        centre = rng.uniform((0, 0), size)
        low = np.maximum(centre - half, 0).astype(int)
        high = np.minimum(centre + half + 1, size).astype(int)
        y, x = np.ogrid[low[0] : high[0], low[1] : high[1]]
        crops.append(((y - centre[0]) / half[0]) ** 2 + ((x - centre[1]) / half[1]) ** 2 <= 1)
        boxes.append([low[1], low[0], high[1], high[0]])
    return MaskCrops(np.array(boxes, dtype=np.int64), crops, size)


def draw_scene(count: int, areas: tuple[float, float], size: tuple[int, int] = SIZE, seed: int = 0) -> dict[str, Any]:
    """Arguments of `fuse_panoptic`: masks as crops, a semantic map of a dozen classes in blobs, things among them."""
    rng = np.random.default_rng(seed)
    objects = draw_objects(count, areas, size, rng)
    labels = rng.choice(CLASSES.ids[: CLASSES.num_things], count)
    used = np.concatenate([CLASSES.ids[CLASSES.num_things :][:: CLASSES.num_stuff // 8], CLASSES.ids[:4]])
    semantic = np.zeros(size, dtype=np.int64)
    blobs = draw_objects(60, (size[0] * size[1] / 100, size[0] * size[1] / 3), size, rng)
    for (x1, y1, x2, y2), crop in zip(blobs.boxes.tolist(), blobs.crops, strict=True):
        semantic[y1:y2, x1:x2][crop] = rng.choice(used)
    image = rng.integers(60, 100, (*size, 3), dtype=np.uint8)
    for (x1, y1, x2, y2), crop in zip(objects.boxes.tolist(), objects.crops, strict=True):
        image[y1:y2, x1:x2][crop] = rng.integers(0, 216, 3) + rng.integers(0, 40, (np.count_nonzero(crop), 3))
    return {
        "masks": objects,
        "scores": rng.uniform(0.6, 1, count),
        "labels": labels,
        "semantic": semantic,
        "image": image,
    }


def pairs_of(scene: dict[str, Any]) -> Pairs:
    return Pairs.of(scene["masks"], check_scores(scene["scores"], len(scene["masks"])), scene["image"])


def against_the_loop(report: Report, repeats: int) -> None:
    report.say(
        f"{SIZE[0]} × {SIZE[1]}, dense boolean masks; fuse_panoptic, with the best rule, plain loop, "
        "resolve_occlusions, margins of the best rule in ms; ratios to the loop"
    )
    best = RULES[BEST_RULE]
    assert not isinstance(best, Procedure)
    for count, areas, goal, best_goal in SCENES:
        crops = draw_scene(count, areas)
        scene = {**crops, "masks": crops["masks"].to_masks()}
        plain = {key: scene[key] for key in ("masks", "scores", "labels", "semantic")}
        pairs = pairs_of(crops)
        by_heuristic = fuse_panoptic(**scene, categories=CLASSES, rule="heuristic")
        if not np.array_equal(plain_loop(**plain, categories=CLASSES)[0], by_heuristic.ids):
            raise SystemExit("the loop and the rule 'heuristic' disagree")
        turns = take_turns(
            {
                "fuse_panoptic": partial(fuse_panoptic, **scene, categories=CLASSES),
                "best rule": partial(
                    fuse_panoptic,
                    **scene,
                    categories=CLASSES,
                    rule=BEST_RULE,
                    overlap_threshold=BEST_OVERLAP_THRESHOLD,
                ),
                "plain loop": partial(plain_loop, **plain, categories=CLASSES),
                "resolve_occlusions": partial(resolve_occlusions, scene["masks"], scene["scores"], scene["image"]),
                "margins": partial(best, pairs),
            },
            repeats,
            clock=time.process_time,
        )
        report.turns(f"{count} objects", turns)
        report.say(
            f"{count:4} objects of {areas[0]}..{areas[1]} pixels, {len(pairs)} overlapping pairs: "
            + "".join(f"{turns.milliseconds(name):.1f}  " for name in turns.seconds)
            + f"ratio {turns.ratio_text('fuse_panoptic', 'plain loop')} (goal {goal}), "
            + f"best rule {turns.ratio_text('best rule', 'plain loop')} (goal {best_goal}), "
            + f"{turns.milliseconds('margins') / len(pairs):.3f} ms per pair (goal {GOAL_PER_PAIR})"
        )


def big_picture() -> None:
    """In a process of its own: prints seconds of the fastest of three, peak memory, and what the input alone takes."""
    scene = draw_scene(1000, (300, 20_000), (4000, 4000))
    before = peak()
    turns = take_turns({"fuse": partial(fuse_panoptic, **scene, categories=CLASSES)}, 3, warm_up=0)
    segments = len(fuse_panoptic(**scene, categories=CLASSES).segments)
    print(
        f"1000 objects in 4000 × 4000, crops, {len(pairs_of(scene))} overlapping pairs, "
        f"{segments} segments: {min(turns.seconds['fuse']):.2f} s (goal {GOAL_SECONDS}), peak memory of the process "
        f"{peak() / 1e6:.0f} MB with the input's {before / 1e6:.0f} (goal {GOAL_BYTES / 1e6:.0f})"
    )


def growth(report: Report, repeats: int) -> None:
    """More objects, each as much smaller: what is covered, and so the pairs per object, stays as it is."""
    report.say("resolve_occlusions of crops, 1000 × 1000 pixels: objects, overlapping pairs, ms")
    for count in (125, 250, 500, 1000, 2000):
        scene = draw_scene(count, (30_000 / count, 3_000_000 / count), (1000, 1000))
        resolve = partial(resolve_occlusions, scene["masks"], scene["scores"], scene["image"])
        turns = take_turns({count: resolve}, repeats, clock=time.process_time)
        report.turns("resolve_occlusions of crops", turns)
        report.say(f"{count:6} {len(pairs_of(scene)):6} {turns.milliseconds(count):8.1f}")


def main() -> None:
    command_line = parser(__doc__, repeats=15)
    command_line.add_argument("--big-picture", action="store_true", help="only that part, in this process")
    options = command_line.parse_args()
    use_threads(options.threads)
    if options.big_picture:
        return big_picture()
    with Report(options, __file__) as report:
        against_the_loop(report, options.repeats)
        report.say(own_process(__file__, "--threads", options.threads, "--big-picture"))
        growth(report, options.repeats)


if __name__ == "__main__":
    main()

"""Whose pixel is it? Every occlusion rule on pairs of masks whose order is known.

    python benchmarks/occlusion.py --data DIR [--kinds collages scenes] [--out occlusion.json]

DIR holds `coco_panoptic`, `coco_instances`, `camvid` and `dsb2018`; kinds whose folder is missing are left out, and
what is drawn (`scenes`, `leaves of one colour`) needs none. Two masks of a pair have equal scores and come in random
order; a tie counts a half. Intervals (95 %) come from drawing pictures again. Beside `colour-contour`, whose weights
were fitted on such pairs, stands a column with weights fitted without the picture that they are measured on. Another
seed draws other scenes, leaves and collages, and takes other street frames and fluorescence.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from occlusion_pairs import KINDS, Pair, Picture

from banet.panoptic import (
    RULES,
    Categories,
    Category,
    MaskCrops,
    PanopticQuality,
    PanopticSegmentation,
    fuse_panoptic,
    gt_order_rule,
    resolve_occlusions,
)
from banet.panoptic.occlusion import cues as all_cues
from banet.panoptic.occlusion.rules import Pairs, Procedure

CUES = tuple(all_cues.WEIGHTS)
REFITTED = "colour-contour, refitted"
FOLDERS = {
    "coco panoptic (leak)": ["coco_panoptic"],
    "coco polygons (leak)": ["coco_instances", "coco_panoptic"],
    "collages": ["coco_instances", "coco_panoptic", "camvid"],
    "street (leak)": ["camvid"],
    "stained tissue (leak)": ["dsb2018"],
    "fluorescence (leak)": ["dsb2018"],
}


def right(rule: str, pair: Pair, image: NDArray[np.uint8], swap: bool) -> float:
    """1 where the rule finds the owner, a half for a tie, else 0."""
    pieces = [pair.back, pair.front] if swap else [pair.front, pair.back]
    crops = MaskCrops(np.array([box for box, _ in pieces]), [crop for _, crop in pieces], image.shape[:2])
    decide = RULES[rule]
    if isinstance(decide, Procedure):  # it decides pixels: the owner should get most of them, in either order
        found = []
        for order in (1, -1):
            turned = MaskCrops(crops.boxes[::order], crops.crops[::order], crops.size)
            owner = resolve_occlusions(turned, [0.5, 0.5], image, rule=rule, removal_threshold=1)
            there = owner[turned[0] & turned[1]]
            found.append(np.mean(there == (int(swap) if order == 1 else 1 - int(swap))))
        return float(np.mean([(share > 0.5) + 0.5 * (share == 0.5) for share in found]))
    margin = float(decide(Pairs.of(crops, np.full(2, 0.5), image))[0]) * (-1 if swap else 1)
    return float(margin > 0) + 0.5 * (margin == 0)


def cues_of(pair: Pair, image: NDArray[np.uint8]) -> list[float]:
    overlap = all_cues.Overlap.of(image, (pair.front[0], pair.back[0]), (pair.front[1], pair.back[1]))
    return [0.0 if overlap is None else getattr(all_cues, name)(overlap) for name in CUES]


def fused_quality(
    pictures: Sequence[Picture], rules: Sequence[str], seed: int
) -> Callable[[], dict[str, float]] | None:
    """PQ of things after fusion of all masks of each picture, with random scores, under each rule."""
    pictures = [picture for picture in pictures if picture.ids is not None and picture.masks]
    if not pictures:
        return None
    ids = sorted({c for picture in pictures for c in (picture.classes or {}).values()})
    rest = ids[-1] + 1
    categories = Categories([Category(n, f"{n}", True) for n in ids] + [Category(rest, "rest", False)])

    def measure() -> dict[str, float]:
        quality = {rule: PanopticQuality(categories) for rule in (*rules, "true order")}
        rng = np.random.default_rng(seed)
        for picture in pictures:
            assert picture.ids is not None and picture.classes is not None and picture.masks is not None
            things = list(picture.classes)
            truth_ids = picture.ids.copy()
            segments = [{"id": n, "category_id": picture.classes[n]} for n in things]
            if (truth_ids == 0).any():
                extra = max(things) + 1
                truth_ids[truth_ids == 0] = extra
                segments.append({"id": extra, "category_id": rest})
            truth = PanopticSegmentation.from_ids(truth_ids, segments, categories)
            crops = [crop for _, crop in picture.masks]
            masks = MaskCrops(np.array([box for box, _ in picture.masks]), crops, truth_ids.shape)
            scores = rng.uniform(0.6, 1, len(things))
            for rule, score in quality.items():
                result = fuse_panoptic(
                    masks,
                    scores,
                    [picture.classes[n] for n in things],
                    np.full(truth_ids.shape, rest),
                    picture.image,
                    categories=categories,
                    rule=gt_order_rule(truth_ids, np.array(things)) if rule == "true order" else rule,
                    stuff_area=0,
                )
                score.update(result, truth)
        return {rule: 100 * float(score.compute()["Things"]["pq"]) for rule, score in quality.items()}

    return measure


def interval(hits: NDArray[np.float64], pictures: NDArray[Any], seed: int = 0) -> tuple[float, float, float]:
    """Share in per cent and its 95 % interval, drawing pictures again."""
    if not len(hits):
        return float("nan"), float("nan"), float("nan")
    _, at = np.unique(pictures, return_inverse=True)
    total, found = np.bincount(at).astype(float), np.bincount(at, weights=hits)
    draws = np.random.default_rng(seed).integers(len(total), size=(2000, len(total)))
    shares = found[draws].sum(axis=1) / total[draws].sum(axis=1)
    low, high = np.percentile(shares, [2.5, 97.5])
    return 100 * float(hits.mean()), 100 * float(low), 100 * float(high)


def fit(cues: NDArray[np.float64], weight: NDArray[np.float64]) -> NDArray[np.float64]:
    """Logistic regression without intercept; every row speaks for the one that is in front."""
    scale = np.sqrt((cues**2).mean(axis=0)) + 1e-9
    rows, w = cues / scale, np.zeros(cues.shape[1])
    for _ in range(30):
        p = 1 / (1 + np.exp(-rows @ w))
        hessian = (rows * (weight * p * (1 - p))[:, None]).T @ rows + np.eye(len(w))
        w = w + np.linalg.solve(hessian, rows.T @ (weight * (1 - p)) - w)
    return w / scale


def refit(cues: NDArray[np.float64], kinds: NDArray[Any], pictures: NDArray[Any]) -> NDArray[np.float64]:
    """Hits with weights fitted on the other pictures only (ten parts, by picture); every kind weighs the same."""
    weight = np.zeros(len(cues))
    for kind in np.unique(kinds):
        weight[kinds == kind] = 200 / np.count_nonzero(kinds == kind)
    names, at = np.unique(pictures, return_inverse=True)
    part = np.random.default_rng(0).permutation(len(names))[at] % 10
    margin = np.zeros(len(cues))
    for k in range(10):
        margin[part == k] = cues[part == k] @ fit(cues[part != k], weight[part != k])
    hits: NDArray[np.float64] = (margin > 0) + 0.5 * (margin == 0)
    return hits


def table(title: str, head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    print(f"\n{title}\n\n| {' | '.join(head)} |\n|{'---|' * len(head)}")
    for row in rows:
        print(f"| {' | '.join(row)} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("data"))
    parser.add_argument("--kinds", nargs="+", choices=list(KINDS), default=list(KINDS))
    parser.add_argument("--rules", nargs="+", choices=list(RULES), default=list(RULES))
    parser.add_argument("--masks", nargs="+", choices=["grid", "exact"], default=["grid", "exact"])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--fused", type=int, default=30, help="fuse so many pictures of a kind for PQ; 0 leaves it out")
    parser.add_argument("--join", nargs="+", type=Path, help="measure nothing, print the tables of earlier --out files")
    parser.add_argument("--out", type=Path, help="a JSON file with every pair's outcome")
    options = parser.parse_args()
    results: dict[str, Any] = {"seed": options.seed, "pairs": [], "quality": {}}
    for path in options.join or ():
        earlier = json.loads(path.read_text())
        results["pairs"] += earlier["pairs"]
        results["quality"] |= earlier["quality"]
    if options.join:
        report(results, options.rules)
        return
    for masks in options.masks:
        for kind in options.kinds:
            missing = [name for name in FOLDERS.get(kind, []) if not (options.data / name).is_dir()]
            if missing:
                print(f"{kind}: {options.data / missing[0]} is missing, left out")
                continue
            began, rng, kept = time.time(), np.random.default_rng(options.seed), []
            spent: dict[str, float] = defaultdict(float)
            for picture in KINDS[kind](options.data, masks == "grid", options.seed):
                for pair in picture.pairs:
                    swap = bool(rng.random() < 0.5)
                    outcome: dict[str, Any] = {}
                    for rule in options.rules:
                        start = time.process_time()
                        outcome[rule] = right(rule, pair, picture.image, swap)
                        spent[rule] += time.process_time() - start
                    results["pairs"].append(
                        {
                            "masks": masks,
                            "kind": kind,
                            "picture": f"{kind}: {picture.name}",
                            "same": pair.same_class,
                            "small": pair.small_front,
                            "right": outcome,
                            "cues": cues_of(pair, picture.image),
                        }
                    )
                if len(kept) < options.fused and picture.ids is not None:
                    kept.append(picture)
            measure = fused_quality(kept, options.rules, options.seed)
            if measure is not None:
                results["quality"][f"{masks}: {kind}"] = measure()
            count = sum(one["kind"] == kind and one["masks"] == masks for one in results["pairs"])
            each = ", ".join(f"{rule} {1000 * t / max(1, count):.1f}" for rule, t in spent.items())
            print(f"{masks}: {kind}: {count} pairs, {time.time() - began:.0f} s; ms a pair: {each}", flush=True)
            if options.out:
                options.out.write_text(json.dumps(results))
    report(results, options.rules)
    print(f"\nseed {options.seed}, {platform.machine()}, numpy {np.__version__}")


def report(results: dict[str, Any], rules: Sequence[str]) -> None:
    """The tables, from the outcomes of all pairs."""
    for masks in ("grid", "exact"):
        pairs = [one for one in results["pairs"] if one["masks"] == masks]
        if not pairs:
            continue
        kinds = np.array([one["kind"] for one in pairs])
        pictures = np.array([one["picture"] for one in pairs])
        hits = {rule: np.array([one["right"][rule] for one in pairs]) for rule in rules}
        if "colour-contour" in rules:
            hits[REFITTED] = refit(np.array([one["cues"] for one in pairs]), kinds, pictures)
        same = np.array([one["same"] for one in pairs])
        small = np.array([one["small"] for one in pairs])
        everything = np.ones(len(pairs), dtype=bool)
        real = np.char.startswith(kinds, "coco")
        groups = {kind: kinds == kind for kind in dict.fromkeys(kinds.tolist())}
        if real.any():
            groups["coco, both (leak)"] = real
        rows = []
        for name, chosen in groups.items():
            row = [name, f"{np.count_nonzero(chosen)} / {len(np.unique(pictures[chosen]))}"]
            for one in hits.values():
                share, low, high = interval(one[chosen], pictures[chosen])
                row.append(f"{share:.1f} ({low:.0f}–{high:.0f})")
            rows.append(row)
        what = "through the 28 x 28 grid" if masks == "grid" else "exact"
        table(f"Right owner, % (95 % interval), masks {what}", ["pictures", "pairs / pictures", *hits], rows)
        rows = []
        for group, inside in (("coco, both (leak)", real), ("collages", kinds == "collages"), ("all", everything)):
            parts = {"same class": same, "different class": ~same, "small in front": small, "big in front": ~small}
            for part, chosen in parts.items():
                chosen = chosen & inside
                if chosen.any():
                    shares = [f"{100 * one[chosen].mean():.1f}" for one in hits.values()]
                    rows.append([f"{group}: {part}", f"{np.count_nonzero(chosen)}", *shares])
        table(f"By kind of pair, masks {what}", ["pairs", "number", *hits], rows)
        ties = [f"{100 * np.mean(hits[rule] == 0.5):.1f}" for rule in hits]
        table(f"Ties, % of all pairs, masks {what}", ["", *hits], [["share", *ties]])
    if results["quality"]:
        head = ["masks: pictures", *rules, "true order"]
        rows = [[k, *(f"{v[rule]:.1f}" for rule in head[1:])] for k, v in results["quality"].items()]
        table("PQ of things after fusion, masks of all things at once with random scores, %", head, rows)


if __name__ == "__main__":
    main()

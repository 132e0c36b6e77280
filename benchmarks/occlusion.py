"""Whose pixel is it? Every occlusion rule on pairs of masks whose order is known.

    python benchmarks/occlusion.py --data DIR [--kinds collages scenes] [--out occlusion.json]

DIR holds `coco_panoptic`, `coco_instances`, `camvid`, `dsb2018` and `real_detections`; kinds whose folder is missing
are left out, and what is drawn (`scenes`, `leaves of one colour`) needs none. Two masks of a pair have equal scores and
come in random order; a tie counts a half. Intervals (95 %) come from drawing images again. Another seed draws other
scenes, leaves and collages, and takes other street frames and fluorescence.

The weights of `color-contour` were fitted on such pairs, real detections left out. So beside it stand two columns of
which no figure is fitted on itself: *other images*, with weights fitted on one half of the images of all kinds and
measured on the other half, and *other kinds*, with weights fitted without all kinds that show the same sort of images.
How sure the rule is (`probabilities`) is measured likewise: weights and factor from one half, measured on the other.
"""

from __future__ import annotations

import json
import time
from argparse import Namespace
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from harness import Report, parser
from numpy.typing import NDArray
from occlusion_pairs import KINDS, REAL, Pair, Picture

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

OTHER_IMAGES, OTHER_KINDS = "color-contour, other images", "color-contour, other kinds"
FAMILIES = ("coco", "collages", "scenes", "street, small", "street", "stained tissue", "fluorescence", "leaves", REAL)
"""Beginnings of the names of kinds that show the same images."""
SAME_SOURCE = {"stained tissue": "nuclei", "fluorescence": "nuclei"}
BINS = 5
FOLDERS = {
    "coco panoptic (leak)": ["coco_panoptic"],
    "coco polygons (leak)": ["coco_instances", "coco_panoptic"],
    "coco, as detected": ["coco_instances", "coco_panoptic"],
    "street, small (leak)": ["coco_instances", "camvid"],
    "collages": ["coco_instances", "coco_panoptic", "camvid"],
    "street (leak)": ["camvid"],
    "stained tissue (leak)": ["dsb2018"],
    "fluorescence (leak)": ["dsb2018"],
    "collages, as detected": ["coco_instances", "coco_panoptic", "camvid"],
    "street, as detected": ["camvid"],
    "street, small, as detected": ["coco_instances", "camvid"],
    "stained tissue, as detected": ["dsb2018"],
    "fluorescence, as detected": ["dsb2018"],
    REAL: ["real_detections"],
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
    """The cues of the first look, then those of the closer look, above 0 where they are right; then the certainty."""
    crops = MaskCrops(np.array([pair.front[0], pair.back[0]]), [pair.front[1], pair.back[1]], image.shape[:2])
    view = all_cues.View.of(Pairs.of(crops, np.full(2, 0.5), image))
    looks = [all_cues.measure_cues(view, np.arange(1), closer=closer)[:, 0] for closer in (False, True)]
    return [float(cue) for cue in np.concatenate([*looks, all_cues.certainty(view)])]


def margins_of(cues: NDArray[np.float64], weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """The margins of `color-contour` with these weights of both looks, from `cues_of` (P, 9)."""
    first, closer = np.split(cues[:, :-1] * weights, 2, axis=1)
    odds: NDArray[np.float64] = first.sum(axis=1)
    return np.where(np.abs(odds) < all_cues.CLOSE, closer.sum(axis=1), odds) * cues[:, -1]


def family(kind: str) -> str:
    """The sort of images that a kind shows."""
    name = next(name for name in FAMILIES if kind.startswith(name))
    return SAME_SOURCE.get(name, name)


@dataclass(frozen=True)
class Outcomes:
    """All pairs of a run, P of them, with masks through the grid or exact.

    Attributes:
        cues: (P, 9), see `cues_of`.
        kinds: (P,) their kinds.
        sources: (P,) names of images; the same image has one name, whatever the kind.
    """

    cues: NDArray[np.float64]
    kinds: NDArray[Any]
    sources: NDArray[Any]

    @classmethod
    def of(cls, pairs: Sequence[dict[str, Any]]) -> Outcomes:
        names = [f"{family(one['kind'])}: {one['picture'].partition(': ')[2]}" for one in pairs]
        return cls(np.array([one["cues"] for one in pairs]), np.array([one["kind"] for one in pairs]), np.array(names))

    def fit(self, some: NDArray[np.bool_]) -> NDArray[np.float64]:
        """Weights of both looks from some pairs, real detections left out; every kind weighs the same."""
        some = some & (self.kinds != REAL)
        weight = np.zeros(len(some))
        for kind in np.unique(self.kinds[some]):
            there = some & (self.kinds == kind)
            weight[there] = 200 / max(30, np.count_nonzero(there))
        return np.concatenate([fit(look[some], weight[some]) for look in np.split(self.cues[:, :-1], 2, axis=1)])

    def halves(self) -> NDArray[np.int64]:
        """(P,) 0 or 1: the half of the images that a pair is in."""
        names, at = np.unique(self.sources, return_inverse=True)
        halves: NDArray[np.int64] = np.random.default_rng(0).permutation(len(names))[at] % 2
        return halves

    def on_other_images(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Margins, (P,), with weights fitted on the half of the images that they are not in; and how likely right.

        A probability is that of a margin of this size, with a factor fitted on the other half too.
        """
        half, margins, sure = self.halves(), np.zeros(len(self.cues)), np.zeros(len(self.cues))
        for k in (0, 1):
            weights = self.fit(half != k)
            margins[half == k] = margins_of(self.cues[half == k], weights)
            learnt = (half != k) & (self.kinds != REAL)
            scale = fit(margins_of(self.cues[learnt], weights)[:, None], np.ones(np.count_nonzero(learnt)))[0]
            sure[half == k] = 1 / (1 + np.exp(-scale * np.abs(margins[half == k])))
        return margins, sure

    def on_other_kinds(self) -> NDArray[np.float64]:
        """Margins, (P,), with weights fitted without all kinds that show the same sort of images."""
        families, margins = np.array([family(kind) for kind in self.kinds]), np.zeros(len(self.cues))
        for name in np.unique(families):
            there = families == name
            margins[there] = margins_of(self.cues[there], self.fit(~there))
        return margins


def hits_of(margins: NDArray[np.float64]) -> NDArray[np.float64]:
    hits: NDArray[np.float64] = (margins > 0) + 0.5 * (margins == 0)
    return hits


def calibration(right: NDArray[np.bool_], sure: NDArray[np.float64], pictures: NDArray[Any]) -> list[str]:
    """Expected calibration error, and the reliability diagram: share that is right of those about so sure.

    Of few pairs even perfect probabilities have an error. So there is also the error less its bias, with an interval
    (95 %): images are drawn again, and by how much the drawn ones exceed the error is taken from it.
    """
    place = np.minimum(((sure - 0.5) * 2 * BINS).astype(int), BINS - 1)
    _, at = np.unique(pictures, return_inverse=True)
    total, gaps = np.bincount(at), np.zeros((at.max() + 1, BINS))
    np.add.at(gaps, (at, place), right - sure)
    error = np.abs(gaps.sum(axis=0)).sum() / len(right)
    draws = np.random.default_rng(0).integers(len(total), size=(2000, len(total)))
    drawn = np.abs(gaps[draws].sum(axis=1)).sum(axis=1) / total[draws].sum(axis=1)
    unbiased, low, high = np.maximum(0, 2 * error - np.array([drawn.mean(), *np.percentile(drawn, [97.5, 2.5])]))
    cells = []
    for k in range(BINS):
        some = place == k
        cells.append(f"{100 * right[some].mean():.0f} of {np.count_nonzero(some)}" if some.any() else "–")
    return [f"{error:.3f}", f"{unbiased:.3f} ({low:.2f}–{high:.2f})", *cells]


def fused_quality(
    pictures: Sequence[Picture], rules: Sequence[str], seed: int
) -> Callable[[], dict[str, float]] | None:
    """PQ of things after fusion of all masks of each image, with random scores, under each rule."""
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
    """Share in per cent and its 95 % interval, drawing images again."""
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


def table(report: Report, title: str, head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    report.say(f"\n{title}\n\n| {' | '.join(head)} |\n|{'---|' * len(head)}")
    for row in rows:
        report.say(f"| {' | '.join(row)} |", table=title, row=dict(zip(head, row, strict=True)))


def measure_kind(kind: str, masks: str, options: Namespace, results: dict[str, Any]) -> str:
    """Add the outcomes of all pairs of a kind to the results; return a line that says what was done."""
    began, rng, kept = time.perf_counter(), np.random.default_rng(options.seed), []
    spent: dict[str, float] = defaultdict(float)
    count = 0
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
            count += 1
        if len(kept) < options.fused and picture.ids is not None:
            kept.append(picture)
    measure = fused_quality(kept, options.rules, options.seed)
    if measure is not None:
        results["quality"][f"{masks}: {kind}"] = measure()
    each = ", ".join(f"{rule} {1000 * t / max(1, count):.1f}" for rule, t in spent.items())
    return f"{masks}: {kind}: {count} pairs, {time.perf_counter() - began:.0f} s; ms per pair: {each}"


def main() -> None:
    command_line = parser(__doc__, threads=None)
    command_line.add_argument("--data", type=Path, default=Path("data"))
    command_line.add_argument("--kinds", nargs="+", choices=list(KINDS), default=list(KINDS))
    command_line.add_argument("--rules", nargs="+", choices=list(RULES), default=list(RULES))
    command_line.add_argument("--masks", nargs="+", choices=["grid", "exact"], default=["grid", "exact"])
    command_line.add_argument("--seed", type=int, default=0)
    command_line.add_argument("--fused", type=int, default=30, help="fuse up to N images per kind for PQ; 0 for none")
    command_line.add_argument("--join", nargs="+", type=Path, help="only print the tables of earlier --out files")
    command_line.add_argument("--out", type=Path, help="a JSON file with every pair's outcome")
    options = command_line.parse_args()
    results: dict[str, Any] = {"seed": options.seed, "pairs": [], "quality": {}}
    for path in options.join or ():
        earlier = json.loads(path.read_text())
        results["pairs"] += earlier["pairs"]
        results["quality"] |= earlier["quality"]
    with Report(options, __file__) as report:
        for masks, kind in product(() if options.join else options.masks, options.kinds):
            missing = [name for name in FOLDERS.get(kind, []) if not (options.data / name).is_dir()]
            if missing:
                report.say(f"{kind}: {options.data / missing[0]} is missing, left out")
                continue
            report.say(measure_kind(kind, masks, options, results))
            if options.out:
                options.out.write_text(json.dumps(results))
        tabulate(report, results, options.rules)
        report.say(f"\nseed {options.seed}")


def everything(pairs: Sequence[Any]) -> NDArray[np.bool_]:
    return np.ones(len(pairs), dtype=bool)


def tabulate(report: Report, results: dict[str, Any], rules: Sequence[str]) -> None:
    """The tables, from the outcomes of all pairs."""
    for masks in ("grid", "exact"):
        pairs = [one for one in results["pairs"] if one["masks"] == masks]
        if not pairs:
            continue
        kinds = np.array([one["kind"] for one in pairs])
        pictures = np.array([one["picture"] for one in pairs])
        hits = {rule: np.array([one["right"][rule] for one in pairs]) for rule in rules}
        outcomes = Outcomes.of(pairs)
        margins, sure = outcomes.on_other_images()
        if "color-contour" in rules:
            hits[OTHER_IMAGES], hits[OTHER_KINDS] = hits_of(margins), hits_of(outcomes.on_other_kinds())
            report.say(f"\nweights fitted on all: {outcomes.fit(everything(pairs)).round(2).tolist()}")
        same = np.array([one["same"] for one in pairs])
        small = np.array([one["small"] for one in pairs])
        real = np.char.startswith(kinds, "coco") & np.char.endswith(kinds, "(leak)")
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
        table(report, f"Right owner, % (95 % interval), masks {what}", ["pictures", "pairs / pictures", *hits], rows)
        rows = []
        parts_of = {"coco, both (leak)": real, "collages": kinds == "collages", "all": everything(pairs)}
        for group, inside in parts_of.items():
            parts = {"same class": same, "different class": ~same, "small in front": small, "big in front": ~small}
            for part, chosen in parts.items():
                chosen = chosen & inside
                if chosen.any():
                    shares = [f"{100 * one[chosen].mean():.1f}" for one in hits.values()]
                    rows.append([f"{group}: {part}", f"{np.count_nonzero(chosen)}", *shares])
        table(report, f"By kind of pair, masks {what}", ["pairs", "number", *hits], rows)
        ties = [f"{100 * np.mean(hits[rule] == 0.5):.1f}" for rule in hits]
        table(report, f"Ties, % of all pairs, masks {what}", ["", *hits], [["share", *ties]])
        rows = []
        for name, chosen in {**groups, "all": everything(pairs)}.items():
            cells = calibration(margins[chosen] > 0, sure[chosen], pictures[chosen])
            rows.append([name, f"{np.count_nonzero(chosen)}", *cells])
        head = [
            "pictures",
            "pairs",
            "error",
            "less its bias",
            *(f"{low}–{low + 10} %" for low in range(50, 100, 10)),
        ]
        table(
            report,
            f"Right, % of those that color-contour is so sure of, fitted on the other half of the images, masks {what}",
            head,
            rows,
        )
    if results["quality"]:
        head = ["masks: pictures", *rules, "true order"]
        rows = [[k, *(f"{v[rule]:.1f}" for rule in head[1:])] for k, v in results["quality"].items()]
        table(report, "PQ of things after fusion, masks of all things at once with random scores, %", head, rows)


if __name__ == "__main__":
    main()

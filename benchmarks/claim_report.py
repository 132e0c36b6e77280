"""The report of a study of aggregation: its JSON, its tables and its figure, from what has been measured so far."""

from __future__ import annotations

import json
import re
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from claim_arms import Arm
from claim_measures import SCORES, Counts, compare, difference
from claim_plans import KINDS, Plan

from banet.files.atomic import atomic_path, write_json

Figures = dict[str, dict[str, float]]
HEAD = """# Study {number}: what it found

`python benchmarks/claim.py --study {number} --step report` writes this page from the runs. The plan is
[here](plan_{number}.md).

Means over the seeds; in brackets 95 % intervals, after ± standard errors, of 2,000 paired resamples of scenes and
seeds. *false*: false positives of stuff per 100 scenes. *missed*: share of the pixels of missed things that the result
calls stuff. *pairs*: right pixels of look-alike stuff. All else in per cent.
"""
WAY, OH = "heuristic-218", "appearance-218"


@dataclass(frozen=True)
class Measured:
    """The arms of one step on one kind of data, as far as they are measured.

    Attributes:
        arms: in their order.
        counts: by arm and seed.
        ap: by arm and seed, in per cent; empty in step A.
    """

    arms: Sequence[Arm]
    counts: Mapping[str, Mapping[str, Counts]]
    ap: Mapping[str, Mapping[str, float]]

    @property
    def done(self) -> int:
        """Return how many runs are measured."""
        return sum(len(seeds) for seeds in self.counts.values())

    def pair(self, arm: str, other: str, way: str, other_way: str) -> Figures | None:
        """Return the paired difference of two arms over the seeds that both have; None where there is none."""
        common = sorted(self.counts.get(arm, {}).keys() & self.counts.get(other, {}).keys())
        if not common:
            return None
        mine, theirs = ([self.counts[name][seed] for seed in common] for name in (arm, other))
        return {**difference(mine, theirs, way, other_way), "seeds": {"value": len(common)}}


def read_step(folder: Path, arms: Sequence[Arm], file: str) -> Measured:
    """Read the runs of one step on one kind of data: those with `figures.json`."""
    counts: dict[str, dict[str, Counts]] = {}
    ap: dict[str, dict[str, float]] = {}
    for arm in arms:
        for figures in sorted((folder / arm.name).glob("seed*/figures.json")):
            seed = figures.parent.name
            counts.setdefault(arm.name, {})[seed] = Counts.load(figures.with_name(file))
            if "ap" in (found := json.loads(figures.read_text(encoding="utf-8"))):
                ap.setdefault(arm.name, {})[seed] = found["ap"]
    return Measured(arms, counts, ap)


def summarise(measured: Measured, ways: Sequence[str]) -> dict[str, Any]:
    """Return every score of every arm, by way and arm, with its error and interval."""
    result: dict[str, Any] = {}
    for way in ways:
        arms = {arm: list(seeds.values()) for arm, seeds in measured.counts.items()}
        result[way] = compare(arms, way)
        for arm, seeds in measured.counts.items():
            result[way][arm]["seeds"] = {"value": len(seeds)}
            if arm in measured.ap:
                result[way][arm]["AP"] = _over_seeds(list(measured.ap[arm].values()))
    return result


def _over_seeds(values: Sequence[float]) -> dict[str, float]:
    """Return mean and standard error over seeds, and two of the latter to either side."""
    mean = statistics.mean(values)
    error = statistics.stdev(values) / len(values) ** 0.5 if len(values) > 1 else 0.0
    return {"value": mean, "error": error, "low": mean - 2 * error, "high": mean + 2 * error}


def table(measured: Measured, summary: Mapping[str, Any], columns: Sequence[str]) -> list[str]:
    """Return a Markdown table: an arm per row, a score with its 95 % interval per column."""
    lines = ["| arm | seeds | " + " | ".join(columns) + " |", "|---" * (len(columns) + 2) + "|"]
    for arm in measured.arms:
        if arm.name in summary:
            figures = summary[arm.name]
            cells = [_cell(figures[column]) if column in figures else "–" for column in columns]
            lines.append(f"| {arm.title} | {figures['seeds']['value']} | " + " | ".join(cells) + " |")
    return lines


def _cell(figure: Mapping[str, float]) -> str:
    return f"{figure['value']:.1f} [{figure['low']:.1f}, {figure['high']:.1f}]"


def _difference_rows(pairs: Mapping[str, Figures], columns: Sequence[str]) -> list[str]:
    if not pairs:  # a table without rows is none
        return []
    lines = ["| difference | seeds | " + " | ".join(columns) + " |", "|---" * (len(columns) + 2) + "|"]
    for name, figures in pairs.items():
        cells = [f"{figures[c]['value']:+.2f} ± {figures[c]['error']:.2f}" for c in columns]
        lines.append(f"| {name} | {figures['seeds']['value']} | " + " | ".join(cells) + " |")
    return lines


def _over(measured: Measured, other: str) -> dict[str, Figures]:
    """Return the paired difference of each arm and one of them, by arm."""
    pairs = {arm: measured.pair(arm, other, WAY, WAY) for arm in measured.counts if arm != other}
    return {arm: figures for arm, figures in pairs.items() if figures is not None}


def _pairs(measured: Measured, which: Sequence[tuple[str, str]], way: str, other_way: str | None = None) -> Any:
    title = {arm.name: arm.title for arm in measured.arms}
    there = [(a, b) for a, b in which if a in measured.counts and b in measured.counts]
    found = {f"{title[a]} − {title[b]}": measured.pair(a, b, way, other_way or way) for a, b in there}
    return {name: figures for name, figures in found.items() if figures is not None}


def build(plan: Plan, out: Path) -> tuple[dict[str, Any], list[str]]:
    """Return all figures of the study in the folder `out`, and its page."""
    content: dict[str, Any] = {}
    page: list[str] = []
    for kind in KINDS:
        step_a(plan, out / "a" / kind, kind, content, page)
    for kind in KINDS:
        step_b(plan, out / "b" / kind, kind, content, page)
    return content, page


def step_a(plan: Plan, folder: Path, kind: str, content: dict[str, Any], page: list[str]) -> None:
    """Add the read-outs on one kind of data to the figures and the page of a study."""
    arms = [arm for arm in plan.read_outs if KINDS[kind] or arm.control]
    found, true = (read_step(folder, arms, f"{name}.npz") for name in ("found", "true"))
    page += [f"\n## Step A, {kind}: {found.done} of {len(arms) * len(plan.read_out_seeds)} read-outs\n"]
    if not found.done:
        return
    summary, bound = (summarise(each, [WAY, "heuristic-64"]) for each in (found, true))
    pairs = _pairs(found, plan.questions, WAY)
    over = _over(found, plan.read_outs[0].name)
    content[f"a-{kind}"] = {"found": summary, "true": bound, "differences": pairs, "over the first": over}
    columns = ("PQ^St", "mIoU^St", "false", "missed", "pairs")
    page += [*table(found, summary[WAY], columns), "", *_difference_rows(pairs, columns), ""]
    page += ["With the true boxes (a bound):", "", *table(true, bound[WAY], columns)]


def step_b(plan: Plan, folder: Path, kind: str, content: dict[str, Any], page: list[str]) -> None:
    """Add the networks on one kind of data to the figures and the page of a study."""
    arms = [arm for arm in plan.networks if KINDS[kind] or arm.control]
    found = read_step(folder, arms, "counts.npz")
    page += [f"\n## Step B, {kind}: {found.done} of {len(arms) * len(plan.arm_seeds)} runs\n"]
    if not found.done:
        return
    titles = {
        WAY: "Heuristic fusion, stuff from 218 pixels", OH: "With OH, from 218",
        "heuristic-64": "Heuristic fusion, from 64", "appearance-64": "With OH, from 64",
    }  # fmt: skip
    summary = summarise(found, list(titles))
    pairs, handled = _pairs(found, plan.comparisons, WAY), _pairs(found, (("whole", "baseline"),), OH, WAY)
    over = _over(found, plan.networks[0].name)
    content[f"b-{kind}"] = {"figures": summary, "differences": pairs, "with OH": handled, "over the first": over}
    columns = ("PQ", "PQ^Th", "PQ^St", "AP", *SCORES[3:])
    for way, title in titles.items():
        page += [f"{title}:", "", *table(found, summary[way], columns), ""]
    page += _difference_rows(pairs, SCORES)
    if handled:
        page += ["", "With OH, less the baseline without:", "", *_difference_rows(handled, SCORES[:3])]


def write_report(plan: Plan, out: Path, docs: Path) -> None:
    """Write `study_N.json` and `study_N.md` to the docs' `studies/claim`, and the figure to `images/claim_N.png`."""
    content, page = build(plan, out)
    trunks = {
        str(path.parent.relative_to(out / "trunk")): json.loads(path.read_text(encoding="utf-8"))["found"]
        for path in sorted((out / "trunk").glob("*/part*/found.json"))
    }
    found = ", ".join(f"{name} {100 * share:.1f} %" for name, share in trunks.items()) or "not measured yet"
    head = [*HEAD.format(number=plan.number).splitlines(), f"True boxes that the trunk finds: {found}."]
    folder, name = docs / "studies" / "claim", f"study_{plan.number}"
    write_json(folder / f"{name}.json", {"trunk": trunks, **content})
    text = re.sub(r"\^(Th|St)", r"<sup>\1</sup>", "\n".join([*head, *page]).rstrip()) + "\n"
    with atomic_path(folder / f"{name}.md") as temporary:
        temporary.write_text(text, encoding="utf-8")
    image = docs / "images" / f"claim_{plan.number}.png"
    if content:
        draw(plan, content, image)
    print(f"written: {folder}/{name}.json, {name}.md" + (f", {image}" if content else ""))


def draw(plan: Plan, content: Mapping[str, Any], path: Path) -> None:
    """Draw the difference of each arm from the first one, with 95 % intervals: read-outs left, networks right."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, panels = plt.subplots(1, 2, figsize=(12, 4.5), layout="constrained")
    series = (
        (("a-context", "PQ^St", "tab:blue", "stuff, with context"), ("a-control", "PQ^St", "tab:gray", "without")),
        (
            ("b-context", "PQ^St", "tab:blue", "stuff, with context"),
            ("b-context", "PQ^Th", "tab:orange", "things, with context"),
            ("b-control", "PQ^St", "tab:gray", "stuff, without"),
        ),
    )
    titles = ("Step A: read-outs of a frozen trunk", "Step B: whole networks")
    for panel, title, arms, drawn in zip(panels, titles, (plan.read_outs, plan.networks), series, strict=True):
        others = arms[1:]
        for offset, (step, score, color, label) in enumerate(drawn):
            over = content.get(step, {}).get("over the first", {})
            figures = [over[arm.name][score] for arm in others if arm.name in over]
            rows = [row + 0.2 * (offset - 1) for row, arm in enumerate(others) if arm.name in over]
            if figures:
                values = [each["value"] for each in figures]
                spread = [
                    [each["value"] - each["low"] for each in figures],
                    [each["high"] - each["value"] for each in figures],
                ]
                panel.errorbar(values, rows, xerr=spread, fmt="o", markersize=4, color=color, label=label)
        panel.axvline(0, color="black", linewidth=0.8)
        panel.set_yticks(range(len(others)), [arm.title for arm in others])
        panel.invert_yaxis()
        panel.set(xlabel=f"difference in PQ from: {arms[0].title}", title=title)
        if panel.get_legend_handles_labels()[0]:
            panel.legend(fontsize=8)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=150, format="png")
    plt.close(figure)

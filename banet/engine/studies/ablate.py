"""`banet ablate`: the rows of Tables 2 and 3 of the paper as one study that goes on where it was stopped."""

from __future__ import annotations

import csv
import io
import json
import math
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from banet._renamed import VALUES
from banet.engine.evaluation.evaluate import Evaluator, check_categories
from banet.engine.evaluation.evaluation_data import EvaluationData, open_validation
from banet.engine.options import flat_options, load_recipe
from banet.engine.recipe import Recipe, to_yaml
from banet.engine.training.datasets import InfiniteDataset, training_set
from banet.engine.training.run_folder import RECIPE, claim_run, data_files, is_own_recipe, is_written
from banet.engine.training.train import train
from banet.errors import InputError, MissingExtraError
from banet.files.atomic import atomic_path, write_json
from banet.files.outputs import Outputs, weight_files
from banet.inference.banet import BANet
from banet.inference.device import pick_device
from banet.modeling.config import RuleName
from banet.panoptic import PanopticQuality
from banet.panoptic.metrics.quality import to_json

__all__ = ["COLUMNS", "STUDY_RULES", "TABLES", "Row", "ablate", "collect", "network_name", "to_markdown"]

KIND = "banet ablate"
COLUMNS = (
    "PQ", "SQ", "RQ", "PQ^Th", "SQ^Th", "RQ^Th", "PQ^St", "SQ^St", "RQ^St", "AP", "mIoU^St",
)  # fmt: skip
STUDY_RULES: tuple[RuleName, ...] = ("heuristic", "appearance", "color-contour")
"""Each network is measured under all of these; the rows of the tables need the first two."""
NEUTRAL = {
    "data.root", "data.workers", "train.checkpoint_every", "train.val_every", "train.log_every", "train.seed",
    "train.devices", "train.nodes", "train.strategy", "train.loggers", "train.profiler", "train.gradient_checkpointing",
}  # fmt: skip
"""Options that decide no figure, so that a study may go on with others, on another machine; seeds have folders."""

Table = Mapping[str, Mapping[str, Sequence[float]]]
"""Figures in per cent by row and column, one per seed; NaN where a run is not measured or no class occurs."""


@dataclass(frozen=True)
class Row:
    """One row of a table.

    Attributes:
        name: How the row is called.
        model: Options of the network that differ from the recipe's; rows with the same ones share their weights.
        handled: With occlusion handling (the paper's rule), or with heuristic fusion.
        paper: The paper's figures on COCO by column, where it gives them.
    """

    name: str
    model: Mapping[str, Any]
    handled: bool
    paper: Mapping[str, float]

    @property
    def rule(self) -> RuleName:
        """The rule that fuses."""
        return "appearance" if self.handled else "heuristic"


def _composition(*parts: str) -> dict[str, Any]:
    return {name: name in parts for name in ("sim", "ocm", "s2i", "deformable")}


def _table_2() -> tuple[Row, ...]:
    rows = (
        ("baseline", (), False, (39.1, 77.3, 48.1, 46.7, 80.4, 56.6, 27.7, 72.5, 35.4, 34.2, 38.6)),
        ("SIM", ("sim",), False, (39.5, 78.0, 48.6, 47.1, 81.2, 57.1, 28.0, 73.1, 35.8, 34.6, 39.5)),
        ("SIM + OCM", ("sim", "ocm"), False, (40.0, 78.4, 49.1, 47.2, 81.6, 57.0, 29.2, 73.5, 37.1, 34.8, 39.7)),
        (
            "SIM + OCM + S2I",
            ("sim", "ocm", "s2i"),
            False,
            (40.3, 78.1, 49.5, 47.5, 81.5, 57.4, 29.4, 73.2, 37.3, 35.1, 39.7),
        ),
        (
            "SIM + OCM + S2I + DFM",
            ("sim", "ocm", "s2i", "deformable"),
            False,
            (41.8, 79.6, 50.8, 48.5, 82.1, 58.3, 31.7, 75.9, 39.4, 36.4, 41.1),
        ),
        (
            "SIM + OCM + S2I + DFM + OH",
            ("sim", "ocm", "s2i", "deformable"),
            True,
            (43.0, 79.0, 52.8, 50.5, 81.1, 61.5, 31.8, 75.9, 39.5, 36.4, 41.1),
        ),
    )
    return tuple(
        Row(name, _composition(*parts), handled, dict(zip(COLUMNS, figures, strict=True)))
        for name, parts, handled, figures in rows
    )


def _table_3() -> tuple[Row, ...]:
    rows: tuple[tuple[str, str, bool, tuple[float, float, float]], ...] = (
        ("R50", "resnet50", False, (41.8, 48.5, 31.7)),
        ("R101", "resnet101", False, (42.5, 48.6, 33.4)),
        ("R50 + OH", "resnet50", True, (43.0, 50.5, 31.8)),
        ("R101 + OH", "resnet101", True, (44.0, 51.0, 33.4)),
    )
    whole = _composition("sim", "ocm", "s2i", "deformable")
    return tuple(
        Row(
            name,
            {**whole, "backbone": backbone},
            handled,
            dict(zip(("PQ", "PQ^Th", "PQ^St"), figures, strict=True)),
        )
        for name, backbone, handled, figures in rows
    )


TABLES: Mapping[str, tuple[Row, ...]] = {"2": _table_2(), "3": _table_3()}


def network_name(recipe: Recipe, row: Row) -> str:
    """Folder of a row's network in a study; rows of either table that come to the same network share it."""
    model = replace(recipe.model, **row.model)
    parts = [name for name in ("sim", "ocm", "s2i", "deformable") if getattr(model, name)] or ["baseline"]
    return "_".join([*([model.backbone] if model.backbone != recipe.model.backbone else []), *parts])


@dataclass(frozen=True)
class _Run:
    """One network trained with one seed.

    Attributes:
        network: Its name.
        recipe: What to train, its seed included.
        folder: Where its weights, checkpoints and figures are.
        needed: Rules that rows of the tables want it measured under.
    """

    network: str
    recipe: Recipe
    folder: Path
    needed: frozenset[RuleName]

    @property
    def trained(self) -> bool:
        """Its weights are there."""
        return (self.folder / "model.safetensors").is_file()

    @property
    def measured(self) -> bool:
        """All that the tables need of it is there; the weights may be gone."""
        return all(_metrics_path(self.folder, rule).is_file() for rule in self.needed)

    def measure(self, device: str) -> None:
        """Write the figures that are missing."""
        missing = [rule for rule in STUDY_RULES if not _metrics_path(self.folder, rule).is_file()]
        if missing:
            model = BANet.from_pretrained(self.folder, device=pick_device(device))
            measured = _measure(model, open_validation(self.recipe.data), missing, self.recipe.name)
            for rule, metrics in measured.items():
                write_json(_metrics_path(self.folder, rule), to_json(metrics))


def ablate(
    recipe: Recipe,
    out: Path,
    *,
    table: str = "2",
    seeds: Sequence[int] = (0, 1, 2),
    device: str = "auto",
    dry_run: bool = False,
    config: Path | None = None,
    overwrite: bool = False,
) -> list[Path]:
    """Train each distinct network of the tables once a seed, measure it under all rules, and write the tables.

    Killed and started again it goes on where it was: finished networks are not trained again, an unfinished one goes on
    from its last checkpoint, and measured runs are read from their files. Of a run with all the figures that the tables
    need, the weights may be gone, so a study can be carried on from its small JSON files alone.

    Args:
        recipe: Data, schedule and widths; the rows change the composition and the rule only.
        out: Folder of the study: one run a network and seed, `recipe.yaml`, `rules.md` and `.csv`, and for each table
            `table2.md`, `.csv` and, at the end, `.png`; the tables are written anew after each run.
        table: `2`, `3`, or `all`.
        seeds: Of the training.
        device: `auto`, `cpu`, `cuda` or `mps`.
        dry_run: Only print what would be trained and how long that may take, from a few timed steps.
        config: The recipe's file, where it has one.
        overwrite: Also replace files that no part of this study wrote, but never an input.

    Returns:
        The Markdown tables; none for a dry run.

    Raises:
        InputError: An unknown table, no seed, bad data, or a folder that holds a study of another recipe.
    """
    if table not in (*TABLES, "all"):
        raise InputError(f"there are {', '.join(TABLES)} and all", where=f"--table {table}")
    if not seeds or len(set(seeds)) != len(seeds):
        raise InputError("give one or more different numbers", where="--seeds")
    tables = dict(TABLES) if table == "all" else {table: TABLES[table]}
    rows = [row for rows in tables.values() for row in rows]
    runs = [run for seed in seeds for run in _runs(recipe, out, rows, seed)]
    _check_study(recipe, out)
    if dry_run:
        _estimate(runs, device)
        return []
    outputs = _claim(recipe, out, tables, config, overwrite)
    waiting = [run for run in runs if not (run.trained or run.measured)]
    for run in waiting:
        claim_run(run.recipe, run.folder, resume="auto", overwrite=overwrite)
    out.mkdir(parents=True, exist_ok=True)
    with outputs:
        if not is_written(out / RECIPE, recipe):
            _write(out / RECIPE, to_yaml(recipe))
        for run in runs:
            if run in waiting:
                print(f"\n{run.network}, seed {run.recipe.train.seed}")
                train(run.recipe, run.folder, resume="auto", device=device, measure=False, overwrite=overwrite)
                run.measure(device)
                _report(recipe, out, tables, seeds)
            elif run.trained:
                run.measure(device)
        written = _report(recipe, out, tables, seeds)
        for number, lines in tables.items():
            title = f"{recipe.name}, Table {number}: gain over {lines[0].name}"
            _plot(collect(recipe, out, lines, seeds), lines, out / f"table{number}.png", title)
    for path in written:
        print(f"\n{path.read_text(encoding='utf-8')}")
    print(f"written: {out}/" + ", ".join(path.name for path in written) + ", their .csv, and .png of the tables")
    return written


def _claim(
    recipe: Recipe, out: Path, tables: Mapping[str, Sequence[Row]], config: Path | None, overwrite: bool
) -> Outputs:
    """Check what a study writes beside its runs."""
    names = ["rules.md", "rules.csv", *(f"table{n}.{suffix}" for n in tables for suffix in ("md", "csv", "png"))]
    if not is_written(out / RECIPE, recipe):
        names.append(RECIPE)
    files, folders = data_files(recipe)
    files += weight_files(recipe.train.init)
    if config is not None and not is_own_recipe(config, out, KIND):
        files.append(config)
    return Outputs(out, KIND, names, inputs=files, folders=folders, overwrite=overwrite)


def _runs(recipe: Recipe, out: Path, rows: Sequence[Row], seed: int) -> list[_Run]:
    """Return the distinct networks of some rows, in their order; a network's weights keep the rule of its last row."""
    last = {network_name(recipe, row): row for row in rows}
    needed = {name: frozenset(r.rule for r in rows if network_name(recipe, r) == name) for name in last}
    return [
        _Run(name, _row_recipe(recipe, row, seed), _folder(out, name, seed), needed[name]) for name, row in last.items()
    ]


def _folder(out: Path, network: str, seed: int) -> Path:
    return out / network / f"seed{seed}"


def _metrics_path(folder: Path, rule: RuleName) -> Path:
    names = [rule, *(old for old, new in VALUES.items() if new == rule)]  # studies of older versions go on
    paths = [folder / f"metrics_{name}.json" for name in names]
    return next((path for path in paths if path.is_file()), paths[0])


def _row_recipe(recipe: Recipe, row: Row, seed: int) -> Recipe:
    return replace(
        recipe,
        name=f"{recipe.name}_{network_name(recipe, row)}",
        model=replace(recipe.model, **row.model),
        inference=replace(recipe.inference, rule=row.rule),
        train=replace(recipe.train, seed=seed),
    )


def _check_study(recipe: Recipe, out: Path) -> None:
    """Refuse a folder that holds the study of another recipe."""
    kept = out / "recipe.yaml"
    if not kept.is_file():
        return
    ours, theirs = (flat_options(asdict(one)) for one in (recipe, load_recipe(str(kept), kept=True)))
    for option in sorted(ours.keys() - NEUTRAL):
        if ours[option] != theirs[option]:
            raise InputError(
                f"this study was begun with {option} {theirs[option]}, not {ours[option]}",
                where=kept,
                hint="choose another --out",
            )


def _measure(
    model: BANet, data: EvaluationData, rules: Sequence[RuleName], source: str
) -> dict[RuleName, dict[str, Any]]:
    """All figures under each rule, from one pass of the network; AP and mIoU, which no rule changes, beside each."""
    check_categories(model, data.categories, source)
    data.set_bit_depth(model.inference.bit_depth)
    model.inference = replace(model.inference, rule=rules[0])
    evaluator = Evaluator(model, full=True)
    others = {rule: PanopticQuality(model.categories) for rule in rules[1:]}
    for index in tqdm(range(len(data)), desc="measure", unit="image"):
        for example, unfused, _ in evaluator.update([data[index]]):
            for rule, quality in others.items():
                quality.update(unfused.fuse(model.categories, model.inference, rule=rule), example.ground_truth)
    first = evaluator.compute()
    return {rules[0]: first, **{rule: {**first, **quality.compute()} for rule, quality in others.items()}}


def collect(recipe: Recipe, out: Path, rows: Sequence[Row], seeds: Sequence[int]) -> dict[str, dict[str, list[float]]]:
    """Figures of a study in per cent: by row and column, one per seed; NaN where not measured or no class occurs."""
    return {row.name: _columns(out, network_name(recipe, row), row.rule, seeds) for row in rows}


def _columns(out: Path, network: str, rule: RuleName, seeds: Sequence[int]) -> dict[str, list[float]]:
    runs = [_figures(_metrics_path(_folder(out, network, seed), rule)) for seed in seeds]
    return {column: [run[column] for run in runs] for column in COLUMNS}


def _figures(path: Path) -> dict[str, float]:
    if not path.is_file():
        return dict.fromkeys(COLUMNS, math.nan)
    try:
        metrics = json.loads(path.read_text(encoding="utf-8"))
        shares = [metrics[subset][kind] for subset in ("All", "Things", "Stuff") for kind in ("pq", "sq", "rq")]
        shares += [metrics["ap"], metrics["miou_stuff"]]
    except (ValueError, KeyError, TypeError):
        raise InputError("holds no figures of a run", where=path, hint="delete it, to measure the run again") from None
    return {column: math.nan if share is None else 100 * share for column, share in zip(COLUMNS, shares, strict=True)}


def _known(values: Sequence[float]) -> list[float]:
    return [value for value in values if not math.isnan(value)]


def _spread(values: Sequence[float], sign: str = "") -> str:
    """Mean and sample standard deviation."""
    known = _known(values)
    if not known:
        return "-"
    mean = f"{round(statistics.fmean(known), 1) + 0.0:{sign}.1f}"  # + 0.0: no minus before a zero
    return mean if len(known) == 1 else f"{mean} ± {statistics.stdev(known):.1f}"


def _gains(values: Sequence[float], over: Sequence[float]) -> list[float]:
    """Differences seed by seed, whose spread is that of the gain and not that of the seeds."""
    return [value - base for value, base in zip(values, over, strict=True)]


def to_markdown(table: Table, rows: Sequence[Row]) -> str:
    """The table in the paper's layout: each row's mean ± standard deviation, the paper's COCO figures below it."""
    lines = [f"| row | seeds | {' | '.join(COLUMNS)} |", f"|---|---|{'---|' * len(COLUMNS)}"]
    for row in rows:
        columns = table[row.name]
        spreads = " | ".join(_spread(columns[column]) for column in COLUMNS)
        lines.append(f"| {row.name} | {len(_known(columns['PQ']))} | {spreads} |")
        paper = (f"*{row.paper[column]:.1f}*" if column in row.paper else "" for column in COLUMNS)
        lines.append(f"| *the paper's, on COCO* | | {' | '.join(paper)} |")
    return "\n".join(lines)


def _report(recipe: Recipe, out: Path, tables: Mapping[str, Sequence[Row]], seeds: Sequence[int]) -> list[Path]:
    """Write all tables from the figures there are; gives the Markdown files."""
    note = f"{recipe.name}, seeds {', '.join(map(str, seeds))}; mean ± standard deviation over seeds, in per cent"
    written = []
    for number, rows in tables.items():
        table = collect(recipe, out, rows, seeds)
        text = f"Table {number} of the paper on {note}. The paper's figures are of other data.\n\n"
        written.append(_write(out / f"table{number}.md", text + to_markdown(table, rows)))
        _write(out / f"table{number}.csv", _csv(table, rows, seeds))
    markdown, text = _rules(recipe, out, [row for rows in tables.values() for row in rows], seeds)
    note = f"Each network under other rules, {note}. A gain is over the heuristic, seed by seed."
    written.append(_write(out / "rules.md", f"{note}\n\n{markdown}"))
    _write(out / "rules.csv", text)
    return written


def _write(path: Path, text: str) -> Path:
    with atomic_path(path) as temporary:
        temporary.write_text(f"{text.rstrip()}\n", encoding="utf-8")
    return path


def _csv(table: Table, rows: Sequence[Row], seeds: Sequence[int]) -> str:
    """Each seed's figures, their mean and standard deviation, and the paper's."""

    def cells(values: Sequence[float | None]) -> list[str]:
        return ["" if value is None or math.isnan(value) else f"{value:.3f}" for value in values]

    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["row", "seed", *COLUMNS])
    for row in rows:
        columns = [table[row.name][column] for column in COLUMNS]
        for position, seed in enumerate(seeds):
            writer.writerow([row.name, seed, *cells([column[position] for column in columns])])
        known = [_known(column) for column in columns]
        writer.writerow([row.name, "mean", *cells([statistics.fmean(k) if k else None for k in known])])
        writer.writerow([row.name, "deviation", *cells([statistics.stdev(k) if len(k) > 1 else None for k in known])])
        writer.writerow([row.name, "paper, COCO", *cells([row.paper.get(column) for column in COLUMNS])])
    return text.getvalue()


def _rules(recipe: Recipe, out: Path, rows: Sequence[Row], seeds: Sequence[int]) -> tuple[str, str]:
    """Return what each rule makes of each network, as Markdown and CSV."""
    shown = ("PQ", "PQ^Th", "SQ^Th", "RQ^Th", "PQ^St")
    lines = [
        f"| network | rule | {' | '.join(shown)} | PQ gain | PQ^Th gain |",
        f"|---|---|{'---|' * (len(shown) + 2)}",
    ]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["network", "rule", "seed", *COLUMNS])
    for network in dict.fromkeys(network_name(recipe, row) for row in rows):
        base = _columns(out, network, STUDY_RULES[0], seeds)
        for rule in STUDY_RULES:
            columns = _columns(out, network, rule, seeds)
            figures = [_spread(columns[column]) for column in shown]
            gains = [
                _spread(_gains(columns[c], base[c]), "+") if rule != STUDY_RULES[0] else "" for c in ("PQ", "PQ^Th")
            ]
            lines.append(f"| {network} | {rule} | {' | '.join([*figures, *gains])} |")
            for position, seed in enumerate(seeds):
                if not math.isnan(columns["PQ"][position]):
                    writer.writerow([network, rule, seed, *(f"{columns[c][position]:.3f}" for c in COLUMNS)])
    return "\n".join(lines), text.getvalue()


def _plot(table: Table, rows: Sequence[Row], path: Path, title: str) -> None:
    """Gains over the first row, seed by seed, and the paper's on COCO: what can be compared across data."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise MissingExtraError("matplotlib", "train") from None
    figure = Figure(figsize=(11, 0.4 * len(rows) + 2), layout="constrained")
    first = rows[0]
    for axes, column in zip(figure.subplots(1, 3, sharey=True), ("PQ", "PQ^Th", "PQ^St"), strict=True):
        base = table[first.name][column]
        for place, row in enumerate(rows):
            gains = _known(_gains(table[row.name][column], base))
            axes.plot(gains, [place] * len(gains), "o", color="tab:blue", alpha=0.4, label="a seed")
            mean = [statistics.fmean(gains)] if gains else []
            axes.plot(mean, [place] * len(mean), "|", color="black", markersize=16, label="mean")
            paper = row.paper[column] - first.paper[column]
            axes.plot(paper, place, "D", markerfacecolor="none", color="tab:orange", label="the paper's, COCO")
        axes.axvline(0, color="gray", linewidth=0.8)
        axes.set_yticks(range(len(rows)), [row.name for row in rows])
        axes.set_title(f"{column}\nfrom {_spread(base)}; the paper's from {first.paper[column]:.1f}", fontsize=10)
        axes.grid(axis="x", alpha=0.3)
    axes.invert_yaxis()  # shared by all three
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles[:3], labels[:3], loc="outside lower center", ncols=3, frameon=False)
    figure.suptitle(title)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=120)


def _estimate(runs: Sequence[_Run], device: str) -> None:
    target = pick_device(device)
    total = 0.0
    print(f"{'network':<36}{'seeds to train':<18}{'a step':>10}{'a run':>12}")
    for name in dict.fromkeys(run.network for run in runs):
        wanted = [r.recipe for r in runs if r.network == name and not (r.trained or r.measured)]
        seconds, steps = _step_seconds(wanted[0], target) if wanted else (0.0, 0)
        run = seconds * steps
        total += run * len(wanted)
        seeds = ", ".join(str(recipe.train.seed) for recipe in wanted) or "none"
        print(f"{name:<36}{seeds:<18}{seconds:>8.2f} s{_hours(run):>12}")
    print(f"about {_hours(total)} on {target.type} in all; measuring, and what unfinished runs have done, not counted")


def _step_seconds(recipe: Recipe, device: torch.device) -> tuple[float, int]:
    """Return the median time of three training steps after a first one, loading included, and how many a run has."""
    dataset = training_set(recipe.data, recipe.inference.bit_depth)
    resolved = recipe.resolved()  # its norm and what is frozen, but no weights: they change no time
    model = BANet(dataset.categories, resolved.model, resolved.inference, resolved.loss).to(device)
    model.backbone.freeze(resolved.model.frozen_stages)
    draws, batch = InfiniteDataset(dataset, recipe.train.seed), recipe.train.batch_size
    times = []
    for step in range(4):
        start = time.perf_counter()
        samples = [draws[step * batch + k].to(device) for k in range(batch)]
        losses = model.losses([s.image for s in samples], [s.target for s in samples])
        torch.autograd.backward(torch.stack(list(losses.values())).sum())
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        times.append(time.perf_counter() - start)
    return statistics.median(times[1:]), recipe.train.for_images(len(dataset)).iterations


def _hours(seconds: float) -> str:
    return f"{seconds / 3600:.1f} h" if seconds >= 3600 else f"{seconds / 60:.1f} min"

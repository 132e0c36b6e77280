"""`banet ablate`: the rows of Tables 2 and 3 of the paper as one study that goes on where it was stopped."""

from __future__ import annotations

import csv
import io
import json
import math
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from banet.engine.datasets import Draws, training_set
from banet.engine.device import pick_device
from banet.engine.evaluate import evaluate
from banet.engine.pictures import open_pictures
from banet.engine.recipe import Recipe, to_yaml
from banet.engine.train import build_for_training, train
from banet.errors import InputError, MissingExtraError
from banet.modeling.banet import BANet
from banet.modeling.config import BackboneName, RuleName
from banet.panoptic.coco_format import atomic_path, write_json
from banet.panoptic.quality import to_json

__all__ = ["COLUMNS", "TABLES", "Row", "ablate", "collect", "to_markdown"]

COLUMNS = (
    "PQ", "SQ", "RQ", "PQ^Th", "SQ^Th", "RQ^Th", "PQ^St", "SQ^St", "RQ^St", "AP", "mIoU^St",
)  # fmt: skip


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

    @property
    def network(self) -> str:
        """Name of the weights, for a folder."""
        parts = [name for name in ("sim", "ocm", "s2i", "deformable") if self.model.get(name)]
        return "_".join([*([self.model["backbone"]] if "backbone" in self.model else []), *(parts or ["baseline"])])


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
    rows: tuple[tuple[str, BackboneName, bool, tuple[float, float, float]], ...] = (
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


def ablate(
    recipe: Recipe,
    out: Path,
    *,
    table: str = "2",
    seeds: Sequence[int] = (0, 1, 2),
    device: str = "auto",
    dry_run: bool = False,
) -> Path | None:
    """Train each distinct network of a table once a seed, measure every row, and write the table.

    Killed and started again it goes on where it was: finished networks are not trained again, an unfinished one goes on
    from its last checkpoint, and measured rows are read from their files.

    Args:
        recipe: Data, schedule and widths; the rows change the composition and the rule only.
        out: Folder of the study: one run a network and seed, and `table.md`, `table.csv`, `table.png`.
        table: `2` or `3`.
        seeds: Of the training.
        device: `auto`, `cpu`, `cuda` or `mps`.
        dry_run: Only print what would be trained and how long that may take, from a few timed steps.

    Returns:
        The Markdown table, or None for a dry run.

    Raises:
        InputError: An unknown table, no seed, bad data, or a folder that holds a study of another recipe.
    """
    if table not in TABLES:
        raise InputError(f"--table {table}: there are {', '.join(TABLES)}")
    if not seeds or len(set(seeds)) != len(seeds):
        raise InputError("--seeds: give one or more different numbers")
    rows = TABLES[table]
    networks = {row.network: row for row in rows}
    if dry_run:
        _estimate(recipe, out, networks, seeds, device)
        return None
    _claim(recipe, out)
    for seed in seeds:
        for name, row in networks.items():
            folder = out / name / f"seed{seed}"
            if not (folder / "model.safetensors").is_file():
                print(f"\n{name}, seed {seed}")
                train(_row_recipe(recipe, row, seed), folder, resume="auto", device=device)
    for seed in seeds:
        for row in rows:
            _measure(recipe, out, row, seed, device)
    report = _report(recipe, out, rows, seeds)
    print(f"\n{report.read_text(encoding='utf-8')}\nwritten: {out}/table.md, table.csv, table.png")
    return report


def _row_recipe(recipe: Recipe, row: Row, seed: int) -> Recipe:
    model = replace(recipe.model, **row.model)
    return replace(
        recipe,
        name=f"{recipe.name}_{row.network}",
        model=model,
        inference=replace(recipe.inference, rule=row.rule),
        train=replace(recipe.train, seed=seed),
    )


def _claim(recipe: Recipe, out: Path) -> None:
    """Keep the recipe beside the study, and refuse a folder that holds another one's."""
    out.mkdir(parents=True, exist_ok=True)
    kept, text = out / "recipe.yaml", to_yaml(recipe)
    if kept.is_file() and kept.read_text(encoding="utf-8") != text:
        raise InputError(f"{kept}: this study was begun with another recipe; choose another --out")
    with atomic_path(kept) as temporary:
        temporary.write_text(text, encoding="utf-8")


def _metrics_path(out: Path, row: Row, seed: int) -> Path:
    return out / row.network / f"seed{seed}" / f"metrics_{row.rule}.json"


def _measure(recipe: Recipe, out: Path, row: Row, seed: int, device: str) -> None:
    path = _metrics_path(out, row, seed)
    if path.is_file():
        return
    model = BANet.from_pretrained(path.parent, device=pick_device(device))
    model.inference = replace(model.inference, rule=row.rule)
    write_json(path, to_json(evaluate(model, open_pictures(recipe.data), source=recipe.name)))


def collect(out: Path, rows: Sequence[Row], seeds: Sequence[int]) -> dict[str, dict[str, list[float]]]:
    """Figures of a study in per cent: by row and column, one a seed; NaN where no class occurs."""
    table: dict[str, dict[str, list[float]]] = {}
    for row in rows:
        columns: dict[str, list[float]] = {column: [] for column in COLUMNS}
        for seed in seeds:
            for column, value in _figures(json.loads(_metrics_path(out, row, seed).read_text())).items():
                columns[column].append(value)
        table[row.name] = columns
    return table


def _figures(metrics: Mapping[str, Any]) -> dict[str, float]:
    shares = [metrics[subset][kind] for subset in ("All", "Things", "Stuff") for kind in ("pq", "sq", "rq")]
    shares += [metrics["ap"], metrics["miou_stuff"]]
    return {column: math.nan if share is None else 100 * share for column, share in zip(COLUMNS, shares, strict=True)}


def _spread(values: Sequence[float]) -> str:
    """Mean and sample standard deviation."""
    known = [value for value in values if not math.isnan(value)]
    if not known:
        return "-"
    mean = statistics.fmean(known)
    return f"{mean:.1f}" if len(known) == 1 else f"{mean:.1f} ± {statistics.stdev(known):.1f}"


def to_markdown(table: Mapping[str, Mapping[str, Sequence[float]]], rows: Sequence[Row]) -> str:
    """The table in the paper's layout: each row's mean ± standard deviation, the paper's COCO figures below it."""
    lines = [f"| row | {' | '.join(COLUMNS)} |", f"|---|{'---|' * len(COLUMNS)}"]
    for row in rows:
        lines.append(f"| {row.name} | {' | '.join(_spread(table[row.name][column]) for column in COLUMNS)} |")
        paper = (f"*{row.paper[column]:.1f}*" if column in row.paper else "" for column in COLUMNS)
        lines.append(f"| *the paper's, on COCO* | {' | '.join(paper)} |")
    return "\n".join(lines)


def _report(recipe: Recipe, out: Path, rows: Sequence[Row], seeds: Sequence[int]) -> Path:
    table = collect(out, rows, seeds)
    title = f"{recipe.name}, {len(seeds)} seeds, mean ± standard deviation in per cent"
    with atomic_path(out / "table.md") as temporary:
        temporary.write_text(f"{title}\n\n{to_markdown(table, rows)}\n", encoding="utf-8")
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(["row", "seed", *COLUMNS])
    for name, columns in table.items():
        for position, seed in enumerate(seeds):
            writer.writerow([name, seed, *(f"{columns[column][position]:.3f}" for column in COLUMNS)])
    with atomic_path(out / "table.csv") as temporary:
        temporary.write_text(text.getvalue(), encoding="utf-8")
    _plot(table, out / "table.png", title)
    return out / "table.md"


def _plot(table: Mapping[str, Mapping[str, Sequence[float]]], path: Path, title: str) -> None:
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise MissingExtraError("matplotlib", "train") from None
    figure = Figure(figsize=(9, 3.5), layout="constrained")
    for axes, column in zip(figure.subplots(1, 3, sharey=True), ("PQ", "PQ^Th", "PQ^St"), strict=True):
        for place, columns in enumerate(table.values()):
            known = [value for value in columns[column] if not math.isnan(value)]
            axes.plot(known, [place] * len(known), "o", color="tab:blue", alpha=0.5)
            if known:
                axes.plot(statistics.fmean(known), place, "|", color="black", markersize=16)
        axes.set_yticks(range(len(table)), list(table))
        axes.invert_yaxis()
        axes.set_title(column)
        axes.grid(axis="x", alpha=0.3)
    figure.suptitle(title)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=120)


def _estimate(recipe: Recipe, out: Path, networks: Mapping[str, Row], seeds: Sequence[int], device: str) -> None:
    target = pick_device(device)
    total = 0.0
    print(f"{'network':<28}{'seeds to train':<18}{'a step':>10}{'a run':>12}")
    for name, row in networks.items():
        wanted = [seed for seed in seeds if not (out / name / f"seed{seed}" / "model.safetensors").is_file()]
        seconds = _step_seconds(_row_recipe(recipe, row, 0), target) if wanted else 0.0
        run = seconds * recipe.train.iterations
        total += run * len(wanted)
        print(f"{name:<28}{', '.join(map(str, wanted)) or 'none':<18}{seconds:>8.2f} s{_hours(run):>12}")
    print(f"about {_hours(total)} on {target.type} in all, measuring not counted")


def _step_seconds(recipe: Recipe, device: torch.device) -> float:
    """Median of three training steps after a first one, loading included."""
    dataset = training_set(recipe.data)
    without_weights = replace(recipe, train=replace(recipe.train, init="random"), model=recipe.resolved().model)
    model = build_for_training(without_weights, dataset).to(device)
    draws, batch = Draws(dataset, recipe.train.seed), recipe.train.batch
    times = []
    for step in range(4):
        start = time.perf_counter()
        samples = [draws[step * batch + k].to(device) for k in range(batch)]
        losses = model.losses([s.image for s in samples], [s.target for s in samples])
        torch.autograd.backward(torch.stack(list(losses.values())).sum())
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        times.append(time.perf_counter() - start)
    return statistics.median(times[1:])


def _hours(seconds: float) -> str:
    return f"{seconds / 3600:.1f} h" if seconds >= 3600 else f"{seconds / 60:.1f} min"

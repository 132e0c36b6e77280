"""The curves of a run as one image."""

from __future__ import annotations

import csv
from pathlib import Path

from banet.errors import MissingExtraError
from banet.files.atomic import atomic_path

try:
    from matplotlib.figure import Figure
except ImportError:
    raise MissingExtraError("matplotlib", "train") from None

__all__ = ["plot_log"]

_LINES = {"val/pq": "all", "val/pq_th": "things", "val/pq_st": "stuff"}


def plot_log(log: Path, image: Path) -> None:
    """Plot the losses of a run by iteration and, where it was measured, PQ.

    Args:
        log: The CSV file that `CsvLog` writes.
        image: The PNG to write.
    """
    with log.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))

    def curve(column: str) -> tuple[list[int], list[float]]:
        points = [(int(row["step"]) + 1, float(row[column])) for row in rows if row.get(column)]
        return [step for step, _ in points], [value for _, value in points]

    measured = any(row.get("val/pq") for row in rows)
    figure = Figure(figsize=(11 if measured else 6, 4), layout="constrained")
    losses, *others = figure.subplots(1, 2 if measured else 1, squeeze=False)[0]
    parts = sorted({name for row in rows for name in row if name.startswith("loss_")})
    losses.plot(*curve("loss"), color="black", label="sum")
    for name in parts:
        losses.plot(*curve(name), linewidth=0.8, label=name.removeprefix("loss_"))
    losses.set(xlabel="iteration", ylabel="loss", yscale="log")
    losses.legend(fontsize=7)
    for axis in others:
        for column, label in _LINES.items():
            axis.plot(*curve(column), marker="o", label=label)
        axis.set(xlabel="iteration", ylabel="PQ on the validation split")
        axis.legend(fontsize=7)
    with atomic_path(image) as temporary:
        figure.savefig(temporary, format="png", dpi=100)

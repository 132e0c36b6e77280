"""The log of a run as one CSV file, which a resumed run continues."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from banet.errors import MissingExtraError
from banet.files.atomic import atomic_path

try:
    from lightning.pytorch.loggers import Logger
    from lightning.pytorch.utilities import rank_zero_only
except ImportError:
    raise MissingExtraError("lightning", "train") from None

__all__ = ["CsvLog"]


class CsvLog(Logger):
    """Write metrics by iteration to one CSV file, which a resumed run continues.

    Lightning's own logger deletes the file of the previous run.

    Args:
        path: The file.
        start: Iteration that the run resumes from; later lines are dropped, as they are computed again.
    """

    def __init__(self, path: Path, start: int = 0) -> None:
        super().__init__()
        self.path = path
        self.columns = ["step"]
        self._rows: list[dict[str, Any]] | None = []  # to write first; None once the file is this run's
        self._pending: list[dict[str, Any]] = []
        if start and path.is_file():
            with path.open(newline="", encoding="utf-8") as file:
                reader = csv.DictReader(file)
                self.columns = list(reader.fieldnames or self.columns)
                # A kill may have cut the last line.
                self._rows = [r for r in reader if None not in r.values() and 0 <= int(r["step"] or -1) < start]

    @property
    def name(self) -> str:
        """Return the name of the log."""
        return "log"

    @property
    def version(self) -> str:
        """Return an empty string: a run has one log."""
        return ""

    @rank_zero_only
    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        """Write nothing: the options are in the run's `recipe.yaml`."""

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Add a line, or to the line of the same step."""
        if not self._pending or self._pending[-1]["step"] != step:
            self._pending.append({"step": step})
        self._pending[-1].update(metrics)

    @rank_zero_only
    def save(self) -> None:
        """Append the new lines; where they have a new column, write the whole file anew."""
        if not self._pending:
            return
        columns = self.columns + sorted({name for row in self._pending for name in row} - set(self.columns))
        if self._rows is None and columns == self.columns:
            with self.path.open("a", newline="", encoding="utf-8") as file:
                csv.DictWriter(file, columns).writerows(self._pending)
        else:
            rows = self._read() if self._rows is None else self._rows
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with (
                atomic_path(self.path, grows=True) as temporary,
                temporary.open("w", newline="", encoding="utf-8") as file,
            ):
                writer = csv.DictWriter(file, columns)
                writer.writeheader()
                writer.writerows([*rows, *self._pending])
        self.columns, self._rows, self._pending = columns, None, []

    def _read(self) -> list[dict[str, Any]]:
        with self.path.open(newline="", encoding="utf-8") as file:
            return list(csv.DictReader(file))

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """Write the lines that are left."""
        self.save()

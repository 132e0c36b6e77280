"""The report of a study of aggregation."""

from __future__ import annotations

from pathlib import Path


def write_report(out: Path, docs: Path) -> None:
    raise NotImplementedError

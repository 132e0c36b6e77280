"""Trainings in processes of their own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from banet.engine.recipe import Recipe, to_yaml


def launcher(processes: int) -> list[str]:
    """What starts `-m` modules in so many processes."""
    torchrun = ["torch.distributed.run", "--standalone", "--nproc-per-node", str(processes), "-m"]
    return [sys.executable, "-m", *(torchrun if processes > 1 else [])]


def command(recipe: Recipe, out: Path, *options: str, processes: int = 1) -> list[str]:
    """`banet train` of a recipe, by torchrun where there are several processes."""
    path = out.parent / f"{out.name}.yaml"
    path.write_text(to_yaml(recipe))
    return [
        *launcher(processes), "banet", "train", "--config", str(path), "--out", str(out),
        "--device", "cpu", *options,
    ]  # fmt: skip


def environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1"}


def run(command: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=600)

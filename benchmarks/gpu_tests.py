"""The first stage of `gpu.py`: the tests of CUDA, a process per file."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from functools import partial
from tempfile import TemporaryDirectory

from gpu_items import ROOT, Figures, Item, Setup

FILES = ("operators", "networks", "commands")
ELSEWHERE = ("tests/ops/test_roi_inlay.py", "tests/panoptic/test_occlusion.py")
"""Beside the tests of the CPU; only CUDA runs them."""


def items() -> list[Item]:
    """Return an item per file of tests."""
    return [Item(name, partial(run_tests, f"tests/gpu/test_gpu_{name}.py"), 150) for name in FILES]


def run_tests(path: str, setup: Setup) -> Figures:
    """Run a file of tests; failures are figures too, and are named."""
    with TemporaryDirectory() as folder:
        figures = f"{folder}/figures.json"
        environment = {**os.environ, "BANET_GPU_TESTS": setup.device, "BANET_GPU_JSON": figures}
        paths = [path, *(ELSEWHERE if "operators" in path and setup.device == "cuda" else ())]
        command = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "-p", "no:cacheprovider", *paths]
        process = subprocess.run(
            command, cwd=ROOT, env=environment, stdout=sys.stderr, timeout=max(setup.until - time.time() - 2, 1)
        )
        if process.returncode not in (0, 1):
            raise RuntimeError(f"pytest ended with {process.returncode}")
        with open(figures, encoding="utf-8") as file:
            found: Figures = json.load(file)
    return found

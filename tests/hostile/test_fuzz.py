"""Damaged files end in a sound answer or in a clear error; see fuzz.py."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc")


def fuzz(cases: int, seed: int) -> None:
    script = Path(__file__).with_name("fuzz.py")
    command = [sys.executable, str(script), "--cases", str(cases), "--seed", str(seed)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr[-3000:]}"


def test_500_damaged_files() -> None:
    fuzz(500, 0)


@pytest.mark.slow
def test_20_000_damaged_files() -> None:
    fuzz(20_000, 10)

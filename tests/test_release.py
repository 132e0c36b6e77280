"""A release can be built again, by anybody, to the same byte."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def build(folder: Path, clock: int, umask: int) -> dict[str, str]:
    """Names and digests of the wheel and the sdist that a copy of the tracked files, as old as `clock`, gives."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in filter(None, listed.split("\0")):
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, target)
        os.utime(target, (clock, clock))
    command = [sys.executable, "-m", "hatchling", "build", "-d", "dist"]
    subprocess.run(command, cwd=folder, umask=umask, check=True, capture_output=True)
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in (folder / "dist").iterdir()}


@pytest.mark.slow
@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="needs the repository")
def test_a_release_is_built_to_the_same_byte(tmp_path: Path) -> None:
    pytest.importorskip("hatchling")
    one = build(tmp_path / "one", 10**9, 0o022)
    assert len(one) == 2
    assert one == build(tmp_path / "some" / "deeper place", 2 * 10**9, 0o077)

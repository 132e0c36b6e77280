"""Temporary folders: deleted with their object, and where their process was killed, by the next one."""

from __future__ import annotations

import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from banet.files import scratch
from banet.files.scratch import ScratchFolder, hold, remove_abandoned

CODE = """
from banet.files.scratch import ScratchFolder
folder = ScratchFolder()
(folder.path / "half").write_bytes(b"a part")
print(folder.path, flush=True)
input()
"""


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))


@pytest.mark.skipif(scratch.fcntl is None, reason="no such locks here")
def test_those_of_killed_processes_are_removed_and_no_others(tmp_path: Path) -> None:
    processes = [
        subprocess.Popen([sys.executable, "-c", CODE], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    killed, alive = (Path(process.stdout.readline().strip()) for process in processes if process.stdout)
    foreign = tmp_path / "banet-scratch-foreign"  # without a lock: about to get it, or somebody else's
    foreign.mkdir()
    processes[0].send_signal(signal.SIGKILL)
    processes[0].wait()
    assert (killed / "half").exists()
    own = ScratchFolder()
    assert not killed.exists() and (alive / "half").exists() and foreign.exists() and own.path.exists()
    processes[1].communicate("\n")
    own.delete()
    assert list(tmp_path.iterdir()) == [foreign]


@pytest.mark.skipif(scratch.fcntl is None, reason="no such locks here")
def test_a_folder_that_is_held_is_not_removed(tmp_path: Path) -> None:
    with hold(tmp_path):
        remove_abandoned([tmp_path, tmp_path / "gone"])
        assert tmp_path.exists()
    remove_abandoned([tmp_path])
    assert not tmp_path.exists()

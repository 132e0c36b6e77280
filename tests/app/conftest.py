"""The page over a network that finds two boxes, and over the real one in a process of its own."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pages import ROOT, Server


@pytest.fixture(scope="session")
def app() -> Any:
    """The package; tests skip where Starlette is not installed."""
    pytest.importorskip("starlette")
    pytest.importorskip("uvicorn")
    import banet.app

    return banet.app


@pytest.fixture(scope="session")
def model() -> Any:
    from banet.inference.banet import BANet

    return BANet.from_pretrained("scenes")


@pytest.fixture(scope="session")
def server(app, tmp_path_factory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("app")
    homes = {name: str(folder / name.lower()) for name in ("HOME", "TMPDIR", "CWD")}
    for home in homes.values():
        Path(home).mkdir()
    process = subprocess.Popen(
        [sys.executable, "-m", "banet", "app", "--port", "0", "--device", "cpu"],
        cwd=homes["CWD"],
        env={**os.environ, **homes, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        text=True,
    )
    said = process.stdout.readline()
    running = Server(int(re.fullmatch(r"scenes on http://127\.0\.0\.1:(\d+) .*\n", said)[1]), process, folder)
    yield running
    process.send_signal(signal.SIGINT)
    assert process.wait(300) == 0
    assert running.files() == []

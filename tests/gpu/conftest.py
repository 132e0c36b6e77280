"""Tests of CUDA, whose bodies also run on the CPU: `BANET_GPU_TESTS=cpu pytest -m gpu tests/gpu` rehearses them.

What only CUDA can show is asserted behind `only_cuda`; a rehearsal counts these assertions and prints their number.
With `BANET_GPU_JSON` the numbers of a session go to that file.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

_left_out: list[str] = []
_outcomes: dict[str, list[str]] = {"passed": [], "failed": [], "skipped": []}


@pytest.fixture(scope="session")
def device() -> torch.device:
    """Return where the tests compute: CUDA, or the CPU in a rehearsal."""
    wanted = torch.device(os.environ.get("BANET_GPU_TESTS", "cuda"))
    if wanted.type == "cuda" and not torch.cuda.is_available():
        pytest.skip("needs CUDA")
    return wanted


@pytest.fixture
def only_cuda(device: torch.device, request: pytest.FixtureRequest) -> Callable[[], bool]:
    """Return what an assertion on CUDA itself is behind: `if only_cuda(): assert …`."""

    def there() -> bool:
        if device.type != "cuda":
            _left_out.append(request.node.nodeid)
        return device.type == "cuda"

    return there


@pytest.fixture(autouse=True)
def _seed() -> Iterator[None]:
    torch.manual_seed(0)
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False  # results are compared
    yield
    torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if report.when == "call" or report.outcome != "passed":
        _outcomes[report.outcome].append(report.nodeid)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if _left_out:
        terminalreporter.write_line(f"{len(_left_out)} assertions on CUDA itself left out: this is a rehearsal")
    if path := os.environ.get("BANET_GPU_JSON"):
        numbers = {key: len(names) for key, names in _outcomes.items()}
        content = {**numbers, "failures": _outcomes["failed"], "cuda_assertions_left_out": len(_left_out)}
        Path(path).write_text(json.dumps(content), encoding="utf-8")

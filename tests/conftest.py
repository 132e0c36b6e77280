"""Settings of all tests."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator

import pytest
from hypothesis import settings

# No example has a time limit: a busy machine is not a fault of the code.
settings.register_profile("banet", deadline=None)
settings.load_profile("banet")

# A shell ignores Ctrl-C in what it starts in the background, and tests send it.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Tests that import OpenVINO by themselves send no usage report either (`banet.engine.export.runtime.import_openvino`).
sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """Sums come out to the same bit as in a process of one thread; networks make large differences of small ones."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)

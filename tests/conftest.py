"""Settings of all tests."""

from __future__ import annotations

import sys

from hypothesis import settings

# No example has a time limit: a busy machine is not a fault of the code.
settings.register_profile("banet", deadline=None)
settings.load_profile("banet")

# Tests that import OpenVINO by themselves send no usage report either (`banet.engine.export.runtime.import_openvino`).
sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]

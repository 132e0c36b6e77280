"""The command for the first GPU, rehearsed on the CPU: killed at a random moment, and called again twice."""

from __future__ import annotations

import json
import math
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
STAGES = {"tests": 3, "speed": 10, "trunks": 3, "arms": 3, "weights": 2}
FIGURES = {
    "tests": {"passed", "failed", "skipped", "failures", "cuda_assertions_left_out"},
    "speed inference": {"images_per_second", "share_outside_network", "peak_gib"},
    "speed training": {"images_per_second", "peak_gib"},
    "speed host": {"training", "training_waits", "inference", "inference_waits", "gpu_busy", "kernels"},
    "speed roi_inlay": {"forward_ms", "backward_ms"},
    "speed memory": {"images_per_second"},
    "speed compiled": {"images_per_second"},
    "trunks trunk": {"iterations", "boxes_found", "seconds_in_this_call"},
    "trunks scenes": {"one_process", "processes"},
    "arms": {"ap", "heuristic-218", "appearance-218"},
    "weights": {"iterations", "pq"},
}
"""What every item writes, on a GPU as well: by its stage and its first word."""


def command(out: Path, *more: str) -> list[str]:
    return [sys.executable, "benchmarks/gpu.py", "--rehearse", "--minutes", "60", "--out", str(out), *more]


def contents(out: Path) -> dict[str, Any]:
    # Hidden ones are not finished yet.
    return {path.stem: json.loads(path.read_text()) for path in sorted(out.glob("[!.]*.json"))}


def numbers(value: Any) -> Iterator[float]:
    if isinstance(value, dict):
        for each in value.values():
            yield from numbers(each)
    elif isinstance(value, (int, float)):
        yield value


def items(found: dict[str, Any]) -> dict[str, Any]:
    return {f"{stage} {name}": each for stage, content in found.items() for name, each in content["items"].items()}


def test_the_rehearsal_survives_a_kill_and_counts(tmp_path: Path) -> None:
    out, after = tmp_path / "out", random.randrange(2, 16)
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(command(out), cwd=ROOT, stdout=log, stderr=log)
        while process.poll() is None and len(items(contents(out) if out.is_dir() else {})) < after:
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
        process.wait()
    before = items(contents(out))  # every JSON is whole
    assert len(before) >= after, (tmp_path / "log").read_text()

    done = subprocess.run(command(out), cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    found = contents(out)
    assert {stage: len(content["items"]) for stage, content in found.items()} == STAGES, done.stdout
    assert not any(content["failed"] or content["unfinished"] for content in found.values())
    for name, figures in before.items():
        assert items(found)[name] == figures, f"{name} was measured again"
    for name, figures in items(found).items():
        keys = next(keys for word, keys in FIGURES.items() if name.startswith(word))
        assert set(figures) - {"seconds"} >= keys and figures["seconds"] >= 0, name
        assert all(math.isfinite(number) for number in numbers(figures)), name
    tests = found["tests"]["items"].values()
    assert not any(each["failed"] for each in tests), tests
    left_out = sum(each["cuda_assertions_left_out"] for each in tests)
    assert left_out > 5 and f"assertions on CUDA itself left out: {left_out}" in done.stdout

    texts = {path: path.read_bytes() for path in out.glob("*.json")}
    again = subprocess.run(command(out), cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert again.returncode == 0 and ": done" not in again.stdout
    assert {path: path.read_bytes() for path in out.glob("*.json")} == texts


@pytest.mark.parametrize(
    ("options", "said"),
    [(["--only", "tests", "--only", "sped"], "--only sped: choose tests, speed"), ([], "torch sees no GPU here")],
)
def test_what_cannot_be_run_is_said_in_one_line(options: list[str], said: str, tmp_path: Path) -> None:
    line = [sys.executable, "benchmarks/gpu.py", "--out", str(tmp_path), *options]
    done = subprocess.run([*line, *(["--rehearse"] if options else [])], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1 and said in done.stderr.splitlines()[-1]


def measured() -> dict[str, Any]:
    """What `gpu.py` writes on a GPU, with made-up figures."""
    machine = {"gpu": "Some GPU", "gpu_memory_gib": 24.0, "torch": "2.14", "cuda": "13.0", "cores": 8}
    rates = {"banet, 1": 10.0, "banet, 8": 20.0, "mask_rcnn, 8": 30.0}
    training = {"images_per_second": rates, "peak_gib": dict.fromkeys(rates, 2.0)}
    waits = {"training_waits": 9, "inference_waits": 7, "gpu_busy": 0.9, "kernels": 3000}
    return {"machine": machine, "items": {"training bf16": training, "host waits": waits}}


def test_figures_go_into_the_docs_and_nothing_does_without_them(tmp_path: Path) -> None:
    sys.path.insert(0, str(ROOT / "benchmarks"))
    import gpu_report

    docs, out = tmp_path / "docs", tmp_path / "out"
    for page in (gpu_report.PAGE, gpu_report.COCO):
        (docs / page).parent.mkdir(parents=True)
        (docs / page).write_text((ROOT / "docs" / page).read_text())
    out.mkdir()
    rehearsed = measured()
    rehearsed["machine"]["gpu_memory_gib"] = None
    for content in (None, rehearsed):
        if content is not None:
            (out / "speed.json").write_text(json.dumps(content))
        with pytest.raises(SystemExit, match="nothing was measured there on a GPU"):
            gpu_report.write(out, docs)
    (out / "speed.json").write_text(json.dumps(measured()))
    for _ in range(2):  # again and again the same
        gpu_report.write(out, docs)
        text = (docs / gpu_report.PAGE).read_text()
        assert text.count("## On a GPU") == 1 and "| banet, 8 | 20.0 | 2.0 |" in text
        assert "### Inference" not in text and "### RoIInlay" not in text  # no table without figures
        assert text.endswith((ROOT / "docs" / gpu_report.PAGE).read_text().split(gpu_report.END)[1])
        (row,) = (line for line in (docs / gpu_report.COCO).read_text().splitlines() if line.startswith("| time |"))
        assert row.startswith("| time | 20 hours on one Some GPU (bf16, 20.0 images per second)")

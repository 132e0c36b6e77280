"""The benchmarks' harness: turns, medians, ratios that are refused, memory, JSON; and that every benchmark uses it."""

from __future__ import annotations

import argparse
import ast
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
NOT_MEASURING = {
    *("harness.py", "occlusion_pairs.py", "coco_public_weights.py"),
    *("claim_arms.py", "claim_measures.py", "claim_plans.py", "claim_read_outs.py", "claim_report.py"),
    *("gpu_items.py", "gpu_report.py", "gpu_runs.py", "gpu_speed.py", "gpu_tests.py", "gpu_wheels.py"),
}
OWN_REPORT = "gpu.py"  # it may be killed at any time, so it writes each figure at once
sys.path.insert(0, str(BENCHMARKS))

import harness  # noqa: E402

SECONDS = st.lists(st.floats(1e-3, 1e3), min_size=1, max_size=9)


def test_contestants_take_turns_and_warm_up_does_not_count() -> None:
    order: list[str] = []
    turns = harness.take_turns({"a": lambda: order.append("a"), "b": lambda: order.append("b")}, 3, warm_up=2)
    assert order == ["a", "b"] * 5
    assert {name: len(taken) for name, taken in turns.seconds.items()} == {"a": 3, "b": 3}
    given_seconds = iter([9.0, 3.0, 1.0, 2.0])
    assert harness.collect({"a": lambda: next(given_seconds)}, 3, warm_up=1).median("a") == 2.0


def test_the_device_is_waited_for_before_each_look_at_the_clock() -> None:
    order: list[str] = []
    harness.take_turns({"a": lambda: order.append("a")}, 2, warm_up=0, synchronize=lambda: order.append("wait"))
    assert order == ["wait", "a", "wait"] * 2


def test_no_turn_is_an_error() -> None:
    with pytest.raises(ValueError, match="at least 1, not 0"):
        harness.take_turns({"a": lambda: None}, 0)


@pytest.mark.parametrize(
    ("mine", "other", "ratio"),
    [
        ([2.0, 2.0, 2.0, 2.0], [4.0, 4.0, 4.0, 4.0], "0.50"),
        ([2.0, 20.0, 2.0, 20.0], [4.0, 40.0, 4.0, 40.0], "0.50"),  # both slow at once: the ratio holds
        ([1.0, 1.0, 1.14, 1.14], [1.0, 1.0, 1.0, 1.0], "1.07"),
        ([1.0, 1.0, 1.17, 1.17], [1.0, 1.0, 1.0, 1.0], "unsteady: 1.00, then 1.17"),
        ([1.17, 1.17, 1.0, 1.0], [1.0, 1.0, 1.0, 1.0], "unsteady: 1.17, then 1.00"),
        ([1.0, 7.0, 1.0], [1.0, 1.0, 1.0], "1.00"),  # of three turns the middle one is in neither half
        ([3.0], [2.0], "1.50"),  # one turn has no halves
    ],
)
def test_a_ratio_is_refused_where_the_halves_disagree(mine: list[float], other: list[float], ratio: str) -> None:
    turns = harness.Turns({"mine": mine, "other": other})
    assert turns.ratio_text("mine", "other") == ratio
    if ratio.startswith("unsteady"):
        with pytest.raises(harness.UnsteadyError, match="quieter machine"):
            turns.ratio("mine", "other")


@given(SECONDS, st.floats(0.01, 100), st.floats(0.01, 100))
def test_a_ratio_neither_depends_on_the_speed_of_the_machine_nor_on_the_order(
    taken: list[float], factor: float, speed: float
) -> None:
    turns = harness.Turns({"a": [factor * one for one in taken], "b": taken})
    slower = harness.Turns({name: [speed * one for one in each] for name, each in turns.seconds.items()})
    assert turns.ratio("a", "b") == pytest.approx(factor) == pytest.approx(1 / turns.ratio("b", "a"))
    assert slower.ratio("a", "b") == pytest.approx(factor)


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="Linux only")
def test_the_rise_of_memory_is_that_of_the_call() -> None:
    code = "import harness, mmap; print(harness.rise(lambda: len(bytearray(64 << 20)))); print(harness.resident())"
    done = subprocess.run([sys.executable, "-c", code], cwd=BENCHMARKS, capture_output=True, text=True, check=True)
    risen, resident = map(int, done.stdout.split())
    assert 60 << 20 < risen < 80 << 20
    assert resident < 60 << 20


def test_a_program_is_measured_from_outside(tmp_path: Path) -> None:
    held = bytearray(400 << 20)  # memory of this process is not the program's
    seconds, peak = harness.run_program([sys.executable, "-c", "x = bytearray(64 << 20)"])
    del held
    assert seconds > 0
    assert 64 << 20 < peak < 160 << 20
    with pytest.raises(SystemExit, match="ended with 3"):
        harness.run_program([sys.executable, "-c", "raise SystemExit(3)"])
    script = tmp_path / "script.py"
    script.write_text("import sys\nprint('first')\nprint(*sys.argv[1:])\n")
    assert harness.own_process(str(script), 1, Path("a")) == "1 a"


def test_a_report_has_the_machine_and_every_turn(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = argparse.Namespace(json=tmp_path / "figures.json")
    turns = harness.Turns({"a": [1.0, 2.0], 7: [3.0, 4.0]})
    with harness.Report(options, "benchmarks/made_up.py") as report:
        report.say("only said")
        report.say("ratio 2", ratio=2)
        report.turns("both", turns)
    content = json.loads(options.json.read_text())
    assert content["benchmark"] == "made_up"
    assert content["figures"] == [
        {"text": "ratio 2", "ratio": 2},
        {"title": "both", "seconds": {"a": [1.0, 2.0], "7": [3.0, 4.0]}},
    ]
    assert content["machine"]["cores"] >= 1 and content["machine"]["numpy"]
    printed = capsys.readouterr().out
    assert content["machine"]["processor"] in printed.splitlines()[0] and "only said" in printed
    assert [path.name for path in tmp_path.iterdir()] == ["figures.json"]


def test_a_run_that_failed_leaves_the_earlier_figures(tmp_path: Path) -> None:
    options = argparse.Namespace(json=tmp_path / "figures.json")
    options.json.write_text("earlier")
    with pytest.raises(RuntimeError), harness.Report(options, "made_up.py"):
        raise RuntimeError
    assert options.json.read_text() == "earlier"


def test_threads_are_set_before_numpy_loads(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        f"import sys; sys.path.insert(0, {str(BENCHMARKS)!r})\n"
        "import os, harness\nharness.use_threads(3)\nprint(os.environ['OMP_NUM_THREADS'], sys.argv[1])\n"
    )
    assert harness.own_process(str(script), "kept") == "3 kept"


# ----------------------------------------------------------------------------------------------------------- benchmarks


def measuring() -> list[Path]:
    return [path for path in sorted(BENCHMARKS.glob("*.py")) if path.name not in NOT_MEASURING]


@pytest.mark.parametrize("path", [path for path in measuring() if path.name != OWN_REPORT], ids=lambda path: path.name)
def test_benchmarks_leave_turns_medians_and_memory_to_the_harness(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    taken: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module == "harness":
            taken |= {alias.name for alias in node.names}
    assert {"Report", "parser"} <= taken
    text = path.read_text(encoding="utf-8")
    own = [
        word for word in ("statistics.median", "getrusage", "clear_refs", "VmHWM", "ArgumentParser(") if word in text
    ]
    assert own == []


def test_the_readme_has_a_row_for_every_benchmark() -> None:
    text = (BENCHMARKS / "README.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(\w+\.py)` \|.*`python benchmarks/(\w+\.py)[^`]*` \|$", text, re.M)
    assert all(name == command for name, command in rows)
    assert sorted(name for name, _ in rows) == [path.name for path in measuring()]
    assert all(f"`{name}`" in text for name in NOT_MEASURING)


def test_what_benchmarks_take_from_each_other_is_there() -> None:
    trees = {path.stem: ast.parse(path.read_text(encoding="utf-8")) for path in BENCHMARKS.glob("*.py")}
    missing = []
    for name, tree in trees.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and node.module in trees:
                there = {name.id for name in ast.walk(trees[node.module]) if isinstance(name, ast.Name)}
                there |= {getattr(one, "name", "") for one in trees[node.module].body}
                missing += [f"{name}: {node.module}.{one.name}" for one in node.names if one.name not in there]
    assert not missing

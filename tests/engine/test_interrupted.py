"""What is left of a run that is killed, starved of disk space or started twice, and how it goes on."""

from __future__ import annotations

import csv
import errno
import os
import random
import resource
import shutil
import signal
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from factories import TINY, with_train
from own_processes import command, start
from safetensors import safe_open
from safetensors.torch import load_file

from banet.cli import main
from banet.engine.recipe import Recipe
from banet.engine.training import checkpointing
from banet.engine.training.csv_log import CsvLog
from banet.engine.training.train import train
from banet.errors import InputError, InputWarning

pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.usefixtures("one_thread")]

MEASURED = replace(with_train(TINY, iterations=8, val_every=3), data=replace(TINY.data, val_scenes=1))


UNMEASURED = with_train(MEASURED, val_every=0)


@pytest.fixture(scope="module")
def whole(one_thread: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An undisturbed run."""
    out = tmp_path_factory.mktemp("whole") / "run"
    train(MEASURED, out, device="cpu")
    return out


@pytest.fixture(scope="module")
def unmeasured(one_thread: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An undisturbed run that is measured at its end only."""
    out = tmp_path_factory.mktemp("unmeasured") / "run"
    train(UNMEASURED, out, device="cpu")
    return out


def go_on(recipe: Recipe, out: Path) -> None:
    torch.set_num_threads(1)
    sys.stdout = sys.stderr = open(os.devnull, "w")  # noqa: SIM115
    train(recipe, out, resume="auto", device="cpu")


def go_on_and_hang_while_saving(recipe: Recipe, out: Path, saves: int) -> None:
    """Writes so many checkpoints, and stops for good in the middle of the next one."""
    calls = iter(range(saves))
    real = os.fsync
    checkpointing.os.fsync = lambda number: real(number) if next(calls, None) is not None else time.sleep(600)  # type: ignore
    go_on(recipe, out)


def command_on_a_small_disk(arguments: list[str], limit: int, said: Path) -> None:
    torch.set_num_threads(1)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    sys.stdout = open(os.devnull, "w")  # noqa: SIM115
    sys.stderr = said.open("w")
    status = main(arguments)
    sys.stderr.close()
    os._exit(status)


def step_saved(out: Path) -> int:
    path = out / checkpointing.LAST
    return int(torch.load(path, weights_only=True)["global_step"]) if path.exists() else 0


def assert_same_run(one: Path, other: Path) -> None:
    """Final and best weights, what is written beside them, the log, and all that a further run would start from."""
    for name in ("model.safetensors", "best.safetensors"):
        assert (one / name).exists() == (other / name).exists()
        if (one / name).exists():
            ours, theirs = load_file(one / name), load_file(other / name)
            for tensor in ours:
                torch.testing.assert_close(ours[tensor], theirs[tensor], rtol=1e-5, atol=1e-6, msg=tensor)
            with safe_open(one / name, "pt") as a, safe_open(other / name, "pt") as b:
                assert a.metadata() == b.metadata()
    last = [torch.load(folder / checkpointing.LAST, weights_only=True) for folder in (one, other)]
    assert last[0]["callbacks"].keys() == last[1]["callbacks"].keys()
    torch.testing.assert_close(last[0]["optimizer_states"], last[1]["optimizer_states"], rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(last[0]["current_model_state"], last[1]["current_model_state"], rtol=1e-5, atol=1e-6)
    logs = []
    for folder in (one, other):
        with (folder / "log" / "metrics.csv").open() as file:
            logs.append([{k: float(v or -1) for k, v in row.items()} for row in csv.DictReader(file)])
    assert len(logs[0]) == len(logs[1])
    for ours, theirs in zip(*logs, strict=True):
        assert ours == pytest.approx(theirs, rel=1e-4, abs=1e-5)


@pytest.mark.parametrize(
    ("kills", "workers", "seed"),
    [
        pytest.param(3, 0, 0),
        pytest.param(40, 0, 1, marks=pytest.mark.slow),
        pytest.param(20, 1, 2, marks=pytest.mark.slow),
    ],
)
def test_killed_at_random_moments_a_run_goes_on_as_if_undisturbed(
    tmp_path: Path, kills: int, workers: int, seed: int
) -> None:
    recipe = replace(MEASURED, data=replace(MEASURED.data, workers=workers))
    began = time.monotonic()
    process = start(go_on, recipe, tmp_path / "whole")
    process.join()
    duration = time.monotonic() - began
    assert process.exitcode == 0

    moments, runs = random.Random(seed), 0
    while kills:
        out = tmp_path / f"run{runs}"
        process = start(go_on, recipe, out)
        process.join(moments.uniform(0, duration / 2))  # so that no run ends without a kill or two
        if process.is_alive():
            process.kill()
            kills -= 1
        process.join()
        assert process.exitcode in (0, -signal.SIGKILL)
        assert step_saved(out) >= 0  # loads, or is not there yet
        runs += process.exitcode == 0
    train(recipe, tmp_path / f"run{runs}", resume="auto", device="cpu")
    for run in range(runs + 1):
        assert_same_run(tmp_path / f"run{run}", tmp_path / "whole")


def test_killed_in_the_midst_of_saving_the_checkpoint_before_is_whole(tmp_path: Path, unmeasured: Path) -> None:
    out = tmp_path / "killed"
    process = start(go_on_and_hang_while_saving, UNMEASURED, out, 2)
    while len(list((out / "checkpoints").glob("*"))) < 2 or step_saved(out) < 4:
        assert process.is_alive()
        time.sleep(0.05)
    time.sleep(0.2)
    process.kill()
    process.join()
    assert step_saved(out) == 4
    half = [p for p in (out / "checkpoints").iterdir() if p.name != "last.ckpt"]
    assert len(half) == 1 and half[0].name.startswith(".last")
    train(UNMEASURED, out, resume="auto", device="cpu")
    assert [p.name for p in (out / "checkpoints").iterdir()] == ["last.ckpt"]
    assert_same_run(out, unmeasured)


def test_a_run_killed_before_its_weights_were_written_writes_them(tmp_path: Path, whole: Path) -> None:
    again = tmp_path / "run"
    shutil.copytree(whole, again)
    (again / "model.safetensors").unlink()
    (again / "README.md").unlink()
    train(MEASURED, again, resume="auto", device="cpu")
    assert_same_run(again, whole)
    assert (again / "README.md").read_text().replace(str(again), str(whole)) == (whole / "README.md").read_text()


def test_a_full_disk_stops_the_run_and_leaves_the_last_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, unmeasured: Path
) -> None:
    calls = iter(range(2))

    def full(number: int) -> None:
        if next(calls, None) is None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    out = tmp_path / "full"
    with monkeypatch.context() as patch:
        patch.setattr(checkpointing.os, "fsync", full)
        with pytest.raises(InputError, match=r"No space left.*last\.ckpt is whole; make room .* --resume auto") as said:
            train(UNMEASURED, out, device="cpu")
    assert "\n" not in str(said.value) and not (out / "model.safetensors").exists()
    assert step_saved(out) == 4 and [p.name for p in (out / "checkpoints").iterdir()] == ["last.ckpt"]
    train(UNMEASURED, out, resume="auto", device="cpu")
    assert_same_run(out, unmeasured)


def test_the_command_says_in_one_line_that_a_file_does_not_fit(tmp_path: Path) -> None:
    arguments = command(MEASURED, tmp_path / "out")[3:]
    process = start(command_on_a_small_disk, arguments, 1_000_000, tmp_path / "said")
    process.join()
    errors = [line for line in (tmp_path / "said").read_text().splitlines() if "banet: error" in line]
    assert process.exitcode == 2 and len(errors) == 1
    assert "no checkpoint yet; make room" in errors[0]
    assert not list((tmp_path / "out" / "checkpoints").iterdir())


def test_a_file_system_without_locks_is_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: object) -> None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    monkeypatch.setattr(checkpointing, "_lock", refuse)
    left = tmp_path / ".a.1-1.tmp.png"
    left.touch()
    with pytest.warns(InputWarning, match="cannot be locked"), checkpointing.locked(tmp_path):
        assert left.exists()  # another run may be writing it


def test_two_runs_in_one_folder_are_refused(tmp_path: Path) -> None:
    out = tmp_path / "out"
    process = start(go_on_and_hang_while_saving, MEASURED, out, 0)
    while not list((out / "checkpoints").glob("*")):
        assert process.is_alive()
        time.sleep(0.05)
    with pytest.raises(InputError, match="another run is writing there"):
        train(MEASURED, out, resume="auto", device="cpu")
    process.kill()
    process.join()
    train(MEASURED, out, resume="auto", device="cpu")  # the lock ended with its holder
    assert (out / "model.safetensors").exists()


def test_the_log_goes_on_where_the_run_does(tmp_path: Path) -> None:
    path = tmp_path / "log" / "metrics.csv"
    log = CsvLog(path)
    for step in range(6):
        log.log_metrics({"loss": 1.0 + step, **({"pq": 2.0} if step == 4 else {})}, step)
        log.save()
    with path.open("a") as file:
        file.write("6,7")  # a line cut by a kill
    again = CsvLog(path, 3)
    again.log_metrics({"loss": 9.0, "lr": 0.5}, 3)
    again.finalize("success")
    with path.open() as file:
        rows = list(csv.DictReader(file))
    assert [(r["step"], float(r["loss"]), r["lr"]) for r in rows] == [
        ("0", 1.0, ""), ("1", 2.0, ""), ("2", 3.0, ""), ("3", 9.0, "0.5"),
    ]  # fmt: skip
    fresh = CsvLog(path)
    fresh.log_metrics({"loss": 1.0}, 0)
    fresh.save()
    assert path.read_text().splitlines() == ["step,loss", "0,1.0"]

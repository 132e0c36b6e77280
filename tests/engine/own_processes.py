"""Trainings and other commands in processes of their own."""

from __future__ import annotations

import multiprocessing
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path

import torch
from lightning.pytorch.utilities import rank_zero_only

from banet.cli import main
from banet.engine.recipe import Recipe, to_yaml


def launcher(processes: int) -> list[str]:
    """What starts `-m` modules in so many processes."""
    torchrun = ["torch.distributed.run", "--standalone", "--nproc-per-node", str(processes), "-m"]
    return [sys.executable, "-m", *(torchrun if processes > 1 else [])]


def command(recipe: Recipe, out: Path, *options: str, processes: int = 1) -> list[str]:
    """`banet train` of a recipe, by torchrun where there are several processes."""
    path = out.parent / f"{out.name}.yaml"
    path.write_text(to_yaml(recipe))
    return [
        *launcher(processes), "banet", "train", "--config", str(path), "--out", str(out),
        "--device", "cpu", *options,
    ]  # fmt: skip


def environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1"}


def run(command: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=600)


def start(target: Callable[..., None], *arguments: object) -> BaseProcess:
    """A process of its own, forked from one that has loaded torch already."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["banet.engine.training.train"])
    process = context.Process(target=target, args=arguments)
    process.start()
    return process


def run_together(arguments: list[str], processes: int, said: Path) -> str:
    """Run `banet` in several processes, with the environment that torchrun gives them; return what they print.

    torchrun itself loads torch anew in each of them, which takes longer than all the rest; one test does it.
    """
    codes, texts = end_together(member, arguments, processes, said)
    assert codes == [0] * processes, "\n".join([str(codes), *texts])
    return "".join(texts)


def end_together(
    target: Callable[..., None], arguments: list[str], processes: int, said: Path, *, seconds: float = 600
) -> tuple[list[int | None], list[str]]:
    """Run what is `member` or calls it until all have ended, or one has failed; return statuses and what they print."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    said.mkdir()
    members = [start(target, arguments, rank, processes, port, said / str(rank)) for rank in range(processes)]
    last = time.monotonic() + seconds
    try:
        while any(each.is_alive() for each in members) and not any(each.exitcode for each in members):
            time.sleep(0.05)
            if time.monotonic() > last:
                break
    finally:
        for each in members:  # where one failed, the others wait for it
            each.kill()
            each.join()
    return [each.exitcode for each in members], [(said / str(rank)).read_text() for rank in range(processes)]


def member(arguments: list[str], rank: int, world: int, port: int, said: Path) -> None:
    """One process of `run_together`."""
    numbers = {"RANK": rank, "LOCAL_RANK": rank, "GROUP_RANK": 0, "WORLD_SIZE": world, "LOCAL_WORLD_SIZE": world}
    os.environ.update({name: str(value) for name, value in numbers.items()})
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), TORCHELASTIC_RUN_ID="test", OMP_NUM_THREADS="1")
    torch.set_num_threads(1)
    rank_zero_only.rank = rank  # which Lightning has read when it was loaded
    sys.stdout = sys.stderr = said.open("w", buffering=1)  # open until the end, for the traceback of what is not caught
    os._exit(main(arguments))

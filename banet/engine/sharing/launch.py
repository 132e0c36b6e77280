"""Starts several processes of one command on this machine, for `--devices`."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Sequence

from banet.engine.sharing.process import LAUNCH, this_process

__all__ = ["is_started", "start_processes"]

_POLL = 0.1  # seconds
_PATIENCE = 30.0  # seconds that processes have to end before they are killed


def start_processes(words: Sequence[str], count: int) -> int:
    """Run `banet` with a command line in several processes, and wait for them.

    Each takes the GPU of its number, or where nothing else is said (`OMP_NUM_THREADS`) its share of the cores. Where
    one fails, or this process is ended (SIGTERM), the others are ended.

    Args:
        words: The command line after `banet`.
        count: How many processes.

    Returns:
        The largest exit status of theirs; 2 where one was killed.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    environment = {"OMP_NUM_THREADS": str(max(1, cores // count)), **os.environ}
    environment |= {LAUNCH: uuid.uuid4().hex, "WORLD_SIZE": str(count), "LOCAL_WORLD_SIZE": str(count)}
    processes: list[subprocess.Popen[bytes]] = []
    before = signal.signal(signal.SIGTERM, _stop)
    try:
        for rank in range(count):
            own = environment | {"RANK": str(rank), "LOCAL_RANK": str(rank)}
            processes.append(subprocess.Popen([sys.executable, "-m", "banet", *words], env=own))
        while any(process.poll() is None for process in processes):
            if any(process.returncode not in (None, 0, 1) for process in processes):
                break
            time.sleep(_POLL)
    except KeyboardInterrupt:  # they got it too
        _end(processes, ask=False)
        raise
    finally:
        _end(processes, ask=True)
        signal.signal(signal.SIGTERM, before)
    for rank, process in enumerate(processes):
        if process.returncode < 0 and not any(other.returncode == 2 for other in processes):
            told = f"process {rank} of {count} was ended by signal {-process.returncode}; go on with --resume"
            print(f"banet: error: {told}", file=sys.stderr)
            break
    return max(2 if process.returncode < 0 else process.returncode for process in processes)


def _stop(number: int, _: object) -> None:
    raise SystemExit(128 + number)


def is_started() -> bool:
    """Return whether a launcher started this process beside others, so that it starts none itself."""
    return this_process().world > 1


def _end(processes: Sequence[subprocess.Popen[bytes]], *, ask: bool) -> None:
    """Wait for processes, and end those that do not do so themselves."""
    for process in processes:
        if ask and process.poll() is None:
            process.terminate()
    until = time.monotonic() + _PATIENCE
    for process in processes:
        try:
            process.wait(max(0.0, until - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

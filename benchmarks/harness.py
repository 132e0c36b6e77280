"""Measure contestants in turns: medians, ratios that hold, peak memory, and the machine beside every figure.

What else a machine does changes from minute to minute, so contestants take turns and a benchmark prints ratios. A run
whose two halves disagree about a ratio by more than 15 % was disturbed: the ratio is then not printed.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Generic, TypeVar

TOLERANCE = 0.15
"""Most that the ratios of the two halves of a run may differ by, as a fraction of the smaller one."""

Name = TypeVar("Name", bound=Hashable)


class UnsteadyError(RuntimeError):
    """The two halves of a run disagree about a ratio."""


@dataclass(frozen=True)
class Turns(Generic[Name]):
    """What every turn of every contestant took.

    Attributes:
        seconds: seconds of each contestant, in the order of the turns.
    """

    seconds: Mapping[Name, Sequence[float]]

    def median(self, name: Name) -> float:
        """Return the median seconds of a contestant."""
        return statistics.median(self.seconds[name])

    def milliseconds(self, name: Name) -> float:
        """Return the median milliseconds of a contestant."""
        return 1e3 * self.median(name)

    def halves(self, name: Name, peer: Name) -> tuple[float, float] | None:
        """Return the ratio in the first and in the second half of the turns; None after a single turn."""
        mine, other = self.seconds[name], self.seconds[peer]
        half = len(mine) // 2
        if not half:
            return None
        first = statistics.median(mine[:half]) / statistics.median(other[:half])
        return first, statistics.median(mine[-half:]) / statistics.median(other[-half:])

    def ratio(self, name: Name, peer: Name) -> float:
        """Return the median of a contestant over that of its peer.

        Raises:
            UnsteadyError: the halves of the run disagree about it by more than `TOLERANCE`.
        """
        halves = self.halves(name, peer)
        if halves is not None and max(halves) > (1 + TOLERANCE) * min(halves):
            raise UnsteadyError(f"unsteady: {halves[0]:.2f}, then {halves[1]:.2f}; run again on a quieter machine")
        return self.median(name) / self.median(peer)

    def ratio_text(self, name: Name, peer: Name, form: str = ".2f") -> str:
        """Return the ratio for a table, or why there is none."""
        try:
            return format(self.ratio(name, peer), form)
        except UnsteadyError as error:
            return str(error).partition(";")[0]


def collect(measures: Mapping[Name, Callable[[], float]], repeats: int, warm_up: int = 0) -> Turns[Name]:
    """Let measures, which return seconds, take turns.

    Args:
        measures: one call per contestant.
        repeats: turns that count.
        warm_up: turns before them that do not.

    Returns:
        The seconds of `repeats` turns.

    Raises:
        ValueError: fewer than one turn.
    """
    if repeats < 1:
        raise ValueError(f"repeats must be at least 1, not {repeats}")
    seconds: dict[Name, list[float]] = {name: [] for name in measures}
    for turn in range(warm_up + repeats):
        for name, measure in measures.items():
            spent = measure()
            if turn >= warm_up:
                seconds[name].append(spent)
    return Turns(seconds)


def take_turns(
    contestants: Mapping[Name, Callable[[], object]],
    repeats: int,
    *,
    warm_up: int = 1,
    synchronize: Callable[[], object] | None = None,
    clock: Callable[[], float] = time.perf_counter,
) -> Turns[Name]:
    """Time contestants in turns.

    Args:
        contestants: one call per contestant.
        repeats: turns that count.
        warm_up: turns before them that do not.
        synchronize: waits for the device before the clock is read, such as `torch.cuda.synchronize`.
        clock: returns seconds; `time.process_time` counts those of all CPU cores together.

    Returns:
        The seconds of `repeats` turns.
    """

    def timed(call: Callable[[], object]) -> Callable[[], float]:
        def measure() -> float:
            if synchronize is not None:
                synchronize()
            begin = clock()
            call()
            if synchronize is not None:
                synchronize()
            return clock() - begin

        return measure

    return collect({name: timed(call) for name, call in contestants.items()}, repeats, warm_up)


# --------------------------------------------------------------------------------------------------------------- memory


def _status(field: str) -> int:
    """Return a field of this process in bytes, as Linux counts it."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    (line,) = (line for line in lines if line.startswith(f"{field}:"))
    return 1024 * int(line.split()[1])


def resident() -> int:
    """Return the memory of this process in bytes."""
    return _status("VmRSS")


def peak() -> int:
    """Return the most memory that this process had since it began, or since `forget_peak`, in bytes."""
    return _status("VmHWM")


def forget_peak() -> None:
    """Let `peak` count from now on."""
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def rise(call: Callable[[], object]) -> int:
    """Return by how many bytes the memory of this process rises at most while it makes a call."""
    forget_peak()
    before = resident()
    call()
    return peak() - before


def own_process(script: str, *arguments: object) -> str:
    """Run a script in a new process and return the last line that it prints: memory must be measured alone.

    Args:
        script: its path, usually `__file__`.
        arguments: of its command line.
    """
    command = [sys.executable, script, *map(str, arguments)]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()[-1]


@contextmanager
def busy(processes: int) -> Iterator[None]:
    """Keep so many other processes computing meanwhile, each on one core at a time."""
    spinning = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(processes)]
    try:
        yield
    finally:
        for each in spinning:
            each.kill()
            each.wait()


_ALONE = """
import json, resource, subprocess, sys, time
begin = time.perf_counter()
status = subprocess.call(sys.argv[1:], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
seconds = time.perf_counter() - begin
print(json.dumps([status, seconds, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024]))
"""
"""A small process between: Linux counts what the parent of a new process holds to the peak of that process."""


def run_program(command: Sequence[str]) -> tuple[float, int]:
    """Run a program silently; return its seconds and its peak memory in bytes.

    Raises:
        SystemExit: it fails.
    """
    between = [sys.executable, "-c", _ALONE, *command]
    status, seconds, most = json.loads(subprocess.run(between, check=True, stdout=subprocess.PIPE).stdout)
    if status:
        raise SystemExit(f"{' '.join(command)}: ended with {status}")
    return seconds, most


# -------------------------------------------------------------------------------------------------------------- machine


def use_threads(count: int) -> None:
    """Let NumPy's and torch's linear algebra use so many threads: starts this program again if it must."""
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
    wanted = dict.fromkeys(names, str(count))
    if any(os.environ.get(name) != value for name, value in wanted.items()):
        sys.stdout.flush()
        os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, **wanted})


def machine() -> dict[str, Any]:
    """Return what a figure depends on beside the code: processor, cores, GPU, versions."""
    found: dict[str, Any] = {"processor": _processor(), "cores": len(os.sched_getaffinity(0)), "gpu": None}
    found["python"] = platform.python_version()
    for package in ("numpy", "torch", "torchvision", "pillow"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = None
    if "torch" in sys.modules:
        import torch

        found["threads"] = torch.get_num_threads()
        found["gpu"] = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    else:
        found["threads"] = int(os.environ.get("OMP_NUM_THREADS", found["cores"]))
    return found


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())


class Report(AbstractContextManager["Report"]):
    """The figures of a run: printed as they come, and written as JSON at the end.

    Args:
        options: of the command line; `json` is the file, or None.
        script: the benchmark's `__file__`.
    """

    def __init__(self, options: argparse.Namespace, script: str) -> None:
        self.path: Path | None = options.json
        self.content: dict[str, Any] = {
            "benchmark": Path(script).stem,
            "arguments": sys.argv[1:],
            "machine": machine(),
            "figures": [],
        }
        about = self.content["machine"]
        hardware = (
            f"{about['processor']}, {about['cores']} cores, {about['gpu'] or 'no GPU'}, {about['threads']} threads"
        )
        software = f"Python {about['python']}, numpy {about['numpy']}, torch {about['torch']}"
        print(f"{hardware}; {software}\n", flush=True)

    def say(self, text: str, **figures: Any) -> None:
        """Print a line, and keep its figures under the same text."""
        print(text, flush=True)
        if figures:
            self.content["figures"].append({"text": text, **figures})

    def turns(self, title: str, turns: Turns[Any]) -> None:
        """Keep every turn of every contestant."""
        self.content["figures"].append(
            {"title": title, "seconds": {str(name): list(taken) for name, taken in turns.seconds.items()}}
        )

    def __exit__(self, *problem: object) -> None:
        if self.path is not None and problem[0] is None:
            temporary = self.path.with_name(f"{self.path.name}.part")
            temporary.write_text(json.dumps(self.content, indent=1) + "\n", encoding="utf-8")
            temporary.replace(self.path)


def parser(doc: str | None, *, threads: int | None = 2, repeats: int | None = None) -> argparse.ArgumentParser:
    """Return a parser with the options that benchmarks share.

    Args:
        doc: the benchmark's docstring, which is its help.
        threads: default of `--threads`; None leaves the option out.
        repeats: default of `--repeats`; None leaves the option out.
    """
    made = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--json", type=Path, help="also write every figure, and the machine, to this file")
    if threads is not None:
        made.add_argument("--threads", type=int, default=threads)
    if repeats is not None:
        made.add_argument("--repeats", type=int, default=repeats, help="turns that count")
    return made

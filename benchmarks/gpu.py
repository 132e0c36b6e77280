"""All that waits for a GPU, in order of worth: ``python benchmarks/gpu.py --minutes 12 --out runs/gpu``.

Stages: tests of CUDA; speed; trunks and arms of the study of aggregation, as parallel processes; bundled weights with
the time that is left. Each item runs in a process of a worker and is written at once, to a JSON per stage in
``--out``; what is there is skipped by the next call, so the command can be killed at any moment and called again.
Trainings save before the time is over and go on from ``--work``, which may be lost: then they begin again.

``--rehearse`` runs every stage on the CPU, tiny. ``--only STAGE`` runs one. ``--docs DIR`` writes the figures into the
docs instead. Where the machine has no network, take a folder of wheels along (``make gpu-wheels``).
"""

from __future__ import annotations

import argparse
import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

from gpu_items import ROOT, Figures, Item, Setup, Unfinished
from harness import machine

from banet.files.atomic import write_json


@dataclass(frozen=True)
class Stage:
    """Items of one kind.

    Attributes:
        name: of its JSON.
        items: in their order.
        parallel: processes at once.
        reserve: seconds of the whole time that must be left for it to begin.
    """

    name: str
    items: Sequence[Item]
    parallel: int = 1
    reserve: float = 20


NAMES = ("tests", "speed", "trunks", "arms", "weights")
"""Of the stages, most valuable first."""


def stage_of(name: str, rehearse: bool) -> Stage:
    """Return a stage, which imports what it alone needs; a rehearsal has few arms and few processes."""
    if name == "tests":
        import gpu_tests

        return Stage(name, gpu_tests.items(), parallel=len(gpu_tests.items()))
    if name == "speed":
        import gpu_speed

        return Stage(name, gpu_speed.items())
    import gpu_runs

    if name == "arms":
        return Stage(name, gpu_runs.arms(rehearse), parallel=2 if rehearse else 8)
    items = gpu_runs.trunks() if name == "trunks" else gpu_runs.weights()
    return Stage(name, items, parallel=1 if rehearse else 2)


class Ledger:
    """The JSON of one stage, rewritten atomically with every item.

    Args:
        path: the file.
        about: the machine.

    Raises:
        SystemExit: the figures there are of another GPU.
    """

    def __init__(self, path: Path, about: Figures) -> None:
        self.path = path
        self.lock = threading.Lock()
        self.content: Figures = {"machine": about, "items": {}, "unfinished": {}, "failed": {}}
        if path.is_file():
            kept = json.loads(path.read_text(encoding="utf-8"))
            if kept["machine"].get("gpu") != about.get("gpu"):
                other = kept["machine"].get("gpu")
                raise SystemExit(f"{path}: of {other}, and this is {about.get('gpu')}; choose another --out")
            self.content = kept

    def done(self, name: str) -> bool:
        return name in self.content["items"]

    def write(self, kind: str, name: str, figures: Any) -> None:
        """Keep the figures of an item; those of an earlier failure go."""
        with self.lock:
            for part in ("unfinished", "failed"):
                self.content[part].pop(name, None)
            self.content[kind][name] = figures
            write_json(self.path, self.content)


class Worker:
    """A process that measures items one after the other, so that no item pays for the start of torch."""

    def __init__(self, stage: str, options: argparse.Namespace) -> None:
        command = [sys.executable, __file__, "--worker", stage, "--out", str(options.out), "--work", str(options.work)]
        command += ["--rehearse"] * options.rehearse + (["--nuclei", str(options.nuclei)] if options.nuclei else [])
        log = (options.work / f"{stage}.log").open("ab")
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            cwd=ROOT,
            start_new_session=True,  # a group with the processes that it starts
        )
        log.close()
        self.answers: queue.Queue[str | None] = queue.Queue()
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.startswith("{"):
                self.answers.put(line)
        self.answers.put(None)

    def measure(self, order: Figures, seconds: float) -> tuple[str, Any]:
        """Return what became of an item: `items`, `unfinished` or `failed`, and its figures or reason."""
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(json.dumps(order) + "\n")
            self.process.stdin.flush()
            answer = self.answers.get(timeout=max(seconds, 1))
        except queue.Empty:
            self.stop()
            return "failed", f"took more than {seconds:.0f} s"
        except BrokenPipeError:
            answer = None
        if answer is None:
            return "failed", f"its process ended with {self.process.wait()}"
        kind, figures = json.loads(answer)["answer"]
        return kind, figures

    def stop(self) -> None:
        """End the process and those that it started."""
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


def run_stage(stage: Stage, ledger: Ledger, options: argparse.Namespace, end: float) -> None:
    """Run what is not done of a stage, in so many processes as it says, until the time is over."""
    todo: queue.SimpleQueue[Item] = queue.SimpleQueue()
    left = [item for item in stage.items if not ledger.done(item.name)]
    for item in left:
        todo.put(item)
    count = min(stage.parallel, len(left))
    workers = max(1, (len(os.sched_getaffinity(0)) - 1) // max(count, 1) - 1) if not options.rehearse else 0

    def work() -> None:
        worker: Worker | None = None
        while time.time() + stage.reserve < end:
            try:
                item = todo.get_nowait()
            except queue.Empty:
                break
            if worker is None or worker.process.poll() is not None:
                worker = Worker(stage.name, options)
            begin = time.time()
            seconds = min(item.seconds * (20 if options.rehearse else 1), end - begin)  # CPUs may be busy
            order = {"item": item.name, "until": begin + seconds, "workers": workers}
            kind, figures = worker.measure(order, seconds)
            if kind == "items":
                figures = {**figures, "seconds": round(time.time() - begin, 2)}
            ledger.write(kind, item.name, figures)
            print(f"{stage.name}/{item.name}: {kind if kind != 'items' else 'done'}", flush=True)
            if kind == "failed":
                print(f"    {str(figures).splitlines()[-1]}", flush=True)
        if worker is not None:
            worker.stop()

    threads = [threading.Thread(target=work) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def serve(options: argparse.Namespace) -> None:
    """Be a worker: read orders, write answers; end with the process that gives the orders."""
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os.killpg(0, signal.SIGKILL)

    threading.Thread(target=watch, daemon=True).start()
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what libraries print is no answer
    stage = stage_of(options.worker, options.rehearse)
    for line in sys.stdin:
        order = json.loads(line)
        (item,) = (each for each in stage.items if each.name == order["item"])
        device = "cpu" if options.rehearse else "cuda"
        setup = Setup(
            device, options.rehearse, options.out, options.work, options.nuclei, order["until"], order["workers"]
        )
        answers.write(json.dumps({"answer": attempt(item, setup)}) + "\n")


def attempt(item: Item, setup: Setup) -> tuple[str, Any]:
    """Measure an item; return its kind in the ledger and its figures."""
    try:
        return "items", item.run(setup)
    except Unfinished as unfinished:
        return "unfinished", unfinished.progress
    except Exception:
        return "failed", traceback.format_exc()[-3000:]


def about(rehearse: bool) -> Figures:
    """Return the machine, with the GPU that is measured."""
    import torch

    found = machine()
    if torch.cuda.is_available() and not rehearse:
        properties = torch.cuda.get_device_properties(0)
        return {**found, "gpu_memory_gib": round(properties.total_memory / 2**30, 1), "cuda": torch.version.cuda}
    return {**found, "gpu_memory_gib": None, "cuda": None}


def main() -> None:
    command_line = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    command_line.add_argument("--minutes", type=float, default=12, help="most that the whole call may take")
    command_line.add_argument("--out", type=Path, required=True, help="folder of the results, a JSON per stage")
    command_line.add_argument("--work", type=Path, help="folder of checkpoints; by default OUT/work")
    command_line.add_argument("--nuclei", type=Path, help="folder of the data set of nuclei, to train its weights on")
    command_line.add_argument("--only", action="append", help="a stage; may be given several times")
    command_line.add_argument("--rehearse", action="store_true", help="on the CPU, as small as possible")
    command_line.add_argument("--docs", type=Path, help="write the figures of OUT into these docs, and measure nothing")
    command_line.add_argument("--worker", help=argparse.SUPPRESS)
    options = command_line.parse_args()
    end = time.time() + 60 * options.minutes
    options.out = options.out.resolve()
    options.work = (options.work or options.out / "work").resolve()
    if options.docs is not None:
        import gpu_report

        gpu_report.write(options.out, options.docs)
        return
    if options.worker:
        serve(options)
        return
    import torch

    if not options.rehearse and not torch.cuda.is_available():
        raise SystemExit("torch sees no GPU here; --rehearse runs every stage on the CPU")
    for folder in (options.out, options.work):
        folder.mkdir(parents=True, exist_ok=True)
    here = about(options.rehearse)
    if unknown := set(options.only or ()) - set(NAMES):
        raise SystemExit(f"--only {unknown.pop()}: choose {', '.join(NAMES)}")
    print(f"{here['gpu'] or here['processor']}, torch {here['torch']}, {options.minutes:g} minutes")
    every = [stage_of(name, options.rehearse) for name in NAMES]
    for stage in every:
        if not options.only or stage.name in options.only:
            run_stage(stage, Ledger(options.out / f"{stage.name}.json", here), options, end)
    summarize(options.out, every)


def summarize(out: Path, every: Sequence[Stage]) -> None:
    """Print what is done and what is left, and how many assertions on CUDA a rehearsal left out."""
    left_out = 0
    for stage in every:
        path = out / f"{stage.name}.json"
        if not path.is_file():
            print(f"{stage.name}: not begun")
            continue
        content = json.loads(path.read_text(encoding="utf-8"))
        left_out += sum(item.get("cuda_assertions_left_out", 0) for item in content["items"].values())
        print(
            f"{stage.name}: {len(content['items'])} of {len(stage.items)} done,"
            f" {len(content['unfinished'])} unfinished, {len(content['failed'])} failed"
        )
    print(f"assertions on CUDA itself left out: {left_out}")


if __name__ == "__main__":
    main()

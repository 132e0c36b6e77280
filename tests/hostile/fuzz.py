"""Give damaged files to everything that reads files: `python tests/hostile/fuzz.py --cases 20000`.

A case is a whole set of files of which one is damaged. It ends well with a sound answer, or with an `InputError` of one
line. It ends badly with another exception, after 5 seconds of computing or a minute of anything else, with more than a
gigabyte of memory, with a message that is not short, or if a file outside the set is opened. The system enforces twice
the time and a quarter more of the memory (`RLIMIT_CPU`, `RLIMIT_DATA`). The same numbers give the same cases.
"""

from __future__ import annotations

import argparse
import contextlib
import multiprocessing
import os
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter, defaultdict, deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from random import Random
from types import FrameType
from typing import Any

import torch
from peak import GIGABYTE, memory, peak
from readers import READERS, Reader
from tqdm import tqdm

import banet
from banet.errors import InputError
from banet.files.outputs import RECORD

CPU_SECONDS = 5
WALL_SECONDS = 60
LONGEST_MESSAGE = 2000


class TooLong(BaseException):
    """A case went on for too long. No `except Exception` takes it."""


@dataclass
class Case:
    """How a case ended: `answer`, `error`, or `bad` and why; with seconds of computing and bytes of memory."""

    kind: str
    why: str = ""
    seconds: float = 0.0
    memory: int = 0


class Watch:
    """Notes which files are opened outside the allowed folders, and whether anything is started or called up.

    Records of outputs are looked for in the folders above, too, so that outputs are not taken for inputs.
    """

    def __init__(self) -> None:
        libraries = {sys.prefix, sys.base_prefix, *sys.path, str(Path(banet.__file__).parent), "/proc", "/sys", "/dev"}
        self.allowed = tuple(os.path.realpath(path) + os.sep for path in libraries if path)
        self.folder: str | None = None
        self.seen: list[str] = []
        sys.addaudithook(self._note)

    def _note(self, event: str, arguments: tuple[Any, ...]) -> None:
        if self.folder is None:
            return
        if event == "open" and arguments[0] == tempfile.gettempdir():
            return  # a temporary file without a name, which is opened by its folder
        if event in ("open", "os.mkdir", "os.rename", "os.remove", "os.listdir", "os.scandir"):
            path = arguments[0]
            if isinstance(path, (str, bytes, os.PathLike)) and os.path.basename(os.fsdecode(path)) != RECORD:
                real = os.path.realpath(os.fsdecode(path)) + os.sep
                if not real.startswith((self.folder, *self.allowed)):
                    self.seen.append(f"{event} {real}")
        elif event == "subprocess.Popen" and "banet.files.worker" in str(arguments[1]):
            return  # what reads files of strangers
        elif event.startswith(("subprocess.", "os.system", "os.exec", "os.posix_spawn", "socket.connect")):
            self.seen.append(f"{event} {arguments}")

    @contextmanager
    def over(self, folder: Path) -> Iterator[list[str]]:
        """Watch what happens inside the block."""
        self.folder, self.seen = os.path.realpath(folder) + os.sep, []
        try:
            yield self.seen
        finally:
            self.folder = None


def run_case(reader: Reader, folder: Path, damaged: Path, watch: Watch) -> Case:
    """Read a set of files, and tell how it went."""
    start = time.process_time()
    signal.setitimer(signal.ITIMER_PROF, CPU_SECONDS)
    _limit_time()
    signal.alarm(WALL_SECONDS)
    try:
        with watch.over(folder) as outside, peak() as grown:
            reader.read(folder, damaged)
        case = Case("answer")
    except InputError as error:
        case = _judge(error)
    except TooLong as error:
        case = Case("bad", f"{error}, at {_place(error)}")
    except Exception as error:
        case = Case("bad", f"{type(error).__name__} at {_place(error)}: {str(error)[:200]}")
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.alarm(0)
    case.seconds, case.memory = time.process_time() - start, grown[0]
    if outside:
        case.kind, case.why = "bad", f"outside: {outside[0]}"
    elif case.memory > GIGABYTE:
        case.kind, case.why = "bad", f"{case.memory / 1e6:.0f} MB; {case.why}"
    elif case.seconds > CPU_SECONDS:
        case.kind, case.why = "bad", f"{case.seconds:.1f} s; {case.why}"
    return case


def _judge(error: InputError) -> Case:
    message = str(error)
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, MemoryError):
        cause = cause.__cause__ or cause.__context__
    if cause is not None:
        return Case("bad", f"asked for too much memory: {message}")
    if not message.isprintable() or not 10 < len(message) < LONGEST_MESSAGE:
        return Case("bad", f"message: {message[:300]!r}")
    return Case("error", message)


def _place(error: BaseException) -> str:
    """The last line of this project in a traceback."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = [f for f in frames if f"{os.sep}banet{os.sep}" in f.filename or f"{os.sep}hostile{os.sep}" in f.filename]
    return f"{Path(ours[-1].filename).name}:{ours[-1].lineno}" if ours else "?"


@dataclass
class Tally:
    """The cases of one reader."""

    kinds: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0
    memory: int = 0

    def add(self, case: Case) -> None:
        """Count one."""
        self.kinds[case.kind] += 1
        self.seconds, self.memory = max(self.seconds, case.seconds), max(self.memory, case.memory)


def fuzz(cases: Iterable[int], seed: int, names: list[str], real: Path | None, keep: Path | None) -> dict[str, Tally]:
    """Run cases of a seed and print each that ends badly.

    They run in a child, so that one that brings down Python does not end the rest; the child is started anew after it.
    """
    tallies: defaultdict[str, Tally] = defaultdict(Tally)
    todo = deque(cases)
    with tqdm(total=len(todo), disable=None, unit="case") as bar:
        while todo:
            ours, theirs = multiprocessing.Pipe(duplex=False)
            child = multiprocessing.get_context("fork").Process(
                target=_run, args=(list(todo), seed, names, real, keep, theirs)
            )
            child.start()
            theirs.close()
            before = len(todo)
            with contextlib.suppress(EOFError):
                while todo:
                    name, path = ours.recv()
                    case = Case("bad", "Python was brought down")
                    with contextlib.suppress(EOFError):
                        case = ours.recv()
                    number = todo.popleft()
                    tallies[name].add(case)
                    bar.update()
                    if case.kind == "bad":
                        tqdm.write(f"BAD case {number}: {name}, {path}: {case.why}")
            child.join()
            if len(todo) == before:
                raise RuntimeError(f"case {todo[0]} could not be made")
    return tallies


def _run(cases: list[int], seed: int, names: list[str], real: Path | None, keep: Path | None, tell: Connection) -> None:
    """Run cases one after the other; before each tell what is damaged, after it how it went."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    signal.signal(signal.SIGPROF, _stop)
    signal.signal(signal.SIGALRM, _stop)
    watch = Watch()
    shares = [READERS[name].share for name in names]
    files: dict[str, list[tuple[Path, str]]] = {}
    with tempfile.TemporaryDirectory() as root:
        for number in cases:
            rng = Random(f"{seed}/{number}")
            name = rng.choices(names, shares)[0]
            reader, folder = READERS[name], Path(root) / name.replace(" ", "_")
            if name not in files:
                folder.mkdir()
                reader.make(folder, real)
                files[name] = [(path, pattern) for pattern in reader.files for path in sorted(folder.glob(pattern))]
                for path, _ in files[name]:
                    reader.read(folder, path)
                    shutil.rmtree(folder / "out", ignore_errors=True)
                _limit_memory()
            pattern = rng.choice(list(reader.files))
            path = rng.choice([path for path, own in files[name] if own == pattern])
            whole = path.read_bytes()
            path.write_bytes(reader.files[pattern](whole, rng))
            if keep is not None:
                shutil.copy(path, keep / f"{number}_{path.name}")
            tell.send((name, path.relative_to(folder)))
            case = run_case(reader, folder, path, watch)
            tell.send(case)
            if keep is not None and case.kind != "bad":
                (keep / f"{number}_{path.name}").unlink()
            path.write_bytes(whole)
            shutil.rmtree(folder / "out", ignore_errors=True)
    tell.close()


def _stop(number: int, frame: FrameType | None) -> None:
    raise TooLong(f"{CPU_SECONDS} s of computing" if number == signal.SIGPROF else f"{WALL_SECONDS} s of waiting")


def _limit_memory() -> None:
    """Let the system refuse what a case may not take; a quarter more, as freed memory is not always given back."""
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (memory("VmData") + GIGABYTE + GIGABYTE // 4, hard))


def _limit_time() -> None:
    """Let the system end this process where a case does not end in twice its time, whatever it waits for."""
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    resource.setrlimit(resource.RLIMIT_CPU, (int(time.process_time()) + 2 * CPU_SECONDS, hard))


def main() -> int:
    """Run as the command line says; 1 where a case ended badly."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=500)
    parser.add_argument("--first", type=int, default=0, help="number of the first one, to share a run out or go on")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--reader", action="append", choices=list(READERS), help="only this one; may be repeated")
    parser.add_argument("--case", type=int, help="only the case of this number")
    parser.add_argument("--keep", type=Path, help="folder for damaged files that end badly")
    options = parser.parse_args()
    data = os.environ.get("BANET_TEST_DATA")
    if options.keep:
        options.keep.mkdir(parents=True, exist_ok=True)
    names = options.reader or list(READERS)
    cases = range(options.first, options.first + options.cases) if options.case is None else [options.case]
    tallies = fuzz(cases, options.seed, names, Path(data) if data else None, options.keep)
    print(f"{'':<20}{'cases':>8}{'answers':>9}{'errors':>8}{'bad':>6}{'most s':>8}{'most MB':>9}")
    total = Tally()
    for name, tally in [*sorted(tallies.items()), ("all", total)]:
        kinds = tally.kinds
        row = f"{kinds.total():>8}{kinds['answer']:>9}{kinds['error']:>8}{kinds['bad']:>6}"
        print(f"{name:<20}{row}{tally.seconds:>8.2f}{tally.memory / 1e6:>9.0f}")
        if tally is not total:
            total.kinds += kinds
            total.seconds, total.memory = max(total.seconds, tally.seconds), max(total.memory, tally.memory)
    return 1 if total.kinds["bad"] else 0


if __name__ == "__main__":
    sys.exit(main())

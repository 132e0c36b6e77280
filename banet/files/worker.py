"""Worker processes with limits of memory and time, in which files of strangers are read and exported networks run.

A file that crashes its reader, or takes too much, costs its own answer: the process ends, the caller gets an
`InputError`, and the next call starts another process. This bounds resources. It is not a sandbox: a process that a
flaw of a decoder hands over to the file's author may do what the user may.

Linux enforces the limits of memory and processor time (`RLIMIT_AS`, `RLIMIT_CPU`), macOS that of time. On Windows there
is no such limit. Everywhere a call is given up that has not ended in `_PATIENCE` and four times its seconds.

Nothing of `multiprocessing` is used: it would import the user's main module again, and keep processes of its own.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import io
import math
import mmap
import os
import pickle
import select
import signal
import struct
import subprocess
import sys
import threading
import time
import warnings
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, BinaryIO, NoReturn, ParamSpec, TypeVar

from banet.errors import InputError, InputWarning

__all__ = ["Budget", "Workers", "isolated", "isolated_items", "reads_untrusted", "refuse_outside", "untrusted_files"]

P = ParamSpec("P")
T = TypeVar("T")

_PATIENCE = 50
"""Longest wait for a call, in seconds, besides four times its processor time: the machine may be busy."""
_PER_BYTE = 4
"""Memory that a byte of a file may take besides, as weights are larger than what limits are made for."""
_HEAD = struct.Struct("<QI?")  # bytes of the pickle, number of buffers, whether these are in shared memory
_SHARED = 1 << 16  # bytes of buffers from which shared memory is faster than the pipe
_CHUNK = 1 << 18  # bytes of items that are sent together
_CPUCLOCK_PROF = -8  # this process's, in Linux's numbering of clocks
_SELECTS_PIPES = os.name == "posix"  # Windows waits for sockets only


@dataclass(frozen=True)
class Budget:
    """What a call in a worker process may take.

    Attributes:
        memory: Bytes above what the process takes once it has imported what it needs, to which four times the size of
            the file is added; None for no limit.
        seconds: Of processor time, of all threads together; None for no limit.
    """

    memory: int | None = 1 << 30
    seconds: int | None = 10


class Workers:
    """Processes for one purpose: as many as there are calls at the same time, started when they are needed.

    Args:
        budget: What each call may take.
    """

    def __init__(self, budget: Budget | None = None) -> None:
        self.budget = budget or Budget()
        self._idle: list[_Worker] = []
        self._owner = os.getpid()

    def call(self, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Return what a function of a module returns in a worker.

        Arguments and result are pickled; arrays, tensors and images of the result come by way of shared memory.

        Args:
            function: What to call; in errors the first path or text of its arguments names what it reads.
            args: Its arguments.
            kwargs: Those by keyword.

        Raises:
            InputError: The process took too much or died; or what the function raises.
        """
        with self._worker() as worker:
            worker.send(function, args, kwargs, self.budget)
            value, notes = worker.receive()
        for note in notes:
            warnings.warn(note, InputWarning, stacklevel=3)
        result: T = value
        return result

    def items(self, function: Callable[P, Iterator[T]], /, *args: P.args, **kwargs: P.kwargs) -> Iterator[T]:
        """Yield what a generator of a module yields in a worker, which is this one's until the end; see `call`.

        The limit of time is for each part of the items, that of memory for all that it holds at once.
        """
        with self._worker() as worker:
            worker.send(function, args, kwargs, self.budget)
            while (part := worker.receive()[0]) is not None:
                for item in part:
                    yield pickle.loads(item)

    @contextmanager
    def _worker(self) -> Iterator[_Worker]:
        """Take an idle worker, or start one; it is idle again unless a call failed in it half-way."""
        if self._owner != os.getpid():  # a copy that a fork made: the processes are the original's
            self._idle, self._owner = [], os.getpid()
        try:
            worker = self._idle.pop()
        except IndexError:
            worker = _Worker()
        try:
            yield worker
        finally:
            if worker.busy:
                worker.end()
            else:
                self._idle.append(worker)

    def close(self) -> None:
        """End the processes; a later call starts others."""
        while self._idle:
            self._idle.pop().end()


class _Worker:
    """A process, or none yet, that answers one call at a time.

    Attributes:
        busy: Whether it has a call that it has not answered.
    """

    def __init__(self) -> None:
        self.busy = False
        self._process: subprocess.Popen[bytes] | None = None
        self._memory = -1
        self._end: Callable[[], object] = lambda: None
        self._where, self._budget = "", Budget()

    def send(self, function: Callable[..., Any], args: Sequence[Any], kwargs: dict[str, Any], budget: Budget) -> None:
        """Hand over a call. A process that has died since its last one is replaced."""
        self._where, self._budget = _name_of(args), budget
        memory = None if budget.memory is None else budget.memory + _PER_BYTE * _size_of(args)
        try:
            folder = os.getcwd()  # to which relative paths are
        except OSError:
            folder = os.sep
        request = (folder, function.__module__, function.__qualname__, args, kwargs, memory, budget.seconds)
        self.busy = True
        for _ in range(3):
            try:
                if self._process is None:
                    self._start()
                _write(self._pipe("stdin"), request, -1)
                if self._pipe("stdout").read(1):  # it has the call: if it dies from now on, that is due to the call
                    return
            except OSError:
                pass
            self.end()
            self.busy = True
        raise InputError("no process could be started to read it", where=self._where, hint="try again")

    def receive(self) -> tuple[Any, list[str]]:
        """Return the next part of the answer, and the texts of warnings; raise the error that it is."""
        try:
            with self._patience():
                kind, value, notes = _read(self._pipe("stdout"), self._memory)
        except (EOFError, OSError, pickle.UnpicklingError, struct.error):
            self._explain()
        self.busy = kind == "part"
        if kind == "error":
            raise value
        return value, notes

    def end(self) -> None:
        """End the process."""
        self._end()
        self._process, self.busy = None, False

    def _start(self) -> None:
        self._memory = _shared_memory()
        code = f"import sys; sys.path[:] = {sys.path!r}; from banet.files.worker import serve; serve({self._memory})"
        self._process = subprocess.Popen(
            [sys.executable, "-c", code],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,  # on which decoders and runtimes talk
            bufsize=0,  # so that `_patience` sees all that was not read
            pass_fds=() if self._memory < 0 else (self._memory,),
            env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},  # each of its threads would take address space
        )
        self._end = weakref.finalize(self, _finish, self._process, self._memory)

    def _pipe(self, name: str) -> BinaryIO:
        stream: BinaryIO = getattr(self._process, name)
        return stream

    @contextmanager
    def _patience(self) -> Iterator[None]:
        """Kill the process where the block takes too long."""
        if self._budget.seconds is None:
            yield
            return
        limit, process = _PATIENCE + 4 * self._budget.seconds, self._process
        assert process is not None
        if _SELECTS_PIPES:
            if not select.select([self._pipe("stdout")], [], [], limit)[0]:
                process.kill()
            yield
            return
        clock = threading.Timer(limit, process.kill)
        clock.start()
        try:
            yield
        finally:
            clock.cancel()

    def _explain(self) -> NoReturn:
        """Say why the process died while it had a call."""
        assert self._process is not None
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(1)
        status = self._process.poll()
        self.end()
        number, limit = -(status or 0), self._budget.seconds  # of the signal; Windows has exit codes only
        if limit and number == getattr(signal, "SIGXCPU", None):
            reason = f"took more than {limit} s"
        elif number == getattr(signal, "SIGKILL", None):
            reason = "the system stopped it"
        else:
            named = {int(each): each.name for each in signal.Signals}
            reason = f"ended with {named.get(number, status)}"
        raise InputError(
            f"brought down the process that it was given to ({reason})", where=self._where, hint="leave it out"
        )


def _finish(process: subprocess.Popen[bytes], memory: int) -> None:
    process.kill()
    for stream in (process.stdin, process.stdout):
        with suppress(OSError):
            stream.close()  # type: ignore[union-attr]
    process.wait()
    if memory >= 0:
        os.close(memory)


def _name_of(args: Sequence[Any]) -> str:
    return next((os.fspath(one) for one in args if isinstance(one, (str, os.PathLike))), "")


def _size_of(args: Sequence[Any]) -> int:
    """Return the bytes of the file that a call is about."""
    for one in args:
        if isinstance(one, bytes):
            return len(one)
        if isinstance(one, (str, os.PathLike)):
            with suppress(OSError, ValueError):
                return os.stat(one).st_size
    return 0


# ------------------------------------------------------------------------------------------ which readers use workers

_active: Workers | None = None
"""The processes that read the files of strangers; None where files are read in this one."""


@contextmanager
def untrusted_files(wanted: bool = True, budget: Budget | None = None) -> Iterator[None]:
    """Let functions that are `isolated` run in worker processes inside the block, for all threads.

    Args:
        wanted: False for a block without effect.
        budget: What each call may take.
    """
    global _active
    if not wanted or _active is not None:
        yield
        return
    workers = _active = Workers(budget)
    try:
        yield
    finally:
        _active = None
        workers.close()


def isolated(function: Callable[P, T]) -> Callable[P, T]:
    """Run a function of a module in a worker process where files come from strangers; see `untrusted_files`.

    Its first argument that is a path or a text names what it reads.
    """

    @functools.wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> T:
        return function(*args, **kwargs) if _active is None else _active.call(function, *args, **kwargs)

    return run


def isolated_items(function: Callable[P, Iterator[T]]) -> Callable[P, Iterator[T]]:
    """Run a generator of a module likewise."""

    @functools.wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> Iterator[T]:
        return function(*args, **kwargs) if _active is None else _active.items(function, *args, **kwargs)

    return run


def reads_untrusted() -> bool:
    """Return whether files come from strangers, so that only functions that are `isolated` may read them."""
    return _active is not None


def refuse_outside(path: object) -> None:
    """Refuse to read a file of a stranger in this process; `open_file` asks before it opens any.

    Raises:
        RuntimeError: Files come from strangers, and this is not a worker.
    """
    if _active is not None:
        raise RuntimeError(f"{path}: a reader that is not isolated; see banet.files.worker")


# ----------------------------------------------------------------------------------------------- messages


def _shared_memory() -> int:
    """Return a file without a name for results, which vanishes with its processes; -1 where there is none."""
    try:
        return os.memfd_create("banet")
    except (AttributeError, OSError):
        return -1


def _write(stream: BinaryIO, content: Any, memory: int) -> None:
    """Send something; arrays of an answer by way of the shared memory."""
    buffers: list[pickle.PickleBuffer] = []
    text = io.BytesIO()
    _Pickler(text, protocol=5, buffer_callback=buffers.append).dump(content)
    raw = [buffer.raw() for buffer in buffers]
    total = sum(map(len, raw))
    shared = memory >= 0 and total >= _SHARED
    if shared:  # before the pipe tells of it
        with open(memory, "wb", 0, closefd=False) as space:  # which is as fast as mapping it
            space.seek(0)
            for part in raw:
                _all(space, part)
    head = _HEAD.pack(text.getbuffer().nbytes, len(raw), shared) + struct.pack(f"<{len(raw)}Q", *map(len, raw))
    _all(stream, head + text.getbuffer())
    for part in () if shared else raw:
        _all(stream, part)


def _all(stream: BinaryIO, data: bytes | memoryview) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[stream.write(rest) :]


def _read(stream: BinaryIO, memory: int) -> Any:
    """Return what was sent. Arrays are copies of this process."""
    length, count, shared = _HEAD.unpack(_exactly(stream, _HEAD.size))
    sizes = struct.unpack(f"<{count}Q", _exactly(stream, 8 * count))
    text = _exactly(stream, length)
    if shared:
        if sum(sizes) > os.fstat(memory).st_size:
            raise EOFError
        with open(memory, "rb", 0, closefd=False) as space:
            space.seek(0)
            buffers = [_exactly(space, size) for size in sizes]
    else:
        buffers = [_exactly(stream, size) for size in sizes]
    return pickle.loads(text, buffers=buffers)


def _exactly(stream: BinaryIO, count: int) -> bytearray:
    data = bytearray(count)
    space, done = memoryview(data), 0
    while done < count:
        got = stream.readinto(space[done:])  # type: ignore[attr-defined]
        if not got:
            raise EOFError
        done += got
    return data


class _Pickler(pickle.Pickler):
    """Images and tensors as arrays, which are not copied."""

    def reducer_override(self, value: Any) -> Any:
        kind = type(value)
        if kind.__module__.startswith("PIL.") and getattr(value, "mode", "") in ("RGB", "L"):
            import numpy as np

            return _image, (np.asarray(value),)
        if kind.__module__ == "torch" and kind.__name__ == "Tensor":
            import torch

            flat = value.detach().cpu().contiguous().reshape(-1)
            return _tensor, (flat.view(torch.uint8).numpy(), str(value.dtype).removeprefix("torch."), value.shape[:])
        return NotImplemented


def _image(array: Any) -> Any:
    from PIL import Image

    return Image.fromarray(array)


def _tensor(array: Any, kind: str, shape: Sequence[int]) -> Any:
    import torch

    return torch.from_numpy(array).view(getattr(torch, kind)).reshape(tuple(shape))


# ------------------------------------------------------------------------------------------ in the worker


def serve(memory: int) -> None:
    """Answer the calls that come on standard input until it ends; the main function of a worker process."""
    requests, answers = os.fdopen(os.dup(0), "rb", 0), os.fdopen(os.dup(1), "wb", 0)
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    os.dup2(null, 1)  # libraries that print must not print into an answer
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that waits
    limits = _ProcessLimits()
    while True:
        try:
            folder, module, name, args, kwargs, limit, seconds = _read(requests, -1)
        except EOFError:
            return
        answers.write(b"+")
        try:
            os.chdir(folder)
            with limits.imports():
                function: Any = functools.reduce(getattr, name.split("."), importlib.import_module(module))
            limits.set_memory(limit)
            limits.set_time(seconds)
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always", InputWarning)
                value = function(*args, **kwargs)
                if isinstance(value, Iterator):
                    for part in _parts(value):
                        _write(answers, ("part", part, []), memory)
                        limits.set_time(seconds)
                    value = None
            notes = [str(one.message) for one in caught if issubclass(one.category, InputWarning)]
            _write(answers, ("value", value, notes), memory)
        except Exception as error:
            limits.set_memory(None)
            _write(answers, ("error", _plain(error, _name_of(args), limit), []), memory)
        value = None


def _parts(items: Iterator[Any]) -> Iterator[list[bytes]]:
    """Yield pickled items, some at a time."""
    part: list[bytes] = []
    size = 0
    for item in items:
        part.append(pickle.dumps(item, protocol=5))
        size += len(part[-1])
        if size > _CHUNK:
            yield part
            part, size = [], 0
    if part:
        yield part


def _plain(error: Exception, where: str, limit: int | None) -> Exception:
    """Return an error as it is sent: one that can be pickled, and that says so where the memory was not enough."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, MemoryError) and limit is not None:
            what = f"takes more than {limit / 2**20:,.0f} MB of memory"
            return InputError(what, where=where, hint="make it smaller or leave it out")
        cause = cause.__cause__ or cause.__context__
    try:
        if type(error).__module__.partition(".")[0] not in ("builtins", "banet"):
            raise TypeError  # to read it the other process would import the library that it is of
        pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}")
    error.__traceback__ = error.__cause__ = error.__context__ = None
    return error


class _ProcessLimits:
    """The limits that the system sets this process; none where it has no such limits."""

    def __init__(self) -> None:
        try:
            import resource
        except ImportError:
            self._resource: Any = None
        else:
            self._resource = resource
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        self._base = _address_space()

    @contextmanager
    def imports(self) -> Iterator[None]:
        """Do not count what the block takes."""
        self.set_memory(None)
        before = _address_space()
        yield
        self._base += max(0, _address_space() - before)

    def set_memory(self, limit: int | None) -> None:
        """Limit the address space to so many bytes above what imports take."""
        if self._resource is not None and self._base:
            self._set(self._resource.RLIMIT_AS, None if limit is None else self._base + limit)

    def set_time(self, seconds: int | None) -> None:
        """Limit the processor time from now on. The system counts whole seconds."""
        if self._resource is not None:
            self._set(self._resource.RLIMIT_CPU, None if seconds is None else math.ceil(_limited_time()) + seconds)

    def _set(self, kind: int, value: int | None) -> None:
        _, hard = self._resource.getrlimit(kind)
        with contextlib.suppress(ValueError, OSError):  # a harder limit holds already
            self._resource.setrlimit(kind, (self._resource.RLIM_INFINITY if value is None else value, hard))


def _limited_time() -> float:
    """Return the seconds of processor time of this process, as the limit counts them.

    Linux counts who runs at each tick of its clock, which on a busy machine is far from `time.process_time`.
    """
    if hasattr(time, "clock_gettime"):
        with contextlib.suppress(OSError):  # other systems have no such clock
            return time.clock_gettime(_CPUCLOCK_PROF)
    return time.process_time()


def _address_space() -> int:
    """Return the bytes of address space of this process; 0 where the system does not tell."""
    try:
        with open("/proc/self/statm", "rb") as file:
            return int(file.read().split()[0]) * mmap.PAGESIZE
    except OSError:
        return 0

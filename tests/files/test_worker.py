"""Worker processes: what they give back, what their limits cost whom, and that none is left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from banet.data.images import decode_image, read_image
from banet.errors import InputError, InputWarning, MissingExtraError
from banet.files import worker
from banet.files.reading import open_file, stream_json
from banet.files.worker import Budget, Workers, untrusted_files

linux = pytest.mark.skipif(sys.platform != "linux", reason="the system sets these limits")


# What workers call: functions of this module, which they import.


def give(value: object) -> object:
    return value


def make_tensor(kind: str) -> object:
    import torch

    return {"a": torch.arange(12).reshape(3, 4).to(getattr(torch, kind)), "b": torch.tensor(1.5)}


def draw(side: int) -> Image.Image:
    return Image.fromarray(np.arange(side * side * 3, dtype=np.uint32).astype(np.uint8).reshape(side, side, 3))


def warn_and_count(where: str) -> int:
    warnings.warn(f"{where}: two pages", InputWarning, stacklevel=1)
    warnings.warn("not for the user", UserWarning, stacklevel=1)
    return 3


class LibraryError(Exception):
    pass


def fail(kind: str) -> None:
    if kind == "input":
        raise InputError("is bad", where="a\nb.png", hint="fix it")
    if kind == "extra":
        raise MissingExtraError("pillow-heif", "heic")
    if kind == "chained":
        try:
            bytearray(1 << 40)
        except MemoryError as error:
            raise InputError("is corrupt", where="x.png") from error

    if kind == "library":
        raise LibraryError("of its own")

    class Local(Exception):
        pass

    raise Local("cannot be pickled")


def allocate(name: str, size: int) -> int:
    return len(bytearray(size))


def spin(name: str) -> None:
    while True:
        pass


def die(name: str, number: int) -> None:
    os.kill(os.getpid(), number)


def count_up(name: str, count: int, size: int = 0) -> Iterator[tuple[int, bytes]]:
    for number in range(count):
        yield number, bytes(size)


def count_and_die(name: str) -> Iterator[int]:
    yield from range(10)
    os.abort()


def print_much(name: str) -> int:
    print("x" * 100_000, flush=True)
    os.write(1, b"y" * 100_000)
    return os.getpid()


@pytest.fixture
def workers(monkeypatch) -> Iterator[Workers]:
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    some = Workers(Budget(memory=1 << 28, seconds=1))
    yield some
    some.close()


def processes() -> list[int]:
    """Return the children of this process that are workers."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            status, command = (entry / "stat").read_text(), (entry / "cmdline").read_text()
        except OSError:
            continue
        if "banet.files.worker" in command and int(status.rpartition(")")[2].split()[1]) == os.getpid():
            found.append(int(entry.name))
    return found


# ------------------------------------------------------------------------------------------ results


@pytest.mark.parametrize(
    "value", [None, {"a": [1, 2.5, "x"]}, b"bytes", np.arange(6).reshape(2, 3), np.zeros((300, 400))]
)
def test_results_are_those_of_this_process(workers, value):
    result = workers.call(give, value)
    if isinstance(value, np.ndarray):
        assert result.dtype == value.dtype and np.array_equal(result, value)
        result[...] = 1  # it is a copy that may be written to
    else:
        assert result == value


def test_images_and_tensors(workers):
    torch = pytest.importorskip("torch")
    for side in (2, 300):
        image = workers.call(draw, side)
        assert image.mode == "RGB" and image.tobytes() == draw(side).tobytes()
    generous = Workers(Budget(memory=1 << 32, seconds=100))
    for kind in ("float32", "bfloat16", "int64", "bool"):
        result, own = generous.call(make_tensor, kind), make_tensor(kind)
        assert all(result[name].dtype == own[name].dtype and torch.equal(result[name], own[name]) for name in own)
    generous.close()


def test_paths_are_relative_to_the_folder_of_this_process(workers, tmp_path, monkeypatch):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        monkeypatch.chdir(tmp_path / name)
        assert workers.call(os.getcwd) == str(tmp_path / name)
        if name == "a":
            (tmp_path / "a").rmdir()


def test_a_later_result_does_not_change_an_earlier_one(workers):
    first = workers.call(np.full, 100_000, 1)
    workers.call(np.full, 100_000, 2)
    assert (first == 1).all()


def test_warnings_for_the_user_come_along(workers):
    with pytest.warns(InputWarning) as caught:
        assert workers.call(warn_and_count, "a.tif") == 3
    assert [str(one.message) for one in caught] == ["a.tif: two pages"]


def test_errors_come_along(workers):
    with pytest.raises(InputError) as caught:
        workers.call(fail, "input")
    assert (caught.value.where, caught.value.problem, caught.value.hint) == ("a\\nb.png", "is bad", "fix it")
    assert str(caught.value) == "a\\nb.png: is bad; fix it"
    with pytest.raises(MissingExtraError, match="heic"):
        workers.call(fail, "extra")
    with pytest.raises(RuntimeError, match="Local: cannot be pickled"):
        workers.call(fail, "other")
    with pytest.raises(RuntimeError, match=r"^LibraryError: of its own$"):  # whose module would be imported here
        workers.call(fail, "library")


def test_what_libraries_print_is_not_taken_for_an_answer(workers, capfd):
    assert workers.call(print_much, "x") == workers.call(print_much, "x") != os.getpid()
    assert capfd.readouterr() == ("", "")


def test_items_come_in_order_and_streams_side_by_side(workers):
    assert list(workers.items(count_up, "x", 0)) == []
    assert [number for number, _ in workers.items(count_up, "x", 1000)] == [*range(1000)]
    pairs = zip(workers.items(count_up, "x", 20, 1 << 17), workers.items(count_up, "x", 20, 1 << 17), strict=True)
    for (one, _), (other, data) in pairs:
        assert one == other and len(data) == 1 << 17
        assert workers.call(give, one) == one  # while both streams are open


def test_a_stream_that_nobody_reads_to_its_end_ends(workers):
    items = workers.items(count_up, "x", 1000, 1 << 16)
    next(items)
    items.close()
    assert workers.call(give, 5) == 5


# ------------------------------------------------------------------------------------------ limits


@linux
def test_too_much_memory_is_one_line_and_the_process_goes_on(workers):
    with pytest.raises(InputError) as caught:
        workers.call(allocate, "big.png", 1 << 29)
    assert str(caught.value).startswith("big.png: takes more than 256 MB of memory")
    with pytest.raises(InputError, match=r"x\.png|chained: takes more than 256 MB"):
        workers.call(fail, "chained")
    assert workers.call(allocate, "small.png", 1 << 26) == 1 << 26


@linux
def test_what_imports_take_is_not_counted(workers):
    checkpoint = pytest.importorskip("banet.checkpoint.checkpoint")  # imports torch, which takes gigabytes of addresses
    assert workers.call(checkpoint.packaged_weights) == checkpoint.packaged_weights()


@linux
def test_too_much_time_is_one_line(workers):
    started = time.process_time()
    with pytest.raises(InputError) as caught:
        workers.call(spin, "slow.gif")
    assert str(caught.value) == (
        "slow.gif: brought down the process that it was given to (took more than 1 s); leave it out"
    )
    assert time.process_time() - started < 1  # this process only waits
    assert workers.call(give, 1) == 1


@linux
def test_the_time_is_counted_for_each_call(workers):
    """By the clock of the limit, which on a busy machine runs faster or slower than others."""
    for _ in range(4):
        workers.call(burn, "x")


def burn(name: str) -> None:
    started = worker._limited_time()
    while worker._limited_time() - started < 0.6:
        pass


@pytest.mark.skipif(os.name != "posix", reason="signals")
@pytest.mark.parametrize("number", [signal.SIGSEGV, signal.SIGABRT, signal.SIGKILL, signal.SIGFPE])
def test_a_crash_costs_its_own_answer(workers, number):
    with pytest.raises(InputError, match=r"^bad\.tif: brought down the process"):
        workers.call(die, "bad.tif", number)
    assert workers.call(give, "next") == "next"


def test_a_crash_within_a_stream(workers):
    found = []
    with pytest.raises(InputError, match=r"^bad\.json: brought down the process"):
        found.extend(workers.items(count_and_die, "bad.json"))
    assert found == []
    assert workers.call(give, "next") == "next"


def killed_and_asked(workers: Workers, times: int) -> float:
    """Return the longest time of an answer after the idle process was killed."""
    longest = 0.0
    for number in range(times):
        for process in processes():
            os.kill(process, signal.SIGKILL)
        started = time.monotonic()
        assert workers.call(give, number) == number
        longest = max(longest, time.monotonic() - started)
        assert len(processes()) == 1
    return longest


@linux
def test_a_process_killed_while_it_waits_costs_nothing(workers):
    killed_and_asked(workers, 3)
    workers.close()
    assert processes() == []


@linux
@pytest.mark.slow
def test_100_kills_in_a_row(workers):
    assert killed_and_asked(workers, 100) < 2
    workers.close()
    assert processes() == []


@linux
def test_no_process_outlives_this_one():
    code = (
        "import os, time\nfrom banet.files.worker import Workers\nsome = Workers()\n"
        "print(some.call(os.getpid), flush=True)\ntime.sleep(1000)"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    child = int(parent.stdout.readline())
    assert Path(f"/proc/{child}").exists()
    parent.kill()
    parent.wait()
    parent.stdout.close()
    deadline = time.monotonic() + 60
    while is_alive(child) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not is_alive(child)


def is_alive(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
def test_a_copy_of_this_process_has_workers_of_its_own(workers):
    own = workers.call(os.getpid)
    reading, writing = os.pipe()
    if not (child := os.fork()):
        other = workers.call(os.getpid)
        os.write(writing, str(other).encode())
        workers.close()
        os._exit(0)
    os.waitpid(child, 0)
    assert int(os.read(reading, 20)) != own
    assert workers.call(os.getpid) == own
    os.close(reading)
    os.close(writing)


# ------------------------------------------------------------------------------------------ who uses them


def test_isolated_readers_run_elsewhere_only_where_files_are_not_trusted(tmp_path):
    image = draw(40)
    image.save(tmp_path / "a.png")
    (tmp_path / "a.json").write_text('{"images": [1, 2], "x": 3}')
    direct = read_image(tmp_path / "a.png"), [*stream_json(tmp_path / "a.json")]
    with untrusted_files():
        with pytest.raises(RuntimeError, match="a reader that is not isolated"):
            open_file(tmp_path / "a.png")
        read = read_image(tmp_path / "a.png"), [*stream_json(tmp_path / "a.json")]
        with untrusted_files():
            pass
        with pytest.raises(InputError, match=r"^b\.png: is not an image"):
            decode_image(b"junk", "b.png")
    assert read[0].tobytes() == direct[0].tobytes() and read[1] == direct[1]
    open_file(tmp_path / "a.png").close()
    with untrusted_files(False):
        open_file(tmp_path / "a.png").close()

"""The pipeline of `banet predict`: order, failures, overlap, and how many items are in memory."""

from __future__ import annotations

import signal
import threading
import time
import weakref
from typing import Any, ClassVar

import pytest

from banet.engine.prediction.pipeline import Pipeline

WAIT = 10.0


class Bad(Exception):
    pass


def collect(pipeline: Pipeline[int, Any, Any, Any], count: int) -> list[tuple[int, Any]]:
    return [
        (item, repr(done) if isinstance(done, Exception) else done) for item, done in pipeline.process(range(count))
    ]


@pytest.mark.parametrize("overlap", [False, True])
@pytest.mark.parametrize("count", [0, 1, 2, 7])
def test_items_come_out_in_order(overlap: bool, count: int) -> None:
    pipeline: Pipeline[int, int, int, int] = Pipeline(
        lambda item: 10 * item, lambda item, read: read + item, lambda item, run: -run, overlap=overlap
    )
    assert collect(pipeline, count) == [(n, -11 * n) for n in range(count)]


@pytest.mark.parametrize("overlap", [False, True])
@pytest.mark.parametrize("bad", [{0}, {3}, {0, 1, 2, 3, 4}, {1, 2}, {0, 4}])
@pytest.mark.parametrize("step", ["read", "run"])
def test_a_failure_concerns_its_item_only(overlap: bool, bad: set[int], step: str) -> None:
    written = []

    def fail(which: str, item: int) -> int:
        if which == step and item in bad:
            raise Bad(item)
        return item

    pipeline: Pipeline[int, int, int, None] = Pipeline(
        lambda item: fail("read", item),
        lambda item, _: fail("run", item),
        lambda item, _: written.append(item),
        failures=(Bad,),
        overlap=overlap,
    )
    assert collect(pipeline, 5) == [(n, f"Bad({n})" if n in bad else None) for n in range(5)]
    assert written == [n for n in range(5) if n not in bad]


@pytest.mark.parametrize("overlap", [False, True])
@pytest.mark.parametrize("step", ["read", "run", "write"])
def test_other_errors_end_it_and_what_was_written_is_told(overlap: bool, step: str) -> None:
    def fail(which: str, item: int) -> int:
        if which == step and item == 2:
            raise OSError("no room") if which != "write" else Bad("even a failure, where it is the write that fails")
        return item

    pipeline: Pipeline[int, int, int, int] = Pipeline(
        lambda item: fail("read", item),
        lambda item, _: fail("run", item),
        lambda item, _: fail("write", item),
        failures=(Bad,),
        overlap=overlap,
    )
    seen = []
    with pytest.raises(Bad if step == "write" else OSError):
        for item, _ in pipeline.process(range(5)):
            seen.append(item)
    assert seen in ([0, 1], [0])  # the one before the failure may be at work still
    assert threading.active_count() < 20


def test_reading_and_writing_go_on_while_the_network_runs() -> None:
    reading, writing = threading.Event(), threading.Event()
    threads: dict[str, set[int]] = {"read": set(), "run": set(), "write": set()}

    def read(item: int) -> int:
        threads["read"].add(threading.get_ident())
        if item == 2:
            reading.set()
        return item

    def run(item: int, _: int) -> int:
        threads["run"].add(threading.get_ident())
        if item == 1:  # item 2 is read, and item 0 written, before this ends
            assert reading.wait(WAIT) and writing.wait(WAIT)
        return item

    def write(item: int, _: int) -> None:
        threads["write"].add(threading.get_ident())
        if item == 0:
            writing.set()

    list(Pipeline(read, run, write).process(range(3)))
    assert [len(used) for used in threads.values()] == [1, 1, 1] and len(set.union(*threads.values())) == 3
    assert threads["run"] == {threading.get_ident()}


class Large:
    """Something of which we count how many there are."""

    alive: ClassVar[weakref.WeakSet[Large]] = weakref.WeakSet()

    def __init__(self) -> None:
        Large.alive.add(self)


@pytest.mark.parametrize(("overlap", "most"), [(False, 1), (True, 3)])
def test_few_items_are_in_memory(overlap: bool, most: int) -> None:
    counts = []

    def run(item: int, loaded: Large) -> Large:
        counts.append(len(Large.alive))
        return loaded

    def write(item: int, computed: Large) -> None:
        counts.append(len(Large.alive))

    for _ in Pipeline(lambda item: Large(), run, write, overlap=overlap).process(range(20)):
        counts.append(len(Large.alive))
    assert max(counts) <= most and len(Large.alive) == 0


def test_leaving_early_ends_the_threads() -> None:
    before = threading.active_count()
    steps = Pipeline(lambda item: item, lambda item, _: item, lambda item, _: item).process(range(1000))
    assert next(steps) == (0, 0)
    steps.close()  # type: ignore[attr-defined]  # a generator
    assert threading.active_count() == before


def test_ctrl_c_while_it_ends_leaves_nothing_half_written() -> None:
    written: list[int] = []

    def write(item: int, run: int) -> int:
        if item:
            ending.wait(WAIT)
            time.sleep(0.1)  # until the main thread waits for this one
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
            time.sleep(0.3)
        written.append(item)
        return item

    ending = threading.Event()
    steps = Pipeline[int, int, int, int](lambda item: item, lambda item, read: item, write).process(range(2))
    assert next(steps) == (0, 0)
    ending.set()
    with pytest.raises(KeyboardInterrupt):
        steps.close()
    assert written == [0, 1]

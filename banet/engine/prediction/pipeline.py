"""A pipeline of three steps: the next item is read and the last one written while the network runs on the current."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Generic, TypeVar

__all__ = ["Pipeline"]

Item = TypeVar("Item")
Loaded = TypeVar("Loaded")
Computed = TypeVar("Computed")
Done = TypeVar("Done")


class _Thread(ThreadPoolExecutor):
    """A thread that is waited for, whenever Ctrl-C comes."""

    def __enter__(self) -> _Thread:
        self.submit(bool).result()  # starts it while it has nothing to do: interrupted there, it would be forgotten
        return self

    def __exit__(self, *error: Any) -> None:
        # By a last task, as a thread whose `join` was interrupted counts as ended up to Python 3.12.
        last = self.submit(bool)
        try:
            last.result()
        except KeyboardInterrupt:
            last.result()
            raise
        finally:
            super().__exit__(*error)


class Pipeline(Generic[Item, Loaded, Computed, Done]):
    """Takes items through three steps: `read` and `write` have a thread each, `run` has the calling one.

    At most three items are in memory: one is read ahead, one runs, and one is written.

    Args:
        read: Loads an item.
        run: Computes, from an item and what was loaded of it.
        write: Finishes an item, from it and what was computed.
        failures: Errors of `read` and `run` that concern one item only. All others, and any of `write`, end the
            pipeline.
        overlap: Whether steps of several items overlap; without, there is one item in memory, and one thread.
    """

    def __init__(
        self,
        read: Callable[[Item], Loaded],
        run: Callable[[Item, Loaded], Computed],
        write: Callable[[Item, Computed], Done],
        *,
        failures: tuple[type[Exception], ...] = (),
        overlap: bool = True,
    ) -> None:
        self.read, self.run, self.write = read, run, write
        self.failures, self.overlap = failures, overlap

    def process(self, items: Iterable[Item]) -> Generator[tuple[Item, Done | Exception], None, None]:
        """Yield each item, in order, with what `write` returned for it, or with its failure.

        Closing the generator waits for the threads.
        """
        return self._overlapping(items) if self.overlap else self._one_by_one(items)

    def _one_by_one(self, items: Iterable[Item]) -> Generator[tuple[Item, Done | Exception], None, None]:
        for item in items:
            try:
                computed = self.run(item, self.read(item))
            except self.failures as failure:
                yield item, failure
            else:
                done = self.write(item, computed)
                del computed
                yield item, done

    def _overlapping(self, items: Iterable[Item]) -> Generator[tuple[Item, Done | Exception], None, None]:
        with _Thread(1) as reader, _Thread(1) as writer:
            coming = ((item, reader.submit(self.read, item)) for item in items)
            following = next(coming, None)
            behind: tuple[Item, Future[Done] | Exception] | None = None
            while following is not None or behind is not None:
                ended: tuple[Item, Future[Done] | Exception] | None = None
                if following is not None:
                    (item, loaded), following = following, next(coming, None)
                    try:
                        computed = self.run(item, loaded.result())
                    except self.failures as failure:
                        ended = item, failure
                    else:
                        if behind is not None and isinstance(behind[1], Future):
                            behind[1].exception()  # wait, as two must not be held for writing
                        ended = item, writer.submit(self.write, item, computed)
                        del computed
                    del loaded
                if behind is not None:
                    yield behind[0], behind[1] if isinstance(behind[1], Exception) else behind[1].result()
                behind = ended

"""One progress bar of all processes of a run."""

from __future__ import annotations

import time
from types import TracebackType

from tqdm import tqdm

from banet.engine.sharing.shared_run import SharedRun

__all__ = ["RunBar"]

_INTERVAL = 1.0  # seconds between looks at what the others have done


class RunBar:
    """Shows, in the first process, how many items all have finished: items per second and the time that is left.

    A context manager.

    Args:
        name: What is done.
        run: The run; it counts what this process does.
        unit: What an item is.
    """

    def __init__(self, name: str, run: SharedRun, unit: str = "image") -> None:
        self._run = run
        self._looked = time.monotonic()
        hidden = None if run.process.first else True
        self._bar = tqdm(
            desc=name, unit=unit, total=len(run.work), leave=False, disable=hidden, initial=run.count, smoothing=0.05
        )

    def update(self) -> None:
        """Count an item of this process."""
        self._run.advance()
        now = time.monotonic()
        if self._bar.disable or (self._run.process.world > 1 and now - self._looked < _INTERVAL):
            return
        self._looked = now
        self._bar.update(self._run.count - self._bar.n)

    def __enter__(self) -> RunBar:
        self._bar.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.close()

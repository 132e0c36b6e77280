"""Work that torchrun started in several processes, other than training, which Lightning looks after."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import distributed

__all__ = ["gather", "joined", "share"]


@contextmanager
def joined() -> Iterator[None]:
    """Let the processes that torchrun started talk to each other; alone, or where they do already, nothing happens."""
    alone = int(os.environ.get("WORLD_SIZE", "1")) == 1 or "RANK" not in os.environ
    if alone or not distributed.is_available() or distributed.is_initialized():
        yield
        return
    distributed.init_process_group("gloo")  # counts and records travel, no tensors of a GPU
    try:
        yield
    finally:
        distributed.destroy_process_group()


def share() -> tuple[int, int]:
    """Number of this process, and how many there are."""
    if distributed.is_available() and distributed.is_initialized():
        return distributed.get_rank(), distributed.get_world_size()
    return 0, 1


def gather(value: Any) -> list[Any]:
    """Return what each process gave, in the order of their numbers, on the first one; on the others nothing."""
    rank, world = share()
    if world == 1:
        return [value]
    values: list[Any] | None = [None] * world if rank == 0 else None
    distributed.gather_object(value, values)
    return values or []

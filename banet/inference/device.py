"""Which device to compute on, and what to do where its memory does not suffice. Loads torch only to look for one."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from banet.errors import InputError

if TYPE_CHECKING:
    import torch

__all__ = ["first_that_fits", "is_out_of_memory", "pick_device"]


def pick_device(name: str | torch.device, option: str = "--device") -> torch.device:
    """Return the device of `auto`, `cpu`, `cuda`, `cuda:N` or `mps`; `auto` takes the fastest there is.

    Of the processes that torchrun or SLURM started on a machine, each takes a GPU of its own, in turn where there are
    more processes than GPUs that they see.

    Args:
        name: The device.
        option: What asked for it, for errors.

    Raises:
        InputError: The device is not there.
    """
    import torch

    name = str(name)
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name == "auto":
        name = next(device for device, available in there.items() if available)
    kind, _, number = name.partition(":")
    try:
        torch.device(name)
    except RuntimeError:  # another word
        raise InputError("choose auto, cpu, cuda or mps", where=f"{option} {name}") from None
    if not there.get(kind, False) or (kind == "cuda" and int(number or 0) >= torch.cuda.device_count()):
        raise InputError("torch sees no such device here", where=f"{option} {name}", hint="choose auto or cpu")
    local_rank = os.environ.get("LOCAL_RANK", os.environ.get("SLURM_LOCALID"))
    if name != "cuda" or local_rank is None:
        return torch.device(name)
    return torch.device(f"cuda:{int(local_rank) % torch.cuda.device_count()}")


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error says that a computation found no memory, on whatever device and in whatever library."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":  # torch's, for GPUs
        return True
    return isinstance(error, RuntimeError) and any(
        words in str(error) for words in ("out of memory", "DefaultCPUAllocator", "bad_alloc", "create a primitive")
    )  # of CUDA and Metal, of torch on CPUs, of C++, of oneDNN


def first_that_fits(sizes: Iterable[int], run: Callable[[int], object]) -> int:
    """Return the first size for which `run` finds enough memory; 0 where there is none. It is tried, not estimated."""
    import torch

    for size in sizes:
        if torch.cuda.is_available():
            torch.cuda.empty_cache()  # what the larger size has left in pieces
        try:
            run(size)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
        else:
            return size
    return 0

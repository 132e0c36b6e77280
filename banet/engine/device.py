"""Which device to compute on."""

from __future__ import annotations

import os

import torch

from banet.errors import InputError

__all__ = ["pick_device"]


def pick_device(name: str) -> torch.device:
    """The device of `auto`, `cpu`, `cuda` or `mps`; `auto` takes the fastest there is.

    Of the processes that torchrun started on a machine, each takes a GPU of its own.

    Raises:
        InputError: The device is not there.
    """
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name == "auto":
        name = next(device for device, available in there.items() if available)
    kind = name.split(":")[0]
    if kind not in there:
        raise InputError(f"--device {name}: choose auto, cpu, cuda or mps")
    if not there[kind]:
        raise InputError(f"--device {name}: torch sees no such device here; choose auto or cpu")
    local_rank = os.environ.get("LOCAL_RANK")
    return torch.device(name if name != "cuda" or local_rank is None else f"cuda:{local_rank}")

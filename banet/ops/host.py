"""What goes between host and device: copies that nobody waits for, and what the host must know, in one wait a call."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

__all__ = ["to_device", "to_host", "true_rows"]


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """Return a tensor of the host on a device, without waiting for it; the tensor may be freed at once.

    Metal reads it after such a copy has returned, so there the copy is waited for.
    """
    return tensor.to(device, non_blocking=device.type != "mps")


def true_rows(masks: Sequence[Tensor]) -> list[Tensor]:
    """Return the rows in which each of several masks is true.

    Args:
        masks: boolean, ``(L_i,)``, on one device.

    Returns:
        One ``(P_i,)`` int64 per mask, ascending.
    """
    if torch.compiler.is_exporting():  # a graph does not know how many there are
        return [mask.nonzero()[:, 0] for mask in masks]
    if not masks:
        return []
    counts = torch.stack([mask.sum() for mask in masks]).tolist()
    return [torch.nonzero_static(mask, size=count)[:, 0] for mask, count in zip(masks, counts, strict=True)]


def to_host(tensors: Sequence[Tensor]) -> list[NDArray[Any]]:
    """Return tensors as arrays; those of a GPU are all copied before it is waited for."""
    if not tensors or tensors[0].device.type in ("cpu", "mps"):  # Metal's copies must not be read before their end
        return [tensor.detach().cpu().numpy() for tensor in tensors]
    copies = [tensor.detach().to("cpu", non_blocking=True) for tensor in tensors]
    _finish(tensors[0].device)
    return [copy.numpy() for copy in copies]


def _finish(device: torch.device) -> None:
    torch.cuda.current_stream(device).synchronize()

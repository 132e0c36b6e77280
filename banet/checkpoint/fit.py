"""Networks for weights from a file: whether it holds what they need, and made without random weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from banet.checkpoint.checkpoint import Checkpoint
from banet.errors import InputError, first_line
from banet.modeling.aggregation import current_name
from banet.modeling.network import Network

__all__ = ["WithoutRandomWeights", "check_fit"]

_RANDOM = (Tensor.normal_, Tensor.uniform_)


class WithoutRandomWeights(TorchFunctionMode):
    """Inside this context new modules have zeros in place of random weights, which those of a file replace.

    Random numbers are most of the time that it takes to make a network. Zeros, not whatever is in memory: torch draws
    truncated normal numbers again until all are within their bounds.
    """

    def __torch_function__(
        self,
        function: Callable[..., Any],
        types: Sequence[type],
        arguments: Sequence[Any] = (),
        options: Mapping[str, Any] | None = None,
    ) -> Any:
        """Fill the tensor of a random or initialising function with zeros, and call any other."""
        options = options or {}
        if function in _RANDOM or getattr(function, "__module__", "") == "torch.nn.init":
            with torch.no_grad():
                return (options["tensor"] if "tensor" in options else arguments[0]).zero_()
        return function(*arguments, **options)


def check_fit(checkpoint: Checkpoint) -> None:
    """Check names and shapes of all tensors, before any memory is taken for them.

    Raises:
        InputError: No such network can be made, or a tensor is missing, too many or of another shape.
    """
    path = checkpoint.path
    try:
        with torch.device("meta"), WithoutRandomWeights():
            network = Network(checkpoint.categories, checkpoint.config)
    except Exception as error:  # whatever torch says of numbers that are too large or do not go together
        reason = first_line(error)
        raise InputError(
            f"no network can be made as its header says ({reason})", where=path, hint="it is damaged"
        ) from None
    expected = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    shapes = {current_name(name): shape for name, shape in checkpoint.shapes.items()}
    wrong = sorted(name for name in expected.keys() | shapes.keys() if expected.get(name) != shapes.get(name))
    if wrong:
        name = wrong[0]
        raise InputError(
            f"tensor {name} has shape {shapes.get(name)} where the header's network wants "
            f"{expected.get(name)} ({len(wrong)} such tensors)",
            where=path,
            hint="the file is damaged or was written by another version",
        )
    if len(shapes) < len(checkpoint.shapes):
        raise InputError("holds tensors under old and new names at once", where=path, hint="the file is damaged")

"""Whether a file of weights holds what the network in its header needs."""

from __future__ import annotations

import torch

from banet.checkpoint.checkpoint import Checkpoint
from banet.errors import InputError
from banet.modeling.aggregation import current_name
from banet.modeling.network import Network

__all__ = ["check_fit"]


def check_fit(checkpoint: Checkpoint) -> None:
    """Check names and shapes of all tensors, before any memory is taken for them.

    Raises:
        InputError: No such network can be made, or a tensor is missing, too many or of another shape.
    """
    path = checkpoint.path
    try:
        with torch.device("meta"):
            network = Network(checkpoint.categories, checkpoint.config)
    except Exception as error:  # whatever torch says of numbers that are too large or do not go together
        reason = str(error).splitlines()[0]
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

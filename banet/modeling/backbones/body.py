"""What the body of a backbone is to the rest of the network, and batch norms of a body frozen or replaced."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

__all__ = ["Body", "group_norm", "is_under", "layers_of", "replace_modules"]


@dataclass(frozen=True)
class Body:
    """A body, and what the pyramid, freezing and learning rates need to know of it.

    Attributes:
        network: Gives four features of pixels (B, 3, H, W), as a list or by name, at strides 4, 8, 16 and 32.
        channels: Channels of these features.
        layers: Prefixes of the names of its parameters, layer by layer from the input on.
        stages: How many of these layers the stem has, and the stem with the first one to four stages.
        divisor: Height and width of the pixels are padded to multiples of it.
        mean: Of each color channel of 0..255, subtracted from the pixels.
        std: What they are divided by.
    """

    network: nn.Module
    channels: tuple[int, ...]
    layers: tuple[tuple[str, ...], ...]
    stages: tuple[int, ...]
    divisor: int = 32
    mean: tuple[float, ...] = (123.675, 116.28, 103.53)
    std: tuple[float, ...] = (58.395, 57.12, 57.375)


def is_under(name: str, prefixes: Sequence[str]) -> bool:
    """Return whether a parameter belongs to one of some modules, or is one of some parameters, by name."""
    return any(name == prefix or name.startswith(f"{prefix}.") for prefix in prefixes)


def layers_of(network: nn.Module, stages: Sequence[str]) -> tuple[tuple[tuple[str, ...], ...], tuple[int, ...]]:
    """Divide a body whose parameters are registered in the order of their use into layers and stages.

    A layer is a numbered block of a stage together with what follows it there; the stem is one layer.

    Args:
        network: The body.
        stages: Names of the modules whose outputs are the features at strides 4, 8, 16 and 32.

    Returns:
        `layers` and `stages` of `Body`.
    """
    names = [name for name, _ in network.named_parameters()]
    inside = [[i for i, name in enumerate(names) if is_under(name, [stage])] for stage in stages]
    starts = [rows[0] if rows else len(names) for rows in inside]
    # A stage that is not a module of its own ends where the next begins.
    ends = [
        rows[-1] + 1 if rows else min(starts[k + 1 :], default=len(names)) for k, rows in enumerate(inside)
    ]
    stem = starts[0] if inside[0] else min(1, len(names))
    bounds = [0, stem, *ends[:-1], len(names)]
    layers: list[tuple[str, ...]] = []
    counts: list[int] = []
    for number, (start, end) in enumerate(zip(bounds, bounds[1:], strict=False)):
        blocks: dict[str, list[str]] = {}
        current = ""
        for name in names[start:end]:
            current = (_block(name) or current) if number else "stem"
            blocks.setdefault(current, []).append(name)
        layers += [tuple(members) for members in blocks.values()]
        counts.append(len(layers))
    return tuple(layers), tuple(counts)


def _block(name: str) -> str:
    """Return the name of the numbered block that a parameter belongs to, "" where it belongs to none."""
    parts = name.split(".")
    for k, part in enumerate(parts[1:3], 1):
        if part[-1].isdigit() and parts[k - 1] != "downsample":
            return ".".join(parts[: k + 1])
    return ""


def replace_modules(network: nn.Module, replacement: Callable[[nn.Module], nn.Module | None]) -> None:
    """Replace modules of a network by others.

    Args:
        network: Changed in place.
        replacement: Returns what takes the place of a module, or None where it stays.
    """
    for parent in list(network.modules()):
        for name, child in list(parent.named_children()):
            if (other := replacement(child)) is not None:
                setattr(parent, name, other)


def group_norm(channels: int) -> nn.GroupNorm:
    """Return GroupNorm with 32 groups, or the largest smaller power of two that divides `channels`."""
    groups = 32
    while channels % groups:
        groups //= 2
    return _GroupNorm(groups, channels)


class _GroupNorm(nn.GroupNorm):
    """GroupNorm that also takes groups of one value, as narrow networks have of the smallest images."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.group_norm(x, self.num_groups, self.weight, self.bias, self.eps)

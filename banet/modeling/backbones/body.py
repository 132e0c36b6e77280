"""What the body of a backbone is to the rest of the network, and tools to make one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import torch
from torch import Tensor, nn

__all__ = ["Body", "ChannelsFirst", "Layers", "group_norm", "is_under", "layers_of", "replace_modules"]


@dataclass(frozen=True)
class Layers:
    """The layers of a body, and the stages that they form.

    Attributes:
        prefixes: Of the names of each layer's parameters, from the input on. The first layer is the stem.
        stages: How many layers the stem has, and the stem with the first one to four stages.
    """

    prefixes: tuple[tuple[str, ...], ...]
    stages: tuple[int, ...]

    def index(self, name: str) -> int:
        """Return the layer of a parameter, and their number where it is in none."""
        return next((i for i, layer in enumerate(self.prefixes) if is_under(name, layer)), len(self.prefixes))


@dataclass(frozen=True)
class Body:
    """A body, and what the pyramid, freezing and learning rates need to know of it.

    Attributes:
        network: Gives four features of pixels (B, 3, H, W), as a list or by name, at strides 4, 8, 16 and 32.
        channels: Channels of these features.
        layers: Its layers; parameters that are in none start at random also where the body is pretrained.
        divisor: Height and width of the pixels are padded to multiples of it.
        top_down: Whether the pyramid adds each level to the one below. Those of a plain vision transformer come from
            one map, and need it not.
        mean: Of each color channel of 0..255, subtracted from the pixels.
        std: What they are divided by then.
    """

    network: nn.Module
    channels: tuple[int, ...]
    layers: Layers
    divisor: int = field(default=32, kw_only=True)
    top_down: bool = field(default=True, kw_only=True)
    mean: tuple[float, ...] = field(default=(123.675, 116.28, 103.53), kw_only=True)
    std: tuple[float, ...] = field(default=(58.395, 57.12, 57.375), kw_only=True)


class ChannelsFirst(nn.Module):
    """A body whose features are (B, H, W, C), made (B, C, H, W).

    Args:
        features: The body; gives a list, or a dict by name.
    """

    def __init__(self, features: nn.Module) -> None:
        super().__init__()
        self.features = features

    def forward(self, pixels: Tensor) -> list[Tensor]:
        """Compute the features of pixels (B, 3, H, W)."""
        features = self.features(pixels)
        levels = features.values() if isinstance(features, dict) else features
        return [level.permute(0, 3, 1, 2) for level in levels]


def is_under(name: str, prefixes: Sequence[str]) -> bool:
    """Return whether a parameter belongs to one of some modules, or is one of some parameters, by name."""
    return any(name == prefix or name.startswith(f"{prefix}.") for prefix in prefixes)


def layers_of(network: nn.Module, stages: Sequence[str]) -> Layers:
    """Divide a body that registers its parameters in the order of their use.

    A layer is a numbered block of a stage; what stands between blocks belongs to the one before, or to the first.

    Args:
        network: The body.
        stages: Names of the modules whose outputs are the features at strides 4, 8, 16 and 32. One that the body lacks
            ends where the next begins.
    """
    names = [name for name, _ in network.named_parameters()]
    rows = [[i for i, name in enumerate(names) if is_under(name, [stage])] for stage in stages]
    starts = [inside[0] if inside else len(names) for inside in rows]
    ends = [inside[-1] + 1 if inside else min(starts[k + 1 :], default=len(names)) for k, inside in enumerate(rows)]
    bounds = [starts[0] if rows[0] else 1, *ends[:-1], len(names)]
    layers: list[tuple[str, ...]] = [tuple(names[: bounds[0]])]
    counts = [1]
    for start, end in pairwise(bounds):
        blocks: list[list[str]] = [[]]
        for name in names[start:end]:
            block = _block(name, stages)
            if block and block not in blocks[-1]:
                blocks.append([block])
            elif not block:
                blocks[-1].append(name)
        before, *rest = blocks
        rest = rest or [[]]
        rest[0] += before
        layers += map(tuple, rest)
        counts.append(len(layers))
    return Layers(tuple(layers), tuple(counts))


def _block(name: str, stages: Sequence[str]) -> str:
    """Return the name of the numbered block that a parameter belongs to, "" where it belongs to none."""
    stage = next((stage for stage in stages if is_under(name, [stage])), "")
    parts = name.removeprefix(f"{stage}.").split(".")
    for k, part in enumerate(parts[:2]):
        if part[-1].isdigit() and "downsample" not in parts[:k]:
            return ".".join([stage, *parts[: k + 1]]) if stage else ".".join(parts[: k + 1])
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

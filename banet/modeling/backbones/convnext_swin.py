"""ConvNeXt and Swin of torchvision."""

from __future__ import annotations

from typing import Any

import torchvision
from torchvision.models._utils import IntermediateLayerGetter
from torchvision.ops import StochasticDepth

from banet.modeling.backbones.body import Body, ChannelsFirst, layers_of

__all__ = ["convnext_body", "swin_body"]

_STAGES = ("1", "3", "5", "7")
"""Modules whose outputs are the features; those between halve the map, the first makes it from pixels."""


def convnext_body(name: str, drop_path: float = 0.0) -> Body:
    """Return a ConvNeXt (Liu et al. 2022) with random weights.

    Args:
        name: `convnext_tiny`, `convnext_small`, `convnext_base` or `convnext_large`.
        drop_path: Probability that training skips the last residual block, falling to 0 at the first.
    """
    features = _features(name, drop_path)
    network = IntermediateLayerGetter(features, _levels())
    return Body(network, _widths(features[0][0].out_channels), layers_of(network, _STAGES))


def swin_body(name: str, drop_path: float = 0.0) -> Body:
    """Return a Swin transformer (Liu et al. 2021, 2022) with random weights; it pads to its windows by itself.

    Args:
        name: `swin_t`, `swin_s`, `swin_b`, `swin_v2_t`, `swin_v2_s` or `swin_v2_b`.
        drop_path: See `convnext_body`.
    """
    features = _features(name, drop_path)
    network = ChannelsFirst(IntermediateLayerGetter(features, _levels()))
    return Body(network, _widths(features[0][0].out_channels), layers_of(network, [f"features.{s}" for s in _STAGES]))


def _features(name: str, drop_path: float) -> Any:
    """Return the modules before the classifier; torchvision sets drop path by itself, so that it is set anew."""
    features = getattr(torchvision.models, name)(weights=None).features
    blocks = [module for module in features.modules() if isinstance(module, StochasticDepth)]
    for number, block in enumerate(blocks):
        block.p = drop_path * number / (len(blocks) - 1)
    return features


def _levels() -> dict[str, str]:
    return {stage: f"P{level}" for level, stage in enumerate(_STAGES, 2)}


def _widths(first: int) -> tuple[int, ...]:
    return tuple(first * 2**stage for stage in range(len(_STAGES)))

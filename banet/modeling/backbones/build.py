"""From the name of a backbone to its body and pretrained weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

import torchvision
from torch import Tensor

from banet.modeling.backbones.body import Body
from banet.modeling.backbones.resnet import resnet_body
from banet.modeling.backbones.timm_bodies import timm_body, timm_weights

__all__ = ["build_body", "pretrained_body"]

_TIMM = "timm:"


def build_body(name: str, norm: str) -> Body:
    """Return a body with random weights.

    Args:
        name: `model.backbone`.
        norm: `frozen_batch` or `group`: what its batch norms are.

    Raises:
        InputError: There is no such body, or it does not give features at strides 4 to 32.
        MissingExtraError: timm is needed and not installed.
    """
    if name.startswith(_TIMM):
        return timm_body(name.removeprefix(_TIMM), norm)
    return resnet_body(name, norm)


def pretrained_body(name: str, state: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
    """Return pretrained weights of a body, by the names that they have in it.

    Args:
        name: `model.backbone`.
        state: Weights of the whole classifier; None takes those that torchvision or timm publish, downloaded on first
            use.

    Raises:
        InputError: `state` is of another network.
        OSError: The download failed.
    """
    if name.startswith(_TIMM):
        return timm_weights(name.removeprefix(_TIMM), state)
    if state is None:
        weights = torchvision.models.get_weight(_WEIGHTS[name])
        state = cast("Mapping[str, Tensor]", weights.get_state_dict(progress=True, check_hash=True))
    return dict(state)


_WEIGHTS = {
    "resnet18": "ResNet18_Weights.IMAGENET1K_V1",
    "resnet34": "ResNet34_Weights.IMAGENET1K_V1",
    "resnet50": "ResNet50_Weights.IMAGENET1K_V1",
    "resnet101": "ResNet101_Weights.IMAGENET1K_V1",
    "dcn101": "ResNet101_Weights.IMAGENET1K_V1",
}

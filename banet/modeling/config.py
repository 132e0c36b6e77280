"""What a network is made of, how it is trained and how its outputs are postprocessed: frozen options, free of torch.

The defaults are the paper's values for COCO, and this project's choices where the paper is silent.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from banet._renamed import accept_old_names, current_options, current_value
from banet.errors import InputError
from banet.panoptic.defaults import (
    MAX_INSTANCES,
    OVERLAP_THRESHOLD,
    REMOVAL_THRESHOLD,
    RULE,
    SCORE_THRESHOLD,
    STUFF_AREA,
    RuleName,
)
from banet.types import BitDepth

__all__ = [
    "BACKBONES",
    "BEFORE",
    "STRIDES",
    "InferenceConfig",
    "LossConfig",
    "ModelConfig",
    "RuleName",
    "change_options",
    "read_options",
]

STRIDES = (4, 8, 16, 32, 64)
"""Strides of P2..P6; F_S and the semantic logits have the first."""

_LONGEST_SIDE = 8192
_MOST_COUNTS = {"proposals_per_level": 10_000, "proposals": 5000, "max_instances": 2000, "ap_instances": 2000}
"""Ten times what is usual, since the options come with weights that others may have made."""
_MOST = 64  # anchors per location, and levels of OCM's pyramid

BACKBONES = (
    *("resnet18", "resnet34", "resnet50", "resnet101", "dcn101"),
    *("convnext_tiny", "convnext_small", "convnext_base", "convnext_large"),
    *("swin_t", "swin_s", "swin_b", "swin_v2_t", "swin_v2_s", "swin_v2_b"),
)
"""Backbones by name, besides `timm:NAME`."""


@dataclass(frozen=True)
class ModelConfig:
    """The composition of a network and its widths.

    Attributes:
        backbone: `resnet18`, `resnet34`, `resnet50`, `resnet101`; `dcn101`: ResNet-101 with deformable 3x3 convolutions
            in layer2..layer4; `convnext_tiny` to `convnext_large`; `swin_t`, `swin_s`, `swin_b` and `swin_v2_t` to
            `swin_v2_b`; `timm:NAME`: any of timm that gives strides 4 to 32, or a plain vision transformer.
        norm: `frozen_batch` for pretrained backbones, `group` for training from random weights at small batch,
            `auto` takes the first when the training starts from pretrained weights and the second otherwise.
        frozen_stages: with pretrained weights, how many stages of the backbone do not learn: 0 none, 1 the stem (all
            before the features of stride 4), 2 the stem and the stage of stride 4, up to 5; a plain vision transformer
            has four stages of equally many blocks.
        drop_path: probability that training skips the last residual block of the backbone, falling to 0 at the first;
            not for ResNets.
        fpn_norm: norm of the pyramid's convolutions; `auto` is `group` where `norm` is, else `none`.
        fpn_channels: channels of P2..P6.
        semantic_channels: output channels of the three 3x3 convolutions of the semantic head.
        deformable: the paper's DFM: the semantic head's convolutions are deformable.
        s2i: semantic features join the RoI features (eq. 1).
        sim: the semantic interaction module: instance features join the final semantic logits through RoIInlay.
        ocm: the object context module on top of SIM.
        box_head_channels: width of the box head's two fully connected layers.
        mask_head_channels: width of the mask head's three convolutions, hence of F_ins.
        i2s_channels: width of SIM, of OCM's vector and of F_I2S.
        ocm_channels: E, channels that OCM pools.
        ocm_cells: cells per side of OCM's adaptive max-pooling pyramid.
        ocm_relu: ReLU after OCM's linear layer and after its merge (our choice; the paper names none, and without one
            OCM is one bias per class and image). Weights of earlier versions have none.
        anchor_sizes: side in input pixels of the square anchor of P2..P6.
        anchor_ratios: height / width of the anchors.
        canonical_box_size: side in input pixels of the box whose features come from level 4.
    """

    backbone: str = "resnet50"
    norm: Literal["auto", "frozen_batch", "group"] = "auto"
    frozen_stages: int = 2
    drop_path: float = 0.0
    fpn_norm: Literal["auto", "none", "group"] = "auto"
    fpn_channels: int = 256
    semantic_channels: tuple[int, int, int] = (256, 128, 128)
    deformable: bool = False
    s2i: bool = True
    sim: bool = True
    ocm: bool = True
    box_head_channels: int = 1024
    mask_head_channels: int = 256
    i2s_channels: int = 128
    ocm_channels: int = 10
    ocm_cells: tuple[int, ...] = (1, 2, 3, 6)
    ocm_relu: bool = True
    anchor_sizes: tuple[float, float, float, float, float] = (32, 64, 128, 256, 512)
    anchor_ratios: tuple[float, ...] = (0.5, 1.0, 2.0)
    canonical_box_size: float = 224

    def __post_init__(self) -> None:
        """Refuse compositions that do not exist."""
        if self.backbone not in BACKBONES and not re.fullmatch(r"timm:[\w.-]+", self.backbone, re.ASCII):
            near = difflib.get_close_matches(self.backbone, BACKBONES, 3)
            hint = f"did you mean {' or '.join(near)}?" if near else "give resnet50, convnext_tiny, swin_t or timm:NAME"
            raise ValueError(f"model.backbone: there is no {self.backbone}; {hint}")
        if self.ocm and not self.sim:
            raise ValueError("model.ocm: OCM works on top of SIM; set model.sim to true or model.ocm to false")
        if not 0 <= self.frozen_stages <= 5:
            raise ValueError(f"model.frozen_stages: must be 0 to 5, not {self.frozen_stages}")
        if not 0 <= self.drop_path < 1:
            raise ValueError(f"model.drop_path: must lie in 0..1, below 1, not {self.drop_path}")
        widths = {
            "fpn_channels": self.fpn_channels,
            "semantic_channels": min(self.semantic_channels),
            "box_head_channels": self.box_head_channels,
            "mask_head_channels": self.mask_head_channels,
            "i2s_channels": self.i2s_channels,
            "ocm_channels": self.ocm_channels,
            "ocm_cells": min(self.ocm_cells, default=0),
        }
        for name, width in widths.items():
            if width < 1:
                raise ValueError(f"model.{name}: must be at least 1, not {width}")
        if len(self.anchor_sizes) != 5 or min(self.anchor_sizes) <= 0:
            raise ValueError("model.anchor_sizes: give five positive sizes, for P2 to P6")
        if not 1 <= len(self.anchor_ratios) <= _MOST or min(self.anchor_ratios) <= 0:
            raise ValueError(f"model.anchor_ratios: give 1 to {_MOST} positive ratios")
        if len(self.ocm_cells) > _MOST:
            raise ValueError(f"model.ocm_cells: give at most {_MOST} numbers of cells")
        if self.canonical_box_size <= 0:
            raise ValueError(f"model.canonical_box_size: must be positive, not {self.canonical_box_size}")

    def for_random_weights(self) -> ModelConfig:
        """Return the composition with `norm: auto` decided: GroupNorm, under which every stage learns."""
        if self.norm == "frozen_batch":
            return self
        return replace(self, norm="group", frozen_stages=0)


@accept_old_names
@dataclass(frozen=True)
class InferenceConfig:
    """How the outputs of a network are postprocessed. Saved with the weights.

    Attributes:
        shorter: length in pixels that the shorter side of an image is resized to.
        longer: most pixels of the longer side after resizing.
        scale: factor that sides are multiplied by in place of `shorter`; 0 resizes to `shorter`.
        proposals_per_level: RPN boxes of each level that enter non-maximum suppression.
        proposals: RPN boxes per image that reach the box head.
        proposal_nms: IoU of the RPN's non-maximum suppression.
        score_threshold: panoptic instances score above this.
        nms_threshold: IoU of the class-agnostic box suppression among panoptic instances.
        max_instances: most panoptic instances per image.
        inlay_score_threshold: boxes that feed RoIInlay score above this, and are selected as panoptic instances are
            (our choice; the paper, section 3.4, applies its score in the occlusion handler, after the network). Never
            fewer than the panoptic instances; null for just these, as in weights of earlier versions.
        ap_score: the separate set for AP scores above this.
        ap_nms: IoU of the per-class suppression of the AP set.
        ap_instances: most instances per image in the AP set.
        rule: occlusion rule or procedure that makes instances disjoint.
        overlap_threshold: fraction of either mask above which a pair counts as occluded.
        removal_threshold: lost fraction above which an instance is removed.
        stuff_area: a stuff class with fewer pixels left becomes void.
        thing_pixels: what a pixel becomes that no instance owns and whose best class is a thing.
        bit_depth: bits that samples of 16-bit images use, 8 to 16; `auto` finds out, once for all images of a call or
            data set. Training saves what it found.
    """

    shorter: int = 800
    longer: int = 1333
    scale: float = 0.0
    proposals_per_level: int = 1000
    proposals: int = 1000
    proposal_nms: float = 0.7
    score_threshold: float = SCORE_THRESHOLD
    nms_threshold: float = 0.5
    max_instances: int = MAX_INSTANCES
    inlay_score_threshold: float | None = 0.1
    ap_score: float = 0.05
    ap_nms: float = 0.5
    ap_instances: int = 100
    rule: RuleName = RULE
    overlap_threshold: float = OVERLAP_THRESHOLD
    removal_threshold: float = REMOVAL_THRESHOLD
    stuff_area: int = STUFF_AREA
    thing_pixels: Literal["void", "best_stuff"] = "void"
    bit_depth: BitDepth = "auto"

    def __post_init__(self) -> None:
        """Refuse values out of range."""
        object.__setattr__(self, "rule", current_value(self.rule, stacklevel=5))
        thresholds = ("score_threshold", "nms_threshold", "overlap_threshold", "removal_threshold")
        for name in (*thresholds, "proposal_nms", "ap_score", "ap_nms"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"inference.{name}: must lie in 0..1, not {getattr(self, name)}")
        if self.inlay_score_threshold is not None and not 0 <= self.inlay_score_threshold <= 1:
            given = self.inlay_score_threshold
            raise ValueError(f"inference.inlay_score_threshold: must be null or lie in 0..1, not {given}")
        for name in ("shorter", "longer", "proposals_per_level", "proposals", "max_instances", "ap_instances"):
            if getattr(self, name) < 1:
                raise ValueError(f"inference.{name}: must be at least 1, not {getattr(self, name)}")
        for name, most in _MOST_COUNTS.items():
            if getattr(self, name) > most:
                raise ValueError(f"inference.{name}: must be at most {most:,}, not {getattr(self, name):,}")
        if not 0 <= self.scale <= 100:
            raise ValueError(f"inference.scale: must lie in 0..100, not {self.scale}")
        if self.longer < self.shorter:
            raise ValueError(f"inference.longer: {self.longer} is less than inference.shorter, {self.shorter}")
        if self.longer > _LONGEST_SIDE:
            raise ValueError(f"inference.longer: must be at most {_LONGEST_SIDE}, not {self.longer}")
        if self.bit_depth != "auto" and not 8 <= self.bit_depth <= 16:
            raise ValueError(f"inference.bit_depth: must be auto or 8 to 16, not {self.bit_depth}")
        if self.stuff_area < 0:
            raise ValueError(f"inference.stuff_area: must not be negative, not {self.stuff_area}")

    @property
    def inlay_threshold(self) -> float:
        """Return the score above which boxes feed RoIInlay: the panoptic instances are always among them."""
        if self.inlay_score_threshold is None:
            return self.score_threshold
        return min(self.inlay_score_threshold, self.score_threshold)


@dataclass(frozen=True)
class LossConfig:
    """Sampling and weights of the seven losses.

    Attributes:
        rpn_samples: anchors per image in the RPN losses, at most half of them positive.
        rpn_positive_iou: anchors from this IoU with a box are positive.
        rpn_negative_iou: anchors below this IoU with every box are negative.
        proposals_per_level: RPN boxes of each level that enter non-maximum suppression in training.
        proposals: RPN boxes per image in training.
        roi_samples: boxes per image in the box losses.
        roi_positive_share: most of them that are positive; these enter the mask loss too.
        roi_iou: proposals from this IoU with a box are positive.
        box_beta: where the box head's smooth L1 turns from a square to a line, in units of its regression; the RPN's
            is 1/9.
        inlay_share: range of the fraction of ground-truth boxes that feed RoIInlay in training, at least one box. A
            range from 0 (our choice for small recipes) allows none; 0.6 to 1 is the paper's.
        seg_weight: weight of the loss of the first semantic logits; None takes the paper's for the composition.
        i2s_weight: weight of the loss of the final semantic logits; None takes the paper's for the composition.
    """

    rpn_samples: int = 256
    rpn_positive_iou: float = 0.7
    rpn_negative_iou: float = 0.3
    proposals_per_level: int = 2000
    proposals: int = 2000
    roi_samples: int = 512
    roi_positive_share: float = 0.25
    roi_iou: float = 0.5
    box_beta: float = 1.0
    inlay_share: tuple[float, float] = (0.6, 1.0)
    seg_weight: float | None = None
    i2s_weight: float | None = None

    def __post_init__(self) -> None:
        """Refuse values out of range."""
        for name in ("rpn_samples", "proposals_per_level", "proposals", "roi_samples"):
            if getattr(self, name) < 1:
                raise ValueError(f"loss.{name}: must be at least 1, not {getattr(self, name)}")
        for name in ("rpn_positive_iou", "rpn_negative_iou", "roi_positive_share", "roi_iou"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"loss.{name}: must lie in 0..1, not {getattr(self, name)}")
        if self.rpn_negative_iou > self.rpn_positive_iou:
            low, high = self.rpn_negative_iou, self.rpn_positive_iou
            raise ValueError(f"loss.rpn_negative_iou: {low} is more than loss.rpn_positive_iou, {high}")
        if self.box_beta < 0:
            raise ValueError(f"loss.box_beta: must not be negative, not {self.box_beta}")
        low, high = self.inlay_share
        if not 0 <= low <= high <= 1:
            raise ValueError(f"loss.inlay_share: must be an increasing pair in 0..1, not {self.inlay_share}")

    def semantic_weights(self, model: ModelConfig) -> tuple[float, float]:
        """Return the weights of the losses of first and final semantic logits.

        Returns:
            lambda_s and lambda_i, which are 0.2, 0.3; deformable 0.1, 0.2; without I2S 0.5, 0; deformable without I2S
            0.3, 0 (the last is this project's choice), unless the options say otherwise.
        """
        if model.sim:
            seg, i2s = (0.1, 0.2) if model.deformable else (0.2, 0.3)
        else:
            seg, i2s = (0.3, 0.0) if model.deformable else (0.5, 0.0)
        return (
            seg if self.seg_weight is None else self.seg_weight,
            i2s if self.i2s_weight is None else self.i2s_weight,
        )


_Options = TypeVar("_Options", ModelConfig, InferenceConfig)

BEFORE: Mapping[str, Mapping[str, Any]] = {
    "ModelConfig": {"ocm_relu": False},
    "InferenceConfig": {"inlay_score_threshold": None},
    "LossConfig": {"box_beta": 1 / 9},
    "DataConfig": {"crop_min_fraction": 0.0},
}
"""What networks did before an option existed, which weights and recipes of runs saved without it still mean."""


def change_options(options: _Options, changes: Mapping[str, Any]) -> _Options:
    """Return options with some values replaced.

    Raises:
        InputError: An option does not exist, or a value is out of range.
    """
    try:
        return replace(options, **changes)
    except (TypeError, ValueError) as error:
        raise InputError(str(error)) from None


def read_options(kind: type[_Options], saved: Any) -> _Options:
    """Return options that a file holds as JSON of `asdict`, each checked to be of its type.

    Args:
        kind: `ModelConfig` or `InferenceConfig`.
        saved: values by name; those that are missing are the defaults, or what earlier versions did where the option
            did not exist.

    Raises:
        TypeError, ValueError: the options are not of that kind; the message names the option.
    """
    if not isinstance(saved, dict):
        raise TypeError(f"options must be an object, not {type(saved).__name__}")
    hints, given = get_type_hints(kind), current_options(kind.__name__, saved, warn=False)
    for name, value in given.items():
        if name not in hints or not _is_of(value, hints[name]):
            raise TypeError(f"{name}: is not an option of this version, or has another type")
    values: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in given.items()}
    return kind(**{**BEFORE[kind.__name__], **values})


def _is_of(value: Any, hint: Any) -> bool:
    if get_origin(hint) in (Union, UnionType):
        return any(_is_of(value, each) for each in get_args(hint))
    if get_origin(hint) is Literal:
        return isinstance(value, str) and value in get_args(hint)
    if get_origin(hint) is tuple:
        each = get_args(hint)
        if not isinstance(value, (list, tuple)) or (each[-1] is not ... and len(each) != len(value)):
            return False
        return all(_is_of(item, each[0]) for item in value)
    if hint is float:
        return type(value) in (int, float) and abs(value) < 2**31  # false for NaN
    return type(value) is hint and (hint is not int or abs(value) < 2**31)

"""The one place where a network is composed: each ablation is another composition, made here."""

from __future__ import annotations

from dataclasses import replace

from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import apply_activation_checkpointing
from torchvision.models.resnet import BasicBlock, Bottleneck

from banet.modeling.backbone import PyramidBackbone
from banet.modeling.banet import BANet
from banet.modeling.config import InferenceConfig, LossConfig, ModelConfig
from banet.modeling.i2s import AggregatedLogits, DirectLogits, InstanceToSemantic, InstanceToSemanticWithContext
from banet.modeling.instance_head import BoxHead, MaskHead
from banet.modeling.rpn import RegionProposals
from banet.modeling.s2i import PyramidRoIs, S2IRoIs
from banet.modeling.semantic_head import SemanticHead
from banet.panoptic.categories import Categories

__all__ = ["build_model", "recompute_in_backward"]


def build_model(
    categories: Categories,
    config: ModelConfig | None = None,
    inference: InferenceConfig | None = None,
    loss: LossConfig | None = None,
) -> BANet:
    """Compose a network with random weights.

    Args:
        categories: Things and stuff, from the data set.
        config: What the network is made of. `norm: auto` means GroupNorm here, as the weights are random.
        inference: How it is read out.
        loss: Sampling and weights of the losses.

    Raises:
        ValueError: There is no category.
    """
    if len(categories) == 0:
        raise ValueError("categories: the data set has none; a network needs at least one thing or stuff class")
    config, inference, loss = config or ModelConfig(), inference or InferenceConfig(), loss or LossConfig()
    if config.norm == "auto":
        config = replace(config, norm="group")
    if config.norm == "group" and config.frozen_stages:
        config = replace(config, frozen_stages=0)  # random weights that never learn are of no use
    semantic_channels = config.semantic_channels[-1]
    if config.s2i:
        rois: PyramidRoIs = S2IRoIs(semantic_channels, config.fpn_channels, canonical_size=config.canonical_box_size)
    else:
        rois = PyramidRoIs(canonical_size=config.canonical_box_size)
    return BANet(
        categories=categories,
        config=config,
        inference=inference,
        loss=loss,
        backbone=PyramidBackbone(
            config.backbone, norm=config.norm, channels=config.fpn_channels, frozen_stages=config.frozen_stages
        ),
        semantic_head=SemanticHead(config.fpn_channels, config.semantic_channels, deformable=config.deformable),
        roi_features=rois,
        rpn=RegionProposals(
            config.fpn_channels,
            anchor_sizes=config.anchor_sizes,
            anchor_ratios=config.anchor_ratios,
            samples=loss.rpn_samples,
            positive_iou=loss.rpn_positive_iou,
            negative_iou=loss.rpn_negative_iou,
        ),
        box_head=BoxHead(config.fpn_channels, config.box_head_channels, categories.num_things),
        mask_head=MaskHead(config.fpn_channels, config.mask_head_channels, categories.num_things),
        segmenter=_segmenter(categories, config, loss),
    )


def recompute_in_backward(model: BANet) -> None:
    """Gradient checkpointing: residual blocks and the semantic head keep their input only, and run twice.

    Names of parameters in the state dict stay as they are.
    """
    apply_activation_checkpointing(
        model, check_fn=lambda part: isinstance(part, (BasicBlock, Bottleneck, SemanticHead))
    )


def _segmenter(categories: Categories, config: ModelConfig, loss: LossConfig) -> DirectLogits:
    seg_weight, i2s_weight = loss.semantic_weights(config)
    semantic_channels = config.semantic_channels[-1]
    if not config.sim:
        return DirectLogits(semantic_channels, len(categories), seg_weight=seg_weight)
    widths = (config.mask_head_channels, semantic_channels, config.i2s_channels)
    if config.ocm:
        i2s: InstanceToSemantic = InstanceToSemanticWithContext(
            *widths, context_channels=config.ocm_channels, cells=config.ocm_cells
        )
    else:
        i2s = InstanceToSemantic(*widths)
    return AggregatedLogits(
        semantic_channels,
        len(categories),
        i2s=i2s,
        channels=config.i2s_channels,
        seg_weight=seg_weight,
        i2s_weight=i2s_weight,
        inlay_share=loss.inlay_share,
    )

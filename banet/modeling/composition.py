"""The parts of a network as a `ModelConfig` asks for them: each ablation is another composition, made here."""

from __future__ import annotations

from torch import nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import apply_activation_checkpointing

from banet.modeling.aggregation import OCM, SIM, InstanceToSemantic, InstanceToSemanticWithContext
from banet.modeling.backbones.build import build_body
from banet.modeling.backbones.pyramid import PyramidBackbone
from banet.modeling.config import LossConfig, ModelConfig
from banet.modeling.rpn import RegionProposals
from banet.modeling.s2i import PyramidRoIs, S2IRoIs
from banet.modeling.segmenters import AggregatedLogits, DirectLogits
from banet.modeling.semantic_head import SemanticHead
from banet.panoptic.categories import Categories

__all__ = ["build_backbone", "build_roi_features", "build_rpn", "build_segmenter", "recompute_in_backward"]


def build_backbone(config: ModelConfig) -> PyramidBackbone:
    """Return body and pyramid."""
    # A pyramid that learns from random weights wants its scales kept even, like the body's.
    norm = config.norm == "group" if config.fpn_norm == "auto" else config.fpn_norm == "group"
    return PyramidBackbone(
        build_body(config.backbone, norm=config.norm, drop_path=config.drop_path),
        channels=config.fpn_channels,
        norm=norm,
        frozen_stages=config.frozen_stages,
    )


def build_roi_features(config: ModelConfig) -> PyramidRoIs:
    """Return the source of RoI features: with S2I or without."""
    if not config.s2i:
        return PyramidRoIs(canonical_size=config.canonical_box_size)
    return S2IRoIs(config.semantic_channels[-1], config.fpn_channels, canonical_size=config.canonical_box_size)


def build_rpn(config: ModelConfig, loss: LossConfig) -> RegionProposals:
    """Return the region proposal network."""
    return RegionProposals(
        config.fpn_channels,
        anchor_sizes=config.anchor_sizes,
        anchor_ratios=config.anchor_ratios,
        samples=loss.rpn_samples,
        positive_iou=loss.rpn_positive_iou,
        negative_iou=loss.rpn_negative_iou,
    )


def build_segmenter(categories: Categories, config: ModelConfig, loss: LossConfig) -> DirectLogits | AggregatedLogits:
    """Return the source of semantic logits: without I2S, with SIM, or with SIM and OCM."""
    seg_weight, i2s_weight = loss.semantic_weights(config)
    semantic_channels, channels = config.semantic_channels[-1], config.i2s_channels
    if not config.sim:
        return DirectLogits(semantic_channels, len(categories), seg_weight=seg_weight)
    sim = SIM(config.mask_head_channels, semantic_channels, channels)
    if config.ocm:
        ocm = OCM(
            config.mask_head_channels,
            channels,
            context_channels=config.ocm_channels,
            cells=config.ocm_cells,
            nonlinearity="relu" if config.ocm_relu else "linear",
        )
        i2s: InstanceToSemantic | InstanceToSemanticWithContext = InstanceToSemanticWithContext(sim, ocm)
    else:
        i2s = InstanceToSemantic(sim)
    return AggregatedLogits(
        semantic_channels,
        len(categories),
        i2s=i2s,
        channels=channels,
        seg_weight=seg_weight,
        i2s_weight=i2s_weight,
        inlay_share=loss.inlay_share,
    )


def recompute_in_backward(network: nn.Module) -> None:
    """Make blocks of the body and the semantic head keep their input only, and run twice: gradient checkpointing.

    Names of parameters in the state dict stay as they are.
    """
    bodies = [part for part in network.modules() if isinstance(part, PyramidBackbone)]
    blocks = {block for body in bodies for block in body.blocks()}
    apply_activation_checkpointing(network, check_fn=lambda part: part in blocks or isinstance(part, SemanticHead))

"""The network of section 3, from pixels to detections and semantic logits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from banet.data.samples import Target
from banet.modeling.composition import build_backbone, build_roi_features, build_rpn, build_segmenter
from banet.modeling.config import InferenceConfig, LossConfig, ModelConfig
from banet.modeling.instance_head import BoxHead, MaskHead, RoISampler, select_for_ap, select_for_panoptic
from banet.modeling.outputs import Candidates, Detections, ImageBatch, Output
from banet.modeling.semantic_head import SemanticHead
from banet.ops.host import true_rows
from banet.panoptic.categories import Categories

__all__ = ["Network"]


class Network(nn.Module):
    """The bidirectional aggregation network, with random weights; `banet.BANet` is this with `predict`.

    Args:
        categories: Things and stuff; the owner of class numbering.
        config: What the network is made of, kept to be saved with the weights. `norm: auto` means GroupNorm here, as
            the weights are random.
        inference: Limits and thresholds of inference, likewise.
        loss: Sampling and weights of the losses.

    Raises:
        ValueError: There is no category.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        categories: Categories,
        config: ModelConfig | None = None,
        inference: InferenceConfig | None = None,
        loss: LossConfig | None = None,
    ) -> None:
        if len(categories) == 0:
            raise ValueError("categories: the data set has none; a network needs at least one thing or stuff class")
        super().__init__()
        self.categories = categories
        self.config = config = (config or ModelConfig()).for_random_weights()
        self.inference = inference or InferenceConfig()
        self.loss = loss = loss or LossConfig()
        roi_features = build_roi_features(config)  # first, as this order decides which random weights a seed gives
        self.backbone = build_backbone(config)
        self.semantic_head = SemanticHead(config.fpn_channels, config.semantic_channels, deformable=config.deformable)
        self.roi_features = roi_features
        self.rpn = build_rpn(config, loss)
        self.box_head = BoxHead(
            config.fpn_channels, config.box_head_channels, categories.num_things, beta=loss.box_beta
        )
        self.mask_head = MaskHead(config.fpn_channels, config.mask_head_channels, categories.num_things)
        self.segmenter = build_segmenter(categories, config, loss)
        self.roi_sampler = RoISampler(loss.roi_samples, loss.roi_positive_share, loss.roi_iou)
        self.register_buffer("mean", torch.tensor(self.backbone.mean)[:, None, None], persistent=False)
        self.register_buffer("std", torch.tensor(self.backbone.std)[:, None, None], persistent=False)

    @property
    def device(self) -> torch.device:
        """Return the device that the parameters are on."""
        return self.mean.device

    def batch(self, images: Sequence[Tensor], pad_to: tuple[int, int] | None = None) -> ImageBatch:
        """Normalise and pad images.

        Args:
            images: Each (3, h, w), RGB, uint8 or float in 0..255.
            pad_to: Height and width to pad to; by default the largest of the batch. Rounded up to multiples of
                the backbone's divisor, 32 for most.

        Raises:
            TypeError: Not a list of tensors, but for example a path.
            ValueError: No image, a shape other than (3, h, w), or `pad_to` smaller than an image.
        """
        if not isinstance(images, (list, tuple, Tensor)) or not all(isinstance(image, Tensor) for image in images):
            given = type(images).__name__ + (f" of {type(images[0]).__name__}" if isinstance(images, list) else "")
            raise TypeError(
                f"the network takes a list of tensors (3, h, w), not {given}; to segment an image call "
                "model.predict(IMAGE), with a path, a PIL image, an array or a tensor"
            )
        images = list(images)
        if not images or any(image.ndim != 3 or image.shape[0] != 3 or 0 in image.shape for image in images):
            raise ValueError(f"images must be a non-empty list of (3, h, w), not {[tuple(i.shape) for i in images]}")
        sizes = [(image.shape[1], image.shape[2]) for image in images]
        needed = (max(h for h, _ in sizes), max(w for _, w in sizes))
        height, width = pad_to or needed
        if height < needed[0] or width < needed[1]:
            raise ValueError(f"pad_to {pad_to} is smaller than the largest image, {needed}")
        height, width = (-(-side // self.backbone.divisor) * self.backbone.divisor for side in (height, width))
        pixels = self.mean.new_zeros(len(images), 3, height, width).to(memory_format=torch.channels_last)
        for slot, image, (h, w) in zip(pixels, images, sizes, strict=True):
            slot[:, :h, :w] = (image.to(self.device, non_blocking=True) - self.mean) / self.std
        return ImageBatch(pixels, sizes)

    def forward(self, images: Sequence[Tensor], pad_to: tuple[int, int] | None = None) -> Output:
        """Compute instances and semantic logits.

        Args:
            images: Each (3, h, w), RGB, uint8 or float in 0..255, at the size that the network works at.
            pad_to: See `batch`.
        """
        return self.segment(self.batch(images, pad_to))

    def segment(self, batch: ImageBatch) -> Output:
        """Compute instances and semantic logits of a batch."""
        pyramid = self.backbone(batch.pixels)
        semantic = self.semantic_head(pyramid[:4])
        rois = self.roi_features(pyramid[:4], semantic)

        proposals = self.rpn(pyramid, batch.sizes, self._proposal_limits(self.inference))
        candidates = self.box_head.candidates(rois.box(proposals), proposals, batch.sizes)
        boxes, scores, labels = self._select(candidates)
        f_ins = self.mask_head.features(rois.mask(boxes))
        detections = self._instances(f_ins, boxes, scores, labels)

        logits = self.segmenter(semantic, f_ins, boxes, batch.sizes)
        return Output(detections, logits, batch.sizes, candidates, rois, semantic)

    def with_instances(self, output: Output, boxes: list[Tensor], scores: list[Tensor], labels: list[Tensor]) -> Output:
        """Return what `forward` would have returned had it selected other boxes.

        All of them feed RoIInlay; those that score above `inference.score_threshold` are instances.

        Args:
            output: Of `forward`.
            boxes: One (N_i, 4) per image, in pixels of the network's input.
            scores: One (N_i,) per image.
            labels: Thing indices, one (N_i,) per image.
        """
        f_ins = self.mask_head.features(output.rois.mask(boxes))
        detections = self._instances(f_ins, boxes, scores, labels)
        logits = self.segmenter(output.semantic, f_ins, boxes, output.sizes)
        return replace(output, detections=detections, logits=logits)

    def ap_detections(self, output: Output) -> list[Detections]:
        """Return the separate, larger set of instances that AP is measured on, from what `forward` returned."""
        limits = self.inference
        boxes, scores, labels = select_for_ap(
            output.candidates, score=limits.ap_score, iou=limits.ap_nms, limit=limits.ap_instances
        )
        f_ins = self.mask_head.features(output.rois.mask(boxes))
        return self.mask_head.detections(f_ins, boxes, scores, labels)

    def losses(self, images: Sequence[Tensor], targets: Sequence[Target]) -> dict[str, Tensor]:
        """Compute the seven losses, weighted: training minimises their sum. Without I2S there is no `loss_i2s`.

        Args:
            images: As in `forward`.
            targets: One per image, on the model's device.

        Returns:
            `loss_rpn_cls`, `loss_rpn_box`, `loss_cls`, `loss_box`, `loss_mask`, `loss_seg`, `loss_i2s`.
        """
        batch = self.batch(images)
        boxes = [target.boxes for target in targets]
        pyramid = self.backbone(batch.pixels)
        semantic = self.semantic_head(pyramid[:4])
        rois = self.roi_features(pyramid[:4], semantic)

        proposals, rpn_cls, rpn_box = self.rpn.losses(pyramid, batch.sizes, self._proposal_limits(self.loss), boxes)
        samples = self.roi_sampler(proposals, boxes, [target.labels for target in targets])
        loss_cls, loss_box = self.box_head.losses(rois.box([s.boxes for s in samples]), samples)
        positives = rois.mask([s.boxes[s.positive] for s in samples])
        loss_mask = self.mask_head.loss(self.mask_head.features(positives), samples, [t.instances for t in targets])
        inlay_boxes = self.segmenter.inlay_boxes(boxes)
        f_ins = self.mask_head.features(rois.mask(inlay_boxes))

        return {
            "loss_rpn_cls": rpn_cls,
            "loss_rpn_box": rpn_box,
            "loss_cls": loss_cls,
            "loss_box": loss_box,
            "loss_mask": loss_mask,
            **self.segmenter.losses(semantic, f_ins, inlay_boxes, batch.sizes, [t.semantic for t in targets]),
        }

    def _select(self, candidates: Sequence[Candidates]) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
        """Select the panoptic instances of each image, and the further boxes that the segmenter needs."""
        limits, score = self.inference, self.segmenter.score_limit(self.inference)
        return select_for_panoptic(candidates, score=score, iou=limits.nms_threshold, limit=limits.max_instances)

    def _instances(
        self, f_ins: Tensor, boxes: list[Tensor], scores: list[Tensor], labels: list[Tensor]
    ) -> list[Detections]:
        """Return those of the selected boxes that are panoptic instances, with their masks."""
        rows = true_rows([each > self.inference.score_threshold for each in scores])
        parts = torch.split(f_ins, [each.shape[0] for each in boxes])
        chosen, boxes, scores, labels = (
            [part[row] for part, row in zip(group, rows, strict=True)] for group in (parts, boxes, scores, labels)
        )
        return self.mask_head.detections(torch.cat(chosen), boxes, scores, labels)

    def _proposal_limits(self, limits: InferenceConfig | LossConfig) -> tuple[int, int, float]:
        return limits.proposals_per_level, limits.proposals, self.inference.proposal_nms

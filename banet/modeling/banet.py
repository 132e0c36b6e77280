"""BANet: the network of section 3, from pixels to detections and semantic logits."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from banet._renamed import accept_old_names
from banet.data.samples import Target
from banet.modeling.backbone import PyramidBackbone
from banet.modeling.config import InferenceConfig, LossConfig, ModelConfig
from banet.modeling.i2s import DirectLogits
from banet.modeling.instance_head import (
    BoxHead,
    Candidates,
    Detections,
    MaskHead,
    RoISampler,
    select_for_ap,
    select_for_panoptic,
)
from banet.modeling.rpn import RegionProposals
from banet.modeling.s2i import PyramidRoIs, RoISource
from banet.modeling.semantic_head import SemanticHead
from banet.panoptic.categories import Categories

if TYPE_CHECKING:
    from typing_extensions import Self

    from banet.panoptic.segmentation import PanopticSegmentation

__all__ = ["BANet", "ImageBatch", "Output"]

MEAN = (123.675, 116.28, 103.53)
STD = (58.395, 57.12, 57.375)
DIVISOR = 32


@dataclass(frozen=True)
class ImageBatch:
    """Images of one batch, normalised and padded at the right and at the bottom.

    Attributes:
        pixels: (B, 3, H, W), H and W multiples of 32; channels last, and so is every map that follows.
        sizes: Height and width of each image without its padding.
    """

    pixels: Tensor
    sizes: list[tuple[int, int]]


@dataclass(frozen=True)
class Output:
    """What the network says of a batch; `detections, logits = model(images)` takes the two main parts.

    Attributes:
        detections: The panoptic instances of each image, boxes in pixels of the network's input.
        logits: Final semantic logits (B, C, H/4, W/4) of the padded batch; columns are class indices.
        sizes: Height and width of each image without its padding.
        candidates: What the box head says of all proposals of each image.
        rois: RoI features, to draw masks of further boxes with.
        semantic: F_S, level by level.
    """

    detections: list[Detections]
    logits: Tensor
    sizes: list[tuple[int, int]]
    candidates: list[Candidates]
    rois: RoISource
    semantic: list[Tensor]

    def __iter__(self) -> Iterator[Any]:
        """Detections, then logits."""
        yield self.detections
        yield self.logits


class BANet(nn.Module):
    """Bidirectional aggregation network for panoptic segmentation.

    Compose one with `banet.modeling.build.build_model`, or load one with `BANet.from_pretrained`.

    Args:
        categories: Things and stuff; the owner of class numbering.
        config: What the network is made of, kept to be saved with the weights.
        inference: How it is read out, likewise.
        loss: Sampling limits of the training.
        backbone: Pixels to P2..P6.
        semantic_head: P2..P5 to F_S, level by level.
        roi_features: Where RoI features come from (with or without S2I).
        rpn: Proposals.
        box_head: Classes and boxes of RoIs.
        mask_head: F_ins and masks of RoIs.
        segmenter: Final semantic logits (with or without I2S).
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        *,
        categories: Categories,
        config: ModelConfig,
        inference: InferenceConfig,
        loss: LossConfig,
        backbone: PyramidBackbone,
        semantic_head: SemanticHead,
        roi_features: PyramidRoIs,
        rpn: RegionProposals,
        box_head: BoxHead,
        mask_head: MaskHead,
        segmenter: DirectLogits,
    ) -> None:
        super().__init__()
        self.categories = categories
        self.config = config
        self.inference = inference
        self.loss = loss
        self.backbone = backbone
        self.semantic_head = semantic_head
        self.roi_features = roi_features
        self.rpn = rpn
        self.box_head = box_head
        self.mask_head = mask_head
        self.segmenter = segmenter
        self.roi_sampler = RoISampler(loss.roi_samples, loss.roi_positive_share, loss.roi_iou)
        self.register_buffer("mean", torch.tensor(MEAN)[:, None, None], persistent=False)
        self.register_buffer("std", torch.tensor(STD)[:, None, None], persistent=False)

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return self.mean.device

    def batch(self, images: Sequence[Tensor], pad_to: tuple[int, int] | None = None) -> ImageBatch:
        """Normalise and pad images.

        Args:
            images: Each (3, h, w), RGB, uint8 or float in 0..255.
            pad_to: Height and width to pad to; by default the largest of the batch. Rounded up to multiples of 32.

        Raises:
            ValueError: No image, a shape other than (3, h, w), or `pad_to` smaller than an image.
        """
        if not images or any(image.ndim != 3 or image.shape[0] != 3 or 0 in image.shape for image in images):
            raise ValueError(f"images must be a non-empty list of (3, h, w), not {[tuple(i.shape) for i in images]}")
        sizes = [(image.shape[1], image.shape[2]) for image in images]
        needed = (max(h for h, _ in sizes), max(w for _, w in sizes))
        height, width = pad_to or needed
        if height < needed[0] or width < needed[1]:
            raise ValueError(f"pad_to {pad_to} is smaller than the largest image, {needed}")
        height, width = (-(-side // DIVISOR) * DIVISOR for side in (height, width))
        pixels = self.mean.new_zeros(len(images), 3, height, width).to(memory_format=torch.channels_last)
        for slot, image, (h, w) in zip(pixels, images, sizes, strict=True):
            slot[:, :h, :w] = (image.to(self.device) - self.mean) / self.std
        return ImageBatch(pixels, sizes)

    def forward(self, images: Sequence[Tensor], pad_to: tuple[int, int] | None = None) -> Output:
        """Instances and semantic logits.

        Args:
            images: Each (3, h, w), RGB, uint8 or float in 0..255, at the size that the network works at.
            pad_to: See `batch`.
        """
        return self.segment(self.batch(images, pad_to))

    def segment(self, batch: ImageBatch) -> Output:
        """Instances and semantic logits of a batch."""
        pyramid = self.backbone(batch.pixels)
        semantic = self.semantic_head(pyramid[:4])
        rois = self.roi_features(pyramid[:4], semantic)

        proposals = self.rpn(pyramid, batch.sizes, self._proposal_limits(self.inference))
        candidates = self.box_head.candidates(rois.box(proposals), proposals, batch.sizes)
        boxes, scores, labels = self._select(candidates)
        f_ins = self.mask_head.features(rois.mask(boxes))
        masks = self.mask_head(f_ins, torch.cat(labels)).sigmoid()

        logits = self.segmenter(semantic, f_ins, boxes, batch.sizes)
        detections = _detections(boxes, scores, labels, masks)
        return Output(detections, logits, batch.sizes, candidates, rois, semantic)

    def with_instances(self, output: Output, boxes: list[Tensor], scores: list[Tensor], labels: list[Tensor]) -> Output:
        """What `forward` would have returned had it chosen other instances.

        Args:
            output: Of `forward`.
            boxes: One (N_i, 4) an image, in pixels of the network's input.
            scores: One (N_i,) an image.
            labels: Thing indices, one (N_i,) an image.
        """
        f_ins = self.mask_head.features(output.rois.mask(boxes))
        masks = self.mask_head(f_ins, torch.cat(labels)).sigmoid()
        logits = self.segmenter(output.semantic, f_ins, boxes, output.sizes)
        return replace(output, detections=_detections(boxes, scores, labels, masks), logits=logits)

    def ap_detections(self, output: Output) -> list[Detections]:
        """The separate, larger set of instances that AP is measured on, from what `forward` returned."""
        limits = self.inference
        chosen = [
            select_for_ap(c, score=limits.ap_score, iou=limits.ap_nms, limit=limits.ap_instances)
            for c in output.candidates
        ]
        boxes, scores, labels = (list(part) for part in zip(*chosen, strict=True))
        masks = self.mask_head(self.mask_head.features(output.rois.mask(boxes)), torch.cat(labels)).sigmoid()
        return _detections(boxes, scores, labels, masks)

    def losses(self, images: Sequence[Tensor], targets: Sequence[Target]) -> dict[str, Tensor]:
        """The seven losses, weighted: their sum is what training minimises. Without I2S there is no `loss_i2s`.

        Args:
            images: As in `forward`.
            targets: One an image, on the model's device.

        Returns:
            `loss_rpn_cls`, `loss_rpn_box`, `loss_cls`, `loss_box`, `loss_mask`, `loss_seg`, `loss_i2s`.
        """
        batch = self.batch(images)
        boxes = [target.boxes for target in targets]
        pyramid = self.backbone(batch.pixels)
        semantic = self.semantic_head(pyramid[:4])
        rois = self.roi_features(pyramid[:4], semantic)

        proposals, rpn_cls, rpn_box = self.rpn.losses(pyramid, batch.sizes, self._proposal_limits(self.loss), boxes)
        samples = [self.roi_sampler(p, t.boxes, t.labels) for p, t in zip(proposals, targets, strict=True)]
        loss_cls, loss_box = self.box_head.losses(rois.box([s.boxes for s in samples]), samples)
        positives = rois.mask([s.boxes[s.labels >= 0] for s in samples])
        loss_mask = self.mask_head.loss(self.mask_head.features(positives), samples, [t.instances for t in targets])

        return {
            "loss_rpn_cls": rpn_cls,
            "loss_rpn_box": rpn_box,
            "loss_cls": loss_cls,
            "loss_box": loss_box,
            "loss_mask": loss_mask,
            **self.segmenter.losses(
                semantic,
                lambda chosen: self.mask_head.features(rois.mask(chosen)),
                boxes,
                batch.sizes,
                [target.semantic for target in targets],
            ),
        }

    def _select(self, candidates: Sequence[Candidates]) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
        limits = self.inference
        chosen = [
            select_for_panoptic(c, score=limits.score_threshold, iou=limits.nms_threshold, limit=limits.max_instances)
            for c in candidates
        ]
        boxes, scores, labels = (list(part) for part in zip(*chosen, strict=True))
        return boxes, scores, labels

    def _proposal_limits(self, limits: InferenceConfig | LossConfig) -> tuple[int, int, float]:
        return limits.proposals_per_level, limits.proposals, self.inference.proposal_nms

    def compile(self, *arguments: Any, **options: Any) -> None:
        """Compile backbone and semantic head, which most of the time goes to, with `torch.compile`; in place.

        What comes after them works on as many boxes as it finds, and is left as it is. Pictures of all sizes but the
        smallest share a graph, and the names of parameters stay. On CPUs torch needs a C++ compiler for it.

        Args:
            *arguments: As of `torch.compile`.
            **options: As of `torch.compile`; `dynamic` is True unless given.
        """
        for part in (self.backbone, self.semantic_head):
            part.compile(*arguments, **{"dynamic": True, **options})

    @torch.inference_mode()
    def predict(
        self,
        image: Any,
        *,
        rule: Any = None,
        batch_size: int = 1,
        tile: int | None = None,
        overlap: int | None = None,
        progress: bool = False,
    ) -> Any:
        """Panoptic segmentation of pictures, at their own size.

        Args:
            image: A path, a PIL image, a numpy array (H, W, 3) or (H, W), a tensor (3, H, W), uint8 or float in
                0..255, or a list of these.
            rule: Occlusion rule, a name in `banet.panoptic.RULES` or a function; by default the one saved with the
                weights.
            batch_size: Images that go through the network together; with tiles they go one by one.
            tile: Side in pixels of the tiles that a larger picture is cut into, which bounds the memory. Objects are
                joined over the seams; see `banet.panoptic.tiles.merge_tiles`. A picture that one tile holds is not
                changed by it. An image may then also be what is cut by rows and columns, such as a memory map.
            overlap: Pixels that neighbouring tiles share at least; a quarter of the tile by default.
            progress: Show a bar over the tiles of a picture.

        Returns:
            A `banet.panoptic.PanopticSegmentation`, or a list of them for a list.

        Raises:
            InputError: A file is not a picture.
            ValueError: An array has another shape or range, or `overlap` is not in 1 .. `tile` - 1.
        """
        from banet.modeling.readout import read_images

        many = isinstance(image, (list, tuple))
        images = list(image) if many else [image]
        if tile is not None:
            from banet.modeling.tiles import predict_tiles

            def in_tiles(image: Any) -> PanopticSegmentation:
                return predict_tiles(
                    lambda part: next(read_images(self, [part])),
                    image,
                    self.categories,
                    self.inference,
                    rule=rule,
                    tile=tile,
                    overlap=overlap,
                    progress=progress,
                )

            return [in_tiles(each) for each in images] if many else in_tiles(image)
        results: list[PanopticSegmentation] = []
        for start in range(0, len(images), batch_size):
            for readout in read_images(self, images[start : start + batch_size]):
                results.append(readout.fuse(self.categories, self.inference, rule=rule))
        return results if many else results[0]

    @classmethod
    def from_pretrained(cls, source: str | Path, *, device: str | torch.device = "cpu") -> Self:
        """Load a model, ready for inference.

        Args:
            source: A `.safetensors` file that `save_pretrained` wrote, a folder that holds one as
                `model.safetensors`, the name of weights that come with the package (`scenes`), or the name of a
                repository on the Hugging Face hub.
            device: Where to put it.

        Raises:
            InputError: No such weights, or the file is damaged or was not written by BANet.
        """
        from banet.modeling.weights import load_model

        return load_model(source, device=device)  # type: ignore[return-value]

    def save_pretrained(self, path: str | Path, *, half: bool = False, **metadata: str) -> Path:
        """Write weights, composition, inference options and categories to one safetensors file.

        Args:
            path: The file, or a folder that gets `model.safetensors`.
            half: Store floats in half precision.
            **metadata: Further text that is stored beside.

        Returns:
            The file written.
        """
        from banet.modeling.weights import save_model

        return save_model(self, path, half=half, metadata=metadata)

    @accept_old_names
    def push_to_hub(self, repository: str, *, license: str, private: bool = False, **metadata: str) -> str:
        """Upload to the Hugging Face hub, with a card of classes, recipe, measured PQ and license.

        Args:
            repository: `owner/name`; made if it is not there.
            license: Identifier of the license of the weights, such as `apache-2.0`.
            private: Whether a new repository is private.
            **metadata: What the card tells: `recipe`, `recipe_yaml`, `iterations`, `pq`. `banet push` takes them from
                the file that a training run wrote.

        Returns:
            The address of the commit.

        Raises:
            InputError: The hub refused.
        """
        from tempfile import TemporaryDirectory

        from banet.modeling.hub import push_to_hub
        from banet.modeling.weights import save_model

        with TemporaryDirectory() as folder:
            weights = save_model(self, folder, metadata=metadata)
            return push_to_hub(weights, repository, license=license, private=private)


def _detections(boxes: list[Tensor], scores: list[Tensor], labels: list[Tensor], masks: Tensor) -> list[Detections]:
    split = torch.split(masks.float(), [b.shape[0] for b in boxes])
    return [Detections(*parts) for parts in zip(boxes, scores, labels, split, strict=True)]

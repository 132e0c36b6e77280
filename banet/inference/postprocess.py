"""From raw network outputs to arrays at the image's own size, which fusion turns into a panoptic result.

Loads torch for logits that are tensors only.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from banet.modeling.config import STRIDES, InferenceConfig
from banet.modeling.outputs import ImageOutput
from banet.panoptic import MaskCrops, PanopticSegmentation
from banet.panoptic.categories import Categories
from banet.panoptic.fusion import fuse_validated
from banet.panoptic.occlusion.resolve import OcclusionHandler
from banet.panoptic.resampling import linear_taps, paste_mask
from banet.types import RuleLike, Size

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Instances", "UnfusedPrediction", "paste_instances", "postprocess", "semantic_argmax"]

_PIXELS = 1 << 16
"""Of the image, whose logits are computed together: bounds the memory."""


@dataclass(frozen=True)
class Instances:
    """Instances of an image at its own size.

    Attributes:
        masks: N boolean masks, which may overlap; none is empty.
        scores: (N,) float64.
        labels: (N,) class indices of things.
        boxes: (N, 4) float32 x1, y1, x2, y2 in pixels of the image, unrounded.
    """

    masks: MaskCrops
    scores: NDArray[np.float64]
    labels: NDArray[np.int64]
    boxes: NDArray[np.float32]


@dataclass(frozen=True)
class UnfusedPrediction:
    """All that fusion needs of one image, so that several rules can be tried on one pass of the network.

    Attributes:
        image: (H, W, 3) uint8.
        instances: The panoptic instances.
        semantic: (H, W) class index of the best class of each pixel.
        stuff_semantic: (H, W) class index of the best stuff class, where the options ask for it.
    """

    image: NDArray[np.uint8]
    instances: Instances
    semantic: NDArray[np.int64]
    stuff_semantic: NDArray[np.int64] | None = None

    def fuse(
        self, categories: Categories, options: InferenceConfig, *, rule: RuleLike | None = None
    ) -> PanopticSegmentation:
        """Return the panoptic result.

        Args:
            categories: The model's.
            options: Thresholds and the rule.
            rule: Another rule than the one of `options`.
        """
        rule = options.rule if rule is None else rule
        handler = OcclusionHandler.of(rule, True, options.overlap_threshold, options.removal_threshold)
        maps = [self.semantic]
        if self.stuff_semantic is not None and options.thing_pixels == "best_stuff":
            maps.append(self.stuff_semantic)
        found = self.instances
        return fuse_validated(
            found.masks,
            found.scores,
            found.labels,
            maps,
            self.image,
            categories,
            handler,
            stuff_area=options.stuff_area,
        )


def postprocess(
    output: ImageOutput, image: NDArray[np.uint8], categories: Categories, options: InferenceConfig
) -> UnfusedPrediction:
    """Bring the outputs for one image to the image's own size.

    Args:
        output: Raw outputs.
        image: (H, W, 3), as it was before `preprocess`.
        categories: The model's.
        options: Of these, `thing_pixels`.
    """
    size = (image.shape[0], image.shape[1])
    instances = paste_instances(output, size)
    best = semantic_argmax(output.logits, output.size, size)
    stuff = None
    if options.thing_pixels == "best_stuff" and categories.num_stuff:
        first = categories.num_things
        stuff = semantic_argmax(output.logits[first:], output.size, size) + first
    return UnfusedPrediction(image, instances, best, stuff)


def paste_instances(output: ImageOutput, size: Size) -> Instances:
    """Paste masks onto the image at its own size; empty ones are dropped.

    Args:
        output: Raw outputs.
        size: Height and width of the image.
    """
    boxes = output.boxes * np.array([size[1] / output.size[1], size[0] / output.size[0]] * 2)
    pasted = [paste_mask(mask, box, size) for mask, box in zip(output.masks, boxes, strict=True)]
    kept = [n for n, (_, crop) in enumerate(pasted) if crop.any()]
    crop_boxes = np.array([pasted[n][0] for n in kept], dtype=np.int64).reshape(-1, 4)
    return Instances(
        masks=MaskCrops(crop_boxes, [pasted[n][1] for n in kept], size),
        scores=output.scores[kept].astype(np.float64),
        labels=output.labels[kept],
        boxes=boxes[kept].astype(np.float32),
    )


def semantic_argmax(logits: NDArray[np.float32] | Tensor, network_size: Size, size: Size) -> NDArray[np.int64]:
    """Return the best class of each pixel of the image.

    The logits are cut to the image's valid area and resized once, bilinearly, straight to the image's size.

    Args:
        logits: (C, h, w) at stride 4 of the padded input.
        network_size: Height and width of the image in the network's input, without padding; they may end in a cell.
        size: Height and width of the image.

    Returns:
        (H, W) index of the channel.
    """
    height, width = (-(-side // STRIDES[0]) for side in network_size)
    best, best_between = _rank(logits[:, :height, :width])
    best = best.reshape(height, width)
    top, bottom, down = linear_taps(np.arange(size[0]) + 0.5, network_size[0] / size[0] / STRIDES[0], height)
    left, right, across = linear_taps(np.arange(size[1]) + 0.5, network_size[1] / size[1] / STRIDES[0], width)
    # A class that is the best at all four neighbours of a pixel is so at the pixel: the others' logits mix likewise.
    across_same = best[:, left] == best[:, right]
    result = best[top][:, left]
    settled = across_same[top] & across_same[bottom] & (result == best[bottom][:, left])
    rows, columns = np.nonzero(~settled)
    for start in range(0, len(rows), _PIXELS):
        row, column = rows[start : start + _PIXELS], columns[start : start + _PIXELS]
        ys = (top[row] * width, 1 - down[row]), (bottom[row] * width, down[row])
        xs = (left[column], 1 - across[column]), (right[column], across[column])
        cells = np.stack([y + x for y, _ in ys for x, _ in xs], axis=1)
        weights = np.stack([v * u for _, v in ys for _, u in xs], axis=1)
        result[row, column] = best_between(cells, weights)
    return result


def _rank(
    logits: NDArray[np.float32] | Tensor,
) -> tuple[NDArray[np.int64], Callable[[NDArray[np.int64], NDArray[np.float32]], NDArray[np.int64]]]:
    """The best class of each of R cells (C, h, w), (R,), and the best of P mixtures: cells (P, 4), weights (P, 4)."""
    if isinstance(logits, np.ndarray):
        array = logits.transpose(1, 2, 0).reshape(-1, len(logits))

        def best_array(cells: NDArray[np.int64], weights: NDArray[np.float32]) -> NDArray[np.int64]:
            mixed = np.sum([array[cells[:, tap]] * weights[:, tap, None] for tap in range(4)], axis=0)
            found: NDArray[np.int64] = mixed.argmax(1)
            return found

        return array.argmax(1), best_array
    import torch
    from torch.nn.functional import embedding_bag

    tensor = logits.permute(1, 2, 0).reshape(-1, len(logits)).float()

    def best_tensor(cells: NDArray[np.int64], weights: NDArray[np.float32]) -> NDArray[np.int64]:
        index, shares = (torch.from_numpy(part).to(tensor.device) for part in (cells, weights))
        mixed = embedding_bag(index, tensor, per_sample_weights=shares, mode="sum")
        found: NDArray[np.int64] = mixed.argmax(1).cpu().numpy()
        return found

    return tensor.argmax(1).cpu().numpy(), best_tensor

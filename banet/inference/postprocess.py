"""From raw network outputs to arrays at the image's own size, which fusion turns into a panoptic result.

Loads torch for logits that are tensors only.
"""

from __future__ import annotations

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

_Taps = tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]
"""Of one axis: for each pixel the two cells next to it, and the weight of the second."""

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
    cells = -(-network_size[0] // STRIDES[0]), -(-network_size[1] // STRIDES[0])
    rows, columns = (
        linear_taps(np.arange(size[axis]) + 0.5, network_size[axis] / size[axis] / STRIDES[0], cells[axis])
        for axis in range(2)
    )
    valid = logits[:, : cells[0], : cells[1]]
    if isinstance(valid, np.ndarray):
        return _argmax_of_array(valid, rows, columns)
    return _argmax_of_tensor(valid, rows, columns)


# A class that is the best at all four neighbours of a pixel is so at the pixel: the others' logits mix likewise. So
# only the other pixels are computed.


def _argmax_of_array(logits: NDArray[np.float32], rows: _Taps, columns: _Taps) -> NDArray[np.int64]:
    """Return the best class (H, W) of logits (C, h, w) between whose cells the pixels lie."""
    (top, bottom, down), (left, right, across) = rows, columns
    classes, _, width = logits.shape
    table = logits.transpose(1, 2, 0).reshape(-1, classes)
    best = table.argmax(1).reshape(-1, width)
    across_same = best[:, left] == best[:, right]
    result: NDArray[np.int64] = best[top][:, left]
    settled = across_same[top] & across_same[bottom] & (result == best[bottom][:, left])
    unsettled = np.nonzero(~settled)
    for start in range(0, len(unsettled[0]), _PIXELS):
        row, column = (index[start : start + _PIXELS] for index in unsettled)
        mixed = np.zeros((len(row), classes), dtype=np.float32)
        for y, v in ((top[row] * width, 1 - down[row]), (bottom[row] * width, down[row])):
            for x, u in ((left[column], 1 - across[column]), (right[column], across[column])):
                mixed += table[y + x] * (v * u)[:, None]
        result[row, column] = mixed.argmax(1)
    return result


def _argmax_of_tensor(logits: Tensor, rows: _Taps, columns: _Taps) -> NDArray[np.int64]:
    """Return the same of logits on any device, which computes all and is waited for twice."""
    import torch
    from torch.nn.functional import embedding_bag

    from banet.ops.host import to_host, true_rows

    (top, bottom, down), (left, right, across) = (
        tuple(torch.from_numpy(part).to(logits.device, non_blocking=True) for part in taps) for taps in (rows, columns)
    )
    classes, _, width = logits.shape
    table = logits.permute(1, 2, 0).reshape(-1, classes).float()
    best = table.argmax(1).view(-1, width)
    best_left = best[:, left]
    across_same = best_left == best[:, right]
    result = best_left[top]
    settled = across_same[top] & across_same[bottom] & (result == best_left[bottom])
    (unsettled,) = true_rows([~settled.flatten()])
    for pixel in torch.split(unsettled, _PIXELS):
        row, column = pixel // len(left), pixel % len(left)
        ys = (top[row] * width, 1 - down[row]), (bottom[row] * width, down[row])
        xs = (left[column], 1 - across[column]), (right[column], across[column])
        index = torch.stack([y + x for y, _ in ys for x, _ in xs], dim=1)
        shares = torch.stack([v * u for _, v in ys for _, u in xs], dim=1)
        mixed = embedding_bag(index, table, per_sample_weights=shares, mode="sum")
        result.view(-1)[pixel] = mixed.argmax(1)
    return to_host([result])[0]

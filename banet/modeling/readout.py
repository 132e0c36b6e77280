"""From what the network says to arrays at the picture's own size, which fusion turns into a panoptic result."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from banet.data.images import to_rgb_array
from banet.data.transforms import resize_image
from banet.modeling.backbone import STRIDES
from banet.modeling.banet import BANet, Output
from banet.modeling.instance_head import Detections
from banet.modeling.instances import Instances, Readout
from banet.ops.paste import paste_masks
from banet.panoptic import MaskCrops
from banet.panoptic.categories import Categories

_PIXELS = 1 << 16
"""Of the picture, whose logits are computed together: bounds the memory."""

__all__ = ["Instances", "Readout", "network_input", "paste_detections", "read_images", "read_out", "semantic_argmax"]


def read_images(model: BANet, images: Sequence[Any]) -> Iterator[Readout]:
    """Run pictures through the network as one batch.

    Args:
        model: On any device.
        images: Paths, PIL images, arrays or tensors; see `BANet.predict`.
    """
    arrays = [to_rgb_array(image) for image in images]
    output = model([network_input(model, array) for array in arrays])
    for index, array in enumerate(arrays):
        yield read_out(model, output, index, array)


def network_input(model: BANet, image: NDArray[np.uint8]) -> Tensor:
    """A picture (H, W, 3) at the size that the network works at: (3, h, w) uint8."""
    limits = model.inference
    return resize_image(torch.from_numpy(image).permute(2, 0, 1), limits.shorter, limits.longer, limits.scale)


def read_out(model: BANet, output: Output, index: int, image: NDArray[np.uint8]) -> Readout:
    """Image `index` of a batch, at the size (H, W) of the picture `image`."""
    size = (image.shape[0], image.shape[1])
    instances = paste_detections(output.detections[index], output.sizes[index], size, model.categories)
    logits = output.logits[index]
    best = semantic_argmax(logits, output.sizes[index], size)
    stuff = None
    if model.inference.thing_pixels == "best_stuff" and model.categories.num_stuff:
        first = model.categories.num_things
        stuff = model.categories.ids_of(semantic_argmax(logits[first:], output.sizes[index], size) + first)
    return Readout(image, instances, model.categories.ids_of(best), stuff)


def paste_detections(
    detections: Detections, network_size: tuple[int, int], size: tuple[int, int], categories: Categories
) -> Instances:
    """Masks of one image at another size than the network's, the empty ones dropped."""
    scale = [size[1] / network_size[1], size[0] / network_size[0]] * 2
    boxes = detections.boxes.double() * torch.tensor(scale, dtype=torch.float64, device=detections.boxes.device)
    crop_boxes, crops = paste_masks(detections.masks, boxes, size)
    keep = [i for i, crop in enumerate(crops) if bool(crop.any())]
    return Instances(
        masks=MaskCrops(
            np.array([crop_boxes[i] for i in keep], dtype=np.int64).reshape(-1, 4),
            [crops[i].cpu().numpy() for i in keep],
            size,
        ),
        scores=detections.scores.double().cpu().numpy()[keep],
        labels=categories.ids[detections.labels.cpu().numpy()[keep]],
        boxes=boxes.float().cpu().numpy()[keep],
    )


def semantic_argmax(logits: Tensor, network_size: tuple[int, int], size: tuple[int, int]) -> NDArray[np.int64]:
    """Best class of each pixel of the picture.

    The logits are cut to the image's valid area and resized once, bilinearly, straight to the picture's size.

    Args:
        logits: (C, h, w) at stride 4 of the padded input.
        network_size: Height and width of the image in the network's input, without padding.
        size: Height and width of the picture.

    Returns:
        (H, W) index of the channel.
    """
    height, width = (-(-side // STRIDES[0]) for side in network_size)
    table = logits[:, :height, :width].permute(1, 2, 0).flatten(0, 1).float()  # (h * w, C)
    best = table.argmax(1).view(height, width)
    top, bottom, down = _neighbours(size[0], network_size[0], height, logits.device)
    left, right, across = _neighbours(size[1], network_size[1], width, logits.device)
    # A class that is the best at all four neighbours of a pixel is so at the pixel: the others' logits mix likewise.
    across_same = best[:, left] == best[:, right]
    settled = across_same[top] & across_same[bottom] & (best[top][:, left] == best[bottom][:, left])
    result = best[top][:, left]
    rows, columns = (~settled).nonzero(as_tuple=True)
    for row, column in zip(torch.split(rows, _PIXELS), torch.split(columns, _PIXELS), strict=True):
        ys = (top[row] * width, 1 - down[row]), (bottom[row] * width, down[row])
        xs = (left[column], 1 - across[column]), (right[column], across[column])
        index = torch.stack([y + x for y, _ in ys for x, _ in xs], dim=1)
        shares = torch.stack([v * u for _, v in ys for _, u in xs], dim=1)
        mixed = F.embedding_bag(index, table, per_sample_weights=shares, mode="sum")
        result[row, column] = mixed.argmax(1)
    found: NDArray[np.int64] = result.cpu().numpy()
    return found


def _neighbours(pixels: int, side: int, cells: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """One axis of a bilinear resize: the two cells next to each pixel, and the share of the second, (pixels,) each.

    Args:
        pixels: Of the picture.
        side: Of the network's input, without padding; it may end inside a cell.
        cells: Of the logits, at stride 4.
        device: Where to put the result.
    """
    pixel = torch.arange(pixels, dtype=torch.float64, device=device)
    position = ((pixel + 0.5) * (side / pixels / STRIDES[0]) - 0.5).clamp(0, cells - 1)
    first = position.floor().long()
    return first, (first + 1).clamp(max=cells - 1), (position - first).float()

"""What other libraries return, made disjoint: one adapter function a library.

Nothing of them is imported. A result is recognised by the names that it carries, and given back through its own
methods. Each adapter reads one picture's result as `Detections`: plain arrays, and the way back to the library's type.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from banet.panoptic.validation import MaskCrops, is_torch, like, to_numpy

__all__ = [
    "Adapter",
    "Detections",
    "find_adapter",
    "from_detectron2",
    "from_hf",
    "from_mmdetection",
    "from_supervision",
    "from_torchvision",
    "from_ultralytics",
    "read_detections",
]


@dataclass(frozen=True, eq=False)
class Detections:
    """What a library found in one picture, as this package's functions take it.

    Attributes:
        masks: (N, H, W) bool, at the picture's size.
        scores: (N,), or None where the result carries none.
        labels: (N,) classes as the library numbers them, or None.
        image: (H, W, 3) RGB, where the result carries the picture, else None.
        rebuild: takes the numbers of K objects (K,) and their masks (K, H, W), and gives the library's type.
    """

    masks: NDArray[Any]
    scores: NDArray[Any] | None
    labels: NDArray[Any] | None
    image: NDArray[Any] | None
    rebuild: Callable[[NDArray[np.int64], NDArray[np.bool_]], Any] = field(repr=False)

    def __len__(self) -> int:
        return len(self.masks)

    def disjoint(self, owners: Any) -> Any:
        """The result, in its library's type, of the objects that own a pixel, each with the pixels that it owns.

        Everything else that was said of these objects (boxes, scores, classes, keypoints) stays as it was.

        Args:
            owners: (H, W) integers, from `resolve_occlusions`.
        """
        owner = to_numpy(owners)
        kept = np.unique(owner[owner >= 0]).astype(np.int64)
        return self.rebuild(kept, owner == kept[:, None, None])


Adapter = Callable[[Any], Detections]
"""Reads one picture's result."""


def read_detections(result: Any) -> Detections:
    """Reads what another library found in one picture.

    Args:
        result: a torchvision detection dict, detectron2 `Instances`, mmdetection `DetDataSample`, Ultralytics
            `Results`, the dict of a Hugging Face instance (or panoptic) post-processing, or `supervision.Detections`.

    Raises:
        TypeError: it is none of these.
        ValueError: it has no masks, or masks that are neither binary nor probabilities.
    """
    adapter = find_adapter(result)
    if adapter is None:
        raise TypeError(
            f"{type(result).__name__} is no result of torchvision, detectron2, mmdetection, Ultralytics, Hugging Face "
            "or supervision"
        )
    return adapter(result)


def find_adapter(result: Any) -> Adapter | None:
    """The function that reads `result`, or None where it is no library's result but masks.

    Raises:
        ValueError: a dict of unknown keys, or the results of several pictures.
    """
    if isinstance(result, (np.ndarray, MaskCrops)) or is_torch(result):
        return None
    if isinstance(result, (list, tuple)):
        if result and not isinstance(result[0], (list, tuple)) and find_adapter(result[0]) is not None:
            raise ValueError(
                f"this is a list of {len(result)} results: give one picture's at a time, such as result[0]"
            )
        return None
    if isinstance(result, Mapping):
        if "segmentation" in result and "segments_info" in result:
            return from_hf
        if "masks" in result:
            return from_torchvision
        if "instances" in result:
            raise ValueError('give the instances alone: result["instances"]')
        raise ValueError(
            "a dict must have 'masks' (torchvision), or 'segmentation' and 'segments_info' (Hugging Face), "
            f"but it has {', '.join(map(repr, result)) or 'nothing'}"
        )
    if hasattr(result, "get_fields") and hasattr(result, "image_size"):
        return from_detectron2
    if hasattr(result, "pred_instances"):
        return from_mmdetection
    if hasattr(result, "orig_shape") and hasattr(result, "masks") and hasattr(result, "boxes"):
        return from_ultralytics
    if hasattr(result, "xyxy") and hasattr(result, "mask") and hasattr(result, "confidence"):
        return from_supervision
    return None


def from_torchvision(result: Mapping[str, Any]) -> Detections:
    """Reads what a torchvision Mask R-CNN returns for one picture.

    `masks` (N, 1, H, W) are probabilities: 0.5 and more is the object. They come back in the same shape and type, as 0
    and 1. Every other entry of length N is cut to the objects that are left.
    """
    given = result["masks"]
    channel = given.ndim == 4
    if channel and given.shape[1] != 1:
        raise ValueError(f"torchvision masks must have shape (N, 1, H, W), not {tuple(given.shape)}")
    count = len(given)

    def rebuild(kept: NDArray[np.int64], masks: NDArray[np.bool_]) -> dict[str, Any]:
        new = {}
        for key, value in result.items():
            if key == "masks":
                new[key] = _as(masks[:, None] if channel else masks, given)
            elif isinstance(value, (list, tuple)):
                new[key] = [value[n] for n in kept] if len(value) == count else value
            elif getattr(value, "ndim", 0) and len(value) == count:
                new[key] = value[like(kept, value)]
            else:
                new[key] = value
        return new

    masks = _binary(given[:, 0] if channel else given, "torchvision")
    return Detections(masks, _array(result.get("scores")), _array(result.get("labels")), None, rebuild)


def from_detectron2(result: Any) -> Detections:
    """Reads detectron2 `Instances`: `pred_masks`, `scores`, `pred_classes`.

    `pred_masks` is (N, H, W), bool or (as Mask2Former's) float, or `BitMasks`; it comes back as it came.
    """
    fields = result.get_fields()
    if "pred_masks" not in fields:
        raise ValueError(f"these detectron2 Instances have no pred_masks, but {', '.join(fields) or 'nothing'}")
    given = fields["pred_masks"]
    tensor = getattr(given, "tensor", given)

    def rebuild(kept: NDArray[np.int64], masks: NDArray[np.bool_]) -> Any:
        new = result[like(kept, tensor)]
        disjoint = _as(masks, tensor)
        new.pred_masks = disjoint if tensor is given else type(given)(disjoint)
        return new

    return Detections(
        _binary(tensor, "detectron2"), _array(fields.get("scores")), _array(fields.get("pred_classes")), None, rebuild
    )


def from_mmdetection(result: Any) -> Detections:
    """Reads an mmdetection `DetDataSample`: `masks`, `scores` and `labels` of its `pred_instances`.

    A new sample comes back; what else the sample holds is shared with it.
    """
    instances = result.pred_instances
    given = getattr(instances, "masks", None)
    if given is None:
        raise ValueError("the pred_instances of this mmdetection sample have no masks")
    if isinstance(given, (list, tuple)):
        raise ValueError("the masks of this mmdetection sample are coded; take the sample before they are coded as RLE")

    def rebuild(kept: NDArray[np.int64], masks: NDArray[np.bool_]) -> Any:
        left = instances[like(kept, given)]
        left.masks = _as(masks, given)
        new = result.new()
        new.pred_instances = left
        return new

    return Detections(
        _binary(given, "mmdetection"),
        _array(getattr(instances, "scores", None)),
        _array(getattr(instances, "labels", None)),
        None,
        rebuild,
    )


def from_ultralytics(result: Any) -> Detections:
    """Reads Ultralytics `Results`: `masks`, `boxes.conf`, `boxes.cls`, and the picture, `orig_img` (BGR).

    Masks at the size of the network's input are freed of its padding and brought to the picture's size; they come back
    at that size, as if predicted with `retina_masks=True`.
    """
    height, width = (int(v) for v in result.orig_shape[:2])
    given = None if result.masks is None else result.masks.data
    boxes = result.boxes
    if given is None and boxes is not None and len(boxes):
        raise ValueError("these Ultralytics results have no masks: predict with a segmentation model")
    masks = np.zeros((0, height, width), bool) if given is None else _binary(given, "Ultralytics")
    picture = getattr(result, "orig_img", None)

    def rebuild(kept: NDArray[np.int64], masks: NDArray[np.bool_]) -> Any:
        if given is None:
            return result
        new = result[like(kept, given)]
        new.update(masks=_as(masks, given))
        return new

    return Detections(
        _without_padding(masks, height, width),
        np.zeros(0) if boxes is None else _array(boxes.conf),
        np.zeros(0) if boxes is None else _array(boxes.cls),
        None if picture is None or is_torch(picture) else picture[..., ::-1],
        rebuild,
    )


def from_hf(result: Mapping[str, Any]) -> Detections:
    """Reads one picture's dict of a Hugging Face `post_process_instance_segmentation` (or the panoptic one).

    With `return_binary_maps=True` the segmentation is (N, H, W), a mask for each of `segments_info`, and comes back as
    (K, H, W) with K infos whose ids are kept. A map (H, W) of ids is disjoint already, whoever was painted over: it
    comes back as it is.
    """
    given, infos = result["segmentation"], list(result["segments_info"])
    if given is None or isinstance(given, (list, tuple)):
        raise ValueError(
            "this Hugging Face segmentation is "
            + ("None" if given is None else "coded as RLE: post-process without return_coco_annotation")
        )
    ids: list[Any] = [info["id"] for info in infos]
    if given.ndim == 3:
        if len(given) != len(infos):
            raise ValueError(f"segmentation has {len(given)} maps but segments_info {len(infos)} entries")
        masks = _binary(given, "Hugging Face")
    else:  # fused stuff has several infos of one id
        infos = list({number: info for number, info in zip(reversed(ids), reversed(infos), strict=True)}.values())[::-1]
        ids = [info["id"] for info in infos]
        masks = to_numpy(given) == np.array(ids).reshape(-1, 1, 1)

    def rebuild(kept: NDArray[np.int64], masks: NDArray[np.bool_]) -> dict[str, Any]:
        left = {ids[n] for n in kept}
        new = {**result, "segments_info": [info for info in result["segments_info"] if info["id"] in left]}
        if given.ndim == 3:
            new["segmentation"] = _as(masks, given)
        return new

    scores = [info.get("score") for info in infos]
    return Detections(
        masks,
        None if None in scores else np.array(scores, dtype=np.float64),
        np.array([info.get("label_id", -1) for info in infos], dtype=np.int64),
        None,
        rebuild,
    )


def from_supervision(result: Any) -> Detections:
    """Reads `supervision.Detections`: `mask`, `confidence`, `class_id`. Compact masks come back compact."""
    given = result.mask
    if given is None:
        if len(result):
            raise ValueError("these supervision Detections have no mask")
        return Detections(np.zeros(0, bool), np.zeros(0), np.zeros(0, np.int64), None, lambda kept, masks: result)
    compact = hasattr(given, "to_dense")
    dense = given.to_dense() if compact else given

    def rebuild(kept: NDArray[np.int64], masks: NDArray[np.bool_]) -> Any:
        new = result[kept]
        new.mask = type(given).from_dense(masks, new.xyxy, masks.shape[1:]) if compact else _as(masks, given)
        return new

    return Detections(_binary(dense, "supervision"), _array(result.confidence), _array(result.class_id), None, rebuild)


def _array(x: Any) -> NDArray[Any] | None:
    return None if x is None else to_numpy(x)


def _binary(masks: Any, library: str) -> NDArray[Any]:
    """Masks as numpy: probabilities from 0.5, others as they are (they are checked with all masks)."""
    if not (is_torch(masks) and masks.is_floating_point()) and not (
        isinstance(masks, np.ndarray) and masks.dtype.kind == "f"
    ):
        return to_numpy(masks)
    masks = masks.detach() if is_torch(masks) else masks
    if 0 not in masks.shape:
        low, high = float(masks.min()), float(masks.max())
        if not (low >= 0 and high <= 1):  # a NaN fails as well
            raise ValueError(f"{library} masks must be probabilities in 0..1, not {low:g}..{high:g}")
    return to_numpy(masks >= 0.5)


def _as(masks: NDArray[np.bool_], given: Any) -> Any:
    """Boolean masks in the kind of array, the type of number and on the device of those that were given."""
    return like(masks, given).to(given.dtype) if is_torch(given) else masks.astype(given.dtype)


def _without_padding(masks: NDArray[Any], height: int, width: int) -> NDArray[Any]:
    """Masks of a letterboxed picture (shrunk to fit, centred, padded) at the size of the picture itself."""
    rows, columns = masks.shape[1:]
    if (rows, columns) == (height, width):
        return masks
    gain = min(rows / height, columns / width)
    used_rows, used_columns = max(round(height * gain), 1), max(round(width * gain), 1)
    top, left = round((rows - used_rows) / 2 - 0.1), round((columns - used_columns) / 2 - 0.1)
    out = np.zeros((len(masks), height, width), dtype=bool)
    for new, mask in zip(out, masks, strict=True):
        cut = mask[top : top + used_rows, left : left + used_columns].astype(np.uint8) * 255
        new[:] = np.asarray(Image.fromarray(cut).resize((width, height), Image.Resampling.BILINEAR)) >= 128
    return out

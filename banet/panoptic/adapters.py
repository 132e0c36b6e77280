"""Results of other libraries, read as arrays and given back: one adapter function per library.

Nothing of these libraries is imported. A result is recognised by its whole shape: the names that it carries, and the
number types, shapes and ranges of what stands under them, which must agree with one another. What resembles a library's
result but does not fit, and what resembles none, is an error that says what was seen. Each adapter reads the result of
one image as `LibraryResult`: plain arrays, and the way back to the library's type.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from banet._moved import renamed
from banet.errors import abbreviate
from banet.panoptic.coco.rle import decode_segmentation, encode_rle, run_lengths
from banet.panoptic.validation import MaskCrops, as_input_type, is_array, is_torch, to_numpy
from banet.types import Size

__all__ = [
    "Adapter",
    "LibraryResult",
    "find_adapter",
    "from_detectron2",
    "from_detectron2_panoptic",
    "from_hf",
    "from_lightly_panoptic",
    "from_mmdetection",
    "from_mmdetection_panoptic",
    "from_sam",
    "from_supervision",
    "from_torchvision",
    "from_ultralytics",
    "read_detections",
]

_LIBRARIES = "torchvision, detectron2, mmdetection, Ultralytics, Hugging Face, LightlyTrain, SAM or supervision"
_MMDETECTION_OFFSET = 1000
"""What mmdetection multiplies the number of an instance with."""
_MOST_NAMES = 12  # of keys or attributes that an error lists


@dataclass(frozen=True, eq=False)
class LibraryResult:
    """What a library found in one image, as this package's functions take it.

    Attributes:
        masks: (N, H, W) bool, at the image's size; or `MaskCrops`, where the result holds them so.
        scores: (N,), or None where the result carries none.
        labels: (N,) classes as the library numbers them, or None.
        image: (H, W, 3) RGB, where the result carries the image, else None.
        rebuild: takes the indices of K objects (K,) and their masks, in the form of `masks`, and returns the library's
            type.
    """

    masks: NDArray[Any] | MaskCrops
    scores: NDArray[Any] | None
    labels: NDArray[Any] | None
    image: NDArray[Any] | None
    rebuild: Callable[[NDArray[np.int64], Any], Any] = field(repr=False)

    def __len__(self) -> int:
        return len(self.masks)

    def disjoint(self, owners: Any) -> Any:
        """Return the result, in its library's type, of the objects that own a pixel, each with the pixels it owns.

        Everything else that the result says of these objects (boxes, scores, classes, keypoints) stays as it was.

        Args:
            owners: (H, W) integers, from `resolve_occlusions`.
        """
        owner = to_numpy(owners)
        kept = np.unique(owner[owner >= 0]).astype(np.int64)
        if not isinstance(self.masks, MaskCrops):
            return self.rebuild(kept, owner == kept[:, None, None])
        boxes = self.masks.boxes[kept]
        crops = [owner[y1:y2, x1:x2] == n for n, (x1, y1, x2, y2) in zip(kept, boxes.tolist(), strict=True)]
        return self.rebuild(kept, MaskCrops(boxes, crops, self.masks.size))


Adapter = Callable[[Any], LibraryResult]
"""Reads the result of one image."""

__getattr__ = renamed(__name__, {"Detections": "LibraryResult"})


def read_detections(result: Any) -> LibraryResult:
    """Read what another library found in one image.

    Args:
        result: a torchvision or LightlyTrain dict, detectron2 `Instances` or `panoptic_seg`, mmdetection
            `DetDataSample`, Ultralytics `Results`, the dict of a Hugging Face instance or panoptic post-processing,
            SAM's list of dicts, or `supervision.Detections`.

    Raises:
        TypeError: it is not one of these.
        ValueError: it resembles one of these, but a part of it has the wrong type, shape or range; the message says
            what the result holds.
    """
    adapter = find_adapter(result)
    if adapter is None:
        raise TypeError(f"{type(result).__name__} is not a result of {_LIBRARIES}, but masks: {_describe(result)}")
    return adapter(result)


def find_adapter(result: Any) -> Adapter | None:
    """Return the function that reads `result`, or None where it is not a library's result but masks.

    Raises:
        TypeError: it is neither; the message says what it holds.
        ValueError: a dict that is neither, or the results of several images.
    """
    if is_array(result) or isinstance(result, MaskCrops) or hasattr(result, "__array__"):
        return None
    if isinstance(result, (list, tuple)):
        if isinstance(result, tuple) and len(result) == 2 and is_array(result[0]) and _are_infos(result[1]):
            return from_detectron2_panoptic
        if result and all(isinstance(one, Mapping) and "predicted_iou" in one for one in result):
            return from_sam
        _refuse_lists_of_results(result)
        return None
    if isinstance(result, Mapping):
        return _find_dict_adapter(result)
    for names, adapter in _BY_ATTRIBUTES.items():
        if all(hasattr(result, name) for name in names):
            return adapter
    raise TypeError(f"this is not a result of {_LIBRARIES}, nor masks: {_describe(result)}")


def _are_infos(infos: Any) -> bool:
    """Return whether this is detectron2's list of segments, or None in its place."""
    return infos is None or (
        isinstance(infos, list) and all(isinstance(one, Mapping) and "isthing" in one for one in infos)
    )


def _refuse_lists_of_results(result: Sequence[Any]) -> None:
    first = result[0] if result else None
    if first is None or isinstance(first, (list, tuple)) or is_array(first) or np.isscalar(first):
        return
    if find_adapter(first) is not None:
        raise ValueError(f"this is a list of {len(result)} results: give one image's at a time, such as result[0]")


def _find_dict_adapter(result: Mapping[Any, Any]) -> Adapter:
    if "segmentation" in result and "segments_info" in result:
        return from_hf
    if "masks" in result and "segment_ids" in result:
        return from_lightly_panoptic
    if "masks" in result:
        return from_torchvision
    if "panoptic_seg" in result:
        raise ValueError('give one part alone: result["instances"] or result["panoptic_seg"]')
    if "instances" in result:
        raise ValueError('give the instances alone: result["instances"]')
    raise ValueError(
        "a dict must have 'masks' with 'boxes', 'labels' and 'scores' (torchvision), or 'segmentation' and "
        f"'segments_info' (Hugging Face), but it has {_describe(result, False) or 'nothing'}"
    )


def from_torchvision(result: Mapping[str, Any]) -> LibraryResult:
    """Read what a torchvision Mask R-CNN returns for one image.

    `masks` (N, 1, H, W) are probabilities: 0.5 and more is the object. They come back in the same shape and type, as 0
    and 1. Every other entry of length N is cut to the objects that are left.

    Raises:
        ValueError: `masks` are neither such probabilities nor 0 and 1, with or without the axis of length 1; the result
            has none of `boxes` (N, 4), `labels` (N,) and `scores` (N,); or one of these does not fit the masks.
    """
    check = _Checker("torchvision", result)
    given = result["masks"]
    if not any(name in result for name in ("boxes", "labels", "scores")):
        raise check.fault("masks have neither boxes nor labels nor scores")
    masks = check.masks("masks", given, channel=True, numbers="biuf" if "boxes" in result else "bf")
    count = len(given)
    check.numbers("labels", result.get("labels"), count, "iu")
    check.numbers("scores", result.get("scores"), count, "fiu")
    check.boxes("boxes", result.get("boxes"), count, given.shape[-2:])

    def rebuild(kept: NDArray[np.int64], masks: NDArray[np.bool_]) -> dict[str, Any]:
        new = {}
        for key, value in result.items():
            if key == "masks":
                new[key] = _as(masks[:, None] if given.ndim == 4 else masks, given)
            elif isinstance(value, (list, tuple)):
                new[key] = [value[n] for n in kept] if len(value) == count else value
            elif getattr(value, "ndim", 0) and len(value) == count:
                new[key] = value[as_input_type(kept, value)]
            else:
                new[key] = value
        return new

    return LibraryResult(masks, _array(result.get("scores")), _array(result.get("labels")), None, rebuild)


def from_detectron2(result: Any) -> LibraryResult:
    """Read detectron2 `Instances`: `pred_masks`, `scores`, `pred_classes`.

    `pred_masks` is (N, H, W), bool or (as Mask2Former's) float, or `BitMasks`; it comes back as it came.

    Raises:
        ValueError: there are no `pred_masks`, they are not of `image_size`, or scores or classes do not fit them.
    """
    fields = result.get_fields()
    check = _Checker("detectron2", fields)
    if "pred_masks" not in fields:
        raise ValueError(f"these detectron2 Instances have no pred_masks, but {', '.join(fields) or 'nothing'}")
    given = fields["pred_masks"]
    tensor = getattr(given, "tensor", given)
    masks = check.masks("pred_masks", tensor, size=result.image_size)
    scores = check.numbers("scores", fields.get("scores"), len(masks), "fiu")
    classes = check.numbers("pred_classes", fields.get("pred_classes"), len(masks), "iu")

    def rebuild(kept: NDArray[np.int64], masks: NDArray[np.bool_]) -> Any:
        new = result[as_input_type(kept, tensor)]
        disjoint = _as(masks, tensor)
        new.pred_masks = disjoint if tensor is given else type(given)(disjoint)
        return new

    return LibraryResult(masks, scores, classes, None, rebuild)


def from_mmdetection(result: Any) -> LibraryResult:
    """Read an mmdetection `DetDataSample`: `masks`, `scores` and `labels` of its `pred_instances`.

    A new sample comes back; what else the sample holds is shared with it.

    Raises:
        ValueError: there are no masks, they are coded, or boxes, scores or labels do not fit them.
    """
    instances = result.pred_instances
    given = getattr(instances, "masks", None)
    check = _Checker("mmdetection", instances)
    if given is None:
        raise check.fault("the pred_instances of this mmdetection sample have no masks")
    if isinstance(given, (list, tuple)):
        raise ValueError("the masks of this mmdetection sample are coded; take the sample before they are coded as RLE")
    masks = check.masks("masks", given)
    scores = check.numbers("scores", getattr(instances, "scores", None), len(masks), "fiu")
    labels = check.numbers("labels", getattr(instances, "labels", None), len(masks), "iu")
    check.boxes("bboxes", getattr(instances, "bboxes", None), len(masks))

    def rebuild(kept: NDArray[np.int64], masks: NDArray[np.bool_]) -> Any:
        left = instances[as_input_type(kept, given)]
        left.masks = _as(masks, given)
        new = result.new()
        new.pred_instances = left
        return new

    return LibraryResult(masks, scores, labels, None, rebuild)


def from_ultralytics(result: Any) -> LibraryResult:
    """Read Ultralytics `Results`: `masks`, `boxes.conf`, `boxes.cls`, and the image, `orig_img` (BGR).

    Masks at the size of the network's input are freed of its padding and brought to the image's size; they come back
    at that size, as if predicted with `retina_masks=True`.

    Raises:
        ValueError: something was found, but there are no masks of it, or as many masks as boxes there are not.
    """
    check = _Checker("Ultralytics", result)
    height, width = (int(v) for v in result.orig_shape[:2])
    boxes = result.boxes
    given = None if result.masks is None else getattr(result.masks, "data", None)
    bgr = getattr(result, "orig_img", None)
    image = None if bgr is None or is_torch(bgr) else bgr[..., ::-1]
    if given is None:
        others = (boxes, result.masks, getattr(result, "obb", None), getattr(result, "probs", None))
        if any(each is not None and len(each) for each in others):
            raise check.fault("these Ultralytics results have no masks: predict with a segmentation model")
        nothing = np.zeros(0)
        return LibraryResult(np.zeros((0, height, width), bool), nothing, nothing, image, lambda kept, masks: result)
    masks = check.masks("masks.data", given)
    scores = check.numbers("boxes.conf", getattr(boxes, "conf", None), len(masks), "fiu")
    labels = check.numbers("boxes.cls", getattr(boxes, "cls", None), len(masks), "fiu")

    def rebuild(kept: NDArray[np.int64], masks: NDArray[np.bool_]) -> Any:
        new = result[as_input_type(kept, given)]
        new.update(masks=_as(masks, given))
        return new

    return LibraryResult(_without_padding(masks, height, width), scores, labels, image, rebuild)


def from_hf(result: Mapping[str, Any]) -> LibraryResult:
    """Read one image's dict of a Hugging Face `post_process_instance_segmentation` (or the panoptic one).

    With `return_binary_maps=True` the segmentation is (N, H, W), a mask for each of `segments_info`, and comes back as
    (K, H, W) with K infos whose ids are kept. A map (H, W) of ids is disjoint already, whichever segments were painted
    over: it comes back as it is.

    Raises:
        ValueError: the segmentation is neither of these, or `segments_info` are not mappings with an `id` each.
    """
    check = _Checker("Hugging Face", result)
    given, infos = result["segmentation"], result["segments_info"]
    if given is None or isinstance(given, (list, tuple)):
        raise ValueError(
            "this Hugging Face segmentation is "
            + ("None" if given is None else "coded as RLE: post-process without return_coco_annotation")
        )
    if not isinstance(infos, (list, tuple)) or not all(isinstance(one, Mapping) and "id" in one for one in infos):
        raise check.fault("segments_info must be a list of dicts that have an 'id' each")
    if not is_array(given) or given.ndim not in (2, 3):
        raise check.fault("segmentation must be an array (H, W) of ids, or (N, H, W) of masks")
    infos, ids = list(infos), [info["id"] for info in infos]
    if given.ndim == 3:
        if len(given) != len(infos):
            raise check.fault(f"segmentation has {len(given)} maps but segments_info {len(infos)} entries")
        masks = check.masks("segmentation", given, numbers="biuf")
    else:  # fused stuff has several infos of one id
        infos = list({number: info for number, info in zip(reversed(ids), reversed(infos), strict=True)}.values())[::-1]
        ids = [info["id"] for info in infos]
        masks = check.whole("segmentation", given) == np.array(ids).reshape(-1, 1, 1)

    def rebuild(kept: NDArray[np.int64], masks: NDArray[np.bool_]) -> dict[str, Any]:
        left = {ids[n] for n in kept}
        new = {**result, "segments_info": [info for info in result["segments_info"] if info["id"] in left]}
        if given.ndim == 3:
            new["segmentation"] = _as(masks, given)
        return new

    scores = [info.get("score") for info in infos]
    return LibraryResult(
        masks,
        None if None in scores else np.array(scores, dtype=np.float64),
        np.array([info.get("label_id", -1) for info in infos], dtype=np.int64),
        None,
        rebuild,
    )


def from_supervision(result: Any) -> LibraryResult:
    """Read `supervision.Detections`: `mask`, `confidence`, `class_id`. Compact masks come back compact.

    Raises:
        ValueError: something was found, but there are no masks of it, or boxes, scores or classes do not fit them.
    """
    check = _Checker("supervision", result)
    given = result.mask
    if given is None:
        if len(result.xyxy):
            raise check.fault("these supervision Detections have no mask")
        nothing = np.zeros((0, 0, 0), bool)
        return LibraryResult(nothing, np.zeros(0), np.zeros(0, np.int64), None, lambda kept, masks: result)
    compact = hasattr(given, "to_dense")
    masks: NDArray[Any] | MaskCrops = _compact_crops(given) if compact else check.masks("mask", given)
    check.boxes("xyxy", result.xyxy, len(masks))
    scores = check.numbers("confidence", result.confidence, len(masks), "fiu")
    classes = check.numbers("class_id", getattr(result, "class_id", None), len(masks), "iu")

    def rebuild(kept: NDArray[np.int64], masks: Any) -> Any:
        new = result[kept]
        new.mask = _compact_masks(given, masks) if compact else _as(masks, given)
        return new

    return LibraryResult(masks, scores, classes, None, rebuild)


def _compact_crops(given: Any) -> MaskCrops:
    """Read supervision's compact masks, without ever making them full-size."""
    crops = [np.asarray(given.crop(n), dtype=bool) for n in range(len(given))]
    corners = np.asarray(given.offsets, dtype=np.int64).reshape(-1, 2)
    sides = np.array([crop.shape[::-1] for crop in crops], dtype=np.int64).reshape(-1, 2)
    height, width = (int(extent) for extent in given.image_shape)
    return MaskCrops(np.concatenate([corners, corners + sides], axis=1), crops, (height, width))


def _compact_masks(given: Any, masks: MaskCrops) -> Any:
    """Return crops as supervision's compact masks."""
    kind = type(given)
    if not len(masks):
        return given[:0]
    parts = []
    for crop, (x1, y1, x2, y2) in zip(masks.crops, masks.boxes.tolist(), strict=True):
        whole = np.array([[0, 0, x2 - x1 - 1, y2 - y1 - 1]])  # both ends are inside
        part = kind.from_dense(np.ascontiguousarray(crop)[None], whole, crop.shape)
        parts.append(part.with_offset(x1, y1, new_image_shape=masks.size))
    return kind.merge(parts)


def from_sam(result: Sequence[Mapping[str, Any]]) -> LibraryResult:
    """Read the list of dicts that SAM's and SAM 2's automatic mask generator returns.

    `segmentation` is (H, W) bool, or run lengths, compressed or not; it comes back in the same form, with its `area`.
    The score is `predicted_iou`; there are no classes.

    Raises:
        ValueError: a dict has no such `segmentation`, or `predicted_iou` is not a number.
    """
    check = _Checker("SAM", result[0])
    masks = []
    for n, one in enumerate(result):
        given: Any = one.get("segmentation")
        coded = isinstance(given, Mapping) and len(given.get("size", ())) == 2
        if not coded and not (is_array(given) and given.ndim == 2):
            raise check.fault(f"segmentation of mask {n} must be (H, W) bool or run lengths")
        if isinstance(given, Mapping):
            height, width = (int(extent) for extent in given["size"])
            masks.append(decode_segmentation(given, (height, width)))
        else:
            masks.append(check.masks("segmentation", given[None])[0])
    scores = check.numbers("predicted_iou", [one.get("predicted_iou", "missing") for one in result], len(result), "fiu")

    def rebuild(kept: NDArray[np.int64], masks: NDArray[np.bool_]) -> list[dict[str, Any]]:
        new = []
        for n, mask in zip(kept.tolist(), masks, strict=True):
            given = result[n]["segmentation"]
            form = _as_rle(mask, given) if isinstance(given, Mapping) else _as(mask, given)
            area = {"area": type(result[n]["area"])(np.count_nonzero(mask))} if "area" in result[n] else {}
            new.append({**result[n], "segmentation": form, **area})
        return new

    if len({mask.shape for mask in masks}) > 1:
        raise check.fault("the masks are not of one size")
    return LibraryResult(np.stack(masks), scores, None, None, rebuild)


def _as_rle(mask: NDArray[np.bool_], given: Mapping[str, Any]) -> dict[str, Any]:
    """Return run lengths in the form of those given: compressed (text or bytes), or a list of numbers."""
    coded = encode_rle(mask)
    if isinstance(given["counts"], bytes):
        coded["counts"] = coded["counts"].encode("ascii")
    elif not isinstance(given["counts"], str):
        coded["counts"] = run_lengths(mask).tolist()
    return {**given, **coded}


def from_detectron2_panoptic(result: tuple[Any, list[Mapping[str, Any]] | None]) -> LibraryResult:
    """Read detectron2's `panoptic_seg`: a map (H, W) of ids, and the list of its segments.

    It is disjoint already and comes back as it is. Stuff, which has no score, counts as certain.

    Raises:
        ValueError: the list is missing, or a segment has no `id` or `category_id`.
    """
    ids, infos = result
    check = _Checker("detectron2", {"panoptic_seg": ids})
    if infos is None or any("id" not in one or "category_id" not in one for one in infos):
        raise check.fault("the segments of panoptic_seg must be dicts with an 'id' and a 'category_id'")
    numbers = [(one["id"], one.get("score", 1.0), one["category_id"]) for one in infos]
    return _of_map(check.whole("panoptic_seg", ids), numbers, result)


def from_mmdetection_panoptic(result: Any) -> LibraryResult:
    """Read an mmdetection `DetDataSample` with a `pred_panoptic_seg`: class + 1000 · instance at each pixel.

    It is disjoint already and comes back as it is.

    Raises:
        ValueError: `sem_seg` is not of shape (1, H, W) or (H, W), or holds no integers.
    """
    given: Any = getattr(result.pred_panoptic_seg, "sem_seg", None)
    check = _Checker("mmdetection", result.pred_panoptic_seg)
    if not is_array(given) or given.ndim not in (2, 3) or (given.ndim == 3 and len(given) != 1):
        raise check.fault("pred_panoptic_seg.sem_seg must have shape (1, H, W)")
    ids = check.whole("sem_seg", given).reshape(given.shape[-2:])
    found = np.unique(ids).astype(np.int64).tolist()
    return _of_map(ids, [(n, 1.0, n % _MMDETECTION_OFFSET) for n in found], result)


def from_lightly_panoptic(result: Mapping[str, Any]) -> LibraryResult:
    """Read LightlyTrain's panoptic dict: `masks` (H, W, 2) of class and segment id, `segment_ids` and `scores`.

    It is disjoint already and comes back as it is. Its instance dicts are read as torchvision's.

    Raises:
        ValueError: `masks` are not such a map, or ids and scores do not fit each other.
    """
    check = _Checker("LightlyTrain", result)
    given, ids = result["masks"], to_numpy(result["segment_ids"])
    if not is_array(given) or given.ndim != 3 or given.shape[2] != 2:
        raise check.fault("masks must have shape (H, W, 2): class and segment id")
    scores = check.numbers("scores", result.get("scores"), len(ids), "fiu")
    classes, segments = np.moveaxis(check.whole("masks", given), 2, 0)
    numbers = []
    for n, number in enumerate(ids.tolist()):
        there = classes[segments == number]
        numbers.append((number, 1.0 if scores is None else float(scores[n]), int(there[0]) if there.size else -1))
    return _of_map(segments, numbers, result)


def _of_map(ids: NDArray[Any], segments: Sequence[tuple[int, float, int]], result: Any) -> LibraryResult:
    """Return what a map (H, W) of ids says, given (id, score, label) of its segments; it comes back as it is."""
    numbers, scores, labels = zip(*segments, strict=True) if segments else ((), (), ())
    return LibraryResult(
        ids == np.array(numbers, dtype=np.int64).reshape(-1, 1, 1),
        np.array(scores, dtype=np.float64),
        np.array(labels, dtype=np.int64),
        None,
        lambda kept, masks: result,
    )


_BY_ATTRIBUTES: dict[tuple[str, ...], Adapter] = {
    ("get_fields", "image_size"): from_detectron2,
    ("pred_instances",): from_mmdetection,
    ("pred_panoptic_seg",): from_mmdetection_panoptic,
    ("orig_shape", "masks", "boxes"): from_ultralytics,
    ("xyxy", "mask", "confidence"): from_supervision,
}


@dataclass(frozen=True)
class _Checker:
    """Validates the parts of a library's result against one another.

    Attributes:
        library: whose result it looks like.
        result: what holds the parts, for errors.
    """

    library: str
    result: Any

    def fault(self, problem: str) -> ValueError:
        """Return an error that says what the result holds."""
        return ValueError(f"{problem} (read as a result of {self.library}, it holds {_describe(self.result)})")

    def masks(
        self, name: str, given: Any, *, channel: bool = False, size: Size | None = None, numbers: str = "bf"
    ) -> NDArray[np.bool_]:
        """Return masks (N, H, W) as bool: probabilities from 0.5, others 0 and 1.

        Args:
            name: what to call them in errors.
            given: what the library has, an array or tensor.
            channel: whether they may be (N, 1, H, W).
            size: (H, W) that they must have.
            numbers: kinds of numbers beside bytes: "b" bool, "f" float, "i" and "u" integers.
        """
        shape = tuple(getattr(given, "shape", ()))
        wanted = "(N, 1, H, W)" if channel else "(N, H, W)"
        if not is_array(given) or not (len(shape) == 3 or (channel and len(shape) == 4 and shape[1] == 1)):
            raise self.fault(f"{self.library} {name} must have shape {wanted}, not {shape or type(given).__name__}")
        if size is not None and shape[-2:] != tuple(size):
            raise self.fault(f"{name} must be of the image's size, {tuple(size)} (H, W)")
        kind, bits = _kind(given)
        if kind not in numbers and (kind, bits) != ("u", 8):
            raise self.fault(f"{self.library} {name} must be bool, bytes or probabilities, not {_dtype(given)}")
        given = given.detach() if is_torch(given) else given
        if kind != "b" and 0 not in shape:
            low, high = float(given.min()), float(given.max())
            if not (low >= 0 and high <= 1):  # a NaN fails as well
                allowed = "probabilities in 0..1" if kind == "f" else "0 and 1"
                raise self.fault(f"{self.library} {name} must be {allowed}, not {low:g}..{high:g}")
        flat = given[:, 0] if len(shape) == 4 else given
        masks: NDArray[np.bool_] = to_numpy(flat >= 0.5 if kind == "f" else flat).astype(bool)
        return masks

    def numbers(self, name: str, given: Any, count: int, kinds: str) -> NDArray[Any] | None:
        """Return one number per object, (N,), or None where there are none; `kinds` as numpy names them."""
        if given is None:
            return None
        if not is_array(given) and not isinstance(given, (list, tuple)):
            raise self.fault(f"{name} must have shape ({count},), not {type(given).__name__}")
        array = to_numpy(given)
        if array.shape != (count,):
            raise self.fault(f"{name} must have shape ({count},), one per mask, not {array.shape}")
        if count and array.dtype.kind not in kinds:
            raise self.fault(f"{name} must be {'integers' if kinds == 'iu' else 'numbers'}, not {array.dtype}")
        return array

    def boxes(self, name: str, given: Any, count: int, size: Size | None = None) -> None:
        """Validate boxes x1, y1, x2, y2, (N, 4), where there are any; with `size` they lie in the image."""
        if given is None:
            return
        shape = tuple(getattr(given, "shape", ()))
        if not is_array(given) or shape != (count, 4) or _kind(given)[0] not in "fiu":
            raise self.fault(f"{name} must be numbers of shape ({count}, 4), not {shape or type(given).__name__}")
        if size is not None and count:
            reach = to_numpy(given)[:, 2:].max(axis=0)
            if (reach > 1.01 * np.array(size[::-1]) + 1).any():
                raise self.fault(f"{name} reach to {reach.tolist()} (x, y), beyond masks of {tuple(size)} (H, W)")

    def whole(self, name: str, given: Any) -> NDArray[Any]:
        """Return a map of whole numbers."""
        array = to_numpy(given)
        if array.dtype.kind not in "iuf" or (array.dtype.kind == "f" and not (array == np.rint(array)).all()):
            raise self.fault(f"{name} must hold whole numbers, ids, not {array.dtype}")
        return array


def _kind(given: Any) -> tuple[str, int]:
    """Return the kind of number of an array or tensor, as numpy names it, and its bits."""
    if not is_torch(given):
        return given.dtype.kind, 8 * given.dtype.itemsize
    name = str(given.dtype).removeprefix("torch.")
    kind = "b" if name == "bool" else "u" if name.startswith("uint") else "i" if name.startswith("int") else "f"
    return kind, 8 * given.element_size()


def _dtype(given: Any) -> str:
    return str(given.dtype).removeprefix("torch.")


def _describe(value: Any, named: bool = True) -> str:
    """Return what a value is: type, keys or attributes, shapes and number types."""
    if is_array(value):
        return f"{type(value).__name__} {tuple(value.shape)} {_dtype(value)}"
    parts: Iterable[tuple[Any, Any]] | None = None
    if isinstance(value, Mapping):
        parts = value.items()
    elif hasattr(value, "__dict__"):
        parts = [(name, part) for name, part in vars(value).items() if not name.startswith("_")]
    if not parts:
        return f"{type(value).__name__} {abbreviate(value)}" if named else ""
    listed = list(parts)
    texts = [
        f"{name!r}: {_describe(part)}" if is_array(part) else f"{name!r}: {type(part).__name__}"
        for name, part in listed[:_MOST_NAMES]
    ]
    more = f" and {len(listed) - _MOST_NAMES} more" if len(listed) > _MOST_NAMES else ""
    return (f"{type(value).__name__} of " if named else "") + ", ".join(texts) + more


def _array(x: Any) -> NDArray[Any] | None:
    return None if x is None else to_numpy(x)


def _as(masks: NDArray[np.bool_], given: Any) -> Any:
    """Return boolean masks in the kind of array, the type of number and on the device of those that were given."""
    return as_input_type(masks, given).to(given.dtype) if is_torch(given) else masks.astype(given.dtype)


def _without_padding(masks: NDArray[Any], height: int, width: int) -> NDArray[Any]:
    """Return masks of a letterboxed image (shrunk to fit, centred, padded) at the size of the image itself."""
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

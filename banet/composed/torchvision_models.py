"""torchvision's Mask R-CNN as detectors, and its semantic models as segmenters."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file
from torch import Tensor

from banet.checkpoint.warm_start import load_pickle
from banet.composed.classes import ModelClasses
from banet.composed.names import ModelName
from banet.composed.parts import Detector, SemanticSegmenter, argmax_of_logits
from banet.errors import InputError, abbreviate, first_line
from banet.files.reading import read_json
from banet.inference.postprocess import Instances
from banet.panoptic import MaskCrops
from banet.panoptic.resampling import paste_mask

__all__ = ["TorchvisionDetector", "TorchvisionSegmenter", "is_detector"]

_COCO_CLASSES = 91  # outputs of torchvision's detectors of COCO, background included
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_SHORTER = 520  # pixels that torchvision's presets bring the shorter side to for semantic segmentation


def is_detector(name: ModelName) -> bool:
    """Return whether a name of torchvision's is that of a Mask R-CNN.

    Raises:
        InputError: It names no model that finds masks or classes of pixels.
    """
    from torchvision.models import detection, list_models, segmentation

    if name.name in list_models(detection) and name.name.startswith("maskrcnn"):
        return True
    if name.name in list_models(segmentation):
        return False
    known = [each for each in list_models(detection) if each.startswith("maskrcnn")] + list_models(segmentation)
    raise InputError(f"{name}: is not a model of torchvision for instance or semantic segmentation: {', '.join(known)}")


class TorchvisionDetector(Detector):
    """A Mask R-CNN of torchvision; its masks stay at 28 x 28 until each is pasted into its box.

    Args:
        name: `torchvision:NAME`, with `@FILE` for weights of one's own: a state dict, which runs no code.
        device: Where it computes.
    """

    threshold = 0.5

    def __init__(self, name: ModelName, device: torch.device | str = "cpu") -> None:
        state, names = _read_weights(name)
        count = _COCO_CLASSES
        if state is not None:
            head = state.get("roi_heads.box_predictor.cls_score.bias")
            if head is None:
                raise InputError(
                    "the weights are not those of a Mask R-CNN of torchvision: they have no "
                    "roi_heads.box_predictor.cls_score.bias",
                    where=str(name),
                    hint="save model.state_dict()",
                )
            count = len(head)
        if names is None:
            names = _names_of(name, count, _COCO_CLASSES)
        elif len(names) == count - 1:
            names = ["__background__", *names]
        if len(names) != count:
            raise InputError(f"{name}: has {count} outputs, the background first, but {len(names)} classes are named")
        self.model = _build(name, state, {"num_classes": count})
        self.model.eval().to(device)
        self.device = torch.device(device)
        self.classes = ModelClasses.of(str(name), {n: each for n, each in enumerate(names) if n}, isthing=True)
        self.domain = "" if state else "photographs of everyday scenes (COCO)"

    @torch.inference_mode()
    def detect(self, images: Sequence[NDArray[np.uint8]], threshold: float, most: int) -> list[Instances]:
        """Return the instances of each image; see `Detector`."""
        heads = self.model.roi_heads
        saved, heads.score_thresh, heads.detections_per_img = (
            (heads.score_thresh, heads.detections_per_img),
            threshold,
            most,
        )
        try:
            results = self._run([_as_tensor(image).to(self.device) for image in images])
        finally:
            heads.score_thresh, heads.detections_per_img = saved
        return [_paste(one, (image.shape[0], image.shape[1])) for one, image in zip(results, images, strict=True)]

    def _run(self, images: list[Tensor]) -> list[tuple[NDArray[np.float64], ...]]:
        """Return boxes in pixels of each image, scores, labels and masks of 28 x 28, without pasting them."""
        sizes = [image.shape[-2:] for image in images]
        batch, _ = self.model.transform(images)
        features = self.model.backbone(batch.tensors)
        features = features if isinstance(features, dict) else {"0": features}
        proposals, _ = self.model.rpn(batch, features)
        found, _ = self.model.roi_heads(features, proposals, batch.image_sizes)
        results = []
        for one, size, used in zip(found, sizes, batch.image_sizes, strict=True):
            scale = [size[1] / used[1], size[0] / used[0]] * 2
            parts = (one["boxes"] * one["boxes"].new_tensor(scale), one["scores"], one["labels"], one["masks"][:, 0])
            results.append(tuple(part.cpu().numpy() for part in parts))
        return results


class TorchvisionSegmenter(SemanticSegmenter):
    """A semantic model of torchvision: DeepLab, FCN or LR-ASPP.

    Args:
        name: As for `TorchvisionDetector`.
        device: Where it computes.
    """

    def __init__(self, name: ModelName, device: torch.device | str = "cpu") -> None:
        state, names = _read_weights(name)
        count = _outputs_of(state) if state else 21
        names = names or _names_of(name, count, 21)
        if len(names) != count:
            raise InputError(f"{name}: has {count} outputs, but {len(names)} classes are named")
        auxiliary = any(key.startswith("aux_classifier") for key in state or ())
        options = {"num_classes": count, **({"aux_loss": True} if auxiliary else {})}
        self.model = _build(name, state, options)
        self.model.eval().to(device)
        self.device = torch.device(device)
        self.classes = ModelClasses.of(str(name), [each.strip("_") for each in names])
        self.domain = "" if state else "photographs of everyday scenes (COCO, classes of VOC)"

    @torch.inference_mode()
    def segment(self, images: Sequence[NDArray[np.uint8]]) -> list[NDArray[np.int64]]:
        """Return the class of each pixel; see `SemanticSegmenter`."""
        from torchvision.transforms.v2 import functional

        results = []
        for image in images:
            pixels = functional.resize(_as_tensor(image).to(self.device), [_SHORTER], antialias=True)
            logits = self.model(functional.normalize(pixels, list(_MEAN), list(_STD))[None])["out"][0]
            results.append(argmax_of_logits(logits, (image.shape[0], image.shape[1])))
        return results


def _as_tensor(image: NDArray[np.uint8]) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1).float() / 255


def _paste(found: tuple[NDArray[Any], ...], size: tuple[int, int]) -> Instances:
    boxes, scores, labels, masks = found
    pasted = [paste_mask(mask, box, size) for mask, box in zip(masks, boxes.astype(np.float64), strict=True)]
    kept = [n for n, (_, crop) in enumerate(pasted) if crop.any()]
    whole = np.array([pasted[n][0] for n in kept], dtype=np.int64).reshape(-1, 4)
    return Instances(
        MaskCrops(whole, [pasted[n][1] for n in kept], (int(size[0]), int(size[1]))),
        scores[kept].astype(np.float64),
        labels[kept].astype(np.int64),
        boxes[kept].astype(np.float32),
    )


def _read_weights(name: ModelName) -> tuple[dict[str, Tensor] | None, list[str] | None]:
    """Return the state dict of `@FILE`, or of a folder with one, and the names in the classes.json beside it."""
    if not name.after:
        return None, None
    path = Path(name.after).expanduser()
    if path.is_dir():
        files = [file for suffix in ("*.safetensors", "*.pth", "*.pt") for file in sorted(path.glob(suffix))]
        if not files:
            raise InputError(f"{name}: {path} holds no .safetensors, .pth or .pt file; save the state dict there")
        path = files[0]
    if not path.is_file():
        raise InputError(f"{name}: {path} does not exist; give a state dict as .safetensors or .pth")
    if path.suffix == ".safetensors":
        try:
            state = load_file(path)
        except Exception as error:  # a decoder may raise anything on bad data
            reason = first_line(error)
            raise InputError(f"{path}: is not a state dict ({reason}); save model.state_dict()") from None
    else:
        state = load_pickle(path)
    listing = path.with_name("classes.json")
    names = None
    if listing.is_file():
        names = read_json(listing)
        if not isinstance(names, list) or not all(isinstance(each, str) for each in names):
            raise InputError(f"{listing}: must be a list of names in the order of the outputs, not {abbreviate(names)}")
    return state, names


def _names_of(name: ModelName, count: int, usual: int) -> list[str]:
    """Return torchvision's names of the classes of its own weights."""
    from torchvision.models import get_model_weights

    weights = list(get_model_weights(name.name))
    if weights and count == usual:
        return list(weights[-1].meta["categories"])
    raise InputError(
        f"{name}: has {count} outputs whose names are not known; write a classes.json beside the weights, a list of "
        "names in their order"
    )


def _outputs_of(state: dict[str, Tensor]) -> int:
    key = next((key for key in ("classifier.4.bias", "classifier.low_classifier.bias") if key in state), None)
    return len(state[key]) if key else 21


def _build(name: ModelName, state: dict[str, Tensor] | None, options: dict[str, Any]) -> Any:
    from torchvision.models import get_model, get_model_weights

    if state is None:
        weights = get_model_weights(name.name).DEFAULT
        try:
            return get_model(name.name, weights=weights)
        except Exception as error:
            file = weights.url.rpartition("/")[2]
            folder = Path(torch.hub.get_dir()) / "checkpoints"
            raise InputError(
                f"{name}: the weights could not be downloaded ({first_line(error)}); where there is internet "
                f"fetch {weights.url} and copy it here as {folder / file}"
            ) from None
    model = get_model(name.name, weights=None, weights_backbone=None, **options)
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        lines = [line.strip() for line in str(error).splitlines()]
        first = (lines[1] if lines[1:] else lines[0]).partition(", ")[0]
        raise InputError(
            f"the weights are of another model ({first})", where=str(name), hint=f"save those of a {name.name}"
        ) from None
    return model

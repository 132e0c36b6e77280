"""Segmentation models of Ultralytics as detectors. The library and its weights are AGPL-3.0."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from banet.composed.classes import ModelClasses
from banet.composed.names import ModelName
from banet.composed.parts import Detector
from banet.errors import InputError, MissingExtraError, first_line
from banet.inference.postprocess import Instances
from banet.panoptic import MaskCrops
from banet.types import Size

__all__ = ["UltralyticsDetector"]


class UltralyticsDetector(Detector):
    """A segmentation model of Ultralytics; its masks stay at the size of the network's input until each is needed.

    Args:
        name: `ultralytics:FILE.pt`.
        trust: Whether its file may run code, as it does when it is loaded.
        device: Where it computes.

    Raises:
        InputError: The file may not run code, is not there, or is a model of another task.
        MissingExtraError: ultralytics is not installed.
    """

    threshold = 0.25

    def __init__(self, name: ModelName, *, trust: bool, device: torch.device | str = "cpu") -> None:
        self.name = str(name)
        file = name.name + (f"@{name.after}" if name.after else "")
        if not trust:  # whatever the suffix: Ultralytics strips the name, and compares it without case
            raise InputError(
                f"{name}: files of Ultralytics run code when they are loaded; add --trust if you know who made it"
            )
        os.environ.setdefault("YOLO_VERBOSE", "false")
        if Path(file).is_file():  # else it looks for updates and waits for a connection
            os.environ.setdefault("YOLO_OFFLINE", "true")
        try:
            library: Any = import_module("ultralytics")
        except ImportError:
            raise MissingExtraError("ultralytics", "ultralytics", where=self.name) from None
        for module in ("ultralytics.utils.events", "ultralytics.hub.utils"):  # of newer and of older versions
            with suppress(ImportError, AttributeError):
                import_module(module).events.enabled = False  # it would report what is predicted to its makers
        print("Ultralytics and its weights are licensed under AGPL-3.0 (or a licence bought from Ultralytics)")
        try:
            self.model: Any = library.YOLO(file, verbose=False)
        except Exception as error:  # it raises of all kinds
            reason = first_line(error)
            raise InputError(
                f"{name}: cannot be loaded ({reason}); give a .pt file that is there, such as one from "
                "github.com/ultralytics/assets"
            ) from None
        if self.model.task != "segment":
            raise InputError(
                f"{name}: is a model for {self.model.task}; needs instance segmentation, such as yolo11n-seg.pt"
            )
        self.device = torch.device(device)
        self.classes = ModelClasses.of(self.name, {int(n): str(c) for n, c in self.model.names.items()}, isthing=True)

    def detect(self, images: Sequence[NDArray[np.uint8]], threshold: float, most: int) -> list[Instances]:
        """Return the instances of each image; see `Detector`."""
        arrays = [np.ascontiguousarray(image[..., ::-1]) for image in images]  # it wants BGR
        results = []
        for image in arrays:  # in batches it pads images to one size, which changes them
            (found,) = self.model.predict(
                image, conf=threshold, max_det=most, device=str(self.device), verbose=False, retina_masks=False
            )
            results.append(_instances(found, (image.shape[0], image.shape[1])))
        return results


def _instances(found: Any, size: Size) -> Instances:
    count = 0 if found.masks is None else len(found.masks.data)
    boxes, crops, kept = [], [], []
    for n in range(count):
        mask = (found.masks.data[n] > 0.5).cpu().numpy()
        box, crop = _at_image_size(mask, found.boxes.xyxy[n].cpu().numpy(), size)
        if crop.any():
            boxes.append(box)
            crops.append(crop)
            kept.append(n)
    scores = np.zeros(0) if not count else found.boxes.conf.cpu().numpy()[kept]
    labels = np.zeros(0, np.int64) if not count else found.boxes.cls.cpu().numpy()[kept]
    order = np.argsort(-scores, kind="stable")
    whole = np.array(boxes, dtype=np.int64).reshape(-1, 4)[order]
    return Instances(
        MaskCrops(whole, [crops[n] for n in order.tolist()], size),
        scores[order].astype(np.float64),
        labels[order].astype(np.int64),
        whole.astype(np.float32),
    )


def _at_image_size(
    mask: NDArray[np.bool_], box: NDArray[np.float32], size: Size
) -> tuple[tuple[int, int, int, int], NDArray[np.bool_]]:
    """Return the part of a letterboxed mask (shrunk to fit, centred, padded) inside its box, at the image's size."""
    height, width = size
    gain = min(mask.shape[0] / height, mask.shape[1] / width)
    used = max(round(height * gain), 1), max(round(width * gain), 1)
    top, left = (round((side - part) / 2 - 0.1) for side, part in zip(mask.shape, used, strict=True))
    x1, y1 = (int(np.clip(np.floor(v), 0, most)) for v, most in zip(box[:2], (width, height), strict=True))
    x2, y2 = (int(np.clip(np.ceil(v), 0, most)) for v, most in zip(box[2:], (width, height), strict=True))
    if x2 <= x1 or y2 <= y1:
        return (x1, y1, x1, y1), np.zeros((0, 0), dtype=bool)
    part = Image.fromarray(mask[top : top + used[0], left : left + used[1]].astype(np.uint8) * 255)
    scale = part.width / width, part.height / height
    window = (x1 * scale[0], y1 * scale[1], x2 * scale[0], y2 * scale[1])
    enlarged = part.resize((x2 - x1, y2 - y1), Image.Resampling.BILINEAR, box=window)
    return (x1, y1, x2, y2), np.asarray(enlarged) >= 128

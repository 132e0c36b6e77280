"""What a pair is made of: detectors, which find instances, and segmenters, which give each pixel a class."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from banet.composed.classes import ModelClasses
from banet.composed.hf import HfModel, HfOutputs
from banet.composed.queries import Queries, mask_instances, strips
from banet.inference.postprocess import Instances, semantic_argmax
from banet.modeling.config import STRIDES
from banet.types import Size

__all__ = ["Detector", "HfDetector", "HfSegmenter", "SemanticSegmenter"]


class Detector(ABC):
    """Finds instances with masks, which may overlap.

    Attributes:
        classes: What it knows; all are things.
        threshold: Its library's own least score.
        domain: What images it was trained on, where that is known.
    """

    classes: ModelClasses
    threshold: float = 0.5
    domain: str = ""

    @abstractmethod
    def detect(self, images: Sequence[NDArray[np.uint8]], threshold: float, most: int) -> list[Instances]:
        """Return the instances of each image (H, W, 3) that score above a threshold, best first.

        Labels are indices of `classes`, and masks of the image's size.
        """


class SemanticSegmenter(ABC):
    """Gives each pixel a class.

    Attributes:
        classes: What it knows.
        domain: What images it was trained on, where that is known.
    """

    classes: ModelClasses
    domain: str = ""

    @abstractmethod
    def segment(self, images: Sequence[NDArray[np.uint8]]) -> list[NDArray[np.int64]]:
        """Return for each image (H, W, 3) the index of the class of each pixel, (H, W)."""


class HfSegmenter(SemanticSegmenter):
    """A semantic or universal model of transformers.

    Args:
        model: The model.
    """

    def __init__(self, model: HfModel) -> None:
        self.model = model
        self.classes = model.classes
        self.domain = model.domain

    @torch.inference_mode()
    def segment(self, images: Sequence[NDArray[np.uint8]]) -> list[NDArray[np.int64]]:
        """Return the class of each pixel; see `SemanticSegmenter`."""
        results = []
        for outputs, image in zip(self.model.run(images, "semantic"), images, strict=True):
            size = (image.shape[0], image.shape[1])
            if outputs.masks is not None:
                results.append(self._of_queries(outputs, size))
            else:
                results.append(argmax_of_logits(outputs.logits, size))
        return results

    def _of_queries(self, outputs: HfOutputs, size: Size) -> NDArray[np.int64]:
        """Return the best class where each query votes with its probabilities, as the library does."""
        assert outputs.masks is not None
        votes = outputs.logits.softmax(-1)[:, : len(self.classes.names)]
        stages = self.model.stages(outputs, size)
        count = len(outputs.masks)
        queries = Queries(outputs.masks, np.ones(count, np.float32), np.zeros(count, np.int64), stages)
        labels = np.empty(size, dtype=np.int64)
        for top, bottom in strips(size, max(count, len(self.classes.names))):
            part = queries.strip(top, bottom, size)
            labels[top:bottom] = torch.einsum("qc,qhw->chw", votes, part).argmax(0).cpu().numpy()
        return labels


class HfDetector(Detector):
    """An instance or universal model of transformers, of whose queries those of things count.

    Args:
        model: The model.
        isthing: By class of the model; those that are not are left out.
    """

    def __init__(self, model: HfModel, isthing: Sequence[bool]) -> None:
        self.model = model
        names = {n: name for n, (name, thing) in enumerate(zip(model.classes.names, isthing, strict=True)) if thing}
        self.classes = ModelClasses.of(model.name, names, isthing=True, count=len(isthing))
        self.threshold = model.threshold
        self.domain = model.domain
        self._isthing = np.array(isthing, dtype=bool)

    @torch.inference_mode()
    def detect(self, images: Sequence[NDArray[np.uint8]], threshold: float, most: int) -> list[Instances]:
        """Return the instances of each image; see `Detector`."""
        results = []
        for outputs, image in zip(self.model.run(images, "instance"), images, strict=True):
            size = (image.shape[0], image.shape[1])
            results.append(mask_instances(self._select(outputs, threshold, most, size), size, most))
        return results

    def _select(self, outputs: HfOutputs, threshold: float, most: int, size: Size) -> Queries:
        assert outputs.masks is not None
        if self.model.kind == "rf_detr":  # scores of all classes are independent, one query may have several
            scores = outputs.logits.sigmoid()
        else:
            scores = outputs.logits.softmax(-1)
            best = torch.zeros_like(scores).scatter_(1, scores.argmax(-1, keepdim=True), 1.0)
            scores = scores * best
        scores = scores[:, : len(self._isthing)].float() * torch.from_numpy(self._isthing).to(scores.device)
        values, places = scores.flatten().topk(min(max(most, len(scores)), scores.numel()))
        kept = values > threshold
        values, places = values[kept], places[kept]
        queries, labels = places // scores.shape[1], places % scores.shape[1]
        stages = self.model.stages(outputs, size)
        return Queries(outputs.masks[queries], values.cpu().numpy(), labels.cpu().numpy(), stages)


def argmax_of_logits(logits: torch.Tensor, size: Size) -> NDArray[np.int64]:
    """Return the best class of each pixel, (H, W), where logits (C, h, w) are enlarged bilinearly to `size`."""
    height, width = (STRIDES[0] * int(side) for side in logits.shape[-2:])  # as if they were at the network's stride
    return semantic_argmax(logits, (height, width), size)

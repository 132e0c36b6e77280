"""Panoptic models of transformers as predictors: DETR, MaskFormer, Mask2Former, OneFormer, EoMT and their kind."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from banet.composed.classes import ClassTable, ModelClasses, match_classes
from banet.composed.hf import HfModel, HfOutputs
from banet.composed.queries import Queries, mask_instances, resolve_queries
from banet.errors import InputError
from banet.inference.postprocess import Instances, UnfusedPrediction
from banet.inference.predictor import Predictor
from banet.modeling.config import InferenceConfig
from banet.panoptic.defaults import BEST_OVERLAP_THRESHOLD, BEST_RULE

__all__ = ["PanopticModel", "composed_options", "select_queries"]


def composed_options(threshold: float) -> InferenceConfig:
    """Return the options of a composed model: its library's threshold, the best rule for every overlap, all stuff."""
    return InferenceConfig(
        score_threshold=threshold,
        rule=BEST_RULE,
        overlap_threshold=BEST_OVERLAP_THRESHOLD,
        max_instances=500,
        stuff_area=0,
    )


def select_queries(
    model: HfModel, outputs: HfOutputs, index_of: NDArray[np.int64], threshold: float, size: tuple[int, int]
) -> Queries:
    """Return the queries of one image that score above a threshold and whose class is known.

    Args:
        model: Whose outputs they are.
        outputs: Of one image.
        index_of: Class index (`Categories`) of each of the model's classes, -1 for none.
        threshold: Least score, exclusive.
        size: (H, W) of the image.
    """
    scores, labels = outputs.logits.softmax(-1).max(-1)
    known = np.append(index_of, np.full(max(0, outputs.logits.shape[-1] - len(index_of)), -1))
    classes = known[labels.cpu().numpy()]
    values = scores.float().cpu().numpy()
    kept = np.flatnonzero((values > threshold) & (classes >= 0))
    assert outputs.masks is not None
    return Queries(
        masks=outputs.masks[torch.from_numpy(kept).to(outputs.masks.device)],
        scores=values[kept],
        labels=classes[kept],
        stages=model.stages(outputs, size),
        fill=model.fills,
        overlap=model.overlap,
    )


class PanopticModel(Predictor):
    """A panoptic model of transformers.

    Args:
        model: The model.
        table: The categories that its classes are matched with, by name.
        names: Names of its classes, where its files have none.
        domain: What images it was trained on.

    Raises:
        InputError: None of its classes is in the table.
    """

    def __init__(
        self, model: HfModel, table: ClassTable, names: ModelClasses | None = None, *, domain: str = ""
    ) -> None:
        if getattr(model.image_processor, "do_split_image", False):
            raise InputError(
                f"{model.name}: cuts images into windows for semantic segmentation; pair it with a detector: "
                f"torchvision:NAME+{model.name}"
            )
        self.model = model
        self.own_classes = names or model.classes
        self.domain = domain
        self.inference = composed_options(model.threshold)
        self.match(table)

    def match(self, table: ClassTable) -> None:
        """Match the classes of the model with another table; see `match_classes`."""
        self.table = table
        self.categories, (self._index_of,) = match_classes(table, self.own_classes)

    def predict_unfused(self, images: Sequence[NDArray[np.uint8]]) -> list[UnfusedPrediction]:
        """Run images (H, W, 3) through the network; see `Predictor`."""
        return [
            self._resolve(one, image) for one, image in zip(self.model.run(images, "panoptic"), images, strict=True)
        ]

    def predict_for_evaluation(self, images: Sequence[NDArray[np.uint8]]) -> list[tuple[UnfusedPrediction, Instances]]:
        """Run images; the instances for AP are the whole masks of all thing queries above `ap_score`."""
        results = []
        for one, image in zip(self.model.run(images, "panoptic"), images, strict=True):
            size = (image.shape[0], image.shape[1])
            things = np.where(self._index_of < self.categories.num_things, self._index_of, -1)
            more = select_queries(self.model, one, things, self.inference.ap_score, size)
            candidates = mask_instances(more, size, self.inference.ap_instances)
            results.append((self._resolve(one, image), candidates))
        return results

    def _resolve(self, outputs: HfOutputs, image: NDArray[np.uint8]) -> UnfusedPrediction:
        size, threshold = (image.shape[0], image.shape[1]), self.inference.score_threshold
        queries = select_queries(self.model, outputs, self._index_of, threshold, size)
        best_stuff = self.inference.thing_pixels == "best_stuff"
        return resolve_queries(queries, image, self.categories, best_stuff=best_stuff)

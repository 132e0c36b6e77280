"""AP_mask and mIoU of stuff, counted by well-kept libraries, and PQ over several processes."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from banet.data.samples import InstanceMask
from banet.errors import MissingExtraError
from banet.inference.postprocess import Instances
from banet.panoptic import PanopticQuality
from banet.panoptic.categories import VOID, Categories
from banet.panoptic.segmentation import PanopticSegmentation

try:
    from faster_coco_eval import COCO, COCOeval_faster
    from faster_coco_eval.core import mask as rle
    from torchmetrics import Metric
    from torchmetrics.classification import MulticlassConfusionMatrix
except ImportError:
    raise MissingExtraError("faster-coco-eval and torchmetrics", "train") from None

__all__ = ["MaskAP", "PanopticQualityMetric", "StuffIoU"]


class MaskAP:
    """COCO's AP of masks, IoU 0.5 to 0.95, over instances before occlusion handling; crowd is ignored.

    Args:
        categories: Only things take part.
        limit: Most instances of an image that count.
    """

    def __init__(self, categories: Categories, limit: int = 100) -> None:
        self.categories = categories
        self.limit = limit
        self.images: list[dict[str, Any]] = []
        self.truths: list[dict[str, Any]] = []
        self.results: list[dict[str, Any]] = []

    def update(
        self, instances: Instances, truth: PanopticSegmentation, overlapping: Sequence[InstanceMask] | None = None
    ) -> None:
        """Add one image.

        Args:
            instances: At its own size.
            truth: Its ground truth.
            overlapping: Things whose masks may overlap, to measure against in place of those of `truth`.
        """
        image_id = len(self.images) + 1
        height, width = truth.ids.shape
        self.images.append({"id": image_id, "width": width, "height": height})
        for category_id, mask, iscrowd in _things(truth, overlapping):
            code = rle.encode(np.asfortranarray(mask, dtype=np.uint8))
            self.truths.append(
                {
                    "id": len(self.truths) + 1,
                    "image_id": image_id,
                    "category_id": category_id,
                    "segmentation": code,
                    "area": int(rle.area(code)),
                    "bbox": rle.toBbox(code).tolist(),
                    "iscrowd": int(iscrowd),
                }
            )
        canvas = np.zeros((height, width), dtype=np.uint8, order="F")
        for box, crop, score, label in zip(
            instances.masks.boxes, instances.masks.crops, instances.scores, instances.labels, strict=True
        ):
            x1, y1, x2, y2 = (int(v) for v in box)
            canvas[y1:y2, x1:x2] = crop
            self.results.append(
                {
                    "image_id": image_id,
                    "category_id": int(self.categories.ids[label]),
                    "score": float(score),
                    "segmentation": rle.encode(canvas),
                }
            )
            canvas[y1:y2, x1:x2] = 0

    def merge(self, other: MaskAP) -> None:
        """Add the images of another one, which are none of these."""
        offset = len(self.images)
        self.images += [{**image, "id": image["id"] + offset} for image in other.images]
        self.results += [{**result, "image_id": result["image_id"] + offset} for result in other.results]
        for truth in other.truths:
            self.truths.append({**truth, "id": len(self.truths) + 1, "image_id": truth["image_id"] + offset})

    def compute(self) -> dict[str, float]:
        """`ap`, `ap50` and `ap75` in 0..1; NaN where no thing occurs."""
        if not any(not truth["iscrowd"] for truth in self.truths):
            return dict.fromkeys(("ap", "ap50", "ap75"), float("nan"))
        if not self.results:
            return dict.fromkeys(("ap", "ap50", "ap75"), 0.0)
        classes = [{"id": c.id, "name": c.name} for c in self.categories if c.isthing]
        with contextlib.redirect_stdout(io.StringIO()):
            truth = COCO({"images": self.images, "annotations": self.truths, "categories": classes})
            evaluation = COCOeval_faster(truth, truth.loadRes(self.results), iouType="segm")
            evaluation.params.maxDets = [1, 10, self.limit]
            evaluation.evaluate()
            evaluation.accumulate()
            evaluation.summarize()
        return {name: float(value) for name, value in zip(("ap", "ap50", "ap75"), evaluation.stats[:3], strict=True)}


def _things(
    truth: PanopticSegmentation, overlapping: Sequence[InstanceMask] | None
) -> Iterator[tuple[int, NDArray[np.bool_], bool]]:
    """Yield class, mask (H, W) and crowd flag of each thing to measure against."""
    if overlapping is None:
        things = (segment for segment in truth.segments if segment.isthing)
        yield from ((each.category_id, truth.ids == each.id, each.iscrowd) for each in things)
    else:
        size = (truth.ids.shape[0], truth.ids.shape[1])
        yield from ((each.category_id, each.crop.paste(size), each.iscrowd) for each in overlapping)


class PanopticQualityMetric(Metric):
    """`banet.panoptic.PanopticQuality` as a torchmetrics metric, whose counts are summed over processes.

    All states are int64, the sums of IoU as the bits of their float64: so they stay exact whatever precision the
    network is converted to, and can go to devices that know no double precision.

    Args:
        categories: Of predictions and truths.
        **options: Those of `torchmetrics.Metric`.
    """

    full_state_update = False
    higher_is_better = True
    is_differentiable = False

    def __init__(self, categories: Categories, **options: Any) -> None:
        super().__init__(**options)
        self.categories = categories
        for name, counts in PanopticQuality(categories).state.items():
            reduce = "sum" if counts.dtype == np.int64 else _sum_bits
            self.add_state(name, torch.from_numpy(counts.view(np.int64)), dist_reduce_fx=reduce)

    def update(self, prediction: PanopticSegmentation, truth: PanopticSegmentation) -> None:
        """Add one image; see `PanopticQuality.update`."""
        quality = self._quality()
        quality.update(prediction, truth)
        for name, counts in quality.state.items():
            setattr(self, name, torch.from_numpy(counts.view(np.int64)).to(self.device))

    def compute(self) -> dict[str, Any]:
        """Return what `PanopticQuality.compute` gives, over all processes."""
        return self._quality().compute()

    def _quality(self) -> PanopticQuality:
        quality = PanopticQuality(self.categories)
        quality.state = {
            name: getattr(self, name).cpu().numpy().view(counts.dtype) for name, counts in quality.state.items()
        }
        return quality


def _sum_bits(bits: torch.Tensor) -> torch.Tensor:
    """(N, C) int64 that hold float64, one row per process, to their sum (C,), held likewise."""
    return bits.cpu().view(torch.float64).sum(0).view(torch.int64).to(bits.device)


class StuffIoU:
    """mIoU^St: intersection over union of the final logits' argmax before fusion, averaged over stuff classes.

    The confusion matrix covers all classes and the whole data set; pixels that are void in the truth are ignored, and
    those that are void in the prediction count as missed.

    Args:
        categories: Things and stuff.
    """

    def __init__(self, categories: Categories) -> None:
        self.categories = categories
        self.matrix = MulticlassConfusionMatrix(len(categories) + 1, ignore_index=VOID)  # the last is predicted void

    def update(self, semantic: NDArray[np.int64], truth: PanopticSegmentation) -> None:
        """Add one image: (H, W) class indices, `VOID` for none, and its ground truth."""
        found = torch.from_numpy(np.where(semantic == VOID, len(self.categories), semantic))
        self.matrix.update(found, torch.from_numpy(self.categories.indices_of(truth.semantic)))

    def merge(self, other: StuffIoU) -> None:
        """Add another one's counts."""
        self.matrix.confmat += other.matrix.confmat

    def compute(self) -> float:
        """Mean over the stuff classes that occur in the truth, 0..1; NaN where none does."""
        counts = self.matrix.confmat.double().numpy()
        both = np.diag(counts)
        rows = np.arange(len(counts)) >= self.categories.num_things
        occurs = rows & (counts.sum(1) > 0)
        if not occurs.any():
            return float("nan")
        return float((both[occurs] / (counts.sum(0) + counts.sum(1) - both)[occurs]).mean())

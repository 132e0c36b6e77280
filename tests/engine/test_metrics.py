"""AP of masks and mIoU of stuff by hand; PQ as a torchmetrics metric: the same figures, over pickles and processes."""

from __future__ import annotations

import math
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from factories import line, segmentation

from banet.data.scenes.generate import SCENE_CATEGORIES
from banet.engine.evaluation.evaluate import zip_stem
from banet.engine.evaluation.evaluation_data import scene_data
from banet.engine.evaluation.metrics import MaskAP, PanopticQualityMetric, StuffIoU
from banet.inference.postprocess import Instances
from banet.panoptic import Categories, Category, MaskCrops, PanopticQuality, PanopticSegmentation
from banet.panoptic.metrics.quality import to_json

PICTURES = scene_data(21, 4, 64)


def pair(index: int) -> tuple[PanopticSegmentation, PanopticSegmentation]:
    """A truth, and it moved by a few pixels as the prediction."""
    truth = PICTURES[index].ground_truth
    ids = np.roll(truth.ids, 3 + index, axis=1)
    segments = [{"id": s.id, "category_id": s.category_id} for s in truth.segments]
    return PanopticSegmentation.from_ids(ids, segments, SCENE_CATEGORIES), truth


def expected() -> dict[str, object]:
    quality = PanopticQuality(SCENE_CATEGORIES)
    for index in range(4):
        quality.update(*pair(index))
    return to_json(quality.compute())


def test_it_is_the_numpy_one_and_survives_a_pickle() -> None:
    metric = PanopticQualityMetric(SCENE_CATEGORIES)
    for index in range(4):
        metric.update(*pair(index))
        metric = pickle.loads(pickle.dumps(metric))
    assert to_json(metric.compute()) == expected()
    assert 0 < metric.compute()["All"]["pq"] < 1
    metric.reset()
    assert metric.compute()["All"]["n"] == 0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_it_stays_exact_in_a_network_of_low_precision(dtype: torch.dtype) -> None:
    network = torch.nn.ModuleDict({"quality": PanopticQualityMetric(SCENE_CATEGORIES)})
    for index in range(4):
        network["quality"](*pair(index))  # `forward` counts the image too
        network.to(dtype).half()
    assert to_json(network["quality"].compute()) == expected()
    assert all(state.dtype == torch.int64 for state in network["quality"].metric_state.values())


def _count(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    metric = PanopticQualityMetric(SCENE_CATEGORIES)
    for index in range(rank, 4, 2):
        metric.update(*pair(index))
    (Path(folder) / f"{rank}.pickle").write_bytes(pickle.dumps(to_json(metric.compute())))
    dist.destroy_process_group()


def test_two_processes_count_each_image_once(tmp_path: Path) -> None:
    mp.start_processes(_count, args=(str(tmp_path),), nprocs=2, start_method="forkserver")
    for rank in (0, 1):
        assert pickle.loads((tmp_path / f"{rank}.pickle").read_bytes()) == expected()


# --- AP of masks, mIoU of stuff ---------------------------------------------------------------------------------------

A, B, SKY, SEA = 3, 8, 5, 2
CATEGORIES = Categories(
    [Category(A, "a", True), Category(B, "b", True), Category(SKY, "sky", False), Category(SEA, "sea", False)]
)
HALF = 51 / 101  # AP where half of the truths are found without false alarm: 101 recalls, of which 0 to 0.5 are reached


def truth_of(
    stretches: list[tuple[int, int]], classes: dict[int, int], crowd: tuple[int, ...] = ()
) -> PanopticSegmentation:
    """A map of ten rows whose columns are (columns, id) from left to right."""
    return segmentation(np.tile(line(*stretches), (10, 1)), classes, crowd, CATEGORIES)


def instances_of(width: int, *found: tuple[int, int, int, float]) -> Instances:
    """Instances (first column, end column, category id, score) over all ten rows."""
    masks = np.zeros((len(found), 10, width), dtype=bool)
    for mask, (x1, x2, _, _) in zip(masks, found, strict=True):
        mask[:, x1:x2] = True
    crops = MaskCrops.from_masks(masks)
    labels = CATEGORIES.indices_of([category for _, _, category, _ in found])
    scores = np.array([score for *_, score in found], dtype=np.float64)
    return Instances(crops, scores, labels, crops.boxes.astype(np.float32))


def ap(instances: Instances, truth: PanopticSegmentation) -> tuple[float, ...]:
    metric = MaskAP(CATEGORIES)
    metric.update(instances, truth)
    result = metric.compute()
    return result["ap"], result["ap50"], result["ap75"]


def test_ap_counted_by_hand() -> None:
    truth = truth_of([(50, 1), (50, 2), (20, 7)], {1: A, 2: A, 7: SKY})
    # 39 of 50 columns: IoU 0.78 passes six of the ten limits 0.5, 0.55 .. 0.95.
    assert ap(instances_of(120, (0, 39, A, 0.9)), truth) == pytest.approx((0.6 * HALF, HALF, HALF), abs=1e-12)
    # A false alarm with a higher score halves the precision there; one with a lower score costs nothing.
    assert ap(instances_of(120, (0, 50, A, 0.5), (100, 120, A, 0.9)), truth)[1] == pytest.approx(HALF / 2, abs=1e-12)
    assert ap(instances_of(120, (0, 50, A, 0.9), (100, 120, A, 0.5)), truth)[1] == pytest.approx(HALF, abs=1e-12)
    # Another class, or stuff of that shape, is not found.
    assert ap(instances_of(120, (0, 50, B, 0.9)), truth) == (0, 0, 0)


def test_ap_takes_masks_that_overlap() -> None:
    truth = truth_of([(50, 1), (50, 2)], {1: A, 2: A})
    both = instances_of(100, (0, 60, A, 0.9), (40, 100, A, 0.8))  # IoU 50 / 60 each, though 20 columns are shared
    assert ap(both, truth) == pytest.approx((0.7, 1, 1), abs=1e-12)


def test_ap_averages_over_classes_with_truth_and_ignores_crowd() -> None:
    truth = truth_of([(50, 1), (50, 2), (50, 3)], {1: A, 2: A, 3: B}, crowd=(2,))
    found = instances_of(150, (0, 50, A, 0.5), (60, 80, A, 0.9), (100, 150, B, 0.9))
    assert ap(found, truth) == pytest.approx((1, 1, 1), abs=1e-12)
    assert ap(instances_of(150, (0, 50, A, 0.5)), truth) == pytest.approx((0.5, 0.5, 0.5), abs=1e-12)


def test_ap_of_nothing() -> None:
    truth = truth_of([(50, 1), (50, 7)], {1: A, 7: SKY})
    assert ap(instances_of(100), truth) == (0, 0, 0)
    for nothing in (truth_of([(100, 7)], {7: SKY}), truth_of([(100, 1)], {1: A}, crowd=(1,))):
        assert all(math.isnan(value) for value in ap(instances_of(100, (0, 9, A, 0.9)), nothing))


def test_stuff_iou_counted_by_hand() -> None:
    truth = truth_of([(6, 7), (2, 1), (2, 0)], {7: SKY, 1: A})
    row = [SKY] * 4 + [A] + [SEA] + [SKY] + [A] + [SKY] * 2
    metric = StuffIoU(CATEGORIES)
    metric.update(CATEGORIES.indices_of(np.tile(np.array(row), (10, 1))), truth)
    # Sky: 4 columns hit, 2 missed, 1 too many (on the thing); its columns on void do not count, nor does the sea.
    assert metric.compute() == pytest.approx(4 / 7, abs=1e-12)
    metric.update(CATEGORIES.indices_of(np.full((10, 4), SKY)), truth_of([(4, 2)], {2: SEA}))
    assert metric.compute() == pytest.approx((4 / 11 + 0 / 5) / 2, abs=1e-12)  # over the data set, not by image


def test_stuff_iou_is_nan_without_stuff() -> None:
    metric = StuffIoU(CATEGORIES)
    assert math.isnan(metric.compute())
    metric.update(CATEGORIES.indices_of(np.full((10, 4), SKY)), truth_of([(4, 1)], {1: A}))
    assert math.isnan(metric.compute())


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("annotations/panoptic_val2017.json", "val2017"),
        ("/data/cells/panoptic.json", "cells"),
        ("mine.json", "mine"),
        ("coco_r50_1x, validation split", "coco_r50_1x-validation-split"),
        ("/panoptic.json", "data"),
    ],
)
def test_the_zip_is_named_after_the_data(source: str, name: str) -> None:
    assert zip_stem(source) == f"panoptic_{name}_BANet_results"

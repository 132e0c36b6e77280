"""PQ as a torchmetrics metric: the same figures, over pickles and over processes."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from banet.data.scenes import SCENE_CATEGORIES
from banet.engine.metrics import PanopticQualityMetric
from banet.engine.pictures import scene_pictures
from banet.panoptic import PanopticQuality, PanopticSegmentation
from banet.panoptic.quality import to_json

PICTURES = scene_pictures(21, 4, 64)


def pair(index: int) -> tuple[PanopticSegmentation, PanopticSegmentation]:
    """A truth, and it moved by a few pixels as the prediction."""
    truth = PICTURES[index].truth
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
    metric.half()
    assert to_json(metric.compute()) == expected()
    assert 0 < metric.compute()["All"]["pq"] < 1
    metric.reset()
    assert metric.compute()["All"]["n"] == 0


def _count(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    metric = PanopticQualityMetric(SCENE_CATEGORIES)
    for index in range(rank, 4, 2):
        metric.update(*pair(index))
    (Path(folder) / f"{rank}.pickle").write_bytes(pickle.dumps(to_json(metric.compute())))
    dist.destroy_process_group()


def test_two_processes_count_each_image_once(tmp_path: Path) -> None:
    mp.spawn(_count, args=(str(tmp_path),), nprocs=2)
    for rank in (0, 1):
        assert pickle.loads((tmp_path / f"{rank}.pickle").read_bytes()) == expected()

"""Panoptic results of other libraries become ours, and ours theirs: there and back."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from banet.panoptic import Categories, PanopticSegmentation
from banet.panoptic.id_maps import ids_to_rgb


@pytest.fixture
def result() -> PanopticSegmentation:
    ids = np.array([[0, 1, 1, 4], [2, 2, 1, 4], [4, 4, 4, 4]], dtype=np.int32)
    segments = [
        {"id": 1, "category_id": 7, "score": 0.9},
        {"id": 2, "category_id": 7, "score": 0.8},
        {"id": 4, "category_id": 3},
    ]
    classes = Categories.of([{"id": 7, "name": "cat", "isthing": 1}, {"id": 3, "name": "sky", "isthing": 0}])
    return PanopticSegmentation.from_ids(ids, segments, classes)


def same(one: PanopticSegmentation, other: PanopticSegmentation) -> None:
    np.testing.assert_array_equal(one.semantic, other.semantic)
    mapping = {(a, b) for a, b in zip(one.ids.ravel().tolist(), other.ids.ravel().tolist(), strict=True)}
    assert len(mapping) == len({a for a, _ in mapping}) == len({b for _, b in mapping})
    assert sorted(s.area for s in one.segments) == sorted(s.area for s in other.segments)


def test_transformers(result: PanopticSegmentation) -> None:
    theirs = result.to_hf()
    same(PanopticSegmentation.from_hf(theirs, result.categories), result)
    from_zero = {"segmentation": torch.from_numpy(theirs["segmentation"]) - 1}  # as EoMT counts: -1 is void
    from_zero["segments_info"] = [{**info, "id": info["id"] - 1} for info in theirs["segments_info"]]
    again = PanopticSegmentation.from_hf(from_zero, result.categories)
    same(again, result)
    assert [s.score for s in again.segments][:2] == [0.9, 0.8]
    fused = {**theirs, "segments_info": [*theirs["segments_info"], {**theirs["segments_info"][-1], "score": 0.1}]}
    same(PanopticSegmentation.from_hf(fused, result.categories), result)
    with pytest.raises(ValueError, match=r"map \(H, W\)"):
        PanopticSegmentation.from_hf({"segmentation": np.zeros((2, 3, 4)), "segments_info": []}, result.categories)


def detectron2_metadata(thing: dict[int, int], stuff: dict[int, int], **more: int) -> SimpleNamespace:
    return SimpleNamespace(thing_dataset_id_to_contiguous_id=thing, stuff_dataset_id_to_contiguous_id=stuff, **more)


SEPARATE = detectron2_metadata({5: 0, 7: 1}, {0: 0, 3: 1})
"""As of Panoptic FPN: things and stuff are numbered apart, and the stuff class 0 is all things."""
TOGETHER = detectron2_metadata({5: 1, 7: 2}, {3: 0}, label_divisor=10)
"""As of Mask2Former: things and stuff are numbered together, in the order of their ids."""


@pytest.mark.parametrize(("metadata", "thing", "stuff"), [(SEPARATE, 1, 1), (TOGETHER, 2, 0), (vars(TOGETHER), 2, 0)])
def test_detectron2(result: PanopticSegmentation, metadata: Any, thing: int, stuff: int) -> None:
    infos = [
        {"id": 1, "isthing": True, "score": 0.9, "category_id": thing, "instance_id": 0},
        {"id": 2, "isthing": True, "score": 0.8, "category_id": thing, "instance_id": 1},
        {"id": 4, "isthing": False, "category_id": stuff, "area": 6},
    ]
    theirs = torch.from_numpy(result.ids), infos
    same(PanopticSegmentation.from_detectron2(theirs, result.categories, metadata=metadata), result)
    with pytest.raises(ValueError, match=r"pass metadata=.* with thing_dataset_id_to_contiguous_id"):
        PanopticSegmentation.from_detectron2(theirs, result.categories)
    wrong = result.ids, [{**infos[0], "category_id": 5}]
    with pytest.raises(ValueError, match="unknown category id 5"):
        PanopticSegmentation.from_detectron2(wrong, result.categories, metadata=metadata)


def test_detectron2_without_numbers_of_its_own(result: PanopticSegmentation) -> None:
    infos = [{"id": s.id, "category_id": s.category_id} for s in result.segments]
    same(PanopticSegmentation.from_detectron2((result.ids, infos), result.categories), result)
    infos[0]["category_id"] = 9
    with pytest.raises(ValueError, match="unknown category id 9"):
        PanopticSegmentation.from_detectron2((result.ids, infos), result.categories)


def test_detectron2_classes_in_the_map(result: PanopticSegmentation) -> None:
    coded = np.array([-1, 21, 22, -1, 0])[result.ids]  # two things of the class 2, stuff of the class 0
    theirs = torch.from_numpy(coded), None
    same(PanopticSegmentation.from_detectron2(theirs, result.categories, metadata=TOGETHER), result)
    for metadata in (None, SEPARATE):
        with pytest.raises(ValueError, match=r"pass metadata=.* with label_divisor"):
            PanopticSegmentation.from_detectron2(theirs, result.categories, metadata=metadata)


def test_coco(result: PanopticSegmentation, tmp_path: Path) -> None:
    annotation = result.to_coco(1, "a.png")
    same(PanopticSegmentation.from_coco(result.ids, annotation, result.categories), result)
    same(PanopticSegmentation.from_coco(ids_to_rgb(result.ids), annotation, result.categories), result)


def test_supervision(result: PanopticSegmentation) -> None:
    supervision = pytest.importorskip("supervision")
    theirs = result.to_supervision()
    same(PanopticSegmentation.from_supervision(theirs, result.categories), result)
    masks = np.ones((2, 3, 4), dtype=bool)
    overlapping = supervision.Detections(
        xyxy=np.array([[0, 0, 4, 3.0]] * 2), mask=masks, confidence=np.array([0.9, 0.8]), class_id=np.array([7, 7])
    )
    with pytest.raises(ValueError, match="use make_disjoint first"):
        PanopticSegmentation.from_supervision(overlapping, result.categories)

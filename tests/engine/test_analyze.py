"""Rows of Table 4: what the truth is fed into, and that it helps where it must."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from test_train import TINY

from banet.data.scenes import SCENE_CATEGORIES
from banet.engine.analyze import ROWS, Oracle, _choose, _Truth, analyze, analyze_command, ceiling, format_rows
from banet.engine.pictures import scene_pictures
from banet.engine.recipe import SplitConfig
from banet.errors import InputError
from banet.modeling.banet import BANet
from banet.modeling.build import build_model
from banet.modeling.config import InferenceConfig
from banet.modeling.readout import network_input
from banet.panoptic import PanopticQuality

PICTURES = scene_pictures(11, 3, 96)


@pytest.fixture(scope="module")
def model() -> BANet:
    torch.manual_seed(0)
    limits = InferenceConfig(shorter=120, longer=160, score=0.092, instances=20, stuff_area=8, proposals=50)
    model = build_model(SCENE_CATEGORIES, TINY.model, limits).eval()
    assert model.mask_head.masks.bias is not None
    with torch.no_grad():
        model.mask_head.masks.bias += 100  # masks fill their boxes, so that boxes alone tell right from wrong
    return model


def things(result: dict[str, dict[str, dict[str, float]]], row: str) -> float:
    return result[row]["Things"]["pq"]


def test_truth_goes_where_the_row_says(model: BANet) -> None:
    results = analyze(model, PICTURES)
    assert set(results) == {*ROWS, "ceiling"}
    assert results["GT Seg"]["Stuff"]["pq"] > results["none"]["Stuff"]["pq"] + 0.2
    assert things(results, "GT Seg") == things(results, "none") == pytest.approx(things(results, "GT Occ"), abs=0.5)
    assert things(results, "GT Box + ICA") > things(results, "none")
    text = format_rows(results)
    assert "74.8" in text and "ceiling" in text and text.count("\n") == len(ROWS) + 1


@torch.inference_mode()
def test_true_boxes_are_neither_moved_nor_suppressed(model: BANet) -> None:
    picture = PICTURES[2]
    truth = _Truth.of(picture.truth)
    output = model([network_input(model, picture.image)])
    changed = _choose(model, output, truth, Oracle(boxes=True, classes=True), (96, 96))
    found = changed.detections[0]
    np.testing.assert_allclose(found.boxes.numpy(), truth.boxes * 120 / 96, rtol=1e-5)
    assert (found.scores == 1).all()
    assert model.categories.ids[found.labels.numpy()].tolist() == truth.labels.tolist()
    # Without the classes, class and score come from the box head, and the threshold applies.
    only = _choose(model, output, truth, Oracle(boxes=True), (96, 96)).detections[0]
    assert len(only.scores) <= len(truth.ids) and (only.scores > model.inference.score).all()
    assert not torch.equal(changed.logits, output.logits)  # the instances reach the semantic logits


@torch.inference_mode()
def test_classes_alone_go_to_the_boxes_that_match(model: BANet) -> None:
    picture = PICTURES[2]
    truth = _Truth.of(picture.truth)
    output = model([network_input(model, picture.image)])
    found = output.detections[0]
    boxes = found.boxes.clone()
    boxes[0] = torch.as_tensor(truth.boxes[-1] * 120 / 96)
    moved = replace(output, detections=[replace(found, boxes=boxes)])
    changed = _choose(model, moved, truth, Oracle(classes=True), (96, 96)).detections[0]
    assert torch.equal(changed.boxes, boxes)
    assert model.categories.ids[changed.labels[0]] == truth.labels[-1] and changed.scores[0] == 1
    kept = changed.scores != 1
    assert torch.equal(changed.scores[kept], found.scores[kept]) and torch.equal(
        changed.labels[kept], found.labels[kept]
    )


def test_a_perfect_network_loses_only_what_the_limits_take(model: BANet) -> None:
    def measured(**limits: float) -> float:
        quality, before = PanopticQuality(model.categories), model.inference
        model.inference = replace(before, **limits)  # type: ignore[arg-type]
        try:
            for index in range(3):
                quality.update(ceiling(model, PICTURES[index]), PICTURES[index].truth)
        finally:
            model.inference = before
        return float(quality.compute()["All"]["pq"])

    assert measured(stuff_area=0, nms=1.0, instances=100) == 1
    assert measured(stuff_area=96 * 96, nms=1.0) < 0.9
    assert measured(stuff_area=0, nms=1.0, instances=1) < 0.9


def test_command_writes_the_rows(model: BANet, tmp_path: Path) -> None:
    from banet.data.scenes import write_coco

    write_coco(tmp_path / "data", seed=4, count=2, size=(96, 96))
    data = tmp_path / "data"
    weights = model.save_pretrained(tmp_path / "weights")
    split = SplitConfig(str(data / "images"), str(data / "panoptic"), str(data / "panoptic.json"))
    analyze_command(str(weights), recipe=None, split=split, out=tmp_path / "out", limit=1, device="cpu")
    assert set(json.loads((tmp_path / "out" / "analysis.json").read_text())) == {*ROWS, "ceiling"}
    with pytest.raises(InputError, match="--config"):
        analyze_command(str(weights), recipe=None, split=None, out=None, limit=1, device="cpu")

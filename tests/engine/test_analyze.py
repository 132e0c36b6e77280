"""Rows of Table 4: what the truth is fed into, and that it helps where it must."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from factories import TINY
from numpy.typing import NDArray
from PIL import Image

from banet.data.scenes.generate import SCENE_CATEGORIES
from banet.engine.evaluation.evaluation_data import scene_data
from banet.engine.recipe import SplitConfig
from banet.engine.studies.analyze import (
    ROWS,
    Oracle,
    _choose,
    _fuse,
    _Truth,
    analyze,
    analyze_command,
    ceiling,
    format_rows,
)
from banet.engine.studies.figure import Figure
from banet.errors import InputError
from banet.inference.banet import BANet
from banet.inference.postprocess import Instances, UnfusedPrediction
from banet.inference.predictor import Predictor
from banet.inference.preprocess import preprocess
from banet.modeling.config import InferenceConfig, RuleName
from banet.panoptic import MaskCrops, PanopticQuality, PanopticSegmentation
from banet.panoptic.categories import Categories

PICTURES = scene_data(11, 3, 96)
THING = SCENE_CATEGORIES[0].id
RED = (200, 10, 10)


@pytest.fixture(scope="module")
def model() -> BANet:
    torch.manual_seed(0)
    limits = InferenceConfig(
        shorter=120, longer=160, score_threshold=0.092, max_instances=20, stuff_area=8, proposals=50
    )
    model = BANet(SCENE_CATEGORIES, TINY.model, limits).eval()
    assert model.mask_head.masks.bias is not None
    with torch.no_grad():
        model.mask_head.masks.bias += 100  # masks fill their boxes, so that boxes alone tell right from wrong
    return model


class Mistaken(Predictor):
    """Finds every thing whole, under one class for all, and one stuff class everywhere."""

    categories = SCENE_CATEGORIES
    inference = InferenceConfig(stuff_area=0)

    def predict_unfused(self, images: Sequence[NDArray[np.uint8]]) -> list[UnfusedPrediction]:
        (image,) = images
        (truth,) = (each.ground_truth for each in PICTURES if np.array_equal(each.image, image))
        found = [segment for segment in truth.segments if segment.isthing]
        x, y, width, height = np.array([segment.bbox for segment in found], dtype=np.float32).reshape(-1, 4).T
        instances = Instances(
            MaskCrops.from_masks(truth.ids == np.array([segment.id for segment in found]).reshape(-1, 1, 1)),
            np.linspace(0.7, 0.9, len(found)),
            np.zeros(len(found), dtype=np.int64),
            np.stack([x, y, x + width, y + height], axis=1),
        )
        stuff = np.full(image.shape[:2], self.categories.num_things, dtype=np.int64)
        return [UnfusedPrediction(image, instances, stuff)]


def test_rows_without_true_boxes_of_any_predictor() -> None:
    result = analyze(Mistaken(), PICTURES)
    assert list(result) == ["none", "GT Occ", "GT ICA", "GT Seg"]
    assert things(result, "GT Seg") == things(result, "none") < things(result, "GT ICA") == 1
    assert result["GT Seg"]["Stuff"]["pq"] == 1 > result["none"]["Stuff"]["pq"]
    assert "ceiling" not in format_rows(result)


def things(result: dict[str, dict[str, dict[str, float]]], row: str) -> float:
    return result[row]["Things"]["pq"]


def test_truth_goes_where_the_row_says(model: BANet) -> None:
    results = analyze(model, PICTURES)
    assert set(results) == {*ROWS, "ceiling"}
    assert results["GT Seg"]["Stuff"]["pq"] > results["none"]["Stuff"]["pq"] + 0.2
    assert things(results, "GT Seg") == things(results, "none") == pytest.approx(things(results, "GT Occ"), abs=0.5)
    assert things(results, "GT Box + ICA") > things(results, "none")


def test_table_tells_what_a_row_is_worth_and_the_papers_figures() -> None:
    def result(pq: float, stuff: float) -> dict[str, dict[str, float]]:
        return {"All": {"pq": pq}, "Things": {"pq": pq}, "Stuff": {"pq": stuff}}

    text = format_rows(
        {
            "none": result(0.5, math.nan),
            "GT Occ": result(0.6, math.nan),
            "GT Seg": result(0.4999, 0),
            "ceiling": result(0.4, 1),
        }
    )
    lines = [line.split() for line in text.splitlines()[2:]]
    assert lines[0] == ["none", "50.0", "50.0", "-", "-", "-", "-", "43.0", "50.5", "31.8"]
    assert lines[1] == ["GT", "Occ", "60.0", "60.0", "-", "+10.0", "+10.0", "-", "44.6", "53.2", "31.8"]
    assert lines[2][2:8] == ["50.0", "50.0", "0.0", "+0.0", "+0.0", "-"]
    assert lines[3] == ["ceiling", "40.0", "40.0", "100.0", "-10.0", "-10.0", "-", "-", "-", "-"]


def test_rows_are_each_oracle_alone_and_the_papers_combinations() -> None:
    oracles = {name: oracle for name, (oracle, _) in ROWS.items()}
    alone = [Oracle(), Oracle(boxes=True), Oracle(classes=True), Oracle(order=True), Oracle(segmentation=True)]
    combined = [Oracle(boxes=True, classes=True), Oracle(boxes=True, classes=True, order=True)]
    assert all(oracle in oracles.values() for oracle in alone + combined)
    papers = {name: figures for name, (_, figures) in ROWS.items() if figures}
    assert papers == {
        "none": (43.0, 50.5, 31.8),
        "GT Occ": (44.6, 53.2, 31.8),
        "GT Box": (47.1, 56.6, 32.8),
        "GT Box + ICA": (58.4, 74.8, 33.5),
        "GT Box + ICA + Occ": (59.3, 76.3, 33.5),
        "GT Seg": (60.8, 50.5, 76.4),
    }
    assert oracles["GT Box + ICA"] == combined[0] and oracles["GT Box + ICA + Occ"] == combined[1]


def overlapping(
    truth: PanopticSegmentation, colour: tuple[int, int, int], found: list[tuple[int, ...]]
) -> UnfusedPrediction:
    """Boxes found on an image that is red left of column 6 and of `colour` elsewhere; the second scores higher."""
    image = np.full((*truth.ids.shape, 3), colour, dtype=np.uint8)
    image[:, :6] = RED
    boxes = np.array(found)
    masks = MaskCrops(boxes, [np.ones((y2 - y1, x2 - x1), dtype=bool) for x1, y1, x2, y2 in found], truth.ids.shape)
    labels = SCENE_CATEGORIES.indices_of([THING, THING])
    instances = Instances(masks, np.array([0.7, 0.9]), labels, boxes.astype(np.float32))
    return UnfusedPrediction(image, instances, np.full(truth.ids.shape, len(SCENE_CATEGORIES) - 1))


@pytest.mark.parametrize("rule", ["appearance", "heuristic", "score"])
def test_true_order_decides_matched_pairs_and_the_papers_rule_all_others(model: BANet, rule: RuleName) -> None:
    # The left one owns the overlap, columns 4 and 5, in the truth and by its colour; the right one by its score.
    ids = np.zeros((8, 12), dtype=np.int32)
    ids[:, :6], ids[:, 6:10] = 1, 2
    truth = PanopticSegmentation.from_ids(ids, [{"id": k, "category_id": THING} for k in (1, 2)], SCENE_CATEGORIES)
    saved = replace(model.inference, rule=rule, stuff_area=0)
    network = SimpleNamespace(categories=SCENE_CATEGORIES, inference=saved)

    def wins_left(unfused: UnfusedPrediction, oracle: Oracle) -> bool:
        result = _fuse(network, unfused, truth, oracle)  # type: ignore[arg-type]
        owner = next(s for s in result.segments if s.id == result.ids[4, 5])
        return owner.score == 0.7

    boxes = [(0, 0, 6, 8), (4, 0, 10, 8)]
    by_colour = overlapping(truth, (10, 10, 200), boxes)
    assert wins_left(by_colour, Oracle()) and wins_left(by_colour, Oracle(order=True))
    against = overlapping(truth, RED, boxes)  # one colour: a tie, so the score decides
    assert not wins_left(against, Oracle()) and wins_left(against, Oracle(order=True))
    # Moved away from the truth the pair is unmatched, and goes as if nothing were known.
    unmatched = overlapping(truth, RED, [(0, 0, 6, 8), (4, 0, 7, 8)])
    assert not wins_left(unmatched, Oracle(order=True))


@torch.inference_mode()
def test_true_segmentation_replaces_the_argmax_only(model: BANet) -> None:
    picture = PICTURES[2]
    (unfused,) = model.predict_unfused([picture.image])
    changed = _fuse(model, unfused, picture.ground_truth, Oracle(segmentation=True))
    plain = unfused.fuse(model.categories, model.inference, rule="appearance")
    owned = np.isin(plain.ids, [s.id for s in plain.segments if s.isthing])
    assert np.array_equal(changed.ids[owned], plain.ids[owned])
    semantic, truth = changed.semantic[~owned], picture.ground_truth.semantic[~owned]
    stuff = np.isin(truth, [c.id for c in SCENE_CATEGORIES if not c.isthing])
    assert owned.any() and stuff.any()
    large = {s.category_id for s in changed.segments}
    assert all(s == t or t not in large for s, t in zip(semantic[stuff], truth[stuff], strict=True))
    assert (semantic[~stuff] == -1).all()  # a thing of the truth that no instance owns is void


@torch.inference_mode()
def test_true_boxes_are_neither_moved_nor_suppressed(model: BANet) -> None:
    picture = PICTURES[2]
    truth = _Truth.of(picture.ground_truth)
    output = model([preprocess(picture.image, model.inference)])
    changed = _choose(model, output, truth, Oracle(boxes=True, classes=True), (96, 96))
    found = changed.detections[0]
    np.testing.assert_allclose(found.boxes.numpy(), truth.boxes * 120 / 96, rtol=1e-5)
    assert (found.scores == 1).all()
    assert model.categories.ids[found.labels.numpy()].tolist() == truth.labels.tolist()
    # Without the classes, class and score come from the box head, and the threshold applies.
    only = _choose(model, output, truth, Oracle(boxes=True), (96, 96)).detections[0]
    assert len(only.scores) <= len(truth.ids) and (only.scores > model.inference.score_threshold).all()
    assert not torch.equal(changed.logits, output.logits)  # the instances reach the semantic logits


@torch.inference_mode()
def test_classes_alone_go_to_the_boxes_that_match(model: BANet) -> None:
    picture = PICTURES[2]
    truth = _Truth.of(picture.ground_truth)
    output = model([preprocess(picture.image, model.inference)])
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
                quality.update(ceiling(model, PICTURES[index]), PICTURES[index].ground_truth)
        finally:
            model.inference = before
        return float(quality.compute()["All"]["pq"])

    assert measured(stuff_area=0, nms_threshold=1.0, max_instances=100) == 1
    assert measured(stuff_area=96 * 96, nms_threshold=1.0) < 0.9
    assert measured(stuff_area=0, nms_threshold=1.0, max_instances=1) < 0.9


def test_command_writes_the_rows(model: BANet, tmp_path: Path) -> None:
    from banet.data.scenes.generate import write_coco

    write_coco(tmp_path / "data", seed=4, count=2, size=(96, 96))
    data = tmp_path / "data"
    weights = model.save_pretrained(tmp_path / "weights")
    split = SplitConfig(str(data / "images"), str(data / "panoptic"), str(data / "panoptic.json"))
    analyze_command(str(weights), recipe=None, split=split, out=tmp_path / "out", limit=1, device="cpu")
    assert set(json.loads((tmp_path / "out" / "analysis.json").read_text())) == {*ROWS, "ceiling"}
    with pytest.raises(InputError, match="--config"):
        analyze_command(str(weights), recipe=None, split=None, out=None, limit=1, device="cpu")


# ------------------------------------------------------------------------------------------------------------ figure


@pytest.fixture(scope="module")
def baseline() -> BANet:
    torch.manual_seed(1)
    plain = replace(TINY.model, sim=False, ocm=False, s2i=False)
    limits = InferenceConfig(
        shorter=120, longer=160, score_threshold=0.09, max_instances=20, stuff_area=8, proposals=50
    )
    return BANet(SCENE_CATEGORIES, plain, limits).eval()


def test_figure_has_the_papers_columns_and_an_image_a_row(model: BANet, baseline: BANet) -> None:
    figure = Figure(baseline, model, PICTURES)
    assert figure.titles == ("image", "baseline", "+ S2I and I2S", "+ OH", "truth")
    one, two = figure.draw([0]), figure.draw([0, 2], "note")
    assert one.width == two.width and two.height > one.height + 96
    # The image stands in the first column as it is, in the middle of it.
    pixels = np.asarray(one)
    top = next(y for y in range(one.height) if (pixels[y : y + 96, 60:156] == PICTURES[0].image).all())
    assert top > 0
    # The last column is the truth, drawn in the colours of the weights.
    drawn = np.asarray(replace(PICTURES[0].ground_truth, categories=model.categories).draw(PICTURES[0].image))
    assert (pixels[top : top + 96, 60 + 4 * 208 : 156 + 4 * 208] == drawn).all()


def test_wide_images_are_scaled_to_their_column(model: BANet, baseline: BANet, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = Figure(baseline, model, PICTURES).draw([0])
    monkeypatch.setattr("banet.engine.studies.figure.WIDEST", 48)
    half = Figure(baseline, model, PICTURES).draw([0])
    assert (half.width, half.height) == (5 * 56 + 8, whole.height - 48)


def test_columns_are_the_networks_under_their_fusions(model: BANet, baseline: BANet) -> None:
    first, second, third = Figure(baseline, model, PICTURES).results(PICTURES[2])
    for result, network, rule in (
        (first, baseline, "heuristic"),
        (second, model, "heuristic"),
        (third, model, "appearance"),
    ):
        assert np.array_equal(result.ids, network.predict(PICTURES[2].image, rule=rule).ids)


def test_images_are_those_where_both_steps_change_most(
    model: BANet, baseline: BANet, monkeypatch: pytest.MonkeyPatch
) -> None:
    figure = Figure(baseline, model, scene_data(11, 4, 96))
    steps = [(0.5, 0.9, 0.9), (0.5, 0.4, 0.6), (0.5, 0.5, 0.5), (0.5, 0.8, 0.75)]
    said = iter([pq for image in steps for pq in image])
    monkeypatch.setattr("banet.engine.studies.figure._pq", lambda result, truth: next(said))
    assert figure.choose(3) == [1, 3, 0]
    said = iter([pq for image in steps for pq in image])
    assert figure.choose(3, limit=1) == [0]


def test_images_by_id(model: BANet, baseline: BANet) -> None:
    figure = Figure(baseline, model, PICTURES, "scenes")
    ids = [PICTURES[2].image_id, PICTURES[0].image_id]
    assert figure.find(ids) == [2, 0]
    with pytest.raises(InputError, match="--image-ids: 77: scenes has no image"):
        figure.find([77])


def test_ids_that_are_texts(model: BANet, baseline: BANet, monkeypatch: pytest.MonkeyPatch) -> None:
    figure = Figure(baseline, model, PICTURES, "scenes")
    monkeypatch.setattr(type(PICTURES.dataset), "image_ids", ["5", "a b", 5, "007", 7])
    assert figure.find([5, "5", "a b", "007", 7]) == [2, 0, 1, 3, 4]
    with pytest.raises(InputError, match="--image-ids: 70: scenes has no image"):
        figure.find([70])


def test_command_draws_with_the_baseline_of_the_study(model: BANet, baseline: BANet, tmp_path: Path) -> None:
    recipe = replace(TINY, data=replace(TINY.data, val_scenes=2, scene_size=96))
    weights = model.save_pretrained(tmp_path / "study" / "sim_ocm_s2i" / "seed3")

    def draw(**options: Any) -> None:
        options = {"figure": tmp_path / "new" / "figure.png", **options}
        analyze_command(str(weights), recipe=recipe, split=None, out=None, limit=1, device="cpu", **options)

    with pytest.raises(InputError, match="--baseline"):
        draw()
    baseline.save_pretrained(tmp_path / "study" / "baseline" / "seed3")
    draw()
    with Image.open(tmp_path / "new" / "figure.png") as shown:
        assert shown.format == "PNG" and shown.width > 5 * 96
    with pytest.raises(InputError, match="nowhere"):
        draw(baseline=str(tmp_path / "nowhere"))
    with pytest.raises(InputError, match="no image of that id"):
        draw(image_ids=(999,))
    with pytest.raises(InputError, match=r"\.png"):
        draw(figure=tmp_path / "figure.jpg")


def test_figure_refuses_weights_of_other_classes(model: BANet) -> None:
    other = BANet(Categories(SCENE_CATEGORIES[k] for k in range(3)), TINY.model)
    with pytest.raises(InputError, match="weights of --baseline: categories"):
        Figure(other, model, PICTURES)

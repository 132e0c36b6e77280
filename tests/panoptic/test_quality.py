from __future__ import annotations

import json
import math
import os
import pickle
import subprocess
import sys
import weakref
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import reference_quality as reference
from factories import line
from hypothesis import given, settings
from hypothesis import strategies as st
from quality_maps import CATEGORIES, SKY, A, B, image_pairs, segmentation

from banet.errors import InputError
from banet.panoptic.categories import Categories, Category
from banet.panoptic.coco.annotations import PanopticJson
from banet.panoptic.coco.png import read_ids, write_ids
from banet.panoptic.coco.writer import CocoPanopticWriter
from banet.panoptic.metrics import overlaps, quality
from banet.panoptic.metrics.quality import PanopticQuality, compare_table, format_table, score_folders, to_json
from banet.panoptic.segmentation import PanopticSegmentation


def score(prediction, truth):
    counts = PanopticQuality(CATEGORIES)
    counts.update(prediction, truth)
    return counts.compute()


def counted(result, category):
    row = result["per_class"][category]
    return row["tp"], row["fp"], row["fn"]


# --- each clause of the definition, counted by hand -------------------------------------------------------------------


def test_the_same_map_scores_one():
    truth = segmentation([[0, 1, 1], [2, 3, 3]], {1: A, 2: A, 3: SKY})
    result = score(truth, truth)
    assert result["All"] == {"pq": 1.0, "sq": 1.0, "rq": 1.0, "n": 2}
    assert result["Things"] == {"pq": 1.0, "sq": 1.0, "rq": 1.0, "n": 1}
    assert counted(result, A) == (2, 0, 0)
    assert counted(result, SKY) == (1, 0, 0)


def test_an_iou_of_one_half_is_no_match():
    truth = segmentation(line((4, 1), (4, 2)), {1: A, 2: SKY})
    result = score(segmentation(line((2, 5), (6, 6)), {5: A, 6: SKY}), truth)
    assert counted(result, A) == (0, 1, 1)  # 2 / 4
    assert counted(result, SKY) == (1, 0, 0)  # 4 / 6
    assert result["per_class"][SKY]["iou"] == pytest.approx(4 / 6, abs=1e-15)
    assert result["All"]["pq"] == pytest.approx((0 + 4 / 6) / 2, abs=1e-15)
    assert result["All"]["sq"] == pytest.approx((0 + 4 / 6) / 2, abs=1e-15)
    assert result["All"]["rq"] == 0.5


def test_the_union_leaves_out_the_predictions_pixels_on_void():
    truth = segmentation(line((10, 1), (10, 0)), {1: A})
    result = score(segmentation(line((4, 0), (16, 9)), {9: A}), truth)
    # 6 in common; union 10 + 16 - 6 = 20, of which 10 lie on void.
    assert result["per_class"][A]["iou"] == pytest.approx(0.6, abs=1e-15)
    assert counted(result, A) == (1, 0, 0)


def test_the_truths_pixels_on_predicted_void_stay_in_the_union():
    truth = segmentation(line((10, 1), (1, 0)), {1: A})
    result = score(segmentation(line((6, 9), (5, 0)), {9: A}), truth)
    assert result["per_class"][A]["iou"] == pytest.approx(0.6, abs=1e-15)
    result = score(segmentation(line((5, 9), (6, 0)), {9: A}), truth)
    assert counted(result, A) == (0, 1, 1)


def test_another_category_is_a_miss_and_a_false_alarm():
    truth = segmentation(line((4, 1)), {1: A})
    result = score(segmentation(line((4, 1)), {1: B}), truth)
    assert counted(result, A) == (0, 0, 1)
    assert counted(result, B) == (0, 1, 0)
    assert result["All"] == {"pq": 0.0, "sq": 0.0, "rq": 0.0, "n": 2}
    assert math.isnan(result["Stuff"]["pq"]) and result["Stuff"]["n"] == 0


@pytest.mark.parametrize(("on_void", "false_alarms"), [(5, 1), (6, 0)])
def test_more_than_half_on_void_is_no_false_alarm(on_void, false_alarms):
    truth = segmentation(line((on_void, 0), (100, 1)), {1: SKY})
    prediction = segmentation(line((10, 2), (90 + on_void, 3)), {2: A, 3: SKY})
    assert counted(score(prediction, truth), A) == (0, false_alarms, 0)


@pytest.mark.parametrize(("on_crowd", "false_alarms"), [(2, 1), (3, 0)])
def test_void_and_crowd_of_the_category_count_together(on_crowd, false_alarms):
    truth = segmentation(line((3, 0), (on_crowd, 4), (50, 1)), {4: A, 1: SKY}, crowd=[4])
    prediction = segmentation(line((10, 2), (43 + on_crowd, 3)), {2: A, 3: SKY})
    assert counted(score(prediction, truth), A) == (0, false_alarms, 0)


def test_crowd_of_another_category_does_not_excuse():
    truth = segmentation(line((10, 4), (50, 1)), {4: B, 1: SKY}, crowd=[4])
    prediction = segmentation(line((10, 2), (50, 3)), {2: A, 3: SKY})
    result = score(prediction, truth)
    assert counted(result, A) == (0, 1, 0)
    assert counted(result, B) == (0, 0, 0)


def test_crowd_is_neither_matched_nor_missed():
    truth = segmentation(line((10, 4)), {4: A}, crowd=[4])
    assert counted(score(segmentation(line((10, 2)), {2: A}), truth), A) == (0, 0, 0)
    assert counted(score(segmentation(line((10, 0)), {}), truth), A) == (0, 0, 0)
    assert math.isnan(score(segmentation(line((10, 2)), {2: A}), truth)["All"]["pq"])


@pytest.mark.parametrize(("order", "false_alarms"), [([4, 5], 1), ([5, 4], 0)])
def test_only_the_last_crowd_segment_of_a_category_counts(order, false_alarms):
    truth = segmentation(line((6, 4), (4, 5)), dict.fromkeys(order, A), crowd=[4, 5])
    prediction = segmentation(line((10, 2)), {2: A})
    assert counted(score(prediction, truth), A) == (0, false_alarms, 0)


def test_crowd_on_the_prediction_means_nothing():
    truth = segmentation(line((4, 1)), {1: A})
    assert counted(score(segmentation(line((4, 1)), {1: A}, crowd=[1]), truth), A) == (1, 0, 0)


def test_areas_come_from_the_map():
    truth = segmentation(line((10, 1), (10, 2)), {1: A, 2: SKY})
    prediction = segmentation(line((8, 1), (12, 2)), {1: A, 2: SKY})
    lying = PanopticSegmentation(
        prediction.ids,
        [type(s)(s.id, s.category_id, s.isthing, s.score, 1, (0, 0, 1, 1)) for s in prediction.segments],
        CATEGORIES,
    )
    assert to_json(score(lying, truth)) == to_json(score(prediction, truth))
    assert score(lying, truth)["per_class"][A]["iou"] == pytest.approx(0.8, abs=1e-15)


def test_nothing_at_all_gives_nan():
    result = PanopticQuality(CATEGORIES).compute()
    for key in ("All", "Things", "Stuff"):
        assert result[key]["n"] == 0 and math.isnan(result[key]["pq"])
    assert math.isnan(result["per_class"][A]["pq"])
    assert PanopticQuality([]).compute()["All"]["n"] == 0
    empty = segmentation([[0, 0]], {})
    assert score(empty, empty)["All"]["n"] == 0


def test_formula_over_two_images():
    truth = segmentation(line((10, 1), (10, 2)), {1: A, 2: A})
    counts = PanopticQuality(CATEGORIES)
    counts.update(segmentation(line((8, 1), (2, 0), (10, 0)), {1: A}), truth)  # tp 0.8, fn 1
    counts.update(segmentation(line((10, 1), (3, 2), (7, 0)), {1: A, 2: A}), truth)  # tp 1.0, fp 1, fn 1
    row = counts.compute()["per_class"][A]
    assert (row["tp"], row["fp"], row["fn"]) == (2, 1, 2)
    assert row["sq"] == pytest.approx(0.9, abs=1e-15)
    assert row["rq"] == pytest.approx(2 / 3.5, abs=1e-15)
    assert row["pq"] == pytest.approx(1.8 / 3.5, abs=1e-15)


# --- against the slow reference ---------------------------------------------------------------------------------------


def agree(result, total):
    groups = {"All": CATEGORIES.ids, "Things": [A, B], "Stuff": [SKY]}
    for key, ids in groups.items():
        *expected, n = reference.averages(total, [int(i) for i in ids])
        assert result[key]["n"] == n
        for name, value in zip(("pq", "sq", "rq"), expected, strict=True):
            if value is None:
                assert math.isnan(result[key][name])
            else:
                assert result[key][name] == pytest.approx(float(value), abs=1e-12)
    for category in (A, B, SKY):
        ious, false_alarms, misses = total.get(category, [[], 0, 0])
        assert counted(result, category) == (len(ious), false_alarms, misses)
        assert result["per_class"][category]["iou"] == pytest.approx(float(sum(ious)), abs=1e-12)


@settings(max_examples=300, deadline=None)
@given(st.lists(image_pairs(), min_size=1, max_size=3), st.sampled_from([0, 1 << 22]))
def test_equals_the_slow_reference(pairs, dense_limit):
    whole, halves = PanopticQuality(CATEGORIES), [PanopticQuality(CATEGORIES), PanopticQuality(CATEGORIES)]
    total = {}
    before = overlaps._DENSE_LIMIT
    overlaps._DENSE_LIMIT = dense_limit  # 0: the way for maps of very many segments
    try:
        for k, (pred_rows, pred_classes, true_rows, true_classes, crowd) in enumerate(pairs):
            prediction = segmentation(pred_rows, pred_classes)
            truth = segmentation(true_rows, true_classes, crowd)
            whole.update(prediction, truth)
            halves[k % 2].update(prediction, truth)
            counts = reference.count_image(
                pred_rows,
                list(pred_classes.items()),
                true_rows,
                [(i, c, i in crowd) for i, c in true_classes.items()],
            )
            reference.add(total, counts)
    finally:
        overlaps._DENSE_LIMIT = before
    agree(whole.compute(), total)
    agree(halves[0].merge(halves[1]).compute(), total)


@pytest.mark.parametrize("seed", range(4))
def test_equals_the_slow_reference_on_larger_maps(seed):
    rng = np.random.default_rng(seed)
    size = (40, 50)
    truth = np.kron(rng.integers(0, 6, (4, 5)), np.ones((10, 10), dtype=int))
    prediction = np.roll(truth, (seed % 2, 1), (0, 1))
    noise = rng.random(size) < 0.05
    prediction[noise] = rng.integers(0, 7, noise.sum())
    true_classes = {int(i): int(rng.choice(CATEGORIES.ids)) for i in np.unique(truth) if i}
    pred_classes = {int(i): true_classes.get(int(i), A) for i in np.unique(prediction) if i}
    crowd = {int(i) for i in true_classes if rng.random() < 0.3}
    counts = reference.count_image(
        prediction.tolist(),
        list(pred_classes.items()),
        truth.tolist(),
        [(i, c, i in crowd) for i, c in true_classes.items()],
    )
    assert any(entry[0] for entry in counts.values())
    agree(score(segmentation(prediction, pred_classes), segmentation(truth, true_classes, crowd)), counts)


# --- the object -------------------------------------------------------------------------------------------------------


def test_update_says_what_was_matched():
    truth = segmentation(line((4, 1), (4, 2), (4, 3)), {1: A, 2: B, 3: SKY})
    found = PanopticQuality(CATEGORIES).update(segmentation(line((5, 9), (7, 8)), {8: SKY, 9: A}), truth)
    assert (found.ground_truth.tolist(), found.prediction.tolist()) == ([0, 2], [1, 0])
    assert found.iou.tolist() == [4 / 5, 4 / 7]
    assert found.regions.tolist() == [[0, 1], [2, 0]]
    assert found.false_negatives.tolist() == [1] and found.false_positives.tolist() == []
    assert found.ground_truth_areas.tolist() == [4, 4, 4] and found.prediction_areas.tolist() == [7, 5]


def test_state_merge_pickle_reset():
    truth = segmentation(line((4, 1), (4, 2)), {1: A, 2: SKY})
    counts = PanopticQuality(CATEGORIES)
    counts.update(truth, truth)
    again = PanopticQuality(CATEGORIES)
    again.state = counts.state
    assert to_json(again.compute()) == to_json(counts.compute())
    assert to_json(pickle.loads(pickle.dumps(counts)).compute()) == to_json(counts.compute())
    assert again.merge(counts).compute()["per_class"][A]["tp"] == 2
    assert counts.compute()["per_class"][A]["tp"] == 1
    counts.state["tp"][:] = 99  # a copy
    assert counts.compute()["per_class"][A]["tp"] == 1
    counts.reset()
    assert counts.compute()["All"]["n"] == 0
    with pytest.raises(ValueError, match="shape"):
        counts.state = {"iou": [0.0], "tp": [0], "fp": [0], "fn": [0]}
    with pytest.raises(ValueError, match="different categories"):
        counts.merge(PanopticQuality([Category(1, "x", True)]))


def test_update_checks():
    truth = segmentation(line((4, 1)), {1: A})
    counts = PanopticQuality(CATEGORIES)
    with pytest.raises(ValueError, match="prediction is 3x1, truth 4x1"):
        counts.update(segmentation(line((3, 1)), {1: A}), truth)
    stranger = Categories([Category(9, "x", True)])
    with pytest.raises(ValueError, match="prediction: segment 1 has the unknown category id 9"):
        counts.update(segmentation(line((4, 1)), {1: 9}, categories=stranger), truth)
    prediction = segmentation(line((2, 1), (2, 2)), {1: A, 2: A})
    prediction.segments.pop()
    with pytest.raises(ValueError, match="prediction: ids in the map without a segment: 2"):
        counts.update(prediction, truth)
    prediction = segmentation(line((2, 1), (2, 2)), {1: A, 2: A})
    prediction.ids[:] = 2
    with pytest.raises(ValueError, match="truth: segments without a pixel in the map: 1"):
        counts.update(truth, prediction)
    assert counts.compute()["All"]["n"] == 0  # a refused image leaves no trace


# --- folders ----------------------------------------------------------------------------------------------------------


def write(folder: Path, images):
    with CocoPanopticWriter(folder / "png", folder / "panoptic.json", CATEGORIES) as writer:
        for image_id, result in images.items():
            writer.add(image_id, f"{image_id:03}.jpg", result)
    return folder / "panoptic.json", folder / "png"


@pytest.fixture
def folders(tmp_path):
    rng = np.random.default_rng(0)
    truth, predictions = {}, {}
    for image_id in (3, 5, 8, 11, 20, 21, 22):
        blocks = np.kron(rng.integers(0, 4, (3, 3)), np.ones((7, 5), dtype=int)) * 70_001
        classes = {int(i): int(rng.choice(CATEGORIES.ids)) for i in np.unique(blocks) if i}
        truth[image_id] = segmentation(blocks, classes, crowd=[70_001])
        moved = np.roll(blocks, 1, axis=1)
        predictions[image_id] = segmentation(moved, classes)
    return truth, predictions, *write(tmp_path / "gt", truth), *write(tmp_path / "pred", predictions)


@pytest.mark.parametrize("workers", [1, 2, 9])
def test_folders_equal_updates(folders, workers):
    truth, predictions, *paths = folders
    counts = PanopticQuality(CATEGORIES)
    for image_id in truth:
        counts.update(predictions[image_id], truth[image_id])
    calls = []
    result = score_folders(*paths, workers=workers, progress=lambda done, total: calls.append((done, total)))
    assert to_json(result) == to_json(counts.compute())
    assert 0 < result["All"]["pq"] < 1
    assert calls == [(k, 7) for k in range(1, 8)]


@pytest.mark.parametrize("workers", [1, 3])
def test_few_maps_are_held_at_a_time_however_many_images(tmp_path, monkeypatch, workers):
    image = segmentation(line((4, 1), (4, 2)), {1: A, 2: SKY})
    paths = (*write(tmp_path, dict.fromkeys(range(60), image)),) * 2
    held, most = set(), 0

    def read(path):
        ids = read_ids(path)
        held.add(id(ids))
        weakref.finalize(ids, held.discard, id(ids))
        return ids

    def show(done, total):
        nonlocal most
        most = max(most, len(held))

    monkeypatch.setattr(quality, "read_ids", read)
    score_folders(*paths, workers=workers, progress=show)
    assert 1 <= most <= 6 * workers + 4


@pytest.mark.parametrize(("workers", "threads"), [(2, 2), (64, 4)])
def test_more_than_four_threads_are_never_started(folders, monkeypatch, workers, threads):
    started = []

    def pool(count):
        started.append(count)
        return ThreadPoolExecutor(count)

    monkeypatch.setattr(quality, "ThreadPoolExecutor", pool)
    score_folders(*folders[2:], workers=workers)
    assert started == [threads]


def edit(path, change):
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def test_predictions_need_annotations_only_and_may_be_in_any_order(folders):
    _, _, gt_json, gt_dir, pred_json, pred_dir = folders
    expected = to_json(score_folders(gt_json, gt_dir, pred_json, pred_dir))

    def change(content):
        del content["images"], content["categories"]
        content["annotations"].reverse()
        content["annotations"].append({"image_id": 999, "file_name": "none.png", "segments_info": []})
        for annotation in content["annotations"]:
            for info in annotation["segments_info"]:
                del info["iscrowd"], info["bbox"]
                info["area"] = 10**6  # not believed

    edit(pred_json, change)
    assert to_json(score_folders(gt_json, gt_dir, pred_json, pred_dir)) == expected


def test_ids_of_images_may_be_texts(folders):
    _, _, gt_json, gt_dir, pred_json, pred_dir = folders
    expected = to_json(score_folders(gt_json, gt_dir, pred_json, pred_dir))

    def change(content):
        for image in content["images"]:
            image["id"] = f"frankfurt_000000_{image['id']:06}"
        for annotation in content["annotations"]:
            annotation["image_id"] = f"frankfurt_000000_{annotation['image_id']:06}"

    for path in (gt_json, pred_json):
        edit(path, change)
    assert to_json(score_folders(gt_json, gt_dir, pred_json, pred_dir)) == expected


def test_folder_errors_are_one_line(folders, tmp_path):
    _, _, gt_json, gt_dir, pred_json, pred_dir = folders

    def fails(match, **changes):
        arguments = {"gt_json": gt_json, "gt_dir": gt_dir, "pred_json": pred_json, "pred_dir": pred_dir, **changes}
        for workers in (1, 3):
            with pytest.raises(InputError, match=match) as caught:
                score_folders(**arguments, workers=workers)
            assert "\n" not in str(caught.value)

    fails("does not exist", pred_json=tmp_path / "nothing.json")
    fails("is not a folder", pred_dir=tmp_path / "nothing")
    fails(r"003\.png: does not exist", pred_dir=tmp_path)

    with pytest.raises(ValueError, match="workers must be at least 1, not 0"):
        score_folders(gt_json, gt_dir, pred_json, pred_dir, workers=0)

    original = pred_json.read_text()
    edit(pred_json, lambda content: content["annotations"].pop(1))
    edit(pred_json, lambda content: content["annotations"].pop(-1))
    fails("no prediction for image 5, 22; add one")
    pred_json.write_text(original)

    edit(pred_json, lambda content: content["annotations"][2]["segments_info"][0].update(category_id=99))
    fails(r"annotations\[2\]\.segments_info\[0\]\.category_id: 99 is unknown")
    pred_json.write_text(original)

    edit(pred_json, lambda content: content["annotations"][2]["segments_info"].append({"id": 5, "category_id": A}))
    fails(r"008\.png \(image 8\): segments without a pixel in the map: 5; make the PNG")
    pred_json.write_text(original)

    removed = json.loads(original)["annotations"][2]["segments_info"][0]["id"]
    edit(pred_json, lambda content: content["annotations"][2]["segments_info"].pop(0))
    fails(rf"008\.png \(image 8\): ids in the map without a segment: {removed}")
    pred_json.write_text(original)

    gt_original = gt_json.read_text()
    edit(gt_json, lambda content: content["annotations"][0]["segments_info"].pop(0))
    fails(r"gt.*003\.png \(image 3\): ids in the map without a segment")
    gt_json.write_text(gt_original)

    write_ids(pred_dir / "021.png", np.zeros((4, 4), dtype=int))
    edit(pred_json, lambda content: content["annotations"][5].update(segments_info=[]))
    fails(r"021\.png.* is 4x4, but .*021\.png.* is 15x21")


def test_json_form():
    truth = segmentation(line((4, 1)), {1: A})
    form = json.loads(json.dumps(to_json(score(truth, truth)), allow_nan=False))
    assert form["All"] == {"pq": 1.0, "sq": 1.0, "rq": 1.0, "n": 1}
    assert form["Stuff"] == {"pq": None, "sq": None, "rq": None, "n": 0}
    assert form["per_class"]["1"]["tp"] == 1
    assert form["per_class"]["40"]["pq"] is None


def test_table():
    truth = segmentation(line((10, 1), (10, 2)), {1: A, 2: A})
    prediction = segmentation(line((8, 1), (2, 0), (10, 0)), {1: A})
    lines = format_table(score(prediction, truth), CATEGORIES).splitlines()
    assert [row.split() for row in lines] == [
        ["PQ", "SQ", "RQ", "n"],
        ["All", "53.3", "80.0", "66.7", "1"],
        ["Things", "53.3", "80.0", "66.7", "1"],
        ["Stuff", "-", "-", "-", "0"],
    ]
    more = format_table(to_json(score(prediction, truth)), CATEGORIES, per_class=True).splitlines()
    assert more[:4] == lines
    assert more[-1].split() == ["a", "53.3", "80.0", "66.7", "1", "0", "1"]


DATA = os.environ.get("BANET_TEST_DATA")


@pytest.mark.skipif(not DATA or not Path(DATA, "coco_panoptic").is_dir(), reason="BANET_TEST_DATA is not set")
def test_real_truth_against_itself_is_perfect():
    root = Path(str(DATA), "coco_panoptic")
    paths = (root / "panoptic.json", root / "panoptic")
    result = score_folders(*paths, *paths, workers=2)
    assert result["All"]["n"] > 20
    for key in ("All", "Things", "Stuff"):
        assert [result[key][name] for name in ("pq", "sq", "rq")] == [1.0, 1.0, 1.0]
    for row in result["per_class"].values():
        assert row["pq"] == 1.0 if row["tp"] else math.isnan(row["pq"])
        assert row["fp"] == row["fn"] == 0


@pytest.mark.skipif(not DATA or not Path(DATA, "coco_panoptic").is_dir(), reason="BANET_TEST_DATA is not set")
def test_real_truth_disturbed_equals_the_slow_reference(tmp_path):
    """Full maps, from disk: segments moved, lost, merged, split, of a wrong class, void and crowd in the truth."""
    root = Path(str(DATA), "coco_panoptic")
    content = PanopticJson.read(root / "panoptic.json")
    rng, total, crowds = np.random.default_rng(0), {}, 0
    with (
        CocoPanopticWriter(tmp_path / "true", tmp_path / "true.json", content.categories) as truths,
        CocoPanopticWriter(tmp_path / "pred", tmp_path / "pred.json", content.categories) as predictions,
    ):
        for image_id, annotation in content.annotations.items():
            whole = PanopticSegmentation.from_annotation(annotation, root / "panoptic", content.categories)
            crowd = {s.id: s.iscrowd or rng.random() < 0.1 for s in whole.segments}
            classes = {s.id: s.category_id for s in whole.segments}
            crowds += sum(crowd.values())
            truth = segmentation(whole.ids, classes, [i for i, yes in crowd.items() if yes], content.categories)

            ids = np.roll(whole.ids, rng.integers(-9, 10, 2), (0, 1))
            numbers = sorted(classes)
            for number in numbers:
                fate = rng.random()
                if fate < 0.1:
                    ids[ids == number] = 0
                elif fate < 0.2:
                    classes[number] = int(rng.choice(content.categories.ids))
                elif fate < 0.3:
                    ids[ids == number] = rng.choice(numbers)
                elif fate < 0.4:
                    half = ids[:, ::2]
                    half[half == number] = number % 1000 + 1000
                    classes[number % 1000 + 1000] = classes[number]
            present = [int(i) for i in np.unique(ids) if i]
            prediction = segmentation(ids, {i: classes[i] for i in present}, categories=content.categories)
            truths.add(image_id, annotation.file_name, truth)
            predictions.add(image_id, annotation.file_name, prediction)
            reference.add(
                total,
                reference.count_image(
                    ids.tolist(),
                    [(i, classes[i]) for i in present],
                    truth.ids.tolist(),
                    [(s.id, s.category_id, s.iscrowd) for s in truth.segments],
                ),
            )
    assert crowds >= 10
    result = score_folders(tmp_path / "true.json", tmp_path / "true", tmp_path / "pred.json", tmp_path / "pred")
    things = {c.id for c in content.categories if c.isthing}
    for key, ids in (
        ("All", content.categories.ids),
        ("Things", things),
        ("Stuff", set(content.categories.ids) - things),
    ):
        *expected, n = reference.averages(total, [int(i) for i in ids])
        assert result[key]["n"] == n > 20
        assert [result[key][k] for k in ("pq", "sq", "rq")] == pytest.approx([float(v) for v in expected], abs=1e-12)
    for category, (ious, false_alarms, misses) in total.items():
        assert counted(result, category) == (len(ious), false_alarms, misses)
        assert result["per_class"][category]["iou"] == pytest.approx(float(sum(ious)), abs=1e-12)


def test_a_table_of_results_tells_what_each_gains_over_the_first():
    def result(all_, things, stuff):
        return {group: {"pq": pq} for group, pq in (("All", all_), ("Things", things), ("Stuff", stuff))}

    table = compare_table({"one": result(0.5, 0.25, math.nan), "longer": result(0.512, 0.24, math.nan)})
    assert table.splitlines() == [
        "              PQ      Δ   PQ^Th      Δ   PQ^St      Δ",
        "one         50.0           25.0              -",
        "longer      51.2   +1.2    24.0   -1.0       -      -",
    ]


def test_neither_pillow_nor_the_drawing_of_results_is_loaded_for_the_score():
    code = (
        "import sys, banet.panoptic.metrics.quality;"
        "sys.exit(any(m in sys.modules for m in ('PIL', 'banet.panoptic.segmentation', 'torch')))"
    )
    assert subprocess.run([sys.executable, "-c", code], timeout=300).returncode == 0

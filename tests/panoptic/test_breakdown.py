"""What PQ is made of: counted by hand, against slow references, and always adding up to the whole."""

from __future__ import annotations

import json
import math
import pickle
from collections import Counter

import numpy as np
import pytest
import reference_quality as reference
from factories import line
from hypothesis import given, settings
from hypothesis import strategies as st
from quality_maps import CATEGORIES, SKY, A, B, image_pairs, segmentation

from banet.data.scenes.generate import make_scene, write_coco
from banet.errors import InputError
from banet.panoptic import Categories, Category, Segment
from banet.panoptic.coco.annotations import PanopticJson
from banet.panoptic.coco.writer import CocoPanopticWriter
from banet.panoptic.metrics.breakdown import (
    FRACTIONS,
    SIZES,
    Breakdown,
    crowding,
    format_breakdown,
    read_amodal_areas,
    score_folders_in_detail,
)
from banet.panoptic.metrics.quality import PanopticQuality, match, score_folders, to_json
from banet.panoptic.segmentation import PanopticSegmentation


def tables(prediction, truth, shares=None):
    breakdown = Breakdown(CATEGORIES, "hidden")
    found = match(prediction, truth, CATEGORIES)
    none = np.full(len(truth.segments), math.nan)
    breakdown.add(found, none if shares is None else np.array(shares, dtype=float))
    return breakdown.compute()


def pairs(result):
    return {(row["truth"], row["prediction"]): row["count"] for row in result["confusion"]}


def sums(row):
    return tuple(row[key] for key in ("tp", "fp", "fn") if key in row)


# --- confusion --------------------------------------------------------------------------------------------------------


def test_regions_are_paired_whatever_their_class():
    truth = segmentation(line((10, 1), (10, 2), (10, 3), (10, 4)), {1: A, 2: A, 3: SKY, 4: A})
    prediction = segmentation(line((9, 5), (11, 6), (10, 7), (5, 8), (5, 0)), {5: A, 6: B, 7: SKY, 8: A})
    # 9/10 of one class; 10/11 taken for b; the sky; and 5/10, which is not more than a half.
    assert pairs(tables(prediction, truth)) == {(A, A): 1, (A, B): 1, (SKY, SKY): 1}


def test_crowd_is_in_no_region_and_void_is_left_out_of_the_union():
    truth = segmentation(line((10, 1), (6, 2), (14, 0)), {1: A, 2: A}, crowd=[1])
    prediction = segmentation(line((10, 3), (20, 4)), {3: A, 4: B})
    assert pairs(tables(prediction, truth)) == {(A, B): 1}  # 6 / 6, though 14 of the prediction's 20 are on void


def test_confusions_are_listed_most_frequent_first():
    truth = segmentation(line((4, 1), (4, 2), (4, 3)), {1: A, 2: SKY, 3: SKY})
    prediction = segmentation(line((4, 1), (4, 2), (4, 3)), {1: A, 2: B, 3: B})
    assert tables(prediction, truth)["confusion"] == [
        {"truth": SKY, "prediction": B, "count": 2},
        {"truth": A, "prediction": A, "count": 1},
    ]


# --- size -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("area", "size"),
    [(1, "small"), (32**2 - 1, "small"), (32**2, "medium"), (96**2 - 1, "medium"), (96**2, "large")],
)
def test_sizes_begin_at_the_squares_of_32_and_96(area, size):
    truth = segmentation(line((area, 1), (1, 0)), {1: A})
    empty = segmentation(line((area, 0), (1, 0)), {})
    all_void = segmentation(line((area, 2), (1, 2)), {2: SKY})
    for prediction, base, expected in (
        (truth, truth, (1, 0, 0)),
        (empty, truth, (0, 0, 1)),
        (truth, all_void, (0, 1, 0)),
    ):
        by_size = tables(prediction, base)["by_size"]
        rest = (0, 0, 1) if base is all_void else (0, 0, 0)
        truth_size = "large" if area + 1 >= 96**2 else "medium" if area + 1 >= 32**2 else "small"
        for name in SIZES:
            wanted = np.array(expected) * (name == size) + np.array(rest) * (name == truth_size)
            assert sums(by_size[name]) == tuple(wanted)


def test_matches_go_by_the_truths_size_and_false_alarms_by_their_own():
    truth = segmentation(line((1100, 1), (1000, 2)), {1: A, 2: SKY})
    prediction = segmentation(line((1000, 3), (1100, 4)), {3: A, 4: B})
    by_size = tables(prediction, truth)["by_size"]
    assert sums(by_size["small"]) == (0, 0, 1)  # the sky, missed
    assert sums(by_size["medium"]) == (1, 1, 0)  # a, though found with 1000 pixels; b, though over the sky
    assert by_size["medium"]["iou"] == pytest.approx(1000 / 1100, abs=1e-15)
    assert by_size["medium"]["Things"]["pq"] == pytest.approx(1000 / 1100 / 2, abs=1e-15)
    assert by_size["medium"]["Stuff"]["n"] == 0 and math.isnan(by_size["medium"]["Stuff"]["pq"])


# --- hiding -----------------------------------------------------------------------------------------------------------


def test_recall_and_quality_by_share():
    truth = segmentation(line((10, 1), (10, 2), (10, 3), (10, 4)), {1: A, 2: A, 3: B, 4: SKY})
    prediction = segmentation(line((8, 1), (12, 0), (10, 3), (10, 9)), {1: A, 3: B, 9: A})
    by_hidden = tables(prediction, truth, [0.0, 0.0999, 0.5, math.nan])["by_hidden"]
    least = by_hidden["below 10 %"]
    assert (least["tp"], least["fn"], least["n"]) == (1, 1, 1)
    assert [least[key] for key in ("quality", "sq", "recall")] == pytest.approx([0.4, 0.8, 0.5], abs=1e-15)
    most = by_hidden["50 % and more"]
    assert [most[key] for key in ("quality", "sq", "recall")] == [1.0, 1.0, 1.0]
    assert all(by_hidden[name]["n"] == 0 and math.isnan(by_hidden[name]["quality"]) for name in list(FRACTIONS)[1:3])
    steps = tables(prediction, truth, [0.1, 0.25, 1.0, 0.2499])["by_hidden"]
    assert [row["tp"] + row["fn"] for row in steps.values()] == [0, 2, 1, 1]


def test_averages_over_classes():
    truth = segmentation(line((10, 1), (10, 2), (10, 3)), {1: A, 2: A, 3: B})
    prediction = segmentation(line((10, 1), (10, 0), (6, 3), (4, 0)), {1: A, 3: B})
    row = tables(prediction, truth, [0, 0, 0])["by_hidden"]["below 10 %"]
    assert row["recall"] == pytest.approx((0.5 + 1) / 2, abs=1e-15)
    assert row["sq"] == pytest.approx((1 + 0.6) / 2, abs=1e-15)
    assert row["quality"] == pytest.approx((0.5 + 0.6) / 2, abs=1e-15)


@pytest.mark.parametrize("shares", [[0.0], [0.0, 1.1], [-0.1, 0.0]])
def test_shares_are_checked(shares):
    truth = segmentation(line((4, 1), (4, 2)), {1: A, 2: SKY})
    with pytest.raises(ValueError, match="fractions must"):
        tables(truth, truth, shares)


def test_crowding_is_what_other_things_own_of_the_box():
    ids = np.array([[1, 1, 2, 0], [1, 3, 2, 9], [1, 9, 2, 9]])
    shares = crowding(ids, [9, 3, 2, 1], [False, True, True, True])
    assert math.isnan(shares[0])
    assert shares[1:].tolist() == [0, 0, 1 / 6]


@pytest.mark.parametrize("seed", range(3))
def test_crowding_equals_counting_pixel_by_pixel(seed):
    rng = np.random.default_rng(seed)
    ids = np.kron(rng.integers(0, 9, (6, 7)), np.ones((3, 4), dtype=np.int32)).astype(np.int32)
    numbers = [int(i) for i in rng.permutation(np.unique(ids)) if i]
    isthing = [bool(number % 3) for number in numbers]
    for number, thing, share in zip(numbers, isthing, crowding(ids, numbers, isthing), strict=True):
        y, x = np.nonzero(ids == number)
        box = ids[y.min() : y.max() + 1, x.min() : x.max() + 1].ravel().tolist()
        others = [i for i in box if i != number and i in numbers and isthing[numbers.index(i)]]
        assert share == len(others) / len(box) if thing else math.isnan(share)


# --- all of it --------------------------------------------------------------------------------------------------------


@settings(max_examples=150, deadline=None)
@given(st.lists(image_pairs(), min_size=1, max_size=3), st.integers(0, 2**32 - 1))
def test_parts_add_up_to_the_whole(images, seed):
    rng = np.random.default_rng(seed)
    quality = PanopticQuality(CATEGORIES)
    whole, halves = Breakdown(CATEGORIES), [Breakdown(CATEGORIES), Breakdown(CATEGORIES)]
    expected, segments, apart = Counter(), 0, 0
    for k, (pred_rows, pred_classes, true_rows, true_classes, crowd) in enumerate(images):
        found = quality.update(segmentation(pred_rows, pred_classes), segmentation(true_rows, true_classes, crowd))
        shares = rng.random(len(true_classes))
        shares[rng.random(len(shares)) < 0.2] = math.nan
        for breakdown in (whole, halves[k % 2]):
            breakdown.add(found, shares)
        segments += len(true_classes) - len(crowd)
        apart += sum(math.isnan(s) and i not in crowd for i, s in zip(true_classes, shares, strict=True))
        records = [(i, c, i in crowd) for i, c in true_classes.items()]
        expected.update(reference.regions(pred_rows, list(pred_classes.items()), true_rows, records))
    result = whole.compute()
    assert pairs(result) == expected
    assert sum(n for (a, b), n in expected.items() if a == b) == quality.state["tp"].sum()
    for key in ("iou", "tp", "fp", "fn"):
        assert sum(row[key] for row in result["by_size"].values()) == pytest.approx(quality.state[key].sum(), abs=1e-12)
    assert sum(row["tp"] + row["fn"] for row in result["by_crowding"].values()) == segments - apart
    merged = halves[0].merge(pickle.loads(pickle.dumps(halves[1]))).compute()
    assert json.dumps(rounded(merged)) == json.dumps(rounded(result))


def rounded(result):
    return json.loads(json.dumps(to_json(result)), parse_float=lambda text: round(float(text), 9))


def test_merge_refuses_what_does_not_fit():
    with pytest.raises(ValueError, match="cannot be merged"):
        Breakdown(CATEGORIES).merge(Breakdown(CATEGORIES, "hidden"))
    with pytest.raises(ValueError, match="cannot be merged"):
        Breakdown(CATEGORIES).merge(Breakdown([]))


def test_nothing_at_all():
    result = Breakdown([]).compute()
    assert result["confusion"] == [] and result["by_size"]["small"]["tp"] == 0
    assert "regions found (IoU > 50 %, any class): 0, taken for another class: 0" in format_breakdown(result, [])


def test_tables_of_text():
    truth = segmentation(line((10, 1), (10, 2), (10, 3)), {1: A, 2: A, 3: SKY})
    prediction = segmentation(line((8, 1), (2, 0), (10, 2), (10, 3)), {1: A, 2: B, 3: SKY})
    result = tables(prediction, truth, [0.3, 0, math.nan])
    rows = [row.split() for row in format_breakdown(to_json(result), CATEGORIES).splitlines()]
    assert rows[2:5] == [
        ["small", "51.1", "26.7", "100.0", "2", "1", "1"],  # a 0.8 / 1.5, b 0, sky 1
        ["medium", "-", "-", "-", "0", "0", "0"],
        ["large", "-", "-", "-", "0", "0", "0"],
    ]
    assert rows[8:12] == [
        ["below", "10", "%", "0.0", "0.0", "0.0", "0", "1", "1"],
        ["10", "to", "25", "%", "-", "-", "-", "0", "0", "0"],
        ["25", "to", "50", "%", "80.0", "80.0", "100.0", "1", "0", "1"],
        ["50", "%", "and", "more", "-", "-", "-", "0", "0", "0"],
    ]
    assert rows[-3][-1] == "1" and rows[-1] == ["a", "b", "1", "50.0%"]


# --- folders ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Scenes with their whole masks, and them moved by a few pixels as predictions."""
    root = tmp_path_factory.mktemp("scenes")
    write_coco(root, seed=4, count=3, size=(80, 96))
    content = PanopticJson.read(root / "panoptic.json")
    with CocoPanopticWriter(root / "pred", root / "pred.json", content.categories) as writer:
        for image_id, annotation in content.annotations.items():
            truth = PanopticSegmentation.from_annotation(annotation, root / "panoptic", content.categories)
            ids = np.roll(truth.ids, 2, axis=1)
            writer.add(image_id, annotation.file_name, PanopticSegmentation(ids, truth.segments, content.categories))
    paths = (root / "panoptic.json", root / "panoptic", root / "pred.json", root / "pred")
    return root / "instances_amodal.json", content, paths


def test_folders_in_detail_score_the_same(folders):
    _, content, paths = folders
    quality, breakdown = score_folders_in_detail(*paths, workers=2)
    assert to_json(quality.compute()) == to_json(score_folders(*paths))
    by_hand = Breakdown(content.categories)
    for annotation in content.annotations.values():
        truth = PanopticSegmentation.from_annotation(annotation, paths[1], content.categories)
        prediction = PanopticSegmentation(np.roll(truth.ids, 2, axis=1), truth.segments, content.categories)
        shares = crowding(truth.ids, [s.id for s in truth.segments], [s.isthing for s in truth.segments])
        by_hand.add(match(prediction, truth, content.categories), shares)
    assert to_json(breakdown.compute()) == to_json(by_hand.compute())


def test_hidden_shares_are_those_of_the_scenes(folders):
    amodal, _, paths = folders
    expected = Counter()
    for index in range(3):
        scene = make_scene(4, index, (80, 96))
        for row, mask in enumerate(scene.masks):
            share = 1 - np.count_nonzero(scene.ids == row + 1) / np.count_nonzero(mask)
            expected[next(name for name in reversed(FRACTIONS) if share >= FRACTIONS[name])] += 1
    assert len(expected) >= 3
    _, breakdown = score_folders_in_detail(*paths, amodal=amodal)
    by_hidden = breakdown.compute()["by_hidden"]
    assert {name: row["tp"] + row["fn"] for name, row in by_hidden.items()} == {k: expected[k] for k in FRACTIONS}


def test_bad_amodal_files_are_one_line(folders, tmp_path):
    amodal, truth, paths = folders
    good = json.loads(amodal.read_text())
    file = tmp_path / "amodal.json"

    def fails(said, change):
        content = json.loads(json.dumps(good))
        change(content)
        file.write_text(json.dumps(content))
        with pytest.raises(InputError, match=said) as caught:
            score_folders_in_detail(*paths, amodal=file)
        assert str(caught.value).startswith(str(file)) and "\n" not in str(caught.value)

    fails("'annotations' is missing", lambda content: content.pop("annotations"))
    fails(r"annotations\[1\]: 'panoptic_id' is missing", lambda content: content["annotations"][1].pop("panoptic_id"))
    fails(r"annotations\[0\]: must be an object, not 5", lambda content: content["annotations"].insert(0, 5))
    fails(
        r"annotations\[0\].segmentation: counts add up to 3 pixels",
        lambda content: content["annotations"][0]["segmentation"].update(counts=[3]),
    )
    fails(
        r"image 1: no annotation with panoptic_id 1; add its mask",
        lambda content: content["annotations"].pop(0),
    )
    fails(
        r"image 1, panoptic_id 1: the whole mask has 0 pixels, its visible part",
        lambda content: content["annotations"][0]["segmentation"].update(counts=[80 * 96]),
    )
    other = dict(good, annotations=[*good["annotations"], dict(good["annotations"][0], image_id=77)])
    file.write_text(json.dumps(other))
    assert read_amodal_areas(file, truth) == read_amodal_areas(amodal, truth)


def test_classes_that_never_meet_take_no_memory():
    classes = Categories([Category(number, f"c{number}", True) for number in range(1, 60_001)])
    ids = np.ones((8, 8), np.int32)
    truth = PanopticSegmentation(ids, [Segment(1, 60_000, True)], classes)
    prediction = PanopticSegmentation(ids, [Segment(1, 7, True)], classes)
    breakdown = Breakdown(classes)
    breakdown.add(match(prediction, truth, classes), np.zeros(1))
    assert breakdown.compute()["confusion"] == [{"truth": 60_000, "prediction": 7, "count": 1}]
    assert len(pickle.dumps(breakdown)) < 50_000_000  # a table of all pairs has 29 GB

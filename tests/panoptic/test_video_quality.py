"""VPQ, STQ, IDF1 and id switches: counted by hand, and against a slow reference."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import reference_video as reference
from factories import line
from hypothesis import given, settings
from hypothesis import strategies as st
from quality_maps import CATEGORIES, SKY, A, B, segmentation

from banet.cli import main
from banet.errors import InputError
from banet.panoptic import VideoQuality
from banet.panoptic.coco.writer import CocoPanopticWriter
from banet.panoptic.metrics.video import format_video_table, score_videos
from banet.panoptic.tracking.assignment import assign

ALL = (A, B, SKY)


def count(videos, windows=(1, 2)):
    quality = VideoQuality(CATEGORIES, windows)
    for frames in videos:
        for pred_rows, pred_classes, true_rows, true_classes, crowd in frames:
            quality.update(segmentation(pred_rows, pred_classes), segmentation(true_rows, true_classes, crowd))
        quality.end_video()
    return quality.compute()


def frame(prediction, truth, pred_classes, true_classes, crowd=()):
    """One row each, with the classes of the ids that occur."""
    there = [{i: c for i, c in some.items() if i in row} for row, some in
             ((prediction, pred_classes), (truth, true_classes))]  # fmt: skip
    return [prediction], there[0], [truth], there[1], set(crowd) & set(truth)


# ------------------------------------------------------------------------------------------------------ counted by hand


def test_a_perfect_result_scores_one():
    row = line((3, 1), (3, 2), (4, 9))
    frames = [frame(row, row, {1: A, 2: B, 9: SKY}, {1: A, 2: B, 9: SKY})] * 3
    result = count([frames])
    assert result["vpq"]["All"] == result["stq"]["stq"] == result["identity"]["idf1"] == 1
    assert result["identity"]["switches"] == 0


def test_an_id_that_changes_halfway():
    # One object of 10 pixels over two frames, found whole, under id 1 and then under id 2.
    rows = [line((10, 1)), line((10, 2))]
    frames = [frame(row, line((10, 7)), {1: A, 2: A}, {7: A}) for row in rows]
    result = count([frames])
    # k = 1: both frames match, PQ 1. k = 2: either tube has IoU 10/20, not above 1/2: one miss, two false alarms, PQ 0.
    assert [result["vpq"]["windows"][k]["All"]["pq"] for k in (1, 2)] == [1, 0]
    assert result["vpq"]["All"] == 0.5
    # AQ = 1/20 (10 * 10/20 + 10 * 10/20) = 1/2, SQ = 1.
    assert result["stq"] == {"stq": pytest.approx(math.sqrt(0.5), abs=1e-15), "aq": 0.5, "sq": 1}
    # One of two frames has the id that is assigned: IDTP 1 of 2 true and 2 predicted.
    assert result["identity"] == {
        "idf1": 0.5, "idp": 0.5, "idr": 0.5, "switches": 1, "switches_hidden": 0, "reappearances": 0
    }  # fmt: skip


def test_two_objects_that_swap_their_ids_behind_a_third():
    # 4 + 4 pixels; the second frame shows neither; then their ids are swapped.
    truth = [line((4, 1), (4, 2)), line((8, 3)), line((4, 1), (4, 2))]
    found = [line((4, 1), (4, 2)), line((8, 3)), line((4, 2), (4, 1))]
    classes = {1: A, 2: A, 3: SKY}
    result = count([[frame(p, t, classes, classes) for p, t in zip(found, truth, strict=True)]], windows=(1, 3))
    # k = 3: the tube of 1 shares 4 of 12 with either prediction; sky is right: (0 + 1) / 2.
    assert result["vpq"]["windows"][3]["Things"]["pq"] == 0
    assert result["vpq"]["All"] == (1 + 0.5) / 2
    # AQ of each: 1/8 (4 * 4/12 + 4 * 4/12) = 1/3.
    assert result["stq"]["aq"] == pytest.approx(1 / 3, abs=1e-15)
    assert result["identity"] == {
        "idf1": 0.5, "idp": 0.5, "idr": 0.5, "switches": 2, "switches_hidden": 2, "reappearances": 2
    }  # fmt: skip


def test_void_and_crowd_in_the_truth():
    # Truth: 4 of A, 3 crowd of A, 3 void. The prediction is one A over all ten pixels.
    result = count(
        [[frame(line((10, 5)), line((4, 1), (3, 2), (3, 0)), {5: A}, {1: A, 2: A}, crowd=[2])]], windows=(1,)
    )
    # PQ: union leaves out the 3 void pixels: IoU 4/7 > 1/2.
    assert result["vpq"]["All"] == pytest.approx(4 / 7, abs=1e-15)
    # The track has 10 - 3 crowd pixels: AQ = 1/4 * 4 * 4/7. SQ: the 7 pixels that are not void are right.
    assert result["stq"]["aq"] == pytest.approx(4 / 7, abs=1e-15)
    assert result["stq"]["sq"] == 1
    assert result["identity"]["idf1"] == 1


def test_void_in_the_prediction_and_a_wrong_class():
    # Truth: 6 of A, 4 sky. Prediction: 2 void, 4 of B, 4 sky.
    result = count([[frame(line((2, 0), (4, 3), (4, 9)), line((6, 1), (4, 8)), {3: B, 9: SKY}, {1: A, 8: SKY})]], (1,))
    assert result["vpq"]["All"] == pytest.approx(1 / 3)  # A is missed, B a false alarm, sky right
    # IoU: A 0/6, B 0/4, sky 1. AQ goes by ids alone: 1/6 * 4 * 4/6.
    assert result["stq"]["sq"] == pytest.approx(1 / 3)
    assert result["stq"]["aq"] == pytest.approx(16 / 36, abs=1e-15)
    assert result["identity"]["idf1"] == 0


# ------------------------------------------------------------------------------------------------------ random videos


@st.composite
def videos(draw):
    """A few short videos of small frames; ids keep their classes, the prediction is the truth with other ids."""
    found = []
    for _ in range(draw(st.integers(1, 2))):
        height, width = draw(st.integers(1, 3)), draw(st.integers(1, 6))
        true_classes = {i: draw(st.sampled_from(ALL)) for i in range(1, 5)}
        pred_classes = {i: draw(st.sampled_from(ALL)) for i in (11, 12, 13)} | {
            i + 20: c for i, c in true_classes.items()
        }
        crowd = draw(st.sets(st.sampled_from([1, 2, 3, 4]), max_size=2))
        frames = []
        for _ in range(draw(st.integers(1, 4))):
            cells = [draw(st.integers(0, 4)) for _ in range(height * width)]
            other = draw(st.dictionaries(st.integers(0, height * width - 1), st.sampled_from([0, 11, 12, 13, 21, 22])))
            swap = draw(st.booleans())
            pred = [(i + 20 if i else 0) if k not in other else other[k] for k, i in enumerate(cells)]
            pred = [{21: 22, 22: 21}.get(i, i) if swap else i for i in pred]
            rows = [[some[y * width : (y + 1) * width] for y in range(height)] for some in (pred, cells)]
            there = [{i: c for i, c in names.items() if any(i in row for row in some)} for names, some in
                     zip((pred_classes, true_classes), rows, strict=True)]  # fmt: skip
            frames.append((rows[0], there[0], rows[1], there[1], crowd & set(there[1])))
        found.append(frames)
    return found


def same(value, exact):
    if exact is None or (isinstance(exact, float) and math.isnan(exact)):
        assert math.isnan(value)
    else:
        assert value == pytest.approx(float(exact), rel=0, abs=1e-12)


@settings(max_examples=150, deadline=None)
@given(videos())
def test_equals_the_slow_reference(found):
    result = count(found, (1, 2, 3))
    for group, some in (("All", ALL), ("Things", (A, B)), ("Stuff", (SKY,))):
        same(result["vpq"][group], reference.vpq(found, some, (1, 2, 3)))
    sq, aq = reference.segmentation_quality(found, ALL), reference.association_quality(found, {A, B})
    same(result["stq"]["sq"], sq)
    same(result["stq"]["aq"], aq)
    same(result["stq"]["stq"], None if sq is None or aq is None else math.sqrt(float(sq * aq)))
    idf1, switches = reference.identities(found, {A, B})
    same(result["identity"]["idf1"], idf1)
    assert [result["identity"][key] for key in ("switches", "switches_hidden", "reappearances")] == switches


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 5), st.integers(0, 5), st.integers(0, 2**32), st.booleans())
def test_the_assignment_is_the_best_of_all(rows, columns, seed, ties):
    import itertools

    rng = np.random.default_rng(seed)
    gains = rng.integers(-2, 4, (rows, columns)).astype(float) if ties else rng.normal(size=(rows, columns))
    chosen_rows, chosen = assign(gains)
    padded = np.concatenate([np.maximum(gains, 0), np.zeros((rows, rows))], axis=1)
    best = max(padded[range(rows), list(p)].sum() for p in itertools.permutations(range(columns + rows), rows))
    assert gains[chosen_rows, chosen].sum() == pytest.approx(best)
    assert (gains[chosen_rows, chosen] > 0).all() and len(set(chosen.tolist())) == len(chosen)


# ------------------------------------------------------------------------------------------------------------ bad input


def test_bad_frames_are_one_line_each():
    quality = VideoQuality(CATEGORIES)
    one = segmentation(line((4, 1)), {1: A})
    with pytest.raises(ValueError, match="prediction is 5x1, truth 4x1"):
        quality.update(segmentation(line((5, 1)), {1: A}), one)
    quality.update(one, one)
    with pytest.raises(ValueError, match="prediction: the id 1 is a in one frame and b in another"):
        quality.update(segmentation(line((4, 1)), {1: B}), one)
    quality.end_video()
    quality.update(segmentation(line((4, 1)), {1: B}), one)
    with pytest.raises(ValueError, match="windows must be of at least one frame"):
        VideoQuality(CATEGORIES, (0,))


def test_nothing_counted_is_nan_and_prints():
    result = VideoQuality(CATEGORIES).compute()
    assert math.isnan(result["vpq"]["All"]) and math.isnan(result["stq"]["stq"])
    assert "VPQ^4" in format_video_table(result) and "0 id switches" in format_video_table(result)


# -------------------------------------------------------------------------------------------------------------- folders


def folder(path, frames, names):
    with CocoPanopticWriter(path / "maps", path / "panoptic.json", CATEGORIES) as writer:
        for k, (rows, classes) in enumerate(frames, start=1):
            writer.add(k, names[k - 1], segmentation(rows, classes))
    return path / "panoptic.json", path / "maps"


def test_folders_of_frames_are_scored_like_arrays(tmp_path, capsys):
    found = [line((10, 1)), line((10, 2)), line((10, 1)), line((10, 1))]
    names = ["x/1.png", "x/2.png", "y/1.png", "y/2.png"]
    truth = folder(tmp_path / "truth", [([line((10, 7))], {7: A})] * 4, names)
    pred = folder(tmp_path / "pred", [([row], {row[0]: A}) for row in found], names)
    frames = [frame(row, line((10, 7)), {row[0]: A}, {7: A}) for row in found]
    result = score_videos(*truth, *pred)
    expected = count([frames[:2], frames[2:]], (1, 2, 3, 4))
    assert result["stq"] == expected["stq"] and result["identity"] == expected["identity"]
    assert result["identity"]["switches"] == 1
    options = ["--gt-json", truth[0], "--gt-dir", truth[1], "--pred-json", pred[0], "--pred-dir", pred[1], "--video"]
    assert main(["pq", *map(str, options), "--json", str(tmp_path / "figures.json")]) == 0
    assert "IDF1" in capsys.readouterr().out
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert figures["identity"]["switches"] == 1 and figures["vpq"]["windows"]["1"]["All"]["pq"] == figures["All"]["pq"]
    wrong = folder(tmp_path / "wrong", [([line((10, 7))], {7: A})] * 4, ["x/1.png", "y/1.png", "x/2.png", "y/2.png"])
    with pytest.raises(InputError, match=r"x/2\.png does not follow the other frames of its video"):
        score_videos(*wrong, *pred)
    classes = folder(tmp_path / "classes", [([line((10, 1))], {1: c}) for c in (A, B, A, A)], names)
    with pytest.raises(InputError, match=r"x/2\.png: prediction: the id 1 is a in one frame and b in another"):
        score_videos(*truth, *classes)


def test_frames_are_in_the_order_of_their_numbers(tmp_path):
    for names, fits in ((["f1.png", "f2.png", "f10.png"], True), (["f1.png", "f10.png", "f2.png"], False)):
        frames = [([line((10, 7))], {7: A})] * 3
        one = folder(tmp_path / f"{fits}", frames, [f"x/{name}" for name in names])
        if fits:
            assert score_videos(*one, *one)["stq"]["stq"] == 1
        else:
            with pytest.raises(InputError, match=r"x/f2\.png does not follow .* numbers in the names"):
                score_videos(*one, *one)

from __future__ import annotations

import json
import sys
import types

import numpy as np
import pytest
from factories import PERSON_SKY_TIE, segmentation
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image

from banet.errors import InputError
from banet.panoptic.categories import VOID, Categories
from banet.panoptic.id_maps import ids_to_rgb, measure_ids, rgb_to_ids, runs
from banet.panoptic.segmentation import PanopticSegmentation, Segment

any_ids = hnp.arrays(
    np.int32,
    hnp.array_shapes(min_dims=2, max_dims=2, max_side=9),
    elements=st.integers(0, 3) | st.integers(0, 2**24 - 1),
)


def small() -> PanopticSegmentation:
    ids = np.array([[0, 1, 1, 2], [3, 3, 1, 2]])
    infos = [
        {"id": 1, "category_id": 1, "score": 0.75},
        {"id": 2, "category_id": 300, "score": 0.5, "iscrowd": 1},
        {"id": 3, "category_id": 5},
    ]
    return PanopticSegmentation.from_ids(ids, infos, PERSON_SKY_TIE)


@given(any_ids)
def test_ids_survive_the_colours(ids):
    rgb = ids_to_rgb(ids)
    assert rgb.shape == (*ids.shape, 3) and rgb.dtype == np.uint8
    assert np.array_equal(rgb_to_ids(rgb), ids)


def test_colour_code_by_hand():
    assert ids_to_rgb(np.array([1, 256, 65536, 0x030201])).tolist() == [[1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 2, 3]]
    assert rgb_to_ids(np.array([[255, 255, 255, 7]], dtype=np.uint8)).tolist() == [2**24 - 1]


def test_colour_code_refuses_what_it_cannot_hold():
    for wrong in (-1, 2**24):
        with pytest.raises(ValueError, match="16777215"):
            ids_to_rgb(np.array([wrong]))
    with pytest.raises(TypeError):
        ids_to_rgb(np.array([1.0]))
    with pytest.raises(TypeError):
        rgb_to_ids(np.zeros((1, 3), dtype=np.int32))
    with pytest.raises(ValueError, match="shape"):
        rgb_to_ids(np.zeros((3, 2), dtype=np.uint8))


@given(any_ids)
def test_measure_equals_counting(ids):
    values, areas, boxes = measure_ids(ids)
    assert values.tolist() == [v for v in np.unique(ids) if v != 0]
    for value, area, (x, y, width, height) in zip(values, areas, boxes, strict=True):
        rows, columns = np.nonzero(ids == value)
        assert area == len(rows)
        assert (x, y) == (columns.min(), rows.min())
        assert (x + width, y + height) == (columns.max() + 1, rows.max() + 1)


@given(any_ids, st.booleans())
def test_runs_put_the_map_together_again(ids, rows):
    starts, lengths = runs(ids, rows=rows)
    assert np.array_equal(np.repeat(ids.reshape(-1)[starts], lengths), ids.reshape(-1))
    if rows:
        assert set(range(0, ids.size, ids.shape[1])) <= set(starts.tolist())


def test_from_ids_counts_from_the_map():
    result = small()
    assert result.ids.dtype == np.int32
    assert result.segments == [
        Segment(1, 1, True, 0.75, 3, (1, 0, 2, 2)),
        Segment(2, 300, True, 0.5, 2, (3, 0, 1, 2), iscrowd=True),
        Segment(3, 5, False, None, 2, (0, 1, 2, 1)),
    ]
    assert result.semantic.tolist() == [[VOID, 1, 1, 300], [5, 5, 1, 300]]


@given(any_ids)
def test_semantic_is_a_lookup(ids):
    values = [int(v) for v in np.unique(ids) if v]
    classes = {v: PERSON_SKY_TIE[k % 3].id for k, v in enumerate(values)}
    result = segmentation(ids, classes)
    expected = [[classes.get(v, VOID) for v in row] for row in ids.tolist()]
    assert result.semantic.tolist() == expected


def test_map_and_records_must_agree():
    with pytest.raises(ValueError, match=r"map without a segment: 3, 8; segments without a pixel in the map: 4"):
        PanopticSegmentation.from_ids(
            np.array([[3, 8, 1]]), [{"id": 1, "category_id": 1}, {"id": 4, "category_id": 1}], PERSON_SKY_TIE
        )
    result = small()
    result.segments = result.segments[:2]
    with pytest.raises(ValueError, match="out: ids in the map without a segment: 3"):
        result.check("out")


@pytest.mark.parametrize(
    ("ids", "segments", "message"),
    [
        (np.zeros((2, 2, 1), int), [], "shape"),
        (np.array([[-1]]), [], r"0\.\.16777215"),
        (np.array([[2**24]]), [], r"0\.\.16777215"),
        (np.array([[1]]), [Segment(1, 9, True, None, 1, (0, 0, 1, 1))], "unknown category id 9"),
        (np.array([[1]]), [Segment(0, 1, True, None, 1, (0, 0, 1, 1))], "segment ids must be"),
        (np.array([[1]]), [Segment(1, 1, True, None, 1, (0, 0, 1, 1))] * 2, "occurs twice"),
    ],
)
def test_bad_arguments(ids, segments, message):
    with pytest.raises(ValueError, match=message):
        PanopticSegmentation(ids, segments, PERSON_SKY_TIE)


def test_bad_types():
    with pytest.raises(TypeError, match="integers"):
        PanopticSegmentation(np.zeros((2, 2)), [], PERSON_SKY_TIE)
    with pytest.raises(TypeError, match="Segment objects"):
        PanopticSegmentation(np.zeros((2, 2), int), [{"id": 1}], PERSON_SKY_TIE)


def test_to_coco():
    annotation = small().to_coco(7, "x.png")
    assert list(annotation) == ["image_id", "file_name", "segments_info"]
    assert annotation["segments_info"][1] == {
        "id": 2,
        "category_id": 300,
        "iscrowd": 1,
        "area": 2,
        "bbox": [3, 0, 1, 2],
        "score": 0.5,
    }
    assert "score" not in annotation["segments_info"][2]
    assert list(small().to_coco()) == ["segments_info"]


def test_to_hf():
    form = small().to_hf()
    assert form["segmentation"].tolist() == [[0, 1, 1, 2], [3, 3, 1, 2]]
    assert form["segments_info"][0] == {"id": 1, "label_id": 1, "was_fused": False, "score": 0.75}
    assert form["segments_info"][2] == {"id": 3, "label_id": 5, "was_fused": True, "score": 1.0}


def test_to_supervision(monkeypatch):
    stand_in = types.ModuleType("supervision")
    stand_in.Detections = lambda **fields: fields
    monkeypatch.setitem(sys.modules, "supervision", stand_in)
    fields = small().to_supervision()
    assert fields["xyxy"].tolist() == [[1, 0, 3, 2], [3, 0, 4, 2], [0, 1, 2, 2]]
    assert fields["mask"].sum(axis=(1, 2)).tolist() == [3, 2, 2]
    assert fields["class_id"].tolist() == [1, 300, 5]
    assert fields["data"]["class_name"].tolist() == ["person", "tie", "sky"]
    assert fields["confidence"].tolist() == [0.75, 0.5, 1.0]


def test_to_supervision_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "supervision", None)
    with pytest.raises(ImportError, match="pip install supervision"):
        small().to_supervision()


def test_save(tmp_path):
    result = small()
    result.save(tmp_path / "out.png", "photo.jpg", image_id=4)
    assert np.array_equal(rgb_to_ids(np.array(Image.open(tmp_path / "out.png"))), result.ids)
    content = json.loads((tmp_path / "out.json").read_text())
    assert content["images"] == [{"id": 4, "file_name": "photo.jpg", "width": 4, "height": 2}]
    assert content["annotations"] == [result.to_coco(4, "out.png")]
    assert Categories.from_coco(content["categories"]) == PERSON_SKY_TIE
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out.json", "out.png"]


def test_save_refuses(tmp_path):
    with pytest.raises(ValueError, match=r"\.png"):
        small().save(tmp_path / "out.jpg")
    with pytest.raises(InputError, match="does not exist"):
        small().save(tmp_path / "nowhere" / "out.png")
    wrong = small()
    wrong.segments.pop()
    with pytest.raises(ValueError, match="without a segment"):
        wrong.save(tmp_path / "out.png")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("value", "flag"), [(np.bool_(True), True), (np.int64(0), False), ("0", False), ("true", True), (None, False)]
)
def test_flags_of_crowds(value, flag):
    result = PanopticSegmentation.from_ids([[1]], [{"id": 1, "category_id": 1, "iscrowd": value}], ONE_CLASS)
    assert result.segments[0].iscrowd is flag


def test_what_is_not_a_flag_of_crowds():
    with pytest.raises(ValueError, match=r"segment 1\.iscrowd: must be 0 or 1, not 2"):
        PanopticSegmentation.from_ids([[1]], [{"id": 1, "category_id": 1, "iscrowd": 2}], ONE_CLASS)


ONE_CLASS = [{"id": 1, "name": "cup", "isthing": 1}]

from __future__ import annotations

import io
import json
import sys
import types
from dataclasses import replace

import numpy as np
import pytest
from factories import PERSON_SKY_TIE, segmentation
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image

from banet.errors import InputError, MissingExtraError
from banet.panoptic.categories import VOID, Categories
from banet.panoptic.id_maps import ids_to_rgb, measure_ids, rgb_to_ids, runs
from banet.panoptic.segmentation import COLUMNS, PanopticSegmentation, Segment

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
        (np.array([[1]]), [Segment(1, 1, True, np.float32("nan"))], "segment 1 has the score nan; .* finite"),
        (np.array([[1]]), [Segment(1, 1, True, float("inf"))], "segment 1 has the score inf; .* finite"),
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
    with pytest.raises(TypeError, match=r"segment 1\.5 holds something else than numbers"):
        PanopticSegmentation(np.zeros((2, 2), int), [Segment(1.5, 1, True)], PERSON_SKY_TIE)


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


def test_records_of_numpy_are_saved(tmp_path):
    record = Segment(np.int64(2), np.int32(1), np.bool_(True), np.float32(0.5), iscrowd=np.bool_(False))
    result = PanopticSegmentation(np.array([[0, 2]]), [record], PERSON_SKY_TIE)
    result.save(tmp_path / "out.png", image_id=np.int64(3))
    again = PanopticSegmentation.load(tmp_path / "out.png")
    assert again.segments == result.segments == [Segment(2, 1, True, 0.5, 1, (1, 0, 1, 1))]
    assert type(result.segments[0].score) is float
    before = [(path, path.read_bytes()) for path in sorted(tmp_path.iterdir())]
    with pytest.raises(TypeError, match="JSON"):
        PanopticSegmentation([[7]], [Segment(7, 1, True)], PERSON_SKY_TIE).save(tmp_path / "out.png", image_id={1})
    assert [(path, path.read_bytes()) for path in sorted(tmp_path.iterdir())] == before


def test_what_was_not_measured_is_counted_from_the_map():
    map_of_two, measured = np.array([[1, 1, 0], [1, 4, 4]]), Segment(4, 300, True, None, 9, (0, 0, 3, 3))
    result = PanopticSegmentation(map_of_two, [Segment(1, 5, False), measured], PERSON_SKY_TIE)
    assert result.segments == [Segment(1, 5, False, None, 3, (0, 0, 2, 2)), measured]  # what is measured stays
    result.domain = "scenes"
    assert result.filter(min_area=3).domain == "scenes"
    stray = PanopticSegmentation(map_of_two, [Segment(8, 5, False)], PERSON_SKY_TIE)
    assert stray.segments == [Segment(8, 5, False)]


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


# ----------------------------------------------------------------------------------------------- what a result answers


def crowd_of_things() -> PanopticSegmentation:
    ids = np.array([[1, 1, 0, 4, 4], [1, 2, 2, 4, 4], [3, 3, 3, 4, 0]])
    infos = [
        {"id": 1, "category_id": 1, "score": 0.9},
        {"id": 2, "category_id": 1, "score": 0.4},
        {"id": 3, "category_id": 5},
        {"id": 4, "category_id": 1, "iscrowd": 1},
    ]
    image = np.arange(45, dtype=np.uint8).reshape(3, 5, 3)
    return PanopticSegmentation.from_ids(ids, infos, PERSON_SKY_TIE, image)


def test_segments_know_the_name_of_their_class():
    result = crowd_of_things()
    assert [segment.label for segment in result.segments] == ["person", "person", "sky", "person"]
    bare = Segment(1, 1, True)
    assert bare.label == "" and bare == replace(bare, label="person")
    renamed = replace(
        result, categories=[{"id": c.id, "name": c.name[::-1], "isthing": c.isthing} for c in PERSON_SKY_TIE]
    )
    assert renamed.segments[0].label == "nosrep"


def test_a_result_is_counted_and_walked_through():
    result = crowd_of_things()
    assert len(result) == 4 and list(result) == result.segments
    assert result.counts() == {"person": 2}  # the crowd is not one person
    assert repr(result) == "PanopticSegmentation(5x3: 2 person; sky)"
    assert (
        repr(PanopticSegmentation(np.zeros((2, 3), int), [], PERSON_SKY_TIE)) == "PanopticSegmentation(3x2: no things)"
    )


@pytest.mark.parametrize("by", ["record", "id"])
def test_mask_and_crop_are_of_one_segment(by):
    result = crowd_of_things()
    for segment in result:
        key = segment if by == "record" else segment.id
        mask = result.mask(key)
        assert mask.dtype == bool and np.array_equal(mask, result.ids == segment.id)
        x, y, width, height = segment.bbox
        box = np.s_[y : y + height, x : x + width]
        crop = result.crop(key)
        assert crop.mode == "RGBA" and crop.size == (width, height)
        assert np.array_equal(np.array(crop.convert("RGB")), result.image[box])
        assert np.array_equal(np.array(crop)[..., 3] == 255, mask[box])
    for wrong in (9, Segment(9, 1, True)):
        with pytest.raises(ValueError, match="no segment has the id 9"):
            result.mask(wrong)


def test_crop_takes_its_image_or_another():
    result = replace(crowd_of_things(), image=None)
    with pytest.raises(ValueError, match=r"crop\(segment, image\)"):
        result.crop(1)
    with pytest.raises(ValueError, match="4x3, the result 5x3"):
        result.crop(1, np.zeros((3, 4)))
    assert result.crop(1, Image.new("L", (5, 3), 7)).getpixel((0, 0)) == (7, 7, 7, 255)


@pytest.mark.parametrize(
    ("options", "left"),
    [
        ({}, [1, 2, 3, 4]),
        ({"classes": "sky"}, [3]),
        ({"classes": ["sky", 1]}, [1, 2, 3, 4]),
        ({"classes": 5}, [3]),
        ({"classes": np.int64(5)}, [3]),
        ({"classes": []}, []),
        ({"min_score": 0.4}, [1, 2, 3, 4]),
        ({"min_score": 0.5}, [1, 3, 4]),
        ({"min_area": 3}, [1, 3, 4]),
        ({"classes": "person", "min_score": 0.5, "min_area": 4}, [4]),
    ],
)
def test_filter_keeps_what_is_asked_for_and_leaves_the_rest_void(options, left):
    result = crowd_of_things()
    bare = replace(result, segments=[replace(segment, area=0) for segment in result])  # areas are counted where needed
    for one in (result, bare):
        found = one.filter(**options)
        found.check()
        assert [segment.id for segment in found] == left
        assert np.array_equal(found.ids, np.where(np.isin(result.ids, left), result.ids, 0))
        assert found.image is result.image
    assert len(result) == 4 and 1 in result.ids


def test_filter_says_which_class_might_be_meant():
    with pytest.raises(ValueError, match="unknown class 'persn'; did you mean 'person'"):
        crowd_of_things().filter("persn")
    with pytest.raises(ValueError, match="unknown class 77; classes are person"):
        crowd_of_things().filter(77)


@given(any_ids)
def test_the_table_holds_box_and_centroid_of_each_segment(ids):
    ids = np.where(ids > 0, ids % 5, 0)
    infos = [{"id": int(value), "category_id": 1, "score": value / 8} for value in np.unique(ids[ids > 0])]
    result = PanopticSegmentation.from_ids(ids, infos, PERSON_SKY_TIE)
    bare = replace(result, segments=[Segment(s.id, s.category_id, True, s.score) for s in result])
    rows = result.to_records()
    assert rows == bare.to_records()
    for row, segment in zip(rows, result, strict=True):
        y, x = np.nonzero(result.mask(segment))
        assert (row["x"], row["y"], row["width"], row["height"]) == segment.bbox and row["area"] == len(x)
        assert (row["centroid_x"], row["centroid_y"]) == pytest.approx((x.mean() + 0.5, y.mean() + 0.5))
        assert (row["label"], row["score"], row["id"]) == ("person", segment.id / 8, segment.id)


def test_the_table_is_a_dataframe():
    pandas = pytest.importorskip("pandas")
    table = crowd_of_things().to_dataframe()
    assert list(table.columns) == list(COLUMNS) and len(table) == 4
    assert table[table.label == "person"].area.sum() == 10 and pandas.isna(table.score[2])
    assert list(PanopticSegmentation(np.zeros((2, 3), int), [], PERSON_SKY_TIE).to_dataframe().columns) == list(COLUMNS)


def test_the_table_says_what_it_needs(monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(MissingExtraError, match=r"needs pandas.*\[train\]"):
        crowd_of_things().to_dataframe()


def test_load_reads_what_save_wrote(tmp_path):
    result = crowd_of_things()
    result.save(tmp_path / "a.png")
    for again in (PanopticSegmentation.load(tmp_path / "a.png"), PanopticSegmentation.load(str(tmp_path / "a.png"))):
        assert np.array_equal(again.ids, result.ids) and again.segments == result.segments
        assert again.categories == result.categories and again.image is None
    for suffix in (".png", ".json"):  # both renamed
        (tmp_path / f"a{suffix}").rename(tmp_path / f"b{suffix}")
    assert PanopticSegmentation.load(tmp_path / "b.png").segments == result.segments


def test_load_finds_one_image_in_a_data_set(tmp_path):
    results = [crowd_of_things(), crowd_of_things().filter("person")]
    content = {"images": [], "annotations": [], "categories": PERSON_SKY_TIE.to_coco()}
    for number, result in enumerate(results):
        name = f"{number}.png"
        result.save(tmp_path / name)
        content["images"].append({"id": number, "file_name": f"{number}.jpg", "width": 5, "height": 3})
        content["annotations"].append(result.to_coco(number, name))
    (tmp_path / "all.json").write_text(json.dumps(content))
    for number, result in enumerate(results):
        found = PanopticSegmentation.load(tmp_path / f"{number}.png", tmp_path / "all.json")
        assert found.segments == result.segments
    (tmp_path / "0.png").rename(tmp_path / "other.png")
    with pytest.raises(InputError, match=r"all\.json: no annotations have the file_name other\.png"):
        PanopticSegmentation.load(tmp_path / "other.png", tmp_path / "all.json")
    with pytest.raises(InputError, match=r"other\.json"):
        PanopticSegmentation.load(tmp_path / "other.png")


def test_notebooks_get_a_drawing_that_is_not_too_large():
    png = crowd_of_things()._repr_png_()
    assert png is not None and Image.open(io.BytesIO(png)).width >= 320  # tiny images are enlarged
    large = PanopticSegmentation(np.zeros((1500, 1200), int), [], PERSON_SKY_TIE)._repr_png_()
    assert large is not None and max(Image.open(io.BytesIO(large)).size) == 1024
    assert PanopticSegmentation(np.zeros((0, 5), int), [], PERSON_SKY_TIE)._repr_png_() is None


def test_show_opens_a_viewer_or_shows_in_a_notebook(monkeypatch):
    result = crowd_of_things()
    shown = []
    monkeypatch.setattr("PIL.ImageShow.show", lambda image: bool(shown.append(image)) or len(shown) == 1)
    monkeypatch.setitem(sys.modules, "IPython", None)
    result.show(legend=False)
    assert shown[0].size == (5, 3)
    with pytest.raises(RuntimeError, match="save the drawing"):
        result.show()
    cell = []
    shell = types.SimpleNamespace(kernel=None)
    fake = types.SimpleNamespace(get_ipython=lambda: shell, display=types.SimpleNamespace(display=cell.append))
    monkeypatch.setitem(sys.modules, "IPython", fake)
    result.show()
    assert len(cell) == 1 and len(shown) == 2

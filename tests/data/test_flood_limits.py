"""Annotations are counted before anything is made of them; `tests/hostile/attack_floods.py` has the whole files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tool_files
from hypothesis import given
from hypothesis import strategies as st

from banet.data.convert import cells, label_studio, shapes
from banet.data.convert.cells import convert_cells
from banet.data.convert.coco import convert_coco
from banet.data.convert.cvat import convert_cvat
from banet.data.convert.label_studio import convert_label_studio, decode_brush
from banet.data.convert.labelme import convert_labelme
from banet.data.convert.voc import convert_voc
from banet.data.convert.yolo import convert_yolo
from banet.errors import InputError
from banet.files import reading
from banet.files.fields import as_number, as_numbers
from banet.files.reading import stream_json
from banet.panoptic import id_maps
from banet.panoptic.coco import annotations, polygons, runs
from banet.panoptic.coco.annotations import read_annotation
from banet.panoptic.coco.rle import decode_crop
from banet.panoptic.coco.runs import MOST_SHAPES, Crop, Drawing
from banet.panoptic.id_maps import find_ids, measure_ids
from banet.panoptic.occlusion import regions
from banet.panoptic.occlusion.regions import Regions
from banet.panoptic.validation import MaskCrops

SIZE = (30, 40)
MANY = MOST_SHAPES + 1


# ----------------------------------------------------------------------------------------------------------- kinds


def labelme(folder: Path, shape: dict[str, Any], times: int) -> Path:
    tool_files.photo(folder / "a.png")
    (folder / "a.json").write_text(json.dumps({"imagePath": "a.png", "shapes": [shape] * times}))
    return folder


def cvat(folder: Path, body: str, encoding: str = "utf-8") -> Path:
    tool_files.photo(folder / "a.png")
    image = f'<image id="0" name="a.png" width="40" height="30">{body}</image>'
    text = f"<annotations>{image}</annotations>" if "DOCTYPE" not in body else body
    (folder / "a.xml").write_text(text, encoding)
    return folder / "a.xml"


def tasks(folder: Path, *regions: dict[str, Any]) -> Path:
    return tool_files.tasks(folder, *regions)


def test_labelme_counts_shapes_before_it_keeps_any(tmp_path):
    with pytest.raises(InputError, match=r"a\.json: holds more than 25,000 shapes"):
        convert_labelme(labelme(tmp_path, {"label": "a", "points": []}, MANY), tmp_path / "out")


def test_label_studio_counts_regions_before_it_keeps_any(tmp_path):
    export = tasks(tmp_path, *[{"value": {"x": 1}}] * (2 * MANY))
    with pytest.raises(InputError, match="has more than 25,000 regions"):
        convert_label_studio(export, tmp_path / "photos", tmp_path / "out")


def test_cvat_counts_elements_of_an_image(tmp_path):
    with pytest.raises(InputError, match="holds more than 25,000 elements in or before an image"):
        convert_cvat(cvat(tmp_path, "<x/>" * MANY), tmp_path, tmp_path / "out")


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_cvat_refuses_entities_in_any_encoding(tmp_path, encoding):
    path = cvat(tmp_path, '<!DOCTYPE a [<!ENTITY x "aaaa">]><annotations>&x;</annotations>', encoding)
    with pytest.raises(InputError, match=r"a\.xml: defines entities"):
        convert_cvat(path, tmp_path, tmp_path / "out")


def test_cvat_counts_corners_before_it_splits_them(tmp_path, monkeypatch):
    monkeypatch.setattr("banet.data.convert.cvat._MOST_CORNERS", 3)
    with pytest.raises(InputError, match="points: holds more than 3 corners"):
        convert_cvat(cvat(tmp_path, '<polygon label="a" points="1,1;2,2;3,3;4,4;5,5"/>'), tmp_path, tmp_path / "out")


def test_a_tag_of_a_megabyte_is_not_read_from_its_start_again_and_again(tmp_path, monkeypatch):
    blocks: list[int] = []
    from xml.etree import ElementTree

    class Counted(ElementTree.XMLPullParser):
        def feed(self, data: bytes) -> None:
            blocks.append(len(data))
            super().feed(data)

    monkeypatch.setattr(ElementTree, "XMLPullParser", Counted)
    path = cvat(tmp_path, f'<polygon label="a" points="{"1,1;" * 500_000}9,9"/>')
    convert_cvat(path, tmp_path, tmp_path / "out", categories=_classes(tmp_path))
    assert len(blocks) == 2 * 2  # twice the file


def _classes(folder: Path) -> Path:
    (folder / "classes.json").write_text('[{"id": 1, "name": "a", "isthing": 1}]')
    return folder / "classes.json"


@pytest.mark.parametrize("kind", ["labelme", "cvat", "label studio"])
def test_labels_are_counted_while_they_are_read(tmp_path, monkeypatch, kind):
    monkeypatch.setattr(shapes, "MOST_CATEGORIES", 3)
    with pytest.raises(InputError, match="more than 3 different labels, such as") as error:
        if kind == "labelme":
            tool_files.photo(tmp_path / "a.png")
            entries = [{"label": str(n), "points": []} for n in range(9)]
            (tmp_path / "a.json").write_text(json.dumps({"imagePath": "a.png", "shapes": entries}))
            convert_labelme(tmp_path, tmp_path / "out")
        elif kind == "cvat":
            marks = "".join(f'<box label="{n}"/>' for n in range(9))
            convert_cvat(cvat(tmp_path, marks), tmp_path, tmp_path / "out")
        else:
            values = [{"value": {"x": 1, "rectanglelabels": [str(n)]}} for n in range(9)]
            convert_label_studio(tasks(tmp_path, *values), tmp_path / "photos", tmp_path / "out")
    assert error.value.where


def test_a_list_of_images_names_files_that_are_there_once(tmp_path):
    data = tool_files.yolo(tmp_path, "", train="list.txt")
    for text, said in (
        ("./images/train/deep/a.png\n./images/train/deep/a.png\n", "lists .* twice"),
        ("./images/train/b.png\n", "b.png' does not exist"),
    ):
        (tmp_path / "list.txt").write_text(text)
        with pytest.raises(InputError, match=said):
            convert_yolo(data, "train", tmp_path / "out")


def test_values_of_yaml_that_its_reader_cannot_make(tmp_path):
    tool_files.yolo(tmp_path, "")
    (tmp_path / "data.yaml").write_text("train: images\nnames: [!!timestamp a]\n")
    with pytest.raises(InputError, match=r"data\.yaml: is not YAML"):
        convert_yolo(tmp_path / "data.yaml", "train", tmp_path / "out")


def test_voc_lists_name_images_once_and_at_most_255_classes(tmp_path):
    root = tool_files.voc(tmp_path / "voc")
    (root / "ImageSets/Segmentation/train.txt").write_text("2007_000032\n\n2007_000032\n")
    with pytest.raises(InputError, match=r"train\.txt, line 3: '2007_000032' is listed twice"):
        convert_voc(root, "train", tmp_path / "out")
    (root / "class_names.txt").write_text("\n".join(map(str, range(300))))
    with pytest.raises(InputError, match="holds more than 255 classes"):
        convert_voc(root, "train", tmp_path / "out")


def test_objects_of_a_label_map_are_counted(tmp_path, monkeypatch):
    tool_files.photo(tmp_path / "a.png", (4, 4))
    np.save(tmp_path / "a_masks.npy", np.arange(16, dtype=np.int32).reshape(4, 4))
    monkeypatch.setattr(cells, "MOST_SEGMENTS", 14)
    with pytest.raises(InputError, match="holds 15 objects, more than 14"):
        convert_cells(tmp_path, tmp_path / "out")


@pytest.mark.parametrize(
    "pickled",
    [
        b"\x80\x02](" + b"]" * 4000 + b"e.",
        b"\x80\x02(" + b"".join(b"ca\n%x\n" % n for n in range(4000)) + b"l.",
        b"\x80\x02}(" + b")q\x01" + b"h\x01h\x01\x86q\x01" * 60 + b"h\x01K\x01u.",
    ],
    ids=["lists", "classes", "a key of shared tuples"],
)
def test_a_pickle_of_cellpose_is_counted_before_it_is_read(tmp_path, monkeypatch, pickled):
    monkeypatch.setattr(cells, "_MOST_STEPS", 1000)
    tool_files.photo(tmp_path / "a.png", (4, 4))
    head = b"{'descr': '|O', 'fortran_order': False, 'shape': (), }".ljust(117) + b"\n"
    (tmp_path / "a_seg.npy").write_bytes(b"\x93NUMPY\x01\x00\x76\x00" + head + pickled)
    with pytest.raises(InputError, match="is not an NPY file"):
        convert_cells(tmp_path, tmp_path / "out")


def test_segments_of_an_annotation_are_counted(monkeypatch):
    monkeypatch.setattr(annotations, "MOST_SEGMENTS", 2)
    entry = {"image_id": 1, "file_name": "a.png", "segments_info": [{}] * 3}
    with pytest.raises(InputError, match="holds more than 2"):
        read_annotation(entry, "a.json", None)


def test_objects_of_an_item_of_json_are_counted(tmp_path, monkeypatch):
    monkeypatch.setattr(reading, "_MOST_OBJECTS", 1000)
    monkeypatch.setattr(reading, "_CHUNK", 1 << 12)
    (tmp_path / "a.json").write_text(json.dumps({"a": [[{}] * 5000]}))
    with pytest.raises(InputError, match="holds an item of more than 1,000 objects"):
        list(stream_json(tmp_path / "a.json"))


# ---------------------------------------------------------------------------------------------------- what masks take


def test_masks_without_a_pixel_count_as_much_as_drawing_them_took():
    size = (64, 64)
    rle = {"size": [64, 64], "counts": [0, 1, 64 * 63 - 1, 1, 63]}  # first pixels of first and last column
    crop = decode_crop(rle, size)
    assert crop.pixels.size == 64 and crop.work >= 64 * 64
    assert crop.pixels.base is None or crop.pixels.base.size < 64 * 64  # the rest is not kept
    assert decode_crop({"size": [64, 64], "counts": [4096]}, size).work > 0
    outside = decode_crop([[0, -9, 64, -9, 64, -8]], size)
    assert not outside.pixels.size and outside.work >= polygons._WORK
    blank = np.zeros((5, 7), bool)
    assert Crop.of(blank).work == 35


@pytest.mark.parametrize(
    ("limit", "crop", "said"),
    [
        ("MOST_SHAPES", Crop.empty(), "more than 9 shapes"),
        ("_MOST_PIXELS", Crop.of(np.ones((1, 1), bool)), "boxes hold 10 pixels"),
        ("_MOST_WORK", Crop.empty(1), "too long to draw"),
    ],
)
def test_masks_of_an_image_are_bounded(monkeypatch, limit, crop, said):
    monkeypatch.setattr(runs, limit, 9)
    drawing = Drawing()
    for _ in range(9):
        drawing.add(crop)
    with pytest.raises(ValueError, match=said):
        drawing.add(crop)


def test_shapes_are_drawn_one_by_one_until_the_limit(tmp_path, monkeypatch):
    drawn: list[int] = []
    from banet.data.convert import coco

    outlined = coco.outlined
    monkeypatch.setattr(coco, "outlined", lambda *args: drawn.append(1) or outlined(*args))
    monkeypatch.setattr(runs, "MOST_SHAPES", 5)
    tool_files.photo(tmp_path / "a.png")
    content = {
        "images": [{"id": 1, "file_name": "a.png", "width": 40, "height": 30}],
        "annotations": [{"image_id": 1, "category_id": 1, "segmentation": [[1, 1, 9, 1, 9, 9]]}] * 100,
        "categories": [{"id": 1, "name": "a"}],
    }
    (tmp_path / "a.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match="has more than 5 shapes"):
        convert_coco(tmp_path, tmp_path / "a.json", tmp_path / "out")
    assert len(drawn) == 6


def test_corners_of_an_object_are_bounded(monkeypatch):
    monkeypatch.setattr(polygons, "_MOST_CORNERS", 5)
    with pytest.raises(ValueError, match="polygon 1 has more than 5 corners, with those before"):
        polygons.read_polygons([[0, 0, 1, 1, 2, 2]] * 2)


def test_stretches_of_masks_are_bounded(monkeypatch):
    monkeypatch.setattr(regions, "_MOST_INTERVALS", 7)
    checkered = np.indices((4, 4)).sum(axis=0) % 2 == 0
    with pytest.raises(InputError, match="more than 7 stretches"):
        Regions.of(MaskCrops(np.array([[0, 0, 4, 4]]), [checkered], (4, 4)))


@given(st.integers(0, 2**32), st.booleans())
def test_brushes_are_painted_as_their_values_say(seed, singles):
    rng = np.random.default_rng(seed)
    mask = np.repeat(rng.random((9, 3)) < 0.4, 4, axis=1)
    mask[: rng.integers(9)] = False
    rle = tool_files.brush(mask, singles)
    region = label_studio._Region("", "", "a", "brushlabels", {"rle": rle}, (None, None))
    found = label_studio._brush(region, mask.shape).paste(mask.shape)
    assert np.array_equal(found, decode_brush(bytes(rle)).reshape(*mask.shape, 4)[..., 3] > 0)
    assert np.array_equal(found, mask)


# ----------------------------------------------------------------------------------------------------- fast equals slow


@given(st.lists(st.sampled_from(["1", "-2.5", "+.5", "1e3", "7.", "nan", "inf", "1_0", "x", "1e400", "٣"]), max_size=4))
def test_many_numbers_are_read_as_one_by_one(words):
    slow = [as_number(word) for word in words]
    assert as_numbers(words) == (None if None in slow else slow)


@given(st.integers(0, 2**32), st.sampled_from([3, 1000, 2**18]))
def test_ids_are_found_and_measured_by_tables_as_by_sorting(seed, highest):
    ids = np.random.default_rng(seed).integers(0, highest, (6, 7), dtype=np.int32, endpoint=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(id_maps, "_MANY", 1)
        patch.setattr(id_maps, "_BAND", 14)
        tables = find_ids(ids), *measure_ids(ids)
    assert np.array_equal(tables[0], np.unique(ids[ids != 0]))
    for fast, slow in zip(tables[1:], measure_ids(ids), strict=True):
        assert np.array_equal(fast, slow)

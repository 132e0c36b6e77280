"""Files of other tools, in their own layouts, and where a tool is installed (extra `formats`), written by it."""

from __future__ import annotations

import json
import os
import pickle
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from miniatures import read_back
from numpy.typing import NDArray
from PIL import Image
from tool_files import (
    CELLS,
    POLYGON,
    SIZE,
    SMALL,
    SQUARE,
    box,
    brush,
    cellpose,
    convert,
    data_url,
    datumaro,
    found,
    mapillary,
    photo,
    result,
    same,
    tasks,
    voc,
    yolo,
)

from banet.data.convert.cells import read_instance_map
from banet.data.convert.label_studio import decode_brush
from banet.data.convert.output import find_image_names
from banet.data.convert.voc import voc_colors
from banet.errors import InputError
from banet.panoptic.coco.outlines import join_outlines, trace_outlines
from banet.panoptic.coco.rle import decode_polygons, encode_rle

# ------------------------------------------------------------------------------------------------------------ outlines


@given(st.integers(0, 2**32), st.integers(1, 12), st.integers(1, 12), st.sampled_from([0.2, 0.5, 0.8]))
def test_outlines_give_the_mask_back(seed: int, height: int, width: int, density: float) -> None:
    mask = np.random.default_rng(seed).random((height, width)) < density
    outlines = trace_outlines(mask, 3, 5)
    placed = np.zeros((height + 9, width + 7), bool)
    placed[5 : 5 + height, 3 : 3 + width] = mask
    assert np.array_equal(decode_polygons([ring.ravel().tolist() for ring in outlines], placed.shape), placed)
    assert len(outlines) == parts(mask)
    if outlines:
        joined = join_outlines(outlines)
        assert np.array_equal(decode_polygons([joined.ravel().tolist()], placed.shape), placed)


def parts(mask: NDArray[np.bool_]) -> int:
    """Number of parts that are connected by edges, by a flood from each pixel that was not reached yet."""
    left, count = {(int(y), int(x)) for y, x in np.argwhere(mask)}, 0
    while left:
        count += 1
        stack = [left.pop()]
        while stack:
            y, x = stack.pop()
            for near in ((y + 1, x), (y - 1, x), (y, x + 1), (y, x - 1)):
                if near in left:
                    left.remove(near)
                    stack.append(near)
    return count


# ---------------------------------------------------------------------------------------------------------------- YOLO


def test_yolo(tmp_path: Path, capsys: Any) -> None:
    """A square; one with confidence; a double; two parts joined by a line; a box and a line without an area."""
    joined = "0 0.6 0.6 0.7 0.6 0.7 0.7 0.6 0.7 0.6 0.6 0.8 0.8 0.9 0.8 0.9 0.9 0.8 0.9 0.8 0.8\n"
    text = SQUARE + SQUARE + joined + "1 0 0 1 0 1 0.05 0 0.05 0.9\n" + "0 0.5 0.5 0.2 0.2\n" + "0 0.1 0.1 0.2\n"
    data = yolo(tmp_path, "\ufeff" + text)
    for split, name in (("train", "deep/a.png"), ("val", "deep/a.png")):
        assert convert("yolo", "--data", data, "--split", split, "--stuff", "[sky]", "--out", tmp_path / split) == 0
        masks = found(tmp_path / split, name)
        same(masks["cup"], box(4, 3, 20, 15), box(24, 18, 28, 21) | box(32, 24, 36, 27))
        assert masks["sky"][0][:1].all()
        assert found(tmp_path / split, "empty.jpg") == {}
    said = capsys.readouterr().out
    assert "1 without an outline (a box): line 5 of deep/a.png" in said and "1 too few corners: line 6" in said


@pytest.mark.parametrize(
    ("labels", "fields", "said"),
    [
        ("0 0.1 0.1 0.5 x 0.5 0.5\n", {}, ["a.txt: line 1", "'x', not a number"]),
        ("2 0.1 0.1 0.5 0.1 0.5 0.5\n", {}, ["a.txt: line 1", "class 2", "data.yaml"]),
        ("0.5 0.1 0.1 0.5 0.1 0.5 0.5\n", {}, ["class 0.5"]),
        (SQUARE + "0 10 10 50 10 50 50\n", {}, ["line 2", "not in 0..1", "divide"]),
        (SQUARE, {"names": {0: "cup", 1: "cup"}}, ["names", "'cup' occurs twice"]),
        (SQUARE, {"names": {}}, ["names"]),
        (SQUARE, {"names": {"a": "b"}}, ["names", "'a'"]),
        (SQUARE, {"train": "nowhere"}, ["data.yaml: train", "nowhere", "does not exist"]),
        (SQUARE, {"train": 7}, ["data.yaml: train", "must be names"]),
        (SQUARE, {"train": "x" * 70_000}, ["data.yaml: train", "does not exist"]),
        (SQUARE, {"names": ["x"] * 90_000}, ["data.yaml", "larger than 256 KB"]),
        ("0 " + "0.1 0.5 " * 600_000 + "\n", {}, ["a.txt: line 1", "longer than 4,194,304 characters"]),
        (SQUARE, {"train": None}, ["has no split train", "val"]),
    ],
)
def test_bad_yolo(tmp_path: Path, capsys: Any, labels: str, fields: dict[str, Any], said: list[str]) -> None:
    data = yolo(tmp_path, labels, **fields)
    assert convert("yolo", "--data", data, "--split", "train", "--out", tmp_path / "out") == 2
    error = capsys.readouterr().err
    assert all(word in error for word in said), error
    assert not (tmp_path / "out").exists()


def test_a_class_of_yolo_whose_name_is_a_number_of_thousands_of_digits(tmp_path: Path, capsys: Any) -> None:
    data = yolo(tmp_path, SQUARE)
    data.write_text(f"train: images/train\nnames: [a, 0x{'f' * 5000}]\n")
    assert convert("yolo", "--data", data, "--split", "train", "--out", tmp_path / "out") == 2
    assert "is not index: name" in capsys.readouterr().err


def test_yolo_of_folders_and_lists_by_a_relative_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    yolo(tmp_path, SQUARE, train=["images/train", "list.txt"])
    (tmp_path / "images" / "more").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "images" / "more" / "c.png")
    (tmp_path / "list.txt").write_text("./images/more/c.png\n")
    monkeypatch.chdir(tmp_path)
    assert convert("yolo", "--data", "data.yaml", "--split", "train", "--out", "out") == 0
    assert "more/c.png" in read_back(tmp_path / "out")


def test_yolo_without_any_labels(tmp_path: Path, capsys: Any) -> None:
    data = yolo(tmp_path, SQUARE)
    for path in tmp_path.rglob("*.txt"):
        path.unlink()
    assert convert("yolo", "--data", data, "--split", "train", "--out", tmp_path / "out") == 2
    assert "no image of it has labels" in capsys.readouterr().err


def test_a_fault_in_the_json_of_stuff_names_that_file(tmp_path: Path, capsys: Any) -> None:
    (tmp_path / "images").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "images" / "a.png")
    info = {"id": 1, "file_name": "a.png", "width": 8, "height": 8}
    bad = {"id": 7, "image_id": 1, "category_id": 2, "segmentation": 3}
    things = {"images": [info], "annotations": [], "categories": [{"id": 1, "name": "cup"}]}
    stuff = {"images": [info], "annotations": [bad], "categories": [{"id": 2, "name": "sky"}]}
    for name, content in (("things", things), ("stuff", stuff)):
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
    words = ["--images", tmp_path / "images", "--instances", tmp_path / "things.json", "--out", tmp_path / "out"]
    assert convert("coco", *words, "--stuff", tmp_path / "stuff.json") == 2
    assert f"{tmp_path / 'stuff.json'}: annotations[0] (id 7)" in capsys.readouterr().err


def test_folders_that_are_hidden_or_links(tmp_path: Path) -> None:
    """Hidden folders hold copies of editors; links to folders are followed, and a loop of them ends."""
    photo(tmp_path / "else" / "b.png")
    photo(tmp_path / "images" / ".ipynb_checkpoints" / "a.png")
    photo(tmp_path / "images" / "a.png")
    (tmp_path / "images" / "far").symlink_to(tmp_path / "else")
    (tmp_path / "images" / "loop").symlink_to(tmp_path / "images")
    (tmp_path / "else" / "up").symlink_to(tmp_path / "images")
    assert find_image_names(tmp_path / "images") == ["a.png", "far/b.png"]


def test_layouts_of_yolo(tmp_path: Path) -> None:
    """Roboflow's train/images with ../train/images in data.yaml, and lists of images."""
    photo(tmp_path / "set/train/images/a.jpg")
    (tmp_path / "set/train/labels").mkdir()
    (tmp_path / "set/train/labels/a.txt").write_text(SQUARE)
    (tmp_path / "set/list.txt").write_text("./train/images/a.jpg\n")
    content = "train: ../train/images\nval: list.txt\nnc: 1\nnames: ['cup']\n"
    (tmp_path / "set/data.yaml").write_text(content)
    for split in ("train", "val"):
        assert convert("yolo", "--data", tmp_path / "set", "--split", split, "--out", tmp_path / split) == 0
        same(found(tmp_path / split, "a.jpg")["cup"], box(4, 3, 20, 15))


def test_what_ultralytics_makes_of_coco(tmp_path: Path) -> None:
    converter = pytest.importorskip("ultralytics.data.converter")
    two = [[4, 3, 12, 3, 12, 9, 4, 9], [20, 20, 30, 20, 30, 28, 20, 28], [33, 2, 38, 2, 38, 8, 33, 8]]
    content = {
        "images": [{"id": 1, "file_name": "a.png", "width": 40, "height": 30}],
        "annotations": [
            {"id": 1, "image_id": 1, "category_id": 1, "bbox": [4, 3, 34, 25], "segmentation": two, "iscrowd": 0},
            {
                "id": 2,
                "image_id": 1,
                "category_id": 2,
                "bbox": [15, 10, 3, 5],
                "segmentation": [[15, 10, 18, 10, 18, 15, 15, 15]],
                "iscrowd": 0,
            },
        ],
        "categories": [{"id": 1, "name": "cup"}, {"id": 2, "name": "dog"}],
    }
    (tmp_path / "coco").mkdir()
    (tmp_path / "coco/instances_train.json").write_text(json.dumps(content))
    converter.convert_coco(str(tmp_path / "coco"), str(tmp_path / "yolo"), use_segments=True, cls91to80=False)
    photo(tmp_path / "yolo/images/train/a.png")
    (tmp_path / "yolo/data.yaml").write_text("train: images/train\nval: images/train\nnames: [cup, dog]\n")
    assert convert("yolo", "--data", tmp_path / "yolo", "--split", "train", "--out", tmp_path / "out") == 0
    masks = found(tmp_path / "out", "a.png")
    same(masks["cup"], box(4, 3, 12, 9) | box(20, 20, 30, 28) | box(33, 2, 38, 8))
    same(masks["dog"], box(15, 10, 18, 15))


# ----------------------------------------------------------------------------------------------------------------- VOC


def test_voc_colors_are_those_of_the_kit() -> None:
    assert voc_colors()[[1, 8, 15, 20, 255]].tolist() == [
        [128, 0, 0],
        [64, 0, 0],
        [192, 128, 128],
        [0, 64, 128],
        [224, 224, 192],
    ]


@pytest.mark.parametrize("rgb", [False, True])
def test_voc(tmp_path: Path, rgb: bool) -> None:
    root = voc(tmp_path / "VOC2012", rgb=rgb)
    for split in ("train", "all"):
        assert convert("voc", "--root", root, "--split", split, "--out", tmp_path / split) == 0
        masks = found(tmp_path / split, "2007_000032.jpg")
        same(masks.pop("person"), box(5, 5, 19, 19))
        same(masks.pop("cat"), box(25, 10, 35, 25))
        same(masks.pop("cat*"), box(0, 0, 40, 1))  # of no object
        assert not masks


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda r: (r / "SegmentationObject/2007_000032.png").unlink(), ["SegmentationObject", "does not exist"]),
        (lambda r: (r / "JPEGImages/2007_000032.jpg").unlink(), ["JPEGImages", "no image '2007_000032'"]),
        (lambda r: os.rename(r / "SegmentationObject", r / "x"), ["SegmentationObject", "data convert maps"]),
        (lambda r: (r / "ImageSets/Segmentation/train.txt").unlink(), ["train.txt", "there are all"]),
        (lambda r: (r / "ImageSets/Segmentation/train.txt").write_text("../x"), ["train.txt, line 1", "leads out"]),
        (lambda r: (r / "labelmap.txt").write_text("a:1,2::\n"), ["labelmap.txt", "red,green,blue"]),
        (lambda r: (r / "labelmap.txt").write_text("a:1,2,3::\na:4,5,6::\n"), ["labelmap.txt", "'a' occurs twice"]),
        (lambda r: (r / "class_names.txt").write_text("_background_\ncup\n"), ["2007_000032.png", "label 8, 15"]),
        (lambda r: photo(r / "SegmentationClass/2007_000032.png"), ["2007_000032.png", "the colour ("]),
        (lambda r: photo(r / "JPEGImages/2007_000032.jpg", (9, 9)), ["40x30", "9x9"]),
    ],
)
def test_bad_voc(tmp_path: Path, capsys: Any, damage: Callable[[Path], Any], said: list[str]) -> None:
    root = voc(tmp_path / "VOC2012")
    damage(root)
    assert convert("voc", "--root", root, "--split", "train", "--out", tmp_path / "out") == 2
    error = capsys.readouterr().err
    assert all(word in error for word in said), error


# -------------------------------------------------------------------------------------------------------- Label Studio


@pytest.mark.parametrize("singles", [False, True])
def test_brushes(singles: bool) -> None:
    mask = np.random.default_rng(3).random((9, 11)) < 0.4
    assert np.array_equal(decode_brush(bytes(brush(mask, singles))).reshape(9, 11, 4)[..., 3] > 0, mask)
    with pytest.raises(ValueError, match="cut off"):
        decode_brush(bytes(brush(mask, singles)[:-2]))


def test_brushes_of_the_sdk() -> None:
    codec = pytest.importorskip("label_studio_sdk.converter.brush")
    rng = np.random.default_rng(0)
    for density in (0.1, 0.5, 0.995):
        mask = (rng.random((37, 53)) < density).astype(np.uint8) * 255
        assert np.array_equal(decode_brush(bytes(codec.mask2rle(mask))).reshape(37, 53, 4)[..., 3], mask)


def test_label_studio(tmp_path: Path, capsys: Any) -> None:
    drawn, bits = box(30, 20, 38, 28), box(22, 2, 30, 8)
    file = tasks(
        tmp_path,
        POLYGON,
        result("brushlabels", {"format": "rle", "rle": brush(drawn), "brushlabels": ["dog"]}),
        result("bitmasklabels", {"imageDataURL": data_url(bits), "bitmasklabels": ["dog"]}),
        result(
            "rectanglelabels", {"x": 0, "y": 90, "width": 100, "height": 10, "rotation": 0, "rectanglelabels": ["sky"]}
        ),
        result(
            "rectanglelabels", {"x": 40, "y": 60, "width": 20, "height": 10, "rotation": 90, "rectanglelabels": ["dog"]}
        ),
        result(
            "ellipselabels", {"x": 90, "y": 25, "radiusX": 5, "radiusY": 10, "rotation": 0, "ellipselabels": ["cup"]}
        ),
        result("keypointlabels", {"x": 5, "y": 5, "width": 1, "keypointlabels": ["cup"]}),
        result("polygon", {"points": [[0, 60], [10, 60], [10, 80], [0, 80]]}, id="two"),
        result("labels", {"points": [[0, 60], [10, 60], [10, 80], [0, 80]], "labels": ["cup"]}, id="two"),
        {"type": "relation", "from_id": "a", "to_id": "b"},
        {"type": "choices", "value": {"choices": ["good"]}, "from_name": "x", "to_name": "image"},
    )
    words = ["--annotations", file, "--images", tmp_path / "photos", "--stuff", "[sky]"]
    assert convert("label-studio", *words, "--out", tmp_path / "out") == 0
    said = capsys.readouterr()
    assert "1 of 2 tasks without an annotation are left out" in said.err and "of 1 tasks with several" in said.err
    assert "1 without an area (keypointlabels)" in said.out
    masks = found(tmp_path / "out", "my cup.png")
    # turned by 90 degrees about its upper left corner, a rectangle of 8 by 3 goes 3 to the left and 8 down
    same(masks["dog"], drawn, bits, box(13, 18, 16, 26))
    same(masks["sky"], box(0, 27, 40, 30) & ~drawn)
    assert sum(np.array_equal(mask, box(4, 3, 20, 15)) for mask in masks["cup"]) == 1
    assert sum(np.array_equal(mask, box(0, 18, 4, 24)) for mask in masks["cup"]) == 1
    ellipse = max(masks["cup"], key=lambda mask: int(np.argwhere(mask)[:, 1].max()))
    assert ellipse[5:10, 35:37].all() and not ellipse[:4].any() and not ellipse[:, :33].any()


def test_label_studio_json_min(tmp_path: Path) -> None:
    photo(tmp_path / "photos/a.png")
    value = {**POLYGON["value"], "original_width": 40, "original_height": 30}
    others = {"caption": "A cup. It stands", "created": "2024-05-01T10:00:00.123Z", "note": "//[x"}  # no image's name
    content = [{**others, "image": "/data/local-files/?d=photos/a.png", "id": 1, "label": [value], "annotator": 1}]
    (tmp_path / "min.json").write_text(json.dumps(content))
    words = ["--annotations", tmp_path / "min.json", "--images", tmp_path / "photos", "--out", tmp_path / "out"]
    assert convert("label-studio", *words) == 0
    same(found(tmp_path / "out", "a.png")["cup"], box(4, 3, 20, 15))


@pytest.mark.parametrize(
    ("changed", "image", "said"),
    [
        ({"image_rotation": 90}, "", ["image_rotation is 90", "turn"]),
        ({"original_width": 80}, "", ["original_width is 80", "40x30"]),
        ({}, "x/none.png", ["'none.png' is not in", "put it there"]),
        ({"value": {"rle": [1, 2, 3], "brushlabels": ["cup"]}}, "", ["rle is cut off", "draw it anew"]),
        ({"value": {"rle": [999], "brushlabels": ["cup"]}}, "", ["rle must be a list of bytes"]),
        ({"value": {"rle": brush(np.ones((3, 3), bool)), "brushlabels": ["cup"]}}, "", ["36 values, not 4 x 40 x 30"]),
        ({"value": {"points": [[1, "x"]], "polygonlabels": ["cup"]}}, "", ["points must be pairs"]),
        ({"value": {"points": None, "polygonlabels": ["cup"]}}, "", ["points must be pairs"]),
        ({}, "//[x", ["no field with the name of an image"]),
        (
            {"value": {"x": 1, "y": "b", "width": 1, "height": 1, "rectanglelabels": ["cup"]}},
            "",
            ["y must be a number"],
        ),
        (
            {"value": {"vertices": [], "vectorlabels": ["cup"]}, "type": "vectorlabels"},
            "",
            ["'vectorlabels'", "outline"],
        ),
        ({"value": {"imageDataURL": "data:,x", "bitmasklabels": ["cup"]}}, "", ["imageDataURL"]),
    ],
)
def test_bad_label_studio(tmp_path: Path, capsys: Any, changed: dict[str, Any], image: str, said: list[str]) -> None:
    file = tasks(tmp_path, {**POLYGON, **changed}, **({"image": image} if image else {}))
    words = ["--annotations", file, "--images", tmp_path / "photos", "--out", tmp_path / "out"]
    assert convert("label-studio", *words) == 2
    error = capsys.readouterr().err
    assert all(word in error for word in said), error
    assert "export.json" in error


# ----------------------------------------------------------------------------------------------------------- Mapillary


@pytest.mark.parametrize("version", ["v1.2", "v2.0"])
@pytest.mark.parametrize("panoptic", [False, True])
def test_mapillary(tmp_path: Path, version: str, panoptic: bool) -> None:
    root = mapillary(tmp_path / "vistas", version, panoptic=panoptic)
    words = ["--root", root, "--split", "training", "--version", version, "--out", tmp_path / "out"]
    assert convert("mapillary", *words) == 0
    masks = found(tmp_path / "out", "M2kh.jpg")
    same(masks["Bench"], box(0, 20, 10, 30), box(15, 20, 25, 30))
    same(masks["Sky"], ~(box(0, 20, 10, 30) | box(15, 20, 25, 30) | box(30, 25, 40, 30)))
    result = read_back(tmp_path / "out")["M2kh.jpg"]
    assert [(c.id, c.name, c.isthing, c.color) for c in result.categories] == [
        (1, "Bench", True, (250, 0, 30)),
        (2, "Sky", False, (70, 130, 180)),
    ]


def test_the_first_mapillary_has_no_versions(tmp_path: Path, capsys: Any) -> None:
    root = mapillary(tmp_path / "vistas", "v1.2", panoptic=False)
    os.rename(root / "training/v1.2/instances", root / "training/instances")
    (root / "training/v1.2").rmdir()
    os.rename(root / "config_v1.2.json", root / "config.json")
    words = ["--root", root, "--split", "training", "--out", tmp_path / "out"]
    assert convert("mapillary", *words) == 2
    assert "--version v1.2" in capsys.readouterr().err
    assert convert("mapillary", *words, "--version", "v1.2") == 0
    (root / "config.json").write_text("[]")
    assert convert("mapillary", *words, "--version", "v1.2", "--overwrite") == 2
    assert "config" in capsys.readouterr().err


# ------------------------------------------------------------------------------------------------------------ datumaro


@pytest.mark.parametrize("task", ["instances", "stuff", "panoptic"])
def test_datumaro(tmp_path: Path, capsys: Any, task: str) -> None:
    root = datumaro(tmp_path / "export", task)
    words = ["--root", root, "--split", "train", "--stuff", "[sky]"]
    assert convert("datumaro", *words, "--out", tmp_path / "out") == 0
    said = capsys.readouterr()
    masks = found(tmp_path / "out", "a.jpg")
    same(masks["sky"], box(0, 0, 40, 3))
    if task == "panoptic":
        same(masks["cat"], box(5, 5, 20, 20))
        assert "1 no pixel in the PNG: segment 1 of a.jpg" in said.out
        assert convert("datumaro", "--root", root, "--split", "train", "--out", tmp_path / "x") == 2
        assert "says isthing 0 of every class" in capsys.readouterr().err
    else:
        same(masks["cat*"], box(5, 5, 20, 20))
        assert "--no-crowd" in said.err
        assert convert("datumaro", *words, "--no-crowd", "--out", tmp_path / "single") == 0
        same(found(tmp_path / "single", "a.jpg")["cat"], box(5, 5, 20, 20))


def test_datumaro_without_stuff_takes_the_classes_as_the_file_says(tmp_path: Path, capsys: Any) -> None:
    root = datumaro(tmp_path / "export", "instances")
    file = root / "annotations/instances_train.json"
    content = json.loads(file.read_text())
    content["categories"][1]["isthing"] = 0
    file.write_text(json.dumps(content))
    words = ["--root", root, "--split", "train"]
    assert convert("datumaro", *words, "--out", tmp_path / "out") == 0
    written = json.loads((tmp_path / "out/panoptic.json").read_text())
    assert [(entry["name"], entry["isthing"]) for entry in written["categories"]] == [("cat", 1), ("sky", 0)]
    capsys.readouterr()
    for name in (7, None):
        content["categories"][1]["name"] = name
        file.write_text(json.dumps(content))
        assert convert("datumaro", *words, "--out", tmp_path / "bad") == 2
        assert "instances_train.json: categories[1]" in capsys.readouterr().err


def test_bad_datumaro(tmp_path: Path, capsys: Any) -> None:
    root = datumaro(tmp_path / "export", "instances")
    for words, said in (
        (["--split", "val"], ["panoptic|instances|stuff_val.json", "instances_train.json"]),
        (["--split", "train", "--task", "panoptic"], ["holds no panoptic_train.json"]),
        (["--split", "train", "--stuff", "[sea]"], ["--stuff sea", "'cat', 'sky'"]),
    ):
        assert convert("datumaro", "--root", root, *words, "--out", tmp_path / "out") == 2
        error = capsys.readouterr().err
        assert all(word in error for word in said), error


@pytest.mark.parametrize("layout", ["coco_instances", "coco_panoptic", "coco_stuff", "voc", "coco"])
def test_what_datumaro_writes(tmp_path: Path, layout: str) -> None:
    dm = pytest.importorskip("datumaro")
    pixels = np.random.default_rng(0).integers(0, 256, (*SIZE, 3), dtype=np.uint8)
    cat = box(5, 5, 20, 20) & ~box(8, 8, 10, 10)
    drawn = [dm.Mask(cat, label=0, id=1, group=1), dm.Mask(box(0, 0, 40, 3), label=1, id=2, group=2)]
    item = dm.DatasetItem(id="a", subset="train", media=dm.Image.from_numpy(pixels), annotations=drawn)
    dm.Dataset.from_iterable([item], categories=["cat", "sky"]).export(str(tmp_path / "x"), layout, save_media=True)
    words = ["--root", tmp_path / "x", "--split", "train", "--stuff", "[sky]", "--out", tmp_path / "out"]
    assert convert("voc" if layout == "voc" else "datumaro", *words, *(["--no-crowd"] * (layout != "voc"))) == 0
    masks = found(tmp_path / "out", "a.jpg")
    same(masks["cat"], cat)
    same(masks["sky"], box(0, 0, 40, 3))


# ------------------------------------------------------------------------------------------------- COCO with stuff PNGs


def test_stuffthingmaps_of_coco_stuff(tmp_path: Path, capsys: Any) -> None:
    """Their labels are ids - 1, and 255 is unlabelled; thing labels are void."""
    photo(tmp_path / "val2017/a.jpg")
    labels = np.full(SIZE, 255, np.uint8)
    labels[:10], labels[10:20] = 156, 0
    (tmp_path / "maps").mkdir()
    Image.fromarray(labels).save(tmp_path / "maps/a.png")
    classes = [{"id": 1, "name": "person", "isthing": 1}, {"id": 157, "name": "sky-other", "isthing": 0}]
    (tmp_path / "classes.json").write_text(json.dumps(classes))
    content = {
        "images": [{"id": 1, "file_name": "a.jpg", "width": 40, "height": 30}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "segmentation": encode_rle(box(5, 5, 20, 20))}],
        "categories": classes[:1],
    }
    (tmp_path / "instances.json").write_text(json.dumps(content))
    words = ["--images", tmp_path / "val2017", "--instances", tmp_path / "instances.json", "--stuff", tmp_path / "maps"]
    words += ["--categories", tmp_path / "classes.json"]
    assert convert("coco", *words, "--out", tmp_path / "wrong") == 2
    assert "has the label 156" in capsys.readouterr().err
    assert convert("coco", *words, "--label-offset", "1", "--out", tmp_path / "out") == 0
    masks = found(tmp_path / "out", "a.jpg")
    same(masks["person"], box(5, 5, 20, 20))
    same(masks["sky-other"], box(0, 0, 40, 10) & ~box(5, 5, 20, 20))


# --------------------------------------------------------------------------------------------------------------- cells


WAYS: dict[str, Callable[[Path], Any]] = {
    "a_cp_masks.png": lambda path: Image.fromarray(SMALL.astype(np.uint16)).save(path),
    "a_masks.tif": lambda path: Image.fromarray(SMALL.astype(np.uint16)).save(path, compression="tiff_lzw"),
    "a_label.tif": lambda path: Image.fromarray(CELLS.astype(np.int32)).save(path),
    "a_labels.tiff": lambda path: Image.fromarray(CELLS.astype(np.float32)).save(path),
    "a_masks.npy": lambda path: np.save(path, CELLS.astype(np.int64)),
    "a_seg.npy": lambda path: cellpose(path, CELLS.astype(np.uint32)),
    "a_mask.npy": lambda path: np.save(path, np.asfortranarray(SMALL.astype(">u2"))[None]),
}


@pytest.mark.parametrize("name", WAYS)
def test_cells(tmp_path: Path, name: str) -> None:
    photo(tmp_path / "photos/a.tif")
    photo(tmp_path / "photos/a_flows.tif")  # Cellpose's own, which is not an image to convert
    WAYS[name](tmp_path / "photos" / name)
    assert convert("cells", "--images", tmp_path / "photos", "--label", "nucleus", "--out", tmp_path / "out") == 0
    masks = found(tmp_path / "out", "a.tif")
    same(masks.pop("nucleus"), box(3, 3, 12, 10), box(20, 15, 38, 28))
    same(masks.pop("background"), CELLS == 0)
    assert not masks


def test_cells_of_the_tools(tmp_path: Path) -> None:
    tifffile = pytest.importorskip("tifffile")
    for kind, compression in ((np.uint16, None), (np.uint32, "zlib"), (np.int32, None), (np.uint8, None)):
        expected = CELLS if np.dtype(kind).itemsize > 2 else SMALL if kind != np.uint8 else SMALL % 256
        tifffile.imwrite(tmp_path / "a.tif", expected.astype(kind), compression=compression)
        assert np.array_equal(read_instance_map(tmp_path / "a.tif"), expected)
    tifffile.imwrite(tmp_path / "imagej.tif", SMALL.astype(np.int16), imagej=True, metadata={"axes": "YX"})
    assert np.array_equal(read_instance_map(tmp_path / "imagej.tif"), SMALL)
    cio = pytest.importorskip("cellpose.io")
    photo(tmp_path / "a.png")
    flows = [np.zeros((*SIZE, 3), np.uint8), np.zeros((2, *SIZE), np.float32), *2 * [np.zeros(SIZE, np.float32)]]
    cio.masks_flows_to_seg(np.zeros((*SIZE, 3), np.uint8), SMALL.astype(np.uint16), flows, str(tmp_path / "a.png"))
    assert np.array_equal(read_instance_map(tmp_path / "a_seg.npy"), SMALL)


class _Bomb:
    """Runs code when it is unpickled the usual way."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return exec, (f"open({str(self.mark)!r}, 'w')",)


def test_unpickling_runs_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bomb = _Bomb(tmp_path / "exploded")
    cellpose(tmp_path / "a_seg.npy", CELLS.astype(np.uint32), filename=Path("a.tif"), more=bomb)
    assert np.array_equal(read_instance_map(tmp_path / "a_seg.npy"), CELLS)  # the masks are there and plain
    cellpose(tmp_path / "b_seg.npy", bomb)  # type: ignore[arg-type]
    header = (tmp_path / "b_seg.npy").read_bytes()[:128]
    (tmp_path / "c_seg.npy").write_bytes(header + pickle.dumps(bomb))
    (tmp_path / "d_seg.npy").write_bytes(header + b"cos\nsystem\n(S'touch x'\ntR.")
    # the module that a pickle names is not even imported
    (tmp_path / "loud.py").write_text("raise SystemExit('imported')")
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "e_seg.npy").write_bytes(header + b"cloud\nthing\n.")
    for name in "bcde":
        with pytest.raises(InputError, match=r"_seg\.npy: .*save the masks as TIFF"):
            read_instance_map(tmp_path / f"{name}_seg.npy")
    assert not (tmp_path / "exploded").exists() and "loud" not in sys.modules
    bomb_memo = header + b"\x80\x04r" + (2**31).to_bytes(4, "little") + b"N."
    (tmp_path / "f_seg.npy").write_bytes(bomb_memo)
    with pytest.raises(InputError):
        read_instance_map(tmp_path / "f_seg.npy")


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda p: np.save(p.with_suffix(".npy"), np.zeros((3, 30, 40), int)), ["(3, 30, 40), not (H, W)", "slice"]),
        (lambda p: np.save(p.with_suffix(".npy"), CELLS + 0.5), ["not whole"]),
        (lambda p: np.save(p.with_suffix(".npy"), -CELLS), ["-70000"]),
        (lambda p: np.save(p.with_suffix(".npy"), CELLS[:9]), ["40x9", "40x30"]),
        (lambda p: np.save(p.with_suffix(".npy"), np.full(SIZE, 2**30)), ["1.07374e+09"]),
        (lambda p: p.with_suffix(".npy").write_bytes(b"\x93NUMPY\1\0junk"), ["is not an NPY file"]),
        (lambda p: photo(p.with_suffix(".tif")), ["the mode RGB", "one number per pixel"]),
        (lambda p: p.with_suffix(".png").write_bytes(b"\x89PNG\r\n\x1a\n"), ["is not a label map"]),
    ],
)
def test_bad_cells(tmp_path: Path, capsys: Any, make: Callable[[Path], Any], said: list[str]) -> None:
    photo(tmp_path / "photos/a.png")
    (tmp_path / "masks").mkdir()
    make(tmp_path / "masks/a_masks")
    words = ["--images", tmp_path / "photos", "--masks", tmp_path / "masks", "--out", tmp_path / "out"]
    assert convert("cells", *words) == 2
    error = capsys.readouterr().err
    assert all(word in error for word in ["a_masks", *said]), error


def test_which_map_is_of_which_image(tmp_path: Path, capsys: Any) -> None:
    photo(tmp_path / "photos/a.png")
    photo(tmp_path / "photos/b.png")
    words = ["--images", tmp_path / "photos", "--out", tmp_path / "out"]
    assert convert("cells", *words) == 2
    assert "has no label map of a.png" in capsys.readouterr().err
    WAYS["a_masks.npy"](tmp_path / "photos/a_masks.npy")
    WAYS["a_masks.tif"](tmp_path / "photos/a_mine.tif")
    assert convert("cells", *words, "--masks", tmp_path / "photos", "--suffix", "_masks") == 0
    assert "2 images have no label map" in capsys.readouterr().err
    WAYS["a_masks.tif"](tmp_path / "photos/a_masks.tif")
    assert convert("cells", *words) == 2
    assert "a_masks.npy and a_masks.tif are of one image" in capsys.readouterr().err


# ------------------------------------------------------------------------------------------------------------- dry runs


def test_a_dry_run_reads_all_and_writes_nothing(tmp_path: Path, capsys: Any) -> None:
    data = yolo(tmp_path / "set", SQUARE + "0 0.2 0.2 0.6 0.2 0.6 0.6\n")
    before = sorted(tmp_path.rglob("*"))
    words = ["yolo", "--data", data, "--split", "train", "--out", tmp_path / "out"]
    assert convert(*words, "--dry-run") == 0
    said = capsys.readouterr().out.splitlines()
    assert sorted(tmp_path.rglob("*")) == before
    assert convert(*words) == 0
    assert capsys.readouterr().out.splitlines()[:-1] == said[:-1] and "dry run" in said[-1]
    (tmp_path / "set/labels/train/deep/a.txt").write_text("9 0 0 1 0 1 1\n")
    assert convert(*words[:-1], tmp_path / "other", "--dry-run") == 2

"""`--background`: pixels of no object are stuff of this name, in every format of outlined objects."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from miniatures import read_back
from PIL import Image

from banet.cli import main
from banet.data.convert.shapes import with_background
from banet.errors import InputError
from banet.panoptic.categories import MAX_CATEGORY_ID, Categories, Category

POLYGON = [2, 3, 10, 3, 10, 9, 2, 9]
"""The object of x.png, which is 40 pixels wide and 30 high; y.png has none."""


def _write(path: Path, content: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def _images(folder: Path) -> Path:
    folder.mkdir(parents=True)
    for name in ("x.png", "y.png"):
        Image.new("RGB", (40, 30)).save(folder / name)
    return folder


def _labelme(root: Path) -> list[str]:
    images = _images(root / "photos")
    shape = {"label": "box", "shape_type": "polygon", "points": np.reshape(POLYGON, (4, 2)).tolist()}
    for name, entries in (("x", [shape]), ("y", [])):
        _write(images / f"{name}.json", {"imagePath": f"{name}.png", "shapes": entries})
    return ["labelme", "--annotations", str(images)]


def _cvat(root: Path) -> list[str]:
    images = _images(root / "photos")
    points = "2,3;10,3;10,9;2,9"
    file = _write(
        root / "annotations.xml",
        '<annotations><image id="0" name="x.png" width="40" height="30">'
        f'<polygon label="box" points="{points}" z_order="0"/></image>'
        '<image id="1" name="y.png" width="40" height="30"/></annotations>',
    )
    return ["cvat", "--annotations", str(file), "--images", str(images)]


def _yolo(root: Path) -> list[str]:
    _images(root / "images" / "train")
    corners = np.reshape(POLYGON, (4, 2)) / (40, 30)
    _write(root / "labels" / "train" / "x.txt", "0 " + " ".join(f"{value:.6f}" for value in corners.ravel()))
    file = _write(root / "data.yaml", f"path: {root}\ntrain: images/train\nnames: [box]\n")
    return ["yolo", "--data", str(file), "--split", "train"]


def _label_studio(root: Path) -> list[str]:
    images = _images(root / "photos")
    corners = np.reshape(POLYGON, (4, 2)) / (40, 30) * 100
    region = {
        "type": "polygonlabels",
        "original_width": 40,
        "original_height": 30,
        "value": {"points": corners.tolist(), "polygonlabels": ["box"]},
    }
    tasks = [
        {"id": number, "data": {"image": f"/data/upload/1/{name}.png"}, "annotations": [{"result": result}]}
        for number, (name, result) in enumerate([("x", [region]), ("y", [])])
    ]
    return ["label-studio", "--annotations", str(_write(root / "export.json", tasks)), "--images", str(images)]


def _instances() -> dict[str, Any]:
    return {
        "images": [
            {"id": number, "file_name": f"{name}.png", "width": 40, "height": 30} for number, name in enumerate("xy")
        ],
        "annotations": [{"id": 1, "image_id": 0, "category_id": 1, "iscrowd": 0, "segmentation": [POLYGON]}],
        "categories": [{"id": 1, "name": "box"}],
    }


def _coco(root: Path) -> list[str]:
    images, file = _images(root / "photos"), _write(root / "instances.json", _instances())
    return ["coco", "--instances", str(file), "--images", str(images)]


def _datumaro(root: Path) -> list[str]:
    _images(root / "images" / "train")
    _write(root / "annotations" / "instances_train.json", _instances())
    return ["datumaro", "--root", str(root), "--split", "train"]


FORMATS = pytest.mark.parametrize("make", [_labelme, _cvat, _yolo, _label_studio, _coco, _datumaro])


@FORMATS
def test_pixels_of_no_object_are_the_background(make: Callable[[Path], list[str]], tmp_path: Path) -> None:
    command = ["data", "convert", *make(tmp_path / "data")]
    assert main([*command, "--out", str(tmp_path / "void")]) == 0
    assert main([*command, "--background", "ground", "--out", str(tmp_path / "ground")]) == 0
    void, ground = read_back(tmp_path / "void"), read_back(tmp_path / "ground")
    box = np.zeros((30, 40), bool)
    box[3:9, 2:10] = True
    for name, mask in (("x.png", box), ("y.png", np.zeros_like(box))):
        assert np.array_equal(void[name].ids > 0, mask)
        assert (ground[name].ids > 0).all()
        found = {segment.label: ground[name].ids == segment.id for segment in ground[name]}
        assert set(found) == ({"box", "ground"} if mask.any() else {"ground"})
        assert np.array_equal(found["ground"], ~mask)
    classes = ground["x.png"].categories
    assert [(category.name, category.isthing) for category in classes] == [("box", True), ("ground", False)]


@FORMATS
def test_a_thing_is_no_background(make: Callable[[Path], list[str]], tmp_path: Path, capsys: Any) -> None:
    command = ["data", "convert", *make(tmp_path / "data"), "--background", "box", "--out", str(tmp_path / "out")]
    assert main(command) == 2
    assert "--background box: is a thing" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_outlined_stuff_of_the_same_name_is_one_segment_with_it(tmp_path: Path) -> None:
    command = ["data", "convert", *_labelme(tmp_path / "data"), "--stuff", "[box]", "--background", "box"]
    assert main([*command, "--out", str(tmp_path / "out")]) == 0
    for result in read_back(tmp_path / "out").values():
        assert [segment.area for segment in result] == [30 * 40]


@pytest.mark.parametrize("stuff", [True, False])
def test_what_says_of_each_pixel_what_it_is_has_no_background(stuff: bool, tmp_path: Path, capsys: Any) -> None:
    if stuff:
        (tmp_path / "maps").mkdir()
        classes = _write(tmp_path / "classes.json", [{"id": 1, "name": "box", "isthing": 1}])
        command = [*_coco(tmp_path / "data"), "--stuff", str(tmp_path / "maps"), "--categories", str(classes)]
    else:
        command = _datumaro(tmp_path / "data")
        panoptic = tmp_path / "data" / "annotations" / "panoptic_train.json"
        _write(panoptic, {**_instances(), "annotations": []})
        command += ["--task", "panoptic"]
    assert main(["data", "convert", *command, "--background", "ground", "--out", str(tmp_path / "out")]) == 2
    assert "--background" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_the_id_is_the_next_or_a_free_one() -> None:
    things = [Category(3, "a", True), Category(1, "b", True)]
    assert with_background(Categories(things), "rest").by_id(4) == Category(4, "rest", False)
    full = Categories([Category(MAX_CATEGORY_ID, "last", True), *things])
    assert with_background(full, "rest").by_id(2).name == "rest"
    assert with_background(full, "") is full
    with pytest.raises(InputError, match="is a thing"):
        with_background(full, "last")

"""Annotation files as other tools write them: shapes, texts for numbers, flags, names, ids, objects without a pixel."""

from __future__ import annotations

import json
import os
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from miniatures import read_back
from PIL import Image

from banet.cli import main
from banet.data.check import Split, check_splits
from banet.data.coco_panoptic import CocoPanoptic, PanopticIndex
from banet.data.convert.coco import convert_coco
from banet.data.convert.cvat import convert_cvat
from banet.data.convert.labelme import convert_labelme
from banet.data.left_out import LeftOut
from banet.data.samples import image_seed
from banet.data.scenes.collage import InstanceSet
from banet.errors import InputError
from banet.panoptic.coco.rle import encode_rle
from banet.panoptic.metrics.quality import score_folders

SIZE = (60, 80)
SQUARE = [10, 10, 20, 10, 20, 20, 10, 20]


def picture(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", SIZE[::-1], (90, 60, 30)).save(path)


# ----------------------------------------------------------------------------------------------- shapes and their areas


def labelme_area(tmp_path: Path, entry: dict[str, Any], **fields: Any) -> int:
    """Return how many pixels the only object of a Labelme file has."""
    picture(tmp_path / "x.png")
    content = {"imagePath": "x.png", "shapes": [{"label": "a", **entry}], **fields}
    (tmp_path / "x.json").write_text(json.dumps(content))
    convert_labelme(tmp_path, tmp_path / "out")
    (segment,) = read_back(tmp_path / "out")["x.png"].segments
    return segment.area


@pytest.mark.parametrize(
    ("kind", "points", "area"),
    [
        ("rectangle", [[10, 10], [30, 20]], 200),
        ("rectangle", [[30, 20], [10, 10]], 200),
        ("rectangle", [[10, 10], [30, 10], [30, 20], [10, 20]], 200),
        ("rectangle", [[10, 10], [30, 10], [30, 20], [10, 20], [10, 10]], 200),
        ("rectangle", [["10", "10.0"], ["3e1", " 20 "]], 200),
        ("rotation", [[20, 10], [40, 20], [35, 30], [15, 20]], 250),
        ("oriented_rectangle", [[20, 10], [40, 20], [35, 30], [15, 20]], 250),
        ("oriented_rectangle", [[10, 10], [30, 20]], 200),
        ("quadrilateral", [[10, 10], [30, 10], [30, 20], [10, 20]], 200),
        ("polygon", [[10, 10], [30, 10], [30, 20], [10, 20]], 200),
        (None, [[10, 10], [30, 10], [30, 20], [10, 20]], 200),
    ],
)
def test_shapes_of_labelme(tmp_path: Path, kind: str | None, points: list[list[Any]], area: int) -> None:
    assert labelme_area(tmp_path, {"shape_type": kind, "points": points}) == pytest.approx(area, abs=2)


@pytest.mark.parametrize("said", [{"imageWidth": "80", "imageHeight": "60"}, {"imageWidth": 80.0}, {"imageHeight": ""}])
def test_sizes_of_labelme_as_texts(tmp_path: Path, said: dict[str, Any]) -> None:
    entry = {"points": [[10, 10], [30, 10], [30, 20], [10, 20]]}
    if said.get("imageHeight") == "":
        with pytest.raises(InputError, match="imageHeight: must be a number of pixels, not ''"):
            labelme_area(tmp_path, entry, **said)
    else:
        assert labelme_area(tmp_path, entry, **said) == 200


def cvat(tmp_path: Path, *marks: str, name: str = "x.png", width: str = "80") -> Path:
    image = f'<image id="0" name="{name}" width="{width}" height="60.0">{"".join(marks)}</image>'
    (tmp_path / "annotations.xml").write_text(f"<annotations>{image}</annotations>")
    return tmp_path / "annotations.xml"


@pytest.mark.parametrize(
    ("mark", "area"),
    [
        ('<box label="a" xtl="30" ytl="20" xbr="50" ybr="30"/>', 200),
        ('<box label="a" xtl="30" ytl="20" xbr="50" ybr="30" rotation="0.0"/>', 200),
        ('<box label="a" xtl="30" ytl="20" xbr="50" ybr="30" rotation="" z_order=""/>', 200),
        ('<box label="a" xtl="30" ytl="20" xbr="50" ybr="30" rotation="30"/>', 200),
        ('<box label="a" xtl="30" ytl="20" xbr="50" ybr="30" rotation="330.0"/>', 200),
        ('<polygon label="a" points="30,20;50,20;50,30;30,30" rotation="90"/>', 200),
        ('<ellipse label="a" cx="40" cy="30" rx="10" ry="5" rotation="45"/>', 160),
        ('<mask label="a" rle="0, 200" left="30" top="20" width="20" height="10" rotation="0"/>', 200),
    ],
)
def test_shapes_of_cvat(tmp_path: Path, mark: str, area: float) -> None:
    picture(tmp_path / "x.png")
    convert_cvat(cvat(tmp_path, mark), tmp_path, tmp_path / "out")
    (segment,) = read_back(tmp_path / "out")["x.png"].segments
    assert segment.area == pytest.approx(area, abs=3)  # slanted outlines of COCO's kind cover a little more


def test_a_box_turned_by_a_quarter_stands_upright(tmp_path: Path) -> None:
    picture(tmp_path / "x.png")
    mark = '<box label="a" xtl="30" ytl="20" xbr="50" ybr="30" rotation="90"/>'
    convert_cvat(cvat(tmp_path, mark), tmp_path, tmp_path / "out")
    (segment,) = read_back(tmp_path / "out")["x.png"].segments
    assert segment.bbox == (35, 15, 10, 20)


def test_boxes_turn_clockwise(tmp_path: Path) -> None:
    """As CVAT shows them: the right end of a flat box turned by 30 degrees is lower than its left end."""
    picture(tmp_path / "x.png")
    mark = '<box label="a" xtl="20" ytl="28" xbr="60" ybr="32" rotation="30"/>'
    convert_cvat(cvat(tmp_path, mark), tmp_path, tmp_path / "out")
    rows, columns = np.nonzero(read_back(tmp_path / "out")["x.png"].ids)
    assert rows[columns < 30].mean() < 28 < 32 < rows[columns > 50].mean()


# ---------------------------------------------------------------------------------------------- objects without a pixel


def coco(tmp_path: Path, *segmentations: Any, names: tuple[str, ...] = ("x.png",), **fields: Any) -> Path:
    """Write COCO instances, all of the first image."""
    content = {
        "images": [{"id": n, "file_name": name, "width": 80, "height": 60} for n, name in enumerate(names, start=1)],
        "annotations": [
            {"id": 70 + n, "image_id": 1, "category_id": 3, "segmentation": one, **fields}
            for n, one in enumerate(segmentations)
        ],
        "categories": [{"id": 3, "name": "car"}],
    }
    path = tmp_path / "instances.json"
    path.write_text(json.dumps(content))
    return path


def test_null_in_place_of_an_outline(tmp_path: Path) -> None:
    left_out = LeftOut()
    file = coco(tmp_path, None, [[10, 10, 30, 10, 30, 20, 10, 20]])
    picture(tmp_path / "x.png")
    convert_coco(tmp_path, file, tmp_path / "out", left_out=left_out)
    assert (left_out.objects, dict(left_out.counts)) == (2, {"no outline": 1})


@pytest.mark.parametrize("size", [60, 60.0, "60"])
def test_sizes_of_images_as_tools_write_them(tmp_path: Path, size: Any) -> None:
    file = coco(tmp_path, [[10, 10, 30, 10, 30, 20, 10, 20]])
    content = json.loads(file.read_text())
    content["images"][0]["height"] = size
    file.write_text(json.dumps(content))
    picture(tmp_path / "x.png")
    written = json.loads(convert_coco(tmp_path, file, tmp_path / "out").read_text())
    assert written["images"][0]["height"] == 60 and type(written["images"][0]["height"]) is int


def empty() -> dict[str, Any]:
    return encode_rle(np.zeros(SIZE, bool))


WITHOUT_A_PIXEL = {
    "no outline": [],
    "too few corners": [[1, 2, 3, 4]],
    "smaller than a pixel": [[1.1, 1.1, 1.3, 1.1, 1.3, 1.3]],
    "outside of the image": [[90, 5, 99, 5, 99, 9]],
    "empty mask": empty(),
    "covered by others": [[12, 12, 15, 12, 15, 15]],
}


@pytest.mark.parametrize("kind", WITHOUT_A_PIXEL)
def test_objects_without_a_pixel_are_left_out_and_named(tmp_path: Path, kind: str) -> None:
    picture(tmp_path / "x.png")
    path = coco(tmp_path, [SQUARE], WITHOUT_A_PIXEL[kind])
    report = LeftOut()
    convert_coco(tmp_path, path, tmp_path / "out", overlaps="score", left_out=report)
    assert [segment.area for segment in read_back(tmp_path / "out")["x.png"].segments] == [100]
    assert (report.objects, dict(report.counts)) == (2, {kind: 1})
    assert f"1 {kind}: annotations[1] (id 71) of x.png" in str(report)
    with pytest.raises(InputError, match=rf"instances\.json: annotations\[1\] \(id 71\), image x\.png: .*\({kind}\)"):
        convert_coco(tmp_path, path, tmp_path / "strict", overlaps="score", left_out=LeftOut(strict=True))
    assert not (tmp_path / "strict").exists()


def test_the_command_reports_and_refuses(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    picture(tmp_path / "x.png")
    path = coco(tmp_path, [SQUARE], *WITHOUT_A_PIXEL.values(), *[[]] * 8)
    line = f"data convert coco --images {tmp_path} --instances {path} --overlaps score --out {tmp_path}/out"
    assert main(line.split()) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[0] == "15 objects read, 1 with a pixel; left out:" and said[-1] == f"{tmp_path}/out/panoptic.json"
    assert len(said) == 3 + len(WITHOUT_A_PIXEL)
    assert said[-2].startswith("1 pair of objects shares pixels, which went to one: annotations[0] (id 70) over ")
    assert said[1].startswith("  9 no outline: annotations[1] (id 71) of x.png, ") and said[1].endswith(", ...")
    assert main([*line.replace("/out", "/strict").split(), "--strict"]) == 2
    assert "--strict" in capsys.readouterr().err and not (tmp_path / "strict").exists()


def test_callers_without_a_report_get_a_warning(tmp_path: Path) -> None:
    picture(tmp_path / "x.png")
    with pytest.warns(UserWarning, match=r"2 objects read, 1 with a pixel; left out:\n  1 no outline"):
        convert_coco(tmp_path, coco(tmp_path, [SQUARE], []), tmp_path / "out")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        convert_coco(tmp_path, coco(tmp_path, [SQUARE]), tmp_path / "whole")


def test_objects_without_a_pixel_in_labelme_and_cvat(tmp_path: Path) -> None:
    picture(tmp_path / "x.png")
    marks = [
        '<polyline label="b" points="1,1;5,5"/>',
        '<points label="a" points="1,1"/>',
        '<polygon label="a" points="1,1;5,5"/>',
        '<box label="a" xtl="90" ytl="1" xbr="99" ybr="9"/>',
        '<mask label="a" rle="6" left="1" top="1" width="3" height="2"/>',
        '<box label="a" xtl="30" ytl="20" xbr="50" ybr="30"/>',
    ]
    report = LeftOut()
    convert_cvat(cvat(tmp_path, *marks), tmp_path, tmp_path / "cvat", left_out=report)
    assert report.objects == 6 and dict(report.counts) == {
        "without an area (polyline)": 1,
        "without an area (points)": 1,
        "too few corners": 1,
        "outside of the image": 1,
        "empty mask": 1,
    }
    shapes = [
        {"label": "a", "points": [[1, 1]], "shape_type": "point"},
        {"label": "a", "points": [[1, 1], [4, 4]], "shape_type": "linestrip"},
        {"label": "a", "points": [[1, 1]], "shape_type": "rectangle"},
        {"label": "a", "points": [[1, 1]], "shape_type": "circle"},
        {"label": "a", "points": []},
        {"label": "a", "points": [[-9, 1], [-5, 1], [-5, 4]]},
        {"label": "a", "points": [[1, 1]], "group_id": 1},  # the other part of the object has pixels
        {"label": "a", "points": [[10, 10], [30, 20]], "shape_type": "rectangle", "group_id": 1},
    ]
    (tmp_path / "ann").mkdir()
    (tmp_path / "ann" / "x.json").write_text(json.dumps({"imagePath": "x.png", "shapes": shapes}))
    report = LeftOut()
    convert_labelme(tmp_path / "ann", tmp_path / "labelme", images=tmp_path, left_out=report)
    assert report.objects == 7 and dict(report.counts) == {
        "without an area (point)": 1,
        "without an area (linestrip)": 1,
        "too few corners": 2,
        "no outline": 1,
        "outside of the image": 1,
    }
    (segment,) = read_back(tmp_path / "labelme")["x.png"].segments
    assert segment.area == 200


def test_every_instance_of_real_images_is_accounted_for(tmp_path: Path) -> None:
    data = Path(os.environ.get("BANET_TEST_DATA", ""), "coco_instances")
    if not data.is_dir():
        pytest.skip("BANET_TEST_DATA/coco_instances is absent")
    report = LeftOut()
    path = convert_coco(data / "images", data / "instances.json", tmp_path / "out", overlaps="area", left_out=report)
    written = json.loads(path.read_text())["annotations"]
    assert report.objects == 2966
    assert sum(len(annotation["segments_info"]) for annotation in written) == 2966 - report.total == 2965
    assert "\n  1 covered by others: annotations[2675] (id 905000223648) of 000000223648.jpg\n" in str(report)
    assert str(report).splitlines()[-1].startswith(f"{report.overlaps:,} pairs of objects share pixels")


# -------------------------------------------------------------------------------------------- flags, and unread fields


@pytest.mark.parametrize("value", [0, False, None, "0", "false"])
def test_no_crowd(tmp_path: Path, value: Any) -> None:
    picture(tmp_path / "x.png")
    convert_coco(tmp_path, coco(tmp_path, [SQUARE], iscrowd=value), tmp_path / "out")
    assert not read_back(tmp_path / "out")["x.png"].segments[0].iscrowd


@pytest.mark.parametrize("value", [1, True, "1", "true"])
def test_crowd(tmp_path: Path, value: Any) -> None:
    picture(tmp_path / "x.png")
    convert_coco(tmp_path, coco(tmp_path, [SQUARE], iscrowd=value), tmp_path / "out")
    assert read_back(tmp_path / "out")["x.png"].segments[0].iscrowd


@pytest.mark.parametrize("value", [2, -1, "no", "False", 1.0, []])
def test_what_is_not_a_flag_is_refused_everywhere(tmp_path: Path, value: Any) -> None:
    picture(tmp_path / "x.png")
    path = coco(tmp_path, [SQUARE], iscrowd=value, bbox=[10, 10, 10, 10], area=1000)
    for read in (
        lambda: convert_coco(tmp_path, path, tmp_path / "out"),
        lambda: InstanceSet(path, tmp_path),
        lambda: PanopticIndex.read(panoptic(tmp_path, [1], iscrowd=value)[0]),
    ):
        with pytest.raises(InputError, match=r"json: annotations\[0\].*\.iscrowd: must be 0 or 1, not "):
            read()


def test_fields_that_nothing_reads(tmp_path: Path) -> None:
    picture(tmp_path / "x.png")
    path = coco(tmp_path, [SQUARE], bbox=[], area="200", score="high", attributes=7)
    content = json.loads(path.read_text())
    content.update(info=[], licenses="none")
    path.write_text(json.dumps(content))
    convert_coco(tmp_path, path, tmp_path / "out")
    assert read_back(tmp_path / "out")["x.png"].segments[0].area == 100


# ---------------------------------------------------------------------------------------------------------------- names


@pytest.mark.skipif("\\" not in Path("a\\b").name, reason="where \\ separates anyway")
def test_names_with_backslashes(tmp_path: Path) -> None:
    picture(tmp_path / "city" / "a" / "x.png")
    name = "city\\a\\x.png"
    convert_coco(tmp_path, coco(tmp_path, [SQUARE], names=(name,)), tmp_path / "coco")
    convert_cvat(
        cvat(tmp_path, '<box label="a" xtl="1" ytl="1" xbr="9" ybr="9"/>', name=name), tmp_path, tmp_path / "cvat"
    )
    (tmp_path / "labelme").mkdir()
    shape = {"label": "a", "points": [[1, 1], [9, 9]], "shape_type": "rectangle"}
    content = {"imagePath": "..\\" + name, "shapes": [shape]}
    (tmp_path / "labelme" / "x.json").write_text(json.dumps(content))
    convert_labelme(tmp_path / "labelme", tmp_path / "out", images=tmp_path)
    for folder in ("coco", "cvat", "out"):
        assert list(read_back(tmp_path / folder)) == ["city/a/x.png"]
        assert (tmp_path / folder / "panoptic" / "city" / "a" / "x.png").is_file()


@pytest.mark.skipif("\\" not in Path("a\\b").name, reason="where \\ separates anyway")
def test_a_file_with_a_backslash_in_its_name_is_that_file(tmp_path: Path) -> None:
    picture(tmp_path / "a\\x.png")
    with pytest.raises(InputError, match="leads out"):
        convert_coco(tmp_path, coco(tmp_path, [SQUARE], names=("..\\x.png",)), tmp_path / "out")
    convert_coco(tmp_path, coco(tmp_path, [SQUARE], names=("a\\x.png",)), tmp_path / "out")
    assert list(read_back(tmp_path / "out")) == ["a\\x.png"]


# ------------------------------------------------------------------------------------------------------------------ ids


def panoptic(tmp_path: Path, ids: list[int | str], separator: str = "/", **fields: Any) -> tuple[Path, Path]:
    """Write a COCO panoptic set with one car per image, each at another place."""
    root = tmp_path / "panoptic_set"
    images, annotations = [], []
    for n, image_id in enumerate(ids):
        picture(root / "images" / "a" / f"{n}.png")
        rgb = np.zeros((*SIZE, 3), np.uint8)
        rgb[10 + n : 30 + n, 10:30, 0] = 1
        (root / "panoptic" / "a").mkdir(parents=True, exist_ok=True)
        Image.fromarray(rgb).save(root / "panoptic" / "a" / f"{n}.png")
        name = f"a{separator}{n}.png"
        images.append({"id": image_id, "file_name": name, "width": 80, "height": 60})
        info = {"id": 1, "category_id": 3, **fields}
        annotations.append({"image_id": image_id, "file_name": name, "segments_info": [info]})
    content = {"images": images, "annotations": annotations, "categories": [{"id": 3, "name": "car", "isthing": "1"}]}
    (root / "panoptic.json").write_text(json.dumps(content))
    return root / "panoptic.json", root / "panoptic"


IDS: list[int | str] = ["frankfurt_000000_000294", 5, "5", "", -1, "a\nb"]


def test_ids_of_images_in_scores(tmp_path: Path) -> None:
    """Each image is compared with the prediction of its id: 5 and "5" are two images."""
    path, folder = panoptic(tmp_path, IDS)
    whole = score_folders(path, folder, path, folder)
    assert (whole["All"]["pq"], whole["per_class"][3]["tp"]) == (1, len(IDS))
    content = json.loads(path.read_text())
    by_id = {type(a["image_id"]).__name__ + str(a["image_id"]): a for a in content["annotations"]}
    one, other = by_id["int5"], by_id["str5"]
    one["file_name"], other["file_name"] = other["file_name"], one["file_name"]
    content["annotations"].reverse()
    swapped = tmp_path / "swapped.json"
    swapped.write_text(json.dumps(content))
    found = score_folders(path, folder, swapped, folder)
    assert found["per_class"][3]["tp"] == len(IDS) and found["per_class"][3]["iou"] == pytest.approx(4 + 2 * 19 / 20)
    content["annotations"] = content["annotations"][1:]
    swapped.write_text(json.dumps(content))
    with pytest.raises(InputError, match=r"no prediction for image 'frankfurt|no prediction for image 'a"):
        score_folders(path, folder, swapped, folder)


def test_ids_of_images_in_checks_and_training(tmp_path: Path) -> None:
    path, folder = panoptic(tmp_path, IDS, separator="\\")
    images = path.parent / "images"
    report = check_splits([Split("a", images, folder, path), Split("b", images, folder, path)])
    assert {finding.kind for finding in report.findings} == {"leak", "duplicate"}  # one image several times
    assert not any("does not name" in note for note in report.notes)
    dataset = CocoPanoptic(images, folder, path)
    assert dataset.image_ids == IDS and [type(one) for one in dataset.image_ids] == [type(one) for one in IDS]
    assert [dataset[n].target.image_id for n in range(len(IDS))] == IDS
    assert len({image_seed(one) for one in IDS}) == len(IDS)
    assert PanopticIndex.read(panoptic(tmp_path, [7, 5])[0]).image_ids.tolist() == [7, 5]


def test_classes_of_which_all_segments_are_crowd(tmp_path: Path) -> None:
    path, folder = panoptic(tmp_path, [1, 2], iscrowd="1")
    line = "car: 0 of 2 instances can be learnt, as all are crowd"
    assert f"train: {line}" in check_splits([Split("train", path.parent / "images", folder, path)]).notes
    assert PanopticIndex.read(path).unlearnable() == [line]
    assert PanopticIndex.read(panoptic(tmp_path, [1, 2])[0]).unlearnable() == []


def test_string_ids_in_instances(tmp_path: Path) -> None:
    picture(tmp_path / "x.png")
    path = coco(tmp_path, [SQUARE], bbox=[10, 10, 10, 10], area=1000)
    path.write_text(path.read_text().replace('"id": 1,', '"id": "x",').replace('"image_id": 1', '"image_id": "x"'))
    written = convert_coco(tmp_path, path, tmp_path / "out")
    assert [one["id"] for one in json.loads(written.read_text())["images"]] == ["x"]
    assert InstanceSet(path, tmp_path).candidates == [("x", 0)]

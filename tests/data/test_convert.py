"""Conversions: miniatures in the real layouts come back pixel by pixel, and what is wrong leaves nothing behind."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from miniatures import Expected, ade20k, assert_same, cityscapes, labelme, read_back, scenes, shapes
from PIL import Image

from banet.cli import main
from banet.data.check import Split, check_splits
from banet.data.convert.cityscapes import CATEGORIES, convert_cityscapes
from banet.data.convert.coco import convert_coco
from banet.data.convert.cvat import convert_cvat
from banet.data.convert.labelme import convert_labelme
from banet.data.convert.maps import convert_ade20k, convert_maps
from banet.data.convert.shapes import Shape, layer_shapes
from banet.data.left_out import LeftOut
from banet.errors import InputError
from banet.panoptic.categories import Categories, Category
from banet.panoptic.coco.annotations import PanopticJson
from banet.panoptic.coco.rle import encode_rle
from banet.panoptic.coco.runs import Crop
from banet.panoptic.defaults import BEST_RULE


def compare(out: Path, truth: dict[str, Expected], images: Path) -> None:
    """What was written is the truth, and the check finds nothing wrong with it."""
    results = read_back(out)
    assert set(results) == set(truth)
    for name, expected in truth.items():
        assert_same(results[name], expected)
    assert check_splits([Split("x", images, out / "panoptic", out / "panoptic.json")]).findings == []


def refused(call: Callable[[], Any], out: Path, *said: str) -> None:
    """The error has one line and the words, and nothing is left of the output."""
    before = sorted(out.parent.iterdir())
    with pytest.raises(InputError) as caught:
        call()
    assert "\n" not in str(caught.value)
    assert all(word in str(caught.value) for word in said), caught.value
    assert sorted(out.parent.iterdir()) == before


# ----------------------------------------------------------------------------------------------------------- Cityscapes


def test_cityscapes(tmp_path: Path) -> None:
    truth = cityscapes(tmp_path, "val", 5, 4)
    arguments = ["data", "convert", "cityscapes", "--root", str(tmp_path), "--split", "val"]
    assert main([*arguments, "--out", str(tmp_path / "panoptic_val")]) == 0
    compare(tmp_path / "panoptic_val", truth, tmp_path / "leftImg8bit" / "val")
    written = PanopticJson.read(tmp_path / "panoptic_val" / "panoptic.json").categories
    assert written == CATEGORIES
    assert (written.num_things, written.num_stuff) == (8, 11)
    assert written.by_id(26).name == "car"


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda r: next((r / "leftImg8bit").rglob("*.png")).unlink(), ["_leftImg8bit.png", "does not exist"]),
        (lambda r: [p.unlink() for p in (r / "gtFine").rglob("*instanceIds.png")], ["gtFine_trainvaltest.zip"]),
        (
            lambda r: Image.new("I;16", (96, 64), 34_001).save(next((r / "gtFine").rglob("*instanceIds.png"))),
            ["34001", "no label"],
        ),
        (
            lambda r: Image.new("L", (96, 63)).save(next((r / "gtFine").rglob("*instanceIds.png"))),
            ["96x63", "96x64"],
        ),
    ],
)
def test_bad_cityscapes(tmp_path: Path, damage: Callable[[Path], Any], said: list[str]) -> None:
    cityscapes(tmp_path, "val", 5)
    damage(tmp_path)
    refused(lambda: convert_cityscapes(tmp_path, "val", tmp_path / "out"), tmp_path / "out", *said)
    refused(lambda: convert_cityscapes(tmp_path, "train", tmp_path / "out"), tmp_path / "out", "gtFine", "--root")


# --------------------------------------------------------------------------------------------------------------- ADE20K


def test_ade20k(tmp_path: Path) -> None:
    truth = ade20k(tmp_path, "validation", 6, 4)
    arguments = ["data", "convert", "ade20k", "--root", str(tmp_path), "--split", "validation"]
    assert main([*arguments, "--out", str(tmp_path / "out")]) == 0
    compare(tmp_path / "out", truth, tmp_path / "images" / "validation")
    written = PanopticJson.read(tmp_path / "out" / "panoptic.json").categories
    assert [(c.id, c.name, c.isthing) for c in written] == [
        (4, "person", True),
        (5, "car", True),
        (1, "wall", False),
        (2, "building", False),
        (3, "sky", False),
    ]


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda r: (r / "categoryMapping.txt").unlink(), ["categoryMapping.txt"]),
        (lambda r: (r / "categoryMapping.txt").write_text("h\n1\t77\tx\n"), ["categoryMapping.txt, line 2"]),
        (lambda r: (r / "objectInfo150.txt").write_text("h\nwall\n"), ["objectInfo150.txt, line 2"]),
        (lambda r: next((r / "annotations_instance").rglob("*.png")).unlink(), ["does not exist"]),
        (lambda r: Image.new("L", (96, 64)).save(next((r / "annotations_instance").rglob("*.png"))), ["grey PNG"]),
        (
            lambda r: Image.new("RGB", (96, 64), (9, 1, 0)).save(next((r / "annotations_instance").rglob("*.png"))),
            ["9"],
        ),
        (lambda r: next((r / "images").rglob("*.jpg")).unlink(), [".jpg"]),
    ],
)
def test_bad_ade20k(tmp_path: Path, damage: Callable[[Path], Any], said: list[str]) -> None:
    ade20k(tmp_path, "validation", 6)
    damage(tmp_path)
    refused(lambda: convert_ade20k(tmp_path, "validation", tmp_path / "out"), tmp_path / "out", *said)


# ----------------------------------------------------------------------------------------------------------- label maps

CLASSES = [
    {"id": 40, "name": "cup", "isthing": 1},
    {"id": 300, "name": "table", "isthing": 0},
    {"id": 0, "name": "wall", "isthing": 0},
]


def _maps(root: Path) -> dict[str, Expected]:
    """One image: wall (0), table (300), two cups, a crowd of cups and void (255); the wall has instance numbers."""
    labels = np.array([[0, 0, 300, 300, 255], [40, 40, 40, 40, 0]], np.uint16)
    instances = np.array([[7, 0, 0, 0, 3], [1, 1, 2, 0, 0]], np.uint8)
    for folder in ("images/a", "labels/a", "instances/a"):
        (root / folder).mkdir(parents=True)
    Image.new("RGB", (5, 2)).save(root / "images" / "a" / "x.png")
    Image.fromarray(labels).save(root / "labels" / "a" / "x.png")
    Image.fromarray(instances).save(root / "instances" / "a" / "x.png")
    (root / "classes.json").write_text(json.dumps(CLASSES))
    ids = np.array([[1, 1, 2, 2, 0], [3, 3, 4, 5, 1]], np.int32)
    return {"a/x.png": Expected(ids, {1: (0, False), 2: (300, False), 3: (40, False), 4: (40, False), 5: (40, True)})}


def test_maps(tmp_path: Path) -> None:
    truth = _maps(tmp_path)
    line = "data convert maps --images {0}/images --labels {0}/labels --instances {0}/instances"
    line += " --categories {0}/classes.json --out {0}/out"
    arguments = line.format(tmp_path).split()
    assert main([*arguments, "--void", "[255]"]) == 0
    compare(tmp_path / "out", truth, tmp_path / "images")


def test_maps_without_instances_make_things_crowd(tmp_path: Path) -> None:
    expected = _maps(tmp_path)["a/x.png"]
    expected.ids[expected.ids > 3] = 3
    expected.of[3] = (40, True)
    args = (tmp_path / "images", tmp_path / "labels", tmp_path / "classes.json", tmp_path / "out")
    convert_maps(*args, void=[255])
    compare(tmp_path / "out", {"a/x.png": expected}, tmp_path / "images")


def test_bad_maps(tmp_path: Path) -> None:
    _maps(tmp_path)
    out = tmp_path / "out"
    args = (tmp_path / "images", tmp_path / "labels", tmp_path / "classes.json", out)
    refused(lambda: convert_maps(*args), out, "labels/a/x.png", "255", "--void")
    (tmp_path / "instances" / "a" / "x.png").rename(tmp_path / "instances" / "a" / "y.png")
    refused(lambda: convert_maps(*args, instances=tmp_path / "instances"), out, "no instance map")
    (tmp_path / "images" / "a" / "x.png").rename(tmp_path / "images" / "a" / "y.png")
    refused(lambda: convert_maps(*args), out, "no image of this name")
    refused(lambda: convert_maps(tmp_path / "no", *args[1:]), out, "is not a folder")


# ------------------------------------------------------------------------------------------------------- COCO instances


def _coco(root: Path) -> dict[str, Any]:
    """Scenes with their full masks, which overlap, as run lengths; a crowd; and label maps of their stuff."""
    (root / "images").mkdir()
    (root / "stuff").mkdir()
    content: dict[str, Any] = {"images": [], "annotations": [], "categories": [{"id": 3, "name": "thing"}]}
    for row, scene in scenes(8, 3):
        height, width = scene.ids.shape
        Image.fromarray(scene.image).save(root / "images" / f"{row}.png")
        content["images"].append({"id": 50 + row, "file_name": f"{row}.png", "width": width, "height": height})
        for mask in scene.masks:
            content["annotations"].append(
                {
                    "id": len(content["annotations"]),
                    "image_id": 50 + row,
                    "category_id": 3,
                    "segmentation": encode_rle(mask),
                    "area": int(mask.sum()),
                    "iscrowd": 0,
                }
            )
        Image.fromarray(np.full((height, width), 9, np.uint8)).save(root / "stuff" / f"{row}.png")
    (root / "instances.json").write_text(json.dumps(content))
    classes = [{"id": 3, "name": "thing", "isthing": 1}, {"id": 9, "name": "rest", "isthing": 0}]
    (root / "classes.json").write_text(json.dumps(classes))
    return content


def test_coco_with_overlaps_by_area(tmp_path: Path) -> None:
    _coco(tmp_path)
    line = "data convert coco --images {0}/images --instances {0}/instances.json --stuff {0}/stuff"
    line += " --categories {0}/classes.json --overlaps area --out {0}/out"
    assert main(line.format(tmp_path).split()) == 0
    truth = {}
    for row, scene in scenes(8, 3):
        ids = np.full(scene.ids.shape, 99, np.int32)
        for mask in sorted(range(len(scene.masks)), key=lambda k: -scene.masks[k].sum()):  # the smaller in front
            ids[scene.masks[mask]] = mask + 1
        of = {k + 1: (3, False) for k in range(len(scene.masks)) if (ids == k + 1).any()}
        truth[f"{row}.png"] = Expected(ids, {**of, 99: (9, False)})
    compare(tmp_path / "out", truth, tmp_path / "images")
    assert list(PanopticJson.read(tmp_path / "out" / "panoptic.json").images) == [50, 51, 52]


def test_coco_overlaps_go_by_a_rule_and_are_listed_or_refused(tmp_path: Path, capsys: Any) -> None:
    _coco(tmp_path)
    args = (tmp_path / "images", tmp_path / "instances.json")
    refused(
        lambda: convert_coco(*args, tmp_path / "out", overlaps="fail"),
        tmp_path / "out",
        *("overlap", "annotation", "--overlaps"),
    )
    line = "data convert coco --images {0}/images --instances {0}/instances.json --out {0}/default"
    assert main(line.format(tmp_path).split()) == 0
    shared = sum(
        int((a & b).any()) for _, scene in scenes(8, 3) for k, a in enumerate(scene.masks) for b in scene.masks[:k]
    )
    said = capsys.readouterr().out
    assert f"{shared} pairs of objects share pixels, which went to one: annotations[" in said and " over " in said
    convert_coco(*args, tmp_path / "named", overlaps=BEST_RULE, left_out=LeftOut())
    named, default = (read_back(tmp_path / name) for name in ("named", "default"))
    assert all(np.array_equal(named[name].ids, default[name].ids) for name in named)
    for rule in ("appearance", "color-contour", "score"):
        convert_coco(*args, tmp_path / rule, overlaps=rule)
        for result in read_back(tmp_path / rule).values():
            assert all(segment.isthing for segment in result.segments)


def test_coco_polygons_and_crowds(tmp_path: Path) -> None:
    """A crowd lies behind instances and in front of stuff; thing ids in the label map are void."""
    content = _coco(tmp_path)
    content["images"] = content["images"][:1]
    full = np.zeros((64, 96), bool)
    full[10:30] = True
    content["annotations"] = [
        {"id": 1, "image_id": 50, "category_id": 3, "iscrowd": 1, "segmentation": encode_rle(full)},
        {"id": 2, "image_id": 50, "category_id": 3, "iscrowd": 0, "segmentation": [[5, 20, 15, 20, 15, 40, 5, 40]]},
    ]
    (tmp_path / "instances.json").write_text(json.dumps(content))
    labels = np.full((64, 96), 9, np.uint8)
    labels[60:] = 3
    Image.fromarray(labels).save(tmp_path / "stuff" / "0.png")
    args = (tmp_path / "images", tmp_path / "instances.json", tmp_path / "out")
    convert_coco(*args, stuff=tmp_path / "stuff", categories=tmp_path / "classes.json")
    ids = np.full((64, 96), 1, np.int32)
    ids[60:], ids[10:30], ids[20:40, 5:15] = 0, 2, 3
    compare(
        tmp_path / "out", {"0.png": Expected(ids, {1: (9, False), 2: (3, True), 3: (3, False)})}, tmp_path / "images"
    )


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda c: c["annotations"][0].update(category_id=4), ["annotations[0]", "category_id 4"]),
        (lambda c: c["annotations"][0].pop("segmentation"), ["annotations[0]", "segmentation"]),
        (lambda c: c["annotations"][1].update(segmentation=[[1, 2, 3]]), ["annotations[1]", "polygon"]),
        (lambda c: c["annotations"][0].update(image_id=7), ["image_id 7"]),
        (lambda c: c["annotations"][0].update(image_id="50"), ["image_id '50'"]),
        (lambda c: c["annotations"][0].update(iscrowd=2), ["annotations[0].iscrowd", "must be 0 or 1, not 2"]),
        (lambda c: c["annotations"][0].update(iscrowd="no"), ["annotations[0].iscrowd", "not 'no'"]),
        (lambda c: c["categories"][0].update(isthing="no"), ["categories[0].isthing", "not 'no'"]),
        (lambda c: c["images"][0].update(width=95), ["95x64", "96x64"]),
        (lambda c: c["images"][2].update(file_name="no.png"), ["no.png", "does not exist"]),
        (lambda c: c["images"].append(c["images"][0]), ["50 is the id of another"]),
        (lambda c: c.update(images=[], annotations=[]), ["no image"]),
    ],
)
def test_bad_coco(tmp_path: Path, change: Callable[[dict[str, Any]], Any], said: list[str]) -> None:
    content = _coco(tmp_path)
    change(content)
    (tmp_path / "instances.json").write_text(json.dumps(content))
    args = (tmp_path / "images", tmp_path / "instances.json", tmp_path / "out")
    refused(lambda: convert_coco(*args, overlaps="area"), tmp_path / "out", *said)


def test_what_is_there_already_is_not_overwritten(tmp_path: Path) -> None:
    cityscapes(tmp_path, "val", 5)
    out = tmp_path / "out"
    out.mkdir()
    convert_cityscapes(tmp_path, "val", out)  # an empty folder will do
    before = (out / "panoptic.json").read_bytes()
    refused(lambda: convert_cityscapes(tmp_path, "val", out), out, "exists already")
    assert (out / "panoptic.json").read_bytes() == before


# --------------------------------------------------------------------------------------------------------------- shapes


@given(st.integers(0, 2**32), st.sampled_from(["area", "score"]))
def test_layers_from_back_to_front(seed: int, rule: str) -> None:
    """Each pixel is of the frontmost shape that covers it: by z, then things, crowds, stuff, then by the rule."""
    rng = np.random.default_rng(seed)
    classes = Categories(
        [Category(1, "a", True), Category(2, "b", True), Category(3, "c", False), Category(4, "d", False)]
    )
    masks = [rng.random((5, 6)) < rng.uniform(0, 1) for _ in range(int(rng.integers(1, 7)))]
    drawn = [(mask, int(rng.integers(1, 5)), bool(rng.random() < 0.2), int(rng.integers(0, 2))) for mask in masks]
    drawn = [(mask, category, crowd and category < 3, z) for mask, category, crowd, z in drawn]
    made = [
        Shape(str(k), category, Crop.of(mask), crowd, z, "" if mask.any() else "empty mask")
        for k, (mask, category, crowd, z) in enumerate(drawn)
    ]
    told: list[tuple[str, str]] = []
    ids, regions = layer_shapes(made, classes, Path("x"), (5, 6), rule, lambda why, where: told.append((why, where)))

    def rank(k: int) -> tuple[float, ...]:
        mask, category, crowd, z = drawn[k]
        layer = 1 if crowd else 2 * (category < 3)
        return z, layer, -float(mask.sum()) if rule == "area" and not crowd else 0.0, -k

    for y in range(5):
        for x in range(6):
            claimants = [k for k in range(len(drawn)) if drawn[k][0][y, x]]
            if not claimants:
                assert ids[y, x] == 0
                continue
            _, category, crowd, _ = drawn[max(claimants, key=rank)]
            region = regions[int(ids[y, x])]
            assert (region.category_id, region.iscrowd) == (category, crowd)
    for k in range(len(drawn)):
        front = [
            int(ids[y, x])
            for y, x in zip(*np.nonzero(drawn[k][0]), strict=True)
            if max((j for j in range(len(drawn)) if drawn[j][0][y, x]), key=rank) == k
        ]
        assert len(set(front)) <= 1  # one object, one id
        hidden = not front and (drawn[k][1] < 3 or drawn[k][1] not in {regions[i].category_id for i in regions})
        why = "empty mask" if not drawn[k][0].any() else "covered by others" if hidden else None
        assert [one for one, where in told if where == str(k)] == ([why] if why else [])
    assert set(regions) == set(np.unique(ids).tolist()) - {0}


def _expected(outlines: list[tuple[str, list[tuple[int, int]]]]) -> Expected:
    """Boxes, the last in front; classes by name: box, crate, field, sky."""
    names = ["box", "crate", "field", "sky"]
    ids, of = np.zeros((64, 96), np.int32), {}
    for number, (label, points) in enumerate(outlines, start=1):
        (x1, y1), (x2, y2) = points[0], points[2]
        ids[y1:y2, x1:x2] = number
        of[number] = (names.index(label) + 1, False)
    return Expected(ids, of)


def test_labelme(tmp_path: Path) -> None:
    labelme(tmp_path / "photos" / "day 1", 3, 4)
    arguments = ["data", "convert", "labelme", "--annotations", str(tmp_path / "photos"), "--stuff", "[sky, field]"]
    assert main([*arguments, "--out", str(tmp_path / "out")]) == 0
    truth = {f"day 1/{n}.png": _expected(shapes(3000 + n)[1]) for n in range(4)}
    compare(tmp_path / "out", truth, tmp_path / "photos")


def test_labelme_with_the_classes_of_another_split(tmp_path: Path) -> None:
    labelme(tmp_path / "a", 3, 4)
    labelme(tmp_path / "b", 7, 1)
    first = convert_labelme(tmp_path / "a", tmp_path / "out_a", stuff=["sky", "field"])
    second = convert_labelme(tmp_path / "b", tmp_path / "out_b", categories=first)
    assert PanopticJson.read(first).categories == PanopticJson.read(second).categories


def _labelme(tmp_path: Path, *entries: dict[str, Any], **fields: Any) -> Path:
    Image.new("RGB", (40, 30)).save(tmp_path / "x.jpg")
    content = {"version": "5.4.1", "shapes": list(entries), "imagePath": "x.jpg", **fields}
    (tmp_path / "ann").mkdir(exist_ok=True)
    (tmp_path / "ann" / "x.json").write_text(json.dumps(content))
    return tmp_path / "ann"


def test_other_shapes_of_labelme(tmp_path: Path) -> None:
    png = io.BytesIO()
    drawn = np.array([[1, 0, 1], [1, 1, 1]], np.uint8)
    Image.fromarray(255 * drawn).save(png, "PNG")
    folder = _labelme(
        tmp_path,
        {"label": "a", "points": [[2, 3], [10, 9]], "shape_type": "rectangle"},
        {"label": "a", "points": [[30, 20], [30, 25]], "shape_type": "circle"},
        {"label": "b", "points": [[1, 12], [5, 12], [5, 16], [1, 16]], "group_id": 1},
        {"label": "b", "points": [[8, 12], [12, 12], [12, 16], [8, 16]], "group_id": 1},
        {
            "label": "b",
            "points": [[20, 2], [22, 3]],
            "shape_type": "mask",
            "mask": base64.b64encode(png.getvalue()).decode(),
        },
        {"label": "notes", "points": [[3, 3]], "shape_type": "point"},
        imagePath="..\\pictures\\x.jpg",
    )
    out = tmp_path / "out"
    refused(lambda: convert_labelme(folder, out), out, "imagePath", "--images")
    strict = LeftOut(strict=True)
    refused(lambda: convert_labelme(folder, out, images=tmp_path, left_out=strict), out, "shapes[5]", "area (point)")
    convert_labelme(folder, out, images=tmp_path, ignore=["notes"])
    result = read_back(out)["x.jpg"]
    masks = [result.ids == segment.id for segment in result.segments]
    assert [segment.category_id for segment in result.segments] == [1, 1, 2, 2]
    assert masks[0].sum() == 48 and masks[0][3:9, 2:10].all()
    y, x = np.mgrid[:30, :40] + 0.5
    inner, outer = np.hypot(x - 30, y - 20) < 4.3, np.hypot(x - 30, y - 20) < 5.7
    assert masks[1][inner].all() and not masks[1][~outer].any()
    assert masks[2].sum() == 32 and masks[2][12:16, 1:5].all() and masks[2][12:16, 8:12].all()
    assert np.array_equal(masks[3][2:4, 20:23], drawn > 0) and masks[3].sum() == drawn.sum()


SQUARE = {"label": "a", "points": [[1, 1], [9, 1], [9, 9], [1, 9]]}


@pytest.mark.parametrize(
    ("entries", "fields", "said"),
    [
        ([SQUARE, {**SQUARE, "points": [[5, 5], [12, 5], [12, 12]]}], {}, ["shapes[0]", "shapes[1]", "overlap"]),
        ([{**SQUARE, "points": [["x", 1]]}], {}, ["shapes[0].points"]),
        ([{**SQUARE, "points": ["12", "34"]}], {}, ["shapes[0].points", "pairs of numbers"]),
        ([{**SQUARE, "points": [[1, True], [2, 2], [3, 9]]}], {}, ["shapes[0].points", "pairs of numbers"]),
        ([{**SQUARE, "shape_type": "rectangle", "points": 5 * [[1, 1]]}], {}, ["shapes[0].points", "rectangle"]),
        ([{**SQUARE, "shape_type": "blob"}], {}, ["shapes[0].shape_type", "'blob'"]),
        ([{**SQUARE, "shape_type": "mask", "points": [[1, 1], [2, 2]], "mask": "??"}], {}, ["shapes[0].mask"]),
        ([{"points": []}], {}, ["shapes[0]", "'label'"]),
        ([SQUARE], {"imageWidth": 80, "imageHeight": 60}, ["imageHeight is 60", "40x30"]),
        ([SQUARE], {"imageWidth": "80", "imageHeight": None}, ["imageWidth is 80", "40x30"]),
        ([SQUARE], {"imageWidth": "wide"}, ["imageWidth", "'wide'"]),
        ([SQUARE], {"imagePath": "y.jpg"}, ["y.jpg"]),
        ([SQUARE], {"shapes": None}, ["'shapes'"]),
        ([], {}, ["no shape has a label"]),
    ],
)
def test_bad_labelme(tmp_path: Path, entries: list[Any], fields: dict[str, Any], said: list[str]) -> None:
    folder = _labelme(tmp_path, *entries, **fields)
    refused(
        lambda: convert_labelme(folder, tmp_path / "out", images=tmp_path, overlaps="fail"), tmp_path / "out", *said
    )


def test_labels_that_are_unknown(tmp_path: Path) -> None:
    folder = _labelme(tmp_path, SQUARE)
    out = tmp_path / "out"
    refused(lambda: convert_labelme(folder, out, images=tmp_path, stuff=["skye"]), out, "--stuff skye", "there are 'a'")
    (tmp_path / "classes.json").write_text(json.dumps([{"id": 1, "name": "b", "isthing": 1}]))
    classes = tmp_path / "classes.json"
    refused(lambda: convert_labelme(folder, out, images=tmp_path, categories=classes), out, "'a'", "--ignore")


CVAT = """<?xml version="1.0" encoding="utf-8"?>
<annotations>
  <version>1.1</version>
  <meta><task><name>t</name><labels><label><name>a</name></label></labels></task></meta>
  <image id="0" name="sub/x.jpg" width="40" height="30">
    <polygon label="ground" source="manual" occluded="0" points="0,0;40,0;40,30;0,30" z_order="0"></polygon>
    <polygon label="a" source="manual" occluded="0" points="2.0,3.0;10.0,3.0;10.0,9.0;2.0,9.0" z_order="1"></polygon>
    <box label="a" source="manual" occluded="0" xtl="6" ytl="5" xbr="16" ybr="15" z_order="2"></box>
    <ellipse label="b" source="manual" occluded="0" cx="30" cy="20" rx="6" ry="3" rotation="90" z_order="0"></ellipse>
    <mask label="b" source="auto" rle="1, 1, 1, 3" left="20" top="2" width="3" height="2" z_order="0"></mask>
    <polyline label="road" source="manual" occluded="0" points="0,0;5,5" z_order="0"></polyline>
    <tag label="nice" source="manual"></tag>
  </image>
</annotations>
"""


def _cvat(tmp_path: Path, text: str = CVAT) -> tuple[Path, Path, Path]:
    (tmp_path / "sub").mkdir(exist_ok=True)
    Image.new("RGB", (40, 30)).save(tmp_path / "sub" / "x.jpg")
    (tmp_path / "annotations.xml").write_text(text)
    return tmp_path / "annotations.xml", tmp_path, tmp_path / "out"


def test_cvat(tmp_path: Path) -> None:
    file, images, out = _cvat(tmp_path)
    line = f"data convert cvat --annotations {file} --images {images} --out {out} --stuff [ground] --ignore [road]"
    assert main(line.split()) == 0
    result = read_back(out)["sub/x.jpg"]
    names = {segment.id: result.categories.by_id(segment.category_id).name for segment in result.segments}
    masks = {name: [result.ids == i for i, other in names.items() if other == name] for name in names.values()}
    first, second = sorted(masks["a"], key=lambda mask: mask.sum())
    assert second.sum() == 100 and second[5:15, 6:16].all()  # the higher z_order is in front
    assert first.sum() == 48 - 16 and first[3:5, 2:10].all()
    drawn, round_one = sorted(masks["b"], key=lambda mask: mask.sum())
    assert drawn[2:4, 20:23].tolist() == [[False, True, False], [True, True, True]]
    assert round_one[15:25, 29:31].all() and not round_one[:, 34:].any() and not round_one[:14].any()
    assert len(masks["ground"]) == 1 and (result.ids > 0).all()


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("</annotations>", "", ["is not XML"]),
        ("<image ", "<picture ", ["not XML"]),
        ('width="40" height="30"', 'width="41" height="30"', ["41x30", "40x30"]),
        ('width="40" height="30"', 'width="wide" height="30"', ["width", "'wide'"]),
        ("sub/x.jpg", "../x.jpg", ["../x.jpg"]),
        ("sub/x.jpg", "y.jpg", ["y.jpg", "does not exist"]),
        ('points="2.0,3.0;', 'points="2.0,;', ["polygon 1 (a)", "points"]),
        ('rle="1, 1', 'rle="1, 7', ["mask 4 (b)", "rle"]),
        ('z_order="2"', 'z_order="1"', ["polygon 1 (a)", "box 2 (a)", "overlap"]),
        ('xtl="6"', 'xtl="6" rotation="north"', ["box 2 (a)", "rotation", "'north'"]),
        ('rle="1, 1', 'rotation="30" rle="1, 1', ["mask 4 (b)", "turned"]),
        ("<polyline", '<cuboid label="a"/><polyline', ["cuboid 5 (a)", "no outline"]),
        ("<version>", "<track></track><version>", ["tracks"]),
    ],
)
def test_bad_cvat(tmp_path: Path, old: str, new: str, said: list[str]) -> None:
    assert old in CVAT
    args = _cvat(tmp_path, CVAT.replace(old, new, 1))
    refused(lambda: convert_cvat(*args, stuff=["ground"], ignore=["road"], overlaps="fail"), args[2], *said)


def test_cvat_without_area_or_file(tmp_path: Path) -> None:
    file, images, out = _cvat(tmp_path)
    strict = LeftOut(strict=True)
    said = "annotations.xml: polyline 5 (road), image sub/x.jpg", "without an area (polyline)", "--strict"
    refused(lambda: convert_cvat(file, images, out, stuff=["ground"], left_out=strict), out, *said)
    refused(lambda: convert_cvat(tmp_path / "no.xml", images, out), out, "no.xml")
    refused(lambda: convert_cvat(file, tmp_path / "no", out), out, "is not a folder")

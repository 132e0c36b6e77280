"""Collages: the order is true, the files agree with it, and the same numbers give the same image."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from banet.cli import main
from banet.data.images import list_images
from banet.data.scenes.collage import InstanceSet, make_collage, write_collages
from banet.errors import InputError, InputWarning
from banet.panoptic.coco.annotations import PanopticJson
from banet.panoptic.coco.rle import decode_segmentation
from banet.panoptic.segmentation import PanopticSegmentation

COLOURS = {3: (200, 30, 30), 7: (30, 30, 200)}


@pytest.fixture
def instance_set(tmp_path):
    """Two images with a square and a triangle each, of plain colours, and grey backgrounds."""
    (tmp_path / "images").mkdir()
    (tmp_path / "grounds").mkdir()
    images, annotations = [], []
    for image_id in (5, 9):
        name = f"{image_id}.png"
        image = np.full((160, 200, 3), 120, np.uint8)
        for category, corners in ((3, [20, 20, 80, 20, 80, 90, 20, 90]), (7, [100, 40, 180, 40, 180, 140])):
            mask = decode_segmentation([corners], (160, 200))
            image[mask] = COLOURS[category]
            xs, ys = corners[0::2], corners[1::2]
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image_id,
                    "category_id": category,
                    "segmentation": [corners],
                    "area": float(mask.sum()),
                    "bbox": [min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys)],
                    "iscrowd": 0,
                }
            )
        Image.fromarray(image).save(tmp_path / "images" / name)
        Image.fromarray(np.full((150, 220, 3), 10 * image_id, np.uint8)).save(tmp_path / "grounds" / name)
        images.append({"id": image_id, "file_name": name, "width": 200, "height": 160})
    content = {
        "images": images,
        "annotations": annotations,
        "categories": [{"id": 3, "name": "box"}, {"id": 7, "name": "wedge"}],
    }
    (tmp_path / "instances.json").write_text(json.dumps(content))
    return tmp_path


def read(folder):
    return InstanceSet(folder / "instances.json", folder / "images"), list_images([str(folder / "grounds")])


def test_the_order_is_what_one_sees(instance_set):
    instances, grounds = read(instance_set)
    overlapping = 0
    for index in range(8):
        scene = make_collage(instances, grounds, 1, index)
        owner = np.full(scene.ids.shape, len(scene.masks) + 1)
        for row in scene.order[::-1]:
            owner[scene.masks[row]] = row + 1
        np.testing.assert_array_equal(owner, scene.ids)
        overlapping += int((scene.masks.sum(axis=0) > 1).any())
        for segment in scene.segments:
            mask = scene.ids == segment.id
            assert mask.sum() == segment.area
            if segment.isthing:  # the middle of what one sees bears its colour
                seen = np.median(scene.image[mask].astype(int), axis=0)
                assert np.abs(seen - COLOURS[segment.category_id]).max() <= 40
    assert overlapping >= 4


def test_same_numbers_same_collage(instance_set):
    instances, grounds = read(instance_set)
    first = make_collage(instances, grounds, 3, 2)
    make_collage(instances, grounds, 3, 5)
    again = make_collage(*read(instance_set), 3, 2)
    np.testing.assert_array_equal(first.image, again.image)
    np.testing.assert_array_equal(first.masks, again.masks)
    assert not np.array_equal(first.image, make_collage(instances, grounds, 4, 2).image)


def test_files_agree(instance_set, capsys):
    out = instance_set / "out"
    arguments = f"data collage --instances {instance_set}/instances.json --images {instance_set}/images --count 3"
    assert main([*arguments.split(), "--backgrounds", f"{instance_set}/grounds", "--out", str(out)]) == 0
    assert capsys.readouterr().out.strip() == str(out / "panoptic.json")
    truth = PanopticJson.read(out / "panoptic.json")
    amodal = json.loads((out / "instances_amodal.json").read_text())
    assert [one["name"] for one in amodal["categories"]] == ["box", "wedge"]
    assert len(truth.annotations) == 3
    for image_id, annotation in truth.annotations.items():
        result = PanopticSegmentation.from_annotation(annotation, out / "panoptic", truth.categories)
        painted = np.zeros_like(result.ids)
        full = [one for one in amodal["annotations"] if one["image_id"] == image_id]
        for one in sorted(full, key=lambda one: -one["depth"]):
            painted[decode_segmentation(one["segmentation"], painted.shape)] = one["panoptic_id"]
        things = result.ids <= len(full)
        np.testing.assert_array_equal(painted[things], result.ids[things])
        assert not painted[~things].any()


def test_covered_and_cut_off_instances_are_left_where_they_are(instance_set):
    path = instance_set / "instances.json"
    content = json.loads(path.read_text())
    content["annotations"][0]["bbox"][0] = 0  # at the border
    over = {**content["annotations"][1], "id": 77, "category_id": 3}  # claims the same pixels
    content["annotations"].append(over)
    path.write_text(json.dumps(content))
    instances, _ = read(instance_set)
    cut = [instances.cut_out(n) for n in range(len(instances.candidates))]
    assert sum(one is not None for one in cut) == 2  # those of the second image
    assert {one.image_id for one in cut if one} == {9}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.pop("images"), "'images' is missing"),
        (lambda c: c["annotations"][0].update(image_id=1), "image_id 1 is not in images"),
        (lambda c: c.update(annotations=[]), "nothing to cut out"),
        (lambda c: [one.update(segmentation=3) for one in c["annotations"]], "segmentation: must be"),
        (lambda c: [one.pop("segmentation") for one in c["annotations"]], "segmentation: is missing"),
    ],
)
def test_bad_files_are_told_in_one_line(instance_set, change, message):
    path = instance_set / "instances.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
    with pytest.raises(InputError, match=message) as caught:
        write_collages(instance_set / "out", InstanceSet(path, instance_set / "images"), instance_set / "grounds")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("values", [{"bbox": []}, {"area": "4200"}, {"bbox": None, "area": None}])
def test_boxes_and_areas_are_measured_where_they_are_not_numbers(instance_set, values):
    before, _ = read(instance_set)
    path = instance_set / "instances.json"
    content = json.loads(path.read_text())
    for one in content["annotations"]:
        one.update(values)
    content["annotations"].append({**content["annotations"][0], "id": 99, "segmentation": None})  # without a pixel
    path.write_text(json.dumps(content))
    measured, _ = read(instance_set)
    assert measured.candidates == before.candidates
    for image_id, those in before.by_image.items():
        boxes = [[one["bbox"] for one in some] for some in (measured.by_image[image_id], those)]
        np.testing.assert_allclose(*boxes, atol=1)  # of the pixels, and of the corners


def test_deep_images_use_one_number_of_bits_per_data_set(instance_set):
    grounds = instance_set / "grounds"
    Image.fromarray(np.full((150, 220), 4000, np.uint16)).save(grounds / "5.png")
    Image.fromarray(np.full((150, 220), 900, np.uint16)).save(grounds / "9.png")  # alone, 10 bits
    for name, white in (("5.png", 60000), ("9.png", 1000)):
        grey = Image.open(instance_set / "images" / name).convert("L")
        deep = np.uint16(np.asarray(grey) / 255 * white)
        Image.fromarray(deep).save(instance_set / "images" / name)
    instances, _ = read(instance_set)
    with pytest.warns(InputWarning, match="use 16 bits"):
        assert instances.depth.bits == 16
    with pytest.warns(InputWarning, match="use 12 bits"):
        out = write_collages(instance_set / "out", instances, grounds, count=12)
    grounds_of = {int(np.median(np.asarray(Image.open(path)))) for path in (out.parent / "images").iterdir()}
    assert grounds_of == {round(4000 / 4095 * 255), round(900 / 4095 * 255)}
    assert instances.image(9).max() <= round(1000 / 65535 * 255)
    given = InstanceSet(instance_set / "instances.json", instance_set / "images", 16)
    out = write_collages(instance_set / "given", given, grounds, count=12, bit_depth=14)
    grounds_of = {int(np.median(np.asarray(Image.open(path)))) for path in (out.parent / "images").iterdir()}
    assert grounds_of == {round(4000 / 16383 * 255), round(900 / 16383 * 255)}


def test_no_backgrounds(instance_set):
    (instance_set / "empty").mkdir()
    with pytest.raises(InputError):
        write_collages(instance_set / "out", read(instance_set)[0], instance_set / "empty")


@pytest.mark.parametrize("options", [{"things": (0, 2)}, {"things": (3, 2)}, {"seed": -1}, {"index": -1}])
def test_bad_arguments(instance_set, options):
    with pytest.raises(ValueError):
        make_collage(*read(instance_set), **{"seed": 0, "index": 0, **options})

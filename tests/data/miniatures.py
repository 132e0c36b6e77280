"""Small data sets in the real layouts of other formats, made of procedural scenes, with their ground truth."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from banet.data.scenes.generate import make_scene
from banet.panoptic.coco.annotations import PanopticJson
from banet.panoptic.segmentation import PanopticSegmentation

SIZE = (64, 96)

TINY = """
    --model.backbone resnet18 --model.fpn_channels 16 --model.semantic_channels [16,16,8] --model.i2s_channels 8
    --model.box_head_channels 16 --model.mask_head_channels 16 --model.anchor_sizes [8,16,32,64,96]
    --loss.proposals 50 --loss.rpn_samples 32 --loss.roi_samples 16 --data.shorter [64] --data.workers 0
    --train.init random --train.iterations 3 --train.batch_size 2 --train.warmup 2 --train.milestones []
    --inference.proposals 30 --inference.shorter 64 --inference.stuff_area 16
    --inference.score_threshold 0.05 --train.lr 0.001
"""
"""Options of `banet train` for a network that takes three steps in a second."""


@dataclass
class Expected:
    """The ground truth of an image: ids, and the category id and crowd flag of each but 0, which is void."""

    ids: NDArray[np.int32]
    of: dict[int, tuple[int, bool]]


def read_back(folder: Path) -> dict[str, PanopticSegmentation]:
    """What was written, by the image's name."""
    content = PanopticJson.read(folder / "panoptic.json")
    return {
        content.images[image_id].file_name: PanopticSegmentation.from_annotation(
            annotation, folder / "panoptic", content.categories, image=content.images[image_id]
        )
        for image_id, annotation in content.annotations.items()
    }


def assert_same(result: PanopticSegmentation, expected: Expected) -> None:
    """Each expected segment is one of the result, pixel by pixel, with its class; numbers may differ."""
    pairs = np.unique(np.stack([expected.ids.ravel(), result.ids.ravel()]), axis=1).T.tolist()
    number = dict(pairs)
    assert len(pairs) == len(number) == len({theirs for _, theirs in pairs}), pairs
    assert number.get(0, 0) == 0
    found = {segment.id: (segment.category_id, segment.iscrowd) for segment in result.segments}
    assert found == {number[i]: expected.of[i] for i in number if i}


def scenes(seed: int, count: int) -> Iterator[tuple[int, Any]]:
    """Scenes with at least two things."""
    index = found = 0
    while found < count:
        scene = make_scene(seed, index, SIZE)
        index += 1
        if len(scene.masks) >= 2:
            yield found, scene
            found += 1


def _split_ids(scene: Any, things: list[int], stuff: list[int]) -> tuple[Expected, dict[int, tuple[int, int]]]:
    """A scene with other classes: things and stuff take turns through those given; label and instance of each id."""
    of: dict[int, tuple[int, bool]] = {}
    coded: dict[int, tuple[int, int]] = {}
    ids = scene.ids.copy()
    stuff_rows = [s for s in scene.segments if not s.isthing]
    thing_rows = [s for s in scene.segments if s.isthing]
    for row, segment in enumerate(thing_rows):
        label = things[row % len(things)]
        crowd = row == len(thing_rows) - 1  # the last one counts as a group that nobody separated
        of[segment.id], coded[segment.id] = (label, crowd), (label, 0 if crowd else row + 1)
    for row, segment in enumerate(stuff_rows[: len(stuff)]):
        of[segment.id], coded[segment.id] = (stuff[row], False), (stuff[row], 0)
    for segment in stuff_rows[len(stuff) :]:
        ids[ids == segment.id] = 0
    return Expected(ids.astype(np.int32), of), coded


def _save(path: Path, values: NDArray[Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values).save(path)


def cityscapes(root: Path, split: str, seed: int, count: int = 2) -> dict[str, Expected]:
    """gtFine and leftImg8bit of a split; 0 (unlabeled), 1 (ego vehicle) and 30 (trailer) do not count."""
    truth = {}
    for row, scene in scenes(seed, count):
        expected, coded = _split_ids(scene, [26, 24, 33], [7, 23])
        values = np.zeros(SIZE, np.uint16)
        for identity, (label, number) in coded.items():
            values[expected.ids == identity] = (
                label if expected.of[identity][1] or number == 0 else 1000 * label + number
            )
        values[:2], values[-2:], values[2:4, :5] = 1, 30_001, 3
        expected.ids[values < 4], expected.ids[values == 30_001] = 0, 0
        city, name = ("aachen", "bochum")[row % 2], f"{('aachen', 'bochum')[row % 2]}_{row:06}_000019"
        _save(root / "leftImg8bit" / split / city / f"{name}_leftImg8bit.png", scene.image)
        _save(root / "gtFine" / split / city / f"{name}_gtFine_instanceIds.png", values)
        labels = np.where(values < 1000, values, values // 1000).astype(np.uint8)
        _save(root / "gtFine" / split / city / f"{name}_gtFine_labelIds.png", labels)
        (root / "gtFine" / split / city / f"{name}_gtFine_polygons.json").write_text("{}")
        truth[f"{city}/{name}_leftImg8bit.png"] = expected
    return truth


ADE_CLASSES = ("wall", "building, edifice", "sky", "person, individual, someone", "car, auto")


def ade20k(root: Path, split: str, seed: int, count: int = 2) -> dict[str, Expected]:
    """ADEChallengeData2016 with instances, of five classes; 4 and 5 are things, the instances' classes 1 and 2."""
    root.mkdir(exist_ok=True)
    rows = [f"{n}\t0.1\t100\t10\t{name}" for n, name in enumerate(ADE_CLASSES, 1)]
    (root / "objectInfo150.txt").write_text("\n".join(["Idx\tRatio\tTrain\tVal\tName", *rows, ""]))
    (root / "categoryMapping.txt").write_text("Instance\tScene\tName\n1\t4\tperson\n2\t5\tcar\n")
    truth = {}
    for row, scene in scenes(seed, count):
        expected, coded = _split_ids(scene, [4, 5], [1, 3])
        labels, instances = np.zeros(SIZE, np.uint8), np.zeros((*SIZE, 3), np.uint8)
        for identity, (label, number) in coded.items():
            mask = expected.ids == identity
            labels[mask] = label
            if number:
                instances[mask] = (label - 3, number, 0)
        name = f"ADE_{split[:5]}_{row + 1:08}"
        (root / "images" / split).mkdir(parents=True, exist_ok=True)
        Image.fromarray(scene.image).save(root / "images" / split / f"{name}.jpg", quality=95)
        _save(root / "annotations" / split / f"{name}.png", labels)
        _save(root / "annotations_instance" / split / f"{name}.png", instances)
        truth[f"{name}.jpg"] = expected
    return truth


def shapes(seed: int) -> tuple[NDArray[np.uint8], list[tuple[str, list[tuple[int, int]]]]]:
    """An image of a field under a sky with boxes on it, and label and outline of each; nothing overlaps but stuff."""
    rng = np.random.default_rng(seed)
    image = np.zeros((*SIZE, 3), np.uint8)
    image[:24], image[24:] = (90, 140, 210), (60, 120, 50)
    outlines = [("sky", [(0, 0), (96, 0), (96, 24), (0, 24)]), ("field", [(0, 24), (96, 24), (96, 64), (0, 64)])]
    for column in range(3):
        x, y = 32 * column + int(rng.integers(2, 8)), int(rng.integers(4, 24))
        w, h = int(rng.integers(10, 20)), int(rng.integers(12, 30))
        label = ("box", "crate")[int(rng.integers(2))] if column else "box"
        image[y : y + h, x : x + w] = rng.integers(0, 256, 3) if label == "box" else (200, 160, 60)
        outlines.append((label, [(x, y), (x + w, y), (x + w, y + h), (x, y + h)]))
    image = np.clip(image + rng.integers(-9, 10, image.shape), 0, 255).astype(np.uint8)
    return image, outlines


def labelme(folder: Path, seed: int, count: int = 2) -> None:
    """Images with Labelme's JSON beside each."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        image, outlines = shapes(1000 * seed + number)
        Image.fromarray(image).save(folder / f"{number}.png")
        entries = [
            {"label": label, "points": points, "group_id": None, "shape_type": "polygon", "flags": {}}
            for label, points in outlines
        ]
        content = {
            "version": "5.4.1",
            "flags": {},
            "shapes": entries,
            "imagePath": f"{number}.png",
            "imageData": None,
            "imageHeight": SIZE[0],
            "imageWidth": SIZE[1],
        }
        (folder / f"{number}.json").write_text(json.dumps(content))

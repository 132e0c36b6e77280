"""COCO panoptic datasets: good ones, damaged ones, and real images where there are any."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from banet.data.coco_panoptic import CocoPanoptic
from banet.data.transforms import eval_transform, train_transform
from banet.errors import InputError
from banet.panoptic.coco.png import write_ids

IDS = np.array([[0, 0, 300, 300], [70000, 70000, 300, 300], [70000, 70000, 5, 9]], np.int32)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two images: one with two things, a crowd and stuff; one of stuff only."""
    for name in ("images", "panoptic"):
        (tmp_path / name).mkdir()
    for name in ("a", "b"):
        Image.fromarray(np.full((3, 4, 3), 40, np.uint8)).save(tmp_path / "images" / f"{name}.jpg")
    write_ids(tmp_path / "panoptic" / "a.png", IDS)
    write_ids(tmp_path / "panoptic" / "b.png", np.full((3, 4), 8, np.int32))
    _store(
        tmp_path,
        {
            "images": [
                {"id": 11, "file_name": "a.jpg", "width": 4, "height": 3},
                {"id": 12, "file_name": "b.jpg", "width": 4, "height": 3},
            ],
            "annotations": [
                {
                    "image_id": 11,
                    "file_name": "a.png",
                    "segments_info": [
                        {"id": 300, "category_id": 18, "iscrowd": 0},
                        {"id": 70000, "category_id": 1, "iscrowd": 0},
                        {"id": 5, "category_id": 1, "iscrowd": 1},
                        {"id": 9, "category_id": 92, "iscrowd": 0},
                    ],
                },
                {"image_id": 12, "file_name": "b.png", "segments_info": [{"id": 8, "category_id": 92, "iscrowd": 0}]},
            ],
            "categories": [
                {"id": 92, "name": "banner", "isthing": 0},
                {"id": 18, "name": "dog", "isthing": 1},
                {"id": 1, "name": "person", "isthing": 1},
            ],
        },
    )
    return tmp_path


def _store(root: Path, content: dict[str, Any]) -> None:
    (root / "panoptic.json").write_text(json.dumps(content))


def _open(root: Path) -> CocoPanoptic:
    return CocoPanoptic(root / "images", root / "panoptic", root / "panoptic.json")


def test_samples(root: Path) -> None:
    dataset = _open(root)
    assert (len(dataset), dataset.image_ids, dataset.file_name(1)) == (2, [11, 12], "b.jpg")
    sample = dataset[0]
    assert sample.image.shape == (3, 3, 4)
    assert sample.image.dtype == torch.uint8
    assert sample.target.labels.tolist() == [1, 0]
    assert sample.target.boxes.tolist() == [[2, 0, 4, 2], [0, 1, 2, 3]]
    assert sample.target.semantic.tolist() == [[-1, -1, 1, 1], [0, 0, 1, 1], [0, 0, 0, 2]]
    assert sample.target.instances.tolist() == [[-1, -1, 0, 0], [1, 1, 0, 0], [1, 1, -1, -1]]
    assert (sample.target.image_id, sample.target.name) == (11, "a.jpg")


def test_an_image_without_things(root: Path) -> None:
    target = _open(root)[1].target
    assert target.boxes.shape == (0, 4)
    assert target.labels.shape == (0,)
    assert target.semantic.unique().tolist() == [2]


def test_what_is_cropped_away_is_no_row(root: Path) -> None:
    dataset = CocoPanoptic(
        root / "images",
        root / "panoptic",
        root / "panoptic.json",
        transform=lambda image, ids: (image[:, :1], ids[:1]),
    )
    target = dataset[0].target
    assert target.labels.tolist() == [1]
    assert target.boxes.tolist() == [[2, 0, 4, 1]]


def _edit(root: Path, change: Callable[[dict[str, Any]], None]) -> None:
    content = json.loads((root / "panoptic.json").read_text())
    change(content)
    _store(root, content)


def _damage(root: Path, what: str) -> None:
    match what:
        case "picture missing":
            (root / "images" / "a.jpg").unlink()
        case "picture truncated":
            Image.fromarray(np.random.default_rng(0).integers(0, 256, (3, 4, 3), dtype=np.uint8)).save(
                root / "images" / "a.jpg", quality=100
            )
            data = (root / "images" / "a.jpg").read_bytes()
            (root / "images" / "a.jpg").write_bytes(data[:-30])
        case "picture of another size":
            Image.new("RGB", (5, 3)).save(root / "images" / "a.jpg")
        case "picture turned":
            Image.new("RGB", (3, 4)).save(root / "images" / "a.jpg")
        case "png missing":
            (root / "panoptic" / "a.png").unlink()
        case "png of another size":
            write_ids(root / "panoptic" / "a.png", IDS[:2])
        case "png without a segment":
            write_ids(root / "panoptic" / "a.png", np.where(IDS == 5, 9, IDS))
        case "json without a segment":
            _edit(root, lambda c: c["annotations"][0]["segments_info"].pop())


@pytest.mark.parametrize(
    ("what", "names"),
    [
        ("picture missing", ["a.jpg", "does not exist"]),
        ("picture truncated", ["a.jpg", "truncated"]),
        ("picture of another size", ["a.jpg", "5x3", "4x3"]),
        ("picture turned", ["a.jpg", "EXIF"]),
        ("png missing", ["a.png"]),
        ("png of another size", ["a.png", "4x2", "4x3"]),
        ("png without a segment", ["a.png", "5"]),
        ("json without a segment", ["a.png", "9"]),
    ],
)
def test_damaged_samples_name_the_file(root: Path, what: str, names: list[str]) -> None:
    _damage(root, what)
    dataset = _open(root)
    assert len(dataset[1].target.labels) == 0
    with pytest.raises(InputError) as caught:
        dataset[0]
    assert all(name in str(caught.value) for name in names)
    assert "\n" not in str(caught.value)


def test_an_unknown_category_names_the_file(root: Path) -> None:
    _edit(root, lambda c: c["annotations"][0]["segments_info"][0].update(category_id=19))
    with pytest.raises(InputError, match=r"panoptic\.json.*19"):
        _open(root)


def test_missing_folders_and_empty_datasets(root: Path) -> None:
    with pytest.raises(InputError, match="images folder does not exist"):
        CocoPanoptic(root / "no", root / "panoptic", root / "panoptic.json")
    with pytest.raises(InputError, match="panoptic folder is not a folder"):
        CocoPanoptic(root / "images", root / "panoptic.json", root / "panoptic.json")
    with pytest.raises(InputError, match=r"no\.json"):
        CocoPanoptic(root / "images", root / "panoptic", root / "no.json")
    _edit(root, lambda c: c["annotations"].clear())
    with pytest.raises(InputError, match="'annotations' is empty"):
        _open(root)


def _real() -> Path:
    folder = Path(os.environ.get("BANET_TEST_DATA", "")) / "coco_panoptic"
    if not os.environ.get("BANET_TEST_DATA") or not folder.is_dir():
        pytest.skip("BANET_TEST_DATA/coco_panoptic is absent")
    return folder


def test_real_images() -> None:
    dataset = _open(_real())
    assert len(dataset) == 22
    dataset.transform = eval_transform(160, 240)
    for index in range(len(dataset)):
        image, truth = dataset.read(index)
        assert image.shape[:2] == truth.ids.shape
        target = dataset[index].target
        assert target.semantic.max() < len(dataset.categories)
        things = [s for s in truth.segments if s.isthing and not s.iscrowd]
        assert len(target.labels) <= len(things)
        for row, mask in enumerate(target.masks):
            y, x = torch.nonzero(mask, as_tuple=True)
            assert target.boxes[row].tolist() == [x.min(), y.min(), x.max() + 1, y.max() + 1]
            assert (target.semantic[mask] == target.labels[row]).all()


def test_real_images_in_training() -> None:
    root = _real()
    transform = train_transform([96, 128], 200, color_jitter=0.3)
    dataset = CocoPanoptic(root / "images", root / "panoptic", root / "panoptic.json", transform)
    torch.manual_seed(0)
    for index in range(len(dataset)):
        sample = dataset[index]
        assert sample.image.shape[1:] == sample.target.semantic.shape
        assert max(sample.image.shape[1:]) <= 200

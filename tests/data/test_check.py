"""`banet data check`: clean sets are clean, and every kind of damage is found, named, and given a hint."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from banet.cli import main
from banet.data.check import check_splits, find_splits
from banet.data.scenes.generate import write_coco
from banet.errors import InputError
from banet.panoptic.coco.png import read_ids, write_ids


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two splits side by side, nothing wrong with either."""
    root = tmp_path_factory.mktemp("clean")
    write_coco(root / "train", 1, 3, (48, 64))
    write_coco(root / "val", 2, 2, (48, 64))
    return root


@pytest.fixture
def root(clean: Path, tmp_path: Path) -> Path:
    shutil.copytree(clean, tmp_path / "set")
    return tmp_path / "set"


def _edit(root: Path, change: Callable[[dict[str, Any]], Any], split: str = "train") -> None:
    path = root / split / "panoptic.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def _map(root: Path, row: int = 0) -> Path:
    content = json.loads((root / "train" / "panoptic.json").read_text())
    return root / "train" / "panoptic" / content["annotations"][row]["file_name"]


def _image(root: Path, row: int = 0, split: str = "train") -> Path:
    content = json.loads((root / split / "panoptic.json").read_text())
    return root / split / "images" / content["images"][row]["file_name"]


def kinds(root: Path) -> list[str]:
    report = check_splits(find_splits(root))
    assert all(one.where and one.what and one.hint and "\n" not in str(one) for one in report.findings)
    return [one.kind for one in report.findings]


def test_a_clean_set(clean: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["data", "check", str(clean), "--report", str(tmp_path / "r.json")]) == 0
    shown = capsys.readouterr().out
    assert "train: 3 images" in shown and "val: 2 images" in shown and shown.endswith("nothing found\n")
    report = json.loads((tmp_path / "r.json").read_text())
    assert report["findings"] == []
    content = json.loads((clean / "train" / "panoptic.json").read_text())
    assert report["splits"]["train"]["segments"] == sum(len(a["segments_info"]) for a in content["annotations"])


def _first(content: dict[str, Any]) -> dict[str, Any]:
    segment: dict[str, Any] = content["annotations"][0]["segments_info"][0]
    return segment


def _swap_stuff(content: dict[str, Any]) -> None:
    """All segments of the first image become one class of stuff."""
    stuff = next(c["id"] for c in content["categories"] if not c["isthing"])
    for segment in content["annotations"][0]["segments_info"]:
        segment["category_id"] = stuff


def _grow(path: Path) -> None:
    ids = read_ids(path)
    write_ids(path, np.pad(ids, ((0, 1), (0, 0)), mode="edge"))


def _paint(path: Path, value: int) -> None:
    ids = read_ids(path)
    ids[0, 0] = value
    write_ids(path, ids)


def _truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-40])


DAMAGE: dict[str, tuple[Callable[[Path], Any], set[str]]] = {
    "area": (lambda r: _edit(r, lambda c: _first(c).update(area=1_000_000)), {"area"}),
    "bbox": (lambda r: _edit(r, lambda c: _first(c).update(bbox=[0, 0, 1, 1])), {"bbox"}),
    "segment id twice": (
        lambda r: _edit(r, lambda c: c["annotations"][0]["segments_info"].append(_first(c))),
        {"json"},
    ),
    "unknown category": (lambda r: _edit(r, lambda c: _first(c).update(category_id=999)), {"json"}),
    "unknown id in the map": (lambda r: _paint(_map(r), 9999), {"ids", "area"}),
    "segment without a pixel": (
        lambda r: _edit(r, lambda c: c["annotations"][0]["segments_info"].append({**_first(c), "id": 777})),
        {"ids"},
    ),
    "map of another size": (lambda r: _grow(_map(r)), {"size", "area", "bbox"}),
    "map missing": (lambda r: _map(r).unlink(), {"png"}),
    "map grey": (lambda r: Image.new("L", (64, 48)).save(_map(r)), {"png"}),
    "image missing": (lambda r: _image(r).unlink(), {"image"}),
    "image truncated": (lambda r: _truncate(_image(r)), {"image"}),
    "picture of another size": (lambda r: Image.new("RGB", (48, 64)).save(_image(r)), {"size"}),
    "image size": (lambda r: _edit(r, lambda c: c["images"][0].update(width=63)), {"size"}),
    "image id twice": (lambda r: _edit(r, lambda c: c["images"].append(c["images"][0])), {"duplicate"}),
    "file name twice": (
        lambda r: _edit(r, lambda c: c["images"].append({**c["images"][0], "id": 400})),
        {"duplicate", "annotation"},
    ),
    "annotated twice": (lambda r: _edit(r, lambda c: c["annotations"].append(c["annotations"][0])), {"duplicate"}),
    "not annotated": (lambda r: _edit(r, lambda c: c["annotations"].pop()), {"annotation"}),
    "annotation of no image": (lambda r: _edit(r, lambda c: c["images"].pop()), {"json"}),
    "same picture twice": (lambda r: shutil.copy(_image(r, 0), _image(r, 1)), {"duplicate"}),
    "no object": (lambda r: _edit(r, lambda c: c["annotations"].append(5)), {"json"}),
    "category twice": (
        lambda r: _edit(r, lambda c: c["categories"].append(c["categories"][0])),
        {"categories"},
    ),
    "name of a category twice": (
        lambda r: _edit(r, lambda c: c["categories"].append({**c["categories"][0], "id": 99})),
        {"categories"},
    ),
    "categories of the other split": (
        lambda r: _edit(r, lambda c: c["categories"].append({"id": 99, "name": "new", "isthing": 1}), "val"),
        {"categories"},
    ),
    "stuff in pieces": (lambda r: _edit(r, _swap_stuff), {"stuff"}),
    "leak": (lambda r: shutil.copy(_image(r), _image(r, 0, "val")), {"leak"}),
}


@pytest.mark.parametrize("what", DAMAGE)
def test_damage_is_found(root: Path, what: str) -> None:
    damage, expected = DAMAGE[what]
    damage(root)
    assert set(kinds(root)) == expected


def test_the_same_image_in_another_format_is_a_leak(root: Path) -> None:
    """Names, ids and bytes differ; pixels do not."""
    picture = _image(root)
    with Image.open(picture) as image:
        image.save(_image(root, 0, "val").with_suffix(".bmp"))
    _edit(
        root,
        lambda c: c["images"][0].update(file_name=str(Path(c["images"][0]["file_name"]).with_suffix(".bmp"))),
        "val",
    )
    report = check_splits(find_splits(root))
    assert [one.kind for one in report.findings] == ["leak"]
    assert picture.name in report.findings[0].what


def test_the_same_name_is_a_leak_where_it_looks_the_same(root: Path) -> None:
    """Numbers and names alone say little: both splits may have been numbered from 1."""
    report = check_splits(find_splits(root))
    assert report.findings == []
    assert any("same id" in note for note in report.notes)
    picture, old = _image(root), _image(root, 0, "val")
    new = old.with_name(picture.name)
    old.rename(new)
    _edit(root, lambda c: c["images"][0].update(file_name=new.name), "val")
    report = check_splits(find_splits(root))
    assert report.findings == []
    assert any("same name" in note for note in report.notes)
    with Image.open(picture) as image:
        image.save(new, "JPEG", quality=90)
    report = check_splits(find_splits(root))
    assert [(one.kind, one.where) for one in report.findings] == [("leak", str(new))]


def test_findings_end_with_1_and_are_shown_with_their_hint(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _edit(root, lambda c: [s.update(area=5) for a in c["annotations"] for s in a["segments_info"]])
    assert main(["data", "check", str(root)]) == 1
    shown = capsys.readouterr().out
    assert "annotations[0].segments_info.area" in shown
    assert "hint: write the counted one" in shown
    assert "3 findings" in shown
    images, panoptic, file = (str(root / "train" / name) for name in ("images", "panoptic", "panoptic.json"))
    assert main(["data", "check", "--images", images, "--panoptic", panoptic, "--json", file]) == 1


def test_a_recipe_names_the_splits(root: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "mine.yaml"
    parts = "{{images: {0}/images, panoptic: {0}/panoptic, json: {0}/panoptic.json}}"
    recipe.write_text(f"data:\n  root: {root}\n  train: {parts.format('train')}\n  val: {parts.format('val')}\n")
    assert main(["data", "check", "--config", str(recipe)]) == 0
    shutil.copy(_image(root), _image(root, 0, "val"))
    assert main(["data", "check", "--config", str(recipe)]) == 1


def test_cocos_own_layout(root: Path, tmp_path: Path) -> None:
    coco = tmp_path / "coco"
    (coco / "annotations").mkdir(parents=True)
    for split in ("train", "val"):
        shutil.copytree(root / split / "images", coco / f"{split}2017")
        shutil.copytree(root / split / "panoptic", coco / "annotations" / f"panoptic_{split}2017")
        shutil.copy(root / split / "panoptic.json", coco / "annotations" / f"panoptic_{split}2017.json")
    assert [split.name for split in find_splits(coco)] == ["train2017", "val2017"]
    assert main(["data", "check", str(coco)]) == 0


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "say what to check"),
        (["nowhere"], "holds neither panoptic.json"),
        (["--images", "a", "--json", "b"], "say what to check"),
        (["{root}", "--images", "a"], "2 splits"),
        (["{root}/train", "--images", "nowhere"], "nowhere: is not a folder"),
        (["{root}", "--config", "coco_r50_1x"], "say what to check"),
        (["--config", "coco_r50_1x", "--images", "{root}"], "say what to check"),
    ],
)
def test_what_cannot_be_checked_ends_with_2(
    clean: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], said: str
) -> None:
    assert main(["data", "check", *(one.format(root=clean) for one in arguments)]) == 2
    assert said in capsys.readouterr().err


def test_a_file_that_is_no_json_is_an_error(root: Path) -> None:
    (root / "train" / "panoptic.json").write_text('{"images": [')
    with pytest.raises(InputError, match="is not JSON"):
        kinds(root)
    (root / "train" / "panoptic.json").write_text('{"images": []}')
    with pytest.raises(InputError, match="'annotations' is missing"):
        kinds(root)


def test_real_images() -> None:
    folder = Path(os.environ.get("BANET_TEST_DATA", "")) / "coco_panoptic"
    if not os.environ.get("BANET_TEST_DATA") or not folder.is_dir():
        pytest.skip("BANET_TEST_DATA/coco_panoptic is absent")
    assert kinds(folder) == []

"""Other people's image files on the way through the commands: bits per sample, pages, and what is skipped."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from factories import TINY, with_train
from PIL import Image

import banet
from banet.cli import main
from banet.data.coco_panoptic import CocoPanoptic
from banet.data.images import find_images, formats, list_images, reading
from banet.data.scenes.generate import Scenes, write_coco
from banet.engine.evaluation.evaluate import evaluate_command
from banet.engine.evaluation.evaluation_data import open_split
from banet.engine.options import load_recipe
from banet.engine.recipe import SplitConfig
from banet.engine.training.train import train
from banet.errors import InputError, InputWarning
from banet.files.outputs import RECORD
from banet.inference.banet import BANet

SPLIT = SplitConfig("images", "panoptic", "panoptic.json")


def deep(image: np.ndarray, bits: int) -> np.ndarray:
    return np.rint(image.astype(float) * ((1 << bits) - 1) / 255).astype(np.uint16)


def deep_set(folder: Path, bits: int, count: int = 3) -> list[np.ndarray]:
    """A data set of grey images of 16 bits that use fewer, the first one dark; returns its images as 8 bits."""
    write_coco(folder, seed=6, count=count, size=(64, 64))
    images = []
    for number, path in enumerate(sorted((folder / "images").iterdir())):
        grey = np.asarray(Image.open(path).convert("L")) // (9 if number == 0 else 1)
        grey.flat[0] = 20 if number == 0 else 255
        Image.fromarray(deep(grey, bits)).save(path)
        images.append(np.repeat(grey[..., None], 3, axis=2))
    return images


@pytest.fixture(scope="module")
def scene() -> np.ndarray:
    return Scenes(0, 1, (96, 96)).read(0)[0]


# ---------------------------------------------------------------------------------------------------- bits per sample


def test_a_data_set_has_one_number_of_bits(tmp_path: Path) -> None:
    images = deep_set(tmp_path, 12)
    data = CocoPanoptic(tmp_path / "images", tmp_path / "panoptic", tmp_path / "panoptic.json")
    with pytest.warns(InputWarning, match="12 bits"):
        assert data.depth.bits == 12
    for index, expected in enumerate(images):
        assert np.array_equal(data.read(index)[0], expected)
    shown = open_split(SPLIT, str(tmp_path))
    shown.set_bit_depth(16)
    assert shown[1].image.max() == 16  # 4095 of 65535


@pytest.mark.filterwarnings("ignore")
def test_training_saves_the_bits_that_it_found(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    deep_set(tmp_path / "data", 12)
    data = replace(TINY.data, kind="coco", root=str(tmp_path / "data"), train=SPLIT, val=SPLIT)
    run = tmp_path / "run"
    train(with_train(replace(TINY, data=data), iterations=1), run, device="cpu")
    assert load_recipe(str(run / "recipe.yaml")).inference.bit_depth == 12
    model = BANet.from_pretrained(run)
    assert model.inference.bit_depth == 12
    with pytest.raises(InputError, match="more than 12 bits; give another --bit-depth"):
        model.predict(np.full((8, 8), 5000, np.uint16))
    model.predict(np.full((8, 8), 5000, np.uint16), bit_depth="auto")
    given = {"recipe": None, "split": None, "out": None, "rule": None, "batch_size": 1, "limit": 2, "device": "cpu"}
    files = (str(tmp_path / "data" / name) for name in ("images", "panoptic", "panoptic.json"))
    given["split"] = SplitConfig(*files)
    evaluate_command(str(run), inference_overrides={}, **given)
    with pytest.raises(InputError, match="more than 10 bits"):
        evaluate_command(str(run), inference_overrides={"bit_depth": 10}, **given)


def same(one: object, other: object) -> bool:
    return bool(np.array_equal(one.ids, other.ids))  # type: ignore[attr-defined]


@pytest.mark.filterwarnings("ignore::banet.errors.InputWarning")
def test_predict_of_deep_files_and_arrays(tmp_path: Path, scene: np.ndarray) -> None:
    model = banet.BANet.from_pretrained("scenes")
    grey = scene.mean(axis=2).astype(np.uint8)
    grey.flat[0] = 255
    dark = grey // 20
    expected, expected_dark = model.predict([grey, dark])
    Image.fromarray(deep(grey, 12)).save(tmp_path / "a.png")
    Image.fromarray(deep(grey, 12)).save(tmp_path / "a.tif")
    assert same(model.predict(deep(scene, 14)), model.predict(scene))
    for form in (deep(grey, 12), tmp_path / "a.png", tmp_path / "a.tif"):
        assert same(model.predict(form), expected)
        found = model.predict([deep(dark, 12), form])
        assert same(found[0], expected_dark) and same(found[1], expected)
    assert same(model.predict(deep(dark, 12), bit_depth=12), expected_dark)
    assert same(model.predict(deep(scene, 12), tile=64, overlap=16), model.predict(scene, tile=64, overlap=16))


def test_an_image_alone_is_opened_once(tmp_path: Path, scene: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[Path] = []
    read = reading.open_file
    monkeypatch.setattr(reading, "open_file", lambda path: (opened.append(path), read(path))[1])
    model = banet.BANet.from_pretrained("scenes")
    path = tmp_path / "a.png"
    Image.fromarray(deep(scene[..., 0], 12)).save(path)
    for options in ({}, {"tile": 64, "overlap": 16}):
        opened.clear()
        with pytest.warns(InputWarning, match="12 bits") as told:
            model.predict(path, **options)
        assert opened == [path] and len(told) == 1


def test_predict_tells_the_bits_once_and_takes_others(
    tmp_path: Path, scene: np.ndarray, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("a", "b"):
        Image.fromarray(deep(scene[..., 0], 12)).save(tmp_path / f"{name}.png")
    command = ["predict", str(tmp_path), "--weights", "scenes", "--device", "cpu"]
    assert main([*command, "--out", str(tmp_path / "auto")]) == 0
    said = capsys.readouterr().err
    assert said.count("banet: note: 16-bit images: samples are taken to use 12 bits") == 1
    assert main([*command, "--out", str(tmp_path / "given"), "--bit-depth", "12"]) == 0
    assert "16-bit images" not in capsys.readouterr().err
    for name in ("a.png", "b.png"):
        assert (tmp_path / "auto" / name).read_bytes() == (tmp_path / "given" / name).read_bytes()
    assert main([*command, "--out", str(tmp_path / "low"), "--bit-depth", "10"]) == 1
    assert "a.png: holds samples up to" in capsys.readouterr().err
    assert main([*command, "--out", str(tmp_path / "no"), "--bit-depth", "17"]) == 2
    assert main([*command, "--out", str(tmp_path / "no"), "--bit-depth", "many"]) == 2


# --------------------------------------------------------------------------------------------------- pages and folders


def test_pages_of_a_file(tmp_path: Path, scene: np.ndarray, capsys: pytest.CaptureFixture[str]) -> None:
    stack = [Image.fromarray(image) for image in (scene, scene[::-1], scene[:, ::-1])]
    stack[0].save(tmp_path / "a.tif", save_all=True, append_images=stack[1:])
    stack[0].save(tmp_path / "b.png")
    command = ["predict", str(tmp_path / "a.tif"), str(tmp_path / "b.png"), "--weights", "scenes", "--device", "cpu"]
    assert main([*command, "--out", str(tmp_path / "one")]) == 0
    assert capsys.readouterr().err.count("a.tif: the first of 3 pages or frames is read, the others are left out") == 1
    assert main([*command, "--out", str(tmp_path / "all"), "--page", "all"]) == 0
    assert "pages" not in capsys.readouterr().err
    names = {path.name for path in (tmp_path / "all").glob("*.png")}
    assert names == {"a_page1.png", "a_page2.png", "a_page3.png", "b.png"}
    assert main([*command, "--out", str(tmp_path / "two"), "--page", "2"]) == 0
    assert (tmp_path / "two" / "a.png").read_bytes() == (tmp_path / "all" / "a_page2.png").read_bytes()
    assert (tmp_path / "one" / "a.png").read_bytes() == (tmp_path / "all" / "a_page1.png").read_bytes()
    capsys.readouterr()
    assert main([*command, "--out", str(tmp_path / "no"), "--page", "4"]) == 1
    assert "a.tif: has no page 4; give a page from 1 to 3" in capsys.readouterr().err
    assert main([*command, "--out", str(tmp_path / "no"), "--page", "0"]) == 2


def mixed(folder: Path, scene: np.ndarray) -> None:
    folder.mkdir()
    for name in ("a.png", "b.jfif", "c.jpe"):
        Image.fromarray(scene).save(folder / name, format="PNG" if name == "a.png" else "JPEG")
    for name in ("notes.txt", "more.TXT", "data.json", ".hidden.png", "README"):
        (folder / name).write_bytes(b"x")
    (folder / "deeper.png").mkdir()


SKIPPED = "skipped 2 .txt, 1 .json, 1 hidden, 1 without a suffix (not images, or hidden)"


def test_files_that_are_not_images_are_counted(
    tmp_path: Path, scene: np.ndarray, capsys: pytest.CaptureFixture[str]
) -> None:
    mixed(tmp_path / "in", scene)
    with pytest.warns(InputWarning) as told:
        assert [path.name for path in list_images([str(tmp_path / "in")])] == ["a.png", "b.jfif", "c.jpe"]
    assert [str(one.message) for one in told] == [f"{tmp_path / 'in'}: {SKIPPED}"]
    options = ["--weights", "scenes", "--device", "cpu", "--out", str(tmp_path / "out")]
    assert main(["predict", str(tmp_path / "in"), *options]) == 0
    assert capsys.readouterr().err.count(SKIPPED) == 1
    assert len({path.name for path in (tmp_path / "out").iterdir()} - {RECORD}) == 3 * 3 + 2  # and two lists


def test_images_that_cannot_be_read_make_the_status_1(
    tmp_path: Path, scene: np.ndarray, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(formats, "_has_heif", lambda: False)
    mixed(tmp_path / "in", scene)
    for name in ("d.heic", "e.cr2", "f.CR2"):
        (tmp_path / "in" / name).write_bytes(b"x" * 50)
    (tmp_path / "in" / "gone.jpg").symlink_to(tmp_path / "nowhere.jpg")
    images = find_images([str(tmp_path / "in")])
    assert len(images.paths) == 3 and len(images.unreadable) == 2 and len(images.skipped) == 1
    options = ["--weights", "scenes", "--device", "cpu", "--out", str(tmp_path / "out")]
    assert main(["predict", str(tmp_path / "in"), *options]) == 1
    said = capsys.readouterr()
    assert (
        "cannot read 2 .cr2, 1 .heic: not of a format that is read" in said.err and "banet-panoptic[heic]" in said.err
    )
    assert "cannot read 1 .jpg: links to files that do not exist (gone.jpg)" in said.err
    assert "3 of 3 images segmented" in said.out
    for name in ("a.png", "b.jfif", "c.jpe"):
        (tmp_path / "in" / name).unlink()
    assert main(["predict", str(tmp_path / "in"), *options]) == 2
    assert "the folder holds no image that can be read (cannot read 2 .cr2, 1 .heic" in capsys.readouterr().err
    with pytest.raises(InputError, match="is a link to a file that does not exist"):
        find_images([str(tmp_path / "in" / "gone.jpg")])


def test_a_heic_file_that_is_named_asks_for_the_extra(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    opener = formats._opener
    monkeypatch.setattr(formats, "_opener", lambda name: None if name == "HEIF" else opener(name))
    path = tmp_path / "a.heic"
    path.write_bytes(b"\0\0\0\x1cftypheic\0\0\0\0mif1heic" + bytes(200))
    options = ["--weights", "scenes", "--device", "cpu", "--out", str(tmp_path / "out")]
    assert main(["predict", str(path), *options]) == 1
    assert f"{path}: this needs pillow-heif, not installed: pip install" in capsys.readouterr().err

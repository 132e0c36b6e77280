"""No command replaces a file of the user's: for every command of the command line that writes, by its own options."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from factories import TINY
from PIL import Image
from readers import READERS, tiny_model

from banet.cli import main
from banet.commands import COMMANDS, find_command
from banet.commands.shared import OverwriteOptions
from banet.engine.recipe import to_yaml
from banet.files.outputs import RECORD

SILENT = {"app", "completion"}
"""Commands that write no files."""

ELSEWHERE = {"push"}
"""Writes to the hub: tested with the weights."""

DATA = "--images {given}/images --panoptic {given}/panoptic --json {given}/panoptic.json"
FIRST = "0000_000000"
PANOPTIC = ["panoptic.json", "panoptic/a.png"]
WRITERS: dict[str, tuple[str, list[str]]] = {
    "train": (
        "--config {given}/tiny.yaml --device cpu --out {out}",
        ["recipe.yaml", "model.safetensors", "best.safetensors", "README.md", "log/metrics.csv"],
    ),
    "evaluate": (
        f"{{weights}} {DATA} --device cpu --gallery --out {{out}}",
        [
            "panoptic.json",
            f"panoptic/{FIRST}.png",
            "metrics.json",
            "gallery.html",
            "panoptic_truth_BANet_results.zip",
        ],
    ),
    "analyze": (
        f"{{weights}} {DATA} --device cpu --out {{out}} --figure {{out}}/figure.png --baseline {{weights}}",
        ["analysis.json", "figure.png"],
    ),
    "ablate": (
        "--config {given}/tiny.yaml --device cpu --seeds [3] --out {out}",
        [
            "table2.md",
            "table2.csv",
            "table2.png",
            "rules.md",
            "rules.csv",
            "baseline/seed3/recipe.yaml",
            "sim/seed3/log/metrics.csv",
        ],
    ),
    "predict": (
        "{given}/images --weights {weights} --device cpu --gallery --out {out}",
        [f"{FIRST}.png", f"{FIRST}.json", f"{FIRST}_overlay.jpg", "gallery.html"],
    ),
    "export": ("{weights} --format openvino --out {out}/m.xml", ["m.xml", "m.bin"]),
    "models": ("--write-classes {out}/classes.json", ["classes.json"]),
    "pq": (
        "--gt-json {given}/panoptic.json --gt-dir {given}/panoptic --pred-json {given}/panoptic.json"
        " --pred-dir {given}/panoptic --json {out}/pq.json",
        ["pq.json"],
    ),
    "fuse": (
        "--instances {given}/results.json --semantic {given}/labels --images {given}/images"
        " --json {given}/panoptic.json --out {out}",
        ["panoptic.json", f"panoptic/{FIRST}.png"],
    ),
    "demo": ("--weights {weights} --scenes 2 --device cpu --out {out}", ["index.html", "preview.png"]),
    "data scenes": (
        "--count 2 --size 64 --out {out}",
        [f"images/{FIRST}.png", f"panoptic/{FIRST}.png", "panoptic.json", "instances_amodal.json"],
    ),
    "data collage": (
        "--instances {given}/instances.json --images {given}/images --backgrounds {given}/images --count 2 --out {out}",
        [f"images/{FIRST}.png", f"panoptic/{FIRST}.png", "panoptic.json", "instances_amodal.json"],
    ),
    "data check": (f"{DATA} --report {{out}}/report.json", ["report.json"]),
    "data convert coco": (
        "--images {given}/images --instances {given}/instances.json --overlaps area --out {out}",
        ["panoptic.json", f"panoptic/{FIRST}.png"],
    ),
    "data convert cityscapes": ("--root {given} --split val --out {out}", ["panoptic.json", "panoptic/a/b.png"]),
    "data convert ade20k": ("--root {given} --split training --out {out}", ["panoptic.json", "panoptic/a.png"]),
    "data convert maps": (
        "--images {given}/images --labels {given}/labels --categories {given}/panoptic.json --out {out}",
        ["panoptic.json", f"panoptic/{FIRST}.png"],
    ),
    "data convert labelme": ("--annotations {given}/images --out {out}", ["panoptic.json", "panoptic/a.png"]),
    "data convert cvat": (
        "--annotations {given}/a.xml --images {given}/images --out {out}",
        ["panoptic.json", "panoptic/a.png"],
    ),
    "data convert label-studio": ("--annotations {given}/a.json --images {given}/images --out {out}", PANOPTIC),
    "data convert yolo": ("--data {given}/data.yaml --split train --out {out}", PANOPTIC),
    "data convert voc": ("--root {given} --split train --out {out}", PANOPTIC),
    "data convert mapillary": ("--root {given} --split training --out {out}", PANOPTIC),
    "data convert datumaro": ("--root {given} --split train --out {out}", PANOPTIC),
    "data convert cells": ("--images {given}/images --out {out}", PANOPTIC),
    "data export coco": (f"{DATA} --out {{out}}", ["annotations/instances_train.json"]),
    "data export yolo": (f"{DATA} --out {{out}}", ["data.yaml", f"images/train/{FIRST}.png"]),
    "data export voc": (f"{DATA} --out {{out}}", ["labelmap.txt", f"SegmentationClass/{FIRST}.png"]),
    "data export semantic": (f"{DATA} --out {{out}}", ["classes.json", f"labels/train/{FIRST}.png"]),
    "data export instance-maps": (f"{DATA} --out {{out}}", [f"masks/train/{FIRST}_masks.tif"]),
    "data export mask2former": (f"{DATA} --out {{out}}", ["coco/annotations/panoptic_train2017.json"]),
    "data export eomt": (f"{DATA} --out {{out}}", ["train2017.zip"]),
    "data export lightly-train": (f"{DATA} --out {{out}}", ["annotations/train.json"]),
}
"""Options of each command that writes, and files that it writes with them."""

WITHOUT_NETWORK = [
    "models",
    "pq",
    "fuse",
    "data scenes",
    "data collage",
    "data check",
    "data convert coco",
    "data convert maps",
]
WITHOUT_NETWORK += [name for name in WRITERS if name.startswith("data export")]


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("given") / "truth"
    folder.mkdir()
    READERS["fuse"].make(folder, None)
    (folder / "tiny.yaml").write_text(to_yaml(TINY))
    (folder / "broken.safetensors").write_bytes(b"no weights: reading these is an error of its own")
    tiny_model().save_pretrained(folder / "tiny.safetensors")
    return folder


def line(command: str, given: Path, out: Path, weights: str = "broken.safetensors") -> list[str]:
    options = WRITERS[command][0].format(given=given, out=out, weights=given / weights)
    return [*command.split(), *options.split()]


def snapshot(*folders: Path) -> dict[Path, Any]:
    return {
        path: os.readlink(path) if path.is_symlink() else path.read_bytes()
        for folder in folders
        for path in folder.rglob("*")
        if path.is_file() or path.is_symlink()
    }


def refused(capsys: pytest.CaptureFixture[str], command: list[str], *said: str) -> None:
    capsys.readouterr()
    assert main(command) == 2
    errors = [each for each in capsys.readouterr().err.splitlines() if each.startswith("banet: error: ")]
    assert len(errors) == 1 and all(part in errors[0] for part in said), errors


def test_every_command_is_known_here() -> None:
    assert set(COMMANDS) <= WRITERS.keys() | ELSEWHERE | SILENT
    for name in COMMANDS:
        assert issubclass(find_command(name), OverwriteOptions) is (name not in SILENT), name
        assert ("--overwrite" in find_command(name).parser(name).format_help()) is (name not in SILENT), name


@pytest.mark.parametrize(("command", "file"), [(name, file) for name, (_, files) in WRITERS.items() for file in files])
def test_a_file_of_the_users_stays_and_nothing_is_computed(
    command: str, file: str, given: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The weights are broken, which shows that they were not read before."""
    (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / file).write_text("mine")
    before = snapshot(tmp_path, given)
    refused(capsys, line(command, given, tmp_path), str(tmp_path / file), "exists already", "--overwrite")
    assert snapshot(tmp_path, given) == before


@pytest.mark.parametrize("command", WITHOUT_NETWORK)
def test_again_edited_and_overwritten(
    command: str, given: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / WRITERS[command][1][0]
    assert main(line(command, given, tmp_path)) == 0
    first = file.read_bytes()
    assert main(line(command, given, tmp_path)) == 0
    assert file.read_bytes() == first
    file.write_bytes(first[:-1] + b" ")
    refused(capsys, line(command, given, tmp_path), str(file), "changed since", "--overwrite")
    assert main([*line(command, given, tmp_path), "--overwrite"]) == 0
    assert file.read_bytes() == first
    (tmp_path / RECORD).unlink()  # as outputs of older versions
    refused(capsys, line(command, given, tmp_path), "--overwrite")
    assert main([*line(command, given, tmp_path), "--overwrite"]) == 0
    assert main(line(command, given, tmp_path)) == 0


@pytest.mark.parametrize("spelling", ["", "relative", "link", "linked folder", "hard"])
@pytest.mark.parametrize("overwrite", [[], ["--overwrite"]])
@pytest.mark.parametrize("command", ["fuse", "evaluate", "data convert coco", "data convert maps", "pq", "predict"])
def test_inputs_are_never_replaced(
    command: str, overwrite: list[str], spelling: str, given: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    data = tmp_path / "data"
    shutil.copytree(given, data)
    read = {"pq": "panoptic.json", "predict": f"images/{FIRST}.png"}.get(command, "panoptic.json")
    out, options = data, line(command, data, data)
    if command.startswith("data convert"):  # which reads no panoptic.json, but the folder of its PNGs
        options = [part.replace(str(data / "labels"), str(data / "panoptic")) for part in options]
        options = [part.replace("instances.json", "panoptic.json") for part in options]
    if command == "pq":
        options[-1] = str(data / "panoptic.json")
    if command == "predict":
        out = data / "images"
        options[-1] = str(out)
    if spelling == "relative":
        monkeypatch.chdir(data)
        options = [os.path.relpath(part) if os.path.exists(part) else part for part in options]
        options[-1] = str(data / "panoptic.json") if command == "pq" else str(out)
    elif spelling == "linked folder":
        (tmp_path / "link").symlink_to(data, target_is_directory=True)
        options[:-1] = [part.replace(str(data), str(tmp_path / "link")) for part in options[:-1]]
    elif spelling in ("link", "hard"):
        kept = tmp_path / "kept" / Path(read).name
        kept.parent.mkdir()
        (data / read).rename(kept)
        (data / read).symlink_to(kept) if spelling == "link" else (data / read).hardlink_to(kept)
        if command != "predict":
            options[:-1] = [part.replace(str(data / read), str(kept)) for part in options[:-1]]
    before = snapshot(tmp_path)
    refused(capsys, [*options, *overwrite], "is an input of this command")
    assert snapshot(tmp_path) == before


def test_predict_into_the_folder_of_its_images(given: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    Image.fromarray(np.zeros((40, 50, 3), np.uint8)).save(photos / "a.jpg")
    command = ["predict", str(photos), "--weights", str(given / "tiny.safetensors"), "--device", "cpu"]
    command += ["--out", str(photos)]
    assert main(command) == 0
    capsys.readouterr()
    assert main(command) == 0  # what the first run wrote is not an image of the second
    said = capsys.readouterr().out
    assert "2 images" in said and "1 of 1" in said and f"{photos / 'a.jpg'}: " in said
    (photos / "a.json").write_text(json.dumps({"annotation": "mine"}))
    refused(capsys, command, "a.json", "--overwrite")
    assert json.loads((photos / "a.json").read_text()) == {"annotation": "mine"}
    refused(capsys, [*command[:1], str(photos / "a.png"), *command[2:], "--overwrite"], "a.png: is an input")


def test_predict_gives_each_of_equal_names_its_own_results(
    given: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for index, name in enumerate(("1/a.png", "1/a.jpg", "2/a.png", "2/A.png", "2/gallery.png", "2/x_overlay.jpg")):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.fromarray(np.full((30 + index, 50, 3), 99, np.uint8)).save(tmp_path / name)
    weights = ["--weights", str(given / "tiny.safetensors"), "--device", "cpu", "--out", str(tmp_path / "out")]
    assert main(["predict", str(tmp_path / "1"), str(tmp_path / "2"), "--gallery", *weights]) == 0
    heights = {path.name: Image.open(path).height for path in (tmp_path / "out").glob("*.png")}
    assert len({name.casefold() for name in heights}) == 6 and sorted(heights.values()) == list(range(30, 36))
    # Another run must not put the results of another image in place of these.
    shutil.copytree(tmp_path / "2", tmp_path / "3")
    refused(capsys, ["predict", str(tmp_path / "3" / "gallery.png"), *weights], "result of another input, ../2/gallery")

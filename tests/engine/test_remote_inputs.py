"""What `fuse`, `evaluate` and `analyze` read behind URLs and in tar archives, and which commands take no URL."""

from __future__ import annotations

import json
import tarfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from detections import fuse_words, write_detections, write_images
from folders import here, there

from banet.cli import main
from banet.data.scenes.generate import write_coco
from banet.engine.evaluation.evaluation_data import open_validation
from banet.engine.options import load_recipe
from banet.engine.training.datasets import training_set
from banet.errors import InputError

fsspec = pytest.importorskip("fsspec")


def pack(folder: Path, into: Path, archives: int = 2) -> None:
    """Write the files of a folder into tar archives in another one."""
    into.mkdir(parents=True)
    paths = sorted(folder.iterdir())
    size = -(-len(paths) // archives)
    for number in range(archives):
        with tarfile.open(into / f"{number}.tar", "w") as archive:
            for path in paths[number * size : (number + 1) * size]:
                archive.add(path, path.name)


@pytest.fixture
def detections(tmp_path: Path) -> list[str]:
    (tmp_path / "in").mkdir()
    write_images(tmp_path / "in" / "photos", range(6))
    return write_detections(tmp_path / "in", tmp_path / "in" / "photos")


@pytest.fixture
def ids(tmp_path: Path, detections: list[str]) -> Path:
    """A COCO JSON of some of the images."""
    images = [{"id": n, "file_name": f"{n}.png", "width": 16, "height": 12} for n in (4, 1)]
    path = tmp_path / "in" / "ids.json"
    path.write_text(json.dumps({"images": images}))
    return path


@pytest.mark.parametrize("options", [[], ["--json"]], ids=str)
def test_fuse_reads_urls_and_archives_as_it_reads_folders(
    options: list[str], detections: list[str], ids: Path, tmp_path: Path, memory: Any
) -> None:
    here_json, there_json = ([*options, str(ids)], [*options, "memory://b/in/ids.json"]) if options else ([], [])
    assert main([*detections, *here_json, "--out", str(tmp_path / "one")]) == 0
    expected = here(tmp_path / "one")
    assert len(expected) == (3 if options else 7)
    memory.put(f"{tmp_path / 'in'}/", "/b/in", recursive=True)
    remote = fuse_words("memory://b/in", "memory://b/in/photos")
    assert main([*remote, *there_json, "--out", str(tmp_path / "two")]) == 0
    assert here(tmp_path / "two") == expected
    assert main([*remote, *there_json, "--out", "memory://b/out"]) == 0
    assert there(memory, "/b/out") == expected
    pack(tmp_path / "in" / "photos", tmp_path / "tars" / "photos")
    pack(tmp_path / "in" / "labels", tmp_path / "tars" / "labels", 3)
    memory.put(f"{tmp_path / 'tars'}/", "/b/tars", recursive=True)
    for number, source in enumerate((str(tmp_path / "tars"), "memory://b/tars")):
        packed = [*detections, *here_json, "--images", f"{source}/photos", "--semantic", f"{source}/labels"]
        assert main([*packed, "--out", str(tmp_path / f"packed{number}")]) == 0
        assert here(tmp_path / f"packed{number}") == expected


def test_fuse_takes_urls_of_this_machine(detections: list[str], tmp_path: Path) -> None:
    assert main([*detections, "--out", str(tmp_path / "one")]) == 0
    source = f"file://{tmp_path / 'in'}"
    assert main([*fuse_words(source, f"{source}/photos"), "--out", f"file://{tmp_path / 'two'}"]) == 0
    assert here(tmp_path / "two") == here(tmp_path / "one")


def fault(capsys: pytest.CaptureFixture[str], words: list[str]) -> str:
    capsys.readouterr()
    assert main(words) == 2
    told = capsys.readouterr().err.rpartition("\r")[2].lstrip()  # behind bars
    lines = [line for line in told.splitlines() if "image/s" not in line and line.strip()]
    assert len(lines) == 1 and lines[0].startswith("banet: error: "), told
    return f"{lines[0]}\n"


def test_what_fuse_cannot_read_is_one_line(
    detections: list[str], ids: Path, tmp_path: Path, memory: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    memory.put(f"{tmp_path / 'in'}/", "/b/in", recursive=True)
    remote = fuse_words("memory://b/in", "memory://b/in/photos")
    out = ["--out", "memory://b/out"]
    for more, told in (
        (["--instances", "memory://b/gone.json"], "memory://b/gone.json: does not exist; check the URL"),
        (["--images", "memory://b/gone"], "memory://b/gone: does not exist; check the URL"),
        (["--semantic", "memory://b/in/photos"], "memory://b/in/photos/0.png: is a 8-bit RGB PNG"),
        (["--semantic", "memory://b/in"], "memory://b/in/0.png: does not exist"),
        (["--json", "memory://b/in/classes.json"], "memory://b/in/classes.json: must be an object"),
        (["--images", "nothing://b/in"], "nothing://b/in: cannot be opened"),
        (["--images", str(tmp_path / "gone")], f"--images: {tmp_path / 'gone'} is not a folder"),
    ):
        assert told in fault(capsys, [*remote, *out, *more, "--overwrite"]), more
    before = there(memory, "/b/in")
    memory.cp_file("/b/in/photos/0.png", "/b/in/panoptic/0.png")
    memory.cp_file("/b/in/photos/1.png", "/b/in/panoptic/1.png")
    onto = [*remote, "--images", "memory://b/in/panoptic", "--out", "memory://b/in", "--overwrite"]
    assert "panoptic/0.png: is an input of this command, which is never replaced" in fault(capsys, onto)
    after = there(memory, "/b/in")
    assert {name: data for name, data in after.items() if not name.startswith("panoptic/")} == before


def test_damaged_archives_of_images_are_one_line(
    detections: list[str], ids: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tars = tmp_path / "tars"
    pack(tmp_path / "in" / "photos", tars)
    words = [*detections, "--images", str(tars), "--json", str(ids), "--out", str(tmp_path / "out")]
    first, second = (tars / "0.tar").read_bytes(), (tars / "1.tar").read_bytes()
    for data, told in (
        (second[:2000], "1.tar: is cut off or damaged after"),
        (first, "1.tar: holds 0.png, as "),
        (b"none", "1.tar: is not a tar archive"),
    ):
        (tars / "1.tar").write_bytes(data)
        assert told in fault(capsys, words)
    (tars / "1.tar").unlink()
    assert "4.png: does not exist" in fault(capsys, words)
    (tars / "1.tar").write_bytes(second)
    assert main([*words, "--resume"]) == 0


@pytest.fixture
def scenes(tmp_path: Path, memory: Any) -> Path:
    """Scenes in a folder, behind memory://b/data and in archives."""
    data = tmp_path / "data"
    write_coco(data, seed=4, count=2, size=(96, 96))
    memory.put(f"{data}/", "/b/data", recursive=True)
    for part in ("images", "panoptic"):
        pack(data / part, tmp_path / "tars" / part)
    (tmp_path / "tars" / "panoptic.json").write_bytes((data / "panoptic.json").read_bytes())
    return data


def split(source: object) -> list[str]:
    return ["--images", f"{source}/images", "--panoptic", f"{source}/panoptic", "--json", f"{source}/panoptic.json",
            "--device", "cpu"]  # fmt: skip


def test_evaluate_and_analyze_read_urls_and_archives_as_they_read_folders(
    scenes: Path, tmp_path: Path, memory: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("lightning", "faster_coco_eval"):
        pytest.importorskip(name)
    weights, found = "scenes", []
    for number, source in enumerate((scenes, "memory://b/data", tmp_path / "tars", f"file://{scenes}")):
        out, rows = tmp_path / f"out{number}", tmp_path / f"rows{number}"
        assert main(["evaluate", weights, *split(source), "--inference.shorter", "96", "--out", str(out)]) == 0
        if number < 2:
            assert main(["analyze", weights, *split(source), "--limit", "1", "--out", str(rows)]) == 0
            assert (rows / "analysis.json").read_bytes() == (tmp_path / "rows0" / "analysis.json").read_bytes()
        found.append({name: data for name, data in here(out).items() if not name.endswith(".zip")})
    assert len(found[0]) == 4 and all(each == found[0] for each in found)
    maps, photos = (sorted(memory.find(f"/b/data/{part}")) for part in ("panoptic", "images"))
    memory.rm_file(maps[0])
    remote = ["evaluate", weights, *split("memory://b/data")]
    assert f"memory:/{maps[0]}: does not exist; check the URL" in fault(capsys, remote)
    memory.pipe_file(photos[0], b"no image")
    assert f"memory:/{photos[0]}: is not an image" in fault(capsys, remote)
    assert "memory://b/gone.json: does not exist" in fault(capsys, [*remote, "--json", "memory://b/gone.json"])


def test_a_recipe_measures_on_urls_and_trains_on_folders(scenes: Path) -> None:
    data = replace(
        load_recipe("coco_r50_1x").data,
        root="memory://b/data",
        val=replace(load_recipe("coco_r50_1x").data.val, images="images", panoptic="panoptic", json="panoptic.json"),
    )
    validation = open_validation(data)
    assert len(validation) == 2 and validation[0].image.shape == (96, 96, 3)
    with pytest.raises(InputError, match=r"data\.root memory://b/data: takes no URL; give a path of this machine"):
        training_set(data)


@pytest.mark.parametrize(
    ("words", "where"),
    [
        ("evaluate scenes --config scenes_small --out s3://b/out", "--out s3://b/out"),
        ("evaluate s3://b/w.safetensors --config scenes_small", "WEIGHTS s3://b/w.safetensors"),
        ("predict a.png --weights https://b/w.safetensors", "--weights https://b/w.safetensors"),
        ("analyze scenes --config scenes_small --figure s3://b/f.png", "--figure s3://b/f.png"),
        ("train --config scenes_small --out gs://b/run", "--out gs://b/run"),
        ("train --config s3://b/recipe.yaml", "--config s3://b/recipe.yaml"),
        ("ablate --config scenes_small --out gs://b/run", "--out gs://b/run"),
        ("demo --out s3://b/demo", "--out s3://b/demo"),
        ("data check s3://b/data", "DIR s3://b/data"),
        ("data scenes --out s3://b/scenes", "--out s3://b/scenes"),
        ("data convert coco --images s3://b/i --instances i.json --out out", "--images s3://b/i"),
        ("data export voc --images i --panoptic p --json s3://b/p.json --out out", "--json s3://b/p.json"),
        ("data collage --instances s3://b/i.json --images i --backgrounds b --out o", "--instances s3://b/i.json"),
        ("export scenes --calibration s3://b/images", "--calibration s3://b/images"),
    ],
)
def test_who_takes_no_url_says_so(words: str, where: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert f"{where}: takes no URL; give a path of this machine\n" in fault(capsys, words.split())

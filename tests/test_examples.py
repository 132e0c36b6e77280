"""Every script in `examples/` runs, on files that the test makes, and does what its first lines say."""

from __future__ import annotations

import ast
import json
import os
import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from factories import small_model
from PIL import Image

from banet import BANet
from banet.data.scenes import SCENE_CATEGORIES, make_scene, write_coco
from banet.panoptic.coco.png import read_ids

EXAMPLES = Path(__file__).parents[1] / "examples"
SIZE = (96, 128)
RAN: set[str] = set()


def run(name: str, *arguments: object, needs: str | None = None) -> int:
    """Run a script in this process, as Python would; return its exit status."""
    RAN.add(name)
    if needs is not None:
        pytest.importorskip(needs)
    before = sys.argv
    sys.argv = [name, *map(str, arguments)]
    try:
        runpy.run_path(str(EXAMPLES / name), run_name="__main__")
    except SystemExit as end:
        return int(end.code or 0)
    finally:
        sys.argv = before
    return 0


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    path = tmp_path / "photos" / "photo.png"
    path.parent.mkdir()
    Image.fromarray(make_scene(3, 3, SIZE).image).save(path)
    return path


def test_predict(photo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("predict.py", photo, "scenes", tmp_path) == 0
    records = json.loads((tmp_path / "photo_panoptic.json").read_text())
    printed = capsys.readouterr().out.splitlines()
    assert len(printed) == len(records["annotations"][0]["segments_info"]) > 0
    with Image.open(tmp_path / "photo_overlay.png") as overlay:
        assert overlay.width >= SIZE[1] and overlay.height > SIZE[0]  # the legend is below


@pytest.mark.parametrize("rule", ["appearance", "score"])
def test_other_detector(rule: str, photo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    scene = make_scene(3, 3, SIZE)
    masks = torch.from_numpy(scene.masks[:, None]).float()
    count = len(masks)
    found = {"masks": masks, "scores": torch.linspace(0.9, 0.5, count), "labels": torch.ones(count, dtype=torch.int64)}
    boxes = [[x, y, x + w, y + h] for x, y, w, h in (segment.bbox for segment in scene.segments[:count])]
    torch.save({**found, "boxes": torch.tensor(boxes, dtype=torch.float32)}, tmp_path / "detections.pt")
    assert run("other_detector.py", photo, tmp_path / "detections.pt", rule) == 0
    disjoint = torch.load(tmp_path / "detections_disjoint.pt", weights_only=True)
    assert disjoint["masks"].sum(0).max() == 1
    assert torch.equal(disjoint["masks"].amax(0), masks.amax(0)) or len(disjoint["masks"]) < count
    claimed_twice = int((masks.sum(0) > 1).sum())
    before, after = capsys.readouterr().out.splitlines()
    assert before == f"before: {count} objects, {claimed_twice} pixels claimed more than once"
    assert claimed_twice > 0 and after.endswith(" 0 pixels claimed more than once")


def test_fuse_and_score_without_torch() -> None:
    RAN.add("fuse_and_score.py")
    script = str(EXAMPLES / "fuse_and_score.py")
    code = f"import runpy, sys; sys.argv[1:] = ['2']; runpy.run_path({script!r}, run_name='__main__'); "
    code += "sys.exit('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    rows = [line.split() for line in done.stdout.splitlines()]
    assert [row[0] for row in rows] == ["heuristic", "appearance", "color-contour"]
    quality = {row[0]: float(row[-1]) for row in rows}
    assert 0 < quality["heuristic"] < quality["color-contour"] <= 100  # full masks: the order is what is scored


def test_train_own_data(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_coco(tmp_path / "data", seed=5, count=4, size=(64, 64))
    assert run("train_own_data.py", tmp_path / "data", tmp_path / "run", 1, needs="lightning") == 0
    assert (tmp_path / "run" / "model.safetensors").is_file()
    metrics = json.loads((tmp_path / "run" / "val" / "metrics.json").read_text())
    assert {"All", "Things", "Stuff"} <= set(metrics)
    (tmp_path / "data" / "panoptic.json").write_text("{}")
    assert run("train_own_data.py", tmp_path / "data", tmp_path / "other", 1) != 0
    assert not (tmp_path / "other").exists()


def test_gallery(photo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Image.fromarray(np.full((*SIZE, 3), 90, np.uint8)).save(photo.with_name("wall.png"))
    assert run("gallery.py", photo.parent, tmp_path / "gallery.html") == 0
    page = (tmp_path / "gallery.html").read_text(encoding="utf-8")
    assert "photo.png" in page and "wall.png" in page and "heuristic" in page
    assert [line.split(":")[0] for line in capsys.readouterr().out.splitlines()] == ["photo.png", "wall.png"]


def test_fine_tune(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_coco(tmp_path / "data", seed=4, count=3, size=(48, 64))
    small_model(classes=SCENE_CATEGORIES).save_pretrained(tmp_path / "weights.safetensors")
    out = tmp_path / "run"
    assert run("fine_tune.py", tmp_path / "data", out, tmp_path / "weights.safetensors", 6, needs="lightning") == 0
    said = capsys.readouterr().out
    assert "tensors taken" in said and "going on from 1" in said
    assert (out / "after_1.png").exists() and (out / "after_6.png").exists() and (out / "curves.png").exists()
    assert BANet.from_pretrained(out).config.fpn_channels == small_model().config.fpn_channels


def test_ray_predict(photo: Path, tmp_path: Path) -> None:
    """Two workers of a local Ray: some 20 s of a quiet machine, of which all but one are its start.

    Installing Ray takes longer than that, so `make test` and `make adapters` do without; the workflow of `make matrix`
    runs this test every week, in its session of the extra `ray`.
    """
    pytest.importorskip("ray")
    from pyarrow import parquet

    (photo.parent / "damaged.png").write_bytes(b"no image")
    script = str(EXAMPLES / "ray_predict.py")
    told = [sys.executable, script, str(photo.parent), "scenes", str(tmp_path / "out"), "2"]
    # By default Ray's workers give way to all other programs: on a busy machine they would import for minutes.
    environment = {**os.environ, "RAY_worker_niceness": "0"}
    ran = subprocess.run(told, env=environment, timeout=600, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr[-2000:]
    rows = {Path(row["path"]).name: row for row in parquet.read_table(tmp_path / "out").to_pylist()}
    assert "damaged.png: is not an image" in rows["damaged.png"]["error"] and not rows["photo.png"]["error"]
    expected = BANet.from_pretrained("scenes").predict(photo)
    assert json.loads(rows["photo.png"]["segments"]) == expected.to_records()
    (tmp_path / "photo.png").write_bytes(rows["photo.png"]["png"])
    assert np.array_equal(read_ids(tmp_path / "photo.png"), expected.ids)


def test_every_example_was_run_and_is_short() -> None:
    scripts = sorted(EXAMPLES.glob("*.py"))
    assert {path.name for path in scripts} == RAN | {"ray_predict.py"}  # which runs in a process of its own
    listed = (EXAMPLES / "README.md").read_text(encoding="utf-8")
    for path in scripts:
        body = ast.parse(path.read_text(encoding="utf-8")).body
        lines = path.read_text(encoding="utf-8").splitlines()[body[0].end_lineno :]
        assert len([line for line in lines if line.strip()]) <= 25, path.name
        assert f"| `{path.name}` |" in listed

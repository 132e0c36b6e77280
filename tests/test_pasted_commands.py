"""The commands of README and of the site's first page run as they are pasted, in order, in the folder of a reader.

Only numbers are made smaller (`SMALLER`). What cannot run here says why (`NOT_RUN`); `tests/test_docs.py` checks its
options.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from test_docs import ROOT, blocks_of, run_bash

from banet.cli import main
from banet.data.scenes import SCENE_CATEGORIES, make_scene, write_coco
from banet.panoptic.coco.png import read_ids
from banet.panoptic.coco.rle import encode_rle

SMALLER = {
    "data scenes": "--count 2",
    "train": "--train.iterations 1 --train.milestones [] --batch 1 --init random --model.backbone resnet18"
    " --data.workers 0 --data.shorter [96] --data.longer 128 --inference.shorter 96 --inference.longer 128"
    " --inference.proposals 20",
}
"""Options that are added to commands that begin so."""

NOT_RUN = {
    "predict street.jpg --weights coco": "downloads weights",
    "predict photos/ --weights hf:": "downloads weights",
    "app": "serves until it is stopped; tests/app",
    "export scenes": "takes a minute; tests/engine/test_export.py",
    "predict toy/images --weights scenes.onnx": "needs that file; tests/engine/test_export.py",
}
"""Beginnings of commands that are not run, and why."""


@pytest.fixture
def reader(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the files that a reader has: images, a video, results of a detector and of a segmenter."""
    av = pytest.importorskip("av")
    scenes = [make_scene(3, index) for index in range(2)]
    write_coco(tmp_path / "made", 2, 3, (256, 256))
    (tmp_path / "made" / "images").rename(tmp_path / "photos")
    (tmp_path / "made" / "panoptic").rename(tmp_path / "truth")
    (tmp_path / "made" / "panoptic.json").rename(tmp_path / "truth.json")
    truth = json.loads((tmp_path / "truth.json").read_text())
    results = []
    (tmp_path / "labels").mkdir()
    for annotation in truth["annotations"]:
        ids, labels = read_ids(tmp_path / "truth" / annotation["file_name"]), np.zeros((256, 256), np.uint8)
        for segment in annotation["segments_info"]:
            mask = ids == segment["id"]
            labels[mask] = segment["category_id"]
            if SCENE_CATEGORIES.isthing(segment["category_id"]):
                found = {"segmentation": encode_rle(mask), "score": 0.9}
                results.append({"image_id": annotation["image_id"], "category_id": segment["category_id"], **found})
        Image.fromarray(labels).save(tmp_path / "labels" / annotation["file_name"])
    (tmp_path / "results.json").write_text(json.dumps(results))
    Image.open(ROOT / "banet/samples/nuclei/images/fluorescence.png").crop((0, 0, 96, 96)).save(tmp_path / "cells.png")
    Image.fromarray(np.hstack([scene.image for scene in scenes])).save(tmp_path / "aerial.tif")
    with av.open(str(tmp_path / "street.mp4"), "w") as video:
        stream = video.add_stream("mpeg4", rate=5)
        stream.width = stream.height = 256
        for scene in scenes:
            video.mux(stream.encode(av.VideoFrame.from_ndarray(scene.image)))
        video.mux(stream.encode(None))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("page", ["README.md", "docs/index.md"])
def test_commands_run_as_pasted(page: str, reader: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ran = 0
    for block in blocks_of(ROOT / page):
        if block.language == "yaml":
            (reader / "mine.yaml").write_text(block.code, encoding="utf-8")
        calls = run_bash(block.code, reader) if block.language == "bash" else []
        for program, *arguments in calls:
            line = " ".join(arguments)
            if program != "banet" or line.startswith(tuple(NOT_RUN)):
                continue
            given = [word for word in arguments if word != "camera:0"]  # of which there is none
            added = next((more for name, more in SMALLER.items() if line.startswith(name)), "")
            assert main([*given, *added.split()]) == 0, f"banet {line}: {capsys.readouterr().err}"
            ran += 1
    assert ran >= 3


def test_what_is_not_run_is_on_the_page() -> None:
    code = "\n".join(block.code for block in blocks_of(ROOT / "README.md") if block.language == "bash")
    assert [start for start in NOT_RUN if f"banet {start}" not in code] == []

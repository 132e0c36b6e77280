"""What users run, on a GPU: images, tiles, evaluation, videos and the page."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from banet import BANet
from banet.cli import main
from banet.data.scenes.generate import Scenes, write_coco

pytestmark = pytest.mark.gpu

SMALL = ["--inference.shorter", "96"]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scenes")
    write_coco(folder, seed=8, count=2, size=(96, 96))
    return folder


def same(one: Path, other: Path) -> bool:
    names = sorted(path.name for path in one.rglob("*.png"))
    assert names and names == sorted(path.name for path in other.rglob("*.png"))
    pairs = [(next(one.rglob(name)), next(other.rglob(name))) for name in names]
    return all((np.array(Image.open(a)) == np.array(Image.open(b))).mean() > 0.98 for a, b in pairs)


def test_predict_gives_what_the_cpu_gives(device: torch.device, data: Path, tmp_path: Path) -> None:
    for where in ("cpu", device.type):
        line = [
            "predict",
            str(data / "images"),
            "--weights",
            "scenes",
            "--out",
            str(tmp_path / f"on_{where}"),
            "--device",
            where,
        ]
        assert main([*line, "--overwrite"]) == 0
    assert same(tmp_path / "on_cpu", tmp_path / f"on_{device.type}")


def test_tiles_are_joined(device: torch.device) -> None:
    image = np.concatenate([Scenes(3, 2, (96, 96)).read(n)[0] for n in range(2)], axis=1)
    here, there = (BANet.from_pretrained("scenes", device=where) for where in ("cpu", device))
    one, other = (model.predict(image, tile=128) for model in (here, there))
    assert one.ids.shape == image.shape[:2] and (one.ids == other.ids).mean() > 0.98


def test_evaluation_scores_what_the_cpu_scores(device: torch.device, data: Path, tmp_path: Path) -> None:
    given = [
        "--images",
        str(data / "images"),
        "--panoptic",
        str(data / "panoptic"),
        "--json",
        str(data / "panoptic.json"),
    ]
    scores = []
    for where in ("cpu", device.type):
        out = tmp_path / f"on_{where}"
        assert main(["evaluate", "scenes", *given, *SMALL, "--device", where, "--out", str(out), "--overwrite"]) == 0
        scores.append(json.loads((out / "metrics.json").read_text())["All"]["pq"])
    assert scores[0] == pytest.approx(scores[1], abs=0.02) and scores[0] > 0


@pytest.mark.skipif(importlib.util.find_spec("av") is None, reason="needs PyAV")
def test_a_video(device: torch.device, tmp_path: Path) -> None:
    import av

    with av.open(str(tmp_path / "in.mp4"), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width = stream.height = 96
        for number in range(2):
            frame = av.VideoFrame.from_ndarray(Scenes(3, 2, (96, 96)).read(number)[0], format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    line = ["predict", str(tmp_path / "in.mp4"), "--weights", "scenes", "--out", str(tmp_path / "out")]
    assert main([*line, "--device", device.type]) == 0
    assert [path.suffix for path in (tmp_path / "out").rglob("in*.mp4")] == [".mp4"]


@pytest.mark.skipif(importlib.util.find_spec("starlette") is None, reason="needs Starlette")
def test_the_page_answers(device: torch.device) -> None:
    from banet.app.server import Page

    page = Page(BANet.from_pretrained("scenes", device=device), "scenes")
    answer = json.loads(page._segment_sample(0))
    assert Image.fromarray(page.samples[0].image).size[0] > 0 and len(answer) > 0

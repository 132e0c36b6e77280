"""The table of families: each through predict, --tile, video, evaluate and the page, from what its library saved."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("transformers")

import saved

import banet
from banet.cli import main
from banet.composed import names
from banet.composed.names import NAMED
from banet.data.scenes import make_scene
from banet.panoptic import Categories, Category, PanopticSegmentation
from banet.panoptic.coco.png import read_ids
from banet.panoptic.coco.writer import CocoPanopticWriter

SIZE = (96, 128)
CLASSES = Categories(Category(n + 1, name, n in saved.THINGS) for n, name in saved.NAMES.items())


def torchvision_pair(folder: Path) -> str:
    weights, segmenter = saved.save_torchvision(folder / "detector"), saved.save_segformer(folder / "segmenter")
    return f"torchvision:maskrcnn_resnet50_fpn_v2@{weights}+hf:{segmenter}"


def ultralytics_pair(folder: Path) -> str:
    pytest.importorskip("ultralytics")
    weights, segmenter = saved.save_ultralytics(folder / "detector"), saved.save_segformer(folder / "segmenter")
    return f"ultralytics:{weights}+hf:{segmenter}"


def rf_detr_pair(folder: Path) -> str:
    weights, segmenter = saved.save_rf_detr(folder / "detector"), saved.save_mask2former(folder / "segmenter")
    return f"hf:{weights}+hf:{segmenter}"


FAMILIES: dict[str, Callable[[Path], str]] = {
    **{name: lambda folder, save=save: f"hf:{save(folder)}" for name, save in saved.PANOPTIC.items()},
    "torchvision + segmenter": torchvision_pair,
    "Ultralytics + segmenter": ultralytics_pair,
    "RF-DETR + segmenter": rf_detr_pair,
}


@pytest.fixture(scope="module", params=list(FAMILIES))
def weights(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> str:
    return FAMILIES[request.param](tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two images with ground truth."""
    root = tmp_path_factory.mktemp("data")
    (root / "images").mkdir()
    with CocoPanopticWriter(root / "panoptic", root / "panoptic.json", CLASSES) as writer:
        for number in range(2):
            Image.fromarray(make_scene(seed=9, index=number, size=SIZE).image).save(root / "images" / f"{number}.png")
            ids = np.zeros(SIZE, dtype=np.int32)
            ids[:50], ids[50:] = 1, 2
            segments = [{"id": 1, "category_id": 2}, {"id": 2, "category_id": 4}]
            writer.add(70 + number, f"{number}.png", PanopticSegmentation.from_ids(ids, segments, CLASSES))
    return root


def run(*words: object) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert main([str(word) for word in words]) == 0


def test_a_family_goes_everywhere(weights: str, data: Path, tmp_path: Path) -> None:
    common = ("--weights", weights, "--trust", "--score", "0.05")
    run("predict", data / "images", *common, "--out", tmp_path / "p", "--json", data / "panoptic.json", "--gallery")
    written = json.loads((tmp_path / "p" / "panoptic.json").read_text())
    assert [image["id"] for image in written["images"]] == [70, 71]
    for annotation in written["annotations"]:
        ids = read_ids(tmp_path / "p" / annotation["file_name"])
        assert ids.shape == SIZE
        assert set(np.unique(ids)) - {0} == {segment["id"] for segment in annotation["segments_info"]}
    known = {category["name"] for category in written["categories"]}
    assert "road" in known and "person" in known | {"person"}
    run("predict", data / "images" / "0.png", *common, "--out", tmp_path / "t", "--tile", 96)
    assert read_ids(tmp_path / "t" / "0.png").shape == SIZE


def test_a_family_is_measured(weights: str, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("faster_coco_eval")
    split = ("--images", data / "images", "--panoptic", data / "panoptic", "--json", data / "panoptic.json")
    run("evaluate", weights, "--trust", *split, "--score", 0.05, "--batch", 2, "--out", tmp_path / "e")
    assert 0 <= json.loads((tmp_path / "e" / "metrics.json").read_text())["All"]["pq"] <= 1
    run("pq", "--gt-json", data / "panoptic.json", "--gt-dir", data / "panoptic", "--pred-dir", tmp_path / "e/panoptic")
    assert "things" in capsys.readouterr().out.lower()


def test_a_family_in_a_video_and_on_the_page(weights: str, data: Path, tmp_path: Path) -> None:
    av = pytest.importorskip("av")
    with av.open(str(tmp_path / "a.mp4"), "w") as container:
        stream = container.add_stream("libx264", rate=5)
        stream.width, stream.height, stream.pix_fmt = SIZE[1], SIZE[0], "yuv420p"
        for number in range(2):
            frame = av.VideoFrame.from_image(Image.open(data / "images" / f"{number}.png").convert("RGB"))
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    run("predict", tmp_path / "a.mp4", "--weights", weights, "--trust", "--out", tmp_path / "v", "--frames")
    assert sorted(path.name for path in (tmp_path / "v" / "a_frames").glob("*.png")) == ["000001.png", "000002.png"]
    answers = pytest.importorskip("banet.app.answers")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = banet.load(weights, trust=True).configured(score=0.05)
    content = json.loads(answers.Segmenter(model, answers.Limits())((data / "images" / "0.png").read_bytes(), "0.png"))
    assert content["size"] == [SIZE[1], SIZE[0]] and set(content["results"]) >= {"score", "color-contour"}


def test_what_is_analyzed_without_true_boxes(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    image = np.asarray(Image.open(data / "images" / "0.png"))
    weights = f"hf:{saved.save_that_finds(tmp_path / 'model', image)}"
    split = ("--images", data / "images", "--panoptic", data / "panoptic", "--json", data / "panoptic.json")
    run("analyze", weights, *split, "--out", tmp_path / "a")
    found = json.loads((tmp_path / "a" / "analysis.json").read_text())
    assert list(found) == ["none", "GT Occ", "GT ICA", "GT Seg"]
    plain = banet.load(weights).predict(image, rule="appearance")
    assert any(segment.isthing for segment in plain.segments)
    assert found["GT Seg"]["Things"] == found["none"]["Things"]
    assert "the paper, on COCO" in capsys.readouterr().out
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert main(["analyze", weights, *map(str, split), "--figure", str(tmp_path / "f.png")]) == 2
    assert "--figure: shows what parts of BANet add; give weights of BANet" in capsys.readouterr().err


def test_what_is_listed_has_its_row() -> None:
    assert set(names.FAMILIES) == set(FAMILIES)
    families = {"eomt": "EoMT", "detr": "DETR"}
    for named in NAMED:
        assert any(word in named.source and family in FAMILIES for word, family in families.items())
        assert named.licence in ("MIT", "Apache-2.0", "BSD-3-Clause")


def test_parameters_of_named_models_are_counted() -> None:
    import torch
    import transformers

    def count(network: Callable[[], torch.nn.Module]) -> int:
        with torch.device("meta"):
            return sum(parameter.numel() for parameter in network().parameters())

    def eomt(width: int, layers: int, heads: int) -> torch.nn.Module:
        config = transformers.EomtConfig(
            hidden_size=width,
            num_hidden_layers=layers,
            num_attention_heads=heads,
            image_size=640,
            num_queries=200,
            id2label={n: str(n) for n in range(133)},
        )
        return transformers.EomtForUniversalSegmentation(config)

    def detr() -> torch.nn.Module:
        backbone = transformers.ResNetConfig(out_features=["stage1", "stage2", "stage3", "stage4"])  # ResNet-50
        config = transformers.DetrConfig(
            use_timm_backbone=False,
            use_pretrained_backbone=False,
            backbone=None,
            backbone_config=backbone,
            id2label={n: str(n) for n in range(250)},
        )
        return transformers.DetrForSegmentation(config)

    counted = {
        "coco-small": count(lambda: eomt(384, 12, 6)),
        "coco": count(lambda: eomt(768, 12, 12)),
        "coco-large": count(lambda: eomt(1024, 24, 16)),
        "coco-detr": count(detr),
    }
    assert {named.name: named.parameters for named in NAMED} == counted
    assert all(named.download == pytest.approx(4 * named.parameters, rel=0.01) for named in NAMED)

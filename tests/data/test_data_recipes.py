"""Recipes of other data sets, from the download's layout to a figure: convert, check, train, evaluate."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from miniatures import ade20k, cityscapes

from banet.cli import main

TINY = """
    --model.backbone resnet18 --model.fpn_channels 16 --model.semantic_channels [16,16,8] --model.i2s_channels 8
    --model.box_head_channels 16 --model.mask_head_channels 16 --model.anchor_sizes [8,16,32,64,96]
    --loss.proposals 50 --loss.rpn_samples 32 --loss.roi_samples 16 --data.shorter [64] --data.workers 0
    --train.init random --train.iterations 3 --train.batch 2 --train.warmup 2 --train.milestones [] --train.lr 0.001
    --inference.proposals 30 --inference.shorter 64 --inference.stuff_area 16 --inference.score 0.05
"""

SETS: dict[str, tuple[Callable[..., Any], dict[str, str]]] = {
    "cityscapes": (cityscapes, {"train": "train", "val": "val"}),
    "ade20k": (ade20k, {"training": "train", "validation": "val"}),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", SETS)
def test_from_the_download_to_a_figure(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make, splits = SETS[name]
    for seed, split in enumerate(splits):
        make(tmp_path, split, 20 + seed, 3)
        out = tmp_path / f"panoptic_{split}"
        line = f"data convert {name} --root {tmp_path} --split {split} --out {out}"
        assert main(line.split()) == 0
    recipe = tmp_path / "here.yaml"
    options = ["--config", f"{name}_r50", "--data.root", str(tmp_path), "--data.copy_paste", "0.5", *TINY.split()]
    capsys.readouterr()
    assert main(["train", *options, "--print-config"]) == 0
    recipe.write_text(capsys.readouterr().out)
    assert main(["data", "check", "--config", str(recipe)]) == 0

    run = tmp_path / "run"
    assert main(["train", *options, "--device", "cpu", "--out", str(run)]) == 0
    out = tmp_path / "measured"
    assert main(["evaluate", str(run), "--config", str(recipe), "--device", "cpu", "--out", str(out)]) == 0
    figures = json.loads((out / "metrics.json").read_text())
    assert figures["All"]["n"] > 0
    assert len(json.loads((out / "panoptic.json").read_text())["annotations"]) == 3

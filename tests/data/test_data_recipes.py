"""Recipes of other data sets, from the download's layout to a figure: convert, check, train, evaluate."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from miniatures import TINY, ade20k, cityscapes

from banet.cli import main

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

"""The paper's recipes make the networks that they always made, whatever other backbones there are.

`paper_recipes.json` holds what this file's last lines write, and is written anew only where the paper's networks are
meant to change. Names and shapes are those of the whole networks and compared exactly. Initial weights and losses are
those of narrow ones, and compared to within what processors differ by: which random numbers are drawn, and in which
order, is what a change would alter.
"""

from __future__ import annotations

import hashlib
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from factories import categories, target

from banet.engine.options import load_recipe
from banet.inference.banet import BANet
from banet.modeling.config import ModelConfig
from banet.panoptic.coco.classes import coco_categories

GOLDEN = Path(__file__).with_name("paper_recipes.json")
RECIPES = (
    *("coco_r50_1x", "coco_r50_dfm_1x", "coco_r101_dfm_1x", "coco_dcn101_3x", "coco_r50_1x_baseline"),
    *("coco_r50_1x_sim", "coco_r50_1x_sim_ocm", "coco_r50_1x_sim_ocm_s2i", "coco_r50_1x_sim_ocm_s2i_dfm"),
    "coco_r101_1x_sim_ocm_s2i_dfm",
)


def narrow(config: ModelConfig) -> ModelConfig:
    """Return the same parts with few channels, and with a norm under which random weights give finite features."""
    widths: dict[str, Any] = {"fpn_channels": 16, "semantic_channels": (16, 16, 8), "box_head_channels": 32}
    return replace(config, **widths, mask_head_channels=16, i2s_channels=8, norm="group")


def facts(name: str) -> dict[str, Any]:
    """Return what is compared of a recipe."""
    recipe = load_recipe(name)
    with torch.device("meta"):
        whole = BANet(coco_categories(), recipe.model, recipe.inference, recipe.loss)
    lines = [f"{key} {tuple(tensor.shape)} {tensor.dtype}" for key, tensor in whole.state_dict().items()]
    trained = [key for key, parameter in whole.named_parameters() if parameter.requires_grad]
    torch.manual_seed(7)
    model = BANet(categories(), narrow(recipe.model), recipe.inference, recipe.loss)
    sums: dict[str, float] = {}
    for key, parameter in model.named_parameters():
        part = ".".join(key.split(".")[:3])
        values = parameter.detach().double()
        weights = torch.arange(1, values.numel() + 1).double().cos()  # as a sum alone forgets the order
        sums[part] = sums.get(part, 0.0) + float((values.flatten() * weights).sum())
    image = torch.randint(0, 256, (3, 96, 128), dtype=torch.uint8)
    losses = model.train().losses([image], [target((96, 128), [[10, 10, 60, 70], [50, 20, 120, 90]], [0, 2], 5)])
    return {
        "tensors": len(lines),
        "names and shapes": hashlib.sha256("\n".join(lines).encode()).hexdigest(),
        "trained": hashlib.sha256("\n".join(trained).encode()).hexdigest(),
        "initial weights": sums,
        "losses": {key: value.item() for key, value in losses.items()},
    }


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_makes_the_network_that_it_made(name: str) -> None:
    golden, found = json.loads(GOLDEN.read_text())[name], facts(name)
    for key in ("tensors", "names and shapes", "trained"):
        assert found[key] == golden[key], key
    assert found["initial weights"] == pytest.approx(golden["initial weights"], rel=1e-3, abs=1e-3)
    assert found["losses"] == pytest.approx(golden["losses"], rel=1e-2)


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(json.dumps({name: facts(name) for name in RECIPES}, indent=1) + "\n")

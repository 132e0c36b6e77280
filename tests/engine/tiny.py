"""A recipe that trains in seconds, and runs of it in processes of their own."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

from banet.engine.recipe import DataConfig, Recipe, TrainConfig, to_yaml
from banet.modeling.config import InferenceConfig, LossConfig, ModelConfig

TINY = Recipe(
    name="tiny",
    model=ModelConfig(
        backbone="resnet18",
        fpn_channels=16,
        semantic_channels=(16, 16, 8),
        box_head_channels=16,
        mask_head_channels=16,
        i2s_channels=8,
        anchor_sizes=(8, 16, 32, 64, 96),
    ),
    inference=InferenceConfig(shorter=64, longer=96, proposals=30, score_threshold=0.1, max_instances=10, stuff_area=8),
    loss=LossConfig(rpn_samples=32, roi_samples=16, proposals=50),
    data=DataConfig(kind="scenes", scene_size=64, train_scenes=5, val_scenes=3, shorter=(64,), longer=96, workers=0),
    train=TrainConfig(
        init="random", iterations=4, batch_size=2, optimizer="adamw", lr=1e-3, warmup=2, milestones=(), ema=0.5,
        checkpoint_every=2, log_every=1,
    ),
)  # fmt: skip


def with_train(recipe: Recipe, **options: object) -> Recipe:
    return replace(recipe, train=replace(recipe.train, **options))  # type: ignore[arg-type]


def launcher(processes: int) -> list[str]:
    """What starts `-m` modules in so many processes."""
    torchrun = ["torch.distributed.run", "--standalone", "--nproc-per-node", str(processes), "-m"]
    return [sys.executable, "-m", *(torchrun if processes > 1 else [])]


def command(recipe: Recipe, out: Path, *options: str, processes: int = 1) -> list[str]:
    """`banet train` of a recipe, by torchrun where there are several processes."""
    path = out.parent / f"{out.name}.yaml"
    path.write_text(to_yaml(recipe))
    return [
        *launcher(processes), "banet", "train", "--config", str(path), "--out", str(out),
        "--device", "cpu", *options,
    ]  # fmt: skip


def environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1"}


def run(command: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=600)

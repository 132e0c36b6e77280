"""Whether memory stays flat: ``OMP_NUM_THREADS=1 python benchmarks/soak.py [--predictions 2000] [--steps 2000]``.

Predicts scenes of many sizes and writes the results, then trains with `banet.engine.training.train` (measuring and
saving every 500 steps), all in one process, with a tiny network on the CPU. Every 50 steps the resident memory is
read; the first 200 are warm-up. Prints memory after them and at the end and the slope of a line through what lies
between, and ends with 1 if a slope is above ``--limit`` MB per 1000 steps. ``--json FILE`` keeps the samples.

The C library keeps what was freed in one arena a thread, in pieces that later requests may not fit; with
``MALLOC_ARENA_MAX=1`` there is one.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from harness import Report, parser, resident
from tqdm import tqdm

from banet.data.scenes.generate import SCENE_CATEGORIES, make_scene
from banet.engine.recipe import DataConfig, Recipe, TrainConfig
from banet.engine.training import train as training
from banet.inference.banet import BANet
from banet.modeling.config import InferenceConfig, LossConfig, ModelConfig

EVERY, WARM_UP = 50, 200
MODEL = ModelConfig(
    backbone="resnet18", norm="group", frozen_stages=0, fpn_channels=32, semantic_channels=(32, 32, 16),
    box_head_channels=32, mask_head_channels=32, i2s_channels=16, anchor_sizes=(8, 16, 32, 64, 96),
)  # fmt: skip
INFERENCE = InferenceConfig(
    shorter=64, longer=96, score_threshold=0.05, nms_threshold=0.7, proposals=100, stuff_area=16
)


class Samples:
    """Memory by step, read every 50 calls."""

    def __init__(self) -> None:
        self.calls = 0
        self.memory: list[tuple[int, float]] = []

    def __call__(self) -> None:
        self.calls += 1
        if self.calls % EVERY == 0:
            self.memory.append((self.calls, resident() / 1e6))

    def summarize(self, name: str, limit: float, report: Report) -> bool:
        """Print the figures; return whether memory is flat."""
        steps, memory = np.array([each for each in self.memory if each[0] >= WARM_UP]).T
        slope = 1000 * np.polyfit(steps, memory, 1)[0]
        report.say(
            f"{name}: {self.calls:,}; MB after {WARM_UP}: {memory[0]:.1f}, at the end: {memory[-1]:.1f}, "
            f"most: {memory.max():.1f}, slope: {slope:+.2f} MB per 1000 (limit {limit:g})",
            samples=self.memory,
        )
        return bool(slope <= limit)


def predict(count: int, sample: Callable[[], None], folder: Path) -> None:
    """Predict, draw and write so many scenes."""
    torch.manual_seed(0)
    model = BANet(SCENE_CATEGORIES, MODEL, INFERENCE).eval()
    rng = np.random.default_rng(0)
    for index in tqdm(range(count), desc="predictions", disable=None):
        height, width = rng.integers(48, 97, 2).tolist()
        result = model.predict(make_scene(0, index, (height, width)).image)
        result.save(folder / "a.png")
        result.draw()
        sample()


def train(steps: int, sample: Callable[[], None], folder: Path) -> None:
    """Train for so many steps, as `banet train` does."""

    class Task(training.TrainingTask):
        def training_step(self, *given: Any) -> dict[str, torch.Tensor]:
            losses = super().training_step(*given)
            sample()
            return losses

    recipe = Recipe(
        name="soak",
        model=MODEL,
        inference=replace(INFERENCE, max_instances=20),
        loss=LossConfig(rpn_samples=64, roi_samples=32, proposals=100),
        data=DataConfig(
            kind="scenes", scene_size=64, train_scenes=1000, val_scenes=4, shorter=(48, 64, 80), longer=96, workers=0
        ),
        train=TrainConfig(
            init="random", iterations=steps, batch_size=2, optimizer="adamw", lr=1e-4, warmup=10, milestones=(),
            clip=10, ema=0.99, checkpoint_every=500, val_every=500,
        ),
    )  # fmt: skip
    training.TrainingTask = Task  # type: ignore[misc]
    training.train(recipe, folder / "run", device="cpu")


def main() -> int:
    """Run as the command line says; 1 where memory grows."""
    command_line = parser(__doc__, threads=None)
    command_line.add_argument("--predictions", type=int, default=2000)
    command_line.add_argument("--steps", type=int, default=2000)
    command_line.add_argument(
        "--limit", type=float, default=10.0, help="MB per 1000 steps; an id map a step would be 16"
    )
    options = command_line.parse_args()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    predictions, steps = Samples(), Samples()
    with tempfile.TemporaryDirectory() as folder:
        predict(options.predictions, predictions, Path(folder))
        train(options.steps, steps, Path(folder))
    with Report(options, __file__) as report:
        flat = [
            predictions.summarize("predictions", options.limit, report),
            steps.summarize("training steps", options.limit, report),
        ]
    return 0 if all(flat) else 1


if __name__ == "__main__":
    sys.exit(main())

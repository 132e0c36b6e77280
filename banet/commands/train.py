"""`banet train`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar

from banet.commands.base import Command, Value, options_of
from banet.commands.shared import (
    Count,
    DepthOptions,
    DeviceOptions,
    Folder,
    OverwriteOptions,
    RecipeFile,
    require_config,
)
from banet.engine.recipe import Recipe, find_recipe, to_yaml
from banet.errors import InputError

__all__ = ["Train"]


@dataclass(frozen=True, kw_only=True)
class Train(DepthOptions, DeviceOptions, OverwriteOptions, Command):
    """Train a network from a recipe.

    Every option of the recipe can be given here, such as --train.lr 0.01 or --data.shorter 640 800, and replaces the
    file's value.

    examples:
      banet train --config coco_r50_1x --data.root datasets/coco
      banet train --config scenes_r18 --train.iterations 500 --device cpu
      torchrun --nproc-per-node 8 -m banet train --config coco_r50_1x --batch 32
      banet train --config coco_r50_1x --print-config > mine.yaml

    Attributes:
        config: A recipe that comes with the package, or a YAML file.
        out: Folder of the run; by default runs/ and the recipe's name.
        resume: Go on from a checkpoint; `auto` takes the last one in the run's folder, if there is one.
        init: Where weights start; short for --train.init.
        epochs: Passes over the training images, in place of iterations; short for --train.epochs.
        batch: Images per step, over all devices together; short for --train.batch_size. Takes the schedule along.
        print_config: Print the resolved recipe as YAML and stop.
        recipe: The options of the recipe.
    """

    usage: ClassVar[str] = (
        "--config NAME|FILE [--any.option VALUE ...] [--out DIR] [--resume auto|PATH]\n"
        "                   [--init NAME|FILE] [--epochs N] [--batch N] [--bit-depth auto|BITS] [--device DEVICE]\n"
        "                   [--overwrite]"
    )

    config: RecipeFile | None = None
    out: Folder | None = None
    resume: Annotated[str, Value("auto|PATH", local=True)] | None = None
    init: RecipeFile | None = None
    epochs: float | None = None
    batch: Count | None = None
    print_config: bool = False
    recipe: Mapping[str, Any] = options_of(Recipe)

    def run(self) -> int:
        """Train, or print the recipe."""
        from banet.engine.options import load_recipe

        if self.epochs is not None:
            if not 0 < self.epochs < float("inf"):
                raise InputError("must be more than 0", where=f"--epochs {self.epochs:g}")
            if "train.iterations" in self.recipe:
                raise InputError("both say how long to train", where="--epochs and --train.iterations", hint="give one")
        short = {
            "train.init": self.init,
            "train.epochs": self.epochs,
            "train.batch_size": self.batch,
            "inference.bit_depth": self.bit_depth,
        }
        given = {name: value for name, value in short.items() if value is not None}
        recipe = load_recipe(require_config(self.config), {**self.recipe, **given}, model_of_weights=True)
        if self.print_config:
            print(to_yaml(recipe.resolved()), end="")
            return 0
        from banet.engine.training.train import train

        train(
            recipe,
            Path(self.out or f"runs/{recipe.name}"),
            resume=self.resume,
            device=self.device,
            config=find_recipe(require_config(self.config)),
            overwrite=self.overwrite,
        )
        return 0

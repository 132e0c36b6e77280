"""`banet ablate`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

from banet.commands.base import Command, options_of
from banet.commands.shared import DeviceOptions, Folder, OverwriteOptions, RecipeFile, Seeds, require_config
from banet.engine.recipe import Recipe, find_recipe

__all__ = ["Ablate"]


@dataclass(frozen=True, kw_only=True)
class Ablate(DeviceOptions, OverwriteOptions, Command):
    """Train and measure the rows of the paper's Tables 2 and 3; goes on where it was stopped.

    Every option of the recipe can be given here too, as for `banet train`.

    Attributes:
        config: A recipe that comes with the package, or a YAML file. Its composition is changed by row.
        out: Folder of the study; by default runs/ablate_ and the recipe's name.
        table: Which table of the paper; networks are shared.
        seeds: Seeds of the training.
        dry_run: Print what would be trained and how long it may take.
        recipe: The options of the recipe.
    """

    usage: ClassVar[str] = (
        "--config NAME|FILE [--any.option VALUE ...] [--table 2|3|all] [--seeds N ...] [--out DIR]\n"
        "                    [--dry-run] [--device DEVICE] [--overwrite]"
    )

    config: RecipeFile | None = None
    out: Folder | None = None
    table: Literal["2", "3", "all"] = "2"
    seeds: Seeds = field(default_factory=lambda: [0, 1, 2])
    dry_run: bool = False
    recipe: Mapping[str, Any] = options_of(Recipe)

    def run(self) -> int:
        """Run the study, or print its plan."""
        from banet.engine.options import load_recipe

        recipe = load_recipe(require_config(self.config), self.recipe)
        from banet.engine.studies.ablate import ablate

        out = Path(self.out or f"runs/ablate_{recipe.name}")
        ablate(
            recipe,
            out,
            table=self.table,
            seeds=self.seeds,
            device=self.device,
            dry_run=self.dry_run,
            config=find_recipe(require_config(self.config)),
            overwrite=self.overwrite,
        )
        return 0

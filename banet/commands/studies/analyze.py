"""`banet analyze`."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, ClassVar

from banet.commands.base import Command, Value
from banet.commands.shared import (
    Count,
    DeviceOptions,
    Folder,
    ModelOptions,
    Names,
    OverwriteOptions,
    SplitOptions,
    UntrustedOptions,
    Weights,
    WeightsArgument,
)
from banet.errors import InputError
from banet.files.fields import image_id_of

__all__ = ["Analyze"]


@dataclass(frozen=True, kw_only=True)
class Analyze(WeightsArgument, ModelOptions, SplitOptions, DeviceOptions, OverwriteOptions, UntrustedOptions, Command):
    """Tell what perfect boxes, classes, order or stuff would be worth (Table 4).

    Every row fuses by the paper's rule; models of other libraries have the rows without true boxes. The figure
    shows the images whose PQ changes most, up or down, both from the baseline to the third column and from there
    to + OH.

    example, after `banet ablate --config scenes_r18 --out study`:
      banet analyze study/sim_ocm_s2i/seed0 --config study/recipe.yaml --figure figure.png

    Attributes:
        out: Write the figures to analysis.json there.
        limit: Measure on the first N images only.
        figure: Draw image, baseline, + S2I and I2S, + OH and ground truth (Fig. 6).
        baseline: With --figure: weights of the baseline; in a study of `banet ablate` those of the same seed.
        count: With --figure: how many images.
        image_ids: With --figure: these images instead.
    """

    usage: ClassVar[str] = (
        "WEIGHTS (--config NAME|FILE | --images DIR --panoptic DIR --json FILE) [--out DIR] [--limit N]\n"
        "                     [--figure PNG [--baseline WEIGHTS] [--count N | --image-ids ID ...]]\n"
        "                     [--class-table FILE] [--trust] [--device DEVICE] [--overwrite]"
    )

    out: Folder | None = None
    limit: Count | None = None
    figure: Annotated[str, Value("PNG", local=True)] | None = None
    baseline: Weights | None = None
    count: Count = 4
    image_ids: Names = field(default_factory=list)

    def run(self) -> int:
        """Measure, print the table and draw the figure."""
        split = self.split()
        from banet.engine.options import load_recipe

        recipe = load_recipe(self.config) if self.config else None
        if not self.figure and (self.baseline or self.image_ids):
            raise InputError("--baseline and --image-ids go with --figure PNG", hint="add it")
        from banet.engine.studies.analyze import analyze_command

        analyze_command(
            self.weights,
            recipe=recipe,
            split=split,
            out=Path(self.out) if self.out else None,
            limit=self.limit,
            device=self.device,
            class_table=self.class_table,
            trust=self.trust,
            figure=Path(self.figure) if self.figure else None,
            baseline=self.baseline,
            shown=self.count,
            image_ids=[image_id_of(word) for word in self.image_ids],
            overwrite=self.overwrite,
        )
        return 0

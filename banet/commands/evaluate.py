"""`banet evaluate`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

from banet.commands.base import Command, options_of
from banet.commands.shared import (
    Count,
    DepthOptions,
    DeviceOptions,
    FileOrUrl,
    Folder,
    FusionOptions,
    ModelOptions,
    OverwriteOptions,
    PrecisionOptions,
    SplitOptions,
    UntrustedOptions,
    WeightsArgument,
)
from banet.errors import InputError
from banet.modeling.config import InferenceConfig

__all__ = ["Evaluate"]


@dataclass(frozen=True, kw_only=True)
class Evaluate(
    WeightsArgument,
    SplitOptions,
    FusionOptions,
    ModelOptions,
    DepthOptions,
    DeviceOptions,
    PrecisionOptions,
    OverwriteOptions,
    UntrustedOptions,
    Command,
):
    """Measure PQ, AP of masks and mIoU of stuff.

    Options of inference that are not given are those that were saved with the weights. Classes of other
    libraries' models are matched with those of the data, by name, or by the names in --class-table.

    Attributes:
        instances: With --images: a COCO instances JSON, whose masks may overlap, to measure AP against; of a recipe,
            data.val.instances.
        out: Write the results as COCO panoptic, and the figures.
        gallery: With --out: also write DIR/gallery.html, the worst images first.
        batch: Images that go through the network together.
        limit: Measure on the first N images only.
        inference: The options of inference.
    """

    usage: ClassVar[str] = (
        "WEIGHTS (--config NAME|FILE | --images DIR --panoptic DIR --json FILE [--instances FILE])\n"
        "                      [--out DIR [--gallery] [--overwrite]] [--score SCORE] [--rule RULE]\n"
        "                      [--overlap-threshold FRACTION] [--class-table FILE] [--trust] [--batch N] [--limit N]\n"
        "                      [--bit-depth auto|BITS] [--untrusted]\n"
        "                      [--device DEVICE] [--precision 32|bf16] [--inference.OPTION VALUE ...]"
    )
    saved_defaults: ClassVar[bool] = True

    instances: FileOrUrl | None = None
    out: Folder | None = None
    gallery: bool = False
    batch: Count = 1
    limit: Count | None = None
    inference: Mapping[str, Any] = options_of(InferenceConfig, "inference")

    def run(self) -> int:
        """Measure, and print the figures."""
        split = self.split()
        if self.instances and split is None:
            raise InputError("goes with --images", where="--instances", hint="of a recipe, set data.val.instances")
        if self.instances and split is not None:
            split = replace(split, instances=self.instances)
        if self.gallery and not self.out:
            raise InputError("goes with --out DIR", where="--gallery", hint="add it")
        from banet.engine.options import load_recipe

        recipe = load_recipe(self.config) if self.config else None
        from banet.engine.evaluation.evaluate import evaluate_command

        short = {
            "score_threshold": self.score,
            "bit_depth": self.bit_depth,
            "overlap_threshold": self.overlap_threshold,
        }
        given = {name: value for name, value in short.items() if value is not None}
        evaluate_command(
            self.weights,
            recipe=recipe,
            split=split,
            out=Path(self.out) if self.out else None,
            rule=self.rule,
            inference_overrides={**self.inference, **given},
            batch_size=self.batch,
            limit=self.limit,
            device=self.device,
            precision=self.precision,
            gallery=self.gallery,
            class_table=self.class_table,
            trust=self.trust,
            overwrite=self.overwrite,
        )
        return 0

"""Old names of modules, which work until version 0.3 with a deprecation warning."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from importlib.machinery import ModuleSpec
from operator import attrgetter
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from importlib.abc import Loader, MetaPathFinder
else:  # what these would add is not used, and `importlib.abc` imports half of the standard library
    Loader = MetaPathFinder = object

__all__ = ["install", "renamed"]

_COCO = "panoptic.coco.annotations panoptic.coco.png panoptic.coco.writer files.atomic files.reading files.fields"
MOVED = {
    "data.collage": "data.scenes.collage",
    "data.large": "data.images.large",
    "data.panoptic_index": "data.coco_panoptic",
    "data.scene_stuff": "data.scenes.stuff",
    "data.scene_things": "data.scenes.things",
    "engine.ablate": "engine.studies.ablate",
    "engine.analyze": "engine.studies.analyze",
    "engine.completion": "commands.completion",
    "engine.device": "inference.device",
    "engine.datasets": "engine.training.datasets",
    "engine.demo": "engine.report.demo",
    "engine.evaluate": "engine.evaluation.evaluate",
    "engine.exported": "engine.export.runtime",
    "engine.figure": "engine.studies.figure",
    "engine.fuse": "engine.prediction.fuse",
    "engine.gallery": "engine.report.gallery",
    "engine.metrics": "engine.evaluation.metrics",
    "engine.pictures": "engine.evaluation.evaluation_data",
    "engine.predict": "engine.prediction.predict",
    "engine.processes": "engine.training.distributed",
    "engine.run_folder": "engine.training.checkpointing engine.training.csv_log",
    "engine.train": "engine.training.train engine.training.task",
    "engine.video": "engine.prediction.video",
    "modeling.backbone": "modeling.backbones.pyramid modeling.backbones.body modeling.backbones.build",
    "modeling.banet": "inference.banet modeling.outputs",
    "modeling.build": "modeling.composition",
    "modeling.hub": "checkpoint.hub",
    "modeling.i2s": "modeling.aggregation modeling.segmenters modeling.semantic_loss",
    "modeling.instances": "inference.postprocess",
    "modeling.readout": "inference.postprocess inference.preprocess",
    "modeling.tiles": "inference.predictor",
    "modeling.weights": "checkpoint.checkpoint checkpoint.warm_start",
    "panoptic.breakdown": "panoptic.metrics.breakdown",
    "panoptic.changes": "panoptic.drawing.diff",
    "panoptic.coco_classes": "panoptic.coco.classes",
    "panoptic.coco_format": _COCO,
    "panoptic.cues": "panoptic.occlusion.cues",
    "panoptic.disputes": "panoptic.occlusion.overlap_report",
    "panoptic.files": "files.reading",
    "panoptic.inputs": "panoptic.validation",
    "panoptic.quality": "panoptic.metrics.quality",
    "panoptic.regions": "panoptic.occlusion.regions",
    "panoptic.rle": "panoptic.coco.rle",
    "panoptic.rules": "panoptic.occlusion.rules",
}
"""Old module -> the modules that hold its names now, both below `banet`."""


RENAMED = {
    "DecodedPicture": "DecodedImage",
    "Disputes": "OverlapReport",
    "Filled": "LoadReport",
    "LargePicture": "LargeImage",
    "Picture": "CroppableImage EvaluationImage",
    "Pictures": "EvaluationData",
    "Readout": "UnfusedPrediction",
    "RULES": "STUDY_RULES",
    "changed_hands": "differing_pixels",
    "draw_changes": "draw_diff",
    "find_disputes": "report_overlaps",
    "initialise": "initialize",
    "like": "as_input_type",
    "open_picture": "open_image",
    "picture_size": "image_size",
    "place_by_score": "rank_by_score",
}
"""Name that the old modules had -> the name of the same function or class now; two where two modules had it."""


ELSEWHERE = {
    "build_model": "inference.banet.BANet",
    "read_images": "inference.predictor.read_images",
}
"""Name that the old modules had -> what takes its place, below `banet`, where none of their new homes has it."""


class _MovedLoader(Loader):
    def __init__(self, homes: list[str]) -> None:
        self.homes = homes

    def create_module(self, spec: ModuleSpec) -> None:
        return None

    def exec_module(self, module: ModuleType) -> None:
        old, homes = module.__name__, self.homes
        # Four levels up is the import statement of the caller.
        warnings.warn(f"{old} moved to {', '.join(homes)}; the old name goes in 0.3", DeprecationWarning, stacklevel=4)

        def find(name: str) -> Any:
            for home in map(import_module, homes):
                for known in (name, *RENAMED.get(name, "").split()):
                    if known in vars(home):
                        return vars(home)[known]
            if name in ELSEWHERE:
                place, _, known = ELSEWHERE[name].rpartition(".")
                return getattr(import_module(f"banet.{place}"), known)
            raise AttributeError(f"module {old!r} has no attribute {name!r}; its names are in {', '.join(homes)} now")

        vars(module)["__getattr__"] = find


class _MovedFinder(MetaPathFinder):
    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        homes = MOVED.get(name.removeprefix("banet.")) if name.startswith("banet.") else None
        return None if homes is None else ModuleSpec(name, _MovedLoader([f"banet.{home}" for home in homes.split()]))


def install() -> None:
    """Make imports of the old names work; they are looked up after all others."""
    if not any(isinstance(finder, _MovedFinder) for finder in sys.meta_path):
        sys.meta_path.append(_MovedFinder())


def renamed(module: str, names: Mapping[str, str]) -> Callable[[str], Any]:
    """Return the `__getattr__` of a module whose names have changed, so that the old ones work with a warning.

    Args:
        module: its `__name__`.
        names: old name -> new name, in the same module, or `module:name` of another.
    """

    def find(name: str) -> Any:
        if name not in names:
            raise AttributeError(f"module {module!r} has no attribute {name!r}")
        new = names[name]
        warnings.warn(
            f"{module}.{name} is called {new} now; the old name goes in 0.3", DeprecationWarning, stacklevel=2
        )
        home, _, attribute = new.rpartition(":")
        return attrgetter(attribute)(import_module(home or module))

    return find

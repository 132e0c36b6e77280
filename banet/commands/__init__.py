"""The commands of the command line: a frozen dataclass of options per command, with a `run`."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from banet.commands.base import Command

__all__ = ["COMMANDS", "GROUPS", "find_command"]

COMMANDS = {
    "train": "train.Train",
    "push": "push.Push",
    "evaluate": "evaluate.Evaluate",
    "analyze": "studies.analyze.Analyze",
    "ablate": "studies.ablate.Ablate",
    "predict": "predict.Predict",
    "export": "export.Export",
    "pq": "pq.Pq",
    "fuse": "fuse.Fuse",
    "demo": "studies.demo.Demo",
    "app": "app.App",
    "models": "models.Models",
    "data scenes": "data.scenes.Scenes",
    "data collage": "data.collage.Collage",
    "data check": "data.check.Check",
    "data convert coco": "data.convert.Coco",
    "data convert cityscapes": "data.convert.Cityscapes",
    "data convert ade20k": "data.convert.Ade20k",
    "data convert maps": "data.convert.Maps",
    "data convert labelme": "data.convert.Labelme",
    "data convert cvat": "data.convert.Cvat",
    "data convert label-studio": "data.convert.LabelStudio",
    "data convert yolo": "data.convert.Yolo",
    "data convert voc": "data.convert.Voc",
    "data convert mapillary": "data.convert.Mapillary",
    "data convert datumaro": "data.convert.Datumaro",
    "data convert cells": "data.convert.Cells",
    "data export coco": "data.export.ExportCoco",
    "data export yolo": "data.export.ExportYolo",
    "data export voc": "data.export.ExportVoc",
    "data export semantic": "data.export.ExportSemantic",
    "data export instance-maps": "data.export.ExportInstanceMaps",
    "data export mask2former": "data.export.ExportMask2Former",
    "data export eomt": "data.export.ExportEomt",
    "data export lightly-train": "data.export.ExportLightlyTrain",
    "completion": "completion.Completion",
}
"""Module and class of each command, by the words it is called with, in the order of the help."""
GROUPS = {
    "data": "Make and check data sets.",
    "data convert": "Make COCO panoptic of other formats.",
    "data export": "Make other formats of COCO panoptic.",
}
"""What the commands that begin with these words have in common."""


def find_command(name: str) -> type[Command]:
    """Return the class of a command.

    Raises:
        KeyError: There is no such command.
    """
    module, kind = COMMANDS[name].rsplit(".", 1)
    command: type[Command] = getattr(import_module(f"banet.commands.{module}"), kind)
    return command

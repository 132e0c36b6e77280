"""`banet demo`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from banet.commands.base import Command
from banet.commands.shared import Count, DeviceOptions, Folder, OverwriteOptions, Weights

__all__ = ["Demo"]


@dataclass(frozen=True, kw_only=True)
class Demo(DeviceOptions, OverwriteOptions, Command):
    """Compare the heuristic with occlusion handling on fresh scenes and microscope images.

    Attributes:
        out: Where the pages of images go: index.html for the scenes, nuclei.html for the microscope images.
        scenes: How many scenes.
        weights: A .safetensors file, a folder that holds one, or a name, for scenes only; by default `scenes` and
            `nuclei`, which come with the package.
    """

    out: Folder = "demo"
    scenes: Count = 50
    weights: Weights | None = None

    def run(self) -> int:
        """Compare, and write the page."""
        from banet.engine.report.demo import run_demo

        out = Path(self.out)
        run_demo(out, weights=self.weights, scenes=self.scenes, device=self.device, overwrite=self.overwrite)
        return 0

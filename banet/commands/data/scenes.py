"""`banet data scenes`."""

from __future__ import annotations

from dataclasses import dataclass

from banet.commands.base import Command
from banet.commands.shared import Count, Folder, OverwriteOptions, Pixels, Seed, progress

__all__ = ["Scenes"]


@dataclass(frozen=True, kw_only=True)
class Scenes(OverwriteOptions, Command):
    """Write procedural scenes as a COCO panoptic data set.

    Attributes:
        out: Where images, PNGs and JSON go.
        count: How many scenes.
        seed: Another seed draws other scenes.
        size: Side of a scene in pixels.
    """

    out: Folder
    count: Count = 20
    seed: Seed = 0
    size: Pixels = 256

    def run(self) -> int:
        """Write the scenes, and print the path of the JSON."""
        from banet.data.scenes.generate import write_coco

        with progress("scenes", "scene") as show:
            path = write_coco(
                self.out,
                self.seed,
                self.count,
                (self.size, self.size),
                progress=lambda done: show(done, self.count),
                overwrite=self.overwrite,
            )
        print(path)
        return 0

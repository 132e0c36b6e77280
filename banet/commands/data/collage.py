"""`banet data collage`."""

from __future__ import annotations

from dataclasses import dataclass

from banet.commands.base import Command
from banet.commands.shared import Count, File, Folder, OverwriteOptions, Seed, progress

__all__ = ["Collage"]


@dataclass(frozen=True, kw_only=True)
class Collage(OverwriteOptions, Command):
    """Paste cut-outs on images in a known order; writes COCO panoptic and overlapping masks.

    Backgrounds count as stuff `background` as a whole. instances_amodal.json holds full masks and their
    `depth`: 0 is the front.

    Attributes:
        instances: What to cut out: a COCO instances JSON.
        images: Folder of its images.
        backgrounds: Folder of images to paste on.
        out: Where images, PNGs and JSON go.
        count: How many collages.
        seed: Another seed draws other collages.
    """

    instances: File
    images: Folder
    backgrounds: Folder
    out: Folder
    count: Count = 20
    seed: Seed = 0

    def run(self) -> int:
        """Write the collages, and print the path of the JSON."""
        from banet.data.scenes.collage import InstanceSet, write_collages

        instances = InstanceSet(self.instances, self.images)
        with progress("collages", "collage") as show:
            path = write_collages(
                self.out,
                instances,
                self.backgrounds,
                self.seed,
                self.count,
                progress=lambda done: show(done, self.count),
                overwrite=self.overwrite,
            )
        print(path)
        return 0

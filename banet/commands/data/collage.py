"""`banet data collage`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from banet.commands.base import Command, Value
from banet.commands.shared import Count, File, Folder, OverwriteOptions, Seed, UntrustedOptions, progress
from banet.types import BitDepth

__all__ = ["Collage"]


@dataclass(frozen=True, kw_only=True)
class Collage(OverwriteOptions, UntrustedOptions, Command):
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
        bit_depth: Bits that samples of 16-bit images use, 8 to 16; auto finds one number for those of each folder.
    """

    instances: File
    images: Folder
    backgrounds: Folder
    out: Folder
    count: Count = 20
    seed: Seed = 0
    bit_depth: Annotated[BitDepth, Value("auto|BITS")] = "auto"

    def run(self) -> int:
        """Write the collages, and print the path of the JSON."""
        from banet.data.scenes.collage import InstanceSet, write_collages

        instances = InstanceSet(self.instances, self.images, self.bit_depth)
        with progress("collages", "collage") as show:
            path = write_collages(
                self.out,
                instances,
                self.backgrounds,
                self.seed,
                self.count,
                progress=lambda done: show(done, self.count),
                bit_depth=self.bit_depth,
                overwrite=self.overwrite,
            )
        print(path)
        return 0

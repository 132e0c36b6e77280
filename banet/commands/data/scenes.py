"""`banet data scenes`."""

from __future__ import annotations

from dataclasses import dataclass

from banet.commands.base import Command
from banet.commands.shared import Count, Folder, OverwriteOptions, Pixels, Seed, progress
from banet.errors import InputError

__all__ = ["Scenes"]


@dataclass(frozen=True, kw_only=True)
class Scenes(OverwriteOptions, Command):
    """Write procedural scenes, or videos of them, as a COCO panoptic data set.

    Attributes:
        out: Where images, PNGs and JSON go.
        count: How many scenes.
        seed: Another seed draws other scenes.
        size: Side of a scene in pixels.
        context: Things depend on the ground (cars on roads, chairs on floors, umbrellas on sand), and pairs of stuff
            look alike, so that only things tell them apart. Otherwise any thing stands on any ground.
        video: Make each scene a video of this many frames, whose things move, hide one another and keep their ids.
    """

    out: Folder
    count: Count = 20
    seed: Seed = 0
    size: Pixels = 256
    context: bool = False
    video: Count | None = None

    def run(self) -> int:
        """Write the scenes, and print the path of the JSON."""
        from banet.data.scenes.generate import write_coco
        from banet.data.scenes.videos import write_videos

        size = self.size, self.size
        if self.video is not None:
            if self.context:
                raise InputError("goes with single scenes", where="--context", hint="leave out --video, or this")
            with progress("scenes", "frame") as show:
                path = write_videos(self.out, self.seed, self.count, self.video, size, show, overwrite=self.overwrite)
            print(path)
            return 0
        with progress("scenes", "scene") as show:
            path = write_coco(
                self.out,
                self.seed,
                self.count,
                size,
                progress=lambda done: show(done, self.count),
                context=self.context,
                overwrite=self.overwrite,
            )
        print(path)
        return 0

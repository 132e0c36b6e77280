"""Draw the clip of docs/how_to/track_videos.md: ``python docs/figures/tracking.py [--out docs/images]``.

A video of a procedural scene, in which a thing of which less than half can be seen is void, as occlusion handling
leaves it. On the left each frame is on its own; in the middle ids last while objects are seen; on the right the tracker
remembers what is hidden. Colors follow the ids.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from banet import PanopticSegmentation, Tracker, TrackingConfig
from banet.data.scenes import SceneFrame, SceneVideo
from banet.panoptic.drawing.colors import LastingColors

SEED, INDEX, FIRST, COUNT = 42, 1, 0, 120
SIZE = 208, 208
STEP, MILLISECONDS, QUALITY = 3, 125, 40


def shown(frame: SceneFrame, rng: np.random.Generator) -> PanopticSegmentation:
    """Return what a network with occlusion handling would show, with ids drawn anew."""
    hidden = set(frame.ids[frame.visible < 0.5].tolist())
    kept = [s for s in frame.truth.segments if s.id not in hidden]
    ids, records = np.zeros(frame.truth.ids.shape, dtype=np.int32), []
    for name, segment in zip((rng.permutation(len(kept)) + 1).tolist(), kept, strict=True):
        ids[frame.truth.ids == segment.id] = name
        records.append({"id": name, "category_id": segment.category_id})
    return PanopticSegmentation.from_ids(ids, records, frame.truth.categories, frame.image)


def main() -> None:
    """Draw the clip."""
    command_line = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    command_line.add_argument("--out", type=Path, default=Path("docs/images"))
    out = command_line.parse_args().out
    steps: list[tuple[Callable[[PanopticSegmentation], PanopticSegmentation], LastingColors]] = [
        (lambda result: result, LastingColors()),
        (Tracker(TrackingConfig(occlusion_memory=False)).update, LastingColors()),
        (Tracker().update, LastingColors()),
    ]
    rng, video, images = np.random.default_rng(0), SceneVideo(SEED, INDEX, SIZE), []
    for t in range(FIRST, FIRST + COUNT):
        result = shown(video.frame(t), rng)
        panels = []
        for step, colors in steps:
            tracked = step(result)
            own = colors.choose(tracked.segments, tracked.categories)
            panels.append(np.asarray(tracked.draw(colors=own, stuff="none", alpha=0.65)))
            panels.append(np.full((SIZE[0], 4, 3), 255, dtype=np.uint8))
        if (t - FIRST) % STEP == 0:
            images.append(Image.fromarray(np.concatenate(panels[:-1], axis=1)))
    path = out / "tracking.webp"
    images[0].save(
        path, save_all=True, append_images=images[1:], duration=MILLISECONDS, loop=0, quality=QUALITY, method=6
    )
    print(f"{path}: {path.stat().st_size / 1000:.0f} kB, {len(images)} frames")


if __name__ == "__main__":
    main()

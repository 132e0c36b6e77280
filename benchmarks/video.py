"""Memory over the length of a video: ``python benchmarks/video.py [--frames 1200] [--size 320x180] [--track]``.

A made-up video goes through `segment_video` with brightness in place of a network, and the memory of the process is
printed as frames go by; Linux only. With `--track` as `banet predict --track` does it: the bright object gets an id
that lasts, all files of a tracked video are written, and the size of the saved state is printed, too.
"""

from __future__ import annotations

import tempfile
import time
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from harness import Report, parser, resident
from numpy.typing import NDArray

from banet.data.scenes.generate import SCENE_CATEGORIES
from banet.engine.prediction.track import TrackRun
from banet.engine.prediction.video import segment_video
from banet.panoptic import PanopticSegmentation


def write(path: Path, frames: int, width: int, height: int) -> None:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=Fraction(30), options={"preset": "ultrafast"})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for k in range(frames):
            image = np.zeros((height, width, 3), dtype=np.uint8)
            image[20:80, k % (width - 60) : k % (width - 60) + 60] = 240
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode(None))


def main() -> None:
    command_line = parser(__doc__, threads=None)
    command_line.add_argument("--frames", type=int, default=1200)
    command_line.add_argument("--size", default="320x180")
    command_line.add_argument("--track", action="store_true")
    options = command_line.parse_args()
    width, height = map(int, options.size.split("x"))
    person, sky = SCENE_CATEGORIES[0].id, SCENE_CATEGORIES[SCENE_CATEGORIES.num_things].id
    records = [{"id": 1, "category_id": person, "score": 0.9}, {"id": 2, "category_id": sky}]
    marks = {options.frames * share // 100 for share in (5, 10, 25, 50, 75, 100)}
    done = 0
    memory: dict[int, int] = {}

    def segment(frame: NDArray[np.uint8]) -> PanopticSegmentation:
        nonlocal done
        done += 1
        if done in marks:
            memory[done] = resident()
        return PanopticSegmentation.from_ids(np.where(frame[..., 1] > 128, 1, 2), records, SCENE_CATEGORIES, frame)

    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder) / "made_up.mp4", options.frames, width, height)
        start = time.perf_counter()
        source, out = f"{folder}/made_up.mp4", Path(folder)
        run = TrackRun(source, out, "made_up", {}) if options.track else None
        segment_video(segment, source, out / "overlay.mp4", frames=out / "frames" if run else None, tracking=run)
        seconds = time.perf_counter() - start
        state = (out / "made_up_track.json").stat().st_size if run else 0
    with Report(options, __file__) as report:
        for frame, size in memory.items():
            report.say(f"frame {frame:6}: {size / 1e6:.0f} MB", bytes=size)
        each = 1000 * seconds / options.frames
        report.say(f"{each:.1f} ms per frame for reading, drawing and writing", milliseconds=each)
        if options.track:
            report.say(f"the saved state has {state / 1000:.1f} kB", state=state)


if __name__ == "__main__":
    main()

"""What reading images in a worker process costs: ``python benchmarks/untrusted.py [--images 20] [--repeats 5]``.

Images of 480 x 640 pixels, as JPEG files, are read in this process and in a worker, as with `--untrusted`, and read and
segmented with the bundled weights `scenes`, in turns; the pixels must be equal. The start of the process, once per
command, is measured beside.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
from harness import Report, parser, take_turns, use_threads
from PIL import Image

from banet import BANet
from banet.data.images import read_image
from banet.data.scenes.generate import Scenes
from banet.files.worker import Workers

Read = Callable[[Path], Image.Image]


def files(folder: Path, count: int) -> list[Path]:
    """Write images of scenes, with noise as of a camera."""
    scenes, rng = Scenes(5, count, (480, 640)), np.random.default_rng(5)
    paths = []
    for number in range(count):
        image = scenes.read(number)[0] + rng.normal(0, 6, (480, 640, 1))
        paths.append(folder / f"{number}.jpg")
        Image.fromarray(np.clip(image, 0, 255).astype(np.uint8)).save(paths[-1], quality=92)
    return paths


def read_all(paths: list[Path], read: Read) -> None:
    for path in paths:
        read(path)


def segment_all(paths: list[Path], model: BANet, read: Read) -> None:
    for path in paths:
        model.predict(read(path))


def main() -> None:
    options = parser(__doc__, threads=1, repeats=5)
    options.add_argument("--images", type=int, default=20)
    given = options.parse_args()
    use_threads(given.threads)
    model, workers = BANet.from_pretrained("scenes"), Workers()
    elsewhere: Read = partial(workers.call, read_image)
    with tempfile.TemporaryDirectory() as folder, Report(given, __file__) as report:
        paths = files(Path(folder), given.images)
        begin = time.perf_counter()
        first = elsewhere(paths[0])
        report.say(f"start of a worker, with its first image: {time.perf_counter() - begin:.2f} s")
        if first.tobytes() != read_image(paths[0]).tobytes():
            raise SystemExit("the pixels differ")
        works = {"read": partial(read_all, paths), "read and segment": partial(segment_all, paths, model)}
        for name, work in works.items():
            turns = take_turns({"here": partial(work, read_image), "worker": partial(work, elsewhere)}, given.repeats)
            report.turns(name, turns)
            here, there = (turns.milliseconds(each) / len(paths) for each in ("here", "worker"))
            ratio = turns.ratio_text("worker", "here")
            report.say(f"{name:<17} {here:7.2f} ms per image, in a worker {there:7.2f} ms: {ratio}", milliseconds=there)
    workers.close()


if __name__ == "__main__":
    main()

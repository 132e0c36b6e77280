"""What reading images in a worker process costs: ``python benchmarks/untrusted.py [--images 1000] [--block 20]``.

JPEG files of scenes with noise, 480 x 640 pixels, are read and segmented with the bundled weights `scenes`: in blocks,
in this process and with a worker as with `--untrusted`, in turns. The pixels must be equal. Processor time is that of
this process and of the worker together, so that other programs change it little; the start of the worker, once per
command, is measured beside.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
from harness import Report, parser, use_threads
from PIL import Image

from banet import BANet
from banet.data.images import read_image
from banet.data.scenes.generate import Scenes
from banet.files.worker import Workers

Read = Callable[[Path], Image.Image]


def files(folder: Path, count: int, size: tuple[int, int]) -> list[Path]:
    """Write images of scenes, with noise as of a camera; 20 scenes with other noise each time."""
    scenes, rng = Scenes(5, 20, size), np.random.default_rng(5)
    images = [scenes.read(number)[0] for number in range(min(count, 20))]
    paths = []
    for number in range(count):
        noise = rng.normal(0, 6, (*size, 1))
        paths.append(folder / f"{number}.jpg")
        noisy = np.clip(images[number % 20] + noise, 0, 255).astype(np.uint8)
        Image.fromarray(noisy).save(paths[-1], quality=92)
    return paths


def processor_seconds() -> float:
    """Return the processor time of this process and its workers, which live."""
    total = time.process_time()
    for tasks in Path("/proc/self/task").glob("*/children"):
        for child in tasks.read_text().split():
            fields = Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()
            total += (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return total


def measure(paths: Sequence[Path], model: BANet | None, read: Read) -> tuple[float, float]:
    """Read images, and segment them where there is a network; return seconds of the clock and of processors."""
    clock, processors = time.perf_counter(), processor_seconds()
    for path in paths:
        image = read(path)
        if model is not None:
            model.predict(image)
    return time.perf_counter() - clock, processor_seconds() - processors


def main() -> None:
    options = parser(__doc__, threads=1)
    options.add_argument("--images", type=int, default=1000)
    options.add_argument("--block", type=int, default=20, help="images of a turn")
    options.add_argument("--size", type=int, nargs=2, default=(480, 640), metavar=("H", "W"))
    given = options.parse_args()
    use_threads(given.threads)
    model, workers = BANet.from_pretrained("scenes"), Workers()
    elsewhere: Read = partial(workers.call, read_image)
    with tempfile.TemporaryDirectory() as folder, Report(given, __file__) as report:
        paths = files(Path(folder), given.images, (given.size[0], given.size[1]))
        begin = time.perf_counter()
        first = elsewhere(paths[0])
        report.say(f"start of a worker, with its first image: {time.perf_counter() - begin:.2f} s")
        if first.tobytes() != read_image(paths[0]).tobytes():
            raise SystemExit("the pixels differ")
        model.predict(first)
        for name, network in (("read", None), ("read and segment", model)):
            turns: dict[str, list[tuple[float, float]]] = {"here": [], "worker": []}
            for number in range(0, len(paths), given.block):
                order = [("here", read_image), ("worker", elsewhere)]
                for who, read in order if number // given.block % 2 else order[::-1]:
                    turns[who].append(measure(paths[number : number + given.block], network, read))
            (clock, processors), (clock_there, processors_there) = (np.sum(turns[who], axis=0) for who in turns)
            medians = np.median(np.array(turns["worker"]) / np.array(turns["here"]), axis=0)
            per = 1000 / len(paths)
            report.say(
                f"{name}: {per * processors:.2f} ms of processor per image, with a worker {per * processors_there:.2f}"
                f" ({processors_there / processors:.3f}, median of blocks {medians[1]:.3f}); by the clock"
                f" {per * clock:.2f} and {per * clock_there:.2f} ({clock_there / clock:.3f}, {medians[0]:.3f})",
                milliseconds=per * processors_there,
                ratio=processors_there / processors,
            )
    workers.close()


if __name__ == "__main__":
    main()

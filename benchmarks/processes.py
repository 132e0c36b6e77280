"""`banet predict` on several processes: ``python benchmarks/processes.py speed | memory | start``.

`speed`: one process of one thread and two such processes, each on a core of its own, take turns on the same images;
printed is how many times the images per second two do. Counted is from the first result to the last one, without start
and merge. With `--free` all may use all cores, so that one process reads and writes on the second one. `memory`: the
resident memory of each of `--processes` over many tiny images, with a stand-in for the network that takes no time, from
a folder into archives. `start`: the command until its first image, and on one tiny
image, beside importing its modules and loading its weights.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from harness import Report, parser, take_turns
from numpy.typing import NDArray
from PIL import Image

from banet.data.scenes.generate import make_scene
from banet.inference.postprocess import Instances, UnfusedPrediction
from banet.inference.predictor import Predictor
from banet.modeling.config import InferenceConfig
from banet.panoptic import Categories, MaskCrops


class StandIn(Predictor):
    """Finds one thing at once."""

    categories = Categories.of([{"id": 1, "name": "thing", "isthing": 1}, {"id": 2, "name": "floor", "isthing": 0}])
    inference = InferenceConfig(stuff_area=0)

    def predict_unfused(self, images: Sequence[NDArray[np.uint8]]) -> list[UnfusedPrediction]:
        return [self._one(image) for image in images]

    def _one(self, image: NDArray[np.uint8]) -> UnfusedPrediction:
        mask = np.zeros((1, *image.shape[:2]), dtype=bool)
        mask[0, :4] = True
        found = Instances(MaskCrops.from_masks(mask), np.array([0.9]), np.array([0]), np.zeros((1, 4), np.float32))
        return UnfusedPrediction(image, found, np.full(image.shape[:2], 1))


def command(*words: object) -> list[str]:
    return [sys.executable, "-m", "banet", "predict", *map(str, words), "--device", "cpu"]


def seconds_of(source: Path, out: Path, weights: str, processes: int, pinned: bool) -> float:
    """Run the command; return the seconds from its first result to its last one, scaled to all images."""
    words = command(source, "--weights", weights, "--out", out)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "WORLD_SIZE": str(processes), "BANET_LAUNCH": out.name}
    cores = sorted(os.sched_getaffinity(0))
    running = [
        subprocess.Popen(
            ["taskset", "-c", str(cores[rank % len(cores)]), *words] if pinned else words,
            env={**environment, "RANK": str(rank)},
            stdout=subprocess.DEVNULL,
        )
        for rank in range(processes)
    ]
    if any([process.wait() for process in running]):
        raise SystemExit("a process failed")
    times = sorted(path.stat().st_mtime for path in out.glob("*_overlay.jpg"))
    # With n processes the first n results are of images that were begun before the clock.
    return (times[-1] - times[0]) * len(times) / (len(times) - processes)


def enlarging(weights: str, shorter: int, folder: Path) -> str:
    """Write weights that enlarge images to a shorter side, so that each takes longer; return their file."""
    from banet import BANet

    model = BANet.from_pretrained(weights)
    model.inference = replace(model.inference, shorter=shorter, longer=2 * shorter)
    return str(model.save_pretrained(folder / "weights.safetensors"))


def speed(options: Any) -> None:
    with tempfile.TemporaryDirectory() as folder, Report(options, __file__) as report:
        weights = enlarging(options.weights, options.shorter, Path(folder)) if options.shorter else options.weights
        source = Path(folder) / "images"
        source.mkdir()
        for number in range(options.count):
            pixels = make_scene(5, number, size=(options.size, options.size)).image
            Image.fromarray(pixels).save(source / f"{number}.png")
        runs = iter(range(10_000))

        def with_processes(count: int) -> float:
            return seconds_of(source, Path(folder) / f"out{next(runs)}", weights, count, not options.free)

        seconds: dict[int, list[float]] = {1: [], 2: []}
        for _ in range(options.repeats):
            for count in seconds:
                seconds[count].append(with_processes(count))
        one, two = (float(np.median(some)) for some in seconds.values())
        where = "on all cores" if options.free else "on a core of its own"
        report.say(
            f"{options.weights}, {options.count} images of {options.size} x {options.size}, "
            f"shorter side {options.shorter or 'as saved'}, one thread each, {where}"
        )
        report.say(f"one process: {one / options.count:.2f} s per image; load average {os.getloadavg()[0]:.1f}")
        report.say(f"two processes: {one / two:.2f} times the images per second (goal 1.8); all turns {seconds}")


def resident(process: int) -> float:
    """Return the resident memory of a process, MB."""
    status = Path(f"/proc/{process}/status").read_text(encoding="utf-8")
    return int(status.split("VmRSS:")[1].split()[0]) / 1024 if "VmRSS:" in status else 0.0


def share(rank: int, processes: int, source: Path, out: Path) -> int:
    """Begin one of several processes of the command, with a stand-in for the network; return its number."""
    from banet.engine.prediction import predict
    from banet.panoptic.drawing import overlay

    if process := os.fork():
        return process
    predict.open_model = lambda *_, **__: (StandIn(), "cpu")  # type: ignore[assignment]
    overlay._LEGIBLE = 8  # as overlays of tiny images are enlarged to 640 pixels, which would be nearly all the work
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(processes), "BANET_LAUNCH": out.name}
    os._exit(predict.predict_files("stand-in", [str(source)], out, shards=1000, bit_depth=8))


def memory(options: Any) -> None:
    with tempfile.TemporaryDirectory() as folder, Report(options, __file__) as report:
        source, out = Path(folder) / "images", Path(folder) / "out"
        source.mkdir()
        Image.fromarray(np.arange(8 * 8 * 3, dtype=np.uint8).reshape(8, 8, 3)).save(source / "first.png")
        data = (source / "first.png").read_bytes()
        for number in range(options.count - 1):
            (source / f"{number:07}.png").write_bytes(data)
        begin = time.monotonic()
        samples = {share(rank, options.processes, source, out): [] for rank in range(options.processes)}
        running = set(samples)
        while running:
            time.sleep(1.0)
            for process in running:
                samples[process].append(resident(process))
            for process in list(running):
                ended, status = os.waitpid(process, os.WNOHANG)
                running -= {ended}
                if status:
                    raise SystemExit(f"a process ended with {status}")
        report.say(
            f"{options.count:,} images of 8 x 8, {options.processes} processes, {time.monotonic() - begin:.0f} s"
        )
    for rank, found in enumerate(samples.values()):
        found = [value for value in found if value]
        tenths = " ".join(f"{found[len(found) * tenth // 10]:.0f}" for tenth in range(10))
        report.say(
            f"process {rank}, resident MB at each tenth: {tenths}, at the end {found[-1]:.0f}; most {max(found):.0f}"
        )


def start(options: Any) -> None:
    load = f"import banet.commands.predict, banet.engine.prediction.predict, banet; banet.load({options.weights!r})"
    # The command, ended where the first image would be read.
    begun = "import os, sys; from banet.engine.prediction.images import ImageRun; from banet.cli import main; "
    begun += "ImageRun.read = lambda *_: os._exit(0); sys.exit(main(sys.argv[1:]))"
    with tempfile.TemporaryDirectory() as folder, Report(options, __file__) as report:
        image = Path(folder) / "image.png"
        Image.fromarray(np.zeros((32, 32, 3), dtype=np.uint8)).save(image)
        runs = iter(range(10_000))

        def words() -> list[str]:
            return command(image, "--weights", options.weights, "--out", Path(folder) / f"out{next(runs)}")

        def run(*words: str) -> None:
            subprocess.run(words, check=True, capture_output=True)

        turns = take_turns(
            {
                "until the first image": lambda: run(sys.executable, "-c", begun, *words()[3:]),
                "one tiny image": lambda: run(*words()),
                "import and weights": lambda: run(sys.executable, "-c", load),
            },
            options.repeats,
            warm_up=1,
        )
        report.turns(options.weights, turns)
        for name in ("until the first image", "one tiny image"):
            report.say(f"{name}: {turns.ratio_text(name, 'import and weights')} of import and weights")


def main() -> None:
    command_line = parser(__doc__, repeats=3)
    command_line.add_argument("what", choices=("speed", "memory", "start"))
    command_line.add_argument("--weights", default="scenes")
    command_line.add_argument("--count", type=int, default=16, help="images")
    command_line.add_argument("--size", type=int, default=512, help="side of an image, in pixels")
    command_line.add_argument("--shorter", type=int, help="speed: side that images are resized to for the network")
    command_line.add_argument("--processes", type=int, default=2, help="memory: how many share the images out")
    command_line.add_argument("--free", action="store_true", help="speed: let each process use all cores")
    options = command_line.parse_args()
    {"speed": speed, "memory": memory, "start": start}[options.what](options)


if __name__ == "__main__":
    main()

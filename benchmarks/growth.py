"""How `BANet.predict` grows: ``python benchmarks/growth.py [--threads 1] [--rounds 3] [--plot FILE]``.

ResNet-50 with random weights that finds what it is told to, as in `inference.py`. From an image of one megapixel with
50 detections and 133 classes one thing at a time changes: the image, which the network sees at its own size, the
number of detections, the number of classes (six in ten are things). Each round lets every point have its turn, in a
process of its own that predicts twice and measures the second time. Printed are median seconds of processor time, which
other work on the machine hardly touches, the peak memory, and what one more megapixel, detection or class costs beyond
the row before: it would rise from row to row if anything were quadratic.
"""

from __future__ import annotations

import argparse
import time
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from harness import Report, Turns, collect, forget_peak, own_process, parser, peak
from inference import banet

from banet.modeling.config import ModelConfig
from banet.panoptic import Categories, Category


class Point(NamedTuple):
    """One prediction: size of the image, number of detections and of classes."""

    height: int = 832
    width: int = 1216
    detections: int = 50
    classes: int = 133

    @property
    def megapixels(self) -> float:
        return self.height * self.width / 1e6


SIZES = ((416, 608), (576, 864), (832, 1216), (1152, 1760), (1408, 2144), (1632, 2464))
SERIES = {
    "megapixels": [Point(*size) for size in SIZES],
    "detections": [Point(detections=n) for n in (0, 10, 50, 100, 200, 300)],
    "classes": [Point(classes=n) for n in (20, 50, 133, 300, 600, 1000)],
}
ONE = {"megapixels": "megapixel", "detections": "detection", "classes": "class"}


def measure(point: Point) -> tuple[float, float]:
    """Seconds of processor time of a prediction, and the peak memory of this process in GiB."""
    torch.manual_seed(0)
    things = point.classes * 6 // 10
    categories = Categories(Category(n, f"class {n}", n <= things) for n in range(1, point.classes + 1))
    size = (point.height, point.width)
    model = banet(point.detections, ModelConfig(norm="frozen_batch"), size, categories)
    # Coarse noise: the best class changes at as many pixels as in a photograph, not at all of them.
    coarse = torch.rand(1, 3, point.height // 32, point.width // 32, generator=torch.Generator().manual_seed(0))
    image = torch.nn.functional.interpolate(255 * coarse, size, mode="bicubic")[0].clamp(0, 255).to(torch.uint8)
    forget_peak()
    model.predict(image)
    begin = time.process_time()
    model.predict(image)
    return time.process_time() - begin, peak() / 2**30


def plot(path: Path, turns: Turns[Point], peaks: dict[Point, float]) -> None:
    """Three panels: time on the left axis, memory on the right, both from zero."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, panels = plt.subplots(1, 3, figsize=(10, 3.2), sharey=True, layout="constrained")
    rights = [panel.twinx() for panel in panels]
    for right in rights[1:]:
        right.sharey(rights[0])
    for panel, right, (name, points) in zip(panels, rights, SERIES.items(), strict=True):
        x = [getattr(point, name) for point in points]
        panel.plot(x, [turns.median(p) for p in points], "o-", color="tab:blue", label="time")
        right.plot(x, [peaks[p] for p in points], "s--", color="tab:orange", label="peak memory")
        panel.set(xlabel=name, xlim=(0, None), ylim=(0, None))
        right.set_ylim(0, 1.1 * max(peaks.values()))
        right.tick_params(labelright=right is rights[-1])
        panel.grid(alpha=0.3)
    panels[0].set_ylabel("processor time, s", color="tab:blue")
    rights[-1].set_ylabel("peak memory, GiB", color="tab:orange")
    figure.savefig(path, dpi=150)


def measure_all(threads: int, rounds: int) -> tuple[Turns[Point], dict[Point, float]]:
    """Processor time of every point, in turns, and its highest peak in GiB."""
    peaks: dict[Point, float] = {}

    def measured(point: Point) -> float:
        taken, highest = map(float, own_process(__file__, "--threads", threads, "--point", *point).split())
        peaks[point] = max(highest, peaks.get(point, 0.0))
        return taken

    every = sorted({point for points in SERIES.values() for point in points})
    return collect({point: partial(measured, point) for point in every}, rounds), peaks


def tabulate(report: Report, turns: Turns[Point], peaks: dict[Point, float]) -> None:
    for name, points in SERIES.items():
        one = ONE[name]
        report.say(f"\n| {name} | processor time, s | one more {one}, ms | peak memory, GiB | one more {one}, MiB |")
        report.say("|---|---|---|---|---|")
        for before, point in zip([None, *points], points, strict=False):
            value = getattr(point, name)
            more = ["", ""]
            if before is not None:
                step = value - getattr(before, name)
                more = [
                    f"{1000 * (turns.median(point) - turns.median(before)) / step:.1f}",
                    f"{1024 * (peaks[point] - peaks[before]) / step:.2f}",
                ]
            report.say(
                f"| {value:.4g} | {turns.median(point):.2f} | {more[0]} | {peaks[point]:.2f} | {more[1]} |",
                point=point._asdict(),
                gibibytes=peaks[point],
            )


def main() -> None:
    command_line = parser(__doc__, threads=1)
    command_line.add_argument("--rounds", type=int, default=3)
    command_line.add_argument("--plot", type=Path, help="also draw the curves, to this file; needs the extra train")
    command_line.add_argument("--point", type=int, nargs=4, help=argparse.SUPPRESS)
    options = command_line.parse_args()
    torch.set_num_threads(options.threads)
    if options.point:
        print(*measure(Point(*options.point)))
        return
    with Report(options, __file__) as report:
        turns, peaks = measure_all(options.threads, options.rounds)
        report.turns("processor time", turns)
        tabulate(report, turns, peaks)
    if options.plot:
        plot(options.plot, turns, peaks)


if __name__ == "__main__":
    main()

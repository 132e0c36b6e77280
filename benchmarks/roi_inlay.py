"""RoIInlay beside RoIAlign, an obvious loop and the filling of its output: ``python benchmarks/roi_inlay.py``.

Contestants take turns, so that whatever else the machine does hits them alike; medians and ratios are printed. 14 × 14
features, a map of 200 × 336, sizes of boxes log-uniform, CPU on two threads unless told otherwise.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
import torchvision.ops
from torch import Tensor

from banet.ops import roi_inlay

HEIGHT, WIDTH, BINS = 200, 336, 14


def spread_boxes(count: int, coverage: float, seed: int = 0) -> Tensor:
    """``(count, 4)`` boxes in map pixels, sides log-uniform over 1:33, that cover ``coverage`` maps in total."""
    generator = torch.Generator().manual_seed(seed)
    extent = torch.tensor([WIDTH, HEIGHT], dtype=torch.float32)
    shape = torch.exp(torch.rand(count, 2, generator=generator) * 3.5)
    place = torch.rand(count, 2, generator=generator)
    scale = 1.0
    for _ in range(50):  # sides stop at the map's: repeat until the rest make up for it
        sides = torch.minimum(shape * scale, extent - 1)
        scale *= float((coverage * HEIGHT * WIDTH / sides.prod(1).sum()).sqrt())
    corner = place * (extent - sides)
    return torch.cat([corner, corner + sides], 1)


def paste_loop(features: Tensor, boxes: Tensor) -> Tensor:
    """The obvious way: resize each box's features to whole pixels, paste, count, divide."""
    result = features.new_zeros(1, features.shape[1], HEIGHT, WIDTH)
    counts = features.new_zeros(1, 1, HEIGHT, WIDTH)
    for feature, (x1, y1, x2, y2) in zip(features, (boxes - 0.5).ceil().int().tolist(), strict=True):
        if x2 > x1 and y2 > y1:
            resized = F.interpolate(feature[None], (y2 - y1, x2 - x1), mode="bilinear", align_corners=False)
            result = result + F.pad(resized, (x1, WIDTH - x2, y1, HEIGHT - y2))
            counts[:, :, y1:y2, x1:x2] += 1
    return result / counts.clamp(min=1)


def take_turns(contestants: dict[str, Callable[[], object]], repeats: int, device: str) -> dict[str, float]:
    """Median milliseconds of each."""
    times: dict[str, list[float]] = {name: [] for name in contestants}
    for repeat in range(repeats + 2):
        for name, contestant in contestants.items():
            if device == "cuda":
                torch.cuda.synchronize()
            begin = time.perf_counter()
            contestant()
            if device == "cuda":
                torch.cuda.synchronize()
            if repeat >= 2:
                times[name].append(1e3 * (time.perf_counter() - begin))
    return {name: statistics.median(values) for name, values in times.items()}


def differentiate(operator: Callable[[Tensor], Tensor], source: Tensor, gradient: Tensor) -> Callable[[], object]:
    leaf = source.detach().clone().requires_grad_()
    return lambda: torch.autograd.grad(operator(leaf), leaf, gradient)


def compare(count: int, channels: int, coverage: float, repeats: int, device: str, loop: bool) -> dict[str, float]:
    boxes = spread_boxes(count, coverage).to(device)
    image = torch.randn(1, channels, HEIGHT, WIDTH, device=device)
    crops = torch.randn(count, channels, BINS, BINS, device=device)
    gradient_last = torch.randn_like(roi_inlay(crops, [boxes], (HEIGHT, WIDTH)))
    gradient_first = gradient_last.contiguous()

    def inlay(features: Tensor) -> Tensor:
        return roi_inlay(features, [boxes], (HEIGHT, WIDTH))

    def align(features: Tensor) -> Tensor:
        pooled: Tensor = torchvision.ops.roi_align(features, [boxes], BINS, 1.0, sampling_ratio=2, aligned=True)
        return pooled

    result = take_turns(
        {
            "fill": lambda: torch.zeros(1, channels, HEIGHT, WIDTH, device=device),
            "align": lambda: align(image),
            "inlay": lambda: inlay(crops),
        },
        3 * repeats,
        device,
    )
    both = {
        "align both": differentiate(align, image, torch.randn_like(crops)),
        "inlay both": differentiate(inlay, crops, gradient_last),
        "inlay both, gradient channels first": differentiate(inlay, crops, gradient_first),
    }
    result |= take_turns(both, repeats, device)
    if loop:
        both = {
            "inlay both, beside the loop": both["inlay both"],
            "loop both": differentiate(lambda features: paste_loop(features, boxes), crops, gradient_first),
        }
        result |= take_turns(both, 3, device)
    return result


def peak_memory(count: int, channels: int) -> float:
    """MiB that a fresh process rises by, at its peak, in one call of RoIInlay. Linux only."""

    def resident(field: str) -> int:
        status = Path("/proc/self/status").read_text()
        return next(int(line.split()[1]) for line in status.splitlines() if line.startswith(field))

    boxes, crops = spread_boxes(count, 1.0), torch.randn(count, channels, BINS, BINS)
    roi_inlay(crops[:1, :1], [boxes[:1]], (HEIGHT, WIDTH))  # everything loaded
    Path("/proc/self/clear_refs").write_text("5")  # the peak so far, that of the imports, is forgotten
    before = resident("VmRSS")
    roi_inlay(crops, [boxes], (HEIGHT, WIDTH))
    return (resident("VmHWM") - before) / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument(
        "--repeats", type=int, default=9, help="turns for forward + backward; three times as many forward"
    )
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--no-loop", action="store_true", help="leave out the loop over boxes, which takes long")
    parser.add_argument(
        "--coverage", type=float, nargs="+", default=[1.0, 2.0], help="maps that the boxes cover in total"
    )
    parser.add_argument("--peak", nargs=2, metavar=("K", "C"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if arguments.peak:
        print(peak_memory(*map(int, arguments.peak)))
        return

    print(f"torch {torch.__version__}, {arguments.device}, {torch.get_num_threads()} threads; medians in ms\n")
    print("| K | C | maps covered | fill | RoIAlign | RoIInlay | ÷ RoIAlign | ÷ fill | both: RoIAlign | RoIInlay | ÷ |")
    print("|---|---|---|---|---|---|---|---|---|---|---|")
    notes = []
    cases = [(*size, coverage) for size in ((40, 128), (100, 256)) for coverage in arguments.coverage]
    for count, channels, coverage in cases:
        loop = not arguments.no_loop and coverage == arguments.coverage[0]
        t = compare(count, channels, coverage, arguments.repeats, arguments.device, loop)
        print(
            f"| {count} | {channels} | {coverage:g} | {t['fill']:.1f} | {t['align']:.1f} | {t['inlay']:.1f} "
            f"| **{t['inlay'] / t['align']:.2f}** | **{t['inlay'] / t['fill']:.2f}** "
            f"| {t['align both']:.1f} | {t['inlay both']:.1f} | **{t['inlay both'] / t['align both']:.2f}** |",
            flush=True,
        )
        first = t["inlay both, gradient channels first"]
        note = f"K={count}, C={channels}, {coverage:g} maps: with a channels-first gradient {first:.1f} ms "
        note += f"({first / t['align both']:.2f} of RoIAlign)"
        if loop:
            ratio = t["loop both"] / t["inlay both, beside the loop"]
            note += f"; the loop over boxes {t['loop both']:.0f} ms, {ratio:.0f} times RoIInlay"
        notes.append(note)
    print("\nForward and backward:", *notes, sep="\n- ")

    print("\nOne map covered, C=128, forward; in brackets with features channels first, which are copied:")
    contestants: dict[str, Callable[[], object]] = {}
    for count in (10, 100, 1000):
        boxes = spread_boxes(count, 1.0).to(arguments.device)
        crops = torch.randn(count, 128, BINS, BINS, device=arguments.device)
        for name, layout in (("last", torch.channels_last), ("first", torch.contiguous_format)):
            features = crops.contiguous(memory_format=layout)
            contestants[f"{count} {name}"] = lambda x=features, b=boxes: roi_inlay(x, [b], (HEIGHT, WIDTH))
    t = take_turns(contestants, 2 * arguments.repeats, arguments.device)
    for count in (10, 100, 1000):
        print(f"- K={count}: {t[f'{count} last']:.1f} ms ({t[f'{count} first']:.1f} ms)")

    if arguments.device == "cpu":
        print("\nPeak memory of a forward pass beyond its inputs, one map covered:")
        for count, channels in ((40, 128), (100, 256), (1000, 128)):
            command = [sys.executable, __file__, "--peak", str(count), str(channels)]
            peak = float(subprocess.check_output(command))
            output = channels * HEIGHT * WIDTH * 4 / 2**20
            print(
                f"- K={count}, C={channels}: {peak:.0f} MiB, the output's {output:.0f} MiB included: "
                f"{peak / output:.2f} times the output"
            )


if __name__ == "__main__":
    main()

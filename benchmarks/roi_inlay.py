"""RoIInlay beside RoIAlign, an obvious loop and the filling of its output: ``python benchmarks/roi_inlay.py``.

14 × 14 features, a map of 200 × 336, sizes of boxes log-uniform, CPU on two threads by default; medians and ratios.
Forward passes have three times as many turns as forward and backward together.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import torch
import torch.nn.functional as F
import torchvision.ops
from harness import Report, Turns, busy, own_process, parser, rise, take_turns
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


def differentiate(operator: Callable[[Tensor], Tensor], source: Tensor, gradient: Tensor) -> Callable[[], object]:
    leaf = source.detach().clone().requires_grad_()
    return lambda: torch.autograd.grad(operator(leaf), leaf, gradient)


def compare(count: int, channels: int, coverage: float, repeats: int, device: str, loop: bool) -> Turns[str]:
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

    forward: dict[str, Callable[[], object]] = {
        "fill": lambda: torch.zeros(1, channels, HEIGHT, WIDTH, device=device),
        "align": lambda: align(image),
        "inlay": lambda: inlay(crops),
    }
    both = {
        "align both": differentiate(align, image, torch.randn_like(crops)),
        "inlay both": differentiate(inlay, crops, gradient_last),
        "inlay both, gradient channels first": differentiate(inlay, crops, gradient_first),
    }
    seconds = {**time_on(device, forward, 3 * repeats).seconds, **time_on(device, both, repeats).seconds}
    if loop:
        beside = {
            "inlay both, beside the loop": both["inlay both"],
            "loop both": differentiate(lambda features: paste_loop(features, boxes), crops, gradient_first),
        }
        seconds |= time_on(device, beside, 3).seconds
    return Turns(seconds)


def time_on(device: str, contestants: dict[str, Callable[[], object]], repeats: int) -> Turns[str]:
    synchronize = torch.cuda.synchronize if device == "cuda" else None
    return take_turns(contestants, repeats, warm_up=2, synchronize=synchronize)


def peak_memory(count: int, channels: int) -> float:
    """MiB that this process, which must be a fresh one, rises by in one call of RoIInlay."""
    boxes, crops = spread_boxes(count, 1.0), torch.randn(count, channels, BINS, BINS)
    roi_inlay(crops[:1, :1], [boxes[:1]], (HEIGHT, WIDTH))  # everything loaded
    return rise(lambda: roi_inlay(crops, [boxes], (HEIGHT, WIDTH))) / 2**20


def compare_with_peers(report: Report, options: argparse.Namespace) -> None:
    report.say("medians in ms\n")
    report.say(
        "| K | C | maps covered | fill | RoIAlign | RoIInlay | ÷ RoIAlign | ÷ fill | both: RoIAlign | RoIInlay | ÷ |"
    )
    report.say("|---|---|---|---|---|---|---|---|---|---|---|")
    notes = []
    cases = [(*size, coverage) for size in ((40, 128), (100, 256)) for coverage in options.coverage]
    for count, channels, coverage in cases:
        loop = not options.no_loop and coverage == options.coverage[0]
        t = compare(count, channels, coverage, options.repeats, options.device, loop)
        report.turns(f"K={count}, C={channels}, {coverage:g} maps", t)
        report.say(
            f"| {count} | {channels} | {coverage:g} | {t.milliseconds('fill'):.1f} | {t.milliseconds('align'):.1f} "
            f"| {t.milliseconds('inlay'):.1f} "
            f"| **{t.ratio_text('inlay', 'align')}** | **{t.ratio_text('inlay', 'fill')}** "
            f"| {t.milliseconds('align both'):.1f} | {t.milliseconds('inlay both'):.1f} "
            f"| **{t.ratio_text('inlay both', 'align both')}** |"
        )
        first = "inlay both, gradient channels first"
        note = f"K={count}, C={channels}, {coverage:g} maps: with a channels-first gradient "
        note += f"{t.milliseconds(first):.1f} ms ({t.ratio_text(first, 'align both')} of RoIAlign)"
        if loop:
            times = t.ratio_text("loop both", "inlay both, beside the loop", ".0f")
            note += f"; the loop over boxes {t.milliseconds('loop both'):.0f} ms, {times} times RoIInlay"
        notes.append(note)
    report.say("\n- ".join(["\nForward and backward:", *notes]))


def grow(report: Report, options: argparse.Namespace) -> None:
    report.say("\nOne map covered, C=128, forward; in brackets with features channels first, which are copied:")
    contestants: dict[str, Callable[[], object]] = {}
    for count in (10, 100, 1000):
        boxes = spread_boxes(count, 1.0).to(options.device)
        crops = torch.randn(count, 128, BINS, BINS, device=options.device)
        for name, layout in (("last", torch.channels_last), ("first", torch.contiguous_format)):
            features = crops.contiguous(memory_format=layout)
            contestants[f"{count} {name}"] = lambda x=features, b=boxes: roi_inlay(x, [b], (HEIGHT, WIDTH))
    t = time_on(options.device, contestants, 2 * options.repeats)
    report.turns("one map covered, C=128, forward", t)
    for count in (10, 100, 1000):
        report.say(f"- K={count}: {t.milliseconds(f'{count} last'):.1f} ms ({t.milliseconds(f'{count} first'):.1f} ms)")


def measure_memory(report: Report) -> None:
    report.say("\nPeak memory of a forward pass beyond its inputs, one map covered:")
    for count, channels in ((40, 128), (100, 256), (1000, 128)):
        peak = float(own_process(__file__, "--peak", count, channels))
        output = channels * HEIGHT * WIDTH * 4 / 2**20
        report.say(
            f"- K={count}, C={channels}: {peak:.0f} MiB, the output's {output:.0f} MiB included: "
            f"{peak / output:.2f} times the output",
            mebibytes=peak,
        )


def main() -> None:
    command_line = parser(__doc__, repeats=9)
    command_line.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    command_line.add_argument("--no-loop", action="store_true", help="leave out the loop over boxes, which takes long")
    command_line.add_argument("--busy", type=int, default=0, help="other processes that compute meanwhile")
    command_line.add_argument(
        "--coverage", type=float, nargs="+", default=[1.0, 2.0], help="maps that the boxes cover in total"
    )
    command_line.add_argument("--peak", nargs=2, type=int, metavar=("K", "C"), help=argparse.SUPPRESS)
    options = command_line.parse_args()
    torch.set_num_threads(options.threads)
    if options.peak:
        print(peak_memory(*options.peak))
        return
    with Report(options, __file__) as report, busy(options.busy):
        compare_with_peers(report, options)
        grow(report, options)
        if options.device == "cpu":
            measure_memory(report)


if __name__ == "__main__":
    main()

"""Deformable convolution beside torchvision's: ``python benchmarks/deform_conv.py [--threads 2] [--repeats 5]``.

`DeformableConv2d` and `torchvision.ops.deform_conv2d` compute the same of the same input, weights and offsets, 3 × 3,
offsets of about two pixels; the convolution that predicts offsets is left out of both. Before they are timed, results
and gradients are compared. They take turns; medians in ms and their ratios are printed, then how far the memory of a
process of its own rises in one call.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import torch
import torchvision.ops
from harness import Report, own_process, parser, rise, take_turns
from torch import Tensor, nn

from banet.ops import DeformableConv2d

Operator = Callable[[Tensor, Tensor, Tensor], Tensor]
"""Input, offsets and weights to the result."""

CASES = (((4, 48, 32, 32), 48), ((1, 256, 100, 152), 128), ((1, 256, 200, 304), 128))
"""Shape of the input, channels of the output. The last two are of an image of 800 × 1216, at strides 8 and 4."""


class _Given(nn.Module):
    """Stands for the convolution that predicts offsets."""

    value: Tensor

    def forward(self, x: Tensor) -> Tensor:
        return self.value


def ours(channels: int, out_channels: int) -> Operator:
    conv = DeformableConv2d(channels, out_channels, 3, padding=1, bias=False)
    given = _Given()
    conv.offset = given  # type: ignore[assignment]
    del conv.weight  # no parameter, so that any tensor can take its place

    def operator(x: Tensor, offset: Tensor, weight: Tensor) -> Tensor:
        given.value, conv.weight = offset, weight
        return conv(x)  # type: ignore[no-any-return]

    return operator


def theirs(x: Tensor, offset: Tensor, weight: Tensor) -> Tensor:
    return torchvision.ops.deform_conv2d(x, offset, weight, padding=1)  # type: ignore[no-any-return]


def arguments(shape: tuple[int, ...], out_channels: int) -> list[Tensor]:
    """Input, channels last as in the network, offsets and weights."""
    torch.manual_seed(0)
    batch, channels, height, width = shape
    x = torch.randn(shape).contiguous(memory_format=torch.channels_last)
    offset = 2 * torch.randn(batch, 18, height, width).contiguous(memory_format=torch.channels_last)
    weight = torch.randn(out_channels, channels, 3, 3) / (3 * channels**0.5)
    return [each.requires_grad_() for each in (x, offset, weight)]


def forward(operator: Operator, inputs: list[Tensor]) -> Callable[[], object]:
    def call() -> object:
        with torch.inference_mode():
            return operator(inputs[0], inputs[1], inputs[2])

    return call


def both(operator: Operator, inputs: list[Tensor]) -> Callable[[], object]:
    return lambda: torch.autograd.grad(operator(inputs[0], inputs[1], inputs[2]).square().mean(), inputs)


def contestants(case: int) -> dict[str, Callable[[], object]]:
    (shape, out_channels), made = CASES[case], {}
    inputs = arguments(shape, out_channels)
    for name, operator in (("ours", ours(shape[1], out_channels)), ("theirs", theirs)):
        made[f"{name} forward"], made[f"{name} both"] = forward(operator, inputs), both(operator, inputs)
    return made


def compare_times(report: Report, repeats: int) -> None:
    report.say("| input | output channels | forward: torchvision | ours | ÷ | with backward: torchvision | ours | ÷ |")
    report.say("|---|---|---|---|---|---|---|---|")
    for number, (shape, out_channels) in enumerate(CASES):
        calls = contestants(number)
        row = f"| {' × '.join(map(str, shape))} | {out_channels} "
        for what in ("forward", "both"):
            mine, other = f"ours {what}", f"theirs {what}"
            torch.testing.assert_close(calls[mine](), calls[other](), rtol=1e-3, atol=1e-4)
            turns = take_turns({name: calls[name] for name in (mine, other)}, repeats, warm_up=2)
            report.turns(f"{what}: {shape}", turns)
            row += f"| {turns.milliseconds(other):.1f} | {turns.milliseconds(mine):.1f} "
            row += f"| **{turns.ratio_text(mine, other)}** "
        report.say(f"{row}|")


def compare_memory(report: Report, threads: int) -> None:
    report.say("\nMiB that the memory rises by in the first call, its result included:\n")
    report.say("| input | forward: torchvision | ours | with backward: torchvision | ours |")
    report.say("|---|---|---|---|---|")
    for number, (shape, _) in enumerate(CASES):
        names = ("theirs forward", "ours forward", "theirs both", "ours both")
        risen = {name: float(own_process(__file__, "--threads", threads, "--peak", number, name)) for name in names}
        row = f"| {' × '.join(map(str, shape))} |" + "".join(f" {mib:.0f} |" for mib in risen.values())
        report.say(row, mebibytes=risen)


def main() -> None:
    command_line = parser(__doc__, repeats=5)
    command_line.add_argument("--peak", nargs=2, metavar=("CASE", "CONTESTANT"), help=argparse.SUPPRESS)
    options = command_line.parse_args()
    torch.set_num_threads(options.threads)
    if options.peak:
        print(rise(contestants(int(options.peak[0]))[options.peak[1]]) / 2**20)
        return
    with Report(options, __file__) as report:
        compare_times(report, options.repeats)
        compare_memory(report, options.threads)


if __name__ == "__main__":
    main()

"""Deformable convolution beside torchvision's: ``python benchmarks/deform_conv.py [--threads 2] [--repeats 5]``.

`DeformableConv2d` and `torchvision.ops.deform_conv2d` compute the same of the same input, weights and offsets, 3 × 3,
offsets of about two pixels; the convolution that predicts offsets is left out of both. Before they are timed, results
and gradients are compared. They take turns; medians in ms and their ratios are printed, then how far the memory of a
process of its own rises in one call.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import torch
import torchvision.ops
from inference import memory
from roi_inlay import take_turns
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--peak", nargs=2, metavar=("CASE", "CONTESTANT"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.peak:
        call = contestants(int(options.peak[0]))[options.peak[1]]
        Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
        before = memory("VmRSS")
        call()
        print(1024 * (memory("VmHWM") - before))
        return
    print(f"torch {torch.__version__}, {options.threads} threads; medians in ms\n")
    print("| input | output channels | forward: torchvision | ours | ÷ | with backward: torchvision | ours | ÷ |")
    print("|---|---|---|---|---|---|---|---|")
    for number, (shape, out_channels) in enumerate(CASES):
        calls = contestants(number)
        for what in ("forward", "both"):
            torch.testing.assert_close(calls[f"ours {what}"](), calls[f"theirs {what}"](), rtol=1e-3, atol=1e-4)
        t: dict[str, float] = {}
        for what in ("forward", "both"):
            t |= take_turns({name: call for name, call in calls.items() if name.endswith(what)}, options.repeats, "cpu")
        row = f"| {' × '.join(map(str, shape))} | {out_channels} "
        for what in ("forward", "both"):
            mine, other = t[f"ours {what}"], t[f"theirs {what}"]
            row += f"| {other:.1f} | {mine:.1f} | **{mine / other:.2f}** "
        print(f"{row}|", flush=True)
    print("\nMiB that the memory rises by in the first call, its result included:\n")
    print("| input | forward: torchvision | ours | with backward: torchvision | ours |")
    print("|---|---|---|---|---|")
    for number, (shape, _) in enumerate(CASES):
        row = f"| {' × '.join(map(str, shape))} "
        for name in ("theirs forward", "ours forward", "theirs both", "ours both"):
            command = [sys.executable, __file__, "--threads", str(options.threads), "--peak", str(number), name]
            row += f"| {float(subprocess.check_output(command)):.0f} "
        print(f"{row}|", flush=True)


if __name__ == "__main__":
    main()

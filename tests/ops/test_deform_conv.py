"""The deformable convolution that learns its own offsets."""

from __future__ import annotations

import pytest
import torch
import torchvision.ops
from torch import nn

from banet.ops import DeformableConv2d


@pytest.mark.parametrize(
    ("kernel", "stride", "padding", "dilation", "groups", "bias"),
    [(3, 1, 1, 1, 1, True), (3, 2, 1, 1, 1, False), (3, 1, 2, 2, 2, True), (1, 1, 0, 1, 1, True)],
)
def test_starts_as_the_plain_convolution(
    kernel: int, stride: int, padding: int, dilation: int, groups: int, bias: bool
) -> None:
    plain = nn.Conv2d(4, 6, kernel, stride, padding, dilation, groups, bias)
    conv = DeformableConv2d(4, 6, kernel, stride, padding, dilation, groups, bias)
    missing, unexpected = conv.load_state_dict(plain.state_dict(), strict=False)
    assert set(missing) == {"offset.weight", "offset.bias"}
    assert not unexpected
    x = torch.randn(2, 4, 11, 13)
    torch.testing.assert_close(conv(x), plain(x))


def test_parameters_are_named_as_in_a_plain_convolution() -> None:
    names = {name for name, _ in DeformableConv2d(4, 6, 3, padding=1).named_parameters()}
    assert names == {"weight", "bias", "offset.weight", "offset.bias"}


@pytest.mark.parametrize(
    ("kernel", "stride", "padding", "dilation", "groups", "bias"),
    [
        (3, 1, 1, 1, 1, True),
        (3, 2, 1, 1, 1, False),
        (3, 1, 2, 2, 2, True),
        (1, 1, 0, 1, 1, True),
        (5, 3, 0, 1, 4, True),
    ],
)
@pytest.mark.parametrize("strip", [1, 400, 1 << 22])
def test_equals_torchvision(
    kernel: int,
    stride: int,
    padding: int,
    dilation: int,
    groups: int,
    bias: bool,
    strip: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Values and every gradient, whatever is gathered at a time; offsets reach beyond all four borders."""
    monkeypatch.setattr("banet.ops.deform_conv._STRIP", strip)
    torch.manual_seed(0)
    conv = DeformableConv2d(4, 8, kernel, stride, padding, dilation, groups, bias).double()
    nn.init.normal_(conv.offset.weight, std=1.0)
    ours = torch.randn(2, 4, 11, 13, dtype=torch.float64, requires_grad=True)
    theirs = ours.detach().clone().requires_grad_()
    result = conv(ours)
    sign = torch.randn_like(result)
    (result * sign).sum().backward()
    gradients = {name: parameter.grad for name, parameter in conv.named_parameters()}
    conv.zero_grad()
    expected = torchvision.ops.deform_conv2d(
        theirs, conv.offset(theirs), conv.weight, conv.bias, conv.stride, conv.padding, conv.dilation
    )
    (expected * sign).sum().backward()
    torch.testing.assert_close(result, expected)
    torch.testing.assert_close(ours.grad, theirs.grad)
    for name, parameter in conv.named_parameters():
        torch.testing.assert_close(gradients[name], parameter.grad, msg=lambda message, name=name: f"{name}: {message}")


def test_gradcheck() -> None:
    torch.manual_seed(0)
    conv = DeformableConv2d(2, 3, 3, padding=1).double()
    nn.init.normal_(conv.offset.weight, std=1.0)
    x = torch.randn(1, 2, 4, 5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x, *_: conv(x), (x, *conv.parameters()))


def test_no_images() -> None:
    conv = DeformableConv2d(2, 3, 3, padding=1)
    assert conv(torch.zeros(0, 2, 8, 8)).shape == (0, 3, 8, 8)


def test_offsets_move_the_taps() -> None:
    conv = DeformableConv2d(2, 3, 3, padding=1)
    plain = nn.Conv2d(2, 3, 3, padding=1)
    plain.load_state_dict({"weight": conv.weight, "bias": conv.bias})
    with torch.no_grad():
        assert conv.offset.bias is not None
        conv.offset.bias[1::2] = 1.0  # every tap one pixel to the right
    x = torch.randn(1, 2, 9, 9)
    torch.testing.assert_close(conv(x)[..., 1:-1, 1:-2], plain(x)[..., 1:-1, 2:-1])


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf"), 1e30, -1e30])
def test_offsets_that_are_no_place_read_nothing(value: float) -> None:
    """torchvision would read from anywhere in memory, and most often bring down Python."""
    conv = DeformableConv2d(2, 3, 3, padding=1)
    with torch.no_grad():
        assert conv.offset.bias is not None and conv.bias is not None
        conv.offset.bias[:] = value
    for _ in range(20):
        result = conv(torch.randn(1, 2, 64, 64))
        torch.testing.assert_close(result, conv.bias[:, None, None].expand_as(result))
    result.sum().backward()
    assert conv.weight.grad is not None and conv.weight.grad.isfinite().all()


def test_every_parameter_learns() -> None:
    conv = DeformableConv2d(2, 3, 3, padding=1)
    conv(torch.randn(1, 2, 9, 9)).square().sum().backward()
    for name, parameter in conv.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all() and parameter.grad.abs().max() > 0, name


def test_autocast() -> None:
    conv = DeformableConv2d(2, 3, 3, padding=1)
    x = torch.randn(1, 2, 9, 9)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        result = conv(x)
        conv(x.bfloat16()).float().sum().backward()
    assert result.dtype == torch.bfloat16
    torch.testing.assert_close(result.float(), conv(x), atol=0.05, rtol=0.05)
    assert conv.weight.grad is not None and conv.weight.grad.dtype == torch.float32


def test_compile(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same values and gradients, and no new graph for a map of other strips."""
    monkeypatch.setattr("banet.ops.deform_conv._STRIP", 400)
    torch.compiler.reset()
    graphs = []

    def backend(graph: torch.fx.GraphModule, inputs: list[torch.Tensor]) -> object:
        graphs.append(graph)
        return graph.forward

    torch.manual_seed(0)
    conv = DeformableConv2d(4, 6, padding=1).double()
    nn.init.normal_(conv.offset.weight, std=0.5)
    compiled = torch.compile(conv, dynamic=True, backend=backend)
    counts = []
    for size in ((11, 13), (17, 9), (24, 31)):
        x = torch.randn(2, 4, *size, dtype=torch.float64)
        torch.testing.assert_close(compiled(x), conv(x))
        gradients = [torch.autograd.grad(each(x).square().sum(), list(conv.parameters())) for each in (compiled, conv)]
        torch.testing.assert_close(*gradients)
        counts.append(len(graphs))
    assert 0 < counts[0] == counts[-1]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_weights_in_half_precision_move_no_tap(dtype: torch.dtype) -> None:
    """Half precision itself cannot express the last columns of a wide map."""
    conv = DeformableConv2d(4, 3, 3, padding=1).to(dtype)
    x = torch.randn(1, 4, 3, 400, generator=torch.Generator().manual_seed(0)).to(dtype)
    result = conv(x)
    assert result.dtype == dtype
    plain = torch.nn.functional.conv2d(x.float(), conv.weight.float(), conv.bias.float(), padding=1)
    torch.testing.assert_close(result.float(), plain, atol=0.01, rtol=0.01)

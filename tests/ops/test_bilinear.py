"""Bilinear sampling along one axis, of tensors and of numpy arrays, against its definition."""

from __future__ import annotations

import math

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from banet.ops.bilinear import bin_samples, linear_taps, linear_weights
from banet.panoptic import resampling

positions = st.lists(st.floats(-9, 40), min_size=1, max_size=20)


def interpolated(values: list[float], position: float) -> float:
    """The values between pixels, and zero off the axis."""
    first = math.floor(position)
    padded = dict(enumerate(values))
    return padded.get(first, 0) * (1 - (position - first)) + padded.get(first + 1, 0) * (position - first)


@given(positions, st.integers(1, 30))
def test_taps_interpolate_and_are_zero_off_the_axis(points: list[float], length: int) -> None:
    values = np.random.default_rng(length).random(length)
    pixel, weight = linear_taps(torch.tensor(points, dtype=torch.float64), length)
    assert pixel.shape == weight.shape == (len(points), 2) and pixel.dtype == torch.int64
    assert pixel.min() >= 0 and pixel.max() < length
    found = (torch.from_numpy(values)[pixel] * weight).sum(1)
    expected = [interpolated(values.tolist(), point) for point in points]
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-12)


@given(positions, st.integers(1, 30))
def test_dense_weights_are_the_taps(points: list[float], length: int) -> None:
    position = torch.tensor(points, dtype=torch.float64)
    pixel, weight = linear_taps(position, length)
    dense = torch.zeros(len(points), length, dtype=torch.float64).scatter_add_(1, pixel, weight)
    torch.testing.assert_close(linear_weights(position, length), dense, rtol=0, atol=1e-12)


def test_the_gradient_of_weights_reaches_positions() -> None:
    position = torch.tensor([0.3, 1.7, 2.2], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: linear_taps(x, 4)[1], position)


def test_two_samples_lie_in_each_bin() -> None:
    samples = bin_samples(torch.tensor([0.0, -3.0]), torch.tensor([8.0, 1.0]), 2)
    assert samples.tolist() == [[1, 3, 5, 7], [-2.5, -1.5, -0.5, 0.5]]


@given(positions, st.floats(0.05, 5), st.integers(1, 30))
def test_arrays_are_sampled_as_tensors_with_the_value_at_the_border(
    points: list[float], scale: float, count: int
) -> None:
    """Sample k of an array is the value at (k + 0.5) / scale."""
    values = np.random.default_rng(count).random(count)
    offsets = np.array(points)
    expected = [interpolated(values.tolist(), min(max(point * scale - 0.5, 0), count - 1)) for point in points]
    first, second, fraction = resampling.linear_taps(offsets, scale, count)
    assert first.min() >= 0 and second.max() < count and fraction.dtype == np.float32
    np.testing.assert_allclose(values[first] * (1 - fraction) + values[second] * fraction, expected, atol=1e-6)
    np.testing.assert_allclose(resampling.linear_weights(offsets, scale, count) @ values, expected, atol=1e-12)
    position = torch.from_numpy(resampling.sample_positions(offsets, scale, count))
    pixel, weight = linear_taps(position, count)
    np.testing.assert_allclose((torch.from_numpy(values)[pixel] * weight).sum(1).numpy(), expected, atol=1e-12)

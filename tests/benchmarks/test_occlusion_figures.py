"""What `benchmarks/occlusion.py` reckons: its pairs as a detector could give them, and its calibration error."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import occlusion
import occlusion_pairs


def error_of(right: NDArray[Any], sure: NDArray[Any], per_image: int = 2) -> tuple[float, ...]:
    """The error, the error less its bias, and the ends of the interval."""
    error, rest, *_ = occlusion.calibration(right, sure, np.arange(len(sure)) // per_image)
    return (float(error), *(float(number) for number in re.findall(r"[0-9.]+", rest)))


def test_the_error_of_few_perfect_probabilities_is_mostly_bias() -> None:
    rng = np.random.default_rng(0)
    errors = []
    for _ in range(20):
        sure = rng.uniform(0.5, 1, 80)
        errors.append(error_of(rng.random(80) < sure, sure))
    plain, unbiased, low, _ = np.mean(errors, axis=0)
    assert plain > 0.05 and unbiased < 0.85 * plain and low < 0.02


def test_probabilities_that_are_too_high_are_found_out() -> None:
    rng = np.random.default_rng(1)
    sure = rng.uniform(0.8, 1, 1000)
    error, unbiased, low, high = error_of(rng.random(1000) < sure - 0.15, sure)
    assert low < 0.15 < high and low > 0.05
    assert abs(unbiased - 0.15) < 0.05 and abs(error - 0.15) < 0.05


def test_errors_of_masks_are_drawn_several_times_and_the_truth_says_who_owns_the_overlap() -> None:
    ids = np.repeat(np.repeat([[1, 2, 3], [4, 5, 6]], 60, axis=0), 50, axis=1).astype(np.int32)  # tiles that touch
    pairs = occlusion_pairs.detected(ids, dict.fromkeys(range(1, 7), 1), np.random.default_rng(0))
    few = occlusion_pairs.detected(ids, dict.fromkeys(range(1, 7), 1), np.random.default_rng(0), most=1)
    assert occlusion_pairs.DRAWS == len(few) < len(pairs)
    assert len({pair.front[1].tobytes() + pair.back[1].tobytes() for pair in pairs}) == len(pairs)
    for pair in pairs:
        masks = np.zeros((2, *ids.shape), dtype=bool)
        for mask, ((x1, y1, x2, y2), crop) in zip(masks, (pair.front, pair.back), strict=True):
            mask[y1:y2, x1:x2] = crop
        shared = np.bincount(ids[masks[0] & masks[1]], minlength=7)
        front, back = (np.bincount(ids[mask], minlength=7).argmax() for mask in masks)  # the tiles that they are of
        assert 3 * shared[front] > 2 * (shared[front] + shared[back])

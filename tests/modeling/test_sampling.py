"""Sampling beside torchvision's: the same boxes, and the same random numbers used for them."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torchvision.models.detection._utils import BalancedPositiveNegativeSampler

from banet.modeling.config import LossConfig
from banet.modeling.sampling import BalancedSampler
from banet.ops.boxes import BELOW, BETWEEN


@given(st.integers(0, 10**6), st.lists(st.integers(0, 60), min_size=1, max_size=3), st.integers(0, 40), st.floats(0, 1))
def test_the_draws_are_torchvisions(seed: int, lengths: list[int], samples: int, share: float) -> None:
    torch.manual_seed(seed)
    matches = [torch.randint(BETWEEN, 3, (length,)) for length in lengths]
    torch.manual_seed(seed)
    found = BalancedSampler(samples, share)(matches)
    after = torch.rand(3)
    torch.manual_seed(seed)
    labels = [(m >= 0).long().where(m != BETWEEN, -1) for m in matches]
    theirs = BalancedPositiveNegativeSampler(samples, share)(labels)
    assert torch.equal(after, torch.rand(3))
    for match, (rows, positive), one, other in zip(matches, found, *theirs, strict=True):
        assert torch.equal(rows, (one | other).nonzero()[:, 0])
        assert torch.equal(positive, one.nonzero()[:, 0])
        assert (match[positive] >= 0).all() and (match[rows] != BETWEEN).all()
        assert (match[rows] == BELOW).sum() == len(rows) - len(positive)


@pytest.mark.parametrize(
    ("name", "value"),
    [("roi_positive_share", 25.0), ("roi_positive_share", -0.25), ("roi_iou", 50.0), ("rpn_negative_iou", 0.8)],
)
def test_options_of_sampling_out_of_range_are_refused(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"loss.{name}"):
        LossConfig(**{name: value})

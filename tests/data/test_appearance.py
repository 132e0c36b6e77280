"""Random changes of appearance against their definition: what changes, how far, how often, and what stays."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor
from torchvision import tv_tensors

from banet.data.appearance import Blur, Noise, QuarterTurn, StainJitter
from banet.data.transforms import train_transform
from banet.engine.recipe import DataConfig

SIZE = (24, 36)
Change = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


def pair(seed: int = 0, *, grey: bool = False) -> tuple[tv_tensors.Image, tv_tensors.Mask]:
    generator = torch.Generator().manual_seed(seed)
    image = torch.randint(0, 256, (3, *SIZE), dtype=torch.uint8, generator=generator)
    if grey:
        image = image[:1].expand(3, -1, -1).contiguous()
    return tv_tensors.Image(image), tv_tensors.Mask(torch.randint(0, 9, SIZE, dtype=torch.int32, generator=generator))


def draws(change: Change, count: int, *, grey: bool = False) -> list[Tensor]:
    """The image after each of `count` draws; checks type, size and id map."""
    image, ids = pair(grey=grey)
    torch.manual_seed(1)
    found = []
    for _ in range(count):
        after, same = change(image, ids)
        assert isinstance(after, tv_tensors.Image) and after.dtype == torch.uint8 and after.shape == image.shape
        assert torch.equal(same, ids)
        found.append(after.as_subclass(Tensor))
    return found


def test_quarter_turns_turn_image_and_ids_alike_and_each_as_often() -> None:
    image, ids = pair()
    torch.manual_seed(0)
    seen = []
    for _ in range(80):
        turned, owners = QuarterTurn()(image, ids)
        number = next(n for n in range(4) if torch.equal(turned, torch.rot90(image.as_subclass(Tensor), n, (1, 2))))
        assert torch.equal(owners, torch.rot90(ids.as_subclass(Tensor), number, (0, 1)))
        seen.append(number)
    assert all(10 <= seen.count(number) <= 32 for number in range(4))


@pytest.mark.parametrize("strength", [0.3, 1.0])
def test_stain_jitter_mixes_optical_densities(strength: float) -> None:
    change = StainJitter(strength)
    image, _ = pair()
    torch.manual_seed(0)
    factors, mixed = [], 0
    for _ in range(300):
        matrix = change.make_params([image])["matrix"]
        diagonal = matrix[0, 0].item()
        if torch.equal(matrix, diagonal * torch.eye(3)):
            factors.append(diagonal)
        else:
            mixed += 1
    assert 100 < mixed < 200
    assert 1 / (1 + strength) <= min(factors) < 1 < max(factors) <= 1 + strength
    assert abs(np.mean(np.log(factors))) < 0.15 * strength  # darker as often as lighter
    # Slowly, pixel by pixel.
    matrix = torch.tensor([[1.2, 0.1, 0.0], [-0.2, 0.7, 0.3], [0.0, 0.0, 1.0]])
    after = change.transform(image, {"matrix": matrix})
    for y, x in ((0, 0), (3, 7), (23, 35)):
        density = [-math.log((int(value) + 1) / 256) for value in image[:, y, x]]
        for channel in range(3):
            value = 256 * math.exp(-sum(float(matrix[channel, k]) * density[k] for k in range(3))) - 1
            assert abs(int(after[channel, y, x]) - min(max(value, 0), 255)) <= 0.51


def test_stain_jitter_of_the_identity_changes_nothing_and_half_of_grey_images_stay_grey() -> None:
    image, _ = pair()
    assert torch.equal(StainJitter(0.5).transform(image, {"matrix": torch.eye(3)}), image)
    grey = [bool((after[0] == after[1]).all()) for after in draws(StainJitter(0.5), 60, grey=True)]
    assert 15 < sum(grey) < 45


def test_blur_takes_every_other_image_and_keeps_the_mean() -> None:
    image, _ = pair()
    found = draws(Blur(2.0), 60)
    same = sum(torch.equal(after, image) for after in found)
    assert 15 < same < 45
    for after in found:
        assert abs(after.float().mean() - image.float().mean()) < 3
        assert after.float().std() <= image.float().std() + 0.1
    flat = tv_tensors.Image(torch.full((3, *SIZE), 77, dtype=torch.uint8))
    assert torch.equal(Blur(2.0).transform(flat, {"sigma": 1.7}), flat)


def test_noise_takes_every_other_image_up_to_its_strength_and_may_be_grey() -> None:
    flat = tv_tensors.Image(torch.full((3, 64, 64), 128, dtype=torch.uint8))
    ids = tv_tensors.Mask(torch.zeros(64, 64, dtype=torch.int32))
    torch.manual_seed(0)
    found = [Noise(10.0)(flat, ids)[0].float() for _ in range(80)]
    deviations = [float(after.std()) for after in found if not torch.equal(after, flat.float())]
    assert 20 < len(deviations) < 60 and max(deviations) < 10.8 and np.mean(deviations) == pytest.approx(5, abs=1.5)
    grey = [torch.equal(after[0], after[2]) for after in found if float(after.std()) > 1]
    assert 0.2 < np.mean(grey) < 0.8


def test_an_inverted_image_has_the_same_ids() -> None:
    image, ids = pair()
    change = train_transform([24], 48, flip=0, crop=(1, 1), invert=1.0)
    after, same = change(image, ids)
    assert torch.equal(after.as_subclass(Tensor), 255 - image.as_subclass(Tensor)) and torch.equal(same, ids)


def test_nothing_is_drawn_for_changes_that_are_off() -> None:
    """So that recipes of earlier versions see the same samples."""
    image, ids = pair()
    torch.manual_seed(0)
    plain = train_transform([24], 48)(image, ids)
    state = torch.get_rng_state()
    torch.manual_seed(0)
    off = train_transform([24], 48, quarter_turns=False, stain_jitter=0, invert=0, blur=0, noise=0)(image, ids)
    assert torch.equal(plain[0], off[0]) and torch.equal(plain[1], off[1]) and torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"stain_jitter": 1.5}, "data.stain_jitter: must lie in 0..1"),
        ({"invert": -0.1}, "data.invert: must lie in 0..1"),
        ({"blur": -1.0}, "data.blur: must not be negative"),
        ({"noise": -1.0}, "data.noise: must not be negative"),
    ],
)
def test_bad_options_are_refused(options: dict[str, float], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        DataConfig(**options)  # type: ignore[arg-type]
    kind, value = next(iter(options.items()))
    change = {"stain_jitter": StainJitter, "blur": Blur, "noise": Noise}.get(kind)
    with pytest.raises(ValueError):
        change(value) if change else train_transform([24], 48, invert=value)

"""How often the host waits for a device in a training step and in inference, and that both know two devices apart.

The device is emulated (`emulated.py`), so this runs without a GPU. The numbers are held, so they cannot creep back:
every wait leaves a GPU without work for a moment. What is left nobody knows beforehand: how many boxes are kept.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
from emulated import DEVICE, emulation
from factories import small_model, target
from torch import Tensor

from banet import BANet
from banet.data.samples import Target

pytestmark = pytest.mark.usefixtures("one_thread")

SIZES = [(96, 130), (75, 64), (64, 96)]
COMPOSITIONS: dict[str, dict[str, Any]] = {
    "baseline": {"sim": False, "ocm": False, "s2i": False},
    "sim": {"ocm": False, "s2i": False},
    "s2i": {"sim": False, "ocm": False},
    "whole": {},
    "deformable": {"deformable": True},
}


def batch(count: int) -> tuple[list[Tensor], list[Target]]:
    generator = torch.Generator().manual_seed(2)
    images = [torch.randint(0, 256, (3, *size), generator=generator).to(torch.uint8) for size in SIZES[:count]]
    boxes = [([[5, 5, 30, 40], [20, 20, 60, 70], [50, 8, 120, 90]], [0, 1, 2]), ([[5, 5, 30, 40]], [2]), ([], [])]
    targets = [target(size, *each, 5) for size, each in zip(SIZES[:count], boxes[:count], strict=True)]
    return images, targets


def train(model: BANet, images: list[Tensor], targets: list[Target]) -> dict[str, Tensor]:
    torch.manual_seed(1)
    model.zero_grad()
    losses = model.losses(images, targets)
    torch.stack(list(losses.values())).sum().backward()
    return losses


def inner(tensor: Any) -> Tensor:
    found: Tensor = tensor.inner
    return found


@pytest.mark.parametrize("name", COMPOSITIONS)
def test_a_training_step_waits_seldom_and_equals_the_cpus(name: str) -> None:
    torch.manual_seed(0)
    images, targets = batch(3)
    model, twin = (small_model(**COMPOSITIONS[name]).train() for _ in range(2))
    expected = train(model, images, targets)
    with emulation() as device:
        twin.to(DEVICE)
        elsewhere = [image.to(DEVICE) for image in images], [target.to(DEVICE) for target in targets]
        twin.rpn.anchors.set_cell_anchors(torch.float32, DEVICE)  # they go there once
        device.waits.clear()
        losses = train(twin, *elsewhere)
        waits = Counter(device.waits)
    inlays = name in ("sim", "whole", "deformable")
    assert waits.total() == len(images) + 6 + inlays, device.table()  # suppression per image; the rest per batch
    for key, loss in expected.items():
        torch.testing.assert_close(inner(losses[key]), loss.detach(), rtol=1e-4, atol=1e-5, msg=key)
    for (key, ours), theirs in zip(model.named_parameters(), twin.parameters(), strict=True):
        if ours.grad is not None:
            scale = float(ours.grad.abs().max())
            torch.testing.assert_close(inner(theirs.grad), ours.grad, rtol=1e-3, atol=5e-3 * scale + 1e-7, msg=key)


@pytest.mark.parametrize("name", ["baseline", "whole", "deformable"])
def test_inference_waits_seldom_and_equals_the_cpus(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    images = [np.ascontiguousarray(image.permute(1, 2, 0).numpy()) for image in batch(3)[0]]
    model, twin = (small_model(**COMPOSITIONS[name]) for _ in range(2))
    expected = model.predict(images, batch_size=3)
    # A device of tests has no inference mode.
    monkeypatch.setattr(BANet, "predict_unfused", torch.no_grad()(BANet.predict_unfused.__wrapped__))  # type: ignore[attr-defined]
    with emulation() as device:
        twin.to(DEVICE)
        twin.rpn.anchors.set_cell_anchors(torch.float32, DEVICE)  # they go there once
        device.waits.clear()
        found = twin.predict(images, batch_size=3)
        waits = Counter(device.waits)
    inlays = name in ("sim", "whole", "deformable")
    # Per image two suppressions, the pixels between classes and the copy of the label map.
    assert waits.total() == 4 * len(images) + 6 + inlays, device.table()
    assert sum(len(result.segments) for result in expected) > 0
    for one, other in zip(expected, found, strict=True):
        assert (one.ids == other.ids).mean() > 0.999
        assert [s.category_id for s in one.segments] == [s.category_id for s in other.segments]


def test_tensors_of_two_devices_do_not_mix() -> None:
    with emulation() as device:
        there = torch.rand(3).to(DEVICE)
        with pytest.raises(RuntimeError, match="same device"):
            there + torch.rand(3)
        with pytest.raises(RuntimeError, match="numpy"):
            there.numpy()
        assert there.add(1).nonzero().shape == (3, 1) and there.tolist() == [each.item() for each in there.cpu()]
        assert {what for what, _ in device.waits} == {"copy to the device", "nonzero", "tolist", "copy to the host"}

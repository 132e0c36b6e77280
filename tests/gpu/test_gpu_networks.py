"""Whole networks against the CPU's: results, losses, gradients, steps in half precision, weights between devices."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from factories import TINY, small_model, target, with_train
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel

from banet import BANet
from banet.data.samples import Target
from banet.data.scenes.generate import Scenes
from banet.engine.training.task import TrainingTask
from banet.engine.training.train import train
from banet.errors import InputError
from banet.modeling.config import LossConfig

pytestmark = pytest.mark.gpu

Check = Callable[[], bool]
SIZES = [(96, 130), (75, 64), (64, 96)]
COMPOSITIONS: dict[str, dict[str, Any]] = {
    "baseline": {"sim": False, "ocm": False, "s2i": False},
    "sim": {"ocm": False, "s2i": False},
    "sim + ocm": {"s2i": False},
    "s2i": {"sim": False, "ocm": False},
    "whole": {},
    "deformable": {"deformable": True},
}
if os.environ.get("BANET_GPU_TESTS") == "cpu":  # tests/modeling/test_host_waits.py has all, on an emulated device
    COMPOSITIONS = {name: COMPOSITIONS[name] for name in ("baseline", "deformable")}
ALL_BOXES = LossConfig(rpn_samples=10**6, roi_samples=10**6, roi_positive_share=1.0)
"""Devices draw different random numbers; where every box is drawn, all see the same."""


def batch(device: torch.device) -> tuple[list[Tensor], list[Target]]:
    generator = torch.Generator().manual_seed(2)
    images = [torch.randint(0, 256, (3, *size), generator=generator).to(torch.uint8) for size in SIZES]
    boxes = [([[5, 5, 30, 40], [20, 20, 60, 70], [50, 8, 120, 90]], [0, 1, 2]), ([[5, 5, 30, 40]], [2]), ([], [])]
    torch.manual_seed(3)
    targets = [target(size, *each, 5) for size, each in zip(SIZES, boxes, strict=True)]
    return [image.to(device) for image in images], [each.to(device) for each in targets]


def losses(model: BANet, device: torch.device) -> dict[str, Tensor]:
    given = batch(device)
    torch.manual_seed(1)
    return model.losses(*given)


def twins(name: str, device: torch.device) -> tuple[BANet, BANet]:
    here, there = (small_model(**COMPOSITIONS[name]) for _ in range(2))
    return here, there.to(device)


@pytest.mark.parametrize("name", COMPOSITIONS)
def test_losses_and_gradients_equal_the_cpus(name: str, device: torch.device) -> None:
    here, there = (model.train() for model in twins(name, device))
    for model in (here, there):
        model.rpn.sampler.samples = model.rpn.sampler.positives = ALL_BOXES.rpn_samples
        model.roi_sampler.sampler.samples = model.roi_sampler.sampler.positives = ALL_BOXES.roi_samples
    expected, found = losses(here, torch.device("cpu")), losses(there, device)
    for key, loss in expected.items():
        torch.testing.assert_close(found[key].detach().cpu(), loss.detach(), rtol=2e-3, atol=1e-4, msg=key)
    for sums in (expected, found):
        torch.stack(list(sums.values())).sum().backward()
    for (key, ours), theirs in zip(here.named_parameters(), there.parameters(), strict=True):
        if ours.grad is not None:
            assert theirs.grad is not None, key
            atol = 2e-2 * float(ours.grad.abs().max()) + 1e-6  # a box may move over the edge of a threshold
            torch.testing.assert_close(theirs.grad.cpu(), ours.grad, rtol=2e-2, atol=atol, msg=key)


@pytest.mark.parametrize("name", COMPOSITIONS)
def test_predictions_equal_the_cpus(name: str, device: torch.device) -> None:
    images = [np.ascontiguousarray(image.permute(1, 2, 0).numpy()) for image in batch(torch.device("cpu"))[0]]
    here, there = twins(name, device)
    for one, other in zip(*(model.predict(images, batch_size=3) for model in (here, there)), strict=True):
        assert (one.ids == other.ids).mean() > 0.98
        assert abs(len(one.segments) - len(other.segments)) <= 1


@pytest.mark.parametrize("name", COMPOSITIONS)
@pytest.mark.parametrize("precision", [None, torch.float16, torch.bfloat16], ids=str)
def test_training_steps_are_finite(
    name: str, precision: torch.dtype | None, device: torch.device, only_cuda: Check
) -> None:
    if precision is torch.float16 and not only_cuda():
        return  # CPUs are slow at it
    model = small_model(**COMPOSITIONS[name]).train().to(device)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], 1e-3, momentum=0.9)
    scaler = torch.amp.GradScaler(device.type, enabled=precision is torch.float16)
    for _ in range(2):
        optimizer.zero_grad()
        with torch.autocast(device.type, dtype=precision, enabled=precision is not None):
            total = torch.stack(list(losses(model, device).values())).sum()
        assert torch.isfinite(total)
        scaler.scale(total).backward()
        scaler.step(optimizer)
        scaler.update()
    assert all(bool(torch.isfinite(p).all()) for p in model.parameters())


def test_bundled_weights_find_the_same_everywhere(device: torch.device) -> None:
    scenes = Scenes(3, 1, (128, 128))
    image = scenes.read(0)[0]
    here, there = (BANet.from_pretrained("scenes", device=where) for where in ("cpu", device))
    one, other = here.predict(image), there.predict(image)
    assert (one.ids == other.ids).mean() > 0.99 and len(one.segments) > 2
    assert there.device.type == device.type


def test_checkpoints_move_between_devices(device: torch.device, tmp_path: Path) -> None:
    model = small_model().to(device)
    path = model.save_pretrained(tmp_path / "model.safetensors")
    for where in (torch.device("cpu"), device):
        other = BANet.from_pretrained(path, device=where)
        assert other.device.type == where.type
        for (name, ours), theirs in zip(model.state_dict().items(), other.state_dict().values(), strict=True):
            assert torch.equal(ours.cpu(), theirs.cpu()), name


def test_a_run_goes_on_elsewhere(device: torch.device, tmp_path: Path) -> None:
    turns = [(1, device.type), (2, "cpu")] + [(3, device.type)] * (device.type != "cpu")
    for done, where in turns:
        train(
            with_train(TINY, iterations=done, checkpoint_every=1), tmp_path, resume="auto", device=where, measure=False
        )
    last = torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)
    assert last["global_step"] == len(turns)


@pytest.mark.parametrize("precision", ["bf16", "16"])
def test_runs_in_mixed_precision(precision: str, device: torch.device, tmp_path: Path, only_cuda: Check) -> None:
    recipe = with_train(TINY, precision=precision, iterations=2)
    if precision == "16" and not only_cuda():
        with pytest.raises(InputError, match="16 needs a GPU"):
            train(recipe, tmp_path, device=device.type)
        return
    weights = train(recipe, tmp_path, device=device.type)
    assert all(bool(torch.isfinite(p).all()) for p in BANet.from_pretrained(weights).parameters())


def test_advice_where_memory_is_too_small_is_true(
    device: torch.device, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, only_cuda: Check
) -> None:
    recipe = with_train(TINY, batch_size=4, iterations=1)
    real = BANet.losses

    def take(self: BANet, images: Any, targets: Any) -> Any:
        """Take memory that only half of the batch leaves."""
        if device.type == "cuda":
            share = torch.cuda.get_device_properties(device).total_memory // 3
            held = torch.empty(share * len(images), dtype=torch.uint8, device=device)
            found = real(self, images, targets)
            del held
            return found
        if len(images) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return real(self, images, targets)

    monkeypatch.setattr(BANet, "losses", take)
    with pytest.raises(InputError, match=r"does not hold 4 images of \d+x\d+ at once, but 2; --train.accumulate 2"):
        train(recipe, tmp_path / "out", device=device.type, measure=False)
    train(with_train(recipe, accumulate=2), tmp_path / "out", device=device.type, measure=False)
    if only_cuda():
        assert torch.cuda.memory_allocated() < 2**30  # nothing of it is left


class Losses(nn.Module):
    """Losses as a forward pass, as DDP wants them."""

    def __init__(self, model: BANet) -> None:
        super().__init__()
        self.model = model

    def forward(self, device: torch.device) -> Tensor:
        return torch.stack(list(losses(self.model, device).values())).sum()


@pytest.fixture
def group(device: torch.device) -> Iterator[None]:
    """One process that is a group by itself, over NCCL on CUDA."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"tcp://127.0.0.1:{free.getsockname()[1]}"
    backend = "nccl" if device.type == "cuda" else "gloo"
    distributed.init_process_group(backend, init_method=address, rank=0, world_size=1)
    yield
    distributed.destroy_process_group()


def test_ddp_of_one_process_steps_as_none(device: torch.device, group: None) -> None:
    alone, wrapped = (Losses(small_model().train().to(device)) for _ in range(2))
    alone(device).backward()
    parallel = DistributedDataParallel(wrapped, broadcast_buffers=False, gradient_as_bucket_view=True)
    parallel(device).backward()
    for (name, one), other in zip(alone.named_parameters(), wrapped.parameters(), strict=True):
        if one.grad is not None:
            assert other.grad is not None
            torch.testing.assert_close(other.grad, one.grad, rtol=1e-3, atol=1e-3 * float(one.grad.abs().max()) + 1e-7)
            assert bool(torch.isfinite(other.grad).all()), name


def test_fsdp_of_one_process(device: torch.device, tmp_path: Path, only_cuda: Check) -> None:
    recipe = with_train(TINY, strategy="fsdp", ema=0.0, iterations=2)
    if not only_cuda():
        with pytest.raises(InputError, match="fsdp needs GPUs"):
            train(recipe, tmp_path, device=device.type)
        return
    weights = train(recipe, tmp_path, device="cuda", measure=False)
    assert BANet.from_pretrained(weights, device="cuda").device.type == "cuda"
    train(with_train(recipe, iterations=3), tmp_path, resume="auto", device="cuda", measure=False)


def test_a_step_waits_for_the_gpu_as_often_as_on_the_emulated_one(device: torch.device, only_cuda: Check) -> None:
    model = small_model().train().to(device)
    task = TrainingTask(model, replace(TINY, model=model.config))
    assert task.model is model
    losses(model, device)
    if only_cuda():
        import warnings

        torch.cuda.set_sync_debug_mode("warn")
        try:
            given = batch(device)
            with warnings.catch_warnings(record=True) as seen:
                warnings.simplefilter("always")
                model.losses(*given)
        finally:
            torch.cuda.set_sync_debug_mode("default")
        waits = [str(each.message) for each in seen if "synchronizing" in str(each.message)]
        assert len(waits) <= len(SIZES) + 7, "\n".join(waits)

"""FSDP over two real processes on the CPU (gloo), as far as that goes: Lightning's own strategy for it wants GPUs."""

from __future__ import annotations

import os
import socket
import sys
import traceback
from pathlib import Path

import torch
from factories import small_model, target
from own_processes import start
from torch import Tensor, distributed, nn
from torch.distributed.fsdp import FullyShardedDataParallel

from banet import BANet

RATE = 0.01


class Losses(nn.Module):
    """Losses as a forward pass, as FSDP wants them."""

    def __init__(self, model: BANet) -> None:
        super().__init__()
        self.model = model

    def forward(self, number: int) -> Tensor:
        """Return the sum of the losses of image 0 or 1."""
        size = ((64, 96), (80, 64))[number]
        torch.manual_seed(number)
        image = torch.randint(0, 256, (3, *size)).to(torch.uint8)
        truth = target(size, [[5, 5, 30, 40], [30, 20, 60, 60]][: 2 - number], [1, 0][: 2 - number], 5)
        torch.manual_seed(7)
        return torch.stack(list(self.model.losses([image], [truth]).values())).sum()


def member(rank: int, address: str, out: Path) -> None:
    """Step with one image of two in a sharded network, and compare with a step along the mean of both gradients."""
    with out.open("w", buffering=1) as file:
        sys.stdout = sys.stderr = file
        try:
            torch.set_num_threads(1)
            distributed.init_process_group("gloo", init_method=address, rank=rank, world_size=2)
            alone, sharded = (Losses(small_model().train()) for _ in range(2))
            before = {name: p.detach().clone() for name, p in alone.named_parameters()}
            ((alone(0) + alone(1)) / 2).backward()
            torch.optim.SGD([p for p in alone.parameters() if p.requires_grad], RATE).step()
            wrapped = FullyShardedDataParallel(sharded, use_orig_params=True, device_id=torch.device("cpu"))
            mine = sum(p.numel() for p in wrapped.parameters())
            assert mine < 0.6 * sum(p.numel() for p in before.values()), "nothing is sharded"
            wrapped(rank).backward()
            torch.optim.SGD([p for p in wrapped.parameters() if p.requires_grad], RATE).step()
            with FullyShardedDataParallel.summon_full_params(wrapped):
                found = {name.removeprefix("_fsdp_wrapped_module."): p for name, p in wrapped.named_parameters()}
                for name, ours in alone.named_parameters():
                    torch.testing.assert_close(found[name].view_as(ours), ours, rtol=1e-4, atol=1e-6, msg=name)
            assert any(not torch.equal(before[name], p) for name, p in alone.named_parameters())
            print("equal", flush=True)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
    os._exit(0)


def test_two_shards_step_along_the_mean_of_their_gradients(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"tcp://127.0.0.1:{free.getsockname()[1]}"
    members = [start(member, rank, address, tmp_path / str(rank)) for rank in range(2)]
    for process in members:
        process.join(300)
        process.kill()
    for rank, process in enumerate(members):
        assert process.exitcode == 0, (tmp_path / str(rank)).read_text()

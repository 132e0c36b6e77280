from __future__ import annotations

import pytest
import torch


@pytest.fixture
def images() -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randint(0, 256, size, generator=generator).to(torch.uint8) for size in [(3, 96, 130), (3, 75, 64)]]

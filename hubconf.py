"""BANet through torch.hub: `torch.hub.load("OWNER/banet", "banet", weights="scenes")`, or `source="local"`."""

from __future__ import annotations

from typing import TYPE_CHECKING

dependencies = ["torch", "torchvision", "numpy", "PIL", "safetensors", "jsonargparse", "yaml", "tqdm", "timm"]
"""Modules that must be installed: torch.hub names those that are missing."""

if TYPE_CHECKING:
    import torch

    from banet import BANet


def banet(weights: str = "scenes", *, device: str | torch.device = "cpu") -> BANet:
    """Return a network with its weights, ready for `predict`.

    Args:
        weights: bundled weights (`scenes`, `nuclei`), a `.safetensors` file, a run's folder, or a repository on the
            Hugging Face hub.
        device: where it computes.

    Raises:
        InputError: such weights do not exist, or the file is damaged.
    """
    from banet import BANet

    return BANet.from_pretrained(weights, device=device)

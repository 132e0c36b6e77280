"""Random changes of colour, sharpness and noise, for images whose light, stain or camera differ from those learnt from.

Each takes and gives `(image, ids)` as those of `transforms` do, and leaves the id map as it is. The random numbers are
torch's.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

__all__ = ["Blur", "Noise", "QuarterTurn", "StainJitter"]


class QuarterTurn(v2.Transform):  # type: ignore[misc]
    """Turn image and id map by 0, 90, 180 or 270 degrees, each as often, for images without an up and down."""

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        """Draw the number of quarter turns."""
        return {"turns": int(torch.randint(4, ()))}

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        """Turn one image or id map."""
        return tv_tensors.wrap(torch.rot90(inpt.as_subclass(Tensor), params["turns"], (-2, -1)), like=inpt)


class StainJitter(v2.Transform):  # type: ignore[misc]
    """Change how densely and in which colour an image absorbs light, in optical densities (Ruifrok and Johnston 2001).

    The densities D = -log(I) of the color channels become a (M D), where M is the identity plus normal noise and `a`
    a factor for all of them, whose effect on intensities is a gamma. Of every two images one keeps M = 1, and so grey
    ones stay grey.

    Args:
        strength: From 0 (nothing changes) to 1: `a` lies in 1 / (1 + strength)..1 + strength, and the noise of M has a
            standard deviation of 0.2 strength.

    Raises:
        ValueError: the strength is out of range.
    """

    def __init__(self, strength: float) -> None:
        super().__init__()
        if not 0 <= strength <= 1:
            raise ValueError(f"stain_jitter must be in 0..1, not {strength}")
        self.strength = strength

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        """Draw the matrix a M."""
        colored = bool(torch.rand(()) < 0.5)
        noise = 0.2 * self.strength * torch.randn(3, 3)
        factor = math.exp((2 * float(torch.rand(())) - 1) * math.log1p(self.strength))
        return {"matrix": factor * (torch.eye(3) + noise if colored else torch.eye(3))}

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        """Change one image."""
        if not isinstance(inpt, tv_tensors.Image):
            return inpt
        density = -((inpt.as_subclass(Tensor).float() + 1) / 256).log()
        mixed = torch.einsum("ij,jhw->ihw", params["matrix"], density)
        return tv_tensors.wrap((256 * (-mixed).exp() - 1).round().clamp(0, 255).to(torch.uint8), like=inpt)


class Blur(v2.Transform):  # type: ignore[misc]
    """Blur every other image by a Gaussian.

    Args:
        sigma: Largest standard deviation in pixels; each image draws one from 0 up.

    Raises:
        ValueError: sigma is negative.
    """

    def __init__(self, sigma: float) -> None:
        super().__init__()
        if sigma < 0:
            raise ValueError(f"blur must not be negative, not {sigma}")
        self.sigma = sigma

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        """Draw sigma; 0 for none."""
        draw = torch.rand(2).tolist()
        return {"sigma": self.sigma * draw[1] if draw[0] < 0.5 else 0.0}

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        """Blur one image."""
        sigma = params["sigma"]
        if not isinstance(inpt, tv_tensors.Image) or sigma < 0.1:
            return inpt
        return F.gaussian_blur(inpt, [2 * math.ceil(3 * sigma) + 1] * 2, [sigma, sigma])


class Noise(v2.Transform):  # type: ignore[misc]
    """Add normal noise to every other image.

    Args:
        sigma: Largest standard deviation in grey levels of 0..255; each image draws one from 0 up. Of every two images
            with noise one has the same in all color channels, as grey cameras do.

    Raises:
        ValueError: sigma is negative.
    """

    def __init__(self, sigma: float) -> None:
        super().__init__()
        if sigma < 0:
            raise ValueError(f"noise must not be negative, not {sigma}")
        self.sigma = sigma

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        """Add noise to one image."""
        if not isinstance(inpt, tv_tensors.Image):
            return inpt
        draw = torch.rand(3).tolist()
        if draw[0] >= 0.5:
            return inpt
        pixels = inpt.as_subclass(Tensor)
        channels = 1 if draw[2] < 0.5 else 3
        noisy = pixels + self.sigma * draw[1] * torch.randn(channels, *pixels.shape[-2:])
        return tv_tensors.wrap(noisy.round().clamp(0, 255).to(torch.uint8), like=inpt)

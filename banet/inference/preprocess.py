"""From an image to the network's input."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from banet.data.images.resizing import resize_image, resized_size
from banet.modeling.config import InferenceConfig

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["preprocess", "preprocess_array"]


def preprocess(image: NDArray[np.uint8], options: InferenceConfig) -> Tensor:
    """Resize an image (H, W, 3) as the options say: (3, h, w) uint8."""
    import torch

    return resize_image(torch.from_numpy(image).permute(2, 0, 1), options.shorter, options.longer, options.scale)


def preprocess_array(image: NDArray[np.uint8], options: InferenceConfig) -> NDArray[np.uint8]:
    """Resize an image (H, W, 3) without torch: (h, w, 3), within one grey level of `preprocess`."""
    height, width = resized_size(image.shape[0], image.shape[1], options.shorter, options.longer, options.scale)
    if image.shape[:2] == (height, width):
        return image
    return np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR))

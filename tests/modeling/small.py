"""Small networks and made-up targets."""

from __future__ import annotations

import torch

from banet.data.samples import Target
from banet.inference.banet import BANet
from banet.modeling.config import InferenceConfig, LossConfig, ModelConfig
from banet.panoptic import Categories, Category

SMALL = {
    "backbone": "resnet18",
    "fpn_channels": 32,
    "semantic_channels": (32, 32, 16),
    "box_head_channels": 64,
    "mask_head_channels": 32,
    "i2s_channels": 16,
    "anchor_sizes": (16, 32, 64, 128, 224),
}


def categories(things: int = 3, stuff: int = 2) -> Categories:
    """Ids that are not contiguous, with things after stuff."""
    return Categories(
        [Category(200 + 7 * i, f"thing {i}", True) for i in range(things)]
        + [Category(11 + 5 * i, f"stuff {i}", False) for i in range(stuff)]
    )


def small_model(things: int = 3, stuff: int = 2, inference: InferenceConfig | None = None, **options: object) -> BANet:
    torch.manual_seed(0)
    config = ModelConfig(**{**SMALL, **options})  # type: ignore[arg-type]
    inference = inference or InferenceConfig(shorter=96, longer=160, score_threshold=0.26, stuff_area=16)
    return BANet(categories(things, stuff), config, inference, LossConfig(roi_samples=32)).eval()


def target(size: tuple[int, int], boxes: list[list[int]], labels: list[int], classes: int) -> Target:
    """Filled boxes as instances, later ones over earlier ones, on random stuff."""
    instances = torch.full(size, -1, dtype=torch.int32)
    semantic = torch.randint(-1, classes, size)
    for row, ((x1, y1, x2, y2), label) in enumerate(zip(boxes, labels, strict=True)):
        instances[y1:y2, x1:x2] = row
        semantic[y1:y2, x1:x2] = label
    return Target(
        boxes=torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
        labels=torch.tensor(labels, dtype=torch.int64),
        instances=instances,
        semantic=semantic,
        image_id=1,
        name="made up",
    )

"""What tests of several packages make: classes, id maps, images, small networks and the recipe that trains in seconds.

Nothing here loads torch before a network or a target is asked for.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from banet.engine.recipe import DataConfig, Recipe, TrainConfig
from banet.modeling.config import InferenceConfig, LossConfig, ModelConfig
from banet.panoptic.categories import Categories, Category
from banet.panoptic.segmentation import PanopticSegmentation

if TYPE_CHECKING:
    from banet.data.samples import Target
    from banet.inference.banet import BANet

# -------------------------------------------------------------------------------------------------------------- classes

PERSON_SKY_TIE = Categories([Category(1, "person", True), Category(5, "sky", False), Category(300, "tie", True)])
"""Two things and stuff, whose ids are not contiguous."""


def categories(things: int = 3, stuff: int = 2) -> Categories:
    """Return classes whose ids are not contiguous, with things after stuff."""
    return Categories(
        [Category(200 + 7 * i, f"thing {i}", True) for i in range(things)]
        + [Category(11 + 5 * i, f"stuff {i}", False) for i in range(stuff)]
    )


# -------------------------------------------------------------------------------------------------- results and images


def segmentation(
    ids: ArrayLike,
    classes: Mapping[int, int],
    crowd: Collection[int] = (),
    categories: Categories = PERSON_SKY_TIE,
    scores: Mapping[int, float] | None = None,
) -> PanopticSegmentation:
    """Return a result of an id map; one row is enough.

    Args:
        ids: (H, W) or (W,).
        classes: category id by segment id, in the order of the records.
        crowd: ids of crowd segments.
        categories: the classes.
        scores: by segment id.
    """
    infos = [
        {"id": i, "category_id": c, "iscrowd": i in crowd, "score": (scores or {}).get(i)} for i, c in classes.items()
    ]
    return PanopticSegmentation.from_ids(np.atleast_2d(np.array(ids)), infos, categories)


def line(*stretches: tuple[int, int]) -> list[int]:
    """Return a map of one row: line((3, 1), (2, 0)) is 1 1 1 0 0."""
    return [value for length, value in stretches for _ in range(length)]


def blocks(height: int, width: int, seed: int = 0) -> NDArray[np.uint8]:
    """Return blocks of colour, (H, W, 3): an image that is not the same everywhere."""
    coarse = np.random.default_rng(seed).integers(0, 256, (height // 8 + 1, width // 8 + 1, 3), dtype=np.uint8)
    return coarse.repeat(8, 0).repeat(8, 1)[:height, :width].copy()


# ------------------------------------------------------------------------------------------------- networks and recipes

SMALL = ModelConfig(
    backbone="resnet18",
    fpn_channels=32,
    semantic_channels=(32, 32, 16),
    box_head_channels=64,
    mask_head_channels=32,
    i2s_channels=16,
    anchor_sizes=(16, 32, 64, 128, 224),
)
"""A small network for images of about 100 pixels."""

TINY = Recipe(
    name="tiny",
    model=ModelConfig(
        backbone="resnet18",
        fpn_channels=16,
        semantic_channels=(16, 16, 8),
        box_head_channels=16,
        mask_head_channels=16,
        i2s_channels=8,
        anchor_sizes=(8, 16, 32, 64, 96),
    ),
    inference=InferenceConfig(
        shorter=64, longer=96, proposals=30, score_threshold=0.1, max_instances=10, stuff_area=8
    ),
    loss=LossConfig(rpn_samples=32, roi_samples=16, proposals=50),
    data=DataConfig(kind="scenes", scene_size=64, train_scenes=5, val_scenes=3, shorter=(64,), longer=96, workers=0),
    train=TrainConfig(
        init="random", iterations=4, batch_size=2, optimizer="adamw", lr=1e-3, warmup=2, milestones=(), ema=0.5,
        checkpoint_every=2, log_every=1,
    ),
)  # fmt: skip
"""A recipe that trains in seconds."""


def with_train(recipe: Recipe, **options: Any) -> Recipe:
    """Return a recipe with other options of its training."""
    return replace(recipe, train=replace(recipe.train, **options))


def small_model(
    things: int = 3,
    stuff: int = 2,
    inference: InferenceConfig | None = None,
    classes: Categories | None = None,
    config: ModelConfig = SMALL,
    **options: Any,
) -> BANet:
    """Return a network with random weights of one seed, for inference.

    Args:
        things: number of thing classes.
        stuff: number of stuff classes.
        inference: how it is read out.
        classes: other classes than `categories(things, stuff)`.
        config: what it is made of.
        options: fields of `config` that differ.
    """
    import torch

    from banet.inference.banet import BANet

    torch.manual_seed(0)
    inference = inference or InferenceConfig(shorter=96, longer=160, score_threshold=0.26, stuff_area=16)
    config = replace(config, **options)
    return BANet(classes or categories(things, stuff), config, inference, LossConfig(roi_samples=32)).eval()


def target(size: tuple[int, int], boxes: list[list[int]], labels: list[int], classes: int) -> Target:
    """Return filled boxes as instances, later ones over earlier ones, on random stuff."""
    import torch

    from banet.data.samples import Target

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

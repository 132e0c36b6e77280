"""An arm of a study of aggregation: which composition it is, how a recipe becomes it, and what it starts from.

An arm is another composition of the network, or other weights of its losses; `forward` has no flag for any of them.
`Emptied` is the one part that the package itself does not have.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from banet import BANet
from banet.data.scenes.generate import SCENE_CATEGORIES
from banet.engine.recipe import Recipe
from banet.modeling.composition import build_segmenter
from banet.modeling.config import InferenceConfig, LossConfig, ModelConfig
from banet.modeling.s2i import S2IRoIs
from banet.modeling.segmenters import AggregatedLogits, DirectLogits
from banet.panoptic.categories import Categories

BASELINE = {"sim": False, "ocm": False, "s2i": False, "deformable": False}
NO_BOX = {"inlay_share": (0.0, 0.0)}


@dataclass(frozen=True)
class Arm:
    """One arm.

    Attributes:
        name: of its folder.
        title: of its row.
        model: options of the network that differ from the baseline's.
        loss: options of the losses that differ from the recipe's.
        control: also on the control data.
        emptied: RoIInlay gets no box, in training and after it.
        start: read-out of step A that its semantic logits start from; without, they start from random weights.
    """

    name: str
    title: str
    model: Mapping[str, Any] = field(default_factory=dict)
    loss: Mapping[str, Any] = field(default_factory=dict)
    control: bool = False
    emptied: bool = False
    start: str = ""

    def model_config(self, recipe: Recipe) -> ModelConfig:
        """Return what its network is made of."""
        return replace(recipe.model, **{**BASELINE, **self.model})

    def loss_config(self, recipe: Recipe) -> LossConfig:
        """Return how its losses are weighted."""
        return replace(recipe.loss, **{**self.loss, **(NO_BOX if self.emptied else {})})


class Emptied(nn.Module):
    """A source of semantic logits with I2S to which no box is given: the same parameters, F_inlay is zero everywhere.

    Args:
        segmenter: what it stands for.
    """

    def __init__(self, segmenter: AggregatedLogits) -> None:
        super().__init__()
        self.segmenter = segmenter

    def forward(
        self, semantic: Sequence[Tensor], f_ins: Tensor, boxes: list[Tensor], sizes: Sequence[tuple[int, int]]
    ) -> Tensor:
        """Compute the final logits (B, C, H/4, W/4); arguments as in `AggregatedLogits.forward`."""
        logits: Tensor = self.segmenter(semantic, f_ins[:0], [each[:0] for each in boxes], sizes)
        return logits

    def score_limit(self, limits: InferenceConfig) -> float:
        """Return the score above which boxes are selected: only the panoptic instances are needed."""
        return limits.score_threshold

    def inlay_boxes(self, boxes: list[Tensor]) -> list[Tensor]:
        """Return no box for any image."""
        return [image_boxes[:0] for image_boxes in boxes]


def read_out(arm: Arm, recipe: Recipe, categories: Categories) -> DirectLogits | AggregatedLogits | Emptied:
    """Return the source of semantic logits of an arm, with random weights."""
    made = build_segmenter(categories, arm.model_config(recipe), arm.loss_config(recipe))
    return Emptied(made) if arm.emptied and isinstance(made, AggregatedLogits) else made


def load_network(arm: Arm, weights: Path) -> BANet:
    """Return the trained network of an arm."""
    model = BANet.from_pretrained(weights)
    if arm.emptied:
        assert isinstance(model.segmenter, AggregatedLogits)
        model.segmenter = Emptied(model.segmenter)  # type: ignore[assignment]
    return model


def arm_recipe(recipe: Recipe, arm: Arm, *, context: bool, seed: int, **train: Any) -> Recipe:
    """Return the recipe of an arm's run.

    Args:
        recipe: of the study.
        arm: the arm.
        context: data in context, or the control data.
        seed: of its weights and draws; arms with one seed see the same images in the same order, augmented alike.
        **train: options of the training.
    """
    return replace(
        recipe,
        name=f"{arm.name}_{'context' if context else 'control'}_{seed}",
        model=arm.model_config(recipe),
        loss=arm.loss_config(recipe),
        data=replace(recipe.data, scene_context=context),
        train=replace(recipe.train, seed=seed, **train),
    )


def starting_network(arm: Arm, recipe: Recipe, trunk: BANet, logits: Mapping[str, Tensor]) -> BANet:
    """Return the network of an arm before it is trained: it predicts what the trunk with a read-out predicts.

    What the trunk has is the trunk's; the final logits are a read-out's that was fitted on the frozen trunk; S2I's
    convolution, the only other part of an arm with weights of its own, is zero, and so are deformable offsets. The
    first logits of an arm with SIM only serve a loss; no read-out with SIM has fitted them, so they are the trunk's.

    Args:
        arm: the arm.
        recipe: of its run.
        trunk: the baseline that all arms start from.
        logits: state dict of the read-out.
    """
    made = BANet(SCENE_CATEGORIES, recipe.model, recipe.inference, recipe.loss)
    made.load_state_dict({**made.state_dict(), **trunk.state_dict()})
    if isinstance(made.segmenter, AggregatedLogits):
        logits = {name: tensor for name, tensor in logits.items() if not name.startswith("first.")}
    made.segmenter.load_state_dict({**made.segmenter.state_dict(), **logits})
    if isinstance(made.roi_features, S2IRoIs):
        nn.init.zeros_(made.roi_features.phi.weight)
        nn.init.zeros_(made.roi_features.phi.bias)  # type: ignore[arg-type]
    return made

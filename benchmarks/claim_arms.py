"""The arms of the studies of aggregation: which composition each is, and how a recipe becomes it.

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
from banet.engine.recipe import Recipe
from banet.modeling.composition import build_segmenter
from banet.modeling.config import InferenceConfig, LossConfig, ModelConfig
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
    """

    name: str
    title: str
    model: Mapping[str, Any] = field(default_factory=dict)
    loss: Mapping[str, Any] = field(default_factory=dict)
    control: bool = False
    emptied: bool = False

    def model_config(self, recipe: Recipe) -> ModelConfig:
        """Return what its network is made of."""
        return replace(recipe.model, **{**BASELINE, **self.model})

    def loss_config(self, recipe: Recipe) -> LossConfig:
        """Return how its losses are weighted."""
        return replace(recipe.loss, **{**self.loss, **(NO_BOX if self.emptied else {})})


NETWORKS = (
    Arm("baseline", "baseline, continued", control=True),
    Arm("sim", "SIM", {"sim": True}, control=True),
    Arm("sim_emptied", "SIM, F_inlay empty", {"sim": True}, emptied=True),
    Arm("sim_ocm", "SIM + OCM", {"sim": True, "ocm": True}, control=True),
    Arm("s2i", "S2I", {"s2i": True}),
    Arm("whole", "SIM + OCM + S2I", {"sim": True, "ocm": True, "s2i": True}),
    Arm("baseline_dfm", "baseline + DFM", {"deformable": True}),
    Arm("whole_dfm", "SIM + OCM + S2I + DFM", {"sim": True, "ocm": True, "s2i": True, "deformable": True}),
    Arm("baseline_0.3", "baseline, λ 0.3", loss={"seg_weight": 0.3}),
    Arm("baseline_1.0", "baseline, λ 1.0", loss={"seg_weight": 1.0}),
)
"""Step B: trained on from one checkpoint."""

_READ_OUTS = (
    ("sim", "SIM", {"sim": True}),
    ("sim_ocm_linear", "SIM + OCM without ReLU", {"sim": True, "ocm": True, "ocm_relu": False}),
    ("sim_ocm", "SIM + OCM", {"sim": True, "ocm": True}),
)
READ_OUTS = (
    Arm("first", "first logits", control=True),
    Arm("sim_emptied", "SIM, F_inlay empty", {"sim": True}, control=True, emptied=True),
    *(
        Arm(f"{name}_{low}", f"{title}, share {low}–1", model, {"inlay_share": (low, 1.0)}, control=True)
        for low in (0.6, 0.0)
        for name, title, model in _READ_OUTS
    ),
)
"""Step A: read-outs of one frozen trunk."""


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

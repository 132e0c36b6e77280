"""What the page says about the weights, and samples that fit them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

from banet.app.answers import Limits
from banet.checkpoint.bundled import BUNDLED
from banet.checkpoint.checkpoint import read_checkpoint
from banet.composed.names import find_named, is_composed
from banet.data.scenes.generate import SCENE_CATEGORIES, Scenes
from banet.engine.evaluation.evaluation_data import EvaluationData, EvaluationImage, microscope_images
from banet.inference.predictor import Predictor
from banet.panoptic.categories import Categories
from banet.panoptic.defaults import BEST_RULE, RuleName

__all__ = ["Samples", "describe"]

# Of the demo's seed, so that no training saw them; those in which the rules differ most.
SCENES_SEED, SCENES, SCENES_SIZE = 3, (20, 42, 8, 36), (480, 640)

RULES: Mapping[str, str] = {
    "appearance": "the paper's rule: whose mean colour is closer to the overlap's",
    "appearance-pixel": "the paper's equation 4 as printed, pixel by pixel",
    "color-contour": "whose nearby colours and contours the overlap shows",
    "score": "the object with the higher score",
    "area": "the smaller object",
    "heuristic": "without occlusion handling: the higher score takes all",
}
"""Who is in front, by rule; a rule without a line is shown by its name alone."""


class Samples:
    """Images with ground truth for models that know their classes: drawn scenes, or nuclei under a microscope.

    Args:
        categories: The model's; there are no samples for other classes.
    """

    def __init__(self, categories: Categories) -> None:
        self.kind = ""
        self._data: EvaluationData | None = None
        self._indices: tuple[int, ...] = ()
        self._ready: dict[int, EvaluationImage] = {}
        nuclei = microscope_images()
        scenes = EvaluationData(Scenes(SCENES_SEED, max(SCENES) + 1, SCENES_SIZE))
        if _classes(categories) == _classes(nuclei.categories):
            self.kind, self._data, self._indices = "microscope image", nuclei, tuple(range(len(nuclei)))
        elif _classes(categories) == _classes(SCENE_CATEGORIES):
            self.kind, self._data, self._indices = "drawn scene", scenes, SCENES

    def __len__(self) -> int:
        return len(self._indices)

    def __getitem__(self, number: int) -> EvaluationImage:
        """Read or draw a sample, once: the page wants it for its thumbnail and for its result.

        Raises:
            IndexError: There is no such sample.
        """
        if self._data is None:
            raise IndexError(number)
        if number not in self._ready:
            self._ready[number] = self._data[self._indices[number]]
        return self._ready[number]


def _classes(categories: Categories) -> list[tuple[int, str, bool]]:
    return [(c.id, c.name, c.isthing) for c in categories]


def describe(weights: str, model: Predictor, samples: Samples, limits: Limits) -> dict[str, Any]:
    """Return what the page knows before any image is segmented.

    Args:
        weights: As given to `serve`.
        model: What was loaded from them.
        samples: Those that fit.
        limits: Of visitors.

    Returns:
        `weights`, their name; `domain` and `figures`, as far as they are known; `classes`;
        `rules` with a line on each; `rule` and `other`, those to begin with; `score`, the least score of things;
        `samples`; and `limits`.
    """
    domain, figures = model.domain, BUNDLED[weights].figures if weights in BUNDLED else ""
    composed = is_composed(weights)
    if composed:
        domain = model.domain or "training data not stated"
        known = find_named(weights)
        figures = f"PQ {known.pq:.1f}: {known.pq_source}" if known is not None and known.pq else ""
    elif weights not in BUNDLED:
        metadata = read_checkpoint(weights).metadata
        figures = f"PQ {float(metadata['pq']):.1f} on its validation data" if "pq" in metadata else ""
    return {
        "weights": weights if weights in BUNDLED or composed else Path(weights).name,
        "domain": domain,
        "figures": figures,
        "classes": [
            {"id": c.id, "name": c.name, "isthing": c.isthing, "color": list(c.color)} for c in model.categories
        ],
        "rules": [{"name": rule, "note": RULES.get(rule, "")} for rule in get_args(RuleName)],
        "rule": BEST_RULE,
        "other": "heuristic",
        "score": model.inference.score_threshold,
        "samples": {"kind": samples.kind, "count": len(samples)},
        "limits": {"file_bytes": limits.file_bytes, "pixels": limits.pixels, "side": limits.side},
    }

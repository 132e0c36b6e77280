"""Prediction in bfloat16."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from factories import categories, small_model
from numpy.typing import NDArray
from torch import nn

import banet
from banet.data.scenes.generate import Scenes
from banet.errors import InputError
from banet.inference.postprocess import UnfusedPrediction
from banet.inference.predictor import Predictor
from banet.modeling.config import InferenceConfig
from banet.panoptic import PanopticQuality


@pytest.mark.parametrize("parts", [{}, {"s2i": False, "sim": False, "ocm": False}, {"deformable": True}], ids=str)
def test_layers_compute_in_bfloat16_and_results_are_float32(parts: dict[str, bool]) -> None:
    model = small_model(**parts).eval()
    seen: dict[type[nn.Module], set[torch.dtype]] = {}
    for module in model.modules():
        if isinstance(module, (nn.Conv2d, nn.Linear, nn.ConvTranspose2d)):
            module.register_forward_hook(lambda layer, _, out: seen.setdefault(type(layer), set()).add(out.dtype))
    image = np.random.default_rng(0).integers(0, 256, (96, 130, 3), dtype=np.uint8)
    half = model.configured(precision="bf16", score=0.01)
    ((unfused, candidates),) = half.predict_for_evaluation([image])
    assert seen and all(kinds == {torch.bfloat16} for kinds in seen.values())
    assert len(candidates.scores) > 0
    assert (unfused.instances.boxes.dtype, unfused.instances.scores.dtype) == (np.float32, np.float64)
    seen.clear()
    model.predict(image)
    assert all(kinds == {torch.float32} for kinds in seen.values())


def test_a_callers_own_autocast_stays() -> None:
    model = small_model().eval()
    seen = set()
    model.semantic_head[0].register_forward_hook(lambda layer, _, out: seen.add(out.dtype))
    with torch.autocast("cpu", torch.bfloat16):
        model.predict_for_evaluation([np.zeros((64, 64, 3), dtype=np.uint8)])
    assert seen == {torch.bfloat16}


def test_bundled_weights_find_nearly_the_same() -> None:
    model = banet.load("scenes")
    quality = {precision: PanopticQuality(model.categories) for precision in model.precisions}
    scenes = Scenes(78, 4, (256, 256))
    for image, truth in map(scenes.read, range(len(scenes))):
        for precision, each in quality.items():
            each.update(model.predict(image, precision=precision), truth)
    whole, half = (each.compute()["All"]["pq"] for each in quality.values())
    assert 0.3 < whole < 1
    assert half == pytest.approx(whole, abs=0.03)


def test_other_networks_and_other_precisions_are_refused() -> None:
    class Other(Predictor):
        categories = categories()
        inference = InferenceConfig()

        def predict_unfused(self, images: Sequence[NDArray[np.uint8]]) -> list[UnfusedPrediction]:
            raise AssertionError

    with pytest.raises(InputError, match=r"precision bf16: this network does not compute in it; choose 32"):
        Other().configured(precision="bf16")
    with pytest.raises(InputError, match=r"precision fp8: .*; choose 32 or bf16"):
        small_model().configured(precision="fp8")  # type: ignore[arg-type]

"""Whatever a network says, the result is a partition of the image whose segments match their ids, areas and boxes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from readers import TINY

from banet import BANet
from banet.inference.postprocess import postprocess
from banet.modeling.config import InferenceConfig, ModelConfig
from banet.modeling.outputs import Detections, Output
from banet.panoptic import RULES, Categories, Category, PanopticSegmentation

SIZES = (1, 2, 3, 5, 16, 17, 31, 64, 100)
LARGE = (16, 2000, 3000)


def classes(things: int, stuff: int) -> Categories:
    """Ids with gaps, things and stuff mixed."""
    return Categories(Category(3 * n + 1, f"class {n}", n % 2 == 0 if n < 2 * min(things, stuff) else things > stuff)
                      for n in range(things + stuff))  # fmt: skip


def assert_partition(result: PanopticSegmentation, size: tuple[int, int], limits: InferenceConfig) -> None:
    """Each pixel is of one segment or void, and each segment is what its record says."""
    assert result.ids.shape == size and result.ids.dtype == np.int32
    result.check()
    areas = 0
    pixels = np.argsort(result.ids, axis=None, kind="stable")  # by id
    values, starts = np.unique(result.ids.ravel()[pixels], return_index=True)
    pixels_of = dict(zip(values.tolist(), np.split(pixels, starts[1:]), strict=True))
    assert values[0] >= 0 and pixels_of.keys() - {0} == {segment.id for segment in result.segments}
    for segment in result.segments:
        rows, columns = np.divmod(pixels_of[segment.id], size[1])
        assert segment.area == len(rows)
        x, y = int(columns.min()), int(rows.min())
        assert segment.bbox == (x, y, int(columns.max()) - x + 1, int(rows.max()) - y + 1)
        assert segment.isthing == result.categories.isthing(segment.category_id)
        assert (segment.score is not None) == segment.isthing and not segment.iscrowd
        assert segment.isthing or segment.area >= limits.stuff_area
        areas += segment.area
    assert areas + len(pixels_of.get(0, ())) == result.ids.size
    things = [s for s in result.segments if s.isthing]
    stuff = [s for s in result.segments if not s.isthing]
    assert [s.id for s in things + stuff] == list(range(1, len(result.segments) + 1))
    assert things == sorted(things, key=lambda s: -(s.score or 0))
    assert [s.category_id for s in stuff] == sorted({s.category_id for s in stuff})


# ------------------------------------------------------------------------------------------------------ made-up outputs


def made_up(
    rng: np.random.Generator, categories: Categories, network: tuple[int, int], count: int, kind: str
) -> Output:
    """What a network may say of an image that has the size `network` to it."""
    height, width = network
    padded = [-(-side // 32) * 32 for side in network]
    corners = rng.uniform(-0.2, 1.2, (2, count, 2)) if kind == "far" else rng.uniform(0, 1, (2, count, 2))
    low, high = corners.min(0), corners.max(0)
    if kind == "points":
        high = np.where(rng.random((count, 2)) < 0.7, low, high)
    elif kind == "whole":
        low, high = np.zeros((count, 2)), np.ones((count, 2))
    elif kind == "small":
        high = low + rng.exponential(0.03, (count, 2))
    boxes = (np.concatenate([low, high], 1).clip(0, 1) * np.array([width, height] * 2)).astype(np.float32)
    scores = np.sort(rng.choice(rng.random(max(1, int(rng.integers(1, 9)))), count))[::-1].astype(np.float32)
    masks = rng.random((count, 28, 28), np.float32) if kind == "noise" else _blobs(rng, count)
    logits = rng.normal(size=(len(categories), padded[0] // 4, padded[1] // 4)).astype(np.float32)
    if rng.random() < 0.1:
        logits[:] = rng.choice([0, 1e30, -np.inf, np.nan])
    elif rng.random() < 0.5:
        logits = np.kron(logits[:, ::8, ::8], np.ones((1, 8, 8), np.float32))[:, : logits.shape[1], : logits.shape[2]]
    detections = Detections(
        torch.from_numpy(boxes).reshape(-1, 4),
        torch.from_numpy(scores.copy()),
        torch.from_numpy(rng.integers(0, max(categories.num_things, 1), count)),
        torch.from_numpy(masks),
    )
    nothing: Any = None
    return Output([detections], torch.from_numpy(logits)[None], [network], [], nothing, [])


def _blobs(rng: np.random.Generator, count: int) -> np.ndarray[Any, np.dtype[np.float32]]:
    y, x = np.mgrid[:28, :28] / 27
    centre, radius = rng.uniform(0, 1, (2, count, 1, 1)), rng.uniform(0, 1, (count, 1, 1))
    return (np.hypot(y - centre[0], x - centre[1]) < radius).astype(np.float32)


limits = st.builds(
    InferenceConfig,
    rule=st.sampled_from(list(RULES)),
    overlap_threshold=st.sampled_from([0.0, 0.2, 1.0]),
    removal_threshold=st.sampled_from([0.0, 0.5, 1.0]),
    stuff_area=st.sampled_from([0, 1, 30, 4096]),
    thing_pixels=st.sampled_from(["void", "best_stuff"]),
)
class_counts = st.sampled_from([(1, 0), (0, 1), (1, 1), (3, 0), (0, 4), (3, 2), (80, 53)])
kinds = st.sampled_from(["plain", "noise", "points", "whole", "small", "far"])
crowds = st.one_of(
    st.tuples(kinds, st.integers(0, 8)),
    st.tuples(kinds, st.integers(0, 8)),
    st.tuples(kinds, st.integers(0, 40)),
    st.tuples(st.sampled_from(["points", "small"]), st.sampled_from([100, 300, 1000])),
)
sides = st.sampled_from(SIZES)


def fuse_made_up(
    seed: int, size: tuple[int, int], network: tuple[int, int], crowd: tuple[str, int], numbers: tuple[int, int],
    limits: InferenceConfig,
) -> None:  # fmt: skip
    kind, count = crowd
    rng, categories = np.random.default_rng(seed), classes(*numbers)
    image = rng.integers(0, 256, (*size, 3), dtype=np.uint8)
    if seed % 5 == 0:
        image[:] = image[0, 0]  # of one colour: every pair ties
    output = made_up(rng, categories, network, count if categories.num_things else 0, kind)
    assert_partition(postprocess(output.images[0], image, categories, limits).fuse(categories, limits), size, limits)


scene = {
    "seed": st.integers(0, 2**32),
    "size": st.tuples(sides, sides),
    "network": st.tuples(sides, sides),
    "crowd": crowds,
    "numbers": class_counts,
    "limits": limits,
}


@settings(max_examples=100)
@given(**scene)
def test_made_up_outputs_are_fused_to_a_partition(**scene: Any) -> None:
    fuse_made_up(**scene)


@pytest.mark.slow
@settings(max_examples=9_600, suppress_health_check=list(HealthCheck))
@given(**scene)
def test_9600_made_up_outputs(**scene: Any) -> None:
    fuse_made_up(**scene)


@pytest.mark.slow
@settings(max_examples=60, suppress_health_check=list(HealthCheck))
@given(**{
    **scene,
    "size": st.tuples(st.sampled_from(LARGE), st.sampled_from(LARGE)),
    "crowd": st.tuples(st.just("small"), st.sampled_from([0, 1, 100, 1000])),
    "numbers": st.sampled_from([(1, 0), (0, 1), (80, 53), (1000, 1), (1, 1000)]),
})  # fmt: skip
def test_60_large_images_with_up_to_1000_detections(**scene: Any) -> None:
    fuse_made_up(**scene)


@pytest.mark.parametrize("rule", list(RULES))
def test_1000_detections(rule: str) -> None:
    limits = InferenceConfig(rule=rule, stuff_area=0)  # type: ignore[arg-type]
    fuse_made_up(1, (100, 64), (100, 64), ("small", 1000), (80, 53), limits)


# ----------------------------------------------------------------------------------------------------- whole networks


def network(
    seed: int, numbers: tuple[int, int], parts: dict[str, bool], scale: float, limits: InferenceConfig
) -> BANet:
    """A tiny network with random weights, multiplied by `scale`."""
    torch.manual_seed(seed)
    config = ModelConfig(**{**vars(TINY), "norm": "group", "frozen_stages": 0, **parts})
    model = BANet(classes(*numbers), config, limits).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(scale)
    return model


compositions = st.sampled_from(
    [{}, {"sim": False, "ocm": False}, {"ocm": False}, {"s2i": False}, {"deformable": True, "s2i": False}]
)
inference = st.builds(
    InferenceConfig,
    shorter=st.sampled_from([16, 32, 64]),
    longer=st.just(96),
    score_threshold=st.sampled_from([0.0, 0.01, 0.3]),
    nms_threshold=st.sampled_from([0.0, 0.5, 1.0]),
    max_instances=st.sampled_from([1, 20, 60]),
    proposals=st.sampled_from([1, 50]),
    rule=st.sampled_from(list(RULES)),
    stuff_area=st.sampled_from([0, 30]),
    thing_pixels=st.sampled_from(["void", "best_stuff"]),
)
pictures = {
    "seed": st.integers(0, 2**32 - 1),
    "numbers": st.sampled_from([(1, 0), (0, 1), (1, 1), (3, 2), (80, 53)]),
    "parts": compositions,
    "scale": st.sampled_from([0.0, 1.0, 1.0, 3.0, 1e4, 1e12]),
    "limits": inference,
    "sizes": st.lists(st.tuples(st.integers(1, 120), st.integers(1, 120)), min_size=1, max_size=3),
}


def segment(
    seed: int, numbers: tuple[int, int], parts: dict[str, bool], scale: float, limits: InferenceConfig,
    sizes: list[tuple[int, int]],
) -> None:  # fmt: skip
    rng = np.random.default_rng(seed)
    images = [rng.integers(0, 256, (*size, 3), dtype=np.uint8) for size in sizes]
    model = network(seed, numbers, parts, scale, limits)
    for size, result in zip(sizes, model.predict(images, batch_size=len(images)), strict=True):
        assert_partition(result, size, limits)


@settings(max_examples=8, suppress_health_check=list(HealthCheck))
@given(**pictures)
def test_random_weights_give_a_partition(**pictures: Any) -> None:
    segment(**pictures)


@pytest.mark.slow
@settings(max_examples=340, suppress_health_check=list(HealthCheck))
@given(**pictures)
def test_340_random_networks(**pictures: Any) -> None:
    segment(**pictures)


@pytest.mark.slow
def test_a_batch_from_16_to_3000_pixels() -> None:
    limits = InferenceConfig(
        shorter=64, longer=96, score_threshold=0.0, nms_threshold=1.0, max_instances=60, proposals=20, stuff_area=0
    )
    segment(0, (1000, 3), {}, 1.0, limits, [(16, 16), (2000, 3000), (1, 3000), (3000, 1), (333, 100)])


def test_scores_that_are_all_the_same() -> None:
    """Weights of zero: every class and every box alike."""
    limits = InferenceConfig(shorter=64, longer=96, score_threshold=0.0, nms_threshold=1.0, proposals=20, stuff_area=0)
    segment(0, (3, 2), {}, 0.0, limits, [(40, 60), (16, 16)])
    with torch.no_grad():
        logits, _ = network(0, (3, 2), {}, 0.0, limits).box_head(torch.zeros(1, 16, 7, 7))
    assert logits.softmax(1).tolist() == [[0.25] * 4]

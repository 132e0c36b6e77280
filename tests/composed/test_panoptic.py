"""Panoptic models of transformers, real code and random weights: results as the library's own where they must be."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("transformers")

import saved

import banet
from banet.composed.panoptic import PanopticModel
from banet.panoptic import PanopticSegmentation

SIZE = (91, 143)
STUFF = {3, 4}


@pytest.fixture(scope="module", params=list(saved.PANOPTIC))
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> PanopticModel:
    folder = saved.PANOPTIC[request.param](tmp_path_factory.mktemp(request.param))
    loaded = banet.load(f"hf:{folder}")
    assert isinstance(loaded, PanopticModel)
    return loaded


def picture(size: tuple[int, int] = SIZE, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)


def blobs(rng: np.random.Generator, count: int, height: int, width: int, gaps: bool) -> np.ndarray:
    """Disjoint masks of cells around random centres, (Q, h, w); with gaps some cells are nobody's."""
    y, x = np.mgrid[:height, :width]
    centres = rng.uniform(0, 1, (count + gaps, 2)) * (height, width)
    nearest = ((y[..., None] - centres[:, 0]) ** 2 + (x[..., None] - centres[:, 1]) ** 2).argmin(-1)
    return nearest == np.arange(count)[:, None, None]


def crafted(model: PanopticModel, labels: list[int], masks: np.ndarray, sharpness: float = 10.0) -> Any:
    """What the network would return for queries of these classes and masks, the last class being no object."""
    queries, classes = saved.QUERIES, len(saved.NAMES) + 1
    logits = torch.full((1, queries, classes), -8.0)
    logits[:, :, -1] = 8.0
    grid = torch.full((1, queries, *masks.shape[1:]), -sharpness)
    for n, (label, mask) in enumerate(zip(labels, masks, strict=True)):
        logits[0, n] = -8.0
        logits[0, n, label] = 4.0 + n / 8  # scores differ
        grid[0, n][torch.from_numpy(mask)] = sharpness
    if model.model.kind == "detr":
        return SimpleNamespace(logits=logits, pred_masks=grid)
    return SimpleNamespace(class_queries_logits=logits, masks_queries_logits=grid, patch_offsets=None)


def run_crafted(model: PanopticModel, monkeypatch: pytest.MonkeyPatch, outputs: Any, **options: Any) -> Any:
    monkeypatch.setattr(model.model.model, "forward", lambda *args, **kwargs: outputs)
    return model.predict(picture(), **options)


def library(model: PanopticModel, outputs: Any) -> dict[str, Any]:
    stuff = {"stuff_classes": list(STUFF)} if model.model.kind == "eomt" else {"label_ids_to_fuse": STUFF}
    (result,) = model.model.image_processor.post_process_panoptic_segmentation(outputs, target_sizes=[SIZE], **stuff)
    return result


def as_classes(result: PanopticSegmentation) -> tuple[np.ndarray, np.ndarray]:
    """Category of each pixel, and its instance, numbered by first pixel."""
    return result.semantic, first_seen(result.ids, result.ids == 0)


def first_seen(ids: np.ndarray, void: np.ndarray) -> np.ndarray:
    _, first, inverse = np.unique(np.where(void, -1, ids), return_index=True, return_inverse=True)
    order = np.argsort(np.argsort(first))
    return np.where(void, -1, order[inverse].reshape(ids.shape))


def library_classes(model: PanopticModel, outputs: Any) -> tuple[np.ndarray, np.ndarray]:
    result = library(model, outputs)
    ids = result["segmentation"].numpy().astype(np.int64)
    categories = np.full(ids.shape, -1)
    for info in result["segments_info"]:
        name = saved.NAMES[info["label_id"]]
        categories[ids == info["id"]] = next(c.id for c in model.categories if c.name == name)
    return categories, first_seen(ids, categories < 0)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("gaps", [False, True])
def test_saturated_disjoint_masks_give_the_librarys_result(model, monkeypatch, seed, gaps):
    rng = np.random.default_rng(seed)
    count = int(rng.integers(2, 10))
    labels = [int(label) for label in rng.integers(0, 5, count)]
    outputs = crafted(model, labels, blobs(rng, count, 24, 32, gaps))
    ours = run_crafted(model, monkeypatch, outputs)
    ours.check()
    expected = library_classes(model, outputs)
    found = as_classes(ours)
    np.testing.assert_array_equal(found[0], expected[0])
    np.testing.assert_array_equal(found[1], expected[1])
    scores = {round(s.score, 6) for s in ours.segments if s.isthing}
    assert scores <= {info["score"] for info in library(model, outputs)["segments_info"]}


def test_a_rule_decides_where_two_things_claim(model, monkeypatch):
    masks = np.zeros((3, 24, 32), dtype=bool)
    masks[0, 4:20, 2:20] = True  # a person of the lower score
    masks[1, 4:20, 12:30] = True  # a car of the higher score
    masks[2] = ~(masks[0] | masks[1])
    outputs = crafted(model, [0, 1, 3], masks)
    by_score = run_crafted(model, monkeypatch, outputs, rule="score")
    by_area = run_crafted(model, monkeypatch, outputs, rule=lambda pairs: np.ones(len(pairs)))
    middle = SIZE[0] // 2, SIZE[1] // 2
    assert by_score.segments[by_score.ids[middle] - 1].label == "car"
    assert by_area.segments[by_area.ids[middle] - 1].label == "person"
    same = (by_score.ids != by_area.ids).mean()
    assert 0 < same < 0.4


def test_options_and_classes(model, monkeypatch):
    masks = blobs(np.random.default_rng(5), 3, 24, 32, False)
    outputs = crafted(model, [0, 1, 3], masks)
    everything = run_crafted(model, monkeypatch, outputs)
    assert sorted(s.label for s in everything.segments) == ["car", "person", "road"]
    only = model.predict(picture(), classes=["car"])
    assert [s.label for s in only.segments] == ["car"]
    np.testing.assert_array_equal(only.ids > 0, everything.semantic == 3)
    assert model.predict(picture(), score=0.99999999).segments == []
    car = model.categories.by_id(only.segments[0].category_id).id
    for same in ("car", car, np.int64(car), np.array([car]), {"car"}):
        np.testing.assert_array_equal(model.predict(picture(), classes=same).ids, only.ids)
    with pytest.raises(banet.InputError, match="batch_size: must be at least 1"):
        model.predict([picture()], batch_size=0)
    with pytest.raises(banet.InputError, match="is not a class of these weights; perhaps car"):
        model.predict(picture(), classes=["cars"])


@pytest.fixture
def exact(model):
    """Return the model in double precision: random weights have many near ties, which rounding would decide."""
    model.model.model.double()
    yield model
    model.model.model.float()


def test_an_image_alone_as_in_a_batch_and_in_tiles(exact):
    model = exact
    images = [picture(), picture((120, 60), 1), picture(seed=2)]
    alone = [model.predict(image, score=0.0) for image in images]
    together = model.predict(images, score=0.0, batch_size=3)
    for one, other in zip(alone, together, strict=True):
        np.testing.assert_array_equal(one.ids, other.ids)
        one.check()
    tiled = model.predict(images[0], score=0.0, tile=64)
    tiled.check()
    assert tiled.ids.shape == SIZE


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_weights_in_half_precision(tmp_path, dtype):
    folder = saved.save_eomt(tmp_path / "half")
    model = banet.load(f"hf:{folder}")
    model.model.model.to(dtype).save_pretrained(folder)
    half = banet.load(f"hf:{folder}")
    assert half.model.model.dtype == dtype
    half.predict(picture(), score=0.0).check()


def test_evaluation_sees_whole_masks(model):
    ((unfused, candidates),) = model.configured(score=0.1).predict_for_evaluation([picture()])
    assert (candidates.scores >= model.inference.ap_score).all()
    assert set(candidates.labels) <= set(range(model.categories.num_things))
    assert (np.diff(candidates.scores) <= 0).all()
    assert unfused.semantic.shape == SIZE

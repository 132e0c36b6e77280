"""Things of an instances JSON: boxes and masks that overlap, beside the stuff of a panoptic data set."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from factories import TINY, with_train
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from banet.data.coco_panoptic import CocoPanoptic
from banet.data.samples import AnnotatedImage, InstanceMask, sample_of
from banet.data.scenes.generate import SCENE_CATEGORIES, make_scene, write_coco
from banet.data.transforms import CropWindow, train_transform
from banet.engine.evaluation.evaluation_data import open_validation
from banet.engine.evaluation.metrics import MaskAP
from banet.engine.recipe import SplitConfig
from banet.engine.training.datasets import training_set
from banet.engine.training.run_folder import data_files
from banet.engine.training.train import train
from banet.errors import InputError
from banet.inference.postprocess import Instances
from banet.panoptic import MaskCrops, PanopticSegmentation
from banet.panoptic.coco.runs import Crop
from banet.panoptic.segments import Segment

SIZE = (96, 128)
THING = next(c.id for c in SCENE_CATEGORIES if c.isthing)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five scenes, whose `instances_amodal.json` has the full masks of their things."""
    out = tmp_path_factory.mktemp("scenes")
    write_coco(out, seed=5, count=5, size=SIZE)
    return out


def dataset(files: Path, name: str = "instances_amodal.json", **options: Any) -> CocoPanoptic:
    return CocoPanoptic(
        files / "images", files / "panoptic", files / "panoptic.json", instances=files / name, **options
    )


def test_samples_have_the_full_masks_and_the_stuff_of_the_id_maps(files: Path) -> None:
    plain = CocoPanoptic(files / "images", files / "panoptic", files / "panoptic.json")
    overlaps = 0
    for row, sample in enumerate(dataset(files)[row] for row in range(5)):
        scene, target = make_scene(5, row, SIZE), sample.target
        assert np.array_equal(target.masks.numpy(), scene.masks)
        assert [SCENE_CATEGORIES.ids[k] for k in target.labels] == [s.category_id for s in scene.segments if s.isthing]
        for box, mask in zip(target.boxes.tolist(), scene.masks, strict=True):
            y, x = np.nonzero(mask)
            assert box == [x.min(), y.min(), x.max() + 1, y.max() + 1]
        assert torch.equal(target.semantic, plain[row].target.semantic)
        assert all((layer[layer >= 0] < len(scene.masks)).all() for layer in target.instances)
        overlaps += int((scene.masks.sum(0) > 1).sum())
    assert overlaps > 500


def _mask(rng: np.random.Generator, size: tuple[int, int]) -> NDArray[np.bool_]:
    y, x = np.sort(rng.integers(0, size[0] + 1, 2)), np.sort(rng.integers(0, size[1] + 1, 2))
    mask = np.zeros(size, bool)
    mask[y[0] : y[1], x[0] : x[1]] = rng.random((y[1] - y[0], x[1] - x[0])) < 0.7
    return mask


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**31), st.integers(0, 12))
def test_any_masks_survive_crop_and_flip_as_they_would_alone(seed: int, count: int) -> None:
    rng = np.random.default_rng(seed)
    masks = [mask for mask in (_mask(rng, (24, 31)) for _ in range(count)) if mask.any()]
    image = np.repeat(rng.integers(0, 255, (24, 31, 1), np.uint8), 3, 2)
    ids = np.ones((24, 31), np.int32)
    stuff = [Segment(1, int(SCENE_CATEGORIES.ids[-1]), isthing=False)]
    instances = [InstanceMask(THING, Crop.of(mask)) for mask in masks]
    crowd = InstanceMask(THING, Crop.of(np.ones((24, 31), bool)), iscrowd=True)
    transform = train_transform([24], 31, flip=0.5, crop=(0.5, 1.0), crop_min_fraction=0.2)

    def sample(instances: list[InstanceMask] | None, map_: NDArray[np.int32], segments: list[Segment]) -> Any:
        torch.manual_seed(seed)
        return sample_of(AnnotatedImage(image, map_, segments, instances), SCENE_CATEGORIES, 1, "x", transform).target

    together = sample([*instances, crowd], ids, stuff)
    alone = [sample(None, mask.astype(np.int32), [Segment(1, THING, isthing=True)]) for mask in masks]
    kept = [each for each in alone if len(each.boxes)]
    assert len(together.boxes) == len(kept)
    for row, each in enumerate(kept):
        assert torch.equal(together.masks[row], each.masks[0]) and torch.equal(together.boxes[row], each.boxes[0])
    assert (together.semantic == len(SCENE_CATEGORIES) - 1).all()


def test_few_layers_hold_many_masks() -> None:
    stripes = [np.zeros((40, 40), bool) for _ in range(20)]
    for row, stripe in enumerate(stripes):
        stripe[2 * row : 2 * row + 3] = True  # each overlaps only its neighbours
    instances = [InstanceMask(THING, Crop.of(stripe)) for stripe in stripes]
    annotated = AnnotatedImage(np.zeros((40, 40, 3), np.uint8), np.zeros((40, 40), np.int32), [], instances)
    target = sample_of(annotated, SCENE_CATEGORIES, 1, "x", CropWindow(40)).target
    assert target.instances.shape == (2, 40, 40) and np.array_equal(target.masks.numpy(), np.array(stripes))
    none = sample_of(replace(annotated, instances=[]), SCENE_CATEGORIES, 1, "x").target
    assert none.boxes.shape == (0, 4) and none.masks.shape == (0, 40, 40)


def test_ap_is_measured_against_masks_that_overlap(files: Path) -> None:
    """Predicted full masks are perfect against the full masks, and not against what can be seen of them."""
    against = {True: MaskAP(SCENE_CATEGORIES), False: MaskAP(SCENE_CATEGORIES)}
    data = open_validation(_recipe(files).data)
    for row in range(5):
        scene, example = make_scene(5, row, SIZE), data[row]
        assert example.instances is not None
        crops = [Crop.of(mask) for mask in scene.masks]
        boxes = np.array([crop.box for crop in crops]).reshape(-1, 4)
        labels = SCENE_CATEGORIES.indices_of(np.array([s.category_id for s in scene.segments if s.isthing], np.int64))
        perfect = Instances(
            MaskCrops(boxes, [crop.pixels for crop in crops], SIZE),
            np.ones(len(crops)),
            labels,
            boxes.astype(np.float32),
        )
        for full, ap in against.items():
            ap.update(perfect, example.ground_truth, example.instances if full else None)
    assert against[True].compute()["ap"] == pytest.approx(1)
    assert against[False].compute()["ap"] < 0.9


def test_crowd_of_the_instances_json_is_neither_learnt_nor_missed(files: Path, tmp_path: Path) -> None:
    content = json.loads((files / "instances_amodal.json").read_text())
    first = next(a for a in content["annotations"] if a["image_id"] == 1)
    first["iscrowd"] = 1
    (files / "crowd.json").write_text(json.dumps(content))
    with_crowd, plain = dataset(files, "crowd.json"), dataset(files)
    assert len(with_crowd[0].target.boxes) == len(plain[0].target.boxes) - 1
    ap, ids = MaskAP(SCENE_CATEGORIES), np.ones(SIZE, np.int32)
    truth = PanopticSegmentation(ids, [Segment(1, int(SCENE_CATEGORIES.ids[-1]), isthing=False)], SCENE_CATEGORIES)
    empty = Instances(MaskCrops(np.zeros((0, 4), int), [], SIZE), np.zeros(0), np.zeros(0, int), np.zeros((0, 4)))
    ap.update(empty, truth, [InstanceMask(THING, Crop.of(np.ones(SIZE, bool)), iscrowd=True)])
    assert np.isnan(ap.compute()["ap"])


def _recipe(files: Path) -> Any:
    split = SplitConfig("images", "panoptic", "panoptic.json", "instances_amodal.json")
    return replace(TINY, data=replace(TINY.data, kind="coco", root=str(files), train=split, val=split))


def test_a_recipe_trains_and_measures_with_them(files: Path, tmp_path: Path) -> None:
    recipe = _recipe(files)
    sample = training_set(recipe.data)[0]
    assert sample.target.instances.ndim == 3
    assert files / "instances_amodal.json" in data_files(recipe)[0]
    assert files / "instances_amodal.json" in list(open_validation(recipe.data).files())
    train(with_train(recipe, iterations=2), tmp_path / "run", device="cpu")
    assert (tmp_path / "run" / "model.safetensors").is_file()
    with pytest.raises(ValueError, match=r"data\.copy_paste: pastes what can be seen"):
        replace(recipe.data, copy_paste=0.5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c["annotations"][0].update(category_id=125), r"annotations\[0\]\S*category_id: 125 is not a thing"),
        (lambda c: c["annotations"][0].pop("segmentation"), r"'segmentation' is missing; add it"),
        (lambda c: c["images"].pop(0), r"'images' lacks the id 1 .*; give the instances of the same split"),
        (lambda c: c["images"][0].update(width=99), r"image 1 is 99x96, 128x96 elsewhere; give the instances"),
    ],
)
def test_what_does_not_fit_is_named(files: Path, change: Any, message: str) -> None:
    content = json.loads((files / "instances_amodal.json").read_text())
    change(content)
    (files / "bad.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match=message):
        dataset(files, "bad.json")


def test_a_damaged_mask_is_named_when_it_is_read(files: Path) -> None:
    content = json.loads((files / "instances_amodal.json").read_text())
    content["annotations"][0]["segmentation"]["counts"] = [7]
    (files / "bad.json").write_text(json.dumps(content))
    broken = dataset(files, "bad.json")
    with pytest.raises(InputError, match=r"bad.json: annotation 1: segmentation: .*; correct it or drop"):
        broken[0]

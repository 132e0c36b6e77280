"""Scenes: determinism, exactness of the order and the truth, and the files."""

from __future__ import annotations

import functools
import hashlib
import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from banet.data.coco_panoptic import CocoPanoptic
from banet.data.scenes.generate import SCENE_CATEGORIES, Scene, Scenes, make_scene, write_coco
from banet.engine.evaluation.evaluation_data import open_validation
from banet.engine.recipe import DataConfig
from banet.engine.training.datasets import training_set


@functools.cache
def _scenes() -> list[Scene]:
    return [make_scene(5, index) for index in range(200)]


def _painted(scene: Scene) -> np.ndarray:
    """Things painted from the back to the front, as an id map; 0 where there is none."""
    ids = np.zeros(scene.image.shape[:2], np.int32)
    for row in scene.order[::-1]:
        ids[scene.masks[row]] = row + 1
    return ids


def _check(scene: Scene) -> None:
    count = len(scene.masks)
    assert sorted(scene.order.tolist()) == list(range(count))
    things, stuff = scene.segments[:count], scene.segments[count:]
    assert [s.id for s in things] == list(range(1, count + 1))
    assert all(s.isthing and SCENE_CATEGORIES.isthing(s.category_id) for s in things)
    assert not any(s.isthing or SCENE_CATEGORIES.isthing(s.category_id) for s in stuff)
    assert np.array_equal(np.where(scene.ids <= count, scene.ids, 0), _painted(scene))
    assert set(np.unique(scene.ids).tolist()) == {s.id for s in scene.segments}
    for segment in scene.segments:
        y, x = np.nonzero(scene.ids == segment.id)
        assert segment.area == len(y)
        assert segment.bbox == (x.min(), y.min(), x.max() + 1 - x.min(), y.max() + 1 - y.min())
    assert all(s.area >= 12 for s in things)


def test_painting_back_to_front_gives_the_id_map() -> None:
    for scene in _scenes():
        _check(scene)


@settings(max_examples=15, deadline=None)
@given(st.integers(32, 150), st.integers(32, 150), st.integers(0, 2**31), st.integers(0, 10**6))
def test_any_size(height: int, width: int, seed: int, index: int) -> None:
    scene = make_scene(seed, index, (height, width))
    assert scene.image.shape == (height, width, 3)
    assert scene.image.dtype == np.uint8
    assert scene.ids.dtype == np.int32
    _check(scene)


def test_the_same_numbers_give_the_same_scene_in_another_process() -> None:
    code = (
        "import sys, hashlib; from banet.data.scenes.generate import make_scene; assert 'torch' not in sys.modules;"
        "s = make_scene(5, 7); print(hashlib.sha256(s.image.tobytes() + s.ids.tobytes()).hexdigest())"
    )
    runs = {
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout for _ in "ab"
    }
    assert len(runs) == 1
    again = make_scene(5, 7)
    assert np.array_equal(again.image, _scenes()[7].image)
    assert np.array_equal(again.masks, _scenes()[7].masks)
    assert np.array_equal(again.order, _scenes()[7].order)


def test_other_numbers_give_other_scenes() -> None:
    images = {make_scene(seed, index, (48, 48)).image.tobytes() for seed in range(4) for index in range(10)}
    assert len(images) == 40


def test_every_class_occurs_and_some_scenes_are_empty() -> None:
    seen = Counter(segment.category_id for scene in _scenes() for segment in scene.segments)
    assert set(seen) == set(SCENE_CATEGORIES.ids.tolist())
    assert min(seen.values()) >= 20
    assert any(len(scene.masks) == 0 for scene in _scenes())
    assert max(len(scene.masks) for scene in _scenes()) <= 20


def test_small_things_lie_on_big_ones_and_like_on_like() -> None:
    name_of = {category.id: category.name for category in SCENE_CATEGORIES}
    pairs: Counter[tuple[str, str]] = Counter()
    for scene in _scenes():
        names = [name_of[s.category_id] for s in scene.segments[: len(scene.masks)]]
        for place, front in enumerate(scene.order):
            for back in scene.order[place + 1 :]:
                if (scene.masks[front] & scene.masks[back]).any():
                    pairs[names[front], names[back]] += 1
    assert pairs["tie", "person"] >= 50
    assert pairs["person", "person"] >= 50
    assert pairs["cup", "table"] >= 20
    assert pairs["umbrella", "person"] >= 20
    assert sum(pairs.values()) >= 5 * len(_scenes())
    assert pairs["person", "chair"] > 0
    assert pairs["chair", "person"] > 0


def test_a_tie_lies_in_front_of_its_person() -> None:
    """Every tie has most of its full mask on some person's."""
    category = {c.name: c.id for c in SCENE_CATEGORIES}
    for scene in _scenes():
        for row, segment in enumerate(scene.segments[: len(scene.masks)]):
            if segment.category_id == category["tie"]:
                hosts = [
                    (scene.masks[row] & scene.masks[other]).sum() / scene.masks[row].sum()
                    for other, host in enumerate(scene.segments[: len(scene.masks)])
                    if host.category_id == category["person"]
                ]
                assert max(hosts) > 0.5


def test_ids_do_not_tell_the_order() -> None:
    agree = [int(a > b) for scene in _scenes() for a, b in zip(scene.order[:-1], scene.order[1:], strict=True)]
    assert 0.4 < np.mean(agree) < 0.6


@pytest.mark.parametrize(("seed", "index", "size"), [(-1, 0, (64, 64)), (0, -1, (64, 64)), (0, 0, (31, 64))])
def test_bad_arguments(seed: int, index: int, size: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="must"):
        make_scene(seed, index, size)


def test_dataset() -> None:
    scenes = Scenes(5, 200)
    assert len(scenes) == 200
    sample, scene = scenes[3], _scenes()[3]
    assert np.array_equal(sample.image.permute(1, 2, 0).numpy(), scene.image)
    assert np.array_equal(sample.target.instances.numpy() + 1, np.where(scene.ids <= len(scene.masks), scene.ids, 0))
    assert SCENE_CATEGORIES.ids[sample.target.labels.numpy()].tolist() == [
        s.category_id for s in scene.segments[: len(scene.masks)]
    ]
    image, truth = scenes.read(3)
    assert np.array_equal(image, scene.image)
    assert np.array_equal(truth.ids, scene.ids)
    for bad in (-1, 200):
        with pytest.raises(IndexError):
            scenes[bad]
        with pytest.raises(IndexError):
            scenes.read(bad)


def _decode(size: list[int], counts: list[int]) -> np.ndarray:
    flat = np.concatenate([np.full(n, k % 2, bool) for k, n in enumerate(counts)])
    return flat.reshape(size[1], size[0]).T


def test_files_hold_the_scenes(tmp_path: Path) -> None:
    done: list[int] = []
    path = write_coco(tmp_path / "a" / "b", seed=5, count=6, size=(96, 128), progress=done.append)
    out = path.parent
    assert done == [1, 2, 3, 4, 5, 6]
    dataset = CocoPanoptic(out / "images", out / "panoptic", path)
    assert dataset.categories == SCENE_CATEGORIES
    amodal = json.loads((out / "instances_amodal.json").read_text())
    stored = json.loads(path.read_text())
    assert len(dataset) == 6
    for index in range(6):
        scene = make_scene(5, index, (96, 128))
        image, truth = dataset.read(index)
        assert np.array_equal(image, scene.image)
        assert np.array_equal(truth.ids, scene.ids)
        assert [(s.id, s.category_id, s.area, s.bbox) for s in truth.segments] == [
            (s.id, s.category_id, s.area, s.bbox) for s in scene.segments
        ]
        infos = stored["annotations"][index]["segments_info"]
        assert [(s["area"], tuple(s["bbox"])) for s in infos] == [(s.area, s.bbox) for s in scene.segments]
        masks = [a for a in amodal["annotations"] if a["image_id"] == index + 1]
        assert [a["panoptic_id"] for a in masks] == list(range(1, len(scene.masks) + 1))
        for annotation, mask in zip(masks, scene.masks, strict=True):
            assert np.array_equal(_decode(**annotation["segmentation"]), mask)
            assert annotation["area"] == mask.sum()
        assert sorted(range(len(masks)), key=lambda row: masks[row]["depth"]) == scene.order.tolist()
    assert Image.open(out / "images" / stored["images"][0]["file_name"]).size == (128, 96)


def test_reference_decoder_reads_the_masks(tmp_path: Path) -> None:
    mask_tools = pytest.importorskip("pycocotools.mask")
    write_coco(tmp_path, seed=5, count=3)
    amodal = json.loads((tmp_path / "instances_amodal.json").read_text())
    for annotation in amodal["annotations"]:
        mask = mask_tools.decode(mask_tools.frPyObjects(annotation["segmentation"], 256, 256))
        row = annotation["panoptic_id"] - 1
        assert np.array_equal(mask.astype(bool), _scenes()[annotation["image_id"] - 1].masks[row])


@functools.cache
def _in_context() -> list[Scene]:
    return [make_scene(5, index, (128, 128), context=True) for index in range(300)]


def _present(scenes: list[Scene]) -> dict[str, np.ndarray]:
    """Which scenes each class occurs in, by name."""
    ids = [{segment.category_id for segment in scene.segments} for scene in scenes]
    return {c.name: np.array([c.id in found for found in ids]) for c in SCENE_CATEGORIES}


def _correlation(scenes: list[Scene]) -> float:
    """Mean absolute correlation of the presence of things with that of stuff."""
    present = _present(scenes)
    things, stuff = ([present[c.name] for c in SCENE_CATEGORIES if c.isthing == kind] for kind in (True, False))
    return float(np.mean([abs(np.corrcoef(a, b)[0, 1]) for a in things for b in stuff]))


def test_scenes_without_context_are_those_of_earlier_versions() -> None:
    digest = hashlib.sha256()
    for index in range(20):
        scene = make_scene(5, index, (96, 128))
        for array in (scene.ids, scene.masks, scene.order):
            digest.update(array.tobytes())
        digest.update((scene.image // 16).astype(np.uint8).tobytes())
    assert digest.hexdigest() == "ac671c3fb519ef447b72b663be7fb1459063c8d9eef9df2be4b5d02e82ff2570"


def test_scenes_in_context_are_exact_too() -> None:
    for scene in _in_context():
        _check(scene)
    assert not np.array_equal(_in_context()[0].image, make_scene(5, 0, (128, 128)).image)
    assert np.array_equal(_in_context()[7].image, make_scene(5, 7, (128, 128), context=True).image)
    assert min(found.sum() for found in _present(_in_context()).values()) >= 10


def test_things_depend_on_the_ground_in_context_only() -> None:
    assert _correlation([make_scene(5, index, (64, 64)) for index in range(300)]) < 0.08
    assert _correlation(_in_context()) > 0.18
    present = _present(_in_context())
    homes = {"car": "road", "chair": "floor", "table": "floor", "cup": "floor", "kite": "sky", "umbrella": "sand"}
    for thing, ground in {**homes, "ball": "grass"}.items():
        with_ground, without = (present[thing][present[ground] == there].mean() for there in (True, False))
        assert with_ground > 0.4 > 0.3 > without, (thing, ground, with_ground, without)


@pytest.mark.parametrize("pair", [("road", "floor"), ("sky", "wall"), ("sand", "grass")])
def test_texture_hardly_tells_the_pairs_apart_in_context(pair: tuple[str, str]) -> None:
    def mean_colors(scenes: list[Scene]) -> tuple[np.ndarray, np.ndarray]:
        """Mean colour of each region of the pair, and which of the two it is."""
        ids = [next(c.id for c in SCENE_CATEGORIES if c.name == name) for name in pair]
        found = [
            (scene.image[scene.ids == segment.id].mean(0), ids.index(segment.category_id))
            for scene in scenes
            for segment in scene.segments
            if segment.category_id in ids and segment.area > 400
        ]
        colors, kinds = zip(*found, strict=True)
        return np.array(colors), np.array(kinds)

    def nearest_is_right(scenes: list[Scene]) -> float:
        colors, kinds = mean_colors(scenes)
        distance = ((colors[:, None] - colors[None]) ** 2).sum(-1)
        np.fill_diagonal(distance, np.inf)
        right = kinds[distance.argmin(1)] == kinds
        return float(np.mean([right[kinds == kind].mean() for kind in (0, 1)]))

    assert nearest_is_right(_in_context()) < 0.72
    assert nearest_is_right([make_scene(5, index, (128, 128)) for index in range(300)]) > 0.8


def test_recipes_can_ask_for_context() -> None:
    data = DataConfig(kind="scenes", scene_size=64, scene_context=True, shorter=(64,), longer=64, flip=0, crop=(1, 1))
    sample = training_set(data)[0]
    assert np.array_equal(sample.image.permute(1, 2, 0).numpy(), make_scene(1, 0, (64, 64), context=True).image)
    assert np.array_equal(open_validation(data)[3].image, make_scene(2, 3, (64, 64), context=True).image)


def test_files_can_have_context(tmp_path: Path) -> None:
    path = write_coco(tmp_path, seed=5, count=1, size=(64, 64), context=True)
    stored = json.loads(path.read_text())
    assert "with context" in stored["info"]["description"]
    image = np.asarray(Image.open(tmp_path / "images" / stored["images"][0]["file_name"]))
    assert np.array_equal(image, make_scene(5, 0, (64, 64), context=True).image)

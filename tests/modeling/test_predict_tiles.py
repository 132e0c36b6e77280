"""Networks whose images come in tiles, and `banet predict --tile`."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from factories import blocks, categories, small_model
from PIL import Image

from banet.data.scenes.generate import SCENE_CATEGORIES, make_scene
from banet.engine.export.runtime import ExportedModel
from banet.engine.prediction import images, predict
from banet.engine.prediction.predict import predict_files
from banet.files.outputs import RECORD
from banet.inference.banet import BANet
from banet.modeling.config import InferenceConfig
from banet.panoptic import PanopticQuality, PanopticSegmentation
from banet.panoptic.coco.png import read_ids
from banet.panoptic.tiles import merge_tiles, tile_boxes


@pytest.fixture
def model() -> ExportedModel:
    return exported(InferenceConfig(shorter=64, longer=96, stuff_area=16))


def exported(inference: InferenceConfig) -> ExportedModel:
    """A graph that is a function: two things that overlap, and stuff by brightness."""

    def run(pixels: np.ndarray) -> list[np.ndarray]:
        height, width = pixels.shape[2:]
        boxes = np.array([[2, 3, width / 2, height / 2], [width / 3, 8, width - 4, height - 9]], dtype=np.float32)
        masks = np.linspace(0, 1, 2 * 28 * 28, dtype=np.float32).reshape(2, 28, 28) * [[[1.2]], [[1]]]
        logits = np.random.default_rng(0).random((1, 5, -(-height // 4), -(-width // 4)), dtype=np.float32)
        return [boxes, np.array([0.9, 0.8], dtype=np.float32), np.array([2, 0]), masks.astype(np.float32), logits]

    return ExportedModel(run, categories(), inference)


def same(one, other) -> bool:
    return (
        np.array_equal(one.ids, other.ids)
        and one.segments == other.segments
        and np.array_equal(one.image, other.image)
        and one.categories == other.categories
    )


@pytest.mark.parametrize("stuff_area", [0, 16, 3000])
@pytest.mark.parametrize("thing_pixels", ["void", "best_stuff"])
def test_one_tile_changes_nothing(stuff_area, thing_pixels):
    options = {"shorter": 96, "longer": 160, "stuff_area": stuff_area, "thing_pixels": thing_pixels}
    model = exported(InferenceConfig(**options))
    for size in [(96, 130), (61, 40)]:
        image = blocks(*size)
        plain = model.predict(image, rule="score")
        for tile in (max(size), 4000):
            assert same(model.predict(image, rule="score", tile=tile), plain)


def test_nor_does_it_with_a_network_of_torch():
    model = small_model(
        inference=InferenceConfig(
            shorter=64, longer=96, proposals_per_level=20, proposals=30, score_threshold=0.26, stuff_area=9
        )
    )
    image = blocks(60, 80)
    plain = model.predict(image)
    assert any(s.isthing for s in plain.segments)
    assert same(model.predict(image, tile=80), plain)
    assert len(model.predict([image], tile=50)[0].segments) > 0


def test_every_kind_of_image_and_lists_of_them_may_come_in_tiles(model, tmp_path):
    image = blocks(90, 150)
    Image.fromarray(image).save(tmp_path / "a.png")
    np.save(tmp_path / "a.npy", image)
    expected = model.predict(image, tile=64, overlap=16)
    for each in (
        str(tmp_path / "a.png"),
        Image.fromarray(image),
        torch.from_numpy(image).permute(2, 0, 1),
        image.astype(np.float32),
        np.load(tmp_path / "a.npy", mmap_mode="r"),
    ):
        assert same(model.predict(each, tile=64), expected)  # the overlap is a quarter of the tile
    many = model.predict([image, image[:50]], tile=64, overlap=16)
    assert same(many[0], expected) and many[1].ids.shape == (50, 150)


def test_tiles_go_through_the_network_one_by_one_with_all_their_stuff(monkeypatch):
    # Noise, of which no class has many pixels in a tile; in the image each has.
    inference = InferenceConfig(shorter=64, longer=64, stuff_area=1000)
    model = exported(inference)
    sizes = []
    predict_unfused = model.predict_unfused

    def note(parts):
        sizes.extend(part.shape for part in parts)
        return predict_unfused(parts)

    monkeypatch.setattr(model, "predict_unfused", note)
    result = model.predict(blocks(100, 150), tile=64, overlap=10)
    assert sizes == [(64, 64, 3)] * len(tile_boxes((100, 150), 64, 10))
    stuff = [s for s in result.segments if not s.isthing]
    assert stuff and all(s.area >= 1000 for s in stuff)
    result.check()


def test_overlap_must_fit(model):
    with pytest.raises(ValueError, match="overlap must be at least 1 and less than the tile of 64"):
        model.predict(blocks(90, 150), tile=64, overlap=64)


def test_predict_writes_the_same_files_where_one_tile_holds_the_image(model, tmp_path, monkeypatch):
    monkeypatch.setattr(predict, "open_model", lambda *_, **__: (model, "cpu"))
    image = Image.fromarray(blocks(90, 150))
    image.save(tmp_path / "a.png")
    for out, tile in (("plain", None), ("tile", 150), ("tiles", 64)):
        assert predict_files("w", [str(tmp_path / "a.png")], tmp_path / out, tile=tile, gallery=out == "tiles") == 0
    names = ["a.json", "a.png", "a_overlay.jpg"]
    assert sorted(p.name for p in (tmp_path / "plain").iterdir() if p.name != RECORD) == [
        *names,
        "panoptic.json",
        "segments.csv",
    ]
    assert all((tmp_path / "plain" / n).read_bytes() == (tmp_path / "tile" / n).read_bytes() for n in names)
    expected = model.predict(image, tile=64)
    assert np.array_equal(read_ids(tmp_path / "tiles" / "a.png"), expected.ids)
    with Image.open(tmp_path / "tiles" / "a_overlay.jpg") as overlay:
        assert overlay.width == Image.open(tmp_path / "plain" / "a_overlay.jpg").width
    assert (tmp_path / "tiles" / "gallery.html").exists()


def test_overlays_of_large_images_are_reduced(model, tmp_path: Path, monkeypatch):
    monkeypatch.setattr(predict, "open_model", lambda *_, **__: (model, "cpu"))
    monkeypatch.setattr(images, "_OVERLAY_SIDE", 400)
    array = blocks(70, 1300)
    Image.fromarray(array).save(tmp_path / "a.png")
    predict_files("w", [str(tmp_path / "a.png")], tmp_path / "out", tile=500)
    assert read_ids(tmp_path / "out" / "a.png").shape == (70, 1300)
    with Image.open(tmp_path / "out" / "a_overlay.jpg") as overlay:
        assert overlay.width == 650  # of 325 pixels, which a legend enlarges twice


def test_in_tiles_there_is_one_image_at_a_time(model, tmp_path, monkeypatch):
    events = []
    read, save = images.open_image, PanopticSegmentation.save
    monkeypatch.setattr(predict, "open_model", lambda *_, **__: (model, "cpu"))
    monkeypatch.setattr(images, "open_image", lambda *a, **k: events.append("read") or read(*a, **k))
    monkeypatch.setattr(PanopticSegmentation, "save", lambda *a, **k: (save(*a, **k), events.append("saved"))[0])
    for name in "ab":
        Image.fromarray(blocks(64, 100)).save(tmp_path / f"{name}.png")
    predict_files("w", [str(tmp_path)], tmp_path / "out", tile=64)
    assert events == ["read", "saved", "read", "saved"]


@pytest.mark.slow
def test_shipped_weights_on_a_mosaic_lose_little_by_seams():
    model = BANet.from_pretrained("scenes")
    scenes = [make_scene(901, index) for index in range(9)]
    places = [(256 * x, 256 * y, 256 * x + 256, 256 * y + 256) for y in range(3) for x in range(3)]
    truths = [
        PanopticSegmentation.from_ids(
            scene.ids, [{"id": s.id, "category_id": s.category_id} for s in scene.segments], SCENE_CATEGORIES
        )
        for scene in scenes
    ]
    truth = merge_tiles(zip(places, truths, strict=True), (768, 768))
    rows = [np.concatenate([scene.image for scene in scenes[3 * y : 3 * y + 3]], axis=1) for y in range(3)]
    picture = np.concatenate(rows, axis=0)
    # No seam cuts a scene on its own; and where tiles do not overlap nothing can be joined.
    edges = [0, 128, 384, 640, 768]
    apart = [(x1, y1, x2, y2) for y1, y2 in pairwise(edges) for x1, x2 in pairwise(edges)]
    alone, cut = (
        merge_tiles([(box, model.predict(picture[box[1] : box[3], box[0] : box[2]])) for box in boxes], (768, 768))
        for boxes in (places, apart)
    )
    results = {"alone": alone, "cut": cut, "joined": model.predict(picture, tile=256, overlap=64)}
    things = {}
    for name, result in results.items():
        score = PanopticQuality(SCENE_CATEGORIES)
        score.update(result, truth)
        things[name] = score.compute()["Things"]["pq"]
    assert things["joined"] > 0.9 * things["alone"], things
    assert things["joined"] > 1.1 * things["cut"], things

"""Weights on disk and warm starts."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from safetensors.torch import save_file
from small import small_model

from banet import BANet
from banet.errors import InputError
from banet.modeling.build import build_model
from banet.modeling.config import InferenceConfig, ModelConfig
from banet.modeling.weights import initialise
from banet.panoptic import Categories, Category


def test_saved_and_loaded_output_is_equal_to_the_bit(tmp_path: Path, images: list[torch.Tensor]) -> None:
    model = small_model()
    path = model.save_pretrained(tmp_path, note="hello")
    loaded = BANet.from_pretrained(tmp_path)
    assert path == tmp_path / "model.safetensors" and not list(tmp_path.glob("*tmp*"))
    assert loaded.config == model.config and loaded.inference == model.inference
    assert loaded.categories == model.categories
    with torch.no_grad():
        a, b = model(images), loaded(images)
    assert torch.equal(a.logits, b.logits)
    for one, other in zip(a.detections, b.detections, strict=True):
        assert torch.equal(one.boxes, other.boxes) and torch.equal(one.masks, other.masks)
    picture = np.zeros((50, 60, 3), np.uint8)
    assert np.array_equal(model.predict(picture).ids, loaded.predict(picture).ids)


def test_half_precision_is_half_the_size(tmp_path: Path) -> None:
    model = small_model()
    full, half = model.save_pretrained(tmp_path / "a"), model.save_pretrained(tmp_path / "b", half=True)
    assert half.stat().st_size < 0.55 * full.stat().st_size
    loaded = BANet.from_pretrained(half)
    for name, tensor in loaded.state_dict().items():
        torch.testing.assert_close(tensor, model.state_dict()[name], rtol=1e-3, atol=1e-4)


def test_what_is_not_our_weights_is_refused(tmp_path: Path) -> None:
    def refused(path: Path, message: str) -> None:
        with pytest.raises(InputError, match=message) as caught:
            BANet.from_pretrained(path)
        assert str(path) in str(caught.value) and "\n" not in str(caught.value)

    (tmp_path / "empty.safetensors").touch()
    refused(tmp_path / "empty.safetensors", "not a readable safetensors")
    (tmp_path / "evil.safetensors").write_bytes(pickle.dumps({"a": 1}))
    refused(tmp_path / "evil.safetensors", "not a readable safetensors")
    save_file({"a": torch.zeros(1)}, tmp_path / "other.safetensors")
    refused(tmp_path / "other.safetensors", "not written by this library")
    refused(tmp_path / "missing.safetensors", "no such weights")
    model = small_model()
    path = model.save_pretrained(tmp_path / "cut.safetensors")
    path.write_bytes(path.read_bytes()[:-1000])
    refused(path, "not a readable safetensors")


def test_weights_whose_header_names_another_network_are_refused(tmp_path: Path) -> None:
    model = small_model()
    model.config = ModelConfig(backbone="resnet34", norm="group", frozen_stages=0)
    path = model.save_pretrained(tmp_path / "a.safetensors")
    with pytest.raises(InputError, match="shape"):
        BANet.from_pretrained(path)


def coco_like(names: list[str]) -> Categories:
    return Categories([Category(5 + i, name, True) for i, name in enumerate(names)] + [Category(300, "wall", False)])


@pytest.fixture(scope="module")
def mask_rcnn() -> torch.nn.Module:
    torch.manual_seed(0)
    return torchvision.models.detection.maskrcnn_resnet50_fpn(weights=None, weights_backbone=None).eval()


def test_a_torchvision_mask_rcnn_fills_every_matching_part(tmp_path: Path, mask_rcnn: torch.nn.Module) -> None:
    torch.save(mask_rcnn.state_dict(), tmp_path / "mask_rcnn.pth")
    model = build_model(coco_like(["dog", "person"]), ModelConfig(norm="frozen_batch"), InferenceConfig())
    filled = initialise(model, str(tmp_path / "mask_rcnn.pth"))
    left = {".".join(name.split(".")[:2]) for name in filled.left}
    assert left == {
        *(f"semantic_head.{i}" for i in (0, 2, 4)),
        "roi_features.phi", "segmenter.first", "segmenter.final", "segmenter.i2s",
    }  # fmt: skip
    assert all("mask_head.3" in name or "num_batches_tracked" in name for name in filled.unused)  # we have three
    text = str(filled)
    assert "filled" in text and "semantic_head" in text and "roi_heads.mask_head" in text

    rois = mask_rcnn.roi_heads
    x = torch.randn(2, 256, 7, 7)
    with torch.no_grad():
        logits, deltas = model.box_head(x)
        their_logits, their_deltas = rois.box_predictor(rois.box_head(x))
        names = torchvision.models.detection.MaskRCNN_ResNet50_FPN_Weights.COCO_V1.meta["categories"]
        dog, person = names.index("dog"), names.index("person")
        torch.testing.assert_close(logits, their_logits[:, [dog, person, 0]], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(deltas[:, 0], their_deltas[:, 4 * dog : 4 * dog + 4], rtol=1e-4, atol=1e-5)
        pixels = torch.randn(1, 3, 64, 64)
        theirs = list(mask_rcnn.backbone(pixels).values())
        for ours, other in zip(model.backbone(pixels), theirs, strict=True):
            torch.testing.assert_close(ours, other, rtol=1e-4, atol=1e-4)
        ours, _ = model.rpn.head(theirs)
        other, _ = mask_rcnn.rpn.head(theirs)
        torch.testing.assert_close(ours[0], other[0])


def test_old_names_of_torchvision_are_understood(tmp_path: Path, mask_rcnn: torch.nn.Module) -> None:
    old = {
        name.replace("blocks.0.0.", "blocks.0.").replace("blocks.1.0.", "blocks.1.").replace("blocks.2.0.", "blocks.2.")
        .replace("blocks.3.0.", "blocks.3.").replace("head.conv.0.0.", "head.conv.")
        .replace("mask_head.0.0.", "mask_head.mask_fcn1."): tensor
        for name, tensor in mask_rcnn.state_dict().items()
    }  # fmt: skip
    torch.save(old, tmp_path / "old.pth")
    model = build_model(coco_like(["dog"]), ModelConfig(norm="frozen_batch"))
    filled = set(initialise(model, str(tmp_path / "old.pth")).filled)
    assert {"backbone.fpn.inner_blocks.2.0.weight", "rpn.head.conv.0.0.bias", "mask_head.convs.0.weight"} <= filled


def test_own_classes_keep_their_box_head_at_random(tmp_path: Path, mask_rcnn: torch.nn.Module) -> None:
    torch.save(mask_rcnn.state_dict(), tmp_path / "m.pth")
    model = build_model(coco_like(["dog", "nucleus"]), ModelConfig(norm="frozen_batch"))
    before = model.box_head.classes.weight.clone()
    filled = initialise(model, str(tmp_path / "m.pth"))
    assert torch.equal(model.box_head.classes.weight, before) and "box_head.classes.weight" in filled.left


class Evil:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return (Path.touch, (self.path,))


def test_a_malicious_pickle_is_refused_and_runs_nothing(tmp_path: Path) -> None:
    torch.save({"model": Evil(tmp_path / "pwned")}, tmp_path / "evil.pth")
    with pytest.raises(InputError, match="refused"):
        initialise(small_model(), str(tmp_path / "evil.pth"))
    assert not (tmp_path / "pwned").exists()


def test_what_fits_nowhere_is_refused(tmp_path: Path) -> None:
    torch.save({"a": torch.zeros(3)}, tmp_path / "a.pth")
    torch.save([1, 2], tmp_path / "b.pth")
    (tmp_path / "c.pth").write_bytes(b"no")
    for name, message in (("a.pth", "fits"), ("b.pth", "state_dict"), ("c.pth", "c.pth")):
        with pytest.raises(InputError, match=message):
            initialise(small_model(), str(tmp_path / name))


def test_own_weights_with_another_class_list_keep_the_matching_names(tmp_path: Path) -> None:
    source = small_model(3, 2)
    path = source.save_pretrained(tmp_path)
    torch.manual_seed(9)
    classes = Categories(
        [
            Category(1, "new", True),
            Category(2, "thing 2", True),
            Category(3, "stuff 1", False),
            Category(4, "thing 0", False),
        ]
    )
    model = build_model(classes, source.config)
    fresh = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    initialise(model, str(path))
    ours, theirs = model.state_dict(), source.state_dict()
    assert torch.equal(ours["segmenter.final.weight"][1], theirs["segmenter.final.weight"][2])
    assert torch.equal(ours["segmenter.final.weight"][2], theirs["segmenter.final.weight"][4])
    assert torch.equal(ours["segmenter.final.weight"][3], fresh["segmenter.final.weight"][3])  # stuff now
    assert torch.equal(ours["box_head.classes.weight"][2], theirs["box_head.classes.weight"][3])  # background
    assert torch.equal(ours["box_head.boxes.weight"][4:8], theirs["box_head.boxes.weight"][8:12])
    assert torch.equal(ours["mask_head.masks.weight"][0], fresh["mask_head.masks.weight"][0])
    assert torch.equal(ours["backbone.body.conv1.weight"], theirs["backbone.body.conv1.weight"])

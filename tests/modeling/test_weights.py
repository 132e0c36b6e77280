"""Weights on disk and warm starts."""

from __future__ import annotations

import copy
import hashlib
import pickle
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub
import numpy as np
import pytest
import torch
import torchvision
from factories import small_model
from huggingface_hub import CommitInfo, CommitOperationAdd, HfApi, ModelCard
from huggingface_hub.errors import LocalTokenNotFoundError
from safetensors.torch import save_file
from torchvision.ops import FrozenBatchNorm2d

from banet import BANet
from banet.checkpoint import warm_start
from banet.checkpoint.warm_start import initialize
from banet.cli import main
from banet.engine.options import load_recipe
from banet.engine.recipe import Recipe, TrainConfig, to_yaml
from banet.errors import InputError, InputWarning
from banet.modeling.config import InferenceConfig, ModelConfig
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
    image = np.zeros((50, 60, 3), np.uint8)
    assert np.array_equal(model.predict(image).ids, loaded.predict(image).ids)


@pytest.mark.parametrize("options", [{"deformable": True}, {"backbone": "convnext_tiny"}])
def test_a_network_for_weights_draws_no_random_number_and_has_all_else(tmp_path: Path, options: dict[str, Any]) -> None:
    model = small_model(**options)
    path = model.save_pretrained(tmp_path)
    torch.manual_seed(3)
    before = torch.get_rng_state()
    loaded = BANet.from_pretrained(path)
    assert torch.equal(torch.get_rng_state(), before)
    for kind in ("named_parameters", "named_buffers"):
        own, other = (dict(getattr(one, kind)()) for one in (model, loaded))
        assert own.keys() == other.keys() and all(torch.equal(own[name], other[name]) for name in own)


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
    refused(tmp_path / "empty.safetensors", "is empty")
    (tmp_path / "evil.safetensors").write_bytes(pickle.dumps({"a": 1}))
    refused(tmp_path / "evil.safetensors", "not a safetensors file")
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
    model = BANet(coco_like(["dog", "person"]), ModelConfig(norm="frozen_batch"), InferenceConfig())
    filled = initialize(model, str(tmp_path / "mask_rcnn.pth"))
    left = {".".join(name.split(".")[:2]) for name in filled.missing}
    assert left == {
        *(f"semantic_head.{i}" for i in (0, 2, 4)),
        "roi_features.phi", "segmenter.first", "segmenter.final", "segmenter.i2s",
    }  # fmt: skip
    assert all("mask_head.3" in name or "num_batches_tracked" in name for name in filled.unexpected)  # we have three
    text = str(filled)
    assert re.match(r"\d+ of \d+ tensors taken; at random: ", text) and "semantic head" in text and "S2I" in text

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
            torch.testing.assert_close(ours, other, rtol=1e-3, atol=1e-3)
        ours, _ = model.rpn.head(theirs)
        other, _ = mask_rcnn.rpn.head(theirs)
        torch.testing.assert_close(ours[0], other[0])


def test_init_coco_keeps_the_eps_that_torchvision_gives_its_published_weights(
    tmp_path: Path, mask_rcnn: torch.nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    published = copy.deepcopy(mask_rcnn)
    generator = torch.Generator().manual_seed(0)
    norms = [m for m in published.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    for norm in norms:  # variances as small as eps, where it matters
        norm.running_var.copy_(torch.rand(norm.running_var.shape, generator=generator) * 1e-4 + 1e-6)
        norm.weight.data.fill_(1e-3)
    weights = torchvision.models.detection.MaskRCNN_ResNet50_FPN_Weights.COCO_V1
    torch.save(published.state_dict(), tmp_path / "other.pth")
    torch.save(published.state_dict(), tmp_path / weights.url.rpartition("/")[2])
    state = published.state_dict()
    monkeypatch.setattr(type(weights), "get_state_dict", lambda self, **options: state)

    def pyramid(init: str) -> torch.Tensor:
        model = BANet(coco_like(["dog"]), ModelConfig(norm="frozen_batch"))
        initialize(model, init)
        return model.backbone(pixels)[0]

    def distance(one: torch.Tensor, other: torch.Tensor) -> float:
        return float((one - other).norm() / other.norm())

    pixels = torch.randn(1, 3, 64, 64, generator=generator)
    with torch.no_grad():
        as_given = published.backbone(pixels)["0"]
        for norm in norms:
            norm.eps = 1e-12  # torchvision's `overwrite_eps` sets 0 after loading, which torch 2.11 refuses here
        wanted = published.backbone(pixels)["0"]
        for init in ("coco", str(tmp_path / weights.url.rpartition("/")[2])):
            assert distance(pyramid(init), wanted) < 1e-3
        assert distance(pyramid(str(tmp_path / "other.pth")), as_given) < 1e-3
        assert distance(as_given, wanted) > 0.1


def test_small_variances_of_published_weights_survive_half_precision() -> None:
    """torchvision's detectors have variances that half precision rounds to zero."""
    variance = torch.tensor([1e-12, 1e-9, 1e-8, 3e-8, 1e-5, 1.0])
    theirs = {"n.running_var": variance, "n.weight": variance.sqrt(), "n.running_mean": torch.zeros(6)}
    ours = {name: tensor.half().float() for name, tensor in warm_start._with_own_eps(theirs).items()}
    scale = ours["n.weight"] / (ours["n.running_var"] + FrozenBatchNorm2d(1).eps).sqrt()
    torch.testing.assert_close(scale, torch.ones(6), rtol=0.02, atol=0)


def test_old_names_of_torchvision_are_understood(tmp_path: Path, mask_rcnn: torch.nn.Module) -> None:
    old = {
        name.replace("blocks.0.0.", "blocks.0.").replace("blocks.1.0.", "blocks.1.").replace("blocks.2.0.", "blocks.2.")
        .replace("blocks.3.0.", "blocks.3.").replace("head.conv.0.0.", "head.conv.")
        .replace("mask_head.0.0.", "mask_head.mask_fcn1."): tensor
        for name, tensor in mask_rcnn.state_dict().items()
    }  # fmt: skip
    torch.save(old, tmp_path / "old.pth")
    model = BANet(coco_like(["dog"]), ModelConfig(norm="frozen_batch"))
    filled = set(initialize(model, str(tmp_path / "old.pth")).loaded)
    assert {"backbone.fpn.inner_blocks.2.0.weight", "rpn.head.conv.0.0.bias", "mask_head.convs.0.weight"} <= filled


def test_own_classes_keep_their_box_head_at_random(tmp_path: Path, mask_rcnn: torch.nn.Module) -> None:
    torch.save(mask_rcnn.state_dict(), tmp_path / "m.pth")
    model = BANet(coco_like(["dog", "nucleus"]), ModelConfig(norm="frozen_batch"))
    before = model.box_head.classes.weight.clone()
    filled = initialize(model, str(tmp_path / "m.pth"))
    assert torch.equal(model.box_head.classes.weight, before) and "box_head.classes.weight" in filled.missing


class Evil:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return (Path.touch, (self.path,))


def test_a_malicious_pickle_is_refused_and_runs_nothing(tmp_path: Path) -> None:
    torch.save({"model": Evil(tmp_path / "pwned")}, tmp_path / "evil.pth")
    with pytest.raises(InputError, match="refused"):
        initialize(small_model(), str(tmp_path / "evil.pth"))
    assert not (tmp_path / "pwned").exists()


def test_what_fits_nowhere_is_refused(tmp_path: Path) -> None:
    torch.save({"a": torch.zeros(3)}, tmp_path / "a.pth")
    torch.save([1, 2], tmp_path / "b.pth")
    (tmp_path / "c.pth").write_bytes(b"no")
    for name, message in (("a.pth", "fits"), ("b.pth", "state_dict"), ("c.pth", "c.pth")):
        with pytest.raises(InputError, match=message):
            initialize(small_model(), str(tmp_path / name))


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
    model = BANet(classes, source.config)
    fresh = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    filled = initialize(model, str(path))
    assert "classes kept: thing 2, stuff 1; at random: new, thing 0" in str(filled)
    ours, theirs = model.state_dict(), source.state_dict()
    assert torch.equal(ours["segmenter.final.weight"][1], theirs["segmenter.final.weight"][2])
    assert torch.equal(ours["segmenter.final.weight"][2], theirs["segmenter.final.weight"][4])
    assert torch.equal(ours["segmenter.final.weight"][3], fresh["segmenter.final.weight"][3])  # stuff now
    assert torch.equal(ours["box_head.classes.weight"][2], theirs["box_head.classes.weight"][3])  # background
    assert torch.equal(ours["box_head.boxes.weight"][4:8], theirs["box_head.boxes.weight"][8:12])
    assert torch.equal(ours["mask_head.masks.weight"][0], fresh["mask_head.masks.weight"][0])
    assert torch.equal(ours["backbone.body.conv1.weight"], theirs["backbone.body.conv1.weight"])


def test_rows_of_other_classes_are_never_taken_by_position(tmp_path: Path) -> None:
    """As many classes, none of them the same: every tensor of the old rows would fit."""
    path = small_model(3, 2).save_pretrained(tmp_path)
    torch.manual_seed(9)
    classes = Categories([Category(i, f"other {i}", i < 4) for i in range(1, 6)])
    model = BANet(classes, small_model(3, 2).config)
    fresh = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    initialize(model, str(path))
    own = model.state_dict()
    for part in ("segmenter.first", "segmenter.final", "mask_head.masks", "box_head.boxes"):
        assert torch.equal(own[f"{part}.weight"], fresh[f"{part}.weight"]), part
    assert torch.equal(own["box_head.classes.weight"][:3], fresh["box_head.classes.weight"][:3])


@pytest.mark.parametrize("prefix", ["", "module.encoder_q."])
def test_a_backbone_alone_is_understood(tmp_path: Path, prefix: str) -> None:
    torch.manual_seed(3)
    resnet = torchvision.models.resnet18()
    for name, buffer in resnet.named_buffers():
        if "running" in name:
            torch.nn.init.uniform_(buffer, 0.5, 2)
    torch.save({"model": {f"{prefix}{k}": v for k, v in resnet.state_dict().items()}}, tmp_path / "resnet.pth")
    model = small_model(norm="frozen_batch")
    filled = initialize(model, str(tmp_path / "resnet.pth"))
    assert {name.split(".")[1] for name in filled.loaded} == {"body"}
    assert not [name for name in filled.missing if name.startswith("backbone.body")]
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        theirs = resnet.eval().layer1(resnet.maxpool(resnet.relu(resnet.bn1(resnet.conv1(x)))))
        torch.testing.assert_close(model.backbone.body(x)["P2"], theirs, rtol=1e-4, atol=1e-4)


def test_weights_with_another_norm_are_refused(tmp_path: Path) -> None:
    path = small_model().save_pretrained(tmp_path)
    with pytest.raises(InputError, match=r"norm group, this network frozen_batch; set --model\.norm group"):
        initialize(small_model(norm="frozen_batch"), str(path))


def test_auto_norm_is_that_of_the_weights_that_training_starts_from(tmp_path: Path) -> None:
    path = small_model().save_pretrained(tmp_path)
    for init, norm in (("random", "group"), ("imagenet", "frozen_batch"), ("a.pth", "frozen_batch"), (path, "group")):
        assert Recipe(train=TrainConfig(init=str(init))).resolved().model.norm == norm


# -------------------------------------------------------------------------------------------------------------- hub


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> dict[str, dict[str, bytes]]:
    """A hub in memory: files by repository."""
    repositories: dict[str, dict[str, bytes]] = {}

    def create_repo(self: object, repo_id: str, *, private: bool, exist_ok: bool) -> None:
        assert exist_ok and "/" in repo_id
        repositories.setdefault(repo_id, {})

    def create_commit(
        self: object, repo_id: str, operations: list[CommitOperationAdd], *, commit_message: str
    ) -> CommitInfo:
        for operation in operations:
            with operation.as_file() as file:
                repositories[repo_id][operation.path_in_repo] = file.read()
        return CommitInfo(
            commit_url=f"https://huggingface.co/{repo_id}/commit/1",
            commit_message=commit_message,
            commit_description="",
            oid="1",
        )

    def get_paths_info(self: object, repo_id: str, paths: list[str]) -> list[SimpleNamespace]:
        files = repositories[repo_id]
        digests = {
            name: SimpleNamespace(sha256=hashlib.sha256(files[name]).hexdigest()) for name in paths if name in files
        }
        return [SimpleNamespace(path=name, lfs=digest) for name, digest in digests.items()]

    def hf_hub_download(self: object, repo_id: str, filename: str, *, local_dir: str) -> None:
        (Path(local_dir) / filename).write_bytes(repositories[repo_id][filename])

    monkeypatch.setattr(HfApi, "create_repo", create_repo)
    monkeypatch.setattr(HfApi, "create_commit", create_commit)
    monkeypatch.setattr(HfApi, "get_paths_info", get_paths_info)
    monkeypatch.setattr(HfApi, "hf_hub_download", hf_hub_download)
    return repositories


def test_pushed_weights_come_back_with_a_card_that_tells_all(
    hub: dict[str, dict[str, bytes]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    recipe = Recipe(name="tiny")
    model = small_model()
    model.save_pretrained(tmp_path, recipe="tiny", recipe_yaml=to_yaml(recipe), iterations="90", pq="12.34")
    assert main(["push", str(tmp_path), "me/street.v2", "--license", "cc-by-4.0"]) == 0
    assert capsys.readouterr().out == "https://huggingface.co/me/street.v2/commit/1\n"
    card = ModelCard(hub["me/street.v2"]["README.md"].decode())
    assert (card.data.license, card.data.library_name) == ("cc-by-4.0", "banet")
    assert card.data.eval_results is not None and card.data.eval_results[0].metric_value == 12.34
    assert "Things: thing 0, thing 1, thing 2" in card.text and "Stuff: stuff 0, stuff 1" in card.text
    assert "12.34 on the validation split" in card.text and "in 90 iterations" in card.text
    block = card.text.split("```yaml\n")[1].split("```")[0]
    (tmp_path / "card.yaml").write_text(block)
    assert load_recipe(str(tmp_path / "card.yaml")) == recipe

    def download(repository: str, name: str) -> str:
        (tmp_path / "cache").mkdir()
        (tmp_path / "cache" / name).write_bytes(hub[repository][name])
        return str(tmp_path / "cache" / name)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    loaded = BANet.from_pretrained("me/street.v2").state_dict()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize("name", ["README.md", "model.safetensors"])
def test_pushing_replaces_only_what_was_pushed(
    name: str, hub: dict[str, dict[str, bytes]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["push", str(tmp_path), "me/mine", "--license", "mit"]
    small_model().save_pretrained(tmp_path, recipe="one")
    hub["me/mine"] = {name: b"theirs"}
    assert main(command) == 2
    assert f"me/mine: {name}: exists already" in capsys.readouterr().err and hub["me/mine"] == {name: b"theirs"}
    assert main([*command, "--overwrite"]) == 0 and hub["me/mine"][name] != b"theirs"
    small_model().save_pretrained(tmp_path, recipe="two")
    assert main(command) == 0 and b"two" in hub["me/mine"]["README.md"]
    hub["me/mine"][name] += b"edited"
    before = dict(hub["me/mine"])
    assert main(command) == 2 and hub["me/mine"] == before


def test_a_model_pushes_itself_and_says_when_nothing_was_measured(hub: dict[str, dict[str, bytes]]) -> None:
    small_model().push_to_hub("me/mine", license="apache-2.0", recipe="mine")
    card = hub["me/mine"]["README.md"].decode()
    assert "**PQ:** not measured" in card and "model-index" not in card and "- **Recipe:** mine" in card


class NoConnection(Exception):
    """As of the library that connects, which is another one in each version of the hub's."""


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (
            LocalTokenNotFoundError("Token is required\nbut no token found"),
            "Token is required; see `hf auth login`",
        ),
        (NoConnection("Name or service not known"), "Name or service not known; check the connection and try again"),
        (NoConnection(), "NoConnection; check the connection and try again"),
    ],
)
def test_what_the_hub_says_is_told_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], error: Exception, said: str
) -> None:
    def refuse(self: object, *arguments: object, **options: object) -> None:
        raise error

    monkeypatch.setattr(HfApi, "create_repo", refuse)
    small_model().save_pretrained(tmp_path)
    assert main(["push", str(tmp_path), "me/mine", "--license", "mit"]) == 2
    assert capsys.readouterr().err == f"banet: error: me/mine: the hub did not take the weights: {said}\n"


def test_a_warm_start_says_that_ocm_is_another(tmp_path):
    old = small_model(ocm_relu=False)
    old.save_pretrained(tmp_path / "old.safetensors")
    with pytest.warns(InputWarning, match=r"old\.safetensors: model\.ocm_relu is False there and True here"):
        initialize(small_model(), str(tmp_path / "old.safetensors"))


def test_the_report_of_a_warm_start_is_one_line_that_says_why(tmp_path: Path) -> None:
    model = small_model()
    model.save_pretrained(tmp_path / "w.safetensors")
    total = len(model.state_dict())
    assert str(initialize(small_model(), str(tmp_path / "w.safetensors"))) == f"all {total} tensors taken"
    other = small_model(fpn_channels=24)
    wide = initialize(other, str(tmp_path / "w.safetensors"))
    assert str(wide) == (
        f"{len(wide.missing)} of {total} tensors do not fit: fpn_channels is 24 here, {model.config.fpn_channels} there"
    )
    body = {name.removeprefix("backbone.body."): t for name, t in model.state_dict().items() if "body" in name}
    torch.save(body, tmp_path / "body.pth")
    assert str(initialize(small_model(), str(tmp_path / "body.pth"))) == (
        f"{len(body)} of {total} tensors taken; at random: feature pyramid, semantic head, S2I, RPN, box head, mask"
        " head, semantic logits"
    )

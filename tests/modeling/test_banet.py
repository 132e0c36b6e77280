"""The composed network: every ablation row, the padding rule, prediction on every kind of input."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from factories import categories, small_model, target
from PIL import Image
from torch.nn import functional as F

import banet
from banet.errors import InputError
from banet.inference import postprocess
from banet.inference.banet import BANet
from banet.inference.postprocess import paste_instances, semantic_argmax
from banet.modeling.composition import recompute_in_backward
from banet.modeling.config import InferenceConfig, LossConfig, ModelConfig
from banet.modeling.outputs import ImageOutput

ROWS = {
    "baseline": {"s2i": False, "sim": False, "ocm": False},
    "sim": {"s2i": False, "ocm": False},
    "sim_ocm": {"s2i": False},
    "sim_ocm_s2i": {},
    "sim_ocm_s2i_dfm": {"deformable": True},
}
LOSSES = {"loss_rpn_cls", "loss_rpn_box", "loss_cls", "loss_box", "loss_mask", "loss_seg", "loss_i2s"}


@pytest.mark.parametrize("row", ROWS)
def test_every_row_learns_with_finite_gradients_and_finds_instances(row: str, images: list[torch.Tensor]) -> None:
    model = small_model(**ROWS[row])
    targets = [target((96, 130), [[10, 10, 50, 40], [20, 50, 60, 70]], [0, 2], 5), target((75, 64), [], [], 5)]
    losses = model.losses(images, targets)
    assert set(losses) == LOSSES - ({"loss_i2s"} if row == "baseline" else set())
    torch.stack(list(losses.values())).sum().backward()
    wrong = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all()]
    assert not wrong
    with torch.no_grad():
        output = model(images)
    assert output.logits.shape == (2, 5, 24, 40)
    assert all(len(d.boxes) == len(d.scores) == len(d.labels) == len(d.masks) for d in output.detections)
    assert sum(len(d.scores) for d in output.detections) > 0


def test_off_means_absent() -> None:
    names = {row: {n for n, _ in small_model(**options).named_parameters()} for row, options in ROWS.items()}
    assert not any("i2s" in n or "phi" in n or "offset" in n for n in names["baseline"])
    assert {n for n in names["sim_ocm"] - names["sim"]} == {
        f"segmenter.i2s.ocm.{n}"
        for n in ("squeeze.weight", "context.weight", "context.bias", "merge.weight", "merge.bias")
    }
    assert names["sim_ocm_s2i"] - names["sim_ocm"] == {"roi_features.phi.weight", "roi_features.phi.bias"}
    assert all("offset" in n for n in names["sim_ocm_s2i_dfm"] - names["sim_ocm_s2i"])
    with pytest.raises(ValueError, match="ocm"):
        ModelConfig(sim=False)


def test_published_loss_weights_follow_the_composition() -> None:
    weights = {row: LossConfig().semantic_weights(ModelConfig(**options)) for row, options in ROWS.items()}
    assert weights["sim"] == weights["sim_ocm"] == weights["sim_ocm_s2i"] == (0.2, 0.3)
    assert weights["baseline"] == (0.5, 0.0) and weights["sim_ocm_s2i_dfm"] == (0.1, 0.2)
    assert LossConfig().semantic_weights(ModelConfig(sim=False, ocm=False, deformable=True)) == (0.3, 0.0)
    assert LossConfig(seg_weight=1, i2s_weight=2).semantic_weights(ModelConfig()) == (1, 2)


@pytest.mark.parametrize(("backbone", "width"), [("resnet34", 512), ("resnet50", 2048), ("dcn101", 2048)])
def test_backbones(backbone: str, width: int) -> None:
    model = small_model(backbone=backbone)
    deformable = {n.split(".conv2")[0] for n, _ in model.named_parameters() if "conv2.offset" in n}
    assert len(deformable) == (4 + 23 + 3 if backbone == "dcn101" else 0)
    assert model.backbone.fpn.inner_blocks[3][0].in_channels == width
    with torch.no_grad():
        levels = model.backbone(torch.randn(1, 3, 96, 160))
    assert [tuple(x.shape[-2:]) for x in levels] == [(24, 40), (12, 20), (6, 10), (3, 5), (2, 3)]


def test_pretrained_backbones_keep_stem_and_first_stage(images: list[torch.Tensor]) -> None:
    model = small_model(norm="frozen_batch")
    frozen = {n.split(".")[2] for n, p in model.named_parameters() if not p.requires_grad}
    assert frozen == {"conv1", "layer1"}
    assert all(p.requires_grad for p in small_model().parameters())


@pytest.mark.parametrize(("things", "stuff"), [(0, 2), (3, 0), (1, 1), (1, 0), (0, 1)])
def test_any_count_of_classes(things: int, stuff: int, images: list[torch.Tensor]) -> None:
    model = small_model(things, stuff, InferenceConfig(shorter=96, longer=160, score_threshold=0.0, stuff_area=16))
    boxes, labels = ([[10, 10, 50, 40]], [things - 1]) if things else ([], [])
    targets = [target((96, 130), boxes, labels, things + stuff), target((75, 64), [], [], things + stuff)]
    losses = model.losses(images, targets)
    torch.stack(list(losses.values())).sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    result = model.predict(np.zeros((40, 50, 3), np.uint8))
    assert {s.isthing for s in result.segments} <= ({True} if things else set()) | ({False} if stuff else set())
    with pytest.raises(ValueError, match="none"):
        BANet(categories(0, 0))


def test_losses_and_outputs_do_not_depend_on_mode(images: list[torch.Tensor]) -> None:
    model = small_model()
    targets = [target((96, 130), [[10, 10, 50, 40]], [0], 5), target((75, 64), [[5, 5, 30, 30]], [1], 5)]
    values = []
    for mode in (True, False):
        torch.manual_seed(3)
        values.append(model.train(mode).losses(images, targets))
    for name in values[0]:
        torch.testing.assert_close(values[0][name], values[1][name])


@torch.no_grad()
def test_an_image_is_the_same_alone_and_in_a_batch_of_the_same_padded_size(images: list[torch.Tensor]) -> None:
    model = small_model()
    together = model(images)
    for index, image in enumerate(images):
        alone = model([image], pad_to=(96, 160))
        torch.testing.assert_close(alone.logits[0], together.logits[index], rtol=1e-4, atol=1e-4)
        one, other = alone.detections[0], together.detections[index]
        for name in ("boxes", "scores", "masks"):
            torch.testing.assert_close(getattr(one, name), getattr(other, name), rtol=1e-4, atol=1e-4)
        assert torch.equal(one.labels, other.labels)


@torch.no_grad()
def test_float_and_uint8_images_are_the_same_and_bad_ones_refused(images: list[torch.Tensor]) -> None:
    model = small_model()
    detections, logits = model(images)
    assert len(detections) == 2
    assert torch.equal(logits, model([i.float() for i in images]).logits)
    with pytest.raises(ValueError, match="non-empty list"):
        model([])
    with pytest.raises(ValueError, match="non-empty list"):
        model([images[0][:1]])
    with pytest.raises(ValueError, match="non-empty list"):
        model(images[0])
    assert len(model(images[0][None]).detections) == 1
    with pytest.raises(ValueError, match="smaller"):
        model(images, pad_to=(64, 64))


@pytest.mark.parametrize("images", ["a.png", Path("a.png"), ["a.png"], np.zeros((9, 9, 3)), Image.new("RGB", (9, 9))])
def test_calling_the_network_on_an_image_says_what_to_call(images: object) -> None:
    with pytest.raises(
        TypeError, match=r"list of tensors \(3, h, w\), not .*; to segment an image call model\.predict"
    ):
        small_model()(images)


@pytest.mark.parametrize("device", ["cuda", "cuda:0", torch.device("cuda"), "mps", "meta", "gpu"])
def test_a_device_that_is_not_there_is_one_line(device: str | torch.device, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr("torch.backends.mps.is_available", lambda: False)
    for load in (BANet.from_pretrained, banet.load):
        with pytest.raises(InputError, match=rf"^device {device}: (torch sees no such device here; )?choose auto.*cpu"):
            load("scenes", device=device)
    assert BANet.from_pretrained("scenes", device="auto").device.type == "cpu"


def test_share_of_boxes_for_the_inlay() -> None:
    segmenter = small_model().segmenter
    counts = {n: {len(*segmenter.inlay_boxes([torch.zeros(n, 4)])) for _ in range(200)} for n in (0, 1, 2, 10)}
    assert counts[0] == {0} and counts[1] == {1} and counts[2] == {2} and counts[10] == {7, 8, 9, 10}
    segmenter.inlay_share = (0.0, 1.0)
    counts = {n: {len(*segmenter.inlay_boxes([torch.zeros(n, 4)])) for _ in range(400)} for n in (0, 1, 2, 10)}
    assert counts == {n: set(range(n + 1)) for n in (0, 1, 2, 10)}


def test_a_step_without_any_box_for_the_inlay_learns(images: list[torch.Tensor]) -> None:
    model = small_model()
    model.segmenter.inlay_share = (0.0, 0.0)
    targets = [target((96, 130), [[10, 10, 50, 40]], [0], 5), target((75, 64), [[5, 5, 30, 30]], [1], 5)]
    losses = model.losses(images, targets)
    torch.stack(list(losses.values())).sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters() if p.requires_grad)


@torch.inference_mode()
def test_the_inlay_gets_more_boxes_and_the_instances_stay(images: list[torch.Tensor]) -> None:
    model = small_model()
    scores = torch.cat([found.scores.flatten() for found in model(images).candidates])
    score, middle = (float(scores.quantile(share)) for share in (0.98, 0.9))
    model.inference = replace(model.inference, score_threshold=score, max_instances=1000)
    seen: list[list[torch.Tensor]] = []
    model.segmenter.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[2]))
    outputs = []
    for threshold in (None, 0.9, score, middle, 0.0):
        model.inference = replace(model.inference, inlay_score_threshold=threshold)
        outputs.append(model(images))
    plain = outputs[0]
    assert all(len(found.scores) for found in plain.detections)
    for output in outputs:
        for ours, other in zip(output.detections, plain.detections, strict=True):
            assert all(torch.equal(getattr(ours, name), getattr(other, name)) for name in ("boxes", "scores", "labels"))
            torch.testing.assert_close(ours.masks, other.masks)
    for boxes, output in zip(seen[:3], outputs[:3], strict=True):  # never fewer than the instances
        assert all(torch.equal(b, d.boxes) for b, d in zip(boxes, plain.detections, strict=True))
        assert torch.equal(output.logits, plain.logits)
    for fewer, more in itertools.pairwise(seen[2:]):
        assert all(torch.equal(f, m[: len(f)]) for m, f in zip(more, fewer, strict=True))
        assert sum(map(len, more)) > sum(map(len, fewer))
    for boxes, output in zip(seen[3:], outputs[3:], strict=True):
        f_ins = model.mask_head.features(output.rois.mask(boxes))
        expected = model.segmenter(output.semantic, f_ins, boxes, output.sizes)
        torch.testing.assert_close(output.logits, expected)
        assert not torch.equal(output.logits, plain.logits)


@torch.inference_mode()
def test_without_i2s_no_further_box_is_drawn(images: list[torch.Tensor]) -> None:
    model = small_model(sim=False, ocm=False)
    drawn: list[int] = []
    model.mask_head.convs.register_forward_hook(lambda _, inputs, result: drawn.append(len(result)))
    detections, _ = model(images)
    assert drawn == [sum(len(found.scores) for found in detections)]


@torch.inference_mode()
def test_other_instances_give_what_forward_gives_for_them(images: list[torch.Tensor]) -> None:
    model = small_model()
    seen: list[list[torch.Tensor]] = []
    handle = model.segmenter.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[2]))
    output = model(images)
    handle.remove()
    (boxes,) = seen
    chosen = model._select(output.candidates)
    assert all(torch.equal(a, b) for a, b in zip(boxes, chosen[0], strict=True))
    again = model.with_instances(output, *chosen)
    assert torch.equal(again.logits, output.logits)
    for ours, other in zip(again.detections, output.detections, strict=True):
        assert torch.equal(ours.boxes, other.boxes) and torch.equal(ours.masks, other.masks)


def test_predict_takes_images_in_any_form(tmp_path: Path) -> None:
    model = small_model()
    array = np.random.default_rng(0).integers(0, 256, (60, 83, 3), dtype=np.uint8)
    Image.fromarray(array).save(tmp_path / "a.png")
    forms = [str(tmp_path / "a.png"), tmp_path / "a.png", Image.fromarray(array), array, array.astype(np.float32),
             torch.from_numpy(array).permute(2, 0, 1)]  # fmt: skip
    expected = model.predict(array)
    assert expected.ids.shape == (60, 83) and expected.ids.dtype == np.int32
    results = model.predict(forms)
    assert isinstance(results, list)
    for result in results:
        assert np.array_equal(result.ids, expected.ids) and result.segments == expected.segments
    assert model.predict([]) == []
    grey = model.predict(array[..., 0])
    assert grey.ids.shape == (60, 83)


@pytest.mark.parametrize("size", [(1, 1), (1, 40), (37, 3), (101, 203)])
def test_predict_on_odd_sizes_gives_a_partition(size: tuple[int, int]) -> None:
    result = small_model().predict(np.full((*size, 3), 120, np.uint8))
    counted = {int(i): int(n) for i, n in zip(*np.unique(result.ids, return_counts=True), strict=True) if i}
    assert counted == {s.id: s.area for s in result.segments}


def test_gradient_checkpointing_keeps_less_and_changes_nothing(images: list[torch.Tensor]) -> None:
    targets = [target((96, 130), [[10, 10, 50, 40], [20, 50, 60, 70]], [0, 2], 5), target((75, 64), [], [], 5)]
    kept: list[int] = []
    gradients = []
    for recompute in (False, True):
        model = small_model()
        names = set(model.state_dict())
        if recompute:
            recompute_in_backward(model)
        assert set(model.state_dict()) == names
        torch.manual_seed(0)
        saved: dict[int, int] = {}

        def note(tensor: torch.Tensor, saved: dict[int, int] = saved) -> torch.Tensor:
            saved[tensor.data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            total = torch.stack(list(model.losses(images, targets).values())).sum()
        kept.append(sum(saved.values()))
        total.backward()
        gradients.append([p.grad for p in model.parameters() if p.requires_grad])
    assert kept[1] < 0.8 * kept[0]
    for plain, again in zip(*gradients, strict=True):
        torch.testing.assert_close(plain, again, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("row", ["sim_ocm_s2i", "sim_ocm_s2i_dfm"])
def test_compiled_parts_change_nothing(row: str) -> None:
    """Neither results nor names; and the graphs of the first image serve those of other sizes.

    Of tiny maps torch asks how small they are, and looks at them anew.
    """
    torch.compiler.reset()
    plain, compiled = small_model(**ROWS[row]), small_model(**ROWS[row])
    graphs = []

    def backend(graph: torch.fx.GraphModule, inputs: list[torch.Tensor]) -> object:
        graphs.append(graph)
        return graph.forward

    compiled.compile(backend=backend)
    assert list(compiled.state_dict()) == list(plain.state_dict())
    counts = []
    for size in ((192, 320), (224, 288), (349, 410)):
        image = torch.randint(0, 256, (3, *size)).to(torch.uint8)
        with torch.inference_mode():
            expected, found = plain([image]), compiled([image])
        torch.testing.assert_close(found.logits, expected.logits)
        torch.testing.assert_close(found.detections[0].boxes, expected.detections[0].boxes)
        counts.append(len(graphs))
    assert counts[0] >= 2
    assert counts[1] == counts[2] <= counts[0] + 1  # torch 2.11 makes one more for the second size


def test_other_rules_and_thing_pixels() -> None:
    model = small_model()
    array = np.random.default_rng(0).integers(0, 256, (60, 83, 3), dtype=np.uint8)
    assert model.predict(array, rule="heuristic").ids.shape == (60, 83)
    void = (model.predict(array).ids == 0).sum()
    model.inference = replace(model.inference, thing_pixels="best_stuff", stuff_area=0)
    assert (model.predict(array).ids == 0).sum() == 0 <= void


@pytest.mark.parametrize(("network", "image"), [((32, 48), (64, 96)), ((30, 47), (61, 94)), ((33, 45), (33, 45))])
@pytest.mark.parametrize("cells", [(12, 16), (3, 4), (1, 1)], ids=["classes mixed", "in patches", "one class"])
def test_semantic_argmax_samples_the_logits_at_pixel_centres(
    network: tuple[int, int], image: tuple[int, int], cells: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postprocess, "_PIXELS", 100)
    logits = torch.randn(4, *cells, generator=torch.Generator().manual_seed(5))
    logits = torch.nn.functional.interpolate(logits[None], (12, 16), mode="bilinear")[0]
    found = semantic_argmax(logits, network, image)
    counts = [-(-side // 4) for side in network]
    expected = np.empty(image, dtype=np.int64)
    for y in range(image[0]):
        for x in range(image[1]):
            position = []
            for at, out, side, count in zip((y, x), image, network, counts, strict=True):
                position.append(min(max((at + 0.5) * side / out / 4 - 0.5, 0), count - 1))
            (v, u) = position
            y0, x0 = int(v), int(u)
            y1, x1 = min(y0 + 1, counts[0] - 1), min(x0 + 1, counts[1] - 1)
            top = logits[:, y0, x0] * (1 - (u - x0)) + logits[:, y0, x1] * (u - x0)
            bottom = logits[:, y1, x0] * (1 - (u - x0)) + logits[:, y1, x1] * (u - x0)
            expected[y, x] = int((top * (1 - (v - y0)) + bottom * (v - y0)).argmax())
    assert (found == expected).mean() > 0.999  # a tie in the last digit may fall either way


def test_masks_are_pasted_where_the_image_has_them() -> None:
    output = ImageOutput(
        boxes=np.array([[10.0, 20.0, 30.0, 40.0], [1.3, 1.3, 1.4, 1.4]], np.float32),
        scores=np.array([0.9, 0.8], np.float32),
        labels=np.array([2, 0]),
        masks=np.ones((2, 28, 28), np.float32),
        logits=np.zeros((5, 13, 25), np.float32),
        size=(50, 100),
    )
    instances = paste_instances(output, (100, 200))
    assert instances.masks.boxes.tolist() == [[20, 40, 60, 80]]  # the empty one is dropped
    assert instances.masks.crops[0].all() and instances.masks.crops[0].shape == (40, 40)
    assert instances.labels.tolist() == [2] and instances.scores.tolist() == pytest.approx([0.9])
    # Half of the mask: probability falls to 0.5 in the middle of the box.
    ramp = np.broadcast_to(np.linspace(1, 0, 28, dtype=np.float32), (1, 28, 28))
    half = replace(output, boxes=output.boxes[:1], scores=output.scores[:1], labels=output.labels[:1], masks=ramp)
    crop = paste_instances(half, (50, 100)).masks.crops[0]
    assert crop[:, :10].all() and not crop[:, 10:].any()


def test_gradient_of_the_final_logits_reaches_the_instance_branch(images: list[torch.Tensor]) -> None:
    model = small_model()
    targets = [target((96, 130), [[10, 10, 50, 40]], [0], 5), target((75, 64), [[5, 5, 30, 30]], [1], 5)]
    model.losses(images, targets)["loss_i2s"].backward()
    for name in ("mask_head.convs.0.weight", "roi_features.phi.weight", "segmenter.i2s.ocm.squeeze.weight"):
        gradient = model.get_parameter(name).grad
        assert gradient is not None and F.normalize(gradient.flatten(), dim=0).norm() > 0.9, name
    assert model.get_parameter("segmenter.first.weight").grad is None

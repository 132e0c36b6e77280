"""Parts of the network against slow versions written straight from their definition."""

from __future__ import annotations

from typing import Literal

import pytest
import torch
from factories import categories
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F
from torchvision.ops import roi_align as torchvision_roi_align

from banet.modeling.aggregation import OCM, SIM, InstanceToSemantic, InstanceToSemanticWithContext
from banet.modeling.composition import build_segmenter
from banet.modeling.config import LossConfig, ModelConfig
from banet.modeling.instance_head import (
    BOX_WEIGHTS,
    BoxHead,
    MaskHead,
    RoISampler,
    RoISamples,
    mask_targets,
    select_for_ap,
    select_for_panoptic,
)
from banet.modeling.outputs import Candidates
from banet.modeling.rpn import RegionProposals
from banet.modeling.s2i import PyramidRoIs, S2IRoIs
from banet.modeling.sampling import BalancedSampler
from banet.modeling.semantic_head import PyramidConv1x1, SemanticHead
from banet.modeling.semantic_loss import semantic_loss
from banet.ops.boxes import encode_boxes
from banet.ops.roi_inlay import roi_inlay

BOXES = [torch.tensor([[3.0, 5.0, 60.5, 41.0], [20.0, 10.0, 120.0, 90.0]]), torch.tensor([[0.0, 0.0, 30.0, 64.0]])]
SIZES = [(96, 128), (70, 64)]


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def levels(channels: int = 6) -> list[Tensor]:
    return [torch.randn(2, channels, 96 // s, 128 // s) for s in (4, 8, 16, 32)]


def whole(semantic: list[Tensor]) -> Tensor:
    """F_S: every level upsampled to stride 4 and concatenated."""
    size = semantic[0].shape[-2:]
    return torch.cat([F.interpolate(x, size=size, mode="bilinear", align_corners=False) for x in semantic], dim=1)


def test_convolution_of_levels_equals_convolution_of_their_concatenation() -> None:
    conv, semantic = PyramidConv1x1(6, 9), levels()
    torch.nn.init.normal_(conv.bias)
    expected = F.conv2d(whole(semantic), conv.weight, conv.bias)
    torch.testing.assert_close(conv(semantic), expected, rtol=1e-5, atol=1e-5)


def test_semantic_head_is_shared_and_its_deformable_form_starts_as_the_plain_one() -> None:
    plain, deformable = SemanticHead(5, (7, 7, 4), deformable=False), SemanticHead(5, (7, 7, 4), deformable=True)
    report = deformable.load_state_dict(plain.state_dict(), strict=False)
    assert not report.unexpected_keys and all("offset" in key for key in report.missing_keys)
    pyramid = levels(5)
    for a, b, p in zip(plain(pyramid), deformable(pyramid), pyramid, strict=True):
        assert a.shape == (2, 4, *p.shape[-2:])
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(a, plain([p])[0])


def test_s2i_is_phi_of_the_crop_plus_the_crop_of_the_pyramid() -> None:
    rois, pyramid, semantic = S2IRoIs(6, 5), levels(5), levels()
    torch.nn.init.normal_(rois.phi.bias)
    source = rois(pyramid, semantic)
    plain = PyramidRoIs()(pyramid, semantic)
    for size, crop, base in ((7, source.box, plain.box), (14, source.mask, plain.mask)):
        f_s = torchvision_roi_align(whole(semantic), BOXES, size, 0.25, sampling_ratio=2, aligned=True)
        expected = F.conv2d(f_s, rois.phi.weight, rois.phi.bias) + base(BOXES)
        torch.testing.assert_close(crop(BOXES), expected, rtol=1e-4, atol=1e-4)


def test_sim_joins_inlay_and_semantic_features() -> None:
    sim, semantic, f_ins = SIM(8, 6, 4), levels(), torch.randn(3, 8, 14, 14)
    inlay = roi_inlay(f_ins, BOXES, (24, 32), spatial_scale=0.25)
    both = torch.cat([sim.instance(inlay), F.conv2d(whole(semantic), sim.semantic.weight, sim.semantic.bias)], dim=1)
    found = InstanceToSemantic(sim)(semantic, f_ins, BOXES, SIZES)
    torch.testing.assert_close(found, F.relu(sim.mix(both)), rtol=1e-4, atol=1e-4)


def sim_and_ocm(nonlinearity: Literal["relu", "linear"] = "relu") -> InstanceToSemanticWithContext:
    ocm = OCM(8, 4, context_channels=3, cells=(1, 2, 3, 6), nonlinearity=nonlinearity)
    return InstanceToSemanticWithContext(SIM(8, 6, 4), ocm)


@pytest.mark.parametrize("nonlinearity", ["relu", "linear"])
def test_ocm_pools_the_valid_area_and_repeats_its_vector(nonlinearity: Literal["relu", "linear"]) -> None:
    module = sim_and_ocm(nonlinearity)
    after = F.relu if nonlinearity == "relu" else torch.clone
    semantic, f_ins = levels(), torch.randn(3, 8, 14, 14)
    sim, ocm = InstanceToSemantic(module.sim), module.ocm
    inlay = ocm.squeeze(roi_inlay(f_ins, BOXES, (24, 32), spatial_scale=0.25))
    vectors = []
    for one, (height, width) in zip(inlay, SIZES, strict=True):
        valid = one[None, :, : -(-height // 4), : -(-width // 4)]
        pooled = [F.adaptive_max_pool2d(valid, cells).flatten() for cells in (1, 2, 3, 6)]
        assert sum(p.numel() for p in pooled) == 3 * 50
        vectors.append(after(ocm.context(torch.cat(pooled))))
    tiled = torch.stack(vectors)[:, :, None, None].expand(-1, -1, 24, 32)
    expected = after(ocm.merge(torch.cat([sim(semantic, f_ins, BOXES, SIZES), tiled], dim=1)))
    found = module(semantic, f_ins, BOXES, SIZES)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    assert (expected < 0).any() == (nonlinearity == "linear")


@pytest.mark.parametrize("nonlinearity", ["relu", "linear"])
def test_context_acts_by_place_only_with_a_nonlinearity(nonlinearity: Literal["relu", "linear"]) -> None:
    ocm, sim, final = sim_and_ocm(nonlinearity).ocm, torch.rand(1, 4, 24, 32), torch.nn.Conv2d(4, 5, 1)
    one, other = (final(ocm(sim, torch.randn(1, 3, 24, 32), SIZES[:1])) for _ in range(2))
    difference = (one - other).flatten(2)
    varies = (difference.amax(2) - difference.amin(2)).amax() > 1e-4
    assert difference.abs().amax() > 1e-3 and bool(varies) == (nonlinearity == "relu")


def test_ocm_does_not_see_padding() -> None:
    module = sim_and_ocm()
    semantic, f_ins = levels(), torch.randn(3, 8, 14, 14)
    wide = [F.pad(x, (0, 3 * (8 // 2**i), 0, 0)) for i, x in enumerate(semantic)]
    narrow = module(semantic, f_ins, BOXES, SIZES)
    padded = module(wide, f_ins, BOXES, SIZES)[..., :32]
    # Away from the seam, where upsampling and the 3x3 convolution see the padding.
    torch.testing.assert_close(padded[..., :20], narrow[..., :20], rtol=1e-4, atol=1e-4)


def test_no_boxes_at_all() -> None:
    module = sim_and_ocm()
    empty = [torch.zeros(0, 4), torch.zeros(0, 4)]
    assert module(levels(), torch.zeros(0, 8, 14, 14), empty, SIZES).isfinite().all()


def test_mask_targets_are_roi_align_of_the_own_mask() -> None:
    instances = torch.full((50, 70), -1, dtype=torch.int32)
    instances[5:30, 8:40] = 0
    instances[20:48, 30:66] = 1
    boxes = torch.tensor([[7.3, 4.1, 41.7, 31.0], [30.0, 20.0, 66.0, 48.0], [0.0, 0.0, 70.0, 50.0], [60.0, 40, 70, 50]])
    rows = torch.tensor([0, 1, 0, 1])
    masks = (instances[None] == rows[:, None, None]).float()[:, None]
    rois = torch.cat([torch.arange(4.0)[:, None], boxes], dim=1)
    expected = torchvision_roi_align(masks, rois, 28, 1.0, sampling_ratio=2, aligned=True)[:, 0]
    decided = (expected - 0.5).abs() > 1e-5
    found = mask_targets(instances, boxes, rows)
    assert torch.equal(found[decided], (expected >= 0.5).float()[decided])
    assert 0.3 < found.mean() < 0.9
    layers = torch.full((2, 50, 70), -1, dtype=torch.int32)
    layers[0, 5:30, 8:40] = 0
    layers[1, 20:48, 30:66] = 1  # now row 0 has the pixels below row 1 too
    whole_masks = torch.stack([layers[0] == 0, layers[1] == 1])[rows].float()[:, None]
    expected = torchvision_roi_align(whole_masks, rois, 28, 1.0, sampling_ratio=2, aligned=True)[:, 0]
    decided = (expected - 0.5).abs() > 1e-5
    assert torch.equal(mask_targets(layers, boxes, rows)[decided], (expected >= 0.5).float()[decided])


def test_mask_head_computes_the_plane_of_the_label() -> None:
    head, f_ins, labels = MaskHead(4, 6, 5), torch.randn(3, 6, 14, 14), torch.tensor([4, 0, 2])
    every = head.masks(F.relu(head.deconv(f_ins)))
    torch.testing.assert_close(head(f_ins, labels), every[torch.arange(3), labels], rtol=1e-5, atol=1e-5)
    assert head(f_ins[:0], labels[:0]).shape == (0, 28, 28)


def test_box_head_keeps_the_background_to_itself() -> None:
    head = BoxHead(2, 8, 3)
    torch.nn.init.normal_(head.classes.weight)
    features, proposals = (
        torch.randn(5, 2, 7, 7),
        [torch.tensor([[0.0, 0, 20, 20]] * 3), torch.tensor([[5.0, 5, 9, 9]] * 2)],
    )
    logits, deltas = head(features)
    assert logits.shape == (5, 4) and deltas.shape == (5, 3, 4)
    candidates = head.candidates(features, proposals, [(18, 19), (30, 30)])
    assert [c.scores.shape for c in candidates] == [(3, 3), (2, 3)]
    torch.testing.assert_close(torch.cat([c.scores for c in candidates]), logits.softmax(-1)[:, :3])
    assert candidates[0].boxes[..., 2].max() <= 19 and candidates[0].boxes[..., 3].max() <= 18


def test_selection_for_panoptic_is_blind_to_class_and_for_ap_is_not() -> None:
    boxes = torch.tensor([[0.0, 0, 10, 10], [0.0, 0, 10, 9], [30.0, 30, 40, 40], [50.0, 50, 60, 60]])
    candidates = Candidates(
        boxes[:, None].expand(-1, 2, -1),
        torch.tensor([[0.9, 0.05], [0.1, 0.8], [0.6, 0.3], [0.7, 0.2]]),
    )
    (kept,), (scores,), (labels,) = select_for_panoptic([candidates], score=0.6, iou=0.5, limit=100)
    assert torch.equal(kept, boxes[[0, 3]]) and labels.tolist() == [0, 0]  # 0.6 is not above 0.6
    torch.testing.assert_close(scores, torch.tensor([0.9, 0.7]))
    (kept,), (scores,), (labels,) = select_for_ap([candidates], score=0.05, iou=0.5, limit=100)
    assert scores[:2].tolist() == pytest.approx([0.9, 0.8]) and labels[:2].tolist() == [0, 1]
    assert len(kept) == 6
    assert len(select_for_ap([candidates], score=0.05, iou=0.5, limit=2)[0][0]) == 2


@given(st.integers(0, 1000), st.integers(0, 40), st.integers(1, 30), st.floats(0, 1), st.floats(0, 1), st.booleans())
def test_a_lower_score_selects_the_same_boxes_first(
    seed: int, count: int, limit: int, one: float, other: float, ties: bool
) -> None:
    generator = torch.Generator().manual_seed(seed)
    corners = torch.rand(count, 2, 4, generator=generator) * 60
    scores = torch.rand(count, 2, generator=generator)
    boxes = torch.cat([corners[..., :2], corners[..., :2] + corners[..., 2:]], dim=2)
    candidates = Candidates(boxes, (scores * 8).round() / 8 if ties else scores)
    low, high = sorted((one, other))
    more, fewer = (
        [part for (part,) in select_for_panoptic([candidates], score=score, iou=0.5, limit=limit)]
        for score in (low, high)
    )
    assert len(fewer[1]) == (more[1] > high).sum()
    assert all(torch.equal(a, b[: len(a)]) for a, b in zip(fewer, more, strict=True))


def test_sampler_counts_and_matches() -> None:
    boxes, labels = torch.tensor([[0.0, 0, 10, 10], [50.0, 50, 90, 90]]), torch.tensor([2, 0])
    proposals = torch.cat([boxes[:1] + 1, torch.rand(200, 4) * 20 + torch.tensor([200.0, 200, 230, 230])])
    samples, nothing = RoISampler(64, 0.25, 0.5)([proposals] * 2, [boxes, boxes[:0]], [labels, labels[:0]])
    assert len(samples.boxes) == 64
    assert sorted(samples.labels[samples.labels >= 0].tolist()) == [0, 2, 2]  # truth joins the proposals
    assert torch.equal(samples.truth_boxes, boxes[samples.matches])
    assert torch.equal(samples.labels[samples.positive], labels[samples.matches])
    assert torch.equal(samples.positive, (samples.labels >= 0).nonzero()[:, 0])
    assert len(nothing.boxes) == 64 and (nothing.labels == -1).all() and nothing.truth_boxes.shape == (0, 4)


def rpn() -> RegionProposals:
    return RegionProposals(
        4,
        anchor_sizes=(16, 32, 64, 128, 224),
        anchor_ratios=(0.5, 1, 2),
        samples=64,
        positive_iou=0.7,
        negative_iou=0.3,
    )


def pyramid_of_five() -> list[Tensor]:
    return [torch.randn(2, 4, -(-96 // s), -(-160 // s)) for s in (4, 8, 16, 32, 64)]


def test_proposals_lie_in_the_valid_area_best_first_and_do_not_depend_on_mode() -> None:
    module, pyramid, sizes = rpn(), pyramid_of_five(), [(96, 130), (75, 64)]
    proposals = module.eval()(pyramid, sizes, (50, 40, 0.7))
    again = module.train()(pyramid, sizes, (50, 40, 0.7))
    for boxes, other, (height, width) in zip(proposals, again, sizes, strict=True):
        assert torch.equal(boxes, other) and 0 < len(boxes) <= 40
        assert (boxes >= 0).all() and (boxes[:, 2] <= width).all() and (boxes[:, 3] <= height).all()


def test_anchors_step_by_the_stride_of_their_level() -> None:
    _, _, anchors = rpn()._predict(pyramid_of_five())
    centres = [(a[:, :2] + a[:, 2:]) / 2 for a in anchors]
    assert centres[0].unique(dim=0)[:, 0].unique().diff().unique().tolist() == [4]
    assert centres[4][:, 0].unique().tolist() == [0, 64, 128]  # not 160 // 3


def test_rpn_loss_falls_when_the_head_says_the_truth() -> None:
    module, pyramid = rpn(), pyramid_of_five()
    boxes = [torch.tensor([[20.0, 20, 60, 52]]), torch.zeros(0, 4)]
    optimizer = torch.optim.Adam(module.parameters(), 0.02)
    history = []
    for _ in range(40):
        _, cls, box = module.losses(pyramid, [(96, 160)] * 2, (50, 40, 0.7), boxes)
        optimizer.zero_grad()
        (cls + box).backward()
        optimizer.step()
        history.append((cls + box).item())
    assert history[-1] < 0.5 * history[0]


def test_anchors_over_padding_take_no_part_in_the_losses() -> None:
    model, boxes = rpn(), torch.tensor([[4.0, 4, 30, 30]])
    pyramid = [torch.randn(1, 4, 128 // s, 128 // s) for s in (4, 8, 16, 32, 64)]
    _, _, anchors = model._predict(pyramid)
    every = torch.cat(anchors)
    center = (every[:, :2] + every[:, 2:]) / 2
    padding = (center[:, 0] >= 96) | (center[:, 1] >= 40)
    assert padding.any() and not padding.all()
    for truth in (boxes, boxes[:0]):
        part = model._match(every, truth, (40, 96))
        assert torch.equal(part == -2, padding | (model._match(every, truth, (128, 128)) == -2))
    model.sampler = BalancedSampler(2 * 10**6, 0.5)
    features = [level.clone().requires_grad_() for level in pyramid]
    _, score_loss, box_loss = model.losses(features, [(40, 96)], (50, 50, 0.7), [boxes])
    (score_loss + box_loss).backward()
    finest = features[0].grad.abs().sum((0, 1))
    assert (finest[:10, :24] > 0).float().mean() > 0.9  # elsewhere all ReLUs are off
    assert not finest[11:].any() and not finest[:, 25:].any()  # the 3x3 convolution reaches one pixel on


@pytest.mark.parametrize("beta", [1.0, 1 / 9])
def test_box_loss_turns_to_a_line_at_beta(beta: float) -> None:
    head = BoxHead(8, 16, 2, beta=beta)
    boxes = torch.tensor([[0.0, 0, 10, 10], [0, 0, 20, 20]])
    wanted = torch.tensor([[1.0, 0, 12, 10]])
    samples = RoISamples(boxes, torch.tensor([1, -1]), torch.tensor([0]), torch.tensor([0]), wanted)
    features = torch.randn(2, 8, 7, 7)
    _, deltas = head(features)
    target = encode_boxes(wanted, boxes[:1], BOX_WEIGHTS)
    off = (deltas[:1, 1] - target).abs()
    expected = torch.where(off < beta, 0.5 * off**2 / beta, off - 0.5 * beta).sum() / 2
    torch.testing.assert_close(head.losses(features, [samples])[1], expected)


def test_all_classes_begin_nearly_alike() -> None:
    for config in (ModelConfig(), ModelConfig(sim=False, ocm=False)):
        made = build_segmenter(categories(8, 5), config, LossConfig())
        weights = [made.first.weight, *([made.final.weight] if config.sim else [])]
        assert all(0.009 < float(weight.detach().std()) < 0.011 for weight in weights)


def test_semantic_loss_is_cross_entropy_at_input_size_without_void() -> None:
    logits = torch.randn(2, 5, 24, 32)
    truth = [torch.randint(-1, 5, (90, 128)), torch.randint(-1, 5, (96, 100))]
    full = F.interpolate(logits, scale_factor=4, mode="bilinear", align_corners=False)
    total, count = 0.0, 0
    for one, labels in zip(full.log_softmax(1), truth, strict=True):
        for k in range(5):
            total -= float(one[k, : labels.shape[0], : labels.shape[1]][labels == k].sum())
        count += int((labels >= 0).sum())
    torch.testing.assert_close(float(semantic_loss(logits, truth)), total / count, rtol=1e-4, atol=1e-4)
    assert float(semantic_loss(logits, [torch.full((90, 128), -1)] * 2)) == 0


@pytest.mark.parametrize("strip", [1, 3000, 1 << 22])
def test_semantic_loss_and_its_gradient_are_those_of_the_whole_map(strip: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("banet.modeling.semantic_loss._STRIP", strip)
    generator = torch.Generator().manual_seed(0)
    ours = torch.randn(2, 3, 9, 12, dtype=torch.float64, generator=generator).requires_grad_()
    theirs = ours.detach().clone().requires_grad_()
    truth = [torch.randint(-1, 3, size, generator=generator) for size in ((36, 48), (23, 41))]
    (3 * semantic_loss(ours, truth)).backward()
    padded = torch.full((2, 36, 48), -1)
    for image, labels in zip(padded, truth, strict=True):
        image[: labels.shape[0], : labels.shape[1]] = labels
    full = F.interpolate(theirs, scale_factor=4, mode="bilinear", align_corners=False)
    (3 * F.cross_entropy(full, padded, ignore_index=-1)).backward()
    torch.testing.assert_close(ours.grad, theirs.grad)
    assert torch.autograd.gradcheck(lambda logits: semantic_loss(logits, truth), ours)
    with torch.no_grad():
        torch.testing.assert_close(semantic_loss(ours, truth), F.cross_entropy(full, padded, ignore_index=-1))

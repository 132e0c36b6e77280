"""Results of other libraries go in, and come back as what they were, disjoint.

The libraries themselves are used where they are installed; detectron2 and mmdetection are played by `stand_ins`.
"""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from stand_ins import BitMasks, Boxes, DetDataSample, InstanceData, Instances

from banet.panoptic import (
    LibraryResult,
    MaskCrops,
    PanopticSegmentation,
    make_disjoint,
    read_detections,
    resolve_occlusions,
)
from banet.panoptic.adapters import find_adapter
from banet.panoptic.coco.rle import encode_rle
from banet.panoptic.defaults import BEST_OVERLAP_THRESHOLD, BEST_RULE

HEIGHT, WIDTH = 20, 30


@pytest.fixture
def scene():
    """Objects 0 and 1 overlap, 2 is all but hidden under 3, 4 has no pixel, 5 stands alone."""
    rng = np.random.default_rng(0)
    masks = np.zeros((6, HEIGHT, WIDTH), dtype=bool)
    masks[0, 2:12, 2:12] = True
    masks[1, 6:16, 6:16] = True
    masks[2, 3:9, 20:26] = True
    masks[3, 2:10, 19:27] = True
    masks[5, 18:, :3] = True
    image = rng.integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    return SimpleNamespace(
        masks=masks,
        scores=np.array([0.7, 0.9, 0.65, 0.8, 0.95, 0.61]),
        labels=np.array([1, 2, 3, 1, 2, 5]),
        boxes=np.array([[2, 2, 12, 12], [6, 6, 16, 16], [20, 3, 26, 9], [19, 2, 27, 10], [0, 0, 1, 1], [0, 18, 3, 20]]),
        image=image,
    )


def expected(scene, **options):
    """Which objects own a pixel, and their disjoint masks."""
    options = {"rule": BEST_RULE, "overlap_threshold": BEST_OVERLAP_THRESHOLD, **options}
    owners = resolve_occlusions(scene.masks, scene.scores, scene.image, **options)
    kept = np.array([n for n in range(len(scene.masks)) if (owners == n).any()])
    return kept, owners == kept[:, None, None]


def torchvision_dict(scene, probabilities=True):
    masks = torch.from_numpy(scene.masks)[:, None]
    return {
        "boxes": torch.from_numpy(scene.boxes).float(),
        "labels": torch.from_numpy(scene.labels),
        "scores": torch.from_numpy(scene.scores),
        "masks": masks * 0.3 + 0.4 if probabilities else masks,
    }


# --------------------------------------------------------------------------------------------------------- torchvision


@pytest.mark.parametrize("rule", ["appearance", "score", "heuristic"])
def test_torchvision(scene, rule):
    result = torchvision_dict(scene)
    before = {key: value.clone() for key, value in result.items()}
    new = make_disjoint(result, scene.image, rule=rule)
    kept, masks = expected(scene, rule=rule)
    assert list(new) == list(result)
    assert 4 not in kept
    assert new["masks"].shape == (len(kept), 1, HEIGHT, WIDTH)
    assert new["masks"].dtype == result["masks"].dtype
    np.testing.assert_array_equal(new["masks"][:, 0].numpy(), masks)
    for key in ("boxes", "labels", "scores"):
        assert torch.equal(new[key], result[key][kept])
    assert all(torch.equal(result[key], before[key]) for key in before)


def test_a_hidden_object_is_left_out(scene):
    new = make_disjoint(torchvision_dict(scene), image=scene.image, rule="score")
    assert new["labels"].tolist() == [1, 2, 1, 5]  # 2 lost all to 3, and 4 had nothing


def test_torchvision_probability_of_a_half_counts(scene):
    result = torchvision_dict(scene, probabilities=False)
    result["masks"] = result["masks"] * 0.5
    kept, masks = expected(scene)
    new = make_disjoint(result, image=scene.image)
    np.testing.assert_array_equal(new["masks"][:, 0].numpy(), masks)
    assert len(kept) == len(new["masks"])


def test_torchvision_other_entries(scene):
    result = torchvision_dict(scene, probabilities=False)
    result["names"] = list("abcdef")
    result["image_id"] = 7
    result["keypoints"] = torch.arange(6 * 4 * 3).reshape(6, 4, 3)
    new = make_disjoint(result, image=scene.image)
    kept, _ = expected(scene)
    assert new["names"] == ["abcdef"[n] for n in kept]
    assert new["image_id"] == 7
    assert torch.equal(new["keypoints"], result["keypoints"][kept])
    assert new["masks"].dtype == torch.bool


def test_torchvision_as_numpy(scene):
    result = {key: value.numpy() for key, value in torchvision_dict(scene).items()}
    new = make_disjoint(result, image=scene.image)
    kept, masks = expected(scene)
    assert all(isinstance(value, np.ndarray) for value in new.values())
    np.testing.assert_array_equal(new["masks"][:, 0], masks)
    np.testing.assert_array_equal(new["labels"], scene.labels[kept])


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_torchvision_with_gradients_and_narrow_numbers(scene, dtype):
    result = torchvision_dict(scene)
    result["masks"] = result["masks"].to(dtype).requires_grad_()
    new = make_disjoint(result, image=scene.image)
    assert new["masks"].dtype == dtype
    assert not new["masks"].requires_grad
    np.testing.assert_array_equal(new["masks"][:, 0].bool().numpy(), expected(scene)[1])


def test_torchvision_with_nothing_in_it():
    result = {
        "boxes": torch.zeros(0, 4),
        "labels": torch.zeros(0, dtype=torch.int64),
        "scores": torch.zeros(0),
        "masks": torch.zeros(0, 1, 5, 6),
    }
    new = make_disjoint(result, image=np.zeros((5, 6, 3), np.uint8))
    assert {key: tuple(value.shape) for key, value in new.items()} == {k: tuple(v.shape) for k, v in result.items()}


def test_torchvision_itself():
    detection = pytest.importorskip("torchvision.models.detection")
    utils = pytest.importorskip("torchvision.models.detection.backbone_utils")
    torch.manual_seed(0)
    backbone = utils.resnet_fpn_backbone(backbone_name="resnet18", weights=None)
    model = detection.MaskRCNN(
        backbone, num_classes=4, min_size=64, max_size=96, box_score_thresh=0, box_nms_thresh=0.9,
        box_detections_per_img=12,
    ).eval()  # fmt: skip
    image = torch.randint(0, 256, (3, 50, 70), dtype=torch.uint8)
    with torch.no_grad():
        model.roi_heads.mask_predictor.mask_fcn_logits.bias.fill_(0.5)
        result = model([image / 255])[0]
    assert len(result["masks"]) > 1
    paper = {"rule": "appearance", "overlap_threshold": 0.2}
    owners = resolve_occlusions((result["masks"] >= 0.5)[:, 0], result["scores"], image)
    new = make_disjoint(result, image=image, clean=False, **paper)
    kept = owners.unique()
    kept = kept[kept >= 0].long()
    assert torch.equal(new["masks"][:, 0].bool(), owners == kept[:, None, None])
    assert torch.equal(new["boxes"], result["boxes"][kept])


# --------------------------------------------------------------------------------------------- detectron2, mmdetection


@pytest.mark.parametrize("kind", ["bool", "float", "BitMasks"])
def test_detectron2(scene, kind):
    masks = torch.from_numpy(scene.masks)
    result = Instances(
        (HEIGHT, WIDTH),
        pred_boxes=Boxes(torch.from_numpy(scene.boxes)),
        scores=torch.from_numpy(scene.scores),
        pred_classes=torch.from_numpy(scene.labels),
        pred_masks={"bool": masks, "float": masks.float(), "BitMasks": BitMasks(masks)}[kind],
    )
    new = make_disjoint(result, image=scene.image)
    kept, wanted = expected(scene)
    assert isinstance(new, Instances)
    assert new.image_size == (HEIGHT, WIDTH)
    assert type(new.pred_masks) is type(result.pred_masks)
    found = new.pred_masks.tensor if kind == "BitMasks" else new.pred_masks
    assert found.dtype == (torch.float32 if kind == "float" else torch.bool)
    np.testing.assert_array_equal(found.numpy(), wanted)
    np.testing.assert_array_equal(new.pred_classes.numpy(), scene.labels[kept])
    np.testing.assert_array_equal(new.pred_boxes.tensor.numpy(), scene.boxes[kept])
    assert len(result) == 6


def test_mmdetection(scene):
    sample = DetDataSample(
        pred_instances=InstanceData(
            bboxes=torch.from_numpy(scene.boxes),
            scores=torch.from_numpy(scene.scores),
            labels=torch.from_numpy(scene.labels),
            masks=torch.from_numpy(scene.masks),
        ),
        img_path="a.jpg",
    )
    new = make_disjoint(sample, image=scene.image)
    kept, wanted = expected(scene)
    assert isinstance(new, DetDataSample)
    assert new.img_path == "a.jpg"
    np.testing.assert_array_equal(new.pred_instances.masks.numpy(), wanted)
    np.testing.assert_array_equal(new.pred_instances.labels.numpy(), scene.labels[kept])
    assert len(sample.pred_instances) == 6


# --------------------------------------------------------------------------------------------------------- Ultralytics


@pytest.fixture
def ultralytics(tmp_path, monkeypatch):
    monkeypatch.setenv("YOLO_CONFIG_DIR", str(tmp_path))
    monkeypatch.setenv("YOLO_OFFLINE", "true")
    return pytest.importorskip("ultralytics")


def results(scene, masks, kind=torch.from_numpy):
    from ultralytics.engine.results import Results

    boxes = np.concatenate([scene.boxes, scene.scores[:, None], scene.labels[:, None]], axis=1)
    names = {n: f"class {n}" for n in range(6)}
    return Results(scene.image[..., ::-1].copy(), "a.jpg", names, boxes=kind(boxes), masks=kind(masks))


@pytest.mark.parametrize("kind", ["tensors", "arrays"])
def test_ultralytics_results(ultralytics, scene, kind):
    result = results(scene, scene.masks.astype(np.uint8), torch.from_numpy if kind == "tensors" else np.asarray)
    new = make_disjoint(result)  # the image comes with it
    kept, wanted = expected(scene)
    assert type(new) is type(result)
    assert type(new.masks.data) is type(result.masks.data)
    assert new.masks.data.dtype == result.masks.data.dtype
    np.testing.assert_array_equal(np.asarray(new.masks.data), wanted)
    np.testing.assert_allclose(np.asarray(new.boxes.conf), scene.scores[kept])
    if hasattr(result.masks, "xy"):  # 8.3.0 neither traces nor draws arrays
        assert len(new.masks.xy) == len(kept)
        assert new.plot().shape == (HEIGHT, WIDTH, 3)
    assert len(result.masks) == 6


def test_ultralytics_masks_come_to_the_size_of_the_image(ultralytics, scene):
    from ultralytics.utils.ops import scale_masks

    rng = np.random.default_rng(1)
    for rows, columns in ((64, 64), (32, 64), (64, 96), (11, 15)):
        masks = np.zeros((6, rows, columns), dtype=np.float32)
        for mask in masks:
            y, x = rng.integers(rows), rng.integers(columns)
            mask[y - y // 2 : y + 20, x - x // 2 : x + 20] = 1
        found = read_detections(results(scene, masks)).masks
        wanted = scale_masks(torch.from_numpy(masks)[None], (HEIGHT, WIDTH))[0].numpy() >= 0.5
        assert found.shape == wanted.shape
        # They differ only where an image is made smaller, and only along edges.
        assert (found != wanted).mean() <= (0.03 if columns > WIDTH else 0.005)


def test_ultralytics_itself(ultralytics):
    torch.manual_seed(0)
    model = ultralytics.YOLO("yolo11n-seg.yaml", verbose=False)
    with torch.no_grad():
        for part in model.model.model[-1].modules():
            if isinstance(part, torch.nn.Conv2d):
                part.weight.mul_(3)
                if part.bias is not None:
                    part.bias.normal_()
    image = np.random.default_rng(0).integers(0, 256, (90, 140, 3), dtype=np.uint8)
    result = model.predict(image, imgsz=64, conf=1e-3, iou=0.9, max_det=8, verbose=False, save=False)[0]
    assert len(result) > 1
    new = make_disjoint(result, rule="score")
    assert new.masks.data.shape == (len(new.boxes), 90, 140)
    assert new.masks.data.sum(0).max() <= 1
    assert len(new) < len(result)
    nothing = model.predict(image, imgsz=64, conf=1.0, verbose=False, save=False)[0]
    assert len(make_disjoint(nothing)) == 0


# -------------------------------------------------------------------------------------------------------- Hugging Face


def infos(scene):
    return [
        {"id": 10 + n, "label_id": int(label), "was_fused": False, "score": float(score)}
        for n, (label, score) in enumerate(zip(scene.labels, scene.scores, strict=True))
    ]


def test_hugging_face_binary_maps(scene):
    result = {"segmentation": torch.from_numpy(scene.masks).float(), "segments_info": infos(scene)}
    new = make_disjoint(result, image=scene.image)
    kept, wanted = expected(scene)
    assert new["segmentation"].dtype == torch.float32
    np.testing.assert_array_equal(new["segmentation"].numpy(), wanted)
    assert [info["id"] for info in new["segments_info"]] == [10 + n for n in kept]
    assert len(result["segments_info"]) == 6


def test_hugging_face_map_is_disjoint_already(scene):
    segmentation = torch.full((HEIGHT, WIDTH), -1.0)
    for n, mask in enumerate(scene.masks):
        segmentation[torch.from_numpy(mask)] = 10 + n
    twice = [*infos(scene), {**infos(scene)[0], "was_fused": True}]
    new = make_disjoint({"segmentation": segmentation, "segments_info": twice}, image=scene.image)
    assert torch.equal(new["segmentation"], segmentation)
    present = set(segmentation.unique().int().tolist())
    assert new["segments_info"] == [info for info in twice if info["id"] in present]
    assert len(new["segments_info"]) < len(twice)


@pytest.fixture
def own():
    ids = np.zeros((HEIGHT, WIDTH), np.int32)
    ids[2:9, 3:8], ids[12:] = 1, 2
    categories = [{"id": 1, "name": "cat", "isthing": 1}, {"id": 9, "name": "grass", "isthing": 0}]
    segments = [{"id": 1, "category_id": 1, "score": 0.5}, {"id": 2, "category_id": 9}]
    return PanopticSegmentation.from_ids(ids, segments, categories)


def test_own_results_go_to_hugging_face_and_back(own, scene):
    new = make_disjoint(own.to_hf(), image=scene.image)
    np.testing.assert_array_equal(new["segmentation"], own.ids)
    assert new["segments_info"] == own.to_hf()["segments_info"]


def test_own_results_go_to_supervision_and_back(own, scene):
    supervision = pytest.importorskip("supervision")
    detections = own.to_supervision()
    assert isinstance(detections, supervision.Detections)
    assert detections.class_id.tolist() == [1, 9]
    assert detections.xyxy.tolist() == [[3, 2, 8, 9], [0, 12, WIDTH, HEIGHT]]
    new = make_disjoint(detections, image=scene.image)
    np.testing.assert_array_equal(new.mask, [own.ids == 1, own.ids == 2])
    assert new.data["class_name"].tolist() == ["cat", "grass"]


def test_transformers_itself(scene):
    transformers = pytest.importorskip("transformers")
    stages = ["stage1", "stage2", "stage3", "stage4"]
    torch.manual_seed(0)
    model = transformers.Mask2FormerForUniversalSegmentation(
        transformers.Mask2FormerConfig(
            backbone_config=transformers.SwinConfig(
                image_size=32, embed_dim=8, depths=[1] * 4, num_heads=[1] * 4, window_size=2, out_features=stages
            ),
            feature_size=32,
            mask_feature_size=32,
            hidden_dim=32,
            num_queries=8,
            encoder_layers=1,
            decoder_layers=2,
            num_attention_heads=2,
            dim_feedforward=16,
            encoder_feedforward_dim=16,
            num_labels=5,
        )
    ).eval()
    with torch.no_grad():
        outputs = model(torch.rand(1, 3, 64, 96))
    processor = transformers.Mask2FormerImageProcessor()
    kinds = {"threshold": 0.0, "target_sizes": [(HEIGHT, WIDTH)]}
    result = processor.post_process_instance_segmentation(outputs, **kinds, return_binary_maps=True)[0]
    assert len(result["segmentation"]) > 1
    new = make_disjoint(result, image=scene.image, removal_threshold=1.0, clean=False)
    assert len(new["segmentation"]) == len(new["segments_info"])
    assert new["segmentation"].sum(0).max() <= 1
    assert torch.equal(new["segmentation"].amax(0) > 0, result["segmentation"].amax(0) > 0)

    result = processor.post_process_instance_segmentation(outputs, **kinds)[0]
    assert torch.equal(make_disjoint(result, image=scene.image)["segmentation"], result["segmentation"])
    result = processor.post_process_instance_segmentation(outputs, **kinds, return_coco_annotation=True)[0]
    with pytest.raises(ValueError, match="post-process without return_coco_annotation"):
        make_disjoint(result, image=scene.image)
    kinds["threshold"] = 1.0
    for binary in (False, True):
        result = processor.post_process_instance_segmentation(outputs, **kinds, return_binary_maps=binary)[0]
        assert make_disjoint(result, image=scene.image)["segments_info"] == []


# --------------------------------------------------------------------------------------------------------- supervision


def test_supervision(scene):
    supervision = pytest.importorskip("supervision")
    result = supervision.Detections(
        xyxy=scene.boxes.astype(np.float32),
        mask=scene.masks,
        confidence=scene.scores,
        class_id=scene.labels,
        data={"name": np.array(list("abcdef"))},
    )
    new = make_disjoint(result, image=scene.image)
    kept, wanted = expected(scene)
    assert type(new) is type(result)
    np.testing.assert_array_equal(new.mask, wanted)
    assert new.mask.dtype == bool
    np.testing.assert_array_equal(new.class_id, scene.labels[kept])
    np.testing.assert_array_equal(new.xyxy, scene.boxes[kept])
    assert new.data["name"].tolist() == ["abcdef"[n] for n in kept]
    assert len(result) == 6

    empty = supervision.Detections.empty()
    assert len(make_disjoint(empty, image=scene.image)) == 0
    assert len(make_disjoint(empty, rule="score")) == 0

    compact = pytest.importorskip("supervision.detection.compact_mask").CompactMask
    result.mask = compact.from_dense(scene.masks, result.xyxy, (HEIGHT, WIDTH))
    new = make_disjoint(result, image=scene.image)
    assert isinstance(new.mask, compact)
    np.testing.assert_array_equal(new.mask.to_dense(), wanted)


# -------------------------------------------------------------------------------------------------------------- faults


def test_what_was_found_in_plain_arrays(scene):
    found = read_detections(torchvision_dict(scene))
    assert isinstance(found, LibraryResult)
    assert len(found) == 6
    np.testing.assert_array_equal(found.masks, scene.masks)
    np.testing.assert_array_equal(found.scores, scene.scores)
    np.testing.assert_array_equal(found.labels, scene.labels)
    assert found.image is None
    owners = resolve_occlusions(found.masks, found.scores, scene.image, rule=BEST_RULE, overlap_threshold=0)
    new = found.disjoint(torch.from_numpy(owners))
    np.testing.assert_array_equal(new["masks"][:, 0].numpy(), expected(scene)[1])


def test_masks_are_no_result(scene):
    for masks in (scene.masks, torch.from_numpy(scene.masks), list(scene.masks), MaskCrops.from_masks(scene.masks), []):
        assert find_adapter(masks) is None
    with pytest.raises(TypeError, match="ndarray is not a result of torchvision"):
        read_detections(scene.masks)


def test_scores_may_be_given(scene):
    result = torchvision_dict(scene)
    scores = result.pop("scores")
    new = make_disjoint(result, scene.image, scores=scores)
    np.testing.assert_array_equal(new["masks"][:, 0].numpy(), expected(scene)[1])
    with pytest.raises(ValueError, match="scores are missing"):
        make_disjoint(result, image=scene.image)
    with pytest.raises(ValueError, match="scores are missing"):
        resolve_occlusions(scene.masks, image=scene.image)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda r: [r, r], "a list of 2 results: give one image's at a time"),
        (lambda r: {"boxes": 1}, "a dict must have 'masks' .* but it has 'boxes'"),
        (lambda r: {}, "but it has nothing"),
        (lambda r: {"instances": 1}, r'give the instances alone: result\["instances"\]'),
        (lambda r: {**r, "masks": r["masks"] * 9 - 4}, "torchvision masks must be probabilities in 0..1, not -"),
        (lambda r: {**r, "masks": r["masks"] * float("nan")}, "must be probabilities in 0..1, not nan"),
        (lambda r: {**r, "masks": r["masks"].repeat(1, 2, 1, 1)}, r"must have shape \(N, 1, H, W\), not \(6, 2, "),
        (lambda r: {**r, "masks": r["masks"][:, :, :-1]}, "masks are of size .* but the image is of size"),
        (lambda r: {**r, "scores": r["scores"][:-1]}, r"scores must have shape \(6,\)"),
        (lambda r: Instances((2, 2), scores=[1]), "Instances have no pred_masks, but scores"),
        (lambda r: DetDataSample(pred_instances=InstanceData(scores=[1])), "pred_instances .* have no masks"),
        (lambda r: DetDataSample(pred_instances=InstanceData(masks=[{}])), "before they are coded as RLE"),
        (lambda r: {"segmentation": None, "segments_info": []}, "segmentation is None"),
        (lambda r: {"segmentation": np.ones((2, 3, 3)), "segments_info": []}, "has 2 maps but segments_info 0"),
    ],
)
def test_faults_are_one_line(scene, change, said):
    with pytest.raises(ValueError, match=said) as fault:
        make_disjoint(change(torchvision_dict(scene)), image=scene.image)
    assert "\n" not in str(fault.value)


def test_an_image_in_the_place_of_the_scores(scene):
    with (
        pytest.warns(DeprecationWarning, match="make_disjoint"),
        pytest.raises(ValueError, match="give the image by its name"),
    ):
        resolve_occlusions(torchvision_dict(scene), scene.image)


def test_resolve_occlusions_takes_results_for_one_more_release(scene):
    with pytest.warns(DeprecationWarning, match="use make_disjoint"):
        old = resolve_occlusions(torchvision_dict(scene), image=scene.image, removal_threshold=0.6)
    paper = {"rule": "appearance", "overlap_threshold": 0.2, "clean": False}
    new = make_disjoint(torchvision_dict(scene), scene.image, removal_threshold=0.6, **paper)
    assert all(torch.equal(old[key], new[key]) for key in new)


def test_the_old_name_of_the_record_works_with_a_warning():
    import banet.panoptic
    from banet.panoptic import adapters

    for module in (banet.panoptic, adapters):
        with pytest.warns(DeprecationWarning, match="LibraryResult"):
            assert module.Detections is LibraryResult


def test_a_rule_that_needs_the_image_is_refused_before_anything_is_decided():
    nothing = {
        "boxes": torch.zeros(0, 4),
        "labels": torch.zeros(0, dtype=torch.int64),
        "scores": torch.zeros(0),
        "masks": torch.zeros(0, 1, 5, 6),
    }
    with pytest.raises(ValueError, match=r"image is None: .*'score', 'area', 'heuristic'"):
        make_disjoint(nothing)
    assert len(make_disjoint(nothing, rule="area")["masks"]) == 0


# --------------------------------------------------------------------------------------------------------- look-alikes


def like_torchvision(scene, **changes):
    return {**torchvision_dict(scene), **changes}


def binary_maps(scene, **changes):
    return {"segmentation": torch.from_numpy(scene.masks).float(), "segments_info": infos(scene), **changes}


def instances(scene, size=(HEIGHT, WIDTH), **changes):
    fields = {
        "pred_boxes": Boxes(torch.from_numpy(scene.boxes)),
        "scores": torch.from_numpy(scene.scores),
        "pred_classes": torch.from_numpy(scene.labels),
        "pred_masks": torch.from_numpy(scene.masks),
    }
    return Instances(size, **{**fields, **changes})


def data_sample(scene, **changes):
    data = {
        "bboxes": torch.from_numpy(scene.boxes),
        "scores": torch.from_numpy(scene.scores),
        "labels": torch.from_numpy(scene.labels),
        "masks": torch.from_numpy(scene.masks),
    }
    return DetDataSample(pred_instances=SimpleNamespace(**{**data, **changes}))


def yolo(scene, masks, **others):
    boxes = SimpleNamespace(conf=scene.scores, cls=scene.labels, __len__=lambda: 6)
    given = {"orig_shape": (HEIGHT, WIDTH), "masks": masks, "boxes": boxes, **others}
    return SimpleNamespace(**given)


def detections(scene, **changes):
    data = {"xyxy": scene.boxes, "mask": scene.masks, "confidence": scene.scores, "class_id": scene.labels}
    return SimpleNamespace(**{**data, **changes})


class Sized(list):
    """Boxes that can be counted."""


LOOK_ALIKES = {
    # Matterport's Mask R-CNN: masks along the last axis.
    "matterport": lambda s: {
        "rois": s.boxes,
        "class_ids": s.labels,
        "scores": s.scores,
        "masks": s.masks.transpose(1, 2, 0),
    },
    "channels last with boxes": lambda s: like_torchvision(s, masks=np.ones((6, WIDTH, HEIGHT), bool)),
    # The mask-generation pipeline of transformers.
    "mask generation": lambda s: {"masks": list(s.masks), "scores": torch.from_numpy(s.scores)},
    "segment anything": lambda s: [{"segmentation": s.masks[0], "area": 4, "bbox": [0, 0, 1, 1]}],
    "image segmentation pipeline": lambda s: [{"score": 0.9, "label": "cat", "mask": s.masks[0]}],
    "object detection": lambda s: {"scores": s.scores, "labels": s.labels, "boxes": s.boxes},
    "masks alone": lambda s: {"masks": torch.from_numpy(s.masks)},
    "logits": lambda s: like_torchvision(s, masks=torch.randn(6, 1, HEIGHT, WIDTH) * 9),
    "coded masks": lambda s: like_torchvision(s, masks=[{"size": [2, 2], "counts": "04"}] * 6),
    "id map for masks": lambda s: like_torchvision(s, masks=torch.arange(HEIGHT * WIDTH).reshape(1, HEIGHT, WIDTH)),
    "labels by name": lambda s: like_torchvision(s, labels=np.array(list("abcdef"))),
    "labels as scores": lambda s: like_torchvision(s, labels=torch.rand(6)),
    "scores per class": lambda s: like_torchvision(s, scores=torch.rand(6, 4)),
    "boxes of another image": lambda s: like_torchvision(s, boxes=torch.from_numpy(s.boxes * 9.0)),
    "rotated boxes": lambda s: like_torchvision(s, boxes=torch.rand(6, 5)),
    "hf: infos without ids": lambda s: binary_maps(s, segments_info=[{"label_id": 1}] * 6),
    "hf: infos as a dict": lambda s: binary_maps(s, segments_info={1: {"id": 1}}),
    "hf: logits": lambda s: binary_maps(s, segmentation=torch.randn(6, HEIGHT, WIDTH) * 9),
    "hf: a batch": lambda s: binary_maps(s, segmentation=torch.zeros(1, 6, HEIGHT, WIDTH)),
    "hf: probabilities as a map": lambda s: binary_maps(s, segmentation=torch.rand(HEIGHT, WIDTH)),
    "hf: coco annotation": lambda s: {"segments_info": infos(s), "file_name": "a.png", "image_id": 1},
    "detectron2: not pasted": lambda s: instances(s, pred_masks=torch.rand(6, 1, 28, 28)),
    "detectron2: another size": lambda s: instances(s, size=(WIDTH, HEIGHT)),
    "detectron2: logits": lambda s: instances(s, pred_masks=torch.randn(6, HEIGHT, WIDTH) * 9),
    "detectron2: ground truth": lambda s: Instances((HEIGHT, WIDTH), gt_masks=s.masks, gt_classes=s.labels),
    "mmdetection: polygons": lambda s: data_sample(s, masks=SimpleNamespace(masks=s.masks, height=HEIGHT)),
    "mmdetection: fewer scores": lambda s: data_sample(s, scores=torch.rand(5)),
    "mmpose": lambda s: DetDataSample(pred_instances=InstanceData(keypoints=torch.rand(6, 17, 2))),
    "mmsegmentation": lambda s: DetDataSample(pred_sem_seg=SimpleNamespace(data=torch.zeros(1, HEIGHT, WIDTH))),
    "ultralytics: plain arrays": lambda s: yolo(s, s.masks),
    "ultralytics: fewer masks than boxes": lambda s: yolo(s, SimpleNamespace(data=s.masks[:5])),
    "ultralytics: oriented boxes": lambda s: yolo(s, None, boxes=None, obb=Sized([1])),
    "supervision: channels last": lambda s: detections(s, mask=s.masks.transpose(1, 2, 0)),
    "supervision: no masks": lambda s: detections(s, mask=None),
    "supervision: key points": lambda s: SimpleNamespace(xy=s.boxes, confidence=s.scores, class_id=s.labels),
    "an object": lambda s: SimpleNamespace(masks=s.masks, scores=s.scores),
    "a string": lambda s: "masks",
    "nothing": lambda s: None,
}


@pytest.mark.parametrize("name", LOOK_ALIKES)
def test_look_alikes_are_refused_and_described(scene, name):
    with pytest.raises((TypeError, ValueError)) as fault:
        make_disjoint(LOOK_ALIKES[name](scene), scene.image)
    said = str(fault.value)
    assert "\n" not in said
    assert len(said) < 1000


@pytest.mark.parametrize(
    ("name", "seen"),
    [
        ("matterport", r"'rois': ndarray \(6, 4\) int64"),
        ("mask generation", "'masks': list, 'scores': Tensor"),
        ("image segmentation pipeline", r"'score': float, 'label': str, 'mask': ndarray \(20, 30\) bool"),
        ("segment anything", "'segmentation': ndarray"),
        ("detectron2: not pasted", r"'pred_masks': Tensor \(6, 1, 28, 28\) float32"),
        ("mmsegmentation", "DetDataSample of 'pred_sem_seg'"),
        ("ultralytics: plain arrays", "'orig_shape': tuple, 'masks': ndarray"),
        ("supervision: channels last", r"'mask': ndarray \(20, 30, 6\) bool"),
        ("an object", r"SimpleNamespace of 'masks': ndarray \(6, 20, 30\) bool, 'scores': ndarray"),
        ("a string", "str 'masks'"),
    ],
)
def test_what_is_refused_is_named(scene, name, seen):
    with pytest.raises((TypeError, ValueError), match=seen):
        make_disjoint(LOOK_ALIKES[name](scene), scene.image)


@pytest.mark.parametrize("kind", [torch.uint8, torch.int64, torch.float64, torch.float16])
def test_torchvision_masks_of_any_number_that_is_0_or_1(scene, kind):
    result = like_torchvision(scene, masks=torch.from_numpy(scene.masks).to(kind))
    new = make_disjoint(result, scene.image)
    np.testing.assert_array_equal(new["masks"].bool().numpy(), expected(scene)[1])
    assert new["masks"].dtype == kind


def test_instances_of_other_dicts_with_torchvisions_names(scene):
    """LightlyTrain's instance result has labels, masks (N, H, W), bboxes and scores."""
    result = {
        "labels": torch.from_numpy(scene.labels),
        "masks": torch.from_numpy(scene.masks),
        "bboxes": torch.from_numpy(scene.boxes),
        "scores": torch.from_numpy(scene.scores),
    }
    new = make_disjoint(result, scene.image)
    kept, wanted = expected(scene)
    np.testing.assert_array_equal(new["masks"].numpy(), wanted)
    np.testing.assert_array_equal(new["bboxes"].numpy(), scene.boxes[kept])


# ------------------------------------------------------------------------------------------- SAM, and panoptic results


def sam_list(scene, code=lambda mask: mask):
    return [
        {"segmentation": code(mask), "area": int(mask.sum()), "bbox": [1, 2, 3, 4], "predicted_iou": float(score)}
        for mask, score in zip(scene.masks, scene.scores, strict=True)
    ]


def uncompressed(mask):
    flat = mask.T.reshape(-1)
    changes = np.flatnonzero(np.diff(flat.astype(np.int8))) + 1
    lengths = np.diff([0, *changes.tolist(), flat.size]).tolist()
    return {"size": list(mask.shape), "counts": [0, *lengths] if flat[0] else lengths}


@pytest.mark.parametrize("code", [lambda mask: mask, encode_rle, uncompressed], ids=["array", "text", "numbers"])
def test_sam(scene, code):
    new = make_disjoint(sam_list(scene, code), scene.image)
    kept, masks = expected(scene)
    assert [one["predicted_iou"] for one in new] == scene.scores[kept].tolist()
    assert [one["area"] for one in new] == masks.sum(axis=(1, 2)).tolist()
    assert all(one["bbox"] == [1, 2, 3, 4] for one in new)
    for one, mask in zip(new, masks, strict=True):
        if isinstance(one["segmentation"], dict):
            assert one["segmentation"] == code(mask)
        else:
            np.testing.assert_array_equal(one["segmentation"], mask)
            assert one["segmentation"].dtype == bool


def test_panoptic_maps_come_back_as_they_are(scene):
    ids = torch.zeros((HEIGHT, WIDTH), dtype=torch.int32)
    ids[:6], ids[6:14] = 1, 2
    infos = [{"id": 1, "isthing": True, "category_id": 4, "score": 0.7}, {"id": 2, "isthing": False, "category_id": 9}]
    sample = SimpleNamespace(pred_panoptic_seg=SimpleNamespace(sem_seg=(ids * 1000 + 3)[None]))
    lightly = {
        "masks": torch.stack([ids + 10, ids], dim=2),
        "segment_ids": torch.tensor([1, 2]),
        "scores": torch.tensor([0.7, 0.9]),
    }
    for result, labels in (((ids, infos), [4, 9]), (sample, [3, 3, 3]), (lightly, [11, 12])):
        found = read_detections(result)
        assert found.labels.tolist() == labels
        np.testing.assert_array_equal(found.masks[-2], ids.numpy() == 1)
        assert make_disjoint(result, scene.image) is result


def test_lightly_instances(scene):
    result = torchvision_dict(scene, probabilities=False)
    result = {"labels": result["labels"], "bboxes": result["boxes"], "masks": result["masks"][:, 0]}
    result["scores"] = torch.from_numpy(scene.scores)
    new = make_disjoint(result, scene.image)
    kept, masks = expected(scene)
    np.testing.assert_array_equal(new["masks"].numpy(), masks)
    assert new["masks"].dtype == torch.bool
    assert torch.equal(new["bboxes"], result["bboxes"][kept])


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        ([{"segmentation": None, "predicted_iou": 0.5}], "segmentation of mask 0"),
        ([{"segmentation": np.zeros((4, 4), bool), "predicted_iou": None}], "predicted_iou"),
        ((np.zeros((4, 4), int), None), "segments of panoptic_seg"),
        ({"masks": np.zeros((4, 4)), "segment_ids": np.array([1])}, "class and segment id"),
        (SimpleNamespace(pred_panoptic_seg=SimpleNamespace(sem_seg=None)), "sem_seg"),
    ],
)
def test_broken_panoptic_results(broken, message):
    with pytest.raises(ValueError, match=message):
        read_detections(broken)


def test_compact_masks_are_never_made_full_size(scene, monkeypatch):
    supervision = pytest.importorskip("supervision")
    kind = pytest.importorskip("supervision.detection.compact_mask").CompactMask
    detections = supervision.Detections(
        xyxy=scene.boxes.astype(float),
        mask=kind.from_dense(scene.masks, np.array([[0, 0, WIDTH - 1, HEIGHT - 1]] * 6), (HEIGHT, WIDTH)),
        confidence=scene.scores,
        class_id=scene.labels,
    )
    monkeypatch.setattr(kind, "to_dense", None)
    new = make_disjoint(detections, scene.image)
    monkeypatch.undo()
    kept, masks = expected(scene)
    assert isinstance(new.mask, kind)
    np.testing.assert_array_equal(new.mask.to_dense(), masks)
    np.testing.assert_array_equal(new.class_id, scene.labels[kept])

"""BANet.predict beside torchvision's Mask R-CNN: ``python benchmarks/inference.py [--threads 2] [--repeats 5]``.

ResNet-50, one image of 800 × 1216 pixels, random weights, 133 classes here and 91 there. Random weights find nothing,
so after the box head both are given the same 50 boxes and scores, and after the mask head the same smooth mask logits;
all heads run all the same. Measured are the whole of `BANet.predict` (network, RoIInlay, occlusion handling, fusion, id
map) and the whole of `maskrcnn_resnet50_fpn` (network and pasting of masks at full size). They take turns; medians and
their ratio are printed, then multiply-adds (of convolutions and matrix products), where our time goes, and the peak
memory of each in a process of its own. ``--compile`` has BANet after `BANet.compile` take part as well, ``--bf16`` one
in bfloat16.
"""

from __future__ import annotations

import argparse
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import wraps
from typing import Any

import numpy as np
import torch
import torchvision
from harness import Report, forget_peak, own_process, parser, peak, resident, take_turns
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from banet.engine.options import load_recipe
from banet.inference import postprocess
from banet.inference.banet import BANet
from banet.modeling.config import ModelConfig
from banet.modeling.outputs import Candidates
from banet.panoptic import Categories
from banet.panoptic.coco.classes import coco_categories
from banet.panoptic.segmentation import PanopticSegmentation

SIZE = (800, 1216)
THINGS = 80


def boxes_and_masks(
    count: int, size: tuple[int, int] = SIZE, things: int = THINGS
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Boxes of COCO-like sizes (N, 4), scores (N,), thing indices (N,) and smooth mask logits (N, 28, 28): ellipses."""
    g = torch.Generator().manual_seed(0)
    height, width = size
    scale = (height * width / (800 * 1216)) ** 0.5
    side = torch.exp(torch.rand(count, 2, generator=g) * 3 + 3) * scale  # 20 to 400 pixels at 800 x 1216
    centre = torch.rand(count, 2, generator=g) * torch.tensor([width, height])
    boxes = torch.cat([centre - side / 2, centre + side / 2], dim=1)
    boxes[:, 0::2], boxes[:, 1::2] = boxes[:, 0::2].clamp(0, width), boxes[:, 1::2].clamp(0, height)
    axis = torch.linspace(-1, 1, 28)
    logits = 8 * (1 - axis[:, None] ** 2 - axis**2).expand(count, -1, -1)
    scores = torch.linspace(0.99, 0.61, count)
    return boxes, scores, torch.randint(0, things, (count,), generator=g), logits


def banet(
    count: int, options: ModelConfig, size: tuple[int, int] = SIZE, categories: Categories | None = None
) -> BANet:
    """BANet that finds what `boxes_and_masks` gives in images of a size, which is the network's too.

    The heads run, only their last word is replaced.
    """
    recipe = load_recipe("coco_r50_1x")
    inference = replace(recipe.inference, shorter=min(size), longer=max(size))
    model = BANet(categories or coco_categories(), options, inference, recipe.loss).eval()
    boxes, scores, labels, logits = boxes_and_masks(count, size, model.categories.num_things)
    real_select, real_masks = model._select, model.mask_head.forward

    def select(candidates: Sequence[Candidates]) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
        real_select(candidates)
        return [boxes], [scores], [labels]

    def masks(f_ins: Tensor, labels: Tensor) -> Tensor:
        real_masks(f_ins, labels)
        return logits.clone()

    model._select, model.mask_head.forward = select, masks  # type: ignore[method-assign]
    return model


def mask_rcnn(count: int) -> torch.nn.Module:
    """torchvision's Mask R-CNN that finds the same."""
    model: Any = torchvision.models.detection.maskrcnn_resnet50_fpn(weights=None, weights_backbone=None).eval()
    boxes, scores, labels, logits = boxes_and_masks(count)
    real = model.roi_heads.postprocess_detections, model.roi_heads.mask_predictor.forward

    def detections(*arguments: Any) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
        real[0](*arguments)
        return [boxes], [scores], [labels + 1]

    def masks(features: Tensor) -> Tensor:
        every: Tensor = real[1](features)
        every[torch.arange(len(every)), labels + 1] = logits
        return every

    model.roi_heads.postprocess_detections = detections
    model.roi_heads.mask_predictor.forward = masks
    return model  # type: ignore[no-any-return]


def contestants(count: int, names: list[str]) -> dict[str, Callable[[], object]]:
    torch.manual_seed(0)
    image = np.random.default_rng(0).integers(0, 256, (*SIZE, 3), dtype=np.uint8)
    image = np.asarray(torch.nn.functional.avg_pool2d(torch.from_numpy(image).permute(2, 0, 1).float(), 9, 1, 4))
    image = np.ascontiguousarray(image.transpose(1, 2, 0)).astype(np.uint8)
    options = ModelConfig(norm="frozen_batch")
    made: dict[str, Callable[[], object]] = {}
    if "banet" in names:
        ours = banet(count, options)
        made["banet"] = lambda: ours.predict(image)
    if "banet compiled" in names:
        compiled = banet(count, options)
        compiled.compile()
        made["banet compiled"] = lambda: compiled.predict(image)
    if "banet bf16" in names:
        half = banet(count, options).configured(precision="bf16")
        made["banet bf16"] = lambda: half.predict(image)
    if "mask_rcnn" in names:
        theirs = mask_rcnn(count)
        tensor = torch.from_numpy(image).permute(2, 0, 1).float() / 255

        def predict() -> object:
            with torch.inference_mode():
                return theirs([tensor])

        made["mask_rcnn"] = predict
    return made


def multiply_adds(call: Callable[[], object]) -> tuple[object, float]:
    """What a call gives, and its multiply-adds in convolutions and matrix products, in thousand millions."""
    counter = FlopCounterMode(display=False)
    with counter:
        result = call()
    return result, counter.get_total_flops() / 2e9


def stages(model_call: Callable[[], object], model: BANet) -> tuple[dict[str, float], dict[str, float]]:
    """Multiply-adds of each part of one prediction, in thousand millions, and seconds of the next prediction."""
    counted: dict[str, float] = defaultdict(float)
    spent: dict[str, float] = defaultdict(float)
    parts = {
        "backbone": (model.backbone, "forward"),
        "semantic head": (model.semantic_head, "forward"),
        "phi": (model.roi_features, "forward"),
        "RPN": (model.rpn, "forward"),
        "RoIs": (model.roi_features.box_align, "forward"),
        "RoIs of masks": (model.roi_features.mask_align, "forward"),
        "box head": (model.box_head, "candidates"),
        "mask convolutions": (model.mask_head, "features"),
        "mask logits": (model.mask_head, "forward"),
        "I2S and logits": (model.segmenter, "forward"),
        "argmax": (postprocess, "semantic_argmax"),
        "paste": (postprocess, "paste_instances"),
        "fusion": (postprocess.UnfusedPrediction, "fuse"),
    }
    originals = {name: getattr(owner, attribute) for name, (owner, attribute) in parts.items()}

    def watched(name: str) -> Callable[..., Any]:
        @wraps(originals[name])
        def call(*arguments: Any, **options: Any) -> Any:
            if counting:
                result, count = multiply_adds(lambda: originals[name](*arguments, **options))
                counted[name] += count
                return result
            begin = time.perf_counter()
            result = originals[name](*arguments, **options)
            spent[name] += time.perf_counter() - begin
            return result

        return call

    for name, (owner, attribute) in parts.items():
        setattr(owner, attribute, watched(name))
    counting = True
    _, counted["all"] = multiply_adds(model_call)
    counting = False
    begin = time.perf_counter()
    result = model_call()
    spent["all"] = time.perf_counter() - begin
    for name, (owner, attribute) in parts.items():
        setattr(owner, attribute, originals[name])
    assert isinstance(result, PanopticSegmentation)
    return dict(counted), dict(spent)


def compare(report: Report, options: argparse.Namespace, names: list[str]) -> float:
    """Print the times; return the peer's multiply-adds, in thousand millions."""
    calls = contestants(options.detections, names)
    turns = take_turns(calls, options.repeats)
    report.turns("whole predictions", turns)
    report.say(
        f"banet {turns.median('banet'):.2f} s, mask_rcnn {turns.median('mask_rcnn'):.2f} s, "
        f"ratio {turns.ratio_text('banet', 'mask_rcnn')} (goal 1.1, stretch 0.9)"
    )
    for name in names[2:]:
        report.say(f"{name} {turns.median(name):.2f} s, {turns.ratio_text(name, 'banet')} of banet")
    return multiply_adds(calls["mask_rcnn"])[1]


def take_apart(report: Report, detections: int, theirs: float) -> None:
    """Print the multiply-adds and the seconds of each part of one prediction."""
    model = banet(detections, ModelConfig(norm="frozen_batch"))
    image = np.random.default_rng(0).integers(0, 256, (*SIZE, 3), dtype=np.uint8)
    counted, spent = stages(lambda: model.predict(image), model)
    report.say(f"multiply-adds: banet {counted['all']:.1f} G, mask_rcnn {theirs:.1f} G")
    for name, seconds in sorted(spent.items(), key=lambda item: -item[1]):
        share = 100 * seconds / spent["all"]
        report.say(
            f"{name:20} {counted[name]:6.1f} G {seconds:6.3f} s  {share:5.1f} %",
            part=name,
            seconds=seconds,
            giga_multiply_adds=counted[name],
        )


def main() -> None:
    command_line = parser(__doc__, repeats=5)
    command_line.add_argument("--detections", type=int, default=50)
    command_line.add_argument("--compile", action="store_true", help="a compiled BANet too; takes minutes to begin")
    command_line.add_argument("--bf16", action="store_true", help="BANet in bfloat16 too")
    command_line.add_argument("--memory", help=argparse.SUPPRESS)
    options = command_line.parse_args()
    torch.set_num_threads(options.threads)
    if options.memory:
        (call,) = contestants(options.detections, [options.memory]).values()
        before = resident() / 2**30
        forget_peak()
        call()
        call()
        print(f"{options.memory}: peak {peak() / 2**30:.2f} GiB, {before:.2f} GiB before the first prediction")
        return
    names = ["banet", "mask_rcnn"] + ["banet compiled"] * options.compile + ["banet bf16"] * options.bf16
    with Report(options, __file__) as report:
        take_apart(report, options.detections, compare(report, options, names))
        for name in names:
            common = ("--threads", options.threads, "--detections", options.detections)
            report.say(own_process(__file__, *common, "--memory", name))


if __name__ == "__main__":
    main()

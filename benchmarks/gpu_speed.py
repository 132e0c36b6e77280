"""The second stage of `gpu.py`: speed and memory beside torchvision's Mask R-CNN, RoIInlay beside RoIAlign, waits.

ResNet-50, 800 × 1216 pixels, random weights, 133 classes. As in `inference.py`, both networks are given the same 50
boxes and masks after their heads have run. Times are medians of turns in which the contestants alternate.
"""

from __future__ import annotations

import sys
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torchvision
import training_step
from gpu_items import ROOT, Figures, Item, Setup
from harness import Turns, take_turns
from inference import boxes_and_masks
from torch import Tensor, nn
from torchvision.models.detection import MaskRCNN
from torchvision.models.detection.backbone_utils import _resnet_fpn_extractor
from torchvision.ops import FrozenBatchNorm2d, roi_align

import banet
from banet.data.samples import Target
from banet.inference.banet import BANet
from banet.modeling.config import InferenceConfig, LossConfig, ModelConfig
from banet.ops.roi_inlay import roi_inlay
from banet.panoptic.coco.classes import coco_categories

PRECISIONS = ("fp32", "tf32", "bf16")
Batch = tuple[list[Tensor], list[Target]]


def items() -> list[Item]:
    """Return the items, those that most depends on first."""
    return [
        *(Item(f"inference {p}", partial(inference, p), 60) for p in ("fp32", "bf16")),
        *(Item(f"training {p}", partial(training, p), 60) for p in ("fp32", "bf16")),
        Item("host waits", host_waits, 40),
        Item("roi_inlay", operators, 30),
        Item("inference tf32", partial(inference, "tf32"), 60),
        Item("training tf32", partial(training, "tf32"), 60),
        Item("memory formats", memory_formats, 60),
        Item("compiled", compiled, 120),
    ]


@contextmanager
def precision_of(name: str, device: str) -> Iterator[None]:
    """Compute in a precision."""
    flags = torch.backends.cuda.matmul, torch.backends.cudnn
    before = [flag.allow_tf32 for flag in flags]
    for flag in flags:
        flag.allow_tf32 = name != "fp32"
    try:
        with torch.autocast(device, dtype=torch.bfloat16, enabled=name == "bf16"):
            yield
    finally:
        for flag, value in zip(flags, before, strict=True):
            flag.allow_tf32 = value


def size_of(setup: Setup) -> tuple[int, int]:
    return (64, 96) if setup.rehearse else (800, 1216)


def batches_of(setup: Setup) -> tuple[int, ...]:
    return (1, 2) if setup.rehearse else (1, 8)


def network(setup: Setup) -> BANet:
    """BANet with random weights on the device; tiny in a rehearsal."""
    torch.manual_seed(0)
    size = size_of(setup)
    config, loss = ModelConfig(norm="frozen_batch"), LossConfig()
    if setup.rehearse:
        small: dict[str, Any] = {"fpn_channels": 16, "semantic_channels": (16, 16, 8), "box_head_channels": 16}
        config = ModelConfig(
            backbone="resnet18", norm="group", mask_head_channels=16, i2s_channels=8, **small,
            anchor_sizes=(8, 16, 32, 64, 96),
        )  # fmt: skip
        loss = LossConfig(rpn_samples=32, roi_samples=16, proposals=50)
    few = {"proposals_per_level": 30, "proposals": 30} if setup.rehearse else {}
    options = InferenceConfig(shorter=min(size), longer=max(size), **few)
    return BANet(coco_categories(), config, options, loss).to(setup.device)


def given(setup: Setup) -> list[Tensor]:
    """Return what is found in every image, on the device."""
    return [part.to(setup.device) for part in boxes_and_masks(4 if setup.rehearse else 50, size_of(setup))]


def finding(setup: Setup) -> BANet:
    """The network, which finds what `boxes_and_masks` gives in every image; its heads run all the same."""
    model = network(setup).eval()
    boxes, scores, labels, logits = given(setup)
    real_select, real_masks = model._select, model.mask_head.forward

    def select(candidates: Sequence[Any]) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
        real_select(candidates)
        count = len(candidates)
        return [boxes] * count, [scores] * count, [labels] * count

    def masks(f_ins: Tensor, classes: Tensor) -> Tensor:
        real_masks(f_ins, classes)
        return logits.repeat(len(f_ins) // len(logits), 1, 1)

    model._select, model.mask_head.forward = select, masks  # type: ignore[method-assign]
    return model


def peer(setup: Setup) -> Any:
    """torchvision's Mask R-CNN with random weights on the device."""
    torch.manual_seed(0)
    size = size_of(setup)
    build = torchvision.models.resnet18 if setup.rehearse else torchvision.models.resnet50
    body = build(weights=None, norm_layer=FrozenBatchNorm2d)
    options: dict[str, Any] = {"min_size": min(size), "max_size": max(size)}
    if setup.rehearse:
        options |= {f"rpn_{when}_nms_top_n_{mode}": 20 for when in ("pre", "post") for mode in ("train", "test")}
        options |= {"rpn_batch_size_per_image": 16, "box_batch_size_per_image": 8}
    return MaskRCNN(_resnet_fpn_extractor(body, 3), 91, **options).to(setup.device)


def finding_peer(setup: Setup) -> Any:
    """Mask R-CNN that finds the same."""
    model = peer(setup).eval()
    boxes, scores, labels, logits = given(setup)
    real = model.roi_heads.postprocess_detections, model.roi_heads.mask_predictor.forward

    def detections(*arguments: Any) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
        count = len(arguments[3])
        real[0](*arguments)
        return [boxes] * count, [scores] * count, [labels + 1] * count

    def masks(features: Tensor) -> Tensor:
        every: Tensor = real[1](features)
        count = len(every) // len(labels)
        every[torch.arange(len(every)), (labels + 1).repeat(count)] = logits.repeat(count, 1, 1).to(every.dtype)
        return every

    model.roi_heads.postprocess_detections = detections
    model.roi_heads.mask_predictor.forward = masks
    return model


def timed(setup: Setup, contestants: dict[str, Callable[[], object]]) -> Turns[str]:
    """Let them take turns."""
    synchronize = torch.cuda.synchronize if setup.device == "cuda" else None
    repeats, warm_up = (1, 0) if setup.rehearse else (7, 3)
    return take_turns(contestants, repeats, warm_up=warm_up, synchronize=synchronize)


def rates(turns: Turns[str], images: dict[str, int]) -> Figures:
    """Return images per second of each contestant, by its name."""
    return {name: images[name] / turns.median(name) for name in turns.seconds}


def peak_of(setup: Setup, call: Callable[[], object]) -> float:
    """Return the most memory of the device that a call takes, in GiB; 0 on a CPU, which does not count it."""
    if setup.device != "cuda":
        return 0.0
    torch.cuda.reset_peak_memory_stats()
    call()
    return torch.cuda.max_memory_allocated() / 2**30


def images_of(setup: Setup, count: int) -> list[np.ndarray]:
    """Smooth noise, (H, W, 3) uint8."""
    made = []
    for seed in range(count):
        noise = np.random.default_rng(seed).integers(0, 256, (*size_of(setup), 3), dtype=np.uint8)
        smooth = nn.functional.avg_pool2d(torch.from_numpy(noise).permute(2, 0, 1).float(), 9, 1, 4)
        made.append(np.ascontiguousarray(smooth.permute(1, 2, 0).to(torch.uint8).numpy()))
    return made


def inference(precision: str, setup: Setup) -> Figures:
    """Whole predictions, the network alone, and Mask R-CNN with its masks pasted."""
    ours, theirs = finding(setup), finding_peer(setup)
    calls: dict[str, Callable[[], object]] = {}
    for count in batches_of(setup):
        arrays = images_of(setup, count)
        tensors = [torch.from_numpy(array).permute(2, 0, 1).to(setup.device) for array in arrays]
        floats = [tensor.float() / 255 for tensor in tensors]
        calls[f"banet predict, {count}"] = partial(ours.predict, arrays, batch_size=count)
        calls[f"banet network, {count}"] = partial(ours, tensors)
        calls[f"mask_rcnn, {count}"] = partial(theirs, floats)
    images = {name: int(name.split()[-1]) for name in calls}
    with torch.inference_mode(), precision_of(precision, setup.device):
        turns = timed(setup, calls)
        peaks = {name: peak_of(setup, call) for name, call in calls.items()}
    outside = {
        str(n): 1 - turns.median(f"banet network, {n}") / turns.median(f"banet predict, {n}") for n in batches_of(setup)
    }
    return {"images_per_second": rates(turns, images), "share_outside_network": outside, "peak_gib": peaks}


def batch_of(setup: Setup, count: int) -> Batch:
    """Noise with ellipses in it, on the device."""
    training_step.SIZE = size_of(setup)
    pairs = [training_step.picture(seed) for seed in range(count)]
    return [image.to(setup.device) for image, _ in pairs], [target.to(setup.device) for _, target in pairs]


def step_of(
    model: nn.Module, losses: Callable[[], dict[str, Tensor]], precision: str, device: str
) -> Callable[[], None]:
    """A step of SGD: losses, backward, update."""
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1e-5, momentum=0.9)

    def step() -> None:
        optimizer.zero_grad()
        with precision_of(precision, device):
            total = torch.stack(list(losses().values())).sum()
        total.backward()
        optimizer.step()

    return step


def training(precision: str, setup: Setup) -> Figures:
    """Training steps."""
    ours, theirs = network(setup).train(), peer(setup).train()
    calls: dict[str, Callable[[], object]] = {}
    for count in batches_of(setup):
        images, targets = batch_of(setup, count)
        floats, wanted = [image.float() / 255 for image in images], [peers_target(target) for target in targets]
        calls[f"banet, {count}"] = step_of(ours, partial(ours.losses, images, targets), precision, setup.device)
        calls[f"mask_rcnn, {count}"] = step_of(theirs, partial(theirs, floats, wanted), precision, setup.device)
    turns = timed(setup, calls)
    peaks = {name: peak_of(setup, call) for name, call in calls.items()}
    return {"images_per_second": rates(turns, {n: int(n.split()[-1]) for n in calls}), "peak_gib": peaks}


def peers_target(target: Target) -> dict[str, Tensor]:
    masks = target.instances == torch.arange(len(target.boxes), device=target.boxes.device)[:, None, None]
    return {"boxes": target.boxes, "labels": target.labels + 1, "masks": masks.to(torch.uint8)}


def memory_formats(setup: Setup) -> Figures:
    """The network with maps in channels-last order, as it is, and in torch's usual order."""
    model = finding(setup)
    (image,) = images_of(setup, 1)
    tensors = [torch.from_numpy(image).permute(2, 0, 1).to(setup.device)]
    batch = model.batch(tensors)
    usual = type(batch)(batch.pixels.contiguous(), batch.sizes)
    calls = {"channels last": partial(model.segment, batch), "channels first": partial(model.segment, usual)}
    with torch.inference_mode(), precision_of("bf16", setup.device):
        turns = timed(setup, calls)
    return {"images_per_second": rates(turns, dict.fromkeys(calls, 1))}


def compiled(setup: Setup) -> Figures:
    """The network after `BANet.compile`; a rehearsal only traces it."""
    eager, model = finding(setup), finding(setup)
    model.compile(backend="eager" if setup.rehearse else "inductor")
    (image,) = images_of(setup, 1)
    tensors = [torch.from_numpy(image).permute(2, 0, 1).to(setup.device)]
    calls = {"eager": partial(eager, tensors), "compiled": partial(model, tensors)}
    with torch.inference_mode(), precision_of("bf16", setup.device):
        turns = timed(setup, calls)
    return {"images_per_second": rates(turns, dict.fromkeys(calls, 1))}


def operators(setup: Setup) -> Figures:
    """RoIInlay and its gradient beside torchvision's RoIAlign, milliseconds by number of boxes."""
    side = (24, 32) if setup.rehearse else (200, 304)
    found: Figures = {"forward_ms": {}, "backward_ms": {}}
    for count in (20, 100):
        boxes = [boxes_and_masks(count, (4 * side[0], 4 * side[1]))[0].to(setup.device)]
        crops = torch.randn(count, 138, 14, 14, device=setup.device, requires_grad=True)
        maps = torch.randn(1, 138, *side, device=setup.device, requires_grad=True)
        calls = {
            "roi_inlay": (lambda x=crops, b=boxes: roi_inlay(x, b, side, 0.25), crops),
            "roi_align": (lambda x=maps, b=boxes: roi_align(x, b, 14, 0.25, sampling_ratio=2, aligned=True), maps),
        }
        forward = timed(setup, {name: call for name, (call, _) in calls.items()})
        results = {name: (call(), source) for name, (call, source) in calls.items()}

        def backward(name: str, results: dict[str, Any] = results) -> object:
            result, source = results[name]
            return torch.autograd.grad(result.sum(), source, retain_graph=True)

        back = timed(setup, {name: partial(backward, name) for name in calls})
        for name in calls:
            found["forward_ms"][f"{name}, {count}"] = forward.milliseconds(name)
            found["backward_ms"][f"{name}, {count}"] = back.milliseconds(name)
    return found


def host_waits(setup: Setup) -> Figures:
    """How often the host waits for the device, by line, and how busy the device is in a step."""
    if setup.device != "cuda":
        return {**_emulated_waits(setup), "gpu_busy": 0.0, "kernels": 0}
    model = network(setup).train()
    images, targets = batch_of(setup, 2)
    step = step_of(model, partial(model.losses, images, targets), "bf16", setup.device)
    finder, (image, *_) = finding(setup), images_of(setup, 1)
    found: Figures = {}
    for name, call in (("training", step), ("inference", partial(finder.predict, image))):
        call()
        found[name] = dict(_waits(call).most_common())
        found[f"{name}_waits"] = sum(found[name].values())
    return {**found, **_busy(step)}


def _waits(call: Callable[[], object]) -> Counter[str]:
    """Return what torch's own detector of waits says, by the innermost line of the package."""
    lines: Counter[str] = Counter()
    package = str(Path(banet.__file__).parent)

    def note(message: Warning | str, *unused: Any, **more: Any) -> None:
        if "synchroniz" in str(message):
            stack = [f for f in traceback.extract_stack() if f.filename.startswith(package)]
            last = stack[-1] if stack else None
            lines[f"{Path(last.filename).relative_to(package).as_posix()}:{last.lineno}" if last else "torch"] += 1

    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.showwarning = note
        torch.cuda.set_sync_debug_mode("warn")
        try:
            call()
        finally:
            torch.cuda.set_sync_debug_mode("default")
    return lines


def _busy(step: Callable[[], object]) -> Figures:
    """Return the share of a step in which the device computes, and the kernels of the step, by torch's profiler."""
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as seen:
        step()
        torch.cuda.synchronize()
    kernels = [event for event in seen.events() if event.device_type == torch.autograd.DeviceType.CUDA]
    if not kernels:
        raise RuntimeError("the profiler saw no kernel")
    span = max(k.time_range.end for k in kernels) - min(k.time_range.start for k in kernels)
    return {"gpu_busy": sum(k.time_range.elapsed_us() for k in kernels) / span, "kernels": len(kernels)}


def _emulated_waits(setup: Setup) -> Figures:
    """The same on an emulated device."""
    sys.path.insert(0, str(ROOT / "tests"))
    from emulated import DEVICE, emulation

    found: Figures = {}
    images, targets = batch_of(setup, 2)
    for name in ("training", "inference"):
        model = network(setup)
        with emulation() as device, torch.set_grad_enabled(name == "training"):
            model.to(DEVICE)
            there = [image.to(DEVICE) for image in images], [target.to(DEVICE) for target in targets]
            device.waits.clear()
            if name == "training":
                torch.stack(list(model.train().losses(*there).values())).sum().backward()
            else:
                list(model.eval()(there[0]).images)
            lines: Counter[str] = Counter()
            for (_, line), count in device.waits.items():
                lines[line.split()[0]] += count
        found[name] = dict(lines.most_common())
        found[f"{name}_waits"] = lines.total()
    return found

"""A training step beside torchvision's Mask R-CNN: ``python benchmarks/training_step.py [--threads 2] [--repeats 3]``.

ResNet-50, two images of 800 × 1088 pixels with ten objects each, random weights, frozen batch norm, stem and layer1
frozen in both, 512 RoIs an image. A step is losses, backward and SGD. The two take turns; medians and their ratio are
printed, then where our time goes, and the peak memory of each in a process of its own, ours with gradient checkpointing
as well.
"""

from __future__ import annotations

import argparse
import time
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torchvision
from harness import Report, forget_peak, own_process, parser, peak, take_turns
from torch import Tensor
from torchvision.models.detection import MaskRCNN
from torchvision.models.detection.backbone_utils import _resnet_fpn_extractor
from torchvision.ops import FrozenBatchNorm2d

from banet.data.samples import Target
from banet.inference.banet import BANet
from banet.modeling.composition import recompute_in_backward
from banet.modeling.config import ModelConfig
from banet.panoptic.coco.classes import coco_categories

SIZE = (800, 1088)
IMAGES, OBJECTS = 2, 10
NAMES = ("banet", "banet with gradient checkpointing", "mask_rcnn")


def picture(seed: int) -> tuple[Tensor, Target]:
    """Noise, and what is to be found in it: ellipses, later ones on top, and stuff in bands."""
    rng = np.random.default_rng(seed)
    height, width = SIZE
    instances = np.full(SIZE, -1, dtype=np.int32)
    semantic = np.repeat(80 + np.arange(height) * 53 // height, width).reshape(SIZE)
    labels = rng.integers(0, 80, OBJECTS)
    for n, label in enumerate(labels):
        half = np.exp(rng.uniform(np.log(20), np.log(200), 2))
        centre = rng.uniform((0, 0), SIZE)
        y, x = np.ogrid[:height, :width]
        inside = ((y - centre[0]) / half[0]) ** 2 + ((x - centre[1]) / half[1]) ** 2 <= 1
        instances[inside], semantic[inside] = n, label
    kept = [n for n in range(OBJECTS) if (instances == n).any()]
    boxes = []
    for new, n in enumerate(kept):
        rows, columns = np.nonzero(instances == n)
        boxes.append([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])
        instances[instances == n] = new
    target = Target(
        boxes=torch.tensor(np.array(boxes), dtype=torch.float32),
        labels=torch.from_numpy(labels[kept]),
        instances=torch.from_numpy(instances),
        semantic=torch.from_numpy(semantic),
        image_id=seed,
        name=f"picture {seed}",
    )
    return torch.from_numpy(rng.integers(0, 256, (3, *SIZE), dtype=np.uint8)), target


def contestant(name: str) -> tuple[Callable[[], Tensor], torch.nn.Module]:
    """What gives the sum of the losses, and the network."""
    torch.manual_seed(0)
    images, targets = zip(*(picture(seed) for seed in range(IMAGES)), strict=True)
    if name == "mask_rcnn":
        resnet = torchvision.models.resnet50(weights=None, norm_layer=FrozenBatchNorm2d)
        theirs = MaskRCNN(_resnet_fpn_extractor(resnet, 3), 91).train()
        floats = [image.float() / 255 for image in images]
        wanted = []
        for target in targets:
            masks = target.instances == torch.arange(len(target.boxes))[:, None, None]
            wanted.append({"boxes": target.boxes, "labels": target.labels + 1, "masks": masks.to(torch.uint8)})
        return lambda: torch.stack(list(theirs(floats, wanted).values())).sum(), theirs
    ours = BANet(coco_categories(), ModelConfig(norm="frozen_batch")).train()
    if name != "banet":
        recompute_in_backward(ours)
    return lambda: torch.stack(list(ours.losses(images, targets).values())).sum(), ours


def step_of(name: str) -> Callable[[], None]:
    losses, network = contestant(name)
    optimizer = torch.optim.SGD([p for p in network.parameters() if p.requires_grad], lr=1e-5, momentum=0.9)

    def step() -> None:
        optimizer.zero_grad()
        losses().backward()
        optimizer.step()

    return step


class _Mark(torch.autograd.Function):
    """Passes a tensor on; in the backward pass the clock moves to another part."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, move: Callable[[], None]) -> Tensor:
        ctx.move = move
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        ctx.move()
        return gradient, None


def where_time_goes() -> dict[str, list[float]]:
    """Seconds of each part in the forward and in the backward pass."""
    losses, network = contestant("banet")
    assert isinstance(network, BANet)
    spent: dict[str, list[float]] = defaultdict(lambda: [0.0, 0.0])
    clock = {"part": "the rest", "since": time.perf_counter(), "pass": 0}

    def move(part: str) -> None:
        now = time.perf_counter()
        spent[str(clock["part"])][int(clock["pass"])] += now - float(clock["since"])  # type: ignore[arg-type]
        clock.update(part=part, since=now)

    def mark(value: Any, part: str) -> Any:
        if isinstance(value, Tensor):
            return _Mark.apply(value, lambda: move(part)) if value.requires_grad else value
        if isinstance(value, (list, tuple)):
            return type(value)(mark(each, part) for each in value)
        return value

    def watch(owner: Any, attribute: str, part: str) -> None:
        real = getattr(owner, attribute)

        def call(*arguments: Any, **options: Any) -> Any:
            before = str(clock["part"])
            move(part)
            result = real(*[mark(a, before) for a in arguments], **options)
            move(before)
            return mark(result, part)

        setattr(owner, attribute, call)

    watch(network.backbone, "forward", "backbone")
    watch(network.semantic_head, "forward", "semantic head")
    watch(network.roi_features.box_align, "forward", "RoI features")
    watch(network.roi_features.mask_align, "forward", "RoI features")
    watch(network.roi_features, "forward", "RoI features")
    watch(network.rpn, "losses", "RPN with its losses")
    watch(network.box_head, "losses", "box head with its losses")
    watch(network.mask_head, "features", "mask head")
    watch(network.mask_head, "loss", "mask head")
    watch(network.segmenter, "losses", "I2S and semantic losses")
    for _ in range(2):
        spent.clear()
        clock.update({"pass": 0, "part": "the rest", "since": time.perf_counter()})
        total = losses()
        move("the rest")
        clock["pass"] = 1
        total.backward()
        move("the rest")
    return dict(spent)


def main() -> None:
    command_line = parser(__doc__, repeats=3)
    command_line.add_argument("--memory", choices=NAMES, help=argparse.SUPPRESS)
    options = command_line.parse_args()
    torch.set_num_threads(options.threads)
    if options.memory:
        step = step_of(options.memory)
        forget_peak()
        step()
        step()
        print(f"{options.memory}: peak {peak() / 2**30:.2f} GiB")
        return
    with Report(options, __file__) as report:
        turns = take_turns({name: step_of(name) for name in ("banet", "mask_rcnn")}, options.repeats)
        report.turns("steps", turns)
        report.say(
            f"banet {turns.median('banet'):.2f} s, mask_rcnn {turns.median('mask_rcnn'):.2f} s, "
            f"ratio {turns.ratio_text('banet', 'mask_rcnn')} (goal 1.6)"
        )
        parts = where_time_goes()
        total = sum(map(sum, parts.values()))
        report.say(f"{'part':26} {'forward':>9} {'backward':>9}")
        for part, (forward, backward) in sorted(parts.items(), key=lambda item: -sum(item[1])):
            share = 100 * (forward + backward) / total
            report.say(
                f"{part:26} {forward:8.2f} s {backward:8.2f} s  {share:5.1f} %",
                part=part,
                forward=forward,
                backward=backward,
            )
        for name in NAMES:
            report.say(own_process(__file__, "--threads", options.threads, "--memory", name))


if __name__ == "__main__":
    main()

"""Step A of the studies of aggregation: read-outs that learn from the features of one frozen trunk."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from claim_arms import Arm, Emptied, read_out
from claim_measures import Counter, scores
from safetensors.torch import save_file
from torch import Tensor, nn
from tqdm import tqdm

from banet import BANet
from banet.data.scenes.generate import SCENE_CATEGORIES, Scenes
from banet.engine.recipe import Recipe, TrainConfig
from banet.engine.training.task import learning_rate_factor
from banet.files.atomic import atomic_path, write_json
from banet.inference.postprocess import UnfusedPrediction, postprocess, semantic_argmax
from banet.inference.preprocess import preprocess
from banet.modeling.config import InferenceConfig
from banet.modeling.instance_head import select_for_panoptic
from banet.modeling.outputs import Output
from banet.modeling.semantic_loss import semantic_loss
from banet.panoptic import PanopticSegmentation

READ_OUT = "read_out.safetensors"
"""Name of the file of a fitted read-out, in its folder."""


@dataclass(frozen=True)
class Features:
    """What a trunk makes of one scene, as far as read-outs need it.

    Attributes:
        semantic: F_S, level by level, (C, h, w) half precision.
        f_ins: (N, C, 14, 14) of the N boxes, half precision.
        boxes: (N, 4) in input pixels.
    """

    semantic: list[Tensor]
    f_ins: Tensor
    boxes: Tensor


@dataclass(frozen=True)
class Seen:
    """A validation scene.

    Attributes:
        found: features of the boxes that RoIInlay gets at inference.
        true: features of the true boxes.
        unfused: what the trunk itself predicts; its instances are those of every read-out.
        truth: the ground truth.
        size: height and width of the network's input.
    """

    found: Features
    true: Features
    unfused: UnfusedPrediction
    truth: PanopticSegmentation
    size: tuple[int, int]


def features_of(model: BANet, output: Output, boxes: Tensor) -> Features:
    """Return what read-outs need of one image.

    Args:
        model: the network.
        output: what it made of the image.
        boxes: (N, 4) in input pixels, whose F_ins is computed.
    """
    f_ins = model.mask_head.features(output.rois.mask([boxes]))
    return Features([level[0].half() for level in output.semantic], f_ins.half(), boxes)


@torch.no_grad()
def training_features(model: BANet, scenes: Scenes) -> list[tuple[Features, Tensor]]:
    """Return the features of each scene's true boxes, and the class index of its pixels."""
    found = []
    for index in tqdm(range(len(scenes)), desc="features", unit="scene", mininterval=10):
        sample = scenes[index]
        output = model([sample.image])
        found.append((features_of(model, output, sample.target.boxes), sample.target.semantic))
    return found


@torch.no_grad()
def validation_features(model: BANet, scenes: Scenes) -> list[Seen]:
    """Return the validation scenes as the trunk sees them."""
    found = []
    limit = model.inference.inlay_threshold
    for index in tqdm(range(len(scenes)), desc="validation", unit="scene", mininterval=10):
        image, truth = scenes.read(index)
        output = model([preprocess(image, model.inference)])
        (raw,) = output.images
        found.append(
            Seen(
                features_of(model, output, _selected(model, output, limit)),
                features_of(model, output, scenes[index].target.boxes),
                postprocess(raw, image, SCENE_CATEGORIES, model.inference),
                truth,
                raw.size,
            )
        )
    return found


def _selected(model: BANet, output: Output, limit: float) -> Tensor:
    """Return the boxes (N, 4) of one image that RoIInlay gets where they need a score above `limit`."""
    limits = model.inference
    (boxes,), _, _ = select_for_panoptic(
        output.candidates, score=limit, iou=limits.nms_threshold, limit=limits.max_instances
    )
    return boxes


def _joined(features: Sequence[Features]) -> tuple[list[Tensor], Tensor]:
    """Return F_S of a batch, level by level, and F_ins of all its boxes in order."""
    semantic = [torch.stack(levels).float() for levels in zip(*(each.semantic for each in features), strict=True)]
    return semantic, torch.cat([each.f_ins for each in features]).float()


def _batches(cache: Sequence[Any], seed: int, learning: TrainConfig) -> Iterator[list[int]]:
    """Yield the rows of each step's batch, epoch by epoch; the same for every arm of a seed."""
    for epoch in range(learning.iterations):
        order = np.random.default_rng([seed, epoch]).permutation(len(cache)).tolist()
        size = learning.batch_size
        yield from (order[start : start + size] for start in range(0, len(order) - size + 1, size))


def learn(module: Any, cache: Sequence[tuple[Features, Tensor]], seed: int, learning: TrainConfig) -> float:
    """Let a read-out learn from the cache; return its mean loss over the last tenth of the steps.

    Args:
        module: the read-out.
        cache: features and labels of the training scenes.
        seed: of batches and drawn boxes.
        learning: how it learns.
    """
    parameters = [p for p in module.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": learning.weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=learning.lr)
    losses = []
    for step, rows in zip(range(learning.iterations), _batches(cache, seed, learning), strict=False):
        features, truth = zip(*(cache[row] for row in rows), strict=True)
        torch.manual_seed(int(np.random.SeedSequence([seed, step]).generate_state(1)[0]))
        starts = np.cumsum([0, *(len(each.boxes) for each in features)])
        # A fifth column carries the row of F_ins through the draw.
        marked = [
            torch.cat([each.boxes, torch.arange(start, start + len(each.boxes))[:, None].float()], 1)
            for each, start in zip(features, starts, strict=False)
        ]
        drawn = module.inlay_boxes(marked)
        semantic, f_ins = _joined(features)
        used = f_ins[torch.cat(drawn)[:, 4].long()]
        sizes = [tuple(labels.shape) for labels in truth]
        loss = semantic_loss(module(semantic, used, [each[:, :4] for each in drawn], sizes), list(truth))
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, learning.clip)
        for group in optimizer.param_groups:
            group["lr"] = learning.lr * learning_rate_factor(step, learning)
        optimizer.step()
        losses.append(float(loss.detach()))
    return float(np.mean(losses[-max(1, len(losses) // 10) :]))


@torch.no_grad()
def count(module: Any, validation: Sequence[Seen], options: InferenceConfig, *, true_boxes: bool) -> Counter:
    """Count the validation scenes with the logits of a read-out."""
    counter = Counter(rules=("heuristic",))
    for seen in validation:
        features = seen.true if true_boxes else seen.found
        semantic, f_ins = _joined([features])
        logits = module(semantic, f_ins, [features.boxes], [seen.size])[0]
        image = seen.unfused.image
        best = semantic_argmax(logits, seen.size, (image.shape[0], image.shape[1]))
        counter.add(UnfusedPrediction(image, seen.unfused.instances, best), seen.truth, options)
    return counter


def run_arm(
    arm: Arm,
    seed: int,
    recipe: Recipe,
    learning: TrainConfig,
    cache: Sequence[tuple[Features, Tensor]],
    validation: Sequence[Seen],
    folder: Path,
) -> None:
    """Train and measure one read-out; its JSON comes last, and says that all is there."""
    begin = time.process_time()
    torch.manual_seed(seed)
    module = read_out(arm, recipe, SCENE_CATEGORIES)
    loss = learn(module, cache, seed, learning)
    folder.mkdir(parents=True, exist_ok=True)
    fitted = module.segmenter if isinstance(module, Emptied) else module
    with atomic_path(folder / READ_OUT) as temporary:
        save_file(fitted.state_dict(), temporary)
    figures = {}
    for name in ("found", "true"):
        counts = count(module, validation, recipe.inference, true_boxes=name == "true").counts()
        counts.save(folder / f"{name}.npz")
        figures[name] = {way: {k: float(v[0]) for k, v in scores(counts, way).items()} for way in counts.quality}
    seconds = time.process_time() - begin
    write_json(folder / "figures.json", {"arm": arm.name, "seed": seed, "loss": loss, "seconds": seconds, **figures})

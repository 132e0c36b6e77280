"""`banet analyze`: what perfect boxes, classes, overlap order or segmentation would be worth (Table 4 of the paper).

Whatever rule is saved with the weights, every row fuses by the paper's, as Table 4 is about the network with OH. Models
of other libraries have no head that takes boxes, so their rows are those without true boxes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from banet._renamed import accept_old_names
from banet.composed.names import is_composed
from banet.engine.evaluation.evaluate import check_categories, open_evaluated
from banet.engine.evaluation.evaluation_data import EvaluationData, EvaluationImage, choose_data
from banet.engine.recipe import Recipe, SplitConfig
from banet.engine.studies.figure import Figure
from banet.errors import InputError
from banet.files.atomic import write_json
from banet.files.outputs import Outputs, weight_files
from banet.inference.banet import BANet
from banet.inference.device import pick_device
from banet.inference.postprocess import UnfusedPrediction, postprocess
from banet.inference.predictor import Predictor
from banet.inference.preprocess import preprocess
from banet.modeling.outputs import Candidates, Output
from banet.panoptic import MaskCrops, PanopticQuality, PanopticSegmentation, fuse_panoptic
from banet.panoptic.defaults import RULE
from banet.panoptic.metrics.quality import to_json
from banet.panoptic.occlusion.rules import Rule, gt_order_rule, match_boxes
from banet.types import ImageId

__all__ = ["ROWS", "Oracle", "analyze", "analyze_command", "ceiling"]


@dataclass(frozen=True)
class Oracle:
    """What is taken from the truth.

    Attributes:
        boxes: Ground-truth boxes stand in for the proposals; they are neither regressed nor suppressed. Class and score
            come from the box head, and the score threshold still applies (our choice).
        classes: Instance class assignment: each instance takes the class of its box, with score 1. Without true boxes,
            instances that overlap a true box by at least 0.5 take that one's class (our choice).
        order: Where both objects of an occluded pair are matched to the truth, the winner is the one whose segment owns
            more of the overlap; all other pairs go by the paper's rule.
        segmentation: The truth's classes stand in for the argmax of the semantic logits.
    """

    boxes: bool = False
    classes: bool = False
    order: bool = False
    segmentation: bool = False


ROWS: Mapping[str, tuple[Oracle, tuple[float, float, float] | None]] = {
    "none": (Oracle(), (43.0, 50.5, 31.8)),
    "GT Occ": (Oracle(order=True), (44.6, 53.2, 31.8)),
    "GT ICA": (Oracle(classes=True), None),
    "GT Box": (Oracle(boxes=True), (47.1, 56.6, 32.8)),
    "GT Box + Occ": (Oracle(boxes=True, order=True), None),
    "GT Box + ICA": (Oracle(boxes=True, classes=True), (58.4, 74.8, 33.5)),
    "GT Box + ICA + Occ": (Oracle(boxes=True, classes=True, order=True), (59.3, 76.3, 33.5)),
    "GT Seg": (Oracle(segmentation=True), (60.8, 50.5, 76.4)),
}
"""Rows, and the paper's PQ, PQ^Th and PQ^St for them on COCO (R50 + DFM + OH)."""


@dataclass(frozen=True)
class _Truth:
    """The things of an image without crowd: segment ids (N,), category ids (N,) and boxes (N, 4), x1 y1 x2 y2."""

    ids: NDArray[np.int64]
    labels: NDArray[np.int64]
    boxes: NDArray[np.float64]

    @classmethod
    def of(cls, truth: PanopticSegmentation) -> _Truth:
        things = [s for s in truth.segments if s.isthing and not s.iscrowd]
        xywh = np.array([s.bbox for s in things], dtype=np.float64).reshape(-1, 4)
        boxes = np.concatenate([xywh[:, :2], xywh[:, :2] + xywh[:, 2:]], axis=1)
        ids = np.array([s.id for s in things], dtype=np.int64)
        return cls(ids, np.array([s.category_id for s in things], dtype=np.int64), boxes)


def analyze(
    model: Predictor, data: EvaluationData, *, limit: int | None = None, source: str = "data"
) -> dict[str, dict[str, Any]]:
    """PQ of a model under each row of Table 4; of models but BANet, of the rows without true boxes.

    Args:
        model: Any; BANet in evaluation mode, on its device.
        data: Images with ground truth, of the same classes.
        limit: Only the first N images.
        source: Names the data in errors.

    Returns:
        What `PanopticQuality.compute` gives by row, and for BANet under `ceiling` for a perfect network under the
        model's limits.
    """
    check_categories(model, data.categories, source)
    rows = [*ROWS, "ceiling"] if isinstance(model, BANet) else [row for row in ROWS if not ROWS[row][0].boxes]
    qualities = {name: PanopticQuality(model.categories) for name in rows}
    count = len(data) if limit is None else min(limit, len(data))
    for index in tqdm(range(count), desc="analyze", unit="image"):
        example = data[index]
        results = _results(model, example) if isinstance(model, BANet) else _results_of_any(model, example)
        for name, result in results.items():
            qualities[name].update(result, example.ground_truth)
        if isinstance(model, BANet):
            qualities["ceiling"].update(ceiling(model, example), example.ground_truth)
    return {name: quality.compute() for name, quality in qualities.items()}


@torch.inference_mode()
def _results(model: BANet, example: EvaluationImage) -> dict[str, PanopticSegmentation]:
    """Compute the result of each row for one image; the network runs once, its heads once for each set of instances."""
    truth = _Truth.of(example.ground_truth)
    output = model([preprocess(example.image, model.inference)])
    chosen: dict[tuple[bool, bool], UnfusedPrediction] = {}
    results = {}
    for name, (oracle, _) in ROWS.items():
        key = (oracle.boxes, oracle.classes)
        if key not in chosen:
            changed = _choose(model, output, truth, oracle, example.image.shape[:2])
            chosen[key] = postprocess(changed.images[0], example.image, model.categories, model.inference)
        results[name] = _fuse(model, chosen[key], example.ground_truth, oracle)
    return results


def _results_of_any(model: Predictor, example: EvaluationImage) -> dict[str, PanopticSegmentation]:
    """Compute the result of each row without true boxes for one image, from one pass of the model."""
    truth = _Truth.of(example.ground_truth)
    (unfused,) = model.predict_unfused([example.image])
    rows = match_boxes(unfused.instances.boxes, truth.boxes)
    matched = rows >= 0
    scores, labels = unfused.instances.scores.copy(), unfused.instances.labels.copy()
    scores[matched] = 1.0
    labels[matched] = [model.categories.index(int(truth.labels[row])) for row in rows[matched]]
    assigned = replace(unfused, instances=replace(unfused.instances, scores=scores, labels=labels))
    return {
        name: _fuse(model, assigned if oracle.classes else unfused, example.ground_truth, oracle)
        for name, (oracle, _) in ROWS.items()
        if not oracle.boxes
    }


def _fuse(
    model: Predictor, unfused: UnfusedPrediction, truth: PanopticSegmentation, oracle: Oracle
) -> PanopticSegmentation:
    """Fuse one image with the order and the segmentation of an oracle; its instances are chosen already."""
    if oracle.segmentation:
        unfused = replace(unfused, semantic=model.categories.indices_of(truth.semantic))
    rule: Rule | str = RULE
    if oracle.order:
        true_things = _Truth.of(truth)
        rows = match_boxes(unfused.instances.boxes, true_things.boxes)
        rule = gt_order_rule(truth.ids, np.append(true_things.ids, 0)[rows])
    return unfused.fuse(model.categories, model.inference, rule=rule)


def _choose(model: BANet, output: Output, truth: _Truth, oracle: Oracle, size: tuple[int, ...]) -> Output:
    """Return the network's output with the instances of an oracle."""
    if not (oracle.boxes or oracle.classes):
        return output
    height, width = output.sizes[0]
    scale = np.array([width / size[1], height / size[0]] * 2)
    true_boxes = torch.as_tensor(truth.boxes * scale, dtype=torch.float32, device=model.device)
    true_labels = torch.as_tensor([model.categories.index(int(i)) for i in truth.labels], dtype=torch.int64)
    true_labels = true_labels.to(model.device)
    if oracle.boxes:
        boxes = true_boxes
        candidates = model.box_head.candidates(output.rois.box([boxes]), [boxes], output.sizes)[0]
        scores, labels = _best(candidates)
        if oracle.classes:
            scores, labels = torch.ones_like(scores), true_labels
        else:
            keep = scores > model.segmenter.score_limit(model.inference)
            boxes, scores, labels = boxes[keep], scores[keep], labels[keep]
        return model.with_instances(output, [boxes], [scores], [labels])
    found = output.detections[0]
    rows = torch.as_tensor(match_boxes(found.boxes.cpu(), true_boxes.cpu()), device=model.device)
    matched = rows >= 0
    scores, labels = found.scores.clone(), found.labels.clone()
    scores[matched], labels[matched] = 1.0, true_labels[rows[matched]]
    # RoIInlay sees the same boxes as before, so the logits stay.
    f_ins = model.mask_head.features(output.rois.mask([found.boxes]))
    return replace(output, detections=model.mask_head.detections(f_ins, [found.boxes], [scores], [labels]))


def _best(candidates: Candidates) -> tuple[Tensor, Tensor]:
    if candidates.scores.shape[1] == 0:
        return candidates.scores.sum(1), torch.zeros(len(candidates.scores), dtype=torch.int64)
    best = candidates.scores.max(1)
    return best.values, best.indices


def ceiling(model: BANet, example: EvaluationImage) -> PanopticSegmentation:
    """What a perfect network would give under the model's limits: stuff too small and instances too many are lost.

    Its instances have the truth's masks and classes and equal scores; its semantic map is the truth. Box suppression
    acts on the truth's boxes, the first of two by area staying.
    """
    from torchvision.ops import nms

    limits, truth = model.inference, _Truth.of(example.ground_truth)
    masks = [example.ground_truth.ids == identity for identity in truth.ids]
    areas = torch.tensor([float(mask.sum()) for mask in masks])
    boxes = torch.as_tensor(truth.boxes, dtype=torch.float32)
    keep = nms(boxes, areas, limits.nms_threshold)[: limits.max_instances].numpy()
    height, width = example.ground_truth.ids.shape
    whole = np.tile(np.array([0, 0, width, height]), (len(keep), 1)).reshape(-1, 4)
    return fuse_panoptic(
        MaskCrops(whole, [masks[k] for k in keep], (height, width)),
        np.ones(len(keep)),
        truth.labels[keep],
        example.ground_truth.semantic,
        example.image,
        categories=model.categories,
        stuff_area=limits.stuff_area,
    )


def format_rows(results: Mapping[str, Mapping[str, Any]]) -> str:
    """A table in per cent: PQ, PQ^Th and PQ^St, what each row is worth over `none`, and the paper's COCO figures."""

    def figures(values: Sequence[float] | None, sign: str = "") -> str:
        texts = ("-" if math.isnan(v) else f"{round(v, 1) + 0.0:{sign}.1f}" for v in values or [math.nan] * 3)
        return "".join(f"{text:>8}" for text in texts)

    def ours(name: str) -> list[float]:
        return [100 * results[name][subset]["pq"] for subset in ("All", "Things", "Stuff")]

    columns = f"{'PQ':>8}{'PQ^Th':>8}{'PQ^St':>8}"
    lines = [f"{'':<20}{'':>24}{'worth':>24}{'the paper, on COCO':>24}", f"{'':<20}{columns * 3}"]
    for name in results:
        gains = [value - plain for value, plain in zip(ours(name), ours("none"), strict=True)]
        paper = ROWS[name][1] if name in ROWS else None
        worth = figures(None if name == "none" else gains, "+")
        lines.append(f"{name:<20}{figures(ours(name))}{worth}{figures(paper)}")
    return "\n".join(lines)


def _baseline_of(weights: str) -> str:
    """Return the baseline of the same seed in the study of `banet ablate` that weights belong to.

    Raises:
        InputError: They belong to none.
    """
    run = Path(weights).parent if Path(weights).is_file() else Path(weights)
    sibling = run.parent.parent / "baseline" / run.name
    if not (sibling / "model.safetensors").is_file():
        raise InputError("name the weights of its second column with --baseline WEIGHTS", where="--figure")
    return str(sibling)


@accept_old_names
def analyze_command(
    weights: str,
    *,
    recipe: Recipe | None,
    split: SplitConfig | None,
    out: Path | None,
    limit: int | None,
    device: str,
    class_table: str | None = None,
    trust: bool = False,
    figure: Path | None = None,
    baseline: str | None = None,
    shown: int = 4,
    image_ids: Sequence[ImageId] = (),
    overwrite: bool = False,
) -> dict[str, dict[str, Any]]:
    """`banet analyze`: load, measure every row, print the table, and draw the figure where one is asked for.

    Args:
        weights: Of the network with all parts, or another library's model; see `banet.load`.
        recipe: Its validation split is measured on, unless `split` is given.
        split: In place of a recipe.
        out: Folder for `analysis.json`.
        limit: Only the first N images.
        device: `auto`, `cpu`, `cuda` or `mps`.
        class_table: See `open_evaluated`.
        trust: See `banet.load`.
        figure: PNG of the paper's Fig. 6.
        baseline: Weights of its second column; None for the baseline of the study that `weights` belong to.
        shown: How many images `Figure.choose` is to find for it.
        image_ids: These images instead.
        overwrite: Also replace files that this function did not write, but never an input.

    Raises:
        InputError: A file would be replaced that may not be (see `Outputs`), or weights or data cannot be read, or do
            not fit each other.
    """
    target = pick_device(device)
    data, source = choose_data(recipe, split)
    if figure is not None and figure.suffix.lower() != ".png":
        raise InputError("give the name of a .png file", where=f"--figure {figure}")
    if figure is not None and is_composed(weights):
        raise InputError("shows what parts of BANet add", where="--figure", hint="give weights of BANet")
    read = [*weight_files(weights), *weight_files(baseline or weights), *data.files()]
    outputs = [
        Outputs(folder, "banet analyze", [name], inputs=read, overwrite=overwrite, option=option)
        for folder, name, option in (
            *([(out, "analysis.json", "--out")] if out is not None else []),
            *([(figure.parent, figure.name, "--figure")] if figure is not None else []),
        )
    ]
    model = open_evaluated(weights, data, source, device=device, class_table=class_table, trust=trust)
    data.set_bit_depth(model.inference.bit_depth)
    drawing = None
    if figure is not None and isinstance(model, BANet):  # before the long part, as there may be something wrong with it
        plain = BANet.from_pretrained(baseline or _baseline_of(weights), device=target)
        drawing = Figure(plain, model, data, source)
        drawing.find(image_ids)
    print(f"{weights} on {len(data)} images ({source}), {target.type}")
    results = analyze(model, data, limit=limit, source=source)
    print(format_rows(results))
    with ExitStack() as stack:
        for claimed in outputs:
            stack.enter_context(claimed)
        if out is not None:
            out.mkdir(parents=True, exist_ok=True)
            write_json(out / "analysis.json", {name: to_json(result) for name, result in results.items()})
        if figure is not None and drawing is not None:
            drawing.save(figure, count=shown, ids=image_ids, limit=limit)
            print(f"written: {figure}")
    return results

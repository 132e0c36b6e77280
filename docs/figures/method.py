"""Draw the figures of docs/explanation/method.md: ``python docs/figures/method.py [--out docs/images]``.

Needs the extra ``train``.

Every array in them is one that the weights `scenes` compute on procedural scenes of seed 3, which neither training nor
validation saw. Feature maps are shown by the three main components of their features' directions: where colours are
alike, features are.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import torch
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from banet import BANet
from banet.data.scenes.generate import Scene, make_scene
from banet.inference.postprocess import paste_instances, semantic_argmax
from banet.inference.preprocess import preprocess
from banet.modeling.aggregation import InstanceToSemanticWithContext
from banet.modeling.outputs import Output
from banet.modeling.segmenters import AggregatedLogits
from banet.ops import roi_inlay
from banet.panoptic import Pairs, resolve_occlusions
from banet.panoptic.occlusion.rules import appearance

SEED = 3
SCENE, OTHER = 3, 22  # one with a clear overlap, and one with other things
SCENES = 20  # of which the averages are
COLOURS = ((0.90, 0.12, 0.39), (0.13, 0.59, 0.95), (1.0, 0.60, 0.0), (0.30, 0.69, 0.31))


class Colouring:
    """Shows features by their three main components.

    Args:
        features: (N, C), what the components are found from.
    """

    def __init__(self, features: Tensor) -> None:
        features = F.normalize(features, dim=1)
        self.mean = features.mean(0)
        _, _, axes = torch.linalg.svd(features - self.mean, full_matrices=False)
        self.axes = axes[:3] * axes[:3].sum(1, keepdim=True).sign()  # a component's sign is arbitrary
        shown = (features - self.mean) @ self.axes.T
        self.low, self.high = shown.quantile(0.02, dim=0), shown.quantile(0.98, dim=0)

    def __call__(self, features: Tensor) -> NDArray[np.float32]:
        """A map (C, H, W) as colours (H, W, 3) in 0..1."""
        shown = (F.normalize(features, dim=0).permute(1, 2, 0) - self.mean) @ self.axes.T
        colours: NDArray[np.float32] = ((shown - self.low) / (self.high - self.low)).clamp(0, 1).numpy()
        return colours


def pixels_of(features: Tensor) -> Tensor:
    """Maps (N, C, H, W) as (N·H·W, C)."""
    return features.permute(0, 2, 3, 1).flatten(0, 2)


def panels(rows: int, columns: int, width: float = 11.0) -> tuple[Figure, NDArray[Any]]:
    """A grid of square panels without axes."""
    figure, axes = plt.subplots(
        rows, columns, figsize=(width, rows * width / columns + 0.3), layout="constrained", squeeze=False
    )
    for axis in axes.flat:
        axis.set_axis_off()
    return figure, axes


def show(axis: Axes, image: Any, title: str = "", **options: Any) -> None:
    """Puts an image on a panel, pixels as squares."""
    axis.imshow(image, interpolation="nearest", **options)
    axis.set_title(title, fontsize=9)


def draw_box(axis: Axes, box: Tensor, colour: Any, scale: float = 1.0) -> None:
    """Draws a box x1, y1, x2, y2; `scale` is panel pixels per box unit."""
    x1, y1, x2, y2 = (box * scale - 0.5).tolist()
    axis.add_patch(plt.Rectangle((x1, y1), x2 - x1, y2 - y1, fill=False, color=colour, linewidth=1.6))


class Study:
    """One scene and all that the network computes on the way.

    Args:
        model: The weights `scenes`, which have every part of the paper.
        index: The scene's number.
    """

    def __init__(self, model: BANet, index: int) -> None:
        self.model = model
        self.scene: Scene = make_scene(SEED, index)
        self.batch = model.batch([preprocess(self.scene.image, model.inference)])
        self.output: Output = model.segment(self.batch)
        self.pyramid = model.backbone(self.batch.pixels)[:4]
        self.semantic = self.output.semantic
        self.detections = self.output.detections[0]
        self.size = (self.pyramid[0].shape[-2], self.pyramid[0].shape[-1])  # (H/4, W/4)

    @property
    def aggregated(self) -> AggregatedLogits:
        """The part that makes the final logits."""
        assert isinstance(self.model.segmenter, AggregatedLogits)
        return self.model.segmenter

    @property
    def i2s(self) -> InstanceToSemanticWithContext:
        """SIM and OCM."""
        assert isinstance(self.aggregated.i2s, InstanceToSemanticWithContext)
        return self.aggregated.i2s

    def name(self, instance: int) -> str:
        """The class of an instance."""
        return self.model.categories[int(self.detections.labels[instance])].name

    def largest(self, count: int) -> list[int]:
        """The instances with the largest boxes, each of another class."""
        x1, y1, x2, y2 = self.detections.boxes.unbind(1)
        order = ((x2 - x1) * (y2 - y1)).argsort(descending=True).tolist()
        first: dict[str, int] = {}
        for instance in order:
            first.setdefault(self.name(instance), instance)
        return list(first.values())[:count]

    def f_ins(self) -> Tensor:
        """F_ins of the instances, (N, C, 14, 14)."""
        features: Tensor = self.model.mask_head.features(self.output.rois.mask([self.detections.boxes]))
        return features

    def best(self, logits: Tensor) -> NDArray[np.int64]:
        """Best class of each pixel of the image, (H, W), from logits (C, H/4, W/4)."""
        height, width = self.scene.ids.shape
        return semantic_argmax(logits, self.output.sizes[0], (height, width))

    def truth(self) -> NDArray[np.int64]:
        """Class index of each pixel of the image."""
        of_segment = {segment.id: segment.category_id for segment in self.scene.segments}
        table = np.array([0, *(of_segment[i] for i in sorted(of_segment))])
        return self.model.categories.indices_of(table[self.scene.ids], "truth")


def s2i(study: Study) -> Figure:
    """What S2I adds to the features of a box, and what its mask would be without it."""
    model, boxes = study.model, study.detections.boxes
    phi = model.roi_features.phi(study.semantic)
    chosen = study.largest(3)
    boxes, labels = boxes[chosen], study.detections.labels[chosen]
    crops = model.roi_features.mask_align(study.pyramid, [boxes])
    joined = study.output.rois.mask([boxes])
    added = joined - crops
    colour = Colouring(pixels_of(torch.cat([crops, added, joined])))
    wide = Colouring(pixels_of(phi))
    masks = [model.mask_head(model.mask_head.features(f), labels).sigmoid() for f in (joined, crops)]
    figure, axes = panels(3, 7)
    titles = ("picture", "φ(F_S)", "crop of P_i", "crop of φ(F_S)", "F_S2I, their sum", "mask", "mask without φ(F_S)")
    for row, line in enumerate(axes):
        show(line[0], study.scene.image)
        show(line[1], wide(phi[0]))
        for axis, scale in ((line[0], 1.0), (line[1], 0.25)):
            draw_box(axis, boxes[row], COLOURS[row], scale)
        for axis, features in zip(line[2:5], (crops, added, joined), strict=True):
            show(axis, colour(features[row]))
        for axis, mask in zip(line[5:], masks, strict=True):
            show(axis, mask[row].reshape(28, 28).numpy(), cmap="gray", vmin=0, vmax=1)
        if row == 0:
            for axis, title in zip(line, titles, strict=True):
                axis.set_title(title, fontsize=9)
        share = (added[row].norm() / joined[row].norm()).item()
        print(f"S2I, {study.name(chosen[row])}: |crop of φ(F_S)| / |F_S2I| = {share:.2f}")
    return figure


def inlay(study: Study) -> Figure:
    """F_ins of four boxes, and F_inlay of all."""
    boxes = [study.detections.boxes]
    f_ins = study.f_ins()
    laid = roi_inlay(f_ins, boxes, study.size, 1 / 4)[0]
    ones = [roi_inlay(f_ins.new_ones(1, 1, 14, 14), [box[None]], study.size, 1 / 4)[0, 0] for box in boxes[0]]
    count = torch.stack(ones).sum(0)
    colour = Colouring(pixels_of(f_ins))
    chosen = study.largest(4)
    figure, axes = panels(1, 7)
    show(axes[0, 0], study.scene.image, "picture")
    for n, instance in enumerate(chosen):
        draw_box(axes[0, 0], boxes[0][instance], COLOURS[n])
        show(axes[0, n + 1], colour(f_ins[instance]), f"F_ins, {study.name(instance)}")
        axes[0, n + 1].add_patch(plt.Rectangle((-0.5, -0.5), 14, 14, fill=False, color=COLOURS[n], linewidth=4))
    show(axes[0, 5], count.numpy(), "boxes at a pixel", cmap="magma")
    show(axes[0, 6], np.where((count > 0).numpy()[..., None], colour(laid), 1.0), "F_inlay")
    bare = (count == 0).float().mean()
    print(f"RoIInlay: {len(boxes[0])} boxes, at most {int(count.max())} at a pixel, none at {bare:.0%} of the pixels")
    return figure


def sim(study: Study) -> Figure:
    """Best classes: first logits, final logits without and with instances, truth."""
    palette = np.array([category.color for category in study.model.categories], np.uint8)
    maps, truth = best_maps(study), study.truth()
    figure, axes = panels(1, 5)
    show(axes[0, 0], study.scene.image, "picture")
    for axis, (title, best) in zip(axes[0, 1:], {**maps, "truth": truth}.items(), strict=True):
        right = f", {np.mean(best == truth):.1%} right" if title != "truth" else ""
        show(axis, palette[best], title + right)
    return figure


def best_maps(study: Study) -> dict[str, NDArray[np.int64]]:
    """The best class of each pixel, (H, W) class indices, by three kinds of logits."""
    none: dict[str, Any] = {"boxes": [torch.zeros(0, 4)], "scores": [torch.zeros(0)], "labels": [torch.zeros(0).long()]}
    return {
        "first logits": study.best(study.aggregated.first(study.semantic)[0]),
        "final, no instance": study.best(study.model.with_instances(study.output, **none).logits[0]),
        "final": study.best(study.output.logits[0]),
    }


def print_right(model: BANet) -> None:
    """Prints the share of pixels with the right class, over scenes, for things and stuff."""
    shares: dict[str, list[tuple[float, float]]] = {}
    for index in range(SCENES):
        study = Study(model, index)
        truth = study.truth()
        thing = truth < model.categories.num_things
        for title, best in best_maps(study).items():
            right = best == truth
            shares.setdefault(title, []).append((right[thing].mean() if thing.any() else np.nan, right[~thing].mean()))
    for title, rows in shares.items():
        things, stuff = np.nanmean(np.array(rows), axis=0)
        print(f"right pixels, {SCENES} scenes, {title}: things {things:.1%}, stuff {stuff:.1%}")


def ocm(studies: list[Study]) -> Figure:
    """One channel of OCM's input and its pools; what the instances add to each class's logit, the same everywhere."""
    offsets, maps = [], []
    for study in studies:
        i2s, final = study.i2s, study.aggregated.final.weight.flatten(1)
        squeezed = roi_inlay(i2s.ocm.squeeze(study.f_ins()), [study.detections.boxes], study.size, 1 / 4)[0]
        pooled = torch.cat([F.adaptive_max_pool2d(squeezed, cells).flatten() for cells in i2s.ocm.cells])
        # Only 1x1 convolutions follow the vector: it moves the logit of each class by one number everywhere. What a
        # image without instances gets is taken off.
        moved = i2s.ocm.context(pooled) - i2s.ocm.context(torch.zeros_like(pooled))
        offsets.append((final @ i2s.ocm.merge.weight.flatten(1).chunk(2, dim=1)[1] @ moved).numpy())
        maps.append(squeezed)
    shown = maps[0][maps[0].flatten(1).clamp(min=0).mean(1).argmax()]  # the channel that is most alive
    figure = plt.figure(figsize=(11.0, 3.6), layout="constrained")
    left, right = figure.subfigures(1, 2, width_ratios=(5, 6))
    axes = left.subplots(2, 3).ravel()
    for axis in axes:
        axis.set(xticks=[], yticks=[])
    for number, study in enumerate(studies):
        show(axes[number], study.scene.image, f"scene {number + 1}")
        axes[number].spines[:].set(color=COLOURS[number], linewidth=4)
    scale: dict[str, Any] = {"cmap": "magma", "vmin": 0, "vmax": float(shown.max())}
    show(axes[2], shown.numpy(), "scene 1, one of 10 channels", **scale)
    for axis, cells in zip(axes[3:], studies[0].i2s.ocm.cells[1:], strict=True):
        show(axis, F.adaptive_max_pool2d(shown[None], cells)[0].numpy(), f"its {cells} × {cells} maxima", **scale)
    bars = right.subplots()
    names = [category.name for category in studies[0].model.categories]
    for number, values in enumerate(offsets):
        bars.bar(np.arange(len(names)) + 0.4 * number - 0.2, values, 0.4, color=COLOURS[number])
    bars.axhline(0, color="0.4", linewidth=0.8)
    bars.set_xticks(range(len(names)), names, rotation=60, ha="right", fontsize=8)
    bars.set_title("added to the logit of each class, at every pixel", fontsize=9)
    bars.tick_params(axis="y", labelsize=8)
    bars.spines[["top", "right"]].set_visible(False)
    return figure


def occlusion(study: Study) -> Figure:
    """The occluded pair with the clearest margin: similarity to either object in the overlap, owners by two rules."""
    image = study.scene.image
    instances = paste_instances(study.output.images[0], (image.shape[0], image.shape[1]))
    every = instances.masks.to_masks()
    pairs = Pairs.of(instances.masks, instances.scores, image)
    pairs = pairs.where(pairs.occluded(0.2))
    margins = appearance(pairs)
    pair = int(np.abs(margins).argmax())
    front, back = (int(pairs.i[pair]), int(pairs.j[pair]))[:: 1 if margins[pair] > 0 else -1]
    masks = {n: every[n] for n in (front, back)}
    rgb = image.astype(float)
    unit = rgb / np.maximum(np.linalg.norm(rgb, axis=2, keepdims=True), 1e-12)
    overlap = masks[front] & masks[back]
    likeness = {}
    for n, mask in masks.items():
        mean = rgb[mask].mean(0)
        likeness[n] = np.where(overlap, unit @ (mean / np.linalg.norm(mean)), np.nan)
    means = {n: float(np.nanmean(values)) for n, values in likeness.items()}
    assert abs(means[front] - means[back] - abs(margins[pair])) < 1e-6

    ys, xs = np.nonzero(overlap)
    centre, half = (ys.min() + ys.max()) // 2, (np.ptp(ys) + 1) // 2 + 8
    middle = (xs.min() + xs.max()) // 2
    window = (slice(max(centre - half, 0), centre + half), slice(max(middle - half, 0), middle + half))
    name = {n: study.model.categories[int(instances.labels[n])].name for n in masks}
    both = np.stack([masks[front], masks[back]])
    scores = instances.scores[[front, back]]
    figure, axes = panels(1, 6)
    line = axes[0]
    show(line[0], image[window], "picture")
    show(line[1], _tinted(image, both)[window], f"{name[front]} {scores[0]:.2f}, {name[back]} {scores[1]:.2f}")
    low = min(np.nanmin(values) for values in likeness.values())
    for axis, n in zip(line[2:4], (front, back), strict=True):
        show(axis, likeness[n][window], f"f(x, {name[n]}), mean {means[n]:.3f}", cmap="viridis", vmin=low, vmax=1)
    for axis, rule in zip(line[4:], ("heuristic", "appearance"), strict=True):
        owner = resolve_occlusions(both, scores, image, rule=rule)
        show(axis, _tinted(image, np.stack([owner == 0, owner == 1]))[window], f"rule {rule}")
    print(f"occlusion: {name[front]} {scores[0]:.3f} in front of {name[back]} {scores[1]:.3f}, {overlap.sum()} pixels")
    return figure


def _tinted(image: NDArray[np.uint8], masks: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """The image with two masks in colour; where they overlap the colours mix."""
    canvas = image / 255
    for mask, colour in zip(masks, COLOURS, strict=False):
        canvas = np.where(mask[..., None], 0.45 * canvas + 0.55 * np.array(colour), canvas)
    tinted: NDArray[np.uint8] = (canvas * 255).astype(np.uint8)
    return tinted


@torch.inference_mode()
def main() -> None:
    """Writes the five figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path(__file__).parents[1] / "images")
    out = parser.parse_args().out
    matplotlib.use("Agg")
    model = BANet.from_pretrained("scenes")
    study = Study(model, SCENE)
    figures = {
        "s2i": s2i(study),
        "inlay": inlay(study),
        "sim": sim(study),
        "ocm": ocm([study, Study(model, OTHER)]),
        "occlusion": occlusion(study),
    }
    for name, figure in figures.items():
        path = out / f"method_{name}.png"
        figure.savefig(path, dpi=110, pil_kwargs={"optimize": True})
        print(path)
    print_right(model)


if __name__ == "__main__":
    main()

"""How well RoIInlay and RoIUpsample undo RoIAlign on feature maps of images, as a table and a figure.

``python benchmarks/roi_inlay_reconstruction.py --figure docs/images/roi_inlay.png`` uses procedural scenes;
``--coco FOLDER`` (with ``images``, ``panoptic`` and ``panoptic.json``) measures on photographs instead.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
import torchvision
from harness import Report, parser
from PIL import Image
from torch import Tensor

from banet.data.scenes.generate import make_scene
from banet.ops import roi_align, roi_inlay, roi_upsample

OPERATORS = {"RoIInlay": roi_inlay, "RoIUpsample": roi_upsample}


def scenes(count: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Images ``(3, H, W)`` in 0..255 and boxes of their things ``(L, 4)`` in pixels."""
    for index in range(count):
        scene = make_scene(0, index)
        boxes = [segment.bbox for segment in scene.segments if segment.isthing]
        yield torch.from_numpy(scene.image).permute(2, 0, 1).float(), corners(boxes)


def photographs(folder: Path, count: int) -> Iterator[tuple[Tensor, Tensor]]:
    data = json.loads((folder / "panoptic.json").read_text())
    things = {category["id"] for category in data["categories"] if category["isthing"]}
    names = {image["id"]: image["file_name"] for image in data["images"]}
    for annotation in data["annotations"][:count]:
        image = np.asarray(Image.open(folder / "images" / names[annotation["image_id"]]).convert("RGB"))
        boxes = [s["bbox"] for s in annotation["segments_info"] if s["category_id"] in things and not s["iscrowd"]]
        yield torch.from_numpy(image.copy()).permute(2, 0, 1).float(), corners(boxes)


def corners(boxes: list[tuple[int, int, int, int]]) -> Tensor:
    result = torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)
    result[:, 2:] += result[:, :2]
    return result


def feature_maps(image: Tensor) -> dict[str, Tensor]:
    """Stride-4 maps ``(1, C, H, W)``: the image itself, its edges, and a random-weight ResNet-18's first stage."""
    torch.manual_seed(0)
    network = torchvision.models.resnet18(weights=None).eval()
    small = F.avg_pool2d(image[None] / 255 - 0.5, 4)
    edge_x = torch.tensor([[-1.0, 0.0, 1.0], [-2.0, 0.0, 2.0], [-1.0, 0.0, 1.0]])
    bank = torch.stack([edge_x, edge_x.T])[:, None].repeat(3, 1, 1, 1)
    with torch.no_grad():
        deep = network.layer1(network.maxpool(network.relu(network.bn1(network.conv1(image[None] / 255 - 0.5)))))
    edges = F.conv2d(small, bank, padding=1, groups=3)
    return {"colours": small, "edges (Sobel)": edges, "ResNet-18 layer1, random weights": deep}


def reconstruct(name: str, features: Tensor, boxes: Tensor) -> Tensor:
    crops = roi_align(features, [boxes], 14, 0.25)
    result: Tensor = OPERATORS[name](crops, [boxes], features.shape[-2:], 0.25)
    return result


def measure(images: Iterator[tuple[Tensor, Tensor]], report: Report) -> None:
    errors: dict[tuple[str, str], list[float]] = {}
    holes: dict[str, list[int]] = {name: [0, 0] for name in OPERATORS}
    for image, boxes in images:
        for kind, features in feature_maps(image).items():
            for box in boxes:
                crops = torch.ones(1, 1, 14, 14)
                inside = roi_inlay(crops, [box[None]], features.shape[-2:], 0.25)[0, 0] > 0
                if inside.sum() == 0:
                    continue
                truth = features[0, :, inside]
                norm = float((truth - features.mean((0, 2, 3))[:, None]).square().mean())
                for name, operator in OPERATORS.items():
                    result = reconstruct(name, features, box[None])[0, :, inside]
                    errors.setdefault((kind, name), []).append(
                        float((result - truth).square().mean()) / max(norm, 1e-9)
                    )
                    if kind == "colours":
                        weight = operator(crops, [box[None]], features.shape[-2:], 0.25)[0, 0, inside]
                        holes[name][0] += int((weight == 0).sum())
                        holes[name][1] += int(inside.sum())
    for name, (empty, total) in holes.items():
        report.say(f"{name}: {100 * empty / total:.1f} % of the {total} pixels inside the boxes get nothing")
    report.say("\n| features (stride 4) | RoIInlay | RoIUpsample |\n|---|---|---|")
    for kind in dict.fromkeys(kind for kind, _ in errors):
        medians = [float(np.median(np.sqrt(errors[kind, name]))) for name in OPERATORS]
        report.say(f"| {kind} | {medians[0]:.3f} | {medians[1]:.3f} |", rms=dict(zip(OPERATORS, medians, strict=True)))


def fill_boxes(report: Report, corner: float = 8.3) -> None:
    """Print what either operator returns for ones, by the side of the box: pixels inside left empty, and the mean."""
    sides = (7, 14, 20, 28, 56, 112)
    report.say(f"| side of the box, map pixels | {' | '.join(map(str, sides))} |\n|{'---|' * (len(sides) + 1)}")
    for name, operator in OPERATORS.items():
        filled = []
        for side in sides:
            boxes = torch.tensor([[corner, corner, corner + side, corner + side]])
            result = operator(torch.ones(1, 1, 14, 14), [boxes], (128, 128))[0, 0]
            filled.append(result[round(corner) :, round(corner) :][:side, :side])
        empty = "".join(f" {100 * (f == 0).float().mean():.1f} % |" for f in filled)
        report.say(f"| {name}: pixels inside that get nothing |{empty}")
        report.say(f"| {name}: mean value (should be 1) |" + "".join(f" {f.mean():.2f} |" for f in filled))
    report.say("")


def draw(path: Path) -> None:
    """The image's own colours put back, whole and one big box."""
    image, boxes = next(scenes(1))
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(1)
    boxes = boxes[areas.argsort(descending=True)[:4]]
    features = F.avg_pool2d(image[None] / 255, 2)
    shown = [features[0]]
    for operator in OPERATORS.values():
        crops = roi_align(features, [boxes], 14, 0.5)
        shown.append(operator(crops, [boxes], features.shape[-2:], 0.5)[0].clamp(0, 1))
    strip = torch.cat([F.pad(panel, (2, 2, 2, 2), value=1.0) for panel in shown], 2)
    strip = strip.repeat_interleave(2, 1).repeat_interleave(2, 2)
    Image.fromarray((strip.permute(1, 2, 0) * 255).byte().numpy()).save(path, optimize=True)


def main() -> None:
    command_line = parser(__doc__, threads=1)
    command_line.add_argument("--count", type=int, default=20, help="pictures")
    command_line.add_argument("--coco", type=Path, help="COCO panoptic folder; procedural scenes when absent")
    command_line.add_argument("--figure", type=Path, help="write the figure there")
    options = command_line.parse_args()
    torch.set_num_threads(options.threads)
    with Report(options, __file__) as report:
        fill_boxes(report)
        measure(photographs(options.coco, options.count) if options.coco else scenes(options.count), report)
    if options.figure:
        draw(options.figure)


if __name__ == "__main__":
    main()

"""Exported networks against PyTorch: time of the network alone, and PQ on scenes where numbers are smaller.

    python benchmarks/export.py --threads 2

The contestants take turns on the same images, on as many processors as threads; the table holds medians as shares of
PyTorch's eager mode. PQ is of scenes that no training saw, fused by the rule saved with the weights.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
import torch
from harness import Report, parser, take_turns, use_threads
from numpy.typing import NDArray
from PIL import Image

from banet.data.scenes.generate import Scenes
from banet.engine.export.export import export_model
from banet.engine.export.runtime import ExportedModel
from banet.inference.banet import BANet
from banet.panoptic import PanopticQuality

CALIBRATION_SEED, SEED = 77, 78
CALIBRATION = 32
VARIANTS = {
    "onnx": ("onnx", "float32", "f32.onnx"),
    "onnx int8": ("onnx", "int8", "int8.onnx"),
    "openvino": ("openvino", "float32", "f32.xml"),
    "openvino float16": ("openvino", "float16", "f16.xml"),
}


def exported(model: BANet, folder: Path, side: int, variants: list[str]) -> dict[str, ExportedModel]:
    images = []
    scenes = Scenes(CALIBRATION_SEED, CALIBRATION, (side, side))
    for index in range(CALIBRATION):
        images.append(folder / f"calibration{index}.png")
        Image.fromarray(scenes.read(index)[0]).save(images[-1])
    result = {}
    for name in variants:
        kind, precision, file = VARIANTS[name]
        if not (folder / file).exists():
            use = images if precision == "int8" else []
            export_model(model, folder / file, kind, precision=precision, calibration=use)  # type: ignore[arg-type]
        result[name] = ExportedModel.open(folder / file)
    return result


def torch_run(network: Callable[..., object]) -> Callable[[NDArray[np.uint8]], object]:
    @torch.inference_mode()
    def run(image: NDArray[np.uint8]) -> object:
        return network([torch.from_numpy(image).permute(2, 0, 1)])

    return run


def compare_times(report: Report, networks: dict[str, Callable[[NDArray[np.uint8]], object]], options: Any) -> None:
    """Every network in turn on each image; each round has all images."""
    scenes = Scenes(SEED, options.images, (options.side, options.side))
    images = [scenes.read(index)[0] for index in range(options.images)]

    def over_images(run: Callable[[NDArray[np.uint8]], object]) -> Callable[[], object]:
        following = cycle(images)
        return lambda: run(next(following))

    contestants = {name: over_images(run) for name, run in networks.items()}
    warm_up = 2 * options.images  # numbers of instances differ, and compilers look at each
    turns = take_turns(contestants, options.rounds * options.images, warm_up=warm_up)
    report.turns("network alone", turns)
    report.say(
        f"network alone, {options.side} x {options.side}, {options.threads} threads, share of eager's median time"
    )
    for name in turns.seconds:
        report.say(f"  {name:<18}{turns.ratio_text(name, 'torch eager'):>6}")


def compare_quality(report: Report, networks: dict[str, Any], count: int, side: int) -> None:
    scenes = Scenes(SEED, count, (side, side))
    report.say(f"PQ of {count} scenes")
    for name, network in networks.items():
        quality = PanopticQuality(network.categories)
        for index in range(count):
            image, truth = scenes.read(index)
            quality.update(network.predict(image), truth)
        result = quality.compute()
        shown = "  ".join(f"{g} {100 * result[g]['pq']:.2f}" for g in ("All", "Things", "Stuff"))
        report.say(f"  {name:<18}{shown}", pq=result)


def main() -> None:
    command_line = parser(__doc__, threads=1)
    command_line.add_argument("--weights", default="scenes")
    command_line.add_argument("--side", type=int, default=256, help="side of the scenes in pixels")
    command_line.add_argument("--images", type=int, default=8, help="images of the timing")
    command_line.add_argument("--rounds", type=int, default=5)
    command_line.add_argument("--scenes", type=int, default=100, help="scenes of the PQ; 0 leaves it out")
    command_line.add_argument(
        "--no-compile", action="store_true", help="leave torch.compile out, which takes minutes to start"
    )
    command_line.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS), help="what to export")
    command_line.add_argument("--folder", help="keep the exported files here, and take those that are there")
    options = command_line.parse_args()
    use_threads(options.threads)
    if hasattr(os, "sched_setaffinity"):  # each runtime has threads of its own
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: options.threads])
    torch.set_num_threads(options.threads)
    model = BANet.from_pretrained(options.weights)
    with tempfile.TemporaryDirectory() as temporary, Report(options, __file__) as report:
        folder = Path(options.folder or temporary)
        folder.mkdir(parents=True, exist_ok=True)
        others = exported(model, folder, options.side, options.variants)
        for name in options.variants:
            file = VARIANTS[name][2]
            path = (folder / file).with_suffix(".bin") if file.endswith(".xml") else folder / file
            report.say(f"{name:<20}{path.stat().st_size / 1e6:6.1f} MB", bytes=path.stat().st_size)
        eager = {"torch eager": torch_run(model)}
        if not options.no_compile:
            eager["torch.compile"] = torch_run(torch.compile(model, dynamic=None))
        compare_times(report, {**eager, **others}, options)
        if options.scenes:
            networks = {"torch": model, "torch bf16": model.configured(precision="bf16"), **others}
            compare_quality(report, networks, options.scenes, options.side)


if __name__ == "__main__":
    main()

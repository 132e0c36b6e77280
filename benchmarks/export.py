"""Exported networks against PyTorch: time of the network alone, and PQ on scenes where numbers are smaller.

    python benchmarks/export.py --threads 2

The contestants take turns on the same images, on as many processors as threads; the table holds medians as shares of
PyTorch's eager mode. PQ is of scenes that no training saw, fused by the rule saved with the weights.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--weights", default="scenes")
parser.add_argument("--threads", type=int, default=1)
parser.add_argument("--side", type=int, default=256, help="side of the scenes in pixels")
parser.add_argument("--images", type=int, default=8, help="images of the timing")
parser.add_argument("--rounds", type=int, default=5)
parser.add_argument("--scenes", type=int, default=100, help="scenes of the PQ; 0 leaves it out")
parser.add_argument("--no-compile", action="store_true", help="leave torch.compile out, which takes minutes to start")
parser.add_argument("--folder", help="keep the exported files here, and take those that are there")
options = parser.parse_args()
os.environ["OMP_NUM_THREADS"] = str(options.threads)
if hasattr(os, "sched_setaffinity"):  # each runtime has threads of its own
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: options.threads])

import numpy as np  # noqa: E402  threads are counted when these load
import torch  # noqa: E402
from numpy.typing import NDArray  # noqa: E402
from PIL import Image  # noqa: E402

from banet.data.scenes.generate import Scenes  # noqa: E402
from banet.engine.export.export import export_model  # noqa: E402
from banet.engine.export.runtime import ExportedModel  # noqa: E402
from banet.modeling.banet import BANet  # noqa: E402
from banet.panoptic import PanopticQuality  # noqa: E402

CALIBRATION_SEED, SEED = 77, 78
CALIBRATION = 32
VARIANTS = {
    "onnx": ("onnx", "float32", "f32.onnx"),
    "onnx int8": ("onnx", "int8", "int8.onnx"),
    "openvino": ("openvino", "float32", "f32.xml"),
    "openvino float16": ("openvino", "float16", "f16.xml"),
}


def exported(model: BANet, folder: Path) -> dict[str, ExportedModel]:
    size = (options.side, options.side)
    pictures = []
    scenes = Scenes(CALIBRATION_SEED, CALIBRATION, size)
    for index in range(CALIBRATION):
        pictures.append(folder / f"calibration{index}.png")
        Image.fromarray(scenes.read(index)[0]).save(pictures[-1])
    result = {}
    for name, (kind, precision, file) in VARIANTS.items():
        if not (folder / file).exists():
            use = pictures if precision == "int8" else []
            export_model(model, folder / file, kind, precision=precision, calibration=use)  # type: ignore[arg-type]
        result[name] = ExportedModel.open(folder / file)
    return result


def timing(model: BANet, others: dict[str, ExportedModel]) -> None:
    scenes = Scenes(SEED, options.images, (options.side, options.side))
    images = [scenes.read(index)[0] for index in range(options.images)]

    def torch_run(network: Callable[..., object]) -> Callable[[NDArray[np.uint8]], object]:
        @torch.inference_mode()
        def run(image: NDArray[np.uint8]) -> object:
            return network([torch.from_numpy(image).permute(2, 0, 1)])

        return run

    contestants: dict[str, Callable[[NDArray[np.uint8]], object]] = {"torch eager": torch_run(model)}
    if not options.no_compile:
        contestants["torch.compile"] = torch_run(torch.compile(model, dynamic=None))
    contestants.update(others)
    for run in contestants.values():
        for image in images * 2:  # numbers of instances differ, and compilers look at each
            run(image)
    times: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in range(options.rounds):
        for image in images:
            for name, run in contestants.items():
                start = time.perf_counter()
                run(image)
                times[name].append(time.perf_counter() - start)
    eager = statistics.median(times["torch eager"])
    print(f"network alone, {options.side} x {options.side}, {options.threads} threads, share of eager's median time")
    for name, values in times.items():
        print(f"  {name:<18}{statistics.median(values) / eager:6.2f}")


def quality(model: BANet, others: dict[str, ExportedModel]) -> None:
    scenes = Scenes(SEED, options.scenes, (options.side, options.side))
    print(f"PQ of {options.scenes} scenes")
    for name, network in {"torch": model, **others}.items():
        count = PanopticQuality(model.categories)
        for index in range(options.scenes):
            image, truth = scenes.read(index)
            count.update(network.predict(image), truth)
        result = count.compute()
        print(f"  {name:<18}" + "  ".join(f"{g} {100 * result[g]['pq']:.2f}" for g in ("All", "Things", "Stuff")))


def main() -> None:
    torch.set_num_threads(options.threads)
    model = BANet.from_pretrained(options.weights)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(options.folder or temporary)
        folder.mkdir(parents=True, exist_ok=True)
        others = exported(model, folder)
        for name, (_, _, file) in VARIANTS.items():
            path = (folder / file).with_suffix(".bin") if file.endswith(".xml") else folder / file
            print(f"{name:<20}{path.stat().st_size / 1e6:6.1f} MB")
        timing(model, others)
        if options.scenes:
            quality(model, others)


if __name__ == "__main__":
    main()

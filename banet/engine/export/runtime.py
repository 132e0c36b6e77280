"""Exported networks, run by ONNX Runtime or OpenVINO and read out with numpy: pictures in, results out, no torch."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import asdict
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from banet.data.images import resized_size, to_rgb_array
from banet.errors import InputError, MissingExtraError, shown
from banet.modeling.config import InferenceConfig, read_options
from banet.modeling.instances import Instances, Readout
from banet.modeling.tiles import predict_tiles
from banet.panoptic import Categories, MaskCrops

__all__ = [
    "HEADER",
    "INPUT",
    "OUTPUTS",
    "ExportedModel",
    "NetworkOutput",
    "best_class",
    "import_openvino",
    "network_image",
    "paste",
    "read_header",
    "write_header",
]

FORMAT = "banet-graph-2"
HEADER = "banet"
STRIDE = 4

INPUT = "image"
"""(1, 3, H, W) uint8 RGB, at the size that the network works at; any H and W."""

OUTPUTS = ("boxes", "scores", "labels", "masks", "logits")
"""The fields of `NetworkOutput`, in this order."""


class NetworkOutput(NamedTuple):
    """What an exported network says of one image.

    Attributes:
        boxes: (N, 4) float32 x1, y1, x2, y2 in pixels of the network's input.
        scores: (N,) float32, best first.
        labels: (N,) int64 thing index; `Categories` tells the class.
        masks: (N, 28, 28) float32 probabilities inside the box.
        logits: (1, C, h, w) float32 semantic logits at stride 4; the input was padded to multiples of 32 for them.
    """

    boxes: NDArray[np.float32]
    scores: NDArray[np.float32]
    labels: NDArray[np.int64]
    masks: NDArray[np.float32]
    logits: NDArray[np.float32]


Run = Callable[[NDArray[np.uint8]], "list[NDArray[Any]]"]


def write_header(categories: Categories, inference: InferenceConfig) -> str:
    """What an exported file says of itself under the key `banet`: classes, and how to resize and to read out."""
    return json.dumps({"format": FORMAT, "inference": asdict(inference), "categories": categories.to_coco()})


def read_header(text: str | None, path: Path) -> tuple[Categories, InferenceConfig]:
    """The classes and options that `write_header` wrote.

    Raises:
        InputError: There is no header, or it is another version's.
    """
    if text is None:
        raise InputError(f"{path}: was not exported by this library; make one with `banet export`")
    try:
        header = json.loads(text)
        if header["format"] != FORMAT:
            raise ValueError(f"format {shown(header['format'])}, not {FORMAT!r}")
        inference = read_options(InferenceConfig, header["inference"])
        return Categories.from_coco(header["categories"], source=str(path)), inference
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: its header is not of this version ({error}); export the weights again") from None


class ExportedModel:
    """An exported network with the same `predict` as `banet.BANet`.

    Args:
        run: Pixels (1, 3, h, w) uint8 to the arrays of `NetworkOutput`.
        categories: Things and stuff; the owner of class numbering.
        inference: How images are resized and results postprocessed. Suppression and the number of instances are part
            of the graph; changing them here changes nothing. `score_threshold` can only be raised.
    """

    def __init__(self, run: Run, categories: Categories, inference: InferenceConfig) -> None:
        self.run = run
        self.categories = categories
        self.inference = inference

    @classmethod
    def open(cls, path: str | Path) -> ExportedModel:
        """Open a file that `banet export` wrote: `.onnx` with ONNX Runtime, `.xml` with OpenVINO, on the CPU.

        Raises:
            InputError: No such file, damaged, or not exported by this library.
            MissingExtraError: The runtime is not installed.
        """
        file = Path(path)
        if file.suffix not in _OPENERS:
            raise InputError(f"{file}: give an exported file, .onnx or .xml; `banet export` makes them")
        if not file.is_file():
            raise InputError(f"{file}: does not exist; check the path, or make it with `banet export`")
        run, header = _OPENERS[file.suffix](file)
        return cls(run, *read_header(header, file))

    def __call__(self, image: NDArray[np.uint8]) -> NetworkOutput:
        """The network alone, of an image (h, w, 3) at the size that it works at."""
        return NetworkOutput(*self.run(np.ascontiguousarray(image.transpose(2, 0, 1)[None])))

    def predict(
        self,
        image: Any,
        *,
        rule: Any = None,
        tile: int | None = None,
        overlap: int | None = None,
        progress: bool = False,
    ) -> Any:
        """Panoptic segmentation of pictures, at their own size.

        Args:
            image: A path, a PIL image, a numpy array (H, W, 3) or (H, W), uint8 or float in 0..255, or a list of these.
            rule: Occlusion rule, a name in `banet.panoptic.RULES` or a function; by default the one in the file.
            tile: Side in pixels of the tiles that a larger picture is cut into; see `BANet.predict`.
            overlap: Pixels that neighbouring tiles share at least; a quarter of the tile by default.
            progress: Show a bar over the tiles of a picture.

        Returns:
            A `banet.panoptic.PanopticSegmentation`, or a list of them for a list.

        Raises:
            InputError: A file is not a picture.
            ValueError: An array has another shape or range.
        """
        if isinstance(image, (list, tuple)):
            return [self.predict(one, rule=rule, tile=tile, overlap=overlap, progress=progress) for one in image]
        if tile is not None:
            return predict_tiles(
                self.read,
                image,
                self.categories,
                self.inference,
                rule=rule,
                tile=tile,
                overlap=overlap,
                progress=progress,
            )
        return self.read(to_rgb_array(image)).fuse(self.categories, self.inference, rule=rule)

    def read(self, image: NDArray[np.uint8]) -> Readout:
        """All that fusion needs of a picture (H, W, 3)."""
        resized = network_image(image, self.inference)
        output = self(resized)
        logits, network_size, size = output.logits[0], resized.shape[:2], image.shape[:2]
        stuff = None
        if self.inference.thing_pixels == "best_stuff" and self.categories.num_stuff:
            first = self.categories.num_things
            stuff = self.categories.ids_of(best_class(logits[first:], network_size, size) + first)
        semantic = self.categories.ids_of(best_class(logits, network_size, size))
        return Readout(image, self._instances(output, network_size, size), semantic, stuff)

    def _instances(self, output: NetworkOutput, network_size: tuple[int, int], size: tuple[int, int]) -> Instances:
        boxes = output.boxes * np.array([size[1] / network_size[1], size[0] / network_size[0]] * 2)
        pasted = [paste(mask, box, size) for mask, box in zip(output.masks, boxes, strict=True)]
        scores = output.scores
        keep = [i for i, (_, crop) in enumerate(pasted) if crop.any() and scores[i] > self.inference.score_threshold]
        crop_boxes = np.array([pasted[i][0] for i in keep], dtype=np.int64).reshape(-1, 4)
        return Instances(
            masks=MaskCrops(crop_boxes, [pasted[i][1] for i in keep], size),
            scores=scores[keep].astype(np.float64),
            labels=self.categories.ids[output.labels[keep]],
            boxes=boxes[keep].astype(np.float32),
        )


def network_image(image: NDArray[np.uint8], inference: InferenceConfig) -> NDArray[np.uint8]:
    """A picture (H, W, 3) at the size that the network works at; within one grey level of torchvision's resize."""
    height, width = image.shape[:2]
    height, width = resized_size(height, width, inference.shorter, inference.longer, inference.scale)
    if image.shape[:2] == (height, width):
        return image
    return np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR))


def paste(
    probabilities: NDArray[np.float32], box: NDArray[np.float64], size: tuple[int, int], threshold: float = 0.5
) -> tuple[tuple[int, int, int, int], NDArray[np.bool_]]:
    """One mask onto the picture's pixels, as `banet.ops.paste.paste_masks` does it.

    Args:
        probabilities: (m, n) in 0..1.
        box: (4,) x1, y1, x2, y2 in pixels of the picture, unrounded.
        size: Height and width of the picture.
        threshold: A pixel belongs to the mask when its probability is at least this.

    Returns:
        The whole-pixel box x1, y1, x2, y2 and the crop (y2 - y1, x2 - x1) inside it.
    """
    left, right, columns = _bins(box[0], box[2], probabilities.shape[1], size[1])
    top, bottom, rows = _bins(box[1], box[3], probabilities.shape[0], size[0])
    return (left, top, right, bottom), rows @ (probabilities @ columns.T) >= threshold


def _bins(start: float, stop: float, bins: int, length: int) -> tuple[int, int, NDArray[np.float32]]:
    """First and last (exclusive) pixel whose centre is in [start, stop), and the weights (pixels, bins)."""
    first = int(np.clip(np.ceil(start - 0.5), 0, length))
    last = int(np.clip(np.ceil(stop - 0.5), first, length))
    centre = np.arange(first, last) + 0.5
    # An empty range leaves nothing to divide; its box may have no size.
    position = np.clip((centre - start) * (bins / max(stop - start, 1e-12)) - 0.5, 0, bins - 1)
    weights = np.clip(1 - np.abs(position[:, None] - np.arange(bins)), 0, None)
    return first, last, weights.astype(np.float32)


def best_class(
    logits: NDArray[np.float32], network_size: tuple[int, int], size: tuple[int, int], rows: int = 16
) -> NDArray[np.int64]:
    """Best class of each pixel of the picture, as `banet.modeling.readout.semantic_argmax` finds it.

    Args:
        logits: (C, h, w) at stride 4 of the padded input.
        network_size: Height and width of the image in the network's input, without padding.
        size: Height and width of the picture.
        rows: Rows of the picture that are resized at a time; no picture of all classes is ever made.

    Returns:
        (H, W) index of the channel.
    """
    above, below, down = _taps(network_size[0], size[0])
    left, right, across = _taps(network_size[1], size[1])
    table = np.ascontiguousarray(logits.transpose(1, 2, 0))
    best = np.empty(size, dtype=np.int64)
    for start in range(0, size[0], rows):
        part = slice(start, start + rows)
        lines = table[above[part]]
        lines += (table[below[part]] - lines) * down[part, None, None]
        pixels = lines[:, left]
        pixels += (lines[:, right] - pixels) * across[:, None]
        best[part] = pixels.argmax(2)
    return best


def _taps(network_length: int, length: int) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]:
    """The two logits that each pixel along one axis lies between, and the weight of the second."""
    position = np.maximum((np.arange(length) + 0.5) * (network_length / (STRIDE * length)) - 0.5, 0)
    low = position.astype(np.int64)
    last = -(-network_length // STRIDE) - 1
    return low, np.minimum(low + 1, last), (position - low).astype(np.float32)


def _open_onnx(path: Path) -> tuple[Run, str | None]:
    try:
        import onnxruntime
    except ImportError:
        raise MissingExtraError("onnxruntime", "export") from None
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # not the warnings on shapes that the graph leaves open
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # the runtime has many kinds of error of its own
        raise InputError(
            f"{path}: ONNX Runtime cannot read it ({_last_line(error)}); export the weights again"
        ) from None
    header = session.get_modelmeta().custom_metadata_map.get(HEADER)
    return lambda pixels: session.run(list(OUTPUTS), {INPUT: pixels}), header


def import_openvino() -> ModuleType:
    """Import OpenVINO without its usage reports, which it would send, and keep a client id for, in the user's home.

    Raises:
        MissingExtraError: It is not installed.
    """
    if "openvino" not in sys.modules:
        # A module that cannot be imported: OpenVINO then takes its own stand-in that sends nothing.
        sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]
    try:
        return import_module("openvino")
    except ImportError:
        raise MissingExtraError("openvino", "export") from None


def _open_openvino(path: Path) -> tuple[Run, str | None]:
    openvino = import_openvino()
    try:
        core = openvino.Core()
        graph = core.read_model(path)
        # Processors with half-precision units would else compute in half precision.
        compiled = core.compile_model(graph, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    except Exception as error:  # RuntimeError of several kinds
        raise InputError(f"{path}: OpenVINO cannot read it ({_last_line(error)}); export the weights again") from None
    header = str(graph.get_rt_info(HEADER).astype(str)) if graph.has_rt_info(HEADER) else None

    def run(pixels: NDArray[np.uint8]) -> list[NDArray[Any]]:
        results = compiled({INPUT: pixels})
        return [np.array(results[name]) for name in OUTPUTS]

    return run, header


def _last_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__


_OPENERS: dict[str, Callable[[Path], tuple[Run, str | None]]] = {".onnx": _open_onnx, ".xml": _open_openvino}

"""Exported networks, run by ONNX Runtime or OpenVINO: images in, results out, no torch."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import cache
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from banet.errors import InputError, MissingExtraError, abbreviate
from banet.files.worker import Budget, Workers, reads_untrusted
from banet.inference.postprocess import UnfusedPrediction, postprocess
from banet.inference.predictor import Predictor
from banet.inference.preprocess import preprocess_array
from banet.modeling.config import InferenceConfig, read_options
from banet.modeling.outputs import ImageOutput
from banet.panoptic import Categories
from banet.types import ClassesLike, Precision

__all__ = [
    "HEADER",
    "INPUT",
    "OUTPUTS",
    "ExportedModel",
    "NetworkOutput",
    "import_openvino",
    "read_header",
    "write_header",
]

FORMAT = "banet-graph-2"
HEADER = "banet"

INPUT = "image"
"""(1, 3, H, W) uint8 RGB, at the size that the network works at; any H and W."""

OUTPUTS = ("boxes", "scores", "labels", "masks", "logits")
"""The fields of `NetworkOutput`, in this order."""


class NetworkOutput(NamedTuple):
    """Raw outputs of an exported network for one image.

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

_MOST_INSTANCES = 10_000
_MOST_PADDING = 128
"""Rows of logits, of four pixels each: backbones pad images to multiples of at most 512 pixels."""
_UNTRUSTED = Budget(memory=4 << 30, seconds=600)
"""What a network of a stranger may take for an image. It is a program: it may go on for ever, or fill the memory."""


def write_header(categories: Categories, inference: InferenceConfig) -> str:
    """Return what an exported file holds under the key `banet`: classes, and options of inference."""
    return json.dumps({"format": FORMAT, "inference": asdict(inference), "categories": categories.to_coco()})


def read_header(text: str | None, path: Path) -> tuple[Categories, InferenceConfig]:
    """Return the classes and options that `write_header` wrote.

    Raises:
        InputError: There is no header, or it is another version's.
    """
    if text is None:
        raise InputError("was not exported by this library", where=path, hint="make one with `banet export`")
    try:
        header = json.loads(text)
        if header["format"] != FORMAT:
            raise ValueError(f"format {abbreviate(header['format'])}, not {FORMAT!r}")
        inference = read_options(InferenceConfig, header["inference"])
        return Categories.from_coco(header["categories"], source=str(path)), inference
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise InputError(
            f"its header is not of this version ({error})", where=path, hint="export the weights again"
        ) from None


class ExportedModel(Predictor):
    """An exported network with the same `predict` as `banet.BANet`.

    Args:
        run: Pixels (1, 3, h, w) uint8 to the arrays of `NetworkOutput`.
        categories: Things and stuff; the owner of class numbering.
        inference: How images are resized and results postprocessed. Suppression and the number of instances are part
            of the graph; changing them here changes nothing. `score_threshold` can only be raised.
        name: What to call it in errors.
    """

    def __init__(
        self, run: Run, categories: Categories, inference: InferenceConfig, name: str | Path = "exported network"
    ) -> None:
        self.run = run
        self.categories = categories
        self.inference = inference
        self.name = name

    @classmethod
    def open(cls, path: str | Path, *, isolated: bool = False) -> ExportedModel:
        """Open a file that `banet export` wrote: `.onnx` with ONNX Runtime, `.xml` with OpenVINO, on the CPU.

        Args:
            path: The file.
            isolated: Run it in a process of its own, so that a runtime that crashes costs one image only.

        Raises:
            InputError: No such file, damaged, or not exported by this library.
            MissingExtraError: The runtime is not installed.
        """
        file = Path(path)
        if file.suffix not in _OPENERS:
            raise InputError("give an exported file, .onnx or .xml", where=file, hint="`banet export` makes them")
        if not file.is_file():
            raise InputError("does not exist", where=file, hint="check the path, or make it with `banet export`")
        if isolated:
            workers = Workers(_UNTRUSTED if reads_untrusted() else Budget(None, None))
            header = workers.call(_header_of, file)
            run: Run = lambda pixels: workers.call(_run_graph, file, pixels)  # noqa: E731
        else:
            run, header = _OPENERS[file.suffix](file)
        return cls(run, *read_header(header, file), file)

    def __call__(self, image: NDArray[np.uint8]) -> NetworkOutput:
        """Run the network alone on an image (h, w, 3) at the size that it works at.

        Raises:
            InputError: It fails, or gives something else than `NetworkOutput`.
        """
        try:
            arrays = self.run(np.ascontiguousarray(image.transpose(2, 0, 1)[None]))
        except (InputError, MemoryError):
            raise
        except Exception as error:  # the runtimes have many kinds of error of their own
            raise InputError(
                f"fails while it runs ({_last_line(error)})", where=self.name, hint="export the weights again"
            ) from error
        return _checked(arrays, (image.shape[0], image.shape[1]), self.categories, self.name)

    def configured(
        self,
        *,
        score: float | None = None,
        classes: ClassesLike | None = None,
        overlap_threshold: float | None = None,
        precision: Precision | None = None,
    ) -> ExportedModel:
        """Return the same network with other options; see `Predictor`. The score can only be raised."""
        saved = self.inference.score_threshold
        if score is not None and score < saved:
            raise InputError(
                f"the exported graph leaves out scores up to {saved:g}", where=f"--score {score:g}", hint="give more"
            )
        return super().configured(
            score=score, classes=classes, overlap_threshold=overlap_threshold, precision=precision
        )

    def predict_unfused(self, images: Sequence[NDArray[np.uint8]]) -> list[UnfusedPrediction]:
        """Run images (H, W, 3) through the network one by one; return what fusion needs of each."""
        return [self._predict_unfused(image) for image in images]

    def _predict_unfused(self, image: NDArray[np.uint8]) -> UnfusedPrediction:
        resized = preprocess_array(image, self.inference)
        raw = self(resized)
        kept = raw.scores > self.inference.score_threshold
        boxes, labels, masks = raw.boxes[kept], raw.labels[kept], raw.masks[kept]
        size = (resized.shape[0], resized.shape[1])
        output = ImageOutput(boxes, raw.scores[kept], labels, masks, raw.logits[0], size)
        return postprocess(output, image, self.categories, self.inference)


def _checked(
    arrays: Sequence[NDArray[Any]], size: tuple[int, int], categories: Categories, where: str | Path
) -> NetworkOutput:
    """Return the outputs of a network for an image of `size` (H, W), if that is what they can be.

    Raises:
        InputError: An output has another shape or type, or holds something else than it must.
    """
    boxes, scores, labels, masks, logits = arrays
    count, (height, width) = len(scores) if scores.ndim else -1, size
    shapes = {"boxes": (boxes, (count, 4)), "scores": (scores, (count,)), "labels": (labels, (count,))}
    wrong = [name for name, (array, shape) in shapes.items() if array.shape != shape]
    if (
        masks.ndim != 3
        or len(masks) != count
        or (count and not 1 <= min(masks.shape[1:]) <= max(masks.shape[1:]) < 512)
    ):
        wrong.append("masks")
    classes = len(categories)
    rows, columns = logits.shape[2:] if logits.ndim == 4 else (0, 0)
    needed = -(-height // 4), -(-width // 4)
    fits = 0 <= rows - needed[0] < _MOST_PADDING and 0 <= columns - needed[1] < _MOST_PADDING
    if not fits or logits.shape[:2] != (1, classes):
        wrong.append("logits")
    kinds = {"boxes": boxes, "scores": scores, "masks": masks, "logits": logits}
    wrong += [name for name, array in kinds.items() if array.dtype.kind != "f"]
    if labels.dtype.kind not in "iu":
        wrong.append("labels")
    if not wrong:
        finite = {"boxes": boxes, "scores": scores, "masks": masks}
        wrong += [name for name, array in finite.items() if not np.isfinite(array).all()]
        if count and not 0 <= labels.min() <= labels.max() < categories.num_things:
            wrong.append("labels")
        if count > _MOST_INSTANCES:
            wrong.append("number of instances")
    if wrong:
        raise InputError(
            f"its {wrong[0]} do not fit the image and the classes", where=where, hint="export the weights again"
        )
    boxes, scores, masks, logits = (array.astype(np.float32, copy=False) for array in kinds.values())
    return NetworkOutput(boxes, scores, labels.astype(np.int64), masks, logits)


def _open_onnx(path: Path) -> tuple[Run, str | None]:
    try:
        import onnxruntime
    except ImportError:
        raise MissingExtraError("onnxruntime", "export") from None
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # not the warnings on shapes that the graph leaves open
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        header = session.get_modelmeta().custom_metadata_map.get(HEADER)
    except Exception as error:  # the runtime has many kinds of error of its own
        raise InputError(
            f"ONNX Runtime cannot read it ({_last_line(error)})", where=path, hint="export the weights again"
        ) from None
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
        header = str(graph.get_rt_info(HEADER).astype(str)) if graph.has_rt_info(HEADER) else None
    except Exception as error:  # RuntimeError of several kinds
        raise InputError(
            f"OpenVINO cannot read it ({_last_line(error)})", where=path, hint="export the weights again"
        ) from None

    def run(pixels: NDArray[np.uint8]) -> list[NDArray[Any]]:
        results = compiled({INPUT: pixels})
        return [np.array(results[name]) for name in OUTPUTS]

    return run, header


@cache
def _opened(path: Path) -> tuple[Run, str | None]:
    """Open a file once in a worker process."""
    return _OPENERS[path.suffix](path)


def _header_of(path: Path) -> str | None:
    return _opened(path)[1]


def _run_graph(path: Path, pixels: NDArray[np.uint8]) -> list[NDArray[Any]]:
    return _opened(path)[0](pixels)


def _last_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__


_OPENERS: dict[str, Callable[[Path], tuple[Run, str | None]]] = {".onnx": _open_onnx, ".xml": _open_openvino}

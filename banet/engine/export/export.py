"""`banet export`: the network as a graph that runs without this library, and without Python.

The graph goes from an image to `NetworkOutput`. Resizing before it, occlusion handling and fusion after it stay
outside; `banet.engine.export.runtime` does them without torch.
"""

from __future__ import annotations

import io
import logging
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

from banet.data.images import find_depth, list_images, to_rgb_array
from banet.engine.export.runtime import HEADER, INPUT, OUTPUTS, import_openvino, write_header
from banet.engine.garbage import collector_off
from banet.errors import InputError, MissingExtraError
from banet.files.atomic import atomic_path, commit
from banet.files.outputs import Outputs, weight_files
from banet.inference.banet import BANet
from banet.inference.preprocess import preprocess_array
from banet.modeling.network import Network
from banet.modeling.outputs import ImageBatch
from banet.ops.deform_conv import DeformableConv2d

__all__ = ["ExportFormat", "GraphModel", "Precision", "export_command", "export_model", "trace"]

ExportFormat = Literal["onnx", "torch-export", "openvino"]

Precision = Literal["float32", "float16", "int8"]

PRECISIONS: dict[tuple[str, str], tuple[str, ...]] = {
    ("onnx", "float32"): ("onnx", "onnxscript"),
    ("onnx", "int8"): ("onnx", "onnxscript", "onnxruntime"),
    ("openvino", "float32"): ("onnx", "onnxscript", "openvino"),
    ("openvino", "float16"): ("onnx", "onnxscript", "openvino"),
    ("torch-export", "float32"): (),
}
"""What can be written, and the packages that it takes."""

SUFFIXES = {"onnx": ".onnx", "torch-export": ".pt2", "openvino": ".xml"}
OPSET = 20
EXAMPLE = (250, 333)  # any size will do
AXES = {
    INPUT: (1, 3, "height", "width"),
    "boxes": ("instances", 4),
    "scores": ("instances",),
    "labels": ("instances",),
    "masks": ("instances", 28, 28),
    "logits": (1, "classes", "rows", "columns"),
}
LONGEST = 2**63 - 2
"""Largest bound of an axis that the integers of a graph can hold."""
REWRITES = (
    "mul_by_1 div_by_1 cast_cast no_op_cast no_op_expand no_op_transpose transpose_transpose reshape_reshape "
    "unsqueeze_unsqueeze squeeze_reshape_1d materialize_reshape_shape collapse_slice min_max max_min "
    "remove_optional_bias_from_conv"
)
"""Rules of onnxscript that find something in these graphs, or would with other options of the network."""


class GraphModel(nn.Module):
    """A network as tensors in, tensors out; batch 1.

    Args:
        model: In evaluation mode.
    """

    def __init__(self, model: Network) -> None:
        super().__init__()
        self.model = model

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Return the parts of `banet.engine.export.runtime.NetworkOutput` of an image (1, 3, H, W), uint8 RGB."""
        height, width = image.shape[2:]
        pixels = (image.float() - self.model.mean) / self.model.std
        # Padded too far, then cut: padding by a number of pixels that may be none is another graph. Written as a
        # product, sides stay products under every stride; as a sum with a remainder they grow, and tracing with them.
        divisor = self.model.backbone.divisor
        rows, columns = ((side + divisor - 1) // divisor for side in (height, width))
        padded = F.pad(pixels, (0, divisor - 1, 0, divisor - 1))[:, :, : rows * divisor, : columns * divisor]
        output = self.model.segment(ImageBatch(padded, [(height, width)]))
        found = output.detections[0]
        return found.boxes, found.scores, found.labels, found.masks, output.logits


def trace(model: Network) -> torch.export.ExportedProgram:
    """Return the network as a program of torch's own operators, for images of any height and width.

    Args:
        model: On the CPU, in evaluation mode.
    """
    dynamic = torch.export.Dim.DYNAMIC
    example = torch.zeros(1, 3, *EXAMPLE, dtype=torch.uint8)
    with _tracing(), torch.no_grad():
        program = torch.export.export(
            GraphModel(model).eval(),
            (example,),
            dynamic_shapes=({2: dynamic, 3: dynamic},),
            prefer_deferred_runtime_asserts_over_guards=True,
        )
    # torch asserts what it supposed of unknown sizes while tracing, such as that suppression leaves two boxes or more
    # and that no map is one pixel wide. None of the operators depends on it.
    for node in list(program.graph.nodes):
        if node.target in (torch.ops.aten._assert_scalar.default, torch.ops.aten._assert_tensor_metadata.default):
            program.graph.erase_node(node)
    (image,) = (node for node in program.graph.nodes if node.name == "image")
    sides = [side.node for side in image.meta["val"].shape[2:]]
    for side in sides:  # likewise, as it can say that of the image's sides, too
        bounds = program.range_constraints[side.expr]
        program.range_constraints[side.expr] = type(bounds)(2, bounds.upper)
    for symbol, bounds in program.range_constraints.items():
        if bounds.upper > LONGEST:  # of joined axes: torch 2.11 would write it into the graph
            sides[0].shape_env.constrain_symbol_range(symbol, bounds.lower, LONGEST)
    program.graph.eliminate_dead_code()
    program.graph_module.recompile()
    for module in program.graph_module.modules():
        for node in module.graph.nodes if isinstance(module, torch.fx.GraphModule) else ():
            node.meta.pop("stack_trace", None)  # names this machine's folders
    return program


def export_model(
    model: Network,
    path: Path,
    export_format: ExportFormat,
    *,
    precision: Precision = "float32",
    calibration: Sequence[Path] = (),
) -> Path:
    """Write a network as a graph, with its classes and inference options.

    Args:
        model: On the CPU, in evaluation mode.
        path: The file: `.onnx`, `.pt2` for `torch-export`, `.xml` for `openvino`, which also writes `.bin` beside it.
        export_format: Which.
        precision: `float32`; `float16` stores OpenVINO's weights by half and computes as before; `int8` computes ONNX
            convolutions in 8 bits, but for those of the mask head and of I2S, which not every image reaches.
        calibration: Images, for `int8`, which shows what ranges numbers have.

    Returns:
        The file written.

    Raises:
        InputError: Another suffix, or the format cannot hold the network or the precision.
        MissingExtraError: What writes the format is not installed.
    """
    if path.suffix != SUFFIXES[export_format]:
        raise InputError(f"a file of --format {export_format} ends in {SUFFIXES[export_format]}", where=f"--out {path}")
    _check(model, export_format, precision, calibration)
    path.parent.mkdir(parents=True, exist_ok=True)
    header = write_header(model.categories, model.inference)
    stages = ["trace", "write"] if export_format == "torch-export" else ["trace", "convert", "write"]
    if precision == "int8":
        stages.insert(2, "quantize")
    with tqdm(total=len(stages), bar_format="export: {n_fmt} of {total_fmt} steps done{postfix} [{elapsed}]") as bar:

        def begin(stage: str) -> None:
            bar.update(stages.index(stage) - bar.n)
            bar.set_postfix_str(stage)

        begin("trace")
        program = trace(model)
        if export_format == "torch-export":
            begin("write")
            buffer = io.BytesIO()  # torch turns an error of the file it writes to into pages of its own insides
            torch.export.save(program, buffer, extra_files={HEADER: header})
            with atomic_path(path) as temporary:
                temporary.write_bytes(buffer.getbuffer())
        else:
            begin("convert")
            proto = _onnx(program, header)
            if precision == "int8":
                begin("quantize")
                depth = find_depth(calibration, model.inference.bit_depth)
                samples = [preprocess_array(to_rgb_array(one, depth), model.inference) for one in calibration]
                proto = _quantize(proto, samples)
            begin("write")
            if export_format == "onnx":
                with atomic_path(path) as temporary:
                    temporary.write_bytes(proto.SerializeToString())
            else:
                _write_openvino(proto, header, path, half=precision == "float16")
        bar.update()
    return path


def _check(model: Network, export_format: ExportFormat, precision: Precision, calibration: Sequence[Path]) -> None:
    if (export_format, precision) not in PRECISIONS:
        known = ", ".join(p for f, p in PRECISIONS if f == export_format)
        raise InputError(f"--format {export_format} knows {known}", where=f"--precision {precision}")
    if (precision == "int8") != bool(calibration):
        raise InputError("give some images with --precision int8, and only there", where="--calibration")
    for package in PRECISIONS[export_format, precision]:
        try:
            if package == "openvino":
                import_openvino()
            else:
                import_module(package)
        except ImportError:
            raise MissingExtraError(package, "export") from None
    if export_format != "torch-export" and not model.categories.num_things:
        raise InputError(
            "these weights know stuff only, and ONNX's graph needs at least one thing class",
            where=f"--format {export_format}",
            hint="take --format torch-export",
        )
    if export_format == "openvino" and any(isinstance(part, DeformableConv2d) for part in model.modules()):
        raise InputError(
            "OpenVINO reads no deformable convolution, which these weights have (model.deformable or backbone dcn101)",
            where="--format openvino",
            hint="take --format onnx, which ONNX Runtime runs",
        )


def _onnx(program: torch.export.ExportedProgram, header: str) -> Any:
    """Return the program in ONNX's standard operators.

    Raises:
        InputError: This version of torch cannot write it.
    """
    names: dict[str, Any] = {"input_names": [INPUT], "output_names": list(OUTPUTS)}
    options: dict[str, Any] = {"opset_version": OPSET, "dynamo": True, "verbose": False, "optimize": False}
    with _tracing():
        try:
            exported = torch.onnx.export(program, **names, **options)
        except torch.onnx.OnnxExporterError as error:
            problem = f"torch {torch.__version__} cannot write this network as ONNX ({type(error).__name__})"
            raise InputError(problem, hint="install a newer torch, or take --format torch-export") from error
        assert exported is not None
        _simplify(exported.model)
    proto = exported.model_proto
    del proto.graph.value_info[:]  # in symbols of the tracer
    for value in (*proto.graph.input, *proto.graph.output):
        for dimension, name in zip(value.type.tensor_type.shape.dim, AXES[value.name], strict=True):
            if isinstance(name, str) and not dimension.dim_value:
                dimension.dim_param = name
    for node in proto.graph.node:
        del node.metadata_props[:]
    del proto.metadata_props[:]
    proto.metadata_props.add(key=HEADER, value=header)
    return proto


def _simplify(graph: Any) -> None:
    """Fold constants and merge what repeats, in place, as `torch.onnx.export(optimize=True)` does but for one rule.

    That one (`slice_split_rule`) lists all nodes once per node, for some 20 times as long as all the others together.
    """
    import onnxscript.rewriter.rules.common as rules
    from onnx_ir.passes import Sequential, common
    from onnxscript import optimizer, rewriter

    optimizer.inline(graph)
    optimizer.fold_constants_ir(graph, onnx_shape_inference=True)
    rewriter.rewrite(graph, [getattr(rules, f"{name}_rule") for name in REWRITES.split()])
    optimizer.fold_constants_ir(graph, onnx_shape_inference=True)  # drops what the rules left without a purpose
    Sequential(
        common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0),
        common.LiftSubgraphInitializersToMainGraphPass(),
        common.DeduplicateInitializersPass(),
        common.CommonSubexpressionEliminationPass(),
        common.RemoveUnusedNodesPass(),
        common.OutputFixPass(),
        common.NameFixPass(),
    )(graph)


def _quantize(proto: Any, images: Sequence[NDArray[np.uint8]]) -> Any:
    """Return the graph with convolutions of 8 bits, by the ranges that numbers have on images of the network's size."""
    import onnx
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, quantize_static

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.rest = iter(images)

        def get_next(self) -> dict[str, NDArray[np.uint8]] | None:
            image = next(self.rest, None)
            return None if image is None else {INPUT: np.ascontiguousarray(image.transpose(2, 0, 1)[None])}

    trunk = ("model.backbone.", "model.semantic_head.", "model.rpn.", "model.roi_features.")
    convolutions = [n.name for n in proto.graph.node if n.op_type == "Conv" and n.input[1].startswith(trunk)]
    with _quiet(), tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder) / "float32.onnx", Path(folder) / "int8.onnx"
        onnx.save(proto, source)  # given the graph itself, it would move the weights out of it
        quantize_static(
            source,
            target,
            Reader(),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            op_types_to_quantize=["Conv"],
            nodes_to_quantize=convolutions,
        )
        result = onnx.load(target)
    del result.metadata_props[:]
    result.metadata_props.extend(proto.metadata_props)
    return result


def _write_openvino(proto: Any, header: str, path: Path, *, half: bool) -> None:
    openvino = import_openvino()
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        source = Path(folder) / "source.onnx"
        try:
            source.write_bytes(proto.SerializeToString())
        except OSError as error:
            error.filename = error.filename or str(path)  # a full disk does not say of which file
            raise
        # Not `convert_model`, whose rewriting of the graph moves OCM's part of the logits by tenths.
        graph = openvino.Core().read_model(source)
        graph.set_rt_info(header, HEADER)
        try:
            openvino.save_model(graph, Path(folder) / path.name, compress_to_fp16=half)
        except RuntimeError as error:  # "iostream error": it could not write
            raise InputError(
                f"cannot be written ({error})", where=f"--out {path}", hint="make room on the disk"
            ) from None
        for suffix in (".bin", ".xml"):  # the one that names the other last
            commit((Path(folder) / path.name).with_suffix(suffix), path.with_suffix(suffix))


@contextmanager
def _tracing() -> Iterator[None]:
    """Without what only costs time: collections, and the stack trace of every node, which is dropped in the end."""
    before = vars(torch.fx.config).get("do_not_emit_stack_traces", False)
    torch.fx.config.do_not_emit_stack_traces = True
    try:
        with _quiet(), collector_off():
            yield
    finally:
        torch.fx.config.do_not_emit_stack_traces = before


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the warnings of torch and of the exporter on their own insides."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        before = logging.root.manager.disable
        logging.disable(logging.WARNING)
        try:
            yield
        finally:
            logging.disable(before)


def export_command(
    weights: str,
    export_format: ExportFormat,
    out: str | None,
    *,
    precision: Precision = "float32",
    calibration: Sequence[str] = (),
    overwrite: bool = False,
) -> Path:
    """`banet export`: load, trace, write.

    Args:
        weights: See `BANet.from_pretrained`.
        export_format: See `export_model`.
        out: The file; by default the weights' name with the format's suffix, in this folder.
        precision: See `export_model`.
        calibration: Images, folders or patterns.
        overwrite: Also replace files that this function did not write, but never an input.

    Raises:
        InputError: A file would be replaced that may not be (see `Outputs`), or the weights cannot be read, or cannot
            be written in this format.
        MissingExtraError: What writes the format is not installed.
    """
    images = list_images(calibration) if calibration else []
    path = Path(out) if out else Path(f"{Path(weights).stem}{SUFFIXES[export_format]}")
    names = [path.name, *([path.with_suffix(".bin").name] if export_format == "openvino" else [])]
    read = [*weight_files(weights), *images]
    outputs = Outputs(path.parent, "banet export", names, inputs=read, overwrite=overwrite)
    model = BANet.from_pretrained(weights)
    with outputs:
        written = export_model(model, path, export_format, precision=precision, calibration=images)
    files = [written, written.with_suffix(".bin")] if export_format == "openvino" else [written]
    size = sum(file.stat().st_size for file in files)
    print(f"{written}: {size / 1e6:.1f} MB")
    return written

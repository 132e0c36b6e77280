"""Exported networks say what torch says, whatever the size and the number of instances, and run without torch."""

from __future__ import annotations

import contextlib
import gc
import json
import os
import subprocess
import sys
import venv
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from factories import blocks, small_model
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch.nn import functional as F
from torchvision.ops import batched_nms

import banet
from banet.cli import main
from banet.data.scenes.generate import Scenes
from banet.engine.export import export
from banet.engine.export.runtime import HEADER, OUTPUTS, ExportedModel, read_header, write_header
from banet.engine.prediction.predict import predict_files
from banet.errors import InputError, MissingExtraError
from banet.inference.banet import BANet
from banet.inference.postprocess import semantic_argmax
from banet.modeling import aggregation, rpn
from banet.modeling.config import InferenceConfig
from banet.panoptic import Categories, Category

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxscript")
pytest.importorskip("onnxruntime")

SIZES = [(96, 130), (75, 64), (64, 64), (33, 257)]
REPOSITORY = Path(__file__).parents[2]


def varied_model(things: int = 3, **options: Any) -> BANet:
    """Random weights, five classes of which three are things."""
    classes = Categories([Category(9 - i, f"class {i}", i < things) for i in range(5)])
    limits = InferenceConfig(
        shorter=96, longer=160, score_threshold=0.3, nms_threshold=0.9, stuff_area=16, proposals=200
    )
    model = small_model(inference=limits, classes=classes, **options)
    with torch.no_grad():  # equal biases would become one in the graph
        model.box_head.classes.bias[:-1] = 0.1 * torch.arange(1, things + 1)
    return model


def in_torch(model: BANet, image: np.ndarray) -> list[np.ndarray]:
    with torch.inference_mode():
        output = model([torch.from_numpy(image).permute(2, 0, 1)])
    found = output.detections[0]
    return [part.numpy() for part in (found.boxes, found.scores, found.labels, found.masks, output.logits)]


def assert_same(ours: Any, theirs: Any) -> None:
    for name, a, b in zip(OUTPUTS, ours, theirs, strict=True):
        assert a.shape == b.shape, name
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-3, err_msg=name)


@pytest.fixture(scope="module")
def model() -> BANet:
    return varied_model()


@pytest.fixture(scope="module")
def program(model: BANet) -> torch.export.ExportedProgram:
    return export.trace(model)


@pytest.fixture(scope="module")
def files(model: BANet, program: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The network in every format, traced once."""
    folder = tmp_path_factory.mktemp("exported")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(export, "trace", lambda model: program)
        files = {"torch-export": export.export_model(model, folder / "m.pt2", "torch-export")}
        files["onnx"] = export.export_model(model, folder / "m.onnx", "onnx")
        proto = onnx.load(files["onnx"])
        patch.setattr(export, "_onnx", lambda program, header: proto)
        with contextlib.suppress(MissingExtraError):
            files["openvino"] = export.export_model(model, folder / "m.xml", "openvino")
    return files


def shifted(model: BANet, files: dict[str, Path], background: float, folder: Path, kind: str) -> ExportedModel:
    """The exported network with another bias of the background, which decides how many instances there are."""
    proto = onnx.load(files["onnx"])
    bias = model.box_head.classes.bias.detach().numpy().copy()
    bias[-1] = background
    (found,) = [t for t in proto.graph.initializer if t.name == "model.box_head.classes.bias"]
    found.CopyFrom(onnx.numpy_helper.from_array(bias, found.name))
    if kind == "openvino":
        export._write_openvino(proto, proto.metadata_props[0].value, folder / "shifted.xml", half=False)
        return ExportedModel.open(folder / "shifted.xml")
    onnx.save(proto, folder / "shifted.onnx")
    return ExportedModel.open(folder / "shifted.onnx")


def test_a_torch_that_cannot_write_it_is_named(monkeypatch):
    def fail(*arguments, **options):
        raise torch.onnx.OnnxExporterError("of many lines\n")

    monkeypatch.setattr(torch.onnx, "export", fail)
    with pytest.raises(InputError, match=r"^torch \S+ cannot write this network as ONNX .*; install a newer torch"):
        export._onnx(object(), "")


@pytest.mark.parametrize("kind", ["onnx", "openvino"])
@pytest.mark.parametrize("count", [0, 1, 2, 100])
def test_the_runtimes_say_what_torch_says(model, files, tmp_path, kind, count):
    if kind == "openvino":
        pytest.importorskip("openvino")
    bias = model.box_head.classes.bias
    before = bias.detach().clone()
    try:
        low, high = -20.0, 20.0
        for _ in range(60):  # the fewer, the stronger the background
            with torch.no_grad():
                bias[-1] = (low + high) / 2
            found = len(in_torch(model, blocks(*SIZES[0]))[1])
            if found == count:
                break
            low, high = ((low + high) / 2, high) if found > count else (low, (low + high) / 2)
        assert found == count
        exported = shifted(model, files, bias[-1].item(), tmp_path, kind)
        assert_same(exported(blocks(*SIZES[0])), in_torch(model, blocks(*SIZES[0])))
        for seed, size in enumerate(SIZES[1:], start=1):
            assert_same(exported(blocks(*size, seed)), in_torch(model, blocks(*size, seed)))
    finally:
        with torch.no_grad():
            bias.copy_(before)


def test_no_kernel_of_the_graph_divides_by_the_number_of_detections(files):
    """ONNX Runtime up to 1.23 ends the process in an Einsum over an axis of length zero."""
    assert {node.op_type for node in onnx.load(files["onnx"]).graph.node}.isdisjoint({"Einsum"})


def test_openvino_sends_no_usage_report(tmp_path):
    pytest.importorskip("openvino")
    code = (
        "import socket, sys, threading\n"
        "sys.addaudithook(lambda event, args: sys.exit(f'connects: {args}') if event == 'socket.connect' else None)\n"
        "from banet.engine.export.runtime import import_openvino\n"
        "import_openvino().Core()\n"
        "loaded = {name for name, module in sys.modules.items() if module and name.startswith('openvino_telemetry')}\n"
        "[each.join() for each in threading.enumerate() if each is not threading.current_thread()]\n"
        "sys.exit(f'loaded: {loaded}' if loaded else 0)"
    )
    environment = {**os.environ, "HOME": str(tmp_path), "CI": ""}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_graph_of_an_earlier_version_is_refused(files, tmp_path):
    proto = onnx.load(files["onnx"])
    (entry,) = proto.metadata_props
    entry.value = entry.value.replace("banet-graph-2", "banet-graph-1")
    onnx.save(proto, tmp_path / "old.onnx")
    with pytest.raises(InputError, match=r"old\.onnx: its header .*; export the weights again"):
        ExportedModel.open(tmp_path / "old.onnx")


def test_torch_export_says_what_torch_says(model, files):
    extra = {HEADER: ""}
    program = torch.export.load(files["torch-export"], extra_files=extra).module()
    assert read_header(extra[HEADER], files["torch-export"]) == (model.categories, model.inference)
    for size in SIZES:
        with torch.inference_mode():
            said = program(torch.from_numpy(blocks(*size)).permute(2, 0, 1)[None])
        assert_same([part.numpy() for part in said], in_torch(model, blocks(*size)))


def test_sides_stay_products_under_every_stride(program):
    """Or they grow with each of them, and the time of tracing with them."""
    (image,) = (node for node in program.graph.nodes if node.op == "placeholder" and node.name == "image")
    sides = [(side + 31) // 32 for side in image.meta["val"].shape[2:]]
    maps = [node.meta["val"].shape[2:] for node in program.graph.nodes if node.target == torch.ops.aten.conv2d.default]
    for factor in (1, 2, 4, 8):
        assert any([str(side) for side in shape] == [str(factor * side) for side in sides] for shape in maps)


def test_nothing_is_left_in_the_graph_that_folding_takes_away(files):
    kinds = {node.op_type for node in onnx.load(files["onnx"]).graph.node}
    assert kinds.isdisjoint({"Identity", "Constant", "CastLike", "SequenceAt", "SplitToSequence"})
    nodes = [(node.op_type, *node.input, *(a.SerializeToString() for a in node.attribute)) for node in
             onnx.load(files["onnx"]).graph.node]  # fmt: skip
    assert len(set(nodes)) == len(nodes)


def test_tracing_leaves_torch_and_the_collector_as_they_were(program):
    assert gc.isenabled() and not torch.fx.config.do_not_emit_stack_traces
    assert not any(node.meta.get("stack_trace") for node in program.graph.nodes)


def test_tracing_leaves_the_network_as_it_was(model, program):
    assert_same(in_torch(model, blocks(*SIZES[0])), in_torch(varied_model(), blocks(*SIZES[0])))


def test_the_graph_has_standard_operators_and_named_axes_and_tells_nothing_of_this_machine(files):
    proto = onnx.load(files["onnx"])
    onnx.checker.check_model(proto)
    assert {node.domain for node in proto.graph.node} <= {"", "ai.onnx"}
    assert not proto.functions
    values = {v.name: [d.dim_param or d.dim_value for d in v.type.tensor_type.shape.dim] for v in proto.graph.output}
    assert values["boxes"] == ["instances", 4]
    assert values["logits"] == [1, 5, "rows", "columns"]
    assert [d.dim_param or d.dim_value for d in proto.graph.input[0].type.tensor_type.shape.dim] == [
        1,
        3,
        "height",
        "width",
    ]
    for path in files.values():
        assert str(REPOSITORY).encode() not in path.read_bytes()


def test_smaller_numbers_make_a_smaller_file_that_says_nearly_the_same(model, files, tmp_path):
    image = blocks(96, 130)
    Image.fromarray(image).save(tmp_path / "a.png")
    proto = onnx.load(files["onnx"])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(export, "trace", lambda model: None)
        patch.setattr(export, "_onnx", lambda program, header: proto)
        images = [tmp_path / "a.png"]
        made = [export.export_model(model, tmp_path / "8.onnx", "onnx", precision="int8", calibration=images)]
        with contextlib.suppress(MissingExtraError):
            made.append(export.export_model(model, tmp_path / "16.xml", "openvino", precision="float16"))
    logits = in_torch(model, image)[4]
    for file, share in zip(made, (0.35, 0.6), strict=False):
        weights = file.with_suffix(".bin") if file.suffix == ".xml" else file
        assert weights.stat().st_size < share * files["onnx"].stat().st_size
        exported = ExportedModel.open(file)
        assert exported.inference == model.inference
        assert np.corrcoef(exported(image).logits.ravel(), logits.ravel())[0, 1] > 0.9


@pytest.mark.parametrize("thing_pixels", ["void", "best_stuff"])
@pytest.mark.parametrize("size", [(96, 128), (96, 97)])
def test_predict_gives_the_panoptic_result_of_torch(model, files, size, thing_pixels):
    """At a size that needs no resizing, where pixels are the same."""
    exported = ExportedModel.open(files["onnx"])
    assert exported.inference == model.inference
    assert exported.categories == model.categories
    options = replace(model.inference, thing_pixels=thing_pixels)
    exported.inference = options
    before, model.inference = model.inference, options
    try:
        ours, theirs = exported.predict(blocks(*size)), model.predict(blocks(*size))
    finally:
        model.inference = before
    assert np.array_equal(ours.ids, theirs.ids)
    assert len(ours.segments) == len(theirs.segments) > 0
    assert [s.category_id for s in ours.segments] == [s.category_id for s in theirs.segments]


def test_predict_resizes_as_torch_within_a_grey_level(model, files):
    exported = ExportedModel.open(files["onnx"])
    ours, theirs = (one.predict(blocks(201, 317)) for one in (exported, model))
    assert ours.ids.shape == theirs.ids.shape == (201, 317)
    assert (ours.ids > 0).mean() == pytest.approx((theirs.ids > 0).mean(), abs=0.02)
    assert isinstance(exported.predict([blocks(96, 96)] * 2), list)


def test_the_threshold_of_an_exported_graph_can_only_be_raised(model, files, tmp_path):
    (tmp_path / "in").mkdir()
    Image.fromarray(blocks(96, 128)).save(tmp_path / "in" / "a.png")
    best = float(model.predict_unfused([blocks(96, 128)])[0].instances.scores.max())

    def scores(threshold: float | None) -> list[float]:
        arguments = (str(files["onnx"]), [str(tmp_path / "in" / "a.png")], tmp_path / "out")
        assert predict_files(*arguments, runtime="onnx", rule="score", score_threshold=threshold) == 0
        segments = json.loads((tmp_path / "out" / "a.json").read_text())["annotations"][0]["segments_info"]
        return [segment["score"] for segment in segments if "score" in segment]

    assert max(scores(None)) == max(scores(best - 1e-3)) == pytest.approx(best, abs=1e-4)
    assert scores(best + 1e-3) == []
    with pytest.raises(InputError, match=r"--score 0\.1: the exported graph leaves out scores up to 0\.3; give more"):
        scores(0.1)
    with pytest.raises(InputError, match=r"score_threshold: must lie in 0\.\.1, not 1\.5"):
        scores(1.5)


BLOCK = """
import sys
class Block:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("torch", "torchvision", "safetensors"):
            raise ModuleNotFoundError(f"{name} is not here", name=name)
sys.meta_path.insert(0, Block())
from banet.cli import main
sys.exit(main())
"""


def without_torch(*command: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", BLOCK, *map(str, command)],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        timeout=300,
    )


def test_predict_runs_where_there_is_no_torch(model, files, tmp_path):
    Image.fromarray(blocks(96, 128)).save(tmp_path / "a.png")
    done = without_torch("predict", "--runtime", "onnx", files["onnx"], tmp_path / "a.png", "--out", tmp_path / "o")
    assert done.returncode == 0, done.stderr
    assert "1 of 1 images segmented" in done.stdout
    model.predict(blocks(96, 128)).save(tmp_path / "torch.png")
    assert np.array_equal(np.array(Image.open(tmp_path / "o" / "a.png")), np.array(Image.open(tmp_path / "torch.png")))


def test_a_command_that_needs_torch_says_so(tmp_path):
    Image.fromarray(blocks(96, 128)).save(tmp_path / "a.png")
    done = without_torch("predict", "--weights", "scenes", tmp_path / "a.png", "--out", tmp_path / "o")
    assert done.returncode == 2
    assert done.stderr == "banet: error: this command needs PyTorch: pip install torch torchvision\n"


@pytest.mark.slow
def test_predict_runs_in_an_environment_of_its_own(model, files, tmp_path):
    """No torch installed: the package without its dependencies, and what the page on export names."""
    venv.create(tmp_path / "env", with_pip=True)
    python = next(
        p for p in (tmp_path / "env" / "bin" / "python", tmp_path / "env" / "Scripts" / "python.exe") if p.exists()
    )
    pip = [str(python), "-m", "pip", "install", "-q"]
    subprocess.run([*pip, "--no-deps", str(REPOSITORY)], check=True, timeout=600)
    needed = ["numpy", "pillow", "jsonargparse[signatures]", "PyYAML", "tqdm", "onnxruntime"]
    subprocess.run([*pip, *needed], check=True, timeout=600)
    Image.fromarray(blocks(96, 128)).save(tmp_path / "a.png")
    done = subprocess.run(
        [str(python), "-m", "banet", "predict", "--runtime", "onnx", str(files["onnx"]), "a.png", "--out", "o"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    model.predict(blocks(96, 128)).save(tmp_path / "torch.png")
    assert np.array_equal(np.array(Image.open(tmp_path / "o" / "a.png")), np.array(Image.open(tmp_path / "torch.png")))


# ---------------------------------------------------------------------------------------------- the parts, in numpy


@settings(max_examples=300)
@given(
    st.integers(0, 2**32 - 1),
    st.tuples(st.integers(1, 70), st.integers(1, 70)),
    st.tuples(st.integers(1, 90), st.integers(1, 90)),
)
def test_argmax_of_arrays_is_that_of_tensors(seed, network_size, size):
    padded = [-(-side // 32) * 8 for side in network_size]
    logits = np.random.default_rng(seed).normal(size=(4, *padded)).astype(np.float32)
    ours = semantic_argmax(logits, network_size, size)
    theirs = semantic_argmax(torch.from_numpy(logits), network_size, size)
    assert ours.shape == theirs.shape == size
    assert (ours != theirs).sum() <= max(1, 0.001 * ours.size)  # where two classes are equal to the last digits


@pytest.fixture
def exporting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.compiler, "is_exporting", lambda: True)


@pytest.mark.parametrize("size", [(1, 1), (5, 13), (7, 6), (32, 41)])
@pytest.mark.parametrize("cells", [1, 2, 3, 6])
def test_pooling_under_export_is_the_same(exporting, size, cells):
    x = torch.randn(3, *size)
    assert torch.equal(aggregation._max_pool(x, cells), F.adaptive_max_pool2d(x, cells))


def test_suppression_under_export_is_the_same(exporting):
    generator = torch.Generator().manual_seed(0)
    corner, side = torch.rand(300, 2, generator=generator) * 50, torch.rand(300, 2, generator=generator) * 30
    boxes, scores = torch.cat([corner, corner + side], 1), torch.rand(300, generator=generator)
    levels = torch.randint(0, 5, (300,), generator=generator)
    kept = rpn._suppress(boxes, scores, levels, 0.5)
    assert torch.equal(kept, batched_nms(boxes, scores, levels, 0.5))
    assert 0 < len(kept) < 300


# --------------------------------------------------------------------------------------------------------- the errors


def foreign(path: Path) -> Path:
    value = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1])
    result = onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [1])
    graph = onnx.helper.make_graph([onnx.helper.make_node("Relu", ["x"], ["y"])], "g", [value], [result])
    opset = [onnx.helper.make_opsetid("", 20)]
    onnx.save(onnx.helper.make_model(graph, opset_imports=opset, ir_version=10), path)
    return path


def test_other_files_are_refused_in_one_line(tmp_path, files):
    with pytest.raises(InputError, match=r"was not exported by this library"):
        ExportedModel.open(foreign(tmp_path / "foreign.onnx"))
    (tmp_path / "noise.onnx").write_bytes(b"\x00noise" * 50)
    with pytest.raises(InputError, match="ONNX Runtime cannot read it"):
        ExportedModel.open(tmp_path / "noise.onnx")
    with pytest.raises(InputError, match="does not exist"):
        ExportedModel.open(tmp_path / "none.onnx")
    with pytest.raises(InputError, match="give an exported file"):
        ExportedModel.open(files["torch-export"])


def test_headers_of_other_versions_are_refused(model):
    text = write_header(model.categories, model.inference)
    assert read_header(text, Path("m.onnx")) == (model.categories, model.inference)
    for change in ({"format": "banet-graph-9"}, {"inference": {"scor": 1}}, {"categories": []}):
        with pytest.raises(InputError, match=r"m\.onnx"):
            read_header(json.dumps({**json.loads(text), **change}), Path("m.onnx"))


@pytest.mark.parametrize(
    ("weights", "options", "said"),
    [
        ("m.onnx", {}, "add --runtime onnx"),
        ("m.xml", {"runtime": "onnx"}, "--runtime onnx runs .onnx files"),
        ("m.onnx", {"runtime": "onnx", "device": "cuda"}, "computes on the CPU"),
    ],
)
def test_a_runtime_runs_its_own_files(tmp_path, weights, options, said):
    Image.fromarray(blocks(20, 20)).save(tmp_path / "a.png")
    with pytest.raises(InputError, match=said):
        predict_files(weights, [str(tmp_path / "a.png")], tmp_path / "out", **options)


def test_what_cannot_be_exported_is_said_before_any_work(monkeypatch, tmp_path, model):
    monkeypatch.setattr(export, "trace", lambda model: pytest.fail("traced"))
    with pytest.raises(InputError, match=r"--format onnx ends in .onnx"):
        export.export_model(model, tmp_path / "m.pt", "onnx")
    with pytest.raises(InputError, match="--precision int8: --format torch-export knows float32"):
        export.export_model(model, tmp_path / "m.pt2", "torch-export", precision="int8")
    with pytest.raises(InputError, match="--calibration: give some images"):
        export.export_model(model, tmp_path / "m.onnx", "onnx", precision="int8")
    with pytest.raises(InputError, match="know stuff only"):
        export.export_model(varied_model(things=0), tmp_path / "m.onnx", "onnx")
    pytest.importorskip("openvino")
    with pytest.raises(InputError, match="no deformable convolution"):
        export.export_model(varied_model(deformable=True), tmp_path / "m.xml", "openvino")


def test_a_missing_package_is_named(monkeypatch, tmp_path, model):
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(MissingExtraError, match=r"onnxscript, .*banet-panoptic\[export\]"):
        export.export_model(model, tmp_path / "m.onnx", "onnx")


# -------------------------------------------------------------------------------- the bundled weights, slowly


@pytest.mark.slow
def test_the_shipped_weights_on_scenes_and_photographs(tmp_path):
    assert main(["export", "scenes", "--out", str(tmp_path / "scenes.onnx")]) == 0
    exported, model = ExportedModel.open(tmp_path / "scenes.onnx"), banet.BANet.from_pretrained("scenes")
    drawn = Scenes(2, 36, (256, 256))
    scenes = [drawn.read(i)[0] for i in range(36)]  # all different: of equal scores either may come first
    rows = [np.concatenate(scenes[i : i + 6], 1) for i in range(0, 36, 6)]
    images = [*scenes[:3], scenes[3][:211, :173], np.zeros((100, 75, 3), np.uint8), np.concatenate(rows, 0)]
    for image in images:
        assert_same(exported(image), in_torch(model, image))
    assert len(exported(images[-2]).scores) == 0
    assert len(exported(images[-1]).scores) > 40
    for image in scenes[:9]:
        assert np.array_equal(exported.predict(image).ids, model.predict(image).ids)
    data = os.environ.get("BANET_TEST_DATA")
    for path in sorted(Path(data, "coco_panoptic", "images").iterdir())[:8] if data else []:
        ours, theirs = exported.predict(path), model.predict(path)
        assert (ours.ids == theirs.ids).mean() > 0.99  # resized pixels differ by one grey level here and there

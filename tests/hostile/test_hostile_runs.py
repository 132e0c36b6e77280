"""What comes of a command that is stopped, finds no room, no memory or no sane clock, or is given bad files.

Training has more of it in tests/engine/test_interrupted.py: killed at random, a full disk, two runs in one folder.
"""

from __future__ import annotations

import ast
import contextlib
import ctypes
import errno
import itertools
import json
import multiprocessing
import os
import re
import resource
import signal
import struct
import time
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from readers import READERS, TINY, tiny_model
from safetensors.torch import load_file

import banet
from banet import BANet
from banet.cli import main
from banet.engine.export.export import export_model
from banet.engine.recipe import DataConfig, Recipe, TrainConfig, to_yaml
from banet.engine.training.checkpointing import LAST, AtomicCheckpoints
from banet.engine.training.task import TrainingTask
from banet.engine.training.train import train
from banet.errors import InputError
from banet.files.outputs import RECORD, RUN
from banet.modeling.config import InferenceConfig, LossConfig
from banet.modeling.network import Network
from banet.modeling.outputs import Output

pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.usefixtures("one_thread")]

RECIPE = Recipe(
    name="tiny",
    model=replace(TINY, norm="group", frozen_stages=0, anchor_sizes=(8, 16, 32, 64, 96)),
    inference=InferenceConfig(shorter=64, longer=96, proposals=30, max_instances=10, stuff_area=8),
    loss=LossConfig(rpn_samples=32, roi_samples=16, proposals=50),
    data=DataConfig(kind="scenes", scene_size=64, train_scenes=5, val_scenes=1, shorter=(64,), longer=96, workers=0),
    train=TrainConfig(
        init="random",
        iterations=4,
        batch_size=6,
        optimizer="adamw",
        lr=1e-3,
        warmup=2,
        milestones=(),
        checkpoint_every=2,
    ),
)


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Whole files for every command: images, a panoptic data set, results of a detector, weights, a recipe."""
    folder = tmp_path_factory.mktemp("given")
    READERS["fuse"].make(folder, None)
    tiny_model().save_pretrained(folder / "tiny.safetensors")
    (folder / "tiny.yaml").write_text(to_yaml(RECIPE))
    return folder


DATA = "--images {given}/images --panoptic {given}/panoptic --json {given}/panoptic.json"
COMMANDS = {
    "predict": "{given}/images --weights {given}/tiny.safetensors --device cpu --gallery --out {out}",
    "evaluate": f"{{given}}/tiny.safetensors {DATA} --device cpu --gallery --out {{out}}",
    "demo": "--weights {given}/tiny.safetensors --scenes 2 --device cpu --out {out}",
    "fuse": "--instances {given}/results.json --semantic {given}/labels --images {given}/images"
    " --json {given}/panoptic.json --out {out}",
    "pq": "--gt-json {given}/panoptic.json --gt-dir {given}/panoptic --pred-json {given}/panoptic.json"
    " --pred-dir {given}/panoptic --json {out}/pq.json",
    "data scenes": "--count 2 --size 64 --out {out}",
    "data convert coco": "--images {given}/images --instances {given}/instances.json --overlaps area --out {out}",
}
"""All that write several files, or a large one; training has tests of its own."""


def arguments(command: str, given: Path, out: Path) -> list[str]:
    options = {**COMMANDS, "train": "--config {given}/tiny.yaml --device cpu --out {out}"}[command]
    if command == "pq":
        out.mkdir(exist_ok=True)
    return [*command.split(), *options.format(given=given, out=out).split()]


def contents(folder: Path) -> dict[str, Any]:
    """What every file in a folder holds, but for records and what a run goes on with; of an archive its members."""
    found: dict[str, Any] = {}
    for path in sorted(folder.rglob("*")):
        if path.suffix == ".zip":
            with zipfile.ZipFile(path) as archive:
                found[path.name] = {name: archive.read(name) for name in archive.namelist()}
        elif path.is_file() and path.name != RECORD and not path.relative_to(folder).parts[0].startswith(RUN):
            found[path.relative_to(folder).as_posix()] = path.read_bytes()
    return found


@pytest.fixture(scope="module")
def whole(given: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], dict[str, Any]]:
    """What each command writes when nothing goes wrong."""
    kept: dict[str, dict[str, Any]] = {}

    def of(command: str) -> dict[str, Any]:
        if command not in kept:
            out = tmp_path_factory.mktemp("whole") / "out"
            assert main(arguments(command, given, out)) == 0
            kept[command] = contents(out)
        return kept[command]

    return of


def assert_no_half(out: Path, whole: dict[str, Any]) -> int:
    """Every file that is there is as it should be, and none has another name; how many there are."""
    left = contents(out)
    assert left.keys() <= whole.keys()
    for name, content in left.items():
        assert content == whole[name], name
    return len(left)


def last_error(capsys: pytest.CaptureFixture[str]) -> str:
    """The one line that a command ended with."""
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("banet: ")]
    assert len(lines) == 1, lines
    return lines[0]


# ------------------------------------------------------------------------------------------------ stopped, or no room


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("how", ["Ctrl-C", "full"])
def test_stopped_before_a_file_is_in_its_place(
    command: str, how: str, given: Path, whole: Callable[[str], dict[str, Any]], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    expected = whole(command)
    real = os.replace
    for count in {0, len(expected) // 2}:
        calls = itertools.count()

        def stop(source: Any, target: Any, calls: Iterator[int] = calls, count: int = count) -> None:
            if next(calls) == count:
                if how == "full":
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                signal.raise_signal(signal.SIGINT)
                time.sleep(1)  # in another thread than the main one, which it reaches when that is back from torch
            real(source, target)

        out = tmp_path / str(count)
        capsys.readouterr()
        with monkeypatch.context() as patch:
            patch.setattr(os, "replace", stop)
            status = main(arguments(command, given, out))
        said = last_error(capsys)
        if how == "full":
            assert status == 2 and "No space left on device" in said and str(tmp_path) in said
        else:
            assert status == 130 and said == "banet: interrupted"
        assert assert_no_half(out, expected) < len(expected)
        if command == "data convert coco":
            assert not out.exists() and not list(tmp_path.glob(".*"))


@pytest.mark.parametrize("command", COMMANDS)
def test_a_file_that_does_not_fit_on_the_disk(
    command: str, given: Path, whole: Callable[[str], dict[str, Any]], tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """The system takes a part of a file and no more, whatever library writes it."""
    expected = whole(command)
    largest: dict[str, int] = {}  # of each kind of file
    for name, content in expected.items():
        largest[Path(name).suffix] = max(largest.get(Path(name).suffix, 0), len(content))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    for limit in {size - 1 for kind, size in largest.items() if kind != ".zip"}:
        out = tmp_path / str(limit)
        capsys.readouterr()
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
        try:
            status = main(arguments(command, given, out))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        said = last_error(capsys)
        assert status == 2 and "File too large" in said and str(tmp_path) in said
        assert assert_no_half(out, expected) < len(expected)


def test_exports_that_do_not_fit_on_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = torch.export.export(torch.nn.Linear(100, 100), (torch.zeros(1, 100),))
    monkeypatch.setattr("banet.engine.export.export.trace", lambda model: program)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
    try:
        with pytest.raises(OSError, match="File too large") as caught:
            export_model(tiny_model(), tmp_path / "a.pt2", "torch-export")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert caught.value.filename == str(tmp_path / "a.pt2") and not list(tmp_path.iterdir())

    onnx, openvino = pytest.importorskip("onnx"), pytest.importorskip("openvino")
    value = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1])
    result = onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [1])
    graph = onnx.helper.make_graph([onnx.helper.make_node("Identity", ["x"], ["y"])], "g", [value], [result])
    opset = [onnx.helper.make_opsetid("", 18)]
    proto = onnx.helper.make_model(graph, opset_imports=opset, ir_version=10)
    monkeypatch.setattr("banet.engine.export.export._onnx", lambda program, header: proto)

    def full(*_: Any, **__: Any) -> None:
        raise RuntimeError("basic_ios::clear: iostream error")

    monkeypatch.setattr(openvino, "save_model", full)
    with pytest.raises(InputError, match=r"a\.xml: cannot be written .*; make room"):
        export_model(tiny_model(), tmp_path / "a.xml", "openvino")
    assert not list(tmp_path.iterdir())


CAP_DAC_OVERRIDE = 1


@contextlib.contextmanager
def permissions_hold() -> Iterator[None]:
    """Nobody may write where only root could, not even root."""
    libc = ctypes.CDLL(None, use_errno=True)
    header = struct.pack("Ii", 0x20080522, 0)  # version 3, this thread
    before = ctypes.create_string_buffer(24)  # twice effective, permitted, inheritable
    assert libc.capget(header, before) == 0
    words = list(struct.unpack("6I", before.raw))
    words[0] &= ~(1 << CAP_DAC_OVERRIDE)
    assert libc.capset(header, struct.pack("6I", *words)) == 0
    try:
        yield
    finally:
        assert libc.capset(header, before.raw) == 0


@pytest.mark.skipif(os.uname().sysname != "Linux", reason="capabilities are of Linux")
@pytest.mark.parametrize("command", [*COMMANDS, "train"])
def test_a_folder_that_may_not_be_written_to(
    command: str, given: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    line = arguments(command, given, out)
    out.mkdir(exist_ok=True)
    for folder in (tmp_path, out):
        folder.chmod(0o555)
    with permissions_hold():
        status = main(line)
    assert status == 2
    said = last_error(capsys)
    assert "Permission denied" in said and str(tmp_path) in said
    assert not any(out.iterdir())


@pytest.mark.parametrize("command", [*COMMANDS, "train"])
def test_a_file_where_the_folder_should_be(
    command: str, given: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("mine")
    out = tmp_path / "out"
    line = arguments(command, given, out)
    assert main([part.replace(str(out), str(tmp_path / "file")) for part in line]) == 2
    assert str(tmp_path / "file") in last_error(capsys)
    assert (tmp_path / "file").read_text() == "mine"


def test_training_stopped_at_once(
    given: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A second Ctrl-C; and one before the first iteration."""
    real, calls = Network.losses, iter(range(3))

    def losses(self: Network, *given: Any) -> Any:
        if next(calls, None) is None:
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGINT)
        return real(self, *given)

    before = signal.getsignal(signal.SIGINT)
    with monkeypatch.context() as patch:
        patch.setattr(Network, "losses", losses)
        assert main(arguments("train", given, tmp_path / "out")) == 130
    assert last_error(capsys).endswith("last.ckpt is whole: go on with --resume auto")
    assert signal.getsignal(signal.SIGINT) is before
    assert torch.load(tmp_path / "out" / LAST, weights_only=True)["global_step"] == 2
    assert {p.name for p in (tmp_path / "out").iterdir()} == {".lock", RECORD, "recipe.yaml", "checkpoints"}

    monkeypatch.setattr("banet.engine.training.train.build_for_training", lambda *_: signal.raise_signal(signal.SIGINT))
    assert main(arguments("train", given, tmp_path / "other")) == 130
    assert last_error(capsys) == "banet: interrupted" and not (tmp_path / "other").exists()


def test_a_worker_that_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data, options = replace(RECIPE.data, workers=1), replace(RECIPE.train, batch_size=2, iterations=6)
    recipe = replace(RECIPE, data=data, train=options)
    train(recipe, tmp_path / "whole", device="cpu")
    real, seen = TrainingTask.training_step, iter(range(3))

    def step(self: TrainingTask, *given: Any) -> Any:
        if next(seen, None) is None:
            for child in multiprocessing.active_children():
                child.kill()
        return real(self, *given)

    with monkeypatch.context() as patch:
        patch.setattr(TrainingTask, "training_step", step)
        with pytest.raises(InputError, match=r"^data\.workers: .* lower --data\.workers; .*last\.ckpt is whole"):
            train(recipe, tmp_path / "out", device="cpu")
    assert not (tmp_path / "out" / "model.safetensors").exists()
    train(recipe, tmp_path / "out", resume="auto", device="cpu")
    one, other = (load_file(tmp_path / name / "model.safetensors") for name in ("out", "whole"))
    torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


class FailsOnce:
    left = 1

    def __reduce__(self) -> tuple[type[int], tuple[()]]:
        self.left -= 1
        if self.left == 0:
            raise RuntimeError("DataLoader worker was killed")
        return int, ()


def test_a_save_that_failed_does_not_go_on_in_the_same_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = torch.save

    def twice(*given: Any) -> None:  # as Ultralytics, once imported, puts in its place
        with contextlib.suppress(RuntimeError):
            return real(*given)
        return real(*given)

    monkeypatch.setattr(torch, "save", twice)
    with pytest.raises(RuntimeError, match="worker was killed"):
        AtomicCheckpoints().save_checkpoint({"tensor": torch.zeros(4), "fails": FailsOnce()}, tmp_path / "a.ckpt")
    assert not list(tmp_path.iterdir())


# -------------------------------------------------------------------------------------------------------------- memory


def no_memory() -> None:
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a capacity of 1 GiB. More")


def holding(images: int, real: Callable[..., Any]) -> Callable[..., Any]:
    """`real`, on a GPU that holds so many images."""

    def run(self: BANet, batch: Any, *more: Any) -> Any:
        if len(batch) > images:
            no_memory()
        return real(self, batch, *more)

    return run


@pytest.mark.parametrize("place", ["forward", "backward"])
def test_training_says_how_many_images_fit(
    place: str, given: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    real = Network.losses

    def losses(self: Network, images: Any, targets: Any) -> Any:
        found = real(self, images, targets)
        if len(images) > 2:
            found["loss_seg"].register_hook(lambda _: no_memory())
        return found

    monkeypatch.setattr(Network, "losses", holding(2, real) if place == "forward" else losses)
    line = arguments("train", given, tmp_path / "out")
    assert main(line) == 2
    said = last_error(capsys)
    assert "does not hold 6 images of 61x63 at once, but 2; --train.accumulate 3 keeps the batch of 6" in said
    if place == "forward":  # what it says works
        assert main([*line, "--train.accumulate", "3"]) == 0
        assert (tmp_path / "out" / "model.safetensors").exists()


def test_training_says_where_not_even_one_fits(
    given: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(Network, "losses", holding(0, Network.losses))
    assert main(arguments("train", given, tmp_path / "out")) == 2
    assert "does not hold one image of 61x63; set --train.gradient_checkpointing true" in last_error(capsys)


@pytest.mark.parametrize(("holds", "said"), [(1, "--batch 3: .* at once; 1 fit$"), (0, "lower inference.shorter")])
def test_evaluate_says_how_many_images_fit(
    holds: int, said: str, given: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setattr(BANet, "forward", holding(holds, BANet.forward))
    line = arguments("evaluate", given, tmp_path / "out")
    assert main([*line, "--batch", "3"]) == 2
    line = [*line, "--batch", "1"]
    message = last_error(capsys)
    assert re.search(said, message), message
    assert main(line) == (0 if holds else 2)


def test_predict_does_the_images_that_fit(
    given: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "in").mkdir()
    for name, size in {"a": (40, 40), "b": (90, 30), "c": (30, 40)}.items():
        Image.new("RGB", size).save(tmp_path / "in" / f"{name}.png")
    real = BANet.forward

    def forward(self: BANet, images: Any) -> Output:
        if images[0].shape[2] > 60:
            no_memory()
        return real(self, images)

    monkeypatch.setattr(BANet, "forward", forward)
    options = ["--weights", str(given / "tiny.safetensors"), "--device", "cpu", "--out", str(tmp_path / "out")]
    assert main(["predict", str(tmp_path / "in"), *options]) == 1
    assert "b.png: does not fit into the memory; add --tile" in last_error(capsys)
    assert {p.name for p in (tmp_path / "out").glob("*.png")} == {"a.png", "c.png"}
    assert main(["predict", str(tmp_path / "in"), *options, "--tile", "32"]) == 0


def test_no_memory_elsewhere_is_one_line(
    given: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("banet.engine.report.demo.run_demo", lambda *_, **__: no_memory())
    assert main(["demo"]) == 2
    assert "CUDA out of memory; give smaller images" in last_error(capsys)


# --------------------------------------------------------------------------------------------------------------- clock


def test_nothing_reads_the_clock() -> None:
    wall = {"time.time", "time.time_ns", "time.localtime", "os.path.getmtime", "datetime.now", "date.today"}
    for path in Path(banet.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Attribute):
                assert ast.unparse(node) not in wall and not node.attr.startswith(("st_mtime", "st_ctime")), path
            if isinstance(node, ast.ImportFrom):
                assert node.module not in ("time", "datetime"), path


@pytest.mark.parametrize("moment", [0, 2**33])
@pytest.mark.parametrize("command", ["evaluate", "data convert coco"])
def test_clocks_that_are_wrong(
    command: str, moment: int, given: Path, whole: Callable[[str], dict[str, Any]], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """1970, as on a board without a battery, and 2242."""
    expected, real = whole(command), os.replace

    def replace_at(source: Any, target: Any) -> None:
        real(source, target)
        os.utime(target, (moment, moment))

    monkeypatch.setattr(os, "replace", replace_at)
    monkeypatch.setattr(time, "time", lambda: float(moment))
    assert main(arguments(command, given, tmp_path / "out")) == 0
    assert contents(tmp_path / "out") == expected


def test_training_goes_on_with_a_clock_that_jumps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = replace(RECIPE, train=replace(RECIPE.train, batch_size=2))
    longer = replace(recipe, train=replace(recipe.train, iterations=6))
    train(longer, tmp_path / "whole", device="cpu")
    times = iter(range(10**9, 0, -1000))
    monkeypatch.setattr(time, "time", lambda: float(next(times)))
    train(recipe, tmp_path / "out", device="cpu")
    for path in (tmp_path / "out").rglob("*"):
        os.utime(path, (2**32, 2**32))
    train(longer, tmp_path / "out", resume="auto", device="cpu")
    one, other = (load_file(tmp_path / name / "model.safetensors") for name in ("out", "whole"))
    torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


# ---------------------------------------------------------------------------------------------------- many, a few bad


@pytest.mark.parametrize(("count", "bad"), [(40, 3), pytest.param(1000, 30, marks=pytest.mark.slow)])
def test_predict_finishes_the_good_ones(
    count: int, bad: int, given: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    rng = np.random.default_rng(0)
    wrong = set(rng.choice(count, bad, replace=False).tolist())
    for number in range(count):
        path = folder / f"{number:04d}.png"
        Image.fromarray(rng.integers(0, 256, (16, 20, 3), dtype=np.uint8)).save(path)
        if number in wrong:
            data = path.read_bytes()
            path.write_bytes((b"", data[: len(data) // 2], b"no picture")[number % 3])
    options = ["--weights", str(given / "tiny.safetensors"), "--device", "cpu", "--out", str(tmp_path / "out")]
    assert main(["predict", str(folder), *options]) == 1
    said = capsys.readouterr()
    errors = [line for line in said.err.splitlines() if line.startswith("banet: error: ")]
    assert {Path(line.split(": ")[2]).stem for line in errors} == {f"{number:04d}" for number in wrong}
    assert len(errors) == bad and f"{count - bad} of {count} images segmented" in said.out
    for suffix in (".png", ".json", "_overlay.jpg"):
        done = {p.name for p in (tmp_path / "out").glob(f"[0-9]*{suffix}")}
        assert done == {f"{number:04d}{suffix}" for number in set(range(count)) - wrong}
    assert all(json.loads(p.read_text())["images"] for p in (tmp_path / "out").glob("*.json"))

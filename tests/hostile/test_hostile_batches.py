"""Batches and streams: what cannot be written or run costs its own image, and output goes to any terminal."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from readers import tiny_model

from banet.cli import main
from banet.data.scenes.generate import SCENE_CATEGORIES
from banet.engine.export.runtime import ExportedModel
from banet.engine.prediction import predict
from banet.errors import InputError
from banet.files.outputs import Outputs
from banet.files.staging import staged
from banet.files.worker import Budget, Workers
from banet.modeling.config import InferenceConfig
from banet.panoptic import Categories

posix = pytest.mark.skipif(os.name != "posix", reason="signals and descriptors")


def images(folder: Path, names: list[str]) -> Path:
    folder.mkdir()
    for number, name in enumerate(names):
        Image.fromarray(np.full((40, 56, 3), 40 * number, np.uint8)).save(folder / name)
    return folder


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tiny_model().save_pretrained(tmp_path_factory.mktemp("weights") / "a.safetensors"))


# ------------------------------------------------------------------------------------------ writing


def test_a_name_that_is_too_long_costs_its_own_image(tmp_path, weights, capsys):
    long = "x" * 246 + ".png"  # with _overlay.jpg it is too long; with .json too, if 251
    folder = images(tmp_path / "in", ["a.png", long, "x" * 251 + ".png", "z.png"])
    status = main(["predict", str(folder), "--weights", weights, "--out", str(tmp_path / "out")])
    lines = capsys.readouterr().err.splitlines()
    assert status == 1 and len(lines) == 2
    assert all("its results cannot be written (File name too long)" in line for line in lines)
    left = sorted(path.name for path in (tmp_path / "out").iterdir() if not path.name.startswith("."))
    assert left == [*(f"{n}{s}" for n in "a" for s in (".json", ".png", "_overlay.jpg")), "panoptic.json",
                    "segments.csv", "z.json", "z.png", "z_overlay.jpg"]  # fmt: skip


def test_an_error_of_the_disk_that_concerns_one_file_costs_its_own_image(tmp_path, weights, capsys):
    folder = images(tmp_path / "in", ["a.png", "b.png", "c.png"])
    (tmp_path / "out" / "b.json").mkdir(parents=True)
    (tmp_path / "out" / "b.json" / "mine").write_text("x")
    status = main(["predict", str(folder), "--weights", weights, "--out", str(tmp_path / "out"), "--overwrite"])
    assert status in (1, 2)
    assert not (tmp_path / "out" / "b.png").exists()
    assert (tmp_path / "out" / "b.json" / "mine").read_text() == "x"
    assert len(capsys.readouterr().err.splitlines()) == 1


# ------------------------------------------------------------------------------------------ exported networks


def outputs(**changes: Any) -> list[np.ndarray]:
    """Return what a network that finds one thing in an image of 40 x 56 pixels gives."""
    right = {
        "boxes": np.array([[2, 2, 30, 30]], np.float32),
        "scores": np.array([0.9], np.float32),
        "labels": np.array([0], np.int64),
        "masks": np.ones((1, 28, 28), np.float32),
        "logits": np.zeros((1, len(SCENE_CATEGORIES), 16, 16), np.float32),
    }
    return [*(right | changes).values()]


def network(run: Any) -> ExportedModel:
    limits = InferenceConfig(shorter=40, longer=64, score_threshold=0.5, stuff_area=4)
    return ExportedModel(run, SCENE_CATEGORIES, limits, "net.onnx")


WRONG = {
    "a label of no class": {"labels": np.array([99], np.int64)},
    "a label below 0": {"labels": np.array([-1], np.int64)},
    "labels that are floats": {"labels": np.array([0.0], np.float32)},
    "more labels than scores": {"labels": np.zeros(2, np.int64)},
    "boxes of three numbers": {"boxes": np.zeros((1, 3), np.float32)},
    "boxes of NaN": {"boxes": np.full((1, 4), np.nan, np.float32)},
    "boxes of integers": {"boxes": np.zeros((1, 4), np.int64)},
    "a box that is none": {"boxes": np.float32(3)},
    "infinite boxes": {"boxes": np.full((1, 4), np.inf, np.float32)},
    "scores without an axis": {"scores": np.float32(0.9)},
    "scores of NaN": {"scores": np.array([np.nan], np.float32)},
    "masks without a side": {"masks": np.zeros((1, 28), np.float32)},
    "masks without a pixel": {"masks": np.zeros((1, 0, 0), np.float32)},
    "masks of NaN": {"masks": np.full((1, 28, 28), np.nan, np.float32)},
    "logits of other classes": {"logits": np.zeros((1, 3, 16, 16), np.float32)},
    "logits of two images": {"logits": np.zeros((2, len(SCENE_CATEGORIES), 16, 16), np.float32)},
    "logits of a far larger image": {"logits": np.zeros((1, len(SCENE_CATEGORIES), 16, 400), np.float32)},
    "logits of one pixel": {"logits": np.zeros((1, len(SCENE_CATEGORIES), 1, 1), np.float32)},
    "logits without a place": {"logits": np.zeros(3, np.float32)},
    "text": {"scores": np.array(["a"])},
}


@pytest.mark.parametrize("name", WRONG)
def test_outputs_that_do_not_fit_are_one_line(name):
    with pytest.raises(InputError, match=r"^net\.onnx: its [a-z ]+ do not fit the image and the classes") as caught:
        network(lambda pixels: outputs(**WRONG[name])).predict(np.zeros((40, 56, 3), np.uint8))
    assert str(caught.value).isprintable()


def test_outputs_that_fit_are_taken():
    result = network(lambda pixels: outputs()).predict(np.zeros((40, 56, 3), np.uint8))
    assert sum(segment.isthing for segment in result.segments) == 1
    padded = np.zeros((1, len(SCENE_CATEGORIES), 56, 56), np.float32)  # of a backbone that takes multiples of 224
    again = network(lambda pixels: outputs(logits=padded)).predict(np.zeros((40, 56, 3), np.uint8))
    assert np.array_equal(again.ids, result.ids)
    none = {"boxes": np.zeros((0, 4), np.float32), "scores": np.zeros(0, np.float32), "labels": np.zeros(0, np.int64)}
    empty = network(lambda pixels: outputs(**none, masks=np.zeros((0, 28, 28), np.float32)))
    assert not [s for s in empty.predict(np.zeros((40, 56, 3), np.uint8)).segments if s.isthing]


def run_or_crash(path: str, pixels: np.ndarray) -> list[np.ndarray]:
    """Stand in for a runtime that brings down its process at one image, and gives nonsense at another."""
    value = int(pixels.max())
    if value == 40:
        os.kill(os.getpid(), signal.SIGFPE)
    return outputs(**(WRONG["a label of no class"] if value == 80 else {}))


@posix
@pytest.mark.parametrize("batch", ["1", "3"])
def test_a_runtime_that_dies_costs_its_image_which_is_named(tmp_path, monkeypatch, capsys, batch):
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    workers = Workers(Budget(None, None))
    model = network(partial(workers.call, run_or_crash, "net.onnx"))
    monkeypatch.setattr(predict, "open_model", lambda *_, **__: (model, "cpu"))
    folder = images(tmp_path / "in", ["0.png", "1.png", "2.png", "3.png"])
    options = ["--runtime", "onnx", "--weights", "net.onnx", "--out", str(tmp_path / "out"), "--batch-size", batch]
    assert main(["predict", str(folder), *options]) == 1
    workers.close()
    said = capsys.readouterr().err.splitlines()
    assert said[0].startswith(f"banet: error: {folder / '1.png'}: net.onnx: brought down the process")
    assert said[1].startswith(f"banet: error: {folder / '2.png'}: net.onnx: its labels do not fit")
    assert len(said) == 2
    assert sorted(path.name for path in (tmp_path / "out").glob("?.png")) == ["0.png", "3.png"]


# ------------------------------------------------------------------------------------------ streams

TINY_PREDICT = "import sys; from banet.cli import main; sys.exit(main(sys.argv[1:]))"


def run(arguments: list[str], redirected: str = "", **environment: str) -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-c", TINY_PREDICT, *arguments]
    if redirected:
        command = ["sh", "-c", f'exec "$@" {redirected}', "sh", *command]
    return subprocess.run(command, capture_output=True, env={**os.environ, "PYTHONUTF8": "0", **environment})


@posix
def test_streams_that_are_closed_or_know_ascii_only(tmp_path):
    folder = images(tmp_path / "in", ["雪.png"])
    panoptic = tmp_path / "雪.json"
    panoptic.write_text("[]")
    for redirected in ("", ">&-", "2>&-", ">&- 2>&-"):
        done = run(["data", "check", "--images", str(folder), "--panoptic", str(folder), "--json", str(panoptic)],
                   redirected, PYTHONIOENCODING="ascii", LC_ALL="C")  # fmt: skip
        assert done.returncode in (1, 2), done.stderr
        assert b"Traceback" not in done.stdout + done.stderr
        assert done.stdout.isascii() and done.stderr.isascii()
    shown = run(["models"], PYTHONIOENCODING="ascii", LC_ALL="C")
    assert shown.returncode == 0 and b"scenes" in shown.stdout


def test_control_characters_of_class_names_do_not_reach_the_terminal(tmp_path, capsys):
    from banet import BANet

    model = tiny_model()
    names = [{**one, "name": f"{one['name']}\x1b[31m\x9b5m\u202e\x07"} for one in SCENE_CATEGORIES.to_coco()]
    model.categories = Categories.from_coco(names, "test")
    path = BANet.save_pretrained(model, tmp_path / "a.safetensors")
    folder = images(tmp_path / "in", ["a.png"])
    assert main(["predict", str(folder), "--weights", str(path), "--out", str(tmp_path / "out")]) == 0
    shown = capsys.readouterr()
    assert "\\x1b[31m\\x9b5m\\u202e\\x07" in shown.out
    assert not {"\x1b", "\x9b", "\u202e", "\x07"} & {*shown.out, *shown.err}


# ------------------------------------------------------------------------------------------ folders left behind


@posix
def test_what_a_killed_run_left_is_removed_by_the_next(tmp_path):
    code = (
        "import os, sys\nfrom banet.files.outputs import Outputs\nfrom banet.files.staging import staged\n"
        "with staged(Outputs(sys.argv[1], 'test', ['a'])) as folder:\n"
        "    (folder / 'a').write_text('half')\n    os.kill(os.getpid(), 9)\n"
    )
    for _ in range(2):
        assert subprocess.run([sys.executable, "-c", code, str(tmp_path / "out")]).returncode == -9
        assert len([*tmp_path.glob(".out.*.tmp")]) == 1  # the next one removed that of the first
    (tmp_path / ".out.notes.tmp").mkdir()  # another program's
    with staged(Outputs(tmp_path / "out", "test", ["a"])) as folder:
        (folder / "a").write_text("whole")
        with staged(Outputs(tmp_path / "out2", "test", ["a"])) as other:
            (other / "a").write_text("whole")
        assert folder.is_dir()
    assert sorted(path.name for path in tmp_path.iterdir()) == [".out.notes.tmp", "out", "out2"]
    assert (tmp_path / "out" / "a").read_text() == "whole"
    assert not (tmp_path / "out" / ".lock").exists()


@posix
def test_the_folder_of_a_run_at_work_stays(tmp_path):
    code = (
        "import sys\nfrom banet.files.outputs import Outputs\nfrom banet.files.staging import staged\n"
        "with staged(Outputs(sys.argv[1], 'test', ['a'])) as folder:\n"
        "    (folder / 'a').write_text('x')\n    print(folder, flush=True)\n    sys.stdin.read()\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "out")]
    other = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    left = Path(other.stdout.readline().strip())
    with pytest.raises(KeyError), staged(Outputs(tmp_path / "out", "test", ["a"])):
        assert left.is_dir()
        raise KeyError
    assert left.is_dir()
    other.communicate("")
    assert other.returncode == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out"]

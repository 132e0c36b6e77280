"""Files of strangers are read in worker processes only: a list of the readers from the code, and all of them run."""

from __future__ import annotations

import ast
import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

PACKAGE = Path(__file__).parents[2] / "banet"
sys.path.insert(0, str(Path(__file__).parent))

DOORS = {
    *("open_file", "ImageSource", "identify", "Image.open", "new_from_file", "av.open"),
    *("iterparse", "fromstring", "yaml.load", "yaml.safe_load", "json.load", "read_array", "np.load"),
    *("safe_open", "load_file", "torch.load", "InferenceSession", "read_model"),
}
"""Calls that open a file for a parser, or parse one."""

ELSEWHERE = {
    "data/images/source.py:_open": "of ImageSource, which is a door",
    "data/images/source.py:frames": "of ImageSource, which is a door",
    "files/archives.py:open": "of StoredFile, which isolated readers open",
    "data/images/large.py:__init__": "refuses images that are so large",
    "data/images/large.py:_open": "refuses images that are so large",
    "data/images/large.py:reduced": "refuses images that are so large",
    "engine/prediction/video.py:_open_file": "refuses videos",
    "engine/prediction/video.py:_open_camera": "cameras are the user's",
    "engine/export/export.py:_write_openvino": "reads what was just written",
    "engine/export/runtime.py:_open_onnx": "called in a worker by ExportedModel.open",
    "engine/export/runtime.py:_open_openvino": "called in a worker by ExportedModel.open",
    "engine/training/train.py:_steps_done": "training reads the user's own checkpoints",
    "engine/training/run_folder.py:is_written": "training reads the user's own recipe",
    "panoptic/tracking/tracker.py:load": "goes on with videos, which are refused",
    "engine/prediction/track.py:_load": "goes on with videos, which are refused",
    "composed/torchvision_models.py:_read_weights": "load refuses other libraries' models",
    "composed/hf.py:_read_card": "load refuses other libraries' models",
}
"""Functions with a door that are not isolated, and why they may."""


def called(node: ast.AST) -> Iterator[str]:
    """Yield what is called in a function: names, and names after a point with and without what stands before."""
    for call in (one for one in ast.walk(node) if isinstance(one, ast.Call)):
        if isinstance(call.func, ast.Name):
            yield call.func.id
        elif isinstance(call.func, ast.Attribute):
            yield call.func.attr
            if isinstance(call.func.value, ast.Name):
                yield f"{call.func.value.id}.{call.func.attr}"


def unguarded(path: Path) -> list[str]:
    """Return functions of a file that open a door and are neither isolated nor called by isolated ones alone."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    functions = [one for one in ast.walk(tree) if isinstance(one, (ast.FunctionDef, ast.AsyncFunctionDef))]
    calls = {one: {*called(one)} for one in functions}
    isolated = {
        one.name
        for one in functions
        if {"isolated", "isolated_items"} & {name.id for name in one.decorator_list if isinstance(name, ast.Name)}
    }
    inner = {sub for one in functions for sub in ast.walk(one) if sub is not one and sub in calls}
    safe = set(isolated)
    grown = True
    while grown:
        grown = False
        for one in functions:
            callers = [other for other in functions if other is not one and one.name in calls[other]]
            if one.name in safe or not one.name.startswith("_") or one in inner or not callers:
                continue
            if all(other.name in safe for other in callers):
                safe.add(one.name)
                grown = True
    doors = [one for one in functions if calls[one] & DOORS and one not in inner]
    return [one.name for one in doors if one.name not in safe]


def test_every_reader_is_isolated():
    found = {
        f"{path.relative_to(PACKAGE).as_posix()}:{name}"
        for path in sorted(PACKAGE.rglob("*.py"))
        for name in unguarded(path)
    }
    assert found == set(ELSEWHERE), "decorate it with @isolated of banet.files.worker"


def test_the_list_sees_a_reader_that_is_not_isolated(tmp_path):
    (tmp_path / "bad.py").write_text(
        "def read(path):\n    return _help(open_file(path))\n\n\n"
        "def _help(stream):\n    return Image.open(stream)\n\n\n"
        "@isolated\ndef good(path):\n    return _own(path)\n\n\ndef _own(path):\n    return torch.load(path)\n"
    )
    assert unguarded(tmp_path / "bad.py") == ["read", "_help"]


# ------------------------------------------------------------------------------------------ readers at work

READING = os.O_RDONLY | os.O_WRONLY | os.O_RDWR


class Opened:
    """Files below a folder that this process opens for reading, but for copies of whole files."""

    def __init__(self) -> None:
        self.folder = ""
        self.seen: list[str] = []
        sys.addaudithook(self.note)

    def note(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self.folder or event != "open" or not isinstance(arguments[0], (str, bytes, os.PathLike)):
            return
        path = os.path.realpath(os.fsdecode(arguments[0]))
        reads = arguments[1] is None or "r" in str(arguments[1])
        output = path.startswith(f"{self.folder}out") or ".tmp" in path.removeprefix(self.folder)
        if path.startswith(self.folder) and os.path.isfile(path) and reads and not output:
            frame: Any = sys._getframe(1)
            while frame is not None and "shutil" not in frame.f_code.co_filename:
                frame = frame.f_back
            if frame is None:
                self.seen.append(path)

    @contextlib.contextmanager
    def over(self, folder: Path) -> Iterator[list[str]]:
        self.folder, self.seen = f"{os.path.realpath(folder)}{os.sep}", []
        try:
            yield self.seen
        finally:
            self.folder = ""


OPENED = ("pictures", "structure of images", "metadata", "id and label maps")
"""Readers of which the test opens the file itself, too."""


@pytest.fixture(scope="module")
def opened() -> Opened:
    return Opened()


@pytest.fixture(scope="module")
def untrusted() -> Iterator[None]:
    from banet.files.worker import untrusted_files

    with untrusted_files():
        yield


def names() -> list[str]:
    from readers import READERS

    return [name for name in READERS if name != "exported header"]  # which the test opens itself


@pytest.mark.parametrize("name", names())
def test_readers_work_and_open_nothing_themselves(name, tmp_path, opened, untrusted, monkeypatch):
    from readers import READERS

    monkeypatch.chdir(tmp_path)
    reader = READERS[name]
    reader.make(tmp_path, None)
    pattern = next(iter(reader.files))
    path = sorted(tmp_path.glob(pattern))[0]
    with opened.over(tmp_path) as seen:
        reader.read(tmp_path, path)
    own = [file for file in seen if Path(file) != path or name not in OPENED]
    assert own == []

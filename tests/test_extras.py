"""What the package needs: extras that are missing are named in one line, and bounds of versions stand in one place.

The commands run where none of the extras can be imported. `make matrix` also runs this file in environments without
extras and with one only: there the commands run a second time, with what is really missing.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import factories
import pytest
from PIL import Image

from banet.commands import COMMANDS
from banet.data.scenes import write_coco
from banet.engine.recipe import to_yaml

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[1]
PROJECT: Mapping[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS: Mapping[str, list[str]] = PROJECT["optional-dependencies"]

NEEDS = {
    "train --config tiny.yaml --out run": ("lightning", "train"),
    "ablate --config tiny.yaml --out study": ("lightning", "train"),
    "evaluate scenes --config tiny.yaml --limit 1": ("torchmetrics", "train"),
    "export scenes --format onnx --out a.onnx": ("onnxscript", "export"),
    "export scenes --format openvino --out a.xml": ("openvino", "export"),
    "predict image.png --weights made.onnx --runtime onnx --out p1": ("onnxruntime", "export"),
    "predict image.png --weights made.xml --runtime openvino --out p2": ("openvino", "export"),
    "app --port 0": ("starlette", "app"),
    "completion bash": ("shtab", "completion"),
    "predict clip.mp4 --weights scenes --out p3": ("av", "video"),
    "predict a.heic --weights scenes --out p4": ("pillow_heif", "heic"),
    "predict large.tif --weights scenes --tile 512 --out p5": ("pyvips", "large"),
    "predict image.png --weights hf:folder --out p6": ("transformers", "hf"),
    "predict image.png --weights hf:OWNER/NAME --out p7": ("transformers", "hf"),  # before it is downloaded
    "predict image.png --weights ultralytics:yolo11n-seg.pt+hf:folder --trust --out p8": ("ultralytics", "ultralytics"),
}
"""Commands that need an extra: a package of it, as Python calls it, and the extra."""

NEEDS_NONE = (
    "version",
    "models",
    "pq --gt-json s/panoptic.json --gt-dir s/panoptic --pred-json s/panoptic.json --pred-dir s/panoptic",
    "data check --images s/images --panoptic s/panoptic --json s/panoptic.json",
    "data export coco --images s/images --panoptic s/panoptic --json s/panoptic.json --out exported",
    "predict image.png --weights scenes --gallery --out p9",
)

URL = "predict s3://bucket/a.png --weights scenes --out p10"

QUIET = {
    "fast": "Pillow decodes without it",
    "hub": "timm, which the core needs, brings it",
    "remote": "torch brings it",
    "ray": "of an example",
    "tensorboard": "tests/engine/test_train.py",
    "wandb": "tests/engine/test_train.py",
}
"""Extras of users that no command above asks for, and why."""

OF_TESTS = {"adapters", "bench", "dev", "docs", "formats", "matrix"}

PACKAGES = [
    *(
        "av",
        "faster_coco_eval",
        "kornia_rs",
        "lightning",
        "matplotlib",
        "onnx",
        "onnxruntime",
        "onnxscript",
        "openvino",
    ),
    *(
        "pandas",
        "pillow_heif",
        "pytorch_lightning",
        "pyvips",
        "ray",
        "s3fs",
        "scipy",
        "shtab",
        "starlette",
        "supervision",
    ),
    *("tensorboard", "torchmetrics", "transformers", "ultralytics", "uvicorn", "wandb"),
]
"""All that extras bring and the core does not, as Python calls it, and a package that one of them asks for."""

HOOK = f"""
import os
from importlib.machinery import PathFinder

if "BANET_TEST_ABSENT" in os.environ:
    find = PathFinder.find_spec
    PathFinder.find_spec = lambda name, *rest: None if name in {PACKAGES} else find(name, *rest)
"""
"""As `sitecustomize` it runs in the workers that a command starts, too."""

DRIVER = """
import contextlib, io, json, sys
from banet.cli import main
answers = {}
for line in json.loads(sys.argv[1]):
    said, wrong = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(wrong):
        try:
            status = main(line.split())
        except SystemExit as end:  # of --help
            status = end.code or 0
    answers[line] = [status, said.getvalue(), wrong.getvalue()]
print(json.dumps(answers))
"""

Answers = Mapping[str, tuple[int, str, str]]
"""Status, standard output and standard error by command."""


def run_all(folder: Path, lines: list[str], *, absent: bool) -> Answers:
    """Run commands in one process, in a folder with the files that they name."""
    write_coco(folder / "s", 1, 3, (96, 96))
    shutil.copy(next((folder / "s" / "images").iterdir()), folder / "image.png")
    (folder / "tiny.yaml").write_text(to_yaml(factories.TINY), encoding="utf-8")
    for name in ("made.onnx", "made.xml", "clip.mp4", "a.heic"):
        (folder / name).write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic")
    Image.new("L", (9000, 9000)).save(folder / "large.tif", compression="tiff_lzw")
    (folder / "folder").mkdir()
    config = {"model_type": "eomt", "architectures": ["EomtForUniversalSegmentation"]}
    (folder / "folder" / "config.json").write_text(json.dumps(config))
    (folder / "sitecustomize.py").write_text(HOOK)
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(map(str, (folder, ROOT))),
        "OMP_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
        **({"BANET_TEST_ABSENT": "1"} if absent else {}),
    }
    done = subprocess.run(
        [sys.executable, "-c", DRIVER, json.dumps(lines)], cwd=folder, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]
    answers: Answers = json.loads(done.stdout.splitlines()[-1])
    return answers


@pytest.fixture(scope="module")
def without_extras(tmp_path_factory: pytest.TempPathFactory) -> Answers:
    lines = [*NEEDS, *NEEDS_NONE, URL, *(f"{name} --help" for name in COMMANDS)]
    return run_all(tmp_path_factory.mktemp("core"), lines, absent=True)


@pytest.fixture(scope="module")
def as_installed(tmp_path_factory: pytest.TempPathFactory) -> Answers:
    missing = [line for line, (package, _) in NEEDS.items() if importlib.util.find_spec(package) is None]
    return run_all(tmp_path_factory.mktemp("installed"), missing, absent=False) if missing else {}


def check_refused(answer: tuple[int, str, str], extra: str) -> None:
    status, _, wrong = answer
    lines = [line for line in re.split(r"[\r\n]+", wrong) if line.strip()]
    assert status in (1, 2) and len(lines) == 1, wrong
    pattern = (
        r"banet: error: (\S+: )?this needs [\w. -]+, not installed: pip install 'banet-panoptic\[(\w+)\]' \(in .*\)"
    )
    found = re.fullmatch(pattern, lines[0])
    assert found and found[2] == extra, wrong


@pytest.mark.parametrize("line", NEEDS)
def test_a_missing_extra_is_named_in_one_line(line: str, without_extras: Answers) -> None:
    check_refused(without_extras[line], NEEDS[line][1])


@pytest.mark.parametrize("line", NEEDS)
def test_what_is_not_installed_is_named_in_one_line(line: str, as_installed: Answers) -> None:
    if line not in as_installed:
        pytest.skip(f"{NEEDS[line][0]} is installed")
    check_refused(as_installed[line], NEEDS[line][1])


@pytest.mark.parametrize("line", NEEDS_NONE)
def test_the_core_runs_without_extras(line: str, without_extras: Answers) -> None:
    assert without_extras[line][0] == 0, without_extras[line]


def test_a_kind_of_url_that_needs_a_package_names_it(without_extras: Answers) -> None:
    status, _, wrong = without_extras[URL]
    said = "banet: error: s3://bucket/a.png: needs a package that is not installed (Install s3fs to access S3)"
    assert status == 1 and wrong.startswith(said) and wrong.count("\n") == 1


@pytest.mark.parametrize("name", COMMANDS)
def test_help_needs_no_extra(name: str, without_extras: Answers) -> None:
    status, said, wrong = without_extras[f"{name} --help"]
    assert status == 0 and said.startswith("usage: ") and not wrong


def test_every_extra_is_accounted_for() -> None:
    assert {extra for _, extra in NEEDS.values()} | QUIET.keys() | OF_TESTS == EXTRAS.keys()
    assert {package for package, _ in NEEDS.values()} <= set(PACKAGES)


# ------------------------------------------------------------------------------------------------ bounds of versions


def bounds_of(extra: str) -> dict[str, set[str]]:
    """Return the lower bounds of an extra, or of the core for an empty name, by package."""
    found: dict[str, set[str]] = {}
    for line in EXTRAS[extra] if extra else PROJECT["dependencies"]:
        if not line.startswith("banet-panoptic"):
            name, bound = re.match(r"([\w.-]+)(?:\[[^]]*\])?(?:>=([\w.]+))?", line).groups()  # type: ignore[union-attr]
            found.setdefault(name.lower().replace("_", "-"), set()).add(bound or "")
    return found


def test_the_lowest_promised_versions_are_those_that_are_tried() -> None:
    bounds: dict[str, set[str]] = {}
    for extra in ["", *(EXTRAS.keys() - OF_TESTS), "adapters"]:
        for name, found in bounds_of(extra).items():
            bounds.setdefault(name, set()).update(found)
    assert {name: each for name, each in bounds.items() if len(each) > 1 or "" in each} == {}, "one bound for each"
    lines = (ROOT / "constraints-lowest.txt").read_text(encoding="utf-8").splitlines()
    assert lines[1:] == sorted(f"{name}=={bound}" for name, (bound,) in bounds.items())


def test_the_environments_of_make_matrix_know_every_extra() -> None:
    listed = set(re.findall(r'^    "([\w-]+)": \[', (ROOT / "noxfile.py").read_text(encoding="utf-8"), re.M))
    assert listed == EXTRAS.keys() - OF_TESTS

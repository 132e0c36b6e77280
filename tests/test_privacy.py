"""No command opens a connection that the user did not ask for, whatever optional library it imports."""

from __future__ import annotations

import importlib.util
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
sys.path.append(str(ROOT / "tests" / "hostile"))

HOOK = """
import os, sys

def note(event, arguments):
    if event in ("socket.getaddrinfo", "socket.gethostbyname", "socket.sendto"):
        what = arguments[-1] if event == "socket.sendto" else arguments[0]
    elif event == "socket.connect" and isinstance(arguments[1], tuple):
        what = arguments[1]
    elif event == "subprocess.Popen" and os.path.basename(str(arguments[0])) in ("curl", "wget", "ping"):
        what = arguments[1]
    else:
        return
    with open(os.environ["CONNECTIONS"], "a") as file:
        file.write(f"{event} {what}\\n")
    raise OSError(f"no connections here: {event} {what}")

sys.addaudithook(note)
"""
"""As `sitecustomize` it runs in each Python process that a command starts, too."""


def run(tmp_path: Path, code: str, **environment: str) -> str:
    """Run code, in which `banet(...)` is a command that must end well, in an empty home; return its connections."""
    (tmp_path / "sitecustomize.py").write_text(HOOK)
    log, home = tmp_path / "connections", tmp_path / "home"
    log.touch()
    home.mkdir()
    head = (
        "import sys, warnings\nwarnings.simplefilter('ignore')\nfrom banet.cli import main\n"
        "def banet(*words):\n    status = main([str(word) for word in words])\n    assert not status, words\n"
    )
    unset = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "WANDB_MODE", "YOLO_OFFLINE", "DO_NOT_TRACK")
    kept = {name: value for name, value in os.environ.items() if name not in unset}
    given = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    paths = os.pathsep.join(
        map(str, (tmp_path, ROOT, ROOT / "tests", ROOT / "tests" / "hostile", *filter(None, given)))
    )
    done = subprocess.run(
        [sys.executable, "-c", head + code],
        cwd=tmp_path,
        env={
            **kept,
            "PYTHONPATH": paths,
            "CONNECTIONS": str(log),
            "HOME": str(home),
            "OMP_NUM_THREADS": "1",
            **environment,
        },
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return log.read_text()


DATA = """
from pathlib import Path
import numpy as np
from PIL import Image
from readers import READERS, tiny_model
root = Path.cwd()
for name, reader in READERS.items():
    if name in ("data set", "convert coco", "convert labelme", "convert cvat"):
        folder = root / name.replace(" ", "_")
        folder.mkdir()
        reader.make(folder, None)
weights = tiny_model().save_pretrained(root / "a.safetensors")
set_ = root / "data_set"
split = ("--images", set_ / "images", "--panoptic", set_ / "panoptic", "--json", set_ / "panoptic.json")
"""


def test_commands_without_extras(tmp_path):
    code = DATA + (
        "banet('models')\nbanet('version')\nbanet('completion', 'bash')\n"
        "banet('predict', set_ / 'images', '--weights', weights, '--gallery', '--out', 'p')\n"
        "banet('predict', set_ / 'images', '--weights', 'scenes', '--untrusted', '--out', 'q')\n"
        "banet('evaluate', 'scenes', '--config', 'scenes_small', '--limit', '1', '--out', 'e')\n"
        "banet('data', 'check', *split)\nbanet('data', 'export', 'coco', *split, '--out', 'x')\n"
        "banet('data', 'convert', 'labelme', '--annotations', root / 'convert_labelme', '--out', 'l')\n"
        "banet('data', 'scenes', '--out', 's', '--count', '1')\n"
        "banet('pq', '--gt-json', set_ / 'panoptic.json', '--gt-dir', set_ / 'panoptic',"
        " '--pred-json', set_ / 'panoptic.json', '--pred-dir', set_ / 'panoptic')\n"
    )
    assert run(tmp_path, code) == ""


LIBRARIES = {
    "lightning": "import banet.engine.training.task, banet.engine.training.trainer",
    "starlette": "import banet.app",
    "onnxruntime": "import onnxruntime, banet.engine.export.export",
    "openvino": "from banet.engine.export.runtime import import_openvino; import_openvino().Core()",
    "transformers": "import transformers, banet.composed.hf, banet.composed.panoptic",
    "ultralytics": "detect()",
    "huggingface_hub": "import huggingface_hub, banet.checkpoint.hub, banet.composed.hub",
    "timm": "import timm, banet.modeling.backbones.timm_bodies",
    "wandb": "import wandb",
    "pyvips": "import pyvips, banet.data.images.large",
    "av": "from banet.engine.prediction.video import load_av; load_av()",
    "torchmetrics": "import banet.engine.evaluation.metrics",
}
DETECT = """
def detect():
    from pathlib import Path
    from banet.composed.names import parse_names
    from banet.composed.ultralytics_models import UltralyticsDetector
    Path("x.pt").write_bytes(b"no weights")
    try:
        UltralyticsDetector(parse_names("ultralytics:x.pt")[0], trust=True)
    except ValueError:
        pass
"""


def test_optional_libraries_are_imported_in_silence(tmp_path):
    found = {name: code for name, code in LIBRARIES.items() if importlib.util.find_spec(name) is not None}
    code = DETECT + "".join(f"print({name!r}, flush=True)\n{code}\n" for name, code in found.items())
    assert run(tmp_path, code) == ""
    assert not [path for path in (tmp_path / "home").rglob("*") if "telemetry" in path.name or "intel" in path.name]


@pytest.mark.slow
def test_training_export_and_studies(tmp_path):
    pytest.importorskip("lightning")
    pytest.importorskip("onnxruntime")
    pytest.importorskip("openvino")
    code = DATA + (
        "small = ('--data.shorter', '64', '--data.longer', '96')\n"
        "banet('train', '--config', 'scenes_small', '--out', 't', '--train.iterations', '2',"
        " '--train.val_every', '0', *small)\n"
        "banet('export', weights, '--format', 'onnx', '--out', 'a.onnx')\n"
        "banet('export', weights, '--format', 'openvino', '--out', 'a.xml')\n"
        "banet('predict', '--runtime', 'onnx', 'a.onnx', set_ / 'images', '--out', 'po')\n"
        "banet('predict', '--runtime', 'openvino', 'a.xml', set_ / 'images', '--out', 'pv')\n"
    )
    assert run(tmp_path, code) == ""


EVERY = """
from test_overwriting import READERS, TINY, WRITERS, line
from readers import tiny_model
from banet.engine.recipe import to_yaml
from pathlib import Path
given = Path("given")
given.mkdir()
READERS["fuse"].make(given, None)
(given / "tiny.yaml").write_text(to_yaml(TINY))
tiny_model().save_pretrained(given / "tiny.safetensors")
for name in WRITERS:
    out = Path("out", name.replace(" ", "_"))
    out.mkdir(parents=True)
    status = main(line(name, given, out, "tiny.safetensors"))
    without_data = name.startswith("data convert") and name not in ("data convert coco", "data convert maps")
    assert status == 0 or without_data, name
    print(name, status, flush=True)
"""
"""Every command that writes; formats of which there is no data end when they miss it."""

APP = """
import subprocess, sys
server = subprocess.Popen(
    [sys.executable, "-m", "banet", "app", "--port", "0", "--weights", "scenes"], stdout=subprocess.PIPE, text=True
)
address = next(word for word in server.stdout.readline().split() if word.startswith("http"))
ask = "import sys, urllib.request as u; print(u.urlopen(sys.argv[1] + '/api/samples/0').status)"
asked = subprocess.run([sys.executable, "-I", "-S", "-c", ask, address], capture_output=True, text=True)
server.kill()
server.wait()
assert asked.stdout == "200\\n", asked.stderr
"""
"""The page, asked by a program without the hook."""


def test_every_command_is_tried():
    from test_overwriting import SILENT, WRITERS

    from banet.commands import COMMANDS

    tried = WRITERS.keys() | {"app", "completion"}
    assert set(COMMANDS) - tried == {"push"}  # which is asked to send something
    assert {"app", "completion"} >= SILENT


@pytest.mark.slow
@pytest.mark.parametrize("code", [EVERY, APP], ids=["commands", "page"])
def test_commands_with_extras(tmp_path, code):
    for name in ("lightning", "openvino", "starlette"):
        pytest.importorskip(name)
    assert run(tmp_path, code) == ""


def test_the_test_sees_a_connection(tmp_path):
    ask = "urllib.request.urlopen('http://192.0.2.1/', timeout=1)"
    code = f"import urllib.request\ntry:\n    {ask}\nexcept OSError:\n    pass\n"
    assert "192.0.2.1" in run(tmp_path, code)


@pytest.mark.slow
def test_a_training_that_logs_to_wandb_offline(tmp_path):
    """wandb's own process is no Python: whatever it sends would come to this proxy."""
    pytest.importorskip("lightning")
    pytest.importorskip("wandb")
    code = (
        "banet('train', '--config', 'scenes_small', '--out', 't', '--train.iterations', '2', '--train.val_every', '0',"
        " '--train.loggers', '[csv, wandb]', '--data.shorter', '64', '--data.longer', '96')\n"
    )
    with socket.create_server(("127.0.0.1", 0)) as proxy:
        url = f"http://127.0.0.1:{proxy.getsockname()[1]}"
        assert run(tmp_path, code, WANDB_MODE="offline", HTTP_PROXY=url, HTTPS_PROXY=url, ALL_PROXY=url) == ""
        proxy.setblocking(False)
        with pytest.raises(BlockingIOError):
            proxy.accept()
    assert list(tmp_path.glob("t/wandb/offline-run-*"))

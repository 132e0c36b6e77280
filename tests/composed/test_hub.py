"""Repositories from a server that speaks the hub's protocol: whole, gated, missing, broken in mid-file, offline."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("transformers")

import saved
from hub_server import COMMIT, Hub, serve
from PIL import Image

LOAD = """
import sys, banet
try:
    model = banet.load(sys.argv[1], **eval(sys.argv[2]))
    print(type(model).__name__, model.domain)
except banet.InputError as error:
    print("InputError:", error)
"""


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = saved.save_mask2former(tmp_path_factory.mktemp("repository"))
    (folder / "README.md").write_text("---\nlicense: apache-2.0\ndatasets:\n- coco\n---\n# A model\n")
    (folder / "pytorch_model.bin").write_bytes(b"never read where there are safetensors")
    return folder


@pytest.fixture
def hub(weights: Path) -> Iterator[Hub]:
    with serve(Hub({"ours/tiny": weights, "ours/gated": weights}, gated={"ours/gated"})) as running:
        yield running


def load(hub: Hub, home: Path, name: str, options: str = "{}", **variables: str) -> str:
    """What loading says, in a process of its own, as huggingface_hub reads its variables once."""
    environment = {
        **os.environ,
        "HF_ENDPOINT": hub.url,
        "HF_HOME": str(home),
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DOWNLOAD_TIMEOUT": "2",
        "HF_HUB_ETAG_TIMEOUT": "2",
        **variables,
    }
    command = [sys.executable, "-W", "ignore", "-c", LOAD, name, options]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def halves(home: Path) -> list[str]:
    return [path.name for path in home.rglob("*") if path.name.endswith((".incomplete", ".part"))]


def test_downloaded_once_with_size_and_licence_shown(hub: Hub, tmp_path: Path) -> None:
    first = load(hub, tmp_path, "hf:ours/tiny")
    assert "downloading ours/tiny, once: 0 MB, licence apache-2.0" in first or " MB, licence apache-2.0" in first
    assert first.splitlines()[-1].startswith("PanopticModel")
    files = {path.rpartition("/")[2] for method, path in hub.requests if "/resolve/" in path and method == "GET"}
    assert "pytorch_model.bin" not in files and "model.safetensors" in files
    hub.requests.clear()
    assert load(hub, tmp_path, "hf:ours/tiny").splitlines() == first.splitlines()[-1:]
    assert hub.requests == []  # what is there is not asked for again
    assert load(hub, tmp_path, "hf:ours/tiny", HF_HUB_OFFLINE="1").startswith("PanopticModel")
    assert load(hub, tmp_path, "hf:ours/tiny", "{'offline': True}").startswith("PanopticModel")
    assert halves(tmp_path) == []


def test_a_revision_is_read(hub: Hub, tmp_path: Path) -> None:
    assert "PanopticModel" in load(hub, tmp_path, "hf:ours/tiny@v1")
    assert any(COMMIT in path for _, path in hub.requests)
    said = load(hub, tmp_path, "hf:ours/tiny", "{'revision': 'v9'}")
    assert said == "InputError: ours/tiny: has no revision v9; choose another, or none"


def test_what_needs_consent_or_is_missing(hub: Hub, tmp_path: Path) -> None:
    said = load(hub, tmp_path, "hf:ours/gated")
    assert said.startswith("InputError: ours/gated: asks for consent to its licence; accept it at ")
    assert "hf auth login" in said and "\n" not in said
    assert "PanopticModel" in load(hub, tmp_path / "b", "hf:ours/gated", HF_TOKEN="hf_right")
    assert "PanopticModel" in load(hub, tmp_path / "c", "hf:ours/gated", "{'token': 'hf_right'}")
    said = load(hub, tmp_path, "hf:ours/nothing")
    assert said.startswith("InputError: ours/nothing: no such folder, nor a repository") and "\n" not in said
    assert halves(tmp_path) == []


def test_a_download_that_breaks_leaves_nothing_half_there(hub: Hub, tmp_path: Path) -> None:
    hub.breaks["model.safetensors"] = 5000
    said = load(hub, tmp_path, "hf:ours/tiny")
    assert said.splitlines()[-1].startswith("InputError: ours/tiny: could not be downloaded (")
    assert "copy FOLDER here and give hf:FOLDER" in said
    assert halves(tmp_path) == []
    offline = load(hub, tmp_path, "hf:ours/tiny", HF_HUB_OFFLINE="1")
    assert offline.startswith("InputError: ours/tiny: could not be downloaded (offline, and not in the cache)")
    hub.breaks.clear()
    assert load(hub, tmp_path, "hf:ours/tiny").splitlines()[-1].startswith("PanopticModel")


def test_without_internet_one_line_says_what_to_copy_where(hub: Hub, tmp_path: Path) -> None:
    said = load(hub, tmp_path, "hf:ours/tiny", HF_ENDPOINT="http://127.0.0.1:9")
    assert said.startswith("InputError: ours/tiny: could not be downloaded (") and "\n" not in said
    assert "`hf download ours/tiny --local-dir FOLDER`, copy FOLDER here and give hf:FOLDER" in said


def test_the_command_line_says_so_too(hub: Hub, tmp_path: Path) -> None:
    Image.new("RGB", (40, 30)).save(tmp_path / "a.png")
    command = [sys.executable, "-m", "banet", "predict", str(tmp_path / "a.png"), "--weights", "coco"]
    environment = {**os.environ, "HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "home")}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=tmp_path, timeout=300)
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1
    assert done.stderr.startswith("banet: error: tue-mps/coco_panoptic_eomt_base_640_2x: no such folder")
    assert not (tmp_path / "predictions").exists()

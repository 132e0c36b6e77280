"""The garbage collector is off inside the block only, and what is not used is not imported."""

from __future__ import annotations

import gc
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from banet.engine.garbage import collector_off


def test_the_collector_runs_again_after_the_block_also_after_an_error() -> None:
    with collector_off():
        with collector_off():
            assert not gc.isenabled()
        assert not gc.isenabled()
    assert gc.isenabled()
    with pytest.raises(ValueError), collector_off():
        raise ValueError
    assert gc.isenabled()


def test_predicting_one_small_png_imports_no_more_than_it_uses(tmp_path: Path) -> None:
    Image.new("RGB", (64, 48)).save(tmp_path / "a.png")
    code = (
        "import gc, sys; from banet.cli import main\n"
        "assert main(['predict', 'a.png', '--weights', 'scenes', '--device', 'cpu', '--out', 'out']) == 0\n"
        "assert gc.isenabled()\n"
        "print('loaded:', *sorted(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    loaded = set(done.stdout.split("loaded: ")[1].split())
    assert "torch" in loaded
    unused = {"banet.engine.report.gallery", "PIL.PdfImagePlugin", "PIL.WebPImagePlugin"}
    libraries = {"timm", "lightning", "matplotlib", "pandas", "onnx", "onnxscript", "transformers", "av", "scipy"}
    assert loaded.isdisjoint(unused | libraries)

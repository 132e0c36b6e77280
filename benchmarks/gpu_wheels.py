"""Collect what a usual host of PyTorch lacks: ``python benchmarks/gpu_wheels.py FOLDER``.

The wheels are for CPython 3.12 on x86-64 Linux, in the versions of this environment, without what they need in turn:
that must be here as well, or on the host. `make gpu` installs them from the folder; nothing comes from a network there.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

PACKAGES = (
    "jsonargparse",
    "docstring_parser",
    "typeshed_client",
    "faster-coco-eval",
    "lightning",
    "lightning-utilities",
    "torchmetrics",
    "safetensors",
    "timm",
    "hypothesis",
    "sortedcontainers",
    "pytest",
    "pluggy",
    "iniconfig",
    "starlette",
    "uvicorn",
    "h11",
)
"""PyYAML, NumPy, Pillow, tqdm, matplotlib and what torch itself needs are on such hosts."""
PLATFORMS = ("manylinux_2_28_x86_64", "manylinux_2_27_x86_64", "manylinux_2_17_x86_64", "manylinux2014_x86_64")
MOST = 30 * 2**20


def collect(folder: Path, python: str, there: Sequence[str]) -> int:
    """Download the wheels; return their size in bytes.

    Raises:
        SystemExit: they are larger than 30 MB.
        CalledProcessError: one cannot be had.
    """
    wanted = [f"{name}=={version(name)}" for name in PACKAGES if name not in there]
    platforms = [f"--platform={name}" for name in PLATFORMS]
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
    command += [f"--python-version={python}", "--implementation=cp", *platforms, "--dest", str(folder), *wanted]
    for old in folder.glob("*.whl"):  # two versions of one package stop the installation
        old.unlink()
    subprocess.run(command, check=True)
    size = sum(wheel.stat().st_size for wheel in folder.glob("*.whl"))
    if size > MOST:
        raise SystemExit(f"{folder}: {size / 2**20:.1f} MB, more than 30")
    return size


def main() -> None:
    command_line = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    command_line.add_argument("folder", type=Path)
    command_line.add_argument("--python", default="3.12", help="of the host")
    command_line.add_argument("--leave-out", nargs="*", default=[], help="packages that the host has")
    options = command_line.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    size = collect(options.folder, options.python, options.leave_out)
    print(f"{len(list(options.folder.glob('*.whl')))} wheels, {size / 2**20:.1f} MB in {options.folder}")


if __name__ == "__main__":
    main()

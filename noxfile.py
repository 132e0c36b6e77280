"""Environments of `make matrix`: each promised Python, the lowest promised versions, no extra, each extra alone.

    nox                                     all of them
    nox -s lowest core                      only these
    nox -s newest-3.12 -- -x tests/ops      arguments of pytest in place of the whole suite

`SUITE=quick` runs the tests of `QUICK` in place of the whole suite. A Python that is not installed is skipped, and nox
says so. Each environment is deleted after its session, as it takes up to 8 GB, unless nox is told to reuse it (`-r`).
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager

import nox

nox.needs_version = ">=2025.5"
nox.options.default_venv_backend = "uv|venv"
nox.options.download_python = "never"
nox.options.error_on_missing_interpreters = False

PYTHONS = nox.project.python_versions(nox.project.load_toml("pyproject.toml"))
"""Those that the classifiers promise."""
AHEAD = ["3.14"]
"""Those that are tried before they are promised."""

TOOLS = ["pytest>=8.2,<10", "hypothesis>=6.100,<7"]
"""What any test needs besides the package."""
QUICK = ["tests/test_extras.py", "tests/files", "tests/data", "tests/panoptic", "tests/ops", "tests/modeling"]
"""Where versions of numpy, Pillow and torch are most likely to differ: a third of the suite's time."""

EXTRAS = {
    "train": ["tests/engine/test_train.py", "tests/engine/test_metrics.py"],
    "hub": ["tests/modeling/test_weights.py"],
    "export": ["tests/engine/test_export.py"],
    "app": ["tests/app"],
    "completion": ["tests/commands/test_completion.py"],
    "video": ["tests/engine/test_video.py", "tests/engine/test_video_tracking.py"],
    "remote": [
        "tests/engine/test_processes.py",
        "tests/engine/test_remote_outputs.py",
        "tests/engine/test_remote_inputs.py",
    ],
    "ray": ["tests/test_examples.py"],
    "heic": ["tests/data/test_image_formats.py"],
    "large": ["tests/data/test_large.py"],
    "tensorboard": [],
    "wandb": [],
    "fast": ["tests/panoptic/test_coco_format.py"],
    "hf": ["tests/composed/test_families.py", "tests/composed/test_panoptic.py"],
    "ultralytics": ["tests/panoptic/test_adapters.py"],
}
"""Extras of users, and the tests of what each one brings."""


@contextmanager
def _installed(session: nox.Session, *arguments: str) -> Iterator[None]:
    """Install what a session needs, and delete its environment in the end."""
    try:
        session.install(*arguments)
        yield
    finally:
        if not session.virtualenv.reuse_existing:
            shutil.rmtree(session.virtualenv.location, ignore_errors=True)


def _test(session: nox.Session, *tests: str) -> None:
    """Run the tests that nox was told of, else those given: none stands for the whole suite."""
    session.run("python", "-m", "pytest", *(session.posargs or tests))


def _suite() -> list[str]:
    return QUICK if os.environ.get("SUITE") == "quick" else []


@nox.session(python=[*PYTHONS, *AHEAD])
def newest(session: nox.Session) -> None:
    """Run the suite with the newest versions of everything."""
    with _installed(session, "--editable", ".[dev,adapters,tensorboard]"):
        _test(session, *_suite())


@nox.session(python=PYTHONS[0])
def lowest(session: nox.Session) -> None:
    """Run the suite with the oldest Python and the lowest versions of what users install."""
    extras = ",".join(["dev", "adapters", *EXTRAS])
    with _installed(session, "--constraint", "constraints-lowest.txt", "--editable", f".[{extras}]"):
        _test(session, *_suite())


@nox.session(python=PYTHONS[0])
def core(session: nox.Session) -> None:
    """Run what needs no extra, and see that everything else says what it needs."""
    with _installed(session, *TOOLS, "--editable", "."):
        _test(session, *QUICK)


@nox.session(python=PYTHONS[-1])
@nox.parametrize("name", list(EXTRAS), ids=list(EXTRAS))
def extra(session: nox.Session, name: str) -> None:
    """Run the tests of one extra where no other is installed, and see that what needs another one says so."""
    with _installed(session, *TOOLS, "--editable", f".[{name}]"):
        _test(session, "tests/test_extras.py::test_what_is_not_installed_is_named_in_one_line", *EXTRAS[name])


@nox.session(python=[PYTHONS[0], PYTHONS[-1]], venv_backend="venv")
def plain(session: nox.Session) -> None:
    """Install with pip as a user does, without make, and segment the samples outside of the checkout."""
    with _installed(session, "."):
        session.chdir(session.create_tmp())
        session.run("banet", "demo", "--out", "demo", "--scenes", "1")

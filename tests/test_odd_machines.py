"""Old and odd machines, as far as one can imitate them: processors without AVX-512, one core, 4 GB, no home, Windows.

Each command runs in a process that has been told so, and its results are compared with those of this machine.
"""

from __future__ import annotations

import ast
import errno
import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from factories import TINY
from PIL import Image

from banet.cli import main
from banet.data.scenes import write_coco
from banet.engine.recipe import to_yaml
from banet.errors import InputError
from banet.files import worker
from banet.panoptic.coco.png import read_ids

PACKAGE = Path(__file__).parents[1] / "banet"

DRIVER = """
import json, sys
from banet.cli import main
from banet.files import worker
worker._SELECTS_PIPES = sys.argv[1] == "True"
sys.exit(max(map(main, json.loads(sys.argv[2]))))
"""


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small data set, which serves as results too."""
    folder = tmp_path_factory.mktemp("odd")
    write_coco(folder, 2, 3, (96, 96))
    return folder


def run(
    commands: list[list[str]], folder: Path, hook: str, variables: Mapping[str, str] = {}, *, selects: bool = True
) -> None:
    """Run commands in one process, which must end well, after code that also runs first in each that it starts."""
    (folder / "sitecustomize.py").write_text(hook, encoding="utf-8")
    taken = ("XDG_CACHE_HOME", "XDG_CONFIG_HOME", "TORCH_HOME", "HF_HOME", "MPLCONFIGDIR", "YOLO_CONFIG_DIR")
    kept = {name: value for name, value in os.environ.items() if name not in taken}
    path = os.pathsep.join([str(folder), str(PACKAGE.parent)])
    done = subprocess.run(
        [sys.executable, "-c", DRIVER, str(selects), json.dumps(commands)],
        cwd=folder,
        env={**kept, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", **variables},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]


def predict(data: Path, out: Path, *options: str) -> list[str]:
    """Return a command that segments the data with bundled weights."""
    return ["predict", str(data / "images"), "--weights", "scenes", "--device", "cpu", "--out", str(out), *options]


def results(out: Path) -> dict[str, Any]:
    """Return the id maps by name, and the classes and scores of their segments."""
    content = json.loads((out / "panoptic.json").read_text(encoding="utf-8"))
    listed = {each["file_name"]: each["segments_info"] for each in content["annotations"]}
    maps = {path.stem: read_ids(path) for path in sorted(out.glob("*.png"))}
    segments = [(each["id"], each["category_id"], each.get("score")) for one in listed.values() for each in one]
    return {"maps": maps, "segments": segments}


# -------------------------------------------------------------------------------------------------- old machines

OLD = """
import os, resource
if hasattr(os, "sched_setaffinity"):
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:1])
resource.setrlimit(resource.RLIMIT_DATA, (4 << 30, 4 << 30))
"""
"""One core, and 4 GB that a process can write to. Addresses are not limited, as torch reserves many that it never
uses."""


@pytest.fixture(scope="module")
def expected(data: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What this machine computes."""
    out = tmp_path_factory.mktemp("expected") / "out"
    assert main(predict(data, out)) == 0
    return results(out)


@pytest.mark.skipif(sys.platform != "linux", reason="these limits are Linux's")
@pytest.mark.parametrize(("torch_takes", "onednn_takes"), [("avx2", "AVX2"), ("default", "SSE41")])
def test_old_processors_one_core_4_gb_and_no_home(
    data: Path, tmp_path: Path, expected: dict[str, Any], torch_takes: str, onednn_takes: str
) -> None:
    (tmp_path / "file").touch()
    home = str(tmp_path / "file" / "home")  # cannot be made, not even by root
    variables = {"HOME": home, "ATEN_CPU_CAPABILITY": torch_takes, "ONEDNN_MAX_CPU_ISA": onednn_takes}
    commands = [predict(data, tmp_path / "old")]
    if torch_takes == "avx2" and importlib.util.find_spec("lightning"):  # and matplotlib, whose cache is in the home
        (tmp_path / "tiny.yaml").write_text(to_yaml(TINY), encoding="utf-8")
        commands.append(["train", "--config", str(tmp_path / "tiny.yaml"), "--out", str(tmp_path / "run")])
    run(commands, tmp_path, OLD, variables)
    old = results(tmp_path / "old")
    assert expected["maps"].keys() == old["maps"].keys() and len(expected["segments"]) == len(old["segments"]) > 2
    for (one, kind, score), (other, same, close) in zip(expected["segments"], old["segments"], strict=True):
        # Rounding may decide which of two boxes that are almost one is kept.
        assert (one, kind) == (other, same) and (score is None or abs(score - close) < 0.02)
    for name, ids in expected["maps"].items():
        assert np.mean(ids != old["maps"][name]) < 5e-3


# ------------------------------------------------------------------------------------------------------- Windows

WINDOWS = """
import asyncio  # which asks for sysconf where sockets have sendmsg, as they have here
import builtins, os, select, shutil, signal, sys
for name in ("fcntl", "grp", "posix_ipc", "pwd", "resource", "syslog", "termios"):
    sys.modules[name] = None
for name in (
    "fchmod", "fork", "forkpty", "geteuid", "getuid", "getloadavg", "killpg", "memfd_create", "mkfifo", "O_DIRECTORY",
    "O_NOFOLLOW", "O_NONBLOCK", "pread", "pwrite", "sched_getaffinity", "sched_setaffinity", "setsid", "statvfs",
    "sysconf",
):
    if hasattr(os, name):
        delattr(os, name)
for name in ("SIGXCPU", "SIGHUP", "SIGUSR1", "SIGALRM", "alarm", "setitimer", "pthread_sigmask"):
    delattr(signal, name)
shutil._use_fd_functions = False

def refused(*arguments, **options):
    raise OSError(1314, "A required privilege is not held by the client")

os.symlink = refused
selected = select.select
def select_sockets(*lists):
    if any(not hasattr(each, "getsockname") for some in lists[:3] for each in some):
        raise OSError(10038, "An operation was attempted on something that is not a socket")
    return selected(*lists)
select.select = select_sockets
opened = builtins.open
def open_files(file, *arguments, **options):
    if str(file).startswith(("/proc/", "/dev/shm")):
        raise FileNotFoundError(2, "No such file or directory", file)
    return opened(file, *arguments, **options)
builtins.open = open_files
"""
"""What Windows has not: modules, functions, signals, links without privileges, waiting for pipes, /proc."""


@pytest.mark.skipif(sys.platform == "win32", reason="is Windows")
def test_what_only_posix_has_is_not_needed(data: Path, tmp_path: Path) -> None:
    masks = detections(data, tmp_path)

    def commands(out: Path) -> list[list[str]]:
        split = ["--images", f"{data}/images", "--panoptic", f"{data}/panoptic", "--json", f"{data}/panoptic.json"]
        truth = ["--gt-json", f"{data}/panoptic.json", "--gt-dir", f"{data}/panoptic"]
        return [
            predict(data, out / "plain"),
            predict(data, out / "untrusted", "--untrusted"),
            ["fuse", *masks, "--out", str(out / "fused")],
            ["fuse", *masks, "--out", str(out / "fused untrusted"), "--untrusted"],
            ["pq", *truth, "--pred-json", str(out / "plain/panoptic.json"), "--pred-dir", str(out / "plain")],
            ["data", "export", "coco", *split, "--out", str(out / "exported")],
        ]

    assert max(map(main, commands(tmp_path / "here"))) == 0
    run(commands(tmp_path / "there"), tmp_path, WINDOWS, selects=False)
    here, there = (
        {path.relative_to(tmp_path / root).as_posix(): path.read_bytes() for path in (tmp_path / root).rglob("*.png")}
        for root in ("here", "there")
    )
    assert here == there and len(here) >= 8


def detections(data: Path, folder: Path) -> list[str]:
    """Return the options of `banet fuse` for two triangles on the first stuff of each image."""
    content = json.loads((data / "panoptic.json").read_text(encoding="utf-8"))
    thing, stuff = (
        next(each["id"] for each in content["categories"] if each["isthing"] == is_thing) for is_thing in (1, 0)
    )
    (folder / "semantic").mkdir()
    found = []
    for each in content["images"]:
        labels = np.full((each["height"], each["width"]), stuff, np.uint8)
        Image.fromarray(labels).save(folder / "semantic" / Path(each["file_name"]).with_suffix(".png").name)
        for score, corner in ((0.9, 60), (0.8, 50)):
            outline = [[5, 5, corner, 5, corner, corner]]
            found.append({"image_id": each["id"], "category_id": thing, "score": score, "segmentation": outline})
    (folder / "results.json").write_text(json.dumps(found), encoding="utf-8")
    files = {"instances": folder / "results.json", "semantic": folder / "semantic", "images": data / "images"}
    files["json"] = data / "panoptic.json"
    return [word for name, path in files.items() for word in (f"--{name}", str(path))]


def test_a_run_is_locked_by_the_lock_of_windows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpointing = pytest.importorskip("banet.engine.training.checkpointing")
    held: set[int] = set()

    def locking(descriptor: int, mode: int, count: int) -> None:
        assert (mode, count) == (2, 1) and os.lseek(descriptor, 0, os.SEEK_CUR) == 0
        if (number := os.fstat(descriptor).st_ino) in held:
            raise OSError(errno.EDEADLK, "Resource deadlock avoided")  # 36 there
        held.add(number)

    monkeypatch.setitem(sys.modules, "fcntl", None)
    monkeypatch.setitem(sys.modules, "msvcrt", SimpleNamespace(locking=locking, LK_NBLCK=2))
    with (
        checkpointing.locked(tmp_path),
        pytest.raises(InputError, match="another run is writing there"),
        checkpointing.locked(tmp_path),
    ):
        pytest.fail("both run")


@pytest.mark.parametrize("status", [1, 0xC0000005])
def test_a_worker_that_dies_without_signals(status: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker, "signal", SimpleNamespace(Signals=[]))
    one = worker._Worker()
    one._process = SimpleNamespace(wait=lambda limit: status, poll=lambda: status)  # type: ignore[assignment]
    one._where = "a.png"
    with pytest.raises(InputError, match=rf"^a\.png: brought down the process .*\(ended with {status}\)"):
        one._explain()


def defined(body: Iterable[ast.stmt], platform: str) -> Iterator[str]:
    """Yield the names that a stub of the standard library defines for a platform, with Python 3.10."""
    system = SimpleNamespace(platform=platform, version_info=(3, 10))
    for each in body:
        if isinstance(each, ast.If):
            holds = eval(compile(ast.Expression(each.test), "stub", "eval"), {"sys": system})
            yield from defined(each.body if holds else each.orelse, platform)
        elif isinstance(each, (ast.ImportFrom, ast.Import)):
            yield from ((name.asname or name.name) for name in each.names)
        elif isinstance(each, (ast.FunctionDef, ast.ClassDef)):
            yield each.name
            if isinstance(each, ast.ClassDef) and any(
                isinstance(base, ast.Name) and base.id == "IntEnum" for base in each.bases
            ):
                yield from defined(each.body, platform)
        elif isinstance(each, (ast.Assign, ast.AnnAssign)):
            targets = each.targets if isinstance(each, ast.Assign) else [each.target]
            yield from (target.id for target in targets if isinstance(target, ast.Name))


def missing_on_windows(module: str, stubs: Path) -> set[str]:
    """Return the names of a module of the standard library that only other systems have."""
    path = stubs.joinpath(*module.split("."))
    file = path / "__init__.pyi" if path.is_dir() else path.with_suffix(".pyi")
    if not file.exists():
        return set()
    tree = ast.parse(file.read_text(encoding="utf-8"))
    return {*defined(tree.body, "linux"), *defined(tree.body, "darwin")} - {*defined(tree.body, "win32")}


def guarded(tree: ast.Module) -> set[ast.AST]:
    """Return all nodes under a `try` that catches what a missing name or module raises."""
    caught: set[ast.AST] = set()
    for each in (node for node in ast.walk(tree) if isinstance(node, ast.Try)):
        kinds = {
            name.id for one in each.handlers if one.type for name in ast.walk(one.type) if isinstance(name, ast.Name)
        }
        if kinds & {"AttributeError", "ImportError"}:
            caught.update(node for body in (each.body, each.orelse) for line in body for node in ast.walk(line))
    for each in (node for node in ast.walk(tree) if isinstance(node, (ast.If, ast.IfExp))):
        if "hasattr(" in ast.unparse(each.test) or "_SELECTS_PIPES" in ast.unparse(each.test):
            caught.update(ast.walk(each))
    return caught


ELSEWHERE = {
    f"files/scratch.py fcntl.{name}": "behind a look whether there is fcntl" for name in ("flock", "LOCK_EX", "LOCK_NB")
}
"""Names that are guarded in another way, and how."""


def test_names_that_only_posix_has_are_guarded() -> None:
    mypy = importlib.util.find_spec("mypy")
    if mypy is None or mypy.origin is None:
        pytest.skip("mypy knows which names which system has")
    stubs = Path(mypy.origin).parent / "typeshed" / "stdlib"
    absent = {name: missing_on_windows(name, stubs) for name in ("os", "signal", "resource", "fcntl", "socket", "time")}
    assert {"fork", "memfd_create", "sched_getaffinity"} <= absent["os"] and "SIGKILL" in absent["signal"]
    assert "flock" in absent["fcntl"] and "RLIMIT_AS" in absent["resource"]
    found = set()
    for path in PACKAGE.rglob("*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for node in {*ast.walk(tree)} - guarded(tree):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                names = [f"{node.value.id}.{node.attr}"] if node.attr in absent.get(node.value.id, ()) else []
            else:
                names = [each.name for each in node.names] if isinstance(node, ast.Import) else []
                names = [name for name in names if name in ("fcntl", "resource")]
            found.update(f"{path.relative_to(PACKAGE).as_posix()} {name}" for name in names)
    assert found == ELSEWHERE.keys()

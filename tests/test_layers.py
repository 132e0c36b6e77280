"""Each room imports only the rooms before it, and what should be light stays free of torch."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "banet"
ROOMS = [
    *("errors", "types", "files", "panoptic", "ops", "data", "modeling", "checkpoint", "inference", "composed"),
    *("engine", "app", "commands", "streams", "cli"),
]
HEAVY = ("torch", "torchvision", "lightning")


def imports(path: Path) -> Iterator[tuple[int, str]]:
    """Line and full name of every module that a file imports, those inside functions included."""
    package = ("banet", *path.relative_to(PACKAGE).parent.parts)
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            module = ".".join([*base, *([node.module] if node.module else [])])
            yield node.lineno, module
            if module == "banet":
                yield from ((node.lineno, f"banet.{alias.name}") for alias in node.names)


def room(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def wrong_direction(path: Path) -> list[str]:
    here = ROOMS.index(room(path))
    found = []
    for line, name in imports(path):
        parts = name.split(".")
        if parts[0] == "banet" and len(parts) > 1 and parts[1] in ROOMS and ROOMS.index(parts[1]) > here:
            found.append(f"{path.relative_to(PACKAGE)}:{line} imports {name}")
    return found


FILES = [path for path in sorted(PACKAGE.rglob("*.py")) if room(path) in ROOMS]


def test_every_room_has_files():
    assert {room(path) for path in FILES} == set(ROOMS)


def test_no_module_stands_outside_the_rooms():
    outside = {room(path) for path in PACKAGE.rglob("*.py")} - set(ROOMS)
    assert outside <= {"__init__", "__main__", "_moved", "_renamed"}, "give a new room its place in the order"


def test_rooms_import_only_rooms_before_them():
    assert [fault for path in FILES for fault in wrong_direction(path)] == []


def test_the_checker_sees_a_wrong_direction(tmp_path, monkeypatch):
    (tmp_path / "panoptic").mkdir()
    bad = tmp_path / "panoptic" / "bad.py"
    bad.write_text("def f():\n    from ..engine import train\n    import banet.ops\n    from banet import cli\n")
    monkeypatch.setattr(sys.modules[__name__], "PACKAGE", tmp_path)
    assert [fault.split()[-1] for fault in wrong_direction(bad)] == ["banet.engine", "banet.ops", "banet.cli"]


def imported_files(path: Path) -> set[Path]:
    """The files of the package that a file imports by name, in functions and for type checkers too."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            package = (PACKAGE.name, *path.relative_to(PACKAGE).parent.parts)
            base = package[: len(package) - node.level + 1] if node.level else ()
            module = ".".join([*base, *([node.module] if node.module else [])])
            submodules = [f"{module}.{alias.name}" for alias in node.names]
            names = [name for name in submodules if file_of(name)] or [module]
        found |= {file for name in names if (file := file_of(name))}
    return found - {path}


def file_of(name: str) -> Path | None:
    parts = name.split(".")
    if parts[0] != PACKAGE.name:
        return None
    stem = PACKAGE.joinpath(*parts[1:])
    return next((file for file in (stem.with_suffix(".py"), stem / "__init__.py") if file.is_file()), None)


def circles(graph: dict[Path, set[Path]]) -> list[list[Path]]:
    """Groups of files that lead to one another, by following the imports from each file."""
    reached = {}
    for start in graph:
        seen: set[Path] = set()
        stack = [start]
        while stack:
            for after in graph[stack.pop()] - seen:
                seen.add(after)
                stack.append(after)
        reached[start] = seen
    groups = {frozenset(other for other in reached[file] if file in reached[other]) for file in graph}
    return sorted(sorted(group) for group in groups if group)


def import_circles() -> list[list[str]]:
    graph = {path: imported_files(path) for path in sorted(PACKAGE.rglob("*.py"))}
    return [[path.relative_to(PACKAGE).as_posix() for path in circle] for circle in circles(graph)]


def test_no_import_circles():
    assert import_circles() == []


def test_the_checker_sees_circles(tmp_path, monkeypatch):
    package = tmp_path / "banet"
    package.mkdir()
    monkeypatch.setattr(sys.modules[__name__], "PACKAGE", package)
    (package / "__init__.py").write_text("")
    (package / "a.py").write_text("import banet.b\n")
    (package / "b.py").write_text("def f():\n    from banet import c\n")
    (package / "c.py").write_text("from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from .a import A\n")
    (package / "d.py").write_text("from banet.a import A\n")
    assert import_circles() == [["a.py", "b.py", "c.py"]]
    (package / "c.py").write_text("")
    assert import_circles() == []


def test_each_class_has_a_name_of_its_own():
    homes: dict[str, list[str]] = {}
    for path in (path for path in FILES if room(path) != "commands"):  # a command is called like what it runs
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                homes.setdefault(node.name, []).append(path.relative_to(PACKAGE).as_posix())
    assert {name: files for name, files in homes.items() if len(files) > 1} == {}


def test_panoptic_names_no_torch_at_all():
    found = [
        f"{path.name}:{line} {name}"
        for path in (PACKAGE / "panoptic").rglob("*.py")
        for line, name in imports(path)
        if name.split(".")[0] in HEAVY
    ]
    assert found == []


def run(code: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(PACKAGE.parent)}
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, timeout=300)


@pytest.mark.parametrize(
    "code",
    [
        "import banet; banet.__version__; dir(banet)",
        "import banet; banet.resolve_occlusions, banet.fuse_panoptic, banet.PanopticQuality, banet.InputError",
        "import banet.panoptic as p; [getattr(p, name) for name in p.__all__]",
        "import banet.data, banet.modeling, banet.engine, banet.data.scenes.generate, banet.data.images",
        "import banet.engine.recipe, banet.engine.options, banet.modeling.config",
        "from banet.cli import main; main(['--help']); main([])",
        "from banet.cli import main; main(['train', '--help'])",
        "from banet.cli import main; main(['train', '--config', 'coco_r50_1x', '--print-config'])",
        "from banet.cli import main; main(['train', '--config', 'none']); main(['evaluate', '--x']); main(['x'])",
        "from banet.cli import main; main('fuse --instances a --semantic tests --images tests --out a'.split())",
        "from banet.cli import main; main('pq --gt-json a --gt-dir a --pred-json a --pred-dir a'.split())",
    ],
)
def test_loads_no_torch(code):
    body = f"try:\n    {code.replace('; ', chr(10) + '    ')}\nexcept SystemExit:\n    pass\n"
    done = run(f"{body}import sys; print([m for m in {HEAVY} if m in sys.modules], file=sys.stderr)")
    assert done.returncode == 0, done.stderr
    assert done.stderr.splitlines()[-1] == "[]"


def test_every_public_name_is_there():
    done = run("import banet; print([getattr(banet, name).__class__.__name__ for name in banet.__all__])")
    assert done.returncode == 0, done.stderr


def test_an_unknown_name_is_an_attribute_error():
    import banet

    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        banet.nothing  # noqa: B018


def test_the_tree_in_the_architecture_is_the_package():
    lines = (
        (PACKAGE.parent / "ARCHITECTURE.md")
        .read_text(encoding="utf-8")
        .split("```\nbanet/\n")[1]
        .split("```")[0]
        .splitlines()
    )
    named: set[str] = set()
    folders: list[str] = []
    for line in lines:
        name = line.split()[0]
        del folders[(len(line) - len(line.lstrip())) // 2 - 1 :]
        if name.endswith("/"):
            folders.append(name)
        else:
            named.add("".join([*folders, name]))
    there = {path.relative_to(PACKAGE).as_posix() for path in PACKAGE.rglob("*.py")}
    assert named == {path for path in there if not path.endswith("/__init__.py")}

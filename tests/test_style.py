"""Limits of size, and constructs that readers stumble over."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

PACKAGE = Path(__file__).parents[1] / "banet"
FILES = sorted(PACKAGE.rglob("*.py"))

MODULES = 12  # most of a folder, without `__init__`
LONG = 40  # lines of a function's body, without its docstring
LONG_FUNCTIONS = 0.016  # largest fraction of functions that are longer


def parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def functions(tree: ast.AST) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    return (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))


def body_lines(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    body = function.body[ast.get_docstring(function, clean=False) is not None :]
    return (body[-1].end_lineno or 0) - body[0].lineno + 1 if body else 0


def text_times_condition(tree: ast.AST) -> Iterator[int]:
    """Lines where a text is multiplied by anything but a number or a length."""
    for node in ast.walk(tree):
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mult):
            for text, factor in ((node.left, node.right), (node.right, node.left)):
                is_text = isinstance(text, ast.JoinedStr) or (
                    isinstance(text, ast.Constant) and isinstance(text.value, str)
                )
                if is_text and not is_count(factor):
                    yield node.lineno


def is_count(node: ast.expr) -> bool:
    if isinstance(node, ast.BinOp):
        return is_count(node.left) and is_count(node.right)
    is_length = isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "len"
    return is_length or (isinstance(node, ast.Constant) and type(node.value) is int)


def walrus_in_lambda(tree: ast.AST) -> Iterator[int]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Lambda):
            yield from (part.lineno for part in ast.walk(node) if isinstance(part, ast.NamedExpr))


def test_functions_are_short():
    sizes = [
        (body_lines(function), f"{path.relative_to(PACKAGE)}: {function.name}")
        for path in FILES
        for function in functions(parse(path))
    ]
    long = sorted(size for size in sizes if size[0] > LONG)
    assert len(long) <= LONG_FUNCTIONS * len(sizes), long


def test_no_folder_has_too_many_modules():
    folders = {path.parent for path in FILES}
    counts = {
        folder.relative_to(PACKAGE).as_posix(): sum(path.name != "__init__.py" for path in folder.glob("*.py"))
        for folder in folders
    }
    assert {folder: count for folder, count in counts.items() if count > MODULES} == {}


def test_the_command_line_only_dispatches():
    assert len((PACKAGE / "cli.py").read_text(encoding="utf-8").splitlines()) <= 200


def test_no_text_is_multiplied_by_a_condition():
    assert [f"{path.relative_to(PACKAGE)}:{line}" for path in FILES for line in text_times_condition(parse(path))] == []


def test_no_lambda_assigns():
    assert [f"{path.relative_to(PACKAGE)}:{line}" for path in FILES for line in walrus_in_lambda(parse(path))] == []


def test_the_checks_see_what_they_look_for():
    tree = ast.parse(
        'a = "s" * (n != 1)\nb = f"{x}" * flag\nc = "-" * len(d)\ne = lambda q: [r := q, r]\nf = 2 * "ab"\n'
    )
    assert list(text_times_condition(tree)) == [1, 2]
    assert list(walrus_in_lambda(tree)) == [4]
    (function,) = functions(ast.parse('def f():\n    """One\n    two."""\n    x = 1\n\n    return x\n'))
    assert body_lines(function) == 3

"""The scripts of `banet completion`: bash's is asked what it would offer."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from pathlib import Path
from typing import get_args

import pytest

from banet.cli import main
from banet.commands import COMMANDS, GROUPS
from banet.commands.completion import Shell
from banet.engine.recipe import recipe_names

pytest.importorskip("shtab")

ASK = """
source "$1"; shift
function=$(complete -p banet | sed 's/.*-F \\([^ ]*\\).*/\\1/')
COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); COMPREPLY=()
"$function" banet "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD - 1]}"
printf '%s\\n' "${COMPREPLY[@]}"
"""


@pytest.fixture(scope="module")
def script(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("completion") / "banet"
    with path.open("w") as file, contextlib.redirect_stdout(file):
        assert main(["completion", "bash"]) == 0
    return path


def offered(script: Path, *words: str) -> list[str]:
    command = ["bash", "-c", ASK, "ask", str(script), "banet", *words]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout.split()


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ([""], sorted({name.split()[0] for name in COMMANDS})),
        (["data", ""], sorted({name.split()[1] for name in [*COMMANDS, *GROUPS] if name.startswith("data ")})),
        (["data", "convert", "c"], ["cells", "cityscapes", "coco", "cvat"]),
        (["train", "--config", "coco_r101"], [name for name in recipe_names() if name.startswith("coco_r101")]),
        (["train", "--train.lr"], ["--train.lr"]),
        (["evaluate", "scenes", "--device", "c"], ["cpu", "cuda"]),
        (["export", "scenes", "--calibration"], ["--calibration"]),
        (["completion", ""], sorted(get_args(Shell))),
    ],
)
def test_bash_offers(script: Path, words: list[str], expected: list[str]) -> None:
    assert sorted(offered(script, *words)) == expected


def test_bash_offers_files_where_files_are_wanted(script: Path) -> None:
    folder = Path(__file__).parent
    assert str(Path(__file__)) in offered(script, "pq", "--gt-json", f"{folder}/test_comp")
    assert offered(script, "pq", "--gt-dir", str(folder.parent / "comm")) == [str(folder)]


@pytest.mark.parametrize("shell", get_args(Shell))
def test_every_shell_gets_every_command_and_option(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", shell]) == 0
    text = capsys.readouterr().out
    assert all(word in text for name in COMMANDS for word in name.split())
    assert all(option in text for option in ("removal-threshold", "train.lr", "device"))


def test_without_shtab_the_extra_is_named(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(sys.modules, "shtab", None)
    assert main(["completion", "bash"]) == 2
    assert "pip install 'banet-panoptic[completion]'" in capsys.readouterr().err

"""A folder of outputs gets its place whatever stands there: nothing, an empty folder, a link, a mounted folder."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from banet.files.atomic import atomic_path
from banet.files.outputs import RECORD, Outputs
from banet.files.staging import staged


def nothing(root: Path) -> None:
    pass


def empty(root: Path) -> None:
    (root / "out").mkdir()


def link(root: Path) -> None:
    (root / "disk").mkdir()
    (root / "out").symlink_to(root / "disk")


def link_to_nothing(root: Path) -> None:
    (root / "out").symlink_to(root / "disk")


def earlier_run(root: Path) -> None:
    write(root / "out")


def write(out: Path, text: str = "before") -> None:
    with staged(Outputs(out, "test", ["whole.json"], trees=["parts"]), last=["whole.json"], prune=["parts"]) as folder:
        (folder / "parts").mkdir()
        for name in (f"parts/{text}.txt", "whole.json"):
            with atomic_path(folder / name) as temporary:
                temporary.write_text(text)


@pytest.mark.parametrize("mounted", [False, True])
@pytest.mark.parametrize("before", [nothing, empty, link, link_to_nothing, earlier_run])
def test_the_outputs_get_their_place(
    before: Callable[[Path], None], mounted: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before(tmp_path)
    if mounted:  # it can be neither renamed nor removed
        monkeypatch.setattr("os.path.ismount", lambda path: Path(path).is_dir())
        monkeypatch.setattr(Path, "rmdir", lambda self: pytest.fail("removes what is mounted"))
    was_link = (tmp_path / "out").is_symlink()
    write(tmp_path / "out", "now")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == sorted([RECORD, "parts", "whole.json"])
    assert [path.name for path in (tmp_path / "out" / "parts").iterdir()] == ["now.txt"]
    assert (tmp_path / "out" / "whole.json").read_text() == "now"
    assert (tmp_path / "out").is_symlink() == was_link
    assert {path.name for path in tmp_path.iterdir()} <= {"out", "disk"}
    write(tmp_path / "out", "again")
    assert [path.name for path in (tmp_path / "out" / "parts").iterdir()] == ["again.txt"]


def test_two_writers_in_one_process_do_not_meet(tmp_path: Path) -> None:
    first, second = (Outputs(tmp_path / "out", "test", ["a"]) for _ in range(2))
    with staged(first) as one:
        with pytest.raises(KeyError), staged(second) as two:
            assert one != two
            raise KeyError
        with atomic_path(one / "a") as temporary:
            temporary.write_text("one")
    assert (tmp_path / "out" / "a").read_text() == "one"


@pytest.mark.skipif(os.name != "posix", reason="nothing tells here whether a process lives")
def test_killed_while_files_are_replaced_leaves_nothing_behind(tmp_path: Path) -> None:
    code = (
        "import os, sys\nfrom banet.files import staging\nfrom banet.files.outputs import Outputs\n"
        "staging.commit = lambda *files: os.kill(os.getpid(), 9)\n"
        "with staging.staged(Outputs(sys.argv[1], 'test', ['a'], overwrite=True)) as folder:\n"
        "    (folder / 'a').write_text('x')\n"
    )
    write(tmp_path / "out")
    (tmp_path / "out" / "mine.txt").write_text("mine")
    assert subprocess.run([sys.executable, "-c", code, str(tmp_path / "out")]).returncode == -signal.SIGKILL
    assert len([*tmp_path.glob(".out.*.tmp")]) == 1
    write(tmp_path / "out", "now")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert (tmp_path / "out" / "mine.txt").read_text() == "mine"

"""The tutorial does what it says: every block of it is run, on generated images and with a tiny network."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from miniatures import TINY, labelme

from banet.cli import main

PAGE = (Path(__file__).parents[2] / "docs" / "tutorials" / "your_own_data.md").read_text(encoding="utf-8")


@pytest.mark.filterwarnings("ignore")
def test_the_tutorial(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    labelme(Path("photos/train"), 1, 4)
    labelme(Path("photos/val"), 2, 2)
    blocks = re.findall(r"```(\w+)\n(.*?)```", PAGE, re.DOTALL)
    assert [language for language, _ in blocks if language != "text"] == [
        *("bash", "yaml", "bash", "bash", "bash", "python")
    ]
    for language, block in blocks:
        if language == "yaml":
            Path("mine.yaml").write_text(block)
        elif language == "python":
            exec(compile(block, "docs/tutorials/your_own_data.md", "exec"), {})
        elif language == "bash":
            for line in block.splitlines():
                program, *arguments = shlex.split(line)
                assert program == "banet"
                tiny = [*TINY.split(), "--device", "cpu"] if arguments[0] == "train" else []
                assert main([*arguments, *tiny]) == 0, line
    shown = capsys.readouterr().out
    assert "nothing found" in shown
    assert "PQ" in shown
    assert Path("overlay.png").is_file()
    assert len(list(Path("predictions").rglob("*.json"))) >= 2

"""The study of Tables 2 and 3: what it trains, what it shares, how it goes on, what it writes."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

import pytest
from test_train import TINY, with_train

from banet.engine import ablate as module
from banet.engine.ablate import COLUMNS, TABLES, ablate, collect, to_markdown
from banet.errors import InputError

pytestmark = pytest.mark.filterwarnings("ignore")
STUDY = replace(with_train(TINY, iterations=1, ema=0.0), data=replace(TINY.data, val_scenes=2))


def test_tables_are_the_papers() -> None:
    two, three = TABLES["2"], TABLES["3"]
    assert [len(two), len(three)] == [6, 4]
    assert [row.rule for row in two] == ["heuristic"] * 5 + ["appearance"]
    assert two[4].network == two[5].network and len({row.network for row in two}) == 5
    assert len({row.network for row in three}) == 2
    assert two[5].paper["PQ^Th"] == 50.5 and three[3].paper == {"PQ": 44.0, "PQ^Th": 51.0, "PQ^St": 33.4}
    assert [row.paper["PQ"] for row in two] == [39.1, 39.5, 40.0, 40.3, 41.8, 43.0]


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("study") / "study"
    assert ablate(STUDY, out, seeds=[4], device="cpu") == out / "table.md"
    return out


def test_each_network_is_trained_once_and_every_row_measured(study: Path) -> None:
    runs = sorted(str(p.parent.relative_to(study)) for p in study.glob("*/*/model.safetensors"))
    assert runs == sorted(f"{row.network}/seed4" for row in TABLES["2"][:5])
    assert len(list(study.glob("*/*/metrics_*.json"))) == 6
    table = collect(study, TABLES["2"], [4])
    assert all(0 <= value[0] <= 100 for row in table.values() for value in row.values())
    text = (study / "table.md").read_text()
    assert text.count("the paper's, on COCO") == 6 and "*61.5*" in text
    rows = list(csv.DictReader((study / "table.csv").open()))
    assert len(rows) == 6 and set(COLUMNS) <= set(rows[0])
    assert (study / "table.png").stat().st_size > 5000


def test_a_finished_study_trains_nothing_and_a_killed_one_only_the_rest(
    study: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained: list[str] = []

    def note(recipe: object, out: Path, **_: object) -> Path:
        trained.append(out.parent.name)
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "train", note)
    ablate(STUDY, study, seeds=[4], device="cpu")
    assert trained == []
    (study / "sim" / "seed4" / "model.safetensors").rename(study / "kept")
    with pytest.raises(KeyboardInterrupt):
        ablate(STUDY, study, seeds=[4], device="cpu")
    (study / "kept").rename(study / "sim" / "seed4" / "model.safetensors")
    assert trained == ["sim"]


def test_dry_run_trains_nothing(study: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert ablate(STUDY, tmp_path / "new", seeds=[0, 1], device="cpu", dry_run=True) is None
    said = capsys.readouterr().out
    assert not (tmp_path / "new").exists()
    assert "sim_ocm_s2i_deformable" in said and "0, 1" in said and "in all" in said
    ablate(STUDY, study, seeds=[4], device="cpu", dry_run=True)
    assert capsys.readouterr().out.count("none") == 5


def test_what_cannot_be_is_refused(study: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="another recipe"):
        ablate(with_train(STUDY, lr=0.5), study, seeds=[4], device="cpu")
    with pytest.raises(InputError, match="--table 7"):
        ablate(STUDY, tmp_path, table="7", device="cpu")
    for seeds in ([], [1, 1]):
        with pytest.raises(InputError, match="--seeds"):
            ablate(STUDY, tmp_path, seeds=seeds, device="cpu")


def test_mean_and_spread() -> None:
    columns = {column: [10.0, 12.0, 14.0] for column in COLUMNS} | {"AP": [float("nan")] * 3}
    text = to_markdown({row.name: columns for row in TABLES["2"]}, TABLES["2"])
    assert "12.0 ± 2.0" in text and "| - |" in text and "nan" not in text

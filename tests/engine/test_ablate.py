"""The study of Tables 2 and 3: what it trains, what it shares, how it goes on, what it writes."""

from __future__ import annotations

import contextlib
import csv
import json
import random
import shutil
import signal
import statistics
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from factories import TINY, with_train

from banet import BANet
from banet.engine.evaluation.evaluate import evaluate
from banet.engine.evaluation.evaluation_data import scene_data
from banet.engine.recipe import Recipe, to_yaml
from banet.engine.studies import ablate as module
from banet.engine.studies.ablate import COLUMNS, STUDY_RULES, TABLES, ablate, collect, network_name, to_markdown
from banet.errors import InputError
from banet.panoptic.metrics.quality import to_json

pytestmark = pytest.mark.filterwarnings("ignore")
STUDY = replace(with_train(TINY, iterations=1, ema=0.0), data=replace(TINY.data, val_scenes=2))
TWO = TABLES["2"]
NETWORKS = ["baseline", "sim", "sim_ocm", "sim_ocm_s2i", "sim_ocm_s2i_deformable"]


def with_backbone(name: str) -> Recipe:
    return replace(STUDY, model=replace(STUDY.model, backbone=name))  # type: ignore[arg-type]


def test_tables_are_the_papers() -> None:
    three = TABLES["3"]
    assert [len(TWO), len(three)] == [6, 4]
    assert [row.rule for row in TWO] == ["heuristic"] * 5 + ["appearance"]
    assert [row.rule for row in three] == ["heuristic"] * 2 + ["appearance"] * 2
    assert TWO[5].paper["PQ^Th"] == 50.5 and three[3].paper == {"PQ": 44.0, "PQ^Th": 51.0, "PQ^St": 33.4}
    assert [row.paper["PQ"] for row in TWO] == [39.1, 39.5, 40.0, 40.3, 41.8, 43.0]


def test_rows_share_the_networks_that_are_the_same() -> None:
    assert [network_name(STUDY, row) for row in TWO] == [*NETWORKS, NETWORKS[-1]]
    r50 = with_backbone("resnet50")
    both = {network_name(r50, row) for rows in TABLES.values() for row in rows}
    assert both == {*NETWORKS, f"resnet101_{NETWORKS[-1]}"}
    assert network_name(STUDY, TABLES["3"][0]) == f"resnet50_{NETWORKS[-1]}"


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("study") / "study"
    assert ablate(STUDY, out, seeds=[4], device="cpu") == [out / "table2.md", out / "rules.md"]
    return out


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Notes what would be trained, and stops there."""
    names: list[str] = []

    def note(recipe: object, out: Path, **_: object) -> Path:
        names.append(f"{out.parent.name}/{out.name}")
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "train", note)
    return names


def test_each_network_is_trained_once_and_measured_under_every_rule(study: Path) -> None:
    runs = sorted(str(p.parent.relative_to(study)) for p in study.glob("*/*/model.safetensors"))
    assert runs == sorted(f"{name}/seed4" for name in NETWORKS)
    files = {str(p.relative_to(study)) for p in study.glob("*/*/metrics_*.json")}
    assert files == {f"{name}/seed4/metrics_{rule}.json" for name in NETWORKS for rule in STUDY_RULES}
    table = collect(STUDY, study, TWO, [4])
    assert all(0 <= value[0] <= 100 for row in table.values() for value in row.values())
    rules = {BANet.from_pretrained(study / name / "seed4").inference.rule for name in NETWORKS[:4]}
    assert rules == {"heuristic"}
    assert BANet.from_pretrained(study / NETWORKS[4] / "seed4").inference.rule == "appearance"


def test_one_pass_gives_what_evaluate_gives_under_each_rule() -> None:
    model, images = BANet.from_pretrained("scenes"), scene_data(27, 1, 256)
    measured = module._measure(model, images, STUDY_RULES, "scenes")
    assert len({result["Things"]["pq"] for result in measured.values()}) == len(STUDY_RULES)  # the rules do differ here
    for rule, result in measured.items():
        model.inference = replace(model.inference, rule=rule)
        wanted = evaluate(model, images)
        assert to_json(result) == to_json(wanted)


def test_a_finished_study_trains_nothing_and_a_stopped_one_only_the_rest(study: Path, trained: list[str]) -> None:
    ablate(STUDY, study, seeds=[4], device="cpu")
    assert trained == []
    with pytest.raises(KeyboardInterrupt):
        ablate(STUDY, study, seeds=[4, 5], device="cpu")
    assert trained == ["baseline/seed5"]


def test_figures_stand_in_for_weights_and_only_what_has_neither_is_trained(
    study: Path, tmp_path: Path, trained: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """A study goes on from its small files, as they may be carried to another machine."""
    out = tmp_path / "small"
    ablate(STUDY, study, seeds=[4], device="cpu")
    for path in study.glob("*/*/metrics_*.json"):
        (out / path.relative_to(study)).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, out / path.relative_to(study))
    ablate(STUDY, out, seeds=[4], device="cpu")
    assert trained == []
    for name in ("table2.md", "table2.csv", "rules.md", "rules.csv"):
        assert (out / name).read_text() == (study / name).read_text()
    assert (out / "table2.png").stat().st_size > 5000
    # The color-contour rule is in no row: its absence asks for no training. That of the heuristic does.
    (out / "sim" / "seed4" / "metrics_color-contour.json").unlink()
    ablate(STUDY, out, seeds=[4], device="cpu")
    assert trained == [] and "| sim | color-contour | - |" in (out / "rules.md").read_text()
    (out / "sim_ocm" / "seed4" / "metrics_heuristic.json").unlink()
    with pytest.raises(KeyboardInterrupt):
        ablate(STUDY, out, seeds=[4], device="cpu")
    assert trained == ["sim_ocm/seed4"]
    capsys.readouterr()
    ablate(STUDY, out, seeds=[4], device="cpu", dry_run=True)
    said = capsys.readouterr().out
    assert said.count(" none ") == 4 and "sim_ocm   " in said


def test_a_study_goes_on_elsewhere_but_not_with_another_recipe(study: Path, trained: list[str]) -> None:
    elsewhere = replace(STUDY, data=replace(STUDY.data, root="elsewhere", workers=2))
    assert ablate(elsewhere, study, seeds=[4], device="cpu")
    before = (study / "recipe.yaml").read_text()
    with pytest.raises(InputError, match=r"begun with train.lr 0.001, not 0.5; choose another --out"):
        ablate(with_train(STUDY, lr=0.5), study, seeds=[4], device="cpu")
    assert (study / "recipe.yaml").read_text() == before and trained == []


def test_a_study_begun_before_an_option_does_not_go_on_with_its_new_default(study: Path, tmp_path: Path) -> None:
    text = (study / "recipe.yaml").read_text()
    older = "".join(line for line in text.splitlines(keepends=True) if "ocm_relu" not in line)
    (tmp_path / "recipe.yaml").write_text(older)
    with pytest.raises(InputError, match=r"begun with model.ocm_relu False, not True; choose another --out"):
        ablate(STUDY, tmp_path, seeds=[4], device="cpu")


def test_dry_run_trains_nothing(study: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert ablate(STUDY, tmp_path / "new", seeds=[0, 1], device="cpu", dry_run=True) == []
    said = capsys.readouterr().out
    assert not (tmp_path / "new").exists()
    assert "sim_ocm_s2i_deformable" in said and said.count("0, 1") == 5 and "in all" in said
    ablate(STUDY, study, seeds=[4], device="cpu", dry_run=True)
    assert capsys.readouterr().out.count(" none ") == 5


def test_what_cannot_be_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--table 7"):
        ablate(STUDY, tmp_path, table="7", device="cpu")
    for seeds in ([], [1, 1]):
        with pytest.raises(InputError, match="--seeds"):
            ablate(STUDY, tmp_path, seeds=seeds, device="cpu")


# ---------------------------------------------------------------------------------------------------- what it writes


def metrics(pq: float, things: float) -> dict[str, Any]:
    def three(value: float) -> dict[str, float]:
        return {"pq": value, "sq": value, "rq": value}

    return {"All": three(pq), "Things": three(things), "Stuff": three(0.5), "ap": None, "miou_stuff": 0.25}


@pytest.fixture
def figures(tmp_path: Path) -> Path:
    """A study of two seeds and made-up figures; the second has no deformable network yet."""
    for seed in (0, 1):
        for place, name in enumerate(NETWORKS[: 5 - seed]):
            folder = tmp_path / name / f"seed{seed}"
            folder.mkdir(parents=True)
            for gain, rule in enumerate(STUDY_RULES):
                pq = 0.3 + 0.1 * seed + 0.01 * place + 0.02 * gain
                (folder / f"metrics_{rule}.json").write_text(json.dumps(metrics(pq, pq - 0.05)))
    return tmp_path


def test_tables_have_mean_spread_and_the_papers_figures(figures: Path) -> None:
    module._report(STUDY, figures, {"2": TWO}, [0, 1])
    lines = (figures / "table2.md").read_text().splitlines()
    cells = {line.split(" | ")[0].removeprefix("| "): line.strip("| ").split(" | ") for line in lines}
    assert cells["baseline"][1:3] == ["2", "35.0 ± 7.1"] and cells["baseline"][-2:] == ["-", "25.0 ± 0.0"]
    assert cells["SIM + OCM + S2I + DFM"][1:3] == ["1", "34.0"]
    assert cells["SIM + OCM + S2I + DFM + OH"][1:3] == ["1", "36.0"]
    papers = [line for line in lines if "the paper's, on COCO" in line]
    assert len(papers) == 6 and "*43.0*" in papers[5] and "*61.5*" in papers[5]

    rows = list(csv.DictReader((figures / "table2.csv").open()))
    assert [row["seed"] for row in rows[:5]] == ["0", "1", "mean", "deviation", "paper, COCO"] and len(rows) == 30
    assert set(COLUMNS) <= set(rows[0])
    seeds = [float(row["PQ"]) for row in rows[:2]]
    assert seeds == [30.0, 40.0] and float(rows[2]["PQ"]) == 35 and rows[4]["PQ"] == "39.100"
    assert float(rows[3]["PQ"]) == pytest.approx(statistics.stdev(seeds), abs=1e-3)
    assert rows[0]["AP"] == "" and rows[-4]["PQ"] == ""

    rules = (figures / "rules.md").read_text().splitlines()
    # The gain is the same for both seeds, whatever the spread of the seeds themselves.
    assert next(r for r in rules if "| sim | appearance |" in r).endswith("| +2.0 ± 0.0 | +2.0 ± 0.0 |")
    assert len(list(csv.DictReader((figures / "rules.csv").open()))) == 9 * len(STUDY_RULES)


def test_plot_shows_gains_beside_the_papers(figures: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[Any] = []
    monkeypatch.setattr(
        "matplotlib.figure.Figure.savefig", lambda figure, path, **_: drawn.append(figure) or path.touch()
    )
    module._plot(collect(STUDY, figures, TWO, [0, 1]), TWO, figures / "plot.png", "title")
    axes = drawn[0].axes[0]
    assert axes.get_title() == "PQ\nfrom 35.0 ± 7.1; the paper's from 39.1"
    lines: dict[str, list[Any]] = {}
    for line in axes.get_lines():
        lines.setdefault(line.get_label(), []).append(line.get_xdata())
    ours = [[pytest.approx(gain)] * seeds for gain, seeds in ((0, 2), (1, 2), (2, 2), (3, 2), (4, 1), (6, 1))]
    assert [list(x) for x in lines["a seed"]] == ours
    assert [x[0] for x in lines["the paper's, COCO"]] == pytest.approx([0, 0.4, 0.9, 1.2, 2.7, 3.9])


def test_a_damaged_file_of_figures_is_named(figures: Path) -> None:
    damaged = figures / "sim" / "seed1" / "metrics_heuristic.json"
    damaged.write_text("{}")
    with pytest.raises(InputError, match=f"{damaged}: holds no figures"):
        collect(STUDY, figures, TWO, [0, 1])


def test_mean_and_spread() -> None:
    columns = {column: [10.0, 12.0, 14.0] for column in COLUMNS} | {"AP": [float("nan")] * 3}
    text = to_markdown({row.name: columns for row in TWO}, TWO)
    assert "12.0 ± 2.0" in text and "| - |" in text and "nan" not in text
    assert module._spread([-0.01], "+") == "+0.0" and module._spread([0.4, 0.6], "+") == "+0.5 ± 0.1"


# ------------------------------------------------------------------------------------------------------------- killed


@pytest.mark.slow
def test_a_study_that_is_killed_at_any_moment_ends_as_an_undisturbed_one(tmp_path: Path) -> None:
    recipe = with_train(STUDY, iterations=8, checkpoint_every=1)
    file = tmp_path / "recipe.yaml"
    file.write_text(to_yaml(recipe))
    command = [sys.executable, "-m", "banet", "ablate", "--config", str(file), "--device", "cpu", "--seeds", "[4]"]

    def written(out: Path) -> dict[Path, int]:
        """What is there, and since when."""
        found = {}
        for path in out.rglob("*"):
            with contextlib.suppress(FileNotFoundError):  # renamed meanwhile
                found[path] = path.stat().st_mtime_ns
        return found

    def begin(out: Path) -> subprocess.Popen[bytes]:
        """A process that has written something: starting takes an unknown time."""
        before = written(out)
        process = subprocess.Popen([*command, "--out", str(out)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while written(out) == before and process.poll() is None:
            time.sleep(0.02)
        return process

    process, began = begin(tmp_path / "whole"), time.monotonic()
    assert process.wait() == 0
    duration = time.monotonic() - began

    moment, kills, runs = random.Random(0), 0, 1
    while kills < 4:
        out = tmp_path / f"killed{runs}"
        process = begin(out)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(moment.uniform(0, duration / 3))
        if process.poll() is None:
            process.kill()
            kills += 1
        assert process.wait() in (0, -signal.SIGKILL)
        runs += process.returncode == 0
    done = subprocess.run([*command, "--out", str(tmp_path / f"killed{runs}")], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    wanted = collect(recipe, tmp_path / "whole", TWO, [4])
    for run in range(1, runs + 1):
        ours = collect(recipe, tmp_path / f"killed{run}", TWO, [4])
        for row in TWO:
            for column in COLUMNS:
                assert ours[row.name][column] == pytest.approx(wanted[row.name][column], abs=0.05, nan_ok=True)

"""The study of aggregation: its arms, its counts against the library's own scores, and its resampling."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from factories import TINY
from safetensors.torch import load_file

from banet import BANet
from banet.data.scenes.generate import SCENE_CATEGORIES, Scenes
from banet.engine.evaluation.evaluate import Evaluator
from banet.engine.evaluation.evaluation_data import EvaluationData
from banet.engine.options import load_recipe
from banet.engine.training.train import build_for_training
from banet.inference.postprocess import postprocess
from banet.inference.preprocess import preprocess

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import claim
import claim_read_outs
import claim_why
from claim_arms import Arm, arm_recipe, load_network, read_out, starting_network
from claim_measures import Bootstrap, Counter, Counts, difference, interval, mean_scores, scores
from claim_plans import LEARNING, PLANS, Plan
from claim_report import write_report

FIRST = PLANS[1]
ARMS = {arm.name: arm for arm in FIRST.networks}
COMPOSITIONS = {
    "baseline": "", "sim": "sim", "sim_emptied": "sim", "sim_ocm": "sim ocm", "s2i": "s2i", "whole": "sim ocm s2i",
    "baseline_dfm": "dfm", "whole_dfm": "sim ocm s2i dfm", "baseline_0.3": "", "baseline_1.0": "",
    "baseline_0.5": "", "baseline_2.0": "",
}  # fmt: skip
SMALL: dict[str, Any] = {
    "trunk_iterations": 2, "more_iterations": 1, "more_times": 0, "arm_iterations": 1, "gate_scenes": (11, 2),
    "feature_scenes": (12, 8), "read_out_scenes": (13, 2), "arm_scenes": (14, 2),
    "learning": replace(LEARNING, iterations=1, batch_size=2),
}  # fmt: skip


def _small(number: int, networks: tuple[str, ...], read_outs: tuple[str, ...]) -> Plan:
    """A study with its first seed and few arms, of a size for tests."""
    plan = PLANS[number]
    return replace(
        plan,
        networks=tuple(arm for arm in plan.networks if arm.name in networks),
        read_outs=tuple(arm for arm in plan.read_outs if arm.name in read_outs),
        read_out_seeds=plan.read_out_seeds[:1],
        arm_seeds=plan.arm_seeds[:1],
        **SMALL,
    )


PLAN = _small(1, ("baseline", "sim_emptied"), ("first", "sim_0.0"))


@pytest.fixture(scope="module")
def model() -> BANet:
    torch.manual_seed(0)
    made = BANet(SCENE_CATEGORIES, TINY.model, replace(TINY.inference, stuff_area=64, rule="heuristic"), TINY.loss)
    return made.eval()


def test_counts_give_the_scores_of_the_library(model: BANet, tmp_path: Path) -> None:
    scenes, counter, evaluator = Scenes(3, 4, (64, 64)), Counter(), Evaluator(model, full=True)
    data = EvaluationData(scenes)
    for index in range(len(scenes)):
        image, truth = scenes.read(index)
        with torch.no_grad():
            (raw,) = model([preprocess(image, model.inference)]).images
        counter.add(postprocess(raw, image, SCENE_CATEGORIES, model.inference), truth, model.inference)
        list(evaluator.update([data[index]]))
    counter.counts().save(tmp_path / "counts.npz")
    found = scores(Counts.load(tmp_path / "counts.npz"), "heuristic-64")
    expected = evaluator.compute()
    for name, subset in (("PQ", "All"), ("PQ^Th", "Things"), ("PQ^St", "Stuff")):
        assert found[name][0] == pytest.approx(100 * expected[subset]["pq"], abs=1e-4)
    assert found["mIoU^St"][0] == pytest.approx(100 * expected["miou_stuff"], abs=1e-4)
    stuff = [c.id for c in SCENE_CATEGORIES if not c.isthing]
    assert found["false"][0] == 25 * sum(expected["per_class"][identity]["fp"] for identity in stuff)
    assert 0 <= found["missed"][0] <= 100 and 0 <= found["pairs"][0] <= 100


def _random_counts(rng: np.random.Generator, images: int, lift: int = 0) -> Counts:
    tp = rng.integers(0, 3, (images, 18)) + lift
    quality = np.stack([0.8 * tp, tp, rng.integers(0, 2, (images, 18)), rng.integers(0, 2, (images, 18))], -1)
    missed = rng.integers(0, 9, (images, 2)).cumsum(1)[:, ::-1]
    return Counts(
        {"heuristic-218": quality.astype(np.float32)},
        {"heuristic-218": missed.astype(np.int32)},
        rng.integers(0, 50, (images, 18, 18)).astype(np.int32),
    )


def test_resampled_scores_are_those_of_the_drawn_images() -> None:
    rng = np.random.default_rng(0)
    arm = [_random_counts(rng, 6) for _ in range(2)]
    bootstrap = Bootstrap(6, 2, resamples=5)
    draws = bootstrap.draws(arm, "heuristic-218")
    for number, (weights, seeds) in enumerate(zip(bootstrap.images, bootstrap.seeds, strict=True)):
        rows = np.repeat(np.arange(6), weights.astype(int))
        taken = [
            Counts(
                {"heuristic-218": c.quality["heuristic-218"][rows]},
                {"heuristic-218": c.missed["heuristic-218"][rows]},
                c.confusion[rows],
            )
            for c in arm
        ]
        for name, figures in draws.items():
            expected = sum(s * scores(c, "heuristic-218")[name][0] for s, c in zip(seeds, taken, strict=True))
            assert figures[number] == pytest.approx(expected)


def test_paired_differences_are_narrower_than_figures_of_their_own() -> None:
    rng = np.random.default_rng(1)
    arm = [_random_counts(rng, 200) for _ in range(3)]
    better = [
        Counts({"heuristic-218": c.quality["heuristic-218"] * [1.01, 1, 1, 1]}, c.missed, c.confusion) for c in arm
    ]
    gain = difference(better, arm, "heuristic-218", "heuristic-218")["PQ^St"]
    alone = interval(Bootstrap(200, 3).draws(arm, "heuristic-218")["PQ^St"])[0]
    base = mean_scores(arm, "heuristic-218")["PQ^St"]
    assert gain["value"] == pytest.approx(0.01 * base) and gain["error"] < 0.1 * alone
    assert gain["low"] < gain["value"] < gain["high"]
    same = difference(arm, arm, "heuristic-218", "heuristic-218")
    assert all(figure["value"] == figure["error"] == 0 for figure in same.values())


@pytest.mark.parametrize(("number", "name"), [(n, arm.name) for n, plan in PLANS.items() for arm in plan.networks])
def test_arms_are_what_the_plan_says(number: int, name: str) -> None:
    (arm,) = (arm for arm in PLANS[number].networks if arm.name == name)
    recipe = arm_recipe(load_recipe("scenes_small"), arm, context=True, seed=1)
    model, loss = recipe.model, recipe.loss
    parts = {"sim": model.sim, "ocm": model.ocm, "s2i": model.s2i, "dfm": model.deformable}
    assert " ".join(part for part, there in parts.items() if there) == COMPOSITIONS[name]
    weights = {"baseline_0.3": 0.3, "baseline_0.5": 0.5, "baseline_1.0": 1.0, "baseline_2.0": 2.0}
    if number == 1:
        weights |= {"baseline_dfm": 0.3, "whole_dfm": 0.3}
    assert sum(loss.semantic_weights(model)) == pytest.approx(weights.get(name, 0.5 if number == 1 else 1.0))
    if model.sim:
        share = (0, 1) if number == 1 else (0.6, 1)
        assert loss.inlay_share == ((0, 0) if arm.emptied else share)
        assert model.ocm_relu == (number == 1 or not model.ocm)
    assert recipe.data.scene_context and recipe.train.seed == 1
    starts = {read.name: read.model_config(recipe) for read in PLANS[number].read_outs}
    if arm.start:
        start = starts[arm.start]
        assert (start.sim, start.ocm) == (model.sim, model.ocm) and (start.ocm_relu == model.ocm_relu or not model.ocm)


def test_the_studies_share_no_seed_and_no_scene() -> None:
    names = ("gate_scenes", "feature_scenes", "read_out_scenes", "arm_scenes")
    seeds = [[*plan.arm_seeds, plan.trunk_seed, *(getattr(plan, name)[0] for name in names)] for plan in PLANS.values()]
    every = [seed for each in seeds for seed in each]
    assert len(set(every)) == len(every)


@pytest.mark.parametrize(("number", "first"), [(1, [0, 0, 0]), (2, [10, 11, 12])])
def test_runs_come_in_the_order_of_the_plan(number: int, first: list[int]) -> None:
    plan = PLANS[number]
    runs = list(plan.runs())
    assert [seed for _, _, seed in runs[:3]] == first
    assert len({(arm.name, kind, seed) for arm, kind, seed in runs}) == len(runs)
    controls = sum(arm.control for arm in plan.networks)
    assert controls == 3 and len(runs) == 3 * (len(plan.networks) + controls)
    assert all(kind == "context" or arm.control for arm, kind, _ in runs)


@pytest.mark.parametrize("arm", PLANS[2].networks, ids=lambda arm: arm.name)
def test_an_arm_starts_as_the_trunk_with_a_read_out(arm: Arm, tmp_path: Path) -> None:
    recipe = arm_recipe(TINY, arm, context=True, seed=0)
    torch.manual_seed(3)
    plain = replace(recipe, model=replace(recipe.model, sim=False, ocm=False, s2i=False, deformable=False))
    trunk = BANet(SCENE_CATEGORIES, plain.model, plain.inference).eval()
    logits = read_out(arm, recipe, SCENE_CATEGORIES)
    fitted = logits.segmenter if arm.emptied else logits
    made = starting_network(arm, recipe, trunk, fitted.state_dict())
    assert torch.equal(made.segmenter.first.weight, trunk.segmenter.first.weight) == recipe.model.sim
    made.save_pretrained(tmp_path)
    started = load_network(arm, tmp_path).eval()
    boxes = [torch.tensor([[8.0, 8, 40, 40], [20, 4, 60, 50]])]
    image = preprocess(Scenes(4, 1, (64, 64)).read(0)[0], trunk.inference)
    with torch.no_grad():
        mine, theirs = started([image]), trunk([image])
        expected = logits(theirs.semantic, trunk.mask_head.features(theirs.rois.mask(boxes)), boxes, theirs.sizes)
        found = started.segmenter(mine.semantic, started.mask_head.features(mine.rois.mask(boxes)), boxes, mine.sizes)
    assert torch.allclose(mine.candidates[0].boxes, theirs.candidates[0].boxes)
    assert torch.allclose(mine.candidates[0].scores, theirs.candidates[0].scores)
    assert torch.allclose(found, expected, atol=1e-5)


def test_an_emptied_arm_has_the_parameters_of_sim_and_no_instance_reaches_it(tmp_path: Path) -> None:
    recipe = arm_recipe(TINY, ARMS["sim_emptied"], context=False, seed=0)
    made = build_for_training(recipe, Scenes(1, 1, (64, 64)))
    BANet(SCENE_CATEGORIES, recipe.model, recipe.inference).save_pretrained(tmp_path)
    emptied, sim = (load_network(ARMS[name], tmp_path) for name in ("sim_emptied", "sim"))
    assert sum(p.numel() for p in made.parameters()) == sum(p.numel() for p in sim.parameters())
    semantic = [torch.rand(1, 8, 16 >> k, 16 >> k) for k in range(4)]
    boxes, f_ins = [torch.tensor([[8.0, 8, 40, 40]])], torch.rand(1, 16, 14, 14)
    none = [torch.zeros(0, 4)]
    with torch.no_grad():
        given, without = (emptied.segmenter(semantic, f, b, [(64, 64)]) for f, b in ((f_ins, boxes), (f_ins[:0], none)))
        of_sim = sim.segmenter(semantic, f_ins[:0], none, [(64, 64)])
        assert torch.equal(given, without) and torch.equal(given, of_sim)
        assert not torch.equal(sim.segmenter(semantic, f_ins, boxes, [(64, 64)]), of_sim)
    assert [len(each) for each in made.segmenter.inlay_boxes([torch.rand(5, 4)] * 20)] == [0] * 20


def test_read_outs_learn_and_nothing_else_does(model: BANet) -> None:
    learning = replace(LEARNING, iterations=25, warmup=1, batch_size=2, lr=0.03)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    cache = claim_read_outs.training_features(model, Scenes(5, 6, (64, 64)))
    assert {len(features.boxes) for features, _ in cache} != {0}
    for arm in (FIRST.read_outs[0], FIRST.read_outs[1], FIRST.read_outs[-1]):
        torch.manual_seed(0)
        module = read_out(arm, TINY, SCENE_CATEGORIES)
        first = claim_read_outs.learn(module, cache, 0, learning)
        torch.manual_seed(0)
        again = read_out(arm, TINY, SCENE_CATEGORIES)
        assert claim_read_outs.learn(again, cache, 0, learning) == first, arm.name
        one_step = replace(learning, iterations=1)
        assert first < 0.8 * claim_read_outs.learn(read_out(arm, TINY, SCENE_CATEGORIES), cache, 0, one_step), arm.name
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_a_validation_scene_is_what_the_trunk_itself_sees(model: BANet) -> None:
    scenes = Scenes(6, 2, (64, 64))
    found = claim_read_outs.validation_features(model, scenes)
    for index, seen in enumerate(found):
        image, truth = scenes.read(index)
        with torch.no_grad():
            output = model([preprocess(image, model.inference)])
            boxes = claim_read_outs._selected(model, output, 0.0)
            logits = model.segmenter(output.semantic, seen.found.f_ins.float(), [seen.found.boxes], [seen.size])
        assert torch.equal(logits, output.logits) and np.array_equal(seen.truth.ids, truth.ids)
        assert len(seen.true.boxes) == len(scenes[index].target.boxes)
        assert len(boxes) >= len(seen.found.boxes) and len(boxes) > 0


@pytest.fixture
def in_process(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Trainings run in this process; yields the recipes that were trained."""
    trained: list[str] = []

    def run(command: list[str]) -> int:
        trained.append(Path(command[-1]).stem)
        return claim.train_here(Path(command[-1]), Path(command[-2]))

    monkeypatch.setattr(claim, "run_slice", run)
    yield trained


@pytest.mark.slow
def test_a_study_goes_on_where_it_was_and_reports_what_there_is(
    tmp_path: Path, in_process: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    study = claim.Study(PLAN, TINY, tmp_path / "out", tmp_path / "lock")
    study.out.mkdir()
    study.claim()
    study.step_a()
    assert in_process == ["trunk_context_0", "trunk_control_0"]
    assert len(list(tmp_path.glob("out/a/*/*/seed0/figures.json"))) == 4
    (tmp_path / "out/a/context/first/seed0/figures.json").unlink()
    study.step_a()
    study.step_b()
    networks = ["baseline_context_0", "sim_emptied_context_0", "baseline_control_0"]
    assert in_process == ["trunk_context_0", "trunk_control_0", *networks]
    assert not list(tmp_path.rglob("checkpoints"))
    study.step_b()
    assert len(in_process) == 5
    docs = tmp_path / "docs"
    (docs / "studies" / "claim").mkdir(parents=True)
    (docs / "images").mkdir()
    write_report(PLAN, study.out, docs)
    page = (docs / "studies/claim/study_1.md").read_text()
    assert "Step A, context: 2 of 2 read-outs" in page and "Step B, context: 2 of 2 runs" in page
    figures = json.loads((docs / "studies/claim/study_1.json").read_text())
    assert set(figures) == {"trunk", "a-context", "a-control", "b-context", "b-control"}
    assert "AP" in figures["b-context"]["figures"]["heuristic-218"]["baseline"]
    assert (docs / "images/claim_1.png").stat().st_size > 1000
    _check_why(study.out, monkeypatch)


def _check_why(study: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The networks of a study taken apart: each measurement is kept, and none is made twice."""
    monkeypatch.setattr(claim_why, "SIZE", (64, 64))
    monkeypatch.setattr(claim_why, "STEPS", (1, 2))
    monkeypatch.setattr(claim_why, "LEARNING", replace(LEARNING, batch_size=2))
    for name in ("LOGITS_SCENES", "LONGER_SCENES", "READ_OUT_SCENES"):
        monkeypatch.setattr(claim_why, name, (21, 2))
    monkeypatch.setattr(claim_why, "GRADIENT_SCENES", (22, 4))
    kept = claim_why.Kept(study / "why")
    claim_why.measure(study, kept, [0])
    content, lines = claim_why.report(kept)
    assert set(content["logits"]["sim_emptied-0"]) == {"first", "final"}
    assert set(content["logits"]["baseline-0"]) == {"first"}
    assert content["gradients"]["baseline-0"]["semantic"] > 0 == content["gradients"]["baseline-0"]["instance"]
    assert len(content["longer"]) == 2 * len(claim_why.READ_OUTS)
    assert sum(line.startswith("|") for line in lines) == 2 * 3 + 3 + 1 + 2 * len(claim_why.READ_OUTS)
    monkeypatch.setattr(claim_why, "read_out_part", None)
    monkeypatch.setattr(claim_why, "logits_part", None)
    claim_why.measure(study, kept, [0])


@pytest.mark.slow
def test_networks_of_the_second_study_start_from_its_read_outs(tmp_path: Path, in_process: list[str]) -> None:
    plan = _small(2, ("whole", "sim_emptied"), ("sim_ocm", "sim_emptied"))
    study = claim.Study(plan, TINY, tmp_path / "out", None)
    with pytest.raises(SystemExit, match="is missing; run --step a first"):
        study.step_b()
    study.step_a()
    study.step_b()
    assert in_process == ["trunk_context_0", "trunk_control_0", "whole_context_10", "sim_emptied_context_10"]
    assert len(list(study.out.glob("a/context/*/*/figures.json"))) == 2  # SIM without boxes: on context data only
    assert len(list(study.out.glob("a/control/*/*/figures.json"))) == 1
    fitted = load_file(study.out / "a/context/sim_ocm/seed10/read_out.safetensors")
    trained = BANet.from_pretrained(study.out / "b/context/whole/seed10/model.safetensors").segmenter.state_dict()
    # One step of a warm-up moves it hardly; random weights would be elsewhere.
    assert all(
        torch.allclose(trained[name], tensor, atol=1e-3) for name, tensor in fitted.items() if "first" not in name
    )
    assert not list(study.out.rglob("start.safetensors"))


def test_a_study_does_not_go_on_with_another_recipe(tmp_path: Path) -> None:
    claim.Study(PLAN, TINY, tmp_path, None).claim()
    claim.Study(PLAN, TINY, tmp_path, None).claim()
    with pytest.raises(SystemExit, match="began with another recipe; go on with a checkout"):
        claim.Study(PLAN, replace(TINY, loss=replace(TINY.loss, box_beta=0.5)), tmp_path, None).claim()
    (tmp_path / "older" / "recipes").mkdir(parents=True)
    with pytest.raises(SystemExit, match="began with another recipe"):
        claim.Study(PLAN, TINY, tmp_path / "older", None).claim()


def test_a_training_gives_up_the_lock_and_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    statuses = iter([130, 130, 0])
    monkeypatch.setattr(claim, "run_slice", lambda command: next(statuses))
    monkeypatch.setattr(claim.time, "sleep", lambda seconds: None)
    (tmp_path / "run").mkdir()
    study = claim.Study(PLAN, TINY, tmp_path, None)
    study.train(TINY, tmp_path / "run")
    assert next(statuses, None) is None
    monkeypatch.setattr(claim, "run_slice", lambda command: 2)
    (tmp_path / "other").mkdir()
    with pytest.raises(SystemExit, match="training ended with 2"):
        study.train(TINY, tmp_path / "other")


def test_a_slice_ends_a_program_by_sigterm(monkeypatch: pytest.MonkeyPatch) -> None:
    assert claim.run_slice([sys.executable, "-c", "raise SystemExit(7)"]) == 7
    monkeypatch.setattr(claim, "SLICE", 1.5)
    saves = "import signal, sys, time; signal.signal(signal.SIGTERM, lambda *_: sys.exit(130)); time.sleep(60)"
    assert claim.run_slice([sys.executable, "-c", saves]) == 130
    assert claim.run_slice([sys.executable, "-c", "import time; time.sleep(60)"]) == 130

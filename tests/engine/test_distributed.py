"""Runs of several real processes (gloo, CPU)."""

from __future__ import annotations

import csv
import json
import os
import signal
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from factories import TINY, with_train
from lightning.pytorch.loops.fit_loop import _FitLoop
from own_processes import command, end_together, member, run, run_together
from safetensors.torch import load_file

from banet import BANet
from banet.cli import main
from banet.data.samples import Sample
from banet.data.scenes.generate import write_coco
from banet.engine.evaluation.evaluate import _join, evaluate
from banet.engine.evaluation.evaluation_data import scene_data
from banet.engine.options import load_recipe
from banet.engine.recipe import Recipe, SplitConfig
from banet.engine.training.datasets import InfiniteDataset, training_set
from banet.engine.training.task import TrainingTask
from banet.engine.training.train import build_for_training
from banet.panoptic.metrics.quality import to_json

pytestmark = pytest.mark.usefixtures("one_thread")

STEPS = 20
ONE_SIZE = replace(TINY, data=replace(TINY.data, crop=(1.0, 1.0)))


def mean_of_single_images(recipe: Recipe) -> dict[str, torch.Tensor]:
    """Weights after steps along the mean of the gradients of two images, each computed alone in this process."""
    dataset = training_set(recipe.data)
    task = TrainingTask(build_for_training(recipe, dataset), recipe.resolved())
    configured = task.configure_optimizers()
    optimizer, schedule = configured["optimizer"], configured["lr_scheduler"]["scheduler"]
    draws = InfiniteDataset(dataset, recipe.train.seed)
    for step in range(recipe.train.iterations):
        optimizer.zero_grad()
        for draw in (2 * step, 2 * step + 1):
            sample: list[Sample] = [draws[draw]]
            task._seed_sampling(sample, step)
            losses = task.model.losses([s.image for s in sample], [s.target for s in sample])
            (sum(losses.values()) / 2).backward()  # type: ignore[union-attr]
        optimizer.step()
        schedule.step()
    return task.model.state_dict()


def assert_same_steps(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor], start: BANet) -> None:
    for name, before in start.state_dict().items():
        torch.testing.assert_close(theirs[name], ours[name], rtol=1e-4, atol=1e-6, msg=name)
        assert not torch.equal(theirs[name], before), f"{name} did not move"


def test_two_processes_step_along_the_mean_of_their_gradients(tmp_path: Path) -> None:
    recipe = with_train(ONE_SIZE, optimizer="sgd", lr=0.02, ema=0.0, iterations=STEPS, checkpoint_every=STEPS)
    said = run_together(command(recipe, tmp_path / "out")[3:], 2, tmp_path / "said")
    assert "batch: 2 in all, 1 per device" in said and said.count("iterations:") == 1
    start = build_for_training(recipe, training_set(recipe.data))
    assert_same_steps(mean_of_single_images(recipe), load_file(tmp_path / "out" / "model.safetensors"), start)


def test_a_process_without_objects_neither_hangs_nor_fails(tmp_path: Path) -> None:
    write_coco(tmp_path / "data", seed=3, count=2, size=(64, 64))
    path = tmp_path / "data" / "panoptic.json"
    content = json.loads(path.read_text())
    things = {c["id"] for c in content["categories"] if c["isthing"]}
    for segment in content["annotations"][0]["segments_info"]:
        segment["iscrowd"] = int(segment["category_id"] in things)  # crowd is not an object to learn from
    path.write_text(json.dumps(content))
    split = SplitConfig("images", "panoptic", "panoptic.json")
    data = replace(ONE_SIZE.data, kind="coco", root=str(tmp_path / "data"), train=split, val=split)
    recipe = replace(with_train(ONE_SIZE, optimizer="sgd", lr=0.02, ema=0.0, iterations=3), data=data)
    assert [len(training_set(data)[row].target.boxes) > 0 for row in (0, 1)] == [False, True]
    done = run(command(recipe, tmp_path / "out", processes=2))
    assert done.returncode == 0, done.stderr
    start = build_for_training(recipe, training_set(recipe.data))
    assert_same_steps(mean_of_single_images(recipe), load_file(tmp_path / "out" / "model.safetensors"), start)


def test_a_run_goes_on_in_another_number_of_processes(tmp_path: Path) -> None:
    recipe = with_train(ONE_SIZE, lr=0.001, ema=0.5, checkpoint_every=1)
    counts = {2: 1, 4: 2, 6: 1}  # processes by the iterations at the end
    for done, processes in counts.items():
        line = command(with_train(recipe, iterations=done), tmp_path / "out", "--resume", "auto")[3:]
        said = run_together(line, processes, tmp_path / f"said_{done}")
        assert f"batch: 2 in all, {2 // processes} per device" in said
        assert done == 2 or f"going on from {done - 2}" in said
        last = torch.load(tmp_path / "out" / "checkpoints" / "last.ckpt", weights_only=True)
        assert last["global_step"] == done
    with (tmp_path / "out" / "log" / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    steps = [int(row["step"]) for row in rows if row.get("loss")]
    assert steps == sorted(set(steps)) and len(steps) == max(counts)  # none twice, none lost
    weights = load_file(tmp_path / "out" / "model.safetensors")
    assert all(bool(torch.isfinite(each).all()) for each in weights.values())


def assert_same(one: object, other: object, where: str) -> None:
    """JSON contents that agree but for the order in which floats were added."""
    if isinstance(one, dict) and isinstance(other, dict):
        assert one.keys() == other.keys(), where
        for key in one:
            assert_same(one[key], other[key], f"{where}: {key}")
    else:
        assert one == (pytest.approx(other) if isinstance(other, float) else other), where


@pytest.mark.parametrize("batch", ["1", "2"])
def test_two_processes_evaluate_as_one_does(tmp_path: Path, batch: str) -> None:
    write_coco(tmp_path / "data", seed=8, count=5, size=(96, 96))
    data = tmp_path / "data"
    options = ["--images", str(data / "images"), "--panoptic", str(data / "panoptic")]
    options += ["--json", str(data / "panoptic.json"), "--device", "cpu", "--batch", batch, "--inference.shorter", "96"]
    assert main(["evaluate", "scenes", *options, "--out", str(tmp_path / "one")]) == 0
    said = run_together(["evaluate", "scenes", *options, "--out", str(tmp_path / "two")], 2, tmp_path / "said")
    assert said.count("AP_mask") == 1 and "2 x cpu" in said
    for name in ("metrics.json", "panoptic.json"):
        one, two = (json.loads((tmp_path / folder / name).read_text()) for folder in ("one", "two"))
        assert_same(one, two, name)
    assert len(one["annotations"]) == 5
    pngs = [sorted(p.name for p in (tmp_path / folder / "panoptic").iterdir()) for folder in ("one", "two")]
    assert pngs[0] == pngs[1] and not list((tmp_path / "two").glob(".panoptic*"))


def test_two_processes_measure_each_image_once(tmp_path: Path) -> None:
    scenes = load_recipe("scenes_r18")
    recipe = with_train(
        scenes, init="scenes", iterations=1, batch_size=2, lr=0.0, weight_decay=0.0, val_every=1, ema=0.0
    )
    model = BANet.from_pretrained("scenes")  # of an earlier recipe
    recipe = replace(
        recipe,
        data=replace(recipe.data, val_scenes=3, workers=0),
        model=replace(recipe.model, ocm_relu=False),
        inference=model.inference,
    )
    run_together(command(recipe, tmp_path / "out")[3:], 2, tmp_path / "said")
    alone = evaluate(model, scene_data(2, 3, 256))
    with (tmp_path / "out" / "log" / "metrics.csv").open() as file:
        measured = [row for row in csv.DictReader(file) if row["val/pq"]]
    assert len(measured) == 1 and alone["All"]["pq"] > 0.3
    for column, subset in (("val/pq", "All"), ("val/pq_th", "Things"), ("val/pq_st", "Stuff")):
        assert float(measured[0][column]) == pytest.approx(100 * to_json(alone)[subset]["pq"], abs=1e-4)


def test_parts_of_several_processes_are_joined_whatever_their_ids(tmp_path: Path) -> None:
    for name, ids in (("a", ["b", 5]), ("b", ["5", -1, "a"])):
        content = {"images": [{"id": i} for i in ids], "annotations": [{"image_id": i} for i in ids], "categories": []}
        (tmp_path / name).write_text(json.dumps(content))
    _join([tmp_path / "a", tmp_path / "b"], tmp_path / "panoptic.json")
    joined = json.loads((tmp_path / "panoptic.json").read_text())
    assert [one["id"] for one in joined["images"]] == [-1, 5, "5", "a", "b"]
    assert [one["image_id"] for one in joined["annotations"]] == [-1, 5, "5", "a", "b"]


def _first_ends_early(arguments: list[str], rank: int, world: int, port: int, said: Path) -> None:
    real = _FitLoop.setup_data

    def end(loop: _FitLoop) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        real(loop)

    if rank == 0:
        _FitLoop.setup_data = end  # type: ignore[method-assign]
    member(arguments, rank, world, port, said)


@pytest.mark.parametrize("processes", [1, 2])
def test_sigterm_before_the_first_iteration_ends_a_run(processes: int, tmp_path: Path) -> None:
    """The process that got it: not with status 0, and without waiting for the others."""
    line = command(with_train(ONE_SIZE, iterations=2), tmp_path / "out")[3:]
    codes, texts = end_together(_first_ends_early, line, processes, tmp_path / "said", seconds=60)
    assert codes[0] == -signal.SIGTERM, texts
    assert not (tmp_path / "out" / "model.safetensors").exists()

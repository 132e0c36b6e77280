"""Training, its resumption, and what it refuses; then measuring and predicting with what was trained."""

from __future__ import annotations

import csv
import json
import os
import signal
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from factories import TINY, with_train
from PIL import Image
from safetensors.torch import load_file

from banet import BANet
from banet.checkpoint.checkpoint import read_checkpoint
from banet.cli import main
from banet.data.samples import Sample
from banet.data.scenes.generate import write_coco
from banet.engine.evaluation.evaluate import evaluate, evaluate_command
from banet.engine.evaluation.evaluation_data import open_validation, scene_data
from banet.engine.options import load_recipe
from banet.engine.prediction.predict import predict_files
from banet.engine.recipe import DataConfig, SplitConfig, TrainConfig, to_yaml
from banet.engine.report.demo import run_demo
from banet.engine.training.datasets import InfiniteDataset, tall_images, training_set
from banet.engine.training.task import TrainingTask, learning_rate_factor
from banet.engine.training.train import build_for_training, train
from banet.engine.training.trainer import ProgressBar, _loggers
from banet.errors import InputError, MissingExtraError
from banet.files.outputs import RECORD
from banet.panoptic.metrics.quality import score_folders, to_json

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def run(one_thread: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("run") / "tiny"
    train(with_train(TINY, val_every=4), out, device="cpu")
    return out


def test_a_run_leaves_weights_recipe_log_and_checkpoints(run: Path) -> None:
    kept = {p.name for p in run.iterdir() if p.name not in (".lock", RECORD)}
    weights = {"model.safetensors", "best.safetensors"}
    assert kept == {*weights, "recipe.yaml", "log", "checkpoints", "README.md", "curves.png"}
    assert [p.name for p in (run / "checkpoints").iterdir()] == ["last.ckpt"]
    # Measured after the last iteration, so the best weights are the last, averaged ones.
    best, final = (load_file(run / f"{name}.safetensors") for name in ("best", "model"))
    assert all(torch.equal(best[name], final[name]) for name in final)
    log = (run / "log" / "metrics.csv").read_text()
    assert all(name in log for name in ("loss_i2s", "loss_rpn_box", "val/pq_th", "lr-AdamW"))
    assert "group" in (run / "recipe.yaml").read_text()  # `auto` is resolved
    assert BANet.from_pretrained(run).inference == TINY.inference


def test_the_log_has_one_line_for_each_iteration_and_is_plotted(run: Path) -> None:
    with (run / "log" / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    steps = [row["step"] for row in rows]
    assert steps == sorted(set(steps), key=int) and len(steps) == TINY.train.iterations
    assert all(row["loss"] and row["lr-AdamW/pg1"] for row in rows) and rows[-1]["val/pq"]
    with Image.open(run / "curves.png") as image:
        assert image.format == "PNG" and image.width > 1000  # losses, and PQ beside them


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["--epochs", "0"], "--epochs 0: must be more than 0"),
        (["--epochs", "-1"], "--epochs -1: must be more than 0"),
        (["--epochs", "2", "--train.iterations", "5"], "both say how long to train; give one"),
    ],
)
def test_epochs_that_do_not_fit_are_refused(given: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "--config", "scenes_r18", *given]) == 2
    assert said in capsys.readouterr().err


def test_epochs_are_iterations_once_the_images_are_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert TrainConfig(batch_size=4, epochs=1.5).for_images(10).iterations == 4
    long = TrainConfig(batch_size=16, epochs=12).for_images(118_287)
    assert (long.iterations, long.milestones, long.epochs) == (88_715, (59_143, 78_858), 0)
    assert TrainConfig().for_images(7) == TrainConfig()
    recipe = with_train(replace(TINY, data=replace(TINY.data, train_scenes=4)), epochs=1.0, batch_size=2)
    train(recipe, tmp_path / "run", device="cpu", measure=False)
    assert "iterations: 2 (1.00 epochs)" in capsys.readouterr().out
    assert load_recipe(str(tmp_path / "run" / "recipe.yaml")).train.iterations == 2


def test_no_more_workers_than_cpus_and_no_warning(tmp_path: Path) -> None:
    recipe = with_train(replace(TINY, data=replace(TINY.data, workers=64)), iterations=1)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        train(recipe, tmp_path / "run", device="cpu", measure=False)
    assert not [str(warning.message) for warning in said if "worker" in str(warning.message)]


def test_frozen_stages_of_weights_of_this_library_do_not_learn(run: Path, tmp_path: Path) -> None:
    weights = str(run / "model.safetensors")
    recipe = with_train(replace(TINY, model=replace(TINY.model, frozen_stages=3)), init=weights, iterations=1)
    train(recipe, tmp_path / "run", device="cpu", measure=False)
    before, after = load_file(weights), load_file(tmp_path / "run" / "model.safetensors")
    changed = {
        name.split(".")[2]
        for name in before
        if name.startswith("backbone.body") and not torch.equal(before[name], after[name])
    }
    assert changed == {"layer3", "layer4"}


def test_the_bar_goes_on_where_the_run_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    bars: list[tuple[int, int, int]] = []
    start = ProgressBar._start

    def note(self: ProgressBar, trainer: Any) -> None:
        start(self, trainer)
        bars.append((self.train_progress_bar.n, self.train_progress_bar.initial, self.train_progress_bar.total))

    monkeypatch.setattr(ProgressBar, "_start", note)
    train(with_train(TINY, iterations=2), tmp_path / "run", device="cpu", measure=False)
    assert set(bars) == {(0, 0, 2)}
    bars.clear()
    train(with_train(TINY, iterations=4), tmp_path / "run", device="cpu", measure=False, resume="auto")
    assert set(bars) == {(2, 2, 4)}
    # The line before the first iteration has an end, and the one after it a time.
    said = capsys.readouterr()
    lines = said.err.replace("\r", "\n").splitlines()
    assert any("2/4" in line for line in lines) and any("3/4" in line and "<00:" in line for line in lines)
    assert "Training" not in said.out


@pytest.mark.parametrize(("val_every", "moments"), [(0, [4]), (3, [3, 4]), (9, [4])])
def test_a_run_is_measured_at_its_end_and_has_a_card(tmp_path: Path, val_every: int, moments: list[int]) -> None:
    out = tmp_path / "run"
    train(with_train(TINY, val_every=val_every), out, device="cpu")
    with (out / "log" / "metrics.csv").open() as file:
        measured = {int(row["step"]) + 1: float(row["val/pq"]) for row in csv.DictReader(file) if row["val/pq"]}
    assert list(measured) == moments
    model = BANet.from_pretrained(out)
    pq = evaluate(model, open_validation(TINY.data))["All"]["pq"]
    assert measured[4] == pytest.approx(100 * pq, abs=1e-4)
    assert f"**PQ:** {measured[4]:.2f} on the validation split" in (out / "README.md").read_text()
    assert (out / "best.safetensors").exists() == (val_every > 0)


@pytest.mark.parametrize("measure", [True, False])
def test_without_a_validation_split_the_card_says_so(tmp_path: Path, measure: bool) -> None:
    write_coco(tmp_path / "data", seed=6, count=2, size=(64, 64))
    split = SplitConfig("images", "panoptic", "panoptic.json")
    val = SplitConfig("nowhere", "nowhere", "nowhere.json" if not measure else "")
    recipe = replace(TINY, data=replace(TINY.data, kind="coco", root=str(tmp_path / "data"), train=split, val=val))
    train(with_train(recipe, iterations=1), tmp_path / "run", device="cpu", measure=measure)
    assert "**PQ:** not measured" in (tmp_path / "run" / "README.md").read_text()
    missing = replace(recipe, data=replace(recipe.data, val=SplitConfig("nowhere", "nowhere", "nowhere.json")))
    with pytest.raises(InputError, match=r"nowhere.*--data\.val\.json '' to train without a measurement"):
        train(missing, tmp_path / "other", device="cpu")


def test_a_class_of_which_all_segments_are_crowd_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_coco(tmp_path / "data", seed=6, count=4, size=(64, 64))
    path = tmp_path / "data" / "panoptic.json"
    content = json.loads(path.read_text())
    segments = [s for annotation in content["annotations"] for s in annotation["segments_info"]]
    things = {c["id"]: c["name"] for c in content["categories"] if c["isthing"]}
    counts = {id: sum(s["category_id"] == id for s in segments) for id in things}
    twice = [id for id, count in counts.items() if count > 1]
    for segment in segments:
        segment["iscrowd"] = int(segment["category_id"] == twice[0])
    next(s for s in segments if s["category_id"] == twice[1])["iscrowd"] = 1  # one of several: nothing to say
    path.write_text(json.dumps(content))
    split = SplitConfig("images", "panoptic", "panoptic.json")
    for copy_paste in (0.0, 0.5):
        data = replace(TINY.data, kind="coco", root=str(tmp_path / "data"), train=split, copy_paste=copy_paste)
        out = tmp_path / f"run{copy_paste}"
        train(with_train(replace(TINY, data=data), iterations=1), out, device="cpu", measure=False)
        warnings = [line for line in capsys.readouterr().out.splitlines() if "can be learnt" in line]
        assert len(warnings) == 1
        assert f"{things[twice[0]]}: 0 of {counts[twice[0]]} instances can be learnt" in warnings[0]


def test_a_folder_with_a_run_is_not_overwritten(run: Path) -> None:
    before = (run / "model.safetensors").read_bytes()
    with pytest.raises(InputError, match="--resume auto"):
        train(TINY, run, device="cpu")
    assert (run / "model.safetensors").read_bytes() == before
    with pytest.raises(InputError, match="no such checkpoint"):
        train(TINY, run, resume=str(run / "nothing.ckpt"), device="cpu")


@pytest.fixture(scope="module")
def whole(one_thread: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An undisturbed run."""
    out = tmp_path_factory.mktemp("whole") / "run"
    train(TINY, out, device="cpu", resume="auto")
    return out


def test_a_resumed_run_ends_as_an_undisturbed_one(tmp_path: Path, whole: Path) -> None:
    parts = tmp_path / "parts"
    # The schedule must be that of the whole run, so the first part ends by its checkpoint.
    train(with_train(TINY, iterations=2), parts, device="cpu")
    train(TINY, parts, resume="auto", device="cpu")
    one, other = (load_file(folder / "model.safetensors") for folder in (whole, parts))
    for name in one:
        torch.testing.assert_close(one[name], other[name], rtol=1e-5, atol=1e-6, msg=name)
    states = [torch.load(f / "checkpoints" / "last.ckpt", weights_only=True) for f in (whole, parts)]
    assert states[0]["global_step"] == states[1]["global_step"] == 4


def test_a_run_begun_before_an_option_keeps_what_it_did_then(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Resumed with the recipe of today, whose default is another; the run's own recipe does not know the option."""
    out = tmp_path / "run"
    before = replace(TINY, model=replace(TINY.model, ocm_relu=False), loss=replace(TINY.loss, box_beta=1 / 9))
    train(with_train(before, iterations=2), out, device="cpu", measure=False)
    kept = out / "recipe.yaml"
    lines = kept.read_text().splitlines(keepends=True)
    kept.write_text("".join(line for line in lines if "ocm_relu" not in line and "box_beta" not in line))
    train(TINY, out, resume="auto", device="cpu", measure=False, overwrite=True)
    told = capsys.readouterr().out
    assert "model.ocm_relu: False, as this run began before the option existed; start another to have True" in told
    assert "loss.box_beta: 0.111" in told
    assert read_checkpoint(out).config.ocm_relu is False
    resumed = load_recipe(str(kept))
    assert (resumed.model.ocm_relu, resumed.loss.box_beta) == (False, 1 / 9)
    other = tmp_path / "other"
    train(with_train(TINY, iterations=2), other, device="cpu", measure=False)
    train(TINY, other, resume="auto", device="cpu", measure=False)
    assert "before the option existed" not in capsys.readouterr().out
    assert read_checkpoint(other).config.ocm_relu is True


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_is_saved_after_its_step_and_goes_on(
    number: signal.Signals, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, whole: Path
) -> None:
    parts = tmp_path / "parts"
    recipe = with_train(TINY, checkpoint_every=100)
    step = TrainingTask.training_step

    def interrupted(self: TrainingTask, batch: list[Sample], batch_index: int) -> torch.Tensor:
        if batch_index == 1:
            signal.raise_signal(number)
        return step(self, batch, batch_index)

    before = signal.getsignal(number)
    with monkeypatch.context() as patch:
        patch.setattr(TrainingTask, "training_step", interrupted)
        with pytest.raises(KeyboardInterrupt, match="stopped at iteration 2; go on with --resume auto"):
            train(recipe, parts, device="cpu")
    assert signal.getsignal(number) is before and not (parts / "model.safetensors").exists()
    train(recipe, parts, resume="auto", device="cpu")
    one, other = (load_file(folder / "model.safetensors") for folder in (whole, parts))
    for name in one:
        torch.testing.assert_close(one[name], other[name], rtol=1e-5, atol=1e-6, msg=name)


def test_training_moves_every_part(run: Path) -> None:
    torch.manual_seed(0)
    trained = load_file(run / "model.safetensors")
    fresh = build_for_training(TINY, training_set(TINY.data)).state_dict()
    still = [name for name in fresh if torch.equal(fresh[name], trained[name])]
    assert not still


def test_a_loss_that_is_not_finite_stops_the_run_and_names_the_images(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"iteration \d+: loss_.* not finite on 0001_.*png; lower --train.lr"):
        train(with_train(TINY, lr=1e20, warmup=0, iterations=20, optimizer="sgd"), tmp_path, device="cpu")
    assert not (tmp_path / "model.safetensors").exists()


def test_batch_must_fit_the_passes(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="multiple"):
        with_train(TINY, accumulate=3)


def test_missing_data_and_weights_are_named(tmp_path: Path) -> None:
    coco = replace(TINY, data=DataConfig(root=str(tmp_path / "nowhere")))
    with pytest.raises(InputError, match="nowhere"):
        train(coco, tmp_path / "out", device="cpu")
    with pytest.raises(InputError, match="no such weights"):
        train(with_train(TINY, init="missing.safetensors"), tmp_path / "out", device="cpu")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("workers", [0, 1])
def test_a_damaged_image_is_named_in_one_line(tmp_path: Path, workers: int) -> None:
    write_coco(tmp_path / "data", seed=6, count=2, size=(64, 64))
    for image in (tmp_path / "data" / "images").iterdir():
        image.write_bytes(image.read_bytes()[:300])
    split = SplitConfig("images", "panoptic", "panoptic.json")
    data = replace(TINY.data, kind="coco", root=str(tmp_path / "data"), train=split, val=split, workers=workers)
    with pytest.raises(InputError, match=r"^\S+\.png: is truncated or corrupt[^\n]*$"):
        train(replace(TINY, data=data), tmp_path / "out", device="cpu")


def test_a_draw_is_a_function_of_seed_and_number() -> None:
    data = TINY.data
    a, b, other = (
        InfiniteDataset(training_set(data), 0),
        InfiniteDataset(training_set(data), 0),
        InfiniteDataset(training_set(data), 1),
    )
    assert [a.index(n) for n in range(5)] != list(range(5)) and sorted(a.index(n) for n in range(5)) == list(range(5))
    late = b[7]  # out of order
    torch.rand(3)
    assert torch.equal(a[7].image, late.image) and torch.equal(a[7].target.boxes, late.target.boxes)
    assert [a.index(n) for n in range(20)] != [other.index(n) for n in range(20)]


def test_batches_are_of_one_orientation_and_complete() -> None:
    tall = np.random.default_rng(0).random(103) < 0.3
    draws = InfiniteDataset([None] * 103, 5, batch=8, tall=tall)  # type: ignore[arg-type]
    rows = np.array([draws.index(n) for n in range(8 * 200)]).reshape(-1, 8)
    assert all(len(set(tall[batch].tolist())) == 1 for batch in rows)
    per_epoch = int(tall.sum()) // 8 + int((~tall).sum()) // 8
    for epoch in range(3):
        drawn = rows[epoch * per_epoch : (epoch + 1) * per_epoch].ravel()
        assert len(set(drawn.tolist())) == len(drawn) > 103 - 16
    assert len(set(rows.ravel().tolist())) == 103  # what one epoch leaves out comes in another
    orders = ["".join("t" if tall[b[0]] else "w" for b in rows[k * per_epoch :][:per_epoch]) for k in range(9)]
    assert len(set(orders)) > 5
    again = InfiniteDataset([None] * 103, 5, batch=8, tall=tall)  # type: ignore[arg-type]
    assert [again.index(n) for n in (700, 3)] == [rows.ravel()[700], rows.ravel()[3]]
    plain = InfiniteDataset([None] * 103, 5)  # type: ignore[arg-type]
    for alike in (np.zeros(103, bool), np.ones(103, bool)):
        same = InfiniteDataset([None] * 103, 5, batch=8, tall=alike)  # type: ignore[arg-type]
        assert [same.index(n) for n in range(300)] == [plain.index(n) for n in range(300)]
    few = InfiniteDataset([None] * 5, 5, batch=8, tall=tall[:5])  # type: ignore[arg-type]
    assert sorted(few.index(n) for n in range(5)) == list(range(5))
    rare = InfiniteDataset([None] * 210, 5, batch=16, tall=np.arange(210) < 10)  # type: ignore[arg-type]
    assert sorted(rare.index(n) for n in range(210)) == list(range(210))


def test_orientation_comes_from_the_sizes_in_the_json(tmp_path: Path) -> None:
    write_coco(tmp_path, seed=6, count=2, size=(64, 48))
    split = SplitConfig("images", "panoptic", "panoptic.json")
    data = replace(TINY.data, kind="coco", root=str(tmp_path), train=split, val=split)
    tall = tall_images(training_set(data), data)
    assert tall is not None and tall.tolist() == [True, True]
    assert tall_images(training_set(data), replace(data, crop_size=32)) is None
    assert tall_images(training_set(TINY.data), TINY.data) is None


def test_schedules() -> None:
    steps = TrainConfig()
    assert learning_rate_factor(0, steps) == pytest.approx(0.1)  # 0.002 of 0.02
    assert learning_rate_factor(250, steps) == pytest.approx(0.55)
    factors = [learning_rate_factor(n, steps) for n in (500, 59_999, 60_000, 79_999, 80_000, 89_999)]
    assert factors == pytest.approx([1, 1, 0.1, 0.1, 0.01, 0.01])
    cosine = replace(steps, schedule="cosine", warmup=0)
    assert [learning_rate_factor(n, cosine) for n in (0, 45_000, 90_000)] == pytest.approx([1, 0.5, 0])


@pytest.mark.parametrize("batch", [1, 8, 32, 128])
def test_another_batch_sees_as_many_images_at_a_rate_in_proportion(batch: int) -> None:
    paper = load_recipe("coco_r50_1x", {"train.ema": 0.999, "train.val_every": 5000}).train
    train = load_recipe("coco_r50_1x", {"train.batch_size": batch, "train.ema": 0.999, "train.val_every": 5000}).train
    assert train.batch_size == batch and train.lr == pytest.approx(0.02 * batch / 16)
    for ours, theirs in zip((train.iterations, *train.milestones), (90_000, 60_000, 80_000), strict=True):
        assert ours * batch == pytest.approx(theirs * 16, abs=batch)
    assert train.checkpoint_every * batch == pytest.approx(paper.checkpoint_every * 16, abs=batch)
    assert (train.ema, train.val_every) == (0.999, 5000)  # given as well, so kept
    assert train.warmup == {1: 500, 8: 500, 32: 707, 128: 1414}[batch]


def test_a_resolved_recipe_does_not_scale_twice(tmp_path: Path) -> None:
    recipe = load_recipe("coco_r50_1x", {"train.batch_size": 64, "train.accumulate": 64, "train.lr": 0.3})
    assert recipe.train.lr == 0.3 and recipe.train.iterations == 22_500 and recipe.train.accumulate == 64
    (tmp_path / "coco_r50_1x.yaml").write_text(to_yaml(recipe))
    assert load_recipe(str(tmp_path / "coco_r50_1x.yaml")) == recipe
    back = load_recipe(str(tmp_path / "coco_r50_1x.yaml"), {"train.batch_size": 16, "train.accumulate": 1}).train
    assert (back.iterations, back.milestones) == (90_000, (60_000, 80_000))
    with pytest.raises(InputError, match=r"multiple of train\.accumulate"):
        load_recipe("coco_r50_1x", {"train.batch_size": 10, "train.accumulate": 4})


def test_the_first_lines_say_what_a_run_does(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train(
        with_train(TINY, iterations=2, batch_size=4, accumulate=2, milestones=(1,), lr=0.5e-3), tmp_path, device="cpu"
    )
    said = capsys.readouterr().out
    for line in (
        "weights: random; GroupNorm learns where batch norm statistics are missing",
        "tiny: 5 images, 11.2 M trainable parameters, 1 x cpu",
        "batch: 4 in all, 2 per device in each of 2 passes",
        "learning rate: 0.0005 after 2 iterations of warm-up, / 10 at 1",
        "iterations: 2 (1.60 epochs)",
    ):
        assert f"{line}\n" in said


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"precision": "16"}, "train.precision: 16 needs a GPU, this run is on cpu; set bf16 or 32"),
        ({"strategy": "fsdp", "ema": 0.0}, "train.strategy: fsdp needs GPUs"),
        ({"devices": 3}, "cannot be shared by 3 devices"),
    ],
)
def test_what_this_machine_cannot_do_is_refused(tmp_path: Path, options: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        train(with_train(TINY, **options), tmp_path, device="cpu")


def test_mixed_precision_and_a_profile(tmp_path: Path) -> None:
    train(with_train(TINY, precision="bf16", profiler="simple", iterations=1), tmp_path, device="cpu")
    assert "run_training_batch" in (tmp_path / "fit-profile.txt").read_text()
    assert all(t.dtype == torch.float32 for t in load_file(tmp_path / "model.safetensors").values())


@pytest.mark.parametrize("package", ["tensorboard", "wandb"])
def test_a_logger_that_is_not_installed_is_named(package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("banet.engine.training.trainer.find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=rf"needs {package}, .*pip install 'banet-panoptic\[{package}\]'"):
        train(with_train(TINY, loggers=("csv", package)), tmp_path, device="cpu")


def test_a_run_that_goes_to_wandb_is_reported_to_nobody_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("banet.engine.training.trainer.find_spec", lambda name: name)
    monkeypatch.setattr("banet.engine.training.trainer.WandbLogger", lambda **options: options)
    recipe = with_train(TINY, loggers=("wandb",))
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "true")
    _loggers(recipe, tmp_path, 0)
    assert os.environ["WANDB_ERROR_REPORTING"] == "true"  # the user's own choice
    monkeypatch.delenv("WANDB_ERROR_REPORTING")
    _loggers(recipe, tmp_path, 0)
    assert os.environ["WANDB_ERROR_REPORTING"] == "false"


# ----------------------------------------------------------------------------------------- measuring and predicting


@pytest.fixture(scope="module")
def split(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("split")
    write_coco(folder, seed=5, count=4, size=(64, 64))
    return folder


def test_evaluate_writes_what_pq_scores_the_same(run: Path, split: Path, tmp_path: Path) -> None:
    result = evaluate_command(
        str(run), recipe=None, rule=None, inference_overrides={}, batch_size=3, limit=None, device="cpu", out=tmp_path,
        split=SplitConfig(str(split / "images"), str(split / "panoptic"), str(split / "panoptic.json")), gallery=True,
    )  # fmt: skip
    again = score_folders(
        split / "panoptic.json", split / "panoptic", tmp_path / "panoptic.json", tmp_path / "panoptic"
    )
    assert to_json(again) == {k: v for k, v in to_json(result).items() if k in again}
    assert 0 <= result["ap"] <= 1 and 0 <= result["miou_stuff"] <= 1
    assert json.loads((tmp_path / "metrics.json").read_text())["All"]["n"] == result["All"]["n"] > 0
    assert list(tmp_path.glob("*.zip"))
    assert (tmp_path / "gallery.html").read_text(encoding="utf-8").count('class="image"') == 4


def test_a_perfect_answer_measures_one(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The truth in place of the network's word: AP, mIoU and PQ are 1, but for pasting at the network's own size."""
    from banet.inference import banet as module
    from banet.inference.postprocess import Instances, UnfusedPrediction
    from banet.panoptic import MaskCrops

    images, model = scene_data(9, 3, 64), BANet.from_pretrained(run)
    model.inference = replace(model.inference, stuff_area=0)
    current = iter([images[i].ground_truth for i in range(3)])
    shown: list[Instances] = []

    def perfect(output: object, image: np.ndarray, *unused: object) -> UnfusedPrediction:
        truth = next(current)
        things = [s for s in truth.segments if s.isthing]
        boxes = np.array([[0, 0, 64, 64]] * len(things), dtype=np.int64).reshape(-1, 4)
        masks = MaskCrops(boxes, [truth.ids == s.id for s in things], (64, 64))
        labels = model.categories.indices_of([s.category_id for s in things])
        shown.append(Instances(masks, np.ones(len(things)), labels, boxes.astype(np.float32)))
        return UnfusedPrediction(image, shown[-1], model.categories.indices_of(truth.semantic))

    monkeypatch.setattr(module, "postprocess", perfect)
    monkeypatch.setattr(module, "paste_instances", lambda *_: shown[-1])
    result = evaluate(model, images)
    assert result["All"]["pq"] == result["Stuff"]["rq"] == pytest.approx(1)
    assert result["ap"] == result["ap50"] == pytest.approx(1) and result["miou_stuff"] == pytest.approx(1)


def test_other_classes_are_refused(run: Path, split: Path, tmp_path: Path) -> None:
    content = json.loads((split / "panoptic.json").read_text())
    content["categories"][0]["name"] = "other"
    (tmp_path / "panoptic.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match="categories"):
        evaluate_command(
            str(run), recipe=None, rule=None, inference_overrides={}, batch_size=1, limit=1, device="cpu", out=None,
            split=SplitConfig(str(split / "images"), str(split / "panoptic"), str(tmp_path / "panoptic.json")),
        )  # fmt: skip


def test_predict_does_the_good_ones_and_names_the_bad(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    array = np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)
    Image.fromarray(array).save(folder / "a.png")
    Image.fromarray(array).save(folder / "a.jpg")
    (folder / "bad.png").write_bytes((folder / "a.png").read_bytes()[:200])
    assert predict_files(str(run), [str(folder)], tmp_path / "out", device="cpu", gallery=True) == 1
    written = {p.name for p in (tmp_path / "out").iterdir()} - {RECORD}
    assert len(written) == 9 and {"a.png", "a.json", "a_overlay.jpg", "gallery.html"} <= written
    assert (tmp_path / "out" / "gallery.html").read_text(encoding="utf-8").count('class="image"') == 2
    said = capsys.readouterr()
    assert "bad.png" in said.err and "2 of 3" in said.out and "person" in said.out
    with pytest.raises(InputError, match="nothing"):
        predict_files(str(run), [str(tmp_path / "nothing*.png")], tmp_path / "out", device="cpu")


def test_demo_shows_microscope_images_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_demo(tmp_path / "demo", scenes=1, device="cpu")
    text = (tmp_path / "demo" / "nuclei.html").read_text()
    assert text.count('class="image"') == 4 and "nucleus" in text and "://" not in text
    with Image.open(tmp_path / "demo" / "nuclei.png") as preview:
        assert preview.width == 5 * 320 + 4 * 6 and preview.height == 24 + 4 * 256 + 3 * 6
    said = capsys.readouterr().out
    assert said.count("Δ") == 6 and "scenes on 1 images" in said and "nuclei on 4 images" in said


def test_demo_writes_one_page(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = run_demo(tmp_path / "demo", weights=str(run), scenes=3)
    text = page.read_text()
    assert text.count('class="image"') == 3 and "heuristic fusion" in text and "://" not in text
    with Image.open(tmp_path / "demo" / "preview.png") as preview:
        assert preview.width == 5 * 64 + 4 * 6
    said = capsys.readouterr().out
    assert all(
        said.count(text) == 1
        for text in ("heuristic fusion", "appearance (occlusion handling)", "color-contour (occlusion handling)")
    )
    assert said.count("Δ") == 3
    assert not (tmp_path / "demo" / "nuclei.html").exists()  # given weights are for scenes

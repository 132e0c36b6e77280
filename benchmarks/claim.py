"""Does aggregation help? The studies of docs/studies/claim: ``python benchmarks/claim.py --step a --out DIR``.

`--step a` trains the trunks and the read-outs on top of them, `--step b` every arm from the trunk's weights, and
`--step report` writes what has been measured so far as JSON and Markdown, with the figure, to `--docs`. Killed and
started again, each goes on where it was: finished arms are not run again, an unfinished network goes on from its last
checkpoint. Only one training runs at a time: each waits for the lock `--lock`, gives it up every 15 minutes for
others that wait, and saves before that.

The folder keeps the recipe that its study began with. A package with another recipe, such as a later version, is
refused: go on with a checkout of the commit that began it.
"""

from __future__ import annotations

import argparse
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from claim_arms import Arm, arm_recipe, load_network, starting_network
from claim_measures import Counter, scores
from claim_plans import BASELINE, KINDS, PLANS, Plan
from claim_read_outs import READ_OUT, run_arm, training_features, validation_features
from claim_report import write_report
from harness import Report, parser, use_threads
from safetensors.torch import load_file
from torchvision.ops import box_iou
from tqdm import tqdm

from banet import BANet
from banet.data.scenes.generate import SCENE_CATEGORIES, Scenes
from banet.engine.evaluation.metrics import MaskAP
from banet.engine.options import load_recipe
from banet.engine.recipe import Recipe, to_yaml
from banet.engine.training.train import train
from banet.files.atomic import atomic_path, write_json

SLICE = 15 * 60
"""Seconds after which a training gives up the lock for a moment."""


@dataclass(frozen=True)
class Study:
    """One study in its folder.

    Attributes:
        plan: its numbers.
        recipe: what all networks have in common.
        out: the folder.
        lock: the file that trainings wait for, if any.
        threads: of a training.
        workers: processes that draw its scenes.
    """

    plan: Plan
    recipe: Recipe
    out: Path
    lock: Path | None
    threads: int = 1
    workers: int = 0

    def scenes(self, which: tuple[int, int], *, context: bool) -> Scenes:
        """Return the scenes of a seed and number."""
        seed, count = which
        side = self.recipe.data.scene_size
        return Scenes(seed, count, (side, side), context=context)

    def claim(self) -> None:
        """Keep the recipe in a new folder; refuse one whose study began with another, or with an older runner."""
        kept, text = self.out / "recipe.yaml", to_yaml(self.recipe)
        if not kept.is_file() and not (self.out / "recipes").is_dir():
            with atomic_path(kept) as temporary:
                temporary.write_text(text, encoding="utf-8")
        elif not kept.is_file() or kept.read_text(encoding="utf-8") != text:
            raise SystemExit(
                f"--out {self.out}: this study began with another recipe; go on with a checkout of the commit that"
                " began it, or choose another folder"
            )

    def train(self, recipe: Recipe, folder: Path) -> Path:
        """Train a network in a process of its own, unless it is trained; return its weights."""
        recipe = replace(recipe, data=replace(recipe.data, workers=self.workers))
        path = self.out / "recipes" / f"{recipe.name}.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(path) as temporary:
            temporary.write_text(to_yaml(recipe), encoding="utf-8")
        done = folder / "trained"
        while not done.is_file():
            with turn(self.lock):
                threads = ["--threads", str(self.threads)]
                status = run_slice(
                    [sys.executable, __file__, *threads, "--step", "train", "--out", str(folder), str(path)]
                )
            if status == 0:
                done.touch()
            elif status != 130:  # not interrupted: an error, which its own output tells
                raise SystemExit(f"{recipe.name}: training ended with {status}")
            else:
                time.sleep(5)
        return folder / "model.safetensors"

    def trunk(self, kind: str) -> Path:
        """Train the baseline until it finds enough boxes, or as often as the plan allows; return its weights."""
        plan, context = self.plan, KINDS[kind]
        weights: Path | None = None
        for turn_number in range(1 + plan.more_times):
            changes: dict[str, Any] = {"iterations": plan.trunk_iterations}
            if weights is not None:
                changes = {"iterations": plan.more_iterations, "init": str(weights)}
            recipe = arm_recipe(self.recipe, BASELINE, context=context, seed=plan.trunk_seed + turn_number, **changes)
            folder = self.out / "trunk" / kind / f"part{turn_number}"
            weights = self.train(replace(recipe, name=f"trunk_{kind}_{turn_number}"), folder)
            result = folder / "found.json"
            if not result.is_file():
                scenes = self.scenes(plan.gate_scenes, context=context)
                write_json(result, {"found": boxes_found(BANet.from_pretrained(weights), scenes)})
            shutil.rmtree(folder / "checkpoints", ignore_errors=True)
            if read_number(result, "found") >= plan.found_wanted:
                break
        assert weights is not None
        return weights

    def step_a(self) -> None:
        """Run every read-out on the trunk of either kind of data."""
        for kind, context in KINDS.items():
            weights = self.trunk(kind)
            jobs = [
                (seed, arm, self.out / "a" / kind / arm.name / f"seed{seed}")
                for seed in self.plan.read_out_seeds
                for arm in self.plan.read_outs
                if context or arm.control
            ]
            jobs = [job for job in jobs if not (job[2] / "figures.json").is_file()]
            if not jobs:
                continue
            model = BANet.from_pretrained(weights)
            with turn(self.lock):
                cache = training_features(model, self.scenes(self.plan.feature_scenes, context=context))
                validation = validation_features(model, self.scenes(self.plan.read_out_scenes, context=context))
            for seed, arm, folder in tqdm(jobs, desc=kind, unit="read-out", mininterval=10):
                with turn(self.lock):
                    run_arm(arm, seed, self.recipe, self.plan.learning, cache, validation, folder)

    def step_b(self) -> None:
        """Train and measure every arm from the trunk, in the order of the plan."""
        for arm, kind, seed in self.plan.runs():
            folder = self.out / "b" / kind / arm.name / f"seed{seed}"
            if not (folder / "figures.json").is_file():
                self.run_network(arm, seed, kind, folder)

    def run_network(self, arm: Arm, seed: int, kind: str, folder: Path) -> None:
        """Train and measure one arm; its JSON comes last, and says that all is there."""
        context, weights = KINDS[kind], self.trunk(kind)
        changes: dict[str, Any] = {"iterations": self.plan.arm_iterations, "init": str(weights)}
        recipe = arm_recipe(self.recipe, arm, context=context, seed=seed, **changes)
        if arm.start:
            start = folder / "start.safetensors"
            if not start.is_file():
                fitted = self.out / "a" / kind / arm.start / f"seed{seed}" / READ_OUT
                if not fitted.is_file():
                    raise SystemExit(f"--step b: {fitted} is missing; run --step a first")
                logits = load_file(fitted)
                folder.mkdir(parents=True, exist_ok=True)
                starting_network(arm, recipe, BANet.from_pretrained(weights), logits).save_pretrained(start)
            recipe = replace(recipe, train=replace(recipe.train, init=str(start)))
        trained = self.train(recipe, folder)
        with turn(self.lock):
            measure(load_network(arm, trained), self.scenes(self.plan.arm_scenes, context=context), folder)
        shutil.rmtree(folder / "checkpoints", ignore_errors=True)
        (folder / "start.safetensors").unlink(missing_ok=True)


@contextmanager
def turn(lock: Path | None) -> Iterator[None]:
    """Hold the lock that trainings share, as flock(1) takes it."""
    if lock is None:
        yield
        return
    import fcntl

    with lock.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def run_slice(command: list[str]) -> int:
    """Run a program for `SLICE` seconds at most; return its status, 130 where it was asked to stop and has saved."""
    process = subprocess.Popen(command)
    try:
        return process.wait(SLICE)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGTERM)
        status = process.wait()
        return 130 if status == -signal.SIGTERM else status  # so early that there was nothing to save
    finally:
        if process.poll() is None:
            process.terminate()
            process.wait()


def read_number(path: Path, field: str) -> float:
    """Return one number of a JSON file."""
    import json

    return float(json.loads(path.read_text(encoding="utf-8"))[field])


@torch.no_grad()
def boxes_found(model: BANet, scenes: Scenes) -> float:
    """Return the fraction of the true boxes that a panoptic instance of any class overlaps with IoU 0.5 or more."""
    found = total = 0
    for index in tqdm(range(len(scenes)), desc="boxes", unit="scene", mininterval=10):
        sample = scenes[index]
        boxes = model([sample.image]).detections[0].boxes.cpu()
        total += len(sample.target.boxes)
        if len(boxes) and len(sample.target.boxes):
            found += int((box_iou(sample.target.boxes, boxes).amax(1) >= 0.5).sum())
    return found / max(total, 1)


@torch.no_grad()
def measure(model: BANet, scenes: Scenes, folder: Path) -> None:
    """Count the scenes; write `counts.npz` and, at last, `figures.json`."""
    counter, ap = Counter(), MaskAP(SCENE_CATEGORIES, model.inference.ap_instances)
    for index in tqdm(range(len(scenes)), desc="measure", unit="scene", mininterval=10):
        image, truth = scenes.read(index)
        ((unfused, candidates),) = model.predict_for_evaluation([image])
        counter.add(unfused, truth, model.inference)
        ap.update(candidates, truth)
    counts = counter.counts()
    counts.save(folder / "counts.npz")
    figures = {way: {k: float(v[0]) for k, v in scores(counts, way).items()} for way in counts.quality}
    write_json(folder / "figures.json", {"ap": 100 * ap.compute()["ap"], **figures})


def train_here(recipe: Path, out: Path) -> int:
    """Train in this process; 130 where it is interrupted, as `banet train` ends."""
    try:
        train(load_recipe(str(recipe)), out, resume="auto", device="cpu", measure=False)
    except KeyboardInterrupt as stop:
        print(stop, flush=True)
        return 130
    return 0


def _stop(number: int, frame: object) -> None:
    raise SystemExit(f"stopped by signal {number}; the same command goes on")


def main() -> None:
    command_line = parser(__doc__, threads=1)
    command_line.add_argument("--step", choices=("a", "b", "report", "train"), required=True)
    command_line.add_argument("--study", type=int, choices=tuple(PLANS), default=max(PLANS), help="which plan")
    command_line.add_argument("--out", type=Path, required=True, help="folder of the study")
    command_line.add_argument("--lock", type=Path, help="file that trainings of this machine wait for")
    command_line.add_argument("--workers", type=int, default=0, help="processes that draw scenes for a training")
    command_line.add_argument("--docs", type=Path, default=Path("docs"), help="with report: where the docs are")
    command_line.add_argument("recipe", type=Path, nargs="?", help=argparse.SUPPRESS)
    options = command_line.parse_args()
    use_threads(options.threads)
    torch.set_num_threads(options.threads)
    if options.step == "train":
        raise SystemExit(train_here(options.recipe, options.out))
    if options.step == "report":
        write_report(PLANS[options.study], options.out, options.docs)
        return
    signal.signal(signal.SIGTERM, _stop)
    options.out.mkdir(parents=True, exist_ok=True)
    study = Study(
        PLANS[options.study], load_recipe("scenes_small"), options.out.resolve(), options.lock, options.threads,
        options.workers,
    )  # fmt: skip
    study.claim()
    with Report(options, __file__):
        study.step_a() if options.step == "a" else study.step_b()


if __name__ == "__main__":
    main()

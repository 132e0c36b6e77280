"""The last stages of `gpu.py`: trainings that take what time there is, and go on where they were.

First study 1 of `claim.py`, step B, on 256 × 256 scenes: the trunks, then its arms as parallel processes on one GPU,
each with data workers of its own. Then the weights that come with the package.
"""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

import claim
import torch
from claim_arms import Arm, arm_recipe, load_network
from claim_plans import BASELINE, KINDS, PLANS, Plan
from gpu_items import SAVING, Figures, Item, Setup, Unfinished

from banet import BANet
from banet.data.scenes.generate import Scenes
from banet.engine.evaluation.evaluate import evaluate
from banet.engine.evaluation.evaluation_data import open_validation
from banet.engine.options import load_recipe
from banet.engine.recipe import Recipe, SplitConfig
from banet.engine.training.datasets import training_set
from banet.engine.training.run_folder import LAST
from banet.engine.training.train import build_for_training, train
from banet.modeling.config import ModelConfig
from banet.panoptic.metrics.quality import to_json

PLAN = PLANS[1]
TINY = replace(
    PLAN, trunk_iterations=2, arm_iterations=1, arm_seeds=(0,), gate_scenes=(7101, 1), arm_scenes=(7121, 1)
)  # fmt: skip
WEIGHTS = ("scenes", "nuclei")
ITERATIONS = 20_000


def trunks() -> list[Item]:
    """Return the rate at which scenes are drawn, and the trunk of either kind of data."""
    return [
        Item("scenes per second", scene_rate, 30),
        *(Item(f"trunk {kind}", partial(trunk, kind), 400) for kind in KINDS),
    ]


def arms(rehearse: bool) -> list[Item]:
    """Return the arms, seed by seed, in the plan's order; three of them for a rehearsal."""
    every = [
        Item(f"{arm.name} {kind} {seed}", partial(run_arm, arm, kind, seed), 400) for arm, kind, seed in PLAN.runs()
    ]
    return every[:3] if rehearse else every


def weights() -> list[Item]:
    """Return the bundled weights."""
    return [Item(name, partial(run_weights, name), 700) for name in WEIGHTS]


def plan_of(setup: Setup) -> Plan:
    return TINY if setup.rehearse else PLAN


def recipe_of(name: str, setup: Setup) -> Recipe:
    """Return a recipe with the workers of this machine; tiny in a rehearsal."""
    recipe = load_recipe(name)
    recipe = replace(recipe, data=replace(recipe.data, workers=setup.workers))
    if not setup.rehearse:
        return recipe
    model = ModelConfig(
        backbone="resnet18", norm="group", fpn_channels=16, semantic_channels=(16, 16, 8), box_head_channels=16,
        mask_head_channels=16, i2s_channels=8, anchor_sizes=(8, 16, 32, 64, 96),
    )  # fmt: skip
    data = replace(
        recipe.data, kind="scenes", domain="", scene_size=64, shorter=(64,), longer=96, scale=(0.0, 0.0), crop_size=0
    )
    data = replace(data, train=SplitConfig(), val=SplitConfig(), train_scenes=10, val_scenes=1)
    steps = replace(recipe.train, iterations=2, batch_size=2, warmup=1, milestones=(), checkpoint_every=1, val_every=0)
    return replace(
        recipe, model=model, data=data, train=steps, inference=replace(recipe.inference, shorter=64, longer=96)
    )


@contextmanager
def saving_in_time(setup: Setup) -> Iterator[None]:
    """Tell the training in this process to save and to end, so long before the time is over that it can."""
    ended = threading.Event()

    def ask() -> None:
        if not ended.wait(max(setup.until - SAVING - time.time(), 1)):
            os.kill(os.getpid(), signal.SIGTERM)

    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)  # before and after the training nothing is lost
    threading.Thread(target=ask, daemon=True).start()
    try:
        yield
    finally:
        ended.set()
        signal.signal(signal.SIGTERM, before)


def train_on(recipe: Recipe, folder: Path, setup: Setup) -> Path:
    """Train until the end or until the time is over; return the weights.

    Raises:
        Unfinished: the time is over.
    """
    finished = folder / "model.safetensors"
    if (folder / "trained").is_file():
        return finished
    try:
        with saving_in_time(setup):
            train(recipe, folder, resume="auto", device=setup.device, measure=False)
    except KeyboardInterrupt:
        raise Unfinished({"iterations": iterations(folder), "of": recipe.train.iterations}) from None
    (folder / "trained").touch()
    return finished


def iterations(folder: Path) -> int:
    """Return how many iterations a run has saved."""
    if not (folder / LAST).is_file():
        return 0
    return int(torch.load(folder / LAST, map_location="cpu", weights_only=True, mmap=True)["global_step"])


def scene_rate(setup: Setup) -> Figures:
    """How many scenes of 256 × 256 one process draws per second; each training step needs four."""
    scenes = Scenes(1, 10**6, (256, 256), context=True)
    begin, count = time.perf_counter(), 0
    while count < 2 or time.perf_counter() - begin < (0 if setup.rehearse else 5):
        scenes.read(count)
        count += 1
    rate = count / (time.perf_counter() - begin)
    return {"one_process": rate, "processes": setup.workers}


def trunk_weights(kind: str, setup: Setup) -> Path:
    """Return the file of a trunk: with the results, in half precision, as only they may come back from the machine."""
    return setup.out / f"trunk_{kind}.safetensors"


def trunk(kind: str, setup: Setup) -> Figures:
    """The baseline that every arm starts from, and how many of the true boxes it finds."""
    plan, context = plan_of(setup), KINDS[kind]
    recipe = arm_recipe(
        recipe_of("scenes_small", setup), BASELINE, context=context, seed=plan.trunk_seed,
        iterations=plan.trunk_iterations,
    )  # fmt: skip
    begin = time.time()
    path = train_on(replace(recipe, name=f"trunk_{kind}"), setup.work / "claim" / "trunk" / kind, setup)
    spent = time.time() - begin
    kept = trunk_weights(kind, setup)  # every arm starts from this, in whatever call
    BANet.from_pretrained(path).save_pretrained(kept, half=True)
    model = BANet.from_pretrained(kept, device=setup.device)
    seed, count = plan.gate_scenes
    side = recipe.data.scene_size
    found = claim.boxes_found(model, Scenes(seed, count, (side, side), context=context))
    return {"iterations": plan.trunk_iterations, "boxes_found": found, "seconds_in_this_call": spent}


def run_arm(arm: Arm, kind: str, seed: int, setup: Setup) -> Figures:
    """One arm, trained and measured; its counts lie in the folder of work for `claim.py --study 1 --step report`."""
    start = trunk_weights(kind, setup)
    if not start.is_file():
        raise Unfinished({"iterations": 0, "of": plan_of(setup).arm_iterations})
    plan, context = plan_of(setup), KINDS[kind]
    recipe = arm_recipe(
        recipe_of("scenes_small", setup), arm, context=context, seed=seed, iterations=plan.arm_iterations,
        init=str(start),
    )  # fmt: skip
    folder = setup.work / "claim" / "b" / kind / arm.name / f"seed{seed}"
    model = load_network(arm, train_on(recipe, folder, setup)).to(setup.device)
    number, count = plan.arm_scenes
    side = recipe.data.scene_size
    claim.measure(model, Scenes(number, count, (side, side), context=context), folder)
    figures: Figures = json.loads((folder / "figures.json").read_text(encoding="utf-8"))
    return figures


def run_weights(name: str, setup: Setup) -> Figures:
    """Train bundled weights, and measure PQ on the validation split of their recipe."""
    recipe = recipe_of("scenes_r18" if name == "scenes" else "nuclei_r18", setup)
    if not setup.rehearse:
        recipe = replace(recipe, train=replace(recipe.train, iterations=ITERATIONS, val_every=0))
        if name == "nuclei":
            if setup.nuclei is None:
                raise FileNotFoundError("the data of nuclei are not at hand: --nuclei DIR")
            recipe = replace(recipe, data=replace(recipe.data, root=str(setup.nuclei)))
    folder = setup.work / "weights" / name
    kept = setup.out / f"{name}.safetensors"
    if kept.is_file() and not (folder / LAST).is_file():  # another machine's: its weights came back, its state did not
        recipe = replace(recipe, train=replace(recipe.train, init=str(kept)))
    try:
        path = train_on(recipe, folder, setup)
    finally:
        keep_half(recipe, folder, kept)
    model = BANet.from_pretrained(path, device=setup.device)
    pq = to_json(evaluate(model, open_validation(recipe.data)))["All"]["pq"] or 0.0
    return {"iterations": recipe.train.iterations, "pq": 100 * pq}


def keep_half(recipe: Recipe, folder: Path, path: Path) -> None:
    """Write the latest weights of a run in half precision, to start from should its folder be lost."""
    if (folder / "model.safetensors").is_file():
        model = BANet.from_pretrained(folder / "model.safetensors")
    elif (folder / LAST).is_file():
        state = torch.load(folder / LAST, map_location="cpu", weights_only=True)["state_dict"]
        begun = replace(recipe, train=replace(recipe.train, init="random"))
        model = build_for_training(begun, training_set(recipe.data))
        model.load_state_dict({name.removeprefix("model."): each for name, each in state.items()})
    else:
        return
    model.save_pretrained(path, half=True)

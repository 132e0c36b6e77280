"""Training: a recipe in, a folder with weights, checkpoints, log and the resolved recipe out."""

from __future__ import annotations

import logging
import os
import signal
import warnings
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader

from banet.checkpoint.warm_start import initialize
from banet.data.samples import collate
from banet.engine.evaluation.evaluate import check_categories
from banet.engine.evaluation.evaluation_data import EvaluationData, open_validation
from banet.engine.options import flat_options, options_since
from banet.engine.recipe import DataConfig, Recipe, TrainConfig, to_yaml
from banet.engine.training.checkpointing import (
    EMA,
    WEIGHTS,
    CheckpointCallback,
    Interrupted,
    locked,
    out_of_space,
    saved,
)
from banet.engine.training.datasets import (
    ErrorsAsItems,
    InfiniteDataset,
    InfiniteSampler,
    PanopticDataset,
    sample_depth,
    tall_images,
    training_set,
    unlearnable,
)
from banet.engine.training.run_folder import LAST, RECIPE, claim_run, is_written
from banet.engine.training.task import MemoryCheck, TrainingTask
from banet.engine.training.trainer import build_trainer
from banet.errors import InputError, MissingExtraError, first_line
from banet.files.atomic import atomic_path
from banet.inference.banet import BANet
from banet.inference.device import pick_device
from banet.modeling.aggregation import current_name
from banet.modeling.composition import recompute_in_backward
from banet.panoptic.sample_depth import SampleDepth

try:
    import lightning as L
    from lightning.pytorch.callbacks import Callback
    from lightning.pytorch.utilities import rank_zero_only
except ImportError:
    raise MissingExtraError("lightning", "train") from None

__all__ = ["build_for_training", "train"]

_say = rank_zero_only(print)


def build_for_training(recipe: Recipe, dataset: PanopticDataset) -> BANet:
    """Build the network of a recipe with its initial weights, and print what they are.

    Raises:
        InputError: `train.init` cannot be read or does not fit.
    """
    recipe = recipe.resolved()
    torch.manual_seed(recipe.train.seed)
    model = BANet(dataset.categories, recipe.model, recipe.inference, recipe.loss)
    init = recipe.train.init
    if init == "random":
        group = recipe.model.norm == "group"
        _say("weights: random" + ("; GroupNorm learns where batch norm statistics are missing" if group else ""))
    else:
        _say(f"weights: {init}: {initialize(model, init)}")
        model.backbone.freeze(recipe.model.frozen_stages)
    if recipe.model.norm == "frozen_batch" and init == "random":
        warnings.warn("frozen batch norm with random weights hardly learns; set --model.norm group", stacklevel=2)
    return model


def train(
    recipe: Recipe,
    out: Path,
    *,
    resume: str | None = None,
    device: str = "auto",
    measure: bool = True,
    config: Path | None = None,
    overwrite: bool = False,
) -> Path:
    """Train as a recipe says, in this process or, started by torchrun or SLURM, in many.

    Args:
        recipe: What to train, on what, how.
        out: Folder of the run; gets `recipe.yaml`, `log/`, `checkpoints/last.ckpt`, `model.safetensors`, `README.md`
            (a model card) and, where PQ is measured on the way, the `best.safetensors` by it.
        resume: None starts a new run, `auto` resumes from the last checkpoint in `out` if there is one, a path from
            that checkpoint.
        device: `auto`, `cpu`, `cuda` or `mps`.
        measure: Whether to measure PQ on the validation split, at the end and as often as `train.val_every` says.
        config: The recipe's file, where it has one: an input, which is not replaced.
        overwrite: Also replace files that no part of this run wrote, but never an input.

    Returns:
        The weights.

    Raises:
        InputError: Bad data, weights or options, a folder that holds another run or that one is writing to, a full
            disk, too little memory (says how many images at once would fit), a worker that was killed, or a loss that
            is not finite.
        KeyboardInterrupt: The run was interrupted; its state is saved, unless it was interrupted twice.
    """
    recipe = recipe.resolved()
    _refuse_another_run(out, resume)
    recipe = _as_begun(recipe, _checkpoint(resume, out / LAST))
    outputs = claim_run(recipe, out, resume=resume, config=config, overwrite=overwrite)
    target = pick_device(device)
    dataset = training_set(recipe.data, recipe.inference.bit_depth)
    recipe = replace(recipe, train=recipe.train.for_images(len(dataset)))
    depth = sample_depth(dataset)
    if depth.bits is not None:  # saved with the weights
        recipe = replace(recipe, inference=replace(recipe.inference, bit_depth=depth.bits))
    validation = _validation(recipe.data, depth) if measure else None
    model = build_for_training(recipe, dataset)
    if recipe.train.gradient_checkpointing:
        recompute_in_backward(model)
    if validation is not None:
        check_categories(model, validation.categories, f"{recipe.name}, validation split")
    for line in unlearnable(dataset):
        _say(f"warning: {line}")
    out.mkdir(parents=True, exist_ok=True)
    with _errors_in_one_line(out), outputs, _lock(out) or nullcontext():
        return _train(recipe, out, resume, target, model, dataset, validation)


def _validation(data: DataConfig, depth: SampleDepth) -> EvaluationData | None:
    if data.kind == "coco" and not data.val.json:
        return None
    try:
        validation = open_validation(data)
    except InputError as error:
        raise InputError(str(error), hint="or set --data.val.json '' to train without a measurement") from None
    validation.set_bit_depth(depth)
    return validation


@contextmanager
def _errors_in_one_line(out: Path) -> Iterator[None]:
    """Turn a full disk and a worker that was killed into errors that say how to resume."""
    try:
        yield
    except OSError as error:
        raise out_of_space(error, out) or error from None
    except RuntimeError as error:
        if not str(error).startswith("DataLoader worker"):
            raise
        raise InputError(
            f"a process that reads images was ended from outside ({str(error).rstrip('. ')}), as "
            "happens where memory runs out",
            where="data.workers",
            hint=f"lower --data.workers; {saved(out)}",
        ) from None


def _train(
    recipe: Recipe,
    out: Path,
    resume: str | None,
    device: torch.device,
    model: BANet,
    dataset: PanopticDataset,
    validation: EvaluationData | None,
) -> Path:
    options, measured = recipe.train, validation is not None
    start_from = _checkpoint(resume, out / LAST)
    done = _steps_done(start_from, model)
    ema = EMA(decay=options.ema) if options.ema else None
    metadata = {"recipe": recipe.name, "initialization": options.init, "recipe_yaml": to_yaml(recipe)}
    metadata["domain"] = recipe.data.domain or f"{recipe.data.root} (recipe {recipe.name})"
    checkpointing = CheckpointCallback(out, model, ema, options, metadata, measured=measured)
    memory = MemoryCheck()
    # The average first, as what is saved after a step includes it.
    callbacks: list[Callback] = [*([ema] if ema else []), checkpointing, memory]
    _quiet()
    trainer = build_trainer(recipe, out, device, callbacks, done=done, measured=measured)
    local = _local_batch(options, trainer.world_size)
    _announce(recipe, model, len(dataset), local, trainer, device, done)
    if trainer.is_global_zero and not is_written(out / RECIPE, recipe):
        with atomic_path(out / RECIPE) as temporary:
            temporary.write_text(to_yaml(recipe), encoding="utf-8")
    task = TrainingTask(model, recipe, len(validation) if validation is not None else 0)
    tall = tall_images(dataset, recipe.data)
    samples = InfiniteDataset(dataset, options.seed, batch=options.batch_size, tall=tall)
    draws = InfiniteSampler(done * options.batch_size, trainer.global_rank, trainer.world_size)
    workers = _worker_count(recipe.data)
    with _stopped(trainer, memory, out):
        trainer.fit(
            task,
            _loader(samples, local, workers, draws, pinned=trainer.strategy.root_device.type == "cuda"),
            None if validation is None else _loader(validation, 1, workers, _shares(trainer, len(validation))),
            ckpt_path=start_from,
            weights_only=True,
        )
    checkpointing.finish(trainer)
    _say(f"weights: {out / WEIGHTS}")
    return out / WEIGHTS


@contextmanager
def _stopped(trainer: L.Trainer, memory: MemoryCheck, out: Path) -> Iterator[None]:
    """Say of a run that ended early how to resume it, or what would fit into the memory."""
    try:
        yield
    except Interrupted:
        raise KeyboardInterrupt(f"stopped at iteration {trainer.global_step}; go on with --resume auto") from None
    except SystemExit as end:
        if not isinstance(end.__context__, KeyboardInterrupt):
            raise
        signal.signal(signal.SIGINT, signal.default_int_handler)  # which Lightning has switched off
        raise KeyboardInterrupt(f"stopped at once; {saved(out)}") from None
    except Exception:
        if memory.advice:
            raise InputError(memory.advice, hint=saved(out)) from None
        raise


def _local_batch(options: TrainConfig, world: int) -> int:
    """Return how many images each process takes in each pass."""
    local, rest = divmod(options.batch_size, world * options.accumulate)
    if rest:
        raise InputError(
            f"{options.batch_size} cannot be shared by {world} devices x {options.accumulate} accumulated passes",
            where="train.batch_size",
            hint="make it a multiple",
        )
    return local


def _announce(
    recipe: Recipe, model: BANet, images: int, local: int, trainer: L.Trainer, device: torch.device, done: int
) -> None:
    """Print what is trained, with how many images per step, how fast and how long."""
    options = recipe.train
    trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)
    where = f"{trainer.world_size} x {device.type}"
    if trainer.num_nodes > 1:
        where += f" on {trainer.num_nodes} machines"
    passes = f" in each of {options.accumulate} passes" if options.accumulate > 1 else ""
    milestones = ", ".join(f"{milestone:,}" for milestone in options.milestones)
    then = ""
    if options.schedule == "cosine":
        then = ", then a cosine"
    elif milestones:
        then = f", / 10 at {milestones}"
    epochs = options.iterations * options.batch_size / images
    resumed = f", going on from {done:,}" if done else ""
    _say(f"{recipe.name}: {images:,} images, {trainable / 1e6:.1f} M trainable parameters, {where}")
    _say(f"batch: {options.batch_size} in all, {local} per device{passes}")
    _say(f"learning rate: {options.lr:g} after {options.warmup:,} iterations of warm-up{then}")
    _say(f"iterations: {options.iterations:,} ({epochs:.2f} epochs){resumed}")


def _shares(trainer: L.Trainer, images: int) -> list[int]:
    """Return the images that this process measures; all get equally many, so the last may be one to leave out."""
    rank, world = trainer.global_rank, trainer.world_size
    return [index % images for index in range(rank, -(-images // world) * world, world)]


@rank_zero_only
def _lock(out: Path) -> AbstractContextManager[None]:
    return locked(out)


def _refuse_another_run(out: Path, resume: str | None) -> None:
    if resume is None and (out / LAST).exists():
        raise InputError(
            "holds a run already", where=f"--out {out}", hint="go on with --resume auto, or choose another folder"
        )


def _checkpoint(resume: str | None, last: Path) -> Path | None:
    if resume is None or (resume == "auto" and not last.exists()):
        return None
    path = last if resume == "auto" else Path(resume)
    if not path.is_file():
        raise InputError("no such checkpoint", where=f"--resume {resume}", hint="give auto or a .ckpt file of this run")
    return path


def _as_begun(recipe: Recipe, checkpoint: Path | None) -> Recipe:
    """Return the recipe of a run that is resumed, with what it did where an option did not exist when it began."""
    kept = checkpoint.parent.parent / RECIPE if checkpoint is not None else None
    if kept is None or not kept.is_file():
        return recipe
    ours = flat_options(asdict(recipe))
    since = {name: value for name, value in options_since(kept).items() if value != ours[name]}
    for name, value in since.items():
        _say(f"{name}: {value}, as this run began before the option existed; start another to have {ours[name]}")
        section, option = name.split(".")
        recipe = replace(recipe, **{section: replace(getattr(recipe, section), **{option: value})})
    return recipe


def _steps_done(checkpoint: Path | None, model: BANet) -> int:
    """Return the steps that a checkpoint has done, once it is known to be complete and of this network."""
    if checkpoint is None:
        return 0
    try:
        content = torch.load(checkpoint, map_location="cpu", weights_only=True, mmap=True)
        steps = int(content["global_step"])
        theirs = {current_name(name): tuple(tensor.shape) for name, tensor in content["state_dict"].items()}
        for name in ("pytorch-lightning_version", "callbacks", "optimizer_states", "lr_schedulers"):
            content[name]
        content["loops"]["fit_loop"]
    except Exception as error:  # a decoder may raise anything on bad data
        reason = first_line(error)
        raise InputError(
            f"not a checkpoint of a run ({reason})", where=checkpoint, hint="give another, or start afresh"
        ) from None
    ours = {f"model.{name}": tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    if theirs != ours:
        other = min(name for name in ours.keys() | theirs.keys() if ours.get(name) != theirs.get(name))
        raise InputError(
            f"is of another network (see {other})", where=checkpoint, hint="train with the recipe of its run"
        )
    return steps


def _worker_count(data: DataConfig) -> int:
    """Return how many processes load samples: never more than there are CPUs, which torch warns of."""
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(data.workers, cpus)


def _loader(dataset: Any, batch: int, workers: int, sampler: Iterable[int], *, pinned: bool = False) -> DataLoader[Any]:
    return DataLoader(
        ErrorsAsItems(dataset),
        batch_size=batch,
        sampler=sampler,
        num_workers=workers,
        collate_fn=collate,
        persistent_workers=workers > 0,
        pin_memory=pinned,  # so that copies to a GPU overlap with its work
        worker_init_fn=_ignore_interrupt,
    )


def _ignore_interrupt(worker: int) -> None:
    """Leave Ctrl-C to the main process, which saves and then ends its workers."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(1)


def _quiet() -> None:
    """Hide Lightning's hints that do not apply to an endless, seeded sampler, and its advertisements."""
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    for message in ("does not have many workers", "is not resumable", "no `val_dataloader`", "LeafSpec", "infinite"):
        warnings.filterwarnings("ignore", f".*{message}")

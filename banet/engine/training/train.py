"""Training: a recipe in, a folder with weights, checkpoints, log and the resolved recipe out."""

from __future__ import annotations

import logging
import math
import os
import signal
import traceback
import warnings
from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from uuid import NAMESPACE_URL, uuid5

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import DataLoader

from banet.data.samples import Sample, collate, image_seed
from banet.engine.device import first_that_fits, is_out_of_memory, pick_device
from banet.engine.evaluation.evaluate import Evaluator, check_categories
from banet.engine.evaluation.evaluation_data import Picture, Pictures, open_pictures
from banet.engine.evaluation.metrics import PanopticQualityMetric
from banet.engine.recipe import Recipe, TrainConfig, to_yaml
from banet.engine.training.checkpointing import (
    LAST,
    AtomicCheckpoints,
    Averaging,
    CsvLog,
    Interrupted,
    Keeper,
    locked,
    out_of_space,
    saved,
)
from banet.engine.training.datasets import Draws, DrawSampler, Forwarding, PanopticDataset, raise_if_bad, training_set
from banet.errors import InputError, MissingExtraError
from banet.files.atomic import atomic_path
from banet.modeling.backbone import imagenet_weights
from banet.modeling.banet import BANet
from banet.modeling.build import build_model, recompute_in_backward
from banet.modeling.weights import initialise

try:
    import lightning as L
    from lightning.fabric.plugins.environments.cluster_environment import ClusterEnvironment
    from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
    from lightning.fabric.plugins.environments.torchelastic import TorchElasticEnvironment
    from lightning.fabric.utilities.exceptions import MisconfigurationException
    from lightning.pytorch.callbacks import Callback, LearningRateMonitor, TQDMProgressBar
    from lightning.pytorch.loggers import Logger, TensorBoardLogger, WandbLogger
    from lightning.pytorch.profilers import Profiler, PyTorchProfiler, SimpleProfiler
    from lightning.pytorch.strategies import DDPStrategy, FSDPStrategy
    from lightning.pytorch.utilities import rank_zero_only
except ImportError:
    raise MissingExtraError("lightning", "train") from None

__all__ = ["TrainingTask", "build_for_training", "learning_rate_factor", "train"]

_say = rank_zero_only(print)


def learning_rate_factor(step: int, options: TrainConfig) -> float:
    """Share of `options.lr` that step `step`, counted from 0, learns with."""
    if options.schedule == "cosine":
        factor = 0.5 * (1 + math.cos(math.pi * min(step / options.iterations, 1)))
    else:
        factor = 0.1 ** sum(step >= milestone for milestone in options.milestones)
    if step < options.warmup:
        factor *= options.warmup_factor + (1 - options.warmup_factor) * step / options.warmup
    return factor


def build_for_training(recipe: Recipe, dataset: PanopticDataset) -> BANet:
    """The network of a recipe with its initial weights; says what they are.

    Raises:
        InputError: `train.init` cannot be read or does not fit.
    """
    recipe = recipe.resolved()
    torch.manual_seed(recipe.train.seed)
    model = build_model(dataset.categories, recipe.model, recipe.inference, recipe.loss)
    init = recipe.train.init
    if init == "random":
        _say(
            "weights: random; GroupNorm learns where batch norm statistics are missing" * (recipe.model.norm == "group")
        )
    elif init == "imagenet":
        try:
            missing = model.backbone.load_body(imagenet_weights(recipe.model.backbone))
        except OSError as error:
            raise InputError(
                f"train.init: the ImageNet weights of {recipe.model.backbone} could not be downloaded ({error});"
                " connect to the internet once, or set --train.init random"
            ) from None
        _say(f"weights: backbone from ImageNet ({len(missing)} tensors keep their initial values), the rest random")
    else:
        _say(f"weights: {init}\n{initialise(model, init)}")
    if recipe.model.norm == "frozen_batch" and init == "random":
        warnings.warn("frozen batch norm with random weights hardly learns; set --model.norm group", stacklevel=2)
    return model


class TrainingTask(L.LightningModule):
    """The network under training, for Lightning.

    Args:
        model: With its initial weights.
        recipe: How to train it.
        pictures: Of the validation split, over all processes.
    """

    def __init__(self, model: BANet, recipe: Recipe, pictures: int = 0) -> None:
        super().__init__()
        self.pictures = pictures
        self.batch: list[Sample] = []  # at work; empty while measuring
        self.model = model
        self.recipe = recipe
        self.quality = PanopticQualityMetric(model.categories)
        self.evaluator = Evaluator(model, quality=self.quality)

    def training_step(self, batch: list[Sample], batch_index: int) -> dict[str, Tensor]:
        """Losses of one batch by name, and "loss", their sum; `Keeper` writes them to the log.

        Raises:
            InputError: The sum is not finite; names the images.
        """
        self.batch = batch
        self._seed_sampling(batch, batch_index)
        losses = self.model.losses([s.image for s in batch], [s.target for s in batch])
        total = torch.stack(list(losses.values())).sum()
        if not torch.isfinite(total):
            wrong = ", ".join(name for name, loss in losses.items() if not torch.isfinite(loss))
            raise InputError(
                f"training stopped at iteration {self.global_step}: {wrong} not finite on {self._culprits(batch)};"
                " lower --train.lr, set --train.clip 10, or start from pretrained weights"
            )
        self.log("loss", total.detach(), prog_bar=True, logger=False, batch_size=len(batch))
        return {"loss": total, **{name: loss.detach() for name, loss in losses.items()}}

    def _seed_sampling(self, batch: list[Sample], batch_index: int) -> None:
        """Make the sampling inside the network a function of seed, images and step.

        So a run that goes on does as an undisturbed one would, and it does not matter which process has an image.
        """
        images = [image_seed(sample.target.image_id) for sample in batch]
        seed = np.random.SeedSequence([self.recipe.train.seed, batch_index, *images]).generate_state(1, np.uint64)
        torch.manual_seed(int(seed[0]))

    @torch.no_grad()
    def _culprits(self, batch: list[Sample]) -> str:
        """Names of the images of a batch whose own loss is not finite, or of all where it takes them together."""
        alone = [sum(self.model.losses([s.image], [s.target]).values()) for s in batch]
        guilty = [s.target.name for s, loss in zip(batch, alone, strict=True) if not math.isfinite(float(loss))]
        return ", ".join(guilty or [s.target.name for s in batch])

    def validation_step(self, batch: list[Picture], batch_index: int) -> None:
        """Add a batch of validation pictures to the measurement, unless another process has measured it already."""
        self.batch = []
        turn = batch_index * self.trainer.world_size + self.global_rank
        evaluator = self.evaluator if turn < self.pictures else Evaluator(self.model)
        for _ in evaluator.update(batch):
            pass

    def on_validation_epoch_end(self) -> None:
        """Log PQ over the validation split."""
        result = self.quality.compute()
        self.quality.reset()
        scores = {f"val/{key}": 100 * _zero_if_nan(result[name]["pq"]) for key, name in _SUBSETS.items()}
        self.log_dict(scores, batch_size=1)
        self.log("pq", scores["val/pq"], prog_bar=True, logger=False, batch_size=1)
        if not self.trainer.sanity_checking:
            shown = "  ".join(f"{key.removeprefix('val/')} {value:.1f}" for key, value in scores.items())
            _say(f"\niteration {self.global_step}: {shown}")

    def configure_optimizers(self) -> Any:
        """The optimizer and its schedule, as the recipe says."""
        options = self.recipe.train
        decayed: list[nn.Parameter] = []
        plain: list[nn.Parameter] = []
        for parameter in self.model.parameters():
            if parameter.requires_grad:
                (decayed if parameter.ndim > 1 else plain).append(parameter)
        optimizer: torch.optim.Optimizer
        if options.optimizer == "adamw":
            groups = [{"params": decayed, "weight_decay": options.weight_decay}, {"params": plain, "weight_decay": 0.0}]
            optimizer = torch.optim.AdamW(groups, lr=options.lr)
        else:
            optimizer = torch.optim.SGD(
                decayed + plain, lr=options.lr, momentum=options.momentum, weight_decay=options.weight_decay
            )
        schedule = LambdaLR(optimizer, lambda step: learning_rate_factor(step, options))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def configure_gradient_clipping(
        self, optimizer: torch.optim.Optimizer, gradient_clip_val: float | None = None, *unused: Any, **more: Any
    ) -> None:
        """Clip the norm of the whole gradient, also where each process holds a part of it."""
        if gradient_clip_val and isinstance(self.trainer.strategy, FSDPStrategy):
            sharded: Any = self.trainer.strategy.model
            sharded.clip_grad_norm_(gradient_clip_val)
        else:
            super().configure_gradient_clipping(optimizer, gradient_clip_val, *unused, **more)

    def share_that_fits(self) -> int:
        """How many images of the batch that was too much for the memory a pass can take, a divisor; 0 if not one."""
        largest = sorted(self.batch, key=lambda sample: -sample.image[0].numel())
        parameters = [p for p in self.model.parameters() if p.requires_grad]
        fresh = not any(optimizer.state for optimizer in self.trainer.optimizers)
        self.zero_grad()

        def try_pass(count: int) -> None:
            kept = [torch.empty_like(p) for p in parameters * 2 * fresh]  # AdamW's moments, which come with step 1
            with self.trainer.precision_plugin.train_step_context():
                losses = self.model.losses([s.image for s in largest[:count]], [s.target for s in largest[:count]])
            torch.autograd.grad(torch.stack(list(losses.values())).sum(), parameters)  # waits for no other process
            del kept

        divisors = [n for n in range(len(largest) // 2, 0, -1) if len(largest) % n == 0]
        return first_that_fits(divisors, try_pass)

    def transfer_batch_to_device(self, batch: list[Any], device: torch.device, dataloader_idx: int) -> list[Any]:
        """Move samples, which are not tensors; pictures stay where they are.

        Raises:
            InputError: One of them could not be read.
        """
        raise_if_bad(batch)
        return [item.to(device, non_blocking=True) if isinstance(item, Sample) else item for item in batch]


_SUBSETS = {"pq": "All", "pq_th": "Things", "pq_st": "Stuff"}


def _zero_if_nan(value: float | None) -> float:
    return 0.0 if value is None or math.isnan(value) else value


def train(recipe: Recipe, out: Path, *, resume: str | None = None, device: str = "auto") -> Path:
    """Train as a recipe says, in this process or, started by torchrun or SLURM, in many.

    Args:
        recipe: What to train, on what, how.
        out: Folder of the run; gets `recipe.yaml`, `log/`, `checkpoints/last.ckpt`, `model.safetensors`, `README.md`
            (a model card) and, where PQ is measured on the way, the `best.safetensors` by it.
        resume: None starts afresh, `auto` goes on from the last checkpoint in `out` if there is one, a path from that
            checkpoint.
        device: `auto`, `cpu`, `cuda` or `mps`.

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
    target = pick_device(device)
    dataset = training_set(recipe.data)
    validation = open_pictures(recipe.data) if recipe.train.val_every else None
    model = build_for_training(recipe, dataset)
    if recipe.train.gradient_checkpointing:
        recompute_in_backward(model)
    if validation is not None:
        check_categories(model, validation.categories, f"{recipe.name}, validation split")
    out.mkdir(parents=True, exist_ok=True)
    try:
        with _lock(out) or nullcontext():
            return _train(recipe, out, resume, target, model, dataset, validation)
    except OSError as error:
        raise out_of_space(error, out) or error from None
    except RuntimeError as error:
        if not str(error).startswith("DataLoader worker"):
            raise
        raise InputError(
            f"data.workers: a process that reads pictures was ended from outside ({str(error).rstrip('. ')}), as"
            f" happens where memory runs out; lower --data.workers; {saved(out)}"
        ) from None


def _train(
    recipe: Recipe,
    out: Path,
    resume: str | None,
    device: torch.device,
    model: BANet,
    dataset: PanopticDataset,
    validation: Pictures | None,
) -> Path:
    options = recipe.train
    start_from = _checkpoint(resume, out / LAST)
    done = _steps_done(start_from, model)
    averaging = Averaging(decay=options.ema) if options.ema else None
    metadata = {"recipe": recipe.name, "initialisation": options.init, "recipe_yaml": to_yaml(recipe)}
    keeper = Keeper(out, model, averaging, options, metadata)
    _quiet()
    callbacks: list[Callback] = [averaging] if averaging else []
    callbacks.append(keeper)  # after the averaging, as it saves the state after this step's
    callbacks.append(memory := _MemoryCheck())
    trainer = _trainer(recipe, out, device, callbacks, done)
    world = trainer.world_size
    local, rest = divmod(options.batch_size, world * options.accumulate)
    if rest:
        raise InputError(
            f"train.batch_size: {options.batch_size} cannot be shared by {world} devices x {options.accumulate}"
            " accumulated passes; make it a multiple"
        )
    _announce(recipe, model, len(dataset), local, world, trainer.num_nodes, device, done)
    if trainer.is_global_zero:
        with atomic_path(out / "recipe.yaml") as temporary:
            temporary.write_text(to_yaml(recipe), encoding="utf-8")
    rank, workers = trainer.global_rank, recipe.data.workers
    draws = DrawSampler(done * options.batch_size, rank, world)
    pictures = 0 if validation is None else len(validation)
    try:
        trainer.fit(
            TrainingTask(model, recipe, pictures),
            _loader(Draws(dataset, options.seed), local, workers, sampler=draws),
            _loader(validation, 1, workers, sampler=_shares(pictures, rank, world)) if pictures else None,
            ckpt_path=start_from,
            weights_only=True,
        )
    except Interrupted:
        raise KeyboardInterrupt(f"stopped at iteration {trainer.global_step}; go on with --resume auto") from None
    except SystemExit as end:
        if not isinstance(end.__context__, KeyboardInterrupt):
            raise
        signal.signal(signal.SIGINT, signal.default_int_handler)  # which Lightning has switched off
        raise KeyboardInterrupt(f"stopped at once; {saved(out)}") from None
    except Exception:
        if memory.advice:
            raise InputError(f"{memory.advice}; {saved(out)}") from None
        raise
    keeper.finish(trainer)
    weights = out / "model.safetensors"
    _say(f"weights: {weights}")
    return weights


class _MemoryCheck(Callback):
    """Where a run finds too little memory, finds out what would fit, while all that the run keeps is still there."""

    def __init__(self) -> None:
        self.advice = ""

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """Say what to do."""
        assert isinstance(pl_module, TrainingTask)
        if not is_out_of_memory(exception) or not pl_module.batch:
            return
        traceback.clear_frames(exception.__traceback__)  # they hold the batch's features
        height, width = (max(sample.image.shape[axis] for sample in pl_module.batch) for axis in (1, 2))
        count, options = len(pl_module.batch), pl_module.recipe.train
        where = f"train.batch_size: the memory of {trainer.strategy.root_device} does not hold"
        many = f"{where} {count} images of {width}x{height} at once"
        if isinstance(trainer.strategy, FSDPStrategy):  # its processes would have to try together
            self.advice = f"{many}; raise --train.accumulate, or set --train.gradient_checkpointing true"
        elif fits := pl_module.share_that_fits():
            passes = options.accumulate * count // fits
            self.advice = f"{many}, but {fits}; --train.accumulate {passes} keeps the batch of {options.batch_size}"
        else:
            one = f"{where} one image of {width}x{height}"
            self.advice = f"{one}; set --train.gradient_checkpointing true, or lower --data.shorter and longer"


def _announce(
    recipe: Recipe, model: BANet, images: int, local: int, world: int, nodes: int, device: torch.device, done: int
) -> None:
    """The first lines of a run: what is trained, with how many images a step, how fast and how long."""
    options = recipe.train
    trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)
    where = f"{world} x {device.type}" + f" on {nodes} machines" * (nodes > 1)
    passes = f" in each of {options.accumulate} passes" * (options.accumulate > 1)
    milestones = ", ".join(f"{milestone:,}" for milestone in options.milestones)
    then = ", then a cosine" if options.schedule == "cosine" else f", / 10 at {milestones}" * bool(milestones)
    _say(f"{recipe.name}: {images:,} images, {trainable / 1e6:.1f} M trainable parameters, {where}")
    _say(f"batch: {options.batch_size} in all, {local} a device{passes}")
    _say(f"learning rate: {options.lr:g} after {options.warmup:,} iterations of warm-up{then}")
    epochs = options.iterations * options.batch_size / images
    _say(f"iterations: {options.iterations:,} ({epochs:.2f} epochs)" + f", going on from {done:,}" * (done > 0))


def _shares(pictures: int, rank: int, world: int) -> list[int]:
    """The pictures that one of several processes measures; all get as many, so the last may be one to leave out."""
    return [index % pictures for index in range(rank, -(-pictures // world) * world, world)]


def _trainer(recipe: Recipe, out: Path, device: torch.device, more: list[Callback], done: int) -> L.Trainer:
    options = recipe.train
    gpu = device.type == "cuda"
    if options.strategy == "fsdp" and not gpu:
        raise InputError(f"train.strategy: fsdp needs GPUs, this run is on {device.type}; set ddp")
    if options.precision == "16" and not gpu:
        raise InputError(f"train.precision: 16 needs a GPU, this run is on {device.type}; set bf16 or 32")
    callbacks: list[Callback] = [TQDMProgressBar(refresh_rate=max(1, min(20, options.log_every)))]
    loggers = _loggers(recipe, out, done)
    if loggers:
        callbacks.append(LearningRateMonitor("step"))
    callbacks += more
    environment = _environment()
    devices, nodes = _processes(options, environment, "auto" if gpu else 1)
    plugins: list[Any] = [AtomicCheckpoints(), *([environment] if environment else [])]
    precision: Any = {"32": "32-true", "bf16": "bf16-mixed", "16": "16-mixed"}[options.precision]
    try:
        return L.Trainer(
            accelerator="gpu" if gpu else device.type,
            devices=devices,
            num_nodes=nodes,
            strategy=_strategy(options, single=devices == 1 and nodes == 1),
            plugins=plugins,
            max_steps=options.iterations,
            precision=precision,
            accumulate_grad_batches=options.accumulate,
            gradient_clip_val=options.clip or None,
            val_check_interval=options.val_every * options.accumulate or None,
            check_val_every_n_epoch=None,
            num_sanity_val_steps=0,
            limit_val_batches=1.0 if options.val_every else 0,
            log_every_n_steps=options.log_every,
            logger=loggers,
            profiler=_profiler(options, out),
            callbacks=callbacks,
            enable_checkpointing=False,  # Keeper does it
            use_distributed_sampler=False,  # draws are shared out by number already
            enable_model_summary=False,
        )
    except (ValueError, RuntimeError, MisconfigurationException) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"train.devices, train.nodes: {reason}; leave them 0 to take what there is") from None


def _environment() -> ClusterEnvironment | None:
    """Who started the processes of this run, if it was not this command itself."""
    if TorchElasticEnvironment.detect():
        return TorchElasticEnvironment()
    if SLURMEnvironment.detect():
        return SLURMEnvironment(auto_requeue=False)  # its checkpoints would pass the run's own by
    return None


def _processes(options: TrainConfig, environment: ClusterEnvironment | None, alone: int | str) -> tuple[Any, int]:
    """Processes a machine, and machines."""
    devices: Any = alone
    nodes = 1
    if isinstance(environment, TorchElasticEnvironment):
        devices = int(os.environ["LOCAL_WORLD_SIZE"])
        nodes = environment.world_size() // devices
    elif environment is not None:
        nodes = int(os.environ.get("SLURM_NNODES", 1))
        devices = int(os.environ["SLURM_NTASKS"]) // nodes
    return options.devices or devices, options.nodes or nodes


def _strategy(options: TrainConfig, *, single: bool) -> Any:
    if options.strategy == "fsdp":
        # One unit: the network is called part by part, which units of their own would not allow.
        return FSDPStrategy(state_dict_type="full", use_orig_params=True)
    # No buffer changes in training, and every parameter takes part in every loss, images without objects included.
    return "auto" if single else DDPStrategy(broadcast_buffers=False, gradient_as_bucket_view=True)


def _loggers(recipe: Recipe, out: Path, done: int) -> list[Logger]:
    loggers: list[Logger] = []
    for kind in recipe.train.loggers:
        if kind == "csv":
            loggers.append(CsvLog(out / "log" / "metrics.csv", done))
        elif kind == "tensorboard":
            if not find_spec("tensorboard"):
                raise MissingExtraError("tensorboard", "tensorboard")
            loggers.append(TensorBoardLogger(out, name="log", version="", purge_step=done or None))
        else:
            if not find_spec("wandb"):
                raise MissingExtraError("wandb", "wandb")
            # The folder is the run, so one that goes on stays one curve.
            identity = uuid5(NAMESPACE_URL, str(out.resolve())).hex
            loggers.append(WandbLogger(name=out.name, id=identity, project="banet", save_dir=out, resume="allow"))
    return loggers


def _profiler(options: TrainConfig, out: Path) -> Profiler | None:
    if options.profiler == "none":
        return None
    kind = SimpleProfiler if options.profiler == "simple" else PyTorchProfiler
    return kind(dirpath=out, filename="profile")


@rank_zero_only
def _lock(out: Path) -> AbstractContextManager[None]:
    return locked(out)


def _refuse_another_run(out: Path, resume: str | None) -> None:
    if resume is None and (out / LAST).exists():
        raise InputError(f"--out {out}: holds a run already; go on with --resume auto, or choose another folder")


def _checkpoint(resume: str | None, last: Path) -> Path | None:
    if resume is None or (resume == "auto" and not last.exists()):
        return None
    path = last if resume == "auto" else Path(resume)
    if not path.is_file():
        raise InputError(f"--resume {resume}: no such checkpoint; give auto or a .ckpt file of this run")
    return path


def _steps_done(checkpoint: Path | None, model: BANet) -> int:
    """Steps that the run had done, of a checkpoint that is whole and of this network; no memory is taken for it."""
    if checkpoint is None:
        return 0
    try:
        content = torch.load(checkpoint, map_location="cpu", weights_only=True, mmap=True)
        steps = int(content["global_step"])
        theirs = {name: tuple(tensor.shape) for name, tensor in content["state_dict"].items()}
        for name in ("pytorch-lightning_version", "callbacks", "optimizer_states", "lr_schedulers"):
            content[name]
        content["loops"]["fit_loop"]
    except Exception as error:  # a decoder may raise anything on bad data
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise InputError(f"{checkpoint}: not a checkpoint of a run ({reason}); give another, or start afresh") from None
    ours = {f"model.{name}": tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    if theirs != ours:
        other = min(name for name in ours.keys() | theirs.keys() if ours.get(name) != theirs.get(name))
        raise InputError(f"{checkpoint}: is of another network (see {other}); train with the recipe of its run")
    return steps


def _loader(dataset: Any, batch: int, workers: int, *, sampler: Iterable[int] | None = None) -> DataLoader[Any]:
    return DataLoader(
        Forwarding(dataset),
        batch_size=batch,
        sampler=sampler,
        num_workers=workers,
        collate_fn=collate,
        persistent_workers=workers > 0,
        worker_init_fn=_ignore_interrupt,
    )


def _ignore_interrupt(worker: int) -> None:
    """Ctrl-C belongs to the main process, which saves and then ends its workers."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(1)


def _quiet() -> None:
    """Hide Lightning's hints that do not apply to an endless, seeded sampler, and its advertisements."""
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    for message in ("does not have many workers", "is not resumable", "no `val_dataloader`", "LeafSpec", "infinite"):
        warnings.filterwarnings("ignore", f".*{message}")

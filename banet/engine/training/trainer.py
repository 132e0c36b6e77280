"""Lightning's `Trainer` as a recipe and the processes of the run ask for it."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from uuid import NAMESPACE_URL, uuid5

import torch

from banet.engine.recipe import Recipe, TrainConfig
from banet.engine.training.checkpointing import AtomicCheckpoints
from banet.engine.training.csv_log import CsvLog
from banet.engine.training.run_folder import LOG
from banet.errors import InputError, MissingExtraError, first_line

try:
    import lightning as L
    from lightning.fabric.plugins.environments.cluster_environment import ClusterEnvironment
    from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
    from lightning.fabric.plugins.environments.torchelastic import TorchElasticEnvironment
    from lightning.fabric.utilities.exceptions import MisconfigurationException
    from lightning.pytorch.callbacks import Callback, LearningRateMonitor, TQDMProgressBar
    from lightning.pytorch.callbacks.progress.tqdm_progress import Tqdm
    from lightning.pytorch.loggers import Logger, TensorBoardLogger, WandbLogger
    from lightning.pytorch.profilers import Profiler, PyTorchProfiler, SimpleProfiler
    from lightning.pytorch.strategies import DDPStrategy, FSDPStrategy
except ImportError:
    raise MissingExtraError("lightning", "train") from None

__all__ = ["build_trainer"]


def build_trainer(
    recipe: Recipe, out: Path, device: torch.device, callbacks: Sequence[Callback], *, done: int, measured: bool
) -> L.Trainer:
    """Compose the trainer of a run.

    Args:
        recipe: What decides the run.
        out: Folder of the run.
        device: Where this process computes.
        callbacks: Called after the progress bar, in this order.
        done: Iterations that the run has done already.
        measured: Whether there is a validation split.

    Raises:
        InputError: The machine does not have what the recipe asks for.
        MissingExtraError: A logger is not installed.
    """
    options = recipe.train
    gpu = device.type == "cuda"
    _refuse_without_gpu(options, device)
    environment = _environment()
    devices, nodes = _processes(options, environment, "auto" if gpu else 1)
    loggers = _loggers(recipe, out, done)
    precision: Any = {"32": "32-true", "bf16": "bf16-mixed", "16": "16-mixed"}[options.precision]
    try:
        trainer = L.Trainer(
            accelerator="gpu" if gpu else device.type,
            devices=devices,
            num_nodes=nodes,
            strategy=_strategy(options, single=devices == 1 and nodes == 1),
            plugins=[AtomicCheckpoints(), *([environment] if environment else [])],
            max_steps=options.iterations,
            precision=precision,
            accumulate_grad_batches=options.accumulate,
            gradient_clip_val=options.clip or None,
            val_check_interval=(options.val_every or options.iterations) * options.accumulate,
            check_val_every_n_epoch=None,
            num_sanity_val_steps=0,
            limit_val_batches=1.0 if measured else 0,
            log_every_n_steps=options.log_every,
            logger=loggers,
            profiler=_profiler(options, out),
            callbacks=[*_own_callbacks(done, loggers), *callbacks],
            enable_checkpointing=False,  # CheckpointCallback does it
            use_distributed_sampler=False,  # InfiniteSampler shares the samples out
            enable_model_summary=False,
        )
    except (ValueError, RuntimeError, MisconfigurationException) as error:
        reason = first_line(error)
        raise InputError(
            reason, where="train.devices, train.nodes", hint="leave them 0 to take what there is"
        ) from None
    # CheckpointCallback answers SIGTERM. Lightning's own answer, from its setup on, waits for the other processes where
    # these do not wait for it, or ends the run with status 0.
    trainer._signal_connector.register_signal_handlers = lambda: None  # type: ignore[method-assign]
    return trainer


def _refuse_without_gpu(options: TrainConfig, device: torch.device) -> None:
    if device.type == "cuda":
        return
    if options.strategy == "fsdp":
        raise InputError(f"fsdp needs GPUs, this run is on {device.type}", where="train.strategy", hint="set ddp")
    if options.precision == "16":
        raise InputError(
            f"16 needs a GPU, this run is on {device.type}", where="train.precision", hint="set bf16 or 32"
        )


def _own_callbacks(done: int, loggers: Sequence[Logger]) -> list[Callback]:
    return [ProgressBar(done), LearningRateMonitor("step")] if loggers else [ProgressBar(done)]


class ProgressBar(TQDMProgressBar):
    """Lightning's bar, which moves with each iteration and counts the time of those of this process only.

    Args:
        done: Iterations that the run has done before.
    """

    def __init__(self, done: int) -> None:
        super().__init__(refresh_rate=1)
        self.done = done
        self._bars: list[Tqdm] = []

    def init_train_tqdm(self) -> Tqdm:
        """Make the bar of training."""
        return self._on_stderr(super().init_train_tqdm)

    def init_validation_tqdm(self) -> Tqdm:
        """Make the bar of a measurement, below that of training."""
        return self._on_stderr(super().init_validation_tqdm)

    def _on_stderr(self, make: Callable[[], Tqdm]) -> Tqdm:
        """Make a bar on standard error, as all others are; Lightning's are on standard output, which is for results."""
        with redirect_stdout(sys.stderr):
            bar = make()
        self._bars = [*self._bars[:1], bar]  # that of training, and of the last measurement
        return bar

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """End the lines of the bars, as what happened is said below them."""
        for bar in reversed(self._bars):
            bar.close()

    def on_train_start(self, trainer: L.Trainer, *unused: Any) -> None:
        """Start the bar where the run goes on, which Lightning takes for the middle of an epoch."""
        super().on_train_start(trainer, *unused)
        self._start(trainer)

    def on_train_epoch_start(self, trainer: L.Trainer, *unused: Any) -> None:
        """Start the bar of a run from its first iteration."""
        super().on_train_epoch_start(trainer, *unused)
        self._start(trainer)

    def _start(self, trainer: L.Trainer) -> None:
        bar, passes = self.train_progress_bar, trainer.accumulate_grad_batches
        bar.total, bar.initial, bar.n = trainer.max_steps * passes, self.done * passes, self.done * passes
        bar.refresh()


def _environment() -> ClusterEnvironment | None:
    """Return what started the processes of this run, None where it was this command itself."""
    if TorchElasticEnvironment.detect():
        return TorchElasticEnvironment()
    if SLURMEnvironment.detect():
        return SLURMEnvironment(auto_requeue=False)  # its own checkpoints would miss what CheckpointCallback saves
    return None


def _processes(options: TrainConfig, environment: ClusterEnvironment | None, alone: int | str) -> tuple[Any, int]:
    """Return the number of processes per machine, and of machines."""
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
        # One unit, since the network is called part by part, which nested units do not allow.
        return FSDPStrategy(state_dict_type="full", use_orig_params=True)
    # No buffer changes in training, and every parameter takes part in every loss, images without objects included.
    return "auto" if single else DDPStrategy(broadcast_buffers=False, gradient_as_bucket_view=True)


def _loggers(recipe: Recipe, out: Path, done: int) -> list[Logger]:
    loggers: list[Logger] = []
    for kind in recipe.train.loggers:
        if kind == "csv":
            loggers.append(CsvLog(out / LOG, done))
        elif kind == "tensorboard":
            if not find_spec("tensorboard"):
                raise MissingExtraError("tensorboard", "tensorboard")
            loggers.append(TensorBoardLogger(out, name="log", version="", purge_step=done or None))
        else:
            if not find_spec("wandb"):
                raise MissingExtraError("wandb", "wandb")
            # A run that goes to wandb says nothing to anybody else; reports of its errors go elsewhere.
            os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
            # One identity per folder, so a resumed run continues its curve.
            identity = uuid5(NAMESPACE_URL, str(out.resolve())).hex
            loggers.append(WandbLogger(name=out.name, id=identity, project="banet", save_dir=out, resume="allow"))
    return loggers


def _profiler(options: TrainConfig, out: Path) -> Profiler | None:
    if options.profiler == "none":
        return None
    kind = SimpleProfiler if options.profiler == "simple" else PyTorchProfiler
    return kind(dirpath=out, filename="profile")

"""Checkpoints of a run: written atomically, by one process at a time; best and final weights, and their card."""

from __future__ import annotations

import errno
import io
import os
import signal
import warnings
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from importlib import import_module
from pathlib import Path
from types import FrameType
from typing import IO, Any

import torch

from banet.checkpoint.checkpoint import read_checkpoint, save_checkpoint
from banet.checkpoint.hub import model_card
from banet.engine.recipe import TrainConfig
from banet.engine.training.plot import plot_log
from banet.engine.training.run_folder import CURVES, LAST, LOG
from banet.errors import InputError, InputWarning, MissingExtraError
from banet.files.atomic import atomic_path, is_temporary
from banet.modeling.network import Network
from banet.types import StrPath

try:
    import lightning as L
    from lightning.fabric.plugins import TorchCheckpointIO
    from lightning.pytorch.callbacks import Callback, EMAWeightAveraging
    from lightning.pytorch.strategies import FSDPStrategy
    from lightning.pytorch.utilities import rank_zero_only
except ImportError:
    raise MissingExtraError("lightning", "train") from None

__all__ = ["EMA", "AtomicCheckpoints", "CheckpointCallback", "Interrupted", "locked", "out_of_space", "saved"]

BEST = "best.safetensors"
WEIGHTS = "model.safetensors"
_HELD = (errno.EACCES, errno.EAGAIN, errno.EDEADLK)
"""What systems say of a lock that another process holds; the last is said by Windows."""


@contextmanager
def locked(out: Path) -> Iterator[None]:
    """Lock the folder of a run, and remove unfinished files of a writer that was killed.

    The lock belongs to the process and ends with it, however it ends. A file system without locks is a warning.

    Raises:
        InputError: Another process holds it.
    """
    with (out / ".lock").open("a") as file:
        try:
            _lock(file)
        except OSError as error:
            if error.errno not in _HELD:  # such as a network's file system without locks
                told = f"{out} cannot be locked ({error.strerror or error}); see that no other run writes there"
                warnings.warn(told, InputWarning, stacklevel=3)
            else:
                raise InputError(
                    "another run is writing there",
                    where=f"--out {out}",
                    hint="wait for its end, or choose another folder",
                ) from None
        else:
            _remove_unfinished(out)
        yield


def _remove_unfinished(out: Path) -> None:
    for folder in (out, (out / LAST).parent):
        for left in folder.glob(".*.tmp.*"):
            if is_temporary(left):
                left.unlink(missing_ok=True)


def _lock(file: IO[str]) -> None:
    """Lock a file for this process.

    Raises:
        OSError: Another process holds it.
    """
    try:
        import fcntl
    except ImportError:
        msvcrt: Any = import_module("msvcrt")  # of Windows, where the lock is one of bytes from the current place on
        file.seek(0)
        msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
    else:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def out_of_space(error: OSError, out: Path) -> InputError | None:
    """Return the error to show when a write failed because the disk is full; None where it failed otherwise."""
    if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return None
    kept = f"{out / LAST} is whole" if (out / LAST).is_file() else "there is no checkpoint yet"
    return InputError(
        error.strerror or str(error), where=f"--out {out}", hint=f"{kept}; make room and go on with --resume auto"
    )


def saved(out: Path) -> str:
    """Return what a run that ended early has saved, and how to resume it."""
    there = (out / LAST).is_file()
    return f"{out / LAST} is whole: go on with --resume auto" if there else "there is no checkpoint yet"


class AtomicCheckpoints(TorchCheckpointIO):
    """Write a checkpoint to a temporary file in its own folder, flush it to the disk, then rename it.

    Lightning's own writer uses the system's folder for temporary files, which is often on another disk; from there a
    file is copied, not renamed, and a killed process can leave half of it.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: StrPath, storage_options: Any = None) -> None:
        """Write `checkpoint` to `path`.

        Raises:
            OSError: The disk is full.
        """
        buffer = io.BytesIO()  # as torch hides the cause of an error of the file
        # Not torch.save: Ultralytics, once imported, has one in its place that tries again and adds to the same buffer.
        torch.serialization.save(checkpoint, buffer)
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(path) as temporary, temporary.open("wb") as file:
            file.write(buffer.getbuffer())
            file.flush()
            os.fsync(file.fileno())


class EMA(EMAWeightAveraging):
    """Keep an exponential moving average of the weights: Lightning's, with access to the averaged network."""

    @property
    def state_key(self) -> str:
        """Return the key of its state in checkpoints, which is its name before version 0.3."""
        return "Averaging"

    @property
    def averaged(self) -> Network:
        """Return the network with the averaged weights."""
        assert self._average_model is not None
        module: Any = self._average_model.module
        network: Network = module.model
        return network


class Interrupted(Exception):
    """A run was asked to stop, and is saved."""


class CheckpointCallback(Callback):
    """Save the last state of a run, its best weights by PQ and its final weights; save when the run is interrupted.

    A state is saved after an iteration or, where a measurement follows the iteration, after that, so a resumed run has
    every measurement exactly once. SIGINT (Ctrl-C) and SIGTERM end the run after the current iteration; a second one
    ends it at once.

    Args:
        out: Folder of the run.
        network: The network under training.
        ema: The average of its weights, if the averaged ones are the run's result.
        options: How often to save and to measure. The processes of a run also agree at the lines of its log whether to
            stop.
        metadata: Text to save with the weights.
        measured: Whether the run has a validation split.
    """

    def __init__(
        self,
        out: Path,
        network: Network,
        ema: EMA | None,
        options: TrainConfig,
        metadata: Mapping[str, str],
        *,
        measured: bool,
    ) -> None:
        self.out, self.network, self.ema = out, network, ema
        self.options = options
        self.metadata = metadata
        self.measured = measured
        self.best: dict[str, float] = {}
        self.latest: dict[str, float] = {}
        self._finished = False
        self._stop = False
        self._seen = 0
        self._handlers: dict[int, Any] = {}

    @property
    def state_key(self) -> str:
        """Return the key of its state in checkpoints, which is its name before version 0.3."""
        return "Keeper"

    def state_dict(self) -> dict[str, Any]:
        """Return the best and the latest measurement: PQ and iteration."""
        return {"best": self.best, "latest": self.latest}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over the measurements of the run that is resumed."""
        self.best, self.latest = state_dict["best"], state_dict.get("latest", {})

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Install the signal handlers."""
        self._seen = trainer.global_step
        self._handlers = {number: signal.signal(number, self._note) for number in (signal.SIGINT, signal.SIGTERM)}

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._stop = True
        self._restore_signals()
        _say("\nstopping after this iteration; Ctrl-C again stops at once and loses it")

    def _restore_signals(self) -> None:
        while self._handlers:
            signal.signal(*self._handlers.popitem())

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, *unused: Any) -> None:
        """Add the losses to the log, and save if it is time, unless a measurement comes first."""
        step = trainer.global_step
        if step == self._seen:
            return  # one of several accumulated passes
        self._seen = step
        if step % self.options.log_every == 0:  # Lightning would do so only after this, when a state may be saved
            losses = {name: float(loss) for name, loss in outputs.items() if name != "loss"}  # "loss": a share of it
            for logger in trainer.loggers:
                logger.log_metrics({**losses, "loss": sum(losses.values())}, step - 1)
        if step == self.options.iterations:
            trainer.should_stop = True  # makes Lightning measure after the last iteration, whatever the interval
            self._write_weights(trainer, self.out / WEIGHTS)  # already here, in case the measurement fails
        if not self._measures_after(step):
            stop = self._stop_agreed(trainer, step)
            if stop or self._due(step):
                self._save(trainer, stop)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Keep the weights if they are the best so far, and save."""
        step, score = trainer.global_step, float(trainer.callback_metrics["val/pq"])
        self.latest = {"pq": score, "iteration": step}
        if self.options.val_every and score > self.best.get("pq", -1.0):
            self.best = self.latest
            self._write_weights(trainer, self.out / BEST)
        self._save(trainer, self._stop_agreed(trainer, step))

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Write the final weights and restore the signal handlers."""
        self._restore_signals()
        self.finish(trainer)

    def finish(self, trainer: L.Trainer) -> None:
        """Write the final weights and their model card, once.

        Lightning ends a run that had nothing left to do without `on_train_end`.
        """
        if self._finished:
            return
        self._finished = True
        self._write_weights(trainer, self.out / WEIGHTS)
        if trainer.is_global_zero:
            card = model_card(read_checkpoint(self.out / WEIGHTS).metadata, str(self.out), "unknown")
            with atomic_path(self.out / "README.md") as temporary:
                temporary.write_text(card, encoding="utf-8")

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """Restore the signal handlers."""
        self._restore_signals()

    def _measures_after(self, step: int) -> bool:
        every = self.options.val_every
        return self.measured and (step == self.options.iterations or (every > 0 and step % every == 0))

    def _due(self, step: int) -> bool:
        return step % self.options.checkpoint_every == 0 or step == self.options.iterations

    def _stop_agreed(self, trainer: L.Trainer, step: int) -> bool:
        """Return whether any process was asked to stop; the same in all, as all must save together."""
        if trainer.world_size == 1:
            return self._stop
        if step % self.options.log_every and not self._due(step):
            return False
        return trainer.strategy.reduce_boolean_decision(self._stop, all=False)

    def _save(self, trainer: L.Trainer, stop: bool) -> None:
        for logger in trainer.loggers:  # first, as a run resumed from this state does not write these lines again
            logger.save()
        if trainer.is_global_zero and (self.out / LOG).is_file():
            plot_log(self.out / LOG, self.out / CURVES)
        trainer.save_checkpoint(self.out / LAST)
        if stop and trainer.global_step < self.options.iterations:
            raise Interrupted

    def _write_weights(self, trainer: L.Trainer, path: Path) -> None:
        network = self.ema.averaged if self.ema else self.network
        metadata = {**self.metadata, "iterations": str(trainer.global_step)}
        if self.latest.get("iteration") == trainer.global_step:
            metadata["pq"] = f"{self.latest['pq']:.2f}"
        with _whole_parameters(trainer):
            if trainer.is_global_zero:
                save_checkpoint(path, network, metadata=metadata)


def _whole_parameters(trainer: L.Trainer) -> AbstractContextManager[None]:
    """Gather parameters that are sharded over processes on the first one."""
    if not isinstance(trainer.strategy, FSDPStrategy):
        return nullcontext()
    from torch.distributed.fsdp import FullyShardedDataParallel

    sharded: Any = trainer.strategy.model
    whole: AbstractContextManager[None] = FullyShardedDataParallel.summon_full_params(
        sharded, writeback=False, rank0_only=True, offload_to_cpu=True
    )
    return whole


_say = rank_zero_only(print)

"""What a run keeps on disk: whole checkpoints, best and last weights, a log that goes on; one writer at a time."""

from __future__ import annotations

import csv
import errno
import io
import os
import signal
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from types import FrameType
from typing import Any

import torch

from banet.engine.recipe import TrainConfig
from banet.errors import InputError, MissingExtraError
from banet.files.atomic import atomic_path
from banet.modeling.banet import BANet
from banet.modeling.weights import save_model

try:
    import lightning as L
    from lightning.fabric.plugins import TorchCheckpointIO
    from lightning.pytorch.callbacks import Callback, EMAWeightAveraging
    from lightning.pytorch.loggers import Logger
    from lightning.pytorch.strategies import FSDPStrategy
    from lightning.pytorch.utilities import rank_zero_only
except ImportError:
    raise MissingExtraError("lightning", "train") from None

__all__ = ["AtomicCheckpoints", "Averaging", "CsvLog", "Interrupted", "Keeper", "locked", "out_of_space", "saved"]

LAST = Path("checkpoints") / "last.ckpt"
BEST = "best.safetensors"


@contextmanager
def locked(out: Path) -> Iterator[None]:
    """Hold the folder of a run; removes what a killed writer left half written.

    The lock belongs to the process and ends with it, however it ends.

    Raises:
        InputError: Another process holds it.
    """
    try:
        import fcntl
    except ImportError:  # Windows has no such lock
        yield
        return
    with (out / ".lock").open("w") as file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise InputError(
                f"--out {out}: another run is writing there; wait for its end, or choose another folder"
            ) from None
        for folder in (out, (out / LAST).parent):
            for left in folder.glob(".*.tmp.*"):
                left.unlink(missing_ok=True)
        yield


def out_of_space(error: OSError, out: Path) -> InputError | None:
    """What to tell the user when a write failed for want of space; None where it failed for another reason."""
    if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return None
    kept = f"{out / LAST} is whole" if (out / LAST).is_file() else "there is no checkpoint yet"
    return InputError(f"--out {out}: {error.strerror}; {kept}; make room and go on with --resume auto")


def saved(out: Path) -> str:
    """What is left of a run that ended early."""
    there = (out / LAST).is_file()
    return f"{out / LAST} is whole: go on with --resume auto" if there else "there is no checkpoint yet"


class AtomicCheckpoints(TorchCheckpointIO):
    """Writes a checkpoint beside its place, to the disk, and only then renames it.

    Lightning's own writer goes through the folder for temporary files, which is often on another disk; from there a
    file is copied, not renamed, and a kill can leave half of it.
    """

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | os.PathLike[str], storage_options: Any = None
    ) -> None:
        """Write `checkpoint` to `path`.

        Raises:
            OSError: There is no room.
        """
        buffer = io.BytesIO()  # torch turns an error of the file it writes to into one that no longer tells the cause
        torch.save(checkpoint, buffer)
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(path) as temporary, temporary.open("wb") as file:
            file.write(buffer.getbuffer())
            file.flush()
            os.fsync(file.fileno())


class Averaging(EMAWeightAveraging):
    """Lightning's moving average of the weights, which gives the averaged network to those who ask."""

    @property
    def averaged(self) -> BANet:
        """The network with the averaged weights."""
        assert self._average_model is not None
        module: Any = self._average_model.module
        network: BANet = module.model
        return network


class Interrupted(Exception):
    """A run was asked to stop, and is saved."""


class Keeper(Callback):
    """Keeps the last state of a run, its best weights by PQ and its final weights; saves when the run is interrupted.

    A state is saved after an iteration or, where the iteration is followed by a measurement, after that, so a run that
    goes on from it has every measurement exactly once. SIGINT (Ctrl-C) and SIGTERM end the run after the iteration at
    hand; a second one ends it at once.

    Args:
        out: Folder of the run.
        network: What is trained.
        averaging: What averages its weights, if the averaged ones are the run's result.
        options: How often to save and to measure. A run of several processes agrees at the lines of its log, too,
            whether to stop.
        metadata: Text for the weights.
    """

    def __init__(
        self,
        out: Path,
        network: BANet,
        averaging: Averaging | None,
        options: TrainConfig,
        metadata: Mapping[str, str],
    ) -> None:
        self.out, self.network, self.averaging = out, network, averaging
        self.options = options
        self.metadata = metadata
        self.best: dict[str, float] = {}
        self.finished = False
        self._stop = False
        self._seen = 0
        self._handlers: dict[int, Any] = {}

    def state_dict(self) -> dict[str, Any]:
        """The best measurement."""
        return {"best": self.best}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on with the best measurement of the run before."""
        self.best = state_dict["best"]

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Take over the signals."""
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
        if not self._measured_after(step):
            stop = self._stop_agreed(trainer, step)
            if stop or self._due(step):
                self._save(trainer, stop)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Keep the weights if they are the best so far, and save."""
        step, score = trainer.global_step, float(trainer.callback_metrics["val/pq"])
        if score > self.best.get("pq", -1.0):
            self.best = {"pq": score, "iteration": step}
            self._write_weights(trainer, self.out / BEST, pq=score)
        self._save(trainer, self._stop_agreed(trainer, step))

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Write the final weights and give the signals back."""
        self._restore_signals()
        self.finish(trainer)

    def finish(self, trainer: L.Trainer) -> None:
        """Write the final weights; Lightning ends a run that had nothing left to do without `on_train_end`."""
        if self.finished:
            return
        self.finished = True
        scores = trainer.callback_metrics
        fresh = "val/pq" in scores and self._measured_after(trainer.global_step)
        self._write_weights(trainer, self.out / "model.safetensors", pq=float(scores["val/pq"]) if fresh else None)

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """Give the signals back."""
        self._restore_signals()

    def _measured_after(self, step: int) -> bool:
        return self.options.val_every > 0 and step % self.options.val_every == 0

    def _due(self, step: int) -> bool:
        return step % self.options.checkpoint_every == 0 or step == self.options.iterations

    def _stop_agreed(self, trainer: L.Trainer, step: int) -> bool:
        """Whether any process was asked to stop; all say the same, as all must save together."""
        if trainer.world_size == 1:
            return self._stop
        if step % self.options.log_every and not self._due(step):
            return False
        return trainer.strategy.reduce_boolean_decision(self._stop, all=False)

    def _save(self, trainer: L.Trainer, stop: bool) -> None:
        for logger in trainer.loggers:  # first, as a run that goes on from this state does not write these lines again
            logger.save()
        trainer.save_checkpoint(self.out / LAST)
        if stop and trainer.global_step < self.options.iterations:
            raise Interrupted

    def _write_weights(self, trainer: L.Trainer, path: Path, pq: float | None) -> None:
        network = self.averaging.averaged if self.averaging else self.network
        metadata = {**self.metadata, "iterations": str(trainer.global_step)}
        if pq is not None:
            metadata["pq"] = f"{pq:.2f}"
        with _whole_parameters(trainer):
            if trainer.is_global_zero:
                save_model(network, path, metadata=metadata)


def _whole_parameters(trainer: L.Trainer) -> AbstractContextManager[None]:
    """Where parameters are sharded over processes: gathers them on the first one."""
    if not isinstance(trainer.strategy, FSDPStrategy):
        return nullcontext()
    from torch.distributed.fsdp import FullyShardedDataParallel

    sharded: Any = trainer.strategy.model
    whole: AbstractContextManager[None] = FullyShardedDataParallel.summon_full_params(
        sharded, writeback=False, rank0_only=True, offload_to_cpu=True
    )
    return whole


class CsvLog(Logger):
    """Figures by iteration in one CSV file, which a run that goes on continues.

    Lightning's own logger deletes the file of the run before.

    Args:
        path: The file.
        start: Iteration that the run goes on from; lines of later ones are dropped, as they are computed again.
    """

    def __init__(self, path: Path, start: int = 0) -> None:
        super().__init__()
        self.path = path
        self.columns = ["step"]
        self._rows: list[dict[str, Any]] | None = []  # to write before all else; None once the file is this run's
        self._pending: list[dict[str, Any]] = []
        if start and path.is_file():
            with path.open(newline="", encoding="utf-8") as file:
                reader = csv.DictReader(file)
                self.columns = list(reader.fieldnames or self.columns)
                # A kill may have cut the last line.
                self._rows = [r for r in reader if None not in r.values() and 0 <= int(r["step"] or -1) < start]

    @property
    def name(self) -> str:
        """Name of the log."""
        return "log"

    @property
    def version(self) -> str:
        """There is one log a run."""
        return ""

    @rank_zero_only
    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        """They are in the run's `recipe.yaml`."""

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Add a line."""
        self._pending.append({"step": step, **metrics})

    @rank_zero_only
    def save(self) -> None:
        """Append what is new; where it has a new column, write the whole file anew."""
        if not self._pending:
            return
        columns = self.columns + sorted({name for row in self._pending for name in row} - set(self.columns))
        if self._rows is None and columns == self.columns:
            with self.path.open("a", newline="", encoding="utf-8") as file:
                csv.DictWriter(file, columns).writerows(self._pending)
        else:
            rows = self._read() if self._rows is None else self._rows
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with atomic_path(self.path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
                writer = csv.DictWriter(file, columns)
                writer.writeheader()
                writer.writerows([*rows, *self._pending])
        self.columns, self._rows, self._pending = columns, None, []

    def _read(self) -> list[dict[str, Any]]:
        with self.path.open(newline="", encoding="utf-8") as file:
            return list(csv.DictReader(file))

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """Write what is left."""
        self.save()


_say = rank_zero_only(print)

"""Training: a recipe in, a folder with weights, checkpoints, log and the resolved recipe out."""

from __future__ import annotations

import logging
import math
import signal
import warnings
from collections.abc import Iterable
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import DataLoader

from banet.data.samples import Sample, collate
from banet.engine.datasets import Draws, DrawSampler, Forwarding, PanopticDataset, raise_if_bad, training_set
from banet.engine.device import pick_device
from banet.engine.evaluate import Evaluator, check_categories
from banet.engine.metrics import PanopticQualityMetric
from banet.engine.pictures import Picture, open_pictures
from banet.engine.recipe import Recipe, TrainConfig, to_yaml
from banet.errors import InputError, MissingExtraError
from banet.modeling.backbone import imagenet_weights
from banet.modeling.banet import BANet
from banet.modeling.build import build_model
from banet.modeling.weights import initialise
from banet.panoptic.coco_format import atomic_path

try:
    import lightning as L
    from lightning.pytorch.callbacks import (
        Callback,
        EMAWeightAveraging,
        LearningRateMonitor,
        ModelCheckpoint,
        TQDMProgressBar,
    )
    from lightning.pytorch.loggers import CSVLogger
except ImportError:
    raise MissingExtraError("lightning", "train") from None

__all__ = ["TrainingTask", "build_for_training", "learning_rate_factor", "train"]


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
        print(
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
        print(f"weights: backbone from ImageNet ({len(missing)} tensors keep their initial values), the rest random")
    else:
        print(f"weights: {init}\n{initialise(model, init)}")
    if recipe.model.norm == "frozen_batch" and init == "random":
        warnings.warn("frozen batch norm with random weights hardly learns; set --model.norm group", stacklevel=2)
    return model


class TrainingTask(L.LightningModule):
    """The network under training, for Lightning.

    Args:
        model: With its initial weights.
        recipe: How to train it.
    """

    def __init__(self, model: BANet, recipe: Recipe) -> None:
        super().__init__()
        self.model = model
        self.recipe = recipe
        self.quality = PanopticQualityMetric(model.categories)
        self.evaluator = Evaluator(model, quality=self.quality)

    def training_step(self, batch: list[Sample], batch_index: int) -> Tensor:
        """Sum of the losses of one batch.

        Raises:
            InputError: The sum is not finite; names the images.
        """
        # Sampling inside the network is a function of seed and step, so a resumed run goes on as if undisturbed.
        torch.manual_seed((self.recipe.train.seed << 40) + (self.global_rank << 32) + batch_index)
        losses = self.model.losses([s.image for s in batch], [s.target for s in batch])
        total = torch.stack(list(losses.values())).sum()
        if not torch.isfinite(total):
            wrong = ", ".join(name for name, loss in losses.items() if not torch.isfinite(loss))
            raise InputError(
                f"training stopped at iteration {self.global_step}: {wrong} not finite on {self._culprits(batch)};"
                " lower --train.lr, set --train.clip 10, or start from pretrained weights"
            )
        values = {name: loss.detach() for name, loss in losses.items()}
        self.log_dict(values, batch_size=len(batch))
        self.log("loss", total.detach(), prog_bar=True, batch_size=len(batch))
        return total

    @torch.no_grad()
    def _culprits(self, batch: list[Sample]) -> str:
        """Names of the images of a batch whose own loss is not finite, or of all where it takes them together."""
        alone = [sum(self.model.losses([s.image], [s.target]).values()) for s in batch]
        guilty = [s.target.name for s, loss in zip(batch, alone, strict=True) if not math.isfinite(float(loss))]
        return ", ".join(guilty or [s.target.name for s in batch])

    def validation_step(self, batch: list[Picture], batch_index: int) -> None:
        """Add a batch of validation pictures to the measurement."""
        for _ in self.evaluator.update(batch):
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
            print(f"\niteration {self.global_step}: {shown}")

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


class SaveOnInterrupt(Callback):
    """The first Ctrl-C ends the run after the step at hand and saves it; a second one ends it at once.

    Args:
        path: The checkpoint to write.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.interrupted = False

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Take over Ctrl-C."""
        self._before = signal.signal(signal.SIGINT, self._note)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.interrupted = True
        signal.signal(signal.SIGINT, self._before)
        print("\nstopping after this iteration; Ctrl-C again stops at once and loses it")

    def on_train_batch_end(self, trainer: L.Trainer, *unused: Any) -> None:
        """Save and stop, if asked to."""
        if self.interrupted:
            trainer.save_checkpoint(self.path)
            trainer.should_stop = True

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Give Ctrl-C back."""
        signal.signal(signal.SIGINT, self._before)


def train(recipe: Recipe, out: Path, *, resume: str | None = None, device: str = "auto") -> Path:
    """Train as a recipe says.

    Args:
        recipe: What to train, on what, how.
        out: Folder of the run; gets `recipe.yaml`, `log/`, `checkpoints/` and `model.safetensors`.
        resume: None starts afresh, `auto` goes on from the last checkpoint in `out` if there is one, a path from that
            checkpoint.
        device: `auto`, `cpu`, `cuda` or `mps`.

    Returns:
        The weights.

    Raises:
        InputError: Bad data, weights or options, a folder that holds another run, or a loss that is not finite.
        KeyboardInterrupt: The run was interrupted; its state is saved.
    """
    recipe = recipe.resolved()
    options = recipe.train
    last = out / "checkpoints" / "last.ckpt"
    if resume is None and last.exists():
        raise InputError(f"--out {out}: holds a run already; go on with --resume auto, or choose another folder")
    start_from = _checkpoint(resume, last)
    done = _steps_done(start_from)
    target = pick_device(device)
    dataset = training_set(recipe.data)
    validation = open_pictures(recipe.data) if options.val_every else None
    model = build_for_training(recipe, dataset)
    if validation is not None:
        check_categories(model, validation.categories, f"{recipe.name}, validation split")

    _quiet()
    interrupt = SaveOnInterrupt(last)
    trainer = _trainer(recipe, out, target, interrupt)
    world = trainer.world_size
    local, rest = divmod(options.batch, world * options.accumulate)
    if rest:
        raise InputError(
            f"train.batch: {options.batch} cannot be shared by {world} devices x {options.accumulate} accumulated"
            " passes; make it a multiple"
        )
    trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)
    epochs = options.iterations * options.batch / len(dataset)
    print(
        f"{recipe.name}: {len(dataset):,} images, {trainable / 1e6:.1f} M trainable parameters, {world} x {target.type}"
    )
    print(f"batch: {options.batch} in all, {local} a device and pass; learning rate: {options.lr} after warm-up")
    print(f"iterations: {options.iterations:,} ({epochs:.2f} epochs)" + f", going on from {done:,}" * (done > 0))

    out.mkdir(parents=True, exist_ok=True)
    with atomic_path(out / "recipe.yaml") as temporary:
        temporary.write_text(to_yaml(recipe))
    draws = DrawSampler(done * options.batch, trainer.global_rank, world)
    trainer.fit(
        TrainingTask(model, recipe),
        _loader(Draws(dataset, options.seed), local, recipe.data.workers, sampler=draws),
        None
        if validation is None
        else _loader(validation, 1, recipe.data.workers, sampler=range(trainer.global_rank, len(validation), world)),
        ckpt_path=start_from,
    )
    if interrupt.interrupted:
        raise KeyboardInterrupt(f"stopped at iteration {trainer.global_step}; go on with --resume auto")
    weights = model.eval().save_pretrained(
        out, recipe=recipe.name, iterations=str(trainer.global_step), initialisation=options.init
    )
    print(f"weights: {weights}")
    return weights


def _trainer(recipe: Recipe, out: Path, device: torch.device, *more: Callback) -> L.Trainer:
    options = recipe.train
    folder = out / "checkpoints"
    callbacks: list[Callback] = [
        ModelCheckpoint(
            folder, filename="last", every_n_train_steps=options.checkpoint_every, enable_version_counter=False
        ),
        LearningRateMonitor("step"),
        TQDMProgressBar(refresh_rate=max(1, min(20, options.log_every))),
    ]
    if options.ema:
        callbacks.append(EMAWeightAveraging(decay=options.ema))
    callbacks += more  # after the averaging, whose state of this step they may save
    if options.val_every:
        callbacks.append(
            ModelCheckpoint(
                folder,
                filename="best",
                monitor="val/pq",
                mode="max",
                save_weights_only=True,
                enable_version_counter=False,
            )
        )
    accelerator = {"cuda": "gpu"}.get(device.type, device.type)
    precision: Any = {"32": "32-true", "bf16": "bf16-mixed", "16": "16-mixed"}[options.precision]
    return L.Trainer(
        accelerator=accelerator,
        devices="auto" if accelerator == "gpu" else 1,
        max_steps=options.iterations,
        precision=precision,
        accumulate_grad_batches=options.accumulate,
        gradient_clip_val=options.clip or None,
        val_check_interval=options.val_every * options.accumulate or None,
        check_val_every_n_epoch=None,
        num_sanity_val_steps=0,
        limit_val_batches=1.0 if options.val_every else 0,
        log_every_n_steps=options.log_every,
        logger=CSVLogger(out, name="log", version=""),
        callbacks=callbacks,
        use_distributed_sampler=False,  # draws are shared out by number already
        enable_model_summary=False,
    )


def _checkpoint(resume: str | None, last: Path) -> Path | None:
    if resume is None or (resume == "auto" and not last.exists()):
        return None
    path = last if resume == "auto" else Path(resume)
    if not path.is_file():
        raise InputError(f"--resume {resume}: no such checkpoint; give auto or a .ckpt file of this run")
    return path


def _steps_done(checkpoint: Path | None) -> int:
    if checkpoint is None:
        return 0
    try:
        return int(torch.load(checkpoint, map_location="cpu", weights_only=True, mmap=True)["global_step"])
    except (KeyError, RuntimeError, OSError) as error:
        raise InputError(f"{checkpoint}: not a checkpoint of a run ({error})") from None


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

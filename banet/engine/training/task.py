"""What is trained: losses, optimizer, schedule and measurement of a network, as Lightning calls them."""

from __future__ import annotations

import math
import traceback
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR

from banet.data.samples import Sample, image_seed
from banet.engine.evaluation.evaluate import Evaluator
from banet.engine.evaluation.evaluation_data import EvaluationImage
from banet.engine.evaluation.metrics import PanopticQualityMetric
from banet.engine.recipe import Recipe, TrainConfig
from banet.engine.training.datasets import raise_if_bad
from banet.errors import InputError, MissingExtraError
from banet.inference.banet import BANet
from banet.inference.device import first_that_fits, is_out_of_memory

try:
    import lightning as L
    from lightning.pytorch.callbacks import Callback
    from lightning.pytorch.strategies import FSDPStrategy
    from lightning.pytorch.utilities import rank_zero_only
except ImportError:
    raise MissingExtraError("lightning", "train") from None

__all__ = ["MemoryCheck", "TrainingTask", "learning_rate_factor", "parameter_groups"]

_say = rank_zero_only(print)
_BODY = "backbone.body."


def learning_rate_factor(step: int, options: TrainConfig) -> float:
    """Return the fraction of `options.lr` that step `step`, counted from 0, learns with."""
    if options.schedule == "cosine":
        factor = 0.5 * (1 + math.cos(math.pi * min(step / options.iterations, 1)))
    else:
        factor = 0.1 ** sum(step >= milestone for milestone in options.milestones)
    if step < options.warmup:
        factor *= options.warmup_factor + (1 - options.warmup_factor) * step / options.warmup
    return factor


def parameter_groups(model: BANet, options: TrainConfig) -> list[dict[str, Any]]:
    """Return the parameters that learn, in groups of one learning rate and weight decay each.

    With `layer_decay` below 1, layer i of the body's n learns with `lr` times `layer_decay` to the power of n - i (Bao
    et al. 2022); all else learns with `lr`. With AdamW only weights of convolutions and linear layers decay.
    """
    layers, adamw = model.backbone.layers, options.optimizer == "adamw"
    decayed: list[tuple[str, nn.Parameter]] = []
    plain: list[tuple[str, nn.Parameter]] = []
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            (decayed if parameter.ndim > 1 and name.endswith("weight") else plain).append((name, parameter))
    groups: dict[tuple[int, float], list[nn.Parameter]] = {}
    for members, weight_decay in ((decayed, options.weight_decay), (plain, 0.0 if adamw else options.weight_decay)):
        for name, parameter in members:
            inside = options.layer_decay < 1 and name.startswith(_BODY)
            depth = len(layers.prefixes) - layers.index(name.removeprefix(_BODY)) if inside else 0
            groups.setdefault((depth, weight_decay), []).append(parameter)
    return [
        {"params": parameters, "lr": options.lr * options.layer_decay**depth, "weight_decay": weight_decay}
        for (depth, weight_decay), parameters in groups.items()
    ]


class TrainingTask(L.LightningModule):
    """Train and measure a network, as Lightning asks for it.

    Args:
        model: The network with its initial weights.
        recipe: How to train it.
        val_images: Number of images of the validation split, over all processes.
    """

    def __init__(self, model: BANet, recipe: Recipe, val_images: int = 0) -> None:
        super().__init__()
        self.val_images = val_images
        self.batch: list[Sample] = []  # the current one; empty while measuring
        self._losses: dict[str, Tensor] = {}  # its losses
        self.model = model
        self.recipe = recipe
        self.quality = PanopticQualityMetric(model.categories)
        self.evaluator = Evaluator(model, quality=self.quality)

    def training_step(self, batch: list[Sample], batch_index: int) -> dict[str, Tensor]:
        """Return the losses of one batch by name, and "loss", their sum; `CheckpointCallback` logs them."""
        self.batch = batch
        self._seed_sampling(batch, batch_index)
        losses = self.model.losses([s.image for s in batch], [s.target for s in batch])
        total = torch.stack(list(losses.values())).sum()
        self._losses = {name: loss.detach() for name, loss in losses.items()}
        self.log("loss", total.detach(), prog_bar=True, logger=False, batch_size=len(batch))
        return {"loss": total, **self._losses}

    def on_after_backward(self) -> None:
        """Stop a run whose losses are not finite, before its weights change; here a GPU has been given all its work.

        Raises:
            InputError: One of them is not finite; names the images.
        """
        values = torch.stack(list(self._losses.values())).tolist()
        wrong = ", ".join(name for name, value in zip(self._losses, values, strict=True) if not math.isfinite(value))
        if wrong:
            raise InputError(
                f"training stopped at iteration {self.global_step}: {wrong} not finite on {self._culprits(self.batch)}",
                hint="lower --train.lr, set --train.clip 10, or start from pretrained weights",
            )

    def _seed_sampling(self, batch: list[Sample], batch_index: int) -> None:
        """Make the sampling inside the network a function of seed, images and step.

        So a resumed run equals an undisturbed one, and it does not matter which process has an image.
        """
        images = [image_seed(sample.target.image_id) for sample in batch]
        seed = np.random.SeedSequence([self.recipe.train.seed, batch_index, *images]).generate_state(1, np.uint64)
        torch.manual_seed(int(seed[0]))

    @torch.no_grad()
    def _culprits(self, batch: list[Sample]) -> str:
        """Return the names of the images whose own loss is not finite, or of all where each alone is finite."""
        alone = [sum(self.model.losses([s.image], [s.target]).values()) for s in batch]
        guilty = [s.target.name for s, loss in zip(batch, alone, strict=True) if not math.isfinite(float(loss))]
        return ", ".join(guilty or [s.target.name for s in batch])

    def validation_step(self, batch: list[EvaluationImage], batch_index: int) -> None:
        """Add a batch of validation images to the measurement, unless another process has measured it already."""
        self.batch = []
        turn = batch_index * self.trainer.world_size + self.global_rank
        evaluator = self.evaluator if turn < self.val_images else Evaluator(self.model)
        for _ in evaluator.update(batch):
            pass

    def on_validation_epoch_end(self) -> None:
        """Log PQ of the validation split."""
        result = self.quality.compute()
        self.quality.reset()
        scores = {f"val/{key}": 100 * _zero_if_nan(result[name]["pq"]) for key, name in _SUBSETS.items()}
        self.log_dict(scores, batch_size=1)
        self.log("pq", scores["val/pq"], prog_bar=True, logger=False, batch_size=1)
        if not self.trainer.sanity_checking:
            line = "  ".join(f"{key.removeprefix('val/')} {value:.1f}" for key, value in scores.items())
            _say(f"\niteration {self.global_step}: {line}")

    def configure_optimizers(self) -> Any:
        """Return the optimizer and its schedule, as the recipe says."""
        options = self.recipe.train
        groups = parameter_groups(self.model, options)
        optimizer: torch.optim.Optimizer
        if options.optimizer == "adamw":
            optimizer = torch.optim.AdamW(groups, lr=options.lr)
        else:
            optimizer = torch.optim.SGD(groups, lr=options.lr, momentum=options.momentum)
        schedule = LambdaLR(optimizer, lambda step: learning_rate_factor(step, options))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def configure_gradient_clipping(
        self, optimizer: torch.optim.Optimizer, gradient_clip_val: float | None = None, *unused: Any, **more: Any
    ) -> None:
        """Clip the norm of the whole gradient, even if it is sharded over processes."""
        if gradient_clip_val and isinstance(self.trainer.strategy, FSDPStrategy):
            sharded: Any = self.trainer.strategy.model
            sharded.clip_grad_norm_(gradient_clip_val)
        else:
            super().configure_gradient_clipping(optimizer, gradient_clip_val, *unused, **more)

    def batch_that_fits(self) -> int:
        """Return how many images of the batch that did not fit into the memory do fit: a divisor of it, or 0."""
        largest = sorted(self.batch, key=lambda sample: -sample.image[0].numel())
        parameters = [p for p in self.model.parameters() if p.requires_grad]
        first_step = not any(optimizer.state for optimizer in self.trainer.optimizers)
        self.zero_grad()

        def try_pass(count: int) -> None:
            moments = [torch.empty_like(p) for p in parameters * 2] if first_step else []  # AdamW makes them in step 1
            with self.trainer.precision_plugin.train_step_context():
                losses = self.model.losses([s.image for s in largest[:count]], [s.target for s in largest[:count]])
            torch.autograd.grad(torch.stack(list(losses.values())).sum(), parameters)  # waits for no other process
            del moments

        divisors = [n for n in range(len(largest) // 2, 0, -1) if len(largest) % n == 0]
        return first_that_fits(divisors, try_pass)

    def transfer_batch_to_device(self, batch: list[Any], device: torch.device, dataloader_idx: int) -> list[Any]:
        """Move samples, which are not tensors; validation images stay where they are.

        Raises:
            InputError: One of them could not be read.
        """
        raise_if_bad(batch)
        free = device.type != "mps"  # see `to_device`
        return [item.to(device, non_blocking=free) if isinstance(item, Sample) else item for item in batch]


_SUBSETS = {"pq": "All", "pq_th": "Things", "pq_st": "Stuff"}


def _zero_if_nan(value: float | None) -> float:
    return 0.0 if value is None or math.isnan(value) else value


class MemoryCheck(Callback):
    """Find out what would fit when the memory is too small, while all that the run keeps is still allocated.

    Attributes:
        advice: What to change; empty if the memory was not the cause.
    """

    def __init__(self) -> None:
        self.advice = ""

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """Set the advice."""
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
        elif fits := pl_module.batch_that_fits():
            passes = options.accumulate * count // fits
            self.advice = f"{many}, but {fits}; --train.accumulate {passes} keeps the batch of {options.batch_size}"
        else:
            one = f"{where} one image of {width}x{height}"
            self.advice = f"{one}; set --train.gradient_checkpointing true, or lower --data.shorter and longer"

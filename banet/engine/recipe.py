"""A recipe: everything that decides a run, as frozen options set by a YAML file or the command line. Free of torch."""

from __future__ import annotations

import os
from collections.abc import Collection
from dataclasses import asdict, dataclass, field, replace
from importlib import resources
from pathlib import Path
from typing import Any, Literal

from banet._renamed import accept_old_names
from banet.errors import InputError
from banet.files.remote import refuse_url, without_scheme
from banet.modeling.config import InferenceConfig, LossConfig, ModelConfig

__all__ = ["DataConfig", "Recipe", "SplitConfig", "TrainConfig", "find_recipe", "recipe_names", "to_yaml"]


@dataclass(frozen=True)
class SplitConfig:
    """One split of a data set in COCO panoptic format.

    Attributes:
        images: Folder of images.
        panoptic: Folder of id PNGs.
        json: The panoptic JSON.
        instances: A COCO instances JSON of the same images: its boxes and masks, which may overlap, are what things are
            learnt from and what AP is measured against; without it, those of the id PNGs.
    """

    images: str = ""
    panoptic: str = ""
    json: str = ""
    instances: str = ""


@dataclass(frozen=True)
class DataConfig:
    """Where samples come from and how they are augmented.

    Attributes:
        kind: `coco` reads the splits below; `scenes` draws procedural scenes at run time.
        root: Folder that relative paths of the splits start from.
        domain: What the images show, in a few words, such as `street scenes`; saved with the weights, and shown beside
            their results.
        train: The split to learn from.
        val: The split to measure on; with an empty `json` nothing is measured.
        scene_size: Side of a scene in pixels.
        scene_context: Things in scenes depend on the ground, and pairs of stuff look alike (`banet data scenes
            --context`); otherwise any thing stands on any ground.
        train_scenes: How many different scenes to learn from.
        val_scenes: How many scenes to measure on; never the ones learnt from.
        shorter: The shorter side of a training image is resized to one of these at random.
        longer: Most pixels of its longer side.
        scale: Range of a random factor that sides are multiplied by in place of `shorter`; 0, 0 resizes to `shorter`.
        flip: Probability of a horizontal flip.
        flip_vertical: Probability of a vertical flip, for images without an up and down.
        crop: Range of the fraction of each side that a random crop keeps; 1, 1 does not crop.
        crop_size: Side of a random square window in place of `crop`, in pixels after resizing; 0 crops by `crop`.
        crop_min_fraction: Things of which a random crop leaves a smaller fraction than this are not instances in
            training; their pixels keep their class.
        color_jitter: Strength of random changes of brightness, contrast and saturation, 0 to 1.
        quarter_turns: Whether images are turned by random multiples of 90 degrees, for images without an up and down.
        stain_jitter: Strength of random changes of stain and gamma, in optical densities, 0 to 1.
        invert: Probability of an inverted image.
        blur: Largest standard deviation of a random blur, in pixels.
        noise: Largest standard deviation of random noise, in grey levels of 0 to 255.
        copy_paste: Probability that things of another training image are pasted on one; 0 pastes nothing.
        workers: Processes that load samples; 0 loads in the training process.
    """

    kind: Literal["coco", "scenes"] = "coco"
    root: str = "datasets/coco"
    domain: str = ""
    train: SplitConfig = field(
        default_factory=lambda: SplitConfig(
            "train2017", "annotations/panoptic_train2017", "annotations/panoptic_train2017.json"
        )
    )
    val: SplitConfig = field(
        default_factory=lambda: SplitConfig(
            "val2017", "annotations/panoptic_val2017", "annotations/panoptic_val2017.json"
        )
    )
    scene_size: int = 256
    scene_context: bool = False
    train_scenes: int = 1_000_000
    val_scenes: int = 100
    shorter: tuple[int, ...] = (800,)
    longer: int = 1333
    scale: tuple[float, float] = (0.0, 0.0)
    flip: float = 0.5
    flip_vertical: float = 0.0
    crop: tuple[float, float] = (0.8, 1.0)
    crop_size: int = 0
    crop_min_fraction: float = 0.1
    color_jitter: float = 0.0
    quarter_turns: bool = False
    stain_jitter: float = 0.0
    invert: float = 0.0
    blur: float = 0.0
    noise: float = 0.0
    copy_paste: float = 0.0
    workers: int = 4

    def __post_init__(self) -> None:
        """Refuse values out of range."""
        if not self.shorter or min(self.shorter) < 1 or max(self.shorter) > self.longer:
            raise ValueError(f"data.shorter: give lengths from 1 to data.longer ({self.longer}), not {self.shorter}")
        if self.scale != (0, 0) and not 0 < self.scale[0] <= self.scale[1] <= 100:
            raise ValueError(f"data.scale: must be an increasing pair in (0, 100], or 0, 0, not {self.scale}")
        for name in (
            "crop_min_fraction",
            "flip",
            "flip_vertical",
            "color_jitter",
            "stain_jitter",
            "invert",
            "copy_paste",
        ):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"data.{name}: must lie in 0..1, not {getattr(self, name)}")
        if self.copy_paste and self.train.instances:
            raise ValueError(
                "data.copy_paste: pastes what can be seen, so not with data.train.instances; set one of them"
            )
        if not 0 < self.crop[0] <= self.crop[1] <= 1:
            raise ValueError(f"data.crop: must be an increasing pair in (0, 1], not {self.crop}")
        for name in ("workers", "crop_size", "blur", "noise"):
            if getattr(self, name) < 0:
                raise ValueError(f"data.{name}: must not be negative, not {getattr(self, name)}")
        for name in ("scene_size", "train_scenes", "val_scenes"):
            if getattr(self, name) < 1:
                raise ValueError(f"data.{name}: must be at least 1, not {getattr(self, name)}")

    def local_root(self) -> Path:
        """Return `root`, for what reads a data set from disk alone.

        Raises:
            InputError: It or a part of a split is a URL.
        """
        refuse_url(self.root, "data.root")
        for name, split in (("train", self.train), ("val", self.val)):
            for part, value in asdict(split).items():
                refuse_url(value, f"data.{name}.{part}")
        return Path(without_scheme(self.root))


@accept_old_names
@dataclass(frozen=True)
class TrainConfig:
    """Optimisation. The defaults are the paper's 1x schedule.

    Attributes:
        init: Where weights start: `imagenet` (the backbone's, from torchvision or timm), `random`, `coco`
            (torchvision's Mask R-CNN R50), or a file: weights of a classifier with this backbone or of torchvision's
            Mask R-CNN (.pth, .safetensors), or weights of this library (.safetensors).
        iterations: Optimizer steps.
        epochs: Passes over the training images in place of `iterations`, which they set once the images are counted;
            milestones move along. 0 for `iterations`.
        batch_size: Images per step, over all devices together. Changed on the command line, it takes the learning
            rate and the schedule of the recipe along.
        optimizer: `sgd` with momentum, or `adamw`.
        lr: Learning rate after warm-up, at this batch.
        layer_decay: Factor of the learning rate from each layer of the backbone to the one before it; 1 for one rate.
        momentum: Of SGD.
        weight_decay: Of the weights of convolutions and linear layers; biases and norms have none with `adamw`.
        warmup: Iterations of linear warm-up.
        warmup_factor: Fraction of `lr` that warm-up starts from.
        schedule: `steps` divides by ten at `milestones`; `cosine` falls to zero.
        milestones: Iterations at which `steps` divides.
        clip: Largest norm of the gradient; 0 does not clip.
        ema: Decay of the averaged weights that are saved and measured; 0 keeps the last ones.
        precision: `32`, `bf16` or `16` mixed precision.
        gradient_checkpointing: Forget the features inside residual blocks and the semantic head, and compute them once
            more in the backward pass: less memory, more time, the same gradients.
        accumulate: Forward passes whose gradients make one step; `batch_size` is divided among them.
        checkpoint_every: Iterations between checkpoints.
        val_every: Iterations between measurements on the validation split, besides the one at the end; 0 measures at
            the end only.
        log_every: Iterations between lines of the log.
        seed: Of weights, order and augmentation.
        devices: Processes per machine, one per device; 0 takes all GPUs or one CPU, or what torchrun or SLURM started.
        nodes: Machines; 0 takes what torchrun or SLURM started, else one.
        strategy: How processes share the work: `ddp` copies the network to each, `fsdp` shards it (GPUs only).
        loggers: Where the log goes: `csv`, `tensorboard`, `wandb`.
        profiler: `simple` measures the parts of the loop, `pytorch` the operators; written to the run's folder.
    """

    init: str = "imagenet"
    iterations: int = 90_000
    epochs: float = 0.0
    batch_size: int = 16
    optimizer: Literal["sgd", "adamw"] = "sgd"
    lr: float = 0.02
    layer_decay: float = 1.0
    momentum: float = 0.9
    weight_decay: float = 1e-4
    warmup: int = 500
    warmup_factor: float = 0.1
    schedule: Literal["steps", "cosine"] = "steps"
    milestones: tuple[int, ...] = (60_000, 80_000)
    clip: float = 35.0
    ema: float = 0.0
    precision: Literal["32", "bf16", "16"] = "32"
    gradient_checkpointing: bool = False
    accumulate: int = 1
    checkpoint_every: int = 2_000
    val_every: int = 0
    log_every: int = 20
    seed: int = 0
    devices: int = 0
    nodes: int = 0
    strategy: Literal["ddp", "fsdp"] = "ddp"
    loggers: tuple[Literal["csv", "tensorboard", "wandb"], ...] = ("csv",)
    profiler: Literal["none", "simple", "pytorch"] = "none"

    def __post_init__(self) -> None:
        """Refuse values out of range."""
        for name in ("iterations", "batch_size", "accumulate", "checkpoint_every", "log_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"train.{name}: must be at least 1, not {getattr(self, name)}")
        if self.batch_size % self.accumulate:
            raise ValueError(
                f"train.batch_size: {self.batch_size} must be a multiple of train.accumulate, {self.accumulate}"
            )
        unsigned = ("lr", "momentum", "weight_decay", "warmup", "warmup_factor", "clip", "ema", "val_every", "epochs")
        for name in (*unsigned, "devices", "nodes"):
            if getattr(self, name) < 0:
                raise ValueError(f"train.{name}: must not be negative, not {getattr(self, name)}")
        if not 0 < self.layer_decay <= 1:
            raise ValueError(f"train.layer_decay: must lie in 0..1, above 0, not {self.layer_decay}")
        if self.ema >= 1:
            raise ValueError(f"train.ema: must lie below 1, not {self.ema}")
        if self.strategy == "fsdp" and self.ema:
            raise ValueError("train.ema: sharded weights have no average; set train.ema 0 or train.strategy ddp")

    def for_images(self, count: int) -> TrainConfig:
        """Return the same training with `epochs` turned into iterations over so many images."""
        if not self.epochs:
            return self
        iterations = max(1, round(self.epochs * count / self.batch_size))
        milestones = tuple(round(milestone * iterations / self.iterations) for milestone in self.milestones)
        return replace(self, iterations=iterations, milestones=milestones, epochs=0.0)

    def at_batch(self, batch: int, *, accumulate: int | None = None, keep: Collection[str] = ()) -> TrainConfig:
        """Return the same training at another batch size: as many images seen, the learning rate in proportion.

        Iterations, milestones and the intervals of measuring and saving shrink as the batch grows, and the average of
        the weights reaches over as many images. Warm-up grows with the square root of a larger batch, and keeps its
        iterations at a smaller one (both this project's choice).

        Args:
            batch: Images per step.
            accumulate: Passes per step; by default as many as before.
            keep: Options that stay as they are.

        Raises:
            ValueError: The batch is below 1, or does not fit `accumulate`.
        """
        other = replace(self, batch_size=batch, accumulate=accumulate or self.accumulate)
        factor = batch / self.batch_size

        def count(iterations: int) -> int:
            return max(1, round(iterations / factor)) if iterations else 0

        scaled = {
            "lr": self.lr * factor,
            "warmup": round(self.warmup * max(1.0, factor**0.5)),
            "iterations": count(self.iterations),
            "milestones": tuple(count(milestone) for milestone in self.milestones),
            "checkpoint_every": count(self.checkpoint_every),
            "val_every": count(self.val_every),
            "ema": self.ema**factor,
        }
        changes: dict[str, Any] = {name: value for name, value in scaled.items() if name not in keep}
        return replace(other, **changes)


@dataclass(frozen=True)
class Recipe:
    """Everything that decides a run.

    Attributes:
        name: What the run is called.
        model: What the network is made of.
        inference: How its outputs are postprocessed.
        loss: Sampling and weights of the losses.
        data: Where samples come from.
        train: Optimisation.
    """

    name: str = "custom"
    model: ModelConfig = field(default_factory=ModelConfig)
    inference: InferenceConfig = field(default_factory=InferenceConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    data: DataConfig = field(default_factory=DataConfig)
    train: TrainConfig = field(default_factory=TrainConfig)

    def resolved(self) -> Recipe:
        """Return the recipe with `model.norm: auto` replaced by what it means for `train.init`.

        Raises:
            InputError: `train.init` names weights of this library that cannot be read.
        """
        if self.model.norm != "auto":
            return self
        norm: Literal["group", "frozen_batch"]
        if self.train.init == "random":
            norm = "group"
        elif self.train.init in ("imagenet", "coco"):
            norm = "frozen_batch"
        else:
            from banet.checkpoint.checkpoint import is_body_file, read_checkpoint  # loads torch

            own = not is_body_file(self.train.init)
            norm = "group" if own and read_checkpoint(self.train.init).config.norm == "group" else "frozen_batch"
        return replace(self, model=replace(self.model, norm=norm))


def recipe_names() -> list[str]:
    """Return the names of the recipes that come with the package."""
    folder = resources.files("banet") / "configs"
    return sorted(p.name.removesuffix(".yaml") for p in folder.iterdir() if p.name.endswith(".yaml"))


def find_recipe(name: str) -> Path:
    """Return the YAML file of a recipe.

    Args:
        name: The name of a recipe that comes with the package, or a path.

    Raises:
        InputError: There is neither.
    """
    if name in recipe_names():
        return Path(str(resources.files("banet") / "configs" / f"{name}.yaml"))
    path = Path(name)
    if os.path.isfile(path):
        return path
    known = ", ".join(recipe_names())
    raise InputError("no such file, nor a recipe of that name", where=f"--config {name}", hint=f"recipes: {known}")


def to_yaml(recipe: Recipe) -> str:
    """Return the recipe as YAML that `banet train --config` reads back."""
    import yaml

    text: str = yaml.safe_dump(_plain(asdict(recipe)), sort_keys=False)
    return text


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, (list, tuple)) else value

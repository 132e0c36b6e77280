"""Samples by recipe, in an order that is a function of the seed alone."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Dataset, Sampler

from banet.data.coco_panoptic import CocoPanoptic
from banet.data.copy_paste import CopyPaste
from banet.data.samples import Sample
from banet.data.scenes.generate import Scenes
from banet.data.transforms import train_transform
from banet.engine.recipe import DataConfig
from banet.errors import InputError
from banet.panoptic.categories import Categories
from banet.panoptic.sample_depth import SampleDepth
from banet.types import BitDepth

__all__ = [
    "ErrorsAsItems",
    "InfiniteDataset",
    "InfiniteSampler",
    "PanopticDataset",
    "raise_if_bad",
    "sample_depth",
    "tall_images",
    "training_set",
    "unlearnable",
]

TRAIN_SCENES_SEED = 1


class PanopticDataset(Protocol):
    """A map-style data set of samples with the categories that number them."""

    categories: Categories

    def __len__(self) -> int: ...
    def __getitem__(self, index: int) -> Sample: ...


def training_set(data: DataConfig, bit_depth: BitDepth = "auto") -> PanopticDataset:
    """Open the samples to learn from; of 16-bit images with samples of so many bits.

    Raises:
        InputError: The data set is missing, damaged or empty.
    """
    transform = train_transform(
        data.shorter,
        data.longer,
        scale=data.scale,
        flip=data.flip,
        flip_vertical=data.flip_vertical,
        crop=data.crop,
        crop_size=data.crop_size,
        crop_min_fraction=data.crop_min_fraction,
        color_jitter=data.color_jitter,
        quarter_turns=data.quarter_turns,
        stain_jitter=data.stain_jitter,
        invert=data.invert,
        blur=data.blur,
        noise=data.noise,
    )
    dataset: Scenes | CocoPanoptic
    if data.kind == "scenes":
        size = (data.scene_size, data.scene_size)
        dataset = Scenes(TRAIN_SCENES_SEED, data.train_scenes, size, transform, context=data.scene_context)
    else:
        root, split = data.local_root(), data.train
        dataset = CocoPanoptic(
            root / split.images,
            root / split.panoptic,
            root / split.json,
            transform,
            bit_depth,
            instances=root / split.instances if split.instances else None,
        )
    return CopyPaste(dataset, data.copy_paste) if data.copy_paste else dataset


def sample_depth(dataset: PanopticDataset) -> SampleDepth:
    """Return how many bits samples of 16-bit images use; without `bits` where nothing had to be found."""
    coco = _coco(dataset)
    return SampleDepth() if coco is None else coco.depth


def unlearnable(dataset: PanopticDataset) -> list[str]:
    """Return a line for each class of things of which nothing can be learnt, as all its segments are crowd."""
    coco = _coco(dataset)
    return [] if coco is None else coco.index.unlearnable()


def _coco(dataset: PanopticDataset) -> CocoPanoptic | None:
    """Return the data set in files that samples come from; None where they are made."""
    source = dataset.dataset if isinstance(dataset, CopyPaste) else dataset
    return source if isinstance(source, CocoPanoptic) else None


def tall_images(dataset: PanopticDataset, data: DataConfig) -> NDArray[np.bool_] | None:
    """Return which images are taller than wide, (N,); None where all samples have one size."""
    coco = _coco(dataset)
    if coco is None or data.crop_size or data.quarter_turns:
        return None
    return coco.index.tall


class InfiniteDataset(Dataset[Sample]):
    """Draw samples without end; draw n is a function of the seed and n, whatever process makes it.

    Each epoch is a permutation of the data set; augmentation draws from a generator seeded by n. Where some images are
    taller than wide and others are not, enough of either for a batch, the draws of a batch are alike in this, so that
    less is padded; the images that make no full batch, others in each epoch, are then left out.

    Args:
        dataset: What to draw from.
        seed: Of order and augmentation.
        batch: Draws of a batch, which begin at its multiples.
        tall: Which images are taller than wide, (N,); None where batches need not be alike.
    """

    def __init__(
        self, dataset: PanopticDataset, seed: int, *, batch: int = 1, tall: NDArray[np.bool_] | None = None
    ) -> None:
        self.dataset = dataset
        self.seed = seed
        self.batch = batch
        groups = [] if tall is None else [np.flatnonzero(tall), np.flatnonzero(~tall)]
        alike = bool(groups) and all(len(group) >= batch for group in groups)
        self.groups = groups if alike else [np.arange(len(dataset))]
        self.length = sum(len(group) // batch * batch for group in groups) if alike else len(dataset)
        self._order: tuple[int, NDArray[np.int64]] | None = None

    def index(self, draw: int) -> int:
        """Return the row of the data set that draw `draw` takes."""
        epoch, position = divmod(draw, self.length)
        if self._order is None or self._order[0] != epoch:
            self._order = epoch, self._permutation(np.random.default_rng([self.seed, epoch]))
        return int(self._order[1][position])

    def _permutation(self, rng: np.random.Generator) -> NDArray[np.int64]:
        """Return the rows of one epoch in the order of its draws."""
        if len(self.groups) == 1:
            return rng.permutation(self.length)
        mixed = (rng.permutation(group) for group in self.groups)
        batches = [rows[: len(rows) // self.batch * self.batch].reshape(-1, self.batch) for rows in mixed]
        return rng.permutation(np.concatenate(batches)).ravel()

    def __getitem__(self, draw: int) -> Sample:
        """Read the sample of draw `draw`, any number from 0 up."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(np.random.SeedSequence([self.seed, draw]).generate_state(1, np.uint64)[0]))
            return self.dataset[self.index(draw)]


class ErrorsAsItems(Dataset[Any]):
    """Return an `InputError` as an item instead of raising it, so that it leaves a worker process unchanged.

    torch's `DataLoader` would wrap it into a traceback. `raise_if_bad` raises it where the batch arrives.

    Args:
        dataset: What to read from.
    """

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset

    def __getitem__(self, index: int) -> Any:
        """Return the item, or the error."""
        try:
            return self.dataset[index]
        except InputError as error:
            return error


def raise_if_bad(batch: list[Any]) -> None:
    """Raise the first error among the items of `ErrorsAsItems`."""
    for item in batch:
        if isinstance(item, InputError):
            raise item


class InfiniteSampler(Sampler[int]):
    """Yield the numbers of the draws of one process, without end.

    It has no length on purpose: a run ends by its number of iterations.

    Args:
        start: The first draw; a run resumed after step s starts at s times the batch size.
        rank: Number of this process.
        world: Number of processes.
    """

    def __init__(self, start: int = 0, rank: int = 0, world: int = 1) -> None:
        self.start, self.rank, self.world = start, rank, world

    def __iter__(self) -> Iterator[int]:
        draw = self.start + self.rank
        while True:
            yield draw
            draw += self.world

"""Images with their ground truth, as evaluation needs them: at their own size, crowd included."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from banet.data.coco_panoptic import CocoPanoptic
from banet.data.samples import InstanceMask
from banet.data.scenes.generate import Scenes
from banet.engine.recipe import DataConfig, Recipe, SplitConfig
from banet.errors import InputError
from banet.files.remote import join_url
from banet.panoptic.categories import Categories
from banet.panoptic.sample_depth import SampleDepth
from banet.panoptic.segmentation import PanopticSegmentation
from banet.types import BitDepth, ImageId, StrPath

__all__ = ["EvaluationData", "EvaluationImage", "choose_data", "open_split", "open_validation", "scene_data"]

VAL_SCENES_SEED = 2


@dataclass(frozen=True)
class EvaluationImage:
    """An image with its ground truth.

    Attributes:
        image: (H, W, 3) uint8.
        ground_truth: Of the same size.
        image_id: In the data set.
        name: File name.
        instances: Things with masks that may overlap, which AP is measured against; None for those of `ground_truth`.
    """

    image: NDArray[np.uint8]
    ground_truth: PanopticSegmentation
    image_id: ImageId
    name: str
    instances: Sequence[InstanceMask] | None = None


class EvaluationData:
    """A data set of images with ground truth, each read when it is asked for.

    Args:
        dataset: Where they come from.
    """

    def __init__(self, dataset: CocoPanoptic | Scenes) -> None:
        self.dataset = dataset

    @property
    def categories(self) -> Categories:
        """Return things and stuff of the ground truth."""
        return self.dataset.categories

    def __len__(self) -> int:
        return len(self.dataset)

    def file_name(self, index: int) -> str:
        """Return the name of image `index`."""
        return self.dataset.file_name(index)

    def files(self) -> Iterator[StrPath]:
        """Yield the files of a data set, or their URLs: its JSON, images and id PNGs; none of generated scenes."""
        if isinstance(self.dataset, CocoPanoptic):
            yield self.dataset.index.path
            if self.dataset.overlapping is not None:
                yield self.dataset.overlapping.path
        for index in range(len(self)):
            yield from self.dataset.files(index)

    def set_bit_depth(self, bit_depth: BitDepth | SampleDepth) -> None:
        """Read 16-bit images with samples of so many bits, as the model's options say."""
        if isinstance(self.dataset, CocoPanoptic):
            self.dataset.set_bit_depth(bit_depth)

    def __getitem__(self, index: int) -> EvaluationImage:
        """Read image `index` and its ground truth.

        Raises:
            InputError: A file is missing or damaged, or sizes differ.
        """
        image, ground_truth = self.dataset.read(index)
        instances = self.dataset.instances(index) if isinstance(self.dataset, CocoPanoptic) else None
        image_id, name = self.dataset.image_ids[index], self.dataset.file_name(index)
        return EvaluationImage(image, ground_truth, image_id, name, instances)


def scene_data(seed: int, count: int, size: int, *, context: bool = False) -> EvaluationData:
    """Return procedural scenes of size x size pixels; `context` as in `make_scene`."""
    return EvaluationData(Scenes(seed, count, (size, size), context=context))


def microscope_images() -> EvaluationData:
    """Return the microscope images that come with the package, with the outlines of their nuclei."""
    folder = Path(str(resources.files("banet") / "samples" / "nuclei"))
    return EvaluationData(CocoPanoptic(folder / "images", folder / "panoptic", folder / "panoptic.json"))


def open_split(split: SplitConfig, root: str = "") -> EvaluationData:
    """Open the images of a split in COCO panoptic format; relative paths start from `root`; all may be URLs.

    Raises:
        InputError: The JSON or a folder is missing or damaged.
    """
    instances = join_url(root, split.instances) if split.instances else None
    images, panoptic, json = (join_url(root, part) for part in (split.images, split.panoptic, split.json))
    return EvaluationData(CocoPanoptic(images, panoptic, json, instances=instances))


def open_validation(data: DataConfig) -> EvaluationData:
    """Open the validation split of a recipe.

    Raises:
        InputError: The data set is missing or damaged.
    """
    if data.kind == "scenes":
        return scene_data(VAL_SCENES_SEED, data.val_scenes, data.scene_size, context=data.scene_context)
    return open_split(data.val, data.root)


def choose_data(recipe: Recipe | None, split: SplitConfig | None) -> tuple[EvaluationData, str]:
    """Open what a command is to measure on, a split or else the validation split of a recipe; return its name too.

    Raises:
        InputError: Neither is given, or the data are missing or damaged.
    """
    if split is not None:
        return open_split(split), split.json
    if recipe is not None:
        return open_validation(recipe.data), f"{recipe.name}, validation split"
    raise InputError("name the data with --config, or with --images, --panoptic and --json")

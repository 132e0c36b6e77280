"""Pictures with their panoptic truth, as evaluation needs them: at their own size, crowd included."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from banet.data.coco_panoptic import CocoPanoptic
from banet.data.scenes import SCENE_CATEGORIES, make_scene
from banet.engine.recipe import DataConfig, SplitConfig
from banet.panoptic.categories import Categories
from banet.panoptic.segmentation import PanopticSegmentation

__all__ = ["VAL_SCENES_SEED", "CocoPictures", "Picture", "Pictures", "ScenePictures", "open_pictures"]

VAL_SCENES_SEED = 2


@dataclass(frozen=True)
class Picture:
    """One picture and what is true of it.

    Attributes:
        image: (H, W, 3) uint8.
        truth: At the same size.
        image_id: Of the data set.
        name: File name.
    """

    image: NDArray[np.uint8]
    truth: PanopticSegmentation
    image_id: int
    name: str


class Pictures(Protocol):
    """A map-style data set of pictures."""

    @property
    def categories(self) -> Categories:
        """Things and stuff of the truth."""

    def __len__(self) -> int: ...
    def __getitem__(self, index: int) -> Picture: ...


class CocoPictures:
    """The pictures of a split in COCO panoptic format.

    Args:
        split: Its three paths.
        root: Folder that relative ones start from.

    Raises:
        InputError: The JSON is missing or damaged, or lists no picture with truth.
    """

    def __init__(self, split: SplitConfig, root: str = "") -> None:
        folder = Path(root)
        self.dataset = CocoPanoptic(folder / split.images, folder / split.panoptic, folder / split.json)
        self.categories = self.dataset.categories

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Picture:
        """Read picture and truth.

        Raises:
            InputError: A file is missing or damaged, or sizes differ.
        """
        image, truth = self.dataset.read(index)
        return Picture(image, truth, self.dataset.image_ids[index], self.dataset.file_name(index))


class ScenePictures:
    """Procedural scenes.

    Args:
        seed: Of the scenes.
        length: How many.
        size: Side in pixels.
    """

    categories = SCENE_CATEGORIES

    def __init__(self, seed: int, length: int, size: int) -> None:
        self.seed, self.length, self.size = seed, length, size

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> Picture:
        """Draw scene `index`."""
        if not 0 <= index < self.length:
            raise IndexError(index)
        scene = make_scene(self.seed, index, (self.size, self.size))
        truth = PanopticSegmentation.from_ids(scene.ids, [asdict(s) for s in scene.segments], self.categories)
        return Picture(scene.image, truth, index + 1, f"scene_{self.seed}_{index:06d}.png")

    def __iter__(self) -> Iterator[Picture]:
        return (self[index] for index in range(len(self)))


def open_pictures(data: DataConfig) -> Pictures:
    """The pictures of a recipe's validation split.

    Raises:
        InputError: The data set is missing or damaged.
    """
    if data.kind == "scenes":
        return ScenePictures(VAL_SCENES_SEED, data.val_scenes, data.scene_size)
    return CocoPictures(data.val, data.root)

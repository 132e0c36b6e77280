"""`predict`: images in any form in, panoptic results out, for any network that fills in `predict_unfused`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from banet.data.images import find_depth, to_rgb_array
from banet.data.images.large import CroppableImage
from banet.inference.postprocess import UnfusedPrediction
from banet.modeling.config import InferenceConfig
from banet.panoptic import Categories, PanopticSegmentation
from banet.panoptic.sample_depth import SampleDepth
from banet.panoptic.tiles import segment_tiles
from banet.types import BitDepth, Box, ImageLike, RuleLike

__all__ = ["Predictor"]


class Predictor(ABC):
    """A network with its classes and options; loads no torch itself.

    Attributes:
        categories: Things and stuff; the owner of class numbering.
        inference: How images are resized, instances selected and results fused.
    """

    categories: Categories
    inference: InferenceConfig

    @abstractmethod
    def predict_unfused(self, images: Sequence[NDArray[np.uint8]]) -> list[UnfusedPrediction]:
        """Run images (H, W, 3) through the network as one batch; return what fusion needs of each."""

    @overload
    def predict(  # type: ignore[overload-overlap]  # a string is a sequence, but one image
        self,
        image: ImageLike | CroppableImage,
        *,
        rule: RuleLike | None = None,
        batch_size: int = 1,
        tile: int | None = None,
        overlap: int | None = None,
        progress: bool = False,
        bit_depth: BitDepth | None = None,
    ) -> PanopticSegmentation: ...

    @overload
    def predict(
        self,
        image: Sequence[ImageLike | CroppableImage],
        *,
        rule: RuleLike | None = None,
        batch_size: int = 1,
        tile: int | None = None,
        overlap: int | None = None,
        progress: bool = False,
        bit_depth: BitDepth | None = None,
    ) -> list[PanopticSegmentation]: ...

    def predict(
        self,
        image: ImageLike | CroppableImage | Sequence[ImageLike | CroppableImage],
        *,
        rule: RuleLike | None = None,
        batch_size: int = 1,
        tile: int | None = None,
        overlap: int | None = None,
        progress: bool = False,
        bit_depth: BitDepth | None = None,
    ) -> PanopticSegmentation | list[PanopticSegmentation]:
        """Return the panoptic segmentation of images, at their own size.

        Args:
            image: A path, a PIL image, a numpy array (H, W, 3), (H, W, 4) or (H, W), a tensor (3, H, W) or (4, H, W),
                uint8, uint16 or float in 0..255, or a list or tuple of these. Alpha is left out.
            rule: Occlusion rule, a name in `banet.panoptic.RULES` or a function; by default the one saved with the
                weights.
            batch_size: Images that go through the network together; with tiles they go one by one.
            tile: Side in pixels of the tiles that a larger image is cut into, which bounds the memory. Objects are
                joined over the seams; see `banet.panoptic.tiles.merge_tiles`. An image that one tile holds is not
                changed by it. An image may then also be what is cut by rows and columns, such as a memory map.
            overlap: Pixels that neighbouring tiles share at least; a quarter of the tile by default.
            progress: Show a bar over the tiles of an image.
            bit_depth: Bits that samples of 16-bit images use, 8 to 16; `auto` finds one number for all images of the
                call. By default what is saved with the weights, else `auto`.

        Returns:
            A `banet.panoptic.PanopticSegmentation`, or a list of them for a list.

        Raises:
            InputError: A file is not an image, or samples do not fit into `bit_depth`.
            ValueError: An array has another shape or range, or `overlap` is not in 1 .. `tile` - 1.
        """
        many = isinstance(image, (list, tuple))
        images: list[Any] = list(image) if many else [image]  # type: ignore[arg-type]
        depth = SampleDepth.of(bit_depth or self.inference.bit_depth)
        depth = replace(depth, warns=True) if len(images) == 1 else find_depth(images, depth)
        results: list[PanopticSegmentation] = []
        if tile is not None:
            results = [self._predict_tiles(one, rule, tile, overlap, progress, depth) for one in images]
            images = []
        for start in range(0, len(images), batch_size):
            arrays = [to_rgb_array(one, depth) for one in images[start : start + batch_size]]
            results += [one.fuse(self.categories, self.inference, rule=rule) for one in self.predict_unfused(arrays)]
        return results if many else results[0]

    def _predict_tiles(
        self,
        image: Any,
        rule: RuleLike | None,
        tile: int,
        overlap: int | None,
        progress: bool,
        depth: SampleDepth,
    ) -> PanopticSegmentation:
        """Segment an image tile by tile; every tile is resized as an image is, small stuff is judged on the whole."""
        every_stuff = replace(self.inference, stuff_area=0)
        ready = getattr(image, "dtype", None) == np.uint8 and tuple(image.shape[2:]) == (3,)

        def segment(part: NDArray[np.uint8]) -> PanopticSegmentation:
            (unfused,) = self.predict_unfused([to_rgb_array(part)])
            return unfused.fuse(self.categories, every_stuff, rule=rule)

        def bar(boxes: list[Box]) -> Iterable[Box]:
            return tqdm(boxes, desc="tiles", unit="tile", leave=False, disable=not progress or len(boxes) == 1)

        return segment_tiles(
            segment,
            image if ready else to_rgb_array(image, depth),
            tile=tile,
            overlap=overlap,
            stuff_area=self.inference.stuff_area,
            removal_threshold=self.inference.removal_threshold,
            progress=bar,
        )


def read_images(model: Predictor, images: Sequence[ImageLike]) -> Iterator[UnfusedPrediction]:
    """Run images in any form through a network as one batch; until 0.3, for code that imports `modeling.readout`."""
    return iter(model.predict_unfused([to_rgb_array(image) for image in images]))

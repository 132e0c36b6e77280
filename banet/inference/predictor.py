"""`predict`: images in any form in, panoptic results out, for any network that fills in `predict_unfused`."""

from __future__ import annotations

import copy
import difflib
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar, SupportsInt, overload

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from banet.data.images import find_depth, to_rgb_array
from banet.data.images.large import CroppableImage
from banet.errors import InputError
from banet.inference.postprocess import Instances, UnfusedPrediction
from banet.modeling.config import InferenceConfig, change_options
from banet.panoptic import Categories, PanopticSegmentation
from banet.panoptic.sample_depth import SampleDepth
from banet.panoptic.tiles import segment_tiles
from banet.types import BitDepth, Box, ClassesLike, ImageLike, Precision, RuleLike

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["Predictor"]


class Predictor(ABC):
    """One or more networks with their classes and options: image in, overlapping instances and stuff out, then fusion.

    `banet.BANet`, exported networks and models of other libraries (`banet.composed`) are predictors; `predict`,
    evaluation, videos, the gallery and the page know no more of any of them than is here. Loads no torch itself.

    Attributes:
        categories: Things and stuff; the owner of class numbering.
        inference: How images are resized, instances selected and results fused.
        domain: What images it was trained on, in a few words; empty where nobody said.
        classes: Ids of the categories whose segments are kept in results; None for all.
        precision: What the network computes in.
        precisions: What it can compute in.
    """

    categories: Categories
    inference: InferenceConfig
    domain: str = ""
    classes: frozenset[int] | None = None
    precision: Precision = "32"
    precisions: ClassVar[Sequence[Precision]] = ("32",)

    @abstractmethod
    def predict_unfused(self, images: Sequence[NDArray[np.uint8]]) -> list[UnfusedPrediction]:
        """Run images (H, W, 3) through the network as one batch; return what fusion needs of each."""

    def predict_for_evaluation(self, images: Sequence[NDArray[np.uint8]]) -> list[tuple[UnfusedPrediction, Instances]]:
        """Run images like `predict_unfused`; return with each the larger set of instances that AP is measured on."""
        return [(unfused, unfused.instances) for unfused in self.predict_unfused(images)]

    def configured(
        self,
        *,
        score: float | None = None,
        classes: ClassesLike | None = None,
        overlap_threshold: float | None = None,
        precision: Precision | None = None,
    ) -> Self:
        """Return the same networks with other options; see `predict`. What is None stays.

        Raises:
            InputError: A value is out of range, no class has that name, or the network does not compute in that
                precision.
        """
        if precision is not None and precision not in self.precisions:
            hint = f"choose {' or '.join(self.precisions)}"
            raise InputError("this network does not compute in it", where=f"precision {precision}", hint=hint)
        changes = {"score_threshold": score, "overlap_threshold": overlap_threshold}
        changes = {name: value for name, value in changes.items() if value is not None}
        other = copy.copy(self)
        other.precision = precision or self.precision
        if changes:
            other.inference = change_options(self.inference, changes)
        if classes is not None:
            wanted: Iterable[Any] = [classes] if isinstance(classes, (str, int, np.integer)) else classes
            other.classes = frozenset(_class_id(given, self.categories) for given in wanted)
        return other

    def fuse(
        self, unfused: UnfusedPrediction, *, rule: RuleLike | None = None, stuff_area: int | None = None
    ) -> PanopticSegmentation:
        """Return the panoptic result of one image, of the classes that are kept.

        Args:
            unfused: What `predict_unfused` returned for it.
            rule: As for `predict`.
            stuff_area: In place of the option.
        """
        options = self.inference if stuff_area is None else replace(self.inference, stuff_area=stuff_area)
        return self._finish(unfused.fuse(self.categories, options, rule=rule))

    def _finish(self, result: PanopticSegmentation) -> PanopticSegmentation:
        """Name the domain in a result, and make segments of classes void that are not kept; the ids stay."""
        kept = result if self.classes is None else result.filter(self.classes)
        return replace(kept, domain=self.domain)

    @overload
    def predict(  # type: ignore[overload-overlap]  # a string is a sequence, but one image
        self,
        image: ImageLike | CroppableImage,
        *,
        rule: RuleLike | None = None,
        score: float | None = None,
        classes: ClassesLike | None = None,
        overlap_threshold: float | None = None,
        precision: Precision | None = None,
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
        score: float | None = None,
        classes: ClassesLike | None = None,
        overlap_threshold: float | None = None,
        precision: Precision | None = None,
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
        score: float | None = None,
        classes: ClassesLike | None = None,
        overlap_threshold: float | None = None,
        precision: Precision | None = None,
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
            score: Instances score above this, 0 to 1; by default the threshold saved with the weights.
            classes: Names or ids of the classes to keep; the pixels of all others become void after fusion.
            overlap_threshold: Fraction of either mask above which a pair of instances is decided by the rule.
            precision: `bf16` computes convolutions and matrix products in bfloat16, for networks of this library: half
                the time on CPUs with AVX512-BF16 or AMX and on GPUs, more on others; results differ a little.
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
            InputError: A file is not an image, samples do not fit into `bit_depth`, `batch_size` is less than 1, or see
                `configured`.
            ValueError: An array has another shape or range, or `overlap` is not in 1 .. `tile` - 1.
        """
        if (score, classes, overlap_threshold, precision) != (None, None, None, None):
            model = self.configured(
                score=score, classes=classes, overlap_threshold=overlap_threshold, precision=precision
            )
            return model.predict(
                image,
                rule=rule,
                batch_size=batch_size,
                tile=tile,
                overlap=overlap,
                progress=progress,
                bit_depth=bit_depth,
            )
        if batch_size < 1:
            raise InputError(f"must be at least 1, not {batch_size}", where="batch_size")
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
            results += [self.fuse(one, rule=rule) for one in self.predict_unfused(arrays)]
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
        ready = getattr(image, "dtype", None) == np.uint8 and tuple(image.shape[2:]) == (3,)

        def segment(part: NDArray[np.uint8]) -> PanopticSegmentation:
            (unfused,) = self.predict_unfused([to_rgb_array(part)])
            return unfused.fuse(self.categories, replace(self.inference, stuff_area=0), rule=rule)

        def bar(boxes: list[Box]) -> Iterable[Box]:
            return tqdm(boxes, desc="tiles", unit="tile", leave=False, disable=not progress or len(boxes) == 1)

        result = segment_tiles(
            segment,
            image if ready else to_rgb_array(image, depth),
            tile=tile,
            overlap=overlap,
            stuff_area=self.inference.stuff_area,
            removal_threshold=self.inference.removal_threshold,
            progress=bar,
        )
        return self._finish(result)


def _class_id(given: str | SupportsInt, categories: Categories) -> int:
    """Return the id of a category that is given by name or id.

    Raises:
        InputError: There is none.
    """
    by_name = {category.name.casefold(): category.id for category in categories}
    if isinstance(given, str) and given.casefold() in by_name:
        return by_name[given.casefold()]
    number = int(given) if not isinstance(given, str) or given.isdecimal() else None
    if number is not None and number in categories:
        return number
    near = difflib.get_close_matches(str(given).casefold(), by_name, n=3)
    known = near or list(categories.names)
    raise InputError(
        f"{given}: is not a class of these weights",
        where="classes",
        hint=f"{'perhaps' if near else 'choose from'} {', '.join(known)}",
    )


def read_images(model: Predictor, images: Sequence[ImageLike]) -> Iterator[UnfusedPrediction]:
    """Run images in any form through a network as one batch; until 0.3, for code that imports `modeling.readout`."""
    return iter(model.predict_unfused([to_rgb_array(image) for image in images]))

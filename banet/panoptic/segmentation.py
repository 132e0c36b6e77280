"""The panoptic result: an id map and one record per segment."""

from __future__ import annotations

import difflib
import io
import json
import math
import operator
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from banet.errors import InputError, MissingExtraError
from banet.files.atomic import atomic_path
from banet.files.fields import read_flag
from banet.panoptic.categories import VOID, Categories, Category
from banet.panoptic.coco.annotations import PanopticJson
from banet.panoptic.coco.png import load_ids, write_ids
from banet.panoptic.defaults import DrawingStyle, StuffStyle
from banet.panoptic.id_maps import (
    MAX_SEGMENT_ID,
    as_ids,
    centroids,
    check_ids,
    compare_ids,
    index_map,
    indices_of_ids,
    measure_ids,
    rgb_to_ids,
    runs,
    tight_box,
)
from banet.panoptic.pixels import rgb_array
from banet.panoptic.segments import Annotation, ImageInfo, Segment, as_image_id
from banet.panoptic.validation import to_numpy
from banet.types import ImageId, StrPath

if TYPE_CHECKING:
    import pandas
    from PIL import Image

__all__ = ["COLUMNS", "PanopticSegmentation", "Segment"]

COLUMNS = ("id", "label", "isthing", "score", "area", "x", "y", "width", "height", "centroid_x", "centroid_y")
"""Columns of a table of segments: box and centroid in pixels, from the upper left corner of the image."""

_NAMED = 6  # classes that a description names
_NOTEBOOK_SIDE = 1024  # pixels of the longer side of a drawing in a notebook, at most


@dataclass(eq=False)
class PanopticSegmentation:
    """A panoptic segmentation of one image; `len` counts its segments, and iterating gives them.

    Attributes:
        ids: (H, W) int32, the segment that owns each pixel, 0 = void.
        segments: one record per id in the map, with the name of its class as `label`, and numbers of Python in place of
            NumPy's. Area and box of one that was not measured are counted from the map.
        categories: the classes that `category_id` speaks of.
        image: the image, (H, W, 3) or (H, W), 0..255, for `draw`; may be None.
        domain: what images the weights were trained on that found this, in a few words, for the legend of `draw`.
        mask_indices: of each thing that fusion made, by id, the index of its mask among those that were fused.

    Raises:
        TypeError: `ids` is not an integer array, or `segments` holds something else than `Segment`, or one of those
            something else than numbers.
        ValueError: `ids` is not (H, W) or out of range, a segment id occurs twice or is out of range, a category is
            unknown, or a score is not finite. That map and records name the same ids is asked by `check`, not here.
    """

    ids: NDArray[np.int32]
    segments: list[Segment]
    categories: Categories
    image: NDArray[Any] | None = None
    domain: str = ""
    mask_indices: Mapping[int, int] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        self.ids = as_ids(self.ids)
        self.segments = [_in_python_numbers(segment) for segment in self.segments]
        self.categories = Categories.of(self.categories)
        seen: set[int] = set()
        for segment in self.segments:
            if not 1 <= segment.id <= MAX_SEGMENT_ID:
                raise ValueError(f"segment ids must be in 1..{MAX_SEGMENT_ID}, not {segment.id}")
            if segment.id in seen:
                raise ValueError(f"segment id {segment.id} occurs twice in segments")
            seen.add(segment.id)
            if segment.category_id not in self.categories:
                raise ValueError(f"segment {segment.id} has the unknown category id {segment.category_id}")
        labels = [self.categories.by_id(segment.category_id).name for segment in self.segments]
        self.segments = [
            segment if segment.label == label else replace(segment, label=label)
            for segment, label in zip(self.segments, labels, strict=True)
        ]
        if not all(segment.area for segment in self.segments):
            measured = _measured(self.segments, *measure_ids(self.ids))
            self.segments = [each if each.area else new for each, new in zip(self.segments, measured, strict=True)]

    @classmethod
    def from_ids(
        cls,
        ids: Any,
        segments: Iterable[Segment | Mapping[str, Any]],
        categories: Categories | Iterable[Category | Mapping[str, Any]],
        image: NDArray[Any] | None = None,
    ) -> PanopticSegmentation:
        """Build a result from an id map and the classes of its ids; area and box are counted from the map.

        Args:
            ids: (H, W) integers, 0 = void.
            segments: `Segment`s, measured or not; or mappings with `id` and `category_id` and, if wanted, `score` and
                `iscrowd`; in the order to keep.
            categories: the classes.
            image: the image, for `draw`.

        Raises:
            ValueError: map and records do not name the same ids (all of them are listed), or see the class.
        """
        classes = Categories.of(categories)
        id_map = as_ids(ids)
        values, areas, boxes = measure_ids(id_map)
        given = [_segment_of(entry, classes) for entry in segments]
        compare_ids(values, [segment.id for segment in given])
        return cls(id_map, _measured(given, values, areas, boxes), classes, image)

    @classmethod
    def from_annotation(
        cls,
        annotation: Annotation,
        png_dir: StrPath,
        categories: Categories,
        *,
        image: ImageInfo | None = None,
    ) -> PanopticSegmentation:
        """Read the id map of an annotation of a COCO panoptic JSON; area and box are counted from the map.

        Args:
            annotation: from `PanopticJson.annotations`.
            png_dir: folder of the PNGs.
            categories: the classes.
            image: where given, the id map must have its width and height.

        Raises:
            InputError: see `load_ids`.
        """
        return cls.from_ids(load_ids(annotation, png_dir, image=image), annotation.segments, categories)

    @classmethod
    def from_hf(
        cls,
        result: Mapping[str, Any],
        categories: Categories | Iterable[Category | Mapping[str, Any]],
        image: NDArray[Any] | None = None,
    ) -> PanopticSegmentation:
        """Build a result from what `post_process_panoptic_segmentation` of transformers returns for one image.

        Ids that a library counts from 0 are raised by one, and what no segment names is void.

        Args:
            result: `segmentation`, (H, W) array or tensor, and `segments_info` with `id`, `label_id` and `score`.
            categories: the classes, whose ids are the `label_id`s.
            image: the image, for `draw`.

        Raises:
            ValueError: the segmentation is not a map (H, W), or a `label_id` is unknown.
        """
        infos = {int(info["id"]): info for info in reversed(result["segments_info"])}  # fused stuff has several
        records = [{**info, "category_id": info["label_id"]} for info in reversed(infos.values())]
        return cls._from_library(result["segmentation"], records, categories, image)

    @classmethod
    def from_detectron2(
        cls,
        result: tuple[Any, Sequence[Mapping[str, Any]] | None],
        categories: Categories | Iterable[Category | Mapping[str, Any]],
        image: NDArray[Any] | None = None,
        *,
        metadata: Any = None,
    ) -> PanopticSegmentation:
        """Build a result from detectron2's `panoptic_seg`: a map of ids, 0 = void, and a list of dicts.

        Args:
            result: (H, W) map, and dicts with `id`, `category_id` and, of things, `score`; or None in their place,
                where the map holds class * `label_divisor` + instance, -1 = void.
            categories: the classes, with the ids of the data set.
            image: the image, for `draw`.
            metadata: `MetadataCatalog.get(...)` of the data set that the model was trained on, or a dict: its
                `thing_dataset_id_to_contiguous_id` and `stuff_dataset_id_to_contiguous_id` say how the model numbers
                classes, in which models differ. Dicts without `isthing` need none: their numbers are category ids.

        Raises:
            ValueError: the map is not (H, W), a class is unknown, or metadata is needed and lacks a field.
        """
        classes = Categories.of(categories)
        segmentation, infos = result
        if infos is None:
            segmentation, infos = _infos_of_detectron2(to_numpy(segmentation), metadata)
        records = []
        for info in infos:
            number = int(info["category_id"])
            if "isthing" in info:
                kind = "thing" if info["isthing"] else "stuff"
                numbers = _field_of_detectron2(metadata, f"{kind}_dataset_id_to_contiguous_id")
                number = next((of_data for of_data, of_model in numbers.items() if of_model == number), VOID)
            if number not in classes:
                raise ValueError(f"segment {info['id']} has the unknown category id {info['category_id']}")
            records.append({"id": info["id"], "category_id": number, "score": info.get("score")})
        return cls._from_library(segmentation, records, classes, image)

    @classmethod
    def from_coco(
        cls,
        ids: Any,
        annotation: Mapping[str, Any],
        categories: Categories | Iterable[Category | Mapping[str, Any]],
        image: NDArray[Any] | None = None,
    ) -> PanopticSegmentation:
        """Build a result from an annotation of a COCO panoptic JSON and the map that its PNG holds.

        Args:
            ids: (H, W) ids, or the uint8 colors (H, W, 3) of the PNG: id = R + 256 G + 65536 B.
            annotation: with `segments_info`; see `load` for files.
            categories: the classes.
            image: the image, for `draw`.

        Raises:
            TypeError: the colors are not uint8.
            ValueError: map and records do not name the same ids, or a category is unknown.
        """
        array = to_numpy(ids)
        if array.ndim == 3:
            array = rgb_to_ids(array)
        return cls.from_ids(array, annotation["segments_info"], categories, image)

    @classmethod
    def from_supervision(
        cls,
        detections: Any,
        categories: Categories | Iterable[Category | Mapping[str, Any]],
        image: NDArray[Any] | None = None,
    ) -> PanopticSegmentation:
        """Build a result from `supervision.Detections` whose masks do not overlap, such as `to_supervision` returns.

        Args:
            detections: with `mask` and `class_id`; the class ids are category ids.
            categories: the classes.
            image: the image, for `draw`.

        Raises:
            ValueError: there are no masks, two of them overlap (`make_disjoint` resolves that), or a class is unknown.
        """
        from banet.panoptic.adapters import from_supervision

        found = from_supervision(detections)
        if not len(found) and image is None:
            raise ValueError("these Detections hold no mask, so that the size is not known; give the image")
        first = np.asarray(found.masks[0] if len(found) else image)
        ids = np.zeros(first.shape[:2], dtype=np.int32)
        records = []
        for n in range(len(found)):
            mask = found.masks[n]
            if ids[mask].any():
                raise ValueError(f"the mask of detection {n} overlaps another; use make_disjoint first")
            if found.labels is None:
                raise ValueError("these Detections have no class_id")
            if mask.any():
                ids[mask] = n + 1
                score = None if found.scores is None else float(found.scores[n])
                records.append({"id": n + 1, "category_id": int(found.labels[n]), "score": score})
        return cls.from_ids(ids, records, categories, image)

    @classmethod
    def _from_library(
        cls,
        segmentation: Any,
        records: Sequence[Mapping[str, Any]],
        categories: Categories | Iterable[Category | Mapping[str, Any]],
        image: NDArray[Any] | None,
    ) -> PanopticSegmentation:
        """Build a result from another library's map; what no record names is void."""
        array = to_numpy(segmentation)
        if array.ndim != 2:
            raise ValueError(f"the segmentation must be a map (H, W) of ids, not {array.shape}")
        whole = array.astype(np.int64)
        named = [int(record["id"]) for record in records]
        shift = 1 if 0 in named else 0
        whole = np.where(np.isin(whole, named), whole + shift, 0)
        there = set(np.unique(whole).tolist())
        kept = [{**record, "id": int(record["id"]) + shift} for record in records]
        return cls.from_ids(whole, [record for record in kept if record["id"] in there], categories, image)

    @classmethod
    def load(cls, path: StrPath, json: StrPath | None = None) -> PanopticSegmentation:
        """Read a result that `save` wrote, or one image of a COCO panoptic data set.

        `load("out.png")` reads out.png and out.json; area and box are counted from the PNG.

        Args:
            path: the PNG.
            json: its JSON; by default the file beside it that has its name and ends in .json.

        Raises:
            InputError: a file is missing or damaged, the JSON has no annotation of this PNG, or the two disagree.
        """
        png = Path(path)
        content = PanopticJson.read(png.with_suffix(".json") if json is None else json)
        annotations = list(content.annotations.values())
        found = [one for one in annotations if Path(one.file_name).name == png.name]
        if len(found) != 1 and len(annotations) != 1:  # a single one may have been renamed with its PNG
            problem = f"{len(found) or 'no'} annotations have the file_name {png.name}"
            raise InputError(problem, where=content.path, hint="correct it, or give another JSON")
        annotation = (found or annotations)[0]
        renamed = replace(annotation, file_name=png.name)
        return cls.from_annotation(renamed, png.parent, content.categories, image=content.images[annotation.image_id])

    def __len__(self) -> int:
        return len(self.segments)

    def __iter__(self) -> Iterator[Segment]:
        return iter(self.segments)

    @property
    def height(self) -> int:
        """Rows of the id map."""
        return int(self.ids.shape[0])

    @property
    def width(self) -> int:
        """Columns of the id map."""
        return int(self.ids.shape[1])

    @property
    def semantic(self) -> NDArray[np.int32]:
        """Category id of each pixel, (H, W) int32, `VOID` (-1) on void and on ids that no segment has."""
        starts, lengths = runs(self.ids)
        index = indices_of_ids(self.ids.reshape(-1)[starts], [segment.id for segment in self.segments])
        classes = np.array([segment.category_id for segment in self.segments] + [VOID], dtype=np.int32)
        return np.repeat(classes[index], lengths).reshape(self.ids.shape)

    def mask(self, segment: Segment | int) -> NDArray[np.bool_]:
        """Return the pixels of a segment, (H, W) bool.

        Args:
            segment: one of `segments`, or its id.

        Raises:
            ValueError: there is no segment of this id.
        """
        mask: NDArray[np.bool_] = self.ids == self._find(segment).id
        return mask

    def crop(self, segment: Segment | int, image: Any = None) -> Image.Image:
        """Cut a segment out of the image.

        Args:
            segment: one of `segments`, or its id.
            image: see `draw`.

        Returns:
            RGBA image of the size of the segment's box, transparent where the segment is not. Its colors are those of
            the image everywhere, so that `.convert("RGB")` is the plain crop.

        Raises:
            ValueError: there is no segment of this id, no image, or one of another size.
        """
        from PIL import Image

        shown = self.image if image is None else image
        if shown is None:
            raise ValueError("there is no image to cut from: crop(segment, image)")
        pixels = rgb_array(shown)
        if pixels.shape[:2] != self.ids.shape:
            raise ValueError(f"the image is {pixels.shape[1]}x{pixels.shape[0]}, the result {self.width}x{self.height}")
        mask = self.mask(segment)
        left, top, right, bottom = tight_box(mask)
        alpha = np.where(mask[top:bottom, left:right, None], np.uint8(255), np.uint8(0))
        return Image.fromarray(np.concatenate([pixels[top:bottom, left:right], alpha], axis=2))

    def counts(self) -> dict[str, int]:
        """Return the number of things by name of class, the most frequent first. Stuff and crowds are not counted."""
        return dict(Counter(each.label for each in self.segments if each.isthing and not each.iscrowd).most_common())

    def filter(
        self,
        classes: str | int | Iterable[str | int] | None = None,
        *,
        min_score: float | None = None,
        min_area: int | None = None,
    ) -> PanopticSegmentation:
        """Return the result without some segments, whose pixels become void; ids and image stay.

        Args:
            classes: classes to keep, by name or category id.
            min_score: the least score to keep; a segment without a score, such as stuff, stays.
            min_area: the least number of pixels to keep.

        Raises:
            ValueError: a class is unknown.
        """
        wanted = None if classes is None else self._category_ids(classes)
        kept = [
            segment
            for segment in self.segments
            if (wanted is None or segment.category_id in wanted)
            and (min_score is None or segment.score is None or segment.score >= min_score)
            and (min_area is None or segment.area >= min_area)
        ]
        values = [segment.id for segment in kept]
        ids = np.array([*values, 0], dtype=np.int32)[index_map(self.ids, values)]
        return replace(self, ids=ids, segments=kept)

    def check(self, source: str = "result") -> None:
        """Validate that map and records name the same ids.

        Raises:
            ValueError: they do not; the ids that stand on one side only are listed.
        """
        check_ids(self.ids, [segment.id for segment in self.segments], source)

    def to_coco(self, image_id: ImageId | None = None, file_name: str | None = None) -> dict[str, Any]:
        """Return the annotation of a COCO panoptic JSON: `segments_info` and, where given, `image_id` and `file_name`.

        Args:
            image_id: id of the image in the JSON's `images`.
            file_name: name of the PNG that holds the id map.
        """
        annotation: dict[str, Any] = {}
        if image_id is not None:
            annotation["image_id"] = as_image_id(image_id)
        if file_name is not None:
            annotation["file_name"] = file_name
        annotation["segments_info"] = [segment.to_coco() for segment in self.segments]
        return annotation

    def to_hf(self) -> dict[str, Any]:
        """Return the result as `post_process_panoptic_segmentation` of transformers does, in numpy.

        Returns:
            `segmentation`, (H, W) int32, 0 = void, and `segments_info`, dicts with `id`, `label_id` (the category id),
            `was_fused` (True for stuff) and `score` (1.0 where there is none).
        """
        return {
            "segmentation": self.ids.copy(),
            "segments_info": [
                {
                    "id": segment.id,
                    "label_id": segment.category_id,
                    "was_fused": not segment.isthing,
                    "score": 1.0 if segment.score is None else segment.score,
                }
                for segment in self.segments
            ],
        }

    def to_supervision(self) -> Any:
        """Return the result as `supervision.Detections`: boxes, masks, category ids, names, scores (1.0 where none is).

        Raises:
            ImportError: supervision is not installed; the message says how to get it.
        """
        try:
            import supervision
        except ImportError as error:
            raise ImportError(
                "supervision is needed here and is not installed: pip install supervision", name="supervision"
            ) from error
        count = len(self.segments)
        boxes = np.array([segment.bbox for segment in self.segments], dtype=np.float32).reshape(count, 4)
        boxes[:, 2:] += boxes[:, :2]
        masks = np.zeros((count, *self.ids.shape), dtype=bool)
        for mask, segment in zip(masks, self.segments, strict=True):
            np.equal(self.ids, segment.id, out=mask)
        names = [segment.label for segment in self.segments]
        return supervision.Detections(
            xyxy=boxes,
            mask=masks,
            confidence=np.array([1.0 if s.score is None else s.score for s in self.segments], dtype=np.float32),
            class_id=np.array([segment.category_id for segment in self.segments], dtype=int),
            data={"class_name": np.array(names, dtype=str)},
        )

    def to_records(self) -> list[dict[str, Any]]:
        """Return a table, one row per segment, with the columns `COLUMNS`; `score` is None where there is none."""
        middles = centroids(self.ids, [segment.id for segment in self.segments]).tolist()
        return [
            dict(zip(COLUMNS, (s.id, s.label, s.isthing, s.score, s.area, *s.bbox, *middle), strict=True))
            for s, middle in zip(self.segments, middles, strict=True)
        ]

    def to_dataframe(self) -> pandas.DataFrame:
        """Return the table of `to_records` as a pandas.DataFrame.

        Raises:
            MissingExtraError: pandas is not installed.
        """
        try:
            import pandas
        except ImportError:
            raise MissingExtraError("pandas", "train") from None
        return pandas.DataFrame(self.to_records(), columns=list(COLUMNS))

    def save(self, path: StrPath, file_name: str | None = None, *, image_id: ImageId = 1) -> None:
        """Write the id map as a COCO panoptic PNG and, beside it, the JSON of this one image.

        `save("out.png")` writes out.png and out.json, each at once or not at all.

        Args:
            path: where the PNG goes; must end in .png.
            file_name: name of the image, for `images` in the JSON; the PNG's own name where left out.
            image_id: id of the image in the JSON.

        Raises:
            ValueError: the path does not end in .png, or map and records disagree (`check`).
            InputError: the folder does not exist.
        """
        png = Path(path)
        if png.suffix.lower() != ".png":
            raise ValueError(f"{png}: an id map is saved as .png, since other formats would change the ids")
        self.check(str(png))
        annotation = self.to_coco(image_id, png.name)
        name = png.name if file_name is None else file_name
        image = {"id": annotation["image_id"], "file_name": name, "width": self.width, "height": self.height}
        content = {"images": [image], "annotations": [annotation], "categories": self.categories.to_coco()}
        with atomic_path(png.with_suffix(".json")) as temporary:  # an older JSON must not stay beside a new PNG
            temporary.write_text(json.dumps(content, allow_nan=False) + "\n", encoding="utf-8")
            write_ids(png, self.ids)

    def draw(
        self,
        image: Any = None,
        alpha: float = 0.5,
        *,
        legend: bool = False,
        style: DrawingStyle = "instance",
        stuff: StuffStyle = "outline",
        colors: NDArray[np.uint8] | None = None,
    ) -> Image.Image:
        """Paint the segments over the image: fillings, contours, names where they fit, thin stripes on void.

        Args:
            image: PIL image or array (H, W, 3), (H, W, 4) or (H, W), 0..255; `self.image` where left out. Without any,
                the segments are painted on their own.
            alpha: opacity of the filling of things: 0 leaves the image as it is, 1 hides it.
            legend: adds a strip below the image that names each class that occurs, counts its instances and says what
                images the weights were trained on. An image of less than 640 pixels is then enlarged, so that there is
                room for names.
            style: `instance` gives things that are near each other different colors, from a sequence that color-blind
                people can tell apart; `class` gives each the color of its class; `contour` is `instance` without
                fillings.
            stuff: `outline` draws where stuff ends, in the color of its class; `fill` also fills it, more lightly than
                things; `none` leaves it out.
            colors: RGB of each of `segments`, (N, 3), in place of those of the style: `LastingColors` of
                `banet.panoptic.drawing.colors` gives those of a tracked video.

        Returns:
            RGB image of width W and height H; with a legend larger.

        Raises:
            ValueError: the image's size is not the id map's, alpha is outside 0..1, or `style` or `stuff` is unknown.
        """
        from banet.panoptic.drawing.overlay import draw_segments

        shown = self.image if image is None else image
        return draw_segments(
            self.ids,
            self.segments,
            self.categories,
            shown,
            alpha,
            legend=legend,
            style=style,
            stuff=stuff,
            domain=self.domain,
            colors=colors,
        )

    def show(self, image: Any = None, **options: Any) -> None:
        """Show the drawing: in a notebook below the cell, elsewhere in the system's image viewer.

        Args:
            image: see `draw`.
            **options: as of `draw`.

        Raises:
            RuntimeError: there is no viewer.
        """
        drawing = self.draw(image, **{"legend": True, **options})
        notebook = sys.modules.get("IPython")
        if notebook is not None and hasattr(notebook.get_ipython(), "kernel"):
            notebook.display.display(drawing)
            return
        from PIL import ImageShow

        if not ImageShow.show(drawing):
            raise RuntimeError("no image viewer was found; save the drawing: result.draw().save('overlay.png')")

    def describe(self) -> str:
        """Return what is in the image in a few words: things by class, then stuff by area; six of each at most."""
        counts = [f"{count:,} {name}" for name, count in self.counts().items()]
        stuff = {s.label: None for s in sorted(self.segments, key=lambda s: -s.area) if not s.isthing}
        return "; ".join([join_some(counts) or "no things", *([join_some(list(stuff))] if stuff else [])])

    def _find(self, segment: Segment | int) -> Segment:
        wanted = segment.id if isinstance(segment, Segment) else int(segment)
        found = next((each for each in self.segments if each.id == wanted), None)
        if found is None:
            raise ValueError(f"no segment has the id {wanted}")
        return found

    def _category_ids(self, classes: str | int | Iterable[str | int]) -> set[int]:
        """Return the ids of the categories that names and ids stand for."""
        wanted: set[int] = set()
        for each in [classes] if isinstance(classes, (str, int, np.integer)) else classes:
            found = {c.id for c in self.categories if (c.name if isinstance(each, str) else c.id) == each}
            if not found:
                close = difflib.get_close_matches(str(each), self.categories.names, 1)
                hint = f"did you mean {close[0]!r}?" if close else f"classes are {join_some(self.categories.names)}"
                raise ValueError(f"unknown class {each!r}; {hint}")
            wanted |= found
        return wanted

    def _repr_png_(self) -> bytes | None:
        """Return the drawing as PNG, which notebooks show."""
        if not self.ids.size:
            return None
        drawing = self.draw(legend=True)
        drawing.thumbnail((_NOTEBOOK_SIDE, _NOTEBOOK_SIDE))
        stream = io.BytesIO()
        drawing.save(stream, "PNG")
        return stream.getvalue()

    def __repr__(self) -> str:
        return f"PanopticSegmentation({self.width}x{self.height}: {self.describe()})"


def join_some(words: Sequence[str]) -> str:
    """Return words with commas between them, or the first six and how many more there are."""
    rest = len(words) - _NAMED
    return ", ".join(words[:_NAMED]) + (f" and {rest} more" if rest > 0 else "")


def _infos_of_detectron2(
    classes_and_numbers: NDArray[Any], metadata: Any
) -> tuple[NDArray[np.int64], list[dict[str, Any]]]:
    """Return a map of ids, 0 = void, and detectron2's dicts, from a map of class * `label_divisor` + instance."""
    divisor = int(_field_of_detectron2(metadata, "label_divisor"))
    things = set(_field_of_detectron2(metadata, "thing_dataset_id_to_contiguous_id").values())
    values = np.unique(classes_and_numbers[classes_and_numbers >= 0])
    ids = np.where(classes_and_numbers >= 0, np.searchsorted(values, classes_and_numbers) + 1, 0)
    numbers = (values // divisor).tolist()
    return ids, [{"id": k, "category_id": n, "isthing": n in things} for k, n in enumerate(numbers, start=1)]


def _field_of_detectron2(metadata: Any, name: str) -> Any:
    found = metadata.get(name) if isinstance(metadata, Mapping) else getattr(metadata, name, None)
    if found is None:
        raise ValueError(
            "models of detectron2 number classes in ways that differ: pass metadata=MetadataCatalog.get(...) of the "
            f"data set, or a dict, with {name}"
        )
    return found


def _in_python_numbers(segment: Any) -> Segment:
    """Return a record with numbers as JSON has them; records of other programs hold those of NumPy.

    Raises:
        TypeError: it is not a record, or holds something else than numbers.
        ValueError: its score is not finite.
    """
    if not isinstance(segment, Segment):
        raise TypeError(f"segments must hold Segment objects, not {type(segment).__name__}")
    result: Segment = segment
    whole = (segment.id, segment.category_id, segment.area, *segment.bbox)
    plain = type(segment.isthing) is bool and (segment.score is None or type(segment.score) in (int, float))
    if not plain or any(type(number) is not int for number in whole):
        try:
            identity, category_id, area, x, y, width, height = (operator.index(number) for number in whole)
            score = None if segment.score is None else float(segment.score)
        except (TypeError, ValueError) as error:
            raise TypeError(f"segment {segment.id} holds something else than numbers: {error}") from None
        result = Segment(
            identity,
            category_id,
            bool(segment.isthing),
            score,
            area,
            (x, y, width, height),
            bool(segment.iscrowd),
            segment.label,
        )
    if result.score is not None and not math.isfinite(result.score):
        raise ValueError(f"segment {result.id} has the score {result.score}; scores must be finite, or None")
    return result


def _measured(
    segments: Iterable[Segment], values: NDArray[np.int32], areas: NDArray[np.int64], boxes: NDArray[np.int64]
) -> list[Segment]:
    """Return records with area and box from what `measure_ids` found; those of ids that it did not find stay."""
    found = dict(zip(values.tolist(), zip(areas.tolist(), boxes.tolist(), strict=True), strict=True))
    records = []
    for segment in segments:
        if segment.id in found:
            area, (x, y, width, height) = found[segment.id]
            segment = replace(segment, area=area, bbox=(x, y, width, height))
        records.append(segment)
    return records


def _segment_of(entry: Segment | Mapping[str, Any], classes: Categories) -> Segment:
    """Return the record of a segment that is given as a record or as a mapping."""
    if isinstance(entry, Segment):
        return replace(entry, isthing=classes.isthing(entry.category_id))
    score, category_id, crowd = entry.get("score"), int(entry["category_id"]), entry.get("iscrowd")
    crowd = crowd.item() if isinstance(crowd, np.generic) else crowd
    return Segment(
        id=int(entry["id"]),
        category_id=category_id,
        isthing=classes.isthing(category_id),
        score=None if score is None else float(score),
        iscrowd=read_flag({"iscrowd": crowd}, "iscrowd", f"segment {entry['id']}"),
    )

"""The panoptic result: an id map and one record per segment."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from banet.files.atomic import write_json
from banet.files.fields import read_flag
from banet.panoptic.categories import VOID, Categories, Category
from banet.panoptic.coco.png import write_ids
from banet.panoptic.id_maps import (
    MAX_SEGMENT_ID,
    as_ids,
    check_ids,
    compare_ids,
    indices_of_ids,
    measure_ids,
    runs,
)
from banet.panoptic.segments import Segment
from banet.types import ImageId, StrPath

if TYPE_CHECKING:
    from PIL import Image

__all__ = ["PanopticSegmentation", "Segment"]


@dataclass(eq=False)
class PanopticSegmentation:
    """A panoptic segmentation of one image.

    Attributes:
        ids: (H, W) int32, the segment that owns each pixel, 0 = void.
        segments: one record per id in the map.
        categories: the classes that `category_id` speaks of.
        image: the image, (H, W, 3) or (H, W), 0..255, for `draw`; may be None.

    Raises:
        TypeError: `ids` is not an integer array, or `segments` holds something else than `Segment`.
        ValueError: `ids` is not (H, W) or out of range, a segment id occurs twice or is out of range, or a category is
            unknown. That map and records name the same ids is asked by `check`, not here.
    """

    ids: NDArray[np.int32]
    segments: list[Segment]
    categories: Categories
    image: NDArray[Any] | None = None

    def __post_init__(self) -> None:
        self.ids = as_ids(self.ids)
        self.segments = list(self.segments)
        self.categories = Categories.of(self.categories)
        seen: set[int] = set()
        for segment in self.segments:
            if not isinstance(segment, Segment):
                raise TypeError(f"segments must hold Segment objects, not {type(segment).__name__}")
            if not 1 <= segment.id <= MAX_SEGMENT_ID:
                raise ValueError(f"segment ids must be in 1..{MAX_SEGMENT_ID}, not {segment.id}")
            if segment.id in seen:
                raise ValueError(f"segment id {segment.id} occurs twice in segments")
            seen.add(segment.id)
            if segment.category_id not in self.categories:
                raise ValueError(f"segment {segment.id} has the unknown category id {segment.category_id}")

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
        measured = dict(zip(values.tolist(), zip(areas.tolist(), map(tuple, boxes.tolist()), strict=True), strict=True))
        records = [replace(segment, area=measured[segment.id][0], bbox=measured[segment.id][1]) for segment in given]
        return cls(id_map, records, classes, image)

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
            annotation["image_id"] = image_id
        if file_name is not None:
            annotation["file_name"] = file_name
        annotation["segments_info"] = [segment.to_coco() for segment in self.segments]
        return annotation

    def to_hf(self) -> dict[str, Any]:
        """Return the result as `post_process_panoptic_segmentation` of transformers does, in numpy.

        Returns:
            `segmentation`: (H, W) int32, 0 = void; `segments_info`: dicts with `id`, `label_id` (the category id),
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
        names = [self.categories.by_id(segment.category_id).name for segment in self.segments]
        return supervision.Detections(
            xyxy=boxes,
            mask=masks,
            confidence=np.array([1.0 if s.score is None else s.score for s in self.segments], dtype=np.float32),
            class_id=np.array([segment.category_id for segment in self.segments], dtype=int),
            data={"class_name": np.array(names, dtype=str)},
        )

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
        write_ids(png, self.ids)
        write_json(
            png.with_suffix(".json"),
            {
                "images": [
                    {
                        "id": image_id,
                        "file_name": png.name if file_name is None else file_name,
                        "width": self.width,
                        "height": self.height,
                    }
                ],
                "annotations": [self.to_coco(image_id, png.name)],
                "categories": self.categories.to_coco(),
            },
        )

    def draw(self, image: Any = None, alpha: float = 0.5, *, legend: bool = False) -> Image.Image:
        """Paint the segments over the image: class colors, a shade per instance, outlines, labels, void hatched.

        The colour is that of the category, whatever else is in the image. Names stand where there is room for them.

        Args:
            image: PIL image or array (H, W, 3), (H, W, 4) or (H, W), 0..255; `self.image` where left out. Without any,
                the segments are painted on their own.
            alpha: 0 leaves the image as it is, 1 hides it.
            legend: adds a strip below the image that names each class that occurs and counts its instances. An image
                of less than 320 pixels is then enlarged, each pixel to a square, so that there is room for names.

        Returns:
            RGB image of width W and height H; with a legend larger.

        Raises:
            ValueError: the image's size is not the id map's, or alpha is outside 0..1.
        """
        from banet.panoptic.drawing.overlay import draw_segments

        shown = self.image if image is None else image
        return draw_segments(self.ids, self.segments, self.categories, shown, alpha, legend=legend)

    def __repr__(self) -> str:
        things = sum(segment.isthing for segment in self.segments)
        return f"PanopticSegmentation({self.width}x{self.height}, {things} things, {len(self.segments) - things} stuff)"


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

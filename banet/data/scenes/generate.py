"""Scenes: an endless panoptic dataset that is drawn at run time, with an order of things that is known exactly.

`make_scene(seed, index)` draws one image with numpy and Pillow and always draws the same one for the same numbers.
Textured stuff (sky, grass, bricks and so on) meets in wavy borders; things of ten classes stand before one another:
ties hang on persons, cups stand on tables, crowds overlap, umbrellas have thin poles and kites have strings. Every
thing has its full (amodal) mask, and the order says exactly which thing hides which.

    >>> scene = make_scene(seed=0, index=3)
    >>> scene.image.shape
    (256, 256, 3)

This module loads no torch until a `Scenes` is indexed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from banet.data.scenes.context import ContextStage, compose_context
from banet.data.scenes.painting import draw_gain, expose, owners, paint
from banet.data.scenes.stage import Stage, Thing
from banet.data.scenes.stuff import STUFF_NAMES, compose_stuff
from banet.data.scenes.things import Patch, render
from banet.files.atomic import atomic_path
from banet.files.outputs import Outputs
from banet.files.staging import JsonLists
from banet.panoptic.categories import Categories, Category
from banet.panoptic.coco.png import write_ids
from banet.panoptic.coco.rle import run_lengths
from banet.panoptic.id_maps import measure_ids
from banet.panoptic.segmentation import PanopticSegmentation
from banet.panoptic.segments import Segment

if TYPE_CHECKING:
    from banet.data.samples import AnnotatedImage, Sample
    from banet.data.transforms import Transform

__all__ = [
    "SCENE_CATEGORIES",
    "Scene",
    "Scenes",
    "make_scene",
    "scene_outputs",
    "write_coco",
    "write_scenes",
]

THING_IDS = {
    "person": 1, "car": 3, "umbrella": 7, "tie": 8, "ball": 13, "kite": 16, "cup": 21, "chair": 24, "table": 27,
    "book": 33,
}  # fmt: skip
STUFF_IDS = {
    "sky": 101, "mountain": 102, "water": 105, "grass": 109, "sand": 110, "road": 114, "wall": 118, "floor": 125,
}  # fmt: skip
_COLORS = {
    "person": (220, 60, 60), "car": (60, 90, 220), "umbrella": (190, 80, 210), "tie": (250, 210, 40),
    "ball": (255, 130, 30), "kite": (40, 200, 190), "cup": (240, 120, 170), "chair": (150, 95, 50),
    "table": (200, 150, 90), "book": (110, 60, 160),
    "sky": (135, 195, 240), "mountain": (130, 125, 140), "water": (45, 125, 190), "grass": (100, 170, 70),
    "sand": (235, 215, 150), "road": (95, 95, 100), "wall": (185, 115, 95), "floor": (165, 125, 85),
}  # fmt: skip
SCENE_CATEGORIES = Categories(
    [Category(i, name, True, _COLORS[name]) for name, i in THING_IDS.items()]
    + [Category(i, name, False, _COLORS[name]) for name, i in STUFF_IDS.items()]
)
"""The ten things and eight kinds of stuff. The ids have gaps, as COCO's have."""

_SMALLEST_VISIBLE = 12
"""Things with fewer visible pixels are neither painted nor true."""
_SMALLEST_SHARE = 0.06
"""So are things of which a smaller share can be seen."""


@dataclass(frozen=True)
class Scene:
    """One image of H × W pixels with N things, with its ground truth.

    Attributes:
        image: (H,W,3) uint8, RGB.
        masks: (N,H,W) bool, the full mask of each thing inside the image, hidden parts included; row k belongs to
            the segment with id k + 1.
        order: (N,) int64, rows of `masks` from the front to the back: of two things that share a pixel, the one that
            comes first here owns it.
        ids: (H,W) int32, the segment that owns each pixel: things 1..N, stuff from N + 1. There is no void.
        segments: things in the order of `masks`, then stuff.
        categories: `SCENE_CATEGORIES`.
    """

    image: NDArray[np.uint8]
    masks: NDArray[np.bool_]
    order: NDArray[np.int64]
    ids: NDArray[np.int32]
    segments: list[Segment]
    categories: Categories


def _settle(things: list[Thing], patches: list[Patch | None], size: tuple[int, int]) -> list[int]:
    """Leave out what can hardly be seen, and what was fastened to it; the rows that stay, back to front."""
    row_of = {id(thing): row for row, thing in enumerate(things)}
    kept = [row for row, patch in enumerate(patches) if patch is not None]
    while True:
        painted = [patch for row in kept if (patch := patches[row]) is not None]
        visible = np.bincount(owners(painted, size).ravel(), minlength=len(kept) + 1)[1:]
        full = np.array([patch.mask.sum() for patch in painted], np.int64)
        seen = (visible >= _SMALLEST_VISIBLE) & (visible >= _SMALLEST_SHARE * full)
        stay = {row for row, ok in zip(kept, seen, strict=True) if ok}
        parents = {row: things[row].parent for row in stay}
        stay = {row for row, parent in parents.items() if parent is None or row_of[id(parent)] in stay}
        if len(stay) == len(kept):
            return kept
        kept = [row for row in kept if row in stay]


def make_scene(seed: int, index: int, size: tuple[int, int] = (256, 256), *, context: bool = False) -> Scene:
    """Draw one scene.

    Args:
        seed: the dataset; different seeds share no scene.
        index: the scene's number in it. The same (seed, index, size) always gives the same scene.
        size: (H,W) in pixels, at least 32 each. Things scale with the shorter side.
        context: things depend on the ground, and some stuff only they can tell apart (see
            `banet.data.scenes.context`); otherwise both are drawn independently.

    Returns:
        The image with its ground truth.

    Raises:
        ValueError: seed or index is negative, or the size is too small.
    """
    height, width = size
    if height < 32 or width < 32:
        raise ValueError(f"size must be at least 32 x 32 pixels, not {height} x {width}")
    if seed < 0 or index < 0:
        raise ValueError(f"seed and index must not be negative, not {seed} and {index}")
    rng = np.random.default_rng([seed, index, 1] if context else [seed, index])
    ground = compose_context(rng, height, width) if context else compose_stuff(rng, height, width)
    image = ground.image
    stage = ContextStage if context else Stage
    things = stage(rng, ground, height, width).fill()
    light = float(rng.uniform(-1, 1))
    patches = [render(rng, thing.shape, thing.pose, size, light) for thing in things]
    kept = _settle(things, patches, size)
    painted = [patch for row in kept if (patch := patches[row]) is not None]
    names = [things[row].name for row in kept]
    reach = max(1, round(min(size) / 128))
    dark = rng.uniform(0.15, 0.4) if rng.random() < 0.7 else 0.0
    for patch in painted:
        paint(image, patch, (-round(2 * light * reach), reach, dark))
    expose(image, draw_gain(rng), rng.uniform(3, 20), rng)

    count = len(painted)
    number = rng.permutation(count)  # painted[k] gets the id number[k] + 1: ids say nothing of the order
    owner = owners(painted, size)
    ids = np.concatenate([[0], number + 1]).astype(np.int32).take(owner)
    masks = np.zeros((count, height, width), bool)
    for row, patch in zip(number, painted, strict=True):
        masks[row][patch.box] = patch.mask
    row_names = {int(row): name for row, name in zip(number, names, strict=True)}
    segments = [Segment(row + 1, THING_IDS[row_names[row]], isthing=True) for row in range(count)]
    bare = ids == 0
    for label, name in enumerate(STUFF_NAMES):
        rest = bare & (ground.labels == label)
        if rest.any():
            identity = len(segments) + 1
            ids[rest] = identity
            segments.append(Segment(identity, STUFF_IDS[name], isthing=False))
    return Scene(
        image=np.clip(image, 0, 255, out=image).astype(np.uint8),
        masks=masks,
        order=number[::-1].astype(np.int64),
        ids=ids,
        segments=PanopticSegmentation.from_ids(ids, segments, SCENE_CATEGORIES).segments,
        categories=SCENE_CATEGORIES,
    )


class Scenes:
    """A map-style dataset of scenes for torch's `DataLoader`.

    Args:
        seed: the dataset; training and evaluation take different seeds and so share no scene.
        length: how many scenes it has; scene k is `make_scene(seed, k, size, context=context)`.
        size: (H,W) in pixels.
        transform: takes and gives (image, id map), as those of `banet.data.transforms`; or None.
        context: see `make_scene`.
    """

    categories = SCENE_CATEGORIES

    def __init__(
        self,
        seed: int,
        length: int,
        size: tuple[int, int] = (256, 256),
        transform: Transform | None = None,
        *,
        context: bool = False,
    ) -> None:
        if length < 0:
            raise ValueError(f"length must not be negative, not {length}")
        self.seed, self.length, self.size, self.transform = seed, length, (int(size[0]), int(size[1])), transform
        self.context = context

    def __len__(self) -> int:
        return self.length

    @property
    def image_ids(self) -> range:
        """Id of each image: its number."""
        return range(self.length)

    def file_name(self, index: int) -> str:
        """Return a name for the scene, as `write_coco` gives it."""
        return _file_name(self.seed, index)

    def files(self, index: int) -> list[Path]:
        """Return the files of a scene, of which there are none."""
        return []

    def read(self, index: int) -> tuple[NDArray[np.uint8], PanopticSegmentation]:
        """Return the image, (H,W,3) uint8 RGB, and its ground truth, before any transform.

        Raises:
            IndexError: there is no such scene.
        """
        scene = self._scene(index)
        return scene.image, PanopticSegmentation(scene.ids, scene.segments, self.categories)

    def read_annotated(self, index: int) -> AnnotatedImage:
        """Return the same as a sample is made of."""
        from banet.data.samples import AnnotatedImage

        scene = self._scene(index)
        return AnnotatedImage(scene.image, scene.ids, scene.segments)

    def __getitem__(self, index: int) -> Sample:
        """Draw scene `index`; its target's things are in the order of `Scene.masks`."""
        from banet.data.samples import sample_of

        annotated = self.read_annotated(index)
        return sample_of(annotated, self.categories, index, self.file_name(index), self.transform)

    def _scene(self, index: int) -> Scene:
        if not 0 <= index < self.length:
            raise IndexError(f"scene {index} of {self.length}")
        return make_scene(self.seed, index, self.size, context=self.context)


def write_coco(
    out_dir: str | Path,
    seed: int = 0,
    count: int = 20,
    size: tuple[int, int] = (256, 256),
    progress: Callable[[int], None] | None = None,
    *,
    context: bool = False,
    overwrite: bool = False,
) -> Path:
    """Write scenes 0..count-1 of a seed to a folder in COCO's formats, as `write_scenes` does.

    Args:
        out_dir: the folder; made where it is missing.
        seed: see `make_scene`.
        count: how many scenes.
        size: (H,W) in pixels.
        progress: called with the number of scenes done, after each.
        context: see `make_scene`.
        overwrite: also replace files that this function did not write.

    Returns:
        The path of `panoptic.json`.

    Raises:
        InputError: see `Outputs`.
    """
    names = [_file_name(seed, index) for index in range(count)]
    outputs = scene_outputs(out_dir, "banet data scenes", names, overwrite=overwrite)
    scenes = (make_scene(seed, index, size, context=context) for index in range(count))
    description = f"scenes of seed {seed}, {size[1]} x {size[0]}" + (", with context" if context else "")
    return write_scenes(outputs, names, scenes, SCENE_CATEGORIES, description, progress)


def scene_outputs(out_dir: str | Path, kind: str, names: Sequence[str], **options: Any) -> Outputs:
    """Check the files that `write_scenes` writes; see `Outputs`."""
    files = [f"{folder}/{name}" for folder in ("images", "panoptic") for name in names]
    return Outputs(out_dir, kind, [*files, "instances_amodal.json", "panoptic.json"], **options)


def write_scenes(
    outputs: Outputs,
    names: Sequence[str],
    scenes: Iterable[Scene],
    categories: Categories,
    description: str,
    progress: Callable[[int], None] | None = None,
) -> Path:
    """Write images whose order is known to a folder in COCO's formats.

    Makes `images/*.png`, `panoptic/*.png` and `panoptic.json` (COCO panoptic: the visible part of everything) and
    `instances_amodal.json` (COCO instances: the full mask of each thing as uncompressed RLE, so masks overlap; each
    annotation has `panoptic_id`, the segment's id in the panoptic PNG, and `depth`, 0 for the thing at the front).

    Args:
        outputs: the files, checked by `scene_outputs`.
        names: file name of each scene.
        scenes: the scenes, drawn one at a time.
        categories: the classes of all of them.
        description: what the JSON files say of themselves.
        progress: called with the number of scenes done, after each.

    Returns:
        The path of `panoptic.json`.
    """
    out = outputs.folder
    (out / "images").mkdir(parents=True, exist_ok=True)
    (out / "panoptic").mkdir(exist_ok=True)
    masks = 0
    with outputs, JsonLists() as panoptic, JsonLists() as amodal:
        for image_id, (name, scene) in enumerate(zip(names, scenes, strict=True), start=1):
            with atomic_path(out / "images" / name) as path:
                Image.fromarray(scene.image).save(path, format="PNG")
            write_ids(out / "panoptic" / name, scene.ids)
            height, width = scene.ids.shape
            for lists in (panoptic, amodal):
                lists.add("images", {"id": image_id, "file_name": name, "width": width, "height": height})
            infos = [segment.to_coco() for segment in scene.segments]
            panoptic.add("annotations", {"image_id": image_id, "file_name": name, "segments_info": infos})
            for annotation in _full_masks(scene, image_id, masks + 1):
                amodal.add("annotations", annotation)
            masks += len(scene.masks)
            if progress is not None:
                progress(image_id)
        head = {"info": {"description": description}, "images": None, "annotations": None}
        classes = categories.to_coco()
        things = [category for category in classes if category["isthing"]]
        amodal.write(out / "instances_amodal.json", {**head, "categories": things})
        panoptic.write(out / "panoptic.json", {**head, "categories": classes})
    return out / "panoptic.json"


def _full_masks(scene: Scene, image_id: int, first: int) -> list[dict[str, Any]]:
    """Return the full masks of a scene's things as annotations of COCO instances, with ids from `first`."""
    depth = np.argsort(scene.order)
    annotations = []
    for row, mask in enumerate(scene.masks):
        _, areas, boxes = measure_ids(mask.astype(np.int32))
        annotations.append(
            {
                "id": first + row,
                "image_id": image_id,
                "category_id": scene.segments[row].category_id,
                "segmentation": {"size": list(mask.shape), "counts": run_lengths(mask).tolist()},
                "area": int(areas[0]),
                "bbox": boxes[0].tolist(),
                "iscrowd": 0,
                "panoptic_id": row + 1,
                "depth": int(depth[row]),
            }
        )
    return annotations


def _file_name(seed: int, index: int) -> str:
    return f"{seed:04d}_{index:06d}.png"

"""COCO instances, with or without stuff (label maps or a JSON of its own), and the folders that datumaro writes."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from banet.data.convert.output import ConvertedImage, from_classes, name_in, same_size, write_panoptic
from banet.data.convert.shapes import Shape, convert_shapes, everywhere, outlined, with_background
from banet.data.left_out import LeftOut, reported
from banet.data.panoptic_stream import PanopticStream, StoredImages
from banet.errors import InputError, InputWarning, abbreviate, abbreviate_list
from banet.files.fields import read_flag, read_image_id, read_object
from banet.files.names import safe_join
from banet.files.on_disk import DiskTable
from banet.files.reading import stream_lists
from banet.panoptic.categories import Categories, Category
from banet.panoptic.coco.annotations import ImageInfo, add_image, read_categories
from banet.panoptic.coco.png import read_labels
from banet.panoptic.defaults import BEST_RULE
from banet.panoptic.segments import Segment
from banet.types import ImageId, Progress, StrPath

__all__ = ["DatumaroTask", "convert_coco", "convert_datumaro", "panoptic_truths"]

DatumaroTask = Literal["auto", "panoptic", "instances", "stuff"]
_TASKS: tuple[DatumaroTask, ...] = ("panoptic", "instances", "stuff")


def convert_coco(
    images: StrPath,
    instances: StrPath,
    out: StrPath,
    *,
    stuff: StrPath | None = None,
    categories: StrPath | None = None,
    overlaps: str = BEST_RULE,
    background: str = "",
    void: Sequence[int] = (),
    label_offset: int = 0,
    left_out: LeftOut | None = None,
    progress: Progress | None = None,
) -> Path:
    """Convert an instances JSON. Pixels of no instance are stuff, or `background`, or void.

    Args:
        images: the folder of images.
        instances: JSON of polygons or run lengths.
        out: see `write_panoptic`.
        stuff: a folder of label maps of category ids, PNGs named as the images; thing ids in them are void. Or a JSON
            such as COCO's stuff_val2017.json, of the same images.
        categories: JSON of all classes; by default the instances' own as things, and those of a `stuff` JSON as stuff.
            Needed with a folder of label maps.
        overlaps: `FAIL` or an occlusion rule.
        void: labels of `stuff` that are void; 0 is, unless it is a category's id.
        label_offset: what is added to the labels of `stuff` maps to make them category ids: 1 for COCO-Stuff's
            stuffthingmaps, whose 255 is void then.
        background: name of the stuff that pixels of no object are; void where it is empty.
        left_out: counts objects and names those without a pixel, or refuses them; by default they are a warning.
        progress: see `write_panoptic`.

    Returns:
        The path of panoptic.json; image ids stay as they are.

    Raises:
        InputError: a file is missing or bad, a class is unknown, or instances overlap and may not.
    """
    file, maps = Path(instances), None if stuff is None or Path(stuff).is_file() else Path(stuff)
    if maps is not None and categories is None:
        raise InputError(
            "missing", where="--categories", hint="with --stuff DIR, give a JSON with all classes, things and stuff"
        )
    if maps is not None and background:
        raise InputError("does not go with --stuff DIR, whose maps say what each pixel is", where="--background")
    found = _Annotations()
    with reported(left_out) as report:
        found.read(file)
        things = list(found.categories)
        if stuff is not None and maps is None:
            found.read(Path(stuff), known_images=True)
        if categories is not None:
            classes = read_categories(categories)
        else:
            classes = _things_and_stuff(things, file, found.categories[len(things) :], stuff)
        classes = with_background(classes, background)

        def ground(info: ImageInfo, image_path: Path) -> _Ground | None:
            if maps is None:
                return everywhere(classes, background, (info.height, info.width))
            path = safe_join(maps, str(Path(info.file_name).with_suffix(".png")))
            labels, _ = read_labels(path)
            same_size(path, labels.shape, image_path)
            labels += label_offset
            labels[np.isin(labels, [c.id for c in classes if c.isthing])] = -1
            return from_classes(
                path, labels, None, classes, [*void, -1, *([255 + label_offset] if label_offset else [])]
            )

        def truths() -> Iterator[ConvertedImage]:
            return _truths(found, Path(images), file, classes, overlaps, report, ground)

        return write_panoptic(out, truths(), classes, len(found.infos), progress)


def convert_datumaro(
    root: StrPath,
    split: str,
    out: StrPath,
    *,
    task: DatumaroTask = "auto",
    stuff: Collection[str] = (),
    categories: StrPath | None = None,
    no_crowd: bool = False,
    overlaps: str = BEST_RULE,
    background: str = "",
    left_out: LeftOut | None = None,
    progress: Progress | None = None,
) -> Path:
    """Convert one split of a folder that datumaro wrote as coco, coco_instances, coco_panoptic or coco_stuff.

    Args:
        root: folder of annotations/TASK_SPLIT.json and of images/SPLIT or images.
        split: which subset.
        out: see `write_panoptic`; image names are relative to the folder of images.
        task: which of the JSONs; by default panoptic, instances or stuff, the first that is there.
        stuff: classes that are stuff; all others are things. By default the JSON's `isthing`, where it says it.
        categories: JSON of the classes, in place of `stuff`; ids must be those of the annotations.
        no_crowd: take every object as a single one, since datumaro sets `iscrowd` for whatever is a mask.
        overlaps: `FAIL` or an occlusion rule.
        background: name of the stuff that pixels of no object are; void where it is empty.
        left_out: see `convert_coco`.
        progress: see `write_panoptic`.

    Returns:
        The path of panoptic.json.

    Raises:
        InputError: a file is missing or bad, a class is unknown, or nobody says what is stuff.
    """
    base = Path(root)
    chosen = _choose_task(base, split, task)
    file = base / "annotations" / f"{chosen}_{split}.json"
    folders = [base / "images" / split, base / split, base / "images"]
    images = next((folder for folder in folders if folder.is_dir()), folders[0])
    given = None if categories is None else read_categories(categories)
    if chosen == "panoptic":
        if background:
            raise InputError(
                "is for --task instances and stuff: a panoptic JSON says what is void", where="--background"
            )
        stream = PanopticStream(file, base / "annotations" / f"panoptic_{split}")
        stream.categories = given or _told_apart(stream.categories, stuff, file)
        with reported(left_out) as report:
            truths = panoptic_truths(stream, images, report)
            return write_panoptic(out, truths, stream.categories, len(stream.images), progress)
    found = _Annotations(crowd=not no_crowd)
    with reported(left_out) as report:
        found.read(file)
        classes = with_background(given or _with_stuff(found.categories, stuff, file), background)
        if found.crowds and not no_crowd:
            warnings.warn(
                InputWarning(
                    f"{file}: {found.crowds:,} objects have iscrowd 1, which datumaro writes for every mask; where they"
                    " are single objects, add --no-crowd"
                ),
                stacklevel=2,
            )

        def ground(info: ImageInfo, _: Path) -> _Ground | None:
            return everywhere(classes, background, (info.height, info.width))

        truths = _truths(found, images, file, classes, overlaps, report, ground)
        return write_panoptic(out, truths, classes, len(found.infos), progress)


class _Annotations:
    """The images of COCO JSONs and their annotations, both on disk.

    Args:
        crowd: believe `iscrowd`.

    Attributes:
        infos: the images by id.
        categories: entries of `categories`, of all files.
        crowds: number of annotations with `iscrowd`.
    """

    def __init__(self, crowd: bool = True) -> None:
        self.infos = StoredImages()
        self.categories: list[Any] = []
        self.crowds = 0
        self._crowd = crowd
        self._records = DiskTable()

    def read(self, file: Path, *, known_images: bool = False) -> None:
        """Read a JSON.

        Args:
            file: the JSON.
            known_images: its annotations are of images that were read before.

        Raises:
            InputError: a field is missing or bad, or an annotation is of an image that is not there.
        """
        wanted = ("annotations", "categories") if known_images else ("images", "annotations", "categories")
        for field, where, entry in stream_lists(file, wanted):
            if field == "images":
                add_image(self.infos, entry, where)
                continue
            read_object(entry, where)
            if field == "categories":
                self.categories.append(entry)
                continue
            image_id = read_image_id(entry, "image_id", where)
            for key in ("category_id", "segmentation"):
                if key not in entry:
                    raise InputError(f"'{key}' is missing", where=where, hint="add it")
            place = f"{where.removeprefix(f'{file}: ')} (id {abbreviate(entry.get('id'))})"
            crowd = read_flag(entry, "iscrowd", where)
            place += f" of {file.name}" if known_images else ""
            self.crowds += crowd
            self._records.add(
                image_id, (str(file), place, entry["category_id"], crowd and self._crowd, entry["segmentation"])
            )
        for image_id in self._records:
            if image_id not in self.infos:
                what = f"image_id {abbreviate(image_id)} is not in 'images'"
                raise InputError(what, where=f"{file}: annotations", hint="add it or drop them")

    def of(self, image_id: ImageId) -> Iterator[list[Any]]:
        """Yield the annotations of an image: file, place in it, category id, whether it is a crowd, segmentation."""
        return self._records.of(image_id)


_Ground = tuple[NDArray[np.int32], Mapping[int, Segment]]


def _truths(
    found: _Annotations,
    images: Path,
    file: Path,
    classes: Categories,
    overlaps: str,
    report: LeftOut,
    ground: Callable[[ImageInfo, Path], _Ground | None],
) -> Iterator[ConvertedImage]:
    for info in found.infos.values():
        image_path = safe_join(images, info.file_name, f"{file}: images[].file_name")
        size = (info.height, info.width)
        same_size(file, size, image_path)
        shapes = (_shape(record, size, classes) for record in found.of(info.id))
        yield convert_shapes(
            shapes,
            classes,
            images,
            name_in(images, image_path),
            size,
            overlaps,
            report,
            file,
            ground=ground(info, image_path),
            image_id=info.id,
        )


def _shape(record: Sequence[Any], size: tuple[int, int], categories: Categories) -> Shape:
    file, place, category_id, crowd, segmentation = record
    if type(category_id) is not int or category_id not in categories:
        what = f"category_id {abbreviate(category_id)} is not in the categories"
        raise InputError(what, where=f"{file}: {place}", hint="add it or correct it")
    try:
        crop, why = outlined(segmentation, size)
    except ValueError as error:
        raise InputError(f"segmentation: {error}", where=f"{file}: {place}") from error
    return Shape(place, category_id, crop, crowd and categories.isthing(category_id), why=why)


def _things_and_stuff(things: list[Any], file: Path, stuff: list[Any], stuff_file: StrPath | None) -> Categories:
    classes = Categories.from_coco([{"isthing": 1, **entry} for entry in things], str(file))
    if stuff_file is None:
        return classes
    others = Categories.from_coco([{**entry, "isthing": 0} for entry in stuff], str(stuff_file))
    both = next((category for category in others if category.id in classes), None)
    if both is not None:
        raise InputError(
            f"class {both.id} ({both.name}) is one of {file} too", where=stuff_file, hint="give all with --categories"
        )
    return Categories([*classes, *others])


def _choose_task(base: Path, split: str, task: DatumaroTask) -> str:
    folder = base / "annotations"
    there = [each for each in _TASKS if (folder / f"{each}_{split}.json").is_file()]
    if task != "auto" or not there:
        if task in there:
            return task
        wanted = "panoptic|instances|stuff" if task == "auto" else task
        known = sorted(path.name for path in folder.glob("*_*.json"))
        what = f"holds no {wanted}_{split}.json"
        raise InputError(what, where=folder, hint=f"there are {', '.join(known[:6])}" if known else "check --root")
    if there[0] == "panoptic" and len(there) > 1:
        # datumaro leaves polygons out of its panoptic files.
        counts = [_objects(folder / f"{each}_{split}.json") for each in there[:2]]
        if counts[0] < counts[1]:
            raise InputError(
                f"panoptic_{split}.json holds {counts[0]:,} objects, {there[1]}_{split}.json {counts[1]:,}",
                where=folder,
                hint=f"choose one: --task panoptic or --task {there[1]}",
            )
    return there[0]


def _objects(file: Path) -> int:
    """Return how many objects a JSON of either kind holds."""
    annotations = (read_object(entry, where) for _, where, entry in stream_lists(file, ["annotations"]))
    return sum(len(entry["segments_info"]) if "segments_info" in entry else 1 for entry in annotations)


def _told_apart(classes: Categories, stuff: Collection[str], file: Path) -> Categories:
    """Return classes that are stuff where `stuff` says so, or where it is empty, those of the file."""
    if not stuff and not classes.num_things:
        raise InputError(
            "says isthing 0 of every class, as datumaro always does",
            where=f"{file}: categories",
            hint="say which are stuff with --stuff '[NAME, ...]', or give --categories",
        )
    return _with_stuff(classes.to_coco(), stuff, file)


def _with_stuff(entries: Sequence[Any], stuff: Collection[str], file: Path) -> Categories:
    """Return the classes of a file, of which `stuff` are stuff; where it is empty, those that the file says are."""
    classes = Categories.from_coco([{"isthing": 1, **entry} for entry in entries], str(file))
    if not stuff:
        return classes
    _known(stuff, {category.name: True for category in classes}, file)
    return Categories(Category(c.id, c.name, c.name not in stuff, c.color) for c in classes)


def _known(stuff: Collection[str], names: Mapping[str, bool], file: Path) -> None:
    strange = sorted(set(stuff) - set(names))
    if strange:
        raise InputError(
            f"{file} has no class of this name",
            where=f"--stuff {strange[0]}",
            hint=f"it has {abbreviate_list([*names])}",
        )


def panoptic_truths(stream: PanopticStream, images: Path, report: LeftOut) -> Iterator[ConvertedImage]:
    """Yield the images of COCO panoptic files; segments without a pixel are left out.

    Args:
        stream: the files.
        images: the folder of images.
        report: counts the segments.

    Raises:
        InputError: see `PanopticStream`; an image is missing or of another size.
    """
    for info, annotation in stream:
        image_path = safe_join(images, info.file_name, f"{stream.path}: images[].file_name")
        ids, empty = stream.load(info, annotation)
        same_size(stream.path, ids.shape, image_path)
        name = name_in(images, image_path)
        report.objects += len(annotation.segments)
        for segment in empty:
            report.add("no pixel in the PNG", f"segment {segment.id}", name, stream.path)
        segments = {s.id: replace(s, score=None, iscrowd=s.iscrowd and s.isthing) for s in annotation.segments}
        yield ConvertedImage(name, ids, segments, info.id)

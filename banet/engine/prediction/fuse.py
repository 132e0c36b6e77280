"""Panoptic results from anybody's detector and anybody's segmenter, image by image. Free of torch."""

from __future__ import annotations

import os
import posixpath
import re
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from banet._renamed import accept_old_names
from banet.data.images import find_depth, to_rgb_array
from banet.data.images.formats import SUFFIXES
from banet.data.left_out import LeftOut
from banet.engine.prediction.sources import Sources
from banet.engine.sharing.process import this_process
from banet.engine.sharing.shared_run import SharedRun, facts_of_file
from banet.engine.sharing.work_list import WorkList
from banet.errors import InputError, InputWarning, abbreviate
from banet.files.archives import InputFolder, StoredFile, place_of
from banet.files.fields import is_box, is_number, read_image_id, read_integer
from banet.files.names import forward, safe_join, without_suffix
from banet.files.outputs import outputs_in
from banet.files.reading import stream_lists
from banet.files.remote import is_remote
from banet.files.staging import JsonLists
from banet.modeling.config import InferenceConfig
from banet.panoptic.categories import VOID, Categories
from banet.panoptic.coco.annotations import read_categories, read_tables
from banet.panoptic.coco.classes import coco_categories
from banet.panoptic.coco.png import read_labels, write_ids
from banet.panoptic.coco.rle import decode_crop, why_empty
from banet.panoptic.coco.runs import Drawing
from banet.panoptic.coco.writer import png_names
from banet.panoptic.defaults import BEST_OVERLAP_THRESHOLD, BEST_RULE
from banet.panoptic.fusion import fuse_panoptic
from banet.panoptic.occlusion.redundant import Removal, find_redundant
from banet.panoptic.occlusion.rules import Procedure, Rule
from banet.panoptic.segmentation import PanopticSegmentation
from banet.panoptic.validation import MaskCrops
from banet.types import BitDepth, ImageId, Progress, StrPath

__all__ = ["Fused", "fuse_files"]

KIND = "banet fuse"
_NOT_OF_THE_RESULT = frozenset({"images", "semantic", "out", "progress", "resume", "overwrite"})
"""Arguments that the results do not depend on, or that the list stands for."""


@dataclass(frozen=True)
class Fused:
    """What was written.

    Attributes:
        json: Path or URL of the COCO panoptic JSON; its PNGs lie in the folder `panoptic` beside it.
        images: How many images.
        instances: How many instances were fused into them.
        elsewhere: How many instances were left out, since they are of other images.
        left_out: Those of the instances that score high enough that have no pixel.
        removed: Duplicates and merged blobs, each with its image, its place in the file and the reason.
    """

    json: StrPath
    images: int
    instances: int
    elsewhere: int
    left_out: LeftOut
    removed: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Instance:
    where: str
    category_id: int
    score: float
    segmentation: Any
    bbox: Any


@dataclass(frozen=True)
class _ImageInfo:
    id: ImageId
    file_name: str
    size: tuple[int, int] | None  # (H, W), where the JSON told it


@accept_old_names
def fuse_files(
    instances: StrPath,
    semantic: StrPath,
    images: StrPath,
    out: StrPath,
    *,
    json: StrPath | None = None,
    categories: StrPath | None = None,
    rule: str | Rule | Procedure = BEST_RULE,
    score_threshold: float = InferenceConfig.score_threshold,
    nms_threshold: float | None = None,
    max_instances: int = InferenceConfig.max_instances,
    overlap_threshold: float = BEST_OVERLAP_THRESHOLD,
    removal_threshold: float = InferenceConfig.removal_threshold,
    stuff_area: int = InferenceConfig.stuff_area,
    clean: bool = True,
    strict: bool = False,
    bit_depth: BitDepth = "auto",
    progress: Progress | None = None,
    resume: bool = False,
    overwrite: bool = False,
) -> Fused | None:
    """Fuses the instances of a COCO results JSON with label maps into a COCO panoptic folder.

    The instances stay coded until their image's turn, and each PNG is written as it comes. Where torchrun or SLURM
    started several processes, each does its share, and the one that finishes last writes the JSON; see `SharedRun`.

    Args:
        instances: COCO results: a list of entries with image_id, category_id, score and segmentation (run lengths or
            polygons), or an object with such `annotations`.
        semantic: Folder of label maps, one PNG per image, of the image's name and size: grey (8 or 16 bits) or
            palette, holding category ids. 0 and the largest value (255 or 65535) are void, unless a category has it.
        images: Folder of the images.
        out: Folder for `panoptic.json` and `panoptic/`.
        json: COCO JSON whose `images` are fused, and whose `categories` are the classes. By default all images of the
            folder: an image's id is the number in its name or, where `instances` has texts for ids, its name without
            the suffix.
        categories: JSON with the classes: a list with id, name and isthing, or an object with such `categories`. By
            default those of `json`, or COCO's 133.
        rule: See `resolve_occlusions`.
        score_threshold: Instances must score above this.
        nms_threshold: IoU above which a box suppresses one of lower score, whatever their classes; None suppresses
            nothing.
        max_instances: Most instances per image; those of the highest scores are kept.
        overlap_threshold: See `resolve_occlusions`.
        removal_threshold: See `resolve_occlusions`.
        stuff_area: A stuff class with fewer pixels in an image becomes void.
        clean: Remove instances that were found twice, under whatever classes, and masks over several instances.
        strict: Refuse instances without a pixel, which are otherwise left out and counted.
        bit_depth: Bits that samples of 16-bit images use; `auto` finds one number for all of them.
        progress: Called with the number of images done, and of all.
        resume: Go on with the run that was stopped in `out`.
        overwrite: Also replace files that this function did not write, but never an input.

    Returns:
        What was written; None in all of several processes but the one that finishes last.

    Raises:
        InputError: A file or folder is missing or damaged, an entry is incomplete, a category unknown, sizes differ, or
            an option is out of range.
    """
    given = {name: value for name, value in locals().items() if name not in _NOT_OF_THE_RESULT}
    shares = {"score": score_threshold, "overlap-threshold": overlap_threshold, "removal-threshold": removal_threshold}
    for name, share in {**shares, **({} if nms_threshold is None else {"nms": nms_threshold})}.items():
        if not 0 <= share <= 1:
            raise InputError(f"must lie in 0..1, not {share}", where=f"--{name}")
    maps, image_files = _open_folder("semantic", semantic, {".png"}), _open_folder("images", images, SUFFIXES)
    classes, infos = _classes_and_images(image_files, images, json, categories, _ids_are_texts(instances))
    pngs = png_names(info.file_name for info in infos)
    sources = [image_files.find(info.file_name, "file_name") for info in infos]
    labels = [maps.find(_label_map(info.file_name), "file_name") for info in infos]
    outputs = outputs_in(
        out,
        KIND,
        {"panoptic.json": None, **{f"panoptic/{png}": place_of(file) for png, file in zip(pngs, sources, strict=True)}},
        inputs=[
            *(each for each in (instances, json, categories) if each is not None),
            *map(place_of, (*sources, *labels)),
        ],
        overwrite=overwrite,
        checked=False,
    )
    names = {name: _told_as(value) for name, value in given.items()}
    items = ({"path": info.file_name, "id": info.id, "png": png} for info, png in zip(infos, pngs, strict=True))
    with WorkList(items) as work:
        run = SharedRun(outputs, this_process(), names, work, resume=resume)
        if run.finished:
            run.tidy()
            print(f"nothing left to do: the run in {outputs.where} has ended")
            return None
        run.prepare((name, None) for name in outputs.names)
        own = {info.id for place, info in enumerate(infos) if run.owns(place)}
        found, elsewhere = _read_instances(instances, own, {info.id for info in infos}, classes, score_threshold)
        if elsewhere.total == elsewhere.all > 0:
            raise InputError("no image_id is the id of an image", where=instances, hint=f"check {json or images}")
        depth = find_depth(sources, bit_depth)
        run.begin()

        def fuse(place: int) -> tuple[PanopticSegmentation, dict[str, Any]]:
            info, path = infos[place], sources[place]
            image = to_rgb_array(path, depth)
            size = (image.shape[0], image.shape[1])
            if info.size is not None and info.size != size:
                raise InputError(
                    f"is {_words(size)}, but {json} says {_words(info.size)}", where=path, hint="correct one of them"
                )
            told = _Told(info.file_name, instances, strict)
            masks, scores, class_ids = told.choose(
                found.pop(info.id, []), size, nms_threshold=nms_threshold, top=max_instances, clean=clean
            )
            try:
                result = fuse_panoptic(
                    masks,
                    scores,
                    class_ids,
                    _labels(labels[place], size, classes),
                    image,
                    categories=classes,
                    rule=rule,
                    stuff_area=stuff_area,
                    overlap_threshold=overlap_threshold,
                    removal_threshold=removal_threshold,
                )
            except InputError:
                raise
            except ValueError as error:
                raise InputError(str(error), where=f"{json or images}: image {abbreviate(info.id)}") from error
            return result, told.content()

        with outputs:
            folder = outputs.folder / "panoptic"
            for part, groups in run.parts(lambda content: [f"panoptic/{content['annotation']['file_name']}"]):
                outputs.enter(part.record)
                for ((place, _),) in groups:
                    info, png = infos[place], pngs[place]
                    result, content = fuse(place)
                    target = safe_join(folder, png, f"image {info.id}: file_name")
                    target.parent.mkdir(parents=True, exist_ok=True)
                    result.check(info.file_name)
                    write_ids(target, result.ids)
                    size = {"width": result.width, "height": result.height}
                    content["image"] = {"id": info.id, "file_name": info.file_name, **size}
                    part.add(place, {**content, "annotation": result.to_coco(info.id, png)})
                    run.advance()
                    if progress is not None:
                        progress(run.count, len(infos))
            if run.is_last():
                return _merge(run, classes, instances, elsewhere.total)
            print(run.told_at_the_end())
            return None


def _told_as(value: Any) -> Any:
    """Return how an argument is compared with that of other processes: a file by name and size."""
    if is_remote(value) or (isinstance(value, (str, Path)) and Path(value).is_file()):
        return facts_of_file(value)
    return getattr(value, "__name__", value)


def _open_folder(option: str, folder: StrPath, suffixes: Collection[str]) -> InputFolder:
    try:
        return InputFolder(folder, suffixes)
    except InputError as error:
        if is_remote(folder):
            raise
        raise InputError(f"{os.fspath(folder)} {error.problem}", where=f"--{option}") from None


class _Told:
    """What is told of one image: instances that were fused, left out, removed.

    Args:
        image: Name of the image.
        source: File of the instances.
        strict: See `LeftOut`.
    """

    def __init__(self, image: str, source: StrPath, strict: bool) -> None:
        self._image, self._source, self._strict = image, source, strict
        self._objects = self._count = 0
        self._left_out: list[tuple[str, str]] = []
        self._removed: list[str] = []

    def choose(
        self,
        entries: list[_Instance],
        size: tuple[int, int],
        *,
        nms_threshold: float | None,
        top: int,
        clean: bool,
    ) -> tuple[MaskCrops, list[float], NDArray[np.int64]]:
        """Return masks, scores and category ids of the instances that are fused; see `fuse_files`."""
        entries = sorted(entries, key=lambda entry: -entry.score)
        self._objects = len(entries)
        masks, boxes, entries = _decode(entries, size, self._leave_out, boxed=nms_threshold is not None)
        chosen = list(range(len(entries))) if nms_threshold is None else _suppress(boxes, nms_threshold)
        chosen = chosen[:top]
        self._count = len(chosen)
        if clean:
            redundant = find_redundant(_some(masks, chosen), [entries[n].score for n in chosen])
            self._removed = [_describe(self._image, [entries[n] for n in chosen], each) for each in redundant]
            gone = {chosen[each.index] for each in redundant}
            chosen = [n for n in chosen if n not in gone]
        labels = np.array([entries[n].category_id for n in chosen], dtype=np.int64)
        return _some(masks, chosen), [entries[n].score for n in chosen], labels

    def _leave_out(self, kind: str, place: str) -> None:
        LeftOut(strict=self._strict).add(kind, place, self._image, self._source)
        self._left_out.append((kind, place))

    def content(self) -> dict[str, Any]:
        """Return it, for the merge."""
        return {
            "objects": self._objects,
            "instances": self._count,
            "left_out": self._left_out,
            "removed": self._removed,
        }


def _merge(run: SharedRun, classes: Categories, instances: StrPath, elsewhere: int) -> Fused:
    """Write the JSON of all images, and sum up what was told of each."""
    left_out, removed, count = LeftOut(), [], 0
    name, outputs = "panoptic.json", run.outputs
    with JsonLists() as lists:
        for _, content in run.merged_lines():
            lists.add("images", content["image"])
            lists.add("annotations", content["annotation"])
            left_out.objects += content["objects"]
            for kind, place in content["left_out"]:
                left_out.add(kind, place, image=content["image"]["file_name"], source=instances)
            removed += content["removed"]
            count += content["instances"]
        run.adopt_records()
        run.outputs.run = run.fingerprint
        lists.write(outputs.folder / name, {"images": None, "annotations": None, "categories": classes.to_coco()})
    run.close()
    target = outputs.told(name) if is_remote(outputs.where) else outputs.folder / name
    return Fused(target, len(run.work), count, elsewhere, left_out, tuple(removed))


def _some(masks: MaskCrops, chosen: list[int]) -> MaskCrops:
    return MaskCrops(masks.boxes[chosen], [masks.crops[n] for n in chosen], masks.size)


def _describe(image: str, entries: list[_Instance], removal: Removal) -> str:
    """Return which instance was removed and why, by the places in the file."""
    place, *others = (entries[n].where.rpartition(": ")[2] for n in (removal.index, *removal.others))
    what = "a duplicate of" if removal.reason == "duplicate" else "one mask over"
    return f"{image}: {place} is {what} {' and '.join(others)}"


def _classes_and_images(
    folder: InputFolder, images: StrPath, json: StrPath | None, categories: StrPath | None, texts: bool
) -> tuple[Categories, list[_ImageInfo]]:
    images_of_json, listed = ({}, []) if json is None else read_tables(json, optional=True)
    if categories is not None:
        classes = read_categories(categories)
    elif listed:
        classes = Categories.from_coco(listed, str(json))
    else:
        classes = coco_categories()
    if images_of_json:
        infos = [_ImageInfo(info.id, info.file_name, (info.height, info.width)) for info in images_of_json.values()]
    else:
        names = list(_listed(folder, images))
        infos = [_ImageInfo(_stem(name) if texts else _number(name), name, None) for name in names]
    seen: dict[tuple[str, ImageId], str] = {}
    for info in infos:
        name = info.file_name
        for key in (("id", info.id), ("name without suffix", without_suffix(forward(name)))):
            if seen.setdefault(key, name) != name:
                raise InputError(f"{seen[key]} and {name} have the same {key[0]}, {key[1]}", where=images)
    return classes, infos


def _listed(folder: InputFolder, images: StrPath) -> Iterator[str]:
    """Yield the names of the images in a folder; where there are none, of those in the archives there."""
    sources = Sources([os.fspath(images)] if folder.has_files() else folder.archives() or [os.fspath(images)])
    yield from (item.file_name for item in sources)
    for line in (*sources.unreadable, *sources.skipped):
        warnings.warn(line, InputWarning, stacklevel=2)


def _ids_are_texts(file: StrPath) -> bool:
    """Return whether the first instance of a file has a text for the id of its image."""
    first = next((entry for _, _, entry in stream_lists(file, ("annotations",), bare=True)), None)
    return isinstance(first, dict) and isinstance(first.get("image_id"), str)


def _stem(name: str) -> str:
    return posixpath.basename(without_suffix(name))


def _number(name: str) -> int:
    digits = re.findall(r"\d+", _stem(name))
    if not digits:
        raise InputError(
            "there is no number in its name that could be its id", where=name, hint="give --json with 'images'"
        )
    return int(digits[-1])


@dataclass
class _Elsewhere:
    """How many instances there are, and how many of them are of images that are not fused."""

    total: int = 0
    all: int = 0


def _read_instances(
    file: StrPath, own: set[ImageId], image_ids: set[ImageId], classes: Categories, score: float
) -> tuple[dict[ImageId, list[_Instance]], _Elsewhere]:
    """Instances of one's own images that score above `score`, by image, and how many are of other images."""
    found: dict[ImageId, list[_Instance]] = {}
    elsewhere = _Elsewhere()
    for _, where, entry in stream_lists(file, ("annotations",), bare=True):
        if not isinstance(entry, dict):
            raise InputError(f"must be an object, not {abbreviate(entry)}", where=where)
        image_id, instance = _check_entry(entry, where, classes)
        elsewhere.all += 1
        elsewhere.total += image_id not in image_ids
        if image_id in own and instance.score > score:
            found.setdefault(image_id, []).append(instance)
    return found, elsewhere


def _check_entry(entry: Mapping[str, Any], where: str, classes: Categories) -> tuple[ImageId, _Instance]:
    for key in ("image_id", "category_id"):
        if key not in entry:
            raise InputError("is missing", where=f"{where}.{key}", hint="give results of a detector")
    image_id, category_id = read_image_id(entry, "image_id", where), read_integer(entry, "category_id", where, 0)
    if category_id not in classes:
        raise InputError(
            f"{category_id} is unknown",
            where=f"{where}.category_id",
            hint="give the classes with --json or --categories",
        )
    if not classes.isthing(category_id):
        raise InputError(
            f"{category_id} is {classes.by_id(category_id).name}, which is not a thing", where=f"{where}.category_id"
        )
    score = entry.get("score")
    if "score" not in entry:
        raise InputError("is missing", where=f"{where}.score", hint="give results of a detector, not annotations")
    if not is_number(score):
        raise InputError(f"must be a finite number, not {abbreviate(score)}", where=f"{where}.score")
    if "segmentation" not in entry:
        raise InputError(
            "is missing", where=f"{where}.segmentation", hint="give results with masks, not with boxes alone"
        )
    return image_id, _Instance(where, category_id, float(score), entry["segmentation"], entry.get("bbox"))


def _decode(
    entries: list[_Instance], size: tuple[int, int], left_out: Callable[[str, str], None], boxed: bool
) -> tuple[MaskCrops, NDArray[np.float64], list[_Instance]]:
    """Return the masks that have a pixel, their boxes (the detector's own where it gives them), and the entries.

    Args:
        entries: instances of an image.
        size: (H, W) of the image.
        left_out: called with why an entry has no pixel, and its place.
        boxed: whether the detector's boxes are read at all.
    """
    crops: list[NDArray[np.bool_]] = []
    tight: list[list[int]] = []
    boxes: list[tuple[float, float, float, float]] = []
    kept: list[_Instance] = []
    drawing = Drawing(times=2)
    for entry in entries:
        try:
            crop = decode_crop(entry.segmentation, size)
        except ValueError as error:
            raise InputError(str(error), where=f"{entry.where}.segmentation") from error
        try:
            drawing.add(crop)
        except ValueError as error:
            what = f"its image {error}"
            raise InputError(
                what, where=entry.where, hint="give fewer instances per image, or smaller images"
            ) from None
        if not crop.pixels.size:
            left_out(why_empty(entry.segmentation, size), entry.where.rpartition(": ")[2])
            continue
        x1, y1, x2, y2 = crop.box
        crops.append(crop.pixels)
        tight.append([x1, y1, x2, y2])
        x, y, width, height = _box(entry) if boxed and entry.bbox is not None else (x1, y1, x2 - x1, y2 - y1)
        boxes.append((x, y, x + width, y + height))
        kept.append(entry)
    return (
        MaskCrops(np.array(tight, dtype=np.int64).reshape(-1, 4), crops, size),
        np.array(boxes, dtype=np.float64).reshape(-1, 4),
        kept,
    )


def _box(entry: _Instance) -> list[float]:
    """Return the detector's box of an entry: x, y, width, height."""
    if not is_box(entry.bbox):
        what = f"must be four finite numbers x, y, width, height, not {abbreviate(entry.bbox)}"
        raise InputError(what, where=f"{entry.where}.bbox")
    return [float(value) for value in entry.bbox]


def _suppress(boxes: NDArray[np.float64], threshold: float) -> list[int]:
    """Class-agnostic suppression of boxes in descending order of score: those that stay."""
    areas = np.prod((boxes[:, 2:] - boxes[:, :2]).clip(min=0), axis=1)
    left = np.ones(len(boxes), dtype=bool)
    for n in range(len(boxes)):
        if left[n]:
            low, high = np.maximum(boxes[:, :2], boxes[n, :2]), np.minimum(boxes[:, 2:], boxes[n, 2:])
            shared = np.prod((high - low).clip(min=0), axis=1)
            over = shared > threshold * (areas + areas[n] - shared)
            left[n + 1 :] &= ~over[n + 1 :]
    return [int(n) for n in np.flatnonzero(left)]


def _labels(path: Path | StoredFile, size: tuple[int, int], classes: Categories) -> NDArray[np.int32]:
    labels, top = read_labels(path)
    if labels.shape != size:
        shape = (labels.shape[0], labels.shape[1])
        raise InputError(
            f"is {_words(shape)}, but the image is {_words(size)}", where=path, hint="resize it by nearest neighbour"
        )
    if top not in classes:
        labels[labels == top] = VOID
    try:
        classes.indices_of(labels, os.fspath(path))
    except ValueError as error:
        raise InputError(str(error)) from error
    return labels


def _label_map(file_name: str) -> str:
    return without_suffix(file_name) + ".png"


def _words(size: tuple[int, int]) -> str:
    return f"{size[1]}x{size[0]}"

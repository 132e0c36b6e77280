"""What every conversion ends with: a folder in COCO panoptic format that is there as a whole or not at all."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from banet.data.images import SUFFIXES, image_size
from banet.errors import InputError
from banet.files.names import DistinctNames
from banet.files.on_disk import DiskTable
from banet.files.outputs import Outputs
from banet.files.staging import staged
from banet.panoptic.categories import Categories
from banet.panoptic.coco.writer import CocoPanopticWriter
from banet.panoptic.id_maps import find_ids, runs
from banet.panoptic.segmentation import PanopticSegmentation
from banet.panoptic.segments import Segment
from banet.types import ImageId, Progress, StrPath

__all__ = [
    "ConvertedImage",
    "DryRun",
    "claim_panoptic",
    "file_names",
    "find_image_files",
    "find_image_names",
    "from_classes",
    "name_in",
    "same_size",
    "write_panoptic",
]

KIND = "banet data convert"


@dataclass(frozen=True)
class ConvertedImage:
    """One image with its ground truth, converted.

    Attributes:
        file_name: of the image, relative to the folder of images.
        ids: (H,W) int32; 0 is void.
        segments: those of the other ids, by id, not measured; those without a pixel are left out of what is written.
        image_id: of the image; None numbers them from 1.
    """

    file_name: str
    ids: NDArray[np.int32]
    segments: Mapping[int, Segment]
    image_id: ImageId | None = None


def write_panoptic(
    out: StrPath,
    truths: Iterable[ConvertedImage],
    categories: Categories,
    total: int,
    progress: Progress | None = None,
) -> Path:
    """Write OUT/panoptic.json and OUT/panoptic/, by way of a folder beside OUT that is renamed at the end.

    Args:
        out: the folder, which may exist if it is empty; or what `claim_panoptic` returned, whose folder may hold what
            an earlier call wrote: these files are replaced one by one, once all new ones are there.
        truths: the images, one at a time.
        categories: their classes.
        total: how many there are, for `progress`.
        progress: see `Progress`.

    Returns:
        The path of panoptic.json.

    Raises:
        InputError: the folder is not empty, there is no image, two have one name; or what `truths` raises.
            Nothing is left behind then.
    """
    outputs = out if isinstance(out, Outputs) else claim_panoptic(out)
    folder = outputs.folder
    if outputs is not out and folder.exists() and any(folder.iterdir()):
        raise InputError("exists already", where=f"--out {folder}", hint="choose another folder, or remove it first")
    with contextlib.ExitStack() as stack:
        add: Callable[..., Any] = _check
        if not isinstance(outputs, DryRun):
            temporary = stack.enter_context(staged(outputs, last=["panoptic.json"], prune=["panoptic"]))
            png, json = temporary / "panoptic", temporary / "panoptic.json"
            add = stack.enter_context(CocoPanopticWriter(png, json, categories)).add
        count = _add_all(add, truths, categories, total, progress)
        if not count:
            raise InputError("there is no image to write", where=f"--out {folder}", hint="check the folders given")
    return folder / "panoptic.json"


def _add_all(
    add: Callable[..., Any],
    truths: Iterable[ConvertedImage],
    categories: Categories,
    total: int,
    progress: Progress | None,
) -> int:
    """Give all images to `CocoPanopticWriter.add`, and return how many there are."""
    count, names, taken = 0, DistinctNames(".png", on_disk=True), DiskTable()
    for count, truth in enumerate(truths, start=1):
        present = {*find_ids(truth.ids).tolist()}
        visible = [segment for identity, segment in truth.segments.items() if identity in present]
        result = PanopticSegmentation.from_ids(truth.ids, visible, categories)
        try:
            image_id = count if truth.image_id is None else truth.image_id
            if truth.file_name in taken:
                raise ValueError(f"{truth.file_name}: occurs twice; names must be unique")
            taken.add(truth.file_name)
            add(image_id, truth.file_name, result, png_name=f"{names.choose(truth.file_name)}.png")
        except InputError:
            raise
        except ValueError as error:
            raise InputError(str(error), hint="rename one of the images") from error
        if progress is not None:
            progress(count, total)
    return count


def _check(*_: Any, **__: Any) -> None:
    """Take the place of `CocoPanopticWriter.add` in a dry run."""


class DryRun(Outputs):
    """Outputs that are checked as others are, but not written: `write_panoptic` reads everything and leaves no file."""


def claim_panoptic(
    out: StrPath,
    *,
    inputs: Iterable[StrPath] = (),
    folders: Iterable[StrPath] = (),
    overwrite: bool = False,
    dry_run: bool = False,
) -> Outputs:
    """Check that `write_panoptic` may write to a folder: it is new, or holds nothing but what that wrote.

    Args:
        out: the folder.
        inputs: see `Outputs`; likewise
        folders: and
        overwrite: with it the folder may hold other files too.
        dry_run: with it `write_panoptic` writes nothing.

    Raises:
        InputError: it may not.
    """
    trees = ["panoptic"] if overwrite else ["."]
    kind = DryRun if dry_run else Outputs
    return kind(out, KIND, ["panoptic.json"], trees=trees, inputs=inputs, folders=folders, overwrite=overwrite)


def from_classes(
    file: Path,
    labels: NDArray[np.int32],
    instances: NDArray[np.int32] | None,
    categories: Categories,
    void: Sequence[int] = (),
) -> tuple[NDArray[np.int32], dict[int, Segment]]:
    """Return the id map of a map of classes and a map of instances, and its segments by id.

    Every class and instance number (other than 0) that occur together on a thing make a segment. Pixels of a thing
    that are of no instance are crowd; stuff is one segment per class, whatever its instance numbers.

    Args:
        file: of the label map, for errors.
        labels: (H,W) category ids.
        instances: (H,W), 0 where there is none; None where there is no such map.
        categories: the classes.
        void: label values that are void. 0 is too, unless it is a category's id.

    Raises:
        InputError: a label is neither a category's id nor void.
    """
    numbers = np.zeros_like(labels) if instances is None else instances
    starts, lengths = runs(labels, numbers)
    pairs, place = np.unique(np.stack([labels.ravel()[starts], numbers.ravel()[starts]]), axis=1, return_inverse=True)
    known = {*void, *(() if 0 in categories else (0,))}
    unknown = sorted({int(label) for label in pairs[0]} - known - {int(i) for i in categories.ids})
    if unknown:
        raise InputError(
            f"has the label {', '.join(map(str, unknown[:10]))}, which is not the id of a category",
            where=file,
            hint="add it to --categories, or to --void to leave it out",
        )
    identity: dict[tuple[int, int], int] = {}
    segments: dict[int, Segment] = {}
    table = np.zeros(pairs.shape[1], np.int32)
    for column, (label, number) in enumerate(pairs.T.tolist()):
        if label in known:
            continue
        isthing = categories.isthing(label)
        key = (label, number if isthing else 0)
        if key not in identity:
            identity[key] = len(identity) + 1
            segments[identity[key]] = Segment(identity[key], label, isthing, iscrowd=isthing and number == 0)
        table[column] = identity[key]
    return np.repeat(table[place.reshape(-1)], lengths).reshape(labels.shape), segments


def find_image_files(folder: StrPath, field: str = "--images") -> dict[str, str]:
    """The images in a folder and its folders: path without suffix -> path, both relative to it, with /; in order.

    Raises:
        InputError: there is no such folder, or two images differ in their suffixes only.
    """
    return {os.path.splitext(name)[0]: name for name in find_image_names(folder, field)}


def find_image_names(folder: StrPath, field: str = "--images") -> list[str]:
    """The images in a folder and its folders, as paths relative to it, with /; in order.

    Raises:
        InputError: see `find_image_files`.
    """
    root = Path(folder)
    if not root.is_dir():
        raise InputError("is not a folder", where=f"{field} {root}", hint="give the folder of the files")
    found, stems = [], DiskTable()
    for name in file_names(root):
        stem, suffix = os.path.splitext(name)
        if suffix.lower() in SUFFIXES and not os.path.basename(name).startswith("."):
            for other in stems.of(stem):
                raise InputError(f"{other} and {name} have one name", where=root, hint="rename one of them")
            stems.add(stem, name)
            found.append(name)
    return found


def file_names(root: Path, below: str = "", above: frozenset[tuple[int, int]] = frozenset()) -> Iterator[str]:
    """Yield the files of a folder and its folders, relative to it, in order; no paths of all are in memory at once.

    Hidden folders are left out. Links to folders are followed, but for those to a folder that they are in (`above`).
    """
    status = os.stat(root / below)
    here = (status.st_dev, status.st_ino)
    if here in above:
        return
    files, folders = [], set[str]()
    with os.scandir(root / below) as entries:
        for entry in entries:
            if entry.is_dir():
                if not entry.name.startswith("."):
                    folders.add(entry.name)
            elif entry.is_file():
                files.append(entry.name)
    files += folders
    files.sort()
    for name in files:
        if name in folders:
            yield from file_names(root, f"{below}{name}/", above | {here})
        else:
            yield f"{below}{name}"


def name_in(folder: StrPath, image_path: Path) -> str:
    """Return the name of an image relative to the folder of images, with `/` between its parts."""
    return image_path.relative_to(folder).as_posix()


def same_size(path: Path, shape: tuple[int, ...], image_path: Path) -> None:
    """Check that a map has the size of its image.

    Raises:
        InputError: it has not.
    """
    height, width = image_size(image_path)
    if shape != (height, width):
        raise InputError(
            f"is {shape[1]}x{shape[0]}, but its image {image_path} is {width}x{height}",
            where=path,
            hint="make them the same size",
        )

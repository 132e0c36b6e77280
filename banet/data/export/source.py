"""What every export begins and ends with: the images of a COCO panoptic data set, and a folder that is there whole."""

from __future__ import annotations

import os
import shutil
import tempfile
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from banet.data.convert.output import DryRun, same_size
from banet.data.images import read_image
from banet.data.images.formats import format_of
from banet.data.images.reading import stored_orientation
from banet.data.panoptic_stream import PanopticStream
from banet.errors import InputError
from banet.files.atomic import atomic_path
from banet.files.names import DistinctNames, forward, safe_join
from banet.files.outputs import Outputs
from banet.files.staging import staged
from banet.panoptic.categories import Categories
from banet.panoptic.coco.runs import Crop
from banet.panoptic.id_maps import index_map, measure_ids
from banet.panoptic.segments import Segment
from banet.types import ImageId, Progress, StrPath

__all__ = [
    "ExportFormat",
    "ExportImage",
    "ExportReport",
    "ExportSource",
    "code_anew",
    "export",
    "is_jpeg",
    "place_image",
    "stem_of",
]

KIND = "banet data export"
RECODED = "images coded anew as JPEG, which the trainer asks for"
"""What is lost of images of other formats."""
UPRIGHT = "images coded anew upright, as readers of this format take no account of EXIF"
TURNED = "links to images that EXIF turns, of which readers of this format take no account: leave out --link"

_CODING: dict[str, dict[str, Any]] = {
    "JPEG": {"quality": 95, "subsampling": 0},
    "MPO": {"quality": 95, "subsampling": 0},
    "WEBP": {"lossless": True},
    "AVIF": {"quality": 95},
    "HEIF": {"quality": 95},
}
"""How images are coded anew; all other formats lose nothing."""


@dataclass(frozen=True)
class ExportImage:
    """One image with its ground truth.

    Attributes:
        id: of the image.
        file_name: of the image, relative to the folder of images.
        path: the image.
        ids: (H, W) int32, 0 is void.
        segments: those with a pixel, measured, in the order of the JSON.
    """

    id: ImageId
    file_name: str
    path: Path
    ids: NDArray[np.int32]
    segments: list[Segment]

    def crop(self, segment: Segment) -> Crop:
        """Return the pixels of a segment."""
        x, y, width, height = segment.bbox
        return Crop.of(self.ids[y : y + height, x : x + width] == segment.id, x, y)

    def paint(self, values: Sequence[int], void: int) -> NDArray[np.int32]:
        """Return a map (H, W) of one value per segment, in their order, and one for void."""
        index = index_map(self.ids, [segment.id for segment in self.segments])
        return np.array([*values, void], np.int32)[index]


@dataclass
class ExportReport:
    """What was exported, and what the format cannot hold.

    Attributes:
        images: number of images.
        segments: number of segments.
        lost: what was lost, with how often.
    """

    images: int = 0
    segments: int = 0
    lost: Counter[str] = field(default_factory=Counter)

    def __str__(self) -> str:
        lines = [f"{self.images:,} images, {self.segments:,} segments" + ("; lost:" if self.lost else "; nothing lost")]
        return "\n".join([*lines, *(f"  {count:,} {what}" for what, count in self.lost.most_common())])


@dataclass(frozen=True)
class ExportSource:
    """A COCO panoptic data set.

    Attributes:
        images: the folder of images.
        panoptic: the folder of id PNGs.
        json: the JSON.
    """

    images: StrPath
    panoptic: StrPath
    json: StrPath

    def claim(
        self,
        out: StrPath,
        names: Iterable[str] = (),
        *,
        trees: Iterable[str] = (),
        overwrite: bool = False,
        dry_run: bool = False,
    ) -> Outputs:
        """Check that an export may write to a folder; see `Outputs`.

        Raises:
            InputError: it may not.
        """
        folders = [self.images, self.panoptic]
        options = {"trees": trees, "inputs": [self.json], "folders": folders, "overwrite": overwrite}
        return (DryRun if dry_run else Outputs)(out, KIND, names, **options)  # type: ignore[arg-type]


class ExportFormat(ABC):
    """Writes one format into a folder.

    Attributes:
        names: files whose names are known before, relative to the folder; written after all others.
        trees: folders of the others.
        shared: whether other splits have files in these folders.
        linked: folder of links to images, where they are not copied.
        number_ids: whether ids of images must be numbers: where one is a text, all are counted anew.
    """

    names: tuple[str, ...] = ()
    trees: tuple[str, ...] = ()
    shared = False
    linked: str | None = None
    number_ids = False

    @abstractmethod
    def begin(self, categories: Categories, final: Path) -> None:
        """Take in the classes, before the first image; InputError where the format cannot hold them.

        Args:
            categories: the classes.
            final: where the folder will be, which may hold other splits.
        """

    @abstractmethod
    def add(self, image: ExportImage, folder: Path, report: ExportReport) -> None:
        """Write one image into a folder, and count what is lost."""

    @abstractmethod
    def end(self, folder: Path) -> None:
        """Write what names all images."""


def export(
    source: ExportSource,
    out: StrPath,
    make: ExportFormat,
    *,
    overwrite: bool = False,
    dry_run: bool = False,
    report: ExportReport | None = None,
    progress: Progress | None = None,
) -> Path:
    """Export a data set.

    Args:
        source: the data set.
        out: the folder, which may hold other splits and what an earlier export wrote.
        make: the format.
        overwrite: also replace files of others in `out`, but never an input.
        dry_run: read and code everything, but leave nothing.
        report: filled with what was exported and lost.
        progress: see `Progress`.

    Returns:
        The folder.

    Raises:
        InputError: a file is missing or bad, the format cannot hold something, or a file may not be replaced. Nothing
            is left behind then.
    """
    outputs = source.claim(out, make.names, trees=make.trees, overwrite=overwrite, dry_run=dry_run)
    stream = PanopticStream(source.json, source.panoptic)
    told = ExportReport() if report is None else report
    make.begin(stream.categories, outputs.folder)
    if dry_run:
        with tempfile.TemporaryDirectory() as temporary:
            _write(stream, source, make, Path(temporary), told, progress, empty=True)
            make.end(Path(temporary))
        return outputs.folder
    with staged(outputs, last=make.names, prune=() if make.shared else make.trees) as folder:
        _write(stream, source, make, folder, told, progress)
        make.end(folder)
        if make.linked is not None:
            _check_links(outputs.folder / make.linked, folder / make.linked)
    return outputs.folder


def _write(
    stream: PanopticStream,
    source: ExportSource,
    make: ExportFormat,
    folder: Path,
    report: ExportReport,
    progress: Progress | None,
    empty: bool = False,
) -> None:
    count_anew = make.number_ids and not all(isinstance(image_id, int) for image_id in stream.images)
    for info, annotation in stream:
        path = safe_join(source.images, info.file_name, f"{stream.path}: images[].file_name")
        ids, without = stream.load(info, annotation)
        same_size(stream.path, ids.shape, path)
        if without:
            what = f"segment {without[0].id} of image {info.id} has no pixel in {annotation.file_name}"
            raise InputError(what, where=stream.path, hint="correct it; `banet data check` finds all such")
        found, areas, boxes = measure_ids(ids)
        measured = dict(zip(found.tolist(), zip(areas.tolist(), boxes.tolist(), strict=True), strict=True))
        segments = [
            Segment(s.id, s.category_id, s.isthing, None, measured[s.id][0], tuple(measured[s.id][1]), s.iscrowd)
            for s in annotation.segments
        ]
        image_id = report.images + 1 if count_anew else info.id
        report.lost.update({"ids of images, as some are texts; they are numbers now": 1} if count_anew else {})
        image = ExportImage(image_id, forward(info.file_name), path, ids, segments)
        make.add(image, folder, report)
        report.images, report.segments = report.images + 1, report.segments + len(segments)
        if empty:  # a dry run of many images fills no disk
            for each in folder.iterdir():
                shutil.rmtree(each) if each.is_dir() else each.unlink()
        if progress is not None:
            progress(report.images, len(stream.images))
    if not report.images:
        raise InputError("has no annotation", where=stream.path, hint="give the JSON of a COCO panoptic data set")


def stem_of(names: DistinctNames, file_name: str, *, flat: bool = False) -> str:
    """Return the name of an image's outputs, without a suffix; `flat`: without folders."""
    return names.choose(file_name.replace("/", "_") if flat else file_name)


def place_image(
    source: Path, target: Path, link: bool, report: ExportReport, *, jpeg: bool = False, upright: bool = False
) -> None:
    """Copy an image, or make a link to it.

    Args:
        source: the image.
        target: its new name, in a folder beside the one that it ends up in.
        link: make a symbolic link, relative.
        report: counts images that were coded anew, and links to such as should have been.
        jpeg: see `code_anew`; likewise
        upright: of the reader.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    if link:
        if jpeg and not is_jpeg(source):
            raise InputError("is not a JPEG, which the trainer asks for", where=source, hint="leave out --link")
        if upright and stored_orientation(source) != 1:
            report.lost[TURNED] += 1
        os.symlink(os.path.relpath(os.path.realpath(source), os.path.realpath(target.parent)), target)
        return
    with atomic_path(target) as temporary:
        if not code_anew(source, temporary, report, jpeg=jpeg, upright=upright):
            shutil.copyfile(source, temporary)


def code_anew(
    source: Path, target: Path | BinaryIO, report: ExportReport, *, jpeg: bool = False, upright: bool = False
) -> bool:
    """Code an image anew if its reader cannot take the file as it is, and count it; return whether that was so.

    Args:
        source: the image.
        target: where to.
        report: counts it.
        jpeg: the reader takes JPEG files only: others are coded as such, with quality 95.
        upright: the reader takes no account of EXIF: images that it turns are coded upright in their own format.
    """
    if jpeg and not is_jpeg(source):
        kind, why = "JPEG", RECODED
    elif upright and stored_orientation(source) != 1:
        kind, why = format_of(source.suffix), UPRIGHT
    else:
        return False
    report.lost[why] += 1
    read_image(source).save(target, kind, **_CODING.get(kind, {}))
    return True


def is_jpeg(path: Path) -> bool:
    """Return whether a file is a JPEG, by its name."""
    return path.suffix.lower() in (".jpg", ".jpeg")


def _check_links(folder: Path, new: Path) -> None:
    """Refuse a folder with links of an earlier export to images that are not in this one."""
    for root, _, files in os.walk(folder):
        for name in files:
            link = Path(root) / name
            if link.is_symlink() and not os.path.lexists(new / link.relative_to(folder)):
                what = "is a link of an earlier export, to an image that is not in this one"
                raise InputError(what, where=link, hint="delete the folder of links first")

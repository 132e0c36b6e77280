"""What is wrong with data sets in COCO panoptic format, and how to fix it. Needs no torch.

Only what is certain is a finding. What may be meant so (the same name in two splits, files that the JSON does not
list) is a note. The JSON is read piece by piece and images one at a time, so that data sets may be of any size.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from banet._renamed import old_attribute
from banet.data.images import SUFFIXES, to_rgb_array
from banet.errors import InputError, abbreviate, printable
from banet.files.fields import id_order
from banet.files.names import safe_join
from banet.files.reading import stream_lists
from banet.panoptic.categories import Categories
from banet.panoptic.coco.annotations import Annotation, ImageInfo, read_annotation, read_image_info
from banet.panoptic.coco.png import read_ids
from banet.panoptic.id_maps import MOST_SEGMENTS, find_ids, measure_ids
from banet.types import ImageId, Progress, StrPath

__all__ = ["Finding", "Report", "Split", "check_splits", "find_splits"]

_LISTS = ("images", "annotations", "categories")
_SHOWN = 10
_ALIKE = 6  # most that images of one name, scaled to 8 x 8, differ by (of 255) where one is the other saved anew


@dataclass(frozen=True)
class Split:
    """One split: its name, the folder of images, the folder of id PNGs, the JSON."""

    name: str
    images: Path
    panoptic: Path
    json: Path


@dataclass(frozen=True)
class Finding:
    """One fault.

    Attributes:
        kind: `json`, `categories`, `image`, `png`, `size`, `ids`, `area`, `bbox`, `stuff`, `annotation`,
            `duplicate` or `leak`.
        where: file and field.
        what: what is wrong there.
        hint: how to fix it.
    """

    kind: str
    where: str
    what: str
    hint: str

    mend = old_attribute("mend", "hint")


@dataclass
class Report:
    """What was looked at, and what was found.

    Attributes:
        splits: for each split its counts of images, segments, crowds, and segments by class name.
        findings: the faults.
        notes: what may be meant so.
    """

    splits: dict[str, dict[str, Any]] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """Return the report as plain dicts and lists."""
        return asdict(self)

    def __str__(self) -> str:
        lines = []
        for name, counts in self.splits.items():
            lines.append(
                f"{name}: {counts['images']:,} images, {counts['segments']:,} segments ({counts['crowds']:,} crowd),"
                f" {counts['categories']} categories, {counts['void']:.1%} of the pixels void"
            )
            rest = [one for one, count in counts["by_category"].items() if not count]
            if rest:
                lines.append(f"  without a segment: {_some(rest)}")
        lines += [f"note: {note}" for note in self.notes]
        for kind, count in Counter(finding.kind for finding in self.findings).items():
            lines.append(f"\n{kind}: {count:,}")
            those = [finding for finding in self.findings if finding.kind == kind]
            lines += [f"  {one.where}: {one.what}\n    hint: {one.hint}" for one in those[:_SHOWN]]
            if count > _SHOWN:
                lines.append(f"  ... and {count - _SHOWN:,} more; --report FILE has them all")
        total = len(self.findings)
        lines.append(f"\n{total:,} finding{'' if total == 1 else 's'}" if total else "nothing found")
        return "\n".join(lines)


def find_splits(folder: StrPath, images: StrPath | None = None) -> list[Split]:
    """Return the splits in a folder: what `banet data` writes, such folders side by side, or COCO's own layout.

    Args:
        folder: has panoptic.json, panoptic/ and images/; or folders that have; or annotations/panoptic_NAME.json,
            annotations/panoptic_NAME/ and NAME/.
        images: the images of the only split, where they are elsewhere.

    Raises:
        InputError: there is none, or `images` is given and there are several.
    """
    root = Path(folder)
    jsons = [root / "panoptic.json"] if (root / "panoptic.json").is_file() else sorted(root.glob("*/panoptic.json"))
    splits = [Split(path.parent.name, path.parent / "images", path.parent / "panoptic", path) for path in jsons]
    if not splits:
        for path in sorted(root.glob("annotations/panoptic_*.json")):
            name = path.stem.removeprefix("panoptic_")
            splits.append(Split(name, root / name, path.with_suffix(""), path))
    if not splits:
        raise InputError(
            "holds neither panoptic.json nor annotations/panoptic_*.json, nor do its folders",
            where=root,
            hint="give --images, --panoptic and --json",
        )
    if images is not None:
        if len(splits) > 1:
            raise InputError(
                f"{root} holds {len(splits)} splits", where=f"--images {images}", hint="check one at a time"
            )
        splits = [Split(splits[0].name, Path(images), splits[0].panoptic, splits[0].json)]
    return splits


def check_splits(splits: Sequence[Split], progress: Progress | None = None) -> Report:
    """Looks at every field and every pixel of data sets, and for what they share.

    Args:
        splits: such as training and validation; their names must differ.
        progress: called with how many annotations are done, and how many there are.

    Raises:
        InputError: a folder is missing, or a JSON is none or lacks one of its lists.
    """
    report = Report()
    checks = [_Check(split, report) for split in splits]
    total, done = sum(check.total for check in checks), 0
    for check in checks:
        for _ in check.run():
            done += 1
            if progress is not None:
                progress(done, total)
    for row, check in enumerate(checks):
        for other in checks[:row]:
            _compare(other, check, report)
    return report


class _Check:
    """The check of one split."""

    def __init__(self, split: Split, report: Report) -> None:
        self.split, self.report = split, report
        for folder, option in ((split.images, "--images"), (split.panoptic, "--panoptic")):
            if not folder.is_dir():
                raise InputError("is not a folder", where=folder, hint=f"give the right one with {option}")
        self.images: dict[ImageId, ImageInfo] = {}
        self.pixels: dict[bytes, str] = {}  # digest of an image -> its name
        self.looks: dict[str, bytes] = {}  # name of an image -> its pixels at 8 x 8
        self.total = 0
        listed: list[Any] = []
        names: dict[Path, ImageId] = {}
        for key, where, entry in stream_lists(split.json, _LISTS):
            if key == "annotations":
                self.total += 1
            elif key == "categories":
                listed.append(entry)
            else:
                info = self.entry("json", where, entry, lambda one, at: read_image_info(one, at))
                if info is None:
                    continue
                if info.id in self.images:
                    what = f"{abbreviate(info.id)} is the id of another image too"
                    self.add("duplicate", f"{where}.id", what, "make it unique")
                elif (path := safe_join(split.images, info.file_name)) in names:
                    what = f"{info.file_name!r} is the name of image {abbreviate(names[path])} too"
                    self.add("duplicate", f"{where}.file_name", what, "keep one of the two, with its annotation")
                names.setdefault(safe_join(split.images, info.file_name), info.id)
                self.images.setdefault(info.id, info)
        try:
            self.categories: Categories | None = Categories.from_coco(listed, str(split.json))
        except InputError as error:
            self.categories = None
            self.error("categories", error)
        else:
            for name, count in Counter(self.categories.names).items():
                if count > 1:
                    self.add(
                        "categories", f"{split.json}: categories", f"{count} are called {name!r}", "name them apart"
                    )
        self.by_category: Counter[int] = Counter()
        self.crowds: Counter[int] = Counter()

    def add(self, kind: str, where: str, what: str, hint: str) -> None:
        self.report.findings.append(Finding(kind, printable(where), printable(what), hint))

    def error(self, kind: str, error: InputError) -> None:
        """Note an error."""
        self.add(kind, error.where or str(self.split.json), error.problem, error.hint or "correct it")

    def entry(self, kind: str, where: str, entry: Any, read: Callable[[Mapping[str, Any], str], Any]) -> Any:
        """Return a checked entry of the JSON; None, with a finding, where it is bad."""
        if not isinstance(entry, dict):
            self.add(kind, where, f"must be an object, not {abbreviate(entry)}", "remove it")
            return None
        try:
            return read(entry, where)
        except InputError as error:
            self.error(kind, error)
            return None

    def run(self) -> Iterator[None]:
        """Look at one annotation after the other."""
        seen: set[ImageId] = set()
        maps: dict[Path, ImageId] = {}
        pixels = void = 0
        for _, where, entry in stream_lists(self.split.json, ("annotations",)):
            yield
            annotation = self.entry("json", where, entry, lambda one, at: read_annotation(one, at, self.categories))
            if annotation is None:
                if isinstance(entry, dict) and isinstance(entry.get("image_id"), (int, str)):
                    seen.add(entry["image_id"])
                continue
            info = self.images.get(annotation.image_id)
            if info is None:
                what = f"no image has the id {abbreviate(annotation.image_id)}"
                self.add("json", f"{where}.image_id", what, "add it to 'images' or remove the annotation")
            elif info.id in seen:
                what = f"image {abbreviate(info.id)} has an annotation already"
                self.add("duplicate", f"{where}.image_id", what, "keep one")
            seen.add(annotation.image_id)
            path = safe_join(self.split.panoptic, annotation.file_name)
            if path in maps:
                what = f"{annotation.file_name} is the PNG of image {abbreviate(maps[path])} too"
                self.add("duplicate", f"{where}.file_name", what, "give each image a PNG of its own")
            maps.setdefault(path, annotation.image_id)
            self.by_category.update(segment.category_id for segment in annotation.segments)
            self.crowds.update(segment.category_id for segment in annotation.segments if segment.iscrowd)
            self._stuff_once(annotation, where)
            shape = None if info is None else self._image_shape(info)
            ids = self._map(annotation)
            if ids is not None:
                pixels += ids.size
                void += ids.size - int(np.count_nonzero(ids))
                self._sizes(annotation, info, shape, ids)
                self._segments(annotation, where, ids, entry["segments_info"])
        bare = [info.file_name for image_id, info in self.images.items() if image_id not in seen]
        if bare:
            hint = "annotate them or remove them from 'images'"
            self.add("annotation", f"{self.split.json}: images", f"without an annotation: {_some(bare)}", hint)
        self._unlisted(maps)
        self._only_crowds()
        named = {} if self.categories is None else {c.name: self.by_category[c.id] for c in self.categories}
        self.report.splits[self.split.name] = {
            "images": len(self.images),
            "segments": self.by_category.total(),
            "crowds": self.crowds.total(),
            "void": void / max(pixels, 1),
            "categories": len(named),
            "by_category": named,
        }

    def _only_crowds(self) -> None:
        """Note classes of things of which nothing can be learnt."""
        for category in self.categories or ():
            count = self.by_category[category.id]
            if category.isthing and count and self.crowds[category.id] == count:
                what = f"{category.name}: 0 of {count:,} instances can be learnt, as all are crowd"
                self.report.notes.append(f"{self.split.name}: {what}")

    def _stuff_once(self, annotation: Annotation, where: str) -> None:
        if self.categories is None:
            return
        counts = Counter(s.category_id for s in annotation.segments if not self.categories.isthing(s.category_id))
        twice = [self.categories.by_id(category_id).name for category_id, count in counts.items() if count > 1]
        if twice:
            what = f"several segments of stuff: {_some(twice)}"
            self.add("stuff", f"{where}.segments_info", what, "join them: stuff is one segment per class and image")

    def _image_shape(self, info: ImageInfo) -> tuple[int, ...] | None:
        """Read an image; its (H,W)."""
        try:
            image = to_rgb_array(safe_join(self.split.images, info.file_name))
        except InputError as error:
            self.error("image", error)
            return None
        digest = hashlib.blake2b(image.tobytes(), digest_size=16, key=repr(image.shape).encode()).digest()
        small = Image.fromarray(image).resize((8, 8), Image.Resampling.BOX, reducing_gap=2.0)
        self.looks[info.file_name] = small.tobytes()
        other = self.pixels.setdefault(digest, info.file_name)
        if other != info.file_name:
            where = str(self.split.images / info.file_name)
            self.add("duplicate", where, f"shows pixel by pixel what {other} shows", "remove one of the two")
        return image.shape[:2]

    def _map(self, annotation: Annotation) -> NDArray[np.int32] | None:
        try:
            return read_ids(safe_join(self.split.panoptic, annotation.file_name))
        except InputError as error:
            self.error("png", error)
            return None

    def _sizes(
        self, annotation: Annotation, info: ImageInfo | None, shape: tuple[int, ...] | None, ids: NDArray[np.int32]
    ) -> None:
        path = self.split.panoptic / annotation.file_name
        size = f"{ids.shape[1]}x{ids.shape[0]}"
        if info is not None and ids.shape != (info.height, info.width):
            where = f"{self.split.json}: image {info.id}: width and height"
            self.add("size", where, f"are {info.width}x{info.height}, but {path} is {size}", "correct one of them")
        if shape is not None and ids.shape != shape:
            turned = ids.shape == shape[::-1]
            hint = "turn the PNG: the image's EXIF data turn it" if turned else "make them the same size"
            self.add("size", str(path), f"is {size}, but its image is {shape[1]}x{shape[0]}", hint)

    def _segments(
        self, annotation: Annotation, where: str, ids: NDArray[np.int32], entries: Sequence[Mapping[str, Any]]
    ) -> None:
        """Compare the ids, areas and boxes of the JSON with those of the PNG."""
        path = self.split.panoptic / annotation.file_name
        if (count := len(find_ids(ids))) > MOST_SEGMENTS:
            self.add("ids", str(path), f"holds {count:,} ids, more than {MOST_SEGMENTS:,}", "is it a map of ids?")
            return
        values, areas, boxes = measure_ids(ids)
        place = {int(value): row for row, value in enumerate(values)}
        listed = {segment.id for segment in annotation.segments}
        if unlisted := sorted(place.keys() - listed):
            hint = "list them in segments_info, or set the pixels to 0"
            self.add("ids", str(path), f"pixels have ids that the JSON does not list: {_some(unlisted)}", hint)
        if absent := sorted(listed - place.keys()):
            hint = "remove them, or write the PNG anew"
            self.add("ids", f"{where}.segments_info", f"segments without a pixel in {path}: {_some(absent)}", hint)
        wrong_areas, wrong_boxes = [], []
        for segment, entry in zip(annotation.segments, entries, strict=True):
            row = place.get(segment.id)
            if row is None:
                continue
            area, bbox = entry.get("area"), entry.get("bbox")
            if area is not None and area != areas[row]:
                wrong_areas.append(f"{segment.id} ({abbreviate(area)}, counted {areas[row]})")
            if bbox is not None and bbox != boxes[row].tolist():
                wrong_boxes.append(f"{segment.id} ({abbreviate(bbox)}, counted {boxes[row].tolist()})")
        for kind, wrong in (("area", wrong_areas), ("bbox", wrong_boxes)):
            if wrong:
                what = f"differs from the PNG for segment {_some(wrong, 3)}"
                self.add(kind, f"{where}.segments_info.{kind}", what, "write the counted one, or leave the field out")

    def _unlisted(self, maps: Collection[Path]) -> None:
        """Note files that the JSON does not name."""
        for folder, known, suffixes in (
            (self.split.images, {safe_join(self.split.images, i.file_name) for i in self.images.values()}, SUFFIXES),
            (self.split.panoptic, maps, frozenset({".png"})),
        ):
            files = (p for p in folder.rglob("*") if p.suffix.lower() in suffixes and not p.name.startswith("."))
            more = sum(path not in known for path in files)
            if more:
                self.report.notes.append(f"{folder}: {more:,} files that {self.split.json} does not name")


def _compare(first: _Check, second: _Check, report: Report) -> None:
    """What two splits share, and should not."""
    names = first.split.name, second.split.name
    if None not in (first.categories, second.categories) and first.categories != second.categories:
        hint = "give both splits the same categories; networks are trained and measured by them"
        report.findings.append(
            Finding("categories", str(second.split.json), f"differ from those of {first.split.json}", hint)
        )
    leaked: set[str] = set()
    for digest in first.pixels.keys() & second.pixels.keys():
        leaked.add(second.pixels[digest])
        what = f"is pixel by pixel {first.split.images / first.pixels[digest]} of the split {names[0]}"
        where = str(second.split.images / second.pixels[digest])
        report.findings.append(Finding("leak", where, what, "remove it from one of them"))
    shared = first.looks.keys() & second.looks.keys()
    for name in sorted(shared - leaked):
        ours, theirs = (np.frombuffer(looks[name], np.uint8).astype(int) for looks in (first.looks, second.looks))
        if np.abs(ours - theirs).max() <= _ALIKE:
            what = f"looks like the image of this name in the split {names[0]}"
            report.findings.append(Finding("leak", str(second.split.images / name), what, "remove it from one of them"))
    for kind, those in (("id", first.images.keys() & second.images.keys()), ("name", shared)):
        if those:
            both = f"{len(those):,} images of {names[0]} and of {names[1]}"
            report.notes.append(
                f"{both} have the same {kind}, which alone is not a fault: {_some(sorted(those, key=id_order), 3)}"
            )


def _some(values: Sequence[Any], limit: int = 5) -> str:
    more = f" and {len(values) - limit:,} more" if len(values) > limit else ""
    return printable(", ".join(map(str, values[:limit]))) + more

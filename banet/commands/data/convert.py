"""`banet data convert FORMAT`: a class per format."""

from __future__ import annotations

from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from banet.commands.base import Command, Value
from banet.commands.shared import (
    File,
    Folder,
    Ids,
    Name,
    Names,
    Overlaps,
    OverwriteOptions,
    UntrustedOptions,
    progress,
)
from banet.errors import InputError
from banet.panoptic.defaults import BEST_RULE

__all__ = [
    "Ade20k",
    "Cells",
    "Cityscapes",
    "Coco",
    "Cvat",
    "Datumaro",
    "LabelStudio",
    "Labelme",
    "Mapillary",
    "Maps",
    "Voc",
    "Yolo",
]

_OWN = ("overwrite", "strict", "dry_run", "untrusted")  # options that the functions do not take


@dataclass(frozen=True, kw_only=True)
class _Convert(OverwriteOptions, UntrustedOptions, Command):
    """What all formats have: `convert_FORMAT` of a module in `banet.data.convert` takes the options by their names.

    Attributes:
        out: Folder that panoptic.json and panoptic/ are written to: a new one, or one that this command wrote.
        dry_run: Read everything, report, and write nothing.
    """

    function: ClassVar[str]
    """Module and function that convert."""

    out: Folder
    dry_run: bool = False

    def run(self) -> int:
        """Convert, and print what was written."""
        self._tell(self._convert())
        return 0

    def _tell(self, written: Any) -> None:
        print(f"dry run: everything can be read; {written} would be written" if self.dry_run else written)

    def _convert(self, **further: Any) -> Any:
        """Call the function with the options of the command and further ones, and return the file that it wrote."""
        from banet.data.convert.output import claim_panoptic

        options = {name: value for name, value in vars(self).items() if name not in _OWN}
        options["out"] = claim_panoptic(
            self.out,
            inputs=[path for path in self.read_from() if path.is_file()],
            folders=[path for path in self.read_from() if path.is_dir()],
            overwrite=self.overwrite,
            dry_run=self.dry_run,
        )
        module, function = self.function.split(".")
        convert = getattr(import_module(f"banet.data.convert.{module}"), function)
        with progress("convert") as show:
            return convert(**options, **further, progress=show)

    def read_from(self) -> list[Path]:
        """Return the files and folders that are read."""
        names = ("images", "instances", "labels", "stuff", "annotations", "categories", "data", "root", "masks")
        return [Path(value) for name in names if isinstance(value := getattr(self, name, None), str)]


@dataclass(frozen=True, kw_only=True)
class _Objects(_Convert):
    """What formats of outlined objects have.

    Attributes:
        strict: Refuse objects without a pixel, which are otherwise left out and reported.
    """

    strict: bool = False

    def run(self) -> int:
        """Convert, and print which objects were left out and what was written."""
        from banet.data.left_out import LeftOut

        left_out = LeftOut(strict=self.strict)
        written = self._convert(left_out=left_out)
        print(left_out)
        self._tell(written)
        return 0


@dataclass(frozen=True, kw_only=True)
class _Overlapping(_Objects):
    """What formats have in which objects may overlap.

    Attributes:
        overlaps: Which object is in front where two overlap: the occlusion rule that decides; `fail` refuses. Overlaps
            are counted and reported.
        background: Name of the stuff that pixels of no object are; void by default.
    """

    overlaps: Overlaps = BEST_RULE
    background: Name = ""


@dataclass(frozen=True, kw_only=True)
class Coco(_Overlapping):
    """Make COCO panoptic of COCO instances, with stuff from label maps or a JSON of its own.

    Things are in front of crowds, crowds in front of stuff. Thing ids in maps of --stuff are void.

    example:
      banet data convert coco --images photos --instances instances.json --out mine

    Attributes:
        images: Folder of the images.
        instances: COCO instances JSON.
        stuff: Folder of label maps of category ids: PNGs, named as the images. Or a JSON such as stuff_val2017.json.
        categories: JSON of the classes: a list of id, name, isthing, or any COCO panoptic JSON. By default the
            instances' own as things, and those of a JSON of stuff as stuff.
        void: Labels of --stuff that are void, beside 0.
        label_offset: What is added to the labels of --stuff: 1 for the stuffthingmaps of COCO-Stuff.
    """

    usage: ClassVar[str] = (
        "--images DIR --instances FILE --out DIR [--stuff DIR|FILE] [--categories FILE] [--void ID ...]\n"
        "                               [--label-offset N] [--overlaps fail|RULE] [--background NAME] [--strict]\n"
        "                               [--dry-run] [--overwrite]"
    )
    function: ClassVar[str] = "coco.convert_coco"

    images: Folder
    instances: File
    stuff: Annotated[str, Value("DIR|FILE", local=True)] | None = None
    categories: File | None = None
    void: Ids = field(default_factory=list)
    label_offset: Annotated[int, Value("N", least=0)] = 0


@dataclass(frozen=True, kw_only=True)
class _Unpacked(_Convert):
    """What data sets with a layout of their own have.

    Attributes:
        root: The data set as it is unpacked.
        split: Which of its splits.
    """

    folders: ClassVar[tuple[str, ...]]
    """Folders of the data set that are read."""

    root: Folder
    split: Name

    def read_from(self) -> list[Path]:
        """Return the folders that are read."""
        return [Path(self.root) / folder for folder in self.folders]


@dataclass(frozen=True, kw_only=True)
class Cityscapes(_Unpacked):
    r"""Make COCO panoptic of Cityscapes (gtFine, leftImg8bit).

    example, as recipe cityscapes_r50 has it:
      banet data convert cityscapes --root datasets/cityscapes --split train --out datasets/cityscapes/panoptic_train
    """

    function: ClassVar[str] = "cityscapes.convert_cityscapes"
    folders: ClassVar[tuple[str, ...]] = ("gtFine", "leftImg8bit")


@dataclass(frozen=True, kw_only=True)
class Ade20k(_Unpacked):
    r"""Make COCO panoptic of ADE20K (ADEChallengeData2016 with annotations_instance).

    example, as recipe ade20k_r50 has it:
      banet data convert ade20k --root datasets/ADEChallengeData2016 --split training \
          --out datasets/ADEChallengeData2016/panoptic_training
    """

    function: ClassVar[str] = "maps.convert_ade20k"
    folders: ClassVar[tuple[str, ...]] = ("images", "annotations", "annotations_instance")


@dataclass(frozen=True, kw_only=True)
class Maps(_Convert):
    """Make COCO panoptic of label maps and instance maps.

    Attributes:
        images: Folder of the images.
        labels: PNGs of category ids, named as the images.
        instances: PNGs of instance numbers. Things where they are 0 are crowd.
        categories: JSON of the classes: a list of id, name, isthing, or any COCO panoptic JSON.
        void: Labels that are void, beside 0.
    """

    function: ClassVar[str] = "maps.convert_maps"

    images: Folder
    labels: Folder
    instances: Folder | None = None
    categories: File
    void: Ids = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class _Shapes(_Overlapping):
    """What formats of drawn shapes have.

    Attributes:
        images: Folder of the images. Labelme's by default: that of the JSONs.
        stuff: Labels that are stuff; others are things.
        categories: JSON of the classes: a list of id, name, isthing, or any COCO panoptic JSON. In place of --stuff.
        ignore: Labels that are left out.
    """

    images: Folder | None = None
    stuff: Names = field(default_factory=list)
    categories: File | None = None
    ignore: Names = field(default_factory=list)

    def run(self) -> int:
        """Convert, unless --stuff and --categories contradict each other."""
        if self.stuff and self.categories:
            raise InputError("give either it or --categories, which says what is stuff", where="--stuff")
        return super().run()


@dataclass(frozen=True, kw_only=True)
class Labelme(_Shapes):
    """Make COCO panoptic of Labelme's polygons.

    Shapes of one label and one group_id are one object. Things are in front of stuff. Give the second split
    the classes of the first: --categories FIRST/panoptic.json.

    Attributes:
        annotations: Folder of Labelme's JSONs.
    """

    usage: ClassVar[str] = (
        "--annotations DIR --out DIR [--images DIR] [--stuff NAME ... | --categories FILE]\n"
        "                                  [--ignore NAME ...] [--overlaps fail|RULE] [--background NAME]\n"
        "                                  [--strict] [--dry-run] [--overwrite]"
    )
    function: ClassVar[str] = "labelme.convert_labelme"

    annotations: Folder


@dataclass(frozen=True, kw_only=True)
class Cvat(_Shapes):
    """Make COCO panoptic of CVAT's XML (CVAT for images 1.1).

    Shapes of one label and one group_id are one object. The higher z_order is in front; in one layer things are
    in front of stuff. Give the second split the classes of the first: --categories FIRST/panoptic.json.

    Attributes:
        annotations: CVAT's XML.
        images: Folder of the images.
    """

    usage: ClassVar[str] = (
        "--annotations FILE --images DIR --out DIR [--stuff NAME ... | --categories FILE]\n"
        "                               [--ignore NAME ...] [--overlaps fail|RULE] [--background NAME]\n"
        "                               [--strict] [--dry-run] [--overwrite]"
    )
    function: ClassVar[str] = "cvat.convert_cvat"

    annotations: File
    images: Folder = field()  # without a default, unlike that of the base


@dataclass(frozen=True, kw_only=True)
class Yolo(_Overlapping):
    """Make COCO panoptic of a YOLO segmentation data set.

    example:
      banet data convert yolo --data mine/data.yaml --split train --out mine_panoptic/train

    Attributes:
        data: data.yaml, or the folder that it is in.
        split: Which of its splits: train, val or test.
        stuff: Classes that are stuff; others are things.
    """

    function: ClassVar[str] = "yolo.convert_yolo"

    data: Annotated[str, Value("FILE|DIR", local=True)]
    split: Name
    stuff: Names = field(default_factory=list)

    def read_from(self) -> list[Path]:
        """Return data.yaml and its folder."""
        return [Path(self.data), Path(self.data).parent] if Path(self.data).is_file() else [Path(self.data)]


@dataclass(frozen=True, kw_only=True)
class Voc(_Convert):
    """Make COCO panoptic of Pascal VOC's PNGs of classes and objects.

    Reads VOC's own palette, and colours with a labelmap.txt as CVAT and datumaro write them. Void is void.

    Attributes:
        root: Folder of JPEGImages, SegmentationClass, SegmentationObject and ImageSets; such as VOCdevkit/VOC2012.
        split: A list in ImageSets/Segmentation; `all` takes every image with a PNG.
        stuff: Classes that are stuff; others are things. May hold `background`, which is void otherwise.
    """

    function: ClassVar[str] = "voc.convert_voc"

    root: Folder
    split: Name
    stuff: Names = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class LabelStudio(_Shapes):
    """Make COCO panoptic of an export of Label Studio (JSON or JSON_MIN).

    Reads brushes, bitmasks, polygons, rectangles and ellipses; each is one object. Give the second split the classes
    of the first: --categories FIRST/panoptic.json.

    Attributes:
        annotations: The exported JSON.
        images: Folder of the images.
    """

    function: ClassVar[str] = "label_studio.convert_label_studio"

    annotations: File
    images: Folder = field()  # without a default, unlike that of the base


@dataclass(frozen=True, kw_only=True)
class Mapillary(_Objects):
    """Make COCO panoptic of Mapillary Vistas, v1.2 or v2.0.

    Reads the panoptic files where they are there, else the instance maps with the configuration.

    Attributes:
        root: The data set as it is unpacked.
        split: training or validation.
        version: Of the labels.
    """

    function: ClassVar[str] = "mapillary.convert_mapillary"

    root: Folder
    split: Name
    version: Literal["v1.2", "v2.0"] = "v2.0"


@dataclass(frozen=True, kw_only=True)
class Datumaro(_Overlapping):
    """Make COCO panoptic of a folder that datumaro wrote: coco, coco_instances, coco_panoptic or coco_stuff.

    Attributes:
        root: Folder of annotations and images.
        split: Which subset.
        task: Which of its JSONs; `auto` takes panoptic, instances or stuff, the first that is there.
        stuff: Classes that are stuff; others are things. By default as the JSON says, where it does.
        categories: JSON of the classes: a list of id, name, isthing, or any COCO panoptic JSON. In place of --stuff.
        no_crowd: Take every object as a single one: datumaro writes iscrowd 1 for whatever is a mask.
    """

    function: ClassVar[str] = "coco.convert_datumaro"

    root: Folder
    split: Name
    task: Literal["auto", "panoptic", "instances", "stuff"] = "auto"
    stuff: Names = field(default_factory=list)
    categories: File | None = None
    no_crowd: bool = False


@dataclass(frozen=True, kw_only=True)
class Cells(_Convert):
    """Make COCO panoptic of instance label maps, as StarDist and Cellpose write them.

    Reads TIFF and PNG of 8, 16 and 32 bits, NPY, and _seg.npy of Cellpose, of which nothing is executed. 0 is the
    background.

    Attributes:
        images: Folder of the images.
        masks: Folder of the label maps, where they are not beside the images.
        suffix: What their names have after the image's; by default _seg, _cp_masks, _masks, _labels and the like.
        label: Name of the class of the objects.
        background: Name of the stuff around them; '' makes it void.
    """

    function: ClassVar[str] = "cells.convert_cells"

    images: Folder
    masks: Folder | None = None
    suffix: Annotated[str, Value("SUFFIX")] | None = None
    label: Name = "cell"
    background: Name = "background"

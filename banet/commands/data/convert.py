"""`banet data convert coco | cityscapes | ade20k | maps | labelme | cvat`."""

from __future__ import annotations

from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any, ClassVar

from banet.commands.base import Command, Value
from banet.commands.shared import File, Folder, Ids, Names, Overlaps, OverwriteOptions, progress
from banet.errors import InputError

__all__ = ["Ade20k", "Cityscapes", "Coco", "Cvat", "Labelme", "Maps"]


@dataclass(frozen=True, kw_only=True)
class _Convert(OverwriteOptions, Command):
    """What all formats have: `convert_FORMAT` of a module in `banet.data.convert` takes the options by their names.

    Attributes:
        out: Folder that panoptic.json and panoptic/ are written to: a new one, or one that this command wrote.
    """

    function: ClassVar[str]
    """Module and function that convert."""

    out: Folder

    def run(self) -> int:
        """Convert, and print what was written."""
        print(self._convert())
        return 0

    def _convert(self, **further: Any) -> Any:
        """Call the function with the options of the command and further ones, and return the file that it wrote."""
        from banet.data.convert.output import claim_panoptic

        options = {name: value for name, value in vars(self).items() if name not in ("overwrite", "strict")}
        options["out"] = claim_panoptic(
            self.out,
            inputs=[path for path in self.read_from() if path.is_file()],
            folders=[path for path in self.read_from() if path.is_dir()],
            overwrite=self.overwrite,
        )
        module, function = self.function.split(".")
        convert = getattr(import_module(f"banet.data.convert.{module}"), function)
        with progress("convert") as show:
            return convert(**options, **further, progress=show)

    def read_from(self) -> list[Path]:
        """Return the files and folders that are read."""
        names = ("images", "instances", "labels", "stuff", "annotations", "categories")
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
        print(left_out, written, sep="\n")
        return 0


@dataclass(frozen=True, kw_only=True)
class Coco(_Objects):
    """Make COCO panoptic of COCO instances and label maps of stuff.

    Things are in front of crowds, crowds in front of stuff. Thing ids in --stuff are void.

    example:
      banet data convert coco --images photos --instances instances.json --overlaps area --out mine

    Attributes:
        images: Folder of the images.
        instances: COCO instances JSON.
        stuff: Label maps of category ids: PNGs, named as the images.
        categories: JSON of the classes: a list of id, name, isthing, or any COCO panoptic JSON. By default the
            instances' own, as things.
        overlaps: What to do where objects overlap: refuse, or the occlusion rule that says which object is in front.
        void: Labels of --stuff that are void, beside 0.
    """

    usage: ClassVar[str] = (
        "--images DIR --instances FILE --out DIR [--stuff DIR --categories FILE [--void '[ID, ...]']]\n"
        "                               [--overlaps fail|RULE] [--strict] [--overwrite]"
    )
    function: ClassVar[str] = "coco.convert_coco"

    images: Folder
    instances: File
    stuff: Folder | None = None
    categories: File | None = None
    overlaps: Overlaps = "fail"
    void: Ids = field(default_factory=list)


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
    split: Annotated[str, Value("NAME")]

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
class _Shapes(_Objects):
    """What formats of drawn shapes have.

    Attributes:
        images: Folder of the images. Labelme's by default: that of the JSONs.
        stuff: Labels that are stuff; others are things.
        categories: JSON of the classes: a list of id, name, isthing, or any COCO panoptic JSON. In place of --stuff.
        ignore: Labels that are left out.
        overlaps: What to do where objects overlap: refuse, or the occlusion rule that says which object is in front.
    """

    images: Folder | None = None
    stuff: Names = field(default_factory=list)
    categories: File | None = None
    ignore: Names = field(default_factory=list)
    overlaps: Overlaps = "fail"

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
        "--annotations DIR --out DIR [--images DIR] [--stuff '[NAME, ...]' | --categories FILE]\n"
        "                                  [--ignore '[NAME, ...]'] [--overlaps fail|RULE] [--strict] [--overwrite]"
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
        "--annotations FILE --images DIR --out DIR [--stuff '[NAME, ...]' | --categories FILE]\n"
        "                               [--ignore '[NAME, ...]'] [--overlaps fail|RULE] [--strict] [--overwrite]"
    )
    function: ClassVar[str] = "cvat.convert_cvat"

    annotations: File
    images: Folder = field()  # without a default, unlike that of the base

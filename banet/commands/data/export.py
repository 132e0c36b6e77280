"""`banet data export FORMAT`: a class per format."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from banet.commands.base import Command, Value
from banet.commands.shared import Area, File, Folder, Name, OverwriteOptions, UntrustedOptions, progress
from banet.errors import InputError

if TYPE_CHECKING:
    from banet.data.export.source import ExportFormat

__all__ = [
    "ExportCoco",
    "ExportEomt",
    "ExportInstanceMaps",
    "ExportLightlyTrain",
    "ExportMask2Former",
    "ExportSemantic",
    "ExportVoc",
    "ExportYolo",
]


@dataclass(frozen=True, kw_only=True)
class _Export(OverwriteOptions, UntrustedOptions, Command):
    """What all formats have.

    Attributes:
        images: Folder of the images.
        panoptic: Folder of their id PNGs.
        json: COCO panoptic JSON.
        split: Name of the split. All splits of a data set go to one --out, one call after another.
        out: Folder to write to; may hold other splits, and what this command wrote before.
        dry_run: Read and code everything, report, and write nothing.
    """

    images: Folder
    panoptic: Folder
    json: File
    split: Name = "train"
    out: Folder
    dry_run: bool = False

    @abstractmethod
    def format(self) -> ExportFormat:
        """Return what writes the format."""

    def run(self) -> int:
        """Export, and print how much, what was lost, and where it is."""
        from banet.data.export.source import ExportReport, ExportSource, export
        from banet.files.names import check_file_name

        if "/" in check_file_name(self.split, "--split") or "\\" in self.split:
            raise InputError("must be a name, not a path", where=f"--split {self.split}")
        report = ExportReport()
        source = ExportSource(self.images, self.panoptic, self.json)
        with progress("export") as show:
            options = {"overwrite": self.overwrite, "dry_run": self.dry_run}
            folder = export(source, self.out, self.format(), **options, report=report, progress=show)
        print(report)
        print(f"dry run: {folder} would be written" if self.dry_run else folder)
        return 0


@dataclass(frozen=True, kw_only=True)
class _Linking(_Export):
    """What formats have that hold the images.

    Attributes:
        link: Make links to the images in place of copies.
    """

    link: bool = False


@dataclass(frozen=True, kw_only=True)
class ExportCoco(_Export):
    """Make COCO instances of COCO panoptic: annotations/instances_SPLIT.json, and stuff_SPLIT.json beside it.

    Nothing is lost: `banet data convert coco --instances ... --stuff ...` gives the same data set back. The images stay
    where they are.

    Attributes:
        polygons: Outlines in place of run lengths. Holes are kept, and filled they give the same pixels.
    """

    polygons: bool = False

    def format(self) -> ExportFormat:
        """Return what writes the format."""
        from banet.data.export.coco_instances import CocoInstances

        return CocoInstances(self.split, polygons=self.polygons)


@dataclass(frozen=True, kw_only=True)
class ExportYolo(_Linking):
    """Make a YOLO segmentation data set of COCO panoptic: data.yaml, images/SPLIT and labels/SPLIT.

    Parts and holes of an object are joined to one outline, and filled even-odd they come out again. Lost are crowds,
    and stuff unless --stuff is given.

    Attributes:
        stuff: Make classes of stuff, too, one object per image.
    """

    stuff: bool = False

    def format(self) -> ExportFormat:
        """Return what writes the format."""
        from banet.data.export.yolo import Yolo

        return Yolo(self.split, stuff=self.stuff, link=self.link)


@dataclass(frozen=True, kw_only=True)
class ExportSemantic(_Export):
    """Make label maps of COCO panoptic: labels/SPLIT, with the classes' colours, and classes.json.

    Lost are instances.

    Attributes:
        contiguous: Number the classes from 0, things by id, then stuff by id, in place of their ids.
        void: Value of void pixels; default: 255, or 65535 where a class is above 255.
    """

    contiguous: bool = False
    void: Area | None = None

    def format(self) -> ExportFormat:
        """Return what writes the format."""
        from banet.data.export.label_maps import SemanticMaps

        return SemanticMaps(self.split, contiguous=self.contiguous, void=self.void)


@dataclass(frozen=True, kw_only=True)
class ExportInstanceMaps(_Export):
    """Make instance label maps of COCO panoptic, as StarDist and Cellpose read them: masks/SPLIT.

    Lost are stuff, crowds and classes.

    Attributes:
        file_type: Of the maps: of 16 bits, or 32 where there are more objects.
        suffix: What is put after the images' names.
    """

    file_type: Literal["tif", "png", "npy"] = "tif"
    suffix: Annotated[str, Value("SUFFIX")] = "_masks"

    def format(self) -> ExportFormat:
        """Return what writes the format."""
        from banet.data.export.label_maps import InstanceMaps

        return InstanceMaps(self.split, file_type=self.file_type, suffix=self.suffix)


@dataclass(frozen=True, kw_only=True)
class ExportVoc(_Linking):
    """Make Pascal VOC of COCO panoptic: PNGs of classes and objects, and labelmap.txt.

    The folders are JPEGImages, SegmentationClass, SegmentationObject and ImageSets. Void becomes 255. Lost are ids of
    classes and images.
    """

    def format(self) -> ExportFormat:
        """Return what writes the format."""
        from banet.data.export.voc import Voc

        return Voc(self.split, link=self.link)


@dataclass(frozen=True, kw_only=True)
class _ForTrainer(_Linking):
    """What the trainers' folders have."""

    trainer: ClassVar[str]

    def format(self) -> ExportFormat:
        """Return what writes the format."""
        from banet.data.export import trainers

        make: ExportFormat = getattr(trainers, self.trainer)(self.split, link=self.link)
        return make


@dataclass(frozen=True, kw_only=True)
class ExportMask2Former(_ForTrainer):
    """Make the folder that Mask2Former and other trainers on detectron2 read as COCO: --out is DETECTRON2_DATASETS.

    Splits are train and val. Images that are no JPEGs are coded anew. The trainer's configuration names COCO's 133
    classes; for others register the folders with `register_coco_panoptic_annos_semseg`.
    """

    trainer: ClassVar[str] = "Mask2Former"


@dataclass(frozen=True, kw_only=True)
class ExportLightlyTrain(_ForTrainer):
    """Make the folder that LightlyTrain's train_panoptic_segmentation reads. Nothing is lost."""

    trainer: ClassVar[str] = "LightlyTrain"


@dataclass(frozen=True, kw_only=True)
class ExportEomt(_Export):
    """Make the zip files that EoMT reads as COCO panoptic.

    Splits are train and val. Images that are no JPEGs are coded anew. EoMT's CLASS_MAPPING names COCO's 133 classes;
    for others change it.
    """

    def format(self) -> ExportFormat:
        """Return what writes the format."""
        from banet.data.export.trainers import Eomt

        return Eomt(self.split)

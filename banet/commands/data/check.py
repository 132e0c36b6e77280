"""`banet data check`."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar

from banet.commands.base import Argument, Command
from banet.commands.shared import File, Folder, OverwriteOptions, RecipeFile, UntrustedOptions, progress
from banet.errors import InputError

if TYPE_CHECKING:
    from banet.data.check import Split

__all__ = ["Check"]


@dataclass(frozen=True, kw_only=True)
class Check(OverwriteOptions, UntrustedOptions, Command):
    """Tell what is wrong with a COCO panoptic data set, and how to fix it.

    DIR has panoptic.json, panoptic/ and images/, or folders that have, or COCO's own layout. Several splits are
    also searched for images that they share. Ends with 0 if nothing was found, with 1 if something was.

    Attributes:
        folders: Folders of splits, or of folders of splits.
        config: A recipe that comes with the package, or a YAML file. Its data.train and data.val are checked.
        images: Folder of the images, if not DIR/images.
        panoptic: With --images and --json, and without DIR: folder of id PNGs.
        json: With --images and --panoptic: the COCO panoptic JSON.
        report: Write all findings to this JSON.
    """

    usage: ClassVar[str] = (
        "DIR ... [--images DIR] | --config NAME|FILE | --images DIR --panoptic DIR --json FILE\n"
        "                        [--report FILE] [--overwrite]"
    )

    folders: Annotated[list[str], Argument("DIR", local=True)] = field(default_factory=list)
    config: RecipeFile | None = None
    images: Folder | None = None
    panoptic: Folder | None = None
    json: File | None = None
    report: File | None = None

    def run(self) -> int:
        """Check, and print the findings; the status is 1 where there are any."""
        splits = self._splits()
        from banet.data.check import check_splits
        from banet.files.atomic import write_json
        from banet.files.outputs import output_file

        outputs = None
        if self.report:
            outputs = output_file(
                self.report,
                "banet data check",
                "--report",
                inputs=[split.json for split in splits],
                folders=[folder for split in splits for folder in (split.images, split.panoptic)],
                overwrite=self.overwrite,
            )
        with progress("check") as show:
            report = check_splits(splits, show)
        if self.report and outputs:
            with outputs:
                write_json(self.report, report.to_json())
        print(report)
        return 1 if report.findings else 0

    def _splits(self) -> list[Split]:
        """Return what the options name: the splits of a recipe, one split in parts, or those found in folders."""
        parts = [self.images, self.panoptic, self.json]
        ways = [bool(self.folders), bool(self.config), bool(self.json or self.panoptic)]
        mixed = bool(self.config and self.images)
        if mixed or sum(ways) != 1 or ((self.json or self.panoptic) and not all(parts)):
            raise InputError("say what to check: DIR ..., or --config NAME|FILE, or --images, --panoptic and --json")
        from banet.data.check import Split, find_splits

        if self.config:
            from banet.engine.options import load_recipe

            data = load_recipe(self.config).data
            root = data.local_root()
            return [
                Split(name, root / part.images, root / part.panoptic, root / part.json)
                for name, part in (("train", data.train), ("val", data.val))
            ]
        if self.images and self.panoptic and self.json:
            return [Split(Path(self.json).stem, Path(self.images), Path(self.panoptic), Path(self.json))]
        splits = [split for folder in self.folders for split in find_splits(folder, self.images)]
        if len({split.name for split in splits}) < len(splits):
            splits = [replace(split, name=str(split.json.parent)) for split in splits]
        return splits

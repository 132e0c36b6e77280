"""`banet pq`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from banet.commands.base import Command, Value
from banet.commands.shared import (
    Count,
    FileOrUrl,
    FolderOrUrl,
    OverwriteOptions,
    ProcessOptions,
    UntrustedOptions,
    progress,
)
from banet.errors import InputError

__all__ = ["Pq"]


@dataclass(frozen=True, kw_only=True)
class Pq(ProcessOptions, OverwriteOptions, UntrustedOptions, Command):
    """Score one COCO panoptic folder against another; needs no model.

    Attributes:
        gt_json: COCO panoptic JSON of the ground truth.
        gt_dir: Folder of its id PNGs, or of tar archives of them.
        pred_dir: Folder of the id PNGs of the predictions, or of tar archives of them, such as --out of `predict`.
        pred_json: Their COCO panoptic JSON; default: panoptic.json in --pred-dir, or beside it.
        json: Write the figures, each class included, to this file.
        workers: Images that are compared at the same time.
        details: Also each class, confusions, sizes, and scores of hidden things.
        video: The images are frames of videos, one per folder, in order; also VPQ, STQ, IDF1 and id switches.
        amodal: Whole masks of the ground truth's things, for --details, which it implies.
    """

    gt_json: FileOrUrl
    gt_dir: FolderOrUrl
    pred_dir: FolderOrUrl
    pred_json: FileOrUrl | None = None
    json: Annotated[str, Value("OUT")] | None = None
    workers: Count = 1
    details: bool = False
    video: bool = False
    amodal: FileOrUrl | None = None

    def run(self) -> int:
        """Score, and print the table."""
        from banet.engine.sharing.process import this_process
        from banet.files.atomic import write_json
        from banet.files.outputs import output_in
        from banet.panoptic.metrics.quality import FolderPair, format_table, score_folders, to_json

        if self.video and (self.details or self.amodal):
            raise InputError("goes without --details and --amodal", where="--video", hint="score twice")
        pred_json = self.pred_json or _json_of(self.pred_dir)
        folders = (self.gt_json, self.gt_dir, pred_json, self.pred_dir)
        outputs = None
        if self.json:
            outputs = output_in(
                self.json,
                "banet pq",
                "--json",
                inputs=[file for file in (self.gt_json, pred_json, self.amodal) if file],
                folders=[self.gt_dir, self.pred_dir],
                overwrite=self.overwrite,
            )
        process = this_process()
        if process.world > 1 or self.resume:
            for option, given in (("--details", self.details or self.amodal), ("--video", self.video)):
                if given:
                    raise InputError("is for one process", where=option, hint="leave it out, or start one")
            if outputs is None:
                raise InputError("several processes need a file for what they count", hint="give --json OUT")
        with progress("pq") as show:
            if self.details or self.amodal:
                from banet.panoptic.metrics.breakdown import format_breakdown, score_folders_in_detail

                quality, breakdown = score_folders_in_detail(*folders, self.workers, show, amodal=self.amodal)
                result = {**quality.compute(), **breakdown.compute()}
                table = format_table(result, quality.categories, per_class=True)
                table += f"\n\n{format_breakdown(result, quality.categories)}"
            elif self.video:
                from banet.panoptic.metrics.video import format_video_table, score_videos

                found = score_videos(*folders, self.workers, show)
                result = {**found["vpq"]["windows"][1], **found}
                table = f"{format_table(result)}\n\n{format_video_table(found)}"
            elif outputs is not None:
                from banet.engine.sharing.scoring import score_share

                shared = score_share(FolderPair(*folders, self.workers), outputs, process, show, resume=self.resume)
                if shared is None:
                    return 0
                result, table = shared, format_table(shared)
            else:
                result = score_folders(*folders, self.workers, show)
                table = format_table(result)
        print(table)
        if self.json and outputs:
            with outputs:
                write_json(outputs.folder / next(iter(outputs.names)), to_json(result), indent=2)
        return 0


def _json_of(folder: str) -> str:
    """Return the panoptic JSON that goes with a folder of PNGs: in it, or beside it under its name.

    Raises:
        InputError: There is none.
    """
    from banet.files.remote import RemoteFolder, is_remote

    if is_remote(folder):
        above, _, name = folder.rstrip("/").rpartition("/")
        for url, file in ((folder.rstrip("/"), "panoptic.json"), (above, f"{name}.json")):
            if RemoteFolder(url).is_file(file):
                return f"{url}/{file}"
    for place in (Path(folder) / "panoptic.json", Path(folder).with_name(f"{Path(folder).name}.json")):
        if place.is_file():
            return str(place)
    raise InputError("holds no panoptic.json", where=f"--pred-dir {folder}", hint="name the file with --pred-json")

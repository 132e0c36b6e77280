"""`banet predict`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from banet.commands.base import Argument, Command, Value
from banet.commands.shared import (
    Count,
    DepthOptions,
    DeviceOptions,
    FileOrUrl,
    FolderOrUrl,
    Fraction,
    FusionOptions,
    ListOptions,
    ModelOptions,
    Names,
    OverwriteOptions,
    Pixels,
    PrecisionOptions,
    ProcessOptions,
    UntrustedOptions,
    Weights,
)
from banet.engine.sharing.process import this_process
from banet.errors import InputError
from banet.files.outputs import free_folder
from banet.panoptic.defaults import DrawingStyle, StuffStyle

__all__ = ["Predict"]


@dataclass(frozen=True, kw_only=True)
class Predict(
    FusionOptions,
    ModelOptions,
    DepthOptions,
    DeviceOptions,
    PrecisionOptions,
    ListOptions,
    ProcessOptions,
    OverwriteOptions,
    UntrustedOptions,
    Command,
):
    """Segment images and videos; writes id PNG, JSON and overlay of each, panoptic.json and segments.csv.

    With --runtime onnx or openvino the exported file is given as --weights or before the images. Ctrl-C ends
    a video or a camera's recording after the current frame.

    examples:
      banet predict street.jpg --weights coco
      banet predict --runtime onnx model.onnx photos/
      banet predict --weights scenes --tile 1024 aerial.tif
      banet predict --weights scenes street.mp4 camera:0
      banet predict --weights scenes --track street.mp4
      banet predict --weights coco --list million.txt --out found --shards 1000 --devices 8

    Attributes:
        inputs: Images, folders of images, globs, tar archives of images, videos, or camera:0 for the first camera.
        shards: Write the results of every N images to a tar archive, in place of files of their own.
        recursive: Also the images in the folders of a folder; results keep these folders.
        weights: coco or another name of `banet models`; hf:OWNER/NAME or hf:FOLDER; a detector + a segmenter of other
            libraries; a .safetensors file, or a folder that holds one.
        runtime: What runs the network. All but torch run a file of `banet export`, on the CPU, without torch.
        out: Where the results go. Default: predictions, or predictions-2 and so on where that holds something.
        json: COCO JSON whose images give the ids in panoptic.json, by file name; default: 1, 2, ...
        classes: Keep these classes only, by name or id.
        batch_size: Images that go through the network together.
        gallery: Also write DIR/gallery.html, one page of all images.
        no_overlays: Write no overlays of images, which are most of the bytes.
        tile: Cut larger images and frames into tiles of this side; objects are joined over the seams.
        overlap: With --tile: what neighbours share at least; default: a quarter of the tile.
        frames: With videos: also write id PNG and JSON of each frame to NAME_frames.
        track: With videos: objects keep their ids and colors, also while others hide them; a folder is a video whose
            frames are its images. Writes NAME_frames, NAME_frames.json (COCO panoptic), NAME_vid.json (COCO-VID) and
            NAME_mots.txt (MOTS).
        style: What the overlays' colors tell apart: things, or classes; contour leaves things unfilled.
        stuff: What overlays show of stuff: where it ends, a light filling too, or nothing.
        alpha: Opacity of the filling of things in overlays, from 0 to 1.
        page: The page or frame, from 1, of files that have several; all writes NAME_pageN of each. Default: the first.
    """

    usage: ClassVar[str] = (
        "INPUT [INPUT ...] --weights WEIGHTS [--list FILE] [--recursive] [--out DIR] [--gallery]\n"
        "                     [--no-overlays] [--tile PIXELS [--overlap PIXELS]]\n"
        "                     [--style instance|class|contour] [--stuff outline|fill|none] [--alpha FRACTION]\n"
        "                     [--frames | --track] [--page N|all] [--bit-depth auto|BITS] [--json FILE]\n"
        "                     [--classes NAME ...]\n"
        "                     [--score SCORE] [--rule RULE] [--overlap-threshold FRACTION] [--batch-size N]\n"
        "                     [--class-table FILE] [--trust]\n"
        "                     [--devices N] [--resume] [--shards N] [--device DEVICE] [--precision 32|bf16]\n"
        "                     [--runtime torch|onnx|openvino] [--overwrite] [--untrusted]"
    )

    inputs: Annotated[list[str], Argument("INPUT")] = field(default_factory=list)
    shards: Count | None = None
    weights: Weights | None = None
    runtime: Literal["torch", "onnx", "openvino"] = "torch"
    recursive: bool = False
    out: FolderOrUrl | None = None
    json: FileOrUrl | None = None
    classes: Names = field(default_factory=list)
    batch_size: Count = 1
    gallery: bool = False
    no_overlays: bool = False
    tile: Pixels | None = None
    overlap: Pixels | None = None
    frames: bool = False
    track: bool = False
    style: DrawingStyle = "instance"
    stuff: StuffStyle = "outline"
    alpha: Fraction = 0.5
    page: Annotated[Literal["all"] | int, Value("N|all")] | None = None

    def run(self) -> int:
        """Segment; the status is 1 where an input failed."""
        weights, inputs = self.weights, self.inputs
        if weights is None and self.runtime != "torch" and len(inputs) > 1:
            weights, *inputs = inputs
        if not inputs and self.list is None:
            raise InputError("missing: INPUT")
        if weights is None:
            raise InputError("missing: --weights")
        if isinstance(self.page, int) and self.page < 1:
            raise InputError("pages count from 1", where=f"--page {self.page}")
        if not 0 <= self.alpha <= 1:
            raise InputError("must be from 0 to 1", where=f"--alpha {self.alpha:g}")
        if self.tile is not None and not (self.overlap or 1) < self.tile:
            raise InputError(
                f"tiles of {self.tile} pixels cannot share {self.overlap or 1}",
                where="--tile",
                hint="choose larger tiles or a smaller --overlap",
            )
        if self.out is None and (self.resume or this_process().world > 1):
            problem = "several processes need one folder" if not self.resume else "name the folder of the run"
            raise InputError(problem, where="--out", hint="give --out DIR")
        from banet.engine.prediction.predict import predict_files

        failed = predict_files(
            weights,
            inputs,
            self.out or free_folder(Path("predictions")),
            recursive=self.recursive,
            rule=self.rule,
            score_threshold=self.score,
            classes=self.classes or None,
            overlap_threshold=self.overlap_threshold,
            precision=self.precision,
            batch_size=self.batch_size,
            class_table=self.class_table,
            trust=self.trust,
            json=self.json,
            device=self.device,
            runtime=self.runtime,
            gallery=self.gallery,
            tile=self.tile,
            overlap=self.overlap,
            frames=self.frames,
            track=self.track,
            bit_depth=self.bit_depth,
            page=self.page,
            drawing={"style": self.style, "stuff": self.stuff, "alpha": self.alpha},
            listed=self.list,
            shards=self.shards,
            overlays=not self.no_overlays,
            resume=self.resume,
            overwrite=self.overwrite,
        )
        return 1 if failed else 0

    def shared_words(self) -> Sequence[str]:
        """Return the folder, where none was given."""
        return () if self.out or self.resume else ("--out", str(free_folder(Path("predictions"))))

"""`banet fuse`."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Annotated, ClassVar

from banet.commands.base import Command, Value
from banet.commands.shared import (
    Area,
    Count,
    FileOrUrl,
    FolderOrUrl,
    Fraction,
    OverwriteOptions,
    ProcessOptions,
    Score,
    UntrustedOptions,
    progress,
)
from banet.modeling.config import InferenceConfig, RuleName
from banet.panoptic.defaults import BEST_OVERLAP_THRESHOLD, BEST_RULE
from banet.types import BitDepth

__all__ = ["Fuse"]

_LISTED = 20
"""Most removed instances that are printed; `fuse_files` returns all."""


@dataclass(frozen=True, kw_only=True)
class Fuse(ProcessOptions, OverwriteOptions, UntrustedOptions, Command):
    r"""Make panoptic results of anybody's instances and label maps; needs no model.

    Masks are run lengths, compressed or not, or polygons. Label maps have the images' names and end in .png:
    grey (8 or 16 bits) or palette; 0, and 255 or 65535, are void unless a category has that id. Without --json
    the number in an image's name is its id, or the name without suffix where the results have texts for ids.
    Files and folders may be URLs. The defaults are the best for anybody's detector; the paper's are --rule
    appearance --overlap-threshold 0.2 --nms 0.5 --no-clean.

    example:
      banet fuse --instances results.json --semantic labels --images val2017 --json panoptic_val2017.json \
                 --out fused

    Attributes:
        instances: Instances of a detector: a COCO results JSON.
        semantic: Folder of label maps: PNGs of category ids; they may lie in tar archives there.
        images: Folder of the images; they may lie in tar archives there.
        out: Folder that panoptic.json and, in panoptic/, its PNGs are written to.
        json: COCO JSON whose `images` to fuse, with the classes in `categories`.
        categories: The classes, if not those of --json. COCO's 133 by default.
        rule: Occlusion rule.
        score: Instances score above this.
        nms: Suppress boxes, whatever their class; by default none.
        top: Most instances per image.
        overlap_threshold: Overlap above which a pair is occluded.
        removal_threshold: Lost fraction above which an instance is removed.
        stuff_area: Smaller stuff becomes void.
        no_clean: Keep duplicates, and masks over several instances, which are otherwise removed and listed.
        strict: Refuse instances without a pixel, which are otherwise left out and reported.
        bit_depth: Bits that samples of 16-bit images use, 8 to 16; auto finds one number for all images.
    """

    usage: ClassVar[str] = (
        "--instances FILE --semantic DIR --images DIR --out DIR [--json FILE] [--categories FILE] [--rule RULE]\n"
        "                  [--score SCORE] [--nms IOU] [--top N] [--stuff-area PIXELS]\n"
        "                  [--overlap-threshold FRACTION] [--removal-threshold FRACTION] [--no-clean]\n"
        "                  [--strict] [--bit-depth auto|BITS] [--devices N] [--resume] [--overwrite]"
    )

    instances: FileOrUrl
    semantic: FolderOrUrl
    images: FolderOrUrl
    out: FolderOrUrl
    json: FileOrUrl | None = None
    categories: FileOrUrl | None = None
    rule: RuleName = BEST_RULE
    score: Score = InferenceConfig.score_threshold
    nms: Annotated[float, Value("IOU")] | None = None
    top: Count = InferenceConfig.max_instances
    overlap_threshold: Fraction = BEST_OVERLAP_THRESHOLD
    removal_threshold: Fraction = InferenceConfig.removal_threshold
    stuff_area: Area = InferenceConfig.stuff_area
    no_clean: bool = False
    strict: bool = False
    bit_depth: Annotated[BitDepth, Value("auto|BITS")] = "auto"

    def run(self) -> int:
        """Fuse, and print how many images and instances."""
        from banet.engine.prediction.fuse import fuse_files

        names = {"score": "score_threshold", "nms": "nms_threshold", "top": "max_instances"}
        options = {names.get(name, name): value for name, value in vars(self).items() if name != "untrusted"}
        options["clean"] = not options.pop("no_clean")
        del options["devices"]
        with progress("fuse") as show:
            done = fuse_files(**options, progress=show)
        if done is None:
            return 0
        if done.elsewhere:
            print(f"left out, as they are of other images: {done.elsewhere} instances", file=sys.stderr)
        if done.left_out.total:
            print(done.left_out, file=sys.stderr)
        if done.removed:
            print(f"removed as duplicates or merged blobs: {len(done.removed)} instances", file=sys.stderr)
            print("\n".join(f"  {line}" for line in done.removed[:_LISTED]), file=sys.stderr)
            if len(done.removed) > _LISTED:
                print("  ...", file=sys.stderr)
        print(f"{done.json}: {done.images} images, {done.instances} instances")
        return 0

"""`banet predict`: id map, records and an overlay for each image; an overlay of each video."""

from __future__ import annotations

import glob
import sys
import warnings
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path, PurePath, PurePosixPath
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from banet.data.images import ImageList, find_depth, find_images, page_count
from banet.engine.models import Runtime, describe_model, open_model
from banet.engine.prediction.images import ImageRun, Item, enough_memory, segment_table
from banet.engine.prediction.pipeline import Pipeline
from banet.engine.prediction.track import TRACK_OUTPUTS, TrackRun
from banet.engine.prediction.video import is_camera, is_video, load_av, segment_video
from banet.engine.report.gallery import write_gallery
from banet.errors import InputError, InputWarning, MissingExtraError, printable
from banet.files.names import DistinctNames, forward
from banet.files.outputs import Outputs, Record, is_output, weight_files
from banet.panoptic import PanopticSegmentation
from banet.panoptic.coco.annotations import ImageInfo, read_tables
from banet.panoptic.segmentation import join_some
from banet.types import BitDepth, ImageId

__all__ = ["RESULTS", "SEGMENTS", "Runtime", "predict_files"]

KIND = "banet predict"
SEGMENTS = "segments.csv"
RESULTS = "panoptic.json"
_IMAGE_OUTPUTS = (".png", ".json", "_overlay.jpg")
_RESERVED = {SEGMENTS, RESULTS, "gallery.html"}


@dataclass(frozen=True)
class _Plan:
    """What goes in and what comes out, known before anything is computed.

    Attributes:
        images: What is to be segmented.
        unreadable: A line for each folder with images that are of no format that is read.
        videos: Source and name of outputs of each video and camera.
        out: Folder of the outputs.
        gallery: Whether there is a page of all images.
        frames: Whether frames of videos are kept.
        track: Whether objects of videos keep their ids.
    """

    images: list[Item]
    unreadable: list[str]
    videos: list[tuple[str, str]]
    out: Path
    gallery: bool
    frames: bool
    track: bool

    def claim(self, others: Sequence[str], overwrite: bool) -> Outputs:
        """Check all outputs.

        Args:
            others: Weights and other files that are read beside images and videos.
            overwrite: See `Outputs`.

        Raises:
            InputError: See `Outputs`.
        """
        files = {f"{one.name}{suffix}": one.path for one in self.images for suffix in _IMAGE_OUTPUTS}
        sources: dict[str, Path | None] = {**files}
        endings = ["_overlay.mp4", *(TRACK_OUTPUTS if self.track else ())]
        sources |= {f"{name}{ending}": _file_of(source) for source, name in self.videos for ending in endings}
        if self.images:
            sources |= dict.fromkeys([SEGMENTS, RESULTS, *(["gallery.html"] if self.gallery else [])])
        read = [one.path for one in self.images] + [file for source, _ in self.videos if (file := _file_of(source))]
        return Outputs(
            self.out,
            KIND,
            sources,
            trees=[f"{name}_frames" for _, name in self.videos] if self.frames else (),
            folders=[file for file in read if file.is_dir()],
            inputs=[
                *(file for file in read if not file.is_dir()),
                *(file for one in others for file in weight_files(one)),
            ],
            overwrite=overwrite,
        )


def predict_files(
    weights: str,
    inputs: list[str],
    out: Path,
    *,
    recursive: bool = False,
    rule: str | None = None,
    score_threshold: float | None = None,
    classes: Sequence[str | int] | None = None,
    overlap_threshold: float | None = None,
    batch_size: int = 1,
    device: str = "auto",
    runtime: Runtime = "torch",
    class_table: str | None = None,
    trust: bool = False,
    json: str | None = None,
    gallery: bool = False,
    tile: int | None = None,
    overlap: int | None = None,
    frames: bool = False,
    track: bool = False,
    resume: bool = False,
    bit_depth: BitDepth | None = None,
    page: int | Literal["all"] | None = None,
    drawing: Mapping[str, Any] | None = None,
    overwrite: bool = False,
) -> int:
    """Segment images and videos; a bad one does not keep the others from being done.

    A folder or pattern leaves out what this function has written there itself.

    Args:
        weights: See `banet.load`; or, with another runtime than torch, a file that `banet export` wrote.
        inputs: Images, folders of images, or patterns; videos and cameras (see `is_video`).
        out: Folder that gets `NAME.png`, `NAME.json` and `NAME_overlay.jpg` for each image, `NAME_overlay.mp4` for each
            video, `panoptic.json`, the COCO panoptic JSON of all images, and `segments.csv`, a table of their segments.
        recursive: Also segment what lies in the folders of a folder; NAME then keeps these folders.
        rule: Another occlusion rule than the one saved with the weights.
        score_threshold: Instances score above this, in place of the threshold saved with the weights. An exported
            graph leaves instances out itself, so for it the threshold can only be raised.
        classes: Names or ids of the classes to keep.
        overlap_threshold: Fraction of either mask above which a pair is decided by the rule.
        batch_size: Images that go through the network together.
        device: `auto`, `cpu`, `cuda` or `mps`; the other runtimes compute on the CPU.
        runtime: What runs the network. All but `torch` need no torch.
        class_table: See `banet.load`.
        trust: See `banet.load`.
        json: COCO JSON whose `images` give the ids of images, by file name; by default they count from 1.
        gallery: Also write `gallery.html`, one page of all images.
        tile: Side in pixels of the tiles that larger images and frames are cut into; see `BANet.predict`.
        overlap: Pixels that neighbouring tiles share at least; a quarter of the tile by default.
        frames: Also write the id map and records of each frame of a video, to the folder `NAME_frames`.
        track: Give the objects of videos ids that last; implies `frames`. A folder of images is then a video, whose
            frames they are. See `TrackRun` for the files.
        resume: With `track`: go on with videos that were stopped.
        bit_depth: Bits that samples of 16-bit images use, in place of those saved with the weights; `auto` finds one
            number for all images.
        page: The page or frame, from 1, of files that have several; `all` makes each an image of its own, with outputs
            `NAME_pageN`. By default the first, with a note.
        drawing: Options of `PanopticSegmentation.draw` for the overlays.
        overwrite: Also replace files that this function did not write, but never an input.

    Returns:
        How many images and videos could not be done; each is named on standard error, as are images in folders that
        are of no format that is read.

    Raises:
        InputError: No image is found, an output would replace a file of the user's (see `Outputs`), the weights
            cannot be read, or `overlap` does not fit.
        MissingExtraError: The runtime is not installed.
        KeyboardInterrupt: See `segment_video`.
    """
    if overlap is not None and (tile is None or not 1 <= overlap < tile):
        raise InputError("must be at least 1 and less than --tile", where=f"--overlap {overlap}")
    if resume and not track:
        raise InputError("goes with --track", where="--resume", hint="add it, or leave this out")
    plan = _plan(inputs, out, gallery, frames or track, page, recursive, json, track=track)
    outputs = plan.claim([weights, *([json] if json else []), *([class_table] if class_table else [])], overwrite)
    model, place = open_model(weights, device=device, runtime=runtime, class_table=class_table, trust=trust)
    model = model.configured(score=score_threshold, classes=classes, overlap_threshold=overlap_threshold)
    depth = find_depth((item.path for item in plan.images), bit_depth or model.inference.bit_depth)
    print(describe_model(model, weights, place))
    out.mkdir(parents=True, exist_ok=True)
    with outputs:
        facts = {"weights": weights, "data": ", ".join(inputs), "rule": str(rule or model.inference.rule)}
        facts |= {"trained on": model.domain} if model.domain else {}
        run = ImageRun(model, out, depth, rule, tile, overlap, drawing=drawing or {})
        counts, failures = _segment_images(plan, run, batch_size, facts)

        def segment(frame: NDArray[np.uint8]) -> PanopticSegmentation:
            return model.predict(frame, rule=rule, tile=tile, overlap=overlap)

        settings = {
            "--weights": weights,
            "--runtime": runtime,
            "--rule": str(rule or model.inference.rule),
            "--score": str(model.inference.score_threshold),
            "--overlap-threshold": str(model.inference.overlap_threshold),
            "--classes": str(sorted(map(str, classes or []))),
            "--tile": f"{tile} {overlap}",
        }
        failures += _segment_videos(plan, outputs, segment, drawing or {}, settings, resume)
    failures += plan.unreadable
    for failure in failures:
        print(f"banet: error: {failure}", file=sys.stderr)
    kinds = [kind for kind, some in (("images", plan.images), ("videos", plan.videos)) if some]
    total = len(plan.images) + len(plan.videos)
    things = join_some([f"{count:,} {name}" for name, count in counts.most_common()]) or "no things"
    found = f" ({things} in all)" if plan.images else ""
    done = total - len(failures) + len(plan.unreadable)
    table = f"; all segments: {out / SEGMENTS}" if plan.images else ""
    print(f"{done} of {total} {' and '.join(kinds)} segmented{found}: {out}{table}")
    return len(failures)


def _plan(
    inputs: list[str],
    out: Path,
    gallery: bool,
    frames: bool,
    page: int | Literal["all"] | None,
    recursive: bool,
    json: str | None,
    *,
    track: bool,
) -> _Plan:
    moving = [text for text in inputs if is_video(text) or (track and Path(text).is_dir())]
    given = [text for text in inputs if text not in moving]
    if len(given) < len(inputs):
        load_av()
    elif frames:
        option = "--track" if track else "--frames"
        raise InputError("goes with videos", where=option, hint="give one, or leave it out")
    videos = [name for text in moving for name in _matches(text)]
    images = find_images(given, recursive=recursive) if given or not videos else ImageList()
    for line in images.skipped:
        warnings.warn(line, InputWarning, stacklevel=2)
    paths = _without_outputs(images.paths, given)
    names, video_names = DistinctNames(*_IMAGE_OUTPUTS), DistinctNames("_overlay.mp4", "_frames", *TRACK_OUTPUTS)
    items = [item for path in paths for item in _pages(path, _name_of(path, given if recursive else ()), names, page)]
    for item in items:
        taken = {f"{item.name}{suffix}".casefold() for suffix in _IMAGE_OUTPUTS} & _RESERVED
        if taken:
            raise InputError(f"its result would be {min(taken)}, as that of all", where=item.path, hint="rename it")
    return _Plan(
        _with_ids(items, json),
        images.unreadable,
        [(video, _video_name(video, out, video_names)) for video in videos],
        out,
        gallery,
        frames,
        track,
    )


def _name_of(path: Path, folders: Sequence[str]) -> PurePath:
    """Return the name of an image: with its place in the folder that was given, where it was found in one of some."""
    roots = (root for root in (Path(text).expanduser() for text in folders) if root in path.parents)
    root = next(roots, None)
    return PurePath(path.name) if root is None else path.relative_to(root)


def _pages(path: Path, name: PurePath, names: DistinctNames, page: int | Literal["all"] | None) -> list[Item]:
    """Return what is to be segmented of a file."""
    try:
        count = 1 if page is None else page_count(path)
    except (InputError, MissingExtraError):  # the reader says why
        count = 1
    if page == "all" and count > 1:
        pages = [name.with_name(f"{name.stem}_page{n + 1}{name.suffix}") for n in range(count)]
        return [Item(path, names.choose(each.as_posix()), each.as_posix(), n) for n, each in enumerate(pages)]
    number = page - 1 if isinstance(page, int) and count > 1 else None
    return [Item(path, names.choose(name.as_posix()), name.as_posix(), number)]


def _with_ids(items: list[Item], json: str | None) -> list[Item]:
    """Return images with the ids and names that a COCO JSON gives them, by file name, or else with ids 1, 2, ...

    Raises:
        InputError: The JSON does not name one of them, or names it several times.
    """
    if json is None:
        return [item._replace(image_id=number) for number, item in enumerate(items, start=1)]
    images, _ = read_tables(json, optional=True)
    named: dict[str, list[ImageInfo]] = {}
    for info in images.values():
        named.setdefault(PurePosixPath(forward(info.file_name)).name, []).append(info)
    taken: set[ImageId] = set()
    result = []
    for item in items:
        path = item.path.absolute().as_posix()
        found = [info for info in named.get(item.path.name, ()) if path.endswith(f"/{forward(info.file_name)}")]
        if len(found) != 1 or found[0].id in taken:
            what = "names several images like" if found else "does not name"
            raise InputError(f"{what} {item.path}", where=json, hint="leave out the image, or --json")
        taken.add(found[0].id)
        result.append(item._replace(image_id=found[0].id, file_name=found[0].file_name))
    return result


def _without_outputs(paths: list[Path], named: Sequence[str]) -> list[Path]:
    """Images without those that this command wrote earlier, unless they are named one by one."""
    single = {Path(text).expanduser() for text in named}
    records: dict[Path, Record] = {}
    left = [path for path in paths if path in single or not is_output(path, KIND, records)]
    if not left and paths:
        raise InputError(f"holds no images but results of `{KIND}`", where=paths[0].parent, hint="give the images")
    if len(left) < len(paths):
        print(f"left out, as `{KIND}` wrote them: {len(paths) - len(left)} images")
    return left


def _video_name(source: str, out: Path, names: DistinctNames) -> str:
    """A name for the outputs of a video; for those of a camera one that is free, as what it saw cannot be had again."""
    file = _file_of(source)
    while True:
        name = names.choose(source.replace(":", "_") if file is None else file.name)
        if file is not None or not any((out / f"{name}{suffix}").exists() for suffix in ("_overlay.mp4", "_frames")):
            return name


def _file_of(source: str) -> Path | None:
    """Return the file of a video; None of a camera."""
    return None if is_camera(source) else Path(source)


def _segment_images(
    plan: _Plan, run: ImageRun, batch_size: int, facts: Mapping[str, str]
) -> tuple[Counter[str], list[str]]:
    """Segment the images, and write and print what was found: things by class, and the errors of those not done."""
    counts: Counter[str] = Counter()
    failures: list[str] = []
    if not plan.images:
        return counts, failures
    size = 1 if run.tile is not None else batch_size
    groups = [plan.images[start : start + size] for start in range(0, len(plan.images), size)]
    with ExitStack() as stack:
        if plan.gallery:
            pages = write_gallery(plan.out / "gallery.html", "Panoptic segmentation", run.model.categories, facts=facts)
            run.page = stack.enter_context(pages)
        run.table = stack.enter_context(segment_table(plan.out / SEGMENTS))
        # In tiles images are large: there is only one at a time.
        pipeline = Pipeline(run.read, run.run, run.write, overlap=run.tile is None)
        # Closed at the end, which waits for its threads: after Ctrl-C, too, no file is left half written.
        steps = stack.enter_context(closing(pipeline.process(groups)))
        bar = stack.enter_context(tqdm(desc="predict", unit="image", total=len(plan.images), leave=False, disable=None))
        for group, results in steps:
            if isinstance(results, Exception):
                raise results
            for item, done in zip(group, results, strict=True):
                bar.update()
                if isinstance(done, Exception):
                    failures.append(str(done))
                    continue
                tqdm.write(printable(f"{item.title}: {done.words}"))
                counts += done.counts
    run.write_json(plan.out / RESULTS)
    return counts, failures


def _segment_videos(
    plan: _Plan,
    outputs: Outputs,
    segment: Callable[[NDArray[np.uint8]], PanopticSegmentation],
    drawing: Mapping[str, Any],
    settings: Mapping[str, str],
    resume: bool,
) -> list[str]:
    """Segment the videos; returns the errors of those not done."""
    failures: list[str] = []
    for source, name in plan.videos:
        folder = plan.out / f"{name}_frames" if plan.frames else None
        try:
            path = plan.out / f"{name}_overlay.mp4"
            with enough_memory(source):
                run = TrackRun(source, plan.out, name, settings, resume=resume) if plan.track else None
                count = segment_video(
                    segment, source, path, frames=folder, drawing=drawing, tracking=run, overwrite=True
                )
        except InputError as error:
            failures.append(str(error))
            continue
        if folder is not None:
            outputs.prune(folder.name)
        tqdm.write(printable(f"{source}: {count} frames"))
    return failures


def _matches(text: str) -> Sequence[str]:
    """Return the videos that a name or a pattern stands for."""
    if is_camera(text) or Path(text).exists():
        return [text]
    if not glob.has_magic(text):
        raise InputError("does not exist", where=text, hint="give a video, or camera:0 for the first camera")
    records: dict[Path, Record] = {}
    matches = [name for name in sorted(glob.glob(text, recursive=True)) if not is_output(Path(name), KIND, records)]
    if not matches:
        raise InputError("no file matches the pattern", where=text, hint="give videos")
    return matches

"""`banet predict`: id map, records and an overlay for each image; an overlay of each video."""

from __future__ import annotations

import glob
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from banet.data.images import find_depth
from banet.engine.models import Runtime, describe_model, digest_of_weights, open_model
from banet.engine.prediction.images import Group, ImageRun, enough_memory
from banet.engine.prediction.merge import RESULTS, SEGMENTS, Merged, merge_images
from banet.engine.prediction.pipeline import Pipeline
from banet.engine.prediction.sources import IMAGE_OUTPUTS, OVERLAY, RESERVED, Item, Sources
from banet.engine.prediction.stores import ArchiveStore, open_store
from banet.engine.prediction.track import TRACK_OUTPUTS, TrackRun
from banet.engine.prediction.video import is_camera, is_video, load_av, segment_video
from banet.engine.sharing.bar import RunBar
from banet.engine.sharing.process import Process, this_process
from banet.engine.sharing.shared_run import SharedRun
from banet.engine.sharing.work_list import WorkList
from banet.errors import InputError, InputWarning, printable
from banet.files.names import DistinctNames
from banet.files.outputs import Again, Outputs, Record, is_output, outputs_in, weight_files
from banet.files.remote import is_remote, without_scheme
from banet.panoptic import Categories, PanopticSegmentation
from banet.panoptic.segmentation import join_some
from banet.types import BitDepth, Precision, StrPath

__all__ = ["RESULTS", "SEGMENTS", "Runtime", "predict_files"]

KIND = "banet predict"
_NOT_OF_THE_RESULT = frozenset({"weights", "inputs", "out", "recursive", "device", "listed", "resume", "overwrite"})
"""Arguments that the results do not depend on, or that the list or the weights stand for."""


@dataclass(frozen=True)
class _Plan:
    """What goes in and what comes out, known before anything is computed.

    Attributes:
        sources: The images that are to be segmented.
        work: The same, each on a line of a file.
        videos: Source and name of outputs of each video and camera.
        out: Folder of the outputs.
        gallery: Whether there is a page of all images.
        frames: Whether frames of videos are kept.
        track: Whether objects of videos keep their ids.
        archives: Whether images go to archives, so that there are no files of each.
        suffixes: Ends of the names of an image's files.
    """

    sources: Sources
    work: WorkList
    videos: list[tuple[str, str]]
    out: StrPath
    gallery: bool
    frames: bool
    track: bool
    archives: bool
    suffixes: Sequence[str]

    def names(self) -> Iterator[tuple[str, Path | None]]:
        """Yield the names of the outputs, each with what it is made from."""
        yield from self._of_videos()
        if len(self.work):
            for name in (SEGMENTS, RESULTS, *(["gallery.html"] if self.gallery else [])):
                yield name, None
        for line in self.work if not self.archives else ():
            item = Item(**line)
            for suffix in self.suffixes:
                yield f"{item.name}{suffix}", item.origin

    def inputs(self, others: Sequence[str]) -> Iterator[StrPath]:
        """Yield the files that are read, and their URLs."""
        yield from (item.origin or item.path for item in (Item(**line) for line in self.work))
        yield from (file for source, _ in self.videos if (file := _file_of(source)) and not file.is_dir())
        yield from (file for one in others for file in weight_files(one))

    def outputs(self, others: Sequence[str], overwrite: bool) -> Outputs:
        """Return the outputs, which are not checked yet.

        Args:
            others: Weights and other files that are read beside images and videos.
            overwrite: See `Outputs`.

        Raises:
            InputError: See `Outputs`.
        """
        shared = {name: None for name in RESERVED} | dict(self._of_videos())
        return outputs_in(
            self.out,
            KIND,
            shared,
            trees=[f"{name}_frames" for _, name in self.videos] if self.frames else (),
            folders=[file for source, _ in self.videos if (file := _file_of(source)) and file.is_dir()],
            inputs=Again(lambda: self.inputs(others)),
            overwrite=overwrite,
            checked=False,
        )

    def _of_videos(self) -> Iterator[tuple[str, Path | None]]:
        return (pair for source, name in self.videos for pair in self.of_video(source, name))

    def of_video(self, source: str, name: str) -> Iterator[tuple[str, Path | None]]:
        """Yield the names of the outputs of a video, but for those of its frames, with its file."""
        return ((f"{name}{end}", _file_of(source)) for end in ("_overlay.mp4", *(TRACK_OUTPUTS if self.track else ())))


def predict_files(
    weights: str,
    inputs: list[str],
    out: StrPath,
    *,
    recursive: bool = False,
    rule: str | None = None,
    score_threshold: float | None = None,
    classes: Sequence[str | int] | None = None,
    overlap_threshold: float | None = None,
    precision: Precision = "32",
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
    bit_depth: BitDepth | None = None,
    page: int | Literal["all"] | None = None,
    drawing: Mapping[str, Any] | None = None,
    listed: str | None = None,
    shards: int | None = None,
    overlays: bool = True,
    resume: bool = False,
    overwrite: bool = False,
) -> int:
    """Segment images and videos; a bad one does not keep the others from being done.

    A folder or pattern leaves out what this function has written there itself. Where torchrun or SLURM started several
    processes, each does its share, and the one that finishes last writes what is of all; see `SharedRun`.

    Args:
        weights: See `banet.load`; or, with another runtime than torch, a file that `banet export` wrote.
        inputs: Images, folders of images, or patterns; videos and cameras (see `is_video`).
        out: Folder, or the URL of one, that gets `NAME.png`, `NAME.json` and `NAME_overlay.jpg` for each image,
            `NAME_overlay.mp4` for each video, `panoptic.json`, the COCO panoptic JSON of all images, and
            `segments.csv`, a table of their segments.
        recursive: Also segment what lies in the folders of a folder; NAME then keeps these folders.
        rule: Another occlusion rule than the one saved with the weights.
        score_threshold: Instances score above this, in place of the threshold saved with the weights. An exported
            graph leaves instances out itself, so for it the threshold can only be raised.
        classes: Names or ids of the classes to keep.
        overlap_threshold: Fraction of either mask above which a pair is decided by the rule.
        precision: What the network computes in; see `Predictor.predict`.
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
        bit_depth: Bits that samples of 16-bit images use, in place of those saved with the weights; `auto` finds one
            number for all images.
        page: The page or frame, from 1, of files that have several; `all` makes each an image of its own, with outputs
            `NAME_pageN`. By default the first, with a note.
        drawing: Options of `PanopticSegmentation.draw` for the overlays.
        listed: A text file with a path per line and, behind a tab, an id.
        shards: Write the files of so many images each to a tar archive, in place of files of their own.
        overlays: Also write `NAME_overlay.jpg` of each image.
        resume: Go on with the run that was stopped in `out`, by as many processes as there are now.
        overwrite: Also replace files that this function did not write, but never an input.

    Returns:
        How many images and videos could not be done; each is named on standard error, as are images in folders that
        are of no format that is read. 0 in all of several processes but the last.

    Raises:
        InputError: No image is found, an output would replace a file of the user's (see `Outputs`), the weights
            cannot be read, or `overlap` does not fit.
        MissingExtraError: The runtime is not installed.
        KeyboardInterrupt: See `segment_video`.
    """
    given_options = dict(locals())
    if overlap is not None and (tile is None or not 1 <= overlap < tile):
        raise InputError("must be at least 1 and less than --tile", where=f"--overlap {overlap}")
    process = this_process()
    given, videos = _split(inputs, frames or track, listed, track=track)
    sources = Sources(
        given, listed=listed, recursive=recursive, page=page, ids=json, kind=KIND, dotless=shards is not None
    )
    with WorkList(item.to_line() for item in (sources if given or listed else ())) as work:
        names = DistinctNames("_overlay.mp4", "_frames", *TRACK_OUTPUTS)
        if videos and is_remote(without_scheme(out)):
            raise InputError("results of videos go to a folder of this machine", where=f"--out {out}", hint="give one")
        suffixes = [suffix for suffix in IMAGE_OUTPUTS if overlays or suffix != OVERLAY]
        named = [(video, _video_name(video, Path(without_scheme(out)), names)) for video in videos]
        plan = _Plan(sources, work, named, out, gallery, frames or track, track, shards is not None, suffixes)
        _tell(sources, process)
        others = [weights, *(each for each in (json, class_table, listed) if each)]
        outputs = plan.outputs(others, overwrite)
        options = {name: value for name, value in given_options.items() if name not in _NOT_OF_THE_RESULT}
        run = SharedRun(
            outputs,
            process,
            {**options, "weights": digest_of_weights(weights), "videos": [source for source, _ in named]},
            work,
            resume=resume,
            group=1 if tile is not None else batch_size,
            block=shards,
        )
        if run.finished:
            run.tidy()
            if process.first:
                print(f"nothing left to do: the run in {out} has ended")
            return 0
        run.prepare(plan.names())
        model, place = open_model(weights, device=device, runtime=runtime, class_table=class_table, trust=trust)
        model = model.configured(
            score=score_threshold, classes=classes, overlap_threshold=overlap_threshold, precision=precision
        )
        depth = find_depth((Item(**line).source for line in work), bit_depth or model.inference.bit_depth)
        if process.first:
            print(describe_model(model, weights, place))
        run.begin()
        facts = {"weights": weights, "data": ", ".join(inputs), "rule": str(rule or model.inference.rule)}
        facts |= {"trained on": model.domain} if model.domain else {}
        images = ImageRun(
            model,
            open_store(outputs, suffixes, archives=shards is not None),
            depth,
            rule,
            tile,
            overlap,
            gallery=gallery,
            drawing=drawing or {},
        )

        def segment(frame: NDArray[np.uint8]) -> PanopticSegmentation:
            return model.predict(frame, rule=rule, tile=tile, overlap=overlap)

        settings = {
            "--weights": weights,
            "--runtime": runtime,
            "--rule": str(rule or model.inference.rule),
            "--score": str(model.inference.score_threshold),
            "--overlap-threshold": str(model.inference.overlap_threshold),
            "--precision": precision,
            "--classes": str(sorted(map(str, classes or []))),
            "--tile": f"{tile} {overlap}",
            "--bit-depth": str(bit_depth or model.inference.bit_depth),
        }
        with outputs:
            _segment_images(run, images)
            _segment_videos(plan, run, segment, drawing or {}, settings, bit_depth or model.inference.bit_depth)
            if not run.is_last():
                print(run.told_at_the_end())
                return 0
            return _merge(plan, run, model.categories, facts)


def _tell(sources: Sources, process: Process) -> None:
    """Say what was passed over, once."""
    if not process.first:
        return
    for line in sources.skipped:
        warnings.warn(line, InputWarning, stacklevel=2)
    if sources.left_out:
        print(f"left out, as `{KIND}` wrote them: {sources.left_out} images")


def _split(inputs: list[str], frames: bool, listed: str | None, *, track: bool) -> tuple[list[str], list[str]]:
    """Return what names images, and the videos; a folder is one where objects keep their ids."""
    moving = [text for text in inputs if is_video(text) or (track and Path(text).is_dir())]
    given = [text for text in inputs if text not in moving]
    if moving:
        load_av()
    elif frames:
        option = "--track" if track else "--frames"
        raise InputError("goes with videos", where=option, hint="give one, or leave it out")
    if not inputs and listed is None:
        raise InputError("no images given", hint="give at least one image, folder or pattern")
    return given, [name for text in moving for name in _matches(text)]


def _merge(plan: _Plan, run: SharedRun, categories: Categories, facts: Mapping[str, str]) -> int:
    """Write what is of all images, and say what was found; returns how many could not be done."""
    merged = Merged()
    if len(plan.work):
        merged = merge_images(run, categories, facts, gallery=plan.gallery)
    else:
        run.adopt_records()
        _record_end(plan, run)
    for number in range(len(plan.videos)):
        merged.failures += [
            content["failure"] for _, content in run.part(_part_of(number)).lines() if "failure" in content
        ]
    run.close()
    failures = [*merged.failures, *plan.sources.unreadable]
    for failure in failures:
        print(f"banet: error: {failure}", file=sys.stderr)
    count = len(plan.work)
    kinds = [kind for kind, some in (("images", count), ("videos", plan.videos)) if some]
    total = count + len(plan.videos)
    things = join_some([f"{number:,} {name}" for name, number in merged.counts.most_common()]) or "no things"
    found = f" ({things} in all)" if count else ""
    table = f"; all segments: {run.outputs.told(SEGMENTS)}" if count else ""
    done = f"{total - len(merged.failures)} of {total} {' and '.join(kinds)} segmented"
    print(f"{done}{found}: {run.outputs.where}{table}")
    return len(failures)


def _record_end(plan: _Plan, run: SharedRun) -> None:
    """Record that a run of videos alone has ended, so that none is done again; one of a camera never has."""
    if any(_file_of(source) is None for source, _ in plan.videos):
        return
    done = {}
    for number, video in enumerate(plan.videos):
        entries = run.part(_part_of(number)).record.entries
        last = {name: entries.of(name)[-1:] for name, _ in plan.of_video(*video)}
        done.update({name: replace(entry, run=run.fingerprint) for name, some in last.items() for entry in some})
    run.outputs.record.append(done)


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


def _segment_images(run: SharedRun, images: ImageRun) -> None:
    """Segment the images of this process."""
    with ExitStack() as stack:
        store = stack.enter_context(images.store)
        archives = isinstance(store, ArchiveStore)
        groups = (
            Group(part, [Item(**line) for _, line in group], [place for place, _ in group])
            for part, some in run.parts(store.outputs_of, at_once=archives)
            for group in some
        )
        # In tiles images are large: there is only one at a time.
        pipeline = Pipeline(images.read, images.run, images.write, overlap=images.tile is None)
        # Closed at the end, which waits for its threads: after Ctrl-C, too, no file is left half written.
        steps = stack.enter_context(closing(pipeline.process(groups)))
        bar = stack.enter_context(RunBar("predict", run))
        for group, results in steps:
            if isinstance(results, Exception):
                raise results
            for item, done in zip(group.items, results, strict=True):
                bar.update()
                if not isinstance(done, Exception) and run.process.world == 1:
                    tqdm.write(printable(f"{item.title}: {done.words}"))


def _segment_videos(
    plan: _Plan,
    run: SharedRun,
    segment: Callable[[NDArray[np.uint8]], PanopticSegmentation],
    drawing: Mapping[str, Any],
    settings: Mapping[str, str],
    bit_depth: BitDepth,
) -> None:
    """Segment the videos of this process, each a part of the run."""
    for number, (source, name) in list(enumerate(plan.videos))[run.process.rank :: run.process.world]:
        part = run.part(_part_of(number))
        if run.resumed and set(part.whole(KIND, lambda _, part=part: part.record.entries)):  # type: ignore[misc]
            continue
        out = run.outputs.folder
        path, folder = out / f"{name}_overlay.mp4", out / f"{name}_frames" if plan.frames else None
        part.keep(())
        run.outputs.enter(part.record, dict(plan.of_video(source, name)))
        try:
            with enough_memory(source):
                track = TrackRun(source, out, name, settings, resume=run.resumed) if plan.track else None
                count = segment_video(
                    segment,
                    source,
                    path,
                    frames=folder,
                    drawing=drawing,
                    tracking=track,
                    overwrite=True,
                    bit_depth=bit_depth,
                )
        except InputError as error:
            part.add(0, {"failure": str(error)})
            continue
        if folder is not None:
            run.outputs.prune(folder.name)
        part.add(0, {})
        tqdm.write(printable(f"{source}: {count} frames"))


def _part_of(video: int) -> str:
    return f"video-{video}"


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

"""`banet predict`: id map, records and an overlay for each image; an overlay of each video."""

from __future__ import annotations

import csv
import glob
import io
import sys
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from banet.data.images import ImageList, find_depth, find_images, page_count, read_image, to_rgb_array
from banet.data.images.large import CroppableImage, DecodedImage, open_image
from banet.engine.device import is_out_of_memory
from banet.engine.prediction.pipeline import Pipeline
from banet.engine.prediction.video import is_camera, is_video, load_av, segment_video
from banet.engine.report.gallery import write_gallery
from banet.errors import InputError, InputWarning, MissingExtraError, printable
from banet.files.atomic import atomic_path
from banet.files.names import DistinctNames
from banet.files.outputs import Outputs, Record, is_output, weight_files
from banet.modeling.config import change_options
from banet.panoptic import PanopticSegmentation
from banet.panoptic.id_maps import find_ids
from banet.panoptic.sample_depth import SampleDepth
from banet.panoptic.segmentation import COLUMNS, join_some
from banet.types import BitDepth

if TYPE_CHECKING:
    from banet.engine.export.runtime import ExportedModel
    from banet.inference.banet import BANet
    from banet.inference.postprocess import Instances

__all__ = ["Runtime", "predict_files"]

Runtime = Literal["torch", "onnx", "openvino"]

KIND = "banet predict"
SEGMENTS = "segments.csv"
_IMAGE_OUTPUTS = (".png", ".json", "_overlay.jpg")
_OVERLAY_SIDE = 4096
"""Pixels of the longer side to which the overlay of an image in tiles is reduced: bounds the memory."""


class _Item(NamedTuple):
    """An image, or a page of a file of several, and the name of its outputs; without `page` it is the first."""

    path: Path
    name: str
    page: int | None = None

    @property
    def title(self) -> str:
        """Return what the image is called in messages and tables."""
        return f"{self.path}" if self.page is None else f"{self.path} (page {self.page + 1})"


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
    """

    images: list[_Item]
    unreadable: list[str]
    videos: list[tuple[str, str]]
    out: Path
    gallery: bool
    frames: bool

    def claim(self, weights: str, overwrite: bool) -> Outputs:
        """Check all outputs.

        Raises:
            InputError: See `Outputs`.
        """
        files = {f"{one.name}{suffix}": one.path for one in self.images for suffix in _IMAGE_OUTPUTS}
        sources: dict[str, Path | None] = {**files}
        sources |= {f"{name}_overlay.mp4": _file_of(source) for source, name in self.videos}
        if self.images:
            sources |= dict.fromkeys([SEGMENTS, *(["gallery.html"] if self.gallery else [])])
        read = [one.path for one in self.images] + [file for source, _ in self.videos if (file := _file_of(source))]
        return Outputs(
            self.out,
            KIND,
            sources,
            trees=[f"{name}_frames" for _, name in self.videos] if self.frames else (),
            inputs=[*read, *weight_files(weights)],
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
    device: str = "auto",
    runtime: Runtime = "torch",
    gallery: bool = False,
    tile: int | None = None,
    overlap: int | None = None,
    frames: bool = False,
    bit_depth: BitDepth | None = None,
    page: int | Literal["all"] | None = None,
    drawing: Mapping[str, Any] | None = None,
    overwrite: bool = False,
) -> int:
    """Segment images and videos; a bad one does not keep the others from being done.

    A folder or pattern leaves out what this function has written there itself.

    Args:
        weights: See `BANet.from_pretrained`; or, with another runtime than torch, a file that `banet export` wrote.
        inputs: Images, folders of images, or patterns; videos and cameras (see `is_video`).
        out: Folder that gets `NAME.png`, `NAME.json` and `NAME_overlay.jpg` for each image, `NAME_overlay.mp4` for each
            video, and `segments.csv`, a table of the segments of all images.
        recursive: Also segment what lies in the folders of a folder; NAME then keeps these folders.
        rule: Another occlusion rule than the one saved with the weights.
        score_threshold: Instances score above this, in place of the threshold saved with the weights. An exported
            graph leaves instances out itself, so for it the threshold can only be raised.
        device: `auto`, `cpu`, `cuda` or `mps`; the other runtimes compute on the CPU.
        runtime: What runs the network. All but `torch` need no torch.
        gallery: Also write `gallery.html`, one page of all images.
        tile: Side in pixels of the tiles that larger images and frames are cut into; see `BANet.predict`.
        overlap: Pixels that neighbouring tiles share at least; a quarter of the tile by default.
        frames: Also write the id map and records of each frame of a video, to the folder `NAME_frames`.
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
    plan = _plan(inputs, out, gallery, frames, page, recursive)
    outputs = plan.claim(weights, overwrite)
    model, place = _open(weights, runtime, device)
    if score_threshold is not None:
        _set_score_threshold(model, score_threshold)
    depth = find_depth((item.path for item in plan.images), bit_depth or model.inference.bit_depth)
    things = ", ".join(c.name for c in model.categories if c.isthing) or "none"
    stuff = ", ".join(c.name for c in model.categories if not c.isthing) or "none"
    print(f"{weights} on {place}: things: {things}; stuff: {stuff}")
    out.mkdir(parents=True, exist_ok=True)
    with outputs:
        note = f"{weights}, occlusion rule {rule or model.inference.rule}" if gallery else ""
        counts, failures = _segment_images(plan, model, depth, rule, tile, overlap, note, drawing or {})

        def segment(frame: NDArray[np.uint8]) -> PanopticSegmentation:
            return model.predict(frame, rule=rule, tile=tile, overlap=overlap)

        failures += _segment_videos(plan, outputs, segment, drawing or {})
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
    inputs: list[str], out: Path, gallery: bool, frames: bool, page: int | Literal["all"] | None, recursive: bool
) -> _Plan:
    given = [text for text in inputs if not is_video(text)]
    if len(given) < len(inputs):
        load_av()
    elif frames:
        raise InputError("goes with videos", where="--frames", hint="give one, or leave it out")
    videos = [name for text in inputs if is_video(text) for name in _matches(text)]
    images = find_images(given, recursive=recursive) if given or not videos else ImageList()
    for line in images.skipped:
        warnings.warn(line, InputWarning, stacklevel=2)
    paths = _without_outputs(images.paths, given)
    names, video_names = DistinctNames(*_IMAGE_OUTPUTS), DistinctNames("_overlay.mp4", "_frames")
    return _Plan(
        [item for path in paths for item in _pages(path, _name_of(path, given if recursive else ()), names, page)],
        images.unreadable,
        [(video, _video_name(video, out, video_names)) for video in videos],
        out,
        gallery,
        frames,
    )


def _name_of(path: Path, folders: Sequence[str]) -> PurePath:
    """Return the name of an image: with its place in the folder that was given, where it was found in one of some."""
    roots = (root for root in (Path(text).expanduser() for text in folders) if root in path.parents)
    root = next(roots, None)
    return PurePath(path.name) if root is None else path.relative_to(root)


def _pages(path: Path, name: PurePath, names: DistinctNames, page: int | Literal["all"] | None) -> list[_Item]:
    """Return what is to be segmented of a file."""
    try:
        count = 1 if page is None else page_count(path)
    except (InputError, MissingExtraError):  # the reader says why
        count = 1
    if page == "all" and count > 1:
        pages = [name.with_name(f"{name.stem}_page{n + 1}{name.suffix}") for n in range(count)]
        return [_Item(path, names.choose(each.as_posix()), n) for n, each in enumerate(pages)]
    return [_Item(path, names.choose(name.as_posix()), page - 1 if isinstance(page, int) and count > 1 else None)]


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
    plan: _Plan,
    model: BANet | ExportedModel,
    depth: SampleDepth,
    rule: str | None,
    tile: int | None,
    overlap: int | None,
    note: str,
    drawing: Mapping[str, Any],
) -> tuple[Counter[str], list[str]]:
    """Segment the images, and write and print what was found: things by class, and the errors of those not done."""
    counts: Counter[str] = Counter()
    failures: list[str] = []
    if not plan.images:
        return counts, failures
    with ExitStack() as stack:
        page = None
        if plan.gallery:
            pages = write_gallery(plan.out / "gallery.html", "Panoptic segmentation", model.categories, note=note)
            page = stack.enter_context(pages)
        table = stack.enter_context(_segment_table(plan.out / SEGMENTS))

        def read(item: _Item) -> CroppableImage:
            with _enough_memory(item.path):
                if tile is not None:
                    return open_image(item.path, bit_depth=depth, page=item.page)
                return DecodedImage(read_image(item.path, bit_depth=depth, page=item.page))

        def run(item: _Item, image: CroppableImage) -> Callable[[], _Found]:
            with _enough_memory(item.path):
                return _segment(model, image, rule, tile, overlap)

        def write(item: _Item, fuse: Callable[[], _Found]) -> tuple[str, Counter[str]]:
            path, name = item.path, item.name
            found = fuse()
            (plan.out / name).parent.mkdir(parents=True, exist_ok=True)
            table.writerows({"image": item.title, **_rounded(row)} for row in found.result.to_records())
            found.result.save(plan.out / f"{name}.png", file_name=path.name)
            jpeg = io.BytesIO()  # given a file, Pillow would not notice that only a part of it fits on the disk
            found.shown.draw(found.image, legend=True, **drawing).save(jpeg, format="JPEG", quality=92)
            with atomic_path(plan.out / f"{name}_overlay.jpg") as temporary:
                temporary.write_bytes(jpeg.getbuffer())
            if page is not None:
                page.add(str(path), found.image, {"result": found.shown}, instances=found.instances)
            return found.result.describe(), Counter(found.result.counts())

        # In tiles images are large: there is only one at a time.
        pipeline = Pipeline(read, run, write, failures=(InputError, MissingExtraError), overlap=tile is None)
        # Closed at the end, which waits for its threads: after Ctrl-C, too, no file is left half written.
        steps = stack.enter_context(closing(pipeline.process(plan.images)))
        for item, done in tqdm(steps, desc="predict", unit="image", total=len(plan.images), leave=False, disable=None):
            if isinstance(done, Exception):
                failures.append(str(done))
            else:
                words, things = done
                tqdm.write(printable(f"{item.title}: {words}"))
                counts += things
    return counts, failures


def _segment_videos(
    plan: _Plan,
    outputs: Outputs,
    segment: Callable[[NDArray[np.uint8]], PanopticSegmentation],
    drawing: Mapping[str, Any],
) -> list[str]:
    """Segment the videos; returns the errors of those not done."""
    failures: list[str] = []
    for source, name in plan.videos:
        folder = plan.out / f"{name}_frames" if plan.frames else None
        try:
            path = plan.out / f"{name}_overlay.mp4"
            with _enough_memory(source):
                count = segment_video(segment, source, path, frames=folder, drawing=drawing, overwrite=True)
        except InputError as error:
            failures.append(str(error))
            continue
        if folder is not None:
            outputs.prune(folder.name)
        tqdm.write(printable(f"{source}: {count} frames"))
    return failures


@contextmanager
def _segment_table(path: Path) -> Iterator[csv.DictWriter[str]]:
    """Write a table of segments, a row at a time."""
    with (
        atomic_path(path) as temporary,  # names of files need not be text
        temporary.open("w", encoding="utf-8", errors="backslashreplace", newline="") as stream,
    ):
        table = csv.DictWriter(stream, ("image", *COLUMNS))
        table.writeheader()
        yield table


def _rounded(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return a row of the table without digits that say nothing."""
    return {key: round(value, 4) if isinstance(value, float) else value for key, value in row.items()}


@contextmanager
def _enough_memory(source: str | Path) -> Iterator[None]:
    """Raise an error that says what to do when memory does not suffice for an image or video."""
    try:
        yield
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        raise InputError(
            "does not fit into the memory", where=source, hint="add --tile 512, or less, or --device cpu"
        ) from None


class _Found(NamedTuple):
    """What was found in an image.

    Attributes:
        result: The result.
        image: The image, or in tiles, if it is large, a reduced copy.
        shown: The result at the size of `image`.
        instances: Those that the result was fused from, where they are known.
    """

    result: PanopticSegmentation
    image: NDArray[np.uint8]
    shown: PanopticSegmentation
    instances: Instances | None


def _segment(
    model: BANet | ExportedModel, image: CroppableImage, rule: str | None, tile: int | None, overlap: int | None
) -> Callable[[], _Found]:
    """Run the network on an image, in tiles if it is larger than a tile, and return what is left to do after that."""
    if isinstance(image, DecodedImage) and (tile is None or max(image.shape[:2]) <= tile):
        (unfused,) = model.predict_unfused([to_rgb_array(image.image)])

        def fuse() -> _Found:
            result = unfused.fuse(model.categories, model.inference, rule=rule)
            return _Found(result, unfused.image, result, unfused.instances)

        return fuse
    result = model.predict(image, rule=rule, tile=tile, overlap=overlap, progress=True)
    factor = -(-max(image.shape[:2]) // _OVERLAY_SIDE)
    found = _Found(result, image.reduced(factor), _reduced(result, factor), None)
    return lambda: found


def _reduced(result: PanopticSegmentation, factor: int) -> PanopticSegmentation:
    """Return a result of every `factor`-th row and column, without the segments that fall between them."""
    ids = result.ids[::factor, ::factor]
    left = set(find_ids(ids).tolist())
    segments = [segment for segment in result.segments if segment.id in left]
    return PanopticSegmentation.from_ids(ids, segments, result.categories)


def _matches(text: str) -> Sequence[str]:
    """Return the videos that a name or a pattern stands for."""
    if is_camera(text) or Path(text).exists():
        return [text]
    if not glob.has_magic(text):
        raise InputError(f"{text}: does not exist; give a video, or camera:0 for the first camera")
    records: dict[Path, Record] = {}
    matches = [name for name in sorted(glob.glob(text, recursive=True)) if not is_output(Path(name), KIND, records)]
    if not matches:
        raise InputError("no file matches the pattern", where=text, hint="give videos")
    return matches


def _open(weights: str, runtime: Runtime, device: str) -> tuple[BANet | ExportedModel, str]:
    """Return the model, and the name of its device."""
    suffix = {"onnx": ".onnx", "openvino": ".xml"}
    if runtime != "torch":
        from banet.engine.export.runtime import ExportedModel

        if Path(weights).suffix != suffix[runtime]:
            raise InputError(
                f"--runtime {runtime} runs {suffix[runtime]} files", where=weights, hint="`banet export` makes them"
            )
        if device not in ("auto", "cpu"):
            raise InputError(
                f"--runtime {runtime} computes on the CPU", where=f"--device {device}", hint="choose auto or cpu"
            )
        return ExportedModel.open(weights), "cpu"
    if Path(weights).suffix in suffix.values():
        known = next(name for name, ending in suffix.items() if ending == Path(weights).suffix)
        raise InputError("is an exported network", where=weights, hint=f"add --runtime {known}")
    from banet.engine.device import pick_device
    from banet.inference.banet import BANet

    target = pick_device(device)
    return BANet.from_pretrained(weights, device=target), target.type


def _set_score_threshold(model: BANet | ExportedModel, threshold: float) -> None:
    from banet.engine.export.runtime import ExportedModel

    saved = model.inference.score_threshold
    if isinstance(model, ExportedModel) and threshold < saved:
        raise InputError(
            f"the exported graph leaves out scores up to {saved:g}", where=f"--score {threshold:g}", hint="give more"
        )
    model.inference = change_options(model.inference, {"score_threshold": threshold})

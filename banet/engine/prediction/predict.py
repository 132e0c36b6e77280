"""`banet predict`: id map, records and an overlay for each picture; an overlay of each video."""

from __future__ import annotations

import glob
import io
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from banet.data.images import list_images, read_image, to_rgb_array
from banet.data.large import DecodedPicture, Picture, open_picture
from banet.engine.device import is_out_of_memory
from banet.engine.prediction.video import is_video, load_av, segment_video
from banet.engine.report.gallery import write_gallery
from banet.errors import InputError, MissingExtraError
from banet.files.atomic import atomic_path
from banet.panoptic import PanopticSegmentation

if TYPE_CHECKING:
    from PIL import Image

    from banet.engine.export.runtime import ExportedModel
    from banet.modeling.banet import BANet
    from banet.modeling.instances import Instances, Readout

__all__ = ["Runtime", "predict_files"]

Runtime = Literal["torch", "onnx", "openvino"]

_OVERLAY_SIDE = 4096
"""Pixels of the longer side to which the overlay of a picture in tiles is reduced: bounds the memory."""


def predict_files(
    weights: str,
    inputs: list[str],
    out: Path,
    *,
    rule: str | None = None,
    device: str = "auto",
    runtime: Runtime = "torch",
    gallery: bool = False,
    tile: int | None = None,
    overlap: int | None = None,
    frames: bool = False,
) -> int:
    """Segment pictures and videos; a bad one does not keep the others from being done.

    Args:
        weights: See `BANet.from_pretrained`; or, with another runtime than torch, a file that `banet export` wrote.
        inputs: Pictures, folders of pictures, or patterns; videos and cameras (see `is_video`).
        out: Folder that gets `NAME.png`, `NAME.json` and `NAME_overlay.jpg` for each picture, and `NAME_overlay.mp4`
            for each video.
        rule: Another occlusion rule than the one saved with the weights.
        device: `auto`, `cpu`, `cuda` or `mps`; the other runtimes compute on the CPU.
        runtime: What runs the network. All but `torch` need no torch.
        gallery: Also write `gallery.html`, one page of all pictures.
        tile: Side in pixels of the tiles that larger pictures and frames are cut into; see `BANet.predict`.
        overlap: Pixels that neighbouring tiles share at least; a quarter of the tile by default.
        frames: Also write the id map and records of each frame of a video, to the folder `NAME_frames`.

    Returns:
        How many pictures and videos could not be done; each is named on standard error.

    Raises:
        InputError: No picture is found, the weights cannot be read, or `overlap` does not fit.
        MissingExtraError: The runtime is not installed.
        KeyboardInterrupt: See `segment_video`.
    """
    if overlap is not None and (tile is None or not 1 <= overlap < tile):
        raise InputError(f"--overlap {overlap}: must be at least 1 and less than --tile")
    videos = [name for text in inputs if is_video(text) for name in _matches(text)]
    pictures = [text for text in inputs if not is_video(text)]
    if videos:
        load_av()
    elif frames:
        raise InputError("--frames: goes with videos; give one, or leave it out")
    paths = list_images(pictures) if pictures or not videos else []
    names = _names(paths)
    model, place = _open(weights, runtime, device)
    things = ", ".join(c.name for c in model.categories if c.isthing) or "none"
    stuff = ", ".join(c.name for c in model.categories if not c.isthing) or "none"
    print(f"{weights} on {place} knows the things {things}; and the stuff {stuff}")
    out.mkdir(parents=True, exist_ok=True)
    failures: list[str] = []
    with ExitStack() as stack:
        page = None
        if gallery and paths:
            note = f"{weights}, occlusion rule {rule or model.inference.rule}"
            pages = write_gallery(out / "gallery.html", "Panoptic segmentation", model.categories, note=note)
            page = stack.enter_context(pages)

        def write(path: Path, name: str, fuse: Callable[[], _Found]) -> None:
            found = fuse()
            found.result.save(out / f"{name}.png", file_name=path.name)
            jpeg = io.BytesIO()  # given a file, Pillow would not notice that only a part of it fits on the disk
            found.shown.draw(found.image, legend=True).save(jpeg, format="JPEG", quality=92)
            with atomic_path(out / f"{name}_overlay.jpg") as temporary:
                temporary.write_bytes(jpeg.getbuffer())
            if page is not None:
                page.add(str(path), found.image, {"result": found.shown}, instances=found.instances)

        # While the network works on a picture, the next is read and the one before fused and written; but in tiles
        # pictures are large, and there is only one at a time.
        reader, writer = (stack.enter_context(ThreadPoolExecutor(1)) for _ in range(2))
        ahead = (reader.submit(_picture, path, tile) for path in paths)
        coming = written = None
        for path, name in zip(tqdm(paths, desc="predict", unit="image", disable=not paths), names, strict=True):
            picture = coming or next(ahead)
            coming = next(ahead, None) if tile is None else None
            try:
                with _enough_memory(path):
                    fuse = _segment(model, picture.result(), rule, tile, overlap)
            except (InputError, MissingExtraError) as error:
                failures.append(str(error))
                continue
            del picture
            if written is not None:
                written.result()
            written = writer.submit(write, path, name, fuse)
            if tile is not None:
                written.result()
                del fuse
        if written is not None:
            written.result()

    def segment(frame: NDArray[np.uint8]) -> PanopticSegmentation:
        return model.predict(frame, rule=rule, tile=tile, overlap=overlap)  # type: ignore[no-any-return]

    for video, name in zip(videos, _names([Path(video.replace(":", "_")) for video in videos]), strict=True):
        target = _unused(out / f"{name}_overlay.mp4") if video.startswith("camera:") else out / f"{name}_overlay.mp4"
        folder = target.with_name(target.stem.removesuffix("_overlay") + "_frames") if frames else None
        try:
            with _enough_memory(video):
                segment_video(segment, video, target, frames=folder)
        except InputError as error:
            failures.append(str(error))
    for failure in failures:
        print(f"banet: error: {failure}", file=sys.stderr)
    what = " and ".join(["pictures"] * bool(paths) + ["videos"] * bool(videos))
    total = len(paths) + len(videos)
    print(f"{total - len(failures)} of {total} {what} segmented: {out}")
    return len(failures)


@contextmanager
def _enough_memory(source: str | Path) -> Iterator[None]:
    """Says of a picture or video for which the memory does not suffice what to do."""
    try:
        yield
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        raise InputError(f"{source}: does not fit into the memory; add --tile 512, or less, or --device cpu") from None


class _Found(NamedTuple):
    """What was found in a picture.

    Attributes:
        result: The result.
        image: The picture, or in tiles, if it is large, a reduced copy.
        shown: The result at the size of `image`.
        instances: Those that the result was fused from, where they are known.
    """

    result: PanopticSegmentation
    image: NDArray[np.uint8]
    shown: PanopticSegmentation
    instances: Instances | None


def _picture(path: Path, tile: int | None) -> Picture:
    return DecodedPicture(read_image(path)) if tile is None else open_picture(path)


def _segment(
    model: BANet | ExportedModel, picture: Picture, rule: str | None, tile: int | None, overlap: int | None
) -> Callable[[], _Found]:
    """Runs the network on a picture, in tiles if it is larger than a tile; gives what is left to do after that."""
    if isinstance(picture, DecodedPicture) and (tile is None or max(picture.shape[:2]) <= tile):
        readout = _read(model, picture.image)

        def fuse() -> _Found:
            result = readout.fuse(model.categories, model.inference, rule=rule)
            return _Found(result, readout.image, result, readout.instances)

        return fuse
    result = model.predict(picture, rule=rule, tile=tile, overlap=overlap, progress=True)
    factor = -(-max(picture.shape[:2]) // _OVERLAY_SIDE)
    found = _Found(result, picture.reduced(factor), _reduced(result, factor), None)
    return lambda: found


def _reduced(result: PanopticSegmentation, factor: int) -> PanopticSegmentation:
    """A result of every so many rows and columns, without the segments that fall between them."""
    ids = result.ids[::factor, ::factor]
    left = set(np.unique(ids).tolist())
    segments = [
        {"id": each.id, "category_id": each.category_id, "score": each.score}
        for each in result.segments
        if each.id in left
    ]
    return PanopticSegmentation.from_ids(ids, segments, result.categories)


def _matches(text: str) -> Sequence[str]:
    """The videos that a name or a pattern stands for."""
    matches = sorted(glob.glob(text, recursive=True)) if glob.has_magic(text) and not Path(text).exists() else [text]
    if not matches:
        raise InputError(f"{text}: no file matches the pattern; give videos")
    return matches


def _unused(path: Path) -> Path:
    """A name that no file has yet, as what a camera saw cannot be had again."""
    number = 2
    free = path
    while free.exists():
        free = path.with_stem(f"{path.stem.removesuffix('_overlay')}_{number}_overlay")
        number += 1
    return free


def _read(model: BANet | ExportedModel, image: Image.Image) -> Readout:
    """What the network says of a picture, at the picture's size."""
    from banet.engine.export.runtime import ExportedModel

    if isinstance(model, ExportedModel):
        return model.read(to_rgb_array(image))
    import torch

    from banet.modeling.readout import read_images

    with torch.inference_mode():
        return next(read_images(model, [image]))


def _open(weights: str, runtime: Runtime, device: str) -> tuple[BANet | ExportedModel, str]:
    """The model, and where it computes."""
    suffix = {"onnx": ".onnx", "openvino": ".xml"}
    if runtime != "torch":
        from banet.engine.export.runtime import ExportedModel

        if Path(weights).suffix != suffix[runtime]:
            raise InputError(f"{weights}: --runtime {runtime} runs {suffix[runtime]} files; `banet export` makes them")
        if device not in ("auto", "cpu"):
            raise InputError(f"--device {device}: --runtime {runtime} computes on the CPU; choose auto or cpu")
        return ExportedModel.open(weights), "cpu"
    if Path(weights).suffix in suffix.values():
        known = next(name for name, ending in suffix.items() if ending == Path(weights).suffix)
        raise InputError(f"{weights}: is an exported network; add --runtime {known}")
    from banet.engine.device import pick_device
    from banet.modeling.banet import BANet

    target = pick_device(device)
    return BANet.from_pretrained(weights, device=target), target.type


def _names(paths: list[Path]) -> list[str]:
    """A name for each picture's results; pictures of the same stem keep their ending or get a number."""
    taken: set[str] = set()
    names = []
    for path in paths:
        candidates = [path.stem, path.name.replace(".", "_")]
        name = next((c for c in candidates if c not in taken), None)
        number = 2
        while name is None or name in taken:
            name = f"{path.stem}_{number}"
            number += 1
        taken.add(name)
        names.append(name)
    return names

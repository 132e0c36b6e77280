"""Videos and cameras: frames in, a video with the results drawn over them out, one frame in memory at a time."""

from __future__ import annotations

import io
import os
import re
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Protocol

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from banet.engine.prediction.frames import FolderReader
from banet.engine.prediction.track import TrackRun
from banet.errors import InputError, MissingExtraError
from banet.files.atomic import atomic_path
from banet.files.reading import open_file
from banet.files.worker import reads_untrusted
from banet.panoptic import PanopticSegmentation
from banet.panoptic.drawing.colors import LastingColors
from banet.types import BitDepth

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.video.frame import VideoFrame
    from av.video.stream import VideoStream

__all__ = [
    "SUFFIXES",
    "Timed",
    "VideoReader",
    "VideoWriter",
    "is_camera",
    "is_video",
    "load_av",
    "segment_video",
]

SUFFIXES = frozenset(
    {".3gp", ".avi", ".flv", ".m2ts", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".mts", ".ogv", ".webm", ".wmv"}
)
"""File names that count as videos."""

_CAMERA = re.compile(r"camera:(\d{1,3})")
_QUALITY = {"crf": "18", "preset": "veryfast"}  # of H.264; the network takes far longer than any preset
_BT709 = 1  # the number of these colours in H.264, for matrix, primaries and transfer


def is_video(text: str) -> bool:
    """Return whether an input names a video file (by its ending) or a camera, `camera:0`."""
    return is_camera(text) or Path(text).suffix.lower() in SUFFIXES


def is_camera(text: str) -> bool:
    """Return whether an input names a camera, `camera:0`."""
    return _CAMERA.fullmatch(text) is not None


def segment_video(
    segment: Callable[[NDArray[np.uint8]], PanopticSegmentation],
    source: str,
    path: Path,
    *,
    frames: Path | None = None,
    drawing: Mapping[str, Any] | None = None,
    tracking: TrackRun | None = None,
    overwrite: bool = False,
    bit_depth: BitDepth | None = None,
) -> int:
    """Segments a video frame by frame; writes it anew with the results drawn over it.

    Size, frame rate and the time of each frame are kept; a side of an odd number of pixels gains one, as players of
    H.264 want even ones. Sound is left out. Ctrl-C ends the video after the frame at work.

    Args:
        segment: Segments a frame (H, W, 3).
        source: A video file; `camera:N` for the N-th camera, which runs until Ctrl-C; or a folder of images, which are
            its frames, by name.
        path: The .mp4 to write; there once it is whole.
        frames: A folder to write `000001.png`, `000001.json` and so on to, the id map and records of each frame.
        drawing: Options of `PanopticSegmentation.draw`.
        tracking: Gives objects ids that last, and colors that follow them; it is not entered yet.
        overwrite: The folder for the frames may hold some, which are replaced.
        bit_depth: Bits of 16-bit samples of a folder's images; found in them by default.

    Returns:
        How many frames were done.

    Raises:
        InputError: The video cannot be opened, has no image, or is damaged; in the last case what could be read is
            written first. Or the folder for the frames holds some already.
        MissingExtraError: PyAV is not installed.
        KeyboardInterrupt: After Ctrl-C in a file; what was done is written.
    """
    if frames is not None and not overwrite and any(frames.glob("*.png")):
        raise InputError("holds frames already", where=frames, hint="delete the folder, or choose another with --out")
    done = 0
    with ExitStack() as stack:
        folder = Path(source).is_dir() and not is_video(source)
        reader: VideoReader | FolderReader = FolderReader(source, bit_depth) if folder else VideoReader(source)
        stack.enter_context(reader)
        stopped = stack.enter_context(_on_interrupt())
        bar = stack.enter_context(tqdm(total=reader.total, desc=Path(source).name, unit="frame"))
        colors = LastingColors((drawing or {}).get("style", "instance"))
        with atomic_path(path) as temporary, ExitStack() as files:
            writer = None
            if tracking is not None:
                files.enter_context(tracking)
            for image, ticks in reader:
                result = segment(image) if tracking is None else tracking.result(image, segment)
                if writer is None:
                    writer = files.enter_context(VideoWriter(temporary, reader))
                own = None if tracking is None else colors.choose(result.segments, result.categories)
                writer.write(np.asarray(result.draw(**(drawing or {}), colors=own)), ticks)
                done += 1
                if frames is not None:
                    frames.mkdir(parents=True, exist_ok=True)
                    result.save(frames / f"{done:06d}.png")
                if tracking is not None:
                    tracking.add(result)
                bar.update()
                if stopped():
                    break
            if not done:
                raise InputError("no frame of it can be read", where=source, hint="play it to see whether it is whole")
    if stopped() and not reader.live:
        of = f" of {reader.total}" if reader.total else ""
        raise KeyboardInterrupt(f"stopped after {done}{of} frames; {path} holds them")
    if reader.broken and not stopped():  # Ctrl-C may break what the camera waits for
        raise InputError(
            f"cannot be read on ({reader.broken})", where=source, hint=f"{path} holds the first {done} frames"
        )
    if reader.damaged:
        raise InputError(
            f"is damaged ({reader.damaged} packets)", where=source, hint=f"{path} holds the {done} other frames"
        )
    return done


class Timed(Protocol):
    """What is known of the frames of a video: how many a second, seconds per tick, width of a pixel over its height."""

    @property
    def rate(self) -> Fraction:
        """Frames a second, on average."""

    @property
    def time_base(self) -> Fraction:
        """Seconds a tick."""

    @property
    def aspect(self) -> Fraction | None:
        """Width of a pixel over its height, None where it is not said."""


class VideoReader:
    """The frames of a video file or of a camera, upright and in RGB, and their times.

    Args:
        source: As for `segment_video`, but not a folder.
        data: What the file holds, where it is not on the disk.

    Raises:
        InputError: It cannot be opened, or has no image.
        MissingExtraError: PyAV is not installed.

    Attributes:
        live: Whether it is a camera.
        rate: Frames a second, on average.
        time_base: Seconds a tick.
        total: How many frames there are, nearly; None where nobody knows.
        aspect: Width of a pixel over its height, None where it is not said.
        damaged: Packets that could not be decoded so far.
        broken: Why it could not be read on; None where it could.
    """

    def __init__(self, source: str, data: bytes | None = None) -> None:
        camera = _CAMERA.fullmatch(source) if data is None else None
        self.live = camera is not None
        self.source = source
        self.container = _open_camera(source, int(camera[1])) if camera else _open_file(source, data)
        if not self.container.streams.video:
            self.container.close()
            raise InputError("has no image", where=source, hint="give a video")
        self.stream: VideoStream = self.container.streams.video[0]
        self.stream.thread_type = "SLICE"  # threads of a frame each would lose frames next to a damaged one
        self.rate = self.stream.average_rate or self.stream.guessed_rate or Fraction(25)
        self.time_base = self.stream.time_base or 1 / self.rate
        self.aspect = self.stream.sample_aspect_ratio
        self.total = None if self.live else self.stream.frames or self._estimate()
        self.damaged = 0
        self.broken: str | None = None

    def _estimate(self) -> int | None:
        if self.stream.duration is not None:
            return round(self.stream.duration * self.time_base * self.rate)
        return round(self.container.duration * self.rate / 1_000_000) if self.container.duration else None

    def __enter__(self) -> VideoReader:
        return self

    def __exit__(self, *error: object) -> None:
        self.container.close()

    def __iter__(self) -> Iterator[tuple[NDArray[np.uint8], int]]:
        """Images (H, W, 3), all of the first one's size, and ticks since the first one, ever more."""
        step = max(1, round(1 / (self.rate * self.time_base)))
        start, last, size = 0, -1, (0, 0)
        for frame in self._frames():
            if last < 0:
                start, size = frame.pts or 0, (frame.width, frame.height)
                if self.aspect and round(frame.rotation / 90) % 2:
                    self.aspect = 1 / self.aspect
            # Some files tell no times, or let them stand still.
            ticks = last + step if frame.pts is None else frame.pts - start
            last = max(ticks, last + 1)
            image = frame.reformat(*size, format="rgb24").to_ndarray()
            yield np.ascontiguousarray(np.rot90(image, round(frame.rotation / 90))), last

    def _frames(self) -> Iterator[VideoFrame]:
        import av

        packets = self.container.demux(self.stream)
        while True:
            try:
                yield from next(packets).decode()
            except StopIteration:
                return
            except av.BlockingIOError:  # a camera that has no frame yet
                time.sleep(0.002)
                packets = self.container.demux(self.stream)
            except av.InvalidDataError:
                self.damaged += 1
            except av.FFmpegError as error:  # such as a camera that is unplugged
                self.broken = error.strerror
                return


def _open_file(source: str, data: bytes | None) -> InputContainer:
    av = load_av()
    if data is None and reads_untrusted():
        raise InputError("videos are not read with --untrusted", where=source, hint="leave it out")
    if data is None:
        open_file(source).close()
    try:
        # FFmpeg takes what stands before a colon for a protocol, but not in a whole path.
        container: InputContainer = av.open(os.path.abspath(source) if data is None else io.BytesIO(data))
    except av.FFmpegError as error:
        raise InputError(
            f"is not a video, or is damaged ({error.strerror})", where=source, hint="give another file"
        ) from error
    return container


def _open_camera(source: str, number: int) -> InputContainer:
    """Cameras have other names on each system."""
    av = load_av()
    options: dict[str, str] = {}
    name, driver = f"/dev/video{number}", "v4l2"
    if sys.platform == "darwin":
        name, driver, options = f"{number}:none", "avfoundation", {"framerate": "30"}
    elif sys.platform == "win32":
        if not hasattr(av, "enumerate_input_devices"):
            raise InputError("this PyAV cannot list cameras", where=source, hint="pip install --upgrade av")
        devices = [d for d in av.enumerate_input_devices("dshow") if "video" in d.media_types]
        if number >= len(devices):
            raise InputError("there is no such camera", where=source, hint=f"{len(devices)} are connected")
        name, driver = f"video={devices[number].name}", "dshow"
    try:
        container: InputContainer = av.open(name, format=driver, options=options)
    except (av.FFmpegError, ValueError) as error:
        what = getattr(error, "strerror", None) or error
        raise InputError(
            f"cannot be opened ({name}: {what})", where=source, hint="see that it is connected and free"
        ) from error
    return container


def load_av() -> Any:
    """PyAV.

    Raises:
        MissingExtraError: It is not installed.
    """
    try:
        import av
    except ImportError:
        raise MissingExtraError("PyAV", "video") from None
    return av


class VideoWriter:
    """An .mp4 of H.264.

    Args:
        path: The file; one in memory, too.
        reader: What the frames come from; its rate, ticks and shape of pixels are kept.
    """

    def __init__(self, path: Path | BinaryIO, reader: Timed) -> None:
        on_disk = isinstance(path, Path)
        options = {"movflags": "faststart"} if on_disk else {}  # FFmpeg moves the index by the name of the file
        self.container = load_av().open(str(path) if on_disk else path, "w", format="mp4", options=options)
        self.reader = reader
        self.stream: VideoStream | None = None

    def __enter__(self) -> VideoWriter:
        return self

    def write(self, image: NDArray[np.uint8], ticks: int) -> None:
        """Add an image (H, W, 3) at a time."""
        import av

        height, width = image.shape[:2]
        image = np.pad(image, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
        if self.stream is None:
            self.stream = self._start(image.shape[1], image.shape[0])
        frame = av.VideoFrame.from_ndarray(image, format="rgb24")
        frame = frame.reformat(format="yuv420p", dst_colorspace="ITU709", dst_color_range="MPEG")
        frame.pts, frame.time_base = ticks, self.reader.time_base
        self.container.mux(self.stream.encode(frame))

    def _start(self, width: int, height: int) -> VideoStream:
        stream: VideoStream = self.container.add_stream("libx264", rate=self.reader.rate, options=_QUALITY)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.time_base = stream.codec_context.time_base = self.reader.time_base
        if self.reader.aspect:
            stream.codec_context.sample_aspect_ratio = self.reader.aspect
        context = stream.codec_context
        context.colorspace = context.color_primaries = context.color_trc = _BT709
        context.color_range = 1  # 16 .. 235
        return stream

    def close(self) -> None:
        """Write what is left of the last frames, and the index."""
        self.__exit__(None)

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        try:
            if self.stream is not None and kind is None:
                self.container.mux(self.stream.encode(None))
        finally:
            self.container.close()


@contextmanager
def _on_interrupt() -> Iterator[Callable[[], bool]]:
    """Tell whether Ctrl-C was pressed, in place of stopping right there; at the second time it does stop."""
    pressed = 0

    def handle(*_: object) -> None:
        nonlocal pressed
        pressed += 1
        if pressed > 1:
            raise KeyboardInterrupt

    try:
        before = signal.signal(signal.SIGINT, handle)
    except ValueError:  # only the main thread may
        yield lambda: False
        return
    try:
        yield lambda: pressed > 0
    finally:
        signal.signal(signal.SIGINT, before)

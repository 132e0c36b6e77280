"""Videos that the tests make themselves, through a network that is not one."""

from __future__ import annotations

import signal
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from videos import CATEGORIES, RATE, TICK, picture, read, threshold, write

from banet.engine.prediction import predict, video
from banet.engine.prediction.video import is_video, segment_video
from banet.errors import InputError, MissingExtraError
from banet.files.outputs import RECORD
from banet.modeling.config import InferenceConfig

av = pytest.importorskip("av")


@pytest.mark.parametrize(("size", "out"), [((48, 64), (48, 64)), ((49, 67), (50, 68))])
def test_frames_rate_and_size_are_kept(tmp_path, size, out):
    source = write(tmp_path / "a.mp4", size)
    assert segment_video(threshold, str(source), tmp_path / "o.mp4", frames=tmp_path / "ids") == 6
    rate, codec, frames = read(tmp_path / "o.mp4")
    assert (rate, codec) == (RATE, "h264")
    assert [time for _, time in frames] == [1001 * k * TICK for k in range(6)]
    assert {frame.shape for frame, _ in frames} == {(*out, 3)}
    for k, (frame, _) in enumerate(frames):
        drawn = np.asarray(threshold(picture(k, *size)).draw()).astype(int)
        assert abs(frame[: size[0], : size[1]] - drawn).mean() < 6
        assert abs(frame[-1].astype(int) - frame[size[0] - 1]).mean() < 6  # the last row is repeated
    sky = np.array([frame[40, 10] for frame, _ in frames]).astype(int)
    assert np.ptp(sky, axis=0).max() <= 3  # a class has one colour throughout
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.mp4", "ids", "o.mp4"]
    assert [p.name for p in sorted((tmp_path / "ids").glob("*.png"))] == [f"{k:06d}.png" for k in range(1, 7)]
    assert (tmp_path / "ids" / "000006.json").exists()
    with pytest.raises(InputError, match="ids: holds frames already"):
        segment_video(threshold, str(source), tmp_path / "again.mp4", frames=tmp_path / "ids")


def test_times_are_kept_where_they_are_uneven(tmp_path):
    times = [500, 1500, 4500, 5000, 20000]
    source = write(tmp_path / "a.mkv", times=times)  # Matroska counts milliseconds
    segment_video(threshold, str(source), tmp_path / "o.mp4")
    expected = [time - read(source)[2][0][1] for _, time in read(source)[2]]
    assert [time for _, time in read(tmp_path / "o.mp4")[2]] == pytest.approx(expected)
    assert expected == pytest.approx([(time - 500) / 30000 for time in times], abs=0.002)


@pytest.mark.parametrize("turn", [90, -90, 180])
def test_frames_are_turned_as_a_phone_says(tmp_path, turn):
    source = write(tmp_path / "a.mp4", turn=turn)
    seen = []
    segment_video(lambda frame: seen.append(frame) or threshold(frame), str(source), tmp_path / "o.mp4")
    upright = np.rot90(picture(0, 48, 64), turn // 90).astype(int)
    assert seen[0].shape == upright.shape == read(tmp_path / "o.mp4")[2][0][0].shape
    assert abs(seen[0] - upright).mean() < 4


# ----------------------------------------------------------------------------------------------------------- bad videos


def sound(path: Path) -> None:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=8000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), dtype=np.float32), format="fltp", layout="mono")
        frame.sample_rate, frame.pts = 8000, 0
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def cut(path: Path) -> None:
    data = write(path).read_bytes()
    path.write_bytes(data[: len(data) // 2])  # an .mp4 tells at its end where everything is


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda path: None, "does not exist"),
        (lambda path: path.mkdir(), "is a folder"),
        (lambda path: path.write_bytes(b""), "is empty"),
        (lambda path: path.write_text("no video " * 99), "is not a video, or is damaged"),
        (cut, "is not a video, or is damaged"),
        (sound, "has no image"),
        (lambda path: write(path, times=[]), r"a\.mp4: "),
    ],
)
def test_what_is_no_video_is_one_line_and_leaves_nothing(tmp_path, make, said):
    make(tmp_path / "a.mp4")
    with pytest.raises(InputError, match=said) as error:
        segment_video(threshold, str(tmp_path / "a.mp4"), tmp_path / "o.mp4")
    assert "\n" not in str(error.value) and str(tmp_path / "a.mp4") in str(error.value)
    assert [p.name for p in tmp_path.iterdir() if p.name != "a.mp4"] == []


def test_what_can_be_read_of_a_damaged_video_is_written(tmp_path):
    source = write(tmp_path / "a.mov", codec="png")  # each packet is a frame of its own
    parts = source.read_bytes().split(b"\x89PNG")
    parts[2] = parts[2][:20] + bytes(100) + parts[2][120:]
    source.write_bytes(b"\x89PNG".join(parts))
    with pytest.raises(InputError, match=r"a\.mov: is damaged \(1 packets\); .*o\.mp4 holds the 5 other frames"):
        segment_video(threshold, str(source), tmp_path / "o.mp4")
    assert len(read(tmp_path / "o.mp4")[2]) == 5


def test_no_video_is_left_where_the_network_fails(tmp_path):
    source = write(tmp_path / "a.mp4")
    calls = []

    def fails(frame):
        calls.append(frame)
        if len(calls) == 3:
            raise RuntimeError("network")
        return threshold(frame)

    with pytest.raises(RuntimeError, match="network"):
        segment_video(fails, str(source), tmp_path / "o.mp4")
    assert [p.name for p in tmp_path.iterdir()] == ["a.mp4"]


# ------------------------------------------------------------------------------------------------------------- Ctrl-C


def pressing(after: int, times: int = 1):
    """`threshold`, with Ctrl-C pressed while it works on one frame."""
    calls = []

    def segment(frame):
        calls.append(frame)
        if len(calls) == after:
            for _ in range(times):
                signal.raise_signal(signal.SIGINT)
        return threshold(frame)

    return segment


def test_ctrl_c_ends_a_file_properly(tmp_path):
    source = write(tmp_path / "a.mp4")
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt, match=r"stopped after 3 of 6 frames; .*o.mp4 holds them"):
        segment_video(pressing(3), str(source), tmp_path / "o.mp4")
    assert len(read(tmp_path / "o.mp4")[2]) == 3
    assert signal.getsignal(signal.SIGINT) is before


def test_the_second_ctrl_c_stops_at_once(tmp_path):
    source = write(tmp_path / "a.mp4")
    with pytest.raises(KeyboardInterrupt):
        segment_video(pressing(3, times=2), str(source), tmp_path / "o.mp4")
    assert [p.name for p in tmp_path.iterdir()] == ["a.mp4"]


def test_a_camera_runs_until_ctrl_c(tmp_path, monkeypatch):
    monkeypatch.setattr(video, "_open_camera", lambda *_: av.open("testsrc=size=64x48:rate=10", format="lavfi"))
    assert segment_video(pressing(4), "camera:0", tmp_path / "o.mp4") == 4
    assert len(read(tmp_path / "o.mp4")[2]) == 4


def test_what_a_camera_saw_before_it_was_unplugged_is_written(tmp_path, monkeypatch):
    class Unplugged:
        def __init__(self):
            self.inner = av.open("testsrc=size=64x48:rate=10", format="lavfi")
            self.streams, self.close = self.inner.streams, self.inner.close
            self.calls = 0

        def demux(self, stream):
            self.calls += 1
            if self.calls == 1:
                raise av.BlockingIOError(11, "try again")
            for _ in range(3):
                yield next(self.inner.demux(stream))
            raise av.OSError(5, "Input/output error")

    monkeypatch.setattr(video, "_open_camera", lambda *_: Unplugged())
    with pytest.raises(
        InputError, match=r"cannot be read on \(Input/output error\); .*o\.mp4 holds the first 3 frames"
    ):
        segment_video(threshold, "camera:0", tmp_path / "o.mp4")
    assert len(read(tmp_path / "o.mp4")[2]) == 3


def test_a_camera_that_is_not_there(tmp_path):
    with pytest.raises(InputError, match=r"camera:987: (cannot be opened|there is no such camera)"):
        segment_video(threshold, "camera:987", tmp_path / "o.mp4")


def test_other_threads_may_segment_too(tmp_path):
    source = write(tmp_path / "a.mp4")
    done = []
    thread = threading.Thread(target=lambda: done.append(segment_video(threshold, str(source), tmp_path / "o.mp4")))
    thread.start()
    thread.join()
    assert done == [6]


# ------------------------------------------------------------------------------------------------------- banet predict


class Model:
    categories = CATEGORIES
    inference = InferenceConfig()
    domain = "grey videos"

    def configured(self, **_):
        return self

    def predict(self, image, *, rule=None, tile=None, overlap=None, progress=False):
        return threshold(image)


def test_predict_takes_videos_and_recordings(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(predict, "open_model", lambda *_, **__: (Model(), "nowhere"))
    monkeypatch.setattr(
        video, "_open_camera", lambda *_: av.open("testsrc=size=64x48:rate=10:duration=0.3", format="lavfi")
    )
    write(tmp_path / "a.mp4")
    write(tmp_path / "b.MP4")
    (tmp_path / "bad.mp4").write_text("no video")
    inputs = [str(tmp_path / "[a].mp4"), str(tmp_path / "b.MP4"), str(tmp_path / "bad.mp4"), "camera:2"]
    assert predict.predict_files("w", inputs, tmp_path / "out", frames=True) == 1
    assert predict.predict_files("w", ["camera:2"], tmp_path / "out") == 0
    assert sorted(p.name for p in (tmp_path / "out").iterdir() if p.name != RECORD) == [
        "a_frames",
        "a_overlay.mp4",
        "b_frames",
        "b_overlay.mp4",
        "camera_2_2_overlay.mp4",  # what a camera saw is never overwritten
        "camera_2_frames",
        "camera_2_overlay.mp4",
    ]
    said = capsys.readouterr()
    assert "3 of 4 videos segmented" in said.out and "bad.mp4: is not a video" in said.err


def test_videos_that_are_done_are_not_done_again(tmp_path, monkeypatch):
    monkeypatch.setattr(predict, "open_model", lambda *_, **__: (Model(), "nowhere"))
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "10:30.mp4")  # FFmpeg would take 10: for a protocol
    assert predict.predict_files("w", ["10:30.mp4"], tmp_path / "out", frames=True) == 0
    monkeypatch.setattr(predict, "open_model", lambda *_, **__: pytest.fail("is done again"))
    assert predict.predict_files("w", ["10:30.mp4"], tmp_path / "out", frames=True, resume=True) == 0


def test_predict_says_what_does_not_fit(tmp_path, monkeypatch):
    monkeypatch.setattr(predict, "open_model", lambda *_, **__: pytest.fail("opened the weights"))
    for inputs, options, said in [
        (["a.jpg"], {"frames": True}, "--frames: goes with videos"),
        (["a.jpg"], {"overlap": 8}, "--overlap 8: must be at least 1 and less than --tile"),
        (["a.jpg"], {"overlap": 8, "tile": 8}, "--overlap 8: must be"),
        ([str(tmp_path / "*.mp4")], {}, "no file matches the pattern"),
    ]:
        with pytest.raises(InputError, match=said.replace("*", r"\*")):
            predict.predict_files("w", inputs, tmp_path, **options)
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(MissingExtraError, match=r"PyAV, .*banet-panoptic\[video\]"):
        predict.predict_files("w", ["a.mp4"], tmp_path)


@pytest.mark.parametrize(
    ("text", "expected"),
    [("a.mp4", True), ("clips/B.MOV", True), ("camera:0", True), ("camera:x", False), ("a.jpg", False), ("mp4", False)],
)
def test_what_counts_as_a_video(text, expected):
    assert is_video(text) is expected

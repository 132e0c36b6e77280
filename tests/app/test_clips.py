"""Videos on the page: tracked, drawn, and refused in one line where they are none."""

from __future__ import annotations

import base64
import io
import json
from fractions import Fraction

import numpy as np
import pytest
from PIL import Image

from banet.errors import InputError
from banet.panoptic import Categories, PanopticSegmentation

av = pytest.importorskip("av")
pytest.importorskip("starlette")

from starlette.testclient import TestClient  # noqa: E402

from banet.app.answers import Limits, Segmenter  # noqa: E402
from banet.app.clips import TrackedClip  # noqa: E402
from banet.app.server import Page, web_app  # noqa: E402


def video(frames: int, size: tuple[int, int] = (48, 64)) -> bytes:
    """A bright square that goes to the right, as MP4."""
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=Fraction(10))
        stream.height, stream.width, stream.pix_fmt = *size, "yuv420p"
        for k in range(frames):
            image = np.full((*size, 3), 30, dtype=np.uint8)
            image[8:24, 3 * k : 3 * k + 14] = 240
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode(None))
    return file.getvalue()


class Bright:
    """Bright is a cup, the rest is sky; ids change from frame to frame."""

    categories = Categories.of([{"id": 7, "name": "cup", "isthing": 1}, {"id": 9, "name": "sky", "isthing": 0}])
    calls = 0

    def predict(self, image):
        self.calls += 1
        cup, sky = 1 + self.calls % 5, 10
        ids = np.where(np.asarray(image)[..., 1] > 128, cup, sky)
        records = [{"id": i, "category_id": 7 if i == cup else 9} for i in np.unique(ids).tolist()]
        return PanopticSegmentation.from_ids(ids, records, self.categories)


def tracked(data: bytes, limits: Limits | None = None) -> dict:
    model = Bright()
    clip = TrackedClip(model, Segmenter(model, limits or Limits()).decode_video(data, "a.mp4"))
    while clip.step():
        pass
    return json.loads(clip.finish())


def test_a_video_comes_back_with_one_object(tmp_path):
    answer = tracked(video(7))
    assert (answer["frames"], answer["things"], answer["size"], answer["notes"]) == (7, 1, [64, 48], [])
    with av.open(io.BytesIO(base64.b64decode(answer["video"]))) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    assert len(frames) == 7 and frames[0].shape == (48, 64, 3)


def test_long_and_large_videos_are_reduced():
    answer = tracked(video(9, (60, 100)), Limits(clip_frames=4, clip_side=50))
    assert (answer["frames"], answer["size"]) == (4, [50, 30])
    assert answer["notes"] == ["the first 4 of 9 frames"]


@pytest.mark.parametrize(
    ("data", "limits", "said"),
    [
        (b"no video", Limits(), r"a\.mp4: is not a video, or is damaged"),
        (video(3)[:600], Limits(), r"a\.mp4: is not a video, or is damaged"),
        (video(2), Limits(pixels=1000), r"a\.mp4: has 0\.0 million pixels, more than 0\.001 million"),
        (b"", Limits(), r"a\.mp4: is not a video"),
    ],
)
def test_what_is_refused_is_refused_in_one_line(data, limits, said):
    with pytest.raises(InputError, match=said) as error:
        Segmenter(Bright(), limits).decode_video(data, "a.mp4")
    assert "\n" not in str(error.value)


def test_the_page_answers(monkeypatch):
    monkeypatch.setattr("banet.app.server.describe", lambda *_: {})
    page = Page(Bright(), "made up", Limits(clip_frames=3))
    client = TestClient(web_app(page, "127.0.0.1"), base_url="http://127.0.0.1")
    headers = {"Content-Type": "application/octet-stream"}
    answer = client.post("/api/track?name=a.mp4", content=video(5), headers=headers)
    assert answer.status_code == 200 and answer.json()["frames"] == 3
    wrong = client.post("/api/track?name=a.mp4", content=b"none", headers=headers)
    assert wrong.status_code == 400 and wrong.json()["detail"].startswith("a.mp4: is not a video")
    assert client.post("/api/track", content=b"x", headers={"Content-Type": "text/plain"}).status_code == 415
    page._tracking = True  # another video has its turn
    assert client.post("/api/track", content=video(1), headers=headers).status_code == 503
    image = io.BytesIO()
    Image.new("RGB", (8, 8)).save(image, "PNG")
    page._tracking = False
    assert client.post("/api/track?name=b.png", content=b"\0" * 9, headers=headers).status_code == 400

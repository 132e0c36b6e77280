"""Videos of scenes: their truth is exact, their ids last, and any frame can be drawn alone."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from banet.cli import main
from banet.data.scenes import SCENE_CATEGORIES, SceneVideo
from banet.data.scenes.videos import write_videos
from banet.panoptic.coco.annotations import PanopticJson
from banet.panoptic.coco.png import read_ids

SIZE = 64, 96


def test_each_pixel_belongs_to_the_first_thing_of_the_order_that_covers_it():
    for index in range(4):
        for t in (0, 40, 1000):
            one = SceneVideo(7, index, SIZE).frame(t)
            expected = np.zeros(SIZE, dtype=np.int64)
            for row in one.order[::-1]:
                expected[one.masks[row]] = one.ids[row]
            things = [s.id for s in one.truth.segments if s.isthing]
            assert (np.where(np.isin(one.truth.ids, things), one.truth.ids, 0) == expected).all()
            shares = [(one.truth.ids == i).sum() / mask.sum() for i, mask in zip(one.ids, one.masks, strict=True)]
            assert one.visible.tolist() == pytest.approx(shares)
            assert (one.truth.ids > 0).all()


def test_an_id_is_one_object_throughout_and_every_frame_can_be_drawn_alone():
    video, classes, depths = SceneVideo(7, 1, SIZE), {}, {}
    for t in range(0, 400, 7):
        one, alone = video.frame(t), SceneVideo(7, 1, SIZE).frame(t)
        assert (one.image == alone.image).all() and (one.truth.ids == alone.truth.ids).all()
        for segment in one.truth.segments:
            assert classes.setdefault(segment.id, segment.category_id) == segment.category_id
        order = one.ids[one.order].tolist()
        for k, front in enumerate(order):
            for back in order[k + 1 :]:
                assert depths.setdefault((min(front, back), max(front, back)), front) == front
    assert len({i for i in classes if i > 8}) > len(SCENE_CATEGORIES) // 4


def test_things_cross_hide_one_another_and_come_out_again():
    hidden = returned = arrived = left = 0
    for index in range(3):
        before, first = {}, None
        for one in SceneVideo(9, index, SIZE).frames(200):
            now = dict(zip(one.ids.tolist(), one.visible.tolist(), strict=True))
            first = first or set(now)
            hidden += sum(before.get(i, 0) >= 0.5 > share for i, share in now.items())
            returned += sum(before.get(i, 1) < 0.5 <= share for i, share in now.items())
            arrived += len(set(now) - set(before) - first)
            left += len(set(before) - set(now))
            before = now
    assert hidden >= 5 and returned >= 5 and arrived >= 3 and left >= 3


def test_other_numbers_are_other_videos_and_bad_ones_are_refused():
    one = SceneVideo(1, 0, SIZE).frame(3)
    assert (one.image != SceneVideo(1, 1, SIZE).frame(3).image).any()
    assert (one.image != SceneVideo(2, 0, SIZE).frame(3).image).any()
    with pytest.raises(ValueError, match="must not be negative"):
        SceneVideo(-1, 0)
    with pytest.raises(ValueError, match="at least 32 x 32"):
        SceneVideo(0, 0, (16, 64))
    with pytest.raises(ValueError, match="frames count from 0"):
        SceneVideo(0, 0, SIZE).frame(-1)


def test_the_files_are_coco_panoptic_and_say_which_frame_is_of_which_video(tmp_path):
    path = write_videos(tmp_path / "out", 3, 2, 3, (40, 48))
    content = json.loads(path.read_text(encoding="utf-8"))
    assert [(v["name"], v["length"]) for v in content["videos"]] == [("0003_000000", 3), ("0003_000001", 3)]
    assert [(i["video_id"], i["frame_id"]) for i in content["images"]] == [(v, t) for v in (1, 2) for t in range(3)]
    parsed = PanopticJson.read(path)
    for info in parsed.images.values():
        folder, name = info.file_name.split("/")
        one = SceneVideo(3, int(folder[5:]), (40, 48)).frame(int(name[:6]) - 1)
        assert (read_ids(tmp_path / "out" / "panoptic" / info.file_name) == one.truth.ids).all()
        assert (np.asarray(Image.open(tmp_path / "out" / "images" / info.file_name)) == one.image).all()


def test_the_command_writes_videos(tmp_path, capsys):
    out = str(tmp_path / "toy")
    assert main(["data", "scenes", "--out", out, "--count", "1", "--size", "40", "--video", "2"]) == 0
    assert capsys.readouterr().out.strip() == f"{out}/panoptic.json"
    assert len(list((tmp_path / "toy" / "images" / "0000_000000").iterdir())) == 2
    assert main(["data", "scenes", "--out", str(tmp_path / "no"), "--video", "2", "--context"]) == 2
    assert "--context" in capsys.readouterr().err

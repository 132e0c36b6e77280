"""`banet predict --track`: ids that last, the files that hold them, and runs that were stopped."""

from __future__ import annotations

import json
import signal

import numpy as np
import pytest
from PIL import Image
from videos import CATEGORIES, read, threshold, write

from banet.engine.prediction import predict, track
from banet.engine.prediction.frames import FolderReader
from banet.errors import InputError
from banet.modeling.config import InferenceConfig
from banet.panoptic import PanopticSegmentation
from banet.panoptic.coco.annotations import PanopticJson
from banet.panoptic.coco.rle import decode_rle
from banet.panoptic.drawing.colors import LastingColors
from banet.panoptic.metrics.quality import score_folders


def shuffled(frame: np.ndarray) -> PanopticSegmentation:
    """`threshold`, with ids that change from frame to frame."""
    found, k = threshold(frame), int(frame[..., 0].argmax()) % 7
    ids = np.where(found.ids == 1, 11 + k, 2)
    records = [{"id": 11 + k if s.isthing else 2, "category_id": s.category_id, "score": s.score} for s in found]
    return PanopticSegmentation.from_ids(ids, records, CATEGORIES, frame)


class Model:
    categories = CATEGORIES
    inference = InferenceConfig()
    domain = ""
    calls = 0
    stop_at = 0

    def configured(self, **_):
        return self

    def predict(self, image, **_):
        self.calls += 1
        if self.calls == self.stop_at:
            signal.raise_signal(signal.SIGINT)
        return shuffled(image)


@pytest.fixture
def model(monkeypatch):
    made = Model()
    monkeypatch.setattr(predict, "open_model", lambda *_, **__: (made, "nowhere"))
    return made


def outputs(out):
    """What a run wrote: id maps, lists, text and the frames of the overlay."""
    names = ("a_frames.json", "a_vid.json", "a_mots.txt")
    maps = {p.name: np.asarray(Image.open(p)).tolist() for p in sorted((out / "a_frames").glob("*.png"))}
    return maps, {name: (out / name).read_text(encoding="utf-8") for name in names}, len(read(out / "a_overlay.mp4")[2])


def test_ids_last_and_all_files_say_the_same(tmp_path, model):
    source = write(tmp_path / "a.mp4")
    out = tmp_path / "out"
    assert predict.predict_files("w", [str(source)], out, track=True) == 0
    content = PanopticJson.read(out / "a_frames.json")
    results = [PanopticSegmentation.load(out / "a_frames" / f"{k:06d}.png") for k in range(1, 7)]
    assert [sorted(s.id for s in one.segments) for one in results] == [[1, 2]] * 6
    assert [info.file_name for info in content.images.values()] == [f"{k:06d}.png" for k in range(1, 7)]
    vid = json.loads((out / "a_vid.json").read_text(encoding="utf-8"))
    assert vid["videos"] == [{"id": 1, "name": "a", "width": 64, "height": 48, "length": 6}]
    assert [(i["id"], i["frame_id"], i["video_id"]) for i in vid["images"]] == [(k + 1, k, 1) for k in range(6)]
    assert [(a["image_id"], a["instance_id"], a["category_id"]) for a in vid["annotations"]] == [
        (k + 1, 1, 7) for k in range(6)
    ]
    lines = (out / "a_mots.txt").read_text(encoding="ascii").splitlines()
    for k, (line, annotation, one) in enumerate(zip(lines, vid["annotations"], results, strict=True)):
        time, track, category, height, width, counts = line.split(" ")
        assert (int(time), int(track), int(category), int(height), int(width)) == (k, 1, 7, 48, 64)
        mask = decode_rle(counts, (48, 64))
        assert (mask == (one.ids == 1)).all() and annotation["area"] == mask.sum()
        assert annotation["segmentation"] == {"size": [48, 64], "counts": counts}
    both = (out / "a_frames.json", out / "a_frames")
    assert score_folders(*both, *both)["All"]["pq"] == 1


def test_a_stopped_run_goes_on_and_ends_like_one_that_was_not(tmp_path, model, capsys):
    source = write(tmp_path / "a.mp4", times=[1001 * k for k in range(10)])
    predict.predict_files("w", [str(source)], tmp_path / "whole", track=True)
    model.calls, model.stop_at = 0, 4
    with pytest.raises(KeyboardInterrupt, match="stopped after 4 of 10 frames"):
        predict.predict_files("w", [str(source)], tmp_path / "out", track=True)
    assert len(json.loads((tmp_path / "out" / "a_frames.json").read_text())["images"]) == 4
    model.calls = model.stop_at = 0
    assert predict.predict_files("w", [str(source)], tmp_path / "out", track=True, resume=True) == 0
    assert model.calls == 6
    assert outputs(tmp_path / "out") == outputs(tmp_path / "whole")
    model.inference = InferenceConfig(score_threshold=0.7)
    capsys.readouterr()
    given = {"track": True, "resume": True, "score_threshold": 0.7}
    assert predict.predict_files("w", [str(source)], tmp_path / "out", **given) == 1
    said = "a_track.json: was begun with --score 0.6, not 0.7; give the same, or leave out --resume, to start anew"
    assert said in capsys.readouterr().err


def test_a_run_that_was_killed_goes_on_from_its_last_state(tmp_path, model, monkeypatch):
    monkeypatch.setattr("banet.engine.prediction.track._EVERY", 3)
    source = write(tmp_path / "a.mp4", times=[1001 * k for k in range(9)])
    predict.predict_files("w", [str(source)], tmp_path / "whole", track=True)

    class KilledError(Exception):
        pass

    def dies(image, **_):
        model.calls += 1
        if model.calls == 6:
            raise KilledError
        return shuffled(image)

    model.calls = 0
    monkeypatch.setattr(model, "predict", dies, raising=False)
    with pytest.raises(KilledError):
        predict.predict_files("w", [str(source)], tmp_path / "out", track=True)
    assert json.loads((tmp_path / "out" / "a_track.json").read_text())["state"]["frames"] == 3
    monkeypatch.undo()
    monkeypatch.setattr(predict, "open_model", lambda *_, **__: (Model(), "nowhere"))
    predict.predict_files("w", [str(source)], tmp_path / "out", track=True, resume=True)
    assert outputs(tmp_path / "out") == outputs(tmp_path / "whole")


def test_a_folder_of_frames_is_a_video(tmp_path, model):
    folder = tmp_path / "a"
    folder.mkdir()
    for k in (2, 1, 0):
        image = np.full((20, 30, 3), 30, dtype=np.uint8)
        image[4:12, 3 * k : 3 * k + 8] = 240
        Image.fromarray(image).save(folder / f"{9 + k}.png")  # 10 comes after 9
    assert predict.predict_files("w", [str(folder)], tmp_path / "out", track=True) == 0
    found = [PanopticSegmentation.load(tmp_path / "out" / "a_frames" / f"{k:06d}.png") for k in (1, 2, 3)]
    assert [[s.bbox[0] for s in one if s.isthing] for one in found] == [[0], [3], [6]]
    Image.fromarray(image[:10]).save(folder / "99.png")
    assert predict.predict_files("w", [str(folder)], tmp_path / "out", track=True) == 1


def test_frames_of_16_bits_are_read_as_told(tmp_path, model):
    (tmp_path / "a").mkdir()
    Image.fromarray(np.full((20, 30), 900, np.uint16)).save(tmp_path / "a" / "0.png")
    values = {depth: next(iter(FolderReader(str(tmp_path / "a"), depth)))[0].max() for depth in (None, 12, 16)}
    assert values == {None: round(900 / 1023 * 255), 12: round(900 / 4095 * 255), 16: round(900 / 65535 * 255)}
    seen = []
    read = FolderReader.__init__
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(FolderReader, "__init__", lambda self, *given: seen.append(given[1:]) or read(self, *given))
        predict.predict_files("w", [str(tmp_path / "a")], tmp_path / "out", track=True, bit_depth=12)
    assert seen == [(12,)]


def test_a_folder_of_frames_is_known_by_its_images_alone(tmp_path, model):
    (tmp_path / "a").mkdir()
    Image.new("RGB", (30, 20)).save(tmp_path / "a" / "0.png")
    before = track._fingerprint(str(tmp_path / "a"))
    (tmp_path / "a" / ".DS_Store").write_text("x")
    (tmp_path / "a" / "gone").symlink_to(tmp_path / "nowhere")
    (tmp_path / "a" / "out").mkdir()
    assert track._fingerprint(str(tmp_path / "a")) == before
    Image.new("RGB", (30, 20)).save(tmp_path / "a" / "1.png")
    assert track._fingerprint(str(tmp_path / "a")) != before


def test_bad_input_is_one_line(tmp_path, model, capsys):
    folder = tmp_path / "b"
    folder.mkdir()
    Image.new("RGB", (8, 6)).save(folder / "1.png")
    Image.new("RGB", (9, 6)).save(folder / "2.png")
    assert predict.predict_files("w", [str(folder)], tmp_path / "out", track=True) == 1
    (line,) = capsys.readouterr().err.strip().splitlines()[-1:]
    assert "2.png: is 9x6, the first frame 8x6; give frames of one size" in line
    empty = tmp_path / "empty"
    empty.mkdir()
    assert predict.predict_files("w", [str(empty)], tmp_path / "out2", track=True) == 1
    assert "empty" in capsys.readouterr().err
    with pytest.raises(InputError, match="--track: goes with videos"):
        predict.predict_files("w", ["a.jpg"], tmp_path / "out3", track=True)


def test_a_damaged_state_is_one_line(tmp_path, model, capsys):
    source = write(tmp_path / "a.mp4")
    predict.predict_files("w", [str(source)], tmp_path / "out", track=True)
    saved = json.loads((tmp_path / "out" / "a_track.json").read_text())
    for damage in ("{", "[]", json.dumps({"run": saved["run"], "state": {}}), json.dumps({**saved, "run": 3})):
        (tmp_path / "out" / "a_track.json").write_text(damage)
        assert predict.predict_files("w", [str(source)], tmp_path / "out", track=True, resume=True, overwrite=True) == 1
        (line,) = capsys.readouterr().err.strip().splitlines()[-1:]
        assert "a_track.json" in line


def test_colors_follow_the_ids():
    colors, ids = LastingColors(), np.zeros((20, 60), dtype=np.int32)
    seen = {}
    rng = np.random.default_rng(0)
    for k in range(30):
        ids[:] = 90
        names = [i + 1 for i in range(k // 3, k // 3 + 5)]
        for i, x in zip(names, rng.permutation(5), strict=True):
            ids[4:16, 12 * x : 12 * x + 10] = i
        records = [{"id": i, "category_id": 7} for i in names] + [{"id": 90, "category_id": 90}]
        result = PanopticSegmentation.from_ids(ids, records, CATEGORIES)
        chosen = colors.choose(result.segments, result.categories)
        for segment, color in zip(result.segments, chosen.tolist(), strict=True):
            assert seen.setdefault(segment.id, color) == color
        assert len({tuple(c) for c in chosen.tolist()}) == 6
        assert result.draw(colors=chosen).size == (60, 20)

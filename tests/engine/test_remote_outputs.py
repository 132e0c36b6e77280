"""Results behind URLs: the same files as in a folder, whole or not at all, known as ours, and gone on with."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from counting import Counting, Killed, opened, stop_after
from folders import here, there
from PIL import Image

from banet.cli import main
from banet.engine.prediction import predict
from banet.engine.prediction.predict import predict_files
from banet.errors import InputError
from banet.files.outputs import RUN

fsspec = pytest.importorskip("fsspec")

DAMAGED = 3


@pytest.fixture
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Six images, one of which is damaged."""
    monkeypatch.setattr(predict, "open_model", opened)
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(6):
        pixels = np.random.default_rng(number).integers(0, 256, (12, 16, 3), dtype=np.uint8)
        data = io.BytesIO()
        Image.fromarray(pixels).save(data, "PNG")
        (folder / f"{number}.png").write_bytes(data.getvalue() if number != DAMAGED else b"no image")
    return folder


OUT = "memory://bucket/out"


OPTIONS: list[dict[str, Any]] = [{}, {"shards": 2}, {"gallery": True, "batch_size": 2}, {"overlays": False}]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_they_are_those_of_a_folder(
    options: dict[str, Any], photos: Path, tmp_path: Path, memory: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    assert predict_files("weights", [str(photos)], tmp_path / "out", **options) == 1
    capsys.readouterr()
    assert predict_files("weights", [str(photos)], OUT, **options) == 1
    assert there(memory, "/bucket/out") == here(tmp_path / "out")
    assert f"5 of 6 images segmented (5 cup, 5 book in all): {OUT}; all segments: {OUT}/segments.csv" in (
        capsys.readouterr().out
    )
    for again in ({}, {"overwrite": True}):  # ours may be written again
        assert predict_files("weights", [str(photos)], OUT, **options, **again) == 1
    assert there(memory, "/bucket/out") == here(tmp_path / "out")


def test_nothing_of_others_is_overwritten(photos: Path, memory: Any) -> None:
    memory.pipe_file("/bucket/out/5.json", b"mine")
    with pytest.raises(InputError, match=r"memory://bucket/out/5\.json: exists already and was not written by"):
        predict_files("weights", [str(photos)], OUT)
    assert there(memory, "/bucket/out") == {"5.json": b"mine"}
    assert predict_files("weights", [str(photos)], OUT, overwrite=True) == 1
    memory.pipe_file("/bucket/out/1.png", b"edited")
    with pytest.raises(InputError, match=r"out/1\.png: exists already and was not written .* or was changed since"):
        predict_files("weights", [str(photos)], OUT)
    assert memory.cat_file("/bucket/out/1.png") == b"edited"


@pytest.mark.parametrize("out", ["memory://bucket/in", "memory:///bucket/in/"])
def test_inputs_are_never_overwritten(out: str, photos: Path, memory: Any) -> None:
    memory.put(str(photos / "0.png"), "/bucket/in/0.png")
    with pytest.raises(InputError, match=r"in/0\.png: is an input of this command, which is never replaced"):
        predict_files("weights", ["memory://bucket/in"], out, overwrite=True)
    assert memory.cat_file("/bucket/in/0.png") == (photos / "0.png").read_bytes()


def pq(*words: object) -> list[str]:
    return ["pq", *map(str, words)]


def test_pq_reads_archives_and_urls(
    photos: Path, tmp_path: Path, memory: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    for out, options in ((tmp_path / "files", {}), (tmp_path / "tars", {"shards": 2}), (OUT, {"shards": 2})):
        predict_files("weights", [str(photos)], out, **options)
    memory.put(f"{tmp_path / 'files'}/", "/bucket/files", recursive=True)
    truth = tmp_path / "files"
    json = truth / "panoptic.json"
    capsys.readouterr()
    told = []
    for predicted in (truth, tmp_path / "tars", OUT, "memory://bucket/files"):
        assert main(pq("--gt-json", json, "--gt-dir", truth, "--pred-dir", predicted)) == 0
        told.append(capsys.readouterr().out)
    assert "100.0" in told[0] and len(set(told)) == 1
    remote = ["--gt-json", f"{OUT}/panoptic.json", "--gt-dir", OUT, "--pred-dir", tmp_path / "tars"]
    assert main(pq(*remote, "--json", "memory://bucket/pq.json")) == 0
    assert main(pq(*remote, "--json", tmp_path / "pq.json")) == 0
    assert memory.cat_file("/bucket/pq.json") == (tmp_path / "pq.json").read_bytes()
    assert main(pq(*remote, "--json", f"{OUT}/panoptic.json", "--overwrite")) == 2
    assert "is an input of this command" in capsys.readouterr().err


def test_damaged_archives_of_id_maps_are_one_line(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "tars"
    predict_files("weights", [str(photos)], out, shards=3)
    first, second = sorted(out.glob("*.tar"))
    score = pq("--gt-json", out / "panoptic.json", "--gt-dir", out, "--pred-dir", out)
    capsys.readouterr()
    whole = second.read_bytes()
    for data, told in (
        (whole[:2000], r"00000001.tar: is cut off or damaged after"),
        (first.read_bytes(), "00000001.tar: holds 0.png, as "),
        (whole.replace(b"IDAT", b"IDxT"), r"00000001.tar/4.png: is truncated or corrupt"),
        (None, r"4.png: does not exist"),
    ):
        second.unlink()
        if data is not None:
            second.write_bytes(data)
        assert main(score) == 2
        error = capsys.readouterr().err
        assert told in error and error.count("\n") == 1, error
        second.write_bytes(whole)


def test_urls_of_this_machine_are_its_paths(photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert predict_files("weights", [str(photos)], f"file://{out}") == 1
    assert predict_files("weights", [f"file://{photos}/1.png"], tmp_path / "one") == 0
    assert (out / "1.png").read_bytes() == (tmp_path / "one" / "1.png").read_bytes()
    before = here(photos)
    for inputs, folder in (([f"file://{photos}"], photos), ([str(photos)], f"file://{photos}")):
        with pytest.raises(InputError, match="is an input of this command, which is never replaced"):
            predict_files("weights", inputs, folder, overwrite=True)
    assert here(photos) == before


@pytest.mark.parametrize(
    ("out", "told"), [("memory://", "names no folder"), ("data://a/b", "--out data://a/b: cannot be written to")]
)
def test_places_that_cannot_be_written_to_are_one_line(out: str, told: str, photos: Path) -> None:
    with pytest.raises(InputError, match=told):
        predict_files("weights", [str(photos)], out)


@pytest.mark.parametrize("shards", [None, 2])
def test_a_stopped_run_is_gone_on_with(
    shards: int | None, photos: Path, tmp_path: Path, memory: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    predict_files("weights", [str(photos)], tmp_path / "out", shards=shards)
    with monkeypatch.context() as stopping:
        stop_after(4, stopping)
        with pytest.raises(Killed):
            predict_files("weights", [str(photos)], OUT, shards=shards)
    assert memory.exists(f"/bucket/out/{RUN}/run.json") and not memory.exists("/bucket/out/panoptic.json")
    with pytest.raises(InputError, match=r"--out memory://bucket/out: holds a run that is not finished; go on with"):
        predict_files("weights", [str(photos)], OUT, shards=shards)
    computed: list[int] = []
    compute = Counting.predict_unfused
    monkeypatch.setattr(Counting, "predict_unfused", lambda self, some: computed.append(1) or compute(self, some))
    assert predict_files("weights", [str(photos)], OUT, shards=shards, resume=True) == 1
    assert there(memory, "/bucket/out") == here(tmp_path / "out") and len(computed) < 5
    computed.clear()
    assert predict_files("weights", [str(photos)], OUT, shards=shards, resume=True) == 0  # nothing is left to do
    assert there(memory, "/bucket/out") == here(tmp_path / "out") and not computed


def test_a_store_that_fails_ends_the_run_with_one_line(
    photos: Path, memory: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    put = type(memory).put_file

    def full(self: Any, source: str, target: str, **options: Any) -> None:
        if target.endswith("2.png"):
            raise RuntimeError("the quota\nis used up")
        put(self, source, target, **options)

    with monkeypatch.context() as patch:
        patch.setattr(type(memory), "put_file", full)
        with pytest.raises(OSError, match=r"the quota is used up: 'memory://bucket/out/2\.png'"):
            predict_files("weights", [str(photos)], OUT)
    assert predict_files("weights", [str(photos)], OUT, resume=True) == 1 and "2.png" in there(memory, "/bucket/out")


def test_videos_go_to_a_folder(tmp_path: Path) -> None:
    pytest.importorskip("av")
    (tmp_path / "a.mp4").write_bytes(b"no video")
    with pytest.raises(InputError, match="results of videos go to a folder of this machine"):
        predict_files("weights", [str(tmp_path / "a.mp4")], OUT)


@pytest.mark.parametrize(
    ("out", "told"),
    [("nothing://bucket/out", "cannot be opened"), ("s3://bucket/out", "s3fs")],
)
def test_systems_that_are_not_known_are_one_line(out: str, told: str, photos: Path) -> None:
    if out.startswith("s3"):
        try:
            import s3fs  # noqa: F401
        except ImportError:
            pass
        else:
            pytest.skip("is known here")
    with pytest.raises((InputError, ImportError), match=told):
        predict_files("weights", [str(photos)], out)

"""`banet predict` on folders and folders in them: what is found, where it goes, and what the table says."""

from __future__ import annotations

import csv
import tarfile
from pathlib import Path

import numpy as np
import pytest
from factories import small_model
from PIL import Image

from banet.cli import main
from banet.data.images import find_images
from banet.data.scenes import make_scene
from banet.engine.prediction.predict import predict_files
from banet.errors import InputError
from banet.files.outputs import free_folder
from banet.panoptic.segmentation import COLUMNS, PanopticSegmentation


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(small_model().save_pretrained(tmp_path_factory.mktemp("weights") / "model.safetensors"))


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    """Images of one name in several folders, beside hidden ones and a link that leads back."""
    root = tmp_path / "photos"
    for number, name in enumerate(("1.png", "a/1.png", "a/x/2.png", "b/1.png", ".hidden/3.png", "a/.thumb.png")):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(make_scene(seed=5, index=number, size=(48, 64)).image).save(path)
    (root / "a" / "back").symlink_to(root)
    return root


def written(out: Path) -> set[str]:
    return {path.relative_to(out).as_posix() for path in out.rglob("*.png")}


def test_folders_are_searched_where_asked_for(folders: Path) -> None:
    names = [path.relative_to(folders).as_posix() for path in find_images([str(folders)], recursive=True).paths]
    assert names == ["1.png", "a/1.png", "a/x/2.png", "b/1.png"]
    assert [path.name for path in find_images([str(folders)]).paths] == ["1.png"]
    (folders / "1.png").unlink()
    with pytest.raises(InputError, match="no image; its folders are searched with --recursive"):
        find_images([str(folders)])


def test_results_keep_the_folders_of_their_images(folders: Path, weights: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    for _ in range(2):  # the second run replaces what the first one wrote
        assert predict_files(weights, [str(folders)], out, recursive=True) == 0
        assert written(out) == {"1.png", "a/1.png", "a/x/2.png", "b/1.png"}
    # Two folders that are given: what has one name gets two.
    assert predict_files(weights, [str(folders / "a"), str(folders / "b")], tmp_path / "two", recursive=True) == 0
    assert written(tmp_path / "two") == {"1.png", "1_png.png", "x/2.png"}


def test_overlays_may_be_left_out(folders: Path, weights: str, tmp_path: Path) -> None:
    def files(out: Path) -> dict[str, bytes]:
        return {p.relative_to(out).as_posix(): p.read_bytes() for p in out.rglob("*") if p.is_file()}

    mine = tmp_path / "bare" / "1_overlay.jpg"
    mine.parent.mkdir()
    mine.write_bytes(b"of somebody else: nothing here is going to replace it")
    for out, options in (("whole", {}), ("bare", {"overlays": False}), ("packed", {"overlays": False, "shards": 2})):
        assert predict_files(weights, [str(folders)], tmp_path / out, recursive=True, **options) == 0  # type: ignore[arg-type]
    whole, bare = files(tmp_path / "whole"), files(tmp_path / "bare")
    assert bare.pop("1_overlay.jpg") == mine.read_bytes()
    left_out = {name for name in whole if name.endswith("_overlay.jpg")}
    assert len(left_out) == 4 and set(whole) - left_out == set(bare)
    assert all(whole[name] == content for name, content in bare.items() if not name.startswith("."))
    with tarfile.open(next((tmp_path / "packed").glob("*.tar"))) as archive:
        assert sorted(Path(name).suffix for name in archive.getnames()) == [".json", ".json", ".png", ".png"]
    assert predict_files(weights, [str(folders)], tmp_path / "bare", recursive=True, overlays=False, resume=True) == 0


def test_results_inside_the_folder_are_not_segmented_again(
    folders: Path, weights: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for _ in range(2):
        assert predict_files(weights, [str(folders)], folders / "a" / "res", recursive=True) == 0
    assert "left out, as `banet predict` wrote them: 8 images" in capsys.readouterr().out
    assert written(folders / "a" / "res") == {"1.png", "a/1.png", "a/x/2.png", "b/1.png"}


def test_the_table_has_the_segments_of_all_images(folders: Path, weights: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert predict_files(weights, [str(folders)], out, recursive=True) == 0
    with (out / "segments.csv").open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert list(rows[0]) == ["image", *COLUMNS]
    for name in written(out):
        expected = PanopticSegmentation.load(out / name).to_records()
        found = [row for row in rows if Path(row["image"]) == folders / name]
        assert len(found) == len(expected) > 0
        for row, record in zip(found, expected, strict=True):
            for column, value in record.items():
                if isinstance(value, float):
                    assert float(row[column]) == pytest.approx(value, abs=1e-4)
                else:
                    assert row[column] == ("" if value is None else str(value))
    assert sum(int(row["area"]) for row in rows) <= 4 * 48 * 64


def test_a_run_that_names_no_folder_gets_one_of_its_own(
    folders: Path, weights: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("a/1.png", "b/1.png"):
        assert main(["predict", str(folders / name), "--weights", weights]) == 0
    shown = capsys.readouterr().out
    assert ": predictions;" in shown and ": predictions-2; all segments: predictions-2" in shown.replace("\\", "/")
    first, second = (np.array(Image.open(tmp_path / name / "1.png")) for name in ("predictions", "predictions-2"))
    assert not np.array_equal(first, second)
    (tmp_path / "predictions-3").mkdir()
    assert free_folder(Path("predictions")) == Path("predictions-3")  # it is empty


@pytest.mark.parametrize("name", ["gone.mp4", "gone.jpg", "gone", "gone_*.jpg", "gone_*.mp4"])
def test_what_is_missing_is_said_before_weights_are_read(
    name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def opened(*_: object, **__: object) -> None:
        raise AssertionError("weights were read")

    monkeypatch.setattr("banet.engine.prediction.predict.open_model", opened)
    with pytest.raises(InputError, match=r"gone.*: (does not exist|no file matches the pattern)"):
        predict_files("weights", [str(tmp_path / name)], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_progress_is_not_written_to_a_file(folders: Path, weights: str, tmp_path: Path, capfd: object) -> None:
    assert predict_files(weights, [str(folders)], tmp_path / "out") == 0
    shown = capfd.readouterr()  # type: ignore[attr-defined]
    assert shown.err == ""
    assert len(shown.out.splitlines()) == 3  # weights and classes, the image, the summary

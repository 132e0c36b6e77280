"""Work of `predict`, `fuse` and `pq` shared out over processes, stopped, and gone on with."""

from __future__ import annotations

import io
import os
import random
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from counting import Counting, Killed, opened, stop_after
from detections import fuse_words, image_bytes, write_detections, write_images

from banet.cli import main
from banet.engine.prediction import fuse, predict
from banet.engine.prediction.predict import predict_files
from banet.engine.sharing import shared_run
from banet.engine.sharing.process import Process, this_process
from banet.engine.sharing.shared_run import SharedRun
from banet.engine.sharing.work_list import WorkList
from banet.errors import InputError
from banet.files.outputs import RECORD, RUN, Outputs
from banet.inference.device import pick_device

SCRIPT = Path(__file__).with_name("counting.py")


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Nine images, one of which is damaged."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(9):
        (folder / f"{number}.png").write_bytes(image_bytes(number) if number != 4 else b"no image")
    return folder


def environment(rank: int, world: int, launch: str, **more: str) -> dict[str, str]:
    numbers = {"RANK": str(rank), "WORLD_SIZE": str(world), "LOCAL_RANK": str(rank), "LOCAL_WORLD_SIZE": str(world)}
    return {**os.environ, **numbers, "BANET_LAUNCH": launch, **more}


def start(arguments: list[str], rank: int = 0, world: int = 1, launch: str = "a", **more: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, str(SCRIPT), *arguments],
        env=environment(rank, world, launch, **more),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run(arguments: list[str], world: int = 1, launch: str = "a", **more: str) -> list[tuple[int, str, str]]:
    """Run `banet` in processes; return the exit status and what each of them said."""
    processes = [start(arguments, rank, world, launch, **more) for rank in range(world)]
    said = [process.communicate(timeout=300) for process in processes]
    return [(process.returncode, *each) for process, each in zip(processes, said, strict=True)]


def files(folder: Path) -> dict[str, bytes]:
    """All files of a folder but the record, whose lines have no order."""
    paths = (path for path in folder.rglob("*") if path.is_file() and path.name != RECORD)
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


def alone(photos: Path, out: Path, monkeypatch: pytest.MonkeyPatch, **options: object) -> dict[str, bytes]:
    """Return the files of one undisturbed process."""
    monkeypatch.setattr(predict, "open_model", opened)
    predict_files("weights", [str(photos)], out, **options)  # type: ignore[arg-type]
    return files(out)


def words(photos: Path, out: Path | str, *more: str) -> list[str]:
    return ["predict", str(photos), "--weights", "weights", "--out", str(out), *more]


@pytest.mark.parametrize("options", [(), ("--shards", "2"), ("--gallery", "--batch-size", "2")], ids=" ".join)
def test_processes_write_what_one_writes(
    photos: Path, tmp_path: Path, options: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    given = {"shards": 2} if "--shards" in options else {"gallery": True, "batch_size": 2} if options else {}
    expected = alone(photos, tmp_path / "one", monkeypatch, **given)
    said = run(words(photos, tmp_path / "two", *options), world=2)
    assert sorted(status for status, _, _ in said) == [0, 1]  # the one that merged tells of the damaged image
    assert files(tmp_path / "two") == expected
    last = next(each for each in said if each[0] == 1)
    assert "4.png: is not an image" in last[2] and "8 of 9 images segmented" in last[1]
    other = next(each for each in said if each[0] == 0)
    assert other[2] == "" and "its share is done" in other[1]


def test_a_run_that_ended_has_nothing_left(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = alone(photos, tmp_path / "out", monkeypatch)
    monkeypatch.setattr(Counting, "predict_unfused", lambda *_: pytest.fail("computed again"))
    assert predict_files("weights", [str(photos)], tmp_path / "out", resume=True) == 0
    assert files(tmp_path / "out") == before and not (tmp_path / "out" / RUN).exists()


@pytest.mark.parametrize("shards", [None, 3])
def test_a_stopped_run_is_gone_on_with_as_told(
    photos: Path, tmp_path: Path, shards: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = alone(photos, tmp_path / "one", monkeypatch, shards=shards)
    out = tmp_path / "out"
    with monkeypatch.context() as stopping:
        stop_after(6, stopping)
        with pytest.raises(Killed):
            predict_files("weights", [str(photos)], out, shards=shards)
    assert not (out / "panoptic.json").exists()
    with pytest.raises(InputError, match="holds a run that is not finished; go on with --resume, begin anew with"):
        predict_files("weights", [str(photos)], out, shards=shards)
    with pytest.raises(InputError, match=r"the run there began with score_threshold None, process 0 .* has 0\.7"):
        predict_files("weights", [str(photos)], out, shards=shards, resume=True, score_threshold=0.7)
    (photos / "77.png").write_bytes(image_bytes(77))
    with pytest.raises(InputError, match=r"began with .*8\.png' as number 9 .* has .*77\.png'"):
        predict_files("weights", [str(photos)], out, shards=shards, resume=True)
    (photos / "77.png").unlink()
    damaged = sorted(out.glob("*.tar" if shards else "*.png"))[0]
    damaged.write_bytes(damaged.read_bytes()[:-1])  # as a machine leaves it whose power failed
    computed = []
    compute = Counting.predict_unfused
    monkeypatch.setattr(Counting, "predict_unfused", lambda self, some: computed.append(1) or compute(self, some))
    failed = predict_files("weights", [str(photos)], out, shards=shards, resume=True, overwrite=True)
    assert failed == 1 and files(out) == expected and len(computed) < 8


def test_another_run_begins_anew_where_that_is_wanted(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = alone(photos, tmp_path / "one", monkeypatch, score_threshold=0.8)
    with monkeypatch.context() as stopping:
        stop_after(3, stopping)
        with pytest.raises(Killed):
            predict_files("weights", [str(photos)], tmp_path / "out")
    predict_files("weights", [str(photos)], tmp_path / "out", overwrite=True, score_threshold=0.8)
    assert files(tmp_path / "out") == expected
    predict_files("weights", [str(photos)], tmp_path / "out", score_threshold=0.8)  # all is known as ours


def kill_and_resume(arguments: list[str], run_folder: Path, kills: int, seed: int, **more: str) -> None:
    """Kill one or more processes at random moments, go on with other numbers of them, and let the last end.

    Args:
        arguments: The command line.
        run_folder: Where the processes meet: most kills wait for a sign of life there.
        kills: How many times.
        seed: Of the moments.
        more: Environment.
    """
    generator = random.Random(seed)
    for attempt in range(kills):
        world, launch = generator.choice((1, 2, 3)), f"{seed}-{attempt}"
        processes = [
            start([*arguments, "--resume"], rank, world, launch, COUNTING_SECONDS="0.03", **more)
            for rank in range(world)
        ]
        begun = {path.name for path in run_folder.glob("launch-*")}
        while generator.random() < 0.99 and {path.name for path in run_folder.glob("launch-*")} == begun:
            time.sleep(0.02)
            if all(process.poll() is not None for process in processes):
                break
        time.sleep(generator.uniform(0, 1.0))
        for process in processes:
            process.send_signal(signal.SIGKILL)
        for process in processes:
            process.communicate()
    said = run([*arguments, "--resume"], world=generator.choice((1, 2)), launch=f"{seed}-last", **more)
    assert {status for status, _, _ in said} <= {0, 1}, said


KILLS = pytest.mark.parametrize("kills", [3, pytest.param(25, marks=pytest.mark.slow)])


@KILLS
def test_killed_runs_end_as_undisturbed_ones(
    photos: Path, tmp_path: Path, kills: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_images(photos, range(9, 60))
    expected = alone(photos, tmp_path / "one", monkeypatch)
    kill_and_resume(words(photos, tmp_path / "out"), tmp_path / "out" / RUN, kills, seed=kills)
    assert files(tmp_path / "out") == expected


@pytest.mark.parametrize("options", [(), ("--shards", "2")], ids=" ".join)
def test_processes_write_behind_a_url_what_one_writes_here(
    photos: Path, tmp_path: Path, options: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("fsspec")
    expected = alone(photos, tmp_path / "one", monkeypatch, **({"shards": 2} if options else {}))
    said = run(words(photos, "shared://out", *options), world=3, COUNTING_SHARED=str(tmp_path / "there"))
    assert sorted(status for status, _, _ in said) == [0, 0, 1], said
    assert files(tmp_path / "there" / "out") == expected


@KILLS
def test_killed_runs_behind_a_url_end_as_undisturbed_ones(
    photos: Path, tmp_path: Path, kills: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("fsspec")
    write_images(photos, range(9, 40))
    expected = alone(photos, tmp_path / "one", monkeypatch)
    there = tmp_path / "there" / "out"
    kill_and_resume(words(photos, "shared://out"), there / RUN, kills, seed=5, COUNTING_SHARED=str(there.parent))
    assert files(there) == expected


def test_what_killed_processes_left_is_gone_at_the_end(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    with monkeypatch.context() as patch:
        stop_after(3, patch)
        with pytest.raises(Killed):
            alone(photos, out, patch)
    left = [out / ".0.99999-1.tmp.png", out / "..banet-outputs.99999-1.tmp.jsonl"]
    of_others = [out / ".elsewhere.99999-1.tmp.png", out / ".note.tmp"]
    for path in (*left, *of_others):
        path.write_bytes(b"half")
    monkeypatch.setattr(predict, "open_model", opened)
    predict_files("weights", [str(photos)], out, resume=True)
    assert not any(path.exists() for path in left) and all(path.exists() for path in of_others)
    left[0].write_bytes(b"half")
    (out / RUN).mkdir()
    (out / RUN / "00000000.jsonl").write_bytes(b"of a run that was being deleted")
    assert predict_files("weights", [str(photos)], out, resume=True) == 0  # nothing is left to do
    assert not left[0].exists() and not (out / RUN).exists()


def test_devices_starts_the_processes_itself(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    ((status, out, err),) = run([*words(photos, tmp_path / "none")[:-2], "--devices", "2"])
    # These are `python -m banet`, which knows no weights of this name.
    assert status == 2 and out == "" and "weights: no such weights" in err


def test_a_launch_of_the_same_name_is_another_one(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On several machines nothing but address and port names a launch, and these are often fixed."""
    expected = alone(photos, tmp_path / "one", monkeypatch)
    out = tmp_path / "out"
    processes = [start(words(photos, out), rank, 2, "same", COUNTING_SECONDS="0.2") for rank in range(2)]
    while len(list(out.glob(f"{RUN}/launch-*/process-*"))) < 2:
        assert all(process.poll() is None for process in processes)
        time.sleep(0.02)
    for process in processes:
        process.kill()
        process.communicate()
    (launch,) = out.glob(f"{RUN}/launch-*")
    (launch / "merging").touch()  # as a process leaves it that was killed while it merged
    ((status, _, told),) = [run(words(photos, out), 1, "other")[0]]
    assert status == 2 and "holds a run that is not finished" in told
    first = start([*words(photos, out), "--score", "0.7"], 0, 2, "same")
    told = first.communicate(timeout=120)[1]
    assert first.returncode == 2 and "holds a run that is not finished" in told
    said = run([*words(photos, out), "--resume"], 2, "same")
    assert sorted(status for status, _, _ in said) == [0, 1], said
    assert files(out) == expected


def test_work_before_the_meeting_is_no_waiting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]

    def sleep(_: float) -> None:
        raise Killed

    monkeypatch.setattr(shared_run, "time", SimpleNamespace(monotonic=lambda: clock[0], sleep=sleep))
    shared = SharedRun(Outputs(tmp_path / "out", "x"), Process(1, 2, "a"), {}, WorkList([]))
    clock[0] = 1000.0  # weights were loaded
    with pytest.raises(Killed):  # waits, rather than to give up
        shared.begin()


def test_memory_that_does_not_suffice_to_fuse_costs_one_image(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    left, fused = iter(range(2)), Counting.fuse

    def fuse_or_fail(self: Counting, *given: object, **options: object) -> object:
        if next(left, None) == 1:
            raise MemoryError
        return fused(self, *given, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(predict, "open_model", opened)
    monkeypatch.setattr(Counting, "fuse", fuse_or_fail)
    assert predict_files("weights", [str(photos)], tmp_path / "out") == 2
    assert "does not fit into the memory" in capsys.readouterr().err


@pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")
def test_who_ends_the_launcher_ends_its_processes(tmp_path: Path) -> None:
    stub = tmp_path / "python"
    stub.write_text(f"#!/bin/sh\necho $$ > {tmp_path}/$RANK.pid\nexec sleep 600\n")
    stub.chmod(0o755)
    code = "import sys; from banet.engine.sharing.launch import start_processes; sys.executable = sys.argv[1]; "
    launcher = subprocess.Popen([sys.executable, "-c", f"{code}start_processes([], 2)", str(stub)])
    while len([path for path in tmp_path.glob("*.pid") if path.read_text().endswith("\n")]) < 2:
        assert launcher.poll() is None
        time.sleep(0.02)
    launcher.terminate()
    assert launcher.wait(timeout=120) == 128 + signal.SIGTERM
    for path in tmp_path.glob("*.pid"):
        with pytest.raises(ProcessLookupError):
            os.kill(int(path.read_text()), 0)


def test_processes_of_other_lists_are_refused(photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    first = start(words(photos, out), 0, 2)
    (tmp_path / "others").mkdir()
    for path in photos.glob("[0-5].png"):
        (tmp_path / "others" / path.name).write_bytes(path.read_bytes())
    second = start(words(tmp_path / "others", out), 1, 2)
    told = second.communicate(timeout=120)[1]
    first.kill()
    first.communicate()
    assert second.returncode == 2
    assert "process 0 has '" in told and "photos/0.png' as number 1 of its list, process 1 of 2 on" in told


def test_a_machine_with_another_file_system_is_noticed(photos: Path, tmp_path: Path) -> None:
    first = start(words(photos, tmp_path / "here"), 0, 2, COUNTING_PATIENCE="0")
    second = start(words(photos, tmp_path / "there"), 1, 2, COUNTING_PATIENCE="0")
    told = [process.communicate(timeout=120)[1] for process in (first, second)]
    assert first.returncode == second.returncode == 2
    assert "process 1 of 2 has not written anything, as process 0 of 2 on" in told[0]
    assert "process 0 of 2 has not begun there, as process 1 of 2 on" in told[1]
    assert "choose a folder that all machines share" in told[0]


def test_a_process_that_died_is_told_of(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "out"
    second = start(words(photos, out), 1, 2, COUNTING_SECONDS="60")
    first = start(words(photos, out), 0, 2, COUNTING_SECONDS="0.1")
    while not list(out.glob(f"{RUN}/launch-*/process-1")):  # it has begun
        assert first.poll() is None and second.poll() is None
        time.sleep(0.05)
    second.kill()
    said = first.communicate(timeout=120)
    second.communicate()
    assert first.returncode == 0 and "its share is done" in said[0]
    assert "; at work: 1; the process that " in said[0] and "where one was killed, go on with --resume" in said[0]
    expected = alone(photos, tmp_path / "one", monkeypatch)
    assert main(words(photos, out, "--resume")) == 1
    assert files(out) == expected


def archive(path: Path, numbers: list[int], name: str = "{}.png") -> str:
    with tarfile.open(path, "w") as file:
        for number in numbers:
            for suffix, data in ((name.format(number), image_bytes(number)), (f"{number}.txt", b"a text")):
                member = tarfile.TarInfo(suffix)
                member.size = len(data)
                file.addfile(member, io.BytesIO(data))
    return str(path)


def test_archives_give_what_files_give(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "photos").mkdir()
    for number in range(6):
        (tmp_path / "photos" / f"{number}.png").write_bytes(image_bytes(number))
    expected = alone(tmp_path / "photos", tmp_path / "one", monkeypatch)
    archive(tmp_path / "a.tar", [0, 1, 2])
    archive(tmp_path / "b.tar", [3, 4, 5])
    assert predict_files("weights", [str(tmp_path / "*.tar")], tmp_path / "two") == 0
    found = files(tmp_path / "two")
    assert set(found) == set(expected)
    assert {name: data for name, data in found.items() if name.endswith((".png", ".jpg"))} == {
        name: data for name, data in expected.items() if name.endswith((".png", ".jpg"))
    }
    assert b'"id": "3", "file_name": "3.png"' in found["panoptic.json"]


def test_archives_hold_what_folders_hold(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = alone(photos, tmp_path / "one", monkeypatch)
    found = alone(photos, tmp_path / "two", monkeypatch, shards=4)
    assert set(found) == {"panoptic-00000000.tar", "panoptic-00000001.tar", "panoptic-00000002.tar", "panoptic.json",
                          "segments.csv"}  # fmt: skip
    for name in ("panoptic.json", "segments.csv"):
        assert found[name] == expected[name]
    members = {}
    for path in (tmp_path / "two").glob("*.tar"):
        with tarfile.open(path) as file:
            for member in file:
                data = file.extractfile(member)
                assert data is not None and member.mtime == 0
                members[member.name.replace(".overlay", "_overlay")] = data.read()
    assert members == {name: data for name, data in expected.items() if name not in found}


def test_bad_archives_are_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(predict, "open_model", opened)
    first, second = archive(tmp_path / "a.tar", [0, 1]), archive(tmp_path / "b.tar", [1, 2])
    whole = Path(second).read_bytes()
    end = whole[: whole.rindex(b"a text") + 512]
    header = bytearray(whole)
    header[whole.index(b"2.png")] ^= 1  # its sum of digits is wrong now
    cases = {"cut": whole[:700], "end": end, "head": b"no archive", "gz": b"\x1f\x8b", "half": end[:-900],
             "header": bytes(header)}  # fmt: skip
    for name, data in cases.items():
        (tmp_path / f"{name}.tar").write_bytes(data)
    (tmp_path / "none.tar").write_bytes(bytes(10240))
    for inputs, problem in {
        (first, second): r"b\.tar/1\.png: has the id '1', as .*a\.tar/1\.png has; ids must differ",
        (first, str(tmp_path / "cut.tar")): r"cut\.tar: is cut off or damaged after 0 files",
        (str(tmp_path / "end.tar"),): r"end\.tar: is cut off or damaged after 2 files",
        (str(tmp_path / "half.tar"),): r"half\.tar: is cut off or damaged after 2 files",
        (str(tmp_path / "header.tar"),): r"header\.tar: is cut off or damaged after 1 files",
        (str(tmp_path / "head.tar"),): r"head\.tar: is not a tar archive, or is cut off",
        (str(tmp_path / "gz.tar"),): r"gz\.tar: is a compressed archive; unpack it",
        (str(tmp_path / "none.tar"),): r"none\.tar: the archive holds no image",
        (str(tmp_path / "x*.tar"),): "no file matches the pattern",
        (str(tmp_path / "gone.tar"),): "does not exist",
        (archive(tmp_path / "out.tar", [1], "../{}.png"),): "leads out of its folder",
    }.items():
        with pytest.raises(InputError, match=problem):
            predict_files("weights", list(inputs), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_lists_name_images_and_ids(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(predict, "open_model", opened)
    file = tmp_path / "list.txt"
    file.write_text(f"# two images\nphotos/1.png\t0\n\n{photos / '2.png'}\tsecond\r\n", encoding="utf-8")
    assert predict_files("weights", [], tmp_path / "out", listed=str(file)) == 0
    written = (tmp_path / "out" / "panoptic.json").read_text()
    assert '{"id": 0, "file_name": "1.png"' in written and '{"id": "second", "file_name": "2.png"' in written
    file.write_bytes(b"\xef\xbb\xbfphotos/1.png\r\n")  # as Windows' Notepad saves it
    assert predict_files("weights", [], tmp_path / "bom", listed=str(file)) == 0
    for text, problem in {
        "photos/1.png\t1\nphotos/2.png\t1\n": r"2\.png: has the id 1, as .*1\.png has",
        "photos/1.png\nphotos/1.png\n": r"list\.txt: line 2: photos/1\.png is listed twice",
        "\t3\n": r"list\.txt: line 1: must begin with a path",
        "# nothing\n": r"list\.txt: lists no image",
    }.items():
        file.write_text(text)
        with pytest.raises(InputError, match=problem):
            predict_files("weights", [], tmp_path / "bad", listed=str(file))
    file.write_text("photos/1.png\ngone.png\n")
    assert predict_files("weights", [], tmp_path / "gone", listed=str(file)) == 1
    with pytest.raises(InputError, match="no images given"):
        predict_files("weights", [], tmp_path / "bad")


def test_urls_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fsspec = pytest.importorskip("fsspec")
    monkeypatch.setattr(predict, "open_model", opened)
    memory = fsspec.filesystem("memory")
    (tmp_path / "photos").mkdir()
    for number in range(3):
        (tmp_path / "photos" / f"{number}.png").write_bytes(image_bytes(number))
        memory.pipe_file(f"/bucket/{number}.png", image_bytes(number))
    memory.pipe_file("/bucket/a.txt", b"a text")
    memory.pipe_file("/lists/all.txt", b"../bucket/0.png\nmemory://bucket/1.png\n/bucket/2.png\n"[16:])
    memory.pipe_file("/shards/a.tar", Path(archive(tmp_path / "a.tar", [0, 1, 2])).read_bytes())
    expected = alone(tmp_path / "photos", tmp_path / "one", monkeypatch)
    for number, inputs in enumerate((["memory://bucket"], ["memory://bucket/*.png"], ["memory://shards/a.tar"])):
        assert predict_files("weights", inputs, tmp_path / f"out{number}") == 0
        assert files(tmp_path / f"out{number}").keys() == expected.keys()
        assert files(tmp_path / f"out{number}")["1.png"] == expected["1.png"]
    assert predict_files("weights", [], tmp_path / "list", listed="memory://lists/all.txt") == 1
    with pytest.raises(InputError, match=r"memory://none: does not exist"):
        predict_files("weights", ["memory://none"], tmp_path / "bad")
    with pytest.raises(InputError, match=r"memory://lists: holds no image"):
        predict_files("weights", ["memory://lists"], tmp_path / "bad")


@pytest.mark.parametrize(
    ("told", "expected"),
    [
        ({}, (0, 1, False)),
        ({"RANK": "1", "WORLD_SIZE": "2", "TORCHELASTIC_RESTART_COUNT": "1"}, (1, 2, True)),
        ({"SLURM_PROCID": "3", "SLURM_STEP_NUM_TASKS": "4", "SLURM_JOB_ID": "7"}, (3, 4, False)),
        ({"SLURM_PROCID": "0", "SLURM_NTASKS": "4", "SLURM_JOB_ID": "7"}, (0, 1, False)),  # the batch script itself
        ({"SLURM_PROCID": "1", "SLURM_STEP_NUM_TASKS": "2", "SLURM_RESTART_COUNT": "1"}, (1, 2, True)),
    ],
)
def test_launchers_say_which_process_this_is(told: dict[str, str], expected: tuple[int, int, bool]) -> None:
    process = this_process(told)
    assert (process.rank, process.world, process.restarted) == expected


def slurm(rank: int, world: int) -> dict[str, str]:
    """What `srun` sets for a task, on two machines."""
    local, job = str(rank % 2), {"SLURM_JOB_ID": "7", "SLURM_STEP_ID": "0", "SLURM_NNODES": "2"}
    return {
        **{name: value for name, value in os.environ.items() if name not in ("RANK", "WORLD_SIZE")},
        **job,
        "SLURM_PROCID": str(rank),
        "SLURM_LOCALID": local,
        "SLURM_NODEID": str(rank // 2),
        "SLURM_NTASKS": str(world),
        "SLURM_STEP_NUM_TASKS": str(world),
    }


def test_tasks_of_slurm_share_the_images_out(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Four tasks of srun, then two of the job that was requeued after all of them were killed."""
    expected = alone(photos, tmp_path / "one", monkeypatch)

    def tasks(world: int, **more: str) -> list[subprocess.Popen[str]]:
        command = [sys.executable, str(SCRIPT), *words(photos, tmp_path / "out", "--resume")]
        piped: dict[str, int] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        return [
            subprocess.Popen(command, env={**slurm(rank, world), **more}, text=True, **piped)  # type: ignore[call-overload]
            for rank in range(world)
        ]

    killed = tasks(4, COUNTING_SECONDS="0.5")
    while len(list((tmp_path / "out" / RUN).glob("launch-*/process-*"))) < 4:
        assert all(process.poll() in (None, 0) for process in killed)
        time.sleep(0.05)
    for process in killed:
        process.kill()
        process.communicate()
    assert not (tmp_path / "out" / "panoptic.json").exists()
    ended = tasks(2, SLURM_RESTART_COUNT="1")
    told = [process.communicate(timeout=300) for process in ended]
    assert sorted(process.returncode for process in ended) == [0, 1], told
    assert files(tmp_path / "out") == expected


@pytest.mark.parametrize(
    ("told", "gpus", "expected"),
    [
        ({}, 8, "cuda"),
        ({"LOCAL_RANK": "3"}, 8, "cuda:3"),
        ({"SLURM_LOCALID": "3"}, 8, "cuda:3"),
        ({"SLURM_LOCALID": "3"}, 1, "cuda:0"),  # --gpus-per-task 1: each task sees its own
        ({"LOCAL_RANK": "5"}, 4, "cuda:1"),
    ],
)
def test_processes_take_gpus_of_their_own(
    told: dict[str, str], gpus: int, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch = pytest.importorskip("torch")
    for name in ("LOCAL_RANK", "SLURM_LOCALID"):
        monkeypatch.delenv(name, raising=False)
    for name, value in told.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    assert str(pick_device("auto")) == expected


@pytest.mark.parametrize("count", [1, 7, 4096, 9000])
@pytest.mark.parametrize("group", [1, 3])
def test_each_item_is_in_one_block_of_one_process(count: int, group: int) -> None:
    with WorkList({"n": n} for n in range(count)) as work:
        size = work.block_size(group)
        assert size % group == 0
        shares = [list(work.blocks(size, rank, 3)) for rank in range(3)]
        blocks = sorted(block for share in shares for block in share)
        assert [number for number, _ in blocks] == list(range(-(-count // size)))
        assert [(place, item["n"]) for _, items in blocks for place, item in items] == [(n, n) for n in range(count)]


@pytest.fixture
def detections(photos: Path, tmp_path: Path) -> list[str]:
    """Return the options of `banet fuse` for instances and label maps of the images but the damaged one."""
    (photos / "4.png").unlink()
    return write_detections(tmp_path, photos)


def test_fuse_is_shared_out_and_gone_on_with(
    detections: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*detections, "--out", str(tmp_path / "one")]) == 0
    alone = capsys.readouterr()
    assert "8 images" in alone.out and "left out, as they are of other images: 1" in alone.err
    expected = files(tmp_path / "one")
    said = run([*detections, "--out", str(tmp_path / "three")], world=3)
    assert [status for status, _, _ in said] == [0, 0, 0] and files(tmp_path / "three") == expected
    last = next(err for _, out, err in said if "8 images" in out)
    assert last == alone.err  # what was left out of all shares
    with monkeypatch.context() as stopping:
        writes = iter(range(3))
        write = fuse.write_ids
        stopping.setattr(fuse, "write_ids", lambda *given: (next(writes), write(*given)))
        with pytest.raises(StopIteration):
            main([*detections, "--out", str(tmp_path / "out")])
    capsys.readouterr()
    assert main([*detections, "--out", str(tmp_path / "out")]) == 2
    assert "holds a run that is not finished; go on with --resume" in capsys.readouterr().err
    assert main([*detections, "--out", str(tmp_path / "out"), "--resume"]) == 0
    assert capsys.readouterr().err == alone.err and files(tmp_path / "out") == expected


def test_pq_of_shares_is_that_of_one_process(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for rule in ("score", "area"):
        alone(photos, tmp_path / rule, monkeypatch, rule=rule)
    score = ["pq", "--gt-json", str(tmp_path / "score/panoptic.json"), "--gt-dir", str(tmp_path / "score"),
             "--pred-dir", str(tmp_path / "area")]  # fmt: skip
    assert main(score) == main([*score, "--json", str(tmp_path / "one.json")]) == 0
    said = run([*score, "--json", str(tmp_path / "three.json")], world=3)
    assert [status for status, _, _ in said] == [0, 0, 0], said
    assert (tmp_path / "three.json").read_bytes() == (tmp_path / "one.json").read_bytes()
    table = next(out for _, out, _ in said if "RQ" in out)
    assert capsys.readouterr().out.endswith(2 * table)
    assert not list(tmp_path.glob(f"{RUN}*"))
    for more, problem in (([], "give --json OUT"), (["--details"], "--details: is for one process")):
        assert main([*score, *more, "--resume"]) == 2 and problem in capsys.readouterr().err


@pytest.mark.parametrize("remote", [False, True], ids=["folder", "url"])
@KILLS
def test_killed_fusions_end_as_undisturbed_ones(tmp_path: Path, kills: int, remote: bool) -> None:
    """From URLs to a URL, or from folders to a folder."""
    there = tmp_path / "there"
    there.mkdir()
    write_images(there / "photos", range(40))
    write_detections(there, there / "photos")
    source = "shared://there" if remote else str(there)
    if remote:
        pytest.importorskip("fsspec")
    arguments, shared = fuse_words(source, f"{source}/photos"), {"COUNTING_SHARED": str(tmp_path)}
    (said,) = run([*arguments, "--out", str(tmp_path / "one")], **shared)
    assert said[0] == 0, said
    kill_and_resume([*arguments, "--out", f"{source}/out"], there / "out" / RUN, kills, seed=kills, **shared)
    assert files(there / "out") == files(tmp_path / "one")
    (said,) = run([*arguments, "--out", f"{source}/out", "--resume"], **shared)
    assert "nothing left to do" in said[1]


@pytest.mark.parametrize("remote", [False, True], ids=["folder", "url"])
@KILLS
def test_killed_scores_end_as_undisturbed_ones(
    tmp_path: Path, kills: int, remote: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = tmp_path / "there"
    there.mkdir()
    write_images(tmp_path / "photos", range(40))
    for rule in ("score", "area"):
        alone(tmp_path / "photos", there / rule, monkeypatch, rule=rule)
    source = "shared://there" if remote else str(there)
    if remote:
        pytest.importorskip("fsspec")
    arguments = ["pq", "--gt-json", f"{source}/score/panoptic.json", "--gt-dir", f"{source}/score",
                 "--pred-dir", f"{source}/area"]  # fmt: skip
    shared = {"COUNTING_SHARED": str(tmp_path)}
    (said,) = run([*arguments, "--json", str(tmp_path / "one.json")], **shared)
    assert said[0] == 0, said
    kill_and_resume([*arguments, "--json", f"{source}/pq.json"], there / f"{RUN}-pq.json", kills, seed=kills, **shared)
    assert (there / "pq.json").read_bytes() == (tmp_path / "one.json").read_bytes()
    assert not list(there.glob(f"{RUN}*"))

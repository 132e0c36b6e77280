"""Outputs replace only what was written as the same kind of output, and never an input."""

from __future__ import annotations

import json
import multiprocessing
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from banet.errors import InputError
from banet.files.atomic import atomic_path, guards, write_json
from banet.files.outputs import RECORD, Entry, Outputs, Record, is_output, output_in
from banet.files.outputs import record as module

KIND = "banet test"


def run(folder: Path, files: dict[str, str], **options: Any) -> None:
    """A command that writes some files."""
    with Outputs(folder, options.pop("kind", KIND), options.pop("names", list(files)), **options):
        for name, text in files.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            with atomic_path(folder / name) as temporary:
                temporary.write_text(text)


def refused(folder: Path, said: str, names: Any = ("a.txt",), kind: str = KIND, **options: Any) -> None:
    before = snapshot(folder)
    with pytest.raises(InputError, match=said) as caught:
        Outputs(folder, kind, names, **options)
    assert len(str(caught.value).splitlines()) == 1
    assert snapshot(folder) == before


def snapshot(folder: Path) -> dict[Path, Any]:
    return {
        path: os.readlink(path) if path.is_symlink() else path.read_bytes() if path.is_file() else None
        for path in folder.rglob("*")
    }


# ---------------------------------------------------------------------------------------------------------- whose is it


def test_a_file_of_the_users_is_refused_and_named(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("mine")
    refused(
        tmp_path,
        r"a\.txt: exists already and was not written by `banet test`.*--out, or add --overwrite",
        ["b.txt", "a.txt"],
    )
    run(tmp_path, {"a.txt": "new", "b.txt": "new"}, overwrite=True)
    assert (tmp_path / "a.txt").read_text() == "new"
    run(tmp_path, {"a.txt": "newer"})  # it is ours now
    assert (tmp_path / "a.txt").read_text() == "newer"


def test_the_same_command_works_again_on_its_own_output(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "out"
    for content in ("one", "one", "two", "three"):
        run(folder, {"a.txt": content, "sub/b.json": content})
        assert (folder / "sub" / "b.json").read_text() == content
    lines = (folder / RECORD).read_text().split()
    assert len([line for line in lines if "sub/b.json" in line]) == 3  # what is the same is not recorded again


@pytest.mark.parametrize("same_times", [False, True])
def test_an_edited_file_is_the_users(tmp_path: Path, same_times: bool) -> None:
    run(tmp_path, {"a.txt": "1234"})
    times = os.stat(tmp_path / "a.txt")
    (tmp_path / "a.txt").write_text("1235")  # of the same size
    if same_times:
        os.utime(tmp_path / "a.txt", ns=(times.st_atime_ns, times.st_mtime_ns))
    refused(tmp_path, "was changed since")
    (tmp_path / "a.txt").write_text("1234")
    run(tmp_path, {"a.txt": "new"})


def test_another_kind_of_output_is_not_ours(tmp_path: Path) -> None:
    run(tmp_path, {"a.txt": "1"}, kind="banet other")
    refused(tmp_path, "not written by `banet test`")


def test_a_result_of_another_input_is_not_replaced(tmp_path: Path) -> None:
    out, one, two = tmp_path / "out", tmp_path / "1" / "a.jpg", tmp_path / "2" / "a.jpg"
    run(out, {"a.txt": "1"}, names={"a.txt": one})
    run(out, {"a.txt": "2"}, names={"a.txt": tmp_path / "2" / ".." / "1" / "a.jpg"})
    refused(out, r"is the result of another input, \.\./1/a\.jpg", {"a.txt": two})
    run(out, {"a.txt": "3"}, names={"a.txt": two}, overwrite=True)
    refused(out, r"\.\./2/a\.jpg", {"a.txt": one})
    moved = tmp_path / "moved"  # whole trees may be
    moved.mkdir()
    out.rename(moved / "out")
    run(moved / "out", {"a.txt": "4"}, names={"a.txt": moved / "2" / "a.jpg"})


def test_unclaimed_files_are_asked_about_when_they_are_written(tmp_path: Path) -> None:
    (tmp_path / "b.txt").write_text("mine")
    with Outputs(tmp_path, KIND, ["a.txt"]):
        write_json(tmp_path / "c.json", 1)
        with pytest.raises(InputError, match=r"b\.txt: exists"):
            write_json(tmp_path / "b.txt", 1)
    assert not guards
    assert (tmp_path / "b.txt").read_text() == "mine"
    assert sorted(path.name for path in tmp_path.iterdir()) == [RECORD, "b.txt", "c.json"]
    write_json(tmp_path / "b.txt", 1)  # Python code that is not a command


def test_what_appears_during_the_run_stays(tmp_path: Path) -> None:
    with Outputs(tmp_path, KIND, ["a.txt", "b.txt"]):
        (tmp_path / "a.txt").write_text("mine")
        with pytest.raises(InputError, match=r"a\.txt: exists"):
            write_json(tmp_path / "a.txt", 1)
        write_json(tmp_path / "b.txt", 1)
        (tmp_path / "b.txt").write_text("edited")
        with pytest.raises(InputError, match=r"b\.txt: exists"):
            write_json(tmp_path / "b.txt", 2)
    assert (tmp_path / "a.txt").read_text() == "mine" and (tmp_path / "b.txt").read_text() == "edited"


def test_a_file_that_grows_is_known_by_its_beginning(tmp_path: Path) -> None:
    def start() -> None:
        with Outputs(tmp_path, KIND, ["log.csv"]), atomic_path(tmp_path / "log.csv", grows=True) as temporary:
            temporary.write_text("step\n")

    start()
    with (tmp_path / "log.csv").open("a") as file:
        file.write("1\n")
    start()
    (tmp_path / "log.csv").write_text("other\n1\n")
    refused(tmp_path, r"log\.csv: exists", ["log.csv"])


def test_folders_of_outputs(tmp_path: Path) -> None:
    run(tmp_path, {f"frames/{n}.txt": str(n) for n in range(5)}, names=(), trees=["frames"])
    with Outputs(tmp_path, KIND, trees=["frames"]) as outputs:
        for n in range(2):
            write_json(tmp_path / "frames" / f"{n}.txt", n)
        (tmp_path / "frames" / "3.txt").write_text("edited meanwhile")
        outputs.prune("frames")
    assert sorted(path.name for path in (tmp_path / "frames").iterdir()) == ["0.txt", "1.txt", "3.txt"]
    refused(tmp_path, r"3\.txt: exists", (), trees=["frames"])


# --------------------------------------------------------------------------------------------------------------- inputs


def relative(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(path.parent)
    return Path("..") / path.parent.name / path.name


def linked(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "first").symlink_to(path)
    (tmp_path / "second").symlink_to("first")
    return tmp_path / "second"


def through_a_linked_folder(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "folder").symlink_to(path.parent, target_is_directory=True)
    return tmp_path / "folder" / path.name


def hard(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "A.TXT").hardlink_to(path)
    return tmp_path / "A.TXT"


def other_case(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    upper = path.with_name(path.name.upper())
    if not upper.exists():  # a file system that tells case apart: the other spelling is the same file there
        upper.hardlink_to(path)
    return upper


SPELLINGS = [relative, linked, through_a_linked_folder, hard, other_case]
Spelling = Callable[[Path, Path, pytest.MonkeyPatch], Path]


@pytest.mark.parametrize("spelling", SPELLINGS)
@pytest.mark.parametrize("ours", [False, True])
@pytest.mark.parametrize("overwrite", [False, True])
def test_an_input_is_never_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spelling: Spelling, ours: bool, overwrite: bool
) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    if ours:
        run(folder, {"a.txt": "input"})
    else:
        (folder / "a.txt").write_text("input")
    spelled = spelling(folder / "a.txt", tmp_path, monkeypatch)
    refused(folder, r"a\.txt: is an input of this command", inputs=[spelled], overwrite=overwrite)


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_a_link_to_an_input_is_no_output(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spelling: Spelling) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.txt").write_text("input")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "b.txt").symlink_to(spelling(tmp_path / "in" / "a.txt", tmp_path, monkeypatch).absolute())
    refused(tmp_path / "out", "is an input", ["b.txt"], inputs=[tmp_path / "in" / "a.txt"], overwrite=True)
    refused(tmp_path / "out", "is an input", ["b.txt"], folders=[tmp_path / "in"], overwrite=True)


def test_a_link_on_the_way_to_an_input_is_one(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("input")
    (tmp_path / "b.txt").symlink_to("a.txt")
    (tmp_path / "c.txt").symlink_to("b.txt")
    for name in ("a.txt", "b.txt", "c.txt"):
        refused(tmp_path, "is an input", [name], inputs=[tmp_path / "c.txt"], overwrite=True)


def test_what_lies_in_a_folder_of_inputs_is_one_unless_it_is_ours(tmp_path: Path) -> None:
    data = tmp_path / "data"
    run(data, {"sub/ours.txt": "1"})
    (data / "sub" / "a.txt").write_text("input")
    (tmp_path / "link").symlink_to(data, target_is_directory=True)
    (tmp_path / "hard.txt").hardlink_to(data / "sub" / "a.txt")
    refused(data, "is an input", ["sub/a.txt"], folders=[tmp_path / "link"], overwrite=True)
    refused(tmp_path, "is an input", ["hard.txt"], folders=[data], overwrite=True)
    run(data, {"sub/ours.txt": "2", "sub/new.txt": "3"}, folders=[data])
    (data / "sub" / "ours.txt").write_text("edited")
    refused(data, "is an input", ["sub/ours.txt"], folders=[data], overwrite=True)


# -------------------------------------------------------------------------------------------------------------- targets


def test_a_planted_link_is_not_written_through(tmp_path: Path) -> None:
    (tmp_path / "theirs").write_text("theirs")
    out = tmp_path / "out"
    out.mkdir()
    for target in (tmp_path / "theirs", tmp_path / "nowhere"):
        (out / "a.txt").unlink(missing_ok=True)
        (out / "a.txt").symlink_to(target)
        refused(out, r"a\.txt: exists")
    (out / "a.txt").unlink()
    (out / "a.txt").symlink_to(tmp_path / "theirs")
    run(out, {"a.txt": "new"}, overwrite=True)
    assert (tmp_path / "theirs").read_text() == "theirs" and not (out / "a.txt").is_symlink()


def test_a_link_to_our_own_copy_is_the_users(tmp_path: Path) -> None:
    run(tmp_path, {"a.txt": "1"})
    (tmp_path / "a.txt").rename(tmp_path / "kept.txt")
    (tmp_path / "a.txt").symlink_to("kept.txt")
    refused(tmp_path, r"a\.txt: exists")


def test_folders_and_files_in_the_way(tmp_path: Path) -> None:
    (tmp_path / "a.txt").mkdir()
    refused(tmp_path, r"a\.txt: is a folder", overwrite=True)
    (tmp_path / "file").write_text("x")
    refused(tmp_path, "cannot be written", ["file/a.txt"], overwrite=True)
    with pytest.raises(InputError, match="file is not a folder"):
        Outputs(tmp_path / "file" / "out", KIND, ["a.txt"])


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="permissions do not bind this user")
def test_a_folder_that_cannot_be_written_to_is_said_at_once(tmp_path: Path) -> None:
    tmp_path.chmod(stat.S_IRUSR | stat.S_IXUSR)
    try:
        with pytest.raises(InputError, match="Permission denied"):
            Outputs(tmp_path / "out", KIND, ["a.txt"])
    finally:
        tmp_path.chmod(stat.S_IRWXU)


def test_access_is_asked_about(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(InputError, match="Permission denied to write to"):
        Outputs(tmp_path / "out", KIND, ["a.txt"])


def test_two_results_of_one_name_are_refused(tmp_path: Path) -> None:
    refused(tmp_path, "two results would be written to A.txt and a.txt", ["a.txt", "b.txt", "A.txt"])


# ----------------------------------------------------------------------------------------------------------- the record


class Killed(BaseException):
    pass


@pytest.mark.parametrize("step", ["append", "replace"])
def test_a_run_that_is_killed_can_be_run_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    run(tmp_path, {"a.txt": "old", "b.txt": "old"})

    def kill(*_: object) -> None:
        raise Killed

    outputs = Outputs(tmp_path, KIND, ["a.txt", "b.txt", "c.txt"])
    with monkeypatch.context() as patch, pytest.raises(Killed), outputs:
        write_json(tmp_path / "a.txt", 1)
        if step == "append":
            patch.setattr(Record, "append", kill)
        else:
            patch.setattr(os, "replace", kill)
        write_json(tmp_path / "b.txt", 1)
    assert (tmp_path / "a.txt").read_text() == "1\n" and (tmp_path / "b.txt").read_text() == "old"
    run(tmp_path, {"a.txt": "new", "b.txt": "new", "c.txt": "new"})


def test_a_line_that_was_cut_off_costs_that_one_only(tmp_path: Path) -> None:
    run(tmp_path, {"a.txt": "1"})
    with (tmp_path / RECORD).open("a") as file:
        file.write('\n{"name": "b.txt", "kind": "ba')
    (tmp_path / "b.txt").write_text("mine")
    refused(tmp_path, r"b\.txt: exists", ["b.txt"])
    run(tmp_path, {"a.txt": "2", "c.txt": "2"})
    run(tmp_path, {"a.txt": "3", "c.txt": "3"})
    for line in filter(None, (tmp_path / RECORD).read_text().split("\n")):
        json.loads(line)  # written anew


DAMAGE = {
    "garbage": b"\xff\x00garbage",
    "empty": b"",
    "another JSON": b'[1, 2]\n{"name": 1}\n',
    "deep": b"[" * 10_000,
    "leads out": b'{"banet-outputs": 1}\n{"name": "../a.txt", "kind": "banet test", "size": 4, "sha256": "00"}\n',
    "wrong types": b'{"banet-outputs": 1}\n{"name": "a.txt", "kind": 1, "size": "4", "sha256": null}\n',
    "huge numbers": b'{"banet-outputs": 1}\n{"name": "a.txt", "kind": "banet test", "size": ' + b"9" * 5000 + b"}\n",
}


@pytest.mark.parametrize("content", DAMAGE.values(), ids=DAMAGE.keys())
def test_of_a_damaged_record_nothing_is_believed(tmp_path: Path, content: bytes) -> None:
    run(tmp_path, {"a.txt": "mine"})
    (tmp_path / RECORD).write_bytes(content)
    refused(tmp_path, r"a\.txt: exists")
    run(tmp_path, {"b.txt": "1"})
    run(tmp_path, {"b.txt": "2"})
    refused(tmp_path, r"a\.txt: exists")


def test_a_record_from_elsewhere_grants_nothing(tmp_path: Path) -> None:
    run(tmp_path / "out", {"a.txt": "result"})
    photos = tmp_path / "photos"
    photos.mkdir()
    (photos / "a.txt").write_text("mine")
    (photos / RECORD).write_bytes((tmp_path / "out" / RECORD).read_bytes())
    refused(photos, r"a\.txt: exists")


@pytest.mark.parametrize("link", ["symlink_to", "hardlink_to"])
def test_a_record_that_is_a_link_is_not_written_through(tmp_path: Path, link: str) -> None:
    theirs, out = tmp_path / "theirs", tmp_path / "out"
    run(tmp_path, {"x.txt": "1"})
    theirs.write_bytes((tmp_path / RECORD).read_bytes())
    before = theirs.read_bytes()
    out.mkdir()
    getattr(out / RECORD, link)(theirs)
    run(out, {"a.txt": "1"})
    run(out, {"a.txt": "2"})
    assert theirs.read_bytes() == before and (out / RECORD).stat().st_ino != theirs.stat().st_ino


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes")
def test_a_record_that_is_a_pipe_keeps_nobody_waiting(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / RECORD)
    run(tmp_path, {"a.txt": "1"})
    run(tmp_path, {"a.txt": "2"})


def test_a_record_that_is_too_large_is_not_believed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(tmp_path, {"a.txt": "1"})
    monkeypatch.setattr(module, "_LARGEST", 50)
    refused(tmp_path, r"a\.txt: exists")


def test_a_large_record_says_on_disk_what_a_small_one_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = {f"{n}.txt": str(n) for n in range(12)}
    run(tmp_path, files)
    run(tmp_path, {name: f"new {text}" for name, text in files.items()})
    small = Record(tmp_path)
    monkeypatch.setattr(module, "_IN_MEMORY", 5)
    large = Record(tmp_path)
    assert large.entries._some == {} and list(large.entries) == list(small.entries)
    for name in (*files, "none.txt"):
        assert large.entries.of(name) == small.entries.of(name)
        assert large.find(name, KIND) == small.find(name, KIND)
        assert (name in large.entries) == (name in small.entries)
    assert b"".join(large.entries.lines()) == b"".join(small.entries.lines())
    run(tmp_path, files)
    (tmp_path / "3.txt").write_text("edited")
    refused(tmp_path, r"3\.txt: exists", list(files))


def test_the_record_does_not_grow_without_end(tmp_path: Path) -> None:
    names = [f"{n}.txt" for n in range(20)]
    for number in range(60):
        run(tmp_path, dict.fromkeys(names, str(number)))
    with (tmp_path / RECORD).open() as file:
        assert sum(bool(line.strip()) for line in file) < 1400
    run(tmp_path, dict.fromkeys(names, "last"))


def test_the_cost_per_file_does_not_grow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No file makes the record be read or written as a whole."""
    reads, rewrites = [], []
    read, rewrite = Record.read, Record._rewrite
    monkeypatch.setattr(Record, "read", lambda self: (reads.append(1), read(self))[1])
    monkeypatch.setattr(Record, "_rewrite", lambda self: (rewrites.append(1), rewrite(self))[1])
    files = {f"{n}.txt": str(n) for n in range(500)}
    run(tmp_path, files)
    run(tmp_path, files)
    run(tmp_path, {name: f"new {text}" for name, text in files.items()}, names=())
    assert len(rewrites) == 1
    tails = Record(tmp_path)
    tails.read()
    assert tails._end == (tmp_path / RECORD).stat().st_size  # the second time there was nothing left to read


def test_what_another_process_wrote_since_the_record_was_read_is_ours(tmp_path: Path) -> None:
    run(tmp_path, {"a.txt": "1"})
    late = Outputs(tmp_path, KIND, checked=False)
    run(tmp_path, {"a.txt": "2"})
    late.check([("a.txt", None)])
    (tmp_path / "a.txt").write_text("3")
    with pytest.raises(InputError, match="was changed since"):
        late.check([("a.txt", None)])


@pytest.mark.parametrize("remote", [False, True])
def test_two_commands_that_begin_a_folder_know_each_others_files(tmp_path: Path, remote: bool) -> None:
    """Both are there before either has written, as `banet pq --json res/a.json & banet pq --json res/b.json`."""
    folder = str(tmp_path)
    if remote:
        pytest.importorskip("fsspec").filesystem("memory").store.clear()
        folder = "memory://two"
    both = [output_in(f"{folder}/{name}.json", KIND, "--json") for name in "ab"]
    for name, output in zip("ab", both, strict=True):
        with output:
            write_json(output.folder / f"{name}.json", 1)
    again = [output_in(f"{folder}/{name}.json", KIND, "--json") for name in "ab"]
    assert [output.ours(f"{name}.json") for name, output in zip("ab", again, strict=True)] == [True, True]
    assert [len(again[0].record.entries.of(f"{name}.json")) for name in "ab"] == [1, 1]


def test_a_record_that_was_deleted_before_the_first_line_is_begun_again(tmp_path: Path) -> None:
    run(tmp_path, {"a.txt": "1"})
    with Outputs(tmp_path, KIND, ["b.txt"]):
        (tmp_path / RECORD).unlink()
        write_json(tmp_path / "b.txt", 1)
    assert sorted(Record(tmp_path).entries) == ["a.txt", "b.txt"]


def _work(folder: Path, owners: tuple[object, ...], start: Any) -> None:
    start.wait()
    run(folder, {f"{owner}_{n}.txt": str(n) for owner in owners for n in range(50)})


@pytest.mark.parametrize("damaged", [False, True])
def test_runs_at_the_same_time_know_each_others_files(tmp_path: Path, damaged: bool) -> None:
    run(tmp_path, {"first.txt": "1"})
    if damaged:
        (tmp_path / RECORD).write_bytes(b"x")
    context = multiprocessing.get_context("spawn")
    start = context.Barrier(3)
    # While a damaged record is written anew, another process' lines may be lost: never a file, but that one is refused
    # to the others, so there they share none.
    shared = () if damaged else ("both",)
    workers = [context.Process(target=_work, args=(tmp_path, (number, *shared), start)) for number in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0, 0, 0]
    record = Record(tmp_path)
    names = [f"{which}_{n}.txt" for which in (0, 1, 2, *shared) for n in range(50)]
    unknown = [name for name in names if record.find(name, KIND) is None]
    assert not unknown or damaged
    assert {path.name for path in tmp_path.glob("*_*.txt")} == set(names)


def test_names_that_are_not_text_are_known(tmp_path: Path) -> None:
    names = [os.fsdecode(b"\xff\xfe.txt"), "a:b.txt", "line\nbreak.txt", "雪.txt", "c\\d.txt"]
    run(tmp_path, dict.fromkeys(names, "1"))
    run(tmp_path, dict.fromkeys(names, "2"))


def test_is_output(tmp_path: Path) -> None:
    run(tmp_path, {"a.txt": "1", "b.txt": "2"})
    (tmp_path / "b.txt").write_text("edited")
    records: dict[Path, Record] = {}
    assert is_output(tmp_path / "a.txt", KIND, records) and not is_output(tmp_path / "a.txt", "banet other", records)
    assert not is_output(tmp_path / "b.txt", KIND, records) and not is_output(tmp_path / "c.txt", KIND, records)
    assert [folder for folder in records if folder.is_relative_to(tmp_path)] == [tmp_path]


def test_an_entry_is_found_among_several(tmp_path: Path) -> None:
    run(tmp_path, {"a.txt": "1"})
    run(tmp_path, {"a.txt": "22"})
    (tmp_path / "a.txt").write_text("1")  # as after a kill between record and name
    entry = Record(tmp_path).find("a.txt", KIND)
    assert isinstance(entry, Entry) and entry.size == 1

"""What a command may write: files that do not exist yet, and its own of an earlier run that nobody has changed since.

Beside its outputs a command keeps a record (`RECORD`): a line of JSON per file, with name, kind, size and digest. A
file is *ours* when the record names it as this kind of output and its content still has that digest; any other file is
the user's. A line is appended before the file gets its name, so that the run after one that was killed knows all that
it left. Each line stands alone: a damaged one grants nothing, and neither does one whose file is another.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import os
import stat
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, TypeAlias, cast

from banet.errors import InputError
from banet.files.atomic import guards
from banet.files.names import name_key
from banet.types import StrPath

__all__ = [
    "PART_RECORD",
    "RECORD",
    "RUN",
    "Again",
    "Entry",
    "NewFolder",
    "Outputs",
    "Record",
    "digest_of",
    "free_folder",
    "is_output",
    "output_file",
    "weight_files",
]

RECORD = ".banet-outputs.jsonl"
"""Name of the record in a folder of outputs."""

RUN = ".banet-run"
"""Name of the folder beside it in which a run keeps what is finished, while it is not finished as a whole."""

PART_RECORD = ".outputs.jsonl"
"""How the names of records of a part of a run end; they lie in `RUN`, and join the folder's own when the run ends."""

_HEADER = {"banet-outputs": 1}
_LARGEST = 1 << 28  # bytes of a record, some million files; of a larger one nothing is believed
_LONGEST = 1 << 14  # bytes of one line
_KEPT = 2  # entries per file that a rewritten record keeps: the file, and what was about to replace it
_CHUNK = 1 << 20

_Key: TypeAlias = tuple[int, int] | str


@dataclass(frozen=True, slots=True)
class Entry:
    """What was written under a name.

    Attributes:
        kind: The kind of output, such as `banet predict`.
        size: Bytes.
        sha256: Digest of these bytes, hexadecimal.
        source: What it was made from, relative to the folder; None where that does not matter.
        grows: More was appended later: only the first `size` bytes have that digest.
        run: Which run this file is the last of; None of all others.
    """

    kind: str
    size: int
    sha256: str
    source: str | None = None
    grows: bool = False
    run: str | None = None


class Record:
    """The record of one folder: which files this library wrote there.

    Whatever is not a whole line of a regular file is not believed. Several processes may append at the same time.

    Args:
        folder: The folder; it may be missing.
        path: Another file than the folder's own record: that of a part of a run.
    """

    def __init__(self, folder: StrPath, path: Path | None = None) -> None:
        self.folder = Path(folder)
        self.path = path or self.folder / RECORD
        self.entries: dict[str, list[Entry]] = {}
        self._sound = False  # may be appended to as it is
        self._read_of: tuple[int, int] | None = None  # the file that was read, and to where
        self._end = 0
        self._file: int | None = None
        self._lock = threading.RLock()
        self.read()

    def read(self) -> None:
        """Take in what the record holds, or what was added since the last time; a missing or foreign one is empty."""
        with self._lock:
            try:
                stream = _open_regular(self.path)
            except OSError:
                self._forget()
                return
            with stream:
                status = os.fstat(stream.fileno())
                if self._read_of != (status.st_dev, status.st_ino) or status.st_size < self._end:
                    self._forget()
                    self._read_of = status.st_dev, status.st_ino
                    self._sound = status.st_nlink == 1 and _parse(stream.readline(_LONGEST)) == _HEADER
                    self._end = stream.tell()
                if status.st_size - self._end > _LARGEST:
                    self._forget()
                    return
                stream.seek(self._end)
                self._take(stream)

    def _forget(self) -> None:
        self.entries, self._sound, self._read_of, self._end = {}, False, None, 0

    def _take(self, stream: BinaryIO) -> None:
        count = 0
        while line := stream.readline(_LONGEST):
            self._end = stream.tell()
            count += 1
            if not line.strip():
                continue
            named = _entry(_parse(line))
            if named is None:
                self._sound = False
            elif (entries := self.entries.setdefault(named[0], []))[-1:] != [named[1]]:
                entries.append(named[1])
        # Runs that write other content each time leave lines behind: from a point on, the record is written anew.
        live = sum(min(len(some), _KEPT) for some in self.entries.values())
        self._sound = self._sound and count <= 6 * live + 1000

    def find(self, name: str, kind: str) -> Entry | None:
        """Return the entry that a file has the content of, or None: it is missing, another's, or was changed.

        Args:
            name: The file, relative to the folder, with `/`.
            kind: The kind of output that it must have been written as.
        """
        entries = [entry for entry in self.entries.get(name, ()) if entry.kind == kind]
        if not entries:
            return None
        with contextlib.suppress(OSError), _open_regular(self.folder / name) as stream:
            size = os.fstat(stream.fileno()).st_size
            for entry in reversed(entries):
                if entry.size == size or (entry.grows and entry.size < size):
                    stream.seek(0)
                    if digest_of(stream, entry.size) == entry.sha256:
                        return entry
        return None

    def adopt(self, parts: Iterable[Record]) -> None:
        """Add what records of parts hold, without keeping it in memory.

        Raises:
            OSError: The record cannot be written.
        """
        with self._lock:
            file = self._open()
            for part in parts:
                lines = (_line(name, entry) for name, entries in part.entries.items() for entry in entries[-_KEPT:])
                rest = "".join(f"\n{line}\n" for line in lines).encode()
                while rest:
                    rest = rest[os.write(file, rest) :]

    def append(self, name: str, entry: Entry) -> None:
        """Add what is about to get a name.

        Raises:
            OSError: The record cannot be written.
        """
        with self._lock:
            file = self._open()
            entries = self.entries.setdefault(name, [])
            if entries[-1:] != [entry]:
                entries.append(entry)
                # A line begins with the break, too, so that one that was cut off costs that one only.
                rest = f"\n{_line(name, entry)}\n".encode()
                while rest:  # a full disk takes a part first
                    rest = rest[os.write(file, rest) :]

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            if self._file is not None:
                os.close(self._file)
                self._file = None

    def _open(self) -> int:
        """Return a descriptor that appends to the file that has the record's name now."""
        if self._file is not None:
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(self._file), os.lstat(self.path)):
                    return self._file
            self.close()  # another process wrote the record anew, or it was deleted
            known = self.entries
            self.read()
            if lost := {name: entries for name, entries in known.items() if name not in self.entries}:
                self.entries |= lost
                self._sound = False
        if not self._sound:
            self._rewrite()
        flags = os.O_WRONLY | os.O_APPEND | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
        self._file = os.open(self.path, flags)
        return self._file

    def _rewrite(self) -> None:
        """Write the record anew, under a name of its own first: never through a link that has its name."""
        temporary = self.path.with_name(f"{RECORD}.{os.getpid()}-{threading.get_ident()}.tmp")
        try:
            with temporary.open("w", encoding="utf-8", newline="\n") as file:
                file.write(f"{json.dumps(_HEADER)}\n")
                for name, entries in self.entries.items():
                    file.writelines(f"{_line(name, entry)}\n" for entry in entries[-_KEPT:])
            os.replace(temporary, self.path)
        finally:
            temporary.unlink(missing_ok=True)
        self._sound = True


class NewFolder:
    """What records the files of a folder that no other program knows of yet; nothing of them is in memory.

    A context manager. Beside the record it decides nothing, unlike `Outputs`.

    Args:
        folder: The folder, which exists and is empty.
        kind: The kind of output.
    """

    def __init__(self, folder: StrPath, kind: str) -> None:
        self._root, self._kind = os.path.join(os.path.abspath(folder), ""), kind
        self._lock = threading.Lock()

    def covers(self, target: str) -> int:
        """Return how near a file is to the folder, see `Outputs.covers`."""
        return len(self._root) if target.startswith(self._root) else 0

    def commit(self, temporary: Path, target: Path, *, grows: bool = False) -> None:
        """Record a finished file and give it its name."""
        with temporary.open("rb") as stream:
            size = os.fstat(stream.fileno()).st_size
            entry = Entry(self._kind, size, digest_of(stream, size), None, grows)
        name = Path(os.path.abspath(target)).relative_to(self._root).as_posix()
        with self._lock:
            self._file.write(f"{_line(name, entry)}\n")
        os.replace(temporary, target)

    def __enter__(self) -> NewFolder:
        self._file = open(os.path.join(self._root, RECORD), "w", encoding="utf-8", newline="\n")
        self._file.write(f"{json.dumps(_HEADER)}\n")
        guards.append(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        guards.remove(self)
        self._file.close()


class Outputs:
    """The files that one run of a command writes into a folder.

    Making one checks all of them, before anything is computed: a name that is taken must be that of a file of ours (see
    the module), or `overwrite` must be given; an input is never replaced, however its path is spelled. As a context
    manager it then sees to every file that `atomic_path` writes in the folder: it is checked again, as files may have
    come or changed meanwhile, and recorded.

    Args:
        folder: The folder; made by whoever writes.
        kind: The kind of output, such as `banet predict`; ours are only those of the same kind.
        names: The files, relative to the folder; where given as a mapping, with what each is made from: a file of ours
            that was made from something else counts as the user's.
        trees: Folders in it, relative, whose files are not known yet: whatever is there must be ours.
        inputs: Files that the command reads.
        folders: Folders that the command reads: what is in them is an input, unless it is ours.
        overwrite: Also replace files of the user's, but never an input.
        option: The option that names the folder, for errors.
        checked: Check them now; otherwise `check` is called, with these names and more, before the first is written.

    Attributes:
        run: What files that are recorded from now on are the last of; see `Entry`.

    Raises:
        InputError: A file may not be replaced, two names are equal, or the folder cannot be written to.
    """

    def __init__(
        self,
        folder: StrPath,
        kind: str,
        names: Iterable[str] | Mapping[str, StrPath | None] = (),
        *,
        trees: Iterable[str] = (),
        inputs: Iterable[StrPath] = (),
        folders: Iterable[StrPath] = (),
        overwrite: bool = False,
        option: str = "--out",
        checked: bool = True,
    ) -> None:
        self.folder, self.kind, self.overwrite, self.option = Path(folder), kind, overwrite, option
        self._root = os.path.abspath(self.folder)
        self._record = Record(self.folder)
        self._inputs = _Inputs(inputs, folders)
        self._sources = {name: self._relative(s) for name, s in names.items()} if isinstance(names, Mapping) else {}
        self._names = set(names)
        self._passing: set[str] = set()
        self._part: Record | None = None
        self._written: set[str] = set()
        self._trees = tuple(trees)
        self.run: str | None = None
        self._check_folder()
        self._check_distinct(names)
        if checked:
            self.check((name, None) for name in names)

    def covers(self, target: str) -> int:
        """How near a file, given by its absolute path, is to these outputs: 0 is not at all; one of the names most."""
        root = self._root.rstrip(os.sep) + os.sep
        if not target.startswith(root):
            return 0
        return len(root) + (self._name(target) in self._names) * (1 << 20)

    def commit(self, temporary: Path, target: Path, *, grows: bool = False) -> None:
        """Record a finished file and give it its name.

        Args:
            temporary: The file, in the folder of `target`.
            target: Its name.
            grows: See `Entry`.

        Raises:
            InputError: Meanwhile a file got that name that may not be replaced.
        """
        name = self._name(os.path.abspath(target))
        try:
            self._check(name)
        except InputError:  # another process of the same command may have written it, and recorded that
            self._record.read()
            self._check(name)
        with temporary.open("rb") as stream:
            size = os.fstat(stream.fileno()).st_size
            entry = Entry(self.kind, size, digest_of(stream, size), self._sources.get(name), grows, self.run)
        (self._part or self._record).append(name, entry)
        os.replace(temporary, target)
        if self._trees:
            self._written.add(name)

    @property
    def names(self) -> Iterable[str]:
        """Return the names of the files, as far as they were given."""
        return sorted(self._names)

    def enter(self, part: Record | None, names: Mapping[str, StrPath | None] | None = None) -> None:
        """Record files of a part of a run from now on; of None, in the folder's own record.

        Args:
            part: The record of the part. What it holds is ours, as that run has checked it.
            names: The files of the part that come next, with what each is made from.
        """
        if self._part is not None and self._part is not part:
            self._part.close()
        self._part = part
        if names is not None:
            self._names -= self._passing
            self._sources = {name: self._relative(source) for name, source in names.items()}
            self._passing = set(names)
            self._names |= self._passing

    def check(self, names: Iterable[tuple[str, StrPath | None]]) -> None:
        """Ask of files, and of all in the trees, that they may be written; see the class.

        Args:
            names: The files, each with what it is made from where it is not one of the class's `names`.

        Raises:
            InputError: One may not be replaced.
        """
        if not os.path.lexists(self.folder):
            return
        sources = self._sources
        for name, source in names:
            self._sources = sources if source is None else {name: self._relative(source)}
            self._check(name)
        self._sources = sources
        for tree in self._trees:
            for name in self._files_in(tree):
                self._check(name)

    @property
    def record(self) -> Record:
        """The folder's own record."""
        return self._record

    def ours(self, name: str) -> bool:
        """Return whether a file is there, and is one that an earlier run wrote and nobody has changed."""
        records = [self._record] if self._part is None else [self._part, self._record]
        return any(record.find(name, self.kind) is not None for record in records)

    def prune(self, tree: str) -> None:
        """Delete what an earlier run left in a folder, such as the last frames of a longer video; the user's stay."""
        for name in list(self._files_in(tree)):
            if name not in self._written and not self._inputs.hold(self.folder / name) and self.ours(name):
                (self.folder / name).unlink()

    def __fspath__(self) -> str:
        """Return the folder, so that these may be given in its place."""
        return os.fspath(self.folder)

    def __enter__(self) -> Outputs:
        guards.append(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        guards.remove(self)
        self.enter(None)
        self._record.close()

    def _check_folder(self) -> None:
        there = Path(self._root)
        while not there.exists() and there != there.parent:
            there = there.parent
        if not there.is_dir():
            raise InputError(
                f"{there} is not a folder", where=f"{self.option} {self.folder}", hint=f"choose another {self.option}"
            )
        if not os.access(there, os.W_OK | os.X_OK):
            raise InputError(
                f"Permission denied to write to {there}",
                where=f"{self.option} {self.folder}",
                hint=f"choose another {self.option}, or correct the permissions",
            )

    def _check_distinct(self, names: Iterable[str]) -> None:
        taken: dict[str, str] = {}
        for name in names:
            other = taken.setdefault(name_key(name), name)
            if other is not name:
                raise InputError(
                    f"two results would be written to {name} and {other}, one name on some file systems",
                    where=self.folder,
                    hint="rename one of the inputs",
                )

    def _check(self, name: str) -> None:
        """Ask that a name may be written to."""
        target, another = self.folder / name, f"choose another {self.option}"
        try:
            status = os.lstat(target)
        except FileNotFoundError:
            return
        except OSError as error:  # such as a file where a folder of the name should be
            raise InputError(f"cannot be written ({error.strerror})", where=target, hint=another) from error
        if stat.S_ISDIR(status.st_mode):
            raise InputError("is a folder, where a file would be written", where=target, hint=another)
        if self._part is not None and self._part.find(name, self.kind) is not None:
            return
        held = self._inputs.hold(target)
        entry = None if held else self._record.find(name, self.kind)
        if held or (entry is None and self._inputs.surround(target)):
            raise InputError("is an input of this command, which is never replaced", where=target, hint=another)
        if not self.overwrite:
            problem = ""
            if entry is None:
                problem = f"exists already and was not written by `{self.kind}`, or was changed since"
            elif entry.source != self._sources.get(name, entry.source):
                problem = f"is the result of another input, {entry.source or 'generated data'}"
            if problem:
                raise InputError(problem, where=target, hint=f"{another}, or add --overwrite")

    def _files_in(self, tree: str) -> Iterator[str]:
        for folder, _, files in os.walk(self.folder / tree):
            for file in files:
                if file != RECORD:
                    yield (Path(folder) / file).relative_to(self.folder).as_posix()

    def _name(self, target: str) -> str:
        return Path(os.path.relpath(target, self._root)).as_posix()

    def _relative(self, source: StrPath | None) -> str | None:
        """Return a source as the record names it: whole trees may be moved."""
        if source is None:
            return None
        path = os.path.realpath(source)
        try:
            return Path(os.path.relpath(path, os.path.realpath(self._root))).as_posix()
        except ValueError:  # on another drive
            return Path(path).as_posix()


class Again:
    """What may be iterated over several times, made anew each time: no list of it is held."""

    def __init__(self, make: Callable[[], Iterator[StrPath]]) -> None:
        self._make = make

    def __iter__(self) -> Iterator[StrPath]:
        return self._make()


class _Inputs:
    """Files and folders that a command reads, known by what they are and not by how their paths are spelled.

    They are looked at only when a name that is to be written is taken.
    """

    def __init__(self, files: Iterable[StrPath], folders: Iterable[StrPath]) -> None:
        self._files, self._folders = files, [Path(folder) for folder in folders]
        self._keys: set[_Key] | None = None
        self._roots: set[_Key] | None = None
        self._inside: set[_Key] | None = None
        self._surrounded: dict[Path, bool] = {}

    def hold(self, target: Path) -> bool:
        """Return whether a file that exists is one of the files, or a link on the way to one."""
        if self._keys is None:
            self._keys = {key for file in self._files for link in _links(Path(file)) for key in _keys(link)}
        return not self._keys.isdisjoint(_keys(target))

    def surround(self, target: Path) -> bool:
        """Return whether a file that exists lies in one of the folders, or is a link to a file in one."""
        if self._roots is None:
            self._roots = {key for folder in self._folders for key in _keys(folder)}
        if not self._roots:
            return False
        if not self._roots.isdisjoint(_keys(target)) or self._in_root(Path(os.path.abspath(target)).parent):
            return True
        if target.is_symlink() and self._in_root(Path(os.path.realpath(target)).parent):
            return True
        if not target.exists() or target.stat().st_nlink < 2:
            return False
        if self._inside is None:  # the other name of a hard link can be anywhere
            files = (Path(at) / name for folder in self._folders for at, _, names in os.walk(folder) for name in names)
            self._inside = {key for file in files for key in _keys(file)}
        return not self._inside.isdisjoint(_keys(target))

    def _in_root(self, folder: Path) -> bool:
        assert self._roots is not None
        if folder not in self._surrounded:
            here = not self._roots.isdisjoint(_keys(folder))
            self._surrounded[folder] = here or (folder != folder.parent and self._in_root(folder.parent))
        return self._surrounded[folder]


def output_file(path: StrPath, kind: str, option: str, **options: Any) -> Outputs:
    """Check one output that an option names by its path; see `Outputs`.

    Raises:
        InputError: As `Outputs`; or its folder does not exist.
    """
    file = Path(path)
    if not file.parent.is_dir():
        raise InputError(f"the folder {file.parent} does not exist", where=f"{option} {file}", hint="create it first")
    return Outputs(file.parent, kind, [file.name], option=option, **options)


def free_folder(out: Path) -> Path:
    """Return a folder for the results of a run: `out`, or `out-2` and so on where those before hold something."""
    candidates = itertools.chain([out], (out.with_name(f"{out.name}-{n}") for n in itertools.count(2)))
    return next(one for one in candidates if not one.exists() or (one.is_dir() and not any(one.iterdir())))


def weight_files(weights: StrPath) -> list[Path]:
    """Return the files that hold weights, where these are named by a path and not by a name of the library's."""
    path = Path(weights)
    if path.is_dir():
        return [file for file in path.iterdir() if file.is_file()]
    return [path, path.with_suffix(".bin")] if path.suffix == ".xml" else [path]


def is_output(path: Path, kind: str, records: dict[Path, Record]) -> bool:
    """Return whether a file is an output that this library wrote into a folder that it lies in, and unchanged.

    Args:
        path: The file.
        kind: The kind of output.
        records: Records that were read already, by folder; gets those that are read.
    """
    for folder in path.parents:
        if folder not in records:
            records[folder] = Record(folder)
            for part in (folder / RUN).glob(f"*{PART_RECORD}"):
                for name, entries in Record(folder, part).entries.items():
                    records[folder].entries.setdefault(name, []).extend(entries)
        if records[folder].find(path.relative_to(folder).as_posix(), kind) is not None:
            return True
    return False


def _open_regular(path: Path) -> BinaryIO:
    """Open a regular file that is not a link, without waiting for what is not one, such as a pipe."""
    flags = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    if path.is_symlink():  # where there is no such flag
        raise OSError(f"{path} is a link")
    stream = os.fdopen(os.open(path, flags), "rb")
    if not stat.S_ISREG(os.fstat(stream.fileno()).st_mode):
        stream.close()
        raise OSError(f"{path} is not a regular file")
    return stream


def _parse(line: bytes) -> dict[str, object]:
    """Return the object of a line; an empty one where it is damaged or cut off."""
    try:
        value = json.loads(line) if line.endswith(b"\n") else None
    except (ValueError, RecursionError):
        value = None
    return value if isinstance(value, dict) else {}


def _entry(line: Mapping[str, object]) -> tuple[str, Entry] | None:
    """Name and entry of a line; None where it is not one."""
    name, kind, size, sha256 = (line.get(field) for field in ("name", "kind", "size", "sha256"))
    source, grows, run = line.get("source"), line.get("grows", False), line.get("run")
    if not (isinstance(name, str) and isinstance(kind, str) and type(size) is int and isinstance(sha256, str)):
        return None
    if not all(each is None or isinstance(each, str) for each in (source, run)) or not isinstance(grows, bool):
        return None
    if os.path.isabs(name) or ".." in Path(name).parts:
        return None
    return name, Entry(kind, size, sha256, cast(str | None, source), grows, cast(str | None, run))


def _line(name: str, entry: Entry) -> str:
    return json.dumps(
        {
            "name": name,
            **{key: value for key, value in asdict(entry).items() if value is not None and value is not False},
        }
    )


def digest_of(stream: BinaryIO, size: int) -> str:
    """Return the SHA-256, hexadecimal, of the next `size` bytes, or of as many as there are."""
    digest = hashlib.sha256()
    while size > 0 and (chunk := stream.read(min(size, _CHUNK))):
        digest.update(chunk)
        size -= len(chunk)
    return digest.hexdigest()


def _keys(path: Path) -> set[_Key]:
    """Return what tells a file from all others, and where it is a link, the link: device and number, or the path."""
    found: set[_Key] = set()
    for look in (os.stat, os.lstat):
        with contextlib.suppress(OSError):
            status = look(path)
            numbered = status.st_ino != 0  # some file systems number nothing
            found.add((status.st_dev, status.st_ino) if numbered else os.path.normcase(os.path.realpath(path)))
    return found


def _links(path: Path) -> Iterator[Path]:
    """Return a path, and where it is a link, all the others on the way to the file."""
    for _ in range(40):  # as many as systems follow
        yield path
        try:
            if not path.is_symlink():
                return
            path = path.parent / os.readlink(path)
        except OSError:
            return

"""What a command may write: files that do not exist yet, and its own of an earlier run that nobody has changed since.

A file is *ours* when the record (`banet.files.outputs.record`) names it as this kind of output and its content still
has that digest; any other file is the user's.
"""

from __future__ import annotations

import itertools
import os
import stat
import threading
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from banet.errors import InputError
from banet.files.atomic import guards
from banet.files.names import name_key
from banet.files.outputs.inputs import Inputs
from banet.files.outputs.places import FolderPlace, Place
from banet.files.outputs.record import HEADER_LINE, PART_RECORD, RECORD, RUN, Entry, Record, digest_of, record_line
from banet.files.remote import is_remote
from banet.types import StrPath

__all__ = ["NewFolder", "Outputs", "free_folder", "is_output", "output_file"]


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
            self._file.write(record_line(name, entry))
        os.replace(temporary, target)

    def __enter__(self) -> NewFolder:
        self._file = open(os.path.join(self._root, RECORD), "wb")
        self._file.write(HEADER_LINE)
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
        folder: Where the files are written to.
        place: The folder that they are in at the end.
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
        self._record = self._open_record()
        self._inputs = Inputs(inputs, folders)
        self._sources = {name: self._relative(s) for name, s in names.items()} if isinstance(names, Mapping) else {}
        self._names = set(names)
        self._passing: set[str] = set()
        self._part: Record | None = None
        self._written: set[str] = set()
        self._trees = tuple(trees)
        self.run: str | None = None
        self.place: Place = FolderPlace(self.folder)
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
        self._check_now(name)
        (self._part or self._record).append({name: self._entry(name, temporary, grows)})
        self._give_name(temporary, target, name)
        if self._trees:
            self._written.add(name)

    def _entry(self, name: str, file: Path, grows: bool = False) -> Entry:
        """Return what the record says of a finished file."""
        with file.open("rb") as stream:
            size = os.fstat(stream.fileno()).st_size
            return Entry(self.kind, size, digest_of(stream, size), self._sources.get(name), grows, self.run)

    def _give_name(self, temporary: Path, target: Path, name: str) -> None:
        os.replace(temporary, target)

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
            self._check_now(name)
        self._sources = sources
        for tree in self._trees:
            for name in self._files_in(tree):
                self._check_now(name)

    def part_record(self, name: str) -> Record:
        """Return the record of a part of a run.

        Args:
            name: Its file, relative to the folder.
        """
        return Record(self.folder, self.folder / name)

    def _open_record(self) -> Record:
        return Record(self.folder)

    @property
    def where(self) -> str:
        """Return what to call the folder in messages."""
        return os.fspath(self.folder)

    def told(self, name: str) -> str:
        """Return what to call a file of it in messages."""
        return os.fspath(self.folder / name)

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

    def _check_now(self, name: str) -> None:
        """Ask that a name may be written to, by what the record says now."""
        try:
            self._check(name)
        except InputError:  # another process of the same command may have written it, and recorded that
            self._record.read()
            self._check(name)

    def _check(self, name: str) -> None:
        """Ask that a name may be written to, by what was read of the record."""
        where, another = self.told(name), f"choose another {self.option}"
        if not self._exists(name):
            return
        if self._part is not None and self._part.find(name, self.kind) is not None:
            return
        held = self._is_input(name)
        entry = None if held else self._record.find(name, self.kind)
        if held or (entry is None and self._in_inputs(name)):
            raise InputError("is an input of this command, which is never replaced", where=where, hint=another)
        if not self.overwrite:
            problem = ""
            if entry is None:
                problem = f"exists already and was not written by `{self.kind}`, or was changed since"
            elif entry.source != self._sources.get(name, entry.source):
                problem = f"is the result of another input, {entry.source or 'generated data'}"
            if problem:
                raise InputError(problem, where=where, hint=f"{another}, or add --overwrite")

    def _exists(self, name: str) -> bool:
        """Return whether a name is taken.

        Raises:
            InputError: It is that of a folder, or could not be one of a file.
        """
        another = f"choose another {self.option}"
        try:
            status = os.lstat(self.folder / name)
        except FileNotFoundError:
            return False
        except OSError as error:  # such as a file where a folder of the name should be
            raise InputError(f"cannot be written ({error.strerror})", where=self.told(name), hint=another) from error
        if stat.S_ISDIR(status.st_mode):
            raise InputError("is a folder, where a file would be written", where=self.told(name), hint=another)
        return True

    def _is_input(self, name: str) -> bool:
        return self._inputs.hold(self.folder / name)

    def _in_inputs(self, name: str) -> bool:
        return self._inputs.surround(self.folder / name)

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
        if is_remote(source):
            return os.fspath(source)
        path = os.path.realpath(source)
        try:
            return Path(os.path.relpath(path, os.path.realpath(self._root))).as_posix()
        except ValueError:  # on another drive
            return Path(path).as_posix()


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
            for file in (folder / RUN).glob(f"*{PART_RECORD}"):
                part = Record(folder, file).entries
                for name in part:
                    for entry in part.of(name):
                        records[folder].entries.add(name, entry)
        if records[folder].find(path.relative_to(folder).as_posix(), kind) is not None:
            return True
    return False

"""What a command may write into a folder behind a URL; see `Outputs`."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

from banet.errors import InputError
from banet.files.outputs.outputs import Outputs, output_file
from banet.files.outputs.places import RemotePlace
from banet.files.outputs.record import HEADER_LINE, RECORD, Record
from banet.files.remote import RemoteFolder, is_remote, remote_key, without_scheme
from banet.files.scratch import ScratchFolder
from banet.files.spooled import SpooledSet
from banet.types import StrPath

__all__ = ["RemoteOutputs", "output_in", "outputs_in"]


class RemoteOutputs(Outputs):
    """The files that one run of a command writes into a folder behind a URL.

    Each is written to a temporary folder of this machine, which is `folder`, and goes to its place when it is whole.
    Arguments but the first are those of `Outputs`.

    Args:
        url: The folder.
    """

    def __init__(self, url: str, kind: str, names: Iterable[str] | Mapping[str, Any] = (), **options: Any) -> None:
        self._remote = RemoteFolder(url)
        if not self._remote.writable:
            where = f"{options.get('option', '--out')} {url}"
            raise InputError("cannot be written to", where=where, hint="choose another")
        self._there: SpooledSet | None = None
        self._read: set[tuple[str, str]] | None = None
        self._given, self._folders = options.get("inputs", ()), options.get("folders", ())
        self._scratch = ScratchFolder()
        self._away = RemotePlace(self._remote)
        super().__init__(self._scratch.path, kind, names, **options)
        self.place = self._away

    @property
    def where(self) -> str:
        """Return what to call the folder in messages."""
        return self._remote.url

    def told(self, name: str) -> str:
        """Return what to call a file of it in messages."""
        return f"{self._remote.url}/{name}"

    def check(self, names: Iterable[tuple[str, StrPath | None]]) -> None:
        """Ask of files that they may be written; see `Outputs.check`. What is there is listed once, not file by file.

        Raises:
            InputError: One may not be replaced.
            OSError: The folder cannot be listed.
        """
        self._there = SpooledSet()
        try:
            for name in self._away.names(""):
                self._there.add(name)
            super().check(names)
        finally:
            self._there = None

    def put(self, files: Mapping[str, Path]) -> None:
        """Write copies of finished files, at the same time where the system can do so.

        Args:
            files: By their names, the files on this machine.

        Raises:
            InputError: One of the names may not be written.
            OSError: They cannot be written.
        """
        for name in files:
            self._check_now(name)
        (self._part or self._record).append({name: self._entry(name, file) for name, file in files.items()})
        self._remote.put(files)

    def part_record(self, name: str) -> Record:
        """Return the record of a part of a run."""
        return _RemoteRecord(self._away, name)

    def _open_record(self) -> Record:
        return _RemoteRecord(self._away, RECORD)

    def _check_folder(self) -> None:
        pass

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with suppress(OSError):  # after Ctrl-C: what is finished need not be done again
            self._away.flush()
        super().__exit__(kind, error, trace)

    def _exists(self, name: str) -> bool:
        return name in self._there if self._there is not None else self._away.exists(name)

    def _is_input(self, name: str) -> bool:
        if self._read is None:
            self._read = {remote_key(each) for each in map(os.fspath, self._given) if is_remote(each)}
        return bool(self._read) and remote_key(self.told(name)) in self._read

    def _in_inputs(self, name: str) -> bool:
        system, path = remote_key(self.told(name))
        roots = [remote_key(each) for each in map(os.fspath, self._folders) if is_remote(each)]
        return any(system == root[0] and f"{path}/".startswith(f"{root[1]}/") for root in roots)

    def _give_name(self, temporary: Path, target: Path, name: str) -> None:
        self._remote.put({name: temporary})

    def _files_in(self, tree: str) -> Iterator[str]:
        return self._away.names(tree)

    def _relative(self, source: StrPath | None) -> str | None:
        return None if source is None else os.fspath(source if is_remote(source) else os.path.realpath(source))


class _RemoteRecord(Record):
    """A record behind a URL; what is added is there before the files are.

    Args:
        place: The folder of the outputs.
        name: The record.
    """

    def __init__(self, place: RemotePlace, name: str) -> None:
        self._place, self._name = place, name
        super().__init__("", Path(name))

    def read(self) -> None:
        """Take in what the record holds; a missing one is empty."""
        with self._lock:
            self._forget()
            try:
                stream = self._place.open(self._name)
            except FileNotFoundError:
                return
            with stream:
                self._take_all(stream)

    def _output(self, name: str) -> BinaryIO:
        return self._place.open(name)

    def _write(self, lines: bytes) -> None:
        if not self._sound:
            self._catch_up()
        if not self._sound:
            self._place.write(self._name, [HEADER_LINE, *self.entries.lines()])
            self._sound = True
        self._place.append(self._name, lines)
        self._place.flush()


def output_in(path: str, kind: str, option: str, **options: Any) -> Outputs:
    """Check one output that an option names by its path or URL; see `output_file`.

    Raises:
        InputError: As `output_file`.
    """
    text = os.fspath(without_scheme(path))
    if not is_remote(text):
        return output_file(text, kind, option, **options)
    folder, _, name = text.rpartition("/")
    return RemoteOutputs(folder, kind, [name], option=option, **options)


def outputs_in(out: StrPath, kind: str, names: Iterable[str] | Mapping[str, Any] = (), **options: Any) -> Outputs:
    """Return the outputs in a folder of this machine, or behind a URL."""
    text = os.fspath(without_scheme(out))
    return RemoteOutputs(text, kind, names, **options) if is_remote(text) else Outputs(text, kind, names, **options)

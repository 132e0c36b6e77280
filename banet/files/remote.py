"""Files behind URLs such as s3://bucket/name, through fsspec."""

from __future__ import annotations

import errno
import fnmatch
import glob
import io
import os
import posixpath
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

from banet.errors import InputError, MissingExtraError
from banet.types import StrPath

__all__ = [
    "RemoteFolder",
    "as_file",
    "has_pattern",
    "is_remote",
    "join_url",
    "list_remote",
    "open_remote",
    "refuse_url",
    "remote_key",
    "without_query",
    "without_scheme",
]

_WHOLE = frozenset({"s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "adl", "oss", "cos", "r2", "b2", "memory"})
"""Stores of objects, which have no half files; elsewhere a file is renamed when it is whole."""
_READ_ONLY = frozenset({"http", "https", "data", "zip", "tar", "libarchive", "git", "github", "reference"})
_HALF = ".banet.tmp"
"""How the name of a file ends until then."""


def is_remote(path: object) -> bool:
    """Return whether a text is a URL that fsspec opens, rather than a path."""
    return isinstance(path, str) and re.match(r"[a-z][a-z0-9+.-]+://", path) is not None


def without_scheme(path: StrPath) -> StrPath:
    """Return the path of this machine that a URL such as file:///images stands for; all else as it is."""
    found = re.match(r"(file|local)://", path) if isinstance(path, str) else None
    return path if found is None else str(path)[found.end() :]


def as_file(path: StrPath) -> StrPath:
    """Return a path as such, and a URL as it is: a path would join its slashes."""
    path = without_scheme(path)
    return path if is_remote(path) else Path(path)


def join_url(folder: StrPath, path: StrPath) -> StrPath:
    """Return what a path or URL stands for that may be relative to a folder or its URL."""
    folder, path = without_scheme(folder), without_scheme(path)
    if is_remote(path):
        return path
    if is_remote(folder):
        return f"{os.fspath(folder).rstrip('/')}/{os.fspath(path)}"
    return Path(folder) / path


def without_query(url: str) -> str:
    """Return a URL of http or https without query and fragment, such as a signature; all else as it is."""
    return re.split("[?#]", url, maxsplit=1)[0] if re.match("https?://", url) else url


def has_pattern(url: str) -> bool:
    """Return whether the last part of a URL is a pattern that `list_remote` matches files with."""
    return glob.has_magic(_last(url))


def _last(url: str) -> str:
    return without_query(url).rpartition("/")[2]


def refuse_url(value: object, where: str) -> None:
    """Refuse a URL where files and folders of this machine are read or written.

    Args:
        value: What was given.
        where: The option or field that it was given for.

    Raises:
        InputError: It is a URL.
    """
    if is_remote(value):
        raise InputError("takes no URL", where=f"{where} {value}", hint="give a path of this machine")


def _system(url: str) -> tuple[Any, str]:
    """Return the file system of a URL, and the path in it.

    Raises:
        MissingExtraError: fsspec is not installed.
        InputError: There is no such system, or what fsspec needs for it is not installed.
    """
    try:
        from fsspec.core import url_to_fs

        system, path = url_to_fs(url)
    except ImportError as error:
        if error.name == "fsspec":
            raise MissingExtraError("fsspec", "remote", where=url) from error
        problem = f"needs a package that is not installed ({_told(error)})"
        raise InputError(problem, where=url, hint="install the package of fsspec for such URLs") from error
    except ValueError as error:
        raise InputError(f"cannot be opened ({error})", where=url, hint="check the URL") from error
    return system, str(path)


def open_remote(url: str) -> BinaryIO:
    """Open a file behind a URL for reading.

    Raises:
        InputError: It is missing, empty or cannot be read, now or later on.
        MissingExtraError: See `_system`.
    """
    system, path = _system(url)
    try:
        stream = system.open(path, "rb")
        empty = stream.size == 0
    except Exception as error:  # each system has errors of its own
        raise _unreadable(url, error) from error
    if empty:
        stream.close()
        raise InputError("is empty (0 bytes)", where=url, hint="write it again or leave it out")
    return _buffered(stream, partial(_unreadable, url))


def list_remote(url: str) -> Iterator[str]:
    """Yield the URLs of the files in a folder, or that a pattern in the last part of the URL matches.

    Raises:
        InputError: There is no such folder.
        MissingExtraError: See `_system`.
    """
    pattern = _last(url) if has_pattern(url) else ""
    folder = without_query(url).removesuffix(pattern) if pattern else url
    folder = folder if folder.endswith("://") else folder.rstrip("/")
    system, path = _system(folder)
    try:
        entries = system.ls(path, detail=True)
    except Exception as error:  # each system has errors of its own
        raise _unreadable(url, error) from error
    for entry in entries:
        name = _last(str(entry["name"]))
        if entry["type"] == "file" and name and (not pattern or fnmatch.fnmatchcase(name, pattern)):
            yield _listed_url(str(entry["name"]), folder, path)


def _listed_url(found: str, folder: str, path: str) -> str:
    """Return the URL of what was found in a folder: http gives URLs, others paths, most of which lack the host."""
    if is_remote(found):
        return found
    if found.strip("/") == path.strip("/"):  # the folder is a file
        return folder
    return f"{folder}{'' if folder.endswith('/') else '/'}{_last(found)}"


class RemoteFolder:
    """A folder behind a URL that files are written to: each is there whole, or not at all.

    Args:
        url: The folder.

    Attributes:
        url: The same, without a slash at its end.
        writable: Whether files can be written there, as far as the system tells.

    Raises:
        InputError: There is no such system, or the URL names no folder.
        MissingExtraError: See `open_remote`.
    """

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")
        if not is_remote(f"{self.url}/") or self.url.endswith(":"):
            raise InputError("names no folder", where=url, hint="give one, such as s3://bucket/found")
        self._system, self._root = _system(self.url)
        kinds = self._system.protocol
        kinds = {kinds} if isinstance(kinds, str) else {*kinds}
        self._whole = not _WHOLE.isdisjoint(kinds)
        self.writable = kinds.isdisjoint(_READ_ONLY)

    def _path(self, name: str) -> str:
        return f"{self._root.rstrip('/')}/{name}" if name else self._root

    def is_file(self, name: str) -> bool:
        """Return whether there is a file of that name.

        Raises:
            OSError: It cannot be found out.
        """
        with self._told(name):
            self._system.invalidate_cache()
            try:
                return bool(self._system.info(self._path(name))["type"] == "file")
            except FileNotFoundError:
                return False

    def open(self, name: str) -> BinaryIO:
        """Open a file for reading.

        Raises:
            OSError: It is not there, or cannot be read.
        """
        with self._told(name):
            self._system.invalidate_cache()
            return _buffered(self._system.open(self._path(name), "rb"), partial(self._error, name, True))

    def put(self, files: Mapping[str, Path]) -> None:
        """Write copies of files of this machine; what has one of the names is replaced.

        Raises:
            OSError: One cannot be written.
        """
        with self._told(next(iter(files), ""), missing=False):
            paths = [self._path(name) for name in files]
            there = paths
            if not self._whole:
                self._make_folders(paths)
                there = [f"{path}.{os.getpid()}{_HALF}" for path in paths]
            self._system.put([os.fspath(file) for file in files.values()], there)
            for temporary, path in zip(there, paths, strict=True):
                if temporary != path:
                    self._system.mv(temporary, path)

    def _make_folders(self, paths: Iterable[str]) -> None:
        for folder in {path.rpartition("/")[0] for path in paths} - {""}:
            self._system.makedirs(folder, exist_ok=True)

    def create(self, name: str) -> bool:
        """Make an empty file, and return whether it is new; where the system can tell, one of several alone is told so.

        Raises:
            OSError: It cannot be made.
        """
        with self._told(name, missing=False):
            try:
                if not self._whole:
                    self._make_folders([self._path(name)])
                self._system.pipe_file(self._path(name), b"", mode="create")
            except FileExistsError:
                return False
        return True

    def names(self, folder: str) -> Iterator[str]:
        """Yield the names of the files in a folder and in those in it.

        Raises:
            OSError: They cannot be listed.
        """
        with self._told(folder):
            self._system.invalidate_cache()
            start = len(self._root.strip("/")) + 1 if self._root.strip("/") else 0
            for at, _, files in self._system.walk(self._path(folder)):
                for file in files:
                    if file:  # some systems list the folder itself
                        yield f"{at.strip('/')}/{file}"[start:]

    def left_behind(self) -> list[str]:
        """Return the files whose finished ones are there: processes that were killed left them.

        Raises:
            OSError: They cannot be listed.
        """
        if self._whole:
            return []
        found = [name for name in self.names("") if re.search(rf"\.\d+{re.escape(_HALF)}$", name)]
        return [name for name in found if self.is_file(name.removesuffix(_HALF).rpartition(".")[0])]

    def delete(self, name: str) -> None:
        """Delete a file, if it is there.

        Raises:
            OSError: It cannot be deleted.
        """
        with self._told(name), suppress(FileNotFoundError):
            self._system.rm_file(self._path(name))

    def delete_tree(self, folder: str) -> None:
        """Delete a folder, if it is there, with all that is in it.

        Raises:
            OSError: It cannot be deleted.
        """
        with self._told(folder), suppress(FileNotFoundError):
            self._system.invalidate_cache()
            self._system.rm(self._path(folder), recursive=True)

    @contextmanager
    def _told(self, name: str, *, missing: bool = True) -> Iterator[None]:
        """Let errors, of which each system has its own, be an OSError that names the file.

        Args:
            name: The file.
            missing: One that says that there is none stays a FileNotFoundError.
        """
        try:
            yield
        except Exception as error:
            raise self._error(name, missing, error) from error

    def _error(self, name: str, missing: bool, error: Exception) -> OSError:
        number = errno.ENOENT if missing and isinstance(error, FileNotFoundError) else errno.EIO
        return OSError(number, _told(error), f"{self.url}/{name}")


def remote_key(url: str) -> tuple[str, str]:
    """Return what URLs of one file have in common: their system, and the path in it."""
    system, path = _system(url)
    return type(system).__name__, posixpath.normpath(path).strip("/")


class _Stream(io.RawIOBase):
    """A file of fsspec; its errors while it is read, of which each system has its own, are explained."""

    def __init__(self, stream: Any, explained: Callable[[Exception], Exception]) -> None:
        self._stream, self._explained = stream, explained

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return bool(self._stream.seekable())

    def readinto(self, buffer: Any, /) -> int:
        try:
            return int(self._stream.readinto(buffer))
        except Exception as error:
            raise self._explained(error) from error

    def seek(self, offset: int, whence: int = 0, /) -> int:
        try:
            self._stream.seek(offset, whence)  # some return nothing
            return int(self._stream.tell())
        except Exception as error:
            raise self._explained(error) from error

    def close(self) -> None:
        if not self.closed:
            self._stream.close()
        super().close()


def _buffered(stream: Any, explained: Callable[[Exception], Exception]) -> BinaryIO:
    """Return a file that has all that files have: those of some systems cannot read a part of a line.

    Args:
        stream: As fsspec opened it.
        explained: Returns the error to raise in place of one of the system's.
    """
    return io.BufferedReader(_Stream(stream, explained))


def _unreadable(url: str, error: Exception) -> InputError:
    if isinstance(error, FileNotFoundError):
        return InputError("does not exist", where=url, hint="check the URL")
    return InputError(f"cannot be read ({_told(error)})", where=url, hint="check the URL and its permissions")


def _told(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__

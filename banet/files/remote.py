"""Files behind URLs such as s3://bucket/name, through fsspec."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Any, BinaryIO, cast

from banet.errors import InputError, MissingExtraError

__all__ = ["is_remote", "list_remote", "open_remote", "write_remote"]


def is_remote(path: object) -> bool:
    """Return whether a text is a URL that fsspec opens, rather than a path."""
    return isinstance(path, str) and re.match(r"[a-z][a-z0-9+.-]+://", path) is not None


def _system(url: str) -> tuple[Any, str]:
    """Return the file system of a URL, and the path in it.

    Raises:
        MissingExtraError: fsspec, or what it needs for this system, is not installed.
        InputError: There is no such system.
    """
    try:
        from fsspec.core import url_to_fs

        system, path = url_to_fs(url)
    except ImportError as error:
        named = getattr(error, "name", None) or "fsspec and its package for this kind of URL"
        raise MissingExtraError(named, "remote", where=url) from error
    except ValueError as error:
        raise InputError(f"cannot be opened ({error})", where=url, hint="check the URL") from error
    return system, str(path)


def open_remote(url: str) -> BinaryIO:
    """Open a file behind a URL for reading.

    Raises:
        InputError: It is missing, empty or cannot be read.
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
    return cast(BinaryIO, stream)


def list_remote(url: str) -> Iterator[str]:
    """Yield the URLs of the files in a folder, or that a pattern in the last part of the URL matches.

    Raises:
        InputError: There is no such folder.
        MissingExtraError: See `_system`.
    """
    pattern = PurePosixPath(url).name if any(mark in url for mark in "*?[") else ""
    folder = url[: len(url) - len(pattern)].rstrip("/")
    system, path = _system(folder)
    protocol = url.partition("://")[0]
    try:
        entries = system.ls(path, detail=True)
    except Exception as error:  # each system has errors of its own
        raise _unreadable(url, error) from error
    for entry in entries:
        name = PurePosixPath(entry["name"]).name
        if entry["type"] == "file" and (not pattern or fnmatch.fnmatchcase(name, pattern)):
            yield f"{protocol}://{str(entry['name']).lstrip('/')}"


def write_remote(url: str, data: bytes) -> None:
    """Write a file behind a URL: it gets its name when it is whole.

    Raises:
        InputError: It cannot be written.
        MissingExtraError: See `_system`.
    """
    system, path = _system(url)
    try:
        system.pipe_file(path, data)
    except Exception as error:  # each system has errors of its own
        raise InputError(f"cannot be written ({_told(error)})", where=url, hint="check its permissions") from error


def _unreadable(url: str, error: Exception) -> InputError:
    if isinstance(error, FileNotFoundError):
        return InputError("does not exist", where=url, hint="check the URL")
    return InputError(f"cannot be read ({_told(error)})", where=url, hint="check the URL and its permissions")


def _told(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__

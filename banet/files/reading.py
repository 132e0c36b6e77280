"""Files from outside: opened at one door; JSON whole, or piece by piece so that only one item of it is in memory."""

from __future__ import annotations

import io
import json
import os
import re
import stat
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO, TextIO

from banet.errors import InputError, abbreviate
from banet.files.remote import as_file, is_remote, open_remote
from banet.files.worker import isolated, isolated_items, refuse_outside
from banet.types import StrPath

__all__ = ["MAX_PIXELS", "MOST_CATEGORIES", "open_file", "read_json", "stream_json", "stream_lists"]

MAX_PIXELS = 1 << 26
"""Images and maps of more pixels are refused: a small file can claim any size. This many are decoded in 1 GB."""

MOST_CATEGORIES = 1 << 16
"""Classes of a data set; more are refused."""

_CHUNK = 1 << 20  # characters that are read at a time
_TAIL = 16  # what is found so close to the end of what was read may only be due to the missing rest
_BLANKS = re.compile(r"[ \t\n\r]*")

# A byte of JSON may become 30 bytes of objects, so there is a limit to what is decoded at once.
_LONGEST_ITEM = 1 << 23  # characters; up to twice as many may be there before it is asked
_LARGEST_WHOLE = 1 << 26  # bytes
_MOST_VALUES = 2_000_000
_MOST_OBJECTS = 500_000  # within one item

_COCO = ("images", "annotations", "categories")


def open_file(path: StrPath) -> BinaryIO:
    """Opens a file, or what lies behind a URL, for reading.

    Raises:
        InputError: it is missing, empty, unreadable, a folder, or no file at all: a pipe or a device, which could keep
            one waiting or reading for ever.
        RuntimeError: see `refuse_outside`.
    """
    refuse_outside(path)
    if is_remote(path):
        return open_remote(os.fspath(path))
    file = Path(path)
    try:
        mode = os.stat(file).st_mode
        if stat.S_ISDIR(mode):
            raise InputError("is a folder, not a file", where=file, hint="check the path")
        if not stat.S_ISREG(mode):
            raise InputError("is not a regular file", where=file, hint="copy what it holds to one")
        stream = file.open("rb")
    except FileNotFoundError as error:
        raise InputError("does not exist", where=file, hint="check the path") from error
    except OSError as error:
        raise _unreadable(file, error) from error
    except UnicodeEncodeError as error:
        raise InputError("is not a name that a file can have", where=file, hint="check the path") from error
    if not os.fstat(stream.fileno()).st_size:
        stream.close()
        raise InputError("is empty (0 bytes)", where=file, hint="write it again or leave it out")
    return stream


def _unreadable(file: StrPath, error: OSError) -> InputError:
    return InputError(f"cannot be read ({error.strerror or error})", where=file, hint="check its path and permissions")


@isolated
def read_json(path: StrPath) -> Any:
    """Read a JSON file as a whole; large ones are for `stream_json`.

    Raises:
        InputError: see `open_file`; or it is not JSON, an object has a field twice, or it is too large.
    """
    file = as_file(path)
    with open_file(file) as stream:
        data = stream.read(_LARGEST_WHOLE + 1)
    if len(data) > _LARGEST_WHOLE or sum(map(data.count, b"[{,")) > _MOST_VALUES:
        raise InputError(
            f"is larger than {_LARGEST_WHOLE >> 20} MB or {_MOST_VALUES:,} values", where=file, hint="split it up"
        )
    if not data.strip():
        raise InputError("is empty", where=file, hint="write it again")
    try:
        return json.loads(data, object_pairs_hook=_unique)
    except json.JSONDecodeError as error:
        raise InputError(
            f"is not JSON (line {error.lineno}, column {error.colno}: {error.msg})", where=file, hint="write it again"
        ) from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"is not JSON ({_reason(error)})", where=file, hint="write it again") from error


def stream_lists(
    path: StrPath, fields: Sequence[str], *, optional: bool = False, bare: bool = False
) -> Iterator[tuple[str, str, Any]]:
    """Return the items of some of the lists that a COCO JSON holds.

    Args:
        path: the file.
        fields: names of the lists.
        optional: they may be missing, but where they are there they may not be empty.
        bare: the file may also be a list, which is then the first field.

    Yields:
        Field, place for errors (such as `FILE, field[position]`) and item.

    Raises:
        InputError: see `stream_json`; or one of the fields is missing or no list, or there are too many categories.
    """
    file = as_file(path)
    missing = dict.fromkeys(fields)
    for name, position, item in stream_json(file, fields, bare=bare):
        field = name or fields[0]
        missing.pop(field, None)
        if position is None:
            if item != []:
                raise InputError(f"'{field}' must be a list, not {type(item).__name__}", where=file)
            if optional:
                raise InputError(f"'{field}' is empty", where=file, hint="list at least one")
            continue
        if field == "categories" and position == MOST_CATEGORIES:
            raise InputError(
                f"'{field}' holds more than {MOST_CATEGORIES:,}", where=file, hint="no network tells so many apart"
            )
        yield field, f"{file}: {name}[{position}]", item
    if missing and bare:
        raise InputError(f"must be {_wanted(fields, bare)}", where=file)
    if missing and not optional:
        raise InputError(f"'{next(iter(missing))}' is missing", where=file, hint="add it")


@isolated_items
def stream_json(
    path: StrPath, fields: Sequence[str] | None = None, *, bare: bool = False
) -> Iterator[tuple[str, int | None, Any]]:
    """Return the fields of a JSON object, lists item by item.

    Args:
        path: the file; its outermost value must be an object.
        fields: those that are wanted; all of them by default.
        bare: it may be a list too, which counts as a field with the name "".

    Yields:
        (field, position, item) for each item of a field that holds a list; (field, None, value) for every other field,
        and (field, None, []) for an empty list.

    Raises:
        InputError: see `open_file`; or it is not JSON, an object has a field twice, the outermost value is of another
            kind, or an item is too long.
    """
    file = as_file(path)
    with open_file(file) as raw:
        encoding = json.detect_encoding(raw.read(4))
        raw.seek(0)
        try:
            with io.TextIOWrapper(raw, encoding, newline="") as text:
                yield from _Reader(file, text, fields).fields(bare)
        except OSError as error:
            raise _unreadable(file, error) from error
        except UnicodeDecodeError as error:
            raise InputError(f"is not JSON ({_reason(error)})", where=file, hint="write it again") from error


class _Reader:
    """A window of the text, moved forward."""

    def __init__(self, file: StrPath, stream: TextIO, wanted: Sequence[str] | None) -> None:
        self.file, self.stream, self.wanted = file, stream, wanted
        self.text, self.at, self.ended = "", 0, False
        self.line, self.column = 1, 1  # of the window's first character
        self.decode = json.JSONDecoder(object_pairs_hook=_unique).raw_decode

    def fields(self, bare: bool) -> Iterator[tuple[str, int | None, Any]]:
        first = self.peek()
        if not first:
            raise InputError("is empty", where=self.file, hint="write it again")
        if first == "[" and bare:
            yield from self.items("")
        elif first == "{":
            yield from self.object()
        else:
            self.value()
            raise InputError(f"must be {_wanted(self.wanted or _COCO, bare)}", where=self.file)
        if self.peek():
            raise self.fault("Extra data")

    def object(self) -> Iterator[tuple[str, int | None, Any]]:
        seen: set[str] = set()
        for _ in self.members("}"):
            if self.peek() != '"':
                raise self.fault("Expecting property name enclosed in double quotes")
            key = str(self.value())
            if key in seen:
                raise InputError(f"has the field '{key}' twice", where=self.file, hint="keep one")
            seen.add(key)
            if self.peek() != ":":
                raise self.fault("Expecting ':' delimiter")
            self.at += 1
            wanted = self.wanted is None or key in self.wanted
            if self.peek() != "[":
                value = self.value()
                if wanted:
                    yield key, None, value
            elif wanted:
                yield from self.items(key)
            else:
                for _ in self.members("]"):
                    self.value()

    def items(self, key: str) -> Iterator[tuple[str, int | None, Any]]:
        position = -1
        for position in self.members("]"):
            yield key, position, self.value()
        if position < 0:
            yield key, None, []

    def members(self, closing: str) -> Iterator[int]:
        """Numbers of the members of the object or list that begins here; whoever asks reads each before the next."""
        self.at += 1
        position = 0
        if self.peek() == closing:
            self.at += 1
            return
        while True:
            yield position
            position += 1
            following = self.peek()
            if following not in (",", closing):
                raise self.fault("Expecting ',' delimiter")
            self.at += 1
            if following == closing:
                return

    def peek(self) -> str:
        """Return the next character that is not blank; "" at the end."""
        while True:
            character = self.text[self.at : self.at + 1]
            if character and character not in " \t\n\r":
                return character
            self.at = _BLANKS.match(self.text, self.at).end()  # type: ignore[union-attr]  # it matches nothing too
            if self.at == len(self.text) and not self.more():
                return ""

    def value(self) -> Any:
        """Read the value that begins here."""
        self.peek()
        while True:
            try:
                value, end = self.decode(self.text, self.at)
            except json.JSONDecodeError as error:
                cut = error.pos >= len(self.text) - _TAIL or error.msg.startswith("Unterminated string")
                if not cut or not self.more():
                    raise self.fault(error.msg, error.pos) from error
                continue
            except (ValueError, RecursionError) as error:
                raise self.fault(_reason(error)) from error
            if end > len(self.text) - _TAIL and self.more():  # a number may go on
                continue
            self.at = end
            return value

    def more(self) -> bool:
        """Lengthen the window and begin it where we are; False, with nothing moved, at the end of the file."""
        if len(self.text) - self.at > _LONGEST_ITEM:
            raise InputError(
                f"holds an item of more than {_LONGEST_ITEM:,} characters", where=self.file, hint="split it up"
            )
        if self.text.count("{", self.at) > _MOST_OBJECTS:
            raise InputError(
                f"holds an item of more than {_MOST_OBJECTS:,} objects", where=self.file, hint="split it up"
            )
        # Twice as much at a time where one item fills the window, so that it is not decoded too often.
        chunk = "" if self.ended else self.stream.read(max(_CHUNK, len(self.text) - self.at))
        if not chunk:
            self.ended = True
            return False
        passed, rest = self.text[: self.at], self.text[self.at :]
        breaks = passed.count("\n")
        self.line += breaks
        self.column = len(passed) - passed.rfind("\n") if breaks else self.column + len(passed)
        self.text, self.at = rest + chunk, 0
        return True

    def fault(self, message: str, position: int | None = None) -> InputError:
        before = self.text[: self.at if position is None else position]
        breaks = before.count("\n")
        column = len(before) - before.rfind("\n") if breaks else self.column + len(before)
        return InputError(
            f"is not JSON (line {self.line + breaks}, column {column}: {message})",
            where=self.file,
            hint="write it again",
        )


def _wanted(fields: Sequence[str], bare: bool) -> str:
    return ("a list, or " if bare else "") + "an object with " + ", ".join(f"'{field}'" for field in fields)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return an object of its fields. JSON leaves open which of two of one name counts, so there may not be two."""
    fields = dict(pairs)
    if len(fields) < len(pairs):
        name = Counter(name for name, _ in pairs).most_common(1)[0][0]
        raise ValueError(f"an object has the field {abbreviate(name)} twice")
    return fields


def _reason(error: Exception) -> str:
    return "nested too deeply" if isinstance(error, RecursionError) else str(error).partition(";")[0]

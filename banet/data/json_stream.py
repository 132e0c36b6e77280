"""Large JSON files, read piece by piece: what is in memory is one item at a time, not the file."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

from banet.errors import InputError
from banet.panoptic.coco_format import read_json

__all__ = ["stream_json"]

_CHUNK = 1 << 20  # characters that are read at a time
_TAIL = 16  # what is found so close to the end of what was read may only be due to the missing rest
_BLANK = " \t\n\r"


def stream_json(path: str | os.PathLike[str]) -> Iterator[tuple[str, int | None, Any]]:
    """The fields of a JSON object, lists of objects item by item.

    Args:
        path: the file; its outermost value must be an object.

    Yields:
        (field, position, item) for each item of a field that holds a list; (field, None, value) for every other field,
        and (field, None, []) for an empty list.

    Raises:
        InputError: the file cannot be read, is empty or is not JSON (as `banet.panoptic.coco_format.read_json` says
            it), its outermost value is no object, or it has a field twice.
    """
    file = Path(path)
    try:
        with file.open("rb") as raw:
            encoding = json.detect_encoding(raw.read(4))
        with file.open(encoding=encoding, newline="") as stream:
            yield from _Reader(file, stream).fields()
    except (OSError, UnicodeDecodeError, RecursionError) as error:
        read_json(file)  # names most of these faults
        raise InputError(f"{file}: is not JSON ({error}); write it again") from error


class _Reader:
    """A window of the text, moved forward."""

    def __init__(self, file: Path, stream: TextIO) -> None:
        self.file, self.stream = file, stream
        self.text, self.at, self.ended = "", 0, False
        self.line, self.column = 1, 1  # of the window's first character
        self.decoder = json.JSONDecoder()

    def fields(self) -> Iterator[tuple[str, int | None, Any]]:
        first = self.peek()
        if not first:
            raise InputError(f"{self.file}: is empty; write it again")
        if first != "{":
            self.value()
            raise InputError(f"{self.file}: must be an object with 'images', 'annotations' and 'categories'")
        seen: set[str] = set()
        for _ in self.members("}"):
            if self.peek() != '"':
                raise self.fault("Expecting property name enclosed in double quotes")
            key = str(self.value())
            if key in seen:
                raise InputError(f"{self.file}: has the field '{key}' twice; keep one")
            seen.add(key)
            if self.peek() != ":":
                raise self.fault("Expecting ':' delimiter")
            self.at += 1
            if self.peek() != "[":
                yield key, None, self.value()
                continue
            position = -1
            for position in self.members("]"):
                yield key, position, self.value()
            if position < 0:
                yield key, None, []
        if self.peek():
            raise self.fault("Extra data")

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
        """The next character that is not blank; "" at the end."""
        while True:
            while self.at < len(self.text) and self.text[self.at] in _BLANK:
                self.at += 1
            if self.at < len(self.text) or not self.more():
                return self.text[self.at : self.at + 1]

    def value(self) -> Any:
        """Read the value that begins here."""
        self.peek()
        while True:
            try:
                value, end = self.decoder.raw_decode(self.text, self.at)
            except json.JSONDecodeError as error:
                cut = error.pos >= len(self.text) - _TAIL or error.msg.startswith("Unterminated string")
                if not cut or not self.more():
                    raise self.fault(error.msg, error.pos) from error
                continue
            if end > len(self.text) - _TAIL and self.more():  # a number may go on
                continue
            self.at = end
            return value

    def more(self) -> bool:
        """Lengthen the window and begin it where we are; False, with nothing moved, at the end of the file."""
        # Twice as much at a time where one item fills the window, lest it be decoded too often.
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
            f"{self.file}: is not JSON (line {self.line + breaks}, column {column}: {message}); write it again"
        )

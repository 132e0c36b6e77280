"""Standard output and error as commands write to them."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, TextIO

from banet.errors import InputError

__all__ = ["ReaderEnded", "output_streams"]

_CONTROLS = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
"""What terminals obey, but for line breaks and tabs, and halves of characters, which no encoding has."""


class ReaderEnded(BrokenPipeError):
    """What read our output, such as `head`, has ended."""

    def __init__(self, stream: TextIO) -> None:
        super().__init__()
        self.stream = stream


class _Stream:
    """Standard output or error that tells when its reader has ended from when another pipe breaks."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Write a text."""
        with self._faults():
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        """Write what is held back; a disk that is full shows here."""
        with self._faults():
            self._stream.flush()

    @contextmanager
    def _faults(self) -> Iterator[None]:
        try:
            yield
        except BrokenPipeError:
            raise ReaderEnded(self._stream) from None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


class _Output(_Stream):
    """Standard output that takes every text: what it cannot print, or a terminal would obey, is written as escapes."""

    def write(self, text: str) -> int:
        """Write a text; characters that control the terminal do not reach it."""
        safe = text if text.isprintable() else _CONTROLS.sub(lambda found: ascii(found[0])[1:-1], text)
        encoding = getattr(self._stream, "encoding", None) or "utf-8"
        super().write(safe.encode(encoding, "backslashreplace").decode(encoding))
        return len(text)

    @contextmanager
    def _faults(self) -> Iterator[None]:
        """Say of an error of the system that it was standard output that could not be written."""
        try:
            with super()._faults():
                yield
        except ReaderEnded:
            raise
        except OSError as error:
            raise InputError(f"cannot be written ({error.strerror})", where="standard output") from error


@contextmanager
def output_streams() -> Iterator[None]:
    """Let standard output be a stream that can be written to, also where it is closed or knows ASCII only."""
    with ExitStack() as stack:
        streams = {}
        for name in ("stdout", "stderr"):
            stream = getattr(sys, name)
            if stream is None or stream.closed:
                stream = stack.enter_context(open(os.devnull, "w", encoding="utf-8"))
            streams[name] = stream
        before = sys.stdout, sys.stderr
        sys.stdout, sys.stderr = _Output(streams["stdout"]), _Stream(streams["stderr"])
        try:
            yield
        finally:
            sys.stdout, sys.stderr = before

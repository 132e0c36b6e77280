"""The errors that banet raises on bad input, and what other libraries say beside theirs."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from reprlib import Repr

__all__ = [
    "InputError",
    "InputWarning",
    "MissingExtraError",
    "abbreviate",
    "abbreviate_list",
    "errors_only",
    "first_line",
    "printable",
]

_LONGEST = 1000
_BRIEF = Repr()
_BRIEF.maxlevel, _BRIEF.maxstring, _BRIEF.maxlong, _BRIEF.maxother = 2, 80, 80, 80


class InputError(ValueError):
    """Input from outside (a file, an option) is unusable.

    The message is one line, `where: problem; hint`, of which the command line prints all and exits with 2. Line breaks
    and other characters that do not print, which the names of files may have, stand in it as escapes. Of a message of
    more than 1000 characters the middle is left out.

    Args:
        problem: what is wrong; the whole message where the other two are left out.
        where: file, and the field or place in it.
        hint: how to fix it.

    Attributes:
        problem: as given, with escapes; likewise
        where: and
        hint: both empty where they were not given.
    """

    def __init__(self, problem: str, *, where: str | os.PathLike[str] = "", hint: str = "") -> None:
        self.where, self.problem, self.hint = printable(os.fspath(where)), printable(problem), printable(hint)
        message = (f"{self.where}: " if self.where else "") + self.problem + (f"; {self.hint}" if self.hint else "")
        if len(message) > _LONGEST:  # a library quotes the whole file
            message = f"{message[: _LONGEST // 2]} ... {message[-_LONGEST // 2 :]}"
        super().__init__(message)


class InputWarning(UserWarning):
    """Input is used, but a part of it is not, or what it does not say had to be guessed.

    The command line prints the message as one line.
    """


class MissingExtraError(ImportError):
    """An optional dependency is not installed; the message gives the install command."""

    def __init__(self, package: str, extra: str, *, where: str | os.PathLike[str] = "") -> None:
        place = f"{printable(os.fspath(where))}: " if where else ""
        install = f"pip install 'banet-panoptic[{extra}]' (in a checkout: '.[{extra}]')"
        super().__init__(f"{place}this needs {package}, not installed: {install}")
        self._given = package, extra, where

    def __reduce__(self) -> tuple[object, ...]:
        """Let a worker process send it."""
        package, extra, where = self._given
        return _missing, (package, extra, os.fspath(where))


def _missing(package: str, extra: str, where: str) -> MissingExtraError:
    return MissingExtraError(package, extra, where=where)


def printable(text: str) -> str:
    """Return a text with escapes in place of line breaks and other characters that do not print."""
    return text if text.isprintable() else "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def abbreviate(value: object) -> str:
    """Return a value from a file as an error quotes it: cut short, however large or deep it is."""
    try:
        return _BRIEF.repr(value)
    except ValueError:  # some versions of Python refuse to print a number of thousands of digits
        return "a number of too many digits"


def abbreviate_list(values: Sequence[object], limit: int = 20) -> str:
    """Return values as an error quotes them: the first `limit`, and of more how many there are."""
    return ", ".join(map(abbreviate, values[:limit])) + (f", ... ({len(values)} in all)" if len(values) > limit else "")


def first_line(error: BaseException) -> str:
    """Return the first line of what another library's error says, or its type's name where it says nothing."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


@contextmanager
def errors_only(logger: str) -> Iterator[None]:
    """Keep what a library logs below the level of errors from being printed.

    Args:
        logger: the name of its logger.
    """
    import logging

    log = logging.getLogger(logger)
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        log.setLevel(level)

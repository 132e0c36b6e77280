"""The errors that banet raises on bad input."""

from __future__ import annotations

from reprlib import Repr

__all__ = ["InputError", "MissingExtraError", "printable", "shown"]

_LONGEST = 1000
_BRIEF = Repr()
_BRIEF.maxlevel, _BRIEF.maxstring, _BRIEF.maxlong, _BRIEF.maxother = 2, 80, 80, 80


class InputError(ValueError):
    """Input from outside (a file, an option) is unusable.

    The message is one line that names the file, the field and the mend; the command line prints it as it is and exits
    with 2. Line breaks and other characters that do not print, which the names of files may have, stand in it as
    escapes.
    """

    def __init__(self, message: str) -> None:
        if len(message) > _LONGEST:  # a library quotes the whole file
            message = f"{message[: _LONGEST // 2]} ... {message[-_LONGEST // 2 :]}"
        super().__init__(printable(message))


class MissingExtraError(ImportError):
    """An optional dependency is not installed; the message gives the install command."""

    def __init__(self, package: str, extra: str) -> None:
        super().__init__(
            f"this needs {package}, not installed: pip install 'banet-panoptic[{extra}]' (in a checkout: '.[{extra}]')"
        )


def printable(text: str) -> str:
    """A text with escapes in place of line breaks and other characters that do not print."""
    return text if text.isprintable() else "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def shown(value: object) -> str:
    """A value from a file, as an error quotes it: cut short, however large or deep it is."""
    try:
        return _BRIEF.repr(value)
    except ValueError:  # some Pythons write no number of thousands of digits
        return "a number of too many digits"

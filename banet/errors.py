"""The errors that banet raises on bad input."""

from __future__ import annotations

from reprlib import Repr

__all__ = ["InputError", "MissingExtraError", "shown"]

_BRIEF = Repr()
_BRIEF.maxlevel, _BRIEF.maxstring, _BRIEF.maxlong, _BRIEF.maxother = 2, 80, 80, 80


class InputError(ValueError):
    """Input from outside (a file, an option) is unusable.

    The message is one line that names the file, the field and the mend; the command line prints it as it is and exits
    with 2. Line breaks and other characters that do not print, which the names of files may have, stand in it as
    escapes.
    """

    def __init__(self, message: str) -> None:
        if not message.isprintable():
            message = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in message)
        super().__init__(message)


class MissingExtraError(ImportError):
    """An optional dependency is not installed; the message gives the install command."""

    def __init__(self, package: str, extra: str) -> None:
        super().__init__(f"{package} is needed here and is not installed: pip install 'banet-panoptic[{extra}]'")


def shown(value: object) -> str:
    """A value from a file, as an error quotes it: cut short, however large or deep it is."""
    return _BRIEF.repr(value)

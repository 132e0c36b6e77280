"""The errors that banet raises on bad input."""

from __future__ import annotations

__all__ = ["InputError", "MissingExtraError"]


class InputError(ValueError):
    """Input from outside (a file, an option) is unusable.

    The message is one line that names the file, the field and the mend; the command line prints it as it is and exits
    with 2.
    """


class MissingExtraError(ImportError):
    """An optional dependency is not installed; the message gives the install command."""

    def __init__(self, package: str, extra: str) -> None:
        super().__init__(f"{package} is needed here and is not installed: pip install 'banet-panoptic[{extra}]'")

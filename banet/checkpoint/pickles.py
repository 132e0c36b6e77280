"""What a checkpoint of torch asks for, counted before torch reads it; nothing of it is run or allocated here."""

from __future__ import annotations

import pickletools
import zipfile
from typing import BinaryIO

__all__ = ["check_pickle"]

_MOST_STEPS = 1_000_000  # a state dict of 10,000 tensors has 300,000
_LARGEST = 1 << 24  # bytes of a pickle; tensors are not in it
_MOST_ENTRIES = 100_000
_PICKLES = 5  # in files before torch 1.6: three heads, the content, and the names of the tensors
_FILLERS = frozenset({"bytearray", "bytes", "list", "tuple", "range", "encode", "zeros", "ones", "full", "empty"})
"""Functions that torch allows, or may allow, and that make as much as they are told to."""


def check_pickle(stream: BinaryIO) -> None:
    """Check the file of a checkpoint.

    Raises:
        ValueError: It is compressed, or what it describes is more than names, shapes and types of tensors.
    """
    if not zipfile.is_zipfile(stream):
        stream.seek(0)
        for _ in range(_PICKLES):
            _check_steps(stream)
        return
    with zipfile.ZipFile(stream) as archive:
        entries = archive.infolist()
        if len(entries) > _MOST_ENTRIES:
            raise ValueError(f"it has more than {_MOST_ENTRIES:,} entries")
        for entry in entries:
            if entry.compress_type != zipfile.ZIP_STORED:
                raise ValueError("it is compressed, which torch does not do")
            if entry.filename.endswith(".pkl"):
                if entry.file_size > _LARGEST:
                    raise ValueError(f"it describes its tensors in {entry.file_size:,} bytes")
                with archive.open(entry) as pickle:
                    _check_steps(pickle)  # type: ignore[arg-type]


def _check_steps(stream: BinaryIO) -> None:
    """Go through one pickle, up to its end."""
    start = stream.tell()
    for number, (step, argument, position) in enumerate(pickletools.genops(stream)):
        if number > _MOST_STEPS or (position or 0) - start > _LARGEST:
            raise ValueError("it describes more than names, shapes and types of tensors")
        if step.name in ("GLOBAL", "INST") and str(argument).split()[-1] in _FILLERS:
            raise ValueError(f"it calls {argument}")
        if step.name == "STACK_GLOBAL":
            raise ValueError("it is of a protocol that torch does not write")

"""What a checkpoint of torch asks for, counted before torch reads it; nothing of it is run or allocated here."""

from __future__ import annotations

import pickletools
import re
import zipfile
from typing import Any, BinaryIO

from banet.files.structure.pickles import check_steps

__all__ = ["check_pickle"]

_MOST_STEPS = 1_000_000  # a state dict of 10,000 tensors has 300,000
_LARGEST = 1 << 24  # bytes of a pickle; tensors are not in it
_MOST_ENTRIES = 100_000
_PICKLES = 5  # in files before torch 1.6: three heads, the content, and the names of the tensors

_TORCH_CALLS = re.compile(r"(?:torch|builtins|collections|_codecs)\b.*")
"""What torch reads may be of these modules; it refuses all others itself, and says so."""
_ALLOWED = re.compile(
    r"torch(?:\.cuda)? \w+Storage|torch (?:Size|device|[a-z]+[0-9]*\w*)|torch\.nn\.parameter Parameter"
    r"|torch\._utils _rebuild_(?:tensor(?:_v[23])?|parameter(?:_with_state)?)|torch\._tensor _rebuild_from_type_v2"
    r"|torch\.serialization _get_layout|collections (?:OrderedDict|Counter|defaultdict)|builtins (?:set|complex)"
)
"""Those that make nothing larger than what they are given; torch would also make arrays of any size."""


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
    if not check_steps(stream, _MOST_STEPS, _LARGEST, _check_call):
        raise ValueError("it describes more than names, shapes and types of tensors")


def _check_call(step: pickletools.OpcodeInfo, argument: Any) -> None:
    if step.name in ("GLOBAL", "INST"):
        name = str(argument)
        if _TORCH_CALLS.fullmatch(name) and not _ALLOWED.fullmatch(name):
            raise ValueError(f"it calls {name}")
    if step.name == "STACK_GLOBAL":
        raise ValueError("it is of a protocol that torch does not write")

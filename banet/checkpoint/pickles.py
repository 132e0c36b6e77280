"""What a checkpoint of torch asks for, counted before torch reads it; nothing of it is run or allocated here."""

from __future__ import annotations

import pickletools
import re
import zipfile
from typing import Any, BinaryIO

__all__ = ["check_pickle"]

_MOST_STEPS = 1_000_000  # a state dict of 10,000 tensors has 300,000
_LARGEST = 1 << 24  # bytes of a pickle; tensors are not in it
_MOST_ENTRIES = 100_000
_MOST_VALUES = 10_000_000  # within one value, shared ones counted wherever they are used: to hash it visits them all
_DEEPEST = 200
_PICKLES = 5  # in files before torch 1.6: three heads, the content, and the names of the tensors

_TORCH_CALLS = re.compile(r"(?:torch|builtins|collections|_codecs)\b.*")
"""What torch reads may be of these modules; it refuses all others itself, and says so."""
_ALLOWED = re.compile(
    r"torch(?:\.cuda)? \w+Storage|torch (?:Size|device|[a-z]+[0-9]*\w*)|torch\.nn\.parameter Parameter"
    r"|torch\._utils _rebuild_(?:tensor(?:_v[23])?|parameter(?:_with_state)?)|torch\._tensor _rebuild_from_type_v2"
    r"|torch\.serialization _get_layout|collections (?:OrderedDict|Counter|defaultdict)|builtins (?:set|complex)"
)
"""Those that make nothing larger than what they are given; torch would also make arrays of any size."""

_GROWS = frozenset({"APPEND", "APPENDS", "SETITEM", "SETITEMS", "ADDITEMS", "BUILD"})
"""Steps that put values into one that is there."""
_PUTS = frozenset({"PUT", "BINPUT", "LONG_BINPUT"})
_GETS = frozenset({"GET", "BINGET", "LONG_BINGET"})

_Made = tuple[int, int]
"""How many values are in a value, and how deep they are nested."""
_MARK: _Made = (0, -1)


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
    sizes = _Sizes()
    for number, (step, argument, position) in enumerate(pickletools.genops(stream)):
        if number > _MOST_STEPS or (position or 0) - start > _LARGEST:
            raise ValueError("it describes more than names, shapes and types of tensors")
        if step.name in ("GLOBAL", "INST"):
            name = str(argument)
            if _TORCH_CALLS.fullmatch(name) and not _ALLOWED.fullmatch(name):
                raise ValueError(f"it calls {name}")
        if step.name == "STACK_GLOBAL":
            raise ValueError("it is of a protocol that torch does not write")
        sizes.take(step, argument)


class _Sizes:
    """The stack of a pickle with the size of each value in place of the value."""

    def __init__(self) -> None:
        self._stack: list[_Made] = []
        self._memo: dict[int, _Made] = {}

    def take(self, step: pickletools.OpcodeInfo, argument: Any) -> None:
        """Follow a step.

        Raises:
            ValueError: It makes a value of too many, or uses one that is not there.
        """
        try:
            if step.name in _PUTS:
                self._memo[argument] = self._stack[-1]
            elif step.name in _GETS:
                self._stack.append(self._memo[argument])
            elif step.name == "MARK":
                self._stack.append(_MARK)
            else:
                self._make(step)
        except (IndexError, KeyError):
            raise ValueError(f"it is damaged at a step {step.name}") from None

    def _make(self, step: pickletools.OpcodeInfo) -> None:
        before = step.stack_before
        taken: list[_Made] = []
        count = len(before)
        if pickletools.markobject in before:
            while (top := self._stack.pop()) is not _MARK:
                taken.append(top)
            count = before.index(pickletools.markobject)
        taken += [self._stack.pop() for _ in range(count)]
        if not step.stack_after:
            return
        *parts, into = taken if step.name in _GROWS else [*taken, (0, 0)]
        size = 1 + into[0] + sum(part[0] for part in parts)
        depth = max([into[1], *(1 + part[1] for part in parts)])
        if size > _MOST_VALUES or depth > _DEEPEST:
            raise ValueError("it nests values in values many times over")
        self._stack += [(size, depth)] * len(step.stack_after)

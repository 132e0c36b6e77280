"""The steps of pickles, counted; nothing of them is run."""

from __future__ import annotations

import pickletools
from collections.abc import Callable
from typing import Any, BinaryIO

__all__ = ["check_steps"]

_MOST_VALUES = 10_000_000  # within one value, shared ones counted wherever they are used: to hash it visits them all
_DEEPEST = 200

_GROWS = frozenset({"APPEND", "APPENDS", "SETITEM", "SETITEMS", "ADDITEMS", "BUILD"})
"""Steps that put values into one that is there."""
_PUTS = frozenset({"PUT", "BINPUT", "LONG_BINPUT"})
_GETS = frozenset({"GET", "BINGET", "LONG_BINGET"})

_Made = tuple[int, int]
"""How many values are in a value, and how deep they are nested."""
_MARK: _Made = (0, -1)


def check_steps(
    stream: BinaryIO, most: int, largest: int, check: Callable[[pickletools.OpcodeInfo, Any], None]
) -> bool:
    """Go through one pickle, up to its end.

    Args:
        stream: The file.
        most: How many steps it may have.
        largest: How many bytes these may take.
        check: Called with each step and its argument.

    Returns:
        Whether it ended within `most` steps and `largest` bytes.

    Raises:
        ValueError: It is damaged, or makes a value of too many others; or what `check` raises.
    """
    start = stream.tell()
    sizes = _Sizes()
    rest: Any = _Rest(stream, largest)
    for number, (step, argument, position) in enumerate(pickletools.genops(rest)):
        if number > most or (position or 0) - start > largest:
            return False
        check(step, argument)
        sizes.take(step, argument)
    return True


class _Rest:
    """A file of which no more is read at a time than there may be, whatever length a value is said to have."""

    def __init__(self, stream: BinaryIO, most: int) -> None:
        self._stream, self._most = stream, most
        self.tell = stream.tell

    def read(self, size: int) -> bytes:
        return self._stream.read(min(size, self._most + 1))

    def readline(self) -> bytes:
        return self._stream.readline(self._most + 1)


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
            elif step.name == "MEMOIZE":
                self._memo[len(self._memo)] = self._stack[-1]
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

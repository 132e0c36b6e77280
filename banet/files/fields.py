"""Fields of a JSON object, validated."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeGuard

from banet.errors import InputError, shown

__all__ = ["is_number", "read_integer", "read_object"]


def read_integer(entry: Mapping[str, Any], key: str, where: str, low: int, high: int = 2**63 - 1) -> int:
    """Return the integer `entry[key]`, which must be in `low`..`high`.

    Raises:
        InputError: it is missing, not an integer, or out of range.
    """
    if key not in entry:
        raise InputError(f"'{key}' is missing", where=where, hint="add it")
    value = entry[key]
    if type(value) is not int or not low <= value <= high:
        bounds = f"in {low}..{high}" if high < 2**63 - 1 or (type(value) is int and value > high) else f">= {low}"
        raise InputError(f"must be an integer {bounds}, not {shown(value)}", where=f"{where}.{key}")
    return value


def read_object(entry: Any, where: str) -> dict[str, Any]:
    """Return a JSON value that must be an object.

    Raises:
        InputError: it is not one.
    """
    if not isinstance(entry, dict):
        raise InputError(f"must be an object, not {shown(entry)}", where=where)
    return entry


def is_number(value: object) -> TypeGuard[int | float]:
    """Whether a value from a JSON is a number that survives as a float: no NaN, infinity, nor one of 2^53 and more."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 2**53  # false for NaN

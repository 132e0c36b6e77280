"""Fields of a JSON object, validated."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, TypeGuard

from banet.errors import InputError, abbreviate
from banet.types import ImageId

__all__ = [
    "as_number",
    "as_numbers",
    "id_order",
    "image_id_of",
    "is_box",
    "is_number",
    "read_flag",
    "read_image_id",
    "read_integer",
    "read_object",
]

_DECIMAL = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]{1,3})?", re.ASCII)
_NOT_DECIMAL = re.compile(r"[^0-9.eE+\-\s]", re.ASCII)  # of what `float` reads: nan, inf, 1_000, other digits
_FLAGS: dict[tuple[type, Any], bool] = {
    **{(type(value), value): False for value in (None, 0, False, "0", "false")},
    **{(type(value), value): True for value in (1, True, "1", "true")},
}


def read_integer(
    entry: Mapping[str, Any], key: str, where: str, low: int, high: int = 2**63 - 1, *, texts: bool = False
) -> int:
    """Return the integer `entry[key]`, which must be in `low`..`high`.

    Args:
        entry: the object.
        key: name of the field.
        where: file and place of the object, for the error.
        low: least value.
        high: largest value.
        texts: also accept digits as a text and floats without a fraction, as some tools write sizes.

    Raises:
        InputError: it is missing, not an integer, or out of range.
    """
    if key not in entry:
        raise InputError(f"'{key}' is missing", where=where, hint="add it")
    value = entry[key]
    if texts and (re.fullmatch("[0-9]{1,9}", value) if isinstance(value, str) else is_number(value) and value % 1 == 0):
        value = int(value)
    if type(value) is not int or not low <= value <= high:
        bounds = f"in {low}..{high}" if high < 2**63 - 1 or (type(value) is int and value > high) else f">= {low}"
        raise InputError(f"must be an integer {bounds}, not {abbreviate(value)}", where=f"{where}.{key}")
    return value


def read_flag(entry: Mapping[str, Any], key: str, where: str, says: tuple[str, str] | None = None) -> bool:
    """Return the flag `entry[key]`, by the one rule that holds for every flag of every format.

    Absent, null, 0, false, "0" and "false" are False; 1, true, "1" and "true" are True. Nothing else is a flag: neither
    other spellings ("False", "yes") nor other numbers (2, -1, 1.0), since a file that has them means something that
    nobody here knows.

    Args:
        entry: the object.
        key: name of the field.
        where: file and place of the object, for the error.
        says: what 0 and 1 say, for the error.

    Raises:
        InputError: it is something else.
    """
    value = entry.get(key)
    flag = _FLAGS.get((type(value), value)) if isinstance(value, (int, str, type(None))) else None
    if flag is None:
        allowed = "0 or 1" if says is None else f"1 ({says[1]}) or 0 ({says[0]})"
        raise InputError(f"must be {allowed}, not {abbreviate(value)}", where=f"{where}.{key}", hint="correct it")
    return flag


def read_image_id(entry: Mapping[str, Any], key: str, where: str) -> ImageId:
    """Return the id of an image, `entry[key]`: an integer of 64 bits or a text, neither of which is interpreted.

    Raises:
        InputError: it is missing, or something else.
    """
    if key not in entry:
        raise InputError(f"'{key}' is missing", where=where, hint="add it")
    value = entry[key]
    if type(value) is str or (type(value) is int and -(2**63) <= value < 2**63):
        return value
    raise InputError(f"must be an integer of 64 bits or a text, not {abbreviate(value)}", where=f"{where}.{key}")


def image_id_of(word: str) -> ImageId:
    """Return the id of an image that a word of a command line stands for: 7 is a number, "7" in quotes a text."""
    try:
        value = json.loads(word)
    except ValueError:
        return word
    return value if type(value) in (int, str) else word


def id_order(image_id: ImageId) -> tuple[bool, ImageId]:
    """Return the key by which ids of images are sorted: numbers first, then texts."""
    return isinstance(image_id, str), image_id


def read_object(entry: Any, where: str) -> dict[str, Any]:
    """Return a JSON value that must be an object.

    Raises:
        InputError: it is not one.
    """
    if not isinstance(entry, dict):
        raise InputError(f"must be an object, not {abbreviate(entry)}", where=where)
    return entry


def is_number(value: object) -> TypeGuard[int | float]:
    """Return whether a value from a JSON is a number below 2^53, which survives as a float; NaN is not."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 2**53  # false for NaN


def as_number(value: object) -> float | None:
    """Return a number of a file as a float, also one that is written as a text, such as "12.5"; None for all else."""
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return None
    if isinstance(value, str) and not _DECIMAL.fullmatch(value.strip()):
        return None
    try:
        number = float(value)
    except OverflowError:  # an integer of hundreds of digits
        return None
    return number if math.isfinite(number) else None


def as_numbers(words: Sequence[str]) -> list[float] | None:
    """Return `as_number` of many texts, some five times faster; None where one is not a number."""
    try:
        numbers = [*map(float, words)]
    except ValueError:
        return None
    if _NOT_DECIMAL.search(" ".join(words)) or not all(map(math.isfinite, numbers)):
        return None
    return numbers


def is_box(value: object) -> TypeGuard[list[int | float]]:
    """Return whether a value from a JSON is a list of four numbers: x, y, width, height."""
    return isinstance(value, list) and len(value) == 4 and all(map(is_number, value))

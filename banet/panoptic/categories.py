"""Class numbering: the one place that turns category ids into class indices and back."""

from __future__ import annotations

import colorsys
import re
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from banet.errors import InputError, abbreviate, abbreviate_list
from banet.files.fields import read_flag

__all__ = ["MAX_CATEGORY_ID", "VOID", "Categories", "Category"]

VOID = -1
"""Void, in maps of class indices and in maps of category ids alike."""

_NO_COLOR = (-1, -1, -1)
MAX_CATEGORY_ID = 2**31 - 1
_TABLE_LIMIT = 1 << 16  # category ids below this are looked up in a table, larger ones by binary search
_UNKNOWN = -2
_SURROGATES = re.compile("[\ud800-\udfff]")  # halves of characters, which no file or screen takes


@dataclass(frozen=True)
class Category:
    """One class of a dataset.

    Two categories are equal when id, name and isthing are; the colour is decoration.

    Attributes:
        id: category id, as in the dataset's JSON (0 .. 2^31-1).
        name: what people call it.
        isthing: True for countable objects, False for stuff.
        color: RGB, 0..255 each. Left out, it is a stable function of id and name.
    """

    id: int
    name: str
    isthing: bool
    color: tuple[int, int, int] = field(default=_NO_COLOR, compare=False)

    def __post_init__(self) -> None:
        if isinstance(self.id, bool) or not isinstance(self.id, (int, np.integer)):
            raise TypeError(f"category id must be an int, not {self.id!r}")
        if not 0 <= self.id <= MAX_CATEGORY_ID:
            raise ValueError(f"category id must be in 0..{MAX_CATEGORY_ID}, not {self.id}")
        if not isinstance(self.name, str) or not self.name:
            raise TypeError(f"the name of category {self.id} must be a non-empty string, not {self.name!r}")
        object.__setattr__(self, "id", int(self.id))
        isthing: Any = self.isthing
        isthing = isthing.item() if isinstance(isthing, np.generic) else isthing
        object.__setattr__(self, "isthing", read_flag({"isthing": isthing}, "isthing", f"category {self.id}"))
        color = tuple(int(c) for c in self.color)
        if color == _NO_COLOR:
            color = _default_color(self.id, self.name)
        elif len(color) != 3 or not all(0 <= c <= 255 for c in color):
            raise ValueError(f"the color of category {self.id} must be three ints in 0..255, not {self.color!r}")
        object.__setattr__(self, "color", color)


class Categories:
    """The classes of a dataset in the one order that everything uses.

    Things come first, sorted by id, then stuff, sorted by id; the position in that order is the *class index*
    (things 0 .. T-1, stuff T .. T+S-1). The order in which categories are given never matters. Immutable and hashable.

    Iterating gives `Category` objects in class order, `categories[index]` the one of a class index, and
    `category_id in categories` asks for an id.

    Args:
        categories: the classes, in any order. There may be no things, or no stuff.

    Raises:
        ValueError: two categories have the same id.
        TypeError: something in `categories` is not a `Category`.
    """

    __slots__ = ("_categories", "_ids", "_index", "_num_things", "_table")

    def __init__(self, categories: Iterable[Category]) -> None:
        items = list(categories)
        for item in items:
            if not isinstance(item, Category):
                raise TypeError(f"Categories takes Category objects, not {type(item).__name__}; use Categories.of")
        items.sort(key=lambda category: (not category.isthing, category.id))
        self._categories: tuple[Category, ...] = tuple(items)
        self._index: dict[int, int] = {category.id: index for index, category in enumerate(items)}
        if len(self._index) != len(items):
            ids = [category.id for category in items]
            raise ValueError(f"duplicate category ids: {sorted({i for i in ids if ids.count(i) > 1})}")
        self._num_things = sum(category.isthing for category in items)
        self._ids: NDArray[np.int64] = np.array([category.id for category in items], dtype=np.int64)
        self._ids.setflags(write=False)
        self._table = self._lookup_table()

    @classmethod
    def from_coco(cls, categories: Iterable[Mapping[str, Any]], source: str = "categories") -> Categories:
        """Build the classes from the `categories` of a COCO panoptic JSON.

        Args:
            categories: dicts with `id` (int >= 0), `name`, `isthing` (see
                `read_flag`) and, if wanted, `color` (three ints in
                0..255). Other keys are ignored.
            source: what to call the input in errors, usually the file's name.

        Raises:
            InputError: a field is missing or of the wrong type, an id occurs twice, or there is none at all.
        """
        if isinstance(categories, (str, bytes, Mapping)) or not isinstance(categories, Iterable):
            raise InputError(f"'categories' must be a list of objects, not {type(categories).__name__}", where=source)
        items: list[Category] = []
        seen: dict[int, int] = {}
        for position, entry in enumerate(categories):
            where = f"{source}: categories[{position}]"
            if not isinstance(entry, Mapping):
                raise InputError(
                    f"must be an object with 'id', 'name' and 'isthing', not {abbreviate(entry)}", where=where
                )
            item = _category_from_coco(entry, where)
            if item.id in seen:
                raise InputError(
                    f"{item.id} is already the id of categories[{seen[item.id]}]",
                    where=f"{where}.id",
                    hint="make it unique",
                )
            seen[item.id] = position
            items.append(item)
        if not items:
            raise InputError("'categories' is empty", where=source, hint="list at least one category")
        return cls(items)

    @classmethod
    def of(cls, categories: Categories | Iterable[Category | Mapping[str, Any]]) -> Categories:
        """Takes `Categories`, `Category` objects or COCO dicts, and gives `Categories`.

        Raises:
            InputError: see `from_coco`.
            TypeError: the argument is none of these.
        """
        if isinstance(categories, Categories):
            return categories
        if isinstance(categories, (str, bytes, Mapping)) or not isinstance(categories, Iterable):
            raise TypeError(
                f"categories must be Categories, a list of Category or a list of dicts, not {type(categories).__name__}"
            )
        items = list(categories)
        if items and all(isinstance(item, Mapping) for item in items):
            return cls.from_coco([item for item in items if isinstance(item, Mapping)])
        return cls(item for item in items)  # type: ignore[misc]  # __init__ checks each item

    def to_coco(self) -> list[dict[str, Any]]:
        """Return the `categories` of a COCO panoptic JSON, in class order."""
        return [{"id": c.id, "name": c.name, "isthing": int(c.isthing), "color": list(c.color)} for c in self]

    @property
    def num_things(self) -> int:
        """Number of thing classes T; their class indices are 0 .. T-1."""
        return self._num_things

    @property
    def num_stuff(self) -> int:
        """Number of stuff classes S; their class indices are T .. T+S-1."""
        return len(self._categories) - self._num_things

    @property
    def ids(self) -> NDArray[np.int64]:
        """Category id of every class index, int64 of shape (T+S,), read-only."""
        return self._ids

    @property
    def indices(self) -> Mapping[int, int]:
        """Class index of every category id, read-only."""
        return MappingProxyType(self._index)

    @property
    def names(self) -> tuple[str, ...]:
        """Name of every class index."""
        return tuple(category.name for category in self)

    def index(self, category_id: int) -> int:
        """Return the class index of a category id.

        Raises:
            ValueError: there is none.
        """
        index = self._index.get(int(category_id))
        if index is None:
            raise ValueError(f"unknown category id {category_id}; known are {self._known()}")
        return index

    def by_id(self, category_id: int) -> Category:
        """Return the category of an id. Raises ValueError when there is none."""
        return self._categories[self.index(category_id)]

    def isthing(self, category_id: int) -> bool:
        """Return whether an id is a thing's. Raises ValueError when there is none."""
        return self.index(category_id) < self._num_things

    def indices_of(self, ids: Any, source: str = "category ids") -> NDArray[np.int64]:
        """Turn category ids into class indices.

        `VOID` stays `VOID`; 0 is void too, unless a category has the id 0.

        Args:
            ids: integers of any shape.
            source: what to call the input in errors.

        Returns:
            int64, same shape.

        Raises:
            ValueError: an id is neither known nor void (all such ids are listed), or the input holds no integers.
        """
        array = np.asarray(ids)
        if array.size == 0:
            return np.zeros(array.shape, dtype=np.int64)
        if array.dtype.kind not in "iu":
            raise ValueError(f"{source}: category ids must be integers, not {array.dtype}")
        if self._table is not None:
            # The table's last entry stands for -1.
            low, high = int(array.min()), int(array.max())
            if low < VOID or high > len(self._table) - 2:
                inside = (array >= VOID) & (array <= len(self._table) - 2)
                out = np.where(inside, self._table[np.where(inside, array, 0).astype(np.int64)], _UNKNOWN)
            else:
                out = self._table[array]
        else:
            order = np.argsort(self._ids)
            wide = array.astype(np.int64)
            place = np.minimum(np.searchsorted(self._ids[order], wide), len(order) - 1)
            out = np.where(self._ids[order][place] == wide, order[place], _UNKNOWN)
            out[wide == VOID] = VOID
            if 0 not in self._index:
                out[wide == 0] = VOID
        unknown = out == _UNKNOWN
        if unknown.any():
            values = [int(value) for value in np.unique(array[unknown])]
            raise ValueError(f"{source}: unknown category ids {abbreviate_list(values)}; known are {self._known()}")
        return np.asarray(out, dtype=np.int64)

    def ids_of(self, indices: Any) -> NDArray[np.int64]:
        """Turn class indices into category ids; `VOID` stays `VOID`.

        Args:
            indices: integers of any shape, -1 .. T+S-1.

        Returns:
            int64, same shape.

        Raises:
            ValueError: an index is out of range, or the input does not hold integers.
        """
        array = np.asarray(indices)
        if array.size == 0:
            return np.zeros(array.shape, dtype=np.int64)
        if array.dtype.kind not in "iu":
            raise ValueError(f"class indices must be integers, not {array.dtype}")
        low, high = int(array.min()), int(array.max())
        if low < VOID or high >= len(self):
            raise ValueError(f"class indices must be in -1..{len(self) - 1}, not {low}..{high}")
        padded: NDArray[np.int64] = np.append(self._ids, np.int64(VOID))
        return padded[array.astype(np.int64)]

    def _lookup_table(self) -> NDArray[np.int64] | None:
        top = max(self._index, default=0)
        if top >= _TABLE_LIMIT:
            return None
        table = np.full(top + 2, _UNKNOWN, dtype=np.int64)
        table[0] = VOID
        table[self._ids] = np.arange(len(self._ids))
        table[-1] = VOID
        return table

    def _known(self) -> str:
        return abbreviate_list(sorted(self._index), 12) or "none"

    def __len__(self) -> int:
        return len(self._categories)

    def __iter__(self) -> Iterator[Category]:
        return iter(self._categories)

    @overload
    def __getitem__(self, index: int) -> Category: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[Category, ...]: ...
    def __getitem__(self, index: int | slice) -> Category | tuple[Category, ...]:
        return self._categories[index]

    def __contains__(self, category_id: object) -> bool:
        return category_id in self._index

    def __eq__(self, other: object) -> bool:
        return self._categories == other._categories if isinstance(other, Categories) else NotImplemented

    def __hash__(self) -> int:
        return hash(self._categories)

    def __repr__(self) -> str:
        return f"Categories({self.num_things} things, {self.num_stuff} stuff)"

    def __reduce__(self) -> tuple[type[Categories], tuple[tuple[Category, ...]]]:
        return Categories, (self._categories,)


def _category_from_coco(entry: Mapping[str, Any], where: str) -> Category:
    for key in ("id", "name", "isthing"):
        if key not in entry:
            raise InputError(
                f"'{key}' is missing", where=where, hint="COCO panoptic categories need id, name and isthing"
            )
    category_id, name = entry["id"], entry["name"]
    if isinstance(category_id, bool) or not isinstance(category_id, int) or not 0 <= category_id <= MAX_CATEGORY_ID:
        raise InputError(
            f"must be an integer in 0..{MAX_CATEGORY_ID}, not {abbreviate(category_id)}", where=f"{where}.id"
        )
    if not isinstance(name, str) or not name or _SURROGATES.search(name):
        raise InputError(f"must be a non-empty string, not {abbreviate(name)}", where=f"{where}.name")
    isthing = read_flag(entry, "isthing", where, says=("stuff", "thing"))
    color = entry.get("color")
    if color is None:
        return Category(category_id, name, isthing)
    if (
        not isinstance(color, (list, tuple))
        or len(color) != 3
        or not all(isinstance(c, int) and not isinstance(c, bool) and 0 <= c <= 255 for c in color)
    ):
        raise InputError(f"must be three integers in 0..255, not {abbreviate(color)}", where=f"{where}.color")
    return Category(category_id, name, isthing, (color[0], color[1], color[2]))


def _default_color(category_id: int, name: str) -> tuple[int, int, int]:
    # The golden ratio keeps the hues of neighbouring ids far apart; the name shifts saturation and brightness a little.
    shift = zlib.crc32(name.encode())
    hue = (category_id * 0.6180339887498949 + 0.08) % 1.0
    saturation = 0.55 + 0.15 * (category_id % 3) + 0.12 * ((shift & 0xFF) / 255)
    value = 0.70 + 0.10 * (category_id // 3 % 3) + 0.08 * ((shift >> 8 & 0xFF) / 255)
    red, green, blue = colorsys.hsv_to_rgb(hue, min(saturation, 1.0), min(value, 1.0))
    return round(red * 255), round(green * 255), round(blue * 255)

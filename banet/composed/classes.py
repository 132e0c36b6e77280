"""Classes of other libraries' models, matched by name with a table of categories. What does not match is listed."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from banet.errors import InputError, InputWarning, abbreviate
from banet.files.reading import read_json
from banet.panoptic.categories import Categories, Category
from banet.panoptic.coco.classes import coco_categories
from banet.types import StrPath

__all__ = ["ClassTable", "ModelClasses", "match_classes"]

_NAMELESS = re.compile(r"label \d+|n ?/ ?a|", re.I)
_BACKGROUND = frozenset({"background", "unlabeled", "unlabelled", "void", "no object"})

_ALIASES = """
airplane: aeroplane; motorcycle: motorbike; couch: sofa; tv: tv monitor, tvmonitor, television; potted plant:
pottedplant, plant pot; dining table: diningtable; hair drier: hair dryer; donut: doughnut; cell phone: mobile phone;
door-stuff: door; mirror-stuff: mirror; floor-wood: wooden floor; water-other: water; window-blind: blind, blinds;
window-other: window, windowpane; tree-merged: tree; fence-merged: fence; ceiling-merged: ceiling; sky-other-merged:
sky; cabinet-merged: cabinet; floor-other-merged: floor, flooring; pavement-merged: pavement, sidewalk; mountain-merged:
mountain; grass-merged: grass; dirt-merged: dirt, earth, ground; paper-merged: paper; food-other-merged: food;
building-other-merged: building; rock-merged: rock, stone; wall-other-merged: wall; rug-merged: rug, carpet
"""
"""Other names of COCO's classes: those of VOC and ADE20K, and COCO's own without what merging added to them."""


@dataclass(frozen=True)
class ClassTable:
    """Categories, each with all names under which models may know it.

    Attributes:
        categories: The classes, with the ids that results get.
        ids: Category id by name in plain spelling (`plain`).
        source: Names the table in errors.
        closed: Whether results have these categories, all of them and no others, as those of a data set.
    """

    categories: Categories
    ids: Mapping[str, int]
    source: str
    closed: bool = False

    @classmethod
    def of(cls, categories: Categories, source: str, names: Mapping[int, Sequence[str]] | None = None) -> ClassTable:
        """Make a table of categories and, by id, their other names.

        Raises:
            InputError: A name stands for two categories.
        """
        ids: dict[str, int] = {}
        for category in categories:
            for name in (category.name, *(names or {}).get(category.id, ())):
                if ids.setdefault(plain(name), category.id) != category.id:
                    other = categories.by_id(ids[plain(name)])
                    raise InputError(
                        f"{name!r} is a name of {other.id} ({other.name}) and of {category.id} ({category.name})",
                        where=source,
                        hint="leave it to one of them",
                    )
        return cls(categories, ids, source)

    @classmethod
    def default(cls) -> ClassTable:
        """Return COCO's 133 classes with the names that VOC and ADE20K have for them."""
        categories = coco_categories()
        by_name = {category.name: category.id for category in categories}
        entries = (entry.partition(":") for entry in " ".join(_ALIASES.split()).split(";"))
        names = {by_name[name.strip()]: [other.strip() for other in others.split(",")] for name, _, others in entries}
        return cls.of(categories, "the table of COCO's 133 classes", names)

    def for_categories(self, categories: Categories, source: str) -> ClassTable:
        """Return a table of other categories, under whose names this table's other names are known too.

        Args:
            categories: Those of a data set.
            source: Names the data set in errors.
        """
        here = {plain(category.name) for category in categories}
        names: dict[int, list[str]] = {}
        for category in categories:
            number = self.ids.get(plain(category.name))
            others = [name for name, known in self.ids.items() if known == number]
            names[category.id] = [name for name in others if number is not None and name not in here]
        return replace(ClassTable.of(categories, f"the classes of {source}", names), closed=True)

    @classmethod
    def read(cls, path: StrPath) -> ClassTable:
        """Read a table: a list of COCO categories, each of which may have `names`, or an object with `categories`.

        Raises:
            InputError: The file is not such a table.
        """
        content = read_json(path)
        listed = content.get("categories") if isinstance(content, dict) else content
        if not isinstance(listed, list):
            raise InputError("must be a list of categories, or an object with 'categories'", where=path)
        categories = Categories.from_coco(listed, str(path))
        names: dict[int, Sequence[str]] = {}
        for index, entry in enumerate(listed):
            given = entry.get("names", [])
            if not isinstance(given, list) or not all(isinstance(name, str) for name in given):
                raise InputError(
                    f"must be a list of texts, not {abbreviate(given)}", where=f"{path}: categories[{index}].names"
                )
            names[entry["id"]] = given
        return cls.of(categories, str(path), names)

    def is_thing(self, name: str) -> bool:
        """Return whether a class of some model is known here, and a thing."""
        number = self.ids.get(plain(name))
        return number is not None and self.categories.isthing(number)

    def to_json(self) -> list[dict[str, Any]]:
        """Return the table as `read` reads it."""
        others: dict[int, list[str]] = {category.id: [] for category in self.categories}
        for name, number in self.ids.items():
            if name != plain(self.categories.by_id(number).name):
                others[number].append(name)
        return [{**entry, "names": others[entry["id"]]} for entry in self.categories.to_coco()]


@dataclass(frozen=True)
class ModelClasses:
    """The classes of one model, in the order of its outputs.

    Attributes:
        source: Names the model in errors.
        names: Name of each class; that of one without a name is empty.
        isthing: Whether each is a thing, None where the model does not say.
    """

    source: str
    names: tuple[str, ...]
    isthing: tuple[bool | None, ...]

    @classmethod
    def of(
        cls,
        source: str,
        names: Mapping[int, str] | Sequence[str],
        *,
        isthing: bool | Iterable[int] | None = None,
        count: int | None = None,
    ) -> ModelClasses:
        """Gather what a model says of its classes.

        Args:
            source: Names the model in errors.
            names: In order, or by index.
            isthing: Of all classes, or the indices of those that are things; None where the model does not say.
            count: How many there are; by default the highest index + 1.

        Raises:
            InputError: There are names beyond `count`.
        """
        by_index = dict(names) if isinstance(names, Mapping) else dict(enumerate(names))
        total = max(by_index, default=-1) + 1 if count is None else count
        beyond = sorted(index for index in by_index if index >= total and not is_nameless(by_index[index]))
        if beyond:
            raise InputError(
                f"has {total} outputs but names {len(by_index)} classes, such as {by_index[beyond[0]]!r}",
                where=source,
                hint="correct id2label in its config.json",
            )
        listed = [by_index.get(index, "") for index in range(total)]
        things = isthing if isthing is None or isinstance(isthing, bool) else set(isthing)
        kinds = [index in things if isinstance(things, set) else things for index in range(total)]
        return cls(source, tuple("" if is_nameless(name) else name for name in listed), tuple(kinds))


def plain(name: str) -> str:
    """Return a name in plain spelling: lower case, single spaces for hyphens and underscores."""
    return " ".join(re.sub(r"[-_]", " ", name.casefold()).split())


def is_nameless(name: str) -> bool:
    """Return whether a name says nothing: empty, N/A, or a library's placeholder such as LABEL_7."""
    return _NAMELESS.fullmatch(plain(name)) is not None


def is_background(name: str) -> bool:
    """Return whether a name stands for what is none of the classes."""
    return plain(name) in _BACKGROUND


def match_classes(table: ClassTable, *models: ModelClasses) -> tuple[Categories, list[NDArray[np.int64]]]:
    """Match the classes of one or two models with a table, by name.

    A class that the table has not is kept under a new id where its model says whether it is a thing, and is left out
    where nobody says so or the table is closed; both are told by a warning. Background that the table has not is void.

    Args:
        table: The categories.
        models: What models say of their classes.

    Returns:
        The categories that occur, or all of a closed table, and for each model the class index (`Categories`) of each
        of its classes, -1 for those that are left out.

    Raises:
        InputError: Nothing matches, or two models disagree about a class.
    """
    found = {category.id: category for category in table.categories} if table.closed else {}
    new: dict[str, Category] = {}
    numbers: list[list[int | None]] = []
    for model in models:
        numbers.append([])
        kept: list[str] = []
        left: list[str] = []
        for name, isthing in zip(model.names, model.isthing, strict=True):
            category = _category(table, new, name, isthing)
            if category is None:
                left += [name] if name and not is_background(name) else []
            elif found.setdefault(category.id, category).isthing != category.isthing:
                raise InputError(_disagreement(name, found[category.id], models, model, table))
            elif plain(name) in new and name not in kept:
                kept.append(name)
            numbers[-1].append(None if category is None else category.id)
        _tell(table, model, kept, left, any(number is not None for number in numbers[-1]))
    categories = Categories(found.values())
    return categories, [
        np.array([-1 if number is None else categories.index(number) for number in each], dtype=np.int64)
        for each in numbers
    ]


def _category(table: ClassTable, new: dict[str, Category], name: str, isthing: bool | None) -> Category | None:
    """Return the category of a class; `new` gets it where the table has none. The model's word on things counts."""
    if not name:
        return None
    number = table.ids.get(plain(name))
    if number is not None:
        known = table.categories.by_id(number)
        return known if isthing in (None, known.isthing) else Category(known.id, known.name, bool(isthing), known.color)
    if isthing is None or is_background(name) or table.closed:
        return new.get(plain(name))
    if plain(name) not in new:
        first = max([*table.categories.ids.tolist(), 0]) + 1
        new[plain(name)] = Category(first + len(new), name, isthing)
    known = new[plain(name)]
    return known if isthing == known.isthing else Category(known.id, known.name, isthing)


def _disagreement(
    name: str, known: Category, models: Sequence[ModelClasses], model: ModelClasses, table: ClassTable
) -> str:
    kinds = ("stuff", "a thing")
    others = " and ".join(each.source for each in models if each is not model) or table.source
    return (
        f"{model.source}: {name!r} is {kinds[not known.isthing]} here but {kinds[known.isthing]} for {others}; "
        "give a class table in which the one or the other has another name"
    )


def _tell(table: ClassTable, model: ModelClasses, kept: list[str], left: list[str], usable: bool) -> None:
    """Warn of classes that the table has not.

    Raises:
        InputError: There are no others.
    """
    if not usable:
        known = _listed(left) if left else "none of its classes has a name"
        raise InputError(
            f"no class is in {table.source}: {known}",
            where=model.source,
            hint="write a table with `banet models --write-classes FILE`, put these names in, and give it with "
            "--class-table FILE",
        )
    if kept:
        text = f"{model.source}: not in {table.source}, kept as the model has them: {_listed(kept)}"
        warnings.warn(text, InputWarning, stacklevel=3)
    if left:
        text = f"{model.source}: not in {table.source}, left out: {_listed(left)}; see --class-table"
        warnings.warn(text, InputWarning, stacklevel=3)


def _listed(names: Sequence[str]) -> str:
    return ", ".join(repr(name) for name in dict.fromkeys(names))

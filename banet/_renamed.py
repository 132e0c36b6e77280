"""Old names of options, arguments and values, which work until version 0.3.

In Python and in recipes they raise a DeprecationWarning. On the command line and in saved weights they are replaced
silently.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

__all__ = [
    "FLAGS",
    "NAMES",
    "VALUES",
    "accept_old_names",
    "current_options",
    "current_value",
    "current_words",
    "old_attribute",
]

NAMES: Mapping[str, Mapping[str, str]] = {
    "InferenceConfig": {"score": "score_threshold", "nms": "nms_threshold", "instances": "max_instances"},
    "TrainConfig": {"batch": "batch_size"},
    "BANet.push_to_hub": {"licence": "license"},
    "analyze_command": {"picture_ids": "image_ids"},
    "evaluate": {"batch": "batch_size"},
    "evaluate_command": {"batch": "batch_size"},
    "fuse_files": {"score": "score_threshold", "nms": "nms_threshold", "top": "max_instances"},
    "model_card": {"licence": "license"},
    "push_to_hub": {"licence": "license"},
    "segment_tiles": {"picture": "image"},
}
"""Old and new names of keyword arguments and attributes, by the function or class that has them."""
VALUES: Mapping[str, str] = {"colour-contour": "color-contour"}
"""Old and new names of occlusion rules."""
FLAGS: Mapping[str, str] = {"--pictures": "--count", "--picture-ids": "--image-ids"}
"""Old and new names of options of `banet analyze`."""
_GROUPS = {"inference": "InferenceConfig", "train": "TrainConfig"}
"""Groups of options of a recipe, and the class of each."""

_Target = TypeVar("_Target", bound=Callable[..., Any])


def _warn(old: str, new: str, stacklevel: int) -> None:
    text = f"{old} is now called {new}; the old name works until 0.3"
    warnings.warn(text, DeprecationWarning, stacklevel=stacklevel + 1)


def accept_old_names(target: _Target) -> _Target:
    """Make a function, or a class's constructor, accept the old names of its keyword arguments in `NAMES`.

    A value given by an old name replaces one given by the new name, as `dataclasses.replace` passes both. A class also
    gets the old names as attributes.
    """
    names = NAMES[target.__qualname__]
    if isinstance(target, type):
        target.__init__ = accept_keywords(target.__init__, names)  # type: ignore[misc]
        for old, new in names.items():
            setattr(target, old, old_attribute(old, new))
        return target
    return accept_keywords(target, names)


def accept_keywords(function: _Target, names: Mapping[str, str]) -> _Target:
    """Return a function that passes keyword arguments on by their new names."""

    @functools.wraps(function)
    def renaming(*args: Any, **named: Any) -> Any:
        for old in names.keys() & named.keys():
            _warn(old, names[old], 2)
            named[names[old]] = named.pop(old)
        return function(*args, **named)

    return renaming  # type: ignore[return-value]


def old_attribute(old: str, new: str) -> property:
    """Return a property that reads an attribute or method by its new name, with a warning."""

    def read(owner: Any) -> Any:
        _warn(old, new, 2)
        return getattr(owner, new)

    return property(read, doc=f"Old name of `{new}`.")


def current_value(value: Any, *, warn: bool = True, stacklevel: int = 2) -> Any:
    """Return the name that an occlusion rule has now; other values as they are."""
    if not isinstance(value, str) or value not in VALUES:
        return value
    if warn:
        _warn(value, VALUES[value], stacklevel)
    return VALUES[value]


def current_options(
    kind: str, options: Mapping[Any, Any], *, source: str = "", group: str = "", warn: bool = True
) -> dict[Any, Any]:
    """Return options with the names, and names of rules, that they have now.

    Args:
        kind: The class that the options are of, a key of `NAMES` or any other.
        options: Values by name, and groups of them by the name of the group.
        source: The file, for warnings.
        group: What precedes the names in messages.
        warn: Raise a DeprecationWarning per old name.

    Raises:
        ValueError: An option is given by its old and its new name.
    """
    names = NAMES.get(kind, {})
    done: dict[Any, Any] = {}
    for key, value in options.items():
        name = names.get(key, key) if isinstance(key, str) else key
        if name in done:
            raise ValueError(f"{group}{name}: is given by its old name too; keep one")
        if name != key and warn:
            where = f"{source}: " if source else ""
            _warn(f"{where}{group}{key}", f"{group}{name}", 2)
        if isinstance(value, dict) and name in _GROUPS:
            value = current_options(_GROUPS[name], value, source=source, group=f"{name}.", warn=warn)
        done[name] = current_value(value, warn=warn) if name == "rule" else value
    return done


def current_words(words: Iterable[str]) -> list[str]:
    """Return a command line with the options and rules that are called otherwise now."""
    flags = {f"--{group}.{old}": new for group, kind in _GROUPS.items() for old, new in NAMES[kind].items()}
    done: list[str] = []
    for word in words:
        flag, equals, value = word.partition("=")
        if flag in FLAGS:
            flag = FLAGS[flag]
        elif flag in flags:
            flag = f"{flag.rpartition('.')[0]}.{flags[flag]}"
        names_rule = flag if equals else (done[-1] if done else "")
        if names_rule.rpartition(".")[2] in ("--rule", "rule", "--overlaps"):
            value, flag = (current_value(value, warn=False), flag) if equals else ("", current_value(flag, warn=False))
        done.append(f"{flag}{equals}{value}")
    return done

"""What a command is: a frozen dataclass whose fields are its options, whose docstring is its help, and a `run`.

To add an option, add a field, and a line under `Attributes` of the docstring:

    out: Folder = "demo"                    --out DIR
    tile: Pixels | None = None              --tile PIXELS, a whole number from 1
    gallery: bool = False                   --gallery, a flag
    stuff: Names = field(default_factory=list)      --stuff NAME [NAME ...], or --stuff '[NAME, ...]'
    weights: Weights                        --weights WEIGHTS, required since it has no default
    inputs: Annotated[list[str], Argument("INPUT")]     INPUT [INPUT ...], without dashes

Types of options and options that several commands share are in `banet.commands.shared`. Neither module loads torch or
jsonargparse, which is imported when a command line is parsed.
"""

from __future__ import annotations

import inspect
import re
from abc import ABC, abstractmethod
from argparse import SUPPRESS
from collections.abc import Sequence
from dataclasses import MISSING, Field, dataclass, field, fields
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, TypeVar, cast, get_args, get_origin, get_type_hints

from banet._renamed import current_words
from banet.files.remote import refuse_url, without_scheme

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser

__all__ = ["Argument", "Command", "Value", "options_of"]

_Kind = TypeVar("_Kind", bound="Command")


@dataclass(frozen=True)
class Value:
    """How the value of an option is written: the note in `Annotated[int, Value("N", least=1)]`.

    Attributes:
        metavar: What stands for it in the help.
        least: The least that a whole number, or each of a list of them, may be: 0 or 1.
        local: It is a path of this machine: of URLs those of its files are taken, and all others refused.
    """

    metavar: str
    least: int | None = None
    local: bool = False


class Argument(Value):
    """The same of an argument without dashes. A list takes several words; arguments of base classes come first."""


def options_of(group: type[Any], prefix: str = "") -> Any:
    """Return the field of a mapping that holds those options of another dataclass that were given, by dotted name."""
    return field(default_factory=dict, metadata={"group": group, "prefix": prefix})


class Command(ABC):
    """A command. Subclasses are dataclasses, frozen and with keywords only.

    The first paragraph of a subclass's docstring describes the command, what follows up to `Attributes` is printed
    below the options, and `Attributes` describes the options.
    """

    usage: ClassVar[str] = ""
    """The usage line, where the one made from the options would be too long."""
    saved_defaults: ClassVar[bool] = False
    """Whether the defaults in `options_of` are replaced by those saved with the weights, so that help shows none."""

    @abstractmethod
    def run(self) -> int:
        """Do the work and return the exit status."""

    @classmethod
    def summary(cls) -> str:
        """Return the description in one line."""
        return " ".join(_description(cls)[0].split())

    @classmethod
    def parser(cls, name: str, *, brief: bool = False) -> ArgumentParser:
        """Return the parser of the command line `banet NAME ...`.

        Args:
            name: What the command is called.
            brief: Leave the options in `options_of` out of the help.
        """
        from banet.engine.options import HelpAll, HelpFormatter, SavedDefaults, option_parser

        parser = option_parser(
            f"banet {name}",
            cls.summary(),
            usage=cls.usage or None,
            epilog=_description(cls)[1],
            formatter=SavedDefaults if cls.saved_defaults else HelpFormatter,
        )
        hints, helps = get_type_hints(cls, include_extras=True), _helps(cls)
        arguments = [each for each in fields(cast(Any, cls)) if _is_argument(hints[each.name])]
        for option in [*arguments, *(each for each in _options(cls) if each not in arguments)]:
            _add(parser, option, hints[option.name], helps[option.name])
        for group in _groups(cls):
            own = len(parser._actions)
            parser.add_class_arguments(group.metadata["group"], group.metadata["prefix"] or None)
            further = sorted({each.dest.split(".")[0] for each in parser._actions[own:] if "." in each.dest})
            text = f"Also show the options {', '.join(f'--{each}.*' for each in further)}"
            parser.add_argument("--help-all", action=HelpAll, help=text)
            for action in parser._actions[own:-1] if brief else ():
                action.help = SUPPRESS
        return parser

    @classmethod
    def parse(cls: type[_Kind], name: str, words: Sequence[str]) -> _Kind:
        """Return the command with the options of a command line.

        Args:
            name: What the command is called.
            words: The command line after the name.

        Raises:
            InputError: An option is unknown, missing or of another type.
        """
        from banet.engine.options import bracketed, parse_options

        parser = cls.parser(name, brief="-h" in words or "--help" in words)
        words = bracketed(parser, current_words(words))
        parsed = parse_options(parser, words)
        hints = get_type_hints(cls, include_extras=True)
        values: dict[str, Any] = {
            option.name: _local(option, hints[option.name], _plain(parsed[option.name])) for option in _options(cls)
        }
        own = set(values)
        for group in _groups(cls):
            prefix = f"{group.metadata['prefix']}." if group.metadata["prefix"] else ""
            given = {
                key: value for key, value in parse_options(parser, words, defaults=False).items() if key not in own
            }
            values[group.name] = {key.removeprefix(prefix): v for key, v in given.items() if key.startswith(prefix)}
        return cls(**values)


# ---------------------------------------------------------------------------------------------- docstrings and fields


def _description(kind: type[Command]) -> tuple[str, str]:
    """Return the first paragraph of the docstring, and the others before its attributes."""
    text = re.split(r"^Attributes:$", inspect.cleandoc(kind.__doc__ or ""), maxsplit=1, flags=re.M)[0]
    first, _, others = text.strip().partition("\n\n")
    return first, others


def _helps(kind: type[Command]) -> dict[str, str]:
    """Return what the docstrings of a command and of its bases say about each option."""
    from docstring_parser import DocstringStyle, parse

    texts = [part.__doc__ or "" for part in reversed(kind.__mro__) if issubclass(part, Command) and part is not Command]
    named = [one for text in texts for one in parse(text, DocstringStyle.GOOGLE).params]
    return {one.arg_name: " ".join((one.description or "").split()) for one in named}


def _fields(kind: type[Command]) -> list[Field[Any]]:
    """Return the fields of a command, its own before those of its bases."""
    depth: dict[str, int] = {}
    for place, part in enumerate(kind.__mro__):
        depth.update({name: place for name in inspect.get_annotations(part) if name not in depth})
    return sorted(fields(cast(Any, kind)), key=lambda option: depth[option.name])


def _options(kind: type[Command]) -> list[Field[Any]]:
    return [option for option in _fields(kind) if "group" not in option.metadata]


def _groups(kind: type[Command]) -> list[Field[Any]]:
    return [option for option in _fields(kind) if "group" in option.metadata]


# ---------------------------------------------------------------------------------------------- from fields to options


def _flag(option: Field[Any]) -> str:
    return f"--{option.name.replace('_', '-')}"


def _note(hint: Any) -> Value | None:
    """Return the note of the type of a field."""
    notes = (note for kind in (hint, *get_args(hint)) for note in getattr(kind, "__metadata__", ()))
    return next((note for note in notes if isinstance(note, Value)), None)


def _local(option: Field[Any], hint: Any, value: Any) -> Any:
    """Return the value of an option; where it is to be a path, without the scheme of the URL of a file.

    Raises:
        InputError: It is to be a path of this machine, and is a URL.
    """
    note = _note(hint)
    if note is None or not note.local:
        return value
    if isinstance(value, list):
        return [_local(option, hint, each) for each in value]
    path = without_scheme(value)
    refuse_url(path, note.metavar if isinstance(note, Argument) else _flag(option))
    return path


def _is_argument(hint: Any) -> bool:
    return isinstance(_note(hint), Argument)


def _add(parser: ArgumentParser, option: Field[Any], hint: Any, text: str) -> None:
    """Add the option of a field to a parser."""
    if hint is bool:
        parser.add_argument(_flag(option), action="store_true", help=text)
        return
    default = option.default if option.default_factory is MISSING else option.default_factory()
    kind, metavar = _typed(hint)
    settings: dict[str, Any] = {"type": kind, "help": text, "metavar": metavar}
    if not _is_argument(hint):
        settings |= {"required": True} if default is MISSING else {"default": default}
        parser.add_argument(_flag(option), **settings)
    elif get_origin(kind) is list:
        settings |= {"type": get_args(kind)[0], "nargs": "+" if default is MISSING else "*"}
        parser.add_argument(option.name, **settings)
    else:
        parser.add_argument(option.name, **settings)


def _typed(hint: Any) -> tuple[Any, Any]:
    """Return the parser's type and metavar for the type of a field."""
    if get_origin(hint) is Annotated:
        from jsonargparse.typing import NonNegativeInt, PositiveInt

        kind, note = get_args(hint)
        if note.least is not None:
            number: Any = (NonNegativeInt, PositiveInt)[note.least]
            kind = list[number] if get_origin(kind) is list else number
        return kind, note.metavar
    if type(None) in get_args(hint):
        kind, metavar = _typed(next(each for each in get_args(hint) if each is not type(None)))
        return (kind if kind is str else kind | None), metavar  # a file may be called `null`
    choices = get_args(hint) if get_origin(hint) is Literal else ()
    return hint, f"{{{','.join(choices)}}}" if choices else None


def _plain(value: Any) -> Any:
    """Return a value without the parser's own kinds of numbers, which YAML does not know."""
    if isinstance(value, list):
        return [_plain(each) for each in value]
    return int(value) if isinstance(value, int) and not isinstance(value, bool) else value

"""From text to recipes: YAML files and typed options, checked against the frozen dataclasses. Free of torch."""

from __future__ import annotations

import difflib
import json
import re
from argparse import SUPPRESS, Action, ArgumentError
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, fields, is_dataclass, replace
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

import yaml
from jsonargparse import ArgumentParser, DefaultHelpFormatter, Namespace

from banet._renamed import current_options
from banet.engine.recipe import Recipe, find_recipe
from banet.errors import InputError, abbreviate
from banet.files.reading import open_file
from banet.files.worker import isolated
from banet.modeling.config import BEFORE, ModelConfig, change_options

__all__ = [
    "HelpAll",
    "HelpFormatter",
    "SavedDefaults",
    "bracketed",
    "flat_options",
    "is_list",
    "load_recipe",
    "option_parser",
    "options_since",
    "parse_options",
]

_LARGEST_RECIPE = 1 << 16  # bytes


class HelpFormatter(DefaultHelpFormatter):
    """Help that keeps line breaks of descriptions, shows lists alike, and omits types that choices state already."""

    def _format_action_invocation(self, action: Any) -> str:
        if is_list(action) and action.option_strings:  # without the parser's second option, which adds to the list
            return f"{action.option_strings[0]} {self._format_args(action, '')}"
        return super()._format_action_invocation(action)

    def _format_args(self, action: Any, default_metavar: str) -> str:
        if not is_list(action):
            return super()._format_args(action, default_metavar)
        metavar = action.metavar if isinstance(action.metavar, str) else ""
        metavar = "ITEM" if not metavar or metavar.startswith("[") else metavar
        return f"{metavar} [{metavar} ...]"

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        return "".join(indent + line for line in text.splitlines(keepends=True))

    def _expand_help(self, action: Any) -> str:
        text = super()._expand_help(action)
        text = re.sub(r"type: (?:Literal|Optional\[Literal)\[.*?\]+(?: \| null)?(?:, |(?=\)))", "", text)
        text = re.sub(r"type: Union\[[^)]*\](?:, )?", "", text)
        for plain, words in {"PositiveInt": "int from 1", "NonNegativeInt": "int from 0", " | null": ""}.items():
            text = text.replace(plain, words)
        text = re.sub(r"(?:, )?default: null\)$", ")", re.sub(r"type: str(?:, )?", "", text))
        if action.nargs == 0 or action.default == []:
            text = re.sub(r"(?:, |(?<=\())default: (?:False|\[\])\)$", ")", text)
        return text.replace(", )", ")").replace("()", "").rstrip()


class HelpAll(Action):
    """The option `--help-all`: prints the help of a parser, and ends the program."""

    def __init__(self, option_strings: Sequence[str], dest: str, **settings: Any) -> None:
        super().__init__(option_strings, dest, nargs=0, default=SUPPRESS, help=settings.get("help"))

    def __call__(self, parser: Any, *_: Any) -> None:
        """Print the help."""
        parser.print_help()
        parser.exit()


class SavedDefaults(HelpFormatter):
    """Help of options of inference whose defaults are not the dataclass's but those saved with the weights."""

    def _expand_help(self, action: Any) -> str:
        text = super()._expand_help(action)
        if action.dest.startswith("inference."):
            text = re.sub(r"(?:, )?default: .*\)$", ")", text).removesuffix(" ()")
        return text


def option_parser(
    program: str,
    description: str = "",
    *,
    usage: str | None = None,
    epilog: str = "",
    formatter: type[HelpFormatter] = HelpFormatter,
) -> ArgumentParser:
    """Return an empty parser with this project's defaults: whole option names only, errors raised instead of printed.

    Args:
        program: What the help calls the command.
        description: What it does.
        usage: The usage line without its program name; made from the options by default.
        epilog: Text below the options.
        formatter: Lays out the help.
    """
    return ArgumentParser(
        prog=program,
        description=description or None,
        usage=f"{program} {usage}" if usage else None,
        epilog=epilog or None,
        formatter_class=formatter,
        exit_on_error=False,
        allow_abbrev=False,
    )


def is_list(action: Action) -> bool:
    """Return whether an option takes a list."""
    kind = getattr(action, "_typehint", None)
    return any(get_origin(each) in (list, tuple) for each in (kind, *get_args(kind)))


def bracketed(parser: ArgumentParser, words: Sequence[str]) -> list[str]:
    """Return a command line in which lists given as `--stuff sky road` have the form `--stuff '["sky", "road"]'`."""
    lists = [action for action in parser._actions if is_list(action)]
    kinds: dict[str, Any] = {flag: vars(action)["_typehint"] for action in lists for flag in action.option_strings}
    done: list[str] = []
    rest = list(words)
    while rest:
        done.append(rest.pop(0))
        if done[-1] in kinds and rest and not rest[0].startswith("["):
            items = []
            while rest and not re.match(r"-\D", rest[0]):
                items.append(rest.pop(0))
            texts = any(str in get_args(each) for each in (kinds[done[-1]], *get_args(kinds[done[-1]])))
            done += [f"[{', '.join(json.dumps(item) if texts else item for item in items)}]"] if items else []
    return done


def parse_options(parser: ArgumentParser, arguments: Sequence[str], *, defaults: bool = True) -> Namespace:
    """Parse a command line.

    Args:
        parser: From `option_parser`.
        arguments: The command line without its program name.
        defaults: Fill in the defaults; otherwise only what was given is in the result.

    Raises:
        InputError: An option is unknown, missing or of another type.
    """
    try:
        return parser.parse_args(list(arguments), defaults=defaults)
    except ArgumentError as error:
        raise InputError(_explain(str(error), parser, "--")) from None


def load_recipe(
    source: str,
    overrides: Mapping[str, Any] | None = None,
    *,
    kept: bool = False,
    model_of_weights: bool = False,
) -> Recipe:
    """Read a recipe.

    Args:
        source: The name of a recipe that comes with the package, or a YAML file. A recipe without a name takes
            the file's.
        overrides: Values by dotted option that replace the file's, such as `{"train.lr": 0.01}`. A `train.batch_size`
            among them takes the file's schedule along (`TrainConfig.at_batch`), but for options given here too.
        kept: The file is what a run or a study wrote to its own folder. Such a file has every option, so one that it
            lacks did not exist then, and means what networks did before it.
        model_of_weights: Where `train.init` is weights of this library, take those options of `model` from them that
            neither the file nor `overrides` give.

    Raises:
        InputError: No such recipe, it has an unknown option or a bad value, or the weights cannot be read.
    """
    path = find_recipe(source)
    parser = option_parser("recipe")
    parser.add_class_arguments(Recipe)
    values = _parse(parser, {"name": path.stem, **(_before() if kept else {})}, str(path))
    file = _read(parser, path)
    values.update(file)
    changes = current_options("Recipe", _nested(overrides or {}))
    given = set(changes.get("train", {}))
    batch = changes["train"].pop("batch_size") if "batch_size" in given else None
    passes = changes["train"].pop("accumulate", None) if batch is not None else None  # checked against the new batch
    values.update(_parse(parser, changes, "options"))
    try:
        options = parser.instantiate(_parse(parser, values.as_dict(), str(path), defaults=True))
        recipe = Recipe(**{field.name: options[field.name] for field in fields(Recipe)})
        if batch is not None:
            recipe = replace(recipe, train=recipe.train.at_batch(batch, accumulate=passes, keep=given))
    except (ValueError, TypeError) as error:
        raise error if isinstance(error, InputError) else InputError(str(error), where=f"recipe {source}") from None
    _check_numbers(asdict(recipe), source)
    if not model_of_weights:
        return recipe
    own = {*(file.as_dict().get("model") or {}), *changes.get("model", {})}
    return replace(recipe, model=_with_weights(recipe.model, recipe.train.init, own))


def _with_weights(model: ModelConfig, init: str, own: Collection[str]) -> ModelConfig:
    """Return the composition of some weights, but for the options that a recipe gives itself."""
    if init in ("imagenet", "coco", "random"):
        return model
    from banet.checkpoint.checkpoint import is_body_file, read_checkpoint  # loads torch

    if is_body_file(init):
        return model
    return change_options(read_checkpoint(init).config, {name: getattr(model, name) for name in own})


def _before() -> dict[str, dict[str, Any]]:
    """Return what networks did before options existed, by section of a recipe."""
    sections = {kind.__name__: name for name, kind in get_type_hints(Recipe).items()}
    return {sections[kind]: dict(options) for kind, options in BEFORE.items()}


def options_since(path: Path) -> dict[str, Any]:
    """Return the options that did not exist when a run wrote its recipe, by dotted name, with what they meant then.

    Only those whose default is another today are among them.

    Raises:
        InputError: The file is not a recipe.
    """
    then, now = (flat_options(asdict(load_recipe(str(path), kept=kept))) for kept in (True, False))
    return {name: value for name, value in then.items() if value != now[name]}


def flat_options(options: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested options by dotted name."""
    flat: dict[str, Any] = {}
    for name, value in options.items():
        flat |= flat_options(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {f"{prefix}{name}": value}
    return flat


def _read(parser: ArgumentParser, path: Path) -> Namespace:
    content = _read_yaml(path)
    if content is None:
        content = {}
    if not isinstance(content, dict):
        raise InputError("a recipe is a list of 'option: value', see `banet train --help`", where=path)
    try:
        content = current_options("Recipe", content, source=str(path))
    except ValueError as error:
        raise InputError(str(error), where=path) from None
    _check_names(content, Recipe, str(path))
    return _parse(parser, _text_choices(content), str(path))


@isolated
def _read_yaml(path: Path) -> Any:
    """Return what a recipe file holds."""
    with open_file(path) as stream:
        data = stream.read(_LARGEST_RECIPE + 1)
    if len(data) > _LARGEST_RECIPE:
        raise InputError(f"a recipe has at most {_LARGEST_RECIPE >> 10} KB", where=path, hint="is it the right file?")
    try:
        return yaml.load(data.decode("utf-8-sig"), _Loader)
    except Exception as error:  # the constructors of YAML's types raise anything on bad data
        reason = "nested too deeply" if isinstance(error, RecursionError) else " ".join(str(error).split())
        raise InputError(f"not a YAML file: {reason}", where=path) from None


class _Loader(yaml.SafeLoader):
    """Loader of plain values only: an alias may refer to itself, and of two values of an option one would be lost."""

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("an alias (*name) is not taken; write the value out")
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        content = super().construct_mapping(node, deep)
        if len(content) < len(node.value):
            raise yaml.YAMLError("an option has two values; keep one")
        return content


def _check_names(content: Mapping[Any, Any], kind: Any, source: str, prefix: str = "") -> None:
    """Refuse options that do not exist, and single values where a group of options belongs."""
    known = get_type_hints(kind)
    for key, value in content.items():
        if key not in known:
            near = _near(f"{prefix}{key}", _described(Recipe), prefix)
            raise InputError(f"no such option{near}", where=f"{source}: {prefix}{key}")
        if is_dataclass(known[key]):
            if not isinstance(value, dict):
                inner = ", ".join(get_type_hints(known[key]))
                raise InputError(
                    f"give options of this group ({inner}), not {abbreviate(value)}", where=f"{source}: {prefix}{key}"
                )
            _check_names(value, known[key], source, f"{prefix}{key}.")


def _described(kind: Any, prefix: str = "") -> dict[str, str]:
    """Return what the docstrings of a dataclass and of those in it say of each field, by dotted name."""
    from docstring_parser import DocstringStyle, parse

    said = {one.arg_name: one.description or "" for one in parse(kind.__doc__ or "", DocstringStyle.GOOGLE).params}
    found: dict[str, str] = {}
    for name, inner in get_type_hints(kind).items():
        found[f"{prefix}{name}"] = said.get(name, "")
        found |= _described(inner, f"{prefix}{name}.") if is_dataclass(inner) else {}
    return found


def _check_numbers(options: Mapping[str, Any], source: str, prefix: str = "") -> None:
    """Refuse infinities and NaN, which would pass comparisons with a limit."""
    for name, value in options.items():
        if isinstance(value, dict):
            _check_numbers(value, source, f"{prefix}{name}.")
        for number in value if isinstance(value, tuple) else [value]:
            if isinstance(number, (int, float)) and not abs(number) < 2**63:
                raise InputError(
                    f"must be a finite number, not {abbreviate(number)}", where=f"{source}: {prefix}{name}"
                )


def _text_choices(content: dict[str, Any]) -> dict[str, Any]:
    """`precision: 16` is a number to YAML; the option is a choice of texts."""
    train = content.get("train", {})
    if isinstance(train.get("precision"), int):
        content = {**content, "train": {**train, "precision": str(train["precision"])}}
    return content


def _parse(parser: ArgumentParser, values: dict[str, Any], source: str, *, defaults: bool = False) -> Namespace:
    try:
        parsed: Namespace = parser.parse_object(values, defaults=defaults)
        return parsed
    except (ArgumentError, OverflowError) as error:  # the latter from whole numbers that are too large to be others
        raise InputError(_explain(str(error), parser, ""), where=source) from None


def _nested(flat: Mapping[str, Any]) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for key, value in flat.items():
        *groups, leaf = key.split(".")
        node = tree
        for group in groups:
            node = node.setdefault(group, {})
        node[leaf] = value
    return tree


_KINDS = {
    "float": "a number",
    "int": "a whole number",
    "bool": "true or false",
    "str": "a text",
    "tuple": 'a list such as "[1, 2]"',
    "NoneType": "null",
}


def _explain(message: str, parser: ArgumentParser, dashes: str) -> str:
    """One plain line from the parser's message."""
    line = " ".join(message.split())
    found = re.match(r'Parser key "([^"]+)": (.*)', line)
    if found:
        key, problem = found.groups()
        name = _option_name(key, parser) if dashes else key
        return f"{name}: {_explain_value(problem)}"
    found = re.match(r"unrecognized arguments: (.*)", line, re.IGNORECASE)
    if found:
        option = found.group(1).split()[0].split("=")[0]
        if not option.startswith("-"):
            return f"{option}: not expected"
        known = {name: action.help or "" for action in parser._actions for name in action.option_strings}
        return f"{option}: no such option{_near(option, known)}"
    found = re.match(r"the following arguments are required: (.*)", line)
    if found:
        return f"missing: {', '.join(_option_name(key, parser) for key in found.group(1).split(', '))}"
    return re.sub(r"^argument (-[^\s/]+)\S*: ", r"\1: ", line)


def _explain_value(problem: str) -> str:
    value = re.search(r"(?:Got value|Given value): (.*)$", problem)
    choices = re.search(r"Literal\[([^\]]*)\]", problem)
    kinds = [
        _KINDS[kind]
        for kind in dict.fromkeys(re.findall(r"<class '(\w+)'>", problem.split("Errors:")[0]))
        if kind in _KINDS
    ]
    for restricted, lowest in {"PositiveInt": 1, "NonNegativeInt": 0}.items():
        if restricted in problem:
            return f"must be a whole number from {lowest}" + (f", not {value.group(1)}" if value else "")
    if choices:
        return f"must be one of {choices.group(1).replace(chr(39), '')}" + (f", not {value.group(1)}" if value else "")
    if kinds and value:
        kinds.sort(key=lambda kind: kind == "null")  # versions of jsonargparse have it first or last
        return f"must be {' or '.join(kinds)}, not {value.group(1)}"
    return problem[:1].lower() + problem[1:]


def _option_name(key: str, parser: ArgumentParser) -> str:
    for action in parser._actions:
        if action.dest == key:
            metavar = action.metavar if isinstance(action.metavar, str) else key.upper()
            return action.option_strings[0] if action.option_strings else metavar
    return f"--{key}"


def _near(name: str, known: Mapping[str, str], prefix: str = "") -> str:
    """Return which option may have been meant, as the end of a message.

    Args:
        name: what was given, with dashes and dots or without.
        known: the options, and what the help says of each.
        prefix: what need not be said of an option that begins with it.
    """
    longer = [each for each in known if len(name) > 2 and each.startswith(name)]
    close = longer or _same_name(name, known) or _same_meaning(name, known) or _same_spelling(name, known)
    return f"; did you mean {close[0].removeprefix(prefix)}?" if close else ""


def _leaf(name: str) -> str:
    return name.rpartition(".")[2].lstrip("-").replace("-", "_").lower()


def _same_name(name: str, known: Iterable[str]) -> list[str]:
    """Return options that are called so in another group: `--lr` is `--train.lr`."""
    return [each for each in known if _leaf(each) == _leaf(name)]


def _same_meaning(name: str, known: Mapping[str, str]) -> list[str]:
    """Return options that abbreviate the name or are abbreviated by it, or whose help begins with its words.

    `learning_rate` is `lr`, `wd` is `weight_decay`.
    """

    def initials(leaf: str) -> str:
        return "".join(word[:1] for word in leaf.split("_"))

    leaf = _leaf(name)
    if "_" not in leaf:
        return [each for each in known if "_" in _leaf(each) and initials(_leaf(each)) == leaf]
    short = [each for each in known if _leaf(each) == initials(leaf)]
    return short or [each for each, text in known.items() if text.lower().startswith(leaf.replace("_", " "))]


def _same_spelling(name: str, known: Iterable[str]) -> list[str]:
    """Return options that are spelled nearly so, first among those of the group that was given."""
    group = name.rpartition(".")[0]
    inside = {_leaf(each): each for each in known if each.rpartition(".")[0] == group}
    found = difflib.get_close_matches(_leaf(name), inside, 1, 0.6)
    whole = difflib.get_close_matches(name, known, 1, 0.7) if not found else []
    alike = [each for each in whole if difflib.SequenceMatcher(None, _leaf(name), _leaf(each)).ratio() > 0.5]
    return [inside[leaf] for leaf in found] or alike

"""Fields become options: names, types, defaults, lists, arguments, and the help of docstrings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import FrozenInstanceError, dataclass, field, fields
from typing import Annotated, Any

import pytest

from banet.commands import COMMANDS, GROUPS, find_command
from banet.commands.base import Argument, Command, Value, options_of
from banet.commands.shared import Count, DeviceOptions, Folder, Ids, Names, Seeds
from banet.engine.recipe import SplitConfig
from banet.errors import InputError


@dataclass(frozen=True, kw_only=True)
class Base(Command):
    """What is shared.

    Attributes:
        first: The argument of the base.
        loud: A flag.
    """

    first: Annotated[str, Argument("FIRST")]
    loud: bool = False


@dataclass(frozen=True, kw_only=True)
class Example(Base):
    """Do one thing,
    in two lines.

    A note below.

    Attributes:
        rest: The arguments after
            it.
        out_dir: A folder.
        count: A number.
        names: Texts.
        ids: Numbers.
        seeds: Numbers from 0.
        part: Options of another class.
    """

    rest: Annotated[list[str], Argument("REST")] = field(default_factory=list)
    out_dir: Folder
    count: Count | None = None
    names: Names = field(default_factory=list)
    ids: Ids = field(default_factory=lambda: [5])
    seeds: Seeds = field(default_factory=list)
    part: Mapping[str, Any] = options_of(SplitConfig, "split")

    def run(self) -> int:
        """Nothing to do."""
        return 0


def parse(line: str) -> Example:
    return Example.parse("example", line.split())


def test_options_become_fields():
    done = parse("a b c --out-dir x --loud --count 3 --split.json j")
    assert done == Example(
        first="a", rest=["b", "c"], out_dir="x", loud=True, count=3, names=[], ids=[5], seeds=[], part={"json": "j"}
    )
    assert type(done.count) is int
    with pytest.raises(FrozenInstanceError):
        done.count = 4  # type: ignore[misc]


@pytest.mark.parametrize(
    ("line", "names", "ids", "seeds"),
    [
        ("--names [a,b] --ids [1,-2]", ["a", "b"], [1, -2], []),
        ("--names a b --ids 1 -2 --seeds 0 1", ["a", "b"], [1, -2], [0, 1]),
        ("--names null --ids 7", ["null"], [7], []),
        ("--names a,b 3 --seeds 4", ["a,b", "3"], [5], [4]),
        ("--names=[no,x]", None, None, None),
    ],
)
def test_lists_are_brackets_or_words(line, names, ids, seeds):
    if names is None:  # `no` is false to YAML, so it needs quotes within brackets
        with pytest.raises(InputError, match="--names: must be"):
            parse(f"a --out-dir x {line}")
        return
    done = parse(f"a --out-dir x {line}")
    assert (done.names, done.ids, done.seeds) == (names, ids, seeds)
    assert all(type(number) is int for number in [*done.ids, *done.seeds])


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("a", "missing: --out-dir"),
        ("--out-dir x", "missing: FIRST"),
        ("a --out-dir x --count 0", "--count: must be a whole number from 1, not 0"),
        ("a --out-dir x --ids 1 y", "--ids: must be"),
        ("a --out-dir x --ids", "--ids: expected"),
        ("a --out-dir x --seeds 0 -1", "--seeds: must be a whole number from 0"),
        ("a --out-dir x --split.jsn j", "--split.jsn: no such option; did you mean --split.json?"),
    ],
)
def test_faults_name_the_option(line, said):
    with pytest.raises(InputError) as fault:
        parse(line)
    assert said in str(fault.value)


def test_help_is_the_docstring():
    text = Example.parser("example").format_help()
    assert "Do one thing, in two lines.\n" in text and text.endswith("\nA note below.\n")
    words = " ".join(text.split())
    assert "FIRST [REST ...]" in words, "arguments of bases come first"
    assert words.index("REST The arguments after it.") < words.index("--out-dir DIR A folder. (required)")
    assert "--names NAME [NAME ...] Texts." in words and "--names+" not in words
    assert words.index("--seeds") < words.index("--loud A flag."), "options of bases come last"
    assert Example.summary() == "Do one thing, in two lines."


@pytest.mark.parametrize("name", COMMANDS)
def test_commands_are_dataclasses_that_explain_every_option(name):
    command = find_command(name)
    assert issubclass(command, Command) and command.__dataclass_params__.frozen
    assert command.summary().endswith(".") and len(command.summary()) < 110
    parser = command.parser(name)
    explained = {action.dest for action in parser._actions if action.help}
    options = {option.name for option in fields(command) if "group" not in option.metadata}
    assert options <= explained
    if issubclass(command, DeviceOptions):
        assert "device" in options


def test_groups_have_commands():
    assert all(any(name.startswith(f"{group} ") for name in COMMANDS) for group in GROUPS)


def test_push_takes_weights_before_the_repository():
    done = find_command("push").parse("push", ["w", "me/mine", "--license", "mit"])
    assert (done.weights, done.repository, done.license, done.private) == ("w", "me/mine", "mit", False)


def test_a_value_says_how_it_is_written():
    assert Value("N", least=1) == Value("N", 1) != Argument("N", 1)

"""`banet completion`: scripts that complete commands, options and their values, written by shtab. Free of torch."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, get_args

from banet.commands import COMMANDS, find_command
from banet.commands.base import Argument, Command
from banet.engine.recipe import recipe_names
from banet.errors import MissingExtraError

__all__ = ["Completion", "Shell", "completion_script"]

Shell = Literal["bash", "zsh", "fish", "tcsh", "powershell"]

_FILES = ("FILE", "PATH", "INPUT", "WEIGHTS", "PNG", "OUT")  # words of a metavar that stand for files
_FOLDERS = ("DIR",)


@dataclass(frozen=True, kw_only=True)
class Completion(Command):
    """Print a script that completes commands, options and values in a shell.

    examples:
      banet completion bash > ~/.local/share/bash-completion/completions/banet
      banet completion fish > ~/.config/fish/completions/banet.fish
      banet completion zsh > ~/.zfunc/_banet      # with fpath+=(~/.zfunc) before compinit in ~/.zshrc

    Attributes:
        shell: bash, zsh, fish, tcsh or powershell.
    """

    shell: Annotated[Shell, Argument("SHELL")]

    def run(self) -> int:
        """Print the script."""
        commands = {name: find_command(name) for name in COMMANDS}
        parsers = {name: (command.summary(), command.parser(name)) for name, command in commands.items()}
        print(completion_script(parsers, self.shell))
        return 0


def completion_script(parsers: Mapping[str, tuple[str, argparse.ArgumentParser]], shell: Shell) -> str:
    """Return a script for a shell that completes the command line of `banet` without starting it.

    Args:
        parsers: Summary and parser of each command, by its name; words of a name are commands within commands.
        shell: For which shell.

    Raises:
        MissingExtraError: shtab is not installed.
    """
    try:
        import shtab
    except ImportError:
        raise MissingExtraError("shtab", "completion") from None
    root = argparse.ArgumentParser(prog="banet")
    groups: dict[str, Any] = {"": root.add_subparsers()}
    for name, (summary, parser) in parsers.items():
        *within, word = name.split()
        for depth in range(len(within)):
            outer, group = " ".join(within[:depth]), " ".join(within[: depth + 1])
            if group not in groups:
                groups[group] = groups[outer].add_parser(within[depth], help=f"{group} ...").add_subparsers()
        plain = groups[" ".join(within)].add_parser(word, help=summary, add_help=False, description=summary)
        for action in parser._actions:
            _add(plain, action, shtab)
    script: str = shtab.complete(root, shell)
    return script


def _add(plain: argparse.ArgumentParser, action: argparse.Action, shtab: Any) -> None:
    """The same option or argument for a parser of the standard library, with what completes its value."""
    metavar = action.metavar if isinstance(action.metavar, str) else ""
    listed = metavar[1:-1].split(",") if metavar.startswith("{") else []
    values = {"config": recipe_names(), "shell": list(get_args(Shell))}.get(action.dest, listed)
    names = [name for name in action.option_strings if not name.endswith("+")]  # `--x+` appends to a list
    options: dict[str, Any] = {"help": (action.help or "").replace("%", "%%"), "metavar": metavar or None}
    if action.nargs == 0:
        plain.add_argument(*names, action="store_true", help=options["help"])
        return
    if names:
        options["dest"] = action.dest
    added = plain.add_argument(*(names or [action.dest]), nargs=action.nargs, choices=values or None, **options)
    words = metavar.strip("'[]., ").replace("|", " ").split()
    if not values and any(word in _FILES for word in words):
        added.complete = shtab.FILE  # type: ignore[attr-defined]
    elif not values and any(word in _FOLDERS for word in words):
        added.complete = shtab.DIRECTORY  # type: ignore[attr-defined]

"""The command line `banet`: finds the command, runs it, and prints an error as one line. Only `run` loads torch."""

from __future__ import annotations

import difflib
import os
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

from banet import __version__
from banet.commands import COMMANDS, GROUPS, find_command
from banet.commands.base import Command
from banet.errors import InputError, InputWarning, MissingExtraError, printable
from banet.streams import ReaderEnded, output_streams

__all__ = ["main"]


def _overview(group: str = "") -> str:
    """Return the help of `banet`, or of a group of commands."""
    rows = {name: find_command(name).summary() for name in COMMANDS if name.startswith(group)}
    width = max(map(len, rows)) + 2
    lines = [f"  {name:<{width}}{summary}" for name, summary in rows.items()]
    return "\n".join(
        [
            f"usage: banet {group or 'COMMAND'} ...",
            "",
            GROUPS[group] if group else "Panoptic segmentation with bidirectional aggregation and occlusion handling.",
            "",
            "commands:",
            *lines,
            "",
            "`banet help COMMAND` describes a command; `banet version` prints the version.",
        ]
    )


def _dispatch(arguments: Sequence[str]) -> int:
    if arguments and arguments[0] in ("help", "version"):
        arguments = [*arguments[1:], f"--{arguments[0]}"]
    for words in (3, 2, 1):
        name = " ".join(arguments[:words])
        if name in COMMANDS:
            return _run(find_command(name).parse(name, arguments[words:]), arguments)
    group = next((name for words in (2, 1) if (name := " ".join(arguments[:words])) in GROUPS), "")
    rest = arguments[len(group.split()) :]
    if not rest or rest[0] in ("-h", "--help"):
        print(_overview(group))
    elif rest[0] == "--version":
        print(f"banet {__version__}")
    else:
        raise InputError(_unknown(" ".join([group, rest[0]]).strip(), group))
    return 0


def _run(command: Command, words: Sequence[str]) -> int:
    """Run a command, in several processes where it says so and no launcher has started them."""
    from banet.commands.shared import ProcessOptions

    if isinstance(command, ProcessOptions) and (command.devices or 1) > 1:
        from banet.engine.sharing.launch import is_started, start_processes

        if not is_started():
            return start_processes([*words, *command.shared_words()], command.devices or 1)
    if not getattr(command, "untrusted", False):
        return command.run()
    from banet.files.worker import untrusted_files

    with untrusted_files():
        return command.run()


def _unknown(name: str, group: str) -> str:
    close = difflib.get_close_matches(name, COMMANDS, 1)
    known = ", ".join(known for known in COMMANDS if known.startswith(group))
    return f"{name}: no such command; " + (f"did you mean {close[0]}?" if close else f"there are {known}")


@contextmanager
def _notes() -> Iterator[None]:
    """Print what was guessed or left out of the input (`InputWarning`) in lines, each once."""
    others = warnings.showwarning
    seen: set[str] = set()

    def show(message: Warning | str, category: type[Warning], *place: Any, **more: Any) -> None:
        if not issubclass(category, InputWarning):
            others(message, category, *place, **more)
        elif (text := printable(str(message))) not in seen:
            seen.add(text)
            bars = sys.modules.get("tqdm")  # whose lines the note must not cut
            write = print if bars is None else bars.tqdm.write
            write(f"banet: note: {text}", file=sys.stderr)

    with warnings.catch_warnings():
        warnings.simplefilter("always", InputWarning)
        warnings.showwarning = show
        yield


def main(argv: Sequence[str] | None = None) -> int:
    """Run `banet`.

    Args:
        argv: Arguments without the program's name; by default those of this process.

    Returns:
        The exit status, which is 0, 1 where some input failed, 2 for bad input, 130 when interrupted.
    """
    with output_streams():
        return _main(sys.argv[1:] if argv is None else argv)


def _main(arguments: Sequence[str]) -> int:
    try:
        with _notes():
            status = _dispatch(arguments)
        sys.stdout.flush()
        return status
    except ReaderEnded as end:
        with suppress(OSError, ValueError, AttributeError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), end.stream.fileno())  # or the flush at the end fails too
        return 0
    except (InputError, MissingExtraError, OSError) as error:
        print(f"banet: error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except ModuleNotFoundError as error:  # where only what exported networks need is installed
        if error.name not in ("torch", "torchvision"):
            raise
        print("banet: error: this command needs PyTorch: pip install torch torchvision", file=sys.stderr)
        return 2
    except (MemoryError, RuntimeError) as error:
        from banet.inference.device import is_out_of_memory

        if not is_out_of_memory(error):
            raise
        reason = " ".join(str(error).split(". ")[0].split()) or "out of memory"
        print(f"banet: error: {reason}; give smaller images or batches, or --device cpu", file=sys.stderr)
        return 2
    except KeyboardInterrupt as stop:
        print(f"banet: {str(stop) or 'interrupted'}", file=sys.stderr)
        return 130

"""One run of a command that several processes do together; they meet in a folder beside the outputs."""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import socket
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from pathlib import PurePath
from typing import Any

from banet.engine.sharing.part import PartLine, RunPart
from banet.engine.sharing.process import Process
from banet.engine.sharing.work_list import Numbered, WorkList
from banet.errors import InputError, abbreviate
from banet.files.outputs import PART_RECORD, RUN, Outputs, Record
from banet.files.reading import open_file
from banet.files.worker import isolated
from banet.types import StrPath

__all__ = ["SharedRun", "facts_of_file"]

_HEAD, _LIST, _BEGUN, _MERGING = "run.json", "list.jsonl", "begun", "merging"
_DIGITS = 12  # of the number of finished items in the file of a process
_POLL = 0.1  # seconds
_INTERVAL = 1.0  # seconds after which others are told the count


class SharedRun:
    """A run: its list, the parts that are finished, and who works on it.

    The first process opens it: it checks what may be written, and publishes list and options in the folder `RUN` beside
    the outputs, which gets its name when it is whole. All others compare their own list and options with these. Each
    then does every `world`-th block of the list. Who finishes last merges the parts, and the folder is deleted. A run
    that was stopped leaves the folder, with which `resume` goes on.

    Args:
        outputs: Where the outputs go.
        process: This process.
        options: What the results depend on beside the list, by name as the user gives it.
        work: The list.
        resume: Go on with a run that was stopped.
        group: Items that are computed together.
        block: Items of a block, if that is not for the list to say.
        output: The one output, where there is no other: several commands may then write to one folder.

    Attributes:
        folder: Where the processes meet, in the folder of the outputs.
        place: The folder of the outputs.
        finished: Whether there is nothing left to do: the run that was to be resumed had ended.
        patience: Seconds that a process waits for a sign of life of the others.
    """

    patience = 300.0

    def __init__(
        self,
        outputs: Outputs,
        process: Process,
        options: Mapping[str, Any],
        work: WorkList,
        *,
        resume: bool = False,
        group: int = 1,
        block: int | None = None,
        output: str | None = None,
    ) -> None:
        self.outputs, self.process, self.work = outputs, process, work
        self.folder, self.place = RUN if output is None else f"{RUN}-{output}", outputs.place
        self._where = f"{outputs.option} {outputs.where if output is None else outputs.told(output)}"
        self.group = group
        self.block = block or work.block_size(group, rewritten=self.place.rewrites)
        self.options = {"command": outputs.kind, **json.loads(json.dumps(options, default=str)), "images": len(work)}
        self.fingerprint = hashlib.sha256(json.dumps([self.options, work.digest]).encode()).hexdigest()
        self.resumed = resume or process.restarted
        self._head, self._list = f"{self.folder}/{_HEAD}", f"{self.folder}/{_LIST}"
        self._launch = f"{self.folder}/launch-{hashlib.sha256(process.launch.encode()).hexdigest()[:16]}"
        self._begun, self._mark = f"{self._launch}/{_BEGUN}", f"{self._launch}/process-{process.rank}"
        self._count = 0
        self._since = self._told = time.monotonic()
        self._complete = process.world == 1  # all processes were seen
        self.finished = self.resumed and self._ended() and not self.place.exists(self._head)

    # --------------------------------------------------------------------------------------------------------- joining

    def _ended(self) -> bool:
        """Return whether the outputs are those of a run like this that was merged."""
        names = self.outputs.record.entries.of_run(self.fingerprint)
        return bool(names) and all(self.outputs.ours(name) for name in names)

    def prepare(self, names: Iterable[tuple[str, StrPath | None]]) -> None:
        """Ask whether the run may begin, before anything is loaded or written.

        Args:
            names: All outputs, each with what it is made from.

        Raises:
            InputError: There is an unfinished run, and `resume` was not given; or see `Outputs.check`.
        """
        if not self.process.first:
            return
        if self.place.exists(self._begun):  # of an earlier launch of this name that was killed
            self.place.delete_tree(self._launch)
        unfinished = self.place.exists(self._head)
        if unfinished and self.resumed:
            self._compare()
        elif unfinished and not self.outputs.overwrite:
            raise InputError(
                "holds a run that is not finished",
                where=self._where,
                hint=f"go on with --resume, begin anew with --overwrite, or choose another {self.outputs.option}",
            )
        else:
            self.outputs.check(names)

    def begin(self) -> None:
        """Open the run, or join those who did.

        Raises:
            InputError: It is another run than that of the first process, or that process is not seen.
        """
        self._since = time.monotonic()  # loading the weights before does not count as waiting
        if not self.process.first:
            problem = f"process 0 of {self.process.world} has not begun there"
            self._wait(lambda: self.place.exists(self._begun), problem)
        elif not self.place.exists(self._begun):
            if not (self.resumed and self.place.exists(self._head)):
                self._publish()
            self.place.create(self._begun)  # last: the others wait for it
        self._compare()
        self._write_count()

    def _publish(self) -> None:
        self.outputs.record.adopt(self._records())  # of an unfinished run that is given up: its outputs stay ours
        self._delete()
        self.place.write(self._list, self.work.lines())
        head = {"options": self.options, "list": self.work.digest, "block": self.block}
        self.place.write(self._head, [json.dumps(head).encode() + b"\n"])

    def _compare(self) -> None:
        """Refuse a run of other options or of another list, with the first difference.

        Raises:
            InputError: It is another run.
        """
        there, place = self._read_head(), self._where
        begun = "the run there began with" if self.resumed else "process 0 has"
        for name, mine in self.options.items():
            theirs = there["options"].get(name)
            if theirs != mine and name != "images":
                raise InputError(
                    f"{begun} {name} {abbreviate(theirs)}, {self.process} has {abbreviate(mine)}",
                    where=place,
                    hint=f"give all the same options, or another {self.outputs.option}",
                )
        if there["list"] != self.work.digest:
            with self.place.open(self._list) as theirs_lines:
                pairs = itertools.zip_longest(theirs_lines, self.work.lines())
                place_of, (theirs, mine) = next(each for each in enumerate(pairs, 1) if each[1][0] != each[1][1])
            raise InputError(
                f"{begun} {_described(theirs, mine)} as number {place_of} of its list, "
                f"{self.process} has {_described(mine, theirs)}",
                where=place,
                hint=f"let all see the same inputs, or choose another {self.outputs.option}",
            )

    def _read_head(self) -> dict[str, Any]:
        try:
            with self.place.open(self._head) as file:
                head = json.loads(file.read())
            return {"options": dict(head["options"]), "list": str(head["list"])}
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            where = self.outputs.told(self._head)
            raise InputError("is damaged", where=where, hint="begin anew with --overwrite") from error

    def _wait(self, condition: Callable[[], bool], problem: str) -> None:
        """Wait for a sign of other processes.

        Raises:
            InputError: There was none for too long.
        """
        while not condition():
            if time.monotonic() - self._since > self.patience:
                raise InputError(
                    f"{problem}, as {self.process} sees it",
                    where=self._where,
                    hint="choose a folder that all machines share, and see whether all processes started",
                )
            time.sleep(_POLL)

    # --------------------------------------------------------------------------------------------------------- working

    def part(self, name: str) -> RunPart:
        """Return a part by its name."""
        return RunPart(self.outputs, self.folder, name)

    def parts(
        self, outputs_of: Callable[[dict[str, Any]], Collection[str]], *, at_once: bool = False
    ) -> Iterator[tuple[RunPart, list[list[Numbered]]]]:
        """Yield the blocks of this process that are not finished, each with the groups that are left of it.

        Args:
            outputs_of: Names of an item's outputs, from its line.
            at_once: A block has one output, so that all of it is left or nothing; what failed is not tried again then.
        """
        for number, items in self.work.blocks(self.block, self.process.rank, self.process.world):
            self._look_for_others()
            part = self.part(_name(number))
            groups = [items[start : start + self.group] for start in range(0, len(items), self.group)]
            if self.resumed and part.exists():
                whole = set(part.whole(self.outputs.kind, outputs_of, failed=at_once))
                units = [items] if at_once else groups
                groups = [unit for unit in units if any(place not in whole for place, _ in unit)]
                left = {place for group in groups for place, _ in group}
                part.keep(whole - left)
                if at_once and groups:
                    groups = [items[start : start + self.group] for start in range(0, len(items), self.group)]
                self.advance(len(items) - len(left))
            if groups:
                yield part, groups

    def owns(self, place: int) -> bool:
        """Return whether an item of the list is this process's."""
        return place // self.block % self.process.world == self.process.rank

    def advance(self, count: int = 1) -> None:
        """Count finished items, for the bar of the first process."""
        self._count += count
        if self.process.world > 1 and time.monotonic() - self._told > _INTERVAL:
            self._write_count()

    def _write_count(self) -> None:
        if self.process.world > 1:
            self._told = time.monotonic()
            self.place.write(self._mark, [f"{self._count:0{_DIGITS}} {socket.gethostname()}\n".encode()])

    @property
    def count(self) -> int:
        """How many items all processes have finished, as far as this one sees."""
        others = (f"{self._launch}/process-{rank}" for rank in range(self.process.world) if rank != self.process.rank)
        return self._count + sum(map(self._count_in, others))

    def _count_in(self, mark: str) -> int:
        try:
            with self.place.open(mark) as file:
                return int(file.read(_DIGITS))
        except (OSError, ValueError):
            return 0

    def _look_for_others(self) -> None:
        """Stop early where other machines write elsewhere."""
        if not self._complete:
            waiting = time.monotonic() - self._since <= self.patience
            if self._missing() is None:
                self._complete = True
            elif not waiting:
                self._wait_for_others()

    def _missing(self) -> int | None:
        """Return the first process that gave no sign of life."""
        ranks = range(self.process.world)
        return next((rank for rank in ranks if not self.place.exists(f"{self._launch}/process-{rank}")), None)

    def _wait_for_others(self) -> None:
        missing = self._missing()
        if missing is not None:
            self._wait(
                lambda: self._missing() is None, f"process {missing} of {self.process.world} has not written anything"
            )

    # --------------------------------------------------------------------------------------------------------- merging

    def is_last(self) -> bool:
        """Tell that this process has finished, and return whether it is the last one, which merges.

        Raises:
            InputError: Another process never gave a sign of life.
        """
        self.place.flush()
        if self.process.world == 1:
            return True
        self._wait_for_others()
        self._write_count()
        self.place.create(f"{self._mark}.done")  # from now on another process may merge, and delete the folder
        marks = (f"{self._launch}/process-{rank}.done" for rank in range(self.process.world))
        if not all(map(self.place.exists, marks)) or not self.place.create(f"{self._launch}/{_MERGING}"):
            return False
        if self.place.exists(self._head):
            return True
        self.place.delete_tree(self.folder)  # another process has merged and deleted everything meanwhile
        return False

    def told_at_the_end(self) -> str:
        """Return what a process that is not the last one says when its share is done."""
        ranks = (rank for rank in range(self.process.world) if rank != self.process.rank)
        at_work = [str(rank) for rank in ranks if not self.place.exists(f"{self._launch}/process-{rank}.done")]
        others = f"at work: {', '.join(at_work[:8])}{', ...' if len(at_work) > 8 else ''}; " if at_work else ""
        told = f"{self.process}: its share is done; {others}the process that finishes last writes what is of all"
        return f"{told}; where one was killed, go on with --resume"

    def merged_lines(self) -> Iterator[PartLine]:
        """Yield what all processes told, in the order of the list.

        Raises:
            InputError: An item is missing.
        """
        for number in range(-(-len(self.work) // self.block)):
            first = number * self.block
            lines = self.part(_name(number)).lines()
            if [place for place, _ in lines] != list(range(first, min(first + self.block, len(self.work)))):
                raise InputError(
                    f"not all of the images {first + 1} to {first + self.block} are finished",
                    where=self._where,
                    hint="go on with --resume",
                )
            yield from lines

    def adopt_records(self) -> None:
        """Let the record of the folder know of the outputs of all parts."""
        self.outputs.enter(None)
        self.outputs.record.adopt(self._records())

    def _records(self) -> Iterator[Record]:
        return map(
            self.outputs.part_record, sorted(n for n in self.place.names(self.folder) if n.endswith(PART_RECORD))
        )

    def close(self) -> None:
        """Delete the folder, as all is merged."""
        records = self._records() if self.resumed else ()
        folders = {os.path.dirname(name) for record in records for name in record.entries}
        self._delete()
        if self.resumed:
            self.place.tidy(folders)

    def _delete(self) -> None:
        self.place.delete(self._head)  # first: a run without it is not resumed
        self.place.delete_tree(self.folder)

    def tidy(self) -> None:
        """Delete what killed processes left of a run that is finished."""
        self._delete()
        self.place.tidy({os.path.dirname(name) for name in self.outputs.record.entries})


@isolated
def facts_of_file(path: StrPath) -> str:
    """Return what a file is compared by with that of other processes: its name and size.

    Raises:
        InputError: See `open_file`.
    """
    with open_file(path) as stream:
        return f"{PurePath(path).name} of {stream.seek(0, os.SEEK_END)} bytes"


def _name(number: int) -> str:
    return f"{number:08}"


def _described(line: bytes | None, other: bytes | None) -> str:
    """Return a line of the list as an error quotes it: by its path, or where the other's is the same, what differs."""
    if line is None:
        return "nothing"
    item, others = json.loads(line), {} if other is None else json.loads(other)
    if item.get("path") != others.get("path"):
        return abbreviate(item.get("path"))
    differing = [key for key in {**item, **others} if item.get(key) != others.get(key)]
    return f"{abbreviate(item.get('path'))} with {', '.join(f'{key} {abbreviate(item.get(key))}' for key in differing)}"

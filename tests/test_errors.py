"""Errors about bad input: one line, and the same as fields."""

from __future__ import annotations

import pickle
from pathlib import Path

from banet.errors import InputError


def test_the_fields_make_the_line():
    error = InputError("must be 0 or 1, not 2", where="a.json: annotations[3].iscrowd", hint="write 0 or 1")
    assert str(error) == "a.json: annotations[3].iscrowd: must be 0 or 1, not 2; write 0 or 1"
    assert (error.where, error.problem, error.hint) == (
        "a.json: annotations[3].iscrowd",
        "must be 0 or 1, not 2",
        "write 0 or 1",
    )
    assert str(InputError("is empty", where=Path("b.png"))) == "b.png: is empty"
    assert str(InputError("no pictures given", hint="give one")) == "no pictures given; give one"


def test_one_text_is_the_whole_line():
    error = InputError("a.json: is empty; write it again")
    assert str(error) == error.problem == "a.json: is empty; write it again"
    assert error.where == error.hint == ""


def test_line_breaks_are_escaped_in_every_field():
    error = InputError("holds '\n'", where="a\nb.png", hint="use\tspaces")
    assert str(error) == "a\\nb.png: holds '\\n'; use\\tspaces"
    assert error.where == "a\\nb.png"


def test_the_fields_pass_from_process_to_process():
    error = pickle.loads(pickle.dumps(InputError("is empty", where="a.png", hint="write it again")))
    assert (str(error), error.where, error.problem, error.hint) == (
        "a.png: is empty; write it again",
        "a.png",
        "is empty",
        "write it again",
    )


def test_long_messages_are_cut_in_the_middle():
    assert 1000 <= len(str(InputError("x" * 5000, where="a", hint="b"))) < 1010

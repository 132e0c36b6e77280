"""Flags, ids of images and file names, as every format has them."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from banet.errors import InputError
from banet.files.fields import as_number, id_order, image_id_of, read_flag, read_image_id
from banet.files.names import safe_join


@pytest.mark.parametrize(
    ("entry", "flag"),
    [
        ({}, False),
        *(({"iscrowd": value}, False) for value in (None, 0, False, "0", "false")),
        *(({"iscrowd": value}, True) for value in (1, True, "1", "true")),
    ],
)
def test_flags(entry, flag):
    assert read_flag(entry, "iscrowd", "x.json: annotations[3]") is flag


@pytest.mark.parametrize(
    "value",
    [2, -1, 0.0, 1.0, 0.5, float("nan"), 10**4000, "", "no", "False", "TRUE", " 1", "01", [], [0], {}, {"a": 1}],
)
def test_nothing_else_is_a_flag(value):
    with pytest.raises(InputError, match=r"^x\.json: annotations\[3\]\.iscrowd: must be 0 or 1, not ") as fault:
        read_flag({"iscrowd": value}, "iscrowd", "x.json: annotations[3]")
    assert "\n" not in str(fault.value)


@pytest.mark.parametrize("value", [0, 5, -7, 2**63 - 1, "5", "frankfurt_000000_000294", "ä\n", ""])
def test_ids_of_images(value):
    found = read_image_id({"id": value}, "id", "x")
    assert found == value and type(found) is type(value)


@pytest.mark.parametrize("value", [None, True, 4.0, 2**63, 10**4000, [], {"a": 1}])
def test_what_is_not_an_id(value):
    with pytest.raises(InputError, match=r"^x\.id: must be an integer of 64 bits or a text, not "):
        read_image_id({"id": value}, "id", "x")
    with pytest.raises(InputError, match=r"^x: 'id' is missing"):
        read_image_id({}, "id", "x")


@pytest.mark.parametrize(
    ("word", "image_id"),
    [("7", 7), ('"7"', "7"), ("-1", -1), ("007", "007"), ("1e3", "1e3"), ("true", "true"), ("a_7", "a_7"), ("", "")],
)
def test_ids_of_a_command_line(word, image_id):
    found = image_id_of(word)
    assert found == image_id and type(found) is type(image_id)


@given(st.lists(st.integers() | st.text()))
def test_ids_of_both_kinds_are_sorted(ids):
    ordered = sorted(ids, key=id_order)
    numbers = [i for i in ordered if isinstance(i, int)]
    assert ordered[: len(numbers)] == sorted(numbers) and ordered[len(numbers) :] == sorted(ordered[len(numbers) :])


@pytest.mark.skipif(Path("a\\b").parts != ("a\\b",), reason="where \\ separates anyway")
def test_backslashes_separate_where_no_file_has_them_in_its_name(tmp_path):
    assert safe_join(tmp_path, "a\\b/c.png") == tmp_path / "a" / "b" / "c.png"
    (tmp_path / "a\\b").mkdir()
    (tmp_path / "a\\b" / "c.png").touch()
    assert safe_join(tmp_path, "a\\b/c.png") == tmp_path / "a\\b" / "c.png"


@pytest.mark.parametrize(
    "name", ["..\\x", "a\\..\\x", "a/..\\x", "\\x", "\\\\server\\share\\x", "C:\\x", "c:x", "a\\..", "..", "a\\b\0"]
)
def test_no_separator_leads_out(tmp_path, name):
    with pytest.raises(InputError):
        safe_join(tmp_path, name)


@pytest.mark.parametrize(
    ("value", "number"),
    [(7, 7), (-0.5, -0.5), ("12.5", 12.5), (" -3 ", -3), ("+.5e2", 50), ("4.", 4), (10**18, 1e18)]
    + [
        (value, None)
        for value in (None, True, "", "x", "nan", "inf", "1e999", "0x1", "1_0", "٣", "1,5", [], {}, 10**400)
    ]
    + [(float("nan"), None), (float("inf"), None)],
)
def test_numbers_and_texts_of_numbers(value, number):
    assert as_number(value) == number

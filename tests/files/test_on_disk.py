"""Tables on disk against a dict of lists."""

from __future__ import annotations

import errno
import tempfile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from banet.files.names import DistinctNames
from banet.files.on_disk import DiskTable

KEYS = st.one_of(
    st.integers(-(2**63), 2**63 - 1), st.integers(0, 3), st.text(max_size=4), st.sampled_from(["1", "\ud800"])
)
RECORDS = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=3), lambda each: st.lists(each, max_size=2)
)


@given(st.lists(st.tuples(KEYS, RECORDS), max_size=30), st.data())
def test_a_table_is_a_dict_of_lists(rows: list[tuple[int | str, object]], data: st.DataObject) -> None:
    """Texts are never numbers, records come back in their order, whether they are asked for early or late."""
    early = data.draw(st.integers(0, len(rows)))
    table, wanted = DiskTable(), dict[int | str, list[object]]()
    for number, (key, record) in enumerate(rows):
        if number >= early:
            assert (key in table) == (key in wanted)
        table.add(key, record)
        wanted.setdefault(key, []).append(record)
    assert len(table) == len(rows)
    assert list(table) == list(wanted)
    assert {key: list(table.of(key)) for key in wanted} == wanted
    assert "nobody" not in table and list(table.of("nobody")) == []


NAMES = ["a.png", "a.jpg", "A.PNG", "b/a.jpg", "\u00e9.png", "e\u0301.png", "a_png.tif", "a_2.tif", "a_2_b.png"]


@given(st.lists(st.sampled_from(NAMES), max_size=12))
def test_distinct_names_are_the_same_in_memory_and_on_disk(names: list[str]) -> None:
    memory, disk = DistinctNames(".png", "_b.png"), DistinctNames(".png", "_b.png", on_disk=True)
    assert [memory.choose(name) for name in names] == [disk.choose(name) for name in names]


def test_a_full_temporary_folder_is_an_error_of_the_system() -> None:
    table = DiskTable()
    table._rows.execute("PRAGMA max_page_count = 3")
    with pytest.raises(OSError, match="full") as caught:
        for number in range(1000):
            table.add(number, "x" * 100)
    assert caught.value.errno == errno.ENOSPC and caught.value.filename == tempfile.gettempdir()
    table = DiskTable()
    for number in range(1000):
        table.add(number)
    table._rows.execute("PRAGMA max_page_count = 1")  # none more than there are
    with pytest.raises(OSError, match="full"):
        list(table.of(1))  # makes the index

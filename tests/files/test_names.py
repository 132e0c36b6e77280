"""Names of outputs: no two inputs share one, on any file system."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from banet.files.names import DistinctNames, name_key, natural_key, without_suffix


@pytest.mark.parametrize(
    ("inputs", "expected"),
    [
        (["a.png", "b.png"], ["a", "b"]),
        (["a.png", "a.jpg", "a.png"], ["a", "a_jpg", "a_png"]),
        (["a.png", "a.png", "a.png"], ["a", "a_png", "a_2"]),
        (["A.png", "a.png"], ["A", "a_png"]),
        (["\u00e9.png", "e\u0301.jpg"], ["\u00e9", "e\u0301_jpg"]),  # composed, and decomposed
        (["Straße.png", "STRASSE.png"], ["Straße", "STRASSE_png"]),
        (["s/a.png", "t/a.png", "s/a.jpg"], ["s/a", "t/a", "s/a_jpg"]),
        (["a", "a.png", ".a"], ["a", "a_png", ".a"]),
        (["..2", "...png", "a.", "a.b.", "b/..png"], ["..2", "...png", "a.", "a.b.", "b/..png"]),
        (["a_jpg.png", "a.png", "a.jpg"], ["a_jpg", "a", "a_2"]),
    ],
)
def test_names(inputs: list[str], expected: list[str]) -> None:
    names = DistinctNames(".png")
    assert [names.choose(name) for name in inputs] == expected


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("a/b.png", "a/b"),
        ("./a.png", "a"),
        ("a//b.tar.gz", "a/b.tar"),
        (".png", ".png"),
        ("..png", "..png"),
        ("a.b/c", "a.b/c"),
        ("a.", "a."),
    ],
)
def test_a_name_without_its_suffix(name: str, expected: str) -> None:
    assert without_suffix(name) == expected


def test_names_by_their_numbers() -> None:
    names = ["1a", "2.png", "02b", "10.png", "a01", "a1", "a2", "a" + "9" * 5000, "b"]
    assert sorted(reversed(names), key=natural_key) == names


def test_no_output_of_a_name_may_be_taken() -> None:
    names = DistinctNames(".png", ".json", "_overlay.png")
    assert [names.choose(name) for name in ("x.jpg", "x_overlay.jpg")] == ["x", "x_overlay_jpg"]
    names = DistinctNames(".png", ".json", "_overlay.png")
    assert [names.choose(name) for name in ("x_overlay.jpg", "x.jpg")] == ["x_overlay", "x_jpg"]


@given(st.lists(st.text("aA._é2ß", min_size=1, max_size=4).filter(lambda name: name not in (".", ".."))))
def test_all_files_are_distinct_whatever_the_inputs(inputs: list[str]) -> None:
    suffixes = (".png", "_o.png")
    names = DistinctNames(*suffixes)
    files = [f"{name}{suffix}" for name in map(names.choose, inputs) for suffix in suffixes]
    assert len({name_key(file) for file in files}) == len(files)


def test_many_of_one_name_take_no_longer_each() -> None:
    names = DistinctNames(".png")
    assert [names.choose("a.png") for _ in range(20_000)][-1] == "a_19999"

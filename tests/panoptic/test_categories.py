from __future__ import annotations

import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from banet.errors import InputError
from banet.panoptic.categories import VOID, Categories, Category

COCO = [
    {"id": 200, "name": "rug", "isthing": 0},
    {"id": 3, "name": "car", "isthing": 1, "color": [1, 2, 3], "supercategory": "vehicle"},
    {"id": 92, "name": "banner", "isthing": 0},
    {"id": 1, "name": "person", "isthing": 1},
]

some_categories = st.dictionaries(st.integers(0, 2**31 - 1) | st.integers(0, 300), st.booleans(), max_size=12).map(
    lambda entries: Categories(Category(key, f"c{key}", isthing) for key, isthing in entries.items())
)


def test_things_come_first_and_both_are_sorted_by_id():
    categories = Categories.from_coco(COCO)
    assert categories.ids.tolist() == [1, 3, 92, 200]
    assert categories.ids.dtype == np.int64
    assert (categories.num_things, categories.num_stuff, len(categories)) == (2, 2, 4)
    assert [c.name for c in categories] == list(categories.names) == ["person", "car", "banner", "rug"]
    assert categories == Categories.from_coco(COCO[::-1])
    assert hash(categories) == hash(Categories.from_coco(COCO[::-1]))


def test_lookup_by_id():
    categories = Categories.from_coco(COCO)
    assert categories.index(92) == 2
    assert categories.by_id(3).color == (1, 2, 3)
    assert categories.isthing(3) and not categories.isthing(200)
    assert 3 in categories and 4 not in categories
    assert categories[0].name == "person"
    for lookup in (categories.index, categories.by_id, categories.isthing):
        with pytest.raises(ValueError, match="unknown category id 4"):
            lookup(4)


@given(some_categories)
def test_round_trips(categories):
    assert pickle.loads(pickle.dumps(categories)) == categories
    assert Categories.of(categories) is categories
    assert Categories.of(list(categories)) == categories
    if len(categories):
        again = Categories.from_coco(categories.to_coco())
        assert again == categories
        assert [c.color for c in again] == [c.color for c in categories]


@given(some_categories, st.data())
def test_maps_round_trip(categories, data):
    indices = np.array(data.draw(st.lists(st.integers(-1, len(categories) - 1), max_size=20)), dtype=np.int64)
    ids = categories.ids_of(indices)
    expected = [VOID if i == VOID else categories[i].id for i in indices.tolist()]
    assert ids.tolist() == expected
    assert categories.indices_of(ids).tolist() == indices.tolist()


@given(some_categories, st.lists(st.integers(-(2**40), 2**40) | st.integers(-2, 300), min_size=1, max_size=10))
def test_indices_of_is_a_lookup(categories, values):
    expected = []
    unknown = set()
    for value in values:
        if value in categories:
            expected.append(categories.index(value))
        elif value in (0, VOID):
            expected.append(VOID)
        else:
            unknown.add(value)
    if not unknown:
        assert categories.indices_of(np.array(values)).tolist() == expected
        return
    with pytest.raises(ValueError, match=r"sem\.png: unknown category ids") as caught:
        categories.indices_of(np.array(values), "sem.png")
    for value in unknown:
        assert str(value) in str(caught.value)


def test_zero_is_void_unless_a_category_has_it():
    assert Categories.from_coco(COCO).indices_of(np.array([[0, 1]])).tolist() == [[VOID, 0]]
    with_zero = Categories.of([{"id": 0, "name": "road", "isthing": 0}])
    assert with_zero.indices_of(np.array([0, VOID])).tolist() == [0, VOID]
    large_with_zero = Categories([Category(0, "a", False), Category(10**6, "b", True)])
    assert large_with_zero.indices_of(np.array([0, 10**6, VOID])).tolist() == [1, 0, VOID]


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.int32, np.int64, np.uint64])
def test_any_integer_dtype(dtype):
    ids = np.array([[1, 3], [200, 0]], dtype=dtype)
    assert Categories.from_coco(COCO).indices_of(ids).tolist() == [[0, 1], [3, VOID]]


def test_floats_and_wrong_indices_are_refused():
    categories = Categories.from_coco(COCO)
    with pytest.raises(ValueError, match="must be integers"):
        categories.indices_of(np.zeros(2))
    with pytest.raises(ValueError, match=r"-1\.\.3"):
        categories.ids_of(np.array([4]))


def test_only_things_only_stuff_and_none():
    things = Categories([Category(1, "a", True)])
    stuff = Categories([Category(1, "a", False)])
    assert (things.num_things, things.num_stuff) == (1, 0)
    assert (stuff.num_things, stuff.num_stuff) == (0, 1)
    assert things != stuff
    empty = Categories([])
    assert len(empty) == 0 and empty.ids.shape == (0,)
    assert empty.indices_of(np.zeros((2, 2), dtype=int)).tolist() == [[VOID, VOID], [VOID, VOID]]


def test_default_colors_are_stable_and_distinct():
    assert Category(7, "cat", True).color == Category(7, "cat", False).color
    assert len({Category(i, f"class {i}", True).color for i in range(256)}) == 256


def test_colour_is_no_part_of_identity():
    assert Category(7, "cat", True, (1, 2, 3)) == Category(7, "cat", True)


def entry(**changes):
    return {key: value for key, value in {"id": 1, "name": "a", "isthing": 1, **changes}.items() if value is not ...}


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ([entry(id=...)], r"categories\[0\]: 'id' is missing"),
        ([entry(name=...)], "'name' is missing"),
        ([entry(isthing=...)], "'isthing' is missing"),
        ([entry(id="1")], r"\[0\]\.id: must be an integer"),
        ([entry(id=1.0)], r"\.id: must be an integer"),
        ([entry(id=True)], r"\.id: must be an integer"),
        ([entry(id=-1)], r"\.id: must be an integer"),
        ([entry(id=2**31)], r"\.id: must be an integer"),
        ([entry(name="")], r"\.name: must be a non-empty string"),
        ([entry(name=3)], r"\.name: must be a non-empty string"),
        ([entry(isthing=2)], r"\.isthing: must be 1 \(thing\) or 0 \(stuff\)"),
        ([entry(isthing="yes")], r"\.isthing: must be"),
        ([entry(isthing=1.0)], r"\.isthing: must be"),
        ([entry(isthing=-1)], r"\.isthing: must be"),
        ([entry(color=[1, 2])], r"\.color: must be"),
        ([entry(color=[1, 2, 256])], r"\.color: must be"),
        ([entry(color="red")], r"\.color: must be"),
        ([entry(), entry(name="b")], r"categories\[1\]\.id: 1 is already the id of categories\[0\]"),
        ([3], r"categories\[0\]: must be an object"),
        ([], "'categories' is empty"),
        ({"id": 1}, "must be a list"),
        (None, "must be a list"),
    ],
)
def test_bad_json_is_one_line_that_names_file_and_field(entries, message):
    with pytest.raises(InputError, match=message) as caught:
        Categories.from_coco(entries, "panoptic.json")
    assert "panoptic.json" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("thing", "stuff"), [(True, False), (1, 0), ("1", "0"), ("true", "false"), (1, None)])
def test_the_flags_that_pass_for_isthing(thing, stuff):
    categories = Categories.from_coco([entry(isthing=thing), entry(id=2, isthing=stuff)])
    assert [c.isthing for c in categories] == [True, False]
    assert [Category(1, "a", flag).isthing for flag in (thing, stuff)] == [True, False]


def test_flags_of_numpy_pass_and_others_do_not():
    assert Category(1, "a", np.bool_(True)).isthing is True and Category(1, "a", np.int64(0)).isthing is False
    with pytest.raises(InputError, match=r"category 1\.isthing: must be 0 or 1, not 'no'"):
        Category(1, "a", "no")


def test_of_refuses_other_things():
    for wrong in ("abc", 3, {"id": 1}, [3]):
        with pytest.raises(TypeError):
            Categories.of(wrong)
    with pytest.raises(ValueError, match="duplicate category ids"):
        Categories([Category(1, "a", True), Category(1, "b", False)])


def test_ids_cannot_be_changed():
    with pytest.raises(ValueError, match="read-only"):
        Categories.from_coco(COCO).ids[0] = 5

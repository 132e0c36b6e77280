"""The index in arrays says what the slow reader says; streaming gives what the json module gives."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch.multiprocessing as mp
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from banet.data.coco_panoptic import PanopticIndex
from banet.errors import InputError
from banet.files import reading as files
from banet.files.reading import read_json, stream_json
from banet.panoptic.coco.annotations import PanopticJson

CONTENT: dict[str, Any] = {
    "info": {"description": "two images"},
    "images": [
        {"id": 11, "file_name": "ä/a.jpg", "width": 4, "height": 3},
        {"id": 7, "file_name": "no annotation.jpg", "width": 4, "height": 3},
        {"id": 2**40, "file_name": "b.jpg", "width": 5, "height": 6},
    ],
    "annotations": [
        {"image_id": 2**40, "file_name": "b.png", "segments_info": []},
        {
            "image_id": 11,
            "file_name": "a.png",
            "segments_info": [
                {"id": 2**24 - 1, "category_id": 18, "iscrowd": 1},
                {"id": 1, "category_id": 92, "iscrowd": 0},
            ],
        },
    ],
    "categories": [{"id": 92, "name": "banner", "isthing": 0}, {"id": 18, "name": "dog", "isthing": 1}],
}


def _write(path: Path, content: Any) -> Path:
    path.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
    return path


def _same(index: PanopticIndex, slow: PanopticJson) -> None:
    assert index.categories == slow.categories
    assert index.image_ids.tolist() == list(slow.annotations)
    assert len(index) == len(slow.annotations)
    for row, (image_id, annotation) in enumerate(slow.annotations.items()):
        assert index.annotation(row) == annotation
        assert index.image(row) == slow.images[image_id]


@pytest.mark.parametrize("order", [["images", "annotations", "categories"], ["categories", "annotations", "images"]])
def test_the_index_says_what_the_slow_reader_says(tmp_path: Path, order: list[str]) -> None:
    path = _write(tmp_path / "p.json", {key: CONTENT[key] for key in ["info", *order]})
    _same(PanopticIndex.read(path), PanopticJson.read(path))


def test_it_survives_pickling(tmp_path: Path) -> None:
    path = _write(tmp_path / "p.json", CONTENT)
    _same(pickle.loads(pickle.dumps(PanopticIndex.read(path))), PanopticJson.read(path))


def _write_to_index(index: PanopticIndex) -> None:
    index.image_ids[0] = 5


def test_spawned_processes_share_its_arrays(tmp_path: Path) -> None:
    index = PanopticIndex.read(_write(tmp_path / "p.json", CONTENT))
    process = mp.get_context("spawn").Process(target=_write_to_index, args=(index,))
    process.start()
    process.join()
    assert process.exitcode == 0
    assert index.image_ids[0] == 5  # what it wrote is seen here, so there is one copy


@pytest.mark.parametrize(
    "damage",
    [
        lambda c: c.pop("images"),
        lambda c: c.pop("categories"),
        lambda c: c.pop("annotations"),
        lambda c: c.update(annotations={}),
        lambda c: c.update(images=3),
        lambda c: c.update(categories=[]),
        lambda c: c["categories"].append({"id": 18, "name": "again", "isthing": 1}),
        lambda c: c["images"].append(5),
        lambda c: c["images"].append(c["images"][0]),
        lambda c: c["images"][1].update(width=0),
        lambda c: c["images"][1].pop("file_name"),
        lambda c: c["images"].pop(0),
        lambda c: c["annotations"].append(c["annotations"][0]),
        lambda c: c["annotations"][0].update(file_name="../x.png"),
        lambda c: c["annotations"][0].pop("segments_info"),
        lambda c: c["annotations"][1]["segments_info"][1].update(category_id=3),
        lambda c: c["annotations"][1]["segments_info"][1].update(category_id=2**70),
        lambda c: c["annotations"][1]["segments_info"][1].update(id=2**24),
        lambda c: c["annotations"][1]["segments_info"][1].update(id=2**24 - 1),
        lambda c: c["annotations"][1]["segments_info"][1].update(iscrowd=2),
    ],
)
def test_faults_are_named_as_the_slow_reader_names_them(
    tmp_path: Path, damage: Callable[[dict[str, Any]], Any]
) -> None:
    content = json.loads(json.dumps(CONTENT))
    damage(content)
    path = _write(tmp_path / "p.json", content)
    with pytest.raises(InputError) as slow:
        PanopticJson.read(path)
    with pytest.raises(InputError) as fast:
        PanopticIndex.read(path)
    if "63 bits" not in str(fast.value):
        assert str(fast.value) == str(slow.value)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.dictionaries(st.text(), VALUES, max_size=5), st.integers(1, 40), st.sampled_from([None, 1]), st.booleans())
def test_streaming_gives_what_json_gives(
    tmp_path: Path, content: dict[str, Any], chunk: int, indent: int | None, ascii_only: bool
) -> None:
    path = tmp_path / "x.json"
    text = json.dumps(content, indent=indent, ensure_ascii=ascii_only)
    path.write_bytes(text.encode("utf-8"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(files, "_CHUNK", chunk)
        rebuilt: dict[str, Any] = {}
        for field, position, value in stream_json(path):
            if position is None:
                rebuilt[field] = value
            else:
                rebuilt.setdefault(field, []).append(value)
                assert len(rebuilt[field]) == position + 1
    assert rebuilt == content
    assert list(rebuilt) == list(content)


@pytest.mark.parametrize("chunk", [1, 3, 1 << 20])
@pytest.mark.parametrize(
    "text",
    [
        "",
        " \n",
        '{"a": [1, 2',
        '{"a": [1 2]}',
        '{"a": [1,]}',
        '{"a": [{"b": "c}]}',
        '{"a" 3}',
        '{"a": 1} x',
        '{"a": [1],\n "b": tru}',
        '{"a": [\n\n {"b": 1,}]}',
        "{a: 1}",
        '{"a": 1,}',
        "{",
        "nonsense",
    ],
)
def test_what_is_no_json_is_named_as_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, chunk: int
) -> None:
    monkeypatch.setattr(files, "_CHUNK", chunk)
    path = tmp_path / "x.json"
    path.write_text(text)
    with pytest.raises(InputError) as slow:
        read_json(path)
    with pytest.raises(InputError) as fast:
        list(stream_json(path))
    prefix = str(slow.value).split(", column")[0]  # file and line; which column it is, Python's versions disagree on
    assert str(fast.value).startswith(prefix)


def test_other_faults_of_a_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist"):
        list(stream_json(tmp_path / "no.json"))
    with pytest.raises(InputError, match="is a folder"):
        list(stream_json(tmp_path))
    path = tmp_path / "x.json"
    path.write_text("[1]")
    with pytest.raises(InputError, match="must be an object"):
        list(stream_json(path))
    path.write_text('{"a": 1, "a": 2}')
    with pytest.raises(InputError, match="'a' twice"):
        list(stream_json(path))
    path.write_bytes(b'{"a": "\xff\xfe"}')
    with pytest.raises(InputError, match="is not JSON"):
        list(stream_json(path))
    path.write_text('{"a": 1}', encoding="utf-16")
    assert list(stream_json(path)) == [("a", None, 1)]

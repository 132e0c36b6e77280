"""Old module names work for one release, with a warning that names the new place."""

from __future__ import annotations

import sys
from importlib import import_module

import pytest

from banet._moved import MOVED, RENAMED

CATEGORY = {"id": 1, "name": "cup", "isthing": 1}


@pytest.mark.parametrize("old", MOVED)
def test_an_old_module_warns_and_has_the_names_of_its_new_homes(old, monkeypatch):
    monkeypatch.delitem(sys.modules, f"banet.{old}", raising=False)
    with pytest.warns(DeprecationWarning, match=f"banet.{old} moved to "):
        module = import_module(f"banet.{old}")
    for home in MOVED[old].split():
        there = import_module(f"banet.{home}")
        for name in there.__all__:
            assert getattr(module, name) is getattr(there, name)
    with pytest.raises(AttributeError, match="nothing"):
        module.nothing  # noqa: B018


@pytest.mark.parametrize(
    ("old", "name"),
    [
        ("changes", "changed_hands"),
        ("changes", "draw_changes"),
        ("disputes", "Disputes"),
        ("disputes", "find_disputes"),
        ("inputs", "like"),
        ("rules", "place_by_score"),
    ],
)
def test_an_old_module_has_its_old_names(old, name, monkeypatch):
    monkeypatch.delitem(sys.modules, f"banet.panoptic.{old}", raising=False)
    with pytest.warns(DeprecationWarning):
        module = import_module(f"banet.panoptic.{old}")
    assert getattr(module, name).__name__ == RENAMED[name]


@pytest.mark.parametrize(
    ("old", "name", "new"),
    [
        ("data.large", "Picture", "CroppableImage"),
        ("data.large", "open_picture", "open_image"),
        ("engine.pictures", "Picture", "EvaluationImage"),
        ("engine.pictures", "Pictures", "EvaluationData"),
    ],
)
def test_a_name_that_two_old_modules_had_is_found_in_each(old, name, new, monkeypatch):
    monkeypatch.delitem(sys.modules, f"banet.{old}", raising=False)
    with pytest.warns(DeprecationWarning):
        module = import_module(f"banet.{old}")
    assert getattr(module, name).__name__ == new


def test_images_have_their_old_reader_of_sizes(tmp_path):
    from PIL import Image

    from banet.data import images

    Image.new("RGB", (3, 2)).save(tmp_path / "a.png")
    with pytest.warns(DeprecationWarning, match="image_size"):
        assert images.picture_size(tmp_path / "a.png") == (2, 3)


def test_drawing_has_its_old_function():
    from banet.panoptic import PanopticSegmentation
    from banet.panoptic.drawing import draw_segmentation

    result = PanopticSegmentation.from_ids([[1, 1]], [{"id": 1, "category_id": 1}], [CATEGORY])
    with pytest.warns(DeprecationWarning, match=r"PanopticSegmentation\.draw"):
        assert draw_segmentation(result).tobytes() == result.draw().tobytes()


def test_coco_files_have_their_old_reader():
    from banet.panoptic import PanopticSegmentation
    from banet.panoptic.coco import annotations

    with pytest.warns(DeprecationWarning, match=r"PanopticSegmentation\.from_annotation"):
        assert annotations.load == PanopticSegmentation.from_annotation


def test_a_match_has_its_old_fields():
    from banet.panoptic import PanopticQuality, PanopticSegmentation

    result = PanopticSegmentation.from_ids([[1, 1]], [{"id": 1, "category_id": 1}], [CATEGORY])
    match = PanopticQuality([CATEGORY]).update(result, result)
    for old, new in (("truth", "ground_truth"), ("misses", "false_negatives"), ("false_alarms", "false_positives")):
        with pytest.warns(DeprecationWarning, match=new):
            assert getattr(match, old) is getattr(match, new)
    with pytest.raises(AttributeError, match="nothing"):
        match.nothing  # noqa: B018


def test_an_unknown_module_is_still_unknown():
    with pytest.raises(ModuleNotFoundError):
        import_module("banet.panoptic.nothing")

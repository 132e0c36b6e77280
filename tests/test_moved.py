"""Old module names work for one release, with a warning that names the new place."""

from __future__ import annotations

import sys
from importlib import import_module

import pytest

from banet._moved import MOVED


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


def test_an_unknown_module_is_still_unknown():
    with pytest.raises(ModuleNotFoundError):
        import_module("banet.panoptic.nothing")

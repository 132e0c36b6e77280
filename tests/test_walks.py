"""The walks of ARCHITECTURE.md are what the code does."""

from __future__ import annotations

import walks


def test_the_page_has_the_walks_that_the_code_takes():
    assert walks.on_page() == walks.text(), "ARCHITECTURE.md is out of date: run python tests/walks.py"


def test_a_step_is_a_call_from_another_file(tmp_path):
    steps = walks.trace(walks.pair_to_owners(tmp_path))
    assert steps[0] == ("resolve_occlusions", "panoptic/occlusion/resolve.py")
    names = [name for name, _ in steps]
    assert len(set(names)) == len(names)
    assert not any(part.startswith("_") for name in names for part in name.split("."))
    classes = [name.split(".")[0] for name in names if "." in name]
    assert len(set(classes)) == len(classes), "of a class there is one step"
    assert "lock_in" not in names, "its one caller stands in its own file"

"""The walks of ARCHITECTURE.md are what the code does."""

from __future__ import annotations

import walks


def test_the_page_has_the_walks_that_the_code_takes():
    assert walks.on_page() == walks.text(), "ARCHITECTURE.md is out of date: run python tests/walks.py"


def test_a_step_is_a_call_from_another_file(tmp_path):
    steps = walks.trace(walks.pair_to_owners(tmp_path))
    assert steps[0] == ("resolve_occlusions", "panoptic/occlusion/resolve.py")
    assert not any(file.endswith("id_maps.py") for _, file in steps), "a kernel is a part of the step that calls it"
    names = [name for name, _ in steps]
    assert len(set(names)) == len(names)
    assert not any(part.startswith("_") for name in names for part in name.split("."))
    classes = [name.split(".")[0] for name in names if "." in name]
    assert len(set(classes)) == len(classes), "of a class there is one step"
    assert "lock_in" not in names, "its one caller stands in its own file"


def test_a_kernel_imports_only_the_basics(tmp_path):
    def kernel(text: str) -> bool:
        file = tmp_path / f"{len(list(tmp_path.iterdir()))}.py"
        file.write_text(text, encoding="utf-8")
        return walks.is_kernel(file)

    assert kernel("import numpy as np\nfrom banet.errors import InputError\n")
    assert kernel("from banet.panoptic.defaults import RULE\n")
    assert not kernel("from banet.panoptic import RULES\n")
    assert not kernel("import banet.files.atomic\n")
    assert not kernel("from .names import safe_join\n")
    assert not kernel("def late():\n    from banet.files.names import safe_join\n")

"""Bundled weights, which were written before SIM and OCM were modules of their own, still mean the same network."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from factories import small_model
from safetensors.torch import load_file, save_file

from banet import BANet
from banet.checkpoint.checkpoint import packaged_weights, read_checkpoint
from banet.data.scenes.generate import make_scene
from banet.errors import InputError
from banet.modeling.aggregation import current_name


def old_name(name: str) -> str:
    """A tensor's name before version 0.2."""
    return re.sub(r"\bi2s\.(sim|ocm)\.", "i2s.", name)


@pytest.mark.parametrize("name", ["scenes", "nuclei"])
def test_bundled_weights_load_by_old_and_by_new_names_alike(name: str, tmp_path: Path) -> None:
    bundled = read_checkpoint(packaged_weights()[name])
    assert all(old_name(tensor) == tensor for tensor in bundled.shapes), "rewritten: then this test tests nothing"
    model = BANet.from_pretrained(name)
    again = BANet.from_pretrained(model.save_pretrained(tmp_path / "new"))
    by_hand = BANet(bundled.categories, bundled.config, bundled.inference).eval()
    by_hand.load_state_dict(load_file(bundled.path))  # in half precision, and with the old names
    ours = model.state_dict()
    assert sum(current_name(tensor) != tensor for tensor in bundled.shapes) == 10
    assert set(ours) == {current_name(tensor) for tensor in bundled.shapes}
    stored = {current_name(tensor): value.float() for tensor, value in load_file(bundled.path).items()}
    for other in (again.state_dict(), by_hand.state_dict(), stored):
        assert all(torch.equal(other[tensor], value) for tensor, value in ours.items())
    image = make_scene(901, 0).image
    results = [each.predict(image) for each in (model, again, by_hand)]
    assert results[0].segments
    for result in results[1:]:
        assert np.array_equal(result.ids, results[0].ids) and result.segments == results[0].segments


@pytest.mark.parametrize("parts", [{}, {"ocm": False}])
def test_a_state_dict_with_old_names_loads_into_a_network_and_into_a_part(parts: dict[str, bool]) -> None:
    model, other = small_model(**parts), small_model(**parts)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.uniform_()
    old = {old_name(name): tensor for name, tensor in model.state_dict().items()}
    assert set(old) != set(model.state_dict())
    wrapped = torch.nn.ModuleDict({"model": other})  # as in a checkpoint of a run
    report = wrapped.load_state_dict({f"model.{name}": tensor for name, tensor in old.items()})
    assert not report.missing_keys and not report.unexpected_keys
    assert all(torch.equal(tensor, other.state_dict()[name]) for name, tensor in model.state_dict().items())


def test_old_and_new_names_at_once_are_refused(tmp_path: Path) -> None:
    path = small_model().save_pretrained(tmp_path)
    checkpoint = read_checkpoint(path)
    state = load_file(path)
    state["segmenter.i2s.instance.weight"] = state["segmenter.i2s.sim.instance.weight"].clone()
    save_file(state, path, metadata=checkpoint.metadata)
    with pytest.raises(InputError, match="old and new names at once"):
        BANet.from_pretrained(path)

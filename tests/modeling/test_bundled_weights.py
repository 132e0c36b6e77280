"""Bundled weights, which were written before SIM and OCM were modules of their own, still mean the same network."""

from __future__ import annotations

import json
import math
import re
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch
from factories import categories, small_model
from safetensors.torch import load_file, save_file
from torch.nn import functional as F

from banet import BANet
from banet.checkpoint.bundled import BUNDLED
from banet.checkpoint.checkpoint import packaged_weights, read_checkpoint
from banet.data.scenes.generate import make_scene
from banet.engine.export import runtime
from banet.errors import InputError
from banet.inference.preprocess import preprocess
from banet.modeling.aggregation import InstanceToSemantic, current_name
from banet.modeling.config import InferenceConfig, ModelConfig
from banet.ops.roi_inlay import roi_inlay

ROOT = Path(__file__).parents[2]


def old_name(name: str) -> str:
    """A tensor's name before version 0.2."""
    return re.sub(r"\bi2s\.(sim|ocm)\.", "i2s.", name)


@pytest.mark.parametrize("name", ["scenes"])
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


def test_bundled_weights_say_where_they_come_from_and_load_with_the_core_alone() -> None:
    project = (ROOT / "pyproject.toml").read_text()
    core = project[project.index("\ndependencies = [") : project.index("[project.optional-dependencies]")]
    assert set(packaged_weights()) == set(BUNDLED)
    for name in BUNDLED:
        checkpoint = read_checkpoint(name)
        assert all(checkpoint.metadata.get(fact) for fact in ("recipe", "data", "licence", "iterations"))
        assert checkpoint.domain == BUNDLED[name].domain
        if checkpoint.config.backbone.startswith("timm:"):
            assert '"timm>=' in core, "this body needs timm as a core dependency"
            assert "Apache-2.0" in checkpoint.metadata["body"], "the body's origin and licence are not in the file"


@pytest.mark.parametrize("name", list(BUNDLED))
def test_the_tables_of_weights_are_true(name: str) -> None:
    """README.md and docs/reference/models.md against the files and the figures that were measured."""
    checkpoint, known = read_checkpoint(name), BUNDLED[name]
    parameters = sum(math.prod(shape) for shape in checkpoint.shapes.values()) / 1e6
    size = checkpoint.path.stat().st_size / 1e6
    things, stuff = checkpoint.categories.num_things, checkpoint.categories.num_stuff
    classes = ", ".join(checkpoint.categories.names) if things + stuff < 5 else f"{things} things, {stuff} stuff"
    common = [known.domain, classes, known.figures.removeprefix("PQ ")]
    tail = [checkpoint.metadata["licence"], f"`{checkpoint.metadata['recipe']}`"]
    row = next(line for line in (ROOT / "README.md").read_text().splitlines() if line.startswith(f"| `{name}` |"))
    cells = [cell.strip() for cell in row.strip("|").split("|")][1:]
    assert cells == [*common, f"{known.seconds:.1f}", f"{parameters:.1f} M", f"{size:.0f}", *tail]
    table = [line for line in (ROOT / "docs/reference/models.md").read_text().splitlines() if line.startswith("| ")]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table]
    column = rows[0].index(f"`{name}`")
    cells = [re.sub(r" \(\[.*", "", row[column]) for row in rows[1:9]]
    assert cells == [*common, f"{known.seconds}", f"{parameters:.1f} M", f"{size:.1f}", *tail]


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


@pytest.mark.parametrize("name", ["scenes"])
@torch.inference_mode()
def test_bundled_weights_keep_their_composition_and_their_boxes(name: str, tmp_path: Path) -> None:
    """OCM without ReLU, and RoIInlay of the panoptic instances only: what there was before either was an option."""
    bundled = read_checkpoint(packaged_weights()[name])
    for saved, option in (("model", "ocm_relu"), ("inference", "inlay_score_threshold")):
        assert option not in json.loads(bundled.metadata[saved]), "rewritten: then this test tests nothing"
    model = BANet.from_pretrained(name)
    assert not model.config.ocm_relu and model.inference.inlay_score_threshold is None
    i2s, image = model.segmenter.i2s, make_scene(901, 0).image
    output = model([preprocess(image, model.inference)])
    boxes = [found.boxes for found in output.detections]
    assert len(boxes[0])
    f_ins = model.mask_head.features(output.rois.mask(boxes))
    size, (height, width) = output.logits.shape[2:], (-(-side // 4) for side in output.sizes[0])
    pooled = i2s.ocm.squeeze(roi_inlay(f_ins, boxes, size, spatial_scale=0.25))[:, :, :height, :width]
    cells = [F.adaptive_max_pool2d(pooled, cells).flatten(1) for cells in model.config.ocm_cells]
    vector = i2s.ocm.context(torch.cat(cells, dim=1))
    interacted = InstanceToSemantic(i2s.sim)(output.semantic, f_ins, boxes, output.sizes)
    merged = i2s.ocm.merge(torch.cat([interacted, vector[:, :, None, None].expand(-1, -1, *size)], dim=1))
    torch.testing.assert_close(output.logits, model.segmenter.final(merged), rtol=1e-4, atol=1e-4)
    assert (merged < -0.1).any()  # a ReLU would be seen

    again = read_checkpoint(model.save_pretrained(tmp_path / "again"))
    assert (again.config, again.inference) == (bundled.config, bundled.inference)


def test_files_without_the_new_options_mean_what_they_meant(tmp_path: Path) -> None:
    assert ModelConfig().ocm_relu and InferenceConfig().inlay_score_threshold is not None
    saved = asdict(InferenceConfig())
    saved.pop("inlay_score_threshold")
    header = json.dumps({"format": runtime.FORMAT, "inference": saved, "categories": categories().to_coco()})
    _, inference = runtime.read_header(header, tmp_path / "old.onnx")
    assert inference == InferenceConfig(inlay_score_threshold=None)
    new = InferenceConfig(inlay_score_threshold=0.25)
    assert runtime.read_header(runtime.write_header(categories(), new), tmp_path / "new.onnx")[1] == new
    for value in (-0.1, 1.5, float("nan")):
        with pytest.raises(ValueError, match="inlay_score_threshold"):
            InferenceConfig(inlay_score_threshold=value)

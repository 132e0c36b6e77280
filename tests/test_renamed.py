"""Old names of options, arguments and rules work for one release: in Python, recipes, weights and commands."""

from __future__ import annotations

import inspect
import json
import warnings
from dataclasses import asdict, fields, replace
from typing import get_args

import numpy as np
import pytest

from banet._renamed import NAMES, VALUES, accept_keywords, current_options, current_value, current_words
from banet.cli import main
from banet.commands import find_command
from banet.commands.fuse import Fuse
from banet.commands.studies.analyze import Analyze
from banet.data.scenes.generate import make_scene
from banet.engine.options import load_recipe
from banet.engine.prediction.fuse import fuse_files
from banet.engine.recipe import Recipe, TrainConfig, to_yaml
from banet.engine.studies.ablate import _metrics_path
from banet.errors import InputError
from banet.modeling.config import InferenceConfig, change_options, read_options
from banet.panoptic import RULES, MaskCrops, fuse_panoptic, resolve_occlusions
from banet.panoptic.defaults import BEST_OVERLAP_THRESHOLD, BEST_RULE, RuleName
from banet.panoptic.occlusion import rules
from banet.panoptic.occlusion.resolve import make_disjoint

CLASSES = {"InferenceConfig": InferenceConfig, "TrainConfig": TrainConfig}
ODD = {"score": 0.25, "nms": 0.75, "instances": 7, "batch": 12}


@pytest.mark.parametrize(
    ("kind", "old", "new"), [(kind, old, new) for kind in CLASSES for old, new in NAMES[kind].items()]
)
def test_old_arguments_and_attributes_of_options_warn_and_work(kind, old, new):
    made = CLASSES[kind]
    with pytest.warns(DeprecationWarning, match=f"^{old} is now called {new}; the old name works until 0.3$") as said:
        options = made(**{old: ODD[old]})
    assert said[0].filename == __file__
    assert options == made(**{new: ODD[old]})
    with pytest.warns(DeprecationWarning, match=f"^{old} is now called {new}") as said:
        assert getattr(options, old) == ODD[old]
    assert said[0].filename == __file__
    with pytest.warns(DeprecationWarning):
        assert replace(made(), **{old: ODD[old]}) == options
    assert old not in asdict(options) and {field.name for field in fields(options)} == set(asdict(options))
    assert list(inspect.signature(made).parameters) == [field.name for field in fields(made)]


def test_new_names_do_not_warn():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        InferenceConfig(score_threshold=0.5)
        load_recipe("nuclei_r18", {"train.batch_size": 8})
        read_options(InferenceConfig, json.loads(json.dumps(asdict(InferenceConfig()))))


def test_old_recipes_are_read_with_a_warning_that_names_the_file(tmp_path):
    file = tmp_path / "old.yaml"
    file.write_text("inference: {score: 0.25, nms: 0.75, instances: 7}\ntrain: {batch: 12}\n")
    with pytest.warns(DeprecationWarning) as said:
        recipe = load_recipe(str(file))
    assert sorted(str(one.message).split(" is now")[0] for one in said) == sorted(
        f"{file}: {name}" for name in ("inference.score", "inference.nms", "inference.instances", "train.batch")
    )
    inference = InferenceConfig(score_threshold=0.25, nms_threshold=0.75, max_instances=7)
    assert recipe == Recipe("old", inference=inference, train=TrainConfig(batch_size=12))
    again = tmp_path / "new.yaml"
    again.write_text(to_yaml(recipe))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert load_recipe(str(again)) == recipe


def test_an_option_by_both_names_is_refused(tmp_path, capsys):
    file = tmp_path / "both.yaml"
    file.write_text("train: {batch: 12, batch_size: 4}\n")
    assert main(["train", "--config", str(file), "--print-config"]) == 2
    assert capsys.readouterr().err == (
        f"banet: error: {file}: train.batch_size: is given by its old name too; keep one\n"
    )
    with pytest.raises(ValueError, match="score_threshold: is given by its old name too"):
        read_options(InferenceConfig, {"score": 0.5, "score_threshold": 0.5})


def test_old_overrides_take_the_schedule_along():
    with pytest.warns(DeprecationWarning, match=r"train\.batch is now called"):
        old = load_recipe("coco_r50_1x", {"train.batch": 4, "train.lr": 0.5})
    assert old == load_recipe("coco_r50_1x", {"train.batch_size": 4, "train.lr": 0.5})
    assert (old.train.iterations, old.train.lr) == (360_000, 0.5)


def test_old_options_on_the_command_line_are_taken_silently():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        line = ["w", "--config", "c", "--inference.score", "0.25", "--inference.nms=0.75", "--inference.instances", "7"]
        done = find_command("evaluate").parse("evaluate", line)
        train = find_command("train").parse("train", ["--config", "c", "--train.batch", "12"])
    assert done.inference == {"score_threshold": 0.25, "nms_threshold": 0.75, "max_instances": 7}
    assert train.recipe == {"train.batch_size": 12}


@pytest.mark.parametrize("name", ["predict", "evaluate", "fuse"])
def test_score_is_short_for_score_threshold(name, tmp_path):
    required = {
        "predict": ["a.jpg"],
        "evaluate": ["w"],
        "fuse": ["--instances", "a", "--semantic", "b", "--images", "c", "--out", "d"],
    }[name]
    assert find_command(name).parse(name, [*required, "--score", "0.25"]).score == 0.25


def test_old_weights_are_read_silently():
    saved = json.loads(json.dumps(asdict(InferenceConfig())))
    old = {{new: old for old, new in NAMES["InferenceConfig"].items()}.get(key, key): v for key, v in saved.items()}
    assert "score" in old and "score_threshold" not in old
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert read_options(InferenceConfig, old) == InferenceConfig()


def test_changed_options_are_checked():
    assert change_options(InferenceConfig(), {"score_threshold": 0.25}).score_threshold == 0.25
    for changes in ({"score_threshold": 2}, {"score_threshold": float("nan")}, {"nothing": 1}):
        with pytest.raises(InputError):
            change_options(InferenceConfig(), changes)


def test_functions_pass_old_keywords_on():
    def target(*, new: int, other: int = 2) -> tuple[int, int]:
        return new, other

    renamed = accept_keywords(target, {"old": "new"})
    with pytest.warns(DeprecationWarning, match="^old is now called new"):
        assert renamed(old=1, other=3) == (1, 3)
    assert renamed(new=4) == (4, 2)
    with pytest.raises(TypeError):
        renamed(older=1)


def test_rules_have_one_old_name_each():
    for old, new in VALUES.items():
        with pytest.warns(DeprecationWarning, match=f"^{old} is now called {new}"):
            assert current_value(old) == new
        assert current_words(["--rule", old, "--inference.rule=" + old, old, "--out", old]) == [
            "--rule",
            new,
            f"--inference.rule={new}",
            old,
            "--out",
            old,
        ]
        assert current_options("InferenceConfig", {"rule": old}, warn=False) == {"rule": new}
    assert current_value("area") == "area" and current_value(len) is len


def test_old_options_of_analyze_are_taken_silently():
    start = ["w", "--config", "scenes_r18", "--figure", "f.png"]
    old = Analyze.parse("analyze", [*start, "--pictures=3", "--picture-ids", "7", "5"])
    assert old == Analyze.parse("analyze", [*start, "--count", "3", "--image-ids", "7", "5"])
    assert (old.count, old.image_ids) == (3, ["7", "5"])


def test_the_old_name_of_a_rule_is_accepted_everywhere_and_is_not_an_entry(tmp_path):
    scene = make_scene(3, 1)
    count = len(scene.masks)
    expected = resolve_occlusions(scene.masks, np.ones(count), scene.image, rule="color-contour")
    assert not VALUES.keys() & set(RULES) and len(RULES) == len(set(RULES.values())) == len(get_args(RuleName))
    assert set(RULES) == set(get_args(RuleName))
    with pytest.warns(DeprecationWarning, match="^colour-contour is now called color-contour") as said:
        owners = resolve_occlusions(scene.masks, np.ones(count), scene.image, rule="colour-contour")
    assert said[0].filename == __file__
    np.testing.assert_array_equal(owners, expected)
    with pytest.warns(DeprecationWarning) as said:
        assert InferenceConfig(rule="colour-contour") == InferenceConfig(rule="color-contour")
    assert said[0].filename == __file__
    with pytest.warns(DeprecationWarning):
        assert RULES["colour-contour"] is RULES["color-contour"]
    with pytest.raises(KeyError):
        RULES["nothing"]
    assert read_options(InferenceConfig, {"rule": "colour-contour"}).rule == "color-contour"
    file = tmp_path / "mine.yaml"
    file.write_text("inference: {rule: colour-contour}\n")
    with pytest.warns(DeprecationWarning, match="colour-contour"):
        assert load_recipe(str(file)).inference.rule == "color-contour"
    line = ["--images", "i", "--instances", "a", "--out", "o", "--overlaps", "colour-contour"]
    assert find_command("data convert coco").parse("data convert coco", line).overlaps == "color-contour"
    assert find_command("predict").parse("predict", ["a.jpg", "--rule=colour-contour"]).rule == "color-contour"


def test_old_names_of_the_rules_module_warn():
    with pytest.warns(DeprecationWarning, match="color_contour"):
        assert rules.colour_contour is rules.color_contour
    masks = MaskCrops(np.array([[0, 0, 2, 2]] * 2), [np.ones((2, 2), bool)] * 2, (2, 2))
    pairs = rules.Pairs.of(masks, np.array([0.5, 0.6]), np.full((2, 2, 3), 7, np.uint8))
    with pytest.warns(DeprecationWarning, match="colours is now called colors"):
        np.testing.assert_array_equal(pairs.colours(np.array([0])), np.full((3, 1), 7.0))


def test_defaults_of_fusion_stand_once():
    """The paper's for BANet's own recipe and plain arrays, the best ones for what other libraries found."""
    best = {"rule": BEST_RULE, "overlap_threshold": BEST_OVERLAP_THRESHOLD}
    for function in (resolve_occlusions, make_disjoint, fuse_panoptic, fuse_files):
        others = best if function in (make_disjoint, fuse_files) else {}
        for name, parameter in inspect.signature(function).parameters.items():
            if name in ("overlap_threshold", "removal_threshold", "stuff_area", "rule"):
                assert parameter.default == others.get(name, getattr(InferenceConfig, name))
    for name in ("overlap_threshold", "removal_threshold", "stuff_area", "rule"):
        assert getattr(Fuse, name) == best.get(name, getattr(InferenceConfig, name))


def test_studies_of_older_versions_go_on(tmp_path):
    assert _metrics_path(tmp_path, "color-contour") == tmp_path / "metrics_color-contour.json"
    (tmp_path / "metrics_colour-contour.json").write_text("{}")
    assert _metrics_path(tmp_path, "color-contour") == tmp_path / "metrics_colour-contour.json"
    assert _metrics_path(tmp_path, "area") == tmp_path / "metrics_area.json"

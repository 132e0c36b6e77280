"""The command line: options reach the engine, faults are one line, recipes are the paper's."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shlex
import subprocess
import sys
import types
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from banet.checkpoint.checkpoint import read_checkpoint
from banet.cli import main
from banet.commands import COMMANDS, find_command
from banet.engine.options import load_recipe
from banet.engine.recipe import Recipe, SplitConfig, find_recipe, recipe_names, to_yaml
from banet.errors import InputError, MissingExtraError
from banet.modeling.config import ModelConfig


@pytest.fixture
def engine(monkeypatch):
    """Stands in for the engine: each function called notes what it was given."""
    calls: dict[str, tuple[tuple, dict]] = {}

    def stand_in(module: str, name: str, result=None):
        def noted(*args, **kwargs):
            calls[name] = (args, kwargs)
            if isinstance(result, BaseException):
                raise result
            return result

        stub = types.ModuleType(f"banet.engine.{module}")
        setattr(stub, name, noted)
        monkeypatch.setitem(sys.modules, f"banet.engine.{module}", stub)
        return calls

    return stand_in


def fault(capsys, *arguments: str) -> str:
    """The one line that a command ends with on bad input."""
    assert main(arguments) == 2
    shown = capsys.readouterr()
    lines = shown.err.splitlines()
    assert len(lines) == 1, shown.err
    assert lines[0].startswith("banet: error: ")
    assert "Traceback" not in shown.err
    assert shown.out == ""
    return lines[0].removeprefix("banet: error: ")


# ------------------------------------------------------------------------------------------------------------- help


@pytest.mark.parametrize("name", ["", *COMMANDS])
def test_help_is_quick_and_complete(name):
    before = os.times()
    done = subprocess.run(
        [sys.executable, "-m", "banet", *name.split(), "--help"],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[1],
        timeout=300,
    )
    after = os.times()
    # Processor time, which does not grow when other programs keep the machine busy.
    assert after.children_user + after.children_system - before.children_user - before.children_system < 2
    assert done.returncode == 0
    assert done.stderr == ""
    assert f"usage: banet {name}".strip() in done.stdout
    if not name:
        assert all(command in done.stdout for command in COMMANDS)


def test_the_list_of_commands_loads_neither_numpy_nor_the_option_parser():
    code = "import sys; from banet.cli import main; main(['--help']); print({'numpy', 'jsonargparse'} & {*sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=300)
    assert done.stdout.endswith("set()\n")


def test_help_of_train_tells_every_option_and_what_it_means(capsys):
    with pytest.raises(SystemExit) as end:
        main(["train", "--help-all"])
    assert end.value.code == 0
    text = " ".join(capsys.readouterr().out.split())
    for option in ("--train.lr", "--model.deformable", "--data.val.json", "--loss.inlay_share", "--inference.rule"):
        assert option in text
    assert "Learning rate after warm-up, at this batch." in text
    assert "default: 0.02" in text


@pytest.mark.parametrize("command", ["train", "evaluate", "ablate"])
def test_help_is_short_where_a_recipe_has_hundreds_of_options(capsys, command):
    texts = []
    for words in ([command, "--help"], [command, "-h"], ["help", command]):
        with pytest.raises(SystemExit) as end:
            main(words)
        assert end.value.code == 0
        texts.append(capsys.readouterr().out)
    assert texts[0] == texts[1] == texts[2]
    assert len(texts[0].splitlines()) < 65
    assert "--inference.score_threshold" not in texts[0] and "--inference.*" in texts[0] and "--help-all" in texts[0]


def test_help_and_version_are_words_too(capsys):
    import banet

    assert main(["help"]) == 0
    assert capsys.readouterr().out.startswith("usage: banet COMMAND")
    assert main(["help", "data"]) == 0
    assert "data check" in capsys.readouterr().out
    assert main(["version"]) == 0
    assert capsys.readouterr().out == f"banet {banet.__version__}\n"


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("--train.learning_rate", "--train.lr"),
        ("--learning-rate", "--train.lr"),
        ("--lr", "--train.lr"),
        ("--trian.lr", "--train.lr"),
        ("--train.wd", "--train.weight_decay"),
        ("--train.batchsize", "--train.batch_size"),
        ("--stuff_area", "--inference.stuff_area"),
        ("--data.stuff_area", "--inference.stuff_area"),
        ("--train.workers", "--data.workers"),
        ("--devise", "--device"),
        ("--nothing.like_it", None),
    ],
)
def test_near_misses_of_options_in_groups(capsys, tmp_path, given, meant):
    said = fault(capsys, "train", "--config", "scenes_r18", given, "3")
    assert said == f"{given}: no such option" + (f"; did you mean {meant}?" if meant else "")
    group, _, leaf = given[2:].rpartition(".")
    if group in ("train", "data") and meant:
        (tmp_path / "mine.yaml").write_text(f"{group}: {{{leaf}: 3}}\n")
        near = meant[2:].removeprefix(f"{group}.")
        assert fault(capsys, "train", "--config", str(tmp_path / "mine.yaml")).endswith(f"did you mean {near}?")


def test_lists_of_recipes_are_given_as_words_too(capsys):
    printed = []
    for words in (["640", "800"], ["[640, 800]"]):
        assert main(["train", "--config", "coco_r50_1x", "--data.shorter", *words, "--print-config"]) == 0
        printed.append(capsys.readouterr().out)
    assert printed[0] == printed[1] and "shorter:\n  - 640\n  - 800\n" in printed[0]


@pytest.mark.parametrize("name", COMMANDS)
def test_lists_look_alike_in_all_help(name):
    text = find_command(name).parser(name).format_help()
    lists = [line for line in text.splitlines() if line.startswith("  --") and "[" in line]
    assert all(re.match(r"  --\S+ (\S+) \[\1 \.\.\.\]( |$)", line) for line in lists), lists


def test_help_of_evaluate_gives_no_default_that_the_weights_may_change(capsys):
    with pytest.raises(SystemExit):
        main(["evaluate", "--help-all"])
    text = " ".join(capsys.readouterr().out.split())
    assert "--inference.score_threshold SCORE_THRESHOLD panoptic instances score above this. (type: float) --" in text


def test_version(capsys):
    import banet

    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"banet {banet.__version__}\n"


# ----------------------------------------------------------------------------------------------------- wrong arguments


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("nothing", "nothing: no such command"),
        ("evalute", "did you mean evaluate?"),
        ("data nothing", "data nothing: no such command"),
        ("--nothing", "--nothing: no such command"),
        ("train", "--config: say what to train; recipes: ade20k_r50, "),
        ("train --config nothing", "nor a recipe of that name; recipes: ade20k_r50, "),
        ("train --config coco_r50_1x --train.bach 3", "--train.bach: no such option; did you mean --train.batch_size?"),
        ("train --config coco_r50_1x --train.bat 3", "--train.bat: no such option"),
        ("train --config coco_r50_1x --train.lr fast", "--train.lr: must be a number, not fast"),
        ("train --config coco_r50_1x --train.lr", "--train.lr: expected one argument"),
        ("train --config coco_r50_1x --train.batch_size 2.5", "--train.batch_size: must be a whole number, not 2.5"),
        ("train --config coco_r50_1x --model.sim maybe", "--model.sim: must be true or false, not maybe"),
        ("train --config coco_r50_1x --model.backbone vgg", "model.backbone: there is no vgg; give resnet50, "),
        ("train --config coco_r50_1x --data.shorter", "--data.shorter: expected one argument"),
        ("train --config coco_r50_1x --data.shorter x", "--data.shorter: must be a whole number, not x"),
        ("train --config coco_r50_1x --loss.seg_weight x", "--loss.seg_weight: must be a number or null, not x"),
        ("train --config coco_r50_1x --model.sim false", "model.ocm: OCM works on top of SIM"),
        ("train --config coco_r50_1x --train.batch_size 0", "train.batch_size: must be at least 1, not 0"),
        ("train --config coco_r50_1x --device gpu", "--device: must be one of auto, cpu, cuda, mps, not gpu"),
        ("train --config coco_r50_1x extra", "extra: not expected"),
        ("evaluate", "missing: WEIGHTS"),
        ("evaluate w", "say what to measure on"),
        ("evaluate w --images a --json b", "--panoptic: missing"),
        ("evaluate w --images a --panoptic c --json b --config coco_r50_1x", "not both"),
        ("evaluate w --config coco_r50_1x --limit 0", "--limit: must be a whole number from 1, not 0"),
        ("evaluate w --config coco_r50_1x --inference.scor 1", "did you mean --inference.score_threshold?"),
        ("evaluate w --config coco_r50_1x --rule best", "--rule: must be one of appearance, "),
        ("predict", "missing: INPUT"),
        ("predict a.jpg", "missing: --weights"),
        ("predict a.onnx --runtime onnx", "missing: --weights"),
        ("export scenes --format tflite", "--format: must be one of onnx, torch-export, openvino, not tflite"),
        ("pq --gt-json a", "missing: --gt-dir, --pred-dir"),
        ("fuse --images a", "missing: --instances, --semantic, --out"),
        ("fuse --instances a --semantic b --images c --out d --nms x", "--nms: must be a number or null, not x"),
        ("fuse --instances a --semantic b --images c --out d", "--semantic: b is not a folder"),
        ("demo --scenes none", "--scenes: must be a whole number from 1"),
        ("data scenes", "missing: --out"),
        ("data convert pascal", "data convert pascal: no such command"),
        ("data convert coco --images a", "missing: --instances, --out"),
        ("data convert labelme --annotations a --out b --overlaps x", "--overlaps: must be one of fail, appearance, "),
        ("data convert cvat --annotations a --out b", "missing: --images"),
        ("data convert labelme --annotations a --out b --stuff [x] --categories c", "--stuff: give either it or "),
        ("data check", "say what to check"),
        ("data scenes --out x --seed -1", "--seed: must be a whole number from 0"),
    ],
)
def test_wrong_arguments_are_one_line(capsys, line, said):
    assert said in fault(capsys, *line.split())


# -------------------------------------------------------------------------------------------------- what commands pass


def test_train_passes_the_recipe_with_the_options_on_top(engine):
    calls = engine("training.train", "train")
    assert main(["train", "--train.lr", "0.5", "--config", "coco_r50_1x", "--data.shorter", "[640,800]"]) == 0
    (recipe, out), options = calls["train"]
    assert recipe.train.lr == 0.5
    assert recipe.data.shorter == (640, 800)
    assert out == Path("runs/coco_r50_1x")
    config = find_recipe("coco_r50_1x")
    assert options == {"resume": None, "device": "auto", "config": config, "overwrite": False}


def test_train_takes_a_file_and_its_run_options(engine, tmp_path):
    calls = engine("training.train", "train")
    file = tmp_path / "mine.yaml"
    file.write_text("train:\n  lr: 1e-3\n  precision: 16\nmodel: {sim: false, ocm: false}\n")
    arguments = ["train", "--config", str(file), "--out", "here", "--resume", "auto", "--device", "cpu"]
    assert main([*arguments, "--train.lr=0.25"]) == 0
    (recipe, out), options = calls["train"]
    assert (recipe.name, recipe.train.lr, recipe.train.precision, recipe.model.sim) == ("mine", 0.25, "16", False)
    assert out == Path("here")
    assert options == {"resume": "auto", "device": "cpu", "config": file, "overwrite": False}


def test_init_is_short_for_train_init(engine):
    calls = engine("training.train", "train")
    assert main(["train", "--config", "coco_r50_1x", "--init", "mask_rcnn.pth"]) == 0
    assert calls["train"][0][0].train.init == "mask_rcnn.pth"


def test_printed_recipe_is_read_back(capsys, tmp_path):
    assert main(["train", "--config", "coco_dcn101_3x", "--train.seed", "7", "--print-config"]) == 0
    file = tmp_path / "again.yaml"
    file.write_text(capsys.readouterr().out)
    again = load_recipe(str(file))
    assert again == load_recipe("coco_dcn101_3x", {"train.seed": 7}).resolved()
    assert again.model.norm == "frozen_batch"


def test_evaluate_passes_only_the_inference_options_given(engine):
    calls = engine("evaluation.evaluate", "evaluate_command", {})
    arguments = "evaluate w.safetensors --config coco_r50_1x --inference.score 0.6 --inference.nms 0.3 --batch 2"
    assert main(arguments.split()) == 0
    (weights,), options = calls["evaluate_command"]
    assert weights == "w.safetensors"
    assert options.pop("recipe") == load_recipe("coco_r50_1x")
    assert options == {
        "split": None,
        "out": None,
        "rule": None,
        "inference_overrides": {"score_threshold": 0.6, "nms_threshold": 0.3},
        "batch_size": 2,
        "limit": None,
        "device": "auto",
        "precision": "32",
        "gallery": False,
        "class_table": None,
        "trust": False,
        "overwrite": False,
    }


def test_evaluate_passes_a_split(engine, capsys):
    calls = engine("evaluation.evaluate", "evaluate_command", {})
    line = "evaluate w --images i --panoptic p --json j --out o --rule area --limit 3 --device cpu --gallery"
    assert main(line.split()) == 0
    _, options = calls["evaluate_command"]
    assert options["split"] == SplitConfig("i", "p", "j")
    assert main(["evaluate", "w", "--images", "i", "--panoptic", "p", "--json", "j", "--instances", "a"]) == 0
    assert calls["evaluate_command"][1]["split"] == SplitConfig("i", "p", "j", "a")
    capsys.readouterr()
    told = fault(capsys, "evaluate", "w", "--config", "scenes_small", "--instances", "a")
    assert "--instances: goes with --images" in told
    assert (options["recipe"], options["out"], options["rule"], options["limit"]) == (None, Path("o"), "area", 3)
    assert options["gallery"] is True
    assert "add it" in fault(capsys, *line.replace("--out o ", "").split())


def test_analyze_passes_the_figure(engine, capsys):
    calls = engine("studies.analyze", "analyze_command", {})
    line = "analyze w --config scenes_r18 --figure f.png --baseline b --count 3 --image-ids 7 5 --limit 9"
    assert main(line.split()) == 0
    (weights,), options = calls["analyze_command"]
    assert weights == "w" and options.pop("recipe") == load_recipe("scenes_r18")
    assert options == {
        "split": None,
        "out": None,
        "limit": 9,
        "device": "auto",
        "class_table": None,
        "trust": False,
        "figure": Path("f.png"),
        "baseline": "b",
        "shown": 3,
        "image_ids": [7, 5],
        "overwrite": False,
    }
    assert "--figure PNG" in fault(capsys, "analyze", "w", "--config", "scenes_r18", "--baseline", "b")


@pytest.mark.parametrize(("failed", "status"), [(0, 0), (2, 1)])
def test_predict_ends_with_1_when_an_image_failed(engine, failed, status):
    calls = engine("prediction.predict", "predict_files", failed)
    assert main(["predict", "a.jpg", "b/", "*.png", "--weights", "w", "--out", "o", "--rule", "score"]) == status
    assert calls["predict_files"] == (
        ("w", ["a.jpg", "b/", "*.png"], "o"),
        {
            "recursive": False,
            "rule": "score",
            "score_threshold": None,
            "classes": None,
            "overlap_threshold": None,
            "precision": "32",
            "batch_size": 1,
            "class_table": None,
            "trust": False,
            "json": None,
            "device": "auto",
            "runtime": "torch",
            "gallery": False,
            "tile": None,
            "overlap": None,
            "frames": False,
            "track": False,
            "resume": False,
            "bit_depth": None,
            "page": None,
            "listed": None,
            "shards": None,
            "overlays": True,
            "drawing": {"style": "instance", "stuff": "outline", "alpha": 0.5},
            "overwrite": False,
        },
    )


def test_predict_passes_how_to_draw(engine, capsys):
    calls = engine("prediction.predict", "predict_files", 0)
    assert (
        main(["predict", "a.jpg", "--weights", "w", *["--style", "contour", "--stuff", "none", "--alpha", "0.25"]]) == 0
    )
    assert calls["predict_files"][1]["drawing"] == {"style": "contour", "stuff": "none", "alpha": 0.25}
    assert fault(capsys, "predict", "a.jpg", "--weights", "w", "--alpha", "2") == "--alpha 2: must be from 0 to 1"
    assert "instance, class, contour" in fault(capsys, "predict", "a.jpg", "--weights", "w", "--style", "x")


def test_predict_passes_tiles_and_frames(engine):
    calls = engine("prediction.predict", "predict_files", 0)
    options = ["--weights", "w", "--tile", "512", "--overlap", "64", "--frames"]
    assert main(["predict", "a.tif", "b.mp4", *options]) == 0
    named = calls["predict_files"][1]
    assert (named["tile"], named["overlap"], named["frames"]) == (512, 64, True)


def test_predict_takes_an_exported_file_before_the_images(engine):
    calls = engine("prediction.predict", "predict_files", 0)
    assert main(["predict", "--runtime", "onnx", "a.onnx", "b/", "c.jpg"]) == 0
    positional, named = calls["predict_files"]
    assert positional == ("a.onnx", ["b/", "c.jpg"], Path("predictions"))
    assert named["runtime"] == "onnx"


def test_export_passes_its_options(engine):
    calls = engine("export.export", "export_command", Path("m.xml"))
    assert main(["export", "scenes", "--format", "openvino", "--out", "m.xml"]) == 0
    assert calls["export_command"] == (
        ("scenes", "openvino", "m.xml"),
        {"precision": "float32", "calibration": [], "overwrite": False},
    )


def test_demo_passes_its_options(engine):
    calls = engine("report.demo", "run_demo", Path("page.html"))
    assert main(["demo", "--out", "o", "--scenes", "3", "--weights", "w"]) == 0
    assert calls["run_demo"] == ((Path("o"),), {"weights": "w", "scenes": 3, "device": "auto", "overwrite": False})


@pytest.mark.parametrize(
    ("error", "status", "said"),
    [
        (InputError("a.json: images[3].id:\n  missing"), 2, "banet: error: a.json: images[3].id:\\n missing\n"),
        (
            MissingExtraError("lightning", "train"),
            2,
            "pip install 'banet-panoptic[train]' (in a checkout: '.[train]')\n",
        ),
        (PermissionError(13, "Permission denied", "out/x"), 2, "Permission denied: 'out/x'\n"),
        (BrokenPipeError(32, "Broken pipe"), 2, "Broken pipe\n"),  # to another program, not of what is printed
        (KeyboardInterrupt(), 130, "banet: interrupted\n"),
        (KeyboardInterrupt("stopped at iteration 7"), 130, "banet: stopped at iteration 7\n"),
    ],
)
def test_errors_of_the_engine_are_one_line(engine, capsys, error, status, said):
    engine("report.demo", "run_demo", error)
    assert main(["demo"]) == status
    shown = capsys.readouterr().err
    assert shown.endswith(said)
    assert shown.count("\n") == 1


def test_other_errors_are_not_hidden(engine):
    engine("report.demo", "run_demo", ValueError("a bug"))
    with pytest.raises(ValueError, match="a bug"):
        main(["demo"])


def test_a_reader_that_has_seen_enough_is_no_fault():
    command = [sys.executable, "-m", "banet", "train", "--config", "coco_r50_1x", "--print-config"]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=Path(__file__).parents[1]
    )
    process.stdout.close()
    assert (process.stderr.read(), process.wait(timeout=300)) == ("", 0)


# ------------------------------------------------------------------------------------------------------- pq and scenes


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scenes")
    assert main(["data", "scenes", "--out", str(folder), "--count", "2", "--seed", "5", "--size", "96"]) == 0
    return folder


def test_scenes_are_written_and_repeatable(scenes, tmp_path, capsys):
    with Image.open(next((scenes / "images").iterdir())) as image:
        assert image.size == (96, 96)
    capsys.readouterr()
    assert main(["data", "scenes", "--out", str(tmp_path), "--count", "2", "--seed", "5", "--size", "96"]) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'panoptic.json'}\n"
    assert (tmp_path / "panoptic.json").read_bytes() == (scenes / "panoptic.json").read_bytes()


def pq(truth: Path, prediction: Path, *more: str) -> int:
    gt = ["--gt-json", str(truth / "panoptic.json"), "--gt-dir", str(truth / "panoptic")]
    pred = ["--pred-json", str(prediction / "panoptic.json"), "--pred-dir", str(prediction / "panoptic")]
    return main(["pq", *gt, *pred, *more])


def test_pq_of_the_truth_is_100(scenes, tmp_path, capsys):
    assert pq(scenes, scenes, "--json", str(tmp_path / "pq.json")) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].split()[:4] == ["All", "100.0", "100.0", "100.0"]
    figures = json.loads((tmp_path / "pq.json").read_text())
    assert {"All", "Things", "Stuff", "per_class"} <= set(figures)
    assert figures["All"]["pq"] == 1


def test_pq_writes_null_where_no_class_occurs(tmp_path, capsys):
    folder = tmp_path / "only_stuff"
    (folder / "panoptic").mkdir(parents=True)
    Image.fromarray(np.full((4, 4, 3), (1, 0, 0), np.uint8)).save(folder / "panoptic" / "a.png")
    content = {
        "images": [{"id": 1, "file_name": "a.jpg", "width": 4, "height": 4}],
        "annotations": [
            {
                "image_id": 1,
                "file_name": "a.png",
                "segments_info": [{"id": 1, "category_id": 9, "area": 16, "bbox": [0, 0, 4, 4], "iscrowd": 0}],
            }
        ],
        "categories": [{"id": 9, "name": "sky", "isthing": 0}, {"id": 2, "name": "cup", "isthing": 1}],
    }
    (folder / "panoptic.json").write_text(json.dumps(content))
    assert pq(folder, folder, "--json", str(tmp_path / "pq.json")) == 0
    figures = json.loads((tmp_path / "pq.json").read_text(), parse_constant=lambda name: pytest.fail(name))
    assert figures["Things"]["pq"] is None
    assert figures["Stuff"]["pq"] == 1
    assert capsys.readouterr().out


def test_pq_in_detail(scenes, tmp_path, capsys):
    assert pq(scenes, scenes, "--json", str(tmp_path / "plain.json")) == 0
    plain = capsys.readouterr().out
    assert pq(scenes, scenes, "--details", "--json", str(tmp_path / "pq.json")) == 0
    assert "things by crowding" in (said := capsys.readouterr().out) and said.startswith(plain)
    figures = json.loads((tmp_path / "pq.json").read_text())
    more = {key: figures.pop(key) for key in ("confusion", "by_size", "by_crowding")}
    assert figures == json.loads((tmp_path / "plain.json").read_text())
    assert all(row["truth"] == row["prediction"] for row in more["confusion"])
    assert set(more["by_size"]) == {"small", "medium", "large"}

    assert pq(scenes, scenes, "--amodal", str(scenes / "instances_amodal.json")) == 0
    assert "things by hidden fraction" in capsys.readouterr().out
    assert pq(scenes, scenes, "--amodal", "no.json") == 2
    assert capsys.readouterr().err == "banet: error: no.json: does not exist; check the path\n"


def test_pq_names_the_file_that_is_missing(scenes, capsys):
    said = fault(capsys, "pq", "--gt-json", "no.json", "--gt-dir", "a", "--pred-json", "b", "--pred-dir", "c")
    assert said.startswith("no.json: ")


# -------------------------------------------------------------------------------------------------------------- recipes

# backbone, DFM, S2I, SIM, OCM, rule, lambda_s, lambda_i
PAPER = {
    "coco_r50_1x_baseline": ("resnet50", False, False, False, False, "heuristic", 0.5, 0.0),
    "coco_r50_1x_sim": ("resnet50", False, False, True, False, "heuristic", 0.2, 0.3),
    "coco_r50_1x_sim_ocm": ("resnet50", False, False, True, True, "heuristic", 0.2, 0.3),
    "coco_r50_1x_sim_ocm_s2i": ("resnet50", False, True, True, True, "heuristic", 0.2, 0.3),
    "coco_r50_1x_sim_ocm_s2i_dfm": ("resnet50", True, True, True, True, "heuristic", 0.1, 0.2),
    "coco_r50_1x": ("resnet50", False, True, True, True, "appearance", 0.2, 0.3),
    "coco_r50_dfm_1x": ("resnet50", True, True, True, True, "appearance", 0.1, 0.2),
    "coco_r101_1x_sim_ocm_s2i_dfm": ("resnet101", True, True, True, True, "heuristic", 0.1, 0.2),
    "coco_r101_dfm_1x": ("resnet101", True, True, True, True, "appearance", 0.1, 0.2),
    "coco_dcn101_3x": ("dcn101", True, True, True, True, "appearance", 0.1, 0.2),
}


OTHER_BODIES = {"coco_convnext_t_1x": "convnext_tiny", "coco_dinov2_s_1x": "timm:vit_small_patch14_dinov2"}
SMALL_RECIPES = ("nuclei_lite0", "nuclei_r18", "scenes_r18", "scenes_small")
OTHER_SETS = {"cityscapes_r50": (800, 1024), "ade20k_r50": (512, 640)}  # range of shorter sides


@pytest.mark.parametrize("name", OTHER_SETS)
def test_recipes_of_other_sets_are_the_papers_network(name):
    recipe, paper = load_recipe(name), load_recipe("coco_r50_1x")
    assert (recipe.model, recipe.loss, recipe.train.init) == (paper.model, paper.loss, "imagenet")
    assert (min(recipe.data.shorter), max(recipe.data.shorter)) == OTHER_SETS[name]
    assert recipe.inference.shorter == max(recipe.data.shorter)
    assert recipe.train.milestones[-1] < recipe.train.iterations
    assert recipe.train.lr / recipe.train.batch_size == paper.train.lr / paper.train.batch_size


def test_every_recipe_is_known_here():
    assert set(recipe_names()) == {*PAPER, *OTHER_SETS, *OTHER_BODIES, *SMALL_RECIPES}


@pytest.mark.parametrize("name", OTHER_BODIES)
def test_recipes_of_other_bodies_differ_from_the_paper_in_body_and_optimisation_only(name):
    recipe, paper = load_recipe(name), load_recipe("coco_r50_1x")
    body = {"backbone", "frozen_stages", "drop_path", "fpn_norm"}
    assert recipe.model.backbone == OTHER_BODIES[name] and recipe.train.layer_decay < 1
    assert replace(recipe.model, **{key: getattr(paper.model, key) for key in body}) == paper.model
    assert (recipe.inference, recipe.loss, recipe.data) == (paper.inference, paper.loss, paper.data)
    assert (recipe.train.iterations, recipe.train.milestones) == (paper.train.iterations, paper.train.milestones)


def test_weights_of_this_library_bring_their_network_along(tmp_path):
    (tmp_path / "mine.yaml").write_text("{model: {ocm: false}, train: {init: nuclei}}")
    recipe = load_recipe(str(tmp_path / "mine.yaml"), {"model.i2s_channels": 24}, model_of_weights=True)
    nuclei = read_checkpoint("nuclei").config
    assert recipe.model == replace(nuclei, ocm=False, i2s_channels=24)
    assert load_recipe(str(tmp_path / "mine.yaml")).model == replace(ModelConfig(), ocm=False)
    for init in ("imagenet", "random"):
        plain = load_recipe("coco_r50_1x", {"train.init": init}, model_of_weights=True)
        assert plain.model == ModelConfig()


@pytest.mark.parametrize("name", PAPER)
def test_recipes_are_the_papers(name):
    recipe = load_recipe(name).resolved()
    model, inference, train, data = recipe.model, recipe.inference, recipe.train, recipe.data
    parts = (model.backbone, model.deformable, model.s2i, model.sim, model.ocm, inference.rule)
    assert (*parts, *recipe.loss.semantic_weights(model)) == PAPER[name]
    assert recipe.name == name
    assert (model.norm, model.frozen_stages, train.init) == ("frozen_batch", 2, "imagenet")
    assert (model.fpn_channels, model.semantic_channels, model.mask_head_channels) == (256, (256, 128, 128), 256)
    assert (model.i2s_channels, model.ocm_channels, model.ocm_cells) == (128, 10, (1, 2, 3, 6))

    assert (train.optimizer, train.momentum, train.weight_decay) == ("sgd", 0.9, 1e-4)
    assert (train.batch_size, train.lr, train.warmup, train.warmup_factor) == (16, 0.02, 500, 0.1)
    long = name == "coco_dcn101_3x"
    assert (train.schedule, train.iterations) == ("steps", 270_000 if long else 90_000)
    assert train.milestones == ((180_000, 240_000) if long else (60_000, 80_000))
    assert data.shorter == ((640, 672, 704, 736, 768, 800) if long else (800,))
    assert (data.kind, data.longer, data.flip, data.crop) == ("coco", 1333, 0.5, (0.8, 1.0))

    assert (inference.shorter, inference.longer) == (800, 1333)
    assert (inference.score_threshold, inference.nms_threshold) == (0.6, 0.5)
    assert (inference.max_instances, inference.stuff_area) == (100, 4096)
    assert (inference.ap_score, inference.ap_instances) == (0.05, 100)
    assert (inference.overlap_threshold, inference.removal_threshold) == (0.2, 0.5)


def test_scenes_recipe_starts_from_random_weights_with_a_norm_that_learns():
    recipe = load_recipe("scenes_r18").resolved()
    assert (recipe.data.kind, recipe.train.init, recipe.model.norm) == ("scenes", "random", "group")
    assert recipe.model.backbone == "resnet18"
    assert recipe.inference.stuff_area < 4096


PIXELS = {"scenes_r18": 256**2, "scenes_small": 128**2, "nuclei_r18": 256**2, "nuclei_lite0": 256**2}


@pytest.mark.parametrize(("name", "pixels"), PIXELS.items())
def test_small_recipes_keep_the_papers_fraction_of_stuff_and_train_without_boxes_too(name, pixels):
    recipe = load_recipe(name)
    assert recipe.inference.stuff_area == round(pixels * 4096 / (640 * 480))
    assert recipe.loss.inlay_share == (0.0, 1.0)
    assert load_recipe("coco_r50_1x").loss.inlay_share == (0.6, 1.0)


@pytest.mark.parametrize("name", recipe_names())
def test_recipes_survive_the_round_trip(name, tmp_path):
    recipe = load_recipe(name)
    file = tmp_path / "x.yaml"
    file.write_text(to_yaml(recipe))
    assert load_recipe(str(file)) == recipe


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("- a\n", "a recipe is a list of 'option: value'"),
        ("model: 3\n", "model: give options of this group (backbone, "),
        ("modl: {}\n", "modl: no such option; did you mean model?"),
        ("model: {bakbone: resnet18}\n", "model.bakbone: no such option; did you mean backbone?"),
        ("data: {val: {jsn: x}}\n", "data.val.jsn: no such option; did you mean json?"),
        ("train: {lr: fast}\n", "train.lr: must be a number, not fast"),
        ("train: {lr: [1\n", "not a YAML file: "),
        ("train: {batch_size: 5, accumulate: 2}\n", "train.batch_size: 5 must be a multiple of train.accumulate, 2"),
        ("device: cpu\n", "device: no such option"),
    ],
)
def test_a_bad_recipe_is_one_line_with_file_and_option(capsys, tmp_path, text, said):
    file = tmp_path / "bad.yaml"
    file.write_text(text)
    line = fault(capsys, "train", "--config", str(file), "--print-config")
    assert str(file) in line
    assert said in line


def test_an_empty_recipe_is_all_defaults(tmp_path):
    file = tmp_path / "empty.yaml"
    file.write_text("# nothing\n")
    assert load_recipe(str(file)) == Recipe(name="empty")


def test_recipes_are_short():
    for name in PAPER:
        text = (Path(__file__).parents[1] / "banet" / "configs" / f"{name}.yaml").read_text()
        assert text.startswith("# Table ")
        defaults = yaml.safe_load(to_yaml(Recipe()))
        for section, options in (yaml.safe_load(text) or {}).items():
            for option, value in options.items():
                assert defaults[section][option] != value, f"{name}: {section}.{option} is the default"


# ------------------------------------------------------------------------------------------------------- the README

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")


def test_commands_in_the_page_on_ablation_are_accepted(engine, monkeypatch, tmp_path):
    page = (Path(__file__).parents[1] / "docs" / "how_to" / "studies.md").read_text(encoding="utf-8")
    engine("studies.ablate", "ablate")
    calls = engine("studies.analyze", "analyze_command")
    monkeypatch.chdir(tmp_path)
    Path("study").mkdir()
    Path("study/recipe.yaml").write_text(to_yaml(load_recipe("scenes_r18")))
    lines = [line for block in page.split("```bash\n")[1:] for line in block.split("```")[0].splitlines()]
    assert len(lines) == 4
    for line in lines:
        assert main(shlex.split(line, comments=True)[1:]) == 0, line
    assert calls["ablate"][1]["seeds"] == [0, 1, 2]
    assert calls["analyze_command"][1]["figure"] == Path("figure.png")


def test_recipes_in_the_readme_are_those_there():
    table = README.split("## Recipes")[1].split("## Status")[0]
    names = {name for line in table.splitlines() for name in line.split("`")[1::2]}
    full = {f"coco_r50_1x{name}" if name.startswith("_") else name for name in names}
    assert full - {"make demo"} == set(recipe_names())


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="Linux has a device that is full")
def test_standard_output_on_a_full_disk_is_named(capsys, monkeypatch):
    with contextlib.suppress(OSError), open("/dev/full", "w", encoding="utf-8") as full:
        monkeypatch.setattr(sys, "stdout", full)
        status = main(["models"])
        monkeypatch.undo()
    assert status == 2
    assert capsys.readouterr().err == "banet: error: standard output: cannot be written (No space left on device)\n"

"""What does not fit is said in one line: tasks, folders, names, class tables, files that run code."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("transformers")

import saved

import banet
from banet.composed.classes import ClassTable, ModelClasses, match_classes
from banet.composed.names import NAMED
from banet.composed.pair import Pair
from banet.engine.evaluation.evaluate import open_evaluated
from banet.engine.evaluation.evaluation_data import scene_data
from banet.errors import InputWarning
from banet.inference.postprocess import Instances
from banet.panoptic import MaskCrops


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("models")
    saved.save_eomt(root / "eomt")
    saved.save_eomt(root / "strange", dict(enumerate(["widget", "gadget", "gizmo", "floor", "doohickey"])))
    saved.save_eomt(root / "nameless", {n: f"LABEL_{n}" for n in range(5)})
    saved.save_segformer(root / "semantic")
    saved.save_rf_detr(root / "instance")
    saved.save_classifier(root / "classifier")
    (root / "empty").mkdir()
    saved.save_eomt(root / "cut")
    weights = root / "cut" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:2000])
    saved.save_eomt(root / "no processor")
    (root / "no processor" / "preprocessor_config.json").unlink()
    saved.save_eomt(root / "bad names")
    config = json.loads((root / "bad names" / "config.json").read_text())
    (root / "bad names" / "config.json").write_text(json.dumps({**config, "id2label": ["person"]}))
    (root / "video").mkdir()
    config = {"model_type": "videomt", "architectures": ["VideomtForUniversalSegmentation"]}
    (root / "video" / "config.json").write_text(json.dumps(config))
    return root


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("hf:{}/classifier", "is a model for image classification .*needs panoptic, universal, instance or semantic"),
        ("hf:{}/video", "is a model for video segmentation"),
        ("hf:{}/semantic", "semantic segmentation, which does not tell things apart; name a detector before it"),
        ("hf:{}/instance", "finds things only; name a segmenter for the stuff"),
        ("hf:{}/semantic+hf:{}/semantic", "is a model for semantic segmentation; name a detector before the +"),
        ("hf:{}/instance+hf:{}/instance", "name a segmenter after the +"),
        ("hf:{}/instance+hf:{}/semantic+hf:{}/eomt", "names 3 models"),
        ("hf:{}/empty", "holds no config.json; give a folder that transformers' save_pretrained wrote"),
        ("hf:{}/cut", "cannot be loaded from .*; it is damaged or incomplete"),
        ("hf:{}/nothing", "no such folder, nor a name like OWNER/NAME"),
        ("hf:", "names no model"),
        ("hf:{}/eomt/config.json", "is a file; give the folder"),
        ("torchvision:resnet50+hf:{}/semantic", "is not a model of torchvision for instance or semantic segmentation"),
        ("torchvision:maskrcnn_resnet50_fpn", "finds things only; name a segmenter"),
        ("torchvision:maskrcnn_resnet50_fpn@{}/none.pth+hf:{}/semantic", "none.pth does not exist"),
        ("ultralytics:yolo11n-seg.pt+hf:{}/semantic", "run code when they are loaded; add --trust"),
        ("hf:{}/no processor", "holds no preprocessor_config.json; save the image processor beside the model"),
        ("hf:{}/bad names", r"id2label: must be names by number, not \['person'\]"),
        ("torchvision:deeplabv3_resnet50", "does not tell things apart; name a detector before it"),
        ("torchvision:maskrcnn_resnet50_fpn_v2@{}/eomt+hf:{}/semantic", "are not those of a Mask R-CNN"),
        ("torchvision:fcn_resnet50@{}/eomt", "does not tell things apart"),
        ("rfdetr:base+hf:{}/semantic", "models of rfdetr are not read by name; give RF-DETR as transformers has it"),
        ("timm:resnet50", "models of timm are not read by name; give one of hf:NAME"),
        ("HF:{}/eomt", "models of HF are not read by name; write hf:{}/eomt"),
        ("Coco", r"no such weights; did you mean coco or coco-detr\?"),
        ("nuclie", r"no such weights; did you mean nuclei\?"),
        ("{}/eomt", "was saved by transformers; give hf:{}/eomt"),
        ("hf:{}/strange", "no class is in the table|left out"),
        ("hf:{}/nameless", "none of its classes has a name.*--class-table FILE"),
    ],
)
def test_one_line_says_what_does_not_fit(folder: Path, name: str, said: str) -> None:
    with pytest.warns(InputWarning) if name.endswith("strange") else pytest.raises(banet.InputError) as caught:
        banet.load(name.replace("{}", str(folder)))
    message = str(caught.value) if hasattr(caught, "value") else str(caught[0].message)
    assert re.search(said.replace("+", r"\+").replace("{}", re.escape(str(folder))), message) and "\n" not in message


def test_a_class_table_for_weights_that_need_none_is_refused() -> None:
    with pytest.raises(banet.InputError, match="scenes: a class table matches the classes of other libraries"):
        banet.load("scenes", class_table=ClassTable.default())
    data = scene_data(3, 1, 64)
    assert open_evaluated("scenes", data, "scenes", device="cpu").categories == data.categories
    with pytest.raises(banet.InputError, match="leave it out"):
        open_evaluated("scenes", data, "scenes", device="cpu", class_table="table.json")


@pytest.mark.parametrize(
    "name", [*(named.name for named in NAMED), "hf:a/b", "torchvision:a+hf:b/c", "ultralytics:a.pt"]
)
def test_where_only_weights_of_banet_will_do_it_says_so(name: str) -> None:
    with pytest.raises(banet.InputError, match=r"is a model of another library, not weights of BANet; banet\.load"):
        banet.BANet.from_pretrained(name)


def test_an_extra_that_is_missing_is_named(folder: Path) -> None:
    code = (
        "import sys; sys.modules['transformers'] = None\nfrom banet.cli import main\n"
        f"main(['predict', {str(folder / 'a.png')!r}, '--weights', 'hf:{folder}/eomt'])"
    )
    (folder / "a.png").write_bytes(b"")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=folder, timeout=300)
    assert "banet-panoptic[hf]" in done.stderr and len(done.stderr.splitlines()) == 1


def test_a_class_table_of_ones_own(folder: Path, tmp_path: Path) -> None:
    entries = [
        {"id": 5, "name": "tool", "isthing": 1, "names": ["widget", "gadget"]},
        {"id": 2, "name": "floor", "isthing": 0},
    ]
    (tmp_path / "table.json").write_text(json.dumps(entries))
    with pytest.warns(InputWarning, match="left out: 'gizmo', 'doohickey'"):
        model = banet.load(f"hf:{folder}/strange", class_table=tmp_path / "table.json")
    assert [(c.id, c.name, c.isthing) for c in model.categories] == [(5, "tool", True), (2, "floor", False)]
    result = model.predict(np.zeros((40, 50, 3), np.uint8), score=0.0)
    assert {s.label for s in result.segments} <= {"tool", "floor"}
    entries[1]["names"] = ["widget"]
    (tmp_path / "table.json").write_text(json.dumps(entries))
    with pytest.raises(banet.InputError, match=r"'widget' is a name of 5 .tool. and of 2 .floor."):
        banet.load(f"hf:{folder}/strange", class_table=tmp_path / "table.json")
    (tmp_path / "table.json").write_text('[{"id": 1, "name": "a", "isthing": 1, "names": "b"}]')
    with pytest.raises(banet.InputError, match=r"categories\[0\].names: must be a list of texts"):
        banet.load(f"hf:{folder}/strange", class_table=tmp_path / "table.json")


def test_the_default_table_is_cocos_and_comes_back_from_its_file(tmp_path: Path) -> None:
    table = ClassTable.default()
    assert len(table.categories) == 133 and table.ids["sky"] == 187 and table.ids["tree merged"] == 184
    (tmp_path / "t.json").write_text(json.dumps(table.to_json()))
    again = ClassTable.read(tmp_path / "t.json")
    assert again.categories == table.categories and again.ids == table.ids


def test_classes_of_two_models_are_matched_by_name_and_what_is_not_is_listed() -> None:
    things = ModelClasses.of("A", ["person", "N/A", "unicorn"], isthing=True)
    stuff = ModelClasses.of("B", ["background", "Sky", "person", "plasma"])
    with pytest.warns(InputWarning) as told:
        categories, (of_things, of_stuff) = match_classes(ClassTable.default(), things, stuff)
    assert [str(one.message).partition(";")[0] for one in told] == [
        "A: not in the table of COCO's 133 classes, kept as the model has them: 'unicorn'",
        "B: not in the table of COCO's 133 classes, left out: 'plasma'",
    ]
    assert [c.name for c in categories] == ["person", "unicorn", "sky-other-merged"]
    assert of_things.tolist() == [0, -1, 1] and of_stuff.tolist() == [-1, 2, 0, -1]
    with pytest.raises(banet.InputError, match="'Road' is stuff here but a thing for A"):
        match_classes(
            ClassTable.default(), ModelClasses.of("A", ["road"], isthing=True), ModelClasses.of("B", ["Road"])
        )


def test_an_image_that_the_library_does_not_take_is_one_line(folder: Path) -> None:
    model = banet.load(f"hf:{folder}/eomt")
    with pytest.raises(banet.InputError, match=r"does not take an image of 300x1 \(.*\); cut the image") as caught:
        model.predict(np.zeros((1, 300, 3), np.uint8))  # shrunk to 128x0
    assert "\n" not in str(caught.value)


class Fixed:
    """A detector and a segmenter in one, whose answers have fixed sizes."""

    threshold, domain = 0.5, "drawings"

    def __init__(self, names: list[str], size: tuple[int, int], isthing: bool | None = None) -> None:
        self.classes, self.size = ModelClasses.of(names[0], names, isthing=isthing), size

    def detect(self, images, threshold, most):
        masks = MaskCrops(np.zeros((0, 4), np.int64), [], self.size)
        return [Instances(masks, np.zeros(0), np.zeros(0, np.int64), np.zeros((0, 4), np.float32)) for _ in images]

    def segment(self, images):
        return [np.zeros(self.size, np.int64) for _ in images]


def test_a_pair_must_agree_about_sizes_and_background() -> None:
    image = np.zeros((20, 30, 3), np.uint8)
    good = Pair(Fixed(["person"], (20, 30), True), Fixed(["road"], (20, 30)), ClassTable.default())
    assert [s.label for s in good.predict(image).segments] == ["road"] and good.domain == "drawings"
    bad = Pair(Fixed(["person"], (20, 30), True), Fixed(["road"], (10, 30)), ClassTable.default())
    with pytest.raises(banet.InputError, match="masks of person are 30x20 and those of road 30x10, but the image is"):
        bad.predict(image)
    with pytest.raises(banet.InputError, match="counts 'background' among the things it finds"):
        Pair(Fixed(["person", "background"], (2, 3), True), Fixed(["road"], (2, 3)), ClassTable.default())


def test_a_class_table_may_be_behind_a_url() -> None:
    pytest.importorskip("fsspec")
    with pytest.raises(banet.InputError, match=r"memory://tables/gone\.json: does not exist; check the URL"):
        banet.load("hf:ours/tiny", class_table="memory://tables/gone.json")

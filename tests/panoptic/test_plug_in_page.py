"""The snippets of docs/how_to/plug_in.md that need other libraries run as they are pasted.

Ultralytics, transformers and supervision are used where they are installed, with networks of random weights; what
detectron2, mmdetection and Segment Anything return comes from stand-ins. `tests/test_docs.py` runs the other snippets.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from stand_ins import Boxes, DetDataSample, InstanceData, Instances

from banet.data.scenes import make_scene
from banet.panoptic import make_disjoint, read_detections

PAGE = Path(__file__).parents[2] / "docs" / "how_to" / "plug_in.md"
SNIPPETS = dict(
    re.findall(
        r"^## ([^\n]+)\n(?:(?!^## ).)*?<!-- not run: [^\n]*\n```python\n(.*?)^```$", PAGE.read_text(), re.M | re.S
    )
)


@pytest.fixture
def scene(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """An image with overlapping masks of its things, and street.jpg, which the snippets read."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("YOLO_CONFIG_DIR", str(tmp_path))
    monkeypatch.setenv("YOLO_OFFLINE", "true")
    made = make_scene(3, 3)
    Image.fromarray(made.image).save("street.jpg")
    masks, count = made.masks.copy(), len(made.masks)
    masks[1] |= masks[0]
    rows, columns = masks.any(axis=2), masks.any(axis=1)
    boxes = [[*np.flatnonzero(c)[[0, -1]], *np.flatnonzero(r)[[0, -1]]] for r, c in zip(rows, columns, strict=True)]
    return SimpleNamespace(
        image=made.image,
        masks=masks,
        scores=np.linspace(0.7, 0.9, count),
        labels=np.array([segment.category_id for segment in made.segments[:count]]),
        boxes=np.array(boxes, dtype=np.float32)[:, [0, 2, 1, 3]] + np.array([0, 0, 1, 1], dtype=np.float32),
        semantic=np.array([0, *(segment.category_id for segment in made.segments)])[made.ids],
        categories=made.categories,
    )


def tensors(scene: SimpleNamespace, *names: str) -> list[torch.Tensor]:
    return [torch.from_numpy(getattr(scene, name)) for name in names]


def detectron2(scene: SimpleNamespace) -> dict[str, Any]:
    boxes, scores, labels, masks = tensors(scene, "boxes", "scores", "labels", "masks")
    fields = {"pred_boxes": Boxes(boxes), "scores": scores, "pred_classes": labels, "pred_masks": masks}
    result = Instances(scene.image.shape[:2], **fields)
    return {"bgr": scene.image[..., ::-1], "predictor": lambda bgr: {"instances": result}}


def mmdetection(scene: SimpleNamespace) -> dict[str, Any]:
    names = ("bboxes", "scores", "labels", "masks")
    data = InstanceData(**dict(zip(names, tensors(scene, "boxes", *names[1:]), strict=True)))
    sample = DetDataSample(pred_instances=data)
    return {
        "mmcv": SimpleNamespace(imread=lambda name: np.asarray(Image.open(name))[..., ::-1]),
        "mmdet": SimpleNamespace(apis=SimpleNamespace(inference_detector=lambda model, bgr: sample)),
        "model": None,
    }


def random_yolo(name: str) -> Any:
    """A network of random weights that finds something everywhere, in place of one that is downloaded."""
    import ultralytics

    torch.manual_seed(0)
    model = ultralytics.YOLO(name.replace(".pt", ".yaml"), verbose=False)
    with torch.no_grad():
        for part in model.model.model[-1].modules():
            if isinstance(part, torch.nn.Conv2d) and part.bias is not None:
                part.weight.mul_(3)
                part.bias.normal_()
    model.overrides |= {"imgsz": 64, "conf": 1e-3, "iou": 0.9, "max_det": 8, "verbose": False, "save": False}
    return model


def ultralytics(scene: SimpleNamespace) -> dict[str, Any]:
    pytest.importorskip("ultralytics")
    return {"ultralytics": SimpleNamespace(YOLO=random_yolo)}


def with_a_segmenter(scene: SimpleNamespace) -> dict[str, Any]:
    first_things = [category.id for category in scene.categories if category.isthing]
    ids = [first_things[k % len(first_things)] for k in range(80)]  # of YOLO's classes
    return {
        **ultralytics(scene),
        **{name: getattr(scene, name) for name in ("image", "semantic", "categories")},
        "ids_of_yolo": ids,
    }


def transformers(scene: SimpleNamespace) -> dict[str, Any]:
    library = pytest.importorskip("transformers")
    generator = torch.Generator().manual_seed(0)
    outputs = SimpleNamespace(
        class_queries_logits=torch.randn(1, 8, 6, generator=generator),
        masks_queries_logits=torch.randn(1, 8, 16, 16, generator=generator),
    )
    post_process = library.Mask2FormerImageProcessor().post_process_instance_segmentation
    return {
        "np": np,
        "image": Image.fromarray(scene.image),
        "outputs": outputs,
        "processor": SimpleNamespace(post_process_instance_segmentation=partial(post_process, threshold=0.0)),
    }


def supervision(scene: SimpleNamespace) -> dict[str, Any]:
    library = pytest.importorskip("supervision")
    results = pytest.importorskip("ultralytics.engine.results").Results
    boxes = np.column_stack([scene.boxes, scene.scores, scene.labels])
    names = {number: f"class {number}" for number in range(100)}
    result = results(
        scene.image[..., ::-1].copy(), "a.jpg", names, torch.from_numpy(boxes), torch.from_numpy(scene.masks)
    )
    return {"supervision": library, "result": result, "image": scene.image}


def segment_anything(scene: SimpleNamespace) -> dict[str, Any]:
    found = [
        {"segmentation": mask, "area": int(mask.sum()), "bbox": [0, 0, 1, 1], "predicted_iou": float(score)}
        for mask, score in zip(scene.masks, scene.scores, strict=True)
    ]
    return {
        "SamAutomaticMaskGenerator": lambda sam: SimpleNamespace(generate=lambda image: found),
        "sam": None,
        "image": scene.image,
    }


CASES: dict[str, tuple[Callable[[SimpleNamespace], dict[str, Any]], str]] = {
    "detectron2": (detectron2, "instances"),
    "mmdetection": (mmdetection, "sample"),
    "Ultralytics": (ultralytics, "result"),
    "transformers": (transformers, "result"),
    "With a semantic segmenter": (with_a_segmenter, ""),
    "supervision": (supervision, "detections"),
    "Segment Anything": (segment_anything, "masks"),
}
"""What a reader has at the snippet of each section, and the name of the result that must be disjoint after it."""


@pytest.mark.parametrize("section", SNIPPETS)
def test_a_pasted_snippet_runs(section: str, scene: SimpleNamespace) -> None:
    given, result = CASES[section]
    names = {"make_disjoint": make_disjoint, **given(scene)}
    exec(compile(SNIPPETS[section], f"{PAGE}: {section}", "exec"), names)
    if result:
        masks = read_detections(names[result]).masks
        assert masks.sum(axis=0).max() == 1


def test_every_snippet_of_the_page_has_a_case() -> None:
    assert set(SNIPPETS) == set(CASES)
    assert len(SNIPPETS) == PAGE.read_text(encoding="utf-8").count("<!-- not run: ")

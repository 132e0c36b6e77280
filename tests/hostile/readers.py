"""Everything that reads files from outside: a small set of whole files for each, and what must hold of an answer."""

from __future__ import annotations

import base64
import importlib
import io
import json
import shutil
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mutate import (
    Damage,
    damage_bytes,
    damage_json,
    damage_lines,
    damage_png,
    damage_safetensors,
    damage_xml,
    damage_yaml,
    damage_zip,
)
from mutate_images import damage_directory, damage_gif, damage_jp2, damage_metadata, damage_onnx
from PIL import Image

from banet import BANet
from banet.checkpoint.warm_start import initialize
from banet.data.check import check_splits, find_splits
from banet.data.coco_panoptic import CocoPanoptic
from banet.data.convert.cells import convert_cells
from banet.data.convert.cityscapes import convert_cityscapes
from banet.data.convert.coco import convert_coco, convert_datumaro
from banet.data.convert.cvat import convert_cvat
from banet.data.convert.label_studio import convert_label_studio
from banet.data.convert.labelme import convert_labelme
from banet.data.convert.mapillary import convert_mapillary
from banet.data.convert.maps import convert_ade20k, convert_maps
from banet.data.convert.voc import convert_voc
from banet.data.convert.yolo import convert_yolo
from banet.data.export.coco_instances import CocoInstances
from banet.data.export.source import ExportSource, export
from banet.data.images import decode_image, image_size, list_images, to_rgb_array
from banet.data.scenes.collage import InstanceSet, make_collage
from banet.data.scenes.generate import SCENE_CATEGORIES, write_coco
from banet.engine.export import runtime
from banet.engine.export.runtime import HEADER, OUTPUTS, ExportedModel, read_header, write_header
from banet.engine.options import load_recipe
from banet.engine.prediction.fuse import fuse_files
from banet.engine.recipe import Recipe, to_yaml
from banet.files.worker import Budget, untrusted_files
from banet.modeling.config import InferenceConfig
from banet.panoptic import PanopticSegmentation
from banet.panoptic.coco.annotations import PanopticJson, read_categories
from banet.panoptic.coco.png import read_ids, read_labels, write_ids
from banet.panoptic.id_maps import measure_ids
from banet.panoptic.metrics.breakdown import score_folders_in_detail

sys.path += [str(Path(__file__).parents[1] / "data"), str(Path(__file__).parents[1])]  # `fuzz.py` runs alone
import factories
import miniatures
import tool_files

Files = Mapping[str, Damage]
"""Files that are damaged, by pattern within the reader's folder, and how."""


@dataclass(frozen=True)
class Reader:
    """One of them.

    Attributes:
        make: writes whole files into an empty folder; given also a folder of real data, or None.
        read: reads them, given the folder and the damaged one, and asks that what comes is sound. Writes to the folder
            `out` inside, if anywhere.
        files: what is damaged, and how.
        share: how often its turn comes, beside the others.
    """

    make: Callable[[Path, Path | None], object]
    read: Callable[[Path, Path], object]
    files: Files
    share: int = 10


# ------------------------------------------------------------------------------------------------------- whole files


def _pictures(folder: Path, real: Path | None) -> None:
    if real:
        photo = Image.open(min((real / "coco_panoptic" / "images").glob("*.jpg"))).convert("RGB").resize((160, 120))
    else:
        photo = Image.fromarray(miniatures.shapes(0)[0])
    exif = Image.Exif()
    exif[0x0112] = 6
    photo.save(folder / "a.jpg", exif=exif)
    photo.save(folder / "progressive.jpg", progressive=True)
    photo.convert("CMYK").save(folder / "cmyk.jpg")
    photo.save(folder / "a.png")
    photo.convert("I;16").save(folder / "deep.png")
    photo.quantize(16).save(folder / "palette.png", transparency=3)
    for compression in ("tiff_lzw", "jpeg", "tiff_adobe_deflate"):
        photo.save(folder / f"{compression}.tiff", compression=compression)
    photo.save(folder / "lossless.webp", lossless=True)
    photo.save(folder / "a.gif", save_all=True, append_images=[photo.rotate(90)])
    for suffix in ("bmp", "ppm", "webp", "avif", "jp2"):
        if Image.registered_extensions().get(f".{suffix}") in Image.SAVE:
            photo.save(folder / f"a.{suffix}")


def _maps(folder: Path, real: Path | None) -> None:
    rng = np.random.default_rng(0)
    ids = np.kron(rng.integers(0, 2**24, (4, 5)), np.ones((9, 11), np.int64)).astype(np.int32)
    if real:
        shutil.copy(min((real / "coco_panoptic" / "panoptic").glob("*.png")), folder / "real_ids.png")
        shutil.copy(min((real / "camvid" / "train" / "labels").glob("*.png")), folder / "real_labels.png")
    write_ids(folder / "a_ids.png", ids)
    Image.fromarray(ids.astype(np.uint16)).save(folder / "deep_labels.png")
    Image.fromarray(ids.astype(np.uint8)).save(folder / "a_labels.png")
    Image.fromarray(ids.astype(np.uint8)).convert("P").save(folder / "palette_labels.png")


def _panoptic(folder: Path, real: Path | None) -> None:
    if real is None:
        write_coco(folder, 0, 3, miniatures.SIZE)
        return
    write_coco(folder, 0, 2, miniatures.SIZE)
    source, content = real / "coco_panoptic", json.loads((real / "coco_panoptic" / "panoptic.json").read_text())
    images = sorted(content["images"], key=lambda info: info["width"] * info["height"])[:2]
    names = {info["id"]: info["file_name"] for info in images}
    content["images"] = images
    content["annotations"] = [one for one in content["annotations"] if one["image_id"] in names]
    shutil.rmtree(folder / "images")
    shutil.rmtree(folder / "panoptic")
    for kind, files in (
        ("images", names.values()),
        ("panoptic", [one["file_name"] for one in content["annotations"]]),
    ):
        (folder / kind).mkdir()
        for name in files:
            shutil.copy(source / kind / name, folder / kind / name)
    (folder / "panoptic.json").write_text(json.dumps(content))


def _scenes(folder: Path, real: Path | None) -> None:
    write_coco(folder, 0, 3, miniatures.SIZE)


def _instances(folder: Path, real: Path | None) -> None:
    """Instances that overlap, and label maps of stuff; results of a detector beside them."""
    write_coco(folder, 0, 3, miniatures.SIZE)
    panoptic = json.loads((folder / "panoptic.json").read_text())
    content = json.loads((folder / "instances_amodal.json").read_text())
    results = [
        {key: one[key] for key in ("image_id", "category_id", "segmentation", "bbox")} | {"score": 0.9}
        for one in content["annotations"]
    ]
    square = {"segmentation": [[5, 5, 50, 6, 49.5, 50, 6, 51.25]], "bbox": [5, 5, 45, 46], "area": 2000, "iscrowd": 0}
    first = content["annotations"][0]
    content["annotations"].append({**first, **square, "id": 99})
    results.append({**results[0], **square})
    (folder / "labels").mkdir()
    if real:
        source = json.loads((real / "coco_instances" / "instances.json").read_text())
        info = source["images"][0]
        shutil.copy(real / "coco_instances" / "images" / info["file_name"], folder / "images" / "real.jpg")
        Image.new("L", (info["width"], info["height"])).save(folder / "labels" / "real.png")
        content["images"].append({**info, "id": 77, "file_name": "real.jpg"})
        content["annotations"] += [
            {**one, "image_id": 77, "category_id": first["category_id"]}
            for one in source["annotations"]
            if one["image_id"] == info["id"]
        ]
    stuff = {c["id"] for c in panoptic["categories"] if not c["isthing"]}
    for one in panoptic["annotations"]:
        ids = read_ids(folder / "panoptic" / one["file_name"])
        labels = np.zeros(ids.shape, np.uint8)
        for segment in one["segments_info"]:
            if segment["category_id"] in stuff:
                labels[ids == segment["id"]] = segment["category_id"]
        Image.fromarray(labels).save(folder / "labels" / one["file_name"])
    (folder / "instances.json").write_text(json.dumps(content))
    (folder / "results.json").write_text(json.dumps(results))
    (folder / "wrapped.json").write_text(json.dumps({"annotations": results}))
    (folder / "classes.json").write_text(json.dumps(panoptic["categories"]))


def _label_maps(folder: Path, real: Path | None) -> None:
    miniatures.ade20k(folder, "training", 5, 2)
    names = [{"id": n, "name": name, "isthing": n > 3} for n, name in enumerate(miniatures.ADE_CLASSES, 1)]
    (folder / "classes.json").write_text(json.dumps(names))
    (folder / "numbers").mkdir()
    for path in (folder / "annotations_instance" / "training").glob("*.png"):
        Image.fromarray(np.asarray(Image.open(path))[..., 1]).save(folder / "numbers" / path.name)


CVAT = """<?xml version="1.0" encoding="utf-8"?>
<annotations>
  <image id="0" name="x.jpg" width="40" height="30">
    <polygon label="ground" points="0,0;40,0;40,30;0,30" z_order="0"></polygon>
    <polygon label="a" points="2.0,3.0;10.0,3.0;10.0,9.0;2.0,9.0" z_order="1"></polygon>
    <box label="a" xtl="6" ytl="5" xbr="16" ybr="15" z_order="2" group_id="1"></box>
    <ellipse label="b" cx="30" cy="20" rx="6" ry="3" rotation="90" z_order="0"></ellipse>
    <mask label="b" rle="1, 1, 1, 3" left="20" top="2" width="3" height="2" z_order="0"></mask>
  </image>
</annotations>
"""


def _cvat(folder: Path, real: Path | None) -> None:
    Image.new("RGB", (40, 30)).save(folder / "x.jpg")
    (folder / "annotations.xml").write_text(CVAT)


def _labelme(folder: Path, real: Path | None) -> None:
    miniatures.labelme(folder, 3, 2)
    png = io.BytesIO()
    Image.fromarray(np.array([[255, 0, 255], [255, 255, 255]], np.uint8)).save(png, "PNG")
    mask = base64.b64encode(png.getvalue()).decode()
    path = folder / "0.json"
    content = json.loads(path.read_text())
    content["shapes"] += [
        {"label": "disc", "points": [[60, 50], [60, 55]], "shape_type": "circle", "group_id": 3},
        {"label": "plate", "points": [[2, 52], [9, 60]], "shape_type": "rectangle"},
        {"label": "drawn", "points": [[20, 60], [22, 61]], "shape_type": "mask", "mask": mask},
    ]
    path.write_text(json.dumps(content))


TINY = factories.TINY.model


def tiny_model() -> BANet:
    """A network of the smallest backbone, with random weights."""
    torch.manual_seed(0)
    limits = InferenceConfig(shorter=32, longer=64, proposals=20, score_threshold=0.05, stuff_area=4)
    return BANet(SCENE_CATEGORIES, TINY, limits).eval()


def _weights(folder: Path, real: Path | None) -> None:
    tiny_model().save_pretrained(folder / "a.safetensors", half=True)


def _pickles(folder: Path, real: Path | None) -> None:
    state = tiny_model().state_dict()
    state = {name: tensor for name, tensor in state.items() if not name.startswith("backbone.body.layer")}
    torch.save(state, folder / "new.pth")
    torch.save({"model": state}, folder / "old.pth", _use_new_zipfile_serialization=False)


# ----------------------------------------------------------------------------------------------------------- readers


def _sound(result: PanopticSegmentation) -> None:
    result.check()
    areas = sum(segment.area for segment in result.segments)
    assert areas + np.count_nonzero(result.ids == 0) == result.ids.size


def _read_pictures(folder: Path, damaged: Path) -> None:
    assert damaged in list_images([str(folder)])
    size = image_size(damaged)
    array = to_rgb_array(damaged)
    assert array.dtype == np.uint8 and array.shape[2] == 3 and sorted(array.shape[:2]) == sorted(size)
    assert np.array_equal(array, np.asarray(decode_image(damaged.read_bytes(), damaged.name)))


def _read_maps(folder: Path, damaged: Path) -> None:
    if "ids" in damaged.name:
        ids = read_ids(damaged)
        _, areas, _ = measure_ids(ids)
        assert ids.dtype == np.int32 and ids.min() >= 0 and ids.max() < 2**24
        assert areas.sum() == np.count_nonzero(ids)
    else:
        labels, top = read_labels(damaged)
        assert labels.dtype == np.int32 and labels.min() >= 0 and labels.max() <= top


def _read_panoptic(folder: Path, damaged: Path) -> None:
    content = PanopticJson.read(folder / "panoptic.json")
    for image_id, annotation in content.annotations.items():
        _sound(
            PanopticSegmentation.from_annotation(
                annotation, folder / "panoptic", content.categories, image=content.images[image_id]
            )
        )


def _read_dataset(folder: Path, damaged: Path) -> None:
    dataset = CocoPanoptic(folder / "images", folder / "panoptic", folder / "panoptic.json")
    for index in range(len(dataset)):
        sample = dataset[index]
        assert sample.image.shape[1:] == sample.target.semantic.shape == sample.target.instances.shape
        assert len(sample.target.boxes) == len(sample.target.labels)


def _check_dataset(folder: Path, damaged: Path) -> None:
    report = check_splits(find_splits(folder))
    assert all(finding.what and "\n" not in finding.what for finding in report.findings)
    assert str(report)
    json.dumps(report.to_json(), allow_nan=False)


def _score(folder: Path, damaged: Path) -> None:
    pair = (folder / "panoptic.json", folder / "panoptic")
    quality, _ = score_folders_in_detail(*pair, *pair)
    assert all(not row["fp"] and not row["fn"] for row in quality.compute()["per_class"].values())


def _score_amodal(folder: Path, damaged: Path) -> None:
    pair = (folder / "panoptic.json", folder / "panoptic")
    score_folders_in_detail(*pair, *pair, amodal=folder / "instances_amodal.json")


def _converted(path: Path) -> None:
    content = PanopticJson.read(path)
    for image_id, annotation in content.annotations.items():
        _sound(
            PanopticSegmentation.from_annotation(
                annotation, path.parent / "panoptic", content.categories, image=content.images[image_id]
            )
        )


def _convert_coco(folder: Path, damaged: Path) -> None:
    options: dict[str, Any] = {"stuff": folder / "labels", "categories": folder / "classes.json", "overlaps": "area"}
    _converted(convert_coco(folder / "images", folder / "instances.json", folder / "out", **options))


def _collage(folder: Path, damaged: Path) -> None:
    instances = InstanceSet(folder / "instances.json", folder / "images")
    scene = make_collage(instances, list_images([str(folder / "images")]), 0, 0)
    assert scene.ids.shape == scene.image.shape[:2]


def _fuse(folder: Path, damaged: Path, *, file: str) -> None:
    options: dict[str, Any] = {"json": folder / "panoptic.json", "stuff_area": 4}
    _converted(fuse_files(folder / file, folder / "labels", folder / "images", folder / "out", **options).json)


def _read_weights(folder: Path, damaged: Path) -> None:
    model = BANet.from_pretrained(folder / "a.safetensors")
    result = model.predict(np.random.default_rng(0).integers(0, 256, (40, 56, 3), np.uint8))
    _sound(result)


MODEL = tiny_model()


def _read_pickle(folder: Path, damaged: Path) -> None:
    initialize(MODEL, str(damaged))


def _read_recipe(folder: Path, damaged: Path) -> None:
    recipe = load_recipe(str(folder / "a.yaml"))
    (folder / "out").mkdir(exist_ok=True)
    (folder / "out" / "again.yaml").write_text(to_yaml(recipe), encoding="utf-8")
    assert load_recipe(str(folder / "out" / "again.yaml")) == recipe


def _read_header(folder: Path, damaged: Path) -> None:
    read_header((folder / "header.json").read_text("utf-8", "replace"), folder / "header.json")


def _convert_labelme(folder: Path, damaged: Path) -> None:
    _converted(convert_labelme(folder, folder / "out", stuff=["sky", "field"], overlaps="area"))


IMAGES: Files = {"images/*": damage_bytes}


def _cells(folder: Path, _: Path | None) -> None:
    for name in "ab":
        tool_files.photo(folder / f"images/{name}.png")
    tool_files.cellpose(folder / "images/a_seg.npy", tool_files.CELLS.astype(np.uint32))
    Image.fromarray(tool_files.SMALL.astype(np.uint16)).save(folder / "images/b_masks.tif", compression="tiff_lzw")


def _export(folder: Path, _: Path) -> None:
    source = ExportSource(folder / "images", folder / "panoptic", folder / "panoptic.json")
    export(source, folder / "out", CocoInstances(polygons=True))


def _graph(folder: Path, real: Path | None) -> None:
    """Write a network that finds one thing in whatever it is shown, as `banet export` would."""
    onnx = importlib.import_module("onnx")
    make, types = onnx.helper, onnx.TensorProto
    values = {
        "boxes": np.array([[2, 2, 30, 30]], np.float32),
        "scores": np.array([0.9], np.float32),
        "labels": np.array([0], np.int64),
        "masks": np.ones((1, 28, 28), np.float32),
        "classes": np.zeros((1, len(SCENE_CATEGORIES), 1, 1), np.float32),
        "quarter": np.array([1, 1, 0.25, 0.25], np.float32),
    }
    nodes = [
        make.make_node("Cast", ["image"], ["float"], to=types.FLOAT),
        make.make_node("ReduceMean", ["float"], ["grey"], axes=[1], keepdims=1),
        make.make_node("Resize", ["grey", "", "quarter"], ["small"], mode="nearest"),
        make.make_node("Add", ["small", "classes"], ["logits"]),
        *(make.make_node("Identity", [f"{name}_"], [name]) for name in ("boxes", "scores", "labels", "masks")),
    ]
    known = [
        onnx.numpy_helper.from_array(value, name if name in ("classes", "quarter") else f"{name}_")
        for name, value in values.items()
    ]
    image = make.make_tensor_value_info("image", types.UINT8, [1, 3, "H", "W"])
    outputs = [
        make.make_tensor_value_info(name, types.INT64 if name == "labels" else types.FLOAT, None) for name in OUTPUTS
    ]
    graph = make.make_graph(nodes, "g", [image], outputs, known)
    model = make.make_model(graph, opset_imports=[make.make_opsetid("", 17)], ir_version=9)
    header = write_header(SCENE_CATEGORIES, InferenceConfig(shorter=64, longer=64, score_threshold=0.5, stuff_area=4))
    onnx.helper.set_model_props(model, {HEADER: header})
    onnx.save(model, folder / "a.onnx")


def _run_graph(folder: Path, damaged: Path) -> None:
    runtime._UNTRUSTED = Budget(1 << 30, 5)
    with untrusted_files():
        model = ExportedModel.open(folder / "a.onnx", isolated=True)
        _sound(model.predict(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)))


def _metadata(folder: Path, real: Path | None) -> None:
    photo = Image.fromarray(miniatures.shapes(0)[0])
    for suffix in ("png", "jpg", "webp"):
        photo.save(folder / f"a.{suffix}")


READERS: dict[str, Reader] = {
    "structure of images": Reader(
        _pictures,
        _read_pictures,
        {"*.tiff": damage_directory, "*.gif": damage_gif, "*.jp2": damage_jp2},
        20,
    ),
    "metadata": Reader(_metadata, _read_pictures, {"*": damage_metadata}),
    "pictures": Reader(_pictures, _read_pictures, {"*.png": damage_png, "*.[!p]*": damage_bytes}, 40),
    "id and label maps": Reader(_maps, _read_maps, {"*.png": damage_png}, 20),
    "panoptic JSON": Reader(_panoptic, _read_panoptic, {"panoptic.json": damage_json, "panoptic/*": damage_png}),
    "data set": Reader(_panoptic, _read_dataset, {"panoptic.json": damage_json, "panoptic/*": damage_png, **IMAGES}),
    "data check": Reader(_panoptic, _check_dataset, {"panoptic.json": damage_json, "panoptic/*": damage_png, **IMAGES}),
    "pq": Reader(_scenes, _score, {"panoptic.json": damage_json, "panoptic/*": damage_png}),
    "pq --amodal": Reader(_scenes, _score_amodal, {"instances_amodal.json": damage_json}),
    "convert coco": Reader(
        _instances,
        _convert_coco,
        {"instances.json": damage_json, "classes.json": damage_json, "labels/*": damage_png, **IMAGES},
    ),
    "collage": Reader(_instances, _collage, {"instances.json": damage_json, **IMAGES}),
    "fuse": Reader(
        _instances,
        partial(_fuse, file="results.json"),
        {"results.json": damage_json, "panoptic.json": damage_json, "labels/*": damage_png, **IMAGES},
    ),
    "fuse, wrapped": Reader(_instances, partial(_fuse, file="wrapped.json"), {"wrapped.json": damage_json}, 5),
    "convert cityscapes": Reader(
        lambda folder, _: miniatures.cityscapes(folder, "val", 5),
        lambda folder, _: _converted(convert_cityscapes(folder, "val", folder / "out")),
        {"gtFine/val/*/*instanceIds.png": damage_png, "leftImg8bit/val/*/*": damage_png},
        5,
    ),
    "convert ade20k": Reader(
        _label_maps,
        lambda folder, _: _converted(convert_ade20k(folder, "training", folder / "out")),
        {"*.txt": damage_lines, "annotations*/training/*": damage_png, "images/training/*": damage_bytes},
        5,
    ),
    "convert maps": Reader(
        _label_maps,
        lambda folder, _: _converted(
            convert_maps(
                folder / "images" / "training",
                folder / "annotations" / "training",
                folder / "classes.json",
                folder / "out",
                instances=folder / "numbers",
            )
        ),
        {"classes.json": damage_json, "numbers/*": damage_png, "annotations/training/*": damage_png},
        5,
    ),
    "convert labelme": Reader(_labelme, _convert_labelme, {"*.json": damage_json, "*.png": damage_png}),
    "convert cvat": Reader(
        _cvat,
        lambda folder, _: _converted(
            convert_cvat(folder / "annotations.xml", folder, folder / "out", stuff=["ground"], overlaps="area")
        ),
        {"annotations.xml": damage_xml},
    ),
    "convert yolo": Reader(
        lambda folder, _: tool_files.yolo(folder, 3 * tool_files.SQUARE + "1 0 0 1 0 1 0.05\n"),
        lambda folder, _: _converted(convert_yolo(folder / "data.yaml", "train", folder / "out")),
        {"labels/train/deep/a.txt": damage_lines, "data.yaml": damage_yaml},
        5,
    ),
    "convert voc": Reader(
        lambda folder, _: tool_files.voc(folder, rgb=True),
        lambda folder, _: _converted(convert_voc(folder, "train", folder / "out")),
        {"Segmentation*/*.png": damage_png, "*.txt": damage_lines, "ImageSets/Segmentation/*.txt": damage_lines},
        5,
    ),
    "convert label-studio": Reader(
        lambda folder, _: tool_files.tasks(
            folder,
            tool_files.POLYGON,
            tool_files.result(
                "brushlabels", {"rle": tool_files.brush(tool_files.box(30, 20, 38, 28)), "labels": ["x"]}
            ),
        ),
        lambda folder, _: _converted(
            convert_label_studio(folder / "export.json", folder / "photos", folder / "out", overlaps="area")
        ),
        {"export.json": damage_json},
    ),
    "convert mapillary": Reader(
        lambda folder, _: tool_files.mapillary(folder, "v1.2", panoptic=False),
        lambda folder, _: _converted(convert_mapillary(folder, "training", folder / "out", version="v1.2")),
        {"config_v1.2.json": damage_json, "training/v1.2/instances/*": damage_png},
        5,
    ),
    "convert datumaro": Reader(
        lambda folder, _: tool_files.datumaro(folder, "panoptic"),
        lambda folder, _: _converted(convert_datumaro(folder, "train", folder / "out", stuff=["sky"])),
        {"annotations/*.json": damage_json, "annotations/panoptic_train/*": damage_png},
        5,
    ),
    "convert cells": Reader(
        _cells,
        lambda folder, _: _converted(convert_cells(folder / "images", folder / "out")),
        {"images/*.npy": damage_bytes, "images/*.tif": damage_bytes},
    ),
    "export": Reader(_panoptic, _export, {"panoptic.json": damage_json, "panoptic/*": damage_png}),
    "classes": Reader(
        lambda folder, _: (folder / "classes.json").write_text(json.dumps(SCENE_CATEGORIES.to_coco())),
        lambda folder, _: read_categories(folder / "classes.json"),
        {"classes.json": damage_json},
        5,
    ),
    "recipe": Reader(
        lambda folder, _: (folder / "a.yaml").write_text(to_yaml(Recipe(name="a").resolved())),
        _read_recipe,
        {"a.yaml": damage_yaml},
    ),
    "weights": Reader(_weights, _read_weights, {"a.safetensors": damage_safetensors}, 10),
    "checkpoint": Reader(_pickles, _read_pickle, {"new.pth": damage_zip, "old.pth": damage_bytes}),
    "exported network": Reader(_graph, _run_graph, {"a.onnx": damage_onnx}, 1),
    "exported header": Reader(
        lambda folder, _: (folder / "header.json").write_text(write_header(SCENE_CATEGORIES, InferenceConfig())),
        _read_header,
        {"header.json": damage_json},
        5,
    ),
}

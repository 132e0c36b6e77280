"""Small files as other tools write them: Ultralytics, Pascal VOC, CVAT, Label Studio, Mapillary, datumaro, Cellpose."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
from miniatures import read_back
from numpy.typing import NDArray
from PIL import Image

from banet.cli import main
from banet.data.convert.voc import voc_colors
from banet.panoptic.coco.png import write_ids

SIZE = (30, 40)


def photo(path: Path, size: tuple[int, int] = SIZE) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(len(path.name)).integers(0, 256, (*size, 3), dtype=np.uint8)
    Image.fromarray(noise).save(path)
    return path


def box(x1: int, y1: int, x2: int, y2: int) -> NDArray[np.bool_]:
    mask = np.zeros(SIZE, bool)
    mask[y1:y2, x1:x2] = True
    return mask


def convert(*words: object) -> int:
    return main([str(word) for word in ["data", "convert", *words]])


def found(out: Path, name: str) -> dict[str, list[NDArray[np.bool_]]]:
    """The masks of an image by the names of their classes; crowds under NAME*."""
    result = read_back(out)[name]
    masks: dict[str, list[NDArray[np.bool_]]] = {}
    for segment in result.segments:
        name = result.categories.by_id(segment.category_id).name + "*" * segment.iscrowd
        masks.setdefault(name, []).append(result.ids == segment.id)
    return masks


def same(found: list[NDArray[np.bool_]], *masks: NDArray[np.bool_]) -> None:
    assert sorted(mask.tobytes() for mask in found) == sorted(mask.tobytes() for mask in masks)


def yolo(root: Path, labels: str, **fields: Any) -> Path:
    photo(root / "images/train/deep/a.png")
    (root / "labels/train/deep").mkdir(parents=True)
    (root / "labels/train/deep/a.txt").write_text(labels)
    photo(root / "images/train/empty.jpg")
    content = {"path": ".", "train": "images/train", "val": ["images/train"], "names": {0: "cup", 1: "sky"}, **fields}
    (root / "data.yaml").write_text(json.dumps(content))
    return root / "data.yaml"


SQUARE = "0 0.1 0.1 0.5 0.1 0.5 0.5 0.1 0.5\n"


def voc(root: Path, *, rgb: bool = False) -> Path:
    """A person and a cat with outlines of 255, as palette PNGs, or in colours as CVAT and datumaro write them."""
    photo(root / "JPEGImages/2007_000032.jpg")
    labels, numbers = np.zeros(SIZE, np.uint8), np.zeros(SIZE, np.uint8)
    labels[4:20, 4:20], numbers[4:20, 4:20] = 255, 255
    labels[5:19, 5:19], numbers[5:19, 5:19] = 15, 1
    labels[10:25, 25:35], numbers[10:25, 25:35] = 8, 2
    labels[0], numbers[0] = 8, 0
    colors = voc_colors()
    for name, values in (("SegmentationClass", labels), ("SegmentationObject", numbers)):
        (root / name).mkdir()
        picture = Image.fromarray(values)
        if rgb:
            table = colors.copy()
            table[255] = 0  # datumaro has no outline
            picture = Image.fromarray(table[values])
        else:
            picture = Image.frombytes("P", picture.size, picture.tobytes())
            picture.putpalette(colors.tobytes())
        picture.save(root / name / "2007_000032.png")
    (root / "ImageSets/Segmentation").mkdir(parents=True)
    (root / "ImageSets/Segmentation/train.txt").write_text("2007_000032\n")
    if rgb:
        rows = ["# label:color_rgb:parts:actions", "background:0,0,0::", "cat:64,0,0::", "person:192,128,128:head:jump"]
        (root / "labelmap.txt").write_text("\n".join(rows))
    return root


def brush(mask: NDArray[np.bool_], singles: bool = False) -> list[int]:
    """Run lengths of a brush, coded bit by bit, slowly: runs of up to 256 values, or value by value in groups."""
    values = np.repeat(mask.ravel().astype(int) * 255, 4).tolist()
    bits = f"{len(values):032b}{7:05b}" + "".join(f"{size - 1:04b}" for size in (3, 4, 8, 16))
    at = 0
    while at < len(values):
        end = at + 1
        while end < len(values) and end - at < (8 if singles else 256) and (singles or values[end] == values[at]):
            end += 1
        if singles:
            bits += f"000{end - at - 1:03b}" + "".join(f"{value:08b}" for value in values[at:end])
        else:
            bits += f"110{end - at - 1:08b}{values[at]:08b}"
        at = end
    bits += "0" * (-len(bits) % 8)
    return [int(bits[k : k + 8], 2) for k in range(0, len(bits), 8)]


def result(kind: str, value: dict[str, Any], **fields: Any) -> dict[str, Any]:
    return {
        "id": json.dumps(value),
        "type": kind,
        "value": value,
        "from_name": "label",
        "to_name": "image",
        "image_rotation": 0,
        "original_width": 40,
        "original_height": 30,
        **fields,
    }


POLYGON = result("polygonlabels", {"points": [[10, 10], [50, 10], [50, 50], [10, 50]], "polygonlabels": ["cup"]})


def tasks(tmp_path: Path, *results: dict[str, Any], image: str = "/data/upload/3/0a1b2c3d-my%20cup.png") -> Path:
    photo(tmp_path / "photos/my cup.png")
    content = [
        {
            "id": 7,
            "data": {"text": "a cup", "image": image},
            "annotations": [
                {"id": 1, "was_cancelled": True, "result": [{}]},
                {"id": 2, "was_cancelled": False, "updated_at": "2024-01-02", "result": list(results)},
                {"id": 3, "was_cancelled": False, "updated_at": "2024-01-01", "result": [POLYGON, POLYGON]},
            ],
            "predictions": [],
        },
        {"id": 8, "data": {"image": "/data/upload/3/nobody.png"}, "annotations": []},
    ]
    (tmp_path / "export.json").write_text(json.dumps(content))
    return tmp_path / "export.json"


def at(x: float, y: float, rotation: float = 0) -> dict[str, float]:
    return {"x": x, "y": y, "rotation": rotation}


def data_url(mask: NDArray[np.bool_]) -> str:
    file = io.BytesIO()
    rgba = np.zeros((*mask.shape, 4), np.uint8)
    rgba[mask, 3] = 255
    Image.fromarray(rgba).save(file, "PNG")
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


LABELS = [
    {"name": "object--bench", "readable": "Bench", "instances": True, "evaluate": True, "color": [250, 0, 30]},
    {"name": "nature--sky", "readable": "Sky", "instances": False, "evaluate": True, "color": [70, 130, 180]},
    {"name": "void--ego-vehicle", "readable": "Ego Vehicle", "instances": False, "evaluate": False, "color": [0, 0, 0]},
]


def mapillary(root: Path, version: str, *, panoptic: bool) -> Path:
    """Two benches, of which one has the number 0, the sky, and pixels that do not count."""
    photo(root / "training/images/M2kh.jpg")
    folder = root / "training" / version
    values = np.full(SIZE, 256, np.uint16)
    values[20:, :10], values[20:, 15:25], values[25:, 30:] = 0, 1, 512
    if panoptic:
        pngs = folder / "panoptic"
        pngs.mkdir(parents=True)
        ids = np.select([values == 256, values == 0, values == 1], [300, 70_000, 9], 0)
        Image.fromarray(np.stack([ids & 255, ids >> 8 & 255, ids >> 16], axis=2).astype(np.uint8)).save(
            pngs / "M2kh.png"
        )
        segments = [(300, 2), (70_000, 1), (9, 1)]
        infos = [{"id": i, "category_id": c, "iscrowd": 0, "area": 1, "bbox": [0, 0, 1, 1]} for i, c in segments]
        content = {
            "images": [{"id": "M2kh", "file_name": "M2kh.jpg", "width": 40, "height": 30}],
            "annotations": [{"image_id": "M2kh", "file_name": "M2kh.png", "segments_info": infos}],
            "categories": [
                {"id": 1, "name": "Bench", "supercategory": "object", "isthing": 1, "color": [250, 0, 30]},
                {"id": 2, "name": "Sky", "supercategory": "nature", "isthing": 0, "color": [70, 130, 180]},
            ],
        }
        name = {"v1.2": "panoptic_2018.json", "v2.0": "panoptic_2020.json"}[version]
        (pngs / name).write_text(json.dumps(content))
    else:
        (folder / "instances").mkdir(parents=True)
        Image.fromarray(values).save(folder / "instances/M2kh.png")
        config = {"version": version, "mapping": "public", "folder_structure": "", "labels": LABELS}
        (root / f"config_{version}.json").write_text(json.dumps(config))
    return root


def datumaro(root: Path, task: str) -> Path:
    """What datumaro 1.13 writes: masks have iscrowd 1 and runs as numbers, all classes have isthing 0."""
    photo(root / "images/train/a.jpg")
    folder = root / "annotations"
    folder.mkdir()
    categories = [{"id": k + 1, "name": name, "supercategory": ""} for k, name in enumerate(["cat", "sky"])]
    images = [
        {
            "id": 1,
            "width": 40,
            "height": 30,
            "file_name": "a.jpg",
            "license": 0,
            "flickr_url": "",
            "coco_url": "",
            "date_captured": 0,
        }
    ]
    content: dict[str, Any] = {"licenses": [{"name": "", "id": 0, "url": ""}], "info": {}, "images": images}
    if task == "panoptic":
        ids = np.where(box(5, 5, 20, 20), 2, np.where(box(0, 0, 40, 3), 3, 0))
        (folder / "panoptic_train").mkdir()
        write_ids(folder / "panoptic_train/a.png", ids)
        infos = [
            {"id": i, "category_id": c, "area": 9.0, "bbox": [0.0, 0, 1, 1], "iscrowd": 0}
            for i, c in ((1, 1), (2, 1), (3, 2))
        ]  # the first is covered by the second
        content["annotations"] = [{"image_id": 1, "file_name": "a.png", "segments_info": infos}]
        categories = [{**each, "isthing": 0} for each in categories]
    else:
        content["annotations"] = []
        for number, (mask, category) in enumerate([(box(5, 5, 20, 20), 1), (box(0, 0, 40, 3), 2)], start=1):
            flat = mask.T.ravel().astype(int)
            edges = np.flatnonzero(np.diff(flat, prepend=0))
            counts = np.diff([0, *edges.tolist(), flat.size]).tolist()
            content["annotations"].append(
                {
                    "id": number,
                    "image_id": 1,
                    "category_id": category,
                    "area": float(mask.sum()),
                    "iscrowd": 1,
                    "segmentation": {"counts": counts, "size": [30, 40]},
                    "bbox": [0.0, 0.0, 1.0, 1.0],
                }
            )
    (folder / f"{task}_train.json").write_text(json.dumps({**content, "categories": categories}))
    return root


CELLS = np.where(box(3, 3, 12, 10), 1, np.where(box(20, 15, 38, 28), 70_000, 0))


SMALL = np.where(CELLS > 1, 300, CELLS)


def cellpose(path: Path, masks: NDArray[Any], **fields: Any) -> None:
    """What `masks_flows_to_seg` of Cellpose saves."""
    flows = [np.zeros((1, *SIZE, 3), np.uint8), np.zeros((1, *SIZE), np.uint8), [], np.zeros((3, *SIZE), np.float32)]
    content = {
        "outlines": np.zeros(SIZE, np.uint16),
        "masks": masks,
        "chan_choose": [0, 0],
        "ismanual": np.zeros(2, bool),
        "filename": "a.tif",
        "flows": flows,
        "diameter": np.nan,
        **fields,
    }
    np.save(path, content)  # type: ignore[arg-type]

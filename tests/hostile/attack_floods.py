"""Floods of annotations: which there are, what lies beside each, and who reads it; `attacks.py` runs them."""

from __future__ import annotations

import importlib
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from attack_annotations import (
    CORNERS,
    LARGE,
    POLYGON,
    SQUARE,
    annotation,
    beside_panoptic,
    beside_voc,
    beside_yolo,
    beside_yolo_list,
    bitmask,
    brush,
    coco,
    cvat,
    cvat_of,
    entities,
    hashed_cells,
    image_of,
    label_studio,
    labelme,
    masked,
    numbered,
    outline,
    pairs,
    panoptic,
    pickle_of_classes,
    pickle_of_lists,
    png_of_ids,
    polygon,
    runs,
    tiff_of_ids,
    zigzag,
)


class Flood(NamedTuple):
    """A file of annotations.

    Attributes:
        name: What it is.
        file: What it is called.
        make: Returns its bytes.
        read: Name of the reader in this module.
        beside: Puts what else the data set has into a folder.
    """

    name: str
    file: str
    make: Callable[[], bytes]
    read: str
    beside: Callable[[Path], None] = image_of(64)


# ------------------------------------------------------------------------------------------------------------ readers


MODULES = (
    *(f"data.convert.{name}" for name in ("cells", "coco", "cvat", "label_studio", "labelme", "voc", "yolo")),
    *("data.check", "panoptic.metrics.quality", "engine.prediction.fuse"),
)


def _convert(name: str, *args: Any, **kwargs: Any) -> None:
    module = "coco" if name == "convert_datumaro" else name.removeprefix("convert_")
    function = getattr(importlib.import_module(f"banet.data.convert.{module}"), name)
    with tempfile.TemporaryDirectory() as out:
        function(*args, Path(out) / "out", **kwargs)


def read_labelme(path: Path) -> None:
    _convert("convert_labelme", path.parent, overlaps="score")


def read_cvat(path: Path) -> None:
    _convert("convert_cvat", path, path.parent, overlaps="score")


def read_label_studio(path: Path) -> None:
    _convert("convert_label_studio", path, path.parent, overlaps="score")


def read_coco(path: Path) -> None:
    _convert("convert_coco", path.parent, path, overlaps="score")


def read_yolo(path: Path) -> None:
    _convert("convert_yolo", _root(path, "data.yaml"), "train", overlaps="score")


def read_voc(path: Path) -> None:
    _convert("convert_voc", _root(path, "JPEGImages"), "train")


def read_cells(path: Path) -> None:
    _convert("convert_cells", path.parent)


def read_panoptic(path: Path) -> None:
    from banet.data.check import Split, check_splits
    from banet.errors import InputError

    root = _root(path, "panoptic.json")
    findings = check_splits([Split("a", root, root / "panoptic", root / "panoptic.json")]).findings
    if findings:
        raise InputError(f"{findings[0].where}: {findings[0].what}", where=path)


def read_pq(path: Path) -> None:
    from banet.panoptic.metrics.quality import score_folders

    root = _root(path, "panoptic.json")
    pair = (root / "panoptic.json", root / "panoptic")
    score_folders(*pair, *pair)


def _root(path: Path, name: str) -> Path:
    """Return the folder above a file that holds a file or folder of a name."""
    return next(each for each in path.parents if (each / name).exists())


def read_fuse(path: Path) -> None:
    from PIL import Image

    from banet.engine.prediction.fuse import fuse_files

    root = path.parent
    with tempfile.TemporaryDirectory() as out:
        side = Image.open(root / "x.png").width
        (Path(out) / "labels").mkdir()
        Image.new("L", (side, side)).save(Path(out) / "labels/x.png")
        (Path(out) / "classes.json").write_text('[{"id": 1, "name": "a", "isthing": 1}]')
        fuse_files(
            path, Path(out) / "labels", root, Path(out) / "out", json=path, categories=Path(out) / "classes.json"
        )


# ------------------------------------------------------------------------------------------------------------- floods

FLOODS = [
    Flood("Labelme, 20,000 equal polygons", "a.json", labelme(SQUARE, times=20_000), "read_labelme"),
    Flood("Labelme, 200,000 equal polygons", "a.json", labelme(SQUARE, times=200_000), "read_labelme"),
    Flood(
        "Labelme, a polygon of 660,000 corners",
        "b.json",
        labelme(outline(",".join(["[1,1],[9,9]"] * 330_000))),
        "read_labelme",
    ),
    Flood(
        "Labelme, a polygon of 3 million corners",
        "c.json",
        labelme(outline("[1,1]," * 3_000_000 + "[2,2]")),
        "read_labelme",
    ),
    Flood("Labelme, 480,000 shapes of no points", "d.json", labelme(outline(""), times=480_000), "read_labelme"),
    Flood(
        "Labelme, 20 MB of nested lists", "e.json", labelme(outline("[" * 9_000_000 + "]" * 9_000_000)), "read_labelme"
    ),
    Flood(
        "Labelme, a mask of 8192 x 8192, every other pixel",
        "g2.json",
        labelme(masked(LARGE, 0xAA)),
        "read_labelme",
        image_of(LARGE),
    ),
    Flood("Labelme, imageData of 20 MB", "f.json", labelme(SQUARE, imageData="A" * 19_000_000), "read_labelme"),
    Flood(
        "Labelme, black masks of 8192 x 8192",
        "g.json",
        labelme(masked(LARGE), times=200),
        "read_labelme",
        image_of(LARGE),
    ),
    Flood(
        "Labelme, outlines to and fro",
        "h.json",
        labelme(outline(pairs(zigzag(LARGE, 60))), times=5_000),
        "read_labelme",
        image_of(LARGE),
    ),
    Flood(
        "Labelme, 400,000 labels",
        "i.json",
        lambda: labelme(*(outline("", f"{n:x}") for n in range(400_000)))(),
        "read_labelme",
    ),
    Flood(
        "Labelme, parts of one group", "j.json", labelme(SQUARE[:-1] + ',"group_id":1}', times=24_900), "read_labelme"
    ),
    Flood("CVAT, 100,000 equal polygons", "a.xml", cvat_of(POLYGON, 100_000), "read_cvat"),
    Flood("CVAT, 2 million open tags", "b.xml", lambda: b"<annotations>" + b"<image>" * 2_000_000, "read_cvat"),
    Flood(
        "CVAT, 1.5 million attributes",
        "c.xml",
        lambda: cvat("<image " + " ".join(f'a{n}=""' for n in range(1_500_000)) + "/>"),
        "read_cvat",
    ),
    Flood(
        "CVAT, 2 million attributes in tags of 9,000",
        "d.xml",
        cvat_of("<x " + " ".join(f'a{n:x}=""' for n in range(9000)) + "/>", 220),
        "read_cvat",
    ),
    Flood("CVAT, 900,000 images", "e.xml", lambda: cvat('<image name="x.png"/>' * 900_000), "read_cvat"),
    Flood(
        "CVAT, 300,000 label definitions",
        "f.xml",
        lambda: cvat(
            "<meta>" + "<label><name>a</name><attributes><attribute/></attributes></label>" * 280_000 + "</meta>"
        ),
        "read_cvat",
    ),
    Flood("CVAT, a text of 20 MB", "g.xml", lambda: cvat("a" * 20_000_000), "read_cvat"),
    Flood("CVAT, an entity of 9 MB used 200 times", "h.xml", lambda: entities(9_000_000, 200), "read_cvat"),
    Flood("CVAT, an entity of 100 kB used 5 million times", "i.xml", lambda: entities(100_000, 5_000_000), "read_cvat"),
    Flood("CVAT, a polygon of 4 million corners", "j.xml", cvat_of(polygon("1,1;" * 4_000_000 + "2,2")), "read_cvat"),
    Flood("CVAT, 20 polygons of 240,000 corners", "k.xml", cvat_of(polygon("1,1;" * 240_000 + "2,2"), 20), "read_cvat"),
    Flood(
        "CVAT, 300,000 labels",
        "l.xml",
        lambda: cvat("".join(f'<image name="a"><box label="{n:x}"/></image>' for n in range(400_000))),
        "read_cvat",
    ),
    Flood(
        "Label Studio, 110,000 equal polygons",
        "a.json",
        label_studio('{"value":{"points":[[1,1],[60,1],[60,40]],"polygonlabels":["a"]}}', times=110_000),
        "read_label_studio",
    ),
    Flood(
        "Label Studio, 200,000 regions", "b.json", label_studio('{"value":{"x":1}}', times=200_000), "read_label_studio"
    ),
    Flood(
        "Label Studio, 8 MB of a brush",
        "c.json",
        label_studio('{"value":{"rle":[' + "1," * 4_000_000 + '1],"brushlabels":["a"]}}'),
        "read_label_studio",
    ),
    Flood(
        "Label Studio, brushes of 8192 x 8192",
        "d.json",
        lambda: label_studio(brush(LARGE), times=150)(),
        "read_label_studio",
        image_of(LARGE),
    ),
    Flood(
        "Label Studio, brushes of 512 x 512",
        "e.json",
        lambda: label_studio(brush(512), times=20_000)(),
        "read_label_studio",
        image_of(512),
    ),
    Flood(
        "Label Studio, bitmasks of 8192 x 8192",
        "f.json",
        lambda: label_studio(bitmask(LARGE), times=180)(),
        "read_label_studio",
        image_of(LARGE),
    ),
    Flood(
        "Label Studio, 400,000 tasks",
        "g.json",
        lambda: ("[" + ",".join(['{"id":1,"data":{"a":"x.png"},"annotations":[]}'] * 400_000) + "]").encode(),
        "read_label_studio",
    ),
    Flood(
        "Label Studio, 450,000 annotations of a task",
        "h.json",
        lambda: ('[{"data":{"a":"x.png"},"annotations":[' + ",".join(['{"result":[]}'] * 450_000) + "]}]").encode(),
        "read_label_studio",
    ),
    Flood(
        "Label Studio, 20 MB of nested lists",
        "i.json",
        lambda: ('[{"data":{"a":"x.png"},"annotations":' + "[" * 9_000_000 + "]" * 9_000_000 + "}]").encode(),
        "read_label_studio",
    ),
    Flood(
        "Label Studio, 16 MB of nested objects",
        "i2.json",
        lambda: (
            '[{"data":{"a":"x.png"},"annotations":[' + ",".join(['{"":' * 100 + "0" + "}" * 100] * 15_000) + "]}]"
        ).encode(),
        "read_label_studio",
    ),
    Flood(
        "Label Studio, 300,000 labels",
        "j.json",
        lambda: (
            "[" + ",".join(f'{{"a":"x.png","b":[{{"x":1,"labels":["{n:x}"]}}]}}' for n in range(340_000)) + "]"
        ).encode(),
        "read_label_studio",
    ),
    Flood("COCO, 200,000 equal polygons", "a.json", coco(annotation("[[1,1,60,1,60,40]]"), times=240_000), "read_coco"),
    Flood(
        "COCO, a polygon of 4 million corners",
        "b.json",
        coco(annotation("[[" + "1,1," * 3_900_000 + "1,1]]")),
        "read_coco",
    ),
    Flood(
        "COCO, 9,900 polygons each of 140 objects",
        "c.json",
        coco(annotation("[" + "[0,0,9,0,9,9]," * 990 + "[0,0,9,0,9,9]]"), times=1400),
        "read_coco",
    ),
    Flood(
        "COCO, runs over 8192 x 8192 for two pixels",
        "d.json",
        coco(annotation(CORNERS), times=180_000, side=LARGE),
        "read_coco",
        image_of(LARGE),
    ),
    Flood(
        "COCO, empty runs over 8192 x 8192",
        "e.json",
        coco(annotation(runs(LARGE, LARGE * LARGE)), times=180_000, side=LARGE),
        "read_coco",
        image_of(LARGE),
    ),
    Flood(
        "COCO, 8 million runs of no pixel", "f.json", coco(annotation(runs(64, *[0] * 7_900_000, 4096))), "read_coco"
    ),
    Flood(
        "COCO, outlines to and fro",
        "g.json",
        coco(annotation(f"[{zigzag(LARGE, 60)}]".replace(" ", "")), times=15_000, side=LARGE),
        "read_coco",
        image_of(LARGE),
    ),
    Flood(
        "COCO, outlines beside the image",
        "h.json",
        coco(annotation(f"[{zigzag(LARGE, 60, y=-9)}]".replace(" ", "")), times=15_000, side=LARGE),
        "read_coco",
        image_of(LARGE),
    ),
    Flood(
        "COCO, 400,000 images",
        "i.json",
        lambda: coco(
            annotation("[]"),
            images=[{"id": n, "file_name": "x.png", "width": 64, "height": 64} for n in range(300_000)],
        )(),
        "read_coco",
    ),
    Flood(
        "COCO, 60,000 categories",
        "j.json",
        lambda: coco(annotation("[]"), categories=[{"id": n, "name": str(n)} for n in range(1, 65_000)])(),
        "read_coco",
    ),
    Flood(
        "COCO, an annotation of 8 MB of objects",
        "k.json",
        coco(annotation("[" + ",".join(['{"":0}'] * 2_200_000) + "]")),
        "read_coco",
    ),
    Flood(
        "panoptic, 500,000 segments",
        "panoptic.json",
        lambda: panoptic(numbered(480_000))(),
        "read_panoptic",
        beside_panoptic(64),
    ),
    Flood(
        "panoptic, 800,000 equal segments",
        "panoptic.json",
        panoptic('{"id":1,"category_id":1}', 640_000),
        "read_panoptic",
        beside_panoptic(64),
    ),
    Flood(
        "panoptic PNG of 16 million ids",
        "panoptic/x.png",
        lambda: png_of_ids(4096, 1 << 24),
        "read_panoptic",
        beside_panoptic(4096),
    ),
    Flood(
        "panoptic PNG of 8192 x 8192, two ids in turn",
        "panoptic/x.png",
        lambda: png_of_ids(LARGE, 2),
        "read_panoptic",
        beside_panoptic(LARGE),
    ),
    Flood(
        "panoptic PNG of 4 million ids, pq",
        "panoptic/x.png",
        lambda: png_of_ids(2048, 1 << 24),
        "read_pq",
        beside_panoptic(2048),
    ),
    Flood(
        "fuse, runs over 8192 x 8192 for two pixels",
        "r.json",
        coco(annotation(CORNERS), times=150_000, side=LARGE),
        "read_fuse",
        image_of(LARGE),
    ),
    Flood(
        "fuse, outlines to and fro",
        "s.json",
        coco(annotation(f"[{zigzag(LARGE, 60)}]".replace(" ", "")), times=14_000, side=LARGE),
        "read_fuse",
        image_of(LARGE),
    ),
    Flood("fuse, 200,000 equal polygons", "t.json", coco(annotation("[[1,1,60,1,60,40]]"), times=200_000), "read_fuse"),
    Flood(
        "YOLO, 20 MB of zeros in five lines",
        "labels/x.txt",
        lambda: (b"0 " * 2_000_000 + b"\n") * 5,
        "read_yolo",
        beside_yolo,
    ),
    Flood(
        "YOLO, 2.5 million lines",
        "labels/x.txt",
        lambda: b"".join(b"0 %d\n" % n for n in range(2_400_000)),
        "read_yolo",
        beside_yolo,
    ),
    Flood("YOLO, 10 million blank lines", "labels/x.txt", lambda: b"\n" * 20_000_000, "read_yolo", beside_yolo),
    Flood(
        "YOLO, a list of 3 million images", "list.txt", lambda: b"a.png\n" * 3_300_000, "read_yolo", beside_yolo_list
    ),
    Flood(
        "YOLO, a list of one image 1.5 million times",
        "list.txt",
        lambda: b"images/x.png\n" * 1_500_000,
        "read_yolo",
        beside_yolo_list,
    ),
    Flood("YOLO, data.yaml of 250 kB of nested lists", "data.yaml", lambda: b"[" * 250_000, "read_yolo", beside_yolo),
    Flood(
        "YOLO, data.yaml of aliases",
        "data.yaml",
        lambda: (
            b"a: &a [x,x,x,x,x,x,x,x,x]\n"
            + b"".join(
                b"b%d: &b%d [%s]\n" % (n, n, b",".join([b"*a" if n == 0 else b"*b%d" % (n - 1)] * 9)) for n in range(60)
            )
            + b"train: images\nnames: [*b59]\n"
        ),
        "read_yolo",
        beside_yolo,
    ),
    Flood(
        "VOC, a list of 6 million names",
        "ImageSets/Segmentation/train.txt",
        lambda: b"ab\n" * 6_600_000,
        "read_voc",
        beside_voc,
    ),
    Flood(
        "VOC, a list of one name 10 million times",
        "ImageSets/Segmentation/train.txt",
        lambda: b"x\n" * 10_000_000,
        "read_voc",
        beside_voc,
    ),
    Flood(
        "VOC, class_names.txt of 6 million names",
        "class_names.txt",
        lambda: b"ab\n" * 6_600_000,
        "read_voc",
        beside_voc,
    ),
    Flood(
        "cells, TIFF of 16 million numbers", "x_masks.tif", lambda: tiff_of_ids(LARGE), "read_cells", image_of(LARGE)
    ),
    Flood("cells, TIFF of 4 million numbers", "x_masks.tif", lambda: tiff_of_ids(2048), "read_cells", image_of(2048)),
    Flood("cells, TIFF of 490,000 numbers", "x_masks.tif", lambda: tiff_of_ids(704), "read_cells", image_of(704)),
    Flood("cells, _seg.npy of 20 million lists", "x_seg.npy", pickle_of_lists, "read_cells"),
    Flood("cells, _seg.npy of 3 million classes", "x_seg.npy", pickle_of_classes, "read_cells"),
    Flood("cells, _seg.npy with a key of 2**60 shared tuples", "x_seg.npy", hashed_cells, "read_cells"),
]
READERS: dict[str, Callable[[Path], None]] = {
    each.__name__: each
    for each in (
        read_labelme,
        read_cvat,
        read_label_studio,
        read_coco,
        read_yolo,
        read_voc,
        read_cells,
        read_panoptic,
        read_pq,
        read_fuse,
    )
}

"""Annotations that ask for much memory or time; `attacks.py` reads them.

Each is a file of at most 20 MB, with what an honest data set has beside it: an image, and where that is part of the
format, other files.
"""

from __future__ import annotations

import base64
import io
import json
import struct
import zlib
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from attack_files import HASHED, chunk
from PIL import Image

LARGE = 8192  # pixels of a side: as large as images may be
CLASSES = [{"id": 1, "name": "a", "isthing": 1}, {"id": 2, "name": "sky", "isthing": 0}]
IMAGE = '<image id="0" name="x.png" width="64" height="64">'

# ---------------------------------------------------------------------------------------------- what lies beside files


@cache
def blank(side: int, eight: int = 0) -> bytes:
    """Return a grey PNG of one bit, small whatever its size: black, or of the same eight pixels throughout."""
    row = b"\0" + bytes([eight]) * (side // 8)
    packer = zlib.compressobj(9)
    data = b"".join(packer.compress(row) for _ in range(side)) + packer.flush()
    head = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def image_of(side: int) -> Callable[[Path], None]:
    """Return what puts an image x.png of a size into a folder."""
    return lambda folder: _put(folder / "x.png", blank(side))


def _put(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def beside_yolo(folder: Path) -> None:
    _put(folder / "images/x.png", blank(64))
    _put(folder / "data.yaml", json.dumps({"train": "images", "names": ["a"]}).encode())


def beside_yolo_list(folder: Path) -> None:
    _put(folder / "images/x.png", blank(64))
    _put(folder / "data.yaml", json.dumps({"train": "list.txt", "names": ["a"]}).encode())


def beside_voc(folder: Path) -> None:
    _put(folder / "JPEGImages/x.png", blank(64))
    for name in ("SegmentationClass", "SegmentationObject"):
        (folder / name).mkdir()
        Image.new("L", (64, 64)).save(folder / name / "x.png")
    _put(folder / "ImageSets/Segmentation/train.txt", b"x\n")


def beside_panoptic(side: int) -> Callable[[Path], None]:
    def put(folder: Path) -> None:
        _put(folder / "x.png", blank(side))
        (folder / "panoptic").mkdir()
        Image.new("RGB", (side, side)).save(folder / "panoptic/x.png")
        image = {"id": 1, "file_name": "x.png", "width": side, "height": side}
        annotation = {"image_id": 1, "file_name": "x.png", "segments_info": []}
        content = {"images": [image], "annotations": [annotation], "categories": CLASSES}
        _put(folder / "panoptic.json", json.dumps(content).encode())

    return put


# ----------------------------------------------------------------------------------------------------------- Labelme


def labelme(*shapes: str, times: int = 1, **fields: Any) -> Callable[[], bytes]:
    """Return a file of shapes, given as JSON, so many times; 20 MB are full."""

    def make() -> bytes:
        head = json.dumps({"imagePath": "x.png", **fields})[:-1] + ', "shapes": ['
        return (head + ",".join([*shapes] * times) + "]}").encode()

    return make


def outline(points: str, label: str = "a") -> str:
    return f'{{"label":"{label}","points":[{points}]}}'


SQUARE = outline("[1,1],[60,1],[60,40],[1,40]")


def masked(side: int, eight: int = 0) -> str:
    """Return a shape with a mask of a size; see `blank`."""
    text = base64.b64encode(blank(side, eight)).decode()
    return f'{{"label":"a","points":[[0,0],[{side},{side}]],"shape_type":"mask","mask":"{text}"}}'


def zigzag(width: int, turns: int, *, y: int = 1) -> list[int]:
    """Return an outline that goes to and fro, x1, y1, x2, y2, ...: many crossings in few pixels."""
    return [value for turn in range(turns) for value in (0, y, width, y + turn % 2)]


def pairs(outline: list[int]) -> str:
    return ",".join(f"[{x},{y}]" for x, y in zip(outline[::2], outline[1::2], strict=True))


# ------------------------------------------------------------------------------------------------------- Label Studio


def label_studio(*regions: str, times: int = 1) -> Callable[[], bytes]:
    def make() -> bytes:
        body = ",".join([*regions] * times)
        return f'[{{"data":{{"image":"x.png"}},"annotations":[{{"result":[{body}]}}]}}]'.encode()

    return make


def brush(side: int) -> str:
    """Return a region of run lengths without a pixel, for an image of a size."""
    count, longest = 4 * side * side, 1 << 16
    bits = f"{count:032b}{7:05b}" + "".join(f"{size - 1:04b}" for size in (3, 4, 8, 16))
    while count:
        run = min(count, longest)
        bits += f"111{run - 1:016b}" + "0" * 8
        count -= run
    bits += "0" * (-len(bits) % 8)
    rle = [int(bits[at : at + 8], 2) for at in range(0, len(bits), 8)]
    value = f'{{"rle":{json.dumps(rle, separators=(",", ":"))},"brushlabels":["a"]}}'
    return f'{{"type":"brushlabels","value":{value}}}'


def bitmask(side: int) -> str:
    text = base64.b64encode(blank(side)).decode()
    value = f'{{"imageDataURL":"data:image/png;base64,{text}","brushlabels":["a"]}}'
    return f'{{"type":"brushlabels","value":{value}}}'


# --------------------------------------------------------------------------------------------------------------- COCO


def coco(*annotations: str, times: int = 1, side: int = 64, **fields: Any) -> Callable[[], bytes]:
    def make() -> bytes:
        images = [{"id": 1, "file_name": "x.png", "width": side, "height": side}]
        head = json.dumps({"images": images, "categories": CLASSES[:1], **fields})[:-1] + ',"annotations":['
        return (head + ",".join([*annotations] * times) + "]}").encode()

    return make


def annotation(segmentation: str) -> str:
    return f'{{"image_id":1,"category_id":1,"score":1,"segmentation":{segmentation}}}'


def runs(side: int, *counts: int) -> str:
    return f'{{"size":[{side},{side}],"counts":[{",".join(map(str, counts))}]}}'


CORNERS = runs(LARGE, 0, 1, LARGE * LARGE - LARGE - 1, 1, LARGE - 1)  # first pixels of first and last column


def panoptic(segments: str, times: int = 1, **fields: Any) -> Callable[[], bytes]:
    def make() -> bytes:
        images = [{"id": 1, "file_name": "x.png", "width": 64, "height": 64}]
        head = json.dumps({"images": images, "categories": CLASSES, **fields})[:-1]
        infos = ",".join([segments] * times) if times > 1 else segments
        annotation = f'{{"image_id":1,"file_name":"x.png","segments_info":[{infos}]}}'
        return f'{head},"annotations":[{annotation}]}}'.encode()

    return make


def numbered(count: int) -> str:
    return ",".join(f'{{"id":{n},"category_id":1}}' for n in range(1, count + 1))


# ---------------------------------------------------------------------------------------------------------- id maps


def png_of_ids(side: int, count: int) -> bytes:
    """Return an RGB PNG whose every pixel has an id of its own, up to a number of ids."""
    ids = (np.arange(side * side, dtype="<u4") % count).reshape(side, side)
    pixels = np.ascontiguousarray(ids).view(np.uint8).reshape(side, side, 4)[..., :3]
    filtered = np.diff(pixels, axis=1, prepend=np.zeros((side, 1, 3), np.uint8)).reshape(side, -1)
    rows = np.concatenate([np.ones((side, 1), np.uint8), filtered], axis=1)
    data = zlib.compress(rows.tobytes(), 9)
    head = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def tiff_of_ids(side: int) -> bytes:
    """Return a TIFF of 32 bits whose every pixel has a number of its own."""
    buffer = io.BytesIO()
    numbers = (np.arange(side * side, dtype=np.int32) % (1 << 24)).reshape(side, side)
    Image.fromarray(numbers).save(buffer, "TIFF", compression="tiff_adobe_deflate", tiffinfo={317: 2})
    return buffer.getvalue()


def _npy(pickle: bytes) -> bytes:
    """Return an NPY file whose one object is a pickle, as Cellpose's _seg.npy."""
    head = b"{'descr': '|O', 'fortran_order': False, 'shape': (), }".ljust(117) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(head)) + head + pickle


def pickle_of_lists() -> bytes:
    return _npy(b"\x80\x02](" + b"]" * 19_000_000 + b"e.")


def pickle_of_classes() -> bytes:
    return _npy(b"\x80\x02](" + b"".join(b"ca\n%x\n" % n for n in range(1_900_000)) + b"e.")


def hashed_cells() -> bytes:
    return _npy(HASHED)


# --------------------------------------------------------------------------------------------------------------- CVAT


POLYGON = '<polygon label="a" points="1,1;60,1;60,40;1,40" z_order="0"/>'


def cvat(body: str) -> bytes:
    return f"<annotations>{body}</annotations>".encode()


def entities(text: int, times: int) -> bytes:
    """Return an XML whose one entity is repeated."""
    return b'<!DOCTYPE a [<!ENTITY x "' + b"a" * text + b'">]><annotations>' + b"&x;" * times + b"</annotations>"


def cvat_of(shape: str, times: int = 1) -> Callable[[], bytes]:
    return lambda: cvat(IMAGE + shape * times + "</image>")


def polygon(points: str) -> str:
    return f'<polygon label="a" points="{points}" z_order="0"/>'

"""Images, label maps and instances for `banet fuse`."""

from __future__ import annotations

import io
import json
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from PIL import Image


def image_bytes(number: int) -> bytes:
    buffer = io.BytesIO()
    pixels = np.random.default_rng(number).integers(0, 256, (12, 16, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def write_images(folder: Path, numbers: Iterable[int]) -> None:
    folder.mkdir(exist_ok=True)
    for number in numbers:
        (folder / f"{number}.png").write_bytes(image_bytes(number))


def write_detections(folder: Path, images: Path) -> list[str]:
    """Write `labels/`, `found.json` and `classes.json` for all images; return the command line but for --out."""
    (folder / "labels").mkdir()
    found = []
    for number in sorted(int(path.stem) for path in images.iterdir()):
        Image.fromarray(np.full((12, 16), 3, dtype=np.uint8)).save(folder / "labels" / f"{number}.png")
        for corner in (0, 2, 20):  # the last one has no pixel
            box = [corner, 1, corner + 8, 1, corner + 8, 9, corner, 9]
            entry = {"image_id": number, "category_id": 1 + corner % 4 // 2, "score": 0.9 - corner / 100}
            found.append({**entry, "segmentation": [box]})
    classes = [{"id": 1, "name": "a", "isthing": 1}, {"id": 2, "name": "b", "isthing": 1},
               {"id": 3, "name": "c", "isthing": 0}]  # fmt: skip
    (folder / "classes.json").write_text(json.dumps(classes))
    (folder / "found.json").write_text(json.dumps([*found, {**found[0], "image_id": 999}]))
    return fuse_words(str(folder), str(images))


def fuse_words(folder: str, images: str) -> list[str]:
    """Return the command line for what is in a folder or behind its URL, but for --out."""
    return [
        "fuse", "--instances", f"{folder}/found.json", "--semantic", f"{folder}/labels", "--images", images,
        "--categories", f"{folder}/classes.json", "--stuff-area", "0",
    ]  # fmt: skip

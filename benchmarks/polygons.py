"""COCO's polygons as masks, beside pycocotools: ``python benchmarks/polygons.py --instances FILE [--repeats 15]``.

FILE is a COCO instances JSON, such as instances_val2017.json. Every polygon annotation of it, up to `--limit`, becomes
a mask of the size of its image, by `decode_polygons` and by pycocotools' `frPyObjects`, `merge` and `decode`, in turns;
the masks must be equal. `decode_crop`, which converters use, fills the object's box only. Needs pycocotools
(``pip install '.[bench]'``).
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from harness import Report, parser, take_turns, use_threads

from banet.panoptic.coco.rle import decode_crop, decode_polygons

Outlined = tuple[list[list[float]], tuple[int, int]]
"""The polygons of an annotation, and height and width of its image."""


def read(file: Path, limit: int) -> list[Outlined]:
    content = json.loads(file.read_text(encoding="utf-8"))
    sizes = {image["id"]: (image["height"], image["width"]) for image in content["images"]}
    found = [(a["segmentation"], sizes[a["image_id"]]) for a in content["annotations"]]
    return [(polygons, size) for polygons, size in found if isinstance(polygons, list) and polygons][:limit]


def pycocotools(polygons: list[list[float]], size: tuple[int, int]) -> Any:
    from pycocotools import mask

    return mask.decode(mask.merge(mask.frPyObjects(polygons, *size)))


def all_of(decode: Callable[..., object], outlined: list[Outlined]) -> Callable[[], None]:
    def run() -> None:
        for polygons, size in outlined:
            decode(polygons, size)

    return run


def main() -> None:
    options = parser(__doc__, threads=1, repeats=15)
    options.add_argument("--instances", type=Path, required=True, metavar="FILE", help="COCO instances JSON")
    options.add_argument("--limit", type=int, default=3000, help="annotations, the first of the file")
    given = options.parse_args()
    use_threads(given.threads)
    outlined = read(given.instances, given.limit)
    for polygons, size in outlined:
        if not np.array_equal(decode_polygons(polygons, size), pycocotools(polygons, size)):
            raise SystemExit("the masks differ")
    contestants = {"decode_polygons": decode_polygons, "decode_crop": decode_crop, "pycocotools": pycocotools}
    with Report(given, __file__) as report:
        corners = np.mean([sum(map(len, polygons)) / 2 for polygons, _ in outlined])
        report.say(f"{len(outlined):,} annotations of {corners:.0f} corners on average; equal masks")
        turns = take_turns({name: all_of(call, outlined) for name, call in contestants.items()}, given.repeats)
        report.turns("polygons", turns)
        for name in contestants:
            taken = turns.milliseconds(name) / len(outlined)
            ratio = turns.ratio_text(name, "pycocotools")
            report.say(f"{name:<16} {taken:.3f} ms per annotation, {ratio} of pycocotools", milliseconds=taken)


if __name__ == "__main__":
    main()

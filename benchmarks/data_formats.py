"""Memory and time of `banet data convert` and `banet data export` over the number of images.

The images are tiny (16 x 16 pixels, two objects each), so that what grows with their number is all that there is.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from pathlib import Path

from harness import Report, parser, run_program
from PIL import Image

SQUARE = "0 0.125 0.125 0.5 0.125 0.5 0.5 0.125 0.5\n1 0.5 0.5 1 0.5 1 1 0.5 1\n"
_LINKS = 10_000  # to one file; file systems allow some ten thousands
POLYGONS = [[[2, 2, 8, 2, 8, 8, 2, 8]], [[8, 8, 16, 8, 16, 16, 8, 16]]]


def make_sets(root: Path, count: int) -> None:
    """Write a YOLO set of so many images, most of which are links, and a COCO JSON of the same."""
    for folder in ("images/train", "labels/train"):
        (root / folder).mkdir(parents=True)
    one = root, root
    for number in range(count):
        image, labels = root / f"images/train/{number:012}.png", root / f"labels/train/{number:012}.txt"
        if number % _LINKS:
            os.link(one[0], image)
            os.link(one[1], labels)
        else:
            Image.new("RGB", (16, 16), (90, 120, 60)).save(image)
            labels.write_text(SQUARE)
            one = image, labels
    (root / "data.yaml").write_text("train: images/train\nval: images/train\nnames: [cup, dog]\n")
    images = [{"id": n, "file_name": f"{n:012}.png", "width": 16, "height": 16} for n in range(count)]
    annotations = [
        {"id": 2 * n + k, "image_id": n, "category_id": k, "segmentation": POLYGONS[k], "iscrowd": 0}
        for n in range(count)
        for k in range(2)
    ]
    categories = [{"id": k, "name": name} for k, name in enumerate(["cup", "dog"])]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (root / "instances.json").write_text(json.dumps(content))


def commands(root: Path) -> dict[str, list[str]]:
    """Return the command lines by their names, in order: the exports read what the first one writes."""
    source = f"--images {root}/images/train --panoptic {root}/out/panoptic --json {root}/out/panoptic.json"
    coco = f"--images {root}/images/train --instances {root}/instances.json"
    lines = {
        "convert yolo": f"convert yolo --data {root} --split train --out {root}/out",
        "convert coco": f"convert coco {coco} --out {root}/out_coco",
        "export coco": f"export coco {source} --polygons --out {root}/export_coco",
        "export yolo --link": f"export yolo {source} --link --out {root}/export_yolo",
        "export semantic": f"export semantic {source} --out {root}/export_semantic",
    }
    return {name: [sys.executable, "-m", "banet", "data", *line.split()] for name, line in lines.items()}


def main() -> None:
    command_line = parser(__doc__, threads=None)
    command_line.add_argument("--counts", type=int, nargs="+", default=[10_000, 100_000], help="numbers of images")
    command_line.add_argument("--only", nargs="+", default=[""], help="commands that begin so")
    options = command_line.parse_args()
    with Report(options, __file__) as report:
        for count in options.counts:
            with tempfile.TemporaryDirectory() as folder:
                root = Path(folder)
                make_sets(root, count)
                for name, line in commands(root).items():
                    if not name.startswith(tuple(options.only)):
                        continue
                    seconds, memory = run_program(line)
                    text = f"{count:>7,} images, {name:<20}{memory / 1e6:6.0f} MB{1e3 * seconds / count:8.2f} ms/image"
                    report.say(text, count=count, command=name, bytes=memory, seconds=seconds)


if __name__ == "__main__":
    main()

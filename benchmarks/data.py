"""What opening and loading a data set of COCO's size costs: seconds, memory, and images per second.

    python benchmarks/data.py index             # 118,287 images, 1.3 million segments: time and memory
    python benchmarks/data.py load [--root DIR] # one worker at 800 x 1333 against plain PIL decoding

`index` writes a synthetic JSON of COCO's shape to a temporary folder (166 MB), opens it in a process of its own and
reads every annotation in two workers, forked and spawned. Memory is private memory (USS, from /proc, so Linux only):
what would be there once more for one more process. The sole exception is the peak, which is of the whole process.

`load` takes the images of `--root` (images/, panoptic/, panoptic.json) or else makes some of 640 x 480.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from harness import Report, parser, peak, take_turns
from PIL import Image

IMAGES, SEGMENTS = 118_287, 1_300_000


def write_index(path: Path) -> None:
    """A JSON with as many images and segments as COCO's panoptic_train2017.json, and the same fields."""
    rng = np.random.default_rng(0)
    ids = np.sort(rng.choice(600_000, IMAGES, replace=False)).tolist()
    ends = np.sort(rng.integers(0, SEGMENTS + 1, IMAGES - 1)).tolist()
    counts = np.diff([0, *ends, SEGMENTS])
    images = [
        {
            "license": 3,
            "file_name": f"{i:012}.jpg",
            "coco_url": f"http://images.cocodataset.org/train2017/{i:012}.jpg",
            "height": 480,
            "width": 640,
            "date_captured": "2013-11-14 11:18:45",
            "flickr_url": f"http://farm9.staticflickr.com/8186/{i * 7919}_78b6f0d1a2_z.jpg",
            "id": i,
        }
        for i in ids
    ]
    categories = [
        {"supercategory": "group", "isthing": int(k < 80), "id": k + 1, "name": f"class number {k}"} for k in range(133)
    ]
    head = json.dumps({"info": {"year": 2018}, "licenses": [], "images": images, "categories": categories})
    with path.open("w") as stream:
        stream.write(head[:-1] + ', "annotations": [')
        for row, (image_id, count) in enumerate(zip(ids, counts, strict=True)):
            values = rng.integers(1, (1 << 24, 134, 300_000, 640, 480, 640, 480), (count, 7)).tolist()
            infos = [
                {
                    "id": v[0] // 64 * 64 % (1 << 24) + k % 64 + 1,
                    "category_id": v[1],
                    "iscrowd": 0,
                    "bbox": v[3:],
                    "area": v[2],
                }
                for k, v in enumerate(values)
            ]
            infos = list({info["id"]: info for info in infos}.values())
            stream.write(", " * (row > 0))
            json.dump({"segments_info": infos, "file_name": f"{image_id:012}.png", "image_id": image_id}, stream)
        stream.write("]}")


def private(process: int | str = "self") -> float:
    """Private memory of a process in MB."""
    text = Path(f"/proc/{process}/smaps_rollup").read_text()
    return sum(int(line.split()[1]) for line in text.splitlines() if line.startswith("Private_")) / 1024


class Reading:
    """A data set whose items are all that the index knows of an image; and the memory of who reads it."""

    def __init__(self, index: Any) -> None:
        self.index = index

    def __len__(self) -> int:
        return len(self.index) if self.index else IMAGES

    def __getitem__(self, row: int) -> tuple[int, int, float]:
        segments = 0
        if self.index:
            segments = len(self.index.annotation(row).segments) + 0 * len(self.index.image(row).file_name)
        return os.getpid(), segments, private() if row >= len(self) - 200 else 0.0


def first(batch: list[Any]) -> list[Any]:
    return batch


def workers(index: Any, method: str) -> tuple[float, int]:
    """Private MB of a worker that has read its half of the index, or none; and how many segments were read."""
    from torch.utils.data import DataLoader

    loader = DataLoader(Reading(index), batch_size=50, num_workers=2, multiprocessing_context=method, collate_fn=first)  # type: ignore[arg-type,var-annotated]
    last: dict[int, float] = {}
    segments = 0
    for batch in loader:
        for process, count, memory in batch:
            segments += count
            last[process] = max(memory, last.get(process, 0.0))
    return statistics.mean(last.values()), segments


def open_index(path: Path) -> None:
    from banet.data.coco_panoptic import PanopticIndex

    bare = {method: workers(None, method)[0] for method in ("fork", "spawn")}
    before = private()
    peak_before = peak() / 2**20
    start, start_cpu = time.perf_counter(), time.process_time()
    index = PanopticIndex.read(path)
    seconds, cpu = time.perf_counter() - start, time.process_time() - start_cpu
    highest = peak() / 2**20
    print(f"opened {len(index):,} images in {seconds:.1f} s (goal 20), {cpu:.1f} s of them computing")
    print(f"  it adds {private() - before:.0f} MB for good (goal 300), {highest - peak_before:.0f} MB at the peak")
    for method in ("fork", "spawn"):
        memory, segments = workers(index, method)
        print(f"  {method}ed worker, {segments:,} segments read: {memory - bare[method]:+.0f} MB (goal 50)")


def benchmark_index(report: Report, path: Path | None) -> None:
    with tempfile.TemporaryDirectory() as folder:
        if path is None:
            path = Path(folder) / "panoptic.json"
            write_index(path)
        report.say(f"{path.stat().st_size / 1e6:.0f} MB of JSON")
        command = [sys.executable, __file__, "open", "--file", str(path)]
        report.say(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.rstrip())


def make_pictures(root: Path, count: int = 24) -> None:
    """Textured images of 640 x 480 with 11 segments each, as COCO has on average."""
    from banet.panoptic.coco.writer import CocoPanopticWriter
    from banet.panoptic.segmentation import PanopticSegmentation

    rng = np.random.default_rng(0)
    classes = [{"id": 1, "name": "thing", "isthing": 1}, {"id": 2, "name": "stuff", "isthing": 0}]
    (root / "images").mkdir()
    with CocoPanopticWriter(root / "panoptic", root / "panoptic.json", classes) as writer:
        for number in range(count):
            coarse = Image.fromarray(rng.integers(0, 256, (60, 80, 3), dtype=np.uint8)).resize(
                (640, 480), Image.Resampling.BICUBIC
            )
            noise = rng.normal(0, 8, (480, 640, 3))
            image = np.clip(np.asarray(coarse) + noise, 0, 255).astype(np.uint8)
            Image.fromarray(image).save(root / "images" / f"{number}.jpg", quality=90)
            ids = np.full((480, 640), 11, np.int32)
            y, x = np.mgrid[:480, :640]
            for identity in range(1, 11):
                a, b, c, d = rng.uniform((0, 0, 20, 20), (480, 640, 90, 90))
                ids[((y - a) / c) ** 2 + ((x - b) / d) ** 2 < 1] = identity
            infos = [{"id": int(i), "category_id": 1 if i < 11 else 2} for i in np.unique(ids)]
            writer.add(number, f"{number}.jpg", PanopticSegmentation.from_ids(ids, infos, classes))


def benchmark_load(report: Report, root: Path | None, rounds: int) -> None:
    import torch

    from banet.data.coco_panoptic import CocoPanoptic
    from banet.data.copy_paste import CopyPaste
    from banet.data.transforms import train_transform
    from banet.engine.training.datasets import InfiniteDataset

    torch.set_num_threads(1)  # as in a worker
    with tempfile.TemporaryDirectory() as folder:
        if root is None:
            root = Path(folder)
            make_pictures(root)
        dataset = CocoPanoptic(root / "images", root / "panoptic", root / "panoptic.json", train_transform([800], 1333))
        draws, pasted, count = InfiniteDataset(dataset, 0), InfiniteDataset(CopyPaste(dataset, 1.0), 0), len(dataset)
        contestants: dict[str, Any] = {
            "PIL, picture alone": lambda n: np.asarray(
                Image.open(dataset.images / dataset.file_name(n)).convert("RGB")
            ),
            "PIL, picture and id PNG": lambda n: (
                np.asarray(Image.open(dataset.images / dataset.file_name(n)).convert("RGB")),
                np.asarray(Image.open(dataset.panoptic / dataset.index.annotation(n).file_name)),
            ),
            "read and checked": lambda n: dataset.read(n),
            "samples for training": lambda n: draws[n],
            "the same with copy-paste": lambda n: pasted[n],
        }
        every = {name: lambda call=call: [call(n) for n in range(count)] for name, call in contestants.items()}
        turns = take_turns(every, rounds, warm_up=0)
    report.turns("loading", turns)
    for name in turns.seconds:
        ratio = turns.ratio_text(name, "PIL, picture and id PNG")
        report.say(f"{name:<26}{count / turns.median(name):7.1f} images/s{ratio:>8} x PIL with PNG")


def main() -> None:
    command_line = parser(__doc__, threads=None)
    command_line.add_argument("what", choices=("index", "load", "open"))
    command_line.add_argument("--file", type=Path, help="with index: this JSON instead of a synthetic one")
    command_line.add_argument("--root", type=Path, help="with load: these pictures")
    command_line.add_argument("--rounds", type=int, default=5)
    options = command_line.parse_args()
    if options.what == "open":
        open_index(options.file)
        return
    with Report(options, __file__) as report:
        if options.what == "index":
            benchmark_index(report, options.file)
        else:
            benchmark_load(report, options.root, options.rounds)


if __name__ == "__main__":
    main()

"""Images in tiles: how good they are, and how much memory they take.

``python benchmarks/tiles.py quality [--side 8] [--seed 901]`` puts scenes side by side to one image with a known
truth and scores the shipped weights on it: each scene on its own, which no seam cuts; the image as a whole, which the
network sees much reduced; and in tiles, whose things are joined over the seams, or not joined: the tiles are cut along
the middle of their overlap and put side by side.

``python benchmarks/tiles.py memory [--sides 4000 8000] [--tile 1024]`` runs `banet predict` on images of these sides,
with and without tiles, each in a process of its own, and prints time and peak memory.
"""

from __future__ import annotations

import sys
import tempfile
import time
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
from harness import Report, parser, run_program
from PIL import Image
from tqdm import tqdm

from banet.data.images import MAX_PIXELS
from banet.data.scenes.generate import SCENE_CATEGORIES, Scene, make_scene
from banet.panoptic import PanopticQuality, PanopticSegmentation
from banet.panoptic.tiles import Box, merge_tiles, tile_boxes

SCENE = 256  # pixels per side, as in training
OVERLAPS = (32, 64, 128)


def measure_quality(report: Report, side: int, seed: int) -> None:
    from banet.inference.banet import BANet

    model = BANet.from_pretrained("scenes")
    area = model.inference.stuff_area
    model.inference = replace(model.inference, stuff_area=0)  # small stuff is judged on the whole image
    size = (side * SCENE, side * SCENE)
    corners = [(x, y) for y in range(0, size[0], SCENE) for x in range(0, size[1], SCENE)]
    places = [(x, y, x + SCENE, y + SCENE) for x, y in corners]
    scenes = [make_scene(seed, index, (SCENE, SCENE)) for index in range(len(places))]
    picture = np.zeros((*size, 3), dtype=np.uint8)
    for (x1, y1, x2, y2), scene in zip(places, scenes, strict=True):
        picture[y1:y2, x1:x2] = scene.image
    truth = merge_tiles(zip(places, map(truth_of, scenes), strict=True), size)
    things = sum(each.isthing for each in truth.segments)
    report.say(f"{len(scenes)} scenes of {SCENE} x {SCENE} with {things} things, tiles of {SCENE}")
    report.say(f"{'':30}{'tiles':>6}{'PQ':>7}{'PQ Th':>7}{'RQ Th':>7}{'PQ St':>7}{'merged in':>11}")

    def row(name: str, tiles: list[tuple[Box, PanopticSegmentation]]) -> None:
        start = time.perf_counter()
        result = merge_tiles(tiles, size, stuff_area=area)
        seconds = time.perf_counter() - start
        score = PanopticQuality(SCENE_CATEGORIES)
        score.update(result, truth)
        table = score.compute()
        numbers = [table["All"]["pq"], table["Things"]["pq"], table["Things"]["rq"], table["Stuff"]["pq"]]
        figures = "".join(f"{100 * n:7.1f}" for n in numbers)
        report.say(f"{name:30}{len(tiles):6}{figures}{seconds:9.1f} s", pq=table, seconds=seconds)

    def predict(boxes: list[Box]) -> list[tuple[Box, PanopticSegmentation]]:
        cuts = (np.ascontiguousarray(picture[y1:y2, x1:x2]) for x1, y1, x2, y2 in boxes)
        return [(box, model.predict(cut)) for box, cut in zip(tqdm(boxes, leave=False), cuts, strict=True)]

    row("each scene on its own", predict(places))
    row("as a whole", predict([(0, 0, size[1], size[0])]))
    for overlap in OVERLAPS:
        tiles = predict(tile_boxes(size, SCENE, overlap))
        row(f"tiles, overlap {overlap}, not joined", middles(tiles))
        row(f"tiles, overlap {overlap}", tiles)


def truth_of(scene: Scene) -> PanopticSegmentation:
    found = [{"id": each.id, "category_id": each.category_id} for each in scene.segments]
    return PanopticSegmentation.from_ids(scene.ids, found, SCENE_CATEGORIES)


def middles(tiles: list[tuple[Box, PanopticSegmentation]]) -> list[tuple[Box, PanopticSegmentation]]:
    """The tiles, cut so that they do not overlap."""
    left, top, right, bottom = ({}, {}, {}, {})
    for low, high, axis in ((left, right, 0), (top, bottom, 1)):
        ends = sorted({(box[axis], box[axis + 2]) for box, _ in tiles})
        low[ends[0][0]], high[ends[-1][1]] = ends[0][0], ends[-1][1]
        for before, after in pairwise(ends):
            low[after[0]] = high[before[1]] = (after[0] + before[1]) // 2
    parts = []
    for (x1, y1, x2, y2), result in tiles:
        box = (left[x1], top[y1], right[x2], bottom[y2])
        ids = result.ids[box[1] - y1 : box[3] - y1, box[0] - x1 : box[2] - x1]
        kept = set(np.unique(ids).tolist())
        found = [
            {"id": each.id, "category_id": each.category_id, "score": each.score}
            for each in result.segments
            if each.id in kept
        ]
        parts.append((box, PanopticSegmentation.from_ids(ids, found, result.categories)))
    return parts


def measure_memory(report: Report, sides: list[int], tile: int) -> None:
    block = np.concatenate([make_scene(901, index, (512, 512)).image for index in range(4)], axis=1)
    report.say(f"{'':24}{'':>10}{'time':>8}{'peak memory':>13}{'id map':>9}")
    with tempfile.TemporaryDirectory() as folder:
        picture = Path(folder) / "picture.png"
        Image.fromarray(block[:64, :64]).save(picture)
        seconds, peak = run(picture, [])
        report.say(f"{'64 x 64: the program':24}{'':>10}{seconds:6.0f} s{peak / 1e9:10.2f} GB", bytes=peak)
        for side in sides:
            canvas = Image.new("RGB", (side, side))
            for k, top in enumerate(range(0, side, 512)):
                strip = Image.fromarray(np.roll(block, 512 * k, axis=1))
                for x in range(0, side, block.shape[1]):
                    canvas.paste(strip, (x, top))
            canvas.save(picture, compress_level=1)
            del canvas
            for options in ([], ["--tile", str(tile)]):
                if not options and side * side > MAX_PIXELS:
                    continue  # is refused
                seconds, peak = run(picture, options)
                name = " ".join(options) or "as a whole"
                size = f"{f'{side} x {side}':24}{name:>12}"
                report.say(f"{size}{seconds:6.0f} s{peak / 1e9:10.2f} GB{4 * side * side / 1e9:6.2f} GB", bytes=peak)


def run(image: Path, options: list[str]) -> tuple[float, int]:
    """Seconds and peak bytes of `banet predict`."""
    command = [sys.executable, "-m", "banet", "predict", str(image), "--weights", "scenes", "--device", "cpu"]
    return run_program([*command, *options, "--out", str(image.parent / "out")])


def main() -> None:
    command_line = parser(__doc__, threads=None)
    commands = command_line.add_subparsers(dest="command", required=True)
    quality = commands.add_parser("quality")
    quality.add_argument("--side", type=int, default=8, help="scenes per side")
    quality.add_argument("--seed", type=int, default=901)
    memory = commands.add_parser("memory")
    memory.add_argument("--sides", type=int, nargs="+", default=[4000, 8000])
    memory.add_argument("--tile", type=int, default=1024)
    options = command_line.parse_args()
    with Report(options, __file__) as report:
        if options.command == "quality":
            measure_quality(report, options.side, options.seed)
        else:
            measure_memory(report, options.sides, options.tile)


if __name__ == "__main__":
    main()

"""Panoptic quality beside the usual way to count it: ``python benchmarks/quality.py [--data DIR]``.

DIR is a COCO panoptic folder (`panoptic.json`, `panoptic/`); without it, procedural scenes of 640 × 427 are made. The
prediction is the truth, disturbed: moved, some classes exchanged, some segments lost, some void. One process, one
thread; contestants take turns, medians and ratios are printed.

The usual way: decode both PNGs to RGB, ids = R + 256 G + 65536 B, the areas of the prediction by `np.unique`, the
overlaps by `np.unique` of the combined 64-bit ids, and loops over dictionaries. PNG decoding counts on both sides.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from harness import Report, Turns, parser, run_program, take_turns, use_threads
from numpy.typing import NDArray
from PIL import Image

from banet.data.scenes.generate import write_coco
from banet.panoptic import Categories, PanopticQuality, PanopticSegmentation
from banet.panoptic.coco.annotations import PanopticJson
from banet.panoptic.coco.writer import CocoPanopticWriter
from banet.panoptic.metrics.quality import score_folders

Folder = tuple[Path, Path]  # JSON, folder of PNGs
GOAL_DISK, GOAL_MEMORY = 0.6, 50.0


def usual_way(truth: Folder, prediction: Folder) -> dict[str, Any]:
    """PQ by the definition of COCO's panoptic evaluation, one dictionary after the other."""
    offset = 256**3
    contents = [json.loads(path.read_text()) for path, _ in (truth, prediction)]
    things = {category["id"]: bool(category["isthing"]) for category in contents[0]["categories"]}
    predicted = {annotation["image_id"]: annotation for annotation in contents[1]["annotations"]}
    counts = {category: [0.0, 0, 0, 0] for category in things}  # IoU, hits, false alarms, misses

    for annotation in contents[0]["annotations"]:
        other = predicted[annotation["image_id"]]
        true_ids, ids = (
            decode(folder / each["file_name"]) for folder, each in ((truth[1], annotation), (prediction[1], other))
        )
        true_segments = {segment["id"]: segment for segment in annotation["segments_info"]}
        segments = {segment["id"]: segment for segment in other["segments_info"]}
        areas = {int(i): int(n) for i, n in zip(*np.unique(ids, return_counts=True), strict=True)}
        if areas.keys() - {0} != segments.keys():
            raise ValueError("PNG and JSON disagree")
        combined = true_ids.astype(np.uint64) * np.uint64(offset) + ids.astype(np.uint64)
        overlaps: dict[tuple[int, int], int] = {}
        true_areas: dict[int, int] = {}
        for key, count in zip(*np.unique(combined, return_counts=True), strict=True):
            pair = int(key) // offset, int(key) % offset
            overlaps[pair] = int(count)
            true_areas[pair[0]] = true_areas.get(pair[0], 0) + int(count)

        found: set[int] = set()
        used: set[int] = set()
        for (a, b), overlap in overlaps.items():
            if a not in true_segments or b not in segments or true_segments[a].get("iscrowd", 0):
                continue
            category = true_segments[a]["category_id"]
            if segments[b]["category_id"] != category:
                continue
            iou = overlap / (true_areas[a] + areas[b] - overlap - overlaps.get((0, b), 0))
            if iou > 0.5:
                counts[category][0] += iou
                counts[category][1] += 1
                found.add(a)
                used.add(b)
        crowds: dict[int, int] = {}
        for a, segment in true_segments.items():
            if segment.get("iscrowd", 0):
                crowds[segment["category_id"]] = a
            elif a not in found:
                counts[segment["category_id"]][3] += 1
        for b, segment in segments.items():
            if b not in used:
                excused = overlaps.get((0, b), 0) + overlaps.get((crowds.get(segment["category_id"], -1), b), 0)
                if excused / areas[b] <= 0.5:
                    counts[segment["category_id"]][2] += 1

    result = {}
    for name, wanted in (("All", (True, False)), ("Things", (True,)), ("Stuff", (False,))):
        rows = [row for category, row in counts.items() if things[category] in wanted and any(row[1:])]
        pq = [iou / (tp + fp / 2 + fn / 2) for iou, tp, fp, fn in rows]
        result[name] = {"pq": sum(pq) / len(pq) if pq else float("nan"), "n": len(pq)}
    return result


def decode(path: Path) -> NDArray[np.uint32]:
    with Image.open(path) as image:
        rgb = np.array(image.convert("RGB"), dtype=np.uint32)
    ids: NDArray[np.uint32] = rgb[:, :, 0] + 256 * rgb[:, :, 1] + 256 * 256 * rgb[:, :, 2]
    return ids


def disturb(truth: PanopticSegmentation, rng: np.random.Generator) -> PanopticSegmentation:
    """A prediction that is wrong here and there."""
    ids = np.roll(truth.ids, rng.integers(-6, 7, 2), (0, 1))
    infos = []
    for segment in truth.segments:
        if rng.random() < 0.1 or segment.iscrowd:
            ids[ids == segment.id] = 0
            continue
        alike = [c.id for c in truth.categories if c.isthing == segment.isthing]
        swap = segment.isthing and rng.random() < 0.2
        infos.append({"id": segment.id, "category_id": int(rng.choice(alike)) if swap else segment.category_id})
    present = set(np.unique(ids).tolist())
    return PanopticSegmentation.from_ids(ids, [one for one in infos if one["id"] in present], truth.categories)


def read(folder: Folder) -> tuple[PanopticJson, dict[int, PanopticSegmentation]]:
    content = PanopticJson.read(folder[0])
    maps = {
        key: PanopticSegmentation.from_annotation(one, folder[1], content.categories)
        for key, one in content.annotations.items()
    }
    return content, maps


def write_disturbed(truth: Folder, out: Path) -> Folder:
    content, maps = read(truth)
    rng = np.random.default_rng(0)
    with CocoPanopticWriter(out / "png", out / "panoptic.json", content.categories) as writer:
        for image_id, segmentation in maps.items():
            writer.add(image_id, content.images[image_id].file_name, disturb(segmentation, rng))
    return out / "panoptic.json", out / "png"


def compare(report: Report, title: str, turns: Turns[str], images: int, goal: str) -> None:
    """Print medians per image and the ratio, second to first."""
    first, second = turns.seconds
    report.turns(title, turns)
    figures = ", ".join(f"{name} {turns.milliseconds(name) / images:.2f} ms" for name in turns.seconds)
    report.say(f"{title}: {figures} per image; ratio {turns.ratio_text(second, first, '.3g')} (goal: {goal})")


def from_disk(report: Report, truth: Folder, prediction: Folder, repeats: int) -> None:
    expected, found = usual_way(truth, prediction), score_folders(*truth, *prediction)
    for name, row in expected.items():
        if abs(row["pq"] - found[name]["pq"]) > 1e-12 or row["n"] != found[name]["n"]:
            raise SystemExit(f"{name}: the two ways disagree: {row} and {found[name]}")
    report.say(f"PQ {100 * found['All']['pq']:.1f} over {found['All']['n']} classes, by both ways (to 1e-12)")
    turns = take_turns(
        {
            "usual way": lambda: usual_way(truth, prediction),
            "score_folders": lambda: score_folders(*truth, *prediction),
        },
        repeats,
    )
    images = len(PanopticJson.read(truth[0]).annotations)
    compare(report, "from PNGs on disk", turns, images, f"at most {GOAL_DISK}")


HOTCOCO = """
import sys
from hotcoco.panoptic import PanopticEval
truth, pngs, predictions, their_pngs = sys.argv[1:]
evaluation = PanopticEval(truth, predictions, gt_folder=pngs, pred_folder=their_pngs)
evaluation.run()
print(evaluation.results()["All"]["pq"])
"""


def whole_command(report: Report, truth: Folder, prediction: Folder, repeats: int) -> None:
    """The command `banet pq`, start included, beside hotcoco's in a process of its own, each with one thread."""
    if importlib.util.find_spec("hotcoco") is None:
        report.say("the whole command: left out, as hotcoco is not installed (extra `bench`)")
        return
    paths = [str(path) for path in (*truth, *prediction)]
    flags = ("--gt-json", "--gt-dir", "--pred-json", "--pred-dir")
    ours = [sys.executable, "-m", "banet", "pq", *(word for pair in zip(flags, paths, strict=True) for word in pair)]
    theirs = [sys.executable, "-c", HOTCOCO, *paths]
    os.environ["RAYON_NUM_THREADS"] = "1"
    said = subprocess.run(theirs, check=True, stdout=subprocess.PIPE, text=True).stdout.split()[-1]
    expected = score_folders(*truth, *prediction)["All"]["pq"]
    if abs(float(said) - expected) > 1e-9:
        raise SystemExit(f"hotcoco disagrees: PQ {said}, here {expected}")
    turns = take_turns({"hotcoco": lambda: run_program(theirs), "banet pq": lambda: run_program(ours)}, repeats)
    images = len(PanopticJson.read(truth[0]).annotations)
    compare(report, f"the whole command, {images} images", turns, images, "at most 1")


def in_memory(report: Report, truth: Folder, prediction: Folder, repeats: int) -> None:
    """Up to four maps of 640 × 427 against torchmetrics, which counts neither void nor crowd as COCO does."""
    import torch
    from torchmetrics.detection import PanopticQuality as TorchPanopticQuality

    torch.set_num_threads(1)
    (content, truths), (_, predictions) = read(truth), read(prediction)
    fitting = [key for key, one in truths.items() if one.ids.shape == (427, 640)][:4]
    if not fitting:
        report.say("in memory: left out, as no map here is 640 x 427")
        return
    categories = content.categories
    counts = PanopticQuality(categories)
    other = TorchPanopticQuality(
        things={int(c.id) for c in categories if c.isthing},
        stuffs={int(c.id) for c in categories if not c.isthing},
        allow_unknown_preds_category=True,
    )

    def as_tensor(one: PanopticSegmentation, categories: Categories) -> torch.Tensor:
        """(1, H, W, 2): class and instance; void gets a class that nobody knows."""
        semantic = one.semantic.astype(np.int64)
        semantic[semantic < 0] = max(int(c.id) for c in categories) + 1
        return torch.from_numpy(np.stack([semantic, one.ids.astype(np.int64)], -1)[None])

    tensors = [(as_tensor(predictions[key], categories), as_tensor(truths[key], categories)) for key in fitting]

    def ours() -> None:
        for key in fitting:
            counts.update(predictions[key], truths[key])

    def theirs() -> None:
        for pair in tensors:
            other.update(*pair)

    turns = take_turns({"update": ours, "torchmetrics": theirs}, repeats)
    compare(report, "in memory, 640 x 427", turns, len(fitting), f"at least {GOAL_MEMORY:.0f}")


def beside_vernier(report: Report, truth: Folder, prediction: Folder, repeats: int) -> None:
    """PQ of id maps in memory, beside vernier (Rust): from the arrays, and of what it has prepared from them."""
    if importlib.util.find_spec("vernier") is None:
        report.say("vernier: left out, as it is not installed (extra `bench`)")
        return
    import vernier.panoptic as vernier

    (content, truths), (_, predictions) = read(truth), read(prediction)
    categories = json.dumps([{"id": c.id, "name": c.name, "isthing": int(c.isthing)} for c in content.categories])

    def arrays(maps: dict[int, PanopticSegmentation]) -> tuple[dict[int, NDArray[np.uint32]], bytes]:
        """Ids and segments as vernier takes them, images counted from 0."""
        segments = {n: one.to_coco(0, "")["segments_info"] for n, one in enumerate(maps.values())}
        return {n: one.ids.astype(np.uint32) for n, one in enumerate(maps.values())}, json.dumps(segments).encode()

    true_arrays = arrays(truths)
    arrays_found = arrays({key: predictions[key] for key in truths})

    def prepared() -> tuple[Any, Any]:
        return (
            vernier.Dataset.from_arrays(*true_arrays, categories.encode()),
            vernier.Predictions.from_arrays(*arrays_found),
        )

    def evaluated(dataset: Any, found: Any) -> Any:
        return vernier.Evaluator(parity_mode="strict").evaluate(dataset, found, num_threads=1)

    def ours() -> PanopticQuality:
        quality = PanopticQuality(content.categories)
        for key, one in truths.items():
            quality.update(predictions[key], one)
        return quality

    ready = prepared()
    said, expected = evaluated(*ready).pq, ours().compute()["All"]["pq"]
    if abs(said - expected) > 1e-9:
        raise SystemExit(f"vernier disagrees: PQ {said}, here {expected}")
    for title, theirs in (
        ("in memory, vernier from the arrays", lambda: evaluated(*prepared())),
        ("in memory, vernier prepared", lambda: evaluated(*ready)),
    ):
        turns = take_turns({"vernier": theirs, "update": ours}, repeats)
        compare(report, title, turns, len(truths), "at most 1")


def main() -> None:
    command_line = parser(__doc__, threads=None, repeats=15)
    command_line.add_argument("--data", type=Path, help="COCO panoptic folder; procedural scenes where left out")
    options = command_line.parse_args()
    use_threads(1)
    with Report(options, __file__) as report, tempfile.TemporaryDirectory() as folder:
        root = options.data
        if root is None:
            root = Path(folder, "scenes")
            write_coco(root, seed=0, count=12, size=(427, 640))
        truth = root / "panoptic.json", root / "panoptic"
        prediction = write_disturbed(truth, Path(folder, "prediction"))
        from_disk(report, truth, prediction, options.repeats)
        whole_command(report, truth, prediction, options.repeats)
        in_memory(report, truth, prediction, max(3, options.repeats // 5))
        beside_vernier(report, truth, prediction, options.repeats)


if __name__ == "__main__":
    main()

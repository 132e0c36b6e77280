"""`banet demo`: heuristic fusion and occlusion handling side by side, on scenes that no training saw."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont
from tqdm import tqdm

from banet.engine.evaluation.evaluate import check_categories
from banet.engine.evaluation.evaluation_data import scene_data
from banet.engine.report.gallery import write_gallery
from banet.files.atomic import atomic_path
from banet.files.outputs import Outputs, weight_files
from banet.inference.banet import BANet
from banet.inference.device import pick_device
from banet.panoptic.defaults import BEST_OVERLAP_THRESHOLD, BEST_RULE
from banet.panoptic.drawing.diff import differing_pixels, draw_diff
from banet.panoptic.metrics.quality import compare_table

__all__ = ["run_demo"]

DEMO_SCENES_SEED = 3
PREVIEWED = 3
HEURISTIC = "heuristic fusion"
NOTE = (
    "One network, one pass, three ways to decide who owns a pixel that several masks claim: the heuristic gives it to "
    "the higher score, occlusion handling to the object in front, by one of two rules. First stand the two images in "
    "which that gains most; the table counts all images, and sorting by what is gained least shows where it loses."
)


def run_demo(
    out: Path, *, weights: str | None = None, scenes: int = 50, device: str = "auto", overwrite: bool = False
) -> Path:
    """Segment fresh scenes, print PQ of both procedures and write a page of images.

    Args:
        out: Folder that gets `index.html`, one file that needs no network, and `preview.png`.
        weights: See `BANet.from_pretrained`; those that come with the package by default.
        scenes: How many; none of them was seen in training.
        device: `auto`, `cpu`, `cuda` or `mps`.
        overwrite: Also replace files that this function did not write, but never an input.

    Returns:
        The page.

    Raises:
        InputError: A file would be replaced that may not be (see `Outputs`), the weights cannot be read, or they know
            other classes than scenes have.
    """
    target = pick_device(device)
    read = weight_files(weights) if weights else []
    outputs = Outputs(out, "banet demo", ["index.html", "preview.png"], inputs=read, overwrite=overwrite)
    model = BANet.from_pretrained(weights or "scenes", device=target)
    print(f"{weights or 'scenes'} on {scenes} scenes, {target.type}")
    data = scene_data(DEMO_SCENES_SEED, scenes, model.inference.shorter)
    check_categories(model, data.categories, "scenes")
    rules = {
        f"{BEST_RULE} (occlusion handling)": replace(
            model.inference, rule=BEST_RULE, overlap_threshold=BEST_OVERLAP_THRESHOLD
        ),
        f"{model.inference.rule} (occlusion handling)": model.inference,
        HEURISTIC: replace(model.inference, rule="heuristic"),
    }
    best = next(iter(rules))
    page = out / "index.html"
    out.mkdir(parents=True, exist_ok=True)
    rows: list[tuple[float, dict[str, Image.Image]]] = []
    facts = {
        "weights": weights or "scenes",
        "data": f"{scenes} drawn scenes, seed {DEMO_SCENES_SEED}, which no training saw",
    }
    writing = write_gallery(
        page,
        "Occlusion handling, and fusion without it",
        model.categories,
        note=NOTE,
        changed="where they differ",
        facts=facts,
    )
    with outputs, writing as gallery:
        for index in tqdm(range(scenes), desc="demo", unit="scene"):
            example = data[index]
            (unfused,) = model.predict_unfused([example.image])
            results = {title: unfused.fuse(model.categories, options) for title, options in rules.items()}
            differ = differing_pixels(results[HEURISTIC], results[best])
            gallery.add(
                example.name,
                example.image,
                results,
                truth=example.ground_truth,
                instances=unfused.instances,
                changed=differ,
            )
            images = {
                "image": Image.fromarray(example.image),
                "truth": example.ground_truth.draw(example.image),
                "heuristic": results[HEURISTIC].draw(),
                "occlusion handling": results[best].draw(),
                "where they differ": draw_diff(differ, example.image),
            }
            rows.append((gallery.images[-1]["gain"] or 0.0, images))
            rows = sorted(rows, key=lambda row: -row[0])[:PREVIEWED]
    print(f"\n{compare_table({title: gallery.quality[title].compute() for title in reversed(rules)})}")
    with outputs, atomic_path(out / "preview.png") as temporary:
        _preview([row for _, row in rows]).save(temporary)
    print(f"\nopen {page}")
    return page


def _preview(rows: list[dict[str, Image.Image]]) -> Image.Image:
    """Return a grid of images by title, one scene per row."""
    side, gap, head = rows[0]["image"].width, 6, 24
    columns = list(rows[0])
    grid = Image.new("RGB", (len(columns) * (side + gap) - gap, head + len(rows) * (side + gap) - gap), "white")
    pen = ImageDraw.Draw(grid)
    for column, name in enumerate(columns):
        pen.text((column * (side + gap), 3), name, fill="black", font=ImageFont.load_default(size=15))
        for row, images in enumerate(rows):
            grid.paste(images[name], (column * (side + gap), head + row * (side + gap)))
    return grid

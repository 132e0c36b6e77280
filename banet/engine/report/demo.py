"""`banet demo`: heuristic fusion and occlusion handling side by side, on scenes that no training saw."""

from __future__ import annotations

from pathlib import Path

from PIL import Image, ImageDraw, ImageFont
from tqdm import tqdm

from banet.engine.device import pick_device
from banet.engine.evaluation.evaluate import Evaluator, check_categories
from banet.engine.evaluation.evaluation_data import scene_data
from banet.engine.report.gallery import write_gallery
from banet.files.atomic import atomic_path
from banet.files.outputs import Outputs, weight_files
from banet.inference.banet import BANet
from banet.panoptic.drawing.diff import differing_pixels, draw_diff
from banet.panoptic.metrics.quality import format_table

__all__ = ["run_demo"]

DEMO_SCENES_SEED = 3
PREVIEWED = 3


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
    evaluator = Evaluator(model)
    handling = f"occlusion handling, rule {model.inference.rule}"
    page = out / "index.html"
    out.mkdir(parents=True, exist_ok=True)
    rows: list[tuple[int, dict[str, Image.Image]]] = []
    writing = write_gallery(
        page,
        f"Heuristic fusion and occlusion handling on {scenes} fresh scenes",
        model.categories,
        note="One network, one pass, two ways to decide who owns a pixel that several masks claim. Scenes are drawn at "
        "run time with a seed that training never used.",
        changed="where they differ",
    )
    with outputs, writing as gallery:
        for index in tqdm(range(scenes), desc="demo", unit="scene"):
            for example, unfused, handled in evaluator.update([data[index]]):
                heuristic = unfused.fuse(model.categories, model.inference, rule="heuristic")
                differ = differing_pixels(heuristic, handled)
                gallery.add(
                    example.name,
                    example.image,
                    {handling: handled, "heuristic fusion": heuristic},
                    truth=example.ground_truth,
                    instances=unfused.instances,
                    changed=differ,
                )
                rows.append(
                    (
                        int(differ.sum()),
                        {
                            "image": Image.fromarray(example.image),
                            "truth": example.ground_truth.draw(example.image),
                            "heuristic": heuristic.draw(),
                            "occlusion handling": handled.draw(),
                            "where they differ": draw_diff(differ, example.image),
                        },
                    )
                )
                rows = sorted(rows, key=lambda row: -row[0])[:PREVIEWED]
    for title, quality in reversed(gallery.quality.items()):
        print(f"\n{title}\n{format_table(quality.compute())}")
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

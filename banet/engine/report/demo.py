"""`banet demo`: heuristic fusion and occlusion handling side by side, on images that no training saw."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import accumulate
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont
from tqdm import tqdm

from banet.engine.evaluation.evaluate import check_categories
from banet.engine.evaluation.evaluation_data import EvaluationData, microscope_images, scene_data
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
PREVIEWED = 4
HEURISTIC = "heuristic fusion"
NOTE = (
    "One network, one pass, three ways to decide who owns a pixel that several masks claim: the heuristic gives it to "
    "the higher score, occlusion handling to the object in front, by one of two rules. First stand the two images in "
    "which that gains most; the table counts all images, and sorting by what is gained least shows where it loses."
)


@dataclass(frozen=True)
class _Page:
    """What one page of the demonstration shows.

    Attributes:
        name: Of its HTML file, without suffix.
        preview: Name of its preview.
        weights: As for `BANet.from_pretrained`.
        title: Its headline.
        data: What the images are.
    """

    name: str
    preview: str
    weights: str
    title: str
    data: str


def run_demo(
    out: Path, *, weights: str | None = None, scenes: int = 50, device: str = "auto", overwrite: bool = False
) -> Path:
    """Segment fresh scenes and real microscope images, print PQ of all procedures and write pages of images.

    Args:
        out: Folder that gets `index.html` and `preview.png` for the scenes, `nuclei.html` and `nuclei.png` for the
            microscope images. The pages need no network.
        weights: Weights for the scenes, see `BANet.from_pretrained`; microscope images are left out then. By default
            those that come with the package, for both.
        scenes: How many; none of them was seen in training.
        device: `auto`, `cpu`, `cuda` or `mps`.
        overwrite: Also replace files that this function did not write, but never an input.

    Returns:
        The page of the scenes.

    Raises:
        InputError: A file would be replaced that may not be (see `Outputs`), the weights cannot be read, or they know
            other classes than scenes have.
    """
    target = pick_device(device)
    title = "Occlusion handling, and fusion without it"
    drawn = f"{scenes} drawn scenes, seed {DEMO_SCENES_SEED}, which no training saw"
    pages = [_Page("index", "preview.png", weights or "scenes", title, drawn)]
    if weights is None:
        real = "microscope images of the 2018 Data Science Bowl (CC0), which no training saw"
        pages.append(_Page("nuclei", "nuclei.png", "nuclei", "Nuclei in microscope images", real))
    names = [name for page in pages for name in (f"{page.name}.html", page.preview)]
    read = weight_files(weights) if weights else []
    outputs = Outputs(out, "banet demo", names, inputs=read, overwrite=overwrite)
    for page in pages:
        model = BANet.from_pretrained(page.weights, device=target)
        if page.name == "nuclei":
            data = microscope_images()
        else:
            data = scene_data(DEMO_SCENES_SEED, scenes, model.inference.shorter)
            check_categories(model, data.categories, "scenes")
        print(f"{page.weights} on {len(data)} images, {target.type}")
        out.mkdir(parents=True, exist_ok=True)
        with outputs:
            _write_page(page, model, data, out)
    for page in pages:
        print(f"open {out / page.name}.html")
    return out / "index.html"


def _write_page(page: _Page, model: BANet, data: EvaluationData, out: Path) -> None:
    """Segment images, write them as a page and a preview, and print PQ of all procedures."""
    rules = {
        f"{BEST_RULE} (occlusion handling)": replace(
            model.inference, rule=BEST_RULE, overlap_threshold=BEST_OVERLAP_THRESHOLD
        ),
        f"{model.inference.rule} (occlusion handling)": model.inference,
        HEURISTIC: replace(model.inference, rule="heuristic"),
    }
    best = next(iter(rules))
    rows: list[tuple[float, dict[str, Image.Image]]] = []
    facts = {"weights": page.weights, "data": page.data}
    file = out / f"{page.name}.html"
    with write_gallery(
        file, page.title, model.categories, note=NOTE, changed="where they differ", facts=facts
    ) as gallery:
        for index in tqdm(range(len(data)), desc="demo", unit="image"):
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
                rules={title: (options.rule, options.overlap_threshold) for title, options in rules.items()},
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
    print(f"\n{compare_table({title: gallery.quality[title].compute() for title in reversed(rules)})}\n")
    with atomic_path(out / page.preview) as temporary:
        _preview([row for _, row in rows]).save(temporary)


def _preview(rows: list[dict[str, Image.Image]]) -> Image.Image:
    """Return a grid of images by title, one image per row."""
    columns, gap, head = list(rows[0]), 6, 24
    width = max(images["image"].width for images in rows)
    heights = [images["image"].height + gap for images in rows]
    grid = Image.new("RGB", (len(columns) * (width + gap) - gap, head + sum(heights) - gap), "white")
    pen = ImageDraw.Draw(grid)
    for column, name in enumerate(columns):
        pen.text((column * (width + gap), 3), name, fill="black", font=ImageFont.load_default(size=15))
        for top, images in zip(accumulate(heights, initial=head), rows, strict=False):
            grid.paste(images[name], (column * (width + gap), top))
    return grid

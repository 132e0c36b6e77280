"""`banet demo`: heuristic fusion and occlusion handling side by side, on scenes that no training saw."""

from __future__ import annotations

import base64
import html
import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from tqdm import tqdm

from banet.engine.device import pick_device
from banet.engine.evaluate import Evaluator, check_categories
from banet.engine.pictures import Picture, scene_pictures
from banet.modeling.banet import BANet
from banet.panoptic import PanopticQuality, PanopticSegmentation
from banet.panoptic.changes import changed_hands, draw_changes
from banet.panoptic.coco_format import atomic_path
from banet.panoptic.quality import format_table

__all__ = ["run_demo"]

DEMO_SCENES_SEED = 3
SHOWN = 24


@dataclass(frozen=True)
class _Comparison:
    """One scene under both procedures."""

    picture: Picture
    heuristic: PanopticSegmentation
    handled: PanopticSegmentation

    @property
    def differs(self) -> NDArray[np.bool_]:
        """(H, W): pixels that belong to another object, or to none, under the other procedure."""
        return changed_hands(self.heuristic, self.handled)

    def pictures(self) -> dict[str, Image.Image]:
        """What is shown of the scene, by title."""
        image, truth = self.picture.image, self.picture.truth
        return {
            "image": Image.fromarray(image),
            "truth": truth.draw(image),
            "heuristic": self.heuristic.draw(image),
            "occlusion handling": self.handled.draw(image),
            "where they differ": draw_changes(self.differs, image),
        }


def run_demo(out: Path, *, weights: str | None = None, scenes: int = 50, device: str = "auto") -> Path:
    """Segment fresh scenes, print PQ of both procedures and write a page of pictures.

    Args:
        out: Folder that gets `index.html`, one file that needs no network, and `preview.png`.
        weights: See `BANet.from_pretrained`; those that come with the package by default.
        scenes: How many; none of them was seen in training.
        device: `auto`, `cpu`, `cuda` or `mps`.

    Returns:
        The page.

    Raises:
        InputError: The weights cannot be read, or know other classes than scenes have.
    """
    target = pick_device(device)
    model = BANet.from_pretrained(weights or "scenes", device=target)
    print(f"{weights or 'scenes'} on {scenes} scenes, {target.type}")
    pictures = scene_pictures(DEMO_SCENES_SEED, scenes, model.inference.shorter)
    check_categories(model, pictures.categories, "scenes")
    evaluator = Evaluator(model)
    heuristic_quality = PanopticQuality(model.categories)
    compared = []
    for index in tqdm(range(scenes), desc="demo", unit="scene"):
        for picture, readout, handled in evaluator.update([pictures[index]]):
            heuristic = readout.fuse(model.categories, model.inference, rule="heuristic")
            heuristic_quality.update(heuristic, picture.truth)
            compared.append(_Comparison(picture, heuristic, handled))
    tables = {
        "heuristic fusion": format_table(heuristic_quality.compute()),
        f"occlusion handling, rule {model.inference.rule}": format_table(evaluator.compute()),
    }
    for title, table in tables.items():
        print(f"\n{title}\n{table}")
    out.mkdir(parents=True, exist_ok=True)
    compared.sort(key=lambda c: -int(c.differs.sum()))
    page = out / "index.html"
    with atomic_path(page) as temporary:
        temporary.write_text(_page(compared, tables), encoding="utf-8")
    with atomic_path(out / "preview.png") as temporary:
        _preview(compared[:3]).save(temporary)
    print(f"\nopen {page}")
    return page


def _page(compared: list[_Comparison], tables: dict[str, str]) -> str:
    changed = sum(bool(c.differs.any()) for c in compared)
    figures = "".join(
        f"<figure><figcaption>{html.escape(title)}</figcaption><pre>{html.escape(table)}</pre></figure>"
        for title, table in tables.items()
    )
    rows = "".join(_row(c) for c in compared[:SHOWN])
    return f"""<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>BANet: occlusion handling on fresh scenes</title>
<style>
  body {{ font: 16px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 1500px; padding: 0 1rem; color: #222; }}
  .tables {{ display: flex; flex-wrap: wrap; gap: 2rem; }}
  figure {{ margin: 0; }} figcaption {{ font-weight: 600; }}
  .scene {{ display: grid; grid-template-columns: repeat(5, 1fr); gap: .5rem; margin: 0 0 1.5rem; }}
  .scene img {{ width: 100%; image-rendering: auto; border-radius: 4px; }}
  .head {{ position: sticky; top: 0; background: #fff; padding: .5rem 0; font-weight: 600; margin: 1rem 0 0; }}
  .scene small {{ grid-column: 1 / -1; color: #666; }}
</style>
<h1>Heuristic fusion and occlusion handling on {len(compared)} fresh scenes</h1>
<p>One network, one pass, two ways to decide who owns a pixel that several masks claim. Scenes are drawn at run time
with a seed that training never used. In {changed} of them pixels change hands; those where most do come first.</p>
<div class="tables">{figures}</div>
<div class="scene head"><span>image</span><span>truth</span><span>heuristic</span><span>occlusion handling</span>
<span>where they differ</span></div>
{rows}
</html>
"""


def _row(compared: _Comparison) -> str:
    cells = "".join(f'<img alt="{name}" src="{_data_url(image)}">' for name, image in compared.pictures().items())
    told = f"{compared.picture.name}: {int(compared.differs.sum())} pixels"
    return f'<div class="scene">{cells}<small>{html.escape(told)}</small></div>'


def _preview(compared: list[_Comparison]) -> Image.Image:
    """A grid of pictures, one scene a row."""
    rows = [c.pictures() for c in compared]
    side, gap, head = rows[0]["image"].width, 6, 24
    columns = list(rows[0])
    grid = Image.new("RGB", (len(columns) * (side + gap) - gap, head + len(rows) * (side + gap) - gap), "white")
    pen = ImageDraw.Draw(grid)
    for column, name in enumerate(columns):
        pen.text((column * (side + gap), 3), name, fill="black", font=ImageFont.load_default(size=15))
        for row, pictures in enumerate(rows):
            grid.paste(pictures[name], (column * (side + gap), head + row * (side + gap)))
    return grid


def _data_url(image: Image.Image) -> str:
    buffer = io.BytesIO()
    image.convert("RGB").save(buffer, "JPEG", quality=88)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"

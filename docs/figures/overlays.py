"""Draw the overlays of docs: ``python docs/figures/overlays.py --nuclei DIR [--out docs/images]``.

`overlays.jpg` has the styles of `PanopticSegmentation.draw`, `landing.jpg` an image of nuclei before and after, and
`overlays_compared.jpg` the same results as supervision draws them (extra ``adapters``). The images are validation image
`IMAGE` of the 2018 Data Science Bowl (CC0), in DIR/val/images, and a procedural scene that training did not see.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import supervision
from PIL import Image, ImageDraw

from banet import BANet, PanopticSegmentation
from banet.data.scenes import make_scene
from banet.panoptic.drawing.labels import _font

IMAGE = 18  # by name, of the validation images
WIDTH = 1600
STYLES = (
    ("draw()", {}),
    ('draw(stuff="fill")', {"stuff": "fill"}),
    ('draw(style="contour")', {"style": "contour"}),
    ('draw(style="class", stuff="none")', {"style": "class", "stuff": "none"}),
)


def side_by_side(images: Sequence[Image.Image], captions: Sequence[str] = ()) -> Image.Image:
    """Return images of one height in a row `WIDTH` wide, with captions below."""
    gap, line = 12, 40 if captions else 0
    width = (WIDTH - gap * (len(images) - 1)) // len(images)
    height = round(images[0].height * width / images[0].width)
    row = Image.new("RGB", (WIDTH, height + line), "white")
    pen = ImageDraw.Draw(row)
    for k, image in enumerate(images):
        left = k * (width + gap)
        row.paste(image.resize((width, height), Image.Resampling.LANCZOS), (left, 0))
        if captions:
            pen.text((left, height + 8), captions[k], font=_font("", 22), fill=(60, 60, 60))
    return row


def enlarged(result: PanopticSegmentation, factor: int) -> PanopticSegmentation:
    """Return a result and its image with `factor` x `factor` pixels in place of each, so that names have room."""
    image = Image.fromarray(np.asarray(result.image))
    ids = result.ids.repeat(factor, axis=0).repeat(factor, axis=1)
    size = (result.width * factor, result.height * factor)
    pixels = np.asarray(image.convert("RGB").resize(size, Image.Resampling.BICUBIC))
    return PanopticSegmentation.from_ids(ids, result.segments, result.categories, pixels)


def as_supervision_draws(result: PanopticSegmentation) -> Image.Image:
    """Return the drawing of supervision's annotators of masks and labels, with a color per segment."""
    detections = result.to_supervision()
    lookup = supervision.ColorLookup.INDEX
    names = [f"{s.label} {s.score:.0%}" if s.score is not None else s.label for s in result]
    drawn = supervision.MaskAnnotator(color_lookup=lookup).annotate(np.array(result.image), detections)
    annotator = supervision.LabelAnnotator(
        color_lookup=lookup, text_scale=0.4, text_padding=3, text_position=supervision.Position.CENTER_OF_MASS
    )
    return Image.fromarray(annotator.annotate(drawn, detections, labels=names))


def main() -> None:
    """Draw them."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--nuclei", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path("docs/images"))
    options = parser.parse_args()
    photo = sorted((options.nuclei / "val" / "images").iterdir())[IMAGE]
    nuclei = enlarged(BANet.from_pretrained("nuclei").predict(photo), 2)
    scene = enlarged(BANet.from_pretrained("scenes").predict(make_scene(seed=3, index=7).image), 3)
    before = Image.fromarray(np.asarray(nuclei.image))
    side_by_side([before, nuclei.draw()]).save(options.out / "landing.jpg", quality=88)
    rows = [side_by_side([scene.draw(**options) for _, options in STYLES], [name for name, _ in STYLES])]
    rows += [side_by_side([nuclei.draw(**options) for _, options in STYLES])]
    stacked(rows).save(options.out / "overlays.jpg", quality=88)
    rows = [
        side_by_side([one.draw(), as_supervision_draws(one)], captions)
        for one, captions in ((scene, ()), (nuclei, ("result.draw()", "supervision: MaskAnnotator, LabelAnnotator")))
    ]
    stacked(rows).save(options.out / "overlays_compared.jpg", quality=85)


def stacked(rows: Sequence[Image.Image]) -> Image.Image:
    """Return rows of one width below each other."""
    sheet = Image.new("RGB", (rows[0].width, sum(row.height + 12 for row in rows) - 12), "white")
    top = 0
    for row in rows:
        sheet.paste(row, (0, top))
        top += row.height + 12
    return sheet


if __name__ == "__main__":
    main()

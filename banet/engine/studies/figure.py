"""The paper's Fig. 6: one image per row, from the baseline over aggregation and occlusion handling to truth."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from tqdm import tqdm

from banet.engine.evaluation.evaluate import check_categories
from banet.engine.evaluation.evaluation_data import EvaluationData, EvaluationImage
from banet.errors import InputError
from banet.files.atomic import atomic_path
from banet.inference.banet import BANet
from banet.panoptic import PanopticQuality, PanopticSegmentation
from banet.panoptic.categories import Categories
from banet.types import ImageId

__all__ = ["Figure"]

WIDEST = 640  # pixels of a column; wider images are scaled down
NARROWEST = 200  # so that captions find room beside small images
GAP = 8


class Figure:
    """Draw Fig. 6 of the paper: image, baseline, + S2I and I2S, + OH, ground truth.

    The baseline and the third column are fused by the heuristic, the fourth by the paper's occlusion handling, from the
    same pass of the network as the third.

    Args:
        baseline: Network of the second column, in evaluation mode.
        model: Network of the third and fourth.
        data: Images with ground truth, of the classes of both.
        source: Names the data in errors.

    Raises:
        InputError: One of the networks knows other classes.
    """

    def __init__(self, baseline: BANet, model: BANet, data: EvaluationData, source: str = "data") -> None:
        check_categories(model, data.categories, source)
        check_categories(baseline, data.categories, f"{source}, weights of --baseline")
        self.baseline, self.model, self.data, self.source = baseline, model, data, source
        self.titles = ("image", _parts(baseline), _parts(model), "+ OH", "truth")

    def find(self, ids: Sequence[ImageId]) -> list[int]:
        """Return the positions of images in the data set by their ids.

        Raises:
            InputError: The data set has no image of that id.
        """
        places: dict[ImageId, int] = {one: index for index, one in enumerate(self.data.dataset.image_ids)}
        found = []
        for identity in ids:
            known = identity if identity in places else str(identity)  # a number may be meant as the text
            if known not in places:
                raise InputError(f"{self.source} has no image of that id", where=f"--image-ids: {identity}")
            found.append(places[known])
        return found

    def choose(self, count: int, limit: int | None = None) -> list[int]:
        """Return the positions of the images that show most of both steps.

        Each step, from the baseline to the third column and from there to the fourth, changes the PQ of an image, up
        or down. The images whose smaller change is the largest come first, then those whose sum is.

        Args:
            count: How many, at most.
            limit: Look at the first so many only.
        """
        looked_at = len(self.data) if limit is None else min(limit, len(self.data))
        changes = []
        for index in tqdm(range(looked_at), desc="choose images", unit="image"):
            example = self.data[index]
            first, second, third = (_pq(result, example.ground_truth) for result in self.results(example))
            steps = sorted((abs(second - first), abs(third - second)))
            changes.append((steps[0], sum(steps)))
        return sorted(range(looked_at), key=lambda index: changes[index], reverse=True)[:count]

    def results(
        self, example: EvaluationImage
    ) -> tuple[PanopticSegmentation, PanopticSegmentation, PanopticSegmentation]:
        """Compute what stands in the three middle columns for an image."""
        (plain,) = self.baseline.predict_unfused([example.image])
        (full,) = self.model.predict_unfused([example.image])
        return (
            plain.fuse(self.baseline.categories, self.baseline.inference, rule="heuristic"),
            full.fuse(self.model.categories, self.model.inference, rule="heuristic"),
            full.fuse(self.model.categories, self.model.inference, rule="appearance"),
        )

    def draw(self, indices: Sequence[int], note: str = "") -> Image.Image:
        """Draw the figure of some images, RGB; each result with its PQ on that image.

        Args:
            indices: Positions in the data set, one per row.
            note: A line at the foot.
        """
        rows = [self._row(self.data[index]) for index in indices]
        width = min(WIDEST, max([NARROWEST, *(cells[0][0].width for cells in rows)]))
        font = ImageFont.load_default(size=max(14, width // 20))
        line = int(1.5 * max(14, width // 20))
        rows = [[(_fit(image, width), caption) for image, caption in cells] for cells in rows]
        heights = [cells[0][0].height + line + GAP for cells in rows]
        sheet = Image.new("RGB", (len(self.titles) * (width + GAP) + GAP, 2 * line + sum(heights)), "white")
        pen = ImageDraw.Draw(sheet)

        def write(text: str, column: int, y: int) -> None:
            while pen.textlength(text, font=font) > width and len(text) > 2:
                text = f"…{text[2:]}"  # the end of a file's name tells more than its beginning
            pen.text((GAP + column * (width + GAP) + width / 2, y + line / 2), text, "black", font, anchor="mm")

        for column, title in enumerate(self.titles):
            write(title, column, 0)
        y = line
        for cells, height in zip(rows, heights, strict=True):
            for column, (image, caption) in enumerate(cells):
                sheet.paste(image, (GAP + column * (width + GAP) + (width - image.width) // 2, y))
                write(caption, column, y + image.height)
            y += height
        pen.text((GAP, y + line / 2), note, "dimgray", font, anchor="lm")
        return sheet

    def _row(self, example: EvaluationImage) -> list[tuple[Image.Image, str]]:
        """Images of a row at their own size, and what to write below each."""
        results = self.results(example)
        shown = [Image.fromarray(example.image), *(_draw(r, example, self.model.categories) for r in results)]
        captions = [example.name, *(f"PQ {100 * _pq(result, example.ground_truth):.1f}" for result in results), ""]
        return list(zip([*shown, _draw(example.ground_truth, example, self.model.categories)], captions, strict=True))

    def save(self, path: Path, *, count: int, ids: Sequence[ImageId] = (), limit: int | None = None) -> None:
        """Choose images, draw them and write the file.

        Args:
            path: A PNG; its folder is made where it is missing.
            count: How many images `choose` is to find.
            ids: These images instead.
            limit: Choose among the first N only.
        """
        chosen = self.find(ids) if ids else self.choose(count, limit)
        note = "" if ids else "chosen: both steps, to the third column and on to + OH, change their PQ most, up or down"
        figure = self.draw(chosen, note)
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(path) as temporary:
            figure.save(temporary, "PNG")


def _parts(model: BANet) -> str:
    """Title of the column of a network: what it has of the paper's two directions."""
    parts = [name for name, there in (("S2I", model.config.s2i), ("I2S", model.config.sim)) if there]
    return f"+ {' and '.join(parts)}" if parts else "baseline"


def _pq(result: PanopticSegmentation, truth: PanopticSegmentation) -> float:
    """Compute PQ of one image, 0..1; 0 where there is neither ground truth nor result."""
    quality = PanopticQuality(result.categories)
    quality.update(result, truth)
    pq = float(quality.compute()["All"]["pq"])
    return 0.0 if math.isnan(pq) else pq


def _draw(result: PanopticSegmentation, example: EvaluationImage, categories: Categories) -> Image.Image:
    """Draw a result over its image, in the colours of `categories`, so that a class has one colour in all columns."""
    return replace(result, categories=categories).draw(np.ascontiguousarray(example.image))


def _fit(image: Image.Image, width: int) -> Image.Image:
    """Return the image, scaled down where it is wider than its column."""
    if image.width <= width:
        return image
    height = max(1, round(image.height * width / image.width))
    return image.resize((width, height), Image.Resampling.LANCZOS)

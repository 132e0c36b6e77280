"""A gallery of results: one HTML file that needs no network, to sort, to filter and to look into."""

from __future__ import annotations

import base64
import html
import io
import json
import math
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from banet.files.atomic import atomic_path
from banet.inference.postprocess import Instances
from banet.panoptic import PanopticQuality, PanopticSegmentation
from banet.panoptic.categories import Categories
from banet.panoptic.defaults import OVERLAP_THRESHOLD
from banet.panoptic.drawing.colors import SEQUENCE, find_objects, segment_colors
from banet.panoptic.drawing.overlay import image_array
from banet.panoptic.id_maps import index_map, runs
from banet.panoptic.metrics.quality import Match
from banet.panoptic.occlusion.overlap_report import OverlapReport, report_overlaps
from banet.types import RuleLike

__all__ = ["Gallery", "encode_jpeg", "encode_map", "write_gallery"]

TEMPLATE = Path(__file__).with_name("gallery.html")
SEGMENTS = Path(__file__).with_name("segments.js")
LARGEST = 1024  # of a side, in pixels; larger images are shown smaller

# What the page says of a segment that was compared with the truth.
_RIGHT, _WRONG, _EXCUSED = range(3)


@contextmanager
def write_gallery(
    path: Path,
    title: str,
    categories: Categories,
    *,
    note: str = "",
    changed: str = "",
    facts: Mapping[str, str] | None = None,
) -> Iterator[Gallery]:
    """Write the page, image by image; of those that are written only some figures are kept in memory.

    The page holds each image once, as JPEG, and id maps beside it; the browser paints. The file appears when the
    block ends, and only if no error left it.

    Args:
        path: The HTML file, in a folder that exists.
        title: Its headline.
        categories: The classes of all results; they also give the colours.
        note: A paragraph below the headline.
        changed: What `Gallery.add` marks in images, such as "where they differ".
        facts: What the head tells, by term: weights, data, date.

    Raises:
        InputError: The folder does not exist.
    """
    shared = SEGMENTS.read_text(encoding="utf-8").replace("export ", "")  # a page on the disk cannot load modules
    head, tail = TEMPLATE.read_text(encoding="utf-8").replace("{segments}", shared).split("<!-- images -->")
    # Names of files need not be text; what is not becomes an escape that JSON knows.
    with (
        atomic_path(path) as temporary,
        temporary.open("w", encoding="utf-8", errors="backslashreplace", newline="\n") as file,
    ):
        file.write(head.replace("{title}", html.escape(title)))
        gallery = Gallery(file, categories)
        yield gallery
        file.write(
            tail.replace(
                "{index}", _json({"note": note, "changed": changed, "facts": facts or {}, **gallery.summary()})
            )
        )


class Gallery:
    """Takes in what is shown on the page that `write_gallery` writes.

    Args:
        file: Gets one script element per image.
        categories: The classes of all results.

    Attributes:
        quality: By title of result, its PQ over all images that have truth.
        images: What the page knows of each image without looking into it, such as `pq` and `gain`.
    """

    def __init__(self, file: TextIO, categories: Categories) -> None:
        self.categories = categories
        self.quality: dict[str, PanopticQuality] = {}
        self._file = file
        self.images: list[dict[str, Any]] = []

    def add(
        self,
        name: str,
        image: Any,
        results: Mapping[str, PanopticSegmentation],
        *,
        truth: PanopticSegmentation | None = None,
        instances: Instances | None = None,
        changed: NDArray[np.bool_] | None = None,
        rules: Mapping[str, tuple[RuleLike, float]] | None = None,
    ) -> None:
        """Put an image in.

        Args:
            name: What to call it.
            image: PIL image or array (H, W, 3) or (H, W), 0..255.
            results: One or more results by title. Sorting goes by the first one, and by what it gains over the last.
            truth: To compare them with.
            instances: Those that the results were fused from; without them the page does not show occlusions.
            changed: (H, W), pixels to mark; see `write_gallery`.
            rules: By title, the rule and the overlap threshold that a result was fused with: the page then tells how
                sure each decision is, if the rule is calibrated.

        Raises:
            ValueError: Sizes differ, or instances are not those of a result.
        """
        pixels = image_array(image)
        if not results or any(pixels.shape[:2] != result.ids.shape for result in results.values()):
            raise ValueError("give one result at least, each of the size of the image")
        views, compared = [], []
        # What results share has one color in all of them.
        _, shared, numbers = find_objects((result.segments for result in results.values()), self.categories)
        for (title, result), objects in zip(results.items(), numbers, strict=True):
            match, overlaps = None, None
            if truth is not None:
                match = self.quality.setdefault(title, PanopticQuality(self.categories)).update(result, truth)
            if instances is not None:
                labels = self.categories.ids[instances.labels]
                rule, threshold = (rules or {}).get(title, (None, OVERLAP_THRESHOLD))
                overlaps = report_overlaps(
                    result, instances.masks, instances.scores, labels, rule=rule, overlap_threshold=threshold
                )
            verdicts = None if match is None else _verdicts(match)[0]
            views.append(self._view(title, result, shared[objects], verdicts, overlaps, instances))
            compared.append((result, match, overlaps))
        main, match, overlaps = compared[0]
        scores = [self._score(one) for _, one, _ in compared if one is not None]
        score = scores[0] if scores else None
        if truth is not None and match is not None:
            colors = segment_colors(truth.segments, self.categories)
            views.append(self._view("truth", truth, colors, _verdicts(match)[1], truth=True))
        block = {
            "size": [main.width, main.height],
            "jpeg": _jpeg(pixels),
            "views": views,
            "changed": None if changed is None else encode_map(_shrunk(changed)),
        }
        self.put(
            f'<script type="application/json" class="image">{_json(block)}</script>\n',
            {
                "name": name,
                "pq": None if score is None else _number(score["All"]["pq"]),
                "gain": None if len(scores) < 2 else _number(scores[0]["All"]["pq"] - scores[-1]["All"]["pq"]),
                "things": sum(segment.isthing for segment in main.segments),
                "disputed": None if overlaps is None else overlaps.pixels,
                "changed": None if changed is None else int(changed.sum()),
                "classes": self._classes(main, truth, score),
            },
        )

    def put(self, block: str, known: dict[str, Any]) -> None:
        """Put in what another gallery of the same classes wrote of an image, and knows of it."""
        self._file.write(block)
        self.images.append(known)

    def _score(self, match: Match) -> Mapping[str, Any]:
        alone = PanopticQuality(self.categories)
        alone.add(match)
        return alone.compute()

    def _view(
        self,
        title: str,
        result: PanopticSegmentation,
        colors: NDArray[np.uint8],
        verdicts: Sequence[list[Any]] | None,
        overlaps: OverlapReport | None = None,
        instances: Instances | None = None,
        truth: bool = False,
    ) -> dict[str, Any]:
        """What the page knows of one result: an id map of positions in the list of segments, and the segments."""
        segments: list[dict[str, Any]] = [
            {
                "class": self.categories.index(segment.category_id),
                "score": segment.score,
                "area": segment.area,
                "crowd": segment.iscrowd,
            }
            for segment in result.segments
        ]
        for index, segment in enumerate(segments):
            segment["color"] = colors[index].tolist()
            segment["verdict"] = None if verdicts is None else verdicts[index]
        view = {
            "title": title,
            "truth": truth,
            "map": encode_map(index_map(_shrunk(result.ids), [segment.id for segment in result.segments])),
            "segments": segments,
        }
        if overlaps is not None and instances is not None:
            place = {segment.id: index for index, segment in enumerate(result.segments)}
            lost = np.flatnonzero(overlaps.segments == 0)  # counted on behind the segments
            place_of = dict(zip(lost.tolist(), range(len(segments), len(segments) + len(lost)), strict=True))
            place_of |= {n: place[int(s)] for n, s in enumerate(overlaps.segments) if s}
            sure = {
                (d.front, d.back): [round(d.probability, 4)] for d in overlaps.decisions if d.probability is not None
            }
            for segment_id, hidden in overlaps.hidden.items():
                front = int(np.flatnonzero(overlaps.segments == segment_id)[0])
                segments[place[segment_id]]["hides"] = [
                    [place_of[n], pixels, *sure.get((front, n), ())] for n, pixels in hidden.items()
                ]
            view["lost"] = [
                {
                    "class": int(instances.labels[n]),
                    "score": float(instances.scores[n]),
                    "area": int(instances.masks.crops[n].sum()),
                }
                for n in lost.tolist()
            ]
            view["claims"] = encode_map(_shrunk(overlaps.claims))
            view["claimants"] = [[place[s] for s in some] for some in overlaps.claimants]
        return view

    def _classes(
        self, result: PanopticSegmentation, truth: PanopticSegmentation | None, score: Mapping[str, Any] | None
    ) -> dict[int, dict[str, Any]]:
        """By class index: segments and pixels of the result, segments of the truth, and PQ of this image."""
        classes: dict[int, dict[str, Any]] = {}
        for side, segments in (("found", result.segments), ("true", [] if truth is None else truth.segments)):
            for segment in segments:
                row = classes.setdefault(self.categories.index(segment.category_id), {"found": 0, "true": 0, "area": 0})
                row[side] += 1
                row["area"] += segment.area if side == "found" else 0
        if score is not None:
            for index, row in classes.items():
                row["pq"] = _number(score["per_class"][self.categories[index].id]["pq"])
        return classes

    def summary(self) -> dict[str, Any]:
        """Return what the page knows of all images without looking into one."""
        scores = {title: quality.compute() for title, quality in self.quality.items()}
        groups = ("All", "Things", "Stuff")
        first = next(iter(scores.values()), None)
        return {
            "categories": [
                {"name": c.name, "isthing": c.isthing, "color": list(c.color), **_row(first, c.id)}
                for c in self.categories
            ],
            "scores": {
                title: {g: {key: _number(score[g][key]) for key in ("pq", "sq", "rq")} for g in groups}
                for title, score in scores.items()
            },
            "things": [list(color) for color in SEQUENCE[:3]],
            "images": self.images,
        }


def _row(score: Mapping[str, Any] | None, category_id: int) -> dict[str, Any]:
    """PQ of a class and what it is made of, where there is truth."""
    if score is None:
        return {}
    row = score["per_class"][category_id]
    return {key: _number(row[key]) for key in ("pq", "sq", "rq", "tp", "fp", "fn")}


def _verdicts(match: Match) -> tuple[list[list[Any]], list[list[Any]]]:
    """Return what became of each segment of the result and of the truth.

    Each is [right, IoU], or [wrong, index of the class that the other side has there, or None], or [excused].
    """
    ours: list[list[Any]] = [[_EXCUSED] for _ in match.prediction_classes]
    theirs: list[list[Any]] = [[_EXCUSED] for _ in match.ground_truth_classes]
    for k in match.false_positives.tolist():
        ours[k] = [_WRONG, None]
    for k in match.false_negatives.tolist():
        theirs[k] = [_WRONG, None]
    for t, p in match.regions.tolist():
        if ours[p][0] == _WRONG and theirs[t][0] == _WRONG:
            ours[p][1], theirs[t][1] = int(match.ground_truth_classes[t]), int(match.prediction_classes[p])
    for t, p, iou in zip(match.ground_truth.tolist(), match.prediction.tolist(), match.iou.tolist(), strict=True):
        ours[p] = theirs[t] = [_RIGHT, round(iou, 4)]
    return ours, theirs


def _size(shape: tuple[int, ...]) -> tuple[int, int]:
    """Height and width at which an image of this shape is shown."""
    scale = min(1.0, LARGEST / max(shape[:2]))
    return max(1, round(shape[0] * scale)), max(1, round(shape[1] * scale))


def _shrunk(values: NDArray[Any]) -> NDArray[Any]:
    """Return a map (H, W) at the size at which it is shown; every value is one of the map's."""
    height, width = _size(values.shape)
    if (height, width) == values.shape:
        return values
    rows = (2 * np.arange(height) + 1) * values.shape[0] // (2 * height)
    columns = (2 * np.arange(width) + 1) * values.shape[1] // (2 * width)
    small: NDArray[Any] = values[rows[:, None], columns]
    return small


def encode_map(values: NDArray[Any]) -> str:
    """Return a map (H, W) as text: values and lengths of its runs in reading order, 32 bits each, deflated, base 64."""
    starts, lengths = runs(values)
    both = np.concatenate([values.reshape(-1)[starts].astype("<u4"), lengths.astype("<u4")])
    return base64.b64encode(zlib.compress(both.tobytes(), 9)).decode()


def encode_jpeg(image: Image.Image) -> str:
    """Return an image as text: a JPEG in base 64."""
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=85, optimize=True)
    return base64.b64encode(buffer.getvalue()).decode()


def _jpeg(image: NDArray[np.uint8]) -> str:
    height, width = _size(image.shape)
    scaled = Image.fromarray(image)
    if scaled.size != (width, height):
        scaled = scaled.resize((width, height), Image.Resampling.LANCZOS, reducing_gap=2.0)
    return encode_jpeg(scaled)


def _json(value: Any) -> str:
    """JSON that may stand inside a script element."""
    text = json.dumps(value, separators=(",", ":"), allow_nan=False, ensure_ascii=False)
    return text.replace("<", "\\u003c")


def _number(value: float) -> float | None:
    return None if math.isnan(value) else round(value, 6)

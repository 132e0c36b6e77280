"""What the processes of a run found, merged to the outputs of all images, an image at a time."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from banet.engine.sharing.shared_run import SharedRun
from banet.files.atomic import atomic_path
from banet.files.staging import JsonLists
from banet.panoptic.categories import Categories
from banet.panoptic.segmentation import COLUMNS

__all__ = ["RESULTS", "SEGMENTS", "Merged", "merge_images"]

SEGMENTS = "segments.csv"
RESULTS = "panoptic.json"


@dataclass
class Merged:
    """What was found in all images.

    Attributes:
        counts: Things, by class.
        failures: An error for each image that could not be done.
    """

    counts: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)


def merge_images(run: SharedRun, categories: Categories, facts: Mapping[str, str], *, gallery: bool) -> Merged:
    """Write `panoptic.json`, `segments.csv` and, where asked for, the gallery of all images of a run.

    Each item of them is in memory on its own; the JSON comes after the table.

    Args:
        run: The run, which this process finished last.
        categories: The classes.
        facts: See `write_gallery`.
        gallery: Whether there is one.

    Raises:
        InputError: See `SharedRun.merged_lines`.
    """
    out, merged = run.outputs.folder, Merged()
    with ExitStack() as stack:
        page = None
        if gallery:
            from banet.engine.report.gallery import write_gallery

            pages = write_gallery(out / "gallery.html", "Panoptic segmentation", categories, facts=facts)
            page = stack.enter_context(pages)
        lists = stack.enter_context(JsonLists())
        with _segment_table(out / SEGMENTS) as table:
            for _, content in run.merged_lines():
                if "failure" in content:
                    merged.failures.append(content["failure"])
                    continue
                lists.add("images", content["image"])
                lists.add("annotations", content["annotation"])
                table.writerows({"image": content["title"], **row} for row in content["rows"])
                merged.counts.update(content["counts"])
                if page is not None:
                    page.put(*content["page"])
        run.adopt_records()
        run.outputs.run = run.fingerprint
        lists.write(out / RESULTS, {"images": None, "annotations": None, "categories": categories.to_coco()})
    return merged


@contextmanager
def _segment_table(path: Path) -> Iterator[csv.DictWriter[str]]:
    """Write a table of segments, a row at a time."""
    with (
        atomic_path(path) as temporary,  # names of files need not be text
        temporary.open("w", encoding="utf-8", errors="backslashreplace", newline="") as stream,
    ):
        table = csv.DictWriter(stream, ("image", *COLUMNS))
        table.writeheader()
        yield table

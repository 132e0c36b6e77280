"""Panoptic quality counted by several processes: counts add up, to the last digit of one process's."""

from __future__ import annotations

from typing import Any

from banet.engine.sharing.process import Process
from banet.engine.sharing.shared_run import SharedRun, facts_of_file
from banet.engine.sharing.work_list import WorkList
from banet.files.outputs import Outputs
from banet.panoptic.metrics.quality import FolderPair, PanopticQuality
from banet.types import Progress

__all__ = ["score_share"]


def score_share(
    pair: FolderPair, outputs: Outputs, process: Process, progress: Progress | None = None, *, resume: bool = False
) -> dict[str, Any] | None:
    """Score the images of this process, and where it is the last one, those of all.

    Args:
        pair: Ground truth and predictions.
        outputs: The one file that the result will be written to.
        process: This process.
        progress: Called with the number of images done, and of all.
        resume: Go on with a run that was stopped.

    Returns:
        See `PanopticQuality.compute`; None in all processes but the one that finishes last.

    Raises:
        InputError: See `compare_folders` and `SharedRun`.
    """
    annotations = list(pair.truth.annotations.values())
    names = (each.file_name for each in annotations)
    predicted = (pair.predicted.annotations[each.image_id].file_name for each in annotations)
    items = ({"path": name, "prediction": other} for name, other in zip(names, predicted, strict=True))
    (output,) = outputs.names
    with WorkList(items) as work:
        classes = pair.truth.categories.to_coco()
        files = {"gt_json": facts_of_file(pair.truth.path), "pred_json": facts_of_file(pair.predicted.path)}
        run = SharedRun(outputs, process, {**files, "categories": classes}, work, resume=resume, output=output)
        run.prepare(())
        outputs.folder.mkdir(parents=True, exist_ok=True)
        run.begin()
        for part, groups in run.parts(lambda _: ()):
            places = [place for ((place, _),) in groups]
            for place, image in zip(places, pair.compare(annotations[place] for place in places), strict=True):
                alone = PanopticQuality(pair.truth.categories)
                alone.add(image.found)
                part.add(place, {"counts": alone.counts()})
                run.advance()
                if progress is not None:
                    progress(run.count, len(work))
        if not run.is_last():
            print(run.told_at_the_end())
            return None
        quality = PanopticQuality(pair.truth.categories)
        for _, content in run.merged_lines():
            quality.add_counts(content["counts"])
        run.close()
    return quality.compute()

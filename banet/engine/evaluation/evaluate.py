"""Measure a model on images with ground truth: PQ, AP_mask and mIoU^St."""

from __future__ import annotations

import itertools
import json
import re
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from banet._renamed import accept_old_names
from banet.engine.evaluation.evaluation_data import EvaluationData, EvaluationImage, choose_data
from banet.engine.recipe import Recipe, SplitConfig
from banet.engine.report.gallery import write_gallery
from banet.engine.training.distributed import gather, joined, share
from banet.errors import InputError
from banet.files.atomic import atomic_path, write_json
from banet.files.fields import id_order
from banet.files.outputs import Outputs, weight_files
from banet.inference.device import first_that_fits, is_out_of_memory, pick_device
from banet.inference.postprocess import Instances, UnfusedPrediction
from banet.inference.predictor import Predictor
from banet.modeling.config import change_options
from banet.panoptic import PanopticQuality, PanopticSegmentation
from banet.panoptic.categories import Categories
from banet.panoptic.coco.writer import CocoPanopticWriter, png_names
from banet.panoptic.metrics.quality import format_table, percent, to_json
from banet.types import Precision, StrPath

if TYPE_CHECKING:
    from banet.engine.evaluation.metrics import PanopticQualityMetric

__all__ = ["Evaluator", "check_categories", "evaluate", "evaluate_command"]

KIND = "banet evaluate"


def check_categories(model: Predictor, categories: Categories, source: str) -> None:
    """Refuse to measure a model on other classes than it was trained on.

    Raises:
        InputError: An id, a name or a kind differs; names the first.
    """
    ours = {(c.id, c.name, c.isthing) for c in model.categories}
    theirs = {(c.id, c.name, c.isthing) for c in categories}
    if ours != theirs:
        only = sorted(ours ^ theirs)[0]
        whose = "the weights" if only in ours else source
        raise InputError(
            f"{len(theirs)} classes, the weights have {len(ours)}; id {only[0]} ({only[1]}, "
            f"{'thing' if only[2] else 'stuff'}) is known to {whose} only",
            where=f"{source}: categories",
            hint="use weights trained on this data set",
        )


@dataclass
class Evaluator:
    """Accumulate PQ, and where asked AP and mIoU, image by image.

    Args:
        model: To measure.
        full: Also AP_mask and mIoU^St.
        quality: What counts PQ; one that sums over processes can stand in for the plain one.
    """

    model: Predictor
    full: bool = False
    quality: PanopticQuality | PanopticQualityMetric | None = None

    def __post_init__(self) -> None:
        """Start from nothing."""
        self.counts = self.quality if self.quality is not None else PanopticQuality(self.model.categories)
        if self.full:
            from banet.engine.evaluation.metrics import MaskAP, StuffIoU

            self.ap = MaskAP(self.model.categories, self.model.inference.ap_instances)
            self.stuff = StuffIoU(self.model.categories)

    def update(
        self, examples: Sequence[EvaluationImage]
    ) -> Iterator[tuple[EvaluationImage, UnfusedPrediction, PanopticSegmentation]]:
        """Measure images as one batch; yield each with its outputs and its result.

        Raises:
            InputError: The device has too little memory for so many; says how many fit.
        """
        images = [each.image for each in examples]
        outputs: Sequence[tuple[UnfusedPrediction, Instances | None]] | None
        try:
            outputs = self.model.predict_for_evaluation(images) if self.full else self._without_ap(images)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            outputs = None
        if outputs is None:  # out of the handler, as the error holds on to memory
            raise InputError(_too_many(self.model, images))
        for example, (unfused, candidates) in zip(examples, outputs, strict=True):
            if candidates is not None:
                self.ap.update(candidates, example.ground_truth, example.instances)
                self.stuff.update(unfused.semantic, example.ground_truth)
            result = self.model.fuse(unfused)
            self.counts.update(result, example.ground_truth)
            yield example, unfused, result

    def _without_ap(self, images: Sequence[NDArray[np.uint8]]) -> list[tuple[UnfusedPrediction, Instances | None]]:
        return [(unfused, None) for unfused in self.model.predict_unfused(images)]

    def collect(self) -> None:
        """Bring what all processes have counted to the first one."""
        if share()[1] == 1 or not isinstance(self.counts, PanopticQuality):
            return
        for counts in gather(self.counts)[1:]:
            self.counts.merge(counts)
        if self.full:
            for ap, stuff in gather((self.ap, self.stuff))[1:]:
                self.ap.merge(ap)
                self.stuff.merge(stuff)

    def compute(self) -> dict[str, Any]:
        """What `PanopticQuality.compute` gives, and `ap`, `ap50`, `ap75`, `miou_stuff` where asked; shares 0..1."""
        result: dict[str, Any] = self.counts.compute()
        if self.full:
            result = {**result, **self.ap.compute(), "miou_stuff": self.stuff.compute()}
        return result


@accept_old_names
def evaluate(
    model: Predictor,
    data: EvaluationData,
    *,
    out: Path | None = None,
    batch_size: int = 1,
    limit: int | None = None,
    source: str = "data",
    weights: str = "",
    gallery: Path | None = None,
) -> dict[str, Any]:
    """Measure a model; several processes share the images, and the first one returns the metrics of all of them.

    Args:
        model: In evaluation mode, on its device.
        data: Images with ground truth, of the same classes as the model.
        out: Folder for `panoptic/`, `panoptic.json`, `metrics.json` and a zip as the COCO server wants it.
        batch_size: Images that go through the network together.
        limit: Only the first N images.
        source: Names the data in errors and in the gallery.
        weights: Names the weights in the gallery.
        gallery: Page of all images with results and ground truth, in a folder that exists; one process only.

    Raises:
        InputError: Other classes, or a damaged file.
    """
    check_categories(model, data.categories, source)
    data.set_bit_depth(model.inference.bit_depth)
    evaluator = Evaluator(model, full=True)
    pngs = _pngs(data, limit)
    count = len(pngs)
    rank, world = share()
    with ExitStack() as stack:
        writer = None
        if out is not None:
            part = out / "panoptic.json" if world == 1 else _part(out, rank)
            writer = stack.enter_context(CocoPanopticWriter(out / "panoptic", part, model.categories))
        page = None
        if gallery is not None:
            facts = {"weights": weights, "data": source, "rule": model.inference.rule}
            page = stack.enter_context(write_gallery(gallery, f"Evaluation on {source}", model.categories, facts=facts))
        bar = stack.enter_context(tqdm(total=-(-count // world), desc="evaluate", unit="image", disable=rank > 0))
        for start in range(rank * batch_size, count, world * batch_size):
            group = [data[index] for index in range(start, min(start + batch_size, count))]
            names = pngs[start : start + batch_size]
            for (example, unfused, result), png in zip(evaluator.update(group), names, strict=True):
                if writer is not None:
                    writer.add(example.image_id, example.name, result, png_name=png)
                if page is not None:
                    page.add(
                        example.name,
                        example.image,
                        {"result": result},
                        truth=example.ground_truth,
                        instances=unfused.instances,
                        rules={"result": (model.inference.rule, model.inference.overlap_threshold)},
                    )
                bar.update()
    evaluator.collect()
    metrics = evaluator.compute()
    if out is not None and rank == 0:
        if world > 1:
            _join([_part(out, number) for number in range(world)], out / "panoptic.json")
        write_json(out / "metrics.json", to_json(metrics))
        _zip(out, pngs, zip_stem(source))
    return metrics


def zip_stem(source: str) -> str:
    """Return the name, without suffix, that the COCO server wants: panoptic_DATA_BANet_results.

    Args:
        source: the JSON of the data, or a name. Of `val2017/panoptic.json` DATA is the folder, `val2017`.
    """
    path = Path(source)
    name = path.stem if path.suffix == ".json" else path.name
    if path.suffix == ".json" and name == "panoptic":
        name = path.absolute().parent.name
    words = re.sub(r"[^\w.-]+", "-", name.removeprefix("panoptic_")).strip("-")
    return f"panoptic_{words or 'data'}_BANet_results"


def open_evaluated(
    weights: str,
    data: EvaluationData,
    source: str,
    *,
    device: str,
    class_table: str | None = None,
    trust: bool = False,
) -> Predictor:
    """Return the model of some weights; the classes of another library's are matched with those of the data, by name.

    Args:
        weights: See `banet.load`.
        data: What is measured on.
        source: Names it in errors.
        device: `auto`, `cpu`, `cuda` or `mps`.
        class_table: Further names of the data's categories; by default those of COCO's.
        trust: See `banet.load`.

    Raises:
        InputError: The weights cannot be read, or none of their classes is in the data.
    """
    from banet.composed.classes import ClassTable
    from banet.composed.load import load
    from banet.composed.names import is_composed

    target = pick_device(device)
    if not is_composed(weights):
        return load(weights, device=target, class_table=class_table)
    table = ClassTable.read(class_table) if class_table else ClassTable.default()
    return load(weights, device=target, class_table=table.for_categories(data.categories, source), trust=trust)


def _pngs(data: EvaluationData, limit: int | None) -> list[str]:
    """Return the names of the PNGs of the images that are measured."""
    count = len(data) if limit is None else min(limit, len(data))
    return png_names(data.file_name(index) for index in range(count))


def _claim(
    out: Path, data: EvaluationData, source: str, limit: int | None, weights: str, gallery: bool, overwrite: bool
) -> Outputs:
    """Check what `evaluate` writes to a folder."""
    names: dict[str, StrPath | None] = dict.fromkeys(["panoptic.json", "metrics.json", f"{zip_stem(source)}.zip"])
    if gallery:
        names["gallery.html"] = None
    for index, png in enumerate(_pngs(data, limit)):
        names[f"panoptic/{png}"] = next(iter(data.dataset.files(index)), None)
    inputs = itertools.chain(weight_files(weights), data.files())
    return Outputs(out, KIND, names, inputs=inputs, overwrite=overwrite)


def _too_many(model: Predictor, images: Sequence[NDArray[np.uint8]]) -> str:
    """Return the error of a batch that does not fit into the memory: how many of its images do fit."""
    largest = sorted(images, key=lambda image: -image.size)
    halves = [len(images) >> times for times in range(1, len(images).bit_length())]
    fits = first_that_fits(halves, lambda count: model.predict_unfused(largest[:count]))
    height, width = largest[0].shape[:2]
    if fits:
        return f"--batch {len(images)}: the memory does not hold so many of {width}x{height} at once; {fits} fit"
    return f"an image of {width}x{height} does not fit into the memory; lower inference.shorter and longer"


def _part(out: Path, rank: int) -> Path:
    return out / f".panoptic.{rank}.json"


def _join(parts: Sequence[Path], path: Path) -> None:
    """One COCO panoptic JSON of those that several processes wrote, in the order of the images' ids."""
    contents = [json.loads(part.read_text(encoding="utf-8")) for part in parts]
    images = sorted((i for content in contents for i in content["images"]), key=lambda i: id_order(i["id"]))
    records = sorted((a for content in contents for a in content["annotations"]), key=lambda a: id_order(a["image_id"]))
    write_json(path, {**contents[0], "images": images, "annotations": records})
    for part in parts:
        part.unlink()


def _zip(out: Path, pngs: Sequence[str], stem: str) -> None:
    """Write the archive that the COCO test-dev server takes."""
    path = out / f"{stem}.zip"
    # Not strict, as a clock may stand before 1980, where zip begins.
    with atomic_path(path) as temporary, zipfile.ZipFile(temporary, "w", strict_timestamps=False) as archive:
        archive.write(out / "panoptic.json", f"{stem}.json", zipfile.ZIP_DEFLATED)
        for png in sorted(pngs):
            archive.write(out / "panoptic" / png, f"{stem}/{png}")


@accept_old_names
def evaluate_command(
    weights: str,
    *,
    recipe: Recipe | None,
    split: SplitConfig | None,
    out: Path | None,
    rule: str | None,
    inference_overrides: Mapping[str, Any],
    batch_size: int,
    limit: int | None,
    device: str,
    precision: Precision = "32",
    gallery: bool = False,
    class_table: str | None = None,
    trust: bool = False,
    overwrite: bool = False,
) -> dict[str, Any]:
    """`banet evaluate`: load, measure, print the table.

    Raises:
        InputError: Weights or data cannot be read, or do not fit each other.
    """
    target = pick_device(device)  # before the data are read
    data, source = choose_data(recipe, split)
    outputs = None if out is None else _claim(out, data, source, limit, weights, gallery, overwrite)
    model = open_evaluated(weights, data, source, device=device, class_table=class_table, trust=trust)
    overrides = {**inference_overrides, **({"rule": rule} if rule else {})}
    model.inference = change_options(model.inference, overrides)
    model = model.configured(precision=precision)
    with joined(), outputs or nullcontext():
        rank, world = share()
        if gallery and world > 1:
            raise InputError(
                "one process writes the page", where="--gallery", hint="run `banet evaluate` without torchrun"
            )
        if rank == 0:
            where = f"{world} x {target.type}" if world > 1 else target.type
            print(f"{weights} on {len(data)} images ({source}), {where}, rule {model.inference.rule}")
        page = out / "gallery.html" if gallery and out is not None else None
        named = {"source": source, "weights": weights}
        result = evaluate(model, data, out=out, batch_size=batch_size, limit=limit, gallery=page, **named)
    if rank > 0:
        return result
    print(format_table(result, model.categories))
    print(f"AP_mask {percent(result['ap']).strip()}   mIoU^St {percent(result['miou_stuff']).strip()}")
    if out is not None:
        pages = ", gallery.html" if gallery else ""
        print(f"written: {out}/panoptic/, panoptic.json, metrics.json, {zip_stem(source)}.zip{pages}")
    return result

"""Measure a model on images with ground truth: PQ, AP_mask and mIoU^St."""

from __future__ import annotations

import itertools
import json
import math
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from tqdm import tqdm

from banet._renamed import accept_old_names
from banet.engine.device import first_that_fits, is_out_of_memory, pick_device
from banet.engine.evaluation.evaluation_data import EvaluationData, EvaluationImage, choose_data
from banet.engine.recipe import Recipe, SplitConfig
from banet.engine.report.gallery import write_gallery
from banet.engine.training.distributed import gather, joined, share
from banet.errors import InputError
from banet.files.atomic import atomic_path, write_json
from banet.files.fields import id_order
from banet.files.outputs import Outputs, weight_files
from banet.inference.banet import BANet
from banet.inference.postprocess import UnfusedPrediction, paste_instances, postprocess
from banet.inference.preprocess import preprocess
from banet.modeling.config import change_options
from banet.modeling.network import Network
from banet.panoptic import PanopticQuality, PanopticSegmentation
from banet.panoptic.categories import Categories
from banet.panoptic.coco.writer import CocoPanopticWriter, png_names
from banet.panoptic.metrics.quality import format_table, to_json

if TYPE_CHECKING:
    from banet.engine.evaluation.metrics import PanopticQualityMetric

__all__ = ["Evaluator", "check_categories", "evaluate", "evaluate_command"]

KIND = "banet evaluate"
ZIP_STEM = "panoptic_test-dev2017_BANet_results"


def check_categories(model: Network, categories: Categories, source: str) -> None:
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

    model: Network
    full: bool = False
    quality: PanopticQuality | PanopticQualityMetric | None = None

    def __post_init__(self) -> None:
        """Start from nothing."""
        self.counts = self.quality if self.quality is not None else PanopticQuality(self.model.categories)
        if self.full:
            from banet.engine.evaluation.metrics import MaskAP, StuffIoU

            self.ap = MaskAP(self.model.categories, self.model.inference.ap_instances)
            self.stuff = StuffIoU(self.model.categories)

    @torch.no_grad()
    def update(
        self, examples: Sequence[EvaluationImage]
    ) -> Iterator[tuple[EvaluationImage, UnfusedPrediction, PanopticSegmentation]]:
        """Measure images as one batch; yield each with its outputs and its result.

        Raises:
            InputError: The device has too little memory for so many; says how many fit.
        """
        inputs = [preprocess(each.image, self.model.inference) for each in examples]
        try:
            output = self.model(inputs)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            output = None
        if output is None:  # out of the handler, as the error holds on to memory
            raise InputError(_too_many(self.model, inputs))
        ap_sets = replace(output, detections=self.model.ap_detections(output)).images if self.full else []
        for index, (example, one) in enumerate(zip(examples, output.images, strict=True)):
            unfused = postprocess(one, example.image, self.model.categories, self.model.inference)
            if self.full:
                size = (example.image.shape[0], example.image.shape[1])
                instances = paste_instances(ap_sets[index], size)
                self.ap.update(instances, example.ground_truth)
                self.stuff.update(unfused.semantic, example.ground_truth)
            result = unfused.fuse(self.model.categories, self.model.inference)
            self.counts.update(result, example.ground_truth)
            yield example, unfused, result

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
    model: Network,
    data: EvaluationData,
    *,
    out: Path | None = None,
    batch_size: int = 1,
    limit: int | None = None,
    source: str = "data",
    gallery: Path | None = None,
) -> dict[str, Any]:
    """Measure a model; several processes share the images, and the first one returns the metrics of all of them.

    Args:
        model: In evaluation mode, on its device.
        data: Images with ground truth, of the same classes as the model.
        out: Folder for `panoptic/`, `panoptic.json`, `metrics.json` and a zip as the COCO server wants it.
        batch_size: Images that go through the network together.
        limit: Only the first N images.
        source: Names the data in errors.
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
            title, note = f"Evaluation on {source}", f"Occlusion rule {model.inference.rule}"
            page = stack.enter_context(write_gallery(gallery, title, model.categories, note=note))
        bar = stack.enter_context(tqdm(total=-(-count // world), desc="evaluate", unit="image", disable=rank > 0))
        for start in range(rank * batch_size, count, world * batch_size):
            group = [data[index] for index in range(start, min(start + batch_size, count))]
            for (example, unfused, result), png in zip(evaluator.update(group), pngs[start:], strict=False):
                if writer is not None:
                    writer.add(example.image_id, example.name, result, png_name=png)
                if page is not None:
                    shown = {"result": result}
                    page.add(
                        example.name, example.image, shown, truth=example.ground_truth, instances=unfused.instances
                    )
                bar.update()
    evaluator.collect()
    metrics = evaluator.compute()
    if out is not None and rank == 0:
        if world > 1:
            _join([_part(out, number) for number in range(world)], out / "panoptic.json")
        write_json(out / "metrics.json", to_json(metrics))
        _zip(out, pngs)
    return metrics


def _pngs(data: EvaluationData, limit: int | None) -> list[str]:
    """Return the names of the PNGs of the images that are measured."""
    count = len(data) if limit is None else min(limit, len(data))
    return png_names(data.file_name(index) for index in range(count))


def _claim(out: Path, data: EvaluationData, limit: int | None, weights: str, gallery: bool, overwrite: bool) -> Outputs:
    """Check what `evaluate` writes to a folder."""
    names: dict[str, Path | None] = dict.fromkeys(["panoptic.json", "metrics.json", f"{ZIP_STEM}.zip"])
    if gallery:
        names["gallery.html"] = None
    for index, png in enumerate(_pngs(data, limit)):
        names[f"panoptic/{png}"] = next(iter(data.dataset.files(index)), None)
    inputs = itertools.chain(weight_files(weights), data.files())
    return Outputs(out, KIND, names, inputs=inputs, overwrite=overwrite)


def _too_many(model: Network, inputs: Sequence[torch.Tensor]) -> str:
    """Return the error of a batch that does not fit into the memory: how many of its images do fit."""
    largest = sorted(inputs, key=lambda image: -image[0].numel())
    halves = [len(inputs) >> times for times in range(1, len(inputs).bit_length())]
    fits = first_that_fits(halves, lambda count: model(largest[:count]))
    _, height, width = largest[0].shape
    if fits:
        return f"--batch {len(inputs)}: the memory does not hold so many of {width}x{height} at once; {fits} fit"
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


def _zip(out: Path, pngs: Sequence[str]) -> None:
    """The archive that the COCO test-dev server takes."""
    path = out / f"{ZIP_STEM}.zip"
    # Not strict, as a clock may stand before 1980, where zip begins.
    with atomic_path(path) as temporary, zipfile.ZipFile(temporary, "w", strict_timestamps=False) as archive:
        archive.write(out / "panoptic.json", f"{ZIP_STEM}.json", zipfile.ZIP_DEFLATED)
        for png in sorted(pngs):
            archive.write(out / "panoptic" / png, f"{ZIP_STEM}/{png}")


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
    gallery: bool = False,
    overwrite: bool = False,
) -> dict[str, Any]:
    """`banet evaluate`: load, measure, print the table.

    Raises:
        InputError: Weights or data cannot be read, or do not fit each other.
    """
    target = pick_device(device)
    data, source = choose_data(recipe, split)
    outputs = None if out is None else _claim(out, data, limit, weights, gallery, overwrite)
    model = BANet.from_pretrained(weights, device=target)
    overrides = {**inference_overrides, **({"rule": rule} if rule else {})}
    model.inference = change_options(model.inference, overrides)
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
        result = evaluate(model, data, out=out, batch_size=batch_size, limit=limit, source=source, gallery=page)
    if rank > 0:
        return result
    print(format_table(result, model.categories))
    print(f"AP_mask {_percent(result['ap'])}   mIoU^St {_percent(result['miou_stuff'])}")
    if out is not None:
        pages = ", gallery.html" if gallery else ""
        print(f"written: {out}/panoptic/, panoptic.json, metrics.json, {ZIP_STEM}.zip{pages}")
    return result


def _percent(share: float) -> str:
    return "-" if math.isnan(share) else f"{100 * share:.1f}"

"""`banet predict`: id map, records and an overlay for each picture."""

from __future__ import annotations

import sys
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from tqdm import tqdm

from banet.data.images import list_images, read_image, to_rgb_array
from banet.engine.gallery import write_gallery
from banet.errors import InputError
from banet.panoptic.coco_format import atomic_path

if TYPE_CHECKING:
    from PIL import Image

    from banet.engine.exported import ExportedModel
    from banet.modeling.banet import BANet
    from banet.modeling.instances import Readout

__all__ = ["Runtime", "predict_files"]

Runtime = Literal["torch", "onnx", "openvino"]


def predict_files(
    weights: str,
    inputs: list[str],
    out: Path,
    *,
    rule: str | None = None,
    device: str = "auto",
    runtime: Runtime = "torch",
    gallery: bool = False,
) -> int:
    """Segment pictures; a bad one does not keep the others from being done.

    Args:
        weights: See `BANet.from_pretrained`; or, with another runtime than torch, a file that `banet export` wrote.
        inputs: Pictures, folders or patterns.
        out: Folder that gets `NAME.png`, `NAME.json` and `NAME_overlay.jpg` for each picture.
        rule: Another occlusion rule than the one saved with the weights.
        device: `auto`, `cpu`, `cuda` or `mps`; the other runtimes compute on the CPU.
        runtime: What runs the network. All but `torch` need no torch.
        gallery: Also write `gallery.html`, one page of all pictures.

    Returns:
        How many pictures could not be done; each is named on standard error.

    Raises:
        InputError: No picture is found, or the weights cannot be read.
        MissingExtraError: The runtime is not installed.
    """
    paths = list_images(inputs)
    names = _names(paths)
    model, place = _open(weights, runtime, device)
    things = ", ".join(c.name for c in model.categories if c.isthing) or "none"
    stuff = ", ".join(c.name for c in model.categories if not c.isthing) or "none"
    print(f"{weights} on {place} knows the things {things}; and the stuff {stuff}")
    out.mkdir(parents=True, exist_ok=True)
    failures: list[str] = []
    with ExitStack() as stack:
        page = None
        if gallery:
            note = f"{weights}, occlusion rule {rule or model.inference.rule}"
            pages = write_gallery(out / "gallery.html", "Panoptic segmentation", model.categories, note=note)
            page = stack.enter_context(pages)
        for path, name in zip(tqdm(paths, desc="predict", unit="image"), names, strict=True):
            try:
                readout = _read(model, read_image(path))
            except InputError as error:
                failures.append(str(error))
                continue
            result = readout.fuse(model.categories, model.inference, rule=rule)
            result.save(out / f"{name}.png", file_name=path.name)
            with atomic_path(out / f"{name}_overlay.jpg") as temporary:
                result.draw(legend=True).save(temporary, format="JPEG", quality=92)
            if page is not None:
                page.add(str(path), readout.image, {"result": result}, instances=readout.instances)
    for failure in failures:
        print(f"banet: error: {failure}", file=sys.stderr)
    print(f"{len(paths) - len(failures)} of {len(paths)} pictures segmented: {out}")
    return len(failures)


def _read(model: BANet | ExportedModel, image: Image.Image) -> Readout:
    """What the network says of a picture, at the picture's size."""
    from banet.engine.exported import ExportedModel

    if isinstance(model, ExportedModel):
        return model.read(to_rgb_array(image))
    import torch

    from banet.modeling.readout import read_images

    with torch.inference_mode():
        return next(read_images(model, [image]))


def _open(weights: str, runtime: Runtime, device: str) -> tuple[BANet | ExportedModel, str]:
    """The model, and where it computes."""
    suffix = {"onnx": ".onnx", "openvino": ".xml"}
    if runtime != "torch":
        from banet.engine.exported import ExportedModel

        if Path(weights).suffix != suffix[runtime]:
            raise InputError(f"{weights}: --runtime {runtime} runs {suffix[runtime]} files; `banet export` makes them")
        if device not in ("auto", "cpu"):
            raise InputError(f"--device {device}: --runtime {runtime} computes on the CPU; choose auto or cpu")
        return ExportedModel.open(weights), "cpu"
    if Path(weights).suffix in suffix.values():
        known = next(name for name, ending in suffix.items() if ending == Path(weights).suffix)
        raise InputError(f"{weights}: is an exported network; add --runtime {known}")
    from banet.engine.device import pick_device
    from banet.modeling.banet import BANet

    target = pick_device(device)
    return BANet.from_pretrained(weights, device=target), target.type


def _names(paths: list[Path]) -> list[str]:
    """A name for each picture's results; pictures of the same stem keep their ending or get a number."""
    taken: set[str] = set()
    names = []
    for path in paths:
        candidates = [path.stem, path.name.replace(".", "_")]
        name = next((c for c in candidates if c not in taken), None)
        number = 2
        while name is None or name in taken:
            name = f"{path.stem}_{number}"
            number += 1
        taken.add(name)
        names.append(name)
    return names

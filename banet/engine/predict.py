"""`banet predict`: id map, records and an overlay for each picture."""

from __future__ import annotations

import sys
from pathlib import Path

from tqdm import tqdm

from banet.data.images import list_images, read_image
from banet.engine.device import pick_device
from banet.errors import InputError
from banet.modeling.banet import BANet
from banet.panoptic.coco_format import atomic_path

__all__ = ["predict_files"]


def predict_files(weights: str, inputs: list[str], out: Path, *, rule: str | None = None, device: str = "auto") -> int:
    """Segment pictures; a bad one does not keep the others from being done.

    Args:
        weights: See `BANet.from_pretrained`.
        inputs: Pictures, folders or patterns.
        out: Folder that gets `NAME.png`, `NAME.json` and `NAME_overlay.jpg` for each picture.
        rule: Another occlusion rule than the one saved with the weights.
        device: `auto`, `cpu`, `cuda` or `mps`.

    Returns:
        How many pictures could not be done; each is named on standard error.

    Raises:
        InputError: No picture is found, or the weights cannot be read.
    """
    paths = list_images(inputs)
    names = _names(paths)
    target = pick_device(device)
    model = BANet.from_pretrained(weights, device=target)
    things = ", ".join(c.name for c in model.categories if c.isthing) or "none"
    stuff = ", ".join(c.name for c in model.categories if not c.isthing) or "none"
    print(f"{weights} on {target.type} knows the things {things}; and the stuff {stuff}")
    out.mkdir(parents=True, exist_ok=True)
    failures: list[str] = []
    for path, name in zip(tqdm(paths, desc="predict", unit="image"), names, strict=True):
        try:
            result = model.predict(read_image(path), rule=rule)
        except InputError as error:
            failures.append(str(error))
            continue
        result.save(out / f"{name}.png", file_name=path.name)
        with atomic_path(out / f"{name}_overlay.jpg") as temporary:
            result.draw().save(temporary, format="JPEG", quality=92)
    for failure in failures:
        print(f"banet: error: {failure}", file=sys.stderr)
    print(f"{len(paths) - len(failures)} of {len(paths)} pictures segmented: {out}")
    return len(failures)


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

"""Names of models, such as `hf:OWNER/NAME` and `torchvision:NAME+hf:FOLDER`, and what is known of the named ones."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from banet.errors import InputError
from banet.files.reading import read_json

__all__ = [
    "FAMILIES",
    "NAMED",
    "Library",
    "ModelName",
    "NamedModel",
    "check_own_name",
    "find_named",
    "is_composed",
    "parse_names",
]

Library = Literal["hf", "torchvision", "ultralytics"]

_PREFIX = re.compile(rf"({'|'.join(get_args(Library))}):(.*)", re.S)
_SEAM = re.compile(rf"\+(?=(?:{'|'.join(get_args(Library))}):)")


@dataclass(frozen=True)
class ModelName:
    """The name of one model of another library.

    Attributes:
        library: Whose model it is.
        name: A repository `OWNER/NAME`, a folder, a file or a name of the library's.
        after: What follows the last `@`: of repositories the revision, of torchvision's models the weights; or empty.
    """

    library: Library
    name: str
    after: str = ""

    def __str__(self) -> str:
        return f"{self.library}:{self.name}" + (f"@{self.after}" if self.after else "")


@dataclass(frozen=True)
class NamedModel:
    """What is known of a model that has a short name.

    Attributes:
        name: The short name.
        source: What it stands for, as for `banet.load`; of bundled weights their own name.
        domain: What images it was trained on.
        licence: Of the weights, as SPDX spells it.
        parameters: How many the network has, counted from its configuration.
        download: Bytes of the weights' file, about: four per parameter; 0 of bundled ones.
        classes: Numbers of things and stuff.
        pq: Panoptic quality in per cent that its authors published, or None.
        pq_source: Of what and where they did.
    """

    name: str
    source: str
    domain: str
    licence: str
    parameters: int
    download: int
    classes: tuple[int, int]
    pq: float | None = None
    pq_source: str = ""


_PHOTOGRAPHS = "photographs of everyday scenes (COCO)"
_EOMT = "COCO val, EoMT's model zoo, github.com/tue-mps/eomt/blob/master/model_zoo/dinov2.md"

NAMED = (
    NamedModel(
        "coco",
        "hf:tue-mps/coco_panoptic_eomt_base_640_2x",
        _PHOTOGRAPHS,
        "MIT",
        93_663_110,
        375_000_000,
        (80, 53),
        51.6,
        _EOMT,
    ),
    NamedModel(
        "coco-small",
        "hf:tue-mps/coco_panoptic_eomt_small_640_2x",
        _PHOTOGRAPHS,
        "MIT",
        23_975_942,
        96_000_000,
        (80, 53),
        46.7,
        _EOMT,
    ),
    NamedModel(
        "coco-large",
        "hf:tue-mps/coco_panoptic_eomt_large_640",
        _PHOTOGRAPHS,
        "MIT",
        316_695_686,
        1_267_000_000,
        (80, 53),
        56.0,
        _EOMT,
    ),
    NamedModel(
        "coco-detr",
        "hf:facebook/detr-resnet-50-panoptic",
        _PHOTOGRAPHS,
        "Apache-2.0",
        42_899_288,
        172_000_000,
        (80, 53),
        43.4,
        "COCO val, DETR (Carion et al., ECCV 2020), Table 5",
    ),
)
"""Models of other libraries with a short name. All licences allow commercial use."""


FAMILIES = {
    "DETR": "hf:OWNER/NAME or hf:FOLDER",
    "MaskFormer": "hf:OWNER/NAME or hf:FOLDER",
    "Mask2Former": "hf:OWNER/NAME or hf:FOLDER",
    "OneFormer": "hf:OWNER/NAME or hf:FOLDER",
    "EoMT": "hf:OWNER/NAME or hf:FOLDER",
    "torchvision + segmenter": "torchvision:maskrcnn_resnet50_fpn_v2+hf:OWNER/NAME",
    "Ultralytics + segmenter": "ultralytics:FILE.pt+hf:OWNER/NAME --trust",
    "RF-DETR + segmenter": "hf:OWNER/RF-DETR+hf:OWNER/NAME, as transformers has it, without the package rfdetr",
}
"""How models of each family are named. Each has its row in `tests/composed/test_families.py`."""


def find_named(name: str) -> NamedModel | None:
    """Return what is known of a short name or of the source that it stands for."""
    return next((one for one in NAMED if name in (one.name, one.source)), None)


def is_composed(name: str) -> bool:
    """Return whether a name is that of a model of another library; files and folders of that name come first."""
    if any(one.name == name for one in NAMED):
        return not Path(name).exists()
    return _PREFIX.match(name) is not None


def check_own_name(text: str, packaged: Iterable[str]) -> None:
    """Refuse what looks like the name of a model but is none, before it is looked for as weights of BANet.

    Args:
        text: No name of another library's model.
        packaged: Names of the bundled weights.

    Raises:
        InputError: It is a library that is not read, or nearly a name; says which names are.
    """
    path = Path(text).expanduser()
    if path.exists():
        library = _library_of(path)
        if library:
            raise InputError(f"was saved by {library[0]}", where=text, hint=f"give {library[1]}:{text}")
        return
    prefix = re.match(r"(\w{2,}):(?!//)", text)
    if prefix:
        library_names = ", ".join(f"{each}:NAME" for each in get_args(Library))
        plain = prefix[1].casefold()
        hint = f"give one of {library_names}"
        if plain in get_args(Library):
            hint = f"write {plain}{text[len(plain) :]}"
        elif plain == "rfdetr":
            hint = "give RF-DETR as transformers has it: hf:OWNER/NAME+hf:OWNER/SEGMENTER"
        raise InputError(f"models of {prefix[1]} are not read by name", where=text, hint=hint)
    names = [*packaged, *(one.name for one in NAMED)]
    near_names = difflib.get_close_matches(text.casefold(), names, n=2)
    if near_names and text not in names:
        raise InputError("no such weights", where=text, hint=f"did you mean {' or '.join(near_names)}?")


def _library_of(path: Path) -> tuple[str, str] | None:
    """Return whose model a folder or file seems to be, and the prefix of its name; None where it may be BANet's."""
    if path.is_dir() and (path / "config.json").is_file():
        content = read_json(path / "config.json")
        return ("transformers", "hf") if isinstance(content, dict) and "model_type" in content else None
    return ("PyTorch or Ultralytics", "ultralytics") if path.is_file() and path.suffix == ".pt" else None


def parse_names(text: str) -> list[ModelName]:
    """Return the one or two models that a name stands for.

    Raises:
        InputError: A part names no library, or there are more than two.
    """
    named = find_named(text)
    parts = _SEAM.split(named.source if named else text)
    if len(parts) > 2:
        raise InputError(f"{text}: names {len(parts)} models; give a panoptic one, or a detector + a segmenter")
    return [_parse(part, text) for part in parts]


def _parse(part: str, whole: str) -> ModelName:
    match = _PREFIX.fullmatch(part)
    if match is None or not match[2]:
        known = ", ".join(f"{each}:NAME" for each in get_args(Library))
        raise InputError(f"{whole}: {part or 'an empty part'} names no model; give one of {known}")
    library: Library = match[1]  # type: ignore[assignment]  # the pattern knows no others
    name, _, after = match[2].rpartition("@")
    if not name or Path(match[2]).exists():
        name, after = match[2], ""
    return ModelName(library, name, after)

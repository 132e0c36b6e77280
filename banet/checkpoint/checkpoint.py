"""Weights on disk: one safetensors file holds tensors, composition, inference options and categories."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib import resources
from pathlib import Path
from typing import Any, Protocol

from safetensors import safe_open
from safetensors.torch import load_file, save
from torch import Tensor

from banet.checkpoint.bundled import BUNDLED
from banet.errors import InputError, MissingExtraError, abbreviate, errors_only, first_line
from banet.files.atomic import atomic_path
from banet.files.reading import open_file
from banet.files.worker import isolated
from banet.modeling.config import InferenceConfig, ModelConfig, read_options
from banet.panoptic.categories import Categories

__all__ = [
    "Checkpoint",
    "Saveable",
    "find_weights",
    "is_body_file",
    "load_tensors",
    "packaged_weights",
    "read_checkpoint",
    "save_checkpoint",
]

FORMAT = "banet-1"
FILE_NAME = "model.safetensors"

_DOMAINS = {"scenes_r18": BUNDLED["scenes"].domain, "nuclei_r18": BUNDLED["nuclei"].domain}
"""What weights of these recipes were trained on that were saved before files said so."""
_OTHERS = re.compile(r"(hf|torchvision|ultralytics):|coco(-\w+)?$")  # names of other libraries' models
_LONGEST_HEADER = 1 << 24  # bytes; those of the largest networks are a hundredth of it
_FLOATS = ("F32", "F16", "BF16")


@dataclass(frozen=True)
class Checkpoint:
    """A file of weights, of which only the header is in memory.

    Attributes:
        path: The file.
        config: What the network is made of.
        inference: Limits and thresholds of inference.
        categories: Things and stuff.
        metadata: All texts of the header: these three, and what else was stored.
        shapes: Shape of each tensor by name.
    """

    path: Path
    config: ModelConfig
    inference: InferenceConfig
    categories: Categories
    metadata: dict[str, str]
    shapes: dict[str, tuple[int, ...]]

    @property
    def domain(self) -> str:
        """Return what images the network was trained on, in a few words; empty where the file does not say."""
        saved = self.metadata.get("domain") or _DOMAINS.get(self.metadata.get("recipe", ""))
        return saved or self.metadata.get("data", "")

    def state(self) -> dict[str, Tensor]:
        """Read the tensors, as float32.

        Raises:
            InputError: One holds NaN or infinity.
        """
        state = {name: tensor.float() for name, tensor in load_tensors(self.path).items()}
        infinite = next((name for name, tensor in state.items() if not tensor.isfinite().all()), None)
        if infinite:
            raise InputError(
                f"tensor {infinite} holds NaN or infinity",
                where=self.path,
                hint="the training that wrote it had failed",
            )
        return state


class Saveable(Protocol):
    """What a network must have to be saved."""

    config: ModelConfig
    inference: InferenceConfig
    categories: Categories

    def state_dict(self) -> Mapping[str, Any]: ...  # noqa: D102


def save_checkpoint(
    path: str | Path, network: Saveable, *, half: bool = False, metadata: Mapping[str, str] | None = None
) -> Path:
    """Write a network; see `BANet.save_pretrained`."""
    target = Path(path)
    if target.suffix != ".safetensors":
        target = target / FILE_NAME
    target.parent.mkdir(parents=True, exist_ok=True)
    state = {
        name: (tensor.half() if half and tensor.is_floating_point() else tensor).detach().cpu().contiguous()
        for name, tensor in network.state_dict().items()
    }
    header = {
        **(metadata or {}),
        "format": FORMAT,
        "model": json.dumps(asdict(network.config)),
        "inference": json.dumps(asdict(network.inference)),
        "categories": json.dumps(network.categories.to_coco()),
    }
    with atomic_path(target) as temporary:
        temporary.write_bytes(save(state, metadata=header))  # not save_file, which hides the file from other users
    return target


def packaged_weights() -> dict[str, Path]:
    """Return the files of the bundled weights, by name."""
    folder = Path(str(resources.files("banet") / "weights"))
    return {path.stem: path for path in sorted(folder.glob("*.safetensors"))} if folder.is_dir() else {}


def read_checkpoint(source: str | Path) -> Checkpoint:
    """Read the header of some weights; see `BANet.from_pretrained`.

    Raises:
        InputError: There are none, the file is damaged, or this library did not write it.
    """
    path = find_weights(source)
    metadata, tensors = _read_header(path)
    try:
        config = read_options(ModelConfig, json.loads(metadata["model"]))
        inference = read_options(InferenceConfig, json.loads(metadata["inference"]))
        categories = Categories.from_coco(json.loads(metadata["categories"]), source=str(path))
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise InputError(
            f"the header does not describe a model of this version ({error})", where=path, hint="use its own version"
        ) from None
    for name, (kind, _) in tensors.items():
        if kind not in _FLOATS:
            raise InputError(
                f"tensor {name} is of type {kind}, not {' or '.join(_FLOATS)}", where=path, hint="save it as floats"
            )
    shapes = {name: shape for name, (_, shape) in tensors.items()}
    return Checkpoint(path, config, inference, categories, metadata, shapes)


def find_weights(source: str | Path) -> Path:
    """Return the file of some weights; see `BANet.from_pretrained`.

    Raises:
        InputError: There are none.
    """
    path = Path(source)
    for file in (path, path / FILE_NAME):
        if os.path.isfile(file):
            return file
    packaged = packaged_weights()
    name = str(source)
    if name in packaged:
        return packaged[name]
    if _OTHERS.match(name):
        raise InputError(
            "is a model of another library, not weights of BANet",
            where=source,
            hint="banet.load, `banet predict`, `evaluate`, `analyze` and `app` take it",
        )
    weights = path.suffix in {".safetensors", ".pth", ".pt", ".ckpt"}
    if name.count("/") == 1 and not weights and not os.path.exists(path) and not name.startswith((".", "/", "~")):
        return _download(name)
    known = ", ".join(packaged) or "none"
    raise InputError(
        "no such weights", where=source, hint=f"give a .safetensors file, a run's folder, or a name ({known})"
    )


@isolated
def is_body_file(source: str | Path) -> bool:
    """Return whether a file holds the weights of a classifier: a `.pth`, or safetensors of another library."""
    path = Path(source)
    if path.suffix in {".pth", ".pt"}:
        return True
    if path.suffix != ".safetensors" or not os.path.isfile(path):
        return False
    try:
        with safe_open(path, framework="pt") as file:
            return "model" not in (file.metadata() or {})
    except Exception:  # a decoder may raise anything on bad data, which `read_checkpoint` reports
        return False


def _download(repository: str) -> Path:
    try:
        from huggingface_hub import hf_hub_download
        from huggingface_hub.errors import HfHubHTTPError
    except ImportError:
        raise MissingExtraError("huggingface_hub", "hub") from None
    try:
        with errors_only("huggingface_hub"):  # not a line per attempt to connect
            return Path(hf_hub_download(repository, FILE_NAME))
    except (OSError, ValueError, HfHubHTTPError) as error:
        reason = first_line(error)
        raise InputError(
            f"no such file or folder, and could not be downloaded from the hub: {reason}",
            where=repository,
            hint=f"a model of transformers is hf:{repository}",
        ) from None


@isolated
def load_tensors(path: Path) -> dict[str, Tensor]:
    """Read the tensors of a safetensors file."""
    return load_file(path)


@isolated
def _read_header(path: Path) -> tuple[dict[str, str], dict[str, tuple[str, tuple[int, ...]]]]:
    """Metadata, and type and shape of each tensor, before any memory is taken for them."""
    with open_file(path) as stream:
        if (length := int.from_bytes(stream.read(8), "little")) > _LONGEST_HEADER:
            raise InputError(f"not a safetensors file: its header would have {length:,} bytes", where=path)
    tensors: dict[str, tuple[str, tuple[int, ...]]] = {}
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            for name in file.keys():  # noqa: SIM118
                part = file.get_slice(name)
                tensors[name] = part.get_dtype(), tuple(part.get_shape())
    except Exception as error:  # a decoder may raise anything on bad data
        raise InputError(
            f"not a readable safetensors file ({error})", where=path, hint="weights are read from these only"
        ) from None
    if header.get("format") != FORMAT:
        raise InputError(
            f"was not written by this library (format {abbreviate(header.get('format'))}, not {FORMAT!r})", where=path
        )
    return header, tensors

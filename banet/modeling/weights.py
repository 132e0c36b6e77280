"""Weights on disk: one safetensors file holds tensors, composition, inference options and categories."""

from __future__ import annotations

import json
import os
import pickle
import re
import zipfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save
from torch import Tensor

from banet.errors import InputError, MissingExtraError, shown
from banet.files.atomic import atomic_path
from banet.files.reading import open_file
from banet.modeling.banet import BANet
from banet.modeling.build import build_model
from banet.modeling.config import InferenceConfig, ModelConfig, read_options
from banet.panoptic.categories import Categories

__all__ = [
    "Filled",
    "find_weights",
    "initialise",
    "load_model",
    "packaged_weights",
    "read_metadata",
    "save_model",
    "saved_config",
]

FORMAT = "banet-1"
FILE_NAME = "model.safetensors"

_LONGEST_HEADER = 1 << 24  # bytes; those of the largest networks are a hundredth of it
_FLOATS = ("F32", "F16", "BF16")


def save_model(
    model: BANet, path: str | Path, *, half: bool = False, metadata: Mapping[str, str] | None = None
) -> Path:
    """Write a model; see `BANet.save_pretrained`."""
    target = Path(path)
    if target.suffix != ".safetensors":
        target = target / FILE_NAME
    target.parent.mkdir(parents=True, exist_ok=True)
    state = {
        name: (tensor.half() if half and tensor.is_floating_point() else tensor).detach().cpu().contiguous()
        for name, tensor in model.state_dict().items()
    }
    header = {
        **(metadata or {}),
        "format": FORMAT,
        "model": json.dumps(asdict(model.config)),
        "inference": json.dumps(asdict(model.inference)),
        "categories": json.dumps(model.categories.to_coco()),
    }
    with atomic_path(target) as temporary:
        temporary.write_bytes(save(state, metadata=header))  # not save_file, which hides the file from other users
    return target


def packaged_weights() -> dict[str, Path]:
    """Weights that come with the package, by name."""
    folder = Path(str(resources.files("banet") / "weights"))
    return {path.stem: path for path in sorted(folder.glob("*.safetensors"))} if folder.is_dir() else {}


def saved_config(source: str | Path) -> ModelConfig:
    """What the network of some weights is made of.

    Raises:
        InputError: As `BANet.from_pretrained`.
    """
    path = find_weights(source)
    return _described(path, _read_header(path)[0])[0]


def load_model(source: str | Path, *, device: str | torch.device = "cpu") -> BANet:
    """Load a model; see `BANet.from_pretrained`."""
    path = find_weights(source)
    header, tensors = _read_header(path)
    config, inference, categories = _described(path, header)
    _check_tensors(path, tensors, _expected(path, config, categories))
    model = build_model(categories, config, inference)
    state = {name: tensor.float() for name, tensor in load_file(path).items()}
    infinite = next((name for name, tensor in state.items() if not tensor.isfinite().all()), None)
    if infinite:
        raise InputError(f"{path}: tensor {infinite} holds NaN or infinity; the training that wrote it had failed")
    model.load_state_dict(state)
    return model.to(device).eval()


def _expected(path: Path, config: ModelConfig, categories: Categories) -> dict[str, tuple[int, ...]]:
    """Shapes of the tensors of a network, before any memory is taken for them."""
    try:
        with torch.device("meta"):
            return {name: tuple(t.shape) for name, t in build_model(categories, config).state_dict().items()}
    except Exception as error:  # whatever torch says of numbers that are too large or do not go together
        reason = str(error).splitlines()[0]
        raise InputError(f"{path}: no network can be made as its header says ({reason}); it is damaged") from None


def _check_tensors(path: Path, tensors: Mapping[str, _Stored], expected: Mapping[str, tuple[int, ...]]) -> None:
    shapes = {name: shape for name, (_, shape) in tensors.items()}
    wrong = sorted(name for name in expected.keys() | shapes.keys() if expected.get(name) != shapes.get(name))
    if wrong:
        name = wrong[0]
        raise InputError(
            f"{path}: tensor {name} has shape {shapes.get(name)} where the header's network wants {expected.get(name)}"
            f" ({len(wrong)} such tensors); the file is damaged or was written by another version"
        )
    for name, (kind, _) in tensors.items():
        if kind not in _FLOATS:
            raise InputError(f"{path}: tensor {name} is of type {kind}, not {' or '.join(_FLOATS)}; save it as floats")


def read_metadata(path: Path) -> dict[str, str]:
    """The header of weights that this library wrote.

    Raises:
        InputError: It did not, or the file is damaged.
    """
    header, _ = _read_header(path)
    _described(path, header)
    return header


def _described(path: Path, header: Mapping[str, str]) -> tuple[ModelConfig, InferenceConfig, Categories]:
    try:
        config = read_options(ModelConfig, json.loads(header["model"]))
        inference = read_options(InferenceConfig, json.loads(header["inference"]))
        categories = Categories.from_coco(json.loads(header["categories"]), source=str(path))
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise InputError(
            f"{path}: the header does not describe a model of this version ({error}); use its own version"
        ) from None
    return config, inference, categories


def find_weights(source: str | Path) -> Path:
    """The file of some weights; see `BANet.from_pretrained`.

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
    weights = path.suffix in {".safetensors", ".pth", ".pt", ".ckpt"}
    if name.count("/") == 1 and not weights and not os.path.exists(path) and not name.startswith((".", "/", "~")):
        return _download(name)
    known = ", ".join(packaged) or "none"
    raise InputError(f"{source}: no such weights; give a .safetensors file, a run's folder, or a name ({known})")


def _download(repository: str) -> Path:
    try:
        from huggingface_hub import hf_hub_download
        from huggingface_hub.errors import HfHubHTTPError
    except ImportError:
        raise MissingExtraError("huggingface_hub", "hub") from None
    try:
        return Path(hf_hub_download(repository, FILE_NAME))
    except (OSError, ValueError, HfHubHTTPError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"{repository}: no such file or folder, and not to be had from the hub: {reason}") from None


_Stored = tuple[str, tuple[int, ...]]
"""Type and shape of a tensor in a file."""


def _read_header(path: Path) -> tuple[dict[str, str], dict[str, _Stored]]:
    """Metadata, and type and shape of each tensor, before any memory is taken for them."""
    with open_file(path) as stream:
        if (length := int.from_bytes(stream.read(8), "little")) > _LONGEST_HEADER:
            raise InputError(f"{path}: not a safetensors file: its header would have {length:,} bytes")
    tensors: dict[str, _Stored] = {}
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            for name in file.keys():  # noqa: SIM118
                part = file.get_slice(name)
                tensors[name] = part.get_dtype(), tuple(part.get_shape())
    except Exception as error:  # a decoder may raise anything on bad data
        raise InputError(
            f"{path}: not a readable safetensors file ({error}); weights are read from these only"
        ) from None
    if header.get("format") != FORMAT:
        raise InputError(
            f"{path}: was not written by this library (format {shown(header.get('format'))}, not {FORMAT!r})"
        )
    return header, tensors


@dataclass(frozen=True)
class Filled:
    """What a warm start did.

    Attributes:
        filled: Names of the model's tensors that took a value.
        left: Names of those that keep their random values.
        unused: Names in the checkpoint that found no place.
        kept: Where the class lists differ, names of the classes that both have.
        fresh: Names of the classes that start at random.
    """

    filled: list[str]
    left: list[str]
    unused: list[str]
    kept: tuple[str, ...] = ()
    fresh: tuple[str, ...] = ()

    def __str__(self) -> str:
        def groups(names: list[str]) -> str:
            parts = sorted({".".join(name.split(".")[:2]) for name in names})
            return ", ".join(parts) or "nothing"

        classes = f"\nclasses kept: {', '.join(self.kept) or 'none'}; at random: {', '.join(self.fresh) or 'none'}"
        return (
            f"filled {len(self.filled)} tensors: {groups(self.filled)}\n"
            f"left {len(self.left)} tensors at random: {groups(self.left)}\n"
            f"unused in the checkpoint: {len(self.unused)} tensors: {groups(self.unused)}"
            + classes
            * bool(self.kept or self.fresh)
        )


def initialise(model: BANet, init: str) -> Filled:
    """Fill a model from other weights, as far as they fit.

    Args:
        model: Just built.
        init: `coco` for the Mask R-CNN R50 that torchvision publishes (downloaded), a torchvision Mask R-CNN or ResNet
            checkpoint (`.pth` or `.pt`, read with `weights_only`), or weights of this library (`.safetensors`, or a
            name), of whose classes those of the same name and kind are kept.

    Raises:
        InputError: The file cannot be read, no tensor of it fits, or its network has another norm.
    """
    path = Path(init)
    kept: tuple[str, ...] = ()
    fresh: tuple[str, ...] = ()
    if init == "coco":
        from torchvision.models.detection import MaskRCNN_ResNet50_FPN_Weights

        try:
            state = MaskRCNN_ResNet50_FPN_Weights.COCO_V1.get_state_dict(progress=True, check_hash=True)
        except OSError as error:
            raise InputError(
                f"train.init coco: torchvision's Mask R-CNN could not be downloaded ({error}); connect to the internet"
                " once, or give a file"
            ) from None
        found = _from_torchvision(model, state)
    elif path.suffix in {".pth", ".pt"}:
        state = _load_pickle(path)
        found = _from_torchvision(model, state)
    else:
        other = load_model(init)
        if other.config.norm != model.config.norm:
            raise InputError(
                f"{init}: its backbone has norm {other.config.norm}, this network {model.config.norm}; set --model.norm"
                f" {other.config.norm}"
            )
        found = _by_category(other, model, other.state_dict())
        if other.categories != model.categories:
            theirs = {(c.name, c.isthing) for c in other.categories}
            kept = tuple(c.name for c in model.categories if (c.name, c.isthing) in theirs)
            fresh = tuple(c.name for c in model.categories if (c.name, c.isthing) not in theirs)
    own = model.state_dict()
    fitting = {name: tensor for name, (tensor, _) in found.items() if name in own and tensor.shape == own[name].shape}
    if not fitting:
        raise InputError(f"{init}: no tensor of it fits this network; check model.backbone and the widths")
    model.load_state_dict(fitting, strict=False)
    return Filled(
        filled=sorted(fitting),
        left=sorted(set(own) - set(fitting)),
        unused=sorted({source for name, (_, source) in found.items() if name not in fitting}),
        kept=kept,
        fresh=fresh,
    )


def _load_pickle(path: Path) -> dict[str, Tensor]:
    """The tensors of a checkpoint. Nothing in it is run, and no memory is taken for what it only claims to hold.

    Raises:
        InputError: It cannot be read, or holds more or other things than tensors by name.
    """
    with open_file(path) as stream:
        zipped = zipfile.is_zipfile(stream)
    try:
        # Mapped, not read: a tensor cannot be larger than its part of the file. Files before torch 1.6 are no archives.
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)
    except pickle.UnpicklingError as error:
        raise InputError(f"{path}: refused, it holds more than tensors ({type(error).__name__})") from None
    except Exception as error:  # a decoder may raise anything on bad data
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise InputError(f"{path}: cannot be read as a checkpoint ({reason})") from None
    state = state.get("model", state) if isinstance(state, dict) else state
    if not isinstance(state, dict) or not all(isinstance(k, str) and _is_plain(v) for k, v in state.items()):
        raise InputError(f"{path}: holds no state_dict; save model.state_dict() of a torchvision Mask R-CNN")
    return state


def _is_plain(value: Any) -> bool:
    """Whether something is a dense tensor of real numbers that are all there, none of them meant several times."""
    if not isinstance(value, Tensor) or value.layout != torch.strided or value.device.type != "cpu":
        return False
    whole = value.numel() * value.element_size() <= value.untyped_storage().nbytes()
    return whole and not value.is_quantized and not value.is_complex()


_Found = dict[str, tuple[Tensor, str]]
"""Our name to the tensor and its name in the checkpoint."""

_TORCHVISION_NAMES = (
    (r"^roi_heads\.box_head\.fc6\.", "box_head.fc1."),
    (r"^roi_heads\.box_head\.fc7\.", "box_head.fc2."),
    (r"^roi_heads\.mask_head\.(?:0\.0|mask_fcn1)\.", "mask_head.convs.0."),
    (r"^roi_heads\.mask_head\.(?:1\.0|mask_fcn2)\.", "mask_head.convs.2."),
    (r"^roi_heads\.mask_head\.(?:2\.0|mask_fcn3)\.", "mask_head.convs.4."),
    (r"^roi_heads\.mask_predictor\.conv5_mask\.", "mask_head.deconv."),
    # Older checkpoints name a convolution without the block that now holds it.
    (r"^(backbone\.fpn\.\w+_blocks\.\d)\.(weight|bias)$", r"\1.0.\2"),
    (r"^rpn\.head\.conv\.(weight|bias)$", r"rpn.head.conv.0.0.\1"),
)
"""Names of torchvision's Mask R-CNN and ours; backbone, pyramid and RPN are called the same."""


def _from_torchvision(model: BANet, state: Mapping[str, Tensor]) -> _Found:
    """Our names for a torchvision Mask R-CNN, or for a ResNet alone, whatever stands before the names of its layers.

    Class rows go by the COCO names that torchvision gives its columns.
    """
    from torchvision.models.detection import MaskRCNN_ResNet50_FPN_Weights

    found: _Found = {}
    body = _body_prefix(state)
    for name, tensor in state.items():
        ours = f"backbone.body.{name.removeprefix(body)}" if name.startswith(body) else name
        for theirs, new in _TORCHVISION_NAMES:
            ours = re.sub(theirs, new, ours)
        found[ours] = (tensor, name)
    names = MaskRCNN_ResNet50_FPN_Weights.COCO_V1.meta["categories"]
    columns = {name: column for column, name in enumerate(names) if not name.startswith("N/A")}
    things = [c.name for c in model.categories if c.isthing]
    logits = state.get("roi_heads.box_predictor.cls_score.weight")
    if logits is not None and len(logits) == len(names) and set(things) <= set(columns):
        rows = torch.tensor([columns[name] for name in things], dtype=torch.int64)
        # Our background is the last column, torchvision's the first.
        with_background = torch.cat([rows, torch.zeros(1, dtype=torch.int64)])
        for kind in ("weight", "bias"):
            _take(
                found, state, f"roi_heads.box_predictor.cls_score.{kind}", f"box_head.classes.{kind}", with_background
            )
            _take(found, state, f"roi_heads.mask_predictor.mask_fcn_logits.{kind}", f"mask_head.masks.{kind}", rows)
            boxes = f"roi_heads.box_predictor.bbox_pred.{kind}"
            columns_of_boxes = (4 * rows[:, None] + torch.arange(4)).flatten()
            _take(found, state, boxes, f"box_head.boxes.{kind}", columns_of_boxes)
    return found


def _body_prefix(state: Mapping[str, Tensor]) -> str:
    """What stands before the names of a ResNet's layers: nothing in a classifier's, `module.` in some others'."""
    first = "layer1.0.conv1.weight"
    return next((name.removesuffix(first) for name in state if name.endswith(first)), "backbone.body.")


def _take(found: _Found, state: Mapping[str, Tensor], theirs: str, ours: str, rows: Tensor) -> None:
    if theirs in state:
        found.pop(theirs, None)
        found[ours] = (state[theirs][rows], theirs)


def _by_category(other: BANet, model: BANet, state: Mapping[str, Tensor]) -> _Found:
    """Weights of this library; where the class lists differ, rows of classes with the same name and kind are kept."""
    found: _Found = {name: (tensor, name) for name, tensor in state.items()}
    if other.categories == model.categories:
        return found
    own = model.state_dict()
    keys = [(c.name, c.isthing) for c in other.categories]
    pairs = [
        (i, keys.index((c.name, c.isthing))) for i, c in enumerate(model.categories) if (c.name, c.isthing) in keys
    ]
    things = [(i, j) for i, j in pairs if i < model.categories.num_things]
    background = (model.categories.num_things, other.categories.num_things)
    boxes = [(4 * i + k, 4 * j + k) for i, j in things for k in range(4)]
    rows = {
        "segmenter.first": pairs,
        "segmenter.final": pairs,
        "mask_head.masks": things,
        "box_head.classes": [*things, background],
        "box_head.boxes": boxes,
    }
    for part, pair in rows.items():
        for name in (f"{part}.weight", f"{part}.bias"):
            if name not in own or name not in state or own[name].shape[1:] != state[name].shape[1:]:
                continue
            if not pair:
                del found[name]  # where the numbers of classes agree, others' rows would fit
            else:
                mixed = own[name].clone()
                here, there = (torch.tensor(side) for side in zip(*pair, strict=True))
                mixed[here] = state[name][there].to(mixed)
                found[name] = (mixed, name)
    return found

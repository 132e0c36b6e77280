"""Models of transformers: their folders, their task, their classes, and the passes through them."""

from __future__ import annotations

import contextlib
import inspect
import os
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from banet.composed.classes import ModelClasses
from banet.composed.hub import HubOptions, download_repository
from banet.composed.names import ModelName
from banet.composed.queries import Enlargement
from banet.errors import InputError, MissingExtraError, abbreviate, first_line
from banet.files.reading import read_json
from banet.types import Size

__all__ = ["HfModel", "HfOutputs", "Task"]

Task = Literal["panoptic", "instance", "semantic"]

_CLASSES: Mapping[Task, tuple[str, str]] = {
    "panoptic": ("MODEL_FOR_UNIVERSAL_SEGMENTATION_MAPPING_NAMES", "AutoModelForUniversalSegmentation"),
    "instance": ("MODEL_FOR_INSTANCE_SEGMENTATION_MAPPING_NAMES", "AutoModelForInstanceSegmentation"),
    "semantic": ("MODEL_FOR_SEMANTIC_SEGMENTATION_MAPPING_NAMES", "AutoModelForSemanticSegmentation"),
}
_VIDEO = "VideomtForUniversalSegmentation"  # takes videos, not images
_PROCESSORS = ("processor_config.json", "preprocessor_config.json")
_DERIVED = ("num_batches_tracked", "position_ids", "relative_position_index")  # tensors that files may lack
_MASK2FORMER_SIZE = (384, 384)  # its library brings all masks to this size first


@dataclass(frozen=True)
class HfOutputs:
    """What a model says of one image.

    Attributes:
        raw: Its outputs for the batch, as the library has them.
        index: Of the image in the batch.
        logits: (Q, C) of classes; for semantic models (C, h, w).
        masks: (Q, h, w) logits of masks; of semantic models None.
        extent: Fractions of height and width of the input that are not padding.
    """

    raw: Any
    index: int
    logits: Tensor
    masks: Tensor | None
    extent: tuple[float, float]


class HfModel:
    """A model of transformers with its processor, from a folder or a repository.

    Args:
        name: `hf:...`.
        hub: How repositories are read.
        device: Where it computes.

    Attributes:
        task: What it does.
        classes: Its classes.
        card: What the head of its card says.
        domain: Data sets that its card names.

    Raises:
        InputError: There is none, it is damaged, or does something else.
        MissingExtraError: transformers or what the model needs is not installed.
    """

    def __init__(self, name: ModelName, hub: HubOptions, device: torch.device | str = "cpu") -> None:
        self.name = str(name)
        _transformers()  # before anything is downloaded for it
        self.folder = find_folder(name, hub)
        self.config = _read_config(self.folder, self.name)
        with _quiet_transformers() as transformers:
            self.task, architecture = _task_of(self.config, self.name)
            with _explained(self.name, self.folder):
                self.processor = _load_processor(transformers, self.folder, self.config)
                self.model = _load_model(getattr(transformers, architecture), self.folder, self.name)
        self.model.to(device)
        self.device = torch.device(device)
        self._accepted = inspect.signature(self.model.forward).parameters
        self.image_processor = getattr(self.processor, "image_processor", self.processor)
        self.kind: str = self.model.config.model_type
        self.card = _read_card(self.folder)
        data = self.card.get("datasets") or []
        self.domain = ", ".join(map(str, data if isinstance(data, list) else [data]))
        self.classes = self._classes()

    def _classes(self) -> ModelClasses:
        """Return the classes; OneFormer says which are things."""
        listed = self.config.get("id2label") or self.model.config.id2label
        names = {int(number): str(name) for number, name in listed.items()}
        isthing: bool | Sequence[int] | None = True if self.task == "instance" else None
        metadata = getattr(self.image_processor, "metadata", None)
        if isinstance(metadata, Mapping) and "thing_ids" in metadata:
            isthing = list(metadata["thing_ids"])
            if all(re.fullmatch(r"LABEL_\d+", name) for name in names.values()):
                names = {int(number): str(name) for number, name in metadata.items() if str(number).isdecimal()}
        return ModelClasses.of(self.name, names, isthing=isthing)

    @property
    def threshold(self) -> float:
        """Return the score above which the library keeps queries."""
        return self._default("threshold", 0.5)

    @property
    def overlap(self) -> float:
        """Return the fraction of its mask that a query must keep in the library."""
        return self._default("overlap_mask_area_threshold", 0.8)

    def _default(self, argument: str, otherwise: float) -> float:
        step = getattr(self.image_processor, f"post_process_{self.task}_segmentation", None)
        parameter = inspect.signature(step).parameters.get(argument) if step is not None else None
        return float(parameter.default) if parameter is not None else otherwise

    @torch.inference_mode()
    def run(self, images: Sequence[NDArray[np.uint8]], task: Task | None = None) -> list[HfOutputs]:
        """Run images (H, W, 3), those that the processor makes of one size together.

        Args:
            images: Of any size.
            task: What OneFormer is asked for; by default what the model is for.
        """
        inputs = [self._preprocess(image, task or self.task) for image in images]
        results: dict[int, HfOutputs] = {}
        shapes = [tuple(one["pixel_values"].shape[1:]) for one in inputs]
        for shape in dict.fromkeys(shapes):
            members = [index for index, each in enumerate(shapes) if each == shape]
            batch = {key: torch.cat([inputs[index][key] for index in members]) for key in inputs[members[0]]}
            batch = {key: value.to(self.device) for key, value in batch.items()}
            batch["pixel_values"] = batch["pixel_values"].to(self.model.dtype)
            raw = self.model(**batch)
            for place, index in enumerate(members):
                results[index] = self._outputs(raw, place, inputs[index])
        return [results[index] for index in range(len(images))]

    def _preprocess(self, image: NDArray[np.uint8], task: Task) -> dict[str, Tensor]:
        options: dict[str, Any] = {"return_tensors": "pt", "input_data_format": "channels_last"}
        if hasattr(self.processor, "image_processor"):  # OneFormer's, which takes the task as a sentence
            options["task_inputs"] = [task]
        if getattr(self.image_processor, "do_center_crop", None):  # what it cuts off would have no result
            options["do_center_crop"] = False
        try:
            found = self.processor(images=[image], **options)
        except (RuntimeError, ValueError, ZeroDivisionError) as error:  # such as a side that would shrink to nothing
            height, width = image.shape[:2]
            reason = first_line(error)
            raise InputError(
                f"its image processor does not take an image of {width}x{height} ({reason})",
                where=self.name,
                hint="cut the image, or use another model",
            ) from None
        wanted = ("pixel_values", "pixel_mask", "task_inputs")
        given = {key: torch.as_tensor(found[key]) for key in wanted if found.get(key) is not None}
        if "pixel_mask" not in self._accepted:
            given.pop("pixel_mask", None)
        return given

    def _outputs(self, raw: Any, place: int, given: Mapping[str, Tensor]) -> HfOutputs:
        logits = getattr(raw, "class_queries_logits", None)
        masks = getattr(raw, "masks_queries_logits", None)
        if logits is None:
            logits, masks = raw.logits, getattr(raw, "pred_masks", None)
        extent = (1.0, 1.0)
        mask = given.get("pixel_mask")
        if mask is not None:
            valid = mask[0] > 0
            height, width = valid.shape
            extent = (int(valid.any(1).sum()) / height, int(valid.any(0).sum()) / width)
        return HfOutputs(raw, place, logits[place].float(), None if masks is None else masks[place], extent)

    def stages(self, outputs: HfOutputs, size: Size) -> list[Enlargement]:
        """Return how the library brings masks to the size (H, W) of the image."""
        assert outputs.masks is not None
        cells = outputs.masks.shape[-2:]
        extent = None
        if outputs.extent != (1.0, 1.0):
            extent = (cells[0] * outputs.extent[0], cells[1] * outputs.extent[1])
        if self.kind.startswith("eomt"):
            return self._eomt_stages(size)
        if self.kind == "mask2former":
            return [Enlargement(False, _MASK2FORMER_SIZE, extent=extent), Enlargement(True)]
        return [Enlargement(True, extent=extent)]

    def _eomt_stages(self, size: Size) -> list[Enlargement]:
        from transformers.image_transforms import get_size_with_aspect_ratio

        limits = self.image_processor.size
        shorter, longer = limits["shortest_edge"], limits["longest_edge"]
        used = get_size_with_aspect_ratio(size, shorter, longer)
        return [Enlargement(False, (shorter, longer or shorter), crop=(int(used[0]), int(used[1]))), Enlargement(False)]

    @property
    def fills(self) -> bool:
        """Return whether the library gives pixels that no mask covers to a query."""
        return not self.kind.startswith("eomt")


def find_folder(name: ModelName, hub: HubOptions) -> Path:
    """Return the folder of a model, downloaded where the name is that of a repository.

    Raises:
        InputError: There is none.
    """
    path = Path(name.name).expanduser()
    if path.is_dir():
        return path
    if path.exists():
        raise InputError(f"{name}: is a file; give the folder that save_pretrained wrote")
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", name.name) or name.name.startswith("."):
        raise InputError(f"{name}: no such folder, nor a name like OWNER/NAME of a repository; correct it")
    return download_repository(name.name, HubOptions(name.after or hub.revision, hub.token, hub.cache, hub.offline))


def _read_config(folder: Path, name: str) -> dict[str, Any]:
    path = folder / "config.json"
    if not path.is_file():
        raise InputError(f"{name}: holds no config.json; give a folder that transformers' save_pretrained wrote")
    config = read_json(path)
    if not isinstance(config, dict) or not isinstance(config.get("model_type"), str):
        what = abbreviate(config.get("model_type")) if isinstance(config, dict) else abbreviate(config)
        raise InputError(f"{path}: model_type: must be the text that transformers writes, not {what}")
    names = config.get("id2label") or {}
    if not isinstance(names, dict) or not all(number.isdecimal() for number in names):
        raise InputError(f"{path}: id2label: must be names by number, not {abbreviate(names)}")
    return config


def _task_of(config: Mapping[str, Any], name: str) -> tuple[Task, str]:
    """Return what a model does, and the class that loads it.

    Raises:
        InputError: Something else than segmentation.
    """
    from transformers.models.auto import modeling_auto

    given = config.get("architectures") or [""]
    architecture = given[0] if isinstance(given, list) and isinstance(given[0], str) else ""
    for task, (mapping, loader) in _CLASSES.items():
        known = getattr(modeling_auto, mapping, {})
        made = known.get(config["model_type"])
        if architecture != _VIDEO and architecture and architecture in (made if isinstance(made, tuple) else (made,)):
            return task, loader
    match = re.search(r"For(\w+)$", architecture)
    what = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", match[1]).lower() if match else architecture or "something unknown"
    if architecture == _VIDEO:
        what = "video segmentation"
    raise InputError(
        f"{name}: is a model for {what} ({architecture or config['model_type']}); needs panoptic, universal, instance "
        "or semantic segmentation"
    )


def _load_model(loader: Any, folder: Path, name: str) -> Any:
    """Load weights; refuse a file that lacks some, which transformers would fill with random numbers."""
    model, info = loader.from_pretrained(folder, local_files_only=True, output_loading_info=True)
    missing = sorted(key for key in info["missing_keys"] if not key.endswith(_DERIVED))
    if missing:
        raise InputError(
            f"{name}: the weights lack {missing[0]} ({len(missing)} such tensors); download or save the model again"
        )
    return model.eval()


def _load_processor(transformers: Any, folder: Path, config: Mapping[str, Any]) -> Any:
    if not any((folder / file).is_file() for file in _PROCESSORS):
        raise InputError(f"holds no {_PROCESSORS[-1]}", where=folder, hint="save the image processor beside the model")
    if config["model_type"] != "oneformer":
        return transformers.AutoImageProcessor.from_pretrained(folder, local_files_only=True)
    options = {}
    settings = [read_json(folder / file) for file in _PROCESSORS if (folder / file).is_file()]
    info = next(
        (
            s["class_info_file"]
            for each in settings
            for s in (each, each.get("image_processor", {}))
            if s.get("class_info_file")
        ),
        None,
    )
    if info and (folder / Path(info).name).is_file():
        options = {"repo_path": str(folder), "class_info_file": Path(info).name}
    return transformers.OneFormerProcessor.from_pretrained(folder, local_files_only=True, **options)


def _transformers() -> Any:
    """Return transformers.

    Raises:
        MissingExtraError: It is not installed.
    """
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
    try:
        return import_module("transformers")
    except ImportError:
        raise MissingExtraError("transformers", "hf") from None


@contextlib.contextmanager
def _quiet_transformers() -> Iterator[Any]:
    """Give transformers, without its progress bars and advice; see `_transformers`."""
    transformers = _transformers()
    logging: Any = import_module("transformers.utils.logging")
    level = logging.get_verbosity()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield transformers
    finally:
        logging.set_verbosity(level)
        logging.enable_progress_bar()


@contextlib.contextmanager
def _explained(name: str, folder: Path) -> Iterator[None]:
    """Turn what transformers raises on a damaged folder into one line."""
    try:
        yield
    except (InputError, MissingExtraError):
        raise
    except ImportError as error:
        missing = next((each for each in ("timm", "scipy", "torchvision") if each in str(error)), "another package")
        raise MissingExtraError(missing, "hf", where=name) from None
    except Exception as error:  # it raises of all kinds
        lines = [line for line in str(error).strip().splitlines() if line.strip()]
        raise InputError(
            f"{name}: cannot be loaded from {folder} ({lines[0].strip() if lines else type(error).__name__}); it is "
            "damaged or incomplete: download or save it again"
        ) from None


def _read_card(folder: Path) -> dict[str, Any]:
    """Return what the head of a model's card says, empty where there is none."""
    import yaml

    path = folder / "README.md"
    if not path.is_file():
        return {}
    match = re.match(r"---\n(.*?)\n---", path.read_text(encoding="utf-8", errors="replace"), re.S)
    with contextlib.suppress(Exception):  # the constructors of YAML's types raise anything on bad data
        head = yaml.safe_load(match[1]) if match else {}
        return head if isinstance(head, dict) else {}
    return {}

"""`banet.load`: a predictor by name, whatever library its networks come from; `banet.models`: the named ones."""

from __future__ import annotations

from typing import TYPE_CHECKING

from banet.composed.names import NAMED, ModelName, NamedModel, check_own_name, find_named, is_composed, parse_names
from banet.errors import InputError
from banet.files.worker import reads_untrusted
from banet.inference.predictor import Predictor
from banet.types import StrPath

if TYPE_CHECKING:
    import torch

    from banet.composed.classes import ClassTable, ModelClasses
    from banet.composed.hf import HfModel
    from banet.composed.hub import HubOptions
    from banet.composed.parts import Detector, SemanticSegmenter

__all__ = ["load", "models"]


def load(
    name: StrPath,
    *,
    device: str | torch.device = "cpu",
    class_table: StrPath | ClassTable | None = None,
    trust: bool = False,
    revision: str | None = None,
    token: str | None = None,
    cache: str | None = None,
    offline: bool = False,
) -> Predictor:
    """Load a model by name, ready for `predict`.

    Args:
        name: `coco` or another name of `banet.models()`; `hf:OWNER/NAME`, `hf:OWNER/NAME@REVISION` or `hf:FOLDER`, a
            panoptic model of transformers; a detector and a segmenter, such as
            `torchvision:maskrcnn_resnet50_fpn_v2+hf:OWNER/NAME`; or weights of BANet, see `BANet.from_pretrained`.
        device: Where to put it: `cpu`, `cuda`, `mps`, or `auto` for the fastest there is.
        class_table: Categories that the classes of other libraries' models are matched with, by name: a file or a
            `ClassTable`. By default COCO's 133.
        trust: Whether files that run code when they are loaded, such as Ultralytics' .pt files, may do so.
        revision: Branch, tag or commit of the hub's repositories that name none.
        token: Of somebody who may read them; by default HF_TOKEN, or who is logged in.
        cache: Folder that downloads are kept in; by default huggingface_hub's.
        offline: Whether nothing is downloaded.

    Raises:
        InputError: There is no such model or device, it does something else, or its classes match none of the table.
        MissingExtraError: A library is not installed.
    """
    text = str(name)
    if not is_composed(text):
        from banet.checkpoint.checkpoint import packaged_weights
        from banet.inference.banet import BANet

        check_own_name(text, packaged_weights())
        if class_table is not None:
            raise InputError(
                "a class table matches the classes of other libraries' models", where=text, hint="leave it out"
            )
        return BANet.from_pretrained(text, device=device)
    if reads_untrusted():
        what = "is another library's model, which --untrusted does not read"
        raise InputError(what, where=text, hint="leave out --untrusted, or use weights of BANet")
    from banet.composed.classes import ClassTable
    from banet.composed.hub import HubOptions
    from banet.inference.device import pick_device

    device = pick_device(device, "device")
    if isinstance(class_table, ClassTable):
        table = class_table
    else:
        table = ClassTable.default() if class_table is None else ClassTable.read(class_table)
    hub = HubOptions(revision, token, cache, offline)
    names = parse_names(text)
    if len(names) == 1:
        return _load_single(names[0], hub, table, device, find_named(text))
    from banet.composed.pair import Pair

    detector = _load_detector(names[0], hub, table, device, trust)
    return Pair(detector, _load_segmenter(names[1], hub, device), table)


def models() -> list[NamedModel]:
    """Return what is known of all models that have a short name: the bundled ones, then those of other libraries."""
    return [*_bundled(), *NAMED]


def _bundled() -> list[NamedModel]:
    import math

    from banet.checkpoint.bundled import BUNDLED
    from banet.checkpoint.checkpoint import packaged_weights, read_checkpoint

    found = []
    for name in packaged_weights():
        checkpoint, measured = read_checkpoint(name), BUNDLED[name]
        kinds = (checkpoint.categories.num_things, checkpoint.categories.num_stuff)
        count = sum(math.prod(shape) for shape in checkpoint.shapes.values())
        licence = checkpoint.metadata.get("licence", "")
        found.append(
            NamedModel(name, name, checkpoint.domain, licence, count, 0, kinds, measured.pq, measured.measured)
        )
    return found


def _load_single(
    name: ModelName, hub: HubOptions, table: ClassTable, device: str | torch.device, known: NamedModel | None
) -> Predictor:
    if name.library == "torchvision":
        from banet.composed.torchvision_models import is_detector

        if not is_detector(name):
            raise _stuff_only(name)
    if name.library != "hf":
        raise InputError(f"{name}: finds things only; name a segmenter for the stuff: {name}+hf:OWNER/NAME")
    from banet.composed.hf import HfModel
    from banet.composed.panoptic import PanopticModel

    model = HfModel(name, hub, device)
    if model.task == "instance":
        raise InputError(f"{name}: finds things only; name a segmenter for the stuff: {name}+hf:OWNER/NAME")
    if model.task == "semantic":
        raise _stuff_only(name)
    names = _names_of_known(model) if known is not None else None
    return PanopticModel(model, table, names, domain=known.domain if known else model.domain)


def _stuff_only(name: ModelName) -> InputError:
    return InputError(
        f"{name}: is a model for semantic segmentation, which does not tell things apart; name a detector before it: "
        f"torchvision:maskrcnn_resnet50_fpn_v2+{name}"
    )


def _names_of_known(model: HfModel) -> ModelClasses | None:
    """Return COCO's classes for a named model whose files have no names: things by id, then stuff by id."""
    from banet.composed.classes import ModelClasses
    from banet.panoptic.coco.classes import coco_categories

    classes = coco_categories()
    if any(model.classes.names) or len(model.classes.names) != len(classes):
        return None
    return ModelClasses.of(model.name, classes.names, isthing=range(classes.num_things))


def _load_detector(
    name: ModelName, hub: HubOptions, table: ClassTable, device: str | torch.device, trust: bool
) -> Detector:
    if name.library == "ultralytics":
        from banet.composed.ultralytics_models import UltralyticsDetector

        return UltralyticsDetector(name, trust=trust, device=device)
    if name.library == "torchvision":
        from banet.composed.torchvision_models import TorchvisionDetector, is_detector

        if not is_detector(name):
            raise InputError(f"{name}: is a segmenter; name a detector first, such as maskrcnn_resnet50_fpn_v2")
        return TorchvisionDetector(name, device)
    from banet.composed.hf import HfModel
    from banet.composed.parts import HfDetector

    model = HfModel(name, hub, device)
    if model.task == "semantic":
        raise InputError(f"{name}: is a model for semantic segmentation; name a detector before the +")
    classes = model.classes
    isthing = [
        table.is_thing(name) if told is None else told
        for name, told in zip(classes.names, classes.isthing, strict=True)
    ]
    return HfDetector(model, isthing)


def _load_segmenter(name: ModelName, hub: HubOptions, device: str | torch.device) -> SemanticSegmenter:
    if name.library == "ultralytics":
        raise InputError(f"{name}: is a detector; name a segmenter after the +, such as hf:OWNER/NAME")
    if name.library == "torchvision":
        from banet.composed.torchvision_models import TorchvisionSegmenter, is_detector

        if is_detector(name):
            raise InputError(f"{name}: is a detector; name a segmenter after the +, such as hf:OWNER/NAME")
        return TorchvisionSegmenter(name, device)
    from banet.composed.hf import HfModel
    from banet.composed.parts import HfSegmenter

    model = HfModel(name, hub, device)
    if model.task == "instance":
        raise InputError(f"{name}: is a model for instance segmentation; name a segmenter after the +")
    return HfSegmenter(model)

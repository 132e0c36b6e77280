"""The predictor that a command runs: by the name of its weights, on a device."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from banet.engine.garbage import collector_off
from banet.errors import InputError
from banet.files.outputs import digest_of, weight_files

if TYPE_CHECKING:
    from banet.inference.predictor import Predictor

__all__ = ["Runtime", "describe_model", "digest_of_weights", "open_model"]

Runtime = Literal["torch", "onnx", "openvino"]

_SUFFIXES = {"onnx": ".onnx", "openvino": ".xml"}


def open_model(
    weights: str,
    *,
    device: str = "auto",
    runtime: Runtime = "torch",
    class_table: str | None = None,
    trust: bool = False,
) -> tuple[Predictor, str]:
    """Return a predictor, and the name of its device.

    Args:
        weights: See `banet.load`; with another runtime than torch, a file that `banet export` wrote.
        device: `auto`, `cpu`, `cuda` or `mps`; the other runtimes compute on the CPU.
        runtime: What runs the network. All but `torch` need no torch.
        class_table: See `banet.load`.
        trust: See `banet.load`.

    Raises:
        InputError: The weights cannot be read, or go with another runtime.
        MissingExtraError: The runtime or a library is not installed.
    """
    if runtime != "torch":
        from banet.engine.export.runtime import ExportedModel

        if Path(weights).suffix != _SUFFIXES[runtime]:
            raise InputError(
                f"--runtime {runtime} runs {_SUFFIXES[runtime]} files", where=weights, hint="`banet export` makes them"
            )
        if device not in ("auto", "cpu"):
            raise InputError(
                f"--runtime {runtime} computes on the CPU", where=f"--device {device}", hint="choose auto or cpu"
            )
        return ExportedModel.open(weights, isolated=True), "cpu"
    if Path(weights).suffix in _SUFFIXES.values():
        known = next(name for name, ending in _SUFFIXES.items() if ending == Path(weights).suffix)
        raise InputError("is an exported network", where=weights, hint=f"add --runtime {known}")
    with collector_off():
        from banet.composed.load import load
        from banet.inference.device import pick_device

        target = pick_device(device)
        return load(weights, device=target, class_table=class_table, trust=trust), target.type


def digest_of_weights(weights: str) -> str:
    """Return what tells weights from others: their name and, where they are files, a digest of these."""
    digest = hashlib.sha256()
    files = [path for path in sorted(weight_files(weights)) if path.is_file()]
    for path in files:
        with path.open("rb") as file:
            digest.update(digest_of(file, path.stat().st_size).encode())
    return f"{Path(weights).name} {digest.hexdigest()[:16]}" if files else weights


def describe_model(model: Predictor, weights: str, place: str) -> str:
    """Return what a command says of a model before it runs: what it was trained on, and its classes."""
    things = ", ".join(c.name for c in model.categories if c.isthing) or "none"
    stuff = ", ".join(c.name for c in model.categories if not c.isthing) or "none"
    return f"{weights} on {place}: trained on: {model.domain or 'not stated'}; things: {things}; stuff: {stuff}"

"""A second device that computes on the CPU, and counts where the host would wait for a GPU.

Its tensors hold a tensor of the CPU each and say that they are elsewhere, so code meets what it meets with CUDA: those
of two devices do not mix, numpy does not read them, and branches for CPUs are not taken. An operator that needs to know
values on the host (`nonzero`, boolean indexing, `item`, a copy that blocks) is noted with the line of this project that
called it. Streams, kernels and precision are not emulated.
"""

from __future__ import annotations

import traceback
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
import torchvision.ops  # noqa: F401  its operators
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map

import banet
from banet.ops import host
from banet.ops.roi_inlay import _inlay_backward_op, _inlay_op

DEVICE = torch.device("lazy:0")
"""The kind is one that torch has a name, autograd and no kernels for."""

PACKAGE = str(Path(banet.__file__).parent)
aten = torch.ops.aten

WAITS = {
    aten._local_scalar_dense.default: "item",
    aten.nonzero.default: "nonzero",
    aten.masked_select.default: "masked_select",
    aten._unique2.default: "unique",
    aten.unique_dim.default: "unique",
    aten.unique_consecutive.default: "unique",
    aten.bincount.default: "bincount",
    aten.equal.default: "equal",
    aten.is_nonzero.default: "is_nonzero",
    torch.ops.torchvision.nms.default: "nms",
}
INDEXING = {aten.index.Tensor, aten.index_put.default, aten.index_put_.default, aten._index_put_impl_.default}
COPIES = {aten._to_copy.default, aten.copy_.default, aten.lift_fresh.default}
OWN = {each._opoverload: each._init_fn for each in (_inlay_op, _inlay_backward_op)}


class DeviceTensor(Tensor):
    """A tensor of the emulated device."""

    inner: Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl  # results of the CPU stay plain tensors

    @staticmethod
    def __new__(cls, inner: Tensor) -> DeviceTensor:
        made: DeviceTensor = Tensor._make_wrapper_subclass(
            cls,
            inner.shape,
            strides=inner.stride(),
            storage_offset=inner.storage_offset(),
            dtype=inner.dtype,
            device=DEVICE,
        )
        made.inner = inner
        return made

    def __repr__(self, *, tensor_contents: Any = None) -> str:
        return f"DeviceTensor({self.inner})"

    def tolist(self) -> Any:
        note("tolist")
        return self.inner.tolist()

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _execute(func, args, kwargs or {})


class Emulation(TorchDispatchMode):
    """While it is entered, tensors can be made on `DEVICE`.

    Attributes:
        waits: what the host waited for, and the line that asked for it: `("nonzero", "modeling/rpn.py:123 _match")`.
    """

    def __init__(self) -> None:
        super().__init__()
        self.waits: Counter[tuple[str, str]] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _execute(func, args, kwargs or {})

    def table(self) -> str:
        """Return the waits, most frequent first, one line each."""
        return "\n".join(f"{count:4} {what:14} {line}" for (what, line), count in self.waits.most_common())


_current: Emulation | None = None


def note(what: str) -> None:
    """Note that the host waits, with the innermost line of the package that is running."""
    if _current is not None:
        _current.waits[what, _line()] += 1


def _line() -> str:
    for frame in reversed(traceback.extract_stack()):
        if frame.filename.startswith(PACKAGE):
            return f"{Path(frame.filename).relative_to(PACKAGE).as_posix()}:{frame.lineno} {frame.name}"
    return "torch"


def _execute(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    flat = tree_flatten((args, kwargs))[0]
    here = [each for each in flat if isinstance(each, Tensor) and not isinstance(each, DeviceTensor)]
    there = [each for each in flat if isinstance(each, DeviceTensor)]
    if torch._C._dispatch_has_kernel_for_dispatch_key(func.name(), "CompositeImplicitAutograd"):
        assert _current is not None
        with _current:
            return func.decompose(*args, **kwargs)  # below autograd torch does not take it apart by itself
    if func in OWN and there:
        return _own(func, args, kwargs)
    target = kwargs.get("device")
    made = there[0].device if there else None
    if func is aten._to_copy.default:
        made = made if target is None else torch.device(target)
    elif target is not None:
        made = torch.device(target)
    _note(func, args, kwargs, made, there, here)
    if there and func not in COPIES and func not in INDEXING and any(each.dim() for each in here):
        raise RuntimeError(
            f"{func}: expected all tensors to be on the same device, found at least two, cpu and {DEVICE}"
        )
    wrapped = {id(each.inner): each for each in there}
    given, options = tree_map(_inner, (args, kwargs))
    result = func(*given, **options)

    def wrap(value: Any) -> Any:
        if not isinstance(value, Tensor) or isinstance(value, DeviceTensor):
            return value
        if id(value) in wrapped:
            return wrapped[id(value)]  # in place, or out=
        return DeviceTensor(value) if made is not None and made.type == DEVICE.type else value

    return tree_map(wrap, result)


def _inner(value: Any) -> Any:
    if isinstance(value, DeviceTensor):
        return value.inner
    if isinstance(value, torch.device) and value.type == DEVICE.type:
        return torch.device("cpu")
    return value


def _note(func: Any, args: Any, kwargs: Any, made: Any, there: Sequence[Tensor], here: Sequence[Tensor]) -> None:
    if func in WAITS and there:
        note(WAITS[func])
    elif func is aten.repeat_interleave.Tensor and there and kwargs.get("output_size") is None:
        note("repeat_interleave")
    elif func in INDEXING and there:
        indices = [each for each in args[1] if each is not None]
        if any(each.dtype in (torch.bool, torch.uint8) for each in indices):
            note("index with a mask")
        if any(not isinstance(each, DeviceTensor) for each in indices):
            note("index of the host")
    elif func is aten._to_copy.default:
        source = args[0].device.type
        if made is not None and made.type != source:
            _note_copy(source, kwargs.get("non_blocking", False))
    elif func is aten.copy_.default and isinstance(args[0], DeviceTensor) != isinstance(args[1], DeviceTensor):
        blocking = not (args[2] if len(args) > 2 else kwargs.get("non_blocking", False))
        if args[1].dim() or not isinstance(args[0], DeviceTensor):
            _note_copy(args[1].device.type, not blocking)


def _note_copy(source: str, non_blocking: bool) -> None:
    if not non_blocking:
        note("copy to the device" if source == "cpu" else "copy to the host")


def _own(func: Any, args: Any, kwargs: Any) -> Any:
    """Run the Python of an operator of ours, which torch would otherwise call with the tensors of the CPU inside."""

    assert _current is not None
    with _current:
        return OWN[func](*args, **kwargs)


@contextmanager
def emulation() -> Iterator[Emulation]:
    """Enter an `Emulation`."""
    global _current
    _current = Emulation()
    finish, host._finish = host._finish, lambda device: note("wait for copies")
    autocast = torch.autocast

    def no_autocast(kind: str, *args: Any, **kwargs: Any) -> Any:
        return nullcontext() if kind == DEVICE.type else autocast(kind, *args, **kwargs)

    torch.autocast = no_autocast  # type: ignore[misc, assignment]
    torch._C._set_only_lift_cpu_tensors(True)  # torch.tensor(…, device=DEVICE) makes it here and copies it
    try:
        with _current:
            yield _current
    finally:
        torch._C._set_only_lift_cpu_tensors(False)
        _current, host._finish, torch.autocast = None, finish, autocast  # type: ignore[misc]

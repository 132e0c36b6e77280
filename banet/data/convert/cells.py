"""Instance label maps, as StarDist and Cellpose write them: TIFF or PNG of 16 bits, TIFF of 32, NPY, and _seg.npy.

Every pixel holds the number of its object, and 0 where there is none. Cellpose's _seg.npy is a pickled dict. Unpickling
runs what the file says; here it is taken apart by an unpickler that makes nothing but lists of what would be called.
"""

from __future__ import annotations

import io
import pickle
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray
from PIL import Image, TiffImagePlugin

from banet.data.convert.output import ConvertedImage, file_names, same_size, write_panoptic
from banet.data.images import SUFFIXES
from banet.errors import InputError, InputWarning
from banet.files.names import without_suffix
from banet.files.reading import MAX_PIXELS, open_file
from banet.files.structure import check_structure
from banet.files.structure.pickles import check_steps
from banet.files.worker import isolated
from banet.panoptic.categories import Categories, Category
from banet.panoptic.id_maps import MAX_SEGMENT_ID, MOST_SEGMENTS, find_ids
from banet.panoptic.segments import Segment
from banet.types import Progress, StrPath

__all__ = ["convert_cells", "read_instance_map"]

_SUFFIXES = ("_seg", "_cp_masks", "_masks", "_mask", "_labels", "_label", "_instances", "")
"""What names of maps have after that of the image; an earlier one goes before."""

_OTHERS = ("_flows", "_flows_cp_masks", "_outlines_cp_masks", "_cp_output_cp_masks", "_cp_output", "_cellprob")
"""What the other files have that Cellpose writes beside the images."""

_TYPES = (".npy", ".tif", ".tiff", ".png")
_LARGEST_NPY = 1 << 31  # bytes
_MOST_STEPS = 300_000  # of a pickle; Cellpose writes some hundred, and one or two per cell


def convert_cells(
    images: StrPath,
    out: StrPath,
    *,
    masks: StrPath | None = None,
    suffix: str | None = None,
    label: str = "cell",
    background: str = "background",
    progress: Progress | None = None,
) -> Path:
    """Convert a folder of instance label maps.

    Args:
        images: the images.
        out: see `write_panoptic`.
        masks: the maps, where they are in another folder; named as the images, with or without a suffix.
        suffix: what the maps' names have after the image's, such as _cp_masks; by default what StarDist, Cellpose and
            their users put there.
        label: name of the class of all objects, which has the id 1.
        background: name of the stuff that pixels of no object are, which has the id 2; void where it is empty.
        progress: see `write_panoptic`.

    Returns:
        The path of panoptic.json. Images without a map are left out, with a warning.

    Raises:
        InputError: a file is missing or bad, or there are several maps of one image.
    """
    root, folder = Path(images), Path(images if masks is None else masks)
    classes = Categories([Category(1, label, True), *([Category(2, background, False)] if background else [])])
    pairs, missing = _pairs(root, folder, suffix, apart=masks is not None)
    if missing:
        warnings.warn(
            InputWarning(f"{folder}: {len(missing):,} images have no label map and are left out, such as {missing[0]}"),
            stacklevel=2,
        )

    def truths() -> Iterator[ConvertedImage]:
        for name, path in pairs:
            numbers = read_instance_map(path)
            same_size(path, numbers.shape, root / name)
            present = find_ids(numbers)
            if len(present) > MOST_SEGMENTS:
                what = f"holds {len(present):,} objects, more than {MOST_SEGMENTS:,}"
                raise InputError(what, where=path, hint="cut it and its image up")
            ids = np.zeros(int(present.max(initial=0)) + 1, np.int32)
            ids[present] = np.arange(1, len(present) + 1)
            segments = {identity: Segment(identity, 1, True) for identity in range(1, len(present) + 1)}
            if background:
                ids[0] = len(present) + 1
                segments[len(present) + 1] = Segment(len(present) + 1, 2, False)
            yield ConvertedImage(name, ids[numbers], segments)

    return write_panoptic(out, truths(), classes, len(pairs), progress)


def _pairs(root: Path, folder: Path, suffix: str | None, apart: bool) -> tuple[list[tuple[str, Path]], list[str]]:
    """Return names of images with their maps, and names of images without one."""
    suffixes = _SUFFIXES if suffix is None else (suffix,)
    maps: dict[str, list[Path]] = {}
    for path in sorted(folder / name for name in (file_names(folder) if folder.is_dir() else ())):
        if path.suffix.lower() in _TYPES and not path.name.startswith("."):
            maps.setdefault(without_suffix(path.relative_to(folder).as_posix()), []).append(path)
    if not maps:
        raise InputError("holds no label map", where=folder, hint="give the folder of TIFF, PNG or NPY files")
    named = [each for each in suffixes if each]
    beside = [] if apart else [*named, *_OTHERS]
    images: dict[str, str] = {}
    for path in sorted(root / name for name in (file_names(root) if root.is_dir() else ())):
        name = path.relative_to(root)
        stem = without_suffix(name.as_posix())
        if path.suffix.lower() not in SUFFIXES or path.name.startswith("."):
            continue
        if any(stem.endswith(end) and stem.removesuffix(end) for end in beside):
            continue
        if stem in images:
            what = f"{images[stem]} and {name.as_posix()} have one name"
            raise InputError(what, where=root, hint="rename one of them")
        images[stem] = name.as_posix()
    pairs, missing = [], []
    for stem, image in images.items():
        ends = suffixes if apart or suffix is not None else tuple(named)
        found = next((maps[stem + end] for end in ends if stem + end in maps), [])
        if len(found) > 1:
            what = f"{found[0].name} and {found[1].name} are of one image"
            raise InputError(what, where=folder, hint="move one of them away")
        if found:
            pairs.append((image, found[0]))
        else:
            missing.append(image)
    if not pairs:
        raise InputError(
            f"has no label map of {missing[0]}" if missing else f"there is no image in {root}",
            where=folder,
            hint="give --suffix, such as _masks" if missing else "check --images",
        )
    return pairs, missing


@isolated
def read_instance_map(path: StrPath) -> NDArray[np.int32]:
    """Read a map of instance numbers.

    Args:
        path: a TIFF or PNG of one channel, an array in an NPY file, or a _seg.npy of Cellpose.

    Returns:
        (H, W) int32, 0 where there is no object.

    Raises:
        InputError: missing, damaged, of several channels or slices, or with numbers that are not whole, negative or too
            large.
    """
    file = Path(path)
    with open_file(file) as stream:
        if file.suffix.lower() == ".npy":
            if file.stat().st_size > _LARGEST_NPY:
                raise InputError(f"is larger than {_LARGEST_NPY >> 30} GB", where=file, hint="save the masks as TIFF")
            array = _read_npy(file, io.BytesIO(stream.read()))
        else:
            array = _read_image_file(file, stream)
    if array.ndim == 3 and 1 in (array.shape[0], array.shape[-1]):
        array = array.reshape(array.shape[1:] if array.shape[0] == 1 else array.shape[:2])
    if array.ndim != 2 or not array.size:
        what = f"holds an array of shape {array.shape}, not (H, W)"
        raise InputError(what, where=file, hint="save each slice as a file, with its image")
    if array.dtype.kind not in "biuf":
        raise InputError(f"holds {array.dtype}, not whole numbers", where=file, hint="save it as uint16 or uint32")
    if array.dtype.kind == "f" and not (np.isfinite(array).all() and (array == np.floor(array)).all()):
        what = "holds numbers that are not whole: is it a label map?"
        raise InputError(what, where=file, hint="save it as uint16 or uint32")
    if array.min() < 0 or array.max() > MAX_SEGMENT_ID:
        what = f"holds numbers from {array.min():g} to {array.max():g}, not 0 to {MAX_SEGMENT_ID}"
        raise InputError(what, where=file, hint="number the objects from 1")
    return array.astype(np.int32, copy=False)


def _read_image_file(file: Path, stream: Any) -> NDArray[Any]:
    try:
        check_structure("PNG" if stream.read(4) == b"\x89PNG" else "TIFF", stream)
        stream.seek(0)
        with Image.open(stream, formats=["TIFF", "PNG"]) as image:
            if image.width * image.height > MAX_PIXELS:
                raise ValueError(f"has more than {MAX_PIXELS} pixels")
            frames = getattr(image, "n_frames", 1)
            if frames > 1 or (image.mode not in ("1", "L", "P", "I", "F") and not image.mode.startswith("I;16")):
                kind = f"{frames} pages" if frames > 1 else f"the mode {image.mode}"
                raise ValueError(f"has {kind}, where a label map has one number per pixel")
            array = np.asarray(image)
            if image.mode == "I" and isinstance(image, TiffImagePlugin.TiffImageFile) and array.dtype == np.int32:
                unsigned = image.tag_v2.get(339, (1,))[0] == 1
                return array.view(np.uint32) if unsigned else array
            return array
    except Exception as error:  # a decoder may raise anything on bad data
        raise InputError(
            f"is not a label map ({error})", where=file, hint="save it as TIFF of uint16 or uint32"
        ) from error


def _read_npy(file: Path, stream: io.BytesIO) -> NDArray[Any]:
    try:
        major, _ = npy.read_magic(stream)
        shape, _, dtype = npy.read_array_header_1_0(stream) if major == 1 else npy.read_array_header_2_0(stream)
        if np.prod(shape, dtype=float) > 4 * MAX_PIXELS:
            raise ValueError(f"an array of shape {shape}")
        if not dtype.hasobject:
            stream.seek(0)
            array: NDArray[Any] = npy.read_array(stream, allow_pickle=False)
            return array
        start = stream.tell()
        if not check_steps(stream, _MOST_STEPS, _LARGEST_NPY, lambda step, argument: None):
            raise ValueError(f"a pickle of more than {_MOST_STEPS:,} steps")
        stream.seek(start)
        content = _Unpickler(stream).load()
    except Exception as error:
        raise InputError(f"is not an NPY file ({error})", where=file, hint="save the masks as TIFF") from error
    masks = _find_masks(content)
    if masks is None:
        raise InputError(
            "holds no 'masks'", where=file, hint="save the masks as TIFF; only Cellpose's _seg.npy is read"
        )
    return masks


class _Inert:
    """What stands for everything that a pickle would make: the name, and what it would be called with. Nothing runs."""

    named: tuple[str, str] = ("", "")
    arguments: tuple[Any, ...] = ()
    state: Any = None

    def __init__(self, *arguments: Any) -> None:
        self.arguments = arguments

    def __setstate__(self, state: Any) -> None:
        self.state = state


class _Unpickler(pickle._Unpickler):  # in Python, whose memo takes no memory ahead
    """Reads a pickle without importing or calling anything that it names."""

    def find_class(self, module: str, name: str) -> Any:
        """Return a class of its own for each name, which does nothing."""
        return type("Inert", (_Inert,), {"named": (module, name)})


def _find_masks(content: Any) -> NDArray[Any] | None:
    """Return the array `masks` of the dict that a pickled array of one object holds."""
    inner = content.state[-1] if _is_array(content) and isinstance(content.state[-1], list) else [content]
    if len(inner) != 1 or not isinstance(inner[0], dict):
        return None
    return _array_of(inner[0].get("masks"))


def _is_array(value: Any) -> bool:
    return (
        isinstance(value, _Inert)
        and value.named[0].startswith("numpy")
        and isinstance(value.state, tuple)
        and len(value.state) == 5
    )


def _array_of(value: Any) -> NDArray[Any] | None:
    """Return a pickled array of numbers: its state is version, shape, dtype, whether columns come first, and bytes."""
    if not _is_array(value):
        return None
    _, shape, dtype, columns_first, data = value.state
    code = dtype.arguments[0] if isinstance(dtype, _Inert) and dtype.arguments else None
    order = dtype.state[1] if isinstance(dtype, _Inert) and isinstance(dtype.state, tuple) and dtype.state else "<"
    if code not in ("b1", "i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8", "f4", "f8") or not isinstance(data, bytes):
        return None
    kind = np.dtype(code).newbyteorder(order if order in ("<", ">") else "=")
    if not isinstance(shape, tuple) or not all(type(side) is int and side >= 0 for side in shape):
        return None
    if np.prod(shape, dtype=float) * kind.itemsize != len(data):
        return None
    return np.frombuffer(data, kind).reshape(shape, order="F" if columns_first is True else "C")

"""Image formats: which are read, the suffixes of their files, and those of images that are not read."""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Callable
from contextlib import suppress
from importlib import import_module
from typing import Any, BinaryIO

from PIL import Image, ImageFile

from banet.errors import MissingExtraError
from banet.files.structure import check_structure
from banet.types import StrPath

__all__ = ["OTHER_SUFFIXES", "SUFFIXES", "format_of", "heif_error", "identify", "is_heif", "readable_suffixes"]

_SUFFIXES = {
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif"),
    "MPO": (".mpo",),
    "PNG": (".png", ".apng"),
    "WEBP": (".webp",),
    "AVIF": (".avif", ".avifs"),
    "BMP": (".bmp",),
    "DIB": (".dib",),
    "GIF": (".gif",),
    "TIFF": (".tif", ".tiff"),
    "PPM": (".pbm", ".pgm", ".ppm", ".pnm"),
    "JPEG2000": (".jp2", ".j2k", ".jpc", ".jpf", ".jpx", ".j2c"),
    "HEIF": (".heic", ".heif", ".heics", ".heifs", ".hif"),
}
"""Formats that are read, by Pillow's names, and how their files are called. None runs a program or draws vectors."""

_PLUGINS = {
    **{"JPEG": "Jpeg", "MPO": "Mpo", "PNG": "Png", "WEBP": "WebP", "AVIF": "Avif", "BMP": "Bmp", "DIB": "Bmp"},
    **{"GIF": "Gif", "TIFF": "Tiff", "PPM": "Ppm", "JPEG2000": "Jpeg2K"},
}
"""Pillow's plugins for them, one of which may be missing in an old Pillow."""

SUFFIXES = frozenset(suffix for suffixes in _SUFFIXES.values() for suffix in suffixes)
"""File names that count as images where a folder or a pattern is given."""

_OTHER_SUFFIXES = """
.3fr .arw .bay .cr2 .cr3 .crw .dcr .dng .erf .fff .gpr .iiq .kdc .mef .mos .mrw .nef .nrw .orf .pef .raf .rw2
.rwl .sr2 .srf .srw .x3f
.czi .dcm .fits .lif .lsm .nd2 .ndpi .oib .oif .svs .vsi .zvi
.blp .bpg .cur .dcx .dds .djvu .dpx .exr .flif .icns .ico .jls .jng .jph .jxl .jxr .mng .pcd .pcx .pfm .psb
.psd .pxr .qoi .sgi .tga .wdp .xbm .xcf .xpm
.emf .eps .svg .wmf
"""
OTHER_SUFFIXES = frozenset(_OTHER_SUFFIXES.split())
"""File names of images that are not read: raw files of cameras, microscopes' own formats, vectors and others."""

_HEIF_BRANDS = frozenset((b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs", b"mif1", b"msf1"))


def _has_heif() -> bool:
    """Return whether the extra `heic` is installed."""
    return importlib.util.find_spec("pillow_heif") is not None


@functools.cache
def _opener(name: str) -> tuple[Callable[..., Any], Callable[[bytes], bool | str] | None] | None:
    """Return what opens files of a format, and what says of their first bytes whether they are; None if nothing does.

    Loads the format's plugin of Pillow, not all 40, for which `Image.init` takes as long as a small network.
    """
    if name in _PLUGINS:
        with suppress(ImportError):
            import_module(f"PIL.{_PLUGINS[name]}ImagePlugin")
    elif _has_heif():
        import pillow_heif

        pillow_heif.register_heif_opener()
    return Image.OPEN.get(name)


def identify(stream: BinaryIO) -> ImageFile.ImageFile | None:
    """Return the image that a file holds, or None. Pillow's own limit on its size, a global, does not count.

    Raises:
        ValueError: See `check_structure`.
    """
    stream.seek(0)
    head = stream.read(16).ljust(16, b"\0")  # Pillow unpacks fields of it unasked
    for name in _SUFFIXES:
        opener = _opener(name)
        if opener is None:
            continue
        factory, accept = opener
        accepted = accept is None or accept(head)
        if accepted and not isinstance(accepted, str):  # a text says why not
            check_structure(name, stream)
            stream.seek(0)
            try:
                image: ImageFile.ImageFile = factory(stream, "")
                return image
            except Exception:  # a decoder may raise anything on bad data; another may know what it is
                continue
    return None


def readable_suffixes() -> frozenset[str]:
    """Return the `SUFFIXES` of formats that can be read with what is installed."""
    return SUFFIXES if _has_heif() else SUFFIXES - set(_SUFFIXES["HEIF"])


def format_of(suffix: str) -> str:
    """Return Pillow's name of the format of files with one of the `SUFFIXES`; JPEG for other suffixes."""
    return next((name for name, suffixes in _SUFFIXES.items() if suffix.lower() in suffixes), "JPEG")


def is_heif(head: bytes) -> bool:
    """Return whether a file that begins with `head` (16 bytes) is a HEIC or HEIF image."""
    return head[4:8] == b"ftyp" and head[8:12] in _HEIF_BRANDS


def heif_error(where: StrPath) -> MissingExtraError:
    """Return the error that names what reads HEIC images."""
    return MissingExtraError("pillow-heif", "heic", where=where)

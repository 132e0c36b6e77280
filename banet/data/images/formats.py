"""Image formats: which are read, the suffixes of their files, and those of images that are not read."""

from __future__ import annotations

import functools
import importlib.util
from pathlib import Path
from typing import BinaryIO

from PIL import Image, ImageFile

from banet.errors import MissingExtraError
from banet.files.structure import check_structure

__all__ = ["OTHER_SUFFIXES", "SUFFIXES", "heif_error", "identify", "is_heif", "readable_suffixes"]

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
def _pillow_formats() -> tuple[str, ...]:
    """Return those of our formats that this Pillow reads."""
    Image.init()
    if _has_heif():
        import pillow_heif

        pillow_heif.register_heif_opener()
    return tuple(name for name in _SUFFIXES if name in Image.OPEN)


def identify(stream: BinaryIO) -> ImageFile.ImageFile | None:
    """Return the image that a file holds, or None. Pillow's own limit on its size, a global, does not count.

    Raises:
        ValueError: See `check_structure`.
    """
    stream.seek(0)
    head = stream.read(16).ljust(16, b"\0")  # Pillow unpacks fields of it unasked
    for name in _pillow_formats():
        factory, accept = Image.OPEN[name]
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


def is_heif(head: bytes) -> bool:
    """Return whether a file that begins with `head` (16 bytes) is a HEIC or HEIF image."""
    return head[4:8] == b"ftyp" and head[8:12] in _HEIF_BRANDS


def heif_error(where: Path) -> MissingExtraError:
    """Return the error that names what reads HEIC images."""
    return MissingExtraError("pillow-heif", "heic", where=where)

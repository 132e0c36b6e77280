"""Small files that ask for much memory or time, and what they take: `python tests/hostile/attacks.py`.

Each attack is read in a process of its own, by the reader that its users would call, once the reader has read an honest
file, so that imports do not count. The table goes to docs/explanation/reliability.md.
"""

from __future__ import annotations

import argparse
import importlib
import io
import json
import resource
import struct
import subprocess
import sys
import tempfile
import time
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

GIGABYTE = 1 << 30
SECONDS = 10


class Outcome(NamedTuple):
    """What an attack took.

    Attributes:
        said: `answer`, or the error.
        memory: Most bytes above those before it.
        seconds: Of processor time.
    """

    said: str
    memory: int
    seconds: float


class Attack(NamedTuple):
    """A file.

    Attributes:
        name: What it is.
        file: What it is called.
        make: Returns its bytes.
        read: Name of the function in this module that reads it.
    """

    name: str
    file: str
    make: Callable[[], bytes]
    read: str = "read_picture"


# ------------------------------------------------------------------------------------------ readers


def read_picture(path: Path) -> None:
    from banet.data.images import read_image

    read_image(path)


def read_cells(path: Path) -> None:
    from banet.data.convert.cells import read_instance_map

    read_instance_map(path)


def read_pickle(path: Path) -> None:
    from banet.checkpoint.warm_start import load_pickle

    load_pickle(path)


def read_weights(path: Path) -> None:
    from banet import BANet

    BANet.from_pretrained(path).predict(np.zeros((48, 64, 3), np.uint8))


def read_cvat(path: Path) -> None:
    from banet.data.convert.cvat import convert_cvat

    Image.new("RGB", (64, 48)).save(path.parent / "x.jpg")
    with tempfile.TemporaryDirectory() as out:
        convert_cvat(path, path.parent, Path(out) / "out", overlaps="score")


def read_labelme(path: Path) -> None:
    from banet.data.convert.labelme import convert_labelme

    Image.new("RGB", (64, 48)).save(path.parent / "x.jpg")
    with tempfile.TemporaryDirectory() as out:
        convert_labelme(path.parent, Path(out) / "out", overlaps="score")


def read_mask(path: Path) -> None:
    from banet.panoptic.coco.png import read_labels

    read_labels(path)


# ------------------------------------------------------------------------------------------ images


def saved(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


SMALL = Image.new("RGB", (8, 8))


def shared_entries(entries: int, blob: int) -> bytes:
    """Return a TIFF header and a directory whose entries all have one and the same value of `blob` bytes."""
    start = 8 + 2 + 12 * entries + 4
    tags = b"".join(struct.pack("<HHII", 40000 + n % 20000, 7, blob, start) for n in range(entries))
    return b"II*\0" + struct.pack("<IH", 8, entries) + tags + bytes(4) + bytes(blob)


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_with(*chunks: bytes) -> bytes:
    whole = saved(SMALL, "PNG")
    return whole[:33] + b"".join(chunks) + whole[33:]


def jpeg_with(*segments: bytes) -> bytes:
    whole = saved(SMALL, "JPEG")
    return whole[:2] + b"".join(segments) + whole[2:]


def segment(marker: int, data: bytes) -> bytes:
    return struct.pack(">BBH", 255, marker, len(data) + 2) + data


def tiff(tags: list[tuple[int, int, int, int]], after: bytes = b"", chain: int = 0) -> bytes:
    """Return a TIFF of tags (tag, type, count, value), with a directory at 8; `after` follows it."""
    body = struct.pack("<H", len(tags)) + b"".join(struct.pack("<HHII", *tag) for tag in sorted(tags))
    return b"II*\0" + struct.pack("<I", 8) + body + struct.pack("<I", chain) + after


def plain_tags(side: int = 8, *, offset: int = 0, count: int = 0) -> list[tuple[int, int, int, int]]:
    return [(256, 4, 1, side), (257, 4, 1, side), (258, 3, 1, 8), (259, 3, 1, 1), (262, 3, 1, 1), (277, 3, 1, 1),
            (273, 4, 1, offset), (278, 4, 1, side), (279, 4, 1, count)]  # fmt: skip


def tiff_with_shared_values() -> bytes:
    entries, blob, own = 21000, 300_000, plain_tags()
    start = 8 + 2 + 12 * (entries + len(own)) + 4
    shared = [(40000 + n, 7, blob, start) for n in range(entries)]
    return tiff([*own, *shared], bytes(blob))


def tiff_of_many_pages() -> bytes:
    size, pages = 2 + 12 * 9 + 4, 160_000
    parts = [b"II*\0" + struct.pack("<I", 8)]
    for number in range(pages):
        body = struct.pack("<H", 9) + b"".join(struct.pack("<HHII", *tag) for tag in sorted(plain_tags()))
        following = 8 + size * (number + 1) if number + 1 < pages else 0
        parts.append(body + struct.pack("<I", following))
    return b"".join(parts)


def tiff_of_many_strips() -> bytes:
    count = 2_400_000
    own = [tag for tag in plain_tags() if tag[0] not in (273, 278, 279)]
    start = 8 + 2 + 12 * (len(own) + 3) + 4
    tags = [*own, (273, 4, count, start), (278, 4, 1, 1), (279, 4, count, start + 4 * count)]
    return tiff(tags, bytes(8 * count))


def jpeg_of_exif() -> bytes:
    """EXIF data goes on over several segments."""
    data = shared_entries(20_000, 400_000)
    parts = [data[at : at + 65_000] for at in range(0, len(data), 65_000)]
    return jpeg_with(*(segment(0xE1, b"Exif\0\0" + part) for part in parts))


def gif_of_comments() -> bytes:
    whole = saved(SMALL, "GIF")
    at = 13 + 3 * (2 << (whole[10] & 7)) if whole[10] & 128 else 13
    return whole[:at] + b"\x21\xfe\x01a\0" * 800_000 + whole[at:]


def gif_of_blocks() -> bytes:
    whole = saved(SMALL, "GIF")
    return whole[:-1] + b"\x21\x01" + b"\x01a" * 9_000_000 + b"\0;"


def gif_of_frames() -> bytes:
    whole = saved(SMALL, "GIF")
    frame = b"\x2c" + bytes(4) + b"\x01\0\x01\0\0\x02\x02\x44\x01\0"
    return whole[:-1] + frame * 1_200_000 + b";"


def webp_with_exif() -> bytes:
    return saved(SMALL, "WEBP", exif=shared_entries(21_000, 700_000))


def large(kind: str, mode: str = "RGB", side: int = 8192, **options: Any) -> Callable[[], bytes]:
    return lambda: saved(Image.new(mode, (side, side)), kind, **options)


def deep_tiff() -> bytes:
    """16-bit samples multiplied by alpha, 8192 x 8192, in deflated strips of one row."""
    side = 8192
    row = zlib.compress(bytes(side * 8), 9)
    count = side
    tags = [(256, 4, 1, side), (257, 4, 1, side), (259, 3, 1, 8), (262, 3, 1, 2), (277, 3, 1, 4), (278, 4, 1, 1),
            (284, 3, 1, 1), (338, 3, 1, 1)]  # fmt: skip
    at = 8 + 2 + 12 * (len(tags) + 3) + 4
    data = at + 8 + 8 * count
    tags += [(258, 3, 4, at), (273, 4, count, at + 8), (279, 4, count, at + 8 + 4 * count)]
    after = struct.pack("<4H", 16, 16, 16, 16)
    after += struct.pack(f"<{count}I", *(data + n * len(row) for n in range(count)))
    after += struct.pack(f"<{count}I", *[len(row)] * count) + row * count
    return tiff(tags, after)


def png16(color: int, channels: int) -> Callable[[], bytes]:
    def make() -> bytes:
        side = 8192
        packer = zlib.compressobj(9)
        data = b"".join(packer.compress(bytes(1 + side * channels * 2)) for _ in range(side)) + packer.flush()
        head = struct.pack(">IIBBBBB", side, side, 16, color, 0, 0, 0)
        return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", data) + chunk(b"IEND", b"")

    return make


# ------------------------------------------------------------------------------------------ weights


def pickled(text: bytes, *, compress: bool = False) -> Callable[[], bytes]:
    def make() -> bytes:
        buffer = io.BytesIO()
        kind = zipfile.ZIP_DEFLATED if compress else zipfile.ZIP_STORED
        with zipfile.ZipFile(buffer, "w", kind) as archive:
            archive.writestr("archive/data.pkl", text)
            archive.writestr("archive/version", b"3\n")
            archive.writestr("archive/byteorder", b"little")
        return buffer.getvalue()

    return make


BYTEARRAY = b"\x80\x02cbuiltins\nbytearray\n\x8a\x04\xff\xff\xff\x7f\x85R."
LISTS = b"\x80\x02]" + b"(" + b"]" * 60_000_000 + b"e."


def options_of(**options: Any) -> Callable[[], bytes]:
    def make() -> bytes:
        from dataclasses import asdict

        from readers import tiny_model

        with tempfile.TemporaryDirectory() as folder:
            model = tiny_model()
            whole = model.save_pretrained(Path(folder) / "a.safetensors", half=True).read_bytes()
            length = int.from_bytes(whole[:8], "little")
            header = json.loads(whole[8 : 8 + length])
            header["__metadata__"]["inference"] = json.dumps({**asdict(model.inference), **options})
            text = json.dumps(header).encode()
            return struct.pack("<Q", len(text)) + text + whole[8 + length :]

    return make


# ------------------------------------------------------------------------------------------ annotations


def cvat(body: str) -> bytes:
    return f"<annotations>{body}</annotations>".encode()


POLYGON = '<polygon label="a" points="1,1;60,1;60,40;1,40" z_order="0"/>'
IMAGE = '<image id="0" name="x.jpg" width="64" height="48">'


def labelme(count: int) -> bytes:
    shape = {"label": "a", "points": [[1, 1], [60, 1], [60, 40], [1, 40]], "shape_type": "polygon"}
    return json.dumps({"imagePath": "x.jpg", "shapes": [shape] * count}).encode()


SHARED = shared_entries(20_000, 700_000)
MANY = 2**31 - 1
ATTACKS = [
    Attack("PNG, EXIF entries that share one value", "a.png", lambda: png_with(chunk(b"eXIf", SHARED))),
    Attack("JPEG, EXIF entries that share one value", "b.jpg", jpeg_of_exif),
    Attack("WebP, EXIF entries that share one value", "c.webp", webp_with_exif),
    Attack("TIFF, tags that share one value", "d.tif", tiff_with_shared_values),
    Attack("TIFF map of cells, tags that share one value", "e.tif", tiff_with_shared_values, "read_cells"),
    Attack("TIFF of 160,000 pages", "f.tif", tiff_of_many_pages),
    Attack("TIFF of 2.4 million strips", "g.tif", tiff_of_many_strips),
    Attack("JPEG 2000, 8192 x 8192", "h.jp2", large("JPEG2000")),
    Attack("WebP, 8192 x 8192", "i.webp", large("WEBP")),
    Attack("AVIF, 8192 x 8192", "j.avif", large("AVIF", speed=10)),
    Attack("TIFF of 32-bit integers, 8192 x 8192", "k.tif", large("TIFF", "I", compression="tiff_lzw")),
    Attack("TIFF of 16 bits multiplied by alpha, 8192 x 8192", "l.tif", deep_tiff),
    Attack("PNG of 16 bits RGB, 8192 x 8192", "m.png", png16(2, 3)),
    Attack("PNG of 16 bits RGBA, 8192 x 8192", "n.png", png16(6, 4)),
    Attack("PNG with a palette, 8192 x 8192", "o.png", large("PNG", "P")),
    Attack("JPEG in CMYK, 8192 x 8192", "p.jpg", large("JPEG", "CMYK")),
    Attack("GIF of 800,000 comments", "q.gif", gif_of_comments),
    Attack("GIF of 9 million blocks", "r.gif", gif_of_blocks),
    Attack("GIF of 1.2 million frames", "s.gif", gif_of_frames),
    Attack("plain PGM of 1 million comments", "t.pgm", lambda: b"P2\n8 8\n255\n" + b"#\n" * 1_000_000 + b"0 " * 64),
    Attack("plain PPM of 20 MB", "u.ppm", lambda: b"P3\n1800 1800\n255\n" + b"0 " * (3 * 1800 * 1800)),
    Attack("PGM with a comment of 20 MB", "v.pgm", lambda: b"P5\n#" + bytes(20_000_000) + b"\n8 8\n255\n" + bytes(64)),
    Attack("PNG of 1.6 million chunks", "w.png", lambda: png_with(chunk(b"teSt", b"") * 1_600_000)),
    Attack("PNG that claims 2 billion frames", "x.png", lambda: png_with(chunk(b"acTL", struct.pack(">II", MANY, 0)))),
    Attack("JPEG of 5 million segments", "y.jpg", lambda: jpeg_with(segment(0xFE, b"") * 5_000_000)),
    Attack(".pth of 100 bytes with bytearray(2**31 - 1)", "a.pth", lambda: BYTEARRAY, "read_pickle"),
    Attack(".pth archive with bytearray(2**31 - 1)", "b.pth", pickled(BYTEARRAY), "read_pickle"),
    Attack(".pth with a deflated data.pkl of 60 MB", "c.pth", pickled(LISTS, compress=True), "read_pickle"),
    Attack(".pth of 20 MB of empty lists", "d.pth", lambda: b"\x80\x02](" + b"]" * 20_000_000 + b"e.", "read_pickle"),
    Attack(
        "weights that ask for 2 billion proposals",
        "a.safetensors",
        options_of(proposals=MANY, proposals_per_level=MANY, max_instances=MANY, score_threshold=0.0),
        "read_weights",
    ),
    Attack(
        "weights that enlarge images 100 times",
        "b.safetensors",
        options_of(scale=100, longer=8192, shorter=8192),
        "read_weights",
    ),
    Attack("Labelme, 20,000 equal polygons", "a.json", lambda: labelme(20_000), "read_labelme"),
    Attack("CVAT, 100,000 equal polygons", "a.xml", lambda: cvat(IMAGE + POLYGON * 100_000 + "</image>"), "read_cvat"),
    Attack("CVAT, 2 million open tags", "b.xml", lambda: b"<annotations>" + b"<image>" * 2_000_000, "read_cvat"),
    Attack(
        "CVAT, 1.5 million attributes",
        "c.xml",
        lambda: cvat("<image " + " ".join(f'a{n}=""' for n in range(1_500_000)) + "/>"),
        "read_cvat",
    ),
]


def measure(attack: Attack, folder: Path) -> Outcome:
    """Read an attack in a process of its own, which may take four times the limits."""
    path = folder / attack.file
    path.write_bytes(attack.make())
    code = f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})\nimport attacks\n"
    code += f"attacks.run({attack.read!r}, {str(path)!r})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    path.unlink()
    lines = done.stdout.splitlines()
    if done.returncode or not lines:
        last = (done.stderr.strip().splitlines() or [""])[-1][:100]
        return Outcome(f"ended with {done.returncode} {last}", 4 * GIGABYTE, 6 * SECONDS)
    said, memory, seconds = json.loads(lines[-1])
    return Outcome(said, memory, seconds)


HONEST = {
    "read_picture": lambda: ("honest.png", saved(SMALL, "PNG")),
    "read_cells": lambda: ("honest.tif", saved(Image.new("L", (8, 8)), "TIFF")),
    "read_mask": lambda: ("honest.png", saved(Image.new("L", (8, 8)), "PNG")),
}


def run(reader: str, path: str) -> None:
    """Read a file and print how it went: what this process is for."""
    import warnings

    from banet.errors import InputError

    warnings.simplefilter("ignore")
    read = globals()[reader]
    if reader in HONEST:
        name, data = HONEST[reader]()
        honest = Path(path).with_name(name)
        honest.write_bytes(data)
        read(honest)
        honest.unlink()
    elif reader != "read_labelme" and reader != "read_cvat":
        for name in ("checkpoint.warm_start", "inference.banet"):
            importlib.import_module(f"banet.{name}")
    else:
        for name in ("cvat", "labelme"):
            importlib.import_module(f"banet.data.convert.{name}")
    resource.setrlimit(resource.RLIMIT_CPU, (6 * SECONDS, 6 * SECONDS))
    Path("/proc/self/clear_refs").write_text("5")  # the most memory so far is forgotten
    before = status("VmRSS")
    started = time.process_time()
    limit = status("VmSize") + 6 * GIGABYTE
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    try:
        read(Path(path))
        said = "answer"
    except InputError as error:
        said = str(error).replace(path, Path(path).name)
    except Exception as error:
        said = f"{type(error).__name__}: {error}"[:200]
    seconds = time.process_time() - started
    print(json.dumps([said, max(0, status("VmHWM") - before), seconds]))


def status(field: str) -> int:
    """Return a figure of this process in bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    raise KeyError(field)


def main() -> int:
    """Print the table; 1 where an attack took too much."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", help="attacks whose name holds this")
    options = parser.parse_args()
    bad = 0
    print("| attack | memory | time | outcome |\n|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for attack in ATTACKS:
            if options.only and options.only not in attack.name:
                continue
            outcome = measure(attack, Path(folder))
            over = outcome.memory > GIGABYTE or outcome.seconds > SECONDS or not is_clear(outcome.said)
            bad += over
            row = f"| {attack.name} | {outcome.memory / 1e6:,.0f} MB | {outcome.seconds:.1f} s | {outcome.said[:150]} |"
            print(row + (" BAD" if over else ""), flush=True)
    return 1 if bad else 0


def is_clear(said: str) -> bool:
    """Return whether an attack ended in an answer or in an error that names the file."""
    return said == "answer" or any(file in said for file in (*(attack.file for attack in ATTACKS), "x.jpg"))


if __name__ == "__main__":
    sys.exit(main())

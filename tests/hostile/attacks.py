"""Small files that ask for much memory or time, and what they take: `python tests/hostile/attacks.py`.

Each attack is read in a process of its own, by the reader that its users would call, once the reader has read an honest
file, so that imports do not count. The system ends what takes twice the time or six times the memory.

With another version of the library in front (`PYTHONPATH`), `--save before.json` keeps what it took;
`--before before.json` then shows both. The table goes to docs/results/reliability.md.
"""

from __future__ import annotations

import argparse
import importlib
import json
import resource
import signal
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from attack_files import (
    BYTEARRAY,
    DEEP,
    HASHED,
    LISTS,
    SMALL,
    TENSOR,
    avif_with_exif,
    behind_junk,
    chunk,
    deep_tiff,
    gif_of_blocks,
    gif_of_comments,
    gif_of_frames,
    jpeg2000_of_tiles,
    jpeg_of_exif,
    jpeg_with,
    large,
    options_of,
    pickled,
    png16,
    png_with,
    saved,
    segment,
    shared_entries,
    tiff_of_many_pages,
    tiff_of_many_strips,
    tiff_of_one_tile,
    tiff_with_shared_values,
    webp_with_exif,
)
from attack_floods import FLOODS, MODULES
from attack_floods import READERS as FLOODED
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
        read: Name of the function that reads it, in `READERS`.
        beside: Puts what else there must be into the folder.
    """

    name: str
    file: str
    make: Callable[[], bytes]
    read: str = "read_picture"
    beside: Callable[[Path], None] = lambda folder: None


# ------------------------------------------------------------------------------------------ readers


def read_picture(path: Path) -> None:
    from banet.data.images import read_image

    read_image(path)


def read_cell_map(path: Path) -> None:
    from banet.data.convert.cells import read_instance_map

    read_instance_map(path)


def read_pickle(path: Path) -> None:
    load: Any
    try:
        from banet.checkpoint.warm_start import load_pickle as load
    except ModuleNotFoundError:  # of version 0.1
        load = importlib.import_module("banet.modeling.weights")._load_pickle
    load(path)


def read_weights(path: Path) -> None:
    from banet import BANet

    BANet.from_pretrained(path).predict(np.zeros((48, 64, 3), np.uint8))


def read_mask(path: Path) -> None:
    from banet.panoptic.coco.png import read_labels

    read_labels(path)


SHARED = shared_entries(20_000, 700_000)
MANY = 2**31 - 1
ATTACKS = [
    Attack("PNG, EXIF entries that share one value", "a.png", lambda: png_with(chunk(b"eXIf", SHARED))),
    Attack("JPEG, EXIF entries that share one value", "b.jpg", jpeg_of_exif),
    Attack("WebP, EXIF entries that share one value", "c.webp", webp_with_exif),
    Attack("AVIF, EXIF entries that share one value", "c.avif", avif_with_exif),
    Attack("JPEG, EXIF entries behind junk", "d.jpg", behind_junk(jpeg_of_exif)),
    Attack("TIFF, tags that share one value", "d.tif", tiff_with_shared_values),
    Attack("TIFF in the other order of bytes", "d2.tif", lambda: b"II\0*" + tiff_with_shared_values()[4:]),
    Attack("TIFF map of cells, tags that share one value", "e.tif", tiff_with_shared_values, "read_cell_map"),
    Attack("TIFF of 160,000 pages", "f.tif", tiff_of_many_pages),
    Attack("TIFF of 2.4 million strips", "g.tif", tiff_of_many_strips),
    Attack("TIFF of 8 x 8 with a tile of 65536 x 16384", "g2.tif", tiff_of_one_tile(8, (65536, 16384), 1, 8)),
    Attack("JPEG 2000, 8192 x 8192", "h.jp2", large("JPEG2000")),
    Attack("JPEG 2000 of 62,500 tiles", "h2.jp2", jpeg2000_of_tiles),
    Attack("WebP, 8192 x 8192", "i.webp", large("WEBP")),
    Attack("AVIF, 8192 x 8192", "j.avif", large("AVIF", speed=10)),
    Attack("TIFF of 32-bit integers, 8192 x 8192", "k.tif", large("TIFF", "I", compression="tiff_lzw")),
    Attack("TIFF of 16 bits multiplied by alpha, 8192 x 8192", "l.tif", deep_tiff),
    Attack("TIFF of 16 bits in one tile, 8192 x 8192", "l2.tif", tiff_of_one_tile(8192, (8192, 8192), 4, 16)),
    Attack("PNG of 16 bits RGB, 8192 x 8192", "m.png", png16(2, 3)),
    Attack("PNG of 16 bits RGBA, 8192 x 8192", "n.png", png16(6, 4)),
    Attack("PNG with a palette, 8192 x 8192", "o.png", large("PNG", "P")),
    Attack("JPEG in CMYK, progressive, 8192 x 8192", "p.jpg", large("JPEG", "CMYK", progressive=True)),
    Attack("GIF of 800,000 comments", "q.gif", gif_of_comments),
    Attack("GIF of 800,000 comments behind junk", "q2.gif", behind_junk(gif_of_comments)),
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
    Attack(".pth with a key of 2**60 shared tuples", "e.pth", pickled(HASHED), "read_pickle"),
    Attack(".pth with a key of 900,000 nested tuples", "f.pth", pickled(DEEP), "read_pickle"),
    Attack(".pth with a tensor of 32 GB", "g.pth", pickled(TENSOR), "read_pickle"),
    Attack(
        "weights that ask for 2 billion proposals",
        "a.safetensors",
        options_of(proposals=MANY, proposals_per_level=MANY, instances=MANY, score=0.0),
        "read_weights",
    ),
    Attack(
        "weights that enlarge images 100 times",
        "b.safetensors",
        options_of(scale=100, longer=8192, shorter=8192),
        "read_weights",
    ),
    *(Attack(*flood) for flood in FLOODS),
]
READERS = {
    each.__name__: each for each in (read_picture, read_cell_map, read_pickle, read_weights, read_mask)
} | FLOODED


def measure(attack: Attack, folder: Path, *, untrusted: bool = False) -> Outcome:
    """Read an attack in a process of its own, `untrusted` in workers of it."""
    with tempfile.TemporaryDirectory(dir=folder) as own:
        path = Path(own) / attack.file
        attack.beside(Path(own))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(attack.make())
        code = f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})\nimport attacks\n"
        code += f"attacks.run({attack.read!r}, {str(path)!r}, {untrusted})"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    lines = done.stdout.splitlines()
    if done.returncode or not lines:
        last = (done.stderr.strip().splitlines() or [""])[-1][:100]
        killed = -done.returncode in (signal.SIGXCPU, signal.SIGKILL)
        said = "more than 20 s" if killed else f"ended with {done.returncode} {last}"
        return Outcome(said, 6 * GIGABYTE, 2 * SECONDS)
    said, memory, seconds = json.loads(lines[-1])
    return Outcome(said, memory, seconds)


HONEST = {
    "read_picture": lambda: ("honest.png", saved(SMALL, "PNG")),
    "read_cell_map": lambda: ("honest.tif", saved(Image.new("L", (8, 8)), "TIFF")),
    "read_mask": lambda: ("honest.png", saved(Image.new("L", (8, 8)), "PNG")),
}


def run(reader: str, path: str, untrusted: bool = False) -> None:
    """Read a file and print how it went: what this process is for."""
    import warnings

    from banet.errors import InputError
    from banet.files.worker import untrusted_files

    warnings.simplefilter("ignore")
    read = READERS[reader]
    _prepare(reader, Path(path))
    most = int(time.process_time()) + 2 * SECONDS
    resource.setrlimit(resource.RLIMIT_CPU, (most, most))
    Path("/proc/self/clear_refs").write_text("5")  # the most memory so far is forgotten
    before = status("VmRSS")
    started = _seconds()
    limit = status("VmSize") + 6 * GIGABYTE
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    try:
        with untrusted_files(untrusted):
            read(Path(path))
        said = "answer"
    except InputError as error:
        said = str(error).replace(path, Path(path).name)
    except Exception as error:
        said = f"{type(error).__name__}: {error}"[:200]
    print(json.dumps([said, max(0, status("VmHWM") - before), _seconds() - started]))


def _prepare(reader: str, path: Path) -> None:
    """Import what a reader needs, so that it does not count."""
    if reader in HONEST:
        name, data = HONEST[reader]()
        honest = path.with_name(name)
        honest.write_bytes(data)
        READERS[reader](honest)
        honest.unlink()
    for name in MODULES if reader in FLOODED else ("checkpoint.warm_start", "inference.banet", "modeling.weights"):
        with suppress(ModuleNotFoundError):  # of this version, or of 0.1
            importlib.import_module(f"banet.{name}")


def _seconds() -> float:
    """Return the processor time of this process and of its workers that have ended."""
    return time.process_time() + sum(resource.getrusage(resource.RUSAGE_CHILDREN)[:2])


def status(field: str) -> int:
    """Return a figure of this process in bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    raise KeyError(field)


def main() -> int:
    """Print the table; 1 where an attack took too much."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="attacks whose name holds this")
    parser.add_argument("--save", type=Path, help="file that gets the outcomes")
    parser.add_argument("--before", type=Path, help="such a file, of another version")
    parser.add_argument("--untrusted", action="store_true", help="read them in workers; memory is that of the caller")
    options = parser.parse_args()
    before = json.loads(options.before.read_text()) if options.before else {}
    bad, found = 0, {}
    print("| file | " + ("before | " if before else "") + "memory | time | outcome |")
    print("|---|---|---|---|" + ("---|" if before else ""))
    with tempfile.TemporaryDirectory() as folder:
        for attack in (one for one in ATTACKS if options.only in one.name):
            outcome = found[attack.name] = measure(attack, Path(folder), untrusted=options.untrusted)
            over = outcome.memory > GIGABYTE or outcome.seconds > SECONDS or not is_clear(outcome.said)
            bad += over
            row = [attack.name.replace(" x ", " × ")]
            row += [_took(Outcome(*before[attack.name]))] if attack.name in before else [""] * bool(before)
            row += [f"{outcome.memory / 1e6:,.0f} MB", f"{outcome.seconds:.1f} s", _said(outcome, attack)]
            print(f"| {' | '.join(row)} |" + (" BAD" if over else ""), flush=True)
            if options.save:
                options.save.write_text(json.dumps(found, indent=1))
    return 1 if bad else 0


def _took(outcome: Outcome) -> str:
    """Return what an attack took of an earlier version."""
    if outcome.said.startswith(("ended", "more than")):
        return outcome.said.split(" Error")[0]
    note = {"answer": "", "MemoryError": ", MemoryError"}.get(outcome.said.split(":")[0], "")
    return f"{outcome.memory / 1e6:,.0f} MB, {outcome.seconds:.1f} s{note}"


def _said(outcome: Outcome, attack: Attack) -> str:
    said = outcome.said.removeprefix(f"{attack.file}: ").rpartition("x.png: ")[2]
    return "an answer" if said == "answer" else f"one line: {said.split(';')[0][:90]}"


def is_clear(said: str) -> bool:
    """Return whether an attack ended in an answer or in an error that names the file."""
    names = {Path(attack.file).name for attack in ATTACKS}
    return said == "answer" or any(name in said for name in (*names, "x.png"))


if __name__ == "__main__":
    sys.exit(main())

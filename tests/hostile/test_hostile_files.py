"""What damage at random hardly finds: bombs, what stands in place of files, names, what leads outside, long lists."""

from __future__ import annotations

import base64
import contextlib
import io
import json
import os
import signal
import socket
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable, Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from peak import GIGABYTE, peak
from PIL import Image

from banet import BANet
from banet.checkpoint.checkpoint import read_checkpoint
from banet.cli import main
from banet.data.check import check_splits, find_splits
from banet.data.coco_panoptic import CocoPanoptic, PanopticIndex
from banet.data.convert.coco import convert_coco
from banet.data.convert.cvat import convert_cvat
from banet.data.convert.labelme import convert_labelme
from banet.data.convert.maps import convert_maps
from banet.data.images import decode_image, image_size, list_images, read_image, to_rgb_array
from banet.data.scenes.collage import InstanceSet
from banet.engine.options import load_recipe
from banet.engine.prediction.fuse import fuse_files
from banet.errors import InputError
from banet.files.atomic import atomic_path
from banet.files.reading import MAX_PIXELS, open_file, read_json, stream_json
from banet.panoptic import Categories, Category, PanopticSegmentation, id_maps
from banet.panoptic.coco.annotations import PanopticJson, read_categories
from banet.panoptic.coco.png import read_ids, read_labels, write_ids
from banet.panoptic.coco.rle import decode_polygons, decode_rle
from banet.panoptic.coco.writer import CocoPanopticWriter
from banet.panoptic.id_maps import measure_ids
from banet.panoptic.metrics import quality
from banet.panoptic.metrics.quality import score_folders

CLASSES = Categories([Category(1, "thing", True), Category(2, "stuff", False)])


def refused(read: Callable[[], object], *parts: str) -> str:
    """The message of the error that reading ends in: one line, with these parts in it."""
    with pytest.raises(InputError) as caught:
        read()
    message = str(caught.value)
    assert message.isprintable()
    for part in parts:
        assert part in message
    return message


@pytest.fixture(autouse=True)
def no_hanging() -> Iterator[None]:
    """A test that waits for ever fails."""

    def stop(*_: object) -> None:
        raise TimeoutError("it hangs")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(300)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


# ------------------------------------------------------------------------------------------------------------- pixels


def png(width: int, height: int, kind: int, pixels: bytes, *more: tuple[bytes, bytes]) -> bytes:
    """A PNG of 8 bits with a checksum that fits, whatever it claims."""

    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    chunks = [
        (b"IHDR", struct.pack(">IIBBBBB", width, height, 8, kind, 0, 0, 0)),
        *more,
        (b"IDAT", pixels),
        (b"IEND", b""),
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(name, body) for name, body in chunks)


def blank(width: int, height: int, channels: int) -> bytes:
    """Compressed rows of zeros: a thousandth of what they become."""
    packer, row = zlib.compressobj(9), bytes(1 + width * channels)
    return b"".join([packer.compress(row) for _ in range(height)] + [packer.flush()])


@pytest.mark.parametrize(
    ("read", "kind"), [(read_image, 2), (image_size, 2), (to_rgb_array, 6), (read_ids, 2), (read_labels, 0)]
)
@pytest.mark.parametrize("size", [(60_000, 60_000), (2**31 - 1, 1), (2**31 - 1, 2**31 - 1), (8193, 8192)])
def test_an_image_that_claims_too_many_pixels(
    tmp_path: Path, read: Callable[[Path], object], kind: int, size: tuple[int, int]
) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(png(*size, kind, zlib.compress(bytes(1000))))
    with peak() as grown:
        refused(lambda: read(path), str(path), "too many pixels")
    assert grown[0] < GIGABYTE / 10


def test_other_formats_that_claim_too_much(tmp_path: Path) -> None:
    for suffix, at, layout in (("bmp", 18, "<ii"), ("gif", 6, "<HH"), ("tiff", None, ""), ("ppm", None, "")):
        path = tmp_path / f"a.{suffix}"
        Image.new("RGB", (3, 2)).save(path)
        data = bytearray(path.read_bytes())
        if at is not None:
            data[at : at + struct.calcsize(layout)] = struct.pack(layout, 60_000, 60_000)
        elif suffix == "ppm":
            data = bytearray(b"P6 60000 60000 255\n" + bytes(18))
        else:
            tag = data.index(struct.pack("<HHI", 256, 4, 1))
            data[tag + 8 : tag + 12] = data[tag + 20 : tag + 24] = struct.pack("<I", 60_000)
        path.write_bytes(data)
        with peak() as grown:
            refused(lambda path=path: read_image(path), str(path))
        assert grown[0] < GIGABYTE / 10


@pytest.mark.parametrize("name", [b"zTXt", b"iCCP"])
def test_a_small_image_with_a_bomb_beside_its_pixels(name: bytes) -> None:
    packer = zlib.compressobj(9)
    bomb = b"a\0\0" + b"".join([packer.compress(bytes(1 << 20)) for _ in range(200)] + [packer.flush()])
    data = png(2, 1, 2, zlib.compress(b"\0" + bytes(range(6))), (name, bomb))
    with peak() as grown, contextlib.suppress(InputError):  # which will do as well
        assert np.asarray(decode_image(data, "a.png")).ravel().tolist() == list(range(6))
    assert grown[0] < GIGABYTE / 10


def test_a_jpeg_of_scans_without_end(tmp_path: Path) -> None:
    """Each of a hundred bytes, and as much work as the whole image."""
    stream = io.BytesIO()
    Image.new("RGB", (2048, 2048), (90, 120, 140)).save(stream, "JPEG", progressive=True)
    data = stream.getvalue()
    last = data[data.rindex(b"\xff\xda") : -2]
    (tmp_path / "some.jpg").write_bytes(data[:-2] + last * 20 + data[-2:])
    (tmp_path / "many.jpg").write_bytes(data[:-2] + last * 20_000 + data[-2:])
    assert np.ptp(to_rgb_array(tmp_path / "some.jpg"), axis=(0, 1)).max() <= 2
    refused(lambda: read_image(tmp_path / "many.jpg"), "many.jpg", "scans")


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "channels"), [(2, 3), (6, 4), (0, 1), (3, 1)])
def test_the_largest_image_fits_into_a_gigabyte(tmp_path: Path, kind: int, channels: int) -> None:
    """8192 x 8192 pixels in 200 KB. In a process of its own, as memory that was freed may stay with a process."""
    side = 8192
    assert side * side == MAX_PIXELS
    palette = [(b"PLTE", bytes(768))] if kind == 3 else []
    (tmp_path / "a.png").write_bytes(png(side, side, kind, blank(side, side, channels), *palette))
    reads = ["to_rgb_array", "read_labels" if channels == 1 else "read_ids"]
    for read in reads:
        code = (
            "import resource, sys; from banet.data.images import to_rgb_array;"
            "from banet.panoptic.coco import read_ids, read_labels;"
            f"{read}(sys.argv[1]); print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
        )
        done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "a.png")], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert 1024 * int(done.stdout) < GIGABYTE, (read, kind)


def test_maps_in_parts_are_measured_as_a_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    for shape in ((7, 9), (1, 50), (50, 1), (33, 20)):
        ids = rng.integers(0, 9, shape).astype(np.int32)
        infos = [{"id": int(i), "category_id": 1 + int(i) % 2} for i in np.unique(ids) if i]
        one = PanopticSegmentation.from_ids(ids, infos, CLASSES)
        other = PanopticSegmentation.from_ids(np.roll(ids, 1, 0), infos, CLASSES)
        found = []
        for limit in (1 << 22, 16, 1):
            monkeypatch.setattr(id_maps, "_BAND", limit)
            match = quality.PanopticQuality(CLASSES).update(one, other)
            found.append([*measure_ids(ids), *(getattr(match, field.name) for field in fields(match))])
        for part in found[1:]:
            assert all(np.array_equal(a, b) and a.dtype == b.dtype for a, b in zip(found[0], part, strict=True))


@pytest.mark.slow
def test_a_map_that_changes_at_every_pixel_fits_into_a_gigabyte(tmp_path: Path) -> None:
    side = 8192
    packer, row = zlib.compressobj(9), b"\0" + b"\1\0\0\2\0\0" * (side // 2)
    pixels = b"".join([packer.compress(row) for _ in range(side)] + [packer.flush()])
    (tmp_path / "a.png").write_bytes(png(side, side, 2, pixels))
    code = (
        "import resource, sys; from banet.panoptic.coco.png import *; from banet.panoptic.id_maps import *;"
        "print(measure_ids(read_ids(sys.argv[1]))[1].sum(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "a.png")], capture_output=True, text=True)
    area, kilobytes = map(int, done.stdout.split())
    assert area == side * side and 1024 * kilobytes < GIGABYTE


def test_outlines_and_run_lengths_without_end() -> None:
    zigzag = [float(v) for n in range(5000) for v in (65_000 * (-1) ** n, n % 50)]
    with peak() as grown:
        with pytest.raises(ValueError, match="outline of more than"):
            decode_polygons([zigzag], (50, 50))
        with pytest.raises(ValueError, match="add up to"):
            decode_rle([10**15, 10**15], (50, 50))
        with pytest.raises(ValueError, match="negative run"):
            decode_rle("o" * 6 + "O", (50, 50))
        assert decode_rle([0, 1] * 200_000 + [2100 * 1000 - 200_000], (2100, 1000)).shape == (2100, 1000)
    assert grown[0] < GIGABYTE / 4


def test_images_of_one_pixel(tmp_path: Path) -> None:
    for suffix in ("png", "jpg", "bmp", "gif", "tiff", "webp"):
        Image.new("RGB", (1, 1), (200, 200, 200)).save(tmp_path / f"a.{suffix}")
        assert to_rgb_array(tmp_path / f"a.{suffix}").shape == (1, 1, 3)
    folder = data_set(tmp_path / "set", ["a.png"], np.array([[1]]))
    sample = CocoPanoptic(folder / "images", folder / "panoptic", folder / "panoptic.json")[0]
    assert sample.target.boxes.tolist() == [[0, 0, 1, 1]]
    assert not check_splits(find_splits(folder)).findings
    pair = (folder / "panoptic.json", folder / "panoptic")
    assert score_folders(*pair, *pair)["All"]["pq"] == 1


def data_set(folder: Path, names: list[str], ids: np.ndarray[Any, Any]) -> Path:
    """Images of these names that all show the same: thing 1, stuff 2, void 0."""
    with CocoPanopticWriter(folder / "panoptic", folder / "panoptic.json", CLASSES) as writer:
        for number, name in enumerate(names):
            infos = [{"id": int(i), "category_id": int(i)} for i in np.unique(ids) if i]
            writer.add(number, name, PanopticSegmentation.from_ids(ids, infos, CLASSES))
            (folder / "images" / name).parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.full((*ids.shape, 3), number, np.uint8)).save(folder / "images" / name, "PNG")
    return folder


# --------------------------------------------------------------------------------------------- what stands for a file


def _instances(path: Path) -> InstanceSet:
    return InstanceSet(path, path.parent)


READERS: dict[str, Callable[[Path], object]] = {
    "picture": read_image,
    "size": image_size,
    "ids": read_ids,
    "labels": read_labels,
    "JSON": read_json,
    "JSON stream": lambda path: list(stream_json(path)),
    "panoptic JSON": PanopticJson.read,
    "index": PanopticIndex.read,
    "classes": read_categories,
    "instances": _instances,
    "convert coco": lambda path: convert_coco(path.parent, path, path.parent / "out"),
    "convert cvat": lambda path: convert_cvat(path, path.parent, path.parent / "out"),
    "recipe": lambda path: load_recipe(str(path)),
    "weights": BANet.from_pretrained,
    "metadata": read_checkpoint,
}


@pytest.fixture(params=list(READERS))
def read(request: pytest.FixtureRequest) -> Callable[[Path], object]:
    return READERS[request.param]


@pytest.mark.parametrize("kind", ["missing", "folder", "empty", "loop", "dangling", "pipe", "device", "long", "half"])
def test_what_stands_in_place_of_a_file(tmp_path: Path, read: Callable[[Path], object], kind: str) -> None:
    path = tmp_path / "a b\n\u202e\x1b[31m雪.png"
    if kind == "folder":
        path.mkdir()
    elif kind == "empty":
        path.touch()
    elif kind == "loop":
        path.symlink_to(path)
    elif kind == "dangling":
        path.symlink_to(tmp_path / "nothing")
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    elif kind == "long":
        path = tmp_path / ("x" * 300)
    elif kind == "half":
        path = tmp_path / "\ud800.png"
    message = refused(lambda: read(path))
    assert str(tmp_path) in message


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="permissions are not like this here")
def test_a_file_that_may_not_be_read(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"x")
    (tmp_path / "a.png").chmod(0)
    tmp_path.chmod(0o755)
    code = "import os, sys; os.seteuid(65534) if os.geteuid() == 0 else None\n"
    code += "from banet.files.reading import open_file\nopen_file(sys.argv[1])"
    code = "from banet.files import reading\n" + code  # while everything may be read
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "a.png")], capture_output=True, text=True)
    assert "InputError" in done.stderr and "cannot be read" in done.stderr, done.stderr


def test_links_to_folders_that_form_loops(tmp_path: Path) -> None:
    folder = tmp_path / "pictures"
    (folder / "deep").mkdir(parents=True)
    Image.new("RGB", (1, 1)).save(folder / "deep" / "a.png")
    for name in ("one", "two", "three"):
        (folder / name).symlink_to(folder)
    assert list_images([str(folder / "**" / "*.png")]) == [folder / "deep" / "a.png"]
    assert list_images([str(folder / "**")]) == [folder / "deep" / "a.png"]
    (tmp_path / "classes.json").write_text(json.dumps(CLASSES.to_coco()))
    refused(lambda: convert_maps(folder, folder / "none", tmp_path / "classes.json", tmp_path / "out"), "none")
    refused(lambda: list_images(["~nobody-of-this-name/a.png"]), "does not exist")
    refused(lambda: list_images(["x" * 5000]), "does not exist")


# -------------------------------------------------------------------------------------------------------------- names


def test_names_of_every_kind_work(tmp_path: Path) -> None:
    names = [
        "a b.png",
        "line\nbreak.png",
        "tab\t'\".png",
        "ü/雪/🙂.png",
        "%2e%2e%2f.png",
        "-rf.png",
        "x" * 240 + ".png",
    ]
    folder = data_set(tmp_path / "a b\nc", names, np.kron([[1, 2], [0, 2]], np.ones((8, 8))).astype(np.int32))
    dataset = CocoPanoptic(folder / "images", folder / "panoptic", folder / "panoptic.json")
    assert [dataset.read(n)[0].max() for n in range(len(names))] == list(range(len(names)))
    assert not check_splits(find_splits(folder)).findings
    (folder / "images" / names[1]).unlink()
    refused(lambda: dataset[1], "line\\nbreak.png")
    (finding,) = check_splits(find_splits(folder)).findings
    assert "line\\nbreak.png" in finding.where


OUTSIDE = [
    "../secret.png",
    "a/../../secret.png",
    "{root}/secret.png",
    "file://{root}/secret.png",
    "\\\\host\\x.png",
    "C:x.png",
]


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[list[str]]:
    """Names of files that are opened, made or removed."""
    seen: list[str] = []

    def note(event: str, arguments: tuple[Any, ...]) -> None:
        if active and event in ("open", "os.mkdir", "os.rename", "os.remove", "socket.connect"):
            seen.append(str(arguments[0]))

    active = True
    sys.addaudithook(note)  # there is no way to take it off again
    yield seen
    active = False


@pytest.mark.parametrize("name", [*OUTSIDE, "http://localhost:{port}/secret.png"])
@pytest.mark.parametrize("field", ["images", "annotations"])
def test_names_that_lead_outside(tmp_path: Path, opened: list[str], name: str, field: str) -> None:
    """Neither read nor written: not by the data set, the check, PQ, or what converts and fuses."""
    with socket.create_server(("localhost", 0)) as server:
        name = name.format(root=tmp_path, port=server.getsockname()[1])
        folder = data_set(tmp_path / "set", ["a1.png"], np.array([[1, 2]]))
        write_ids(tmp_path / "secret.png", np.array([[1, 2]]))
        content = json.loads((folder / "panoptic.json").read_text())
        content[field][0]["file_name"] = name
        (folder / "panoptic.json").write_text(json.dumps(content))
        instances = [
            {"image_id": 0, "category_id": 1, "score": 0.9, "segmentation": {"size": [1, 2], "counts": [0, 2]}}
        ]
        (folder / "instances.json").write_text(json.dumps({**content, "annotations": [{**instances[0], "id": 1}]}))
        (folder / "results.json").write_text(json.dumps(instances))
        parts = folder / "images", folder / "panoptic", folder / "panoptic.json"
        opened.clear()
        refused(lambda: CocoPanoptic(*parts)[0], "secret" if "secret" in name else "x.png")
        assert check_splits(find_splits(folder)).findings
        refused(lambda: score_folders(parts[2], parts[1], parts[2], parts[1])) if field == "annotations" else None
        if field == "images":
            refused(lambda: convert_coco(parts[0], folder / "instances.json", folder / "out"))
            options = {"json": parts[2]}
            refused(lambda: fuse_files(folder / "results.json", parts[0], parts[0], folder / "out", **options))
        assert not [path for path in opened if "secret" in path and not path.startswith(str(folder))]
        server.settimeout(0.01)
        with pytest.raises(TimeoutError):
            server.accept()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["secret.png", "set"]


@pytest.mark.parametrize("name", [*OUTSIDE, "/etc/passwd", "..\\secret.png"])
def test_images_of_labelme_and_cvat_stay_inside(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "ann"
    folder.mkdir()
    Image.new("RGB", (9, 9)).save(tmp_path / "secret.png")
    name = name.format(root=tmp_path)
    shape = {"label": "a", "points": [[1, 1], [8, 1], [8, 8]]}
    (folder / "a.json").write_text(json.dumps({"imagePath": name, "shapes": [shape]}))
    refused(lambda: convert_labelme(folder, tmp_path / "out"), "imagePath")
    (folder / "a.xml").write_text(
        f'<a><image name="{name}" width="9" height="9"><box label="a" xtl="1" ytl="1" xbr="5" ybr="5"/></image></a>'
    )
    refused(lambda: convert_cvat(folder / "a.xml", folder, tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_a_writer_does_not_write_outside(tmp_path: Path) -> None:
    result = PanopticSegmentation.from_ids(np.array([[1]]), [{"id": 1, "category_id": 1}], CLASSES)
    with CocoPanopticWriter(tmp_path / "a" / "png", tmp_path / "a" / "a.json", CLASSES) as writer:
        for name in ("../up.png", "/tmp/up.png", "b/../../up.png"):
            with pytest.raises(ValueError):
                writer.add(1, name, result)
    assert [path.name for path in tmp_path.rglob("*.*")] == ["a.json"]


def test_long_names_can_be_written(tmp_path: Path) -> None:
    with atomic_path(tmp_path / ("雪" * 80 + ".json")) as temporary:
        temporary.write_text("x")
    assert len(list(tmp_path.iterdir())) == 1


# --------------------------------------------------------------------------------------------------------------- JSON


def panoptic(**changes: Any) -> dict[str, Any]:
    segment = {"id": 1, "category_id": 1, "iscrowd": 0, "area": 2, "bbox": [0, 0, 2, 1], **changes.pop("segment", {})}
    image = {"id": 1, "file_name": "a.png", "width": 2, "height": 1, **changes.pop("image", {})}
    annotation = {"image_id": 1, "file_name": "a.png", "segments_info": [segment], **changes.pop("annotation", {})}
    return {"images": [image], "annotations": [annotation], "categories": CLASSES.to_coco(), **changes}


HUGE = 10**400


@pytest.mark.parametrize(
    "segment",
    [
        *({"area": value} for value in (-1, HUGE, float("nan"), float("inf"), -0.5, "2")),
        *({"bbox": value} for value in ([0, 0, HUGE, 1], [0, 0, float("inf"), 1], [float("nan")] * 4, {}, [])),
        *({"score": value} for value in (HUGE, float("-inf"), float("nan"), "high")),
    ],
    ids=lambda segment: str(segment)[:40],
)
def test_numbers_that_nothing_reads(tmp_path: Path, segment: dict[str, Any]) -> None:
    path, plain = tmp_path / "p.json", tmp_path / "q.json"
    path.write_text(json.dumps(panoptic(segment=segment)))
    plain.write_text(json.dumps(panoptic()))
    assert PanopticJson.read(path).annotations == PanopticJson.read(plain).annotations
    assert PanopticIndex.read(path).annotation(0) == PanopticIndex.read(plain).annotation(0)


@pytest.mark.parametrize(
    "changes",
    [
        *({"segment": {"id": value}} for value in (0, -1, 2**24, 2**63, HUGE, 1.0, float("nan"), True, [1])),
        *({"segment": {"iscrowd": value}} for value in (2, -1, HUGE, 1.0, float("nan"), "yes", [], {})),
        *({"segment": {"category_id": value}} for value in (-1, 3, 2**31, HUGE)),
        *({"image": {"id": value}} for value in (-1, 2**63, HUGE)),
        *({"image": {"width": value}} for value in (0, -1, 70_000_000, 2**63, HUGE)),
        *({"image": {"file_name": value}} for value in ("", "a\0b", [], HUGE)),
        *({"annotation": {"segments_info": value}} for value in (None, {}, [[]], [3])),
        *({"categories": value} for value in ([], [{"id": 1}], [{"id": HUGE, "name": "a", "isthing": 1}], [[]] * 3)),
        {"categories": [{"id": 1, "name": "\ud800", "isthing": 1}]},
    ],
    ids=lambda changes: str(changes)[:40],
)
def test_numbers_that_are_none(tmp_path: Path, changes: dict[str, Any]) -> None:
    path = tmp_path / "p.json"
    path.write_text(json.dumps(panoptic(**changes)))
    slow, fast = (
        refused(lambda reader=reader: reader.read(path), str(path)) for reader in (PanopticJson, PanopticIndex)
    )
    assert slow == fast and len(slow) < 1000


@pytest.mark.parametrize(
    "text",
    [
        '{"images": [], "images": []}',
        '{"images": [{"id": 1, "id": 2}], "annotations": [], "categories": []}',
        '{"images": [], "annotations": [{"a": {"b": {"x": 1, "y": 2, "x": 1}}}], "categories": []}',
    ],
)
def test_a_field_twice(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.json").write_text(text)
    for read in (read_json, PanopticJson.read, PanopticIndex.read):
        refused(lambda read=read: read(tmp_path / "a.json"), "a.json", "twice")


@pytest.mark.parametrize("depth", [500, 900, 1_000_000])
def test_nesting(tmp_path: Path, depth: int) -> None:
    for opening, closing in ("[]", ['{"a":', "}"]):
        (tmp_path / "a.json").write_text('{"images": [' + opening * depth + "1" + closing * depth + "]}")
        for read in (PanopticJson.read, PanopticIndex.read):
            refused(lambda read=read: read(tmp_path / "a.json"))
        (tmp_path / "a.yaml").write_text(opening.replace('"a":', "a: ") * depth)
        refused(lambda: load_recipe(str(tmp_path / "a.yaml")))


def test_blanks_without_end(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(" \n" * 5_000_000 + "{" + " " * 5_000_000 + '"a": 1}')
    assert list(stream_json(tmp_path / "a.json")) == [("a", None, 1)]


MANY = 10_000_000


def _many(path: Path, head: str, item: str, tail: str) -> None:
    with path.open("w") as stream:
        stream.write(head)
        for _ in range(MANY // 100_000):
            stream.write((item + ",") * 100_000)
        stream.write(item + tail)


_ANNOTATION = '{"image_id": 1, "category_id": 1, "file_name": "a", '
MANY_OF: dict[str, tuple[Callable[[Path], object], str, str, str]] = {
    "images": (PanopticJson.read, '{"images": [', "{}", "]}"),
    "index": (PanopticIndex.read, '{"images": [', "0", "]}"),
    "segments": (PanopticIndex.read, f'{{"annotations": [{_ANNOTATION} "segments_info": [', "{}", "]}]}"),
    "polygon": (_instances, f'{{"annotations": [{_ANNOTATION} "segmentation": [[', "9.5", "]]}]}"),
    "instances": (_instances, '{"annotations": [', "[]", "]}"),
    "classes": (read_categories, "[", '{"id": 1, "name": "a", "isthing": 1}', "]"),
    "results": (lambda path: fuse_files(path, path.parent, path.parent, path.parent / "out"), "[", "{}", "]"),
    "other": (PanopticJson.read, '{"info": [', "[]", "]}"),
    "shapes": (lambda path: convert_labelme(path.parent, path.parent / "out"), '{"shapes": [', "{}", "]}"),
    "boxes": (
        lambda path: convert_cvat(path, path.parent, path.parent / "out"),
        "<a><image>",
        "<box/>",
        "</image></a>",
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", list(MANY_OF))
def test_ten_million_of_a_kind(tmp_path: Path, kind: str) -> None:
    read, head, item, tail = MANY_OF[kind]
    Image.new("RGB", (1, 1)).save(tmp_path / "1.png")
    path = tmp_path / "a.json"
    if item.startswith("<"):
        path.write_text(head + item * MANY + tail)
    else:
        _many(path, head, item, tail)
    with peak() as grown:
        refused(lambda: read(path), str(path))
    assert grown[0] < GIGABYTE


# ------------------------------------------------------------------------------------------------ YAML, XML, Labelme


@pytest.mark.parametrize(
    "text",
    [
        "train: &a {lr: 0.1, x: *a}",
        "a: &a [x, x]\nb: &b [*a, *a]\nc: [*b, *b]",
        "train: !!python/object/apply:os.system ['touch {root}/pwned']",
        "train: {lr: 0.1, lr: 0.2}",
        "name: a\nname: b",
        "train: {lr: .nan}",
        "train: {lr: .inf}",
        "train: {lr: 1" + "0" * 400 + "}",
        "train: {iterations: 0x" + "f" * 5000 + "}",
        "name: 2001-99-99",
        "model: {class_path: os.system, init_args: {command: 'touch {root}/pwned'}}",
        "? [a, b]\n: c",
        "[" * 10_000,
        "a: " * 10_000,
        "# " + "x" * 100_000,
        "\x00",
        "- 1",
        "name: ['\\ud800']",
    ],
)
def test_bad_recipes(tmp_path: Path, text: str) -> None:
    path = tmp_path / "a.yaml"
    path.write_text(text.replace("{root}", str(tmp_path)))
    refused(lambda: load_recipe(str(path)))
    assert not (tmp_path / "pwned").exists()
    assert main(["train", "--config", str(path), "--print-config"]) == 2


def test_entities_of_xml(tmp_path: Path) -> None:
    secret = tmp_path / "secret.txt"
    secret.write_text("a")
    laughs = "".join(f'<!ENTITY l{n} "{f"&l{n - 1};" * 10}">' for n in range(1, 12))
    image = '<image name="a.png" width="9" height="9"><box label="{}" xtl="1" ytl="1" xbr="5" ybr="5"/></image>'
    for entity, label in ((f'<!ENTITY l0 "ha">{laughs}', "&l11;"), (f'<!ENTITY x SYSTEM "{secret.as_uri()}">', "&x;")):
        (tmp_path / "a.xml").write_text(f"<!DOCTYPE a [{entity}]><a>{image.format(label)}{label}</a>")
        with peak() as grown:
            refused(lambda: convert_cvat(tmp_path / "a.xml", tmp_path, tmp_path / "out"), "defines entities")
        assert grown[0] < GIGABYTE / 4
    (tmp_path / "a.xml").write_bytes(b"<?xml version='1.0' encoding='nonsense'?><a/>")
    refused(lambda: convert_cvat(tmp_path / "a.xml", tmp_path, tmp_path / "out"), "is not XML")


def _drawn(folder: Path, points: list[Any], data: bytes) -> Callable[[], Path]:
    """An image of 40 x 30 pixels with a mask drawn on it."""
    (folder / "ann").mkdir(exist_ok=True)
    Image.new("RGB", (40, 30)).save(folder / "ann" / "a.png")
    mask = base64.b64encode(data).decode()
    shape = {"label": "a", "shape_type": "mask", "points": points, "mask": mask}
    (folder / "ann" / "a.json").write_text(json.dumps({"imagePath": "a.png", "shapes": [shape]}))
    return lambda: convert_labelme(folder / "ann", folder / "out")


@pytest.mark.parametrize(
    ("x", "y"), [(5, 6), (-3, -2), (38, 28), (-100, 0), (0, -100), (100, 100), (10**18, -(10**18))]
)
def test_masks_of_labelme_that_leave_the_image(tmp_path: Path, x: int, y: int) -> None:
    stream = io.BytesIO()
    Image.new("L", (6, 5), 255).save(stream, "PNG")
    result = PanopticJson.read(_drawn(tmp_path, [[x, y], [x + 5, y + 4]], stream.getvalue())())
    ids = PanopticSegmentation.from_annotation(
        result.annotations[1], tmp_path / "out" / "panoptic", result.categories
    ).ids
    rows, columns = np.mgrid[:30, :40]
    assert np.array_equal(ids > 0, (rows >= y) & (rows < y + 5) & (columns >= x) & (columns < x + 6))


@pytest.mark.parametrize("label", ["\\ud800", "\\udcff.png"])
def test_labels_that_are_no_text(tmp_path: Path, label: str) -> None:
    Image.new("RGB", (9, 9)).save(tmp_path / "a.png")
    shape = f'{{"label": "{label}", "points": [[1, 1], [8, 1], [8, 8]]}}'
    (tmp_path / "a.json").write_text(f'{{"imagePath": "a.png", "shapes": [{shape}]}}')
    refused(lambda: convert_labelme(tmp_path, tmp_path / "out"), "labels of the shapes")


def test_a_mask_of_labelme_that_is_a_bomb(tmp_path: Path) -> None:
    data = png(60_000, 60_000, 0, zlib.compress(bytes(1000)))
    refused(_drawn(tmp_path, [[0, 0], [9, 9]], data), "shapes[0].mask", "too many pixels")
    for number in ("NaN", "Infinity", "1e999", "1" + "0" * 400):
        (tmp_path / "ann" / "a.json").write_text(
            (tmp_path / "ann" / "a.json").read_text().replace("[[0, 0]", f"[[{number}, 0]", 1)
        )
        refused(lambda: convert_labelme(tmp_path / "ann", tmp_path / "out"))


def test_a_closed_door_leaves_no_file_open(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    before = len(os.listdir("/proc/self/fd")) if sys.platform == "linux" else 0
    for _ in range(50):
        refused(lambda: open_file(tmp_path / "empty"))
        refused(lambda: open_file(tmp_path))
    assert before == 0 or len(os.listdir("/proc/self/fd")) == before

"""Files that annotation tools write themselves, by their own code, converted; a test skips where its tool is missing.

Extra `formats` has the tools. What they only read, and files of their documentation: `test_convert_formats.py`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from tool_files import SIZE, box, convert, found, photo, same

CAT = box(5, 5, 20, 20) & ~box(8, 8, 10, 10)
SKY = box(0, 0, 40, 3)


# ------------------------------------------------------------------------------------------------------------- Labelme


@pytest.fixture
def labelme(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Labelme's module; it opens no window, but its import needs Qt."""
    monkeypatch.setenv("QT_QPA_PLATFORM", "offscreen")
    return pytest.importorskip("labelme", exc_type=ImportError)


def overlap(one: NDArray[np.bool_], other: NDArray[np.bool_]) -> float:
    return float((one & other).sum() / (one | other).sum())


def entry(kind: str, points: list[list[float]], **fields: Any) -> dict[str, Any]:
    """A shape as Labelme keeps it, under a label that is its kind."""
    given = {"label": kind, "points": points, "group_id": None, "description": "", "shape_type": kind}
    return {**given, "flags": {}, "mask": None, **fields}


@pytest.mark.parametrize("with_data", [False, True])
def test_what_labelme_writes(labelme: Any, tmp_path: Path, with_data: bool) -> None:
    """The pixels are Labelme's own but for some along the outline, all of which it paints."""
    image = photo(tmp_path / "photos/a.png", (120, 160))
    drawn = box(0, 0, 12, 9)[:9, :12] & ~box(4, 4, 6, 6)[:9, :12]
    coded = labelme.utils.img_arr_to_b64(drawn.astype(np.uint8))
    shapes = [
        entry("polygon", [[10.5, 10.25], [60, 14], [48, 50.75], [12, 40]]),
        entry("rectangle", [[150.0, 55.0], [100.0, 10.0]]),
        entry("circle", [[30.0, 85.0], [30.0, 105.0]]),
        entry("oriented_rectangle", [[90, 70], [120, 90], [110, 105], [80, 85]]),
        entry("mask", [[140.0, 100.0], [151.0, 108.0]], mask=coded),
        entry("polygon", [[70, 20], [90, 20], [90, 40]], label="parts", group_id=3),
        entry("polygon", [[70, 50], [90, 50], [90, 60]], label="parts", group_id=3),
    ]
    file = labelme.LabelFile()
    data = image.read_bytes() if with_data else None
    given = {"image_path": "a.png", "image_height": 120, "image_width": 160, "image_data": data}
    file.save(str(tmp_path / "photos/a.json"), shapes, **given)
    assert convert("labelme", "--annotations", tmp_path / "photos", "--out", tmp_path / "out") == 0
    masks = found(tmp_path / "out", "a.png")
    assert {name: len(some) for name, some in masks.items()} == dict.fromkeys({shape["label"] for shape in shapes}, 1)
    for shape in shapes[:4]:
        wanted = labelme.utils.shape_to_mask((120, 160), shape["points"], shape["shape_type"])
        assert overlap(masks[shape["label"]][0], wanted) > 0.92
    whole = np.zeros((120, 160), bool)
    whole[100:109, 140:152] = drawn
    np.testing.assert_array_equal(masks["mask"][0], whole)
    assert masks["parts"][0][25, 80] and masks["parts"][0][54, 85]


# ---------------------------------------------------------------------------------------------------------------- CVAT


def test_masks_as_cvats_sdk_codes_them(tmp_path: Path) -> None:
    codec = pytest.importorskip("cvat_sdk.masks", exc_type=ImportError)
    rng = np.random.default_rng(0)
    photo(tmp_path / "images/a.png")
    drawn = [CAT, np.roll(CAT, 19, axis=1) & (rng.random(SIZE) < 0.6), box(0, 29, 1, 30)]
    rows = []
    for mask in drawn:
        *runs, left, top, right, bottom = codec.encode_mask(mask)
        size = f'left="{left}" top="{top}" width="{right - left + 1}" height="{bottom - top + 1}"'
        rows.append(f'<mask label="cat" source="manual" occluded="0" rle="{", ".join(map(str, runs))}" {size}></mask>')
    text = f'<image id="0" name="a.png" width="40" height="30">{"".join(rows)}</image>'
    (tmp_path / "a.xml").write_text(f"<annotations><version>1.1</version>{text}</annotations>")
    words = ["--annotations", tmp_path / "a.xml", "--images", tmp_path / "images", "--out", tmp_path / "out"]
    assert convert("cvat", *words) == 0
    masks = found(tmp_path / "out", "a.png")["cat"]
    np.testing.assert_array_equal(masks, drawn)


# ------------------------------------------------------------------------------------------------------------ datumaro


def write(layout: str, root: Path, annotations: list[Any], classes: list[str]) -> Any:
    """Let datumaro write one image, aachen/a, of a split `train`."""
    dm = pytest.importorskip("datumaro")
    pixels = np.random.default_rng(0).integers(0, 256, (*SIZE, 3), dtype=np.uint8)
    fields = {"media": dm.Image.from_numpy(pixels), "annotations": annotations, "attributes": {"frame": 0}}
    item = dm.DatasetItem(id="aachen/a", subset="train", **fields)
    return dm.Dataset.from_iterable([item], categories=classes).export(str(root), layout, save_media=True)


def test_cvat_as_datumaro_writes_it(tmp_path: Path) -> None:
    dm = pytest.importorskip("datumaro")
    drawn = [
        dm.Polygon([2, 20, 12, 20, 12, 29, 2, 29], label=0, id=1, z_order=1),
        dm.Bbox(25, 10, 10, 8, label=0, id=2, z_order=1),
        dm.Mask(CAT, label=0, id=3, group=3, z_order=0),
        dm.Mask(SKY, label=1, id=4, z_order=0),
    ]
    write("cvat", tmp_path / "x", drawn, ["cat", "sky"])
    words = ["--annotations", tmp_path / "x/train.xml", "--images", tmp_path / "x/images", "--stuff", "[sky]"]
    assert convert("cvat", *words, "--out", tmp_path / "out") == 0
    masks = found(tmp_path / "out", "aachen/a.jpg")
    same(masks["sky"], SKY)
    by_size = sorted(masks["cat"], key=lambda mask: int(mask.sum()))
    np.testing.assert_array_equal(by_size, [box(25, 10, 35, 18), box(2, 20, 12, 29), CAT])


def test_cityscapes_as_datumaro_writes_it(tmp_path: Path) -> None:
    dm = pytest.importorskip("datumaro")
    known = pytest.importorskip("datumaro.plugins.data_formats.cityscapes").CITYSCAPES_LABEL_MAP
    names = list(known)
    drawn = [
        dm.Mask(CAT, label=names.index("car"), id=0, group=1),
        dm.Mask(box(25, 10, 35, 18), label=names.index("car"), id=1, group=2),
        dm.Mask(SKY, label=names.index("sky"), id=2, group=3, attributes={"is_crowd": True}),
    ]
    try:
        write("cityscapes", tmp_path / "x", drawn, names)
    except OSError as error:  # Pillow 13 writes no PNG of mode I
        pytest.skip(f"datumaro: {error}")
    assert convert("cityscapes", "--root", tmp_path / "x", "--split", "train", "--out", tmp_path / "out") == 0
    masks = found(tmp_path / "out", "aachen/a_leftImg8bit.png")
    same(masks["sky"], SKY)
    by_size = sorted(masks["car"], key=lambda mask: int(mask.sum()))
    np.testing.assert_array_equal(by_size, [box(25, 10, 35, 18), CAT])


@pytest.mark.parametrize("layout", ["voc_segmentation", "voc_instance_segmentation"])
def test_voc_as_datumaro_writes_it(tmp_path: Path, layout: str) -> None:
    dm = pytest.importorskip("datumaro")
    drawn = [dm.Mask(CAT, label=0, id=1, group=1), dm.Mask(SKY, label=1, id=2, group=2)]
    write(layout, tmp_path / "x", drawn, ["cat", "sky"])
    words = ["--root", tmp_path / "x", "--split", "train", "--stuff", "[sky]", "--out", tmp_path / "out"]
    assert convert("voc", *words) == 0
    masks = found(tmp_path / "out", "aachen/a.jpg")
    same(masks["cat"], CAT)
    same(masks["sky"], SKY)
    with Image.open(tmp_path / "x/SegmentationClass/aachen/a.png") as coded:
        assert coded.size == SIZE[::-1]

from __future__ import annotations

import io
import json
from dataclasses import replace

import numpy as np
import pytest
from factories import segmentation
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from banet.errors import InputError
from banet.files.atomic import atomic_path, write_json
from banet.files.names import safe_join
from banet.files.reading import read_json
from banet.panoptic.categories import Categories, Category
from banet.panoptic.coco import png
from banet.panoptic.coco.annotations import ImageInfo, PanopticJson
from banet.panoptic.coco.png import load_ids, read_ids, write_ids
from banet.panoptic.coco.writer import CocoPanopticWriter
from banet.panoptic.segmentation import PanopticSegmentation
from banet.panoptic.segments import Segment

CATEGORIES = Categories([Category(1, "person", True), Category(5, "sky", False)])


def one_line(caught, *parts):
    message = str(caught.value)
    assert "\n" not in message
    for part in parts:
        assert str(part) in message


# --- id maps ----------------------------------------------------------------------------------------------------------


@settings(deadline=None)
@given(
    ids=hnp.arrays(
        np.int32,
        hnp.array_shapes(min_dims=2, max_dims=2, max_side=9),
        elements=st.integers(0, 2**24 - 1) | st.sampled_from([0, 1, 255, 256, 65535, 65536, 2**24 - 1]),
    )
)
def test_ids_survive_the_file(tmp_path_factory, ids):
    path = tmp_path_factory.mktemp("ids") / "map.png"
    write_ids(path, ids)
    again = read_ids(path)
    assert again.dtype == np.int32
    assert np.array_equal(again, ids)


def test_alpha_is_ignored(tmp_path):
    rgba = np.array([[[1, 2, 3, 0], [4, 5, 6, 255]]], dtype=np.uint8)
    Image.fromarray(rgba, "RGBA").save(tmp_path / "map.png")
    assert read_ids(tmp_path / "map.png").tolist() == [[0x030201, 0x060504]]


@pytest.mark.parametrize(
    ("image", "kind"),
    [
        (Image.new("L", (3, 2)), "8-bit grey"),
        (Image.new("P", (3, 2)), "palette"),
        (Image.new("I;16", (3, 2)), "16-bit grey"),
        (Image.new("1", (3, 2)), "1-bit grey"),
        (Image.new("LA", (3, 2)), "grey with alpha"),
    ],
)
def test_other_kinds_of_png_are_refused(tmp_path, image, kind):
    image.save(tmp_path / "map.png")
    with pytest.raises(InputError) as caught:
        read_ids(tmp_path / "map.png")
    one_line(caught, "map.png", kind, "8-bit RGB")


def test_16_bit_rgb_is_refused(tmp_path):
    Image.new("RGB", (3, 2)).save(tmp_path / "map.png")
    data = bytearray((tmp_path / "map.png").read_bytes())
    data[24] = 16  # the bit depth in the header
    (tmp_path / "map.png").write_bytes(data)
    with pytest.raises(InputError, match="16-bit RGB"):
        read_ids(tmp_path / "map.png")


def test_jpeg_named_png_is_refused(tmp_path):
    Image.new("RGB", (3, 2)).save(tmp_path / "map.png", format="JPEG")
    with pytest.raises(InputError, match="is not a PNG"):
        read_ids(tmp_path / "map.png")


def test_unreadable_files(tmp_path):
    (tmp_path / "empty.png").touch()
    (tmp_path / "folder.png").mkdir()
    for name, words in (("empty.png", "empty"), ("folder.png", "is a folder"), ("none.png", "does not exist")):
        with pytest.raises(InputError) as caught:
            read_ids(tmp_path / name)
        one_line(caught, tmp_path / name, words)


def test_every_truncation_is_an_input_error(tmp_path):
    ids = np.random.default_rng(0).integers(0, 2**24, (40, 40))
    write_ids(tmp_path / "whole.png", ids)
    data = (tmp_path / "whole.png").read_bytes()
    path = tmp_path / "part.png"
    for length in [*range(0, 120), len(data) // 2, len(data) - 200, len(data) - 40]:
        path.write_bytes(data[:length])
        with pytest.raises(InputError) as caught:
            read_ids(path)
        one_line(caught, path)


def test_every_damaged_header_byte_is_noticed_or_harmless(tmp_path):
    ids = np.arange(64).reshape(8, 8)
    write_ids(tmp_path / "whole.png", ids)
    data = (tmp_path / "whole.png").read_bytes()
    path = tmp_path / "damaged.png"
    for position in range(len(data)):
        damaged = bytearray(data)
        damaged[position] ^= 0x5A
        path.write_bytes(damaged)
        try:
            again = read_ids(path)
        except InputError as error:
            assert "\n" not in str(error)
        else:
            assert again.dtype == np.int32


def test_write_ids_refuses(tmp_path):
    for wrong in (np.zeros((2, 2, 3), int), np.zeros((0, 3), int), np.array([[2**24]]), np.array([[-1]])):
        with pytest.raises(ValueError):
            write_ids(tmp_path / "map.png", wrong)
    with pytest.raises(TypeError):
        write_ids(tmp_path / "map.png", np.zeros((2, 2)))
    assert list(tmp_path.iterdir()) == []


def by_pillow(data: bytes) -> np.ndarray | None:
    """Ids as Pillow reads them; None for a file that it refuses."""
    try:
        with Image.open(io.BytesIO(data), formats=["PNG"]) as image:
            pixels = np.asarray(image.convert("RGB")).astype(np.int32)
    except Exception:
        return None
    return pixels @ np.array([1, 256, 65536], np.int32)


def with_a_comment(ids: np.ndarray) -> bytes:
    comment, stream = PngInfo(), io.BytesIO()
    comment.add_text("Software", "somebody's", zip=True)
    rgb = np.ascontiguousarray(ids[..., None] >> np.array([0, 8, 16])).astype(np.uint8)
    Image.fromarray(rgb).save(stream, "PNG", pnginfo=comment)
    return stream.getvalue()


@settings(deadline=None, max_examples=200)
@given(
    ids=hnp.arrays(np.int32, hnp.array_shapes(min_dims=2, max_dims=2), elements=st.integers(0, 2**24 - 1)),
    damage=st.lists(st.tuples(st.integers(0), st.integers(0, 255)), max_size=3),
    cut=st.integers(0, 40),
)
def test_the_fast_decoder_reads_what_pillow_reads(ids, damage, cut):
    pytest.importorskip("kornia_rs")
    data = bytearray(with_a_comment(ids))
    for place, value in damage:
        data[33 + place % (len(data) - 33)] = value  # behind the header, which is validated before
    data = bytes(data[: len(data) - cut])
    height, width = ids.shape
    fast, expected = png._decode_fast(data, width, height, color_type=2), by_pillow(data)
    if not damage and not cut:
        assert fast is not None and np.array_equal(fast, ids) and np.array_equal(expected, ids)
    elif fast is not None:
        assert expected is not None and np.array_equal(fast, expected)


def test_without_the_fast_decoder_ids_are_the_same(tmp_path, monkeypatch):
    write_ids(tmp_path / "map.png", np.arange(600).reshape(20, 30) * 27000)
    expected = read_ids(tmp_path / "map.png")
    monkeypatch.setattr(png, "_kornia", lambda: None)
    assert np.array_equal(read_ids(tmp_path / "map.png"), expected)


# --- files ------------------------------------------------------------------------------------------------------------


def test_atomic_path(tmp_path):
    target = tmp_path / "a.txt"
    target.write_text("old")
    with pytest.raises(RuntimeError), atomic_path(target) as temporary:
        assert temporary.parent == tmp_path and temporary.suffix == ".txt"
        temporary.write_text("half")
        raise RuntimeError
    assert target.read_text() == "old"
    with atomic_path(target) as temporary:
        temporary.write_text("new")
        assert target.read_text() == "old"
    assert target.read_text() == "new"
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]
    with pytest.raises(InputError, match="does not exist"), atomic_path(tmp_path / "no" / "a.txt"):
        pass
    with pytest.raises(InputError, match="is a folder"), atomic_path(tmp_path):
        pass


@pytest.mark.parametrize(
    "name",
    ["/etc/passwd", "../a.png", "a/../../b.png", "..", "C:\\a.png", "\\a.png", "a\\..\\b.png", "", "a\0b", None, 3],
)
def test_names_that_lead_out_are_refused(tmp_path, name):
    with pytest.raises(InputError, match=r"panoptic\.json: x"):
        safe_join(tmp_path, name, "panoptic.json: x")


def test_names_in_subfolders_are_fine(tmp_path):
    assert safe_join(tmp_path, "train/a..b.png") == tmp_path / "train" / "a..b.png"


@pytest.mark.parametrize("content", [b"", b"  \n", b"{", b"[1,]", b"\xff\xfe\x00", b"[" * 100_000])
def test_what_is_no_json(tmp_path, content):
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(InputError) as caught:
        read_json(tmp_path / "a.json")
    one_line(caught, "a.json", "write it again")


def test_json_that_is_a_folder_or_missing(tmp_path):
    with pytest.raises(InputError, match="is a folder"):
        read_json(tmp_path)
    with pytest.raises(InputError, match="does not exist"):
        read_json(tmp_path / "none.json")


def test_write_json_refuses_nan_and_leaves_no_half_file(tmp_path):
    with pytest.raises(ValueError):
        write_json(tmp_path / "a.json", {"pq": float("nan")})
    assert list(tmp_path.iterdir()) == []


# --- the JSON ---------------------------------------------------------------------------------------------------------


def content():
    return {
        "info": {"year": 2017},
        "images": [
            {"id": 4, "file_name": "a.jpg", "width": 3, "height": 2, "license": 1},
            {"id": 2, "file_name": "sub/b.jpg", "width": 3, "height": 2},
        ],
        "annotations": [
            {
                "image_id": 4,
                "file_name": "a.png",
                "segments_info": [
                    {"id": 7, "category_id": 1, "iscrowd": 1, "area": 2, "bbox": [0, 0, 2, 1]},
                    {"id": 9, "category_id": 5},
                ],
            }
        ],
        "categories": CATEGORIES.to_coco(),
    }


def read(tmp_path, data, **options):
    path = tmp_path / "panoptic.json"
    path.write_text(json.dumps(data))
    return PanopticJson.read(path, **options)


def test_read(tmp_path):
    parsed = read(tmp_path, content())
    assert list(parsed.images) == [4, 2]
    assert parsed.images[2] == ImageInfo(2, "sub/b.jpg", 3, 2)
    assert list(parsed.annotations) == [4]
    first, second = parsed.annotations[4].segments
    assert first == Segment(7, 1, isthing=True, iscrowd=True)  # not measured: nothing relies on the JSON's area and box
    assert second == Segment(9, 5, isthing=False)
    assert parsed.categories == CATEGORIES


def put(*path, value=...):
    """A change of the content: sets a value, or deletes it."""

    def change(data):
        place = data
        for key in path[:-1]:
            place = place[key]
        if value is ...:
            del place[path[-1]]
        else:
            place[path[-1]] = value

    return change


SEGMENT = ("annotations", 0, "segments_info", 0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (put("images"), "'images' is missing"),
        (put("annotations"), "'annotations' is missing"),
        (put("categories"), "'categories' is missing"),
        (put("images", value={}), "'images' must be a list"),
        (put("annotations", value="x"), "'annotations' must be a list"),
        (put("categories", value=None), "'categories' must be a list"),
        (put("categories", 1, value={"id": 1, "name": "x", "isthing": 0}), r"categories\[1\]\.id: 1 is already"),
        (put("images", 0, value=3), r"images\[0\]: must be an object"),
        (put("images", 0, "id"), r"images\[0\]: 'id' is missing"),
        (put("images", 0, "id", value="4"), r"annotations\[0\]\.image_id: no image has the id 4;"),
        (put("annotations", 0, "image_id", value="4"), r"annotations\[0\]\.image_id: no image has the id '4';"),
        (put("images", 0, "id", value=True), r"images\[0\]\.id: must be an integer"),
        (put("images", 0, "id", value=4.0), r"images\[0\]\.id: must be an integer"),
        (put("images", 1, "id", value=4), r"images\[1\]\.id: 4 is the id of another image"),
        (put("images", 0, "file_name"), r"images\[0\]: 'file_name' is missing"),
        (put("images", 0, "file_name", value="../x.jpg"), r"images\[0\]\.file_name: '\.\./x\.jpg' leads out"),
        (put("images", 0, "file_name", value=7), r"images\[0\]\.file_name: must be a file name"),
        (put("images", 0, "width"), r"images\[0\]: 'width' is missing"),
        (put("images", 0, "height", value=0), r"images\[0\]\.height: must be an integer >= 1"),
        (put("images", 0, "height", value=2.5), r"images\[0\]\.height: must be an integer >= 1"),
        (put("images", 0, "height", value="2.0"), r"images\[0\]\.height: must be an integer >= 1"),
        (put("images", 0, "height", value="0"), r"images\[0\]\.height: must be an integer >= 1"),
        (put("annotations", 0, value=[]), r"annotations\[0\]: must be an object"),
        (put("annotations", 0, "image_id"), r"annotations\[0\]: 'image_id' is missing"),
        (put("annotations", 0, "image_id", value=None), r"annotations\[0\]\.image_id: must be an integer"),
        (put("annotations", 0, "image_id", value=5), r"annotations\[0\]\.image_id: no image has the id 5"),
        (put("annotations", 0, "file_name"), r"annotations\[0\]: 'file_name' is missing"),
        (put("annotations", 0, "file_name", value="/a.png"), r"annotations\[0\]\.file_name: '/a\.png' leads out"),
        (put("annotations", 0, "segments_info"), r"annotations\[0\]: 'segments_info' is missing"),
        (put("annotations", 0, "segments_info", value=3), "'segments_info' must be a list, not int"),
        (put(*SEGMENT, value=3), r"annotations\[0\]\.segments_info\[0\]: must be an object"),
        (put(*SEGMENT, "id"), r"segments_info\[0\]: 'id' is missing"),
        (put(*SEGMENT, "id", value=0), r"segments_info\[0\]\.id: must be an integer in 1\.\.16777215"),
        (put(*SEGMENT, "id", value=2**24), r"segments_info\[0\]\.id: must be an integer in 1\.\.16777215"),
        (put(*SEGMENT, "id", value="7"), r"segments_info\[0\]\.id: must be an integer"),
        (put(*SEGMENT, "id", value=9), r"segments_info\[1\]\.id: 9 is the id of another segment"),
        (put(*SEGMENT, "category_id"), r"segments_info\[0\]: 'category_id' is missing"),
        (put(*SEGMENT, "category_id", value=3), r"\.category_id: 3 is unknown; add it to 'categories'"),
        (put(*SEGMENT, "category_id", value="1"), r"\.category_id: must be an integer"),
        (put(*SEGMENT, "iscrowd", value=2), r"\.iscrowd: must be 0 or 1"),
        (put(*SEGMENT, "iscrowd", value="no"), r"\.iscrowd: must be 0 or 1"),
        (put(*SEGMENT, "iscrowd", value=1.0), r"\.iscrowd: must be 0 or 1"),
    ],
)
def test_bad_json_is_one_line_that_names_file_and_field(tmp_path, change, message):
    data = content()
    change(data)
    with pytest.raises(InputError, match=message) as caught:
        read(tmp_path, data)
    one_line(caught, tmp_path / "panoptic.json")


@pytest.mark.parametrize(
    ("field", "value"),
    [("area", -1), ("area", "2"), ("bbox", []), ("bbox", [1, 2, 3]), ("bbox", [1, 2, 3, None]), ("score", "high")],
)
def test_fields_that_nothing_reads_do_not_refuse_a_file(tmp_path, field, value):
    data = content()
    put(*SEGMENT, field, value=value)(data)
    data["info"], data["licenses"] = 7, None
    data["images"][0]["license"] = data["annotations"][0]["id"] = []
    plain = content()
    plain["annotations"][0]["segments_info"][0].pop(field, None)
    assert read(tmp_path, data).annotations == read(tmp_path, plain).annotations


def test_sizes_may_be_texts(tmp_path):
    data = content()
    plain = read(tmp_path, data).images
    for image in data["images"]:
        image["width"], image["height"] = str(image["width"]), str(image["height"])
    assert read(tmp_path, data).images == plain


def test_ids_of_images_are_opaque(tmp_path):
    data = content()
    data["images"][0]["id"], data["images"][1]["id"] = "4", 4
    data["annotations"][0]["image_id"] = "4"
    data["annotations"].append({**data["annotations"][0], "image_id": 4})
    parsed = read(tmp_path, data)
    assert list(parsed.images) == list(parsed.annotations) == ["4", 4]
    assert [type(image.id) for image in parsed.images.values()] == [str, int]


def test_two_annotations_of_an_image(tmp_path):
    data = content()
    data["annotations"] *= 2
    with pytest.raises(InputError, match=r"annotations\[1\]\.image_id: image 4 has an annotation already"):
        read(tmp_path, data)


@pytest.mark.parametrize("data", [[], 3, None, "x"])
def test_json_of_another_kind(tmp_path, data):
    with pytest.raises(InputError, match="must be an object with 'images'"):
        read(tmp_path, data)


def test_predictions_take_images_and_categories_from_the_truth(tmp_path):
    truth = read(tmp_path, content())
    data = {"annotations": [*content()["annotations"], {**content()["annotations"][0], "image_id": 77}]}
    parsed = read(tmp_path, data, truth=truth)
    assert parsed.categories == CATEGORIES and parsed.images == truth.images
    assert list(parsed.annotations) == [4]


# --- both together ----------------------------------------------------------------------------------------------------


def annotated(tmp_path, ids):
    write_ids(tmp_path / "a.png", np.array(ids))
    parsed = read(tmp_path, content())
    return parsed.annotations[4], parsed.images[4]


def test_load_counts_from_the_png(tmp_path):
    annotation, image = annotated(tmp_path, [[7, 7, 9], [0, 7, 9]])
    result = PanopticSegmentation.from_annotation(annotation, tmp_path, CATEGORIES, image=image)
    first, second = result.segments
    assert (first.area, first.bbox, first.iscrowd, first.isthing) == (3, (0, 0, 2, 2), True, True)
    assert (second.area, second.bbox, second.iscrowd, second.isthing) == (2, (2, 0, 1, 2), False, False)
    assert np.array_equal(load_ids(annotation, tmp_path, image=image), result.ids)


@pytest.mark.parametrize("measured", [True, False])
def test_load_refuses(tmp_path, measured):
    def read_map(annotation, **options):
        return (
            PanopticSegmentation.from_annotation(annotation, tmp_path, CATEGORIES, **options)
            if measured
            else load_ids(annotation, tmp_path, **options)
        )

    annotation, image = annotated(tmp_path, [[7, 7, 3], [0, 7, 2]])
    with pytest.raises(InputError) as caught:
        read_map(annotation)
    one_line(caught, tmp_path / "a.png", "without a segment: 2, 3", "without a pixel in the map: 9", "image 4")
    annotation, image = annotated(tmp_path, [[7, 9]])
    with pytest.raises(InputError) as caught:
        read_map(annotation, image=image)
    one_line(caught, tmp_path / "a.png", "is 2x1", "3x2")
    (tmp_path / "a.png").unlink()
    with pytest.raises(InputError, match="does not exist"):
        read_map(annotation)


def result_of(ids):
    found = [i for i in np.unique(ids).tolist() if i]
    return segmentation(ids, dict.fromkeys(found, 1), categories=CATEGORIES, scores=dict.fromkeys(found, 0.5))


def test_writer_round_trip(tmp_path):
    results = {3: result_of([[1, 70_000], [0, 1]]), 8: result_of([[0, 0]]), 9: result_of([[2**24 - 1]])}
    with CocoPanopticWriter(tmp_path / "out" / "png", tmp_path / "out" / "p.json", CATEGORIES) as writer:
        for image_id, result in results.items():
            path = writer.add(image_id, f"sub/{image_id}.jpg", result, width=result.width, height=result.height)
            assert path == tmp_path / "out" / "png" / "sub" / f"{image_id}.png" and path.is_file()
        assert not (tmp_path / "out" / "p.json").exists()
    parsed = PanopticJson.read(tmp_path / "out" / "p.json")
    assert [i.file_name for i in parsed.images.values()] == ["sub/3.jpg", "sub/8.jpg", "sub/9.jpg"]
    for image_id, result in results.items():
        again = PanopticSegmentation.from_annotation(
            parsed.annotations[image_id], tmp_path / "out" / "png", parsed.categories, image=parsed.images[image_id]
        )
        assert np.array_equal(again.ids, result.ids)
        assert again.segments == result.segments


def test_writer_refuses(tmp_path):
    result = result_of([[1, 2]])
    with CocoPanopticWriter(tmp_path, tmp_path / "p.json", CATEGORIES) as writer:
        writer.add(1, "a.jpg", result)
        with pytest.raises(ValueError, match="image id 1 was written already"):
            writer.add(1, "b.jpg", result)
        with pytest.raises(ValueError, match=r"a\.png was written already"):
            writer.add(2, "a.jpeg", result)
        with pytest.raises(ValueError, match="2x1"):
            writer.add(2, "b.jpg", result, width=3, height=1)
        with pytest.raises(ValueError, match="leads out"):
            writer.add(2, "../b.jpg", result)
        other = Categories([Category(1, "x", True)])
        with pytest.raises(ValueError, match="categories"):
            writer.add(2, "b.jpg", PanopticSegmentation(result.ids, [], other))
        with pytest.raises(ValueError, match="without a segment"):
            writer.add(2, "b.jpg", PanopticSegmentation(result.ids, [], CATEGORIES))
    assert list(PanopticJson.read(tmp_path / "p.json").annotations) == [1]
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="cannot be made"):
        CocoPanopticWriter(tmp_path / "file" / "png", tmp_path / "q.json", CATEGORIES)


def test_writer_takes_ids_of_numpy_and_leaves_no_png_without_a_record(tmp_path):
    with CocoPanopticWriter(tmp_path, tmp_path / "p.json", CATEGORIES) as writer:
        writer.add(np.int64(3), "a.jpg", result_of([[1]]))
        damaged = result_of([[1]])
        damaged.segments = [replace(damaged.segments[0], score=float("nan"))]
        with pytest.raises(ValueError, match="JSON"):
            writer.add(4, "b.jpg", damaged)
    assert list(PanopticJson.read(tmp_path / "p.json").annotations) == [3]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.png", "p.json"]


def test_writer_keeps_the_old_json_when_the_body_fails(tmp_path):
    (tmp_path / "p.json").write_text("old")
    with pytest.raises(RuntimeError), CocoPanopticWriter(tmp_path, tmp_path / "p.json", CATEGORIES) as writer:
        writer.add(1, "a.jpg", result_of([[1]]))
        raise RuntimeError
    assert (tmp_path / "p.json").read_text() == "old"

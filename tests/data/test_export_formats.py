"""Exports: every format comes back exactly, or without what it is said to lose."""

from __future__ import annotations

import io
import json
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from miniatures import Expected, assert_same, read_back
from numpy.typing import NDArray
from PIL import Image

from banet.cli import main
from banet.data.check import Split, check_splits
from banet.panoptic.categories import Categories, Category
from banet.panoptic.coco.annotations import PanopticJson
from banet.panoptic.coco.png import read_ids
from banet.panoptic.coco.rle import decode_segmentation
from banet.panoptic.coco.writer import CocoPanopticWriter
from banet.panoptic.segmentation import PanopticSegmentation
from banet.panoptic.segments import Segment

CLASSES = Categories(
    [
        Category(3, "cup", True, (10, 20, 30)),
        Category(40, "Käse, gerieben", True, (40, 50, 60)),
        Category(7, "sky", False, (70, 80, 90)),
        Category(90, "table", False, (1, 2, 3)),
    ]
)
SIZE = (37, 53)


def ids_of(rng: np.random.Generator) -> tuple[NDArray[np.int32], dict[int, Segment]]:
    """Objects with holes and in parts, single pixels, two kinds of stuff, a crowd, and void."""
    ids = np.zeros(SIZE, np.int32)
    ids[:20], ids[20:34] = 70_000, 5
    ids[3:17, 4:22] = 11
    ids[6:9, 8:12], ids[10:13, 14:16], ids[12, 9] = 70_000, 0, 12  # two holes, one with an object of one pixel in it
    ids[22:30, 30:40], ids[25:28, 33:36], ids[33:36, 2:9] = 900, 5, 900  # with a hole, and in two parts
    ids[15:25, 45:52] = 77
    noise = rng.random(SIZE) < 0.3
    noise[:, :24] = noise[:14] = noise[:, 44:] = False
    ids[noise] = 13  # touches itself by corners
    segments = {
        11: Segment(11, 3, True),
        12: Segment(12, 3, True),
        13: Segment(13, 40, True),
        900: Segment(900, 40, True),
        77: Segment(77, 3, True, iscrowd=True),
        70_000: Segment(70_000, 7, False),
        5: Segment(5, 90, False),
    }
    present = set(np.unique(ids).tolist())
    return ids, {identity: segment for identity, segment in segments.items() if identity in present}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set of three images, one in a folder and one of another type, and one without an object."""
    root = tmp_path_factory.mktemp("panoptic")
    rng = np.random.default_rng(4)
    with CocoPanopticWriter(root / "panoptic", root / "panoptic.json", CLASSES) as writer:
        for number, name in enumerate(["a.png", "sub/b.jpg", "c.tif"]):
            ids, segments = ids_of(rng)
            if name == "c.tif":
                ids, segments = np.where(ids == 70_000, 70_000, 0).astype(np.int32), {70_000: segments[70_000]}
            path = root / "images" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(rng.integers(0, 256, (*SIZE, 3), dtype=np.uint8)).save(path)
            result = PanopticSegmentation.from_ids(ids, segments.values(), CLASSES)
            writer.add(50 + number, name, result)
    return root


def export(data: Path, out: Path, *words: str) -> int:
    source = ["--images", data / "images", "--panoptic", data / "panoptic", "--json", data / "panoptic.json"]
    return main([str(word) for word in ["data", "export", *words, *source, "--out", out]])


def convert(*words: object) -> int:
    return main([str(word) for word in ["data", "convert", *words]])


def expected(data: Path) -> dict[str, Expected]:
    return {
        name: Expected(result.ids, {s.id: (s.category_id, s.iscrowd) for s in result.segments})
        for name, result in read_back(data).items()
    }


def without(truth: dict[str, Expected], keep: Any, number: Any = lambda c: c) -> dict[str, Expected]:
    """The truth without the segments that a format loses, and with its numbers of classes."""
    result = {}
    for name, one in truth.items():
        of = {i: (number(c), crowd) for i, (c, crowd) in one.of.items() if keep(c, crowd)}
        result[name] = Expected(np.where(np.isin(one.ids, list(of)), one.ids, 0).astype(np.int32), of)
    return result


def same(out: Path, truth: dict[str, Expected]) -> None:
    results = read_back(out)
    assert {Path(name).with_suffix("") for name in results} == {Path(name).with_suffix("") for name in truth}
    for name, one in truth.items():
        found = next(result for other, result in results.items() if other.rpartition(".")[0] == name.rpartition(".")[0])
        assert_same(found, one)


# --------------------------------------------------------------------------------------------------------- round trips


@pytest.mark.parametrize("options", [(), ("--polygons",)])
def test_coco(data: Path, tmp_path: Path, capsys: Any, options: tuple[str, ...]) -> None:
    assert export(data, tmp_path / "coco", "coco", *options, "--split", "val") == 0
    assert "nothing lost" in capsys.readouterr().out
    files = [tmp_path / "coco" / "annotations" / f"{kind}_val.json" for kind in ("instances", "stuff")]
    content = json.loads(files[0].read_text())
    assert [type(each["segmentation"]) for each in content["annotations"] if not each["iscrowd"]] == (
        [list if options else dict] * sum(not each["iscrowd"] for each in content["annotations"])
    )
    words = ["--images", data / "images", "--instances", files[0], "--stuff", files[1], "--overlaps", "fail"]
    assert convert("coco", *words, "--out", tmp_path / "back") == 0
    same(tmp_path / "back", expected(data))
    before, after = (PanopticJson.read(folder / "panoptic.json") for folder in (data, tmp_path / "back"))
    assert list(before.images.values()) == list(after.images.values())
    assert before.categories == after.categories
    assert [c.color for c in before.categories] == [c.color for c in after.categories]


def test_pycocotools_fills_the_same_pixels(data: Path, tmp_path: Path) -> None:
    mask = pytest.importorskip("pycocotools.mask")
    assert export(data, tmp_path / "out", "coco", "--polygons") == 0
    content = json.loads((tmp_path / "out/annotations/instances_train.json").read_text())
    for entry in content["annotations"]:
        coded = entry["segmentation"]
        if isinstance(coded, list):
            coded = mask.merge(mask.frPyObjects(coded, *SIZE))
        theirs = mask.decode(coded).astype(bool)
        assert np.array_equal(theirs, decode_segmentation(entry["segmentation"], SIZE))
        assert theirs.sum() == entry["area"]


@pytest.mark.parametrize("stuff", [False, True])
def test_yolo(data: Path, tmp_path: Path, capsys: Any, stuff: bool) -> None:
    options = ["--stuff"] if stuff else []
    for split in ("train", "val"):
        assert export(data, tmp_path / "yolo", "yolo", "--split", split, *options) == 0
    said = capsys.readouterr().out
    assert ("stuff segments" in said) != stuff and "2 crowd segments" in said
    content = yaml.safe_load((tmp_path / "yolo" / "data.yaml").read_text(encoding="utf-8"))
    assert content["train"] == "images/train" and content["val"] == "images/val"
    order = [3, 7, 40, 90] if stuff else [3, 40]
    assert list(content["names"].values()) == [CLASSES.by_id(i).name for i in order]
    words = ["--data", tmp_path / "yolo" / "data.yaml", "--split", "val", "--overlaps", "fail"]
    assert convert("yolo", *words, *(["--stuff", "[sky, table]"] if stuff else []), "--out", tmp_path / "back") == 0
    kept = without(expected(data), lambda c, crowd: c in order and not crowd, lambda c: order.index(c) + 1)
    same(tmp_path / "back", kept)


def test_voc(data: Path, tmp_path: Path, capsys: Any) -> None:
    assert export(data, tmp_path / "voc", "voc") == 0
    assert "nothing lost" in capsys.readouterr().out
    words = ["--root", tmp_path / "voc", "--split", "train", "--stuff", "[sky, table]"]
    assert convert("voc", *words, "--out", tmp_path / "back") == 0
    order = [3, 7, 40, 90]
    same(tmp_path / "back", without(expected(data), lambda *_: True, lambda c: order.index(c) + 1))
    image = Image.open(tmp_path / "voc/SegmentationClass/a.png")
    assert image.mode == "P" and image.getpalette()[:9] == [0, 0, 0, 128, 0, 0, 0, 128, 0]  # type: ignore[index]


@pytest.mark.parametrize("contiguous", [False, True])
def test_label_maps(data: Path, tmp_path: Path, contiguous: bool) -> None:
    """Semantic and instance maps together are exact; alone the former makes things crowd, the latter knows no class."""
    options = ["--contiguous"] if contiguous else []
    assert export(data, tmp_path / "out", "semantic", *options) == 0
    assert export(data, tmp_path / "numbers", "instance-maps", "--file-type", "png", "--suffix", "") == 0
    words = ["--images", data / "images", "--labels", tmp_path / "out/labels/train", "--void", "255"]
    words += ["--categories", tmp_path / "out/classes.json"]
    assert convert("maps", *words, "--instances", tmp_path / "numbers/masks/train", "--out", tmp_path / "back") == 0
    order = [category.id for category in CLASSES]
    number = order.index if contiguous else int
    same(tmp_path / "back", without(expected(data), lambda *_: True, number))
    colors = json.loads((tmp_path / "out/classes.json").read_text(encoding="utf-8"))
    assert {entry["name"]: tuple(entry["color"]) for entry in colors} == {c.name: c.color for c in CLASSES}
    image = Image.open(tmp_path / "out/labels/train/a.png").convert("RGB")
    ids = read_back(data)["a.png"].ids
    assert (np.asarray(image)[ids == 70_000] == CLASSES.by_id(7).color).all()


@pytest.mark.parametrize("kind", ["tif", "png", "npy"])
def test_instance_maps(data: Path, tmp_path: Path, capsys: Any, kind: str) -> None:
    assert export(data, tmp_path / "out", "instance-maps", "--file-type", kind) == 0
    said = capsys.readouterr().out
    assert all(word in said for word in ("stuff segments", "2 crowd segments", "8 classes of objects")), said
    words = ["--images", data / "images", "--masks", tmp_path / "out/masks/train", "--background", ""]
    assert convert("cells", *words, "--out", tmp_path / "back") == 0
    same(tmp_path / "back", without(expected(data), lambda c, crowd: c in (3, 40) and not crowd, lambda _: 1))


def test_lightly_train(data: Path, tmp_path: Path, capsys: Any) -> None:
    for split in ("train", "val"):
        assert export(data, tmp_path / "out", "lightly-train", "--split", split, "--link") == 0
    assert "nothing lost" in capsys.readouterr().out
    folder = tmp_path / "out"
    images, pngs, file = folder / "images/val", folder / "annotations/val", folder / "annotations/val.json"
    assert check_splits([Split("x", images, pngs, file)]).findings == []
    content = PanopticJson.read(file)
    assert content.categories == CLASSES
    for annotation in content.annotations.values():  # LightlyTrain pairs images and masks by their stems
        assert Path(annotation.file_name).stem == Path(content.images[annotation.image_id].file_name).stem
    link = images / "a.png"
    assert link.is_symlink() and not Path(link.readlink()).is_absolute()
    assert link.read_bytes() == (data / "images" / "a.png").read_bytes()


def test_mask2former(data: Path, tmp_path: Path, capsys: Any) -> None:
    """What detectron2's loaders do with the names: PNG to .jpg in the folder of images, and the same in semseg."""
    assert export(data, tmp_path / "out", "mask2former", "--split", "val") == 0
    assert "2 images coded anew" in capsys.readouterr().out
    root = tmp_path / "out" / "coco"
    content = json.loads((root / "annotations/panoptic_val2017.json").read_text(encoding="utf-8"))
    truth = expected(data)
    order = [entry["id"] for entry in content["categories"]]
    for annotation, (name, one) in zip(content["annotations"], truth.items(), strict=True):
        int(annotation["image_id"])
        assert Image.open(root / "val2017" / f"{Path(annotation['file_name']).with_suffix('')}.jpg").format == "JPEG"
        ids = read_ids(root / "panoptic_val2017" / annotation["file_name"])
        assert np.array_equal(ids, one.ids), name
        semantic = np.asarray(Image.open(root / "panoptic_semseg_val2017" / annotation["file_name"]))
        theirs = np.full(SIZE, 255, np.uint8)  # prepare_coco_semantic_annos_from_panoptic_annos.py
        for segment in annotation["segments_info"]:
            theirs[ids == segment["id"]] = order.index(segment["category_id"])
        assert np.array_equal(semantic, theirs)
    instances = json.loads((root / "annotations/instances_val2017.json").read_text(encoding="utf-8"))
    assert {entry["file_name"] for entry in instances["images"]} == {"a.jpg", "sub/b.jpg", "c.jpg"}


def test_numbers_for_ids_that_are_texts_are_unique(data: Path, tmp_path: Path, capsys: Any) -> None:
    content = json.loads((data / "panoptic.json").read_text(encoding="utf-8"))
    new = {info["id"]: identity for info, identity in zip(content["images"], [2, "x", 1], strict=True)}
    for info in content["images"]:
        info["id"] = new[info["id"]]
    for annotation in content["annotations"]:
        annotation["image_id"] = new[annotation["image_id"]]
    file = tmp_path / "named.json"
    file.write_text(json.dumps(content), encoding="utf-8")
    source = ["--images", data / "images", "--panoptic", data / "panoptic", "--json", file]
    words = ["data", "export", "mask2former", *source, "--split", "val", "--out", tmp_path / "out"]
    assert main([str(word) for word in words]) == 0
    assert "3 ids of images, as some are texts" in capsys.readouterr().out
    written = json.loads((tmp_path / "out/coco/annotations/panoptic_val2017.json").read_text(encoding="utf-8"))
    assert [image["id"] for image in written["images"]] == [1, 2, 3]
    assert [annotation["image_id"] for annotation in written["annotations"]] == [1, 2, 3]


def test_eomt(data: Path, tmp_path: Path) -> None:
    """What EoMT's Dataset does with the zips: a zip of PNGs within one, names by the last part of a path."""
    for split in ("train", "val", "train"):
        assert export(data, tmp_path / "out", "eomt", "--split", split) == 0
    for year in ("train2017", "val2017"):
        with zipfile.ZipFile(tmp_path / "out" / f"{year}.zip") as images:
            names = images.namelist()
            assert all(name.startswith(f"{year}/") and name.endswith(".jpg") for name in names) and len(names) == 3
            Image.open(images.open(names[0])).load()
        with zipfile.ZipFile(tmp_path / "out" / "panoptic_annotations_trainval2017.zip") as outer:
            assert len(outer.namelist()) == 4
            content = json.loads(outer.read(f"annotations/panoptic_{year}.json"))
            inner = zipfile.ZipFile(io.BytesIO(outer.read(f"annotations/panoptic_{year}.zip")))
        file_names = {entry["id"]: entry["file_name"] for entry in content["images"]}
        for annotation, one in zip(content["annotations"], expected(data).values(), strict=True):
            name = file_names[annotation["image_id"]]
            assert f"{year}/{name}" in names and "/" not in name
            png = np.asarray(Image.open(inner.open(f"panoptic_{year}/{Path(name).stem}.png"))).astype(np.int32)
            assert np.array_equal(png[..., 0] + 256 * png[..., 1] + 65536 * png[..., 2], one.ids)


def test_ultralytics_reads_the_labels(data: Path, tmp_path: Path) -> None:
    """Ultralytics finds labels beside images, and its own filling differs by the pixels of the outline only."""
    utils = pytest.importorskip("ultralytics.data.utils")
    for split in ("train", "val"):
        assert export(data, tmp_path / "yolo", "yolo", "--split", split) == 0
    content = utils.check_det_dataset(str(tmp_path / "yolo" / "data.yaml"), autodownload=False)
    images = sorted(str(path) for path in Path(content["train"]).rglob("*.*"))
    labels = utils.img2label_paths(images)
    found = 0
    for image, file in zip(images, labels, strict=True):
        checked = utils.verify_image_label((image, file, "", False, 2, 0, 0, False))
        assert checked[0] == image and checked[9] == ""
        found += len(checked[3])
    kept = without(expected(data), lambda c, crowd: c in (3, 40) and not crowd)
    assert found == sum(len(one.of) for one in kept.values())


# ----------------------------------------------------------------------------------------- folders, links and dry runs

FORMATS = ["coco", "yolo", "voc", "semantic", "instance-maps", "mask2former", "eomt", "lightly-train"]


def tree(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("name", FORMATS)
def test_twice_is_the_same_and_a_dry_run_is_nothing(data: Path, tmp_path: Path, capsys: Any, name: str) -> None:
    before = tree(data)
    assert export(data, tmp_path / "out", name, "--dry-run") == 0
    dry = capsys.readouterr().out.splitlines()
    assert not (tmp_path / "out").exists() and list(tmp_path.iterdir()) == []
    assert export(data, tmp_path / "out", name) == 0
    assert capsys.readouterr().out.splitlines()[:-1] == dry[:-1]  # the same is said to be lost
    first = tree(tmp_path / "out")
    assert export(data, tmp_path / "out", name) == 0
    second = tree(tmp_path / "out")
    records = ".banet-outputs.jsonl"
    assert first.pop(records) and second.pop(records) and first == second
    assert tree(data) == before


@pytest.mark.parametrize("name", FORMATS)
def test_bad_input_leaves_nothing(data: Path, tmp_path: Path, capsys: Any, name: str) -> None:
    content = json.loads((data / "panoptic.json").read_text(encoding="utf-8"))
    content["annotations"][1]["segments_info"].pop()
    broken = tmp_path / "broken.json"
    broken.write_text(json.dumps(content))
    source = ["--images", data / "images", "--panoptic", data / "panoptic", "--json", broken]
    assert main([str(word) for word in ["data", "export", name, *source, "--out", tmp_path / "out"]]) == 2
    said = capsys.readouterr().err
    assert "sub/b.png" in said and "which no segment of image 51 has" in said and "broken.json" in said
    assert [path.name for path in tmp_path.iterdir()] == ["broken.json"]


@pytest.mark.parametrize("name", ["yolo", "voc", "lightly-train"])
def test_links(data: Path, tmp_path: Path, capsys: Any, name: str) -> None:
    for _ in range(2):
        assert export(data, tmp_path / "out", name, "--link") == 0
    links = [path for path in (tmp_path / "out").rglob("*") if path.is_symlink()]
    assert sorted(path.name for path in links) == ["a.png", "b.jpg", "c.tif"]
    assert all(path.exists() for path in links)
    assert export(data, tmp_path / "out", name) == 2  # copies would replace links to inputs
    assert "is an input" in capsys.readouterr().err
    assert len(tree(data / "images")) == 3


def test_files_of_the_user_stay(data: Path, tmp_path: Path, capsys: Any) -> None:
    (tmp_path / "out/labels/train").mkdir(parents=True)
    (tmp_path / "out/labels/train/mine.txt").write_text("mine")
    assert export(data, tmp_path / "out", "yolo") == 2
    assert "mine.txt" in capsys.readouterr().err
    assert (tmp_path / "out/labels/train/mine.txt").read_text() == "mine"


def test_images_of_one_stem_get_names_of_their_own(tmp_path: Path) -> None:
    with CocoPanopticWriter(tmp_path / "panoptic", tmp_path / "panoptic.json", CLASSES) as writer:
        for number, name in enumerate(["a.png", "a.jpg"]):
            (tmp_path / "images").mkdir(exist_ok=True)
            Image.new("RGB", (9, 8)).save(tmp_path / "images" / name)
            ids = np.full((8, 9), 1, np.int32)
            ids[number] = 2
            segments = [Segment(1, 3, True), Segment(2, 40, True)]
            result = PanopticSegmentation.from_ids(ids, segments, CLASSES)
            writer.add(number, name, result, png_name=f"{number}.png")
    assert export(tmp_path, tmp_path / "out", "yolo") == 0
    assert export(tmp_path, tmp_path / "voc", "voc", "--split", "train") == 0
    assert export(tmp_path, tmp_path / "voc", "voc", "--split", "val") == 0
    stems = [(tmp_path / f"voc/ImageSets/Segmentation/{split}.txt").read_text().split() for split in ("train", "val")]
    assert len({*stems[0], *stems[1]}) == 4
    words = ["--data", tmp_path / "out", "--split", "train", "--out", tmp_path / "back"]
    assert convert("yolo", *words) == 0
    back = read_back(tmp_path / "back")
    areas = {name: int((result.ids == result.ids[0, 0]).sum()) for name, result in back.items()}
    assert areas == {"a.png": 9, "a_jpg.jpg": 63}


def small_set(root: Path, *names: str, **options: Any) -> None:
    """Images 9x8 that are one object each, saved with some options."""
    with CocoPanopticWriter(root / "panoptic", root / "panoptic.json", CLASSES) as writer:
        for number, name in enumerate(names, start=1):
            path = root / "images" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            turned = "exif" in options
            pixels = np.zeros((9, 8, 3) if turned else (8, 9, 3), np.uint8)
            pixels[:, : 4 if turned else 3] = 255
            Image.fromarray(pixels).save(path, **options)
            result = PanopticSegmentation.from_ids(np.full((8, 9), 1, np.int32), [Segment(1, 3, True)], CLASSES)
            writer.add(number, name, result)


def test_yolo_finds_the_labels_of_images_in_folders_called_images(tmp_path: Path, capsys: Any) -> None:
    """Readers put `labels` for the last folder `images` of a path, which must not be one of the user's."""
    small_set(tmp_path / "data", "images/a.png", "images_a.png", "x/images/y/b.png")
    for _ in range(2):
        assert export(tmp_path / "data", tmp_path / "out", "yolo") == 0
    assert "2 folders called images" in capsys.readouterr().out
    assert convert("yolo", "--data", tmp_path / "out", "--split", "train", "--out", tmp_path / "back") == 0
    results = read_back(tmp_path / "back")
    assert len(results) == 3 and all((result.ids == 1).all() for result in results.values())
    assert export(tmp_path / "data", tmp_path / "other", "yolo", "--split", "images") == 2
    assert "--split images" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["voc", "eomt", "lightly-train", "mask2former", "yolo"])
@pytest.mark.parametrize("suffix", [".jpg", ".PNG"])
def test_photos_that_exif_turns_are_upright_for_readers_that_do_not_turn_them(
    tmp_path: Path, capsys: Any, name: str, suffix: str
) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    small_set(tmp_path / "data", f"a{suffix}", exif=exif)
    assert export(tmp_path / "data", tmp_path / "out", name) == 0
    said = capsys.readouterr().out
    if name == "eomt":
        zipfile.ZipFile(tmp_path / "out/train2017.zip").extractall(tmp_path / "out")
    found = next(p for p in (tmp_path / "out").rglob("a.*") if p.suffix == ".jpg" or p.suffix == suffix)
    kept = name == "yolo" or (name == "mask2former" and suffix == ".jpg")  # these turn images themselves
    assert ("1 images coded anew" in said) != kept
    assert (found.read_bytes() == (tmp_path / "data/images" / f"a{suffix}").read_bytes()) == kept
    if not kept:
        pixels = np.asarray(Image.open(found).convert("L"))
        assert pixels.shape == (8, 9) and pixels[0].min() > 200 and pixels[-1].max() < 50


def test_links_to_photos_that_exif_turns_are_told(tmp_path: Path, capsys: Any) -> None:
    exif = Image.Exif()
    exif[0x0112] = 8
    small_set(tmp_path / "data", "a.jpg", exif=exif)
    assert export(tmp_path / "data", tmp_path / "out", "voc", "--link") == 0
    assert "1 links to images that EXIF turns" in capsys.readouterr().out


def test_splits_of_other_classes_are_refused(data: Path, tmp_path: Path, capsys: Any) -> None:
    content = json.loads((data / "panoptic.json").read_text(encoding="utf-8"))
    content["categories"][0]["name"] = "mug"
    other = tmp_path / "other.json"
    other.write_text(json.dumps(content))
    source = ["--images", data / "images", "--panoptic", data / "panoptic", "--json", other]
    for name in ("yolo", "voc"):
        assert export(data, tmp_path / name, name, "--split", "train") == 0
        words = ["data", "export", name, *source, "--split", "val", "--out", tmp_path / name]
        assert main([str(word) for word in words]) == 2
        assert "all splits have the same classes" in capsys.readouterr().err


def test_what_a_format_cannot_hold_is_refused(tmp_path: Path, capsys: Any) -> None:
    many = Categories(Category(i, f"c{i}", True) for i in range(300))
    (tmp_path / "images").mkdir()
    Image.new("RGB", (300, 1)).save(tmp_path / "images/a.jpg")
    ids = np.arange(1, 301, dtype=np.int32)[None]
    with CocoPanopticWriter(tmp_path / "panoptic", tmp_path / "panoptic.json", many) as writer:
        result = PanopticSegmentation.from_ids(ids, [Segment(i + 1, i, True) for i in range(300)], many)
        writer.add("text", "a.jpg", result)
    assert export(tmp_path, tmp_path / "out", "voc") == 2
    assert export(tmp_path, tmp_path / "out", "mask2former") == 2
    assert export(tmp_path, tmp_path / "out", "semantic", "--void", "7") == 2
    said = capsys.readouterr().err
    assert "300 classes, VOC up to 254" in said and "300 classes, but" in said and "--void" in said
    assert export(tmp_path, tmp_path / "out", "semantic") == 0
    assert np.array_equal(np.asarray(Image.open(tmp_path / "out/labels/train/a.png")), ids - 1)
    assert replace(result.segments[0], id=1).id == 1

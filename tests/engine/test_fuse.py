"""`banet fuse`: a detector's JSON and a segmenter's PNGs become a COCO panoptic folder that `banet pq` takes."""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from faster_coco_eval.core import mask as coco
from PIL import Image

from banet.cli import main
from banet.engine.prediction.fuse import _suppress, fuse_files
from banet.errors import InputError
from banet.panoptic import Categories, PanopticSegmentation, fuse_detections, fuse_panoptic
from banet.panoptic.coco.annotations import PanopticJson
from banet.panoptic.coco.classes import coco_categories
from banet.panoptic.coco.png import read_labels
from banet.panoptic.coco.writer import CocoPanopticWriter
from banet.panoptic.defaults import BEST_RULE

CATEGORIES = [
    {"id": 1, "name": "person", "isthing": 1},
    {"id": 3, "name": "car", "isthing": 1},
    {"id": 149, "name": "road", "isthing": 0},
    {"id": 187, "name": "sky", "isthing": 0},
]
HEIGHT, WIDTH = 40, 60
SCORES = [0.7, 0.9, 0.8, 0.6, 0.65]
LABELS = [1, 3, 1, 3, 3]
QUIET = {"stuff_area": 50, "score_threshold": 0.6}


def run_lengths(mask, text=True):
    coded = coco.encode(np.asfortranarray(mask.astype(np.uint8)))
    if text:
        return {"size": list(mask.shape), "counts": coded["counts"].decode()}
    flat = np.concatenate([[0], mask.T.ravel(), [2]]).astype(int)
    edges = np.flatnonzero(np.diff(flat))
    return {"size": list(mask.shape), "counts": np.diff(np.concatenate([[0], edges])).tolist()}


def one(seed):
    """Image, masks (the fourth scores too little) and label map."""
    rng = np.random.default_rng(seed)
    image = rng.integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    masks = np.zeros((5, HEIGHT, WIDTH), dtype=bool)
    for mask in masks:
        y, x = rng.integers(0, 25), rng.integers(0, 40)
        mask[y : y + 15, x : x + 20] = True
    semantic = np.full((HEIGHT, WIDTH), 149, dtype=np.uint8)
    semantic[:15] = 187
    semantic[-3:] = 3
    semantic[:, -2:] = 0
    return image, masks, semantic


@pytest.fixture
def files(tmp_path):
    """Three images; each with instances but the last."""
    for name in ("images", "labels"):
        (tmp_path / name).mkdir()
    scenes, results, infos = {}, [], []
    for image_id in (11, 22, 33):
        image, masks, semantic = one(image_id)
        masks = masks[: 0 if image_id == 33 else None]
        scenes[image_id] = image, masks, semantic
        Image.fromarray(image).save(tmp_path / f"images/{image_id:012}.png")
        Image.fromarray(semantic).save(tmp_path / f"labels/{image_id:012}.png")
        infos.append({"id": image_id, "file_name": f"{image_id:012}.png", "width": WIDTH, "height": HEIGHT})
        for n, mask in enumerate(masks):
            y, x = np.nonzero(mask)
            box = [int(x.min()), int(y.min()), int(np.ptp(x)) + 1, int(np.ptp(y)) + 1]
            x1, y1, x2, y2 = box[0], box[1], box[0] + box[2], box[1] + box[3]
            shape = [run_lengths(mask), run_lengths(mask, text=False), [[x1, y1, x2, y1, x2, y2, x1, y2]]][n % 3]
            results.append(
                {"image_id": image_id, "category_id": LABELS[n], "score": SCORES[n], "segmentation": shape, "bbox": box}
            )
    made = SimpleNamespace(
        root=tmp_path, scenes=scenes, results=results,
        instances=tmp_path / "results.json", semantic=tmp_path / "labels", images=tmp_path / "images",
        json=tmp_path / "truth.json", out=tmp_path / "out",
    )  # fmt: skip
    made.instances.write_text(json.dumps(results))
    made.json.write_text(json.dumps({"images": infos, "categories": CATEGORIES, "annotations": []}))
    return made


def fuse(files, **options):
    given = {"json": files.json, **QUIET, **options}
    return fuse_files(files.instances, files.semantic, files.images, files.out, **given)


def expected(files, image_id, keep=(0, 1, 2, 4), rule=BEST_RULE, overlap_threshold=0.0):
    image, masks, semantic = files.scenes[image_id]
    keep = [n for n in keep if n < len(masks)]
    keep.sort(key=lambda n: -SCORES[n])
    return fuse_panoptic(
        masks[keep],
        np.array(SCORES)[keep],
        np.array(LABELS)[keep],
        semantic,
        image,
        categories=CATEGORIES,
        rule=rule,
        overlap_threshold=overlap_threshold,
        clean=True,
        stuff_area=50,
    )


def check(files, **options):
    written = PanopticJson.read(files.out / "panoptic.json")
    assert list(written.annotations) == [11, 22, 33]
    for image_id, annotation in written.annotations.items():
        found = PanopticSegmentation.from_annotation(
            annotation, files.out / "panoptic", written.categories, image=written.images[image_id]
        )
        wanted = expected(files, image_id, **options)
        np.testing.assert_array_equal(found.ids, wanted.ids)
        assert found.segments == wanted.segments


@pytest.mark.parametrize("class_ids", [None, {7: 1, 8: 3}, [0, 1, 0, 3]])
def test_in_memory_as_from_files(files, class_ids):
    """A result of a library, here torchvision's, with its own numbers of the classes or the data set's."""
    fuse(files)
    known = {None: lambda n: n, dict: {1: 7, 3: 8}.get, list: {1: 1, 3: 3}.get}[class_ids and type(class_ids)]
    written = PanopticJson.read(files.out / "panoptic.json")
    for image_id, annotation in written.annotations.items():
        image, masks, semantic = files.scenes[image_id]
        count = len(masks)
        labels, scores = torch.tensor([known(n) for n in LABELS[:count]], dtype=torch.int64), torch.tensor(SCORES)
        result = {"masks": torch.from_numpy(masks)[:, None].float(), "labels": labels, "scores": scores[:count]}
        options = {"categories": CATEGORIES, "class_ids": class_ids, **QUIET}
        found = fuse_detections(result, torch.from_numpy(semantic), image, **options)
        wanted = PanopticSegmentation.from_annotation(
            annotation, files.out / "panoptic", written.categories, image=written.images[image_id]
        )
        np.testing.assert_array_equal(found.ids, wanted.ids)
        assert [(s.category_id, s.area) for s in found.segments] == [(s.category_id, s.area) for s in wanted.segments]
        fewer = fuse_detections(result, semantic, image, **options, max_instances=1)
        assert sum(s.isthing for s in fewer.segments) == min(count, 1)


def test_in_memory_says_what_is_missing():
    image, masks, semantic = one(5)
    result = {"masks": masks, "labels": np.array(LABELS), "scores": np.array(SCORES)}
    given = {"categories": CATEGORIES, "stuff_area": 0}
    with pytest.raises(ValueError, match=r"no scores; give masks, scores and labels to fuse_panoptic"):
        fuse_detections({"masks": masks, "labels": np.array(LABELS)}, semantic, image, **given)
    with pytest.raises(ValueError, match="no classes"):
        fuse_detections([{"segmentation": masks[0], "predicted_iou": 0.9}], semantic, image, **given)
    with pytest.raises(ValueError, match="no category id for the class 3, but for 2 others"):
        fuse_detections(result, semantic, image, class_ids=[5, 1], **given)
    with pytest.raises(ValueError, match=r"things, but label \d is 187"):
        fuse_detections({**result, "labels": np.array([187] * 5)}, semantic, image, **given)
    with pytest.raises(ValueError, match="size"):
        fuse_detections(result, semantic[:-1], image, **given)
    with pytest.raises(TypeError, match="is not a result of"):
        fuse_detections(masks, semantic, image, **given)


@pytest.mark.parametrize("rule", ["appearance", "score", "heuristic"])
def test_fuses_as_fuse_panoptic_does(files, rule):
    done = fuse(files, rule=rule)
    assert (done.json, done.images, done.instances, done.elsewhere) == (files.out / "panoptic.json", 3, 8, 0)
    check(files, rule=rule)


def test_score_and_number(files):
    assert fuse(files, score_threshold=0.59).instances == 10
    check(files, keep=(0, 1, 2, 3, 4))
    fuse(files, score_threshold=0.0, max_instances=2)
    check(files, keep=(1, 2))


def test_suppression():
    boxes = np.array([[0, 0, 10, 10], [0, 0, 10, 9], [0, 5, 10, 15], [20, 0, 30, 10], [20, 0, 30, 4], [5, 5, 5, 5]])
    assert _suppress(boxes.astype(float), 0.5) == [0, 2, 3, 4, 5]
    assert _suppress(boxes.astype(float), 0.3) == [0, 3, 5]  # the third shares a third with the first
    assert _suppress(np.zeros((0, 4)), 0.5) == []


def test_suppression_goes_by_the_detectors_boxes(files):
    for entry in files.results:
        entry["bbox"] = [0, 0, 5, 5]
    files.instances.write_text(json.dumps(files.results))
    assert fuse(files, nms_threshold=0.5).instances == 2  # one per image
    for entry in files.results:
        del entry["bbox"]
    files.instances.write_text(json.dumps(files.results))
    assert fuse(files, nms_threshold=1.0).instances == 8


def test_without_json_images_come_from_the_folder_and_classes_from_coco(files):
    done = fuse(files, json=None)
    assert done.images == 3
    written = PanopticJson.read(files.out / "panoptic.json")
    assert written.categories == coco_categories()
    assert len(written.categories) == 133
    found = PanopticSegmentation.from_annotation(written.annotations[22], files.out / "panoptic", written.categories)
    np.testing.assert_array_equal(found.ids, expected(files, 22).ids)


@pytest.mark.parametrize("bare", [True, False])
def test_classes_of_their_own_file(files, bare):
    truth = json.loads(files.json.read_text())
    del truth["categories"]
    files.json.write_text(json.dumps(truth))
    names = files.root / "names.json"
    names.write_text(json.dumps(CATEGORIES if bare else {"categories": CATEGORIES}))
    fuse(files, categories=names)
    check(files)


def test_instances_of_other_images_are_left_out(files):
    files.instances.write_text(json.dumps([*files.results, {**files.results[0], "image_id": 99}]))
    done = fuse(files)
    assert (done.instances, done.elsewhere) == (8, 1)
    check(files)
    files.instances.write_text(json.dumps([{**files.results[0], "image_id": 99}]))
    with pytest.raises(InputError, match="no image_id is the id of an image"):
        fuse(files)


def test_annotations_object_and_no_instances_at_all(files):
    files.instances.write_text(json.dumps({"annotations": files.results}))
    fuse(files)
    check(files)
    files.instances.write_text("[]")
    assert fuse(files).instances == 0
    check(files, keep=())


def test_empty_masks_are_left_out(files):
    empty = {**files.results[0], "segmentation": {"size": [HEIGHT, WIDTH], "counts": [HEIGHT * WIDTH]}}
    files.instances.write_text(json.dumps([empty, *files.results]))
    assert fuse(files).instances == 8
    check(files)


def test_instances_without_a_pixel_are_reported_or_refused(files, capsys):
    first = files.results[0]
    outside = [[90, 1, 99, 1, 99, 9]]
    low = {**first, "segmentation": [], "score": 0.1}  # not asked for, so not reported
    odd = [{**first, "segmentation": one, "bbox": []} for one in ([], [[1, 2]], outside)]
    files.instances.write_text(json.dumps([low, *odd, *files.results]))
    done = fuse(files, nms_threshold=1.0)
    assert (done.instances, done.left_out.objects) == (8, 11)
    assert dict(done.left_out.counts) == {"no outline": 1, "too few corners": 1, "outside of the image": 1}
    check(files)
    with pytest.raises(InputError, match=r"results\.json: \[1\], image 000000000011\.png: .*no outline.*--strict"):
        fuse(files, strict=True)
    line = f"fuse --instances {files.instances} --semantic {files.semantic} --images {files.images} --json {files.json}"
    assert main([*line.split(), "--out", str(files.root / "other"), "--stuff-area", "50"]) == 0
    assert "11 objects read, 8 with a pixel; left out:\n  1 no outline: [1] of 0" in capsys.readouterr().err


def rename(files, names):
    """Give the images other names, and their instances these names without suffix for ids."""
    for image_id, name in zip((11, 22, 33), names, strict=True):
        for folder in (files.images, files.semantic):
            (folder / f"{image_id:012}.png").rename(folder / name)
    ids = dict(zip((11, 22, 33), (name.removesuffix(".png") for name in names), strict=True))
    files.instances.write_text(json.dumps([{**one, "image_id": ids[one["image_id"]]} for one in files.results]))
    return ids


def test_ids_of_images_may_be_texts(files):
    """As cityscapesScripts has them; the numbers at the end of these names are the same."""
    names = [f"frankfurt_00000{n}_000294.png" for n in range(3)]
    ids = rename(files, names)
    (files.root / "names.json").write_text(json.dumps(CATEGORIES))
    for options in ({"json": None, "categories": files.root / "names.json"}, {}):
        truth = json.loads(files.json.read_text())
        truth["images"] = [
            {**one, "id": one["id"] if isinstance(one["id"], str) else ids[one["id"]], "file_name": name}
            for one, name in zip(truth["images"], names, strict=True)
        ]
        files.json.write_text(json.dumps(truth))
        assert fuse(files, **options).instances == 8
        written = PanopticJson.read(files.out / "panoptic.json")
        assert list(written.annotations) == list(ids.values())
        for image_id, annotation in zip((11, 22, 33), written.annotations.values(), strict=True):
            found = PanopticSegmentation.from_annotation(annotation, files.out / "panoptic", written.categories)
            np.testing.assert_array_equal(found.ids, expected(files, image_id).ids)


def test_a_text_is_not_the_number(files):
    files.instances.write_text(json.dumps([{**one, "image_id": str(one["image_id"])} for one in files.results]))
    with pytest.raises(InputError, match="no image_id is the id of an image"):
        fuse(files)


@pytest.mark.parametrize("kind", ["palette", "16 bits", "void"])
def test_kinds_of_label_maps(files, kind):
    for image_id, (_, _, semantic) in files.scenes.items():
        image = Image.fromarray(semantic)
        if kind == "palette":
            image.putpalette(np.random.default_rng(0).integers(0, 256, 768).tolist())
        elif kind == "16 bits":
            image = Image.fromarray(np.where(semantic == 0, np.uint16(65535), semantic))
        else:
            image = Image.fromarray(np.where(semantic == 0, 255, semantic).astype(np.uint8))
        image.save(files.semantic / f"{image_id:012}.png")
    fuse(files)
    check(files)


def test_label_maps_as_they_are(tmp_path):
    values = np.arange(12, dtype=np.uint16).reshape(3, 4) * 5000
    Image.fromarray(values).save(tmp_path / "a.png")
    labels, top = read_labels(tmp_path / "a.png")
    assert top == 65535
    np.testing.assert_array_equal(labels, values)
    small = Image.fromarray((np.arange(12, dtype=np.uint8) % 4).reshape(3, 4), mode="P")
    small.putpalette([200, 3, 7] * 4)
    small.save(tmp_path / "b.png", bits=2)
    labels, top = read_labels(tmp_path / "b.png")
    assert top == 255
    np.testing.assert_array_equal(labels, np.arange(12).reshape(3, 4) % 4)


def test_the_command_and_pq(files, capsys):
    classes = Categories.of(CATEGORIES)
    with CocoPanopticWriter(files.root / "truth", files.json, classes) as writer:
        for image_id in files.scenes:
            result = expected(files, image_id)
            infos = [{"id": s.id, "category_id": s.category_id} for s in result.segments]
            writer.add(image_id, f"{image_id:012}.png", PanopticSegmentation.from_ids(result.ids, infos, classes))
    extra = [{**files.results[0], "image_id": 99}]
    files.instances.write_text(json.dumps(files.results + extra))
    line = f"fuse --instances {files.instances} --semantic {files.semantic} --images {files.images} --out {files.out}"
    assert main([*line.split(), "--json", str(files.json), "--stuff-area", "50"]) == 0
    shown = capsys.readouterr()
    assert shown.out == f"{files.out}/panoptic.json: 3 images, 8 instances\n"
    assert "left out, as they are of other images: 1 instances" in shown.err
    scores = files.root / "pq.json"
    line = f"pq --gt-json {files.json} --gt-dir {files.root}/truth --pred-json {files.out}/panoptic.json"
    assert main([*line.split(), "--pred-dir", str(files.out / "panoptic"), "--json", str(scores)]) == 0
    assert json.loads(scores.read_text())["All"]["pq"] == 1


# -------------------------------------------------------------------------------------------------------------- faults


def change(entry=0, **fields):
    def apply(files):
        files.results[entry].update(fields)
        files.instances.write_text(json.dumps(files.results))

    return apply


def without(field):
    def apply(files):
        del files.results[0][field]
        files.instances.write_text(json.dumps(files.results))

    return apply


def write(name, text):
    return lambda files: (files.root / name).write_text(text)


def label_map(array, mode=None):
    return lambda files: Image.fromarray(array, mode=mode).save(files.semantic / "000000000022.png")


def remove(name):
    return lambda files: (files.root / name).unlink()


FIRST = "results.json: [0]"


@pytest.mark.parametrize(
    ("spoil", "options", "said"),
    [
        (remove("results.json"), {}, "results.json: does not exist; check the path"),
        (write("results.json", "[{"), {}, "results.json: is not JSON"),
        (write("results.json", "{}"), {}, "results.json: must be a list, or an object with 'annotations'"),
        (write("results.json", "[3]"), {}, f"{FIRST}: must be an object, not 3"),
        (without("image_id"), {}, f"{FIRST}.image_id: is missing"),
        (change(image_id=1.0), {}, f"{FIRST}.image_id: must be an integer of 64 bits or a text, not 1.0"),
        (change(category_id=2), {}, f"{FIRST}.category_id: 2 is unknown; give the classes"),
        (change(category_id=149), {}, f"{FIRST}.category_id: 149 is road, which is not a thing"),
        (without("score"), {}, f"{FIRST}.score: is missing; give results of a detector"),
        (change(score=float("nan")), {}, f"{FIRST}.score: must be a finite number, not nan"),
        (change(score=True), {}, f"{FIRST}.score: must be a finite number, not True"),
        (without("segmentation"), {}, f"{FIRST}.segmentation: is missing; give results with masks"),
        (change(segmentation=7), {}, f"{FIRST}.segmentation: must be run lengths or a list of polygons, not 7"),
        (change(segmentation={"size": [60, 40], "counts": "x"}), {}, f"{FIRST}.segmentation: size must be [40, 60]"),
        (change(bbox=[1, 2, 3]), {"nms_threshold": 0.5}, f"{FIRST}.bbox: must be four finite numbers"),
        (remove("images/000000000022.png"), {}, "000000000022.png: does not exist"),
        (write("images/000000000022.png", "x"), {}, "000000000022.png: is not an image"),
        (remove("labels/000000000022.png"), {}, "labels/000000000022.png: does not exist"),
        (write("labels/000000000022.png", "x"), {}, "labels/000000000022.png: is not a PNG"),
        (label_map(np.full((HEIGHT, WIDTH), 7, np.uint8)), {}, "000000000022.png: unknown category ids 7; known are"),
        (label_map(np.zeros((40, 59), np.uint8)), {}, "is 59x40, but the image is 60x40; resize it"),
        (label_map(np.zeros((40, 60, 3), np.uint8)), {}, "is a 8-bit RGB PNG; label maps are grey"),
        (remove("truth.json"), {}, "truth.json: does not exist"),
        (write("truth.json", "[]"), {}, "truth.json: must be an object with 'images', 'categories'"),
        (write("truth.json", '{"images": []}'), {}, "truth.json: 'images' is empty"),
        (write("truth.json", '{"images": [{"id": 1}]}'), {}, "truth.json: images[0]: 'file_name' is missing"),
        (write("truth.json", '{"categories": [{"id": 1, "name": "x"}]}'), {}, "categories[0]: 'isthing' is missing"),
        (write("names.json", '{"x": 1}'), {"categories": "names.json"}, "a list, or an object with 'categories'"),
        (write("names.json", "3"), {"categories": "names.json"}, "a list, or an object with 'categories'"),
        (lambda f: None, {"score_threshold": 1.5}, "--score: must lie in 0..1, not 1.5"),
        (lambda f: None, {"nms_threshold": -1.0}, "--nms: must lie in 0..1, not -1.0"),
        (lambda f: None, {"overlap_threshold": float("nan")}, "--overlap-threshold: must lie in 0..1, not nan"),
        (lambda f: None, {"rule": "best"}, "unknown rule 'best'"),
    ],
)
def test_faults_are_one_line(files, spoil, options, said):
    spoil(files)
    if "categories" in options:
        options = {"categories": files.root / options["categories"]}
    with pytest.raises(InputError) as fault:
        fuse(files, **options)
    assert said in str(fault.value)
    assert "\n" not in str(fault.value)
    assert not (files.out / "panoptic.json").exists()


def test_other_faults_with_images_and_folders(files):
    truth = json.loads(files.json.read_text())
    truth["images"][1]["width"] = 61
    files.json.write_text(json.dumps(truth))
    with pytest.raises(InputError, match=r"000000000022.png: is 60x40, but .* says 61x40"):
        fuse(files)
    (files.images / "cat.png").write_bytes((files.images / "000000000011.png").read_bytes())
    with pytest.raises(InputError, match=r"cat.png: there is no number in its name"):
        fuse(files, json=None)
    (files.images / "cat.png").rename(files.images / "cat_11.png")
    with pytest.raises(InputError, match=r"000000000011.png and cat_11.png have the same id, 11"):
        fuse(files, json=None)
    with pytest.raises(InputError, match=r"--semantic: .* is not a folder"):
        fuse_files(files.instances, files.root / "none", files.images, files.out)

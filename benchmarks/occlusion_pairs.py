"""Pairs of overlapping masks whose order is known, of many kinds of images: what `occlusion.py` measures rules on."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from io import BytesIO
from itertools import combinations
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from banet.data.images import list_images, read_image
from banet.data.scenes.collage import InstanceSet, make_collage
from banet.data.scenes.generate import Scene, make_scene
from banet.panoptic import Categories, Category, MaskCrops, PanopticSegmentation, Segment
from banet.panoptic.coco.png import read_ids
from banet.panoptic.coco.rle import decode_segmentation

Mask = NDArray[np.bool_]
GRID = 28
DRAWS = 4
"""How often errors are drawn for the things of an image, where masks are as a detector could give them."""


@dataclass(frozen=True)
class Pair:
    """Two masks that overlap, and who is in front.

    Attributes:
        front: the mask whose the disputed pixels are, as a full box and crop.
        back: the other one.
        same_class: whether both are of one class.
        small_front: whether the one in front is the smaller one.
    """

    front: tuple[tuple[int, int, int, int], Mask]
    back: tuple[tuple[int, int, int, int], Mask]
    same_class: bool
    small_front: bool


@dataclass(frozen=True)
class Picture:
    """An image, its pairs, and overlapping masks of all its things.

    Attributes:
        name: images of one name are resampled together.
        image: (H, W, 3).
        pairs: the pairs whose order is sure.
        ids: (H, W) the truth, 0 where there is no thing; None where the truth is not sure everywhere.
        classes: class of each thing in `ids`.
        masks: the overlapping mask of each thing.
    """

    name: str
    image: NDArray[np.uint8]
    pairs: list[Pair]
    ids: NDArray[np.int32] | None = None
    classes: dict[int, int] | None = None
    masks: list[tuple[tuple[int, int, int, int], Mask]] | None = None


Kind = Callable[[Path, bool, int], Iterator[Picture]]
"""Makes pictures from the folder of all data, whether masks pass the grid, and a seed."""


def boxed(mask: Mask) -> tuple[tuple[int, int, int, int], Mask]:
    crops = MaskCrops.from_masks(mask[None])
    x1, y1, x2, y2 = crops.boxes[0].tolist()
    return (x1, y1, x2, y2), mask[y1:y2, x1:x2].copy()


def through_grid(mask: Mask, grid: int = GRID) -> Mask:
    """The mask as a network's mask head could give it at best: averaged over a grid in its box, and put back."""
    (x1, y1, x2, y2), crop = boxed(mask)
    result = np.zeros_like(mask)
    if crop.size:
        small = Image.fromarray(crop.astype(np.float32)).resize((grid, grid), Image.Resampling.BOX)
        # Bilinear between the cells' centres at the pixels' centres, the border's value beyond.
        values = np.asarray(small)
        for axis, extent in ((0, y2 - y1), (1, x2 - x1)):
            at = ((np.arange(extent) + 0.5) * grid / extent - 0.5).clip(0, grid - 1)
            low = np.minimum(at.astype(int), grid - 2)
            share = (at - low).reshape((-1, 1) if axis == 0 else (1, -1))
            values = values.take(low, axis) * (1 - share) + values.take(low + 1, axis) * share
        result[y1:y2, x1:x2] = values >= 0.5
    return result


def as_detected(mask: Mask, rng: np.random.Generator, grid: int = GRID) -> Mask:
    """The mask as a detector could give it: the box a little off, the grid blurred, and smooth errors added."""
    (x1, y1, x2, y2), crop = boxed(mask)
    result = np.zeros_like(mask)
    if not crop.size:
        return result
    sides = np.array([x2 - x1, y2 - y1, x2 - x1, y2 - y1])
    limits = np.array(mask.shape[::-1] * 2)
    left, top, right, bottom = (np.array([x1, y1, x2, y2]) + sides * rng.normal(0, 0.02, 4)).clip(0, limits)
    if right - left < 2 or bottom - top < 2:
        return result
    soft = Image.fromarray(mask.astype(np.float32))
    cells = np.asarray(soft.resize((grid, grid), Image.Resampling.BOX, box=(left, top, right, bottom)))
    errors = Image.fromarray(rng.normal(0, 0.15, (7, 7)).astype(np.float32)).resize((grid, grid))
    padded = np.pad(cells, 1, mode="edge")
    rows = (padded[:-2] + 2 * padded[1:-1] + padded[2:]) / 4
    cells = (rows[:, :-2] + 2 * rows[:, 1:-1] + rows[:, 2:]) / 4 + np.asarray(errors)
    c1, r1, c2, r2 = int(left), int(top), int(np.ceil(right)), int(np.ceil(bottom))
    at = [
        (((np.arange(a, b) + 0.5 - low) * grid / (high - low)) - 0.5).clip(0, grid - 1)
        for a, b, low, high in ((r1, r2, top, bottom), (c1, c2, left, right))
    ]
    values = cells
    for axis, place in enumerate(at):
        first = np.minimum(place.astype(int), grid - 2)
        share = (place - first).reshape((-1, 1) if axis == 0 else (1, -1))
        values = values.take(first, axis) * (1 - share) + values.take(first + 1, axis) * share
    result[r1:r2, c1:c2] = values >= 0.5
    return result


def detected(
    ids: NDArray[np.int32],
    classes: dict[int, int],
    rng: np.random.Generator,
    *,
    least: int = 400,
    overlap: int = 8,
    most: int = 10**6,
) -> list[Pair]:
    """All pairs of masks that overlap when each is as a detector could give it, however little: of several draws.

    The owner is the one whose segment holds more than two thirds of what the two segments hold of the overlap, which
    must be most of it; other pairs are left out. Of each draw at most so many are given.
    """
    things = [n for n in classes if np.count_nonzero(ids == n) > least]
    found = []
    for _ in range(DRAWS):
        masks = {n: as_detected(ids == n, rng) for n in things}
        pairs = []
        for a, b in combinations(masks, 2):
            shared = masks[a] & masks[b]
            size = np.count_nonzero(shared)
            mine, theirs = (int(np.count_nonzero(ids[shared] == n)) for n in (a, b))
            if size < overlap or mine + theirs < 0.6 * size or 3 * max(mine, theirs) < 2 * (mine + theirs):
                continue
            front, back = (a, b) if mine > theirs else (b, a)
            small = np.count_nonzero(masks[front]) < np.count_nonzero(masks[back])
            pairs.append(Pair(boxed(masks[front]), boxed(masks[back]), classes[a] == classes[b], bool(small)))
        found += [pairs[n] for n in rng.permutation(len(pairs))[:most].tolist()]
    return found


def dilate(mask: Mask, radius: float) -> Mask:
    """All pixels whose centre is within `radius` of that of a pixel of the mask."""
    reach = int(radius)
    padded = np.pad(mask, reach)
    result = np.zeros_like(mask)
    height, width = mask.shape
    for dy in range(-reach, reach + 1):
        dx = int(np.sqrt(radius * radius - dy * dy))
        rows = padded[reach + dy : reach + dy + height]
        total = np.cumsum(np.pad(rows, ((0, 0), (1, 0))), axis=1, dtype=np.int32)
        left = reach - dx
        result |= total[:, reach + dx + 1 : reach + dx + 1 + width] > total[:, left : left + width]
    return result


def leaks(
    ids: NDArray[np.int32],
    classes: dict[int, int],
    rng: np.random.Generator,
    *,
    least: int = 400,
    most: int = 10**6,
    grid: bool = True,
) -> list[Pair]:
    """Ordered pairs of segments, the one's mask dilated into the other by a quarter of the root of the smaller area.

    Args:
        ids: (H, W), 0 where there is no thing.
        classes: class of each thing.
        rng: chooses where there are more than `most`.
        least: things of no more pixels are left out.
        most: pairs to give.
        grid: whether both masks pass the grid.
    """
    areas = {n: int(np.count_nonzero(ids == n)) for n in classes}
    things = [n for n in classes if areas[n] > least]
    boxes = {n: boxed(ids == n)[0] for n in things}
    orders = []
    for owner in things:
        for other in things:
            reach = 0.25 * np.sqrt(min(areas[owner], areas[other]))
            a, b = boxes[owner], boxes[other]
            gap = max(a[0] - b[2], b[0] - a[2], a[1] - b[3], b[1] - a[3])
            if owner != other and gap <= reach:
                orders.append((owner, other, float(reach)))
    pairs: list[Pair] = []
    for at in rng.permutation(len(orders)).tolist():
        if len(pairs) >= most:
            break
        owner, other, reach = orders[at]
        pad = int(reach) + 2
        a, b = boxes[owner], boxes[other]
        x1, y1 = max(0, min(a[0], b[0]) - pad), max(0, min(a[1], b[1]) - pad)
        x2, y2 = max(a[2], b[2]) + pad, max(a[3], b[3]) + pad
        window = ids[y1:y2, x1:x2]
        front = window == owner
        back = (window == other) | (dilate(window == other, reach) & front)
        pair = _pair(front, back, classes[owner] == classes[other], areas[owner] < areas[other], grid, (x1, y1))
        if pair is not None:
            pairs.append(pair)
    return pairs


def leaking(
    name: str,
    image: NDArray[np.uint8],
    ids: NDArray[np.int32],
    classes: dict[int, int],
    rng: np.random.Generator,
    *,
    least: int,
    most: int = 10**6,
    grid: bool,
) -> Picture:
    """An image whose pairs are leaks; for fusion one mask of any two neighbours leaks into the other one."""
    ids = np.where(np.isin(ids, list(classes)), ids, 0)
    pairs = leaks(ids, classes, rng, least=least, most=most, grid=grid)
    areas = {n: int(np.count_nonzero(ids == n)) for n in classes}
    masks = []
    rank = dict(zip(classes, rng.permutation(len(classes)).tolist(), strict=True))
    for n in classes:
        (x1, y1, x2, y2), _ = boxed(ids == n)
        pad = int(0.25 * np.sqrt(areas[n])) + 2
        x1, y1 = max(0, x1 - pad), max(0, y1 - pad)
        window = ids[y1 : y2 + pad, x1 : x2 + pad]
        mask = window == n
        for other in np.unique(window[(window > 0) & ~mask]).tolist():
            if rank[n] > rank[other] and min(areas[n], areas[other]) > least:
                reach = 0.25 * np.sqrt(min(areas[n], areas[other]))
                mask |= dilate(window == n, reach) & (window == other)
        (a, b, c, d), crop = boxed(through_grid(mask) if grid else mask)
        masks.append(((a + x1, b + y1, c + x1, d + y1), crop))
    return Picture(name, image, pairs, ids, classes, masks)


def layered(name: str, scene: Scene, grid: bool) -> Picture:
    """An image whose full masks and order are known."""
    classes = {row + 1: scene.segments[row].category_id for row in range(len(scene.masks))}
    ids = np.where(scene.ids <= len(classes), scene.ids, 0).astype(np.int32)
    masks = [boxed(through_grid(mask) if grid else mask) for mask in scene.masks]
    return Picture(name, scene.image, ordered(scene, grid=grid), ids, classes, masks)


def _pair(front: Mask, back: Mask, same: bool, small: bool, grid: bool, corner: tuple[int, int]) -> Pair | None:
    """The pair, if it is an occluded one under the paper's threshold."""
    if grid:
        front, back = through_grid(front), through_grid(back)
    shared = np.count_nonzero(front & back)
    least = min(np.count_nonzero(front), np.count_nonzero(back))
    if not least or shared <= 0.2 * least:
        return None
    moved = []
    for mask in (front, back):
        (x1, y1, x2, y2), crop = boxed(mask)
        moved.append(((x1 + corner[0], y1 + corner[1], x2 + corner[0], y2 + corner[1]), crop))
    return Pair(moved[0], moved[1], same, small)


def ordered(scene: Scene, *, grid: bool = True) -> list[Pair]:
    """The occluded pairs of an image whose full masks and order are known."""
    areas = scene.masks.sum(axis=(1, 2))
    pairs = []
    order = scene.order.tolist()
    masks = [through_grid(mask) for mask in scene.masks] if grid else list(scene.masks)
    for at, front in enumerate(order):
        for back in order[at + 1 :]:
            # Who owns the overlap must be seen: leave out what others hide.
            shared = scene.masks[front] & scene.masks[back]
            if not shared.any() or np.count_nonzero(scene.ids[shared] == front + 1) < 0.5 * np.count_nonzero(shared):
                continue
            same = scene.segments[front].category_id == scene.segments[back].category_id
            pair = _pair(masks[front], masks[back], same, bool(areas[front] < areas[back]), False, (0, 0))
            if pair is not None:
                pairs.append(pair)
    return pairs


# ------------------------------------------------------------------------------------------------ kinds of images


def coco_panoptic(root: Path, grid: bool, seed: int) -> Iterator[Picture]:
    for name, image, ids, classes in coco_truth(root):
        yield leaking(name, image, ids, classes, np.random.default_rng(seed), least=400, grid=grid)


def coco_detected(root: Path, grid: bool, seed: int) -> Iterator[Picture]:
    """Masks of things of COCO as a detector could give them; `grid` makes no difference."""
    for name, image, ids, classes in (*coco_truth(root), *polygon_truth(root)):
        if pairs := detected(ids, classes, np.random.default_rng([seed, len(name), *name.encode()])):
            yield Picture(name, image, pairs)


def coco_truth(root: Path) -> Iterator[tuple[str, NDArray[np.uint8], NDArray[np.int32], dict[int, int]]]:
    """Name, image, ids and classes of things of the images with panoptic truth."""
    content = json.loads((root / "coco_panoptic" / "panoptic.json").read_text())
    things = {one["id"] for one in content["categories"] if one["isthing"]}
    names = {one["id"]: one["file_name"] for one in content["images"]}
    for one in content["annotations"]:
        ids = read_ids(root / "coco_panoptic" / "panoptic" / one["file_name"])
        classes = {
            s["id"]: s["category_id"]
            for s in one["segments_info"]
            if s["category_id"] in things and not s.get("iscrowd", 0)
        }
        name = names[one["image_id"]]
        yield name, np.asarray(read_image(root / "coco_panoptic" / "images" / name)), ids, classes


def coco_polygons(root: Path, grid: bool, seed: int) -> Iterator[Picture]:
    for name, image, ids, classes in polygon_truth(root):
        pairs = leaks(ids, classes, np.random.default_rng([seed, *name.encode()]), grid=grid, most=12)
        if pairs:
            yield Picture(name, image, pairs)


def polygon_truth(root: Path) -> Iterator[tuple[str, NDArray[np.uint8], NDArray[np.int32], dict[int, int]]]:
    """Polygons that hardly overlap: where they do, or where a third claims the pixels, no truth is sure."""
    instances = InstanceSet(root / "coco_instances" / "instances.json", root / "coco_instances" / "images")
    with_panoptic = {p.stem for p in (root / "coco_panoptic" / "images").iterdir()}
    for image_id, info in instances.images.items():
        if Path(info.file_name).stem in with_panoptic:
            continue
        annotations = instances.by_image.get(image_id, [])
        if not 2 <= len(annotations) <= 25:
            continue
        masks = [instances.mask(image_id, place) for place in range(len(annotations))]
        claims = np.sum(masks, axis=0)
        ids = np.zeros(claims.shape, np.int32)
        classes = {}
        for number, (mask, one) in enumerate(zip(masks, annotations, strict=True), start=1):
            ids[mask & (claims == 1)] = number
            disputed = np.count_nonzero(mask & (claims > 1))
            if not one.get("iscrowd", 0) and disputed <= 0.02 * np.count_nonzero(mask):
                classes[number] = one["category_id"]
        yield info.file_name, instances.image(image_id), ids, classes


def collages(root: Path, grid: bool, seed: int, count: int = 80) -> Iterator[Picture]:
    instances = InstanceSet(root / "coco_instances" / "instances.json", root / "coco_instances" / "images")
    grounds = list_images([str(root / "camvid" / "train" / "images")])[::7]
    grounds += list_images([str(root / "coco_panoptic" / "images")])
    for index in range(count):
        scene = make_collage(instances, grounds, seed, index)
        yield layered(f"{index}", scene, grid)


def scenes(root: Path, grid: bool, seed: int, count: int = 100) -> Iterator[Picture]:
    for index in range(count):
        scene = make_scene(seed, index)
        yield layered(f"{index}", scene, grid)


def street(root: Path, grid: bool, seed: int) -> Iterator[Picture]:
    """Leaks between cars, people, bicyclists, signs and poles."""
    things = ("car", "pedestrian", "bicyclist", "sign symbol", "pole")
    names = json.loads((root / "camvid" / "labels.json").read_text())["labels"]
    files = [
        path
        for split, step in (("train", 6), ("val", 4))
        for path in sorted((root / "camvid" / split / "labels").glob("*.png"))[seed % step :: step]
    ]
    for path in files:
        labels = np.asarray(Image.open(path))
        ids = np.zeros(labels.shape, np.int32)
        classes: dict[int, int] = {}
        for thing in things:
            for part in components(labels == names.index(thing)):
                if np.count_nonzero(part) > 100:
                    classes[len(classes) + 1] = names.index(thing)
                    ids[part] = len(classes)
        picture = next((path.parent.parent / "images").glob(path.stem + ".*"))
        image = np.asarray(read_image(picture))
        yield leaking(path.stem, image, ids, classes, np.random.default_rng(seed), least=100, most=12, grid=grid)


def small_street(root: Path, grid: bool, seed: int, count: int = 120) -> Iterator[Picture]:
    """Small dark people and vehicles pasted on street frames in a known order; leaks between what is seen of them."""
    instances = InstanceSet(root / "coco_instances" / "instances.json", root / "coco_instances" / "images")
    wanted = [
        n
        for n, (image_id, place) in enumerate(instances.candidates)
        if instances.by_image[image_id][place]["category_id"] in (1, 2, 3, 4, 6, 8)
    ]
    frames = list_images([str(root / "camvid" / "train" / "images")])[::3]
    for index in range(count):
        rng = np.random.default_rng([seed, index])
        canvas = np.asarray(read_image(frames[int(rng.integers(len(frames)))])).astype(np.float32)
        ids = np.zeros(canvas.shape[:2], np.int32)
        classes: dict[int, int] = {}
        centres: list[NDArray[np.float64]] = []
        for _ in range(12):
            cut = instances.cut_out(wanted[int(rng.integers(len(wanted)))])
            if cut is None:
                continue
            scale = np.exp(rng.uniform(np.log(12), np.log(50))) / max(cut.mask.shape)
            w, h = (max(4, round(side * min(1.0, scale))) for side in cut.mask.shape[::-1])
            centre = rng.uniform((0.3, 0.05), (0.9, 0.95)) * canvas.shape[:2]
            if centres and rng.random() < 0.75:
                centre = centres[int(rng.integers(len(centres)))] + rng.normal(0, 0.4, 2) * (h, w)
            top, left = (int(v) for v in (centre - (h / 2, w / 2)).clip(0, np.array(ids.shape) - (h, w)))
            soft = Image.fromarray(np.uint8(255) * cut.mask).resize((w, h), Image.Resampling.BOX)
            alpha = np.asarray(soft.filter(ImageFilter.GaussianBlur(0.6)), np.float32) / 255
            color = np.asarray(Image.fromarray(cut.image).resize((w, h), Image.Resampling.BOX), np.float32)
            window = np.s_[top : top + h, left : left + w]
            canvas[window] += alpha[..., None] * (color * rng.uniform(0.1, 0.4) - canvas[window])
            number = len(classes) + 1
            ids[window][alpha >= 0.5] = number
            classes[number] = cut.category_id
            centres.append(centre)
        canvas += rng.normal(0, 5, canvas.shape)
        classes = {n: one for n, one in classes.items() if np.count_nonzero(ids == n) > 60}
        image = through_jpeg(canvas.clip(0, 255).astype(np.uint8))
        yield leaking(f"{index}", image, ids, classes, rng, least=60, most=12, grid=grid)


def through_jpeg(image: NDArray[np.uint8], quality: int = 60) -> NDArray[np.uint8]:
    """The image as a camera stores it."""
    buffer = BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=quality)
    return np.asarray(Image.open(buffer))


def nuclei(root: Path, grid: bool, seed: int, stained: bool) -> Iterator[Picture]:
    """Leaks between touching nuclei, in tissue with a colour stain or in grey fluorescence."""
    for split, step in (("train", 1 if stained else 4), ("val", 1)):
        content = json.loads((root / "dsb2018" / split / "panoptic.json").read_text())
        names = {one["id"]: one["file_name"] for one in content["images"]}
        for one in content["annotations"][seed % step :: step]:
            image = np.asarray(read_image(root / "dsb2018" / split / "images" / names[one["image_id"]]))
            if stained == bool((image[..., 0] == image[..., 1]).all()):
                continue
            ids = read_ids(root / "dsb2018" / split / "panoptic" / one["file_name"])
            ids, image = ids[:360, :360], image[:360, :360]
            classes = {s["id"]: 1 for s in one["segments_info"] if s["category_id"] == 1}
            classes = {n: 1 for n in classes if np.count_nonzero(ids == n)}
            name = split + names[one["image_id"]]
            yield leaking(name, image, ids, classes, np.random.default_rng(seed), least=100, most=8, grid=grid)


def leaves(root: Path, grid: bool, seed: int, count: int = 60) -> Iterator[Picture]:
    for index in range(count):
        scene = make_leaves(seed, index)
        yield layered(f"{index}", scene, grid)


def make_leaves(seed: int, index: int, size: int = 320) -> Scene:
    """Leaves of one colour over each other: only light, veins and the shadow at the edges tell them apart."""
    rng = np.random.default_rng([seed, index])
    count = int(rng.integers(6, 12))
    base = np.array([rng.uniform(50, 110), rng.uniform(100, 170), rng.uniform(30, 80)])
    noise = Image.fromarray(rng.normal(128, 60, (size, size)).clip(0, 255).astype(np.uint8))
    cloud = np.asarray(noise.filter(ImageFilter.GaussianBlur(6)), np.float32) - 128
    image = base[None, None] * 0.55 + cloud[..., None] * 1.0 + rng.normal(0, 4, (size, size, 3))
    masks = []
    yy, xx = np.mgrid[:size, :size]
    for _ in range(count):
        length, wide = rng.uniform(0.12, 0.25) * size, rng.uniform(0.35, 0.6)
        turn, (cx, cy) = rng.uniform(0, 2 * np.pi), rng.uniform(0.15, 0.85, 2) * size
        u = ((xx - cx) * np.cos(turn) + (yy - cy) * np.sin(turn)) / length
        v = (-(xx - cx) * np.sin(turn) + (yy - cy) * np.cos(turn)) / length
        mask = (np.abs(u) < 1) & (np.abs(v) < wide * (1 - u * u))
        gain = 1 + rng.normal() * 0.05 + rng.uniform(-0.12, 0.12) * u + rng.uniform(-0.12, 0.12) * v
        veins = 1 + 0.08 * np.cos((u - 1.2 * np.abs(v)) * rng.uniform(14, 22)) + 0.12 * (np.abs(v) < 0.015)
        shadow = np.asarray(Image.fromarray(np.uint8(255) * mask).filter(ImageFilter.GaussianBlur(3)), np.float32) / 255
        image *= 1 - rng.uniform(0.1, 0.4) * shadow[..., None]
        own = base[None, None] * (gain * veins)[..., None] + rng.normal(0, 5, (size, size, 1))
        image[mask] = own[mask]
        masks.append(mask)
    owner = np.zeros((size, size), np.int32)
    for number, mask in enumerate(masks, start=1):
        owner[mask] = number
    categories = Categories([Category(1, "leaf", True), Category(2, "ground", False)])
    kept = [k for k in range(count) if np.count_nonzero(owner == k + 1) > 60]
    ids = np.zeros_like(owner)
    for row, k in enumerate(kept):
        ids[owner == k + 1] = row + 1
    return Scene(
        image=image.clip(0, 255).astype(np.uint8),
        masks=np.stack([masks[k] for k in kept]),
        order=np.arange(len(kept))[::-1].astype(np.int64),
        ids=ids,
        segments=PanopticSegmentation.from_ids(
            ids, [Segment(row + 1, 1, isthing=True) for row in range(len(kept))], categories
        ).segments,
        categories=categories,
    )


def detections(make: Kind, least: int, most: int = 8) -> Kind:
    """Masks of the things of another kind of pictures as a detector could give them, at most so many pairs a draw."""

    def pictures(root: Path, grid: bool, seed: int) -> Iterator[Picture]:
        for picture in make(root, grid, seed):
            if picture.ids is None or picture.classes is None:
                continue
            rng = np.random.default_rng([seed, len(picture.name), *picture.name.encode()])
            if pairs := detected(picture.ids, picture.classes, rng, least=least, most=most):
                yield Picture(picture.name, picture.image, pairs)

    return pictures


def real(root: Path, grid: bool, seed: int) -> Iterator[Picture]:
    """What a Mask R-CNN found in photographs, the pairs of which either side is known by the truth."""
    for folder in sorted(path for path in (root / "real_detections").iterdir() if path.is_dir()):
        found, truth, known = (
            json.loads((folder / f"{name}.json").read_text()) for name in ("detections", "instances_gt", "pairs")
        )
        for info in truth["images"]:
            ones = [one for one in known if one["image_id"] == info["id"] and one["kind"] == "both"]
            if not ones:
                continue
            image = np.asarray(read_image(folder / "images" / info["file_name"]))
            pairs = []
            for one in ones:
                owner, other = (one["a"], one["b"]) if one["owner"] == "a" else (one["b"], one["a"])
                front, back = (
                    decode_segmentation(found[n]["segmentation"], (image.shape[0], image.shape[1]))
                    for n in (owner, other)
                )
                same = found[owner]["category_id"] == found[other]["category_id"]
                pairs.append(Pair(boxed(front), boxed(back), same, bool(front.sum() < back.sum())))
            yield Picture(f"{folder.name}/{info['file_name']}", image, pairs)


def components(mask: Mask) -> list[Mask]:
    """The parts of a mask that hang together (4-neighbours): runs of each row, joined where they touch."""
    padded = np.pad(mask, ((0, 0), (1, 1)))
    change = np.flatnonzero(np.diff(padded.ravel().astype(np.int8)))
    width = padded.shape[1]
    starts, stops = (change[0::2] + 1).tolist(), (change[1::2] + 1).tolist()
    leader = list(range(len(starts)))

    def find(n: int) -> int:
        while leader[n] != n:
            leader[n] = leader[leader[n]]
            n = leader[n]
        return n

    above = 0
    for n, (start, stop) in enumerate(zip(starts, stops, strict=True)):
        while above < n and stops[above] + width <= start:
            above += 1
        k = above
        while k < n and starts[k] + width < stop:
            leader[find(k)] = find(n)
            k += 1
    parts: dict[int, Mask] = {}
    for n, (start, stop) in enumerate(zip(starts, stops, strict=True)):
        part = parts.setdefault(find(n), np.zeros_like(mask))
        row = start // width
        part[row, start - row * width - 1 : stop - row * width - 1] = True
    return list(parts.values())


def stained(root: Path, grid: bool, seed: int) -> Iterator[Picture]:
    return nuclei(root, grid, seed, True)


def fluorescence(root: Path, grid: bool, seed: int) -> Iterator[Picture]:
    return nuclei(root, grid, seed, False)


REAL = "real detections"
KINDS: dict[str, Kind] = {
    "coco panoptic (leak)": coco_panoptic,
    "coco polygons (leak)": coco_polygons,
    "coco, as detected": coco_detected,
    REAL: real,
    "collages": collages,
    "scenes": scenes,
    "street (leak)": street,
    "street, small (leak)": small_street,
    "stained tissue (leak)": stained,
    "fluorescence (leak)": fluorescence,
    "leaves of one colour": leaves,
    "collages, as detected": detections(collages, 400),
    "scenes, as detected": detections(scenes, 200),
    "street, as detected": detections(street, 100),
    "street, small, as detected": detections(small_street, 60),
    "stained tissue, as detected": detections(stained, 100),
    "fluorescence, as detected": detections(fluorescence, 100),
    "leaves, as detected": detections(leaves, 400),
}

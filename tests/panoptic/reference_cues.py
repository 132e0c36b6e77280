"""The rule "color-contour" written down slowly and plainly, point by point, to hold the fast one against."""

from __future__ import annotations

import math

import numpy as np

from banet.panoptic.occlusion import cues

STEPS = ((0, 1), (0, -1), (1, 0), (-1, 0))
LINEAR = ((0.0899, 0.2747, 0.1375), (0.2485, -0.4864, 0.3278), (0.0328, 0.1737, -0.4856))
XYZ = ((0.4339530, 0.3762195, 0.1898276), (0.2126729, 0.7151522, 0.0721750), (0.0177578, 0.1094766, 0.8727655))


def spread(items, most):
    if len(items) <= most:
        return list(items)
    return [items[int((k + 0.5) * (len(items) / most))] for k in range(most)]


def halved(image, times):
    """Means of squares, rounded where the image is of bytes; the last row and column repeated where odd."""
    levels = [image]
    for _ in range(times):
        image = np.pad(image, (*((0, n % 2) for n in image.shape[:2]), (0, 0)), mode="edge").astype(float)
        image = (image[::2, ::2] + image[1::2, ::2] + image[::2, 1::2] + image[1::2, 1::2]) / 4
        image = np.floor(image + 0.5) if levels[0].dtype == np.uint8 else image
        levels.append(image)
    return levels


def pixel(levels, y, x, level):
    picture = levels[level]
    height, width = picture.shape[:2]
    return [float(v) for v in picture[min(max(y >> level, 0), height - 1), min(max(x >> level, 0), width - 1)]]


def linear(rgb):
    return [sum(w * v for w, v in zip(row, rgb, strict=True)) for row in LINEAR]


def lab(rgb):
    light = [((v / 255 + 0.055) / 1.055) ** 2.4 if v / 255 > 0.04045 else v / 255 / 12.92 for v in rgb]
    ratios = [sum(w * v for w, v in zip(row, light, strict=True)) for row in XYZ]
    x, y, z = (r ** (1 / 3) if r > 216 / 24389 else r * 841 / 108 + 4 / 29 for r in ratios)
    return 116 * y - 16, 500 * (x - y), 200 * (y - z)


def square(a, b):
    return sum((u - v) ** 2 for u, v in zip(a, b, strict=True))


def contour(front, back, level, step):
    """Points of the contour of `front` inside `back`: (y, x) and the normal, from back into the overlap."""
    points = []
    for y, x in sorted(front & back):
        points += [(y, x, d) for d in STEPS if (y + d[0], x + d[1]) in back - front]
    chosen = []
    for k, (y, x, d) in enumerate(spread(points, cues._CONTOUR_POINTS)[::step]):
        y, x = (y + d[0], x + d[1]) if k % 2 else (y, x)
        ny = nx = 0.0
        for ry, rx in cues._RING.tolist():
            at = math.floor(y + ry * 2**level + 0.5), math.floor(x + rx * 2**level + 0.5)
            sign = 0 if at not in back else 1 if at in front else -1
            ny, nx = ny + sign * ry, nx + sign * rx
        length = math.hypot(ny, nx)
        chosen.append((y, x, ny / length, nx / length) if length > 1e-3 else (y, x, -d[0], -d[1]))
    return chosen


def edge_of(points, levels, level):
    ratios = []
    for y, x, ny, nx in points:
        window = np.array(
            [
                [linear(pixel(levels, y + (u << level), x + (v << level), level)) for v in range(-2, 3)]
                for u in range(-2, 3)
            ]
        )
        rows = (window[:-2] + 2 * window[1:-1] + window[2:]) / 8
        columns = (window[:, :-2] + 2 * window[:, 1:-1] + window[:, 2:]) / 8
        right, down = rows[:, 2:] - rows[:, :-2], columns[2:] - columns[:-2]
        xx, yy, xy = (right**2).sum(), (down**2).sum(), (right * down).sum()
        excess = (nx * nx - ny * ny) * (xx - yy) + 4 * nx * ny * xy
        ratios.append((math.atanh(excess / (xx + yy + cues._FAINT)), xx + yy > 0))
    return ratios


def similarity(points, front, back, levels, level, reach):
    """Mean log density of the colours on one side of a contour among those on the other; None where there is none."""
    level = min(level + 1, len(levels) - 1) if level else 0
    logs = []
    for y, x, ny, nx in points:
        sides = []
        for sign, owner in ((1, front & back), (-1, back - front)):
            places = [
                (math.floor(y + 0.5 + sign * d * reach * ny), math.floor(x + 0.5 + sign * d * reach * nx))
                for d in cues._DEPTHS
            ]
            sides.append([linear(pixel(levels, *at, level)) for at in places if at in owner])
        kernels = [math.exp(-square(a, b) / (2 * cues._BANDWIDTH**2)) for a in sides[0] for b in sides[1]]
        if kernels:
            logs.append(math.log(sum(kernels) / len(kernels) + cues._FLOOR))
    return sum(logs) / len(logs) if logs else None


def local_color(first, second, image, levels, reach):
    both = first & second
    ys, xs = [y for y, _ in both], [x for _, x in both]
    pad = int(max(6, 0.6 * math.sqrt(len(both)), 2 * reach))
    top, left = max(0, min(ys) - pad), max(0, min(xs) - pad)
    bottom, right = min(image.shape[0], max(ys) + 1 + pad), min(image.shape[1], max(xs) + 1 + pad)
    side = max(bottom - top, right - left)
    level = min(len(levels), ((side - 1) // cues._SIDE + 1).bit_length()) - 1

    def near(pixels, most):
        inside = [(y, x) for y, x in sorted(pixels) if top <= y < bottom and left <= x < right]
        return [(at, lab(pixel(levels, *at, level))) for at in spread(inside, most)]

    own = [near(mine, cues._OWN_PIXELS) for mine in (first - second, second - first)]
    if not all(own):
        return 0.0
    logs = []
    for at, color in near(both, cues._OVERLAP_PIXELS):
        densities = []
        for some in own:
            least = min(square(at, where) for where, _ in some)
            weights = [math.exp((least - square(at, where)) / (2 * reach**2)) for where, _ in some]
            alike = [math.exp(-square(color, other) / (2 * cues._WIDE_BANDWIDTH**2)) for _, other in some]
            densities.append(sum(w * k for w, k in zip(weights, alike, strict=True)) / sum(weights))
        logs.append(math.log(densities[0] + cues._FLOOR) - math.log(densities[1] + cues._FLOOR))
    return sum(logs) / len(logs)


def box_side(pixels):
    ys, xs = [y for y, _ in pixels], [x for _, x in pixels]
    return math.sqrt((max(ys) + 1 - min(ys)) * (max(xs) + 1 - min(xs)))


def margin(first, second, image):
    """The margin for two sets of pixels (y, x) that overlap."""
    root = math.sqrt(len(first & second))
    reach = max(2, (box_side(first) + box_side(second)) / 28, 0.25 * root)
    level = round(math.log2(max(1, root / cues._COARSE)))
    levels = halved(image, level)
    own = [1 - len(first & second) / len(mine) + cues._ALWAYS for mine in (first, second)]
    shared = [math.log(own[1]) - math.log(own[0]), 0.5 * math.log(len(second) / len(first))]
    for weights, step in ((cues.FIRST_LOOK, 2), (cues.CLOSER_LOOK, 1)):
        contours = [contour(a, b, level, step) for a, b in ((first, second), (second, first))]
        edges = [edge_of(points, levels, level) for points in contours]
        means = [sum(ratio for ratio, _ in those) / len(those) if those else None for those in edges]
        edge = 0.0 if None in means else means[0] - means[1]
        if step == 1:
            color = local_color(first, second, image, levels, reach)
        else:
            alike = [
                similarity(points, a, b, levels, level, reach)
                for points, (a, b) in zip(contours, ((first, second), (second, first)), strict=True)
            ]
            color = 0.0 if None in alike else alike[1] - alike[0]
        seen = any(some for those in edges for _, some in those)
        values = [color, edge, *(shared if seen else (0.0, 0.0))]
        odds = sum(weight * value for weight, value in zip(weights.values(), values, strict=True))
        if abs(odds) >= cues.CLOSE:
            break
    return odds if abs(odds) > 1e-6 else 0.0

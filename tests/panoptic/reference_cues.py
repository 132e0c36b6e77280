"""The rule "color-contour" written down slowly and plainly, point by point, to hold the fast one against."""

from __future__ import annotations

import math

import numpy as np

from banet.panoptic.occlusion import contours, cues, nearby

STEPS = ((0, 1), (0, -1), (1, 0), (-1, 0))
LINEAR = ((0.0899, 0.2747, 0.1375), (0.2485, -0.4864, 0.3278), (0.0328, 0.1737, -0.4856))


def spread(items, most):
    if len(items) <= most:
        return list(items)
    return [items[int((k + 0.5) * (len(items) / most))] for k in range(most)]


def lab(image, y, x):
    """The colour of the nearest pixel of the image."""
    rgb = image[min(max(y, 0), image.shape[0] - 1), min(max(x, 0), image.shape[1] - 1)].astype(float).round()
    return [sum(w * v for w, v in zip(row, rgb, strict=True)) for row in LINEAR]


def square(a, b):
    return sum((u - v) ** 2 for u, v in zip(a, b, strict=True))


def border(front, back):
    """The contour of `front` inside `back`, in reading order."""
    return [(y, x, d) for y, x in sorted(front & back) for d in STEPS if (y + d[0], x + d[1]) in back - front]


def contour(front, back, spacing):
    """Points of the contour of `front` inside `back`: (y, x) and the normal, from back into the overlap."""
    chosen = []
    for k, (y, x, d) in enumerate(spread(border(front, back), contours._POINTS)):
        y, x = (y + d[0], x + d[1]) if k % 2 else (y, x)
        ny = nx = 0.0
        for ry, rx in contours._RING.tolist():
            at = math.floor(y + ry * spacing + 0.5), math.floor(x + rx * spacing + 0.5)
            sign = 0 if at not in back else 1 if at in front else -1
            ny, nx = ny + sign * ry, nx + sign * rx
        length = math.hypot(ny, nx)
        chosen.append((y, x, ny / length, nx / length) if length > 1e-3 else (y, x, -d[0], -d[1]))
    return chosen


def diagonal_products(window):
    xx = yy = xy = 0.0
    for v in range(2):
        for u in range(2):
            a, b, c, d = window[v, u], window[v, u + 1], window[v + 1, u], window[v + 1, u + 1]
            right, down = (b + d - a - c) / 2, (c + d - a - b) / 2
            xx, yy, xy = xx + (right**2).sum(), yy + (down**2).sum(), xy + (right * down).sum()
    return xx, yy, xy


def sobel_products(window):
    rows = (window[:-2] + 2 * window[1:-1] + window[2:]) / 8
    columns = (window[:, :-2] + 2 * window[:, 1:-1] + window[:, 2:]) / 8
    right, down = rows[:, 2:] - rows[:, :-2], columns[2:] - columns[:-2]
    return (right**2).sum(), (down**2).sum(), (right * down).sum()


def edge_of(points, image, spacing, wide):
    ratios = []
    reach = range(-2, 3) if wide else range(-1, 2)
    for y, x, ny, nx in points:
        window = np.array([[lab(image, y + u * spacing, x + v * spacing) for v in reach] for u in reach])
        xx, yy, xy = (sobel_products if wide else diagonal_products)(window)
        excess = (nx * nx - ny * ny) * (xx - yy) + 4 * nx * ny * xy
        ratios.append((excess / (xx + yy + contours._FAINT), xx + yy > 0))
    return ratios


def contrast(sides, first, second, image, reach):
    """Which object's own pixels across the contours have the colours of the overlap."""

    def at(point, depth):
        y, x, ny, nx = point
        return math.floor(y + 0.5 + depth * reach * ny), math.floor(x + 0.5 + depth * reach * nx)

    inside, beyond = [], []
    for points, own in zip(sides, (second - first, first - second), strict=True):
        for k, point in enumerate(points):
            place = at(point, contours._WITHIN[k % 4])
            inside += [lab(image, *place)] if place in first & second else []
        places = [at(point, -contours._BEYOND[k % 4]) for k, point in enumerate(points)]
        beyond.append([lab(image, *place) for place in places if place in own])
    if not all(beyond) or not inside:
        return 0.0
    logs = []
    for color in inside:
        kernels = [
            [math.exp(-square(color, other) / (2 * contours._BANDWIDTH**2)) for other in others] for others in beyond
        ]
        dense = [math.log(sum(some) / len(some) + contours._FLOOR) for some in kernels]
        logs.append(dense[1] - dense[0])  # beyond the second's contour lies what only the first claims
    return sum(logs) / len(logs)


def local_color(first, second, image):
    both = first & second
    root = math.sqrt(len(both))
    near, pad = max(1, nearby._NEAR * root), int(max(6, nearby._AROUND * root))
    ys, xs = [y for y, _ in both], [x for _, x in both]
    top, left = max(0, min(ys) - pad), max(0, min(xs) - pad)
    bottom, right = min(image.shape[0], max(ys) + 1 + pad), min(image.shape[1], max(xs) + 1 + pad)
    step = max(1, max(bottom - top, right - left) // nearby._SIDE)

    def colored(pixels, most):
        return [(at, lab(image, *at)) for at in spread(sorted(pixels), most)]

    def around(pixels):
        return [(y, x) for y, x in pixels if y in range(top, bottom, step) and x in range(left, right, step)]

    own = [
        colored(around(mine), room)
        for mine, room in zip((first - second, second - first), nearby._ROOMS[1:], strict=True)
    ]
    if not all(own):
        return 0.0
    logs = []
    for at, color in colored(both, nearby._ROOMS[0]):
        densities = []
        for some in own:
            least = min(square(at, where) for where, _ in some)
            weights = [math.exp((least - square(at, where)) / (2 * near**2)) for where, _ in some]
            alike = [math.exp(-square(color, other) / (2 * nearby._BANDWIDTH**2)) for _, other in some]
            densities.append(sum(w * k for w, k in zip(weights, alike, strict=True)) / sum(weights))
        logs.append(math.log(densities[0] + nearby._FLOOR) - math.log(densities[1] + nearby._FLOOR))
    return sum(logs) / len(logs)


def box_side(pixels):
    ys, xs = [y for y, _ in pixels], [x for _, x in pixels]
    return math.sqrt((max(ys) + 1 - min(ys)) * (max(xs) + 1 - min(xs)))


def margin(first, second, image):
    """The margin for two sets of pixels (y, x) that overlap."""
    overlap = len(first & second)
    root = math.sqrt(overlap)
    reach = max(2, (box_side(first) + box_side(second)) / 28, 0.25 * root)
    spacing = 2 ** round(math.log2(max(1, root / contours._COARSE)))
    sides = [contour(a, b, spacing) for a, b in ((first, second), (second, first))]
    points = len(border(first, second)) + len(border(second, first))
    own = [1 - overlap / len(mine) + cues._ALWAYS for mine in (first, second)]
    thin = math.exp(-((overlap / (cues._THIN * min(len(first), len(second)))) ** 2))
    shared = [math.log(own[1]) - math.log(own[0]), 0.5 * thin * math.log(len(second) / len(first))]
    for weights, closer in ((cues.FIRST_LOOK, False), (cues.CLOSER_LOOK, True)):
        edges = [edge_of(side, image, spacing, closer) for side in sides]
        means = [sum(ratio for ratio, _ in those) / len(those) if those else None for those in edges]
        edge = 0.0 if None in means else means[0] - means[1]
        color = local_color(first, second, image) if closer else contrast(sides, first, second, image, reach)
        seen = any(some for those in edges for _, some in those)
        values = [color, edge, *(shared if seen else (0.0, 0.0))]
        odds = sum(weight * value for weight, value in zip(weights.values(), values, strict=True))
        if abs(odds) >= cues.CLOSE:
            break
    odds *= points / (points + cues.FEW)
    return odds if abs(odds) > 1e-6 else 0.0

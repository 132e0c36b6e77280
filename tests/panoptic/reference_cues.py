"""The rule "color-contour" written down slowly, for images so small that nothing is scaled down or sampled."""

from __future__ import annotations

import functools
import math


def lab(rgb):
    linear = [v / 3294.6 if v <= 0.04045 * 255 else ((v / 255 + 0.055) / 1.055) ** 2.4 for v in map(float, rgb)]
    rows = ((0.4124564, 0.3575761, 0.1804375), (0.2126729, 0.7151522, 0.0721750), (0.0193339, 0.1191920, 0.9503041))
    white = (0.95047, 1.0, 1.08883)
    ratio = [sum(a * b for a, b in zip(row, linear, strict=True)) / w for row, w in zip(rows, white, strict=True)]
    x, y, z = (v ** (1 / 3) if v > (6 / 29) ** 3 else v / (3 * (6 / 29) ** 2) + 4 / 29 for v in ratio)
    return 116 * y - 16, 500 * (x - y), 200 * (y - z)


def square(u, v):
    return sum((a - b) ** 2 for a, b in zip(u, v, strict=True))


def mean(values):
    values = list(values)
    return sum(values) / len(values)


def neighbours(p):
    y, x = p
    return {(y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1)}


def margin(first, second, image):
    """The margin of two sets of pixels (y, x)."""
    both = first & second
    height, width = image.shape[:2]
    pad = int(max(6, 0.6 * math.sqrt(len(both))))
    ys, xs = [y for y, _ in both], [x for _, x in both]
    top, left = max(0, min(ys) - pad), max(0, min(xs) - pad)
    bottom, right = min(height - 1, max(ys) + pad), min(width - 1, max(xs) + pad)
    window = {(y, x) for y in range(top, bottom + 1) for x in range(left, right + 1)}
    if len({tuple(image[p].tolist()) for p in window}) == 1:
        return 0.0
    colour = {p: lab(image[p]) for p in window}
    own = [first - second, second - first]
    near = [pixels & window for pixels in own]
    reach = max(1.0, 0.1 * math.sqrt(len(both)))

    def like(p, q):
        return math.exp(-square(colour[p], colour[q]) / 32)

    def local(p, side):
        weight = {q: math.exp(-square(p, q) / (2 * reach**2)) for q in near[side]}
        return sum(weight[q] * like(p, q) for q in weight) / sum(weight.values())

    def ratio(a, b):
        return math.log(a + 1e-3) - math.log(b + 1e-3)

    local_color = mean(ratio(local(p, 0), local(p, 1)) for p in both) if all(near) else 0.0

    def clamp(p):
        """The pixel of the window that stands for one beyond it."""
        return min(max(p[0], top), bottom), min(max(p[1], left), right)

    def square_around(p, reach):
        return [(p[0] + dy, p[1] + dx) for dy in range(-reach, reach + 1) for dx in range(-reach, reach + 1)]

    @functools.cache
    def gradient(p):
        """Sobel's: to the right and down, three channels each."""
        at = {d: colour[clamp((p[0] + d[0], p[1] + d[1]))] for d in square_around((0, 0), 1)}
        weight = {-1: 1, 0: 2, 1: 1}
        to_right = [sum(weight[d] * (at[d, 1][c] - at[d, -1][c]) for d in weight) / 8 for c in range(3)]
        down = [sum(weight[d] * (at[1, d][c] - at[-1, d][c]) for d in weight) / 8 for c in range(3)]
        return to_right, down

    def across_against_along(beyond):
        """Mean over the line where the overlap meets what lies beyond."""

        @functools.cache
        def once(p):
            return sum((q in both) - (q in beyond) for q in map(clamp, square_around(p, 2)))

        @functools.cache
        def twice(p):
            return sum(once(clamp(q)) for q in square_around(p, 2))

        def energies(p):
            y, x = p
            to_right = twice(clamp((y, x + 1))) - twice(clamp((y, x - 1)))
            down = twice(clamp((y + 1, x))) - twice(clamp((y - 1, x)))
            length = math.hypot(to_right, down)
            grad = gradient(p)
            total = square(grad[0], (0, 0, 0)) + square(grad[1], (0, 0, 0))
            if not length:
                return total / 2, total / 2
            across = sum(((to_right * u + down * v) / length) ** 2 for u, v in zip(*grad, strict=True))
            return across, total - across

        line = {p for p in both if neighbours(p) & beyond} | {p for p in beyond if neighbours(p) & both}
        ratios = []
        for p in line:
            across, along = (sum(part) for part in zip(*(energies(clamp(q)) for q in square_around(p, 1)), strict=True))
            ratios.append(math.log((across + 1.5) / (along + 1.5)) / 2)
        return mean(ratios) if line else None

    sides = across_against_along(near[1]), across_against_along(near[0])
    edge = 0.0 if None in sides else sides[0] - sides[1]
    own_share = math.log(len(own[1]) / len(second) + 0.05) - math.log(len(own[0]) / len(first) + 0.05)
    total = 1.5 * local_color + 4.0 * edge + 0.8 * own_share
    return total if abs(total) > 1e-6 else 0.0

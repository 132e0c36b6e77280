"""The rule "colour-contour" written down slowly, for pictures so small that nothing is scaled down or sampled."""

from __future__ import annotations

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
    window = {
        (y, x)
        for y in range(max(0, min(ys) - pad), min(height, max(ys) + 1 + pad))
        for x in range(max(0, min(xs) - pad), min(width, max(xs) + 1 + pad))
    }
    if len({tuple(image[p].tolist()) for p in window | first | second}) == 1:
        return 0.0
    colour = {p: lab(image[p]) for p in window | first | second}
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

    local_colour = mean(ratio(local(p, 0), local(p, 1)) for p in both) if all(near) else 0.0
    own_colour = (
        mean(ratio(mean(like(p, q) for q in own[0]), mean(like(p, q) for q in own[1])) for p in both)
        if all(own)
        else 0.0
    )

    def around(p, pixels):
        seen = [colour[q] for q in pixels if max(abs(q[0] - p[0]), abs(q[1] - p[1])) <= 1]
        return [mean(channel) for channel in zip(*seen, strict=True)]

    def contrast(beyond):
        """Across the line where the overlap meets what lies beyond."""
        line = {p for p in both if neighbours(p) & beyond} | {p for p in beyond if neighbours(p) & both}
        return mean(math.log(math.sqrt(square(around(p, both), around(p, beyond))) + 1) for p in line) if line else None

    strengths = contrast(near[1]), contrast(near[0])
    step = 0.0 if None in strengths else strengths[0] - strengths[1]
    own_share = math.log(len(own[1]) / len(second) + 0.05) - math.log(len(own[0]) / len(first) + 0.05)
    total = 1.2 * local_colour + 1.0 * own_colour + 2.5 * step + 0.9 * own_share
    return total if abs(total) > 1e-6 else 0.0

"""Small id maps, and a strategy that draws them."""

from __future__ import annotations

import factories
from hypothesis import strategies as st

from banet.panoptic.categories import Categories, Category

A, B, SKY = 1, 7, 40
CATEGORIES = Categories([Category(A, "a", True), Category(B, "b", True), Category(SKY, "sky", False)])


def segmentation(rows, classes, crowd=(), categories=CATEGORIES):
    return factories.segmentation(rows, classes, crowd, categories)


@st.composite
def image_pairs(draw):
    """Maps of a few segments with void, crowd and large ids; the prediction is the truth, disturbed."""
    height, width = draw(st.integers(1, 5)), draw(st.integers(1, 8))
    cell = st.integers(0, 4)
    truth = draw(st.lists(cell, min_size=height * width, max_size=height * width))
    changes = draw(st.dictionaries(st.integers(0, height * width - 1), st.integers(0, 5), max_size=height * width))
    prediction = [changes.get(place, value) for place, value in enumerate(truth)]
    categories = st.sampled_from([A, B, SKY])

    def finish(values, offset):
        names = {0: 0}
        for value in set(values) - {0}:
            names[value] = offset + value * draw(st.sampled_from([1, 257, 65537, 3_000_001]))
        rows = [[names[v] for v in values[y * width : (y + 1) * width]] for y in range(height)]
        order = draw(st.permutations(sorted(set(names.values()) - {0})))
        return rows, order

    true_rows, true_order = finish(truth, 0)
    pred_rows, pred_order = finish(prediction, draw(st.sampled_from([0, 1000])))
    crowd = draw(st.sets(st.sampled_from(true_order))) if true_order else set()
    one_class = draw(st.booleans())
    true_classes = {i: A if one_class else draw(categories) for i in true_order}
    pred_classes = {i: A if one_class else draw(categories) for i in pred_order}
    return pred_rows, pred_classes, true_rows, true_classes, crowd

"""Panoptic quality written down once more, slowly, with sets of pixels: nothing here is shared with the library."""

from __future__ import annotations

from fractions import Fraction


def pixels_of(rows):
    """{id: set of its (row, column)}, void included, whether it occurs or not."""
    pixels = {0: set()}
    for y, row in enumerate(rows):
        for x, value in enumerate(row):
            pixels.setdefault(value, set()).add((y, x))
    return pixels


def count_image(pred_rows, pred_records, true_rows, true_records):
    """Counts one image.

    Maps are lists of rows; records are (id, category) for predictions and (id, category, crowd) for truth.
    Returns {category: [list of exact IoUs, false alarms, misses]}.
    """
    counts = {}

    def of(category):
        return counts.setdefault(category, [[], 0, 0])

    true_pixels_of, pred_pixels_of = pixels_of(true_rows), pixels_of(pred_rows)
    void = true_pixels_of[0]
    truth = [(true_pixels_of[i], category, crowd) for i, category, crowd in true_records]
    predictions = [(pred_pixels_of[i], category) for i, category in pred_records]

    matched_truth, matched_predictions = set(), set()
    for t, (true_pixels, true_category, crowd) in enumerate(truth):
        for p, (pred_pixels, category) in enumerate(predictions):
            if crowd or category != true_category:
                continue
            counted = pred_pixels - void
            iou = Fraction(len(true_pixels & counted), len(true_pixels | counted))
            if iou > Fraction(1, 2):
                assert t not in matched_truth and p not in matched_predictions
                matched_truth.add(t)
                matched_predictions.add(p)
                of(category)[0].append(iou)

    for t, (_, category, crowd) in enumerate(truth):
        if t not in matched_truth and not crowd:
            of(category)[2] += 1

    for p, (pred_pixels, category) in enumerate(predictions):
        if p in matched_predictions:
            continue
        ignored = set(void)
        crowds = [true_pixels for true_pixels, true_category, crowd in truth if crowd and true_category == category]
        if crowds:
            ignored |= crowds[-1]
        if 2 * len(pred_pixels & ignored) <= len(pred_pixels):
            of(category)[1] += 1
    return counts


def regions(pred_rows, pred_records, true_rows, true_records):
    """{(true category, predicted category): pairs with an IoU above 1/2}, crowd left out."""
    true_pixels_of, pred_pixels_of = pixels_of(true_rows), pixels_of(pred_rows)
    found = {}
    for i, true_category, crowd in true_records:
        for j, category in pred_records:
            counted = pred_pixels_of[j] - true_pixels_of[0]
            if not crowd and 2 * len(true_pixels_of[i] & counted) > len(true_pixels_of[i] | counted):
                found[true_category, category] = found.get((true_category, category), 0) + 1
    return found


def add(total, counts):
    for category, (ious, false_alarms, misses) in counts.items():
        entry = total.setdefault(category, [[], 0, 0])
        entry[0] += ious
        entry[1] += false_alarms
        entry[2] += misses
    return total


def averages(total, categories):
    """PQ, SQ, RQ and number of classes over the given categories, exact; None where none occurs."""
    rows = []
    for category in categories:
        ious, false_alarms, misses = total.get(category, [[], 0, 0])
        if not ious and not false_alarms and not misses:
            continue
        sq = sum(ious, Fraction()) / len(ious) if ious else Fraction()
        rq = Fraction(2 * len(ious), 2 * len(ious) + false_alarms + misses)
        rows.append((sq * rq, sq, rq))
    if not rows:
        return None, None, None, 0
    return (*(sum(column, Fraction()) / len(rows) for column in zip(*rows, strict=True)), len(rows))

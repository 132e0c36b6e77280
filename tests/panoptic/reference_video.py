"""VPQ, STQ, IDF1 and id switches written down once more, slowly and exactly: nothing is shared with the library.

A frame is (predicted rows, {id: class}, true rows, {id: class}, crowd ids); ids of a video stand for one object. Sums
are fractions, sets are sets of pixels.
"""

from __future__ import annotations

import itertools
import math
from fractions import Fraction

import reference_quality


def vpq(videos, categories, windows):
    """PQ over each size of window, averaged over the classes that occur, and then over the sizes."""
    scores = []
    for size in windows:
        total = {}
        for frames in videos:
            for start in range(len(frames) - size + 1):
                window = frames[start : start + size]
                pred_rows = [row for frame in window for row in frame[0]]
                true_rows = [row for frame in window for row in frame[2]]
                pred, true, crowd = {}, {}, {}
                for _, pred_classes, _, true_classes, crowds in window:
                    for i, c in pred_classes.items():
                        pred.setdefault(i, c)
                    for i, c in true_classes.items():
                        true.setdefault(i, c)
                        crowd.setdefault(i, i in crowds)
                records = [(i, c, crowd[i]) for i, c in true.items()]
                counts = reference_quality.count_image(pred_rows, list(pred.items()), true_rows, records)
                reference_quality.add(total, counts)
        scores.append(reference_quality.averages(total, categories)[0])
    return math.nan if None in scores else sum(scores, Fraction()) / len(scores)


def pixels(frames, side):
    """{id: set of (frame, row, column)}, void included, of the predictions (0) or of the truth (2)."""
    found = {}
    for t, frame in enumerate(frames):
        for y, row in enumerate(frame[side]):
            for x, value in enumerate(row):
                found.setdefault(value, set()).add((t, y, x))
    return found


def segmentation_quality(videos, categories):
    """Mean IoU of the classes over all pixels that are not void in the truth."""
    true, pred = {c: set() for c in categories}, {c: set() for c in categories}
    for v, frames in enumerate(videos):
        for t, (pred_rows, pred_classes, true_rows, true_classes, _) in enumerate(frames):
            for y, row in enumerate(true_rows):
                for x, value in enumerate(row):
                    if value == 0:
                        continue
                    true[true_classes[value]].add((v, t, y, x))
                    if pred_rows[y][x]:
                        pred[pred_classes[pred_rows[y][x]]].add((v, t, y, x))
    ious = [Fraction(len(true[c] & pred[c]), len(true[c] | pred[c])) for c in categories if true[c] | pred[c]]
    return sum(ious, Fraction()) / len(ious) if ious else None


def association_quality(videos, things):
    total, tracks = Fraction(), 0
    for frames in videos:
        crowd_pixels = {
            (t, y, x)
            for t, (_, _, true_rows, true_classes, crowd) in enumerate(frames)
            for y, row in enumerate(true_rows)
            for x, value in enumerate(row)
            if value in crowd and true_classes[value] in things
        }
        classes = {i: c for frame in frames for i, c in frame[1].items()}
        predicted = {i: some - crowd_pixels for i, some in pixels(frames, 0).items() if i and classes[i] in things}
        classes = {i: c for frame in frames for i, c in frame[3].items()}
        true = {i: some - crowd_pixels for i, some in pixels(frames, 2).items() if i and classes[i] in things}
        true = {i: some for i, some in true.items() if some}
        tracks += len(true)
        for track in true.values():
            inner = Fraction()
            for found in predicted.values():
                shared = len(track & found)
                if shared:
                    inner += shared * Fraction(shared, len(track | found))
            total += inner / len(track)
    return total / tracks if tracks else None


def identities(videos, things):
    """IDF1 over all injections of objects into predicted ids, and [switches, those after a gap, reappearances]."""
    true_positives = truth = prediction = 0
    switches = [0, 0, 0]
    for frames in videos:
        together = {}
        history = {}  # object -> per frame: None where it has no pixel, 0 where it is not found, else the id
        for t, (pred_rows, pred_classes, true_rows, true_classes, crowd) in enumerate(frames):
            true_pixels, pred_pixels = (reference_quality.pixels_of(rows) for rows in (true_rows, pred_rows))
            records = [(i, c, i in crowd) for i, c in true_classes.items()]
            counts = reference_quality.count_image(pred_rows, list(pred_classes.items()), true_rows, records)
            prediction += sum(len(entry[0]) + entry[1] for c, entry in counts.items() if c in things)
            for i, c in true_classes.items():
                if c not in things or i in crowd:
                    continue
                truth += 1
                marks = history.setdefault(i, [None] * t)
                marks += [None] * (t - len(marks))
                marks.append(0)
                for j, d in pred_classes.items():
                    counted = pred_pixels[j] - true_pixels[0]
                    if c == d and 2 * len(true_pixels[i] & counted) > len(true_pixels[i] | counted):
                        marks[t] = j
                        together[i, j] = together.get((i, j), 0) + 1
        objects, found = sorted({i for i, _ in together}), sorted({j for _, j in together})
        found += [None] * len(objects)
        true_positives += max(
            sum(together.get(pair, 0) for pair in zip(objects, chosen, strict=True))
            for chosen in itertools.permutations(found, len(objects))
        )
        for marks in history.values():
            for t, now in enumerate(marks):
                before = [s for s in range(t) if marks[s]]
                if now and before:
                    gap = None in marks[before[-1] : t]
                    switches[0] += marks[before[-1]] != now
                    switches[1] += gap and marks[before[-1]] != now
                    switches[2] += gap
    return Fraction(2 * true_positives, truth + prediction) if truth + prediction else None, switches

"""Fuse instances and a label map to a panoptic result, and score it: NumPy arrays only, no network, no torch.

    python examples/fuse_and_score.py [COUNT]

The arrays are those of procedural scenes: full masks with random scores stand in for a detector's, the true stuff for
a segmenter's label map. Prints PQ under three occlusion rules.
"""

import sys

import numpy as np

from banet.data.scenes import SCENE_CATEGORIES, Scenes, make_scene
from banet.panoptic import PanopticQuality, fuse_panoptic

count, rng = int(sys.argv[1]) if len(sys.argv) > 1 else 5, np.random.default_rng(0)
scenes = Scenes(seed=3, length=count)
quality = {rule: PanopticQuality(SCENE_CATEGORIES) for rule in ("heuristic", "appearance", "color-contour")}
for index in range(count):
    image, truth = scenes.read(index)
    masks = make_scene(3, index).masks  # (N, H, W), hidden parts included
    scores = rng.uniform(0.7, 1.0, len(masks))
    labels = [segment.category_id for segment in truth.segments if segment.isthing]
    for rule, score in quality.items():
        result = fuse_panoptic(
            masks, scores, labels, truth.semantic, image, categories=SCENE_CATEGORIES, rule=rule, stuff_area=64
        )
        score.update(result, truth)
for rule, score in quality.items():
    table = score.compute()
    print(f"{rule:15} PQ {100 * table['All']['pq']:5.1f}, of things {100 * table['Things']['pq']:5.1f}")

"""Bytes of an image file in, what the page shows of it out."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from banet.data.images import decode_image
from banet.engine.prediction.clips import Clip, decode_clip
from banet.engine.report.gallery import encode_jpeg, encode_map
from banet.errors import InputWarning
from banet.files.worker import Budget, Workers
from banet.inference.postprocess import Instances
from banet.inference.predictor import Predictor
from banet.modeling.config import InferenceConfig
from banet.panoptic import PanopticQuality, PanopticSegmentation
from banet.panoptic.defaults import BEST_OVERLAP_THRESHOLD, BEST_RULE, RuleName
from banet.panoptic.drawing.colors import find_objects
from banet.panoptic.id_maps import index_map
from banet.panoptic.occlusion.overlap_report import report_overlaps
from banet.panoptic.sample_depth import SampleDepth

__all__ = ["Limits", "Segmenter"]


@dataclass(frozen=True)
class Limits:
    """What visitors may ask for.

    Attributes:
        file_bytes: Largest file.
        pixels: Most pixels of an image, read in its header before it is decoded.
        side: Longest side that the network's results are made at; larger images are reduced to it.
        clip_frames: Frames of a video that are tracked, from its beginning.
        clip_side: Longest side of these.
        waiting: Images that wait for the network; further requests are refused with 503.
        receiving: Files that are received at the same time. A further one displaces the slowest.
        seconds: Longest time in which a file may arrive.
        bytes_per_second: Least rate at which it must arrive, after the first five seconds.
    """

    file_bytes: int = 16 * 2**20
    pixels: int = 40_000_000
    side: int = 1280
    clip_frames: int = 100
    clip_side: int = 512
    waiting: int = 8
    receiving: int = 8
    seconds: float = 60
    bytes_per_second: int = 32 * 2**10


class Segmenter:
    """A function from the bytes of an image file to the JSON that the page shows; all work on a visitor's file is here.

    A file is decoded in a worker process, whatever it is: one that crashes a decoder costs its own answer.

    Args:
        model: Any network with `predict_unfused`.
        limits: Of these `pixels` and `side`.
        budget: What decoding an image may take.
    """

    def __init__(self, model: Predictor, limits: Limits, budget: Budget | None = None) -> None:
        self.model, self.limits = model, limits
        self.workers = Workers(budget)

    def __call__(self, data: bytes, name: str) -> bytes:
        """Segment an image file.

        Args:
            data: What the file holds.
            name: What to call it in errors and notes.

        Returns:
            JSON, see `answer`.

        Raises:
            InputError: It is not an image, has too many pixels, or takes too much to decode.
            MissingExtraError: A HEIC image, and pillow-heif is not installed.
        """
        depth = replace(SampleDepth.of(self.model.inference.bit_depth), warns=True)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", InputWarning)
            image = self.workers.call(decode_image, data, name, max_pixels=self.limits.pixels, bit_depth=depth)
        notes = [str(one.message) for one in caught if issubclass(one.category, InputWarning)]
        return self.answer(image, notes=notes)

    def decode_video(self, data: bytes, name: str) -> Clip:
        """Decode the first frames of a video file, in a worker process, too.

        Raises:
            InputError: It is not a video, its frames have too many pixels, or it takes too much to decode.
            MissingExtraError: PyAV is not installed.
        """
        limits = self.limits
        most = {"max_pixels": limits.pixels, "max_frames": limits.clip_frames, "max_side": limits.clip_side}
        return self.workers.call(decode_clip, data, name, **most)

    def answer(
        self, image: Image.Image, *, notes: Sequence[str] = (), ground_truth: PanopticSegmentation | None = None
    ) -> bytes:
        """Return what the page shows of an image: its segmentation by every rule, from one pass of the network.

        Args:
            image: RGB.
            notes: What was guessed or left out when it was read.
            ground_truth: Where it is known, of the same size; the image must not be larger than `limits.side`.

        Returns:
            JSON with `size` (width, height) and `original`, the same before the image was reduced; `image`, a JPEG in
            base 64; `notes`; `objects`, what is found by any rule: `category_id`, `score` and `color`; and `results` by
            rule: `map`, positions in the list of segments, see `encode_map`; `segments` with `id`, `object` (position
            in `objects`), `area`, `bbox` (x, y, width, height) and `sure`, how likely the least sure decision about it
            is right, 0.5..1, where the rule is calibrated; and `pq`, where the ground truth is known.
        """
        original = image.size
        image.thumbnail((self.limits.side, self.limits.side))
        (unfused,) = self.model.predict_unfused([np.array(image)])
        options = {rule: self._options(rule) for rule in get_args(RuleName)}
        results = {rule: unfused.fuse(self.model.categories, each) for rule, each in options.items()}
        objects, colors, numbers = find_objects((r.segments for r in results.values()), self.model.categories)
        content = {
            "size": image.size,
            "original": original,
            "image": encode_jpeg(image),
            "notes": list(notes),
            "objects": [
                {"category_id": s.category_id, "score": s.score, "color": color}
                for s, color in zip(objects, colors.tolist(), strict=True)
            ],
            "results": {
                rule: _describe(result, some, ground_truth, _least_sure(result, unfused.instances, options[rule]))
                for (rule, result), some in zip(results.items(), numbers, strict=True)
            },
        }
        return json.dumps(content, separators=(",", ":")).encode()

    def _options(self, rule: RuleName) -> InferenceConfig:
        threshold = BEST_OVERLAP_THRESHOLD if rule == BEST_RULE else self.model.inference.overlap_threshold
        return replace(self.model.inference, rule=rule, overlap_threshold=threshold)


def _least_sure(result: PanopticSegmentation, instances: Instances, options: InferenceConfig) -> dict[int, float]:
    """Return how likely the least sure decision about each segment is right, by id, where the rule is calibrated."""
    report = report_overlaps(
        result,
        instances.masks,
        instances.scores,
        result.categories.ids[instances.labels],
        rule=options.rule,
        overlap_threshold=options.overlap_threshold,
    )
    sure: dict[int, float] = {}
    for decision in report.decisions:
        for mask in (decision.front, decision.back):
            segment = int(report.segments[mask])
            if segment and decision.probability is not None:
                sure[segment] = min(decision.probability, sure.get(segment, 1.0))
    return sure


def _describe(
    result: PanopticSegmentation,
    objects: Sequence[int],
    ground_truth: PanopticSegmentation | None,
    sure: Mapping[int, float],
) -> dict[str, Any]:
    """Return what the page gets of one result; `objects` has the position of each segment in the answer's list."""
    segments = [
        {"id": s.id, "object": number, "area": s.area, "bbox": s.bbox}
        | ({"sure": round(sure[s.id], 4)} if s.id in sure else {})
        for s, number in zip(result.segments, objects, strict=True)
    ]
    positions: NDArray[np.int32] = index_map(result.ids, [s.id for s in result.segments])
    described: dict[str, Any] = {"map": encode_map(positions), "segments": segments}
    if ground_truth is not None:
        quality = PanopticQuality(result.categories)
        quality.update(result, ground_truth)
        described["pq"] = quality.compute()["All"]["pq"]
    return described

"""From the bytes of an image to what the page shows."""

from __future__ import annotations

import base64
import io
import json
import os
import signal
import sys
import zlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
from pages import TwoBoxes, empty_png, encoded
from PIL import Image

from banet.errors import InputError
from banet.files.worker import Budget
from banet.panoptic import PanopticQuality, PanopticSegmentation
from banet.panoptic.defaults import BEST_OVERLAP_THRESHOLD, BEST_RULE, RuleName
from banet.panoptic.occlusion.overlap_report import report_overlaps


def ids_of(answer: dict[str, Any], rule: str) -> np.ndarray:
    """The id map of a rule in an answer, read as the page reads it, but by numpy."""
    result = answer["results"][rule]
    both = np.frombuffer(zlib.decompress(base64.b64decode(result["map"])), "<u4").reshape(2, -1)
    ids = np.array([segment["id"] for segment in result["segments"]] + [0])
    return np.repeat(ids[both[0]], both[1]).reshape(answer["size"][::-1])


@pytest.fixture
def segmenter(app) -> Iterator[Any]:
    from banet.app.answers import Segmenter

    segmenter = Segmenter(TwoBoxes(), app.Limits(file_bytes=2**20, pixels=1_000_000, side=300))
    yield segmenter
    segmenter.workers.close()


def test_one_pass_of_the_network_answers_for_every_rule(segmenter):
    answer = json.loads(segmenter(encoded(np.zeros((30, 60, 3), np.uint8)), "a.png"))
    assert segmenter.model.runs == 1
    assert list(answer["results"]) == list(get_args(RuleName))
    assert (answer["size"], answer["original"], answer["notes"]) == ([60, 30], [60, 30], [])
    image = Image.open(io.BytesIO(base64.b64decode(answer["image"])))
    assert (image.size, image.format) == ((60, 30), "JPEG")


def test_an_answer_agrees_with_predict(app, model):
    from banet.app.answers import Segmenter
    from banet.data.scenes.generate import make_scene

    scene = make_scene(3, 8, (225, 300))
    truth = PanopticSegmentation(scene.ids, scene.segments, scene.categories)
    answer = json.loads(Segmenter(model, app.Limits()).answer(Image.fromarray(scene.image), ground_truth=truth))
    (unfused,) = model.predict_unfused([scene.image])
    for rule in get_args(RuleName):
        options = model.inference
        if rule == BEST_RULE:
            options = replace(options, overlap_threshold=BEST_OVERLAP_THRESHOLD)
        expected = unfused.fuse(model.categories, options, rule=rule)
        assert np.array_equal(ids_of(answer, rule), expected.ids)
        told = answer["results"][rule]["segments"]
        objects = [answer["objects"][segment["object"]] for segment in told]
        assert [
            (s["id"], s["area"], tuple(s["bbox"]), o["category_id"], o["score"])
            for s, o in zip(told, objects, strict=True)
        ] == [(s.id, s.area, s.bbox, s.category_id, s.score) for s in expected.segments]
        quality = PanopticQuality(model.categories)
        quality.update(expected, truth)
        assert answer["results"][rule]["pq"] == quality.compute()["All"]["pq"]


def test_how_sure_the_order_of_an_object_is(app, model):
    from banet.app.answers import Segmenter
    from banet.data.scenes.generate import make_scene

    image = make_scene(3, 8, (225, 300)).image
    answer = json.loads(Segmenter(model, app.Limits()).answer(Image.fromarray(image)))
    (unfused,) = model.predict_unfused([image])
    found = unfused.instances
    for rule in get_args(RuleName):
        threshold = BEST_OVERLAP_THRESHOLD if rule == BEST_RULE else model.inference.overlap_threshold
        result = unfused.fuse(model.categories, replace(model.inference, rule=rule, overlap_threshold=threshold))
        labels = model.categories.ids[found.labels]
        options = {"rule": rule, "overlap_threshold": threshold}
        report = report_overlaps(result, found.masks, found.scores, labels, **options)
        expected = {}
        for segment in result.segments:
            own = [
                decision.probability
                for decision in report.decisions
                if segment.id in report.segments[[decision.front, decision.back]] and decision.probability is not None
            ]
            if own:
                expected[segment.id] = round(min(own), 4)
        told = answer["results"][rule]["segments"]
        assert {segment["id"]: segment["sure"] for segment in told if "sure" in segment} == expected
        assert bool(expected) == (rule == BEST_RULE)  # the only rule that is calibrated


def test_an_object_is_the_same_in_all_results(segmenter):
    answer = json.loads(segmenter(encoded(np.zeros((30, 60, 3), np.uint8)), "a.png"))
    assert [(o["category_id"], o["score"]) for o in answer["objects"]] == [(5, 0.9), (9, 0.7), (2, None)]
    assert len({tuple(o["color"]) for o in answer["objects"]}) == 3
    owners = {rule: {s["object"] for s in result["segments"]} for rule, result in answer["results"].items()}
    assert owners["score"] == {0, 1, 2}


def test_a_large_image_is_reduced_and_says_so(segmenter):
    answer = json.loads(segmenter(encoded(np.zeros((200, 600, 3), np.uint8)), "a.png"))
    assert (answer["size"], answer["original"]) == ([300, 100], [600, 200])
    assert ids_of(answer, "score").shape == (100, 300)


def test_what_is_guessed_or_left_out_is_told(segmenter):
    pages = [Image.fromarray(np.full((20, 30), value, np.uint8)) for value in (0, 90, 200)]
    several = encoded(pages[0], "TIFF", save_all=True, append_images=pages[1:])
    (note,) = json.loads(segmenter(several, "a.tif"))["notes"]
    assert note == "a.tif: the first of 3 pages or frames is read, the others are left out"
    (note,) = json.loads(segmenter(encoded(np.full((20, 30), 3000, np.uint16)), "a.png"))["notes"]
    assert "taken to use 12 bits" in note


@pytest.mark.parametrize("shape", [(1, 1, 3), (1, 300, 3), (40, 30), (300, 1, 3)])
def test_odd_images_are_answered(segmenter, shape):
    answer = json.loads(segmenter(encoded(np.zeros(shape, np.uint8)), "a.png"))
    assert answer["size"] == [shape[1], shape[0]]
    assert ids_of(answer, "heuristic").shape == shape[:2]


@pytest.mark.parametrize(
    ("data", "fault"),
    [
        (b"", "is empty"),
        (b"just a text", "is not an image"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "is not an image"),
        (
            encoded(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8))[:5000],
            "truncated or corrupt",
        ),
        (empty_png(60000, 60000), "too many pixels"),
        (empty_png(1001, 1000), "too many pixels (1001 x 1000; the limit is 1000000)"),
    ],
)
def test_what_is_not_an_image_is_named(segmenter, data, fault):
    with pytest.raises(InputError) as caught:
        segmenter(data, "it.png")
    assert str(caught.value).startswith("it.png: ")
    assert fault in str(caught.value)


# ---------------------------------------------------------------------------------------------- what is said of weights


def test_bundled_weights_have_samples_a_domain_and_figures_that_the_docs_give(app):
    from banet.app.weights import Samples, describe
    from banet.checkpoint.bundled import BUNDLED
    from banet.inference.banet import BANet

    docs = " ".join(path.read_text() for path in (Path(__file__).parents[2] / "docs" / "results").glob("*.md"))
    for weights, known in BUNDLED.items():
        model = BANet.from_pretrained(weights)
        samples = Samples(model.categories)
        facts = describe(weights, model, samples, app.Limits())
        assert (facts["weights"], facts["domain"], facts["figures"]) == (weights, known.domain, known.figures)
        assert facts["samples"]["count"] == len(samples) == 4
        assert f"{known.pq:.1f}" in docs
        assert (facts["rule"], facts["other"], facts["score"]) == (BEST_RULE, "heuristic", 0.6)
        for number in range(4):
            assert samples[number].ground_truth.categories.to_coco()[0]["name"] == model.categories[0].name
            assert max(samples[number].image.shape) <= app.Limits().side  # as `Segmenter.answer` asks


def test_other_weights_have_no_samples_and_their_own_figures(app, monkeypatch):
    from banet.app import weights

    metadata = {"recipe": "coco_r50_1x", "data": "COCO train2017", "pq": "41.07"}
    monkeypatch.setattr(weights, "read_checkpoint", lambda source: type("", (), {"metadata": metadata}))
    samples = weights.Samples(TwoBoxes.categories)
    with pytest.raises(IndexError):
        samples[0]
    facts = weights.describe("runs/mine/model.safetensors", TwoBoxes(), samples, app.Limits())
    assert (facts["weights"], facts["samples"]["count"]) == ("model.safetensors", 0)
    assert (facts["domain"], facts["figures"]) == (TwoBoxes.domain, "PQ 41.1 on its validation data")
    metadata.clear()
    facts = weights.describe("model.safetensors", TwoBoxes(), samples, app.Limits())
    assert (facts["domain"], facts["figures"]) == (TwoBoxes.domain, "")


def test_every_rule_has_a_line():
    pytest.importorskip("starlette")
    from banet.app.weights import RULES

    assert set(RULES) == set(get_args(RuleName))


def test_the_samples_show_what_occlusion_handling_is_worth(app, model):
    from banet.app.answers import Segmenter
    from banet.app.weights import Samples

    segmenter = Segmenter(model, app.Limits())
    for number in range(4):
        sample = Samples(model.categories)[number]
        answer = json.loads(segmenter.answer(Image.fromarray(sample.image), ground_truth=sample.ground_truth))
        gain = answer["results"][BEST_RULE]["pq"] - answer["results"]["heuristic"]["pq"]
        assert gain > 0.02, (number, gain)


@pytest.mark.skipif(sys.platform != "linux", reason="the system limits memory")
def test_a_file_that_takes_too_much_costs_its_own_answer(app):
    from banet.app.answers import Limits, Segmenter

    segmenter = Segmenter(TwoBoxes(), Limits(), Budget(memory=128 << 20, seconds=10))
    good = encoded(np.zeros((40, 60, 3), np.uint8))
    with pytest.raises(InputError, match=r"^large\.png: takes more than 128 MB of memory"):
        segmenter(encoded(np.zeros((6000, 6000, 3), np.uint8)), "large.png")
    assert json.loads(segmenter(good, "good.png"))["size"] == [60, 40]
    for _ in range(3):
        os.kill(segmenter.workers.call(os.getpid), signal.SIGKILL)
        assert json.loads(segmenter(good, "good.png"))["size"] == [60, 40]
    segmenter.workers.close()


def test_visitors_files_are_decoded_in_another_process(app, monkeypatch):
    from banet.app import answers

    segmenter = answers.Segmenter(TwoBoxes(), answers.Limits())
    monkeypatch.setattr("banet.data.images.source.ImageSource.rgb", None)  # here, but not there
    assert json.loads(segmenter(encoded(np.zeros((40, 60, 3), np.uint8)), "good.png"))["size"] == [60, 40]
    segmenter.workers.close()

"""Ids over the frames of videos: made of rectangles, of random maps, and of scenes whose truth is known."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from factories import PERSON_SKY_TIE, blocks
from hypothesis import given, settings
from hypothesis import strategies as st

import banet
from banet.data.scenes import SCENE_CATEGORIES, SceneVideo
from banet.errors import InputError
from banet.panoptic import PanopticSegmentation, VideoQuality
from banet.panoptic.id_maps import index_map
from banet.panoptic.tracking.motion import Silhouette, complete, displacement
from banet.panoptic.tracking.tracker import Tracker, TrackingConfig

PERSON, SKY, TIE = 1, 5, 300
SIZE = 60, 100
FORGETFUL = TrackingConfig(occlusion_memory=False)


def frame(*things, size=SIZE, colors=None, shift=0, category=PERSON):
    """Rectangles (name, x, y, width, height), the last in front, on sky; ids are drawn anew from `shift`.

    Returns:
        The result, and the name of each id in it.
    """
    ids, image = np.zeros(size, dtype=np.int32), np.full((*size, 3), 90, dtype=np.uint8)
    names = {}
    for k, (name, x, y, width, height) in enumerate(things):
        box = slice(max(y, 0), max(y + height, 0)), slice(max(x, 0), max(x + width, 0))
        ids[box] = shift + k + 1
        image[box] = (colors or {}).get(name, (200, 40, 40))
        names[shift + k + 1] = name
    there = set(np.unique(ids).tolist()) - {0}
    records = [{"id": i, "category_id": category, "score": 0.9} for i in names if i in there]
    sky = shift + len(things) + 1
    ids[ids == 0] = sky
    records.append({"id": sky, "category_id": SKY})
    return PanopticSegmentation.from_ids(ids, records, PERSON_SKY_TIE, image), names


def ids_of(tracker, frames):
    """{name: set of ids that it had}, and the ids of sky."""
    found, sky = {}, set()
    for k, things in enumerate(frames):
        result, names = frame(*things["things"], shift=7 * k, **things.get("options", {}))
        tracked = tracker.update(result)
        assert tracked.semantic.tolist() == result.semantic.tolist()
        for segment in result.segments:
            (now,) = np.unique(tracked.ids[result.ids == segment.id]).tolist()
            if segment.isthing:
                found.setdefault(names[segment.id], set()).add(now)
            else:
                sky.add(now)
    return found, sky


def passing(positions, wall=(40, 10, 22, 40), colors=None):
    """A walker behind a wall, one frame per position."""
    options = {"colors": colors or {"wall": (40, 40, 200)}}
    return [{"things": [("walker", x, 20, 12, 25), ("wall", *wall)], "options": options} for x in positions]


# --------------------------------------------------------------------------------------------------------------- hidden


def test_an_object_that_passes_behind_another_keeps_its_id():
    found, sky = ids_of(Tracker(), passing(range(10, 90, 3)))
    assert [len(ids) for ids in found.values()] == [1, 1] and len(sky) == 1


def test_it_does_not_once_the_memory_is_off():
    slow = [*range(20, 43, 2), *[43] * 20, *range(43, 80, 2)]
    assert len(ids_of(Tracker(), passing(slow))[0]["walker"]) == 1
    assert len(ids_of(Tracker(FORGETFUL), passing(slow))[0]["walker"]) == 2


def test_it_may_turn_behind_the_other_and_come_out_where_it_went_in():
    there = list(range(10, 46, 3))
    found, _ = ids_of(Tracker(), passing([*there, *[46] * 15, *reversed(there)]))
    assert [len(ids) for ids in found.values()] == [1, 1]


def test_another_color_of_the_same_class_is_another_object():
    hidden = passing(range(10, 46, 3)) + passing([46] * 3)
    stranger = [
        {"things": [("stranger", x, 20, 12, 25), ("wall", 40, 10, 22, 40)],
         "options": {"colors": {"wall": (40, 40, 200), "stranger": (30, 220, 60)}}}
        for x in range(52, 80, 3)
    ]  # fmt: skip
    found, _ = ids_of(Tracker(), hidden + stranger)
    assert len(found["stranger"]) == 1 and not found["stranger"] & found["walker"]


def test_two_that_cross_keep_their_ids_also_without_images():
    frames = [{"things": [("back", 5 + 3 * k, 15, 12, 30), ("front", 80 - 3 * k, 12, 14, 36)]} for k in range(24)]
    tracker, found = Tracker(), {}
    for k, one in enumerate(frames):
        result, names = frame(*one["things"], shift=5 * k)
        tracked = tracker.update(replace(result, image=None))
        for i, name in names.items():
            if (result.ids == i).any():
                found.setdefault(name, set()).update(np.unique(tracked.ids[result.ids == i]).tolist())
    assert [len(ids) for ids in found.values()] == [1, 1] and found["back"] != found["front"]


def test_a_hidden_object_is_forgotten_after_its_patience():
    config = TrackingConfig(hidden_patience=10)
    found, _ = ids_of(Tracker(config), passing([*range(10, 46, 3), *[46] * 15, *range(46, 80, 3)]))
    assert len(found["walker"]) == 2


def test_a_gap_of_some_frames_is_bridged():
    frames = [{"things": [("one", 10 + 2 * k, 20, 12, 25)] if not 8 <= k < 12 else []} for k in range(20)]
    assert len(ids_of(Tracker(FORGETFUL), frames)[0]["one"]) == 1


# ---------------------------------------------------------------------------------------------------------------- stuff


def test_stuff_is_one_segment_and_one_id_per_class():
    ids = np.array([[1, 1, 2, 2, 3, 3]])
    records = [{"id": 1, "category_id": SKY}, {"id": 2, "category_id": PERSON}, {"id": 3, "category_id": SKY}]
    first = PanopticSegmentation.from_ids(ids, records, PERSON_SKY_TIE)
    gone = PanopticSegmentation.from_ids(np.full((1, 6), 9), [{"id": 9, "category_id": PERSON}], PERSON_SKY_TIE)
    results = list(banet.track([first, gone, first]))
    skies = [[s for s in result.segments if not s.isthing] for result in results]
    assert [len(some) for some in skies] == [1, 0, 1]
    assert skies[0][0].id == skies[2][0].id and skies[0][0].area == 4


# ----------------------------------------------------------------------------------------------------------------- cuts


def walk(index, times, crop=slice(None)):
    video = SceneVideo(31, index, (96, 160))
    for t in times:
        one = video.frame(t)
        ids, image = one.truth.ids[:, crop], one.image[:, crop]
        there = set(np.unique(ids).tolist())
        yield PanopticSegmentation.from_ids(
            ids, [s for s in one.truth.segments if s.id in there], SCENE_CATEGORIES, image
        )


@pytest.mark.parametrize("images", [True, False])
@pytest.mark.parametrize("index", [0, 2, 5])
def test_a_cut_starts_anew_and_motion_does_not(index, images):
    tracker = Tracker()
    seen = []
    for result in [*walk(index, range(25)), *walk(index + 1, range(25))]:
        tracked = tracker.update(result if images else replace(result, image=None))
        seen.append({s.id for s in tracked.segments if s.isthing})
    assert tracker.cuts == 1
    assert not set().union(*seen[:25]) & set().union(*seen[25:])


@pytest.mark.parametrize("index", [1, 3, 6])
def test_a_jump_of_the_camera_starts_anew(index):
    tracker = Tracker()
    for result in [*walk(index, range(15), slice(0, 80)), *walk(index, range(15, 30), slice(80, 160))]:
        tracker.update(result)
    assert tracker.cuts == 1


def test_a_flash_is_not_a_cut():
    tracker = Tracker()
    for k, result in enumerate(walk(0, range(20))):
        bright = np.clip(result.image.astype(int) + 90 * (k == 10), 0, 255).astype(np.uint8)
        tracker.update(replace(result, image=bright))
    assert tracker.cuts == 0


# --------------------------------------------------------------------------------------------------------------- scenes


def hidden_like_a_network(one, rng):
    """What a network with occlusion handling shows of a frame: things that are mostly hidden are void."""
    ids = one.truth.ids.copy()
    ids[np.isin(ids, one.ids[one.visible < 0.5])] = 0
    there = np.setdiff1d(np.unique(ids), [0]).tolist()
    names = dict(zip(there, (rng.permutation(len(there)) + 1).tolist(), strict=True))
    classes = {s.id: s.category_id for s in one.truth.segments}
    renamed = np.append([names[i] for i in there], 0)[index_map(ids, there)]
    records = [{"id": names[i], "category_id": classes[i]} for i in there]
    return PanopticSegmentation.from_ids(renamed, records, SCENE_CATEGORIES, one.image)


@pytest.mark.parametrize("config", [TrackingConfig(), FORGETFUL])
def test_the_memory_spares_most_switches_of_a_scene(config):
    quality, tracker, rng = VideoQuality(SCENE_CATEGORIES, (1,)), Tracker(config), np.random.default_rng(1)
    for one in SceneVideo(42, 1, (96, 96)).frames(120):
        quality.update(tracker.update(hidden_like_a_network(one, rng)), one.truth)
    identity = quality.compute()["identity"]
    if config.occlusion_memory:
        assert identity["switches"] <= 6 and identity["idf1"] > 0.7
    else:
        assert identity["switches"] >= 12 and identity["idf1"] < 0.6


# ----------------------------------------------------------------------------------------------------------- invariants


@st.composite
def random_videos(draw):
    """Maps of blocks that change at random, with records in any order; some have images."""
    height, width, count = draw(st.integers(1, 6)), draw(st.integers(1, 8)), draw(st.integers(1, 6))
    classes = {i: draw(st.sampled_from([PERSON, SKY, TIE])) for i in range(1, 6)}
    images = draw(st.booleans())
    results = []
    for t in range(count):
        cells = draw(st.lists(st.integers(0, 5), min_size=height * width, max_size=height * width))
        ids = np.array(cells).reshape(height, width).repeat(4, 0).repeat(4, 1)
        order = draw(st.permutations(np.setdiff1d(np.unique(ids), [0]).tolist()))
        records = [{"id": i, "category_id": classes[i], "iscrowd": i == 4} for i in order]
        image = blocks(4 * height, 4 * width, seed=t) if images else None
        results.append(PanopticSegmentation.from_ids(ids, records, PERSON_SKY_TIE, image))
    return results


def pairs(result, tracked):
    return set(zip(result.ids.ravel().tolist(), tracked.ids.ravel().tolist(), strict=True))


@settings(max_examples=100, deadline=None)
@given(random_videos(), st.booleans())
def test_tracking_only_renames_segments(results, memory):
    classes = {}
    for result, tracked in zip(results, banet.track(results, TrackingConfig(occlusion_memory=memory)), strict=True):
        tracked.check()
        assert (tracked.semantic == result.semantic).all() and ((tracked.ids == 0) == (result.ids == 0)).all()
        named = pairs(result, tracked)
        assert len(named) == len({before for before, _ in named})  # one new id per segment
        things = {s.id for s in result.segments if s.isthing and not s.iscrowd}
        assert len({now for before, now in named if before in things}) == len(things)
        for segment in tracked.segments:
            assert classes.setdefault(segment.id, (segment.category_id, segment.iscrowd)) == (
                segment.category_id,
                segment.iscrowd,
            )


@settings(max_examples=60, deadline=None)
@given(random_videos(), st.integers(1, 1000))
def test_ids_of_the_input_say_nothing(results, offset):
    renamed = [
        PanopticSegmentation.from_ids(
            np.where(r.ids > 0, r.ids * 3 + offset, 0),
            [replace(s, id=3 * s.id + offset) for s in r.segments],
            r.categories,
            r.image,
        )
        for r in results
    ]
    for one, other in zip(banet.track(results), banet.track(renamed), strict=True):
        assert (one.ids == other.ids).all()


@settings(max_examples=60, deadline=None)
@given(random_videos(), st.data())
def test_a_stopped_run_goes_on_with_equal_ids(results, data):
    stop = data.draw(st.integers(0, len(results)))
    whole = list(banet.track(results))
    tracker = Tracker()
    for result in results[:stop]:
        tracker.update(result)
    again = Tracker.from_state(json.loads(json.dumps(tracker.state())))
    for result, expected in zip(results[stop:], whole[stop:], strict=True):
        assert (again.update(result).ids == expected.ids).all()
    assert again.frames == len(results)


def test_a_stopped_run_of_a_scene_goes_on_with_equal_state(tmp_path):
    results = list(walk(1, range(40)))
    tracker = Tracker()
    for k, result in enumerate(results):
        tracker.update(result)
        if k == 17:
            tracker.save(tmp_path / "state.json")
    again = Tracker.load(tmp_path / "state.json")
    for result in results[18:]:
        again.update(result)
    assert again.state() == tracker.state()


def test_memory_is_bounded_however_many_objects_come_and_go():
    rng, tracker = np.random.default_rng(0), Tracker(TrackingConfig(remembered=10))
    most = 0
    for k in range(150):
        spots = [(f"{k}-{n}", int(rng.integers(0, 90)), int(rng.integers(0, 50)), 6, 6) for n in range(4)]
        tracker.update(frame(*spots)[0])
        most = max(most, len(tracker.objects))
        assert len(json.dumps(tracker.state())) < 60_000
    assert most <= 14


# ------------------------------------------------------------------------------------------------------ motion, by hand


def test_what_is_hidden_does_not_count_as_motion():
    # A bar of 20 x 4 that moved right by 3; its left half is under another thing.
    bar = Silhouette(np.ones((4, 20), dtype=bool), 10.0, 2.0)
    owners = np.zeros((10, 60), dtype=np.int32)
    owners[2:6, 13:33] = 1
    owners[:, :24] = np.where(np.arange(24) >= 5, 2, 0)
    dx, dy, share = displacement(bar, owners, 1, (24, 2, 33, 6))
    assert dx == pytest.approx(3, abs=0.5) and dy == pytest.approx(0) and 0 < share < 0.6
    whole = complete(bar.moved(3, 0), owners, 1, (24, 2, 33, 6))
    assert (whole.x, whole.y, whole.mask.shape, whole.area) == (13, 2, (4, 20), 80)


# ------------------------------------------------------------------------------------------------------------ bad input


def test_bad_frames_are_one_line_each():
    good, _ = frame(("one", 10, 10, 10, 10))
    small, _ = frame(("one", 1, 1, 3, 3), size=(20, 30))
    other = replace(good, categories=SCENE_CATEGORIES, segments=[replace(s, category_id=1) for s in good.segments])
    broken = replace(good, segments=good.segments[:1])
    empty = PanopticSegmentation(np.zeros((0, 0), dtype=np.int32), [], PERSON_SKY_TIE)
    for second, said in (
        (small, "frame 2 is 30x20, the first 100x60; resize them to one size"),
        (other, "frame 2 has other categories than the first"),
        (broken, "frame 2: ids in the map without a segment"),
        (replace(good, image=small.image), "the image of frame 2 is 30x20, its result 100x60"),
    ):
        with pytest.raises(ValueError, match=said) as error:
            list(banet.track([good, second]))
        assert "\n" not in str(error.value)
    with pytest.raises(ValueError, match="frame 1 has no pixels"):
        list(banet.track([empty]))
    with pytest.raises(ValueError, match="there are no frames to track"):
        list(banet.track([]))
    with pytest.raises(TypeError, match="frame 1 must be a PanopticSegmentation, not ndarray"):
        list(banet.track([good.ids]))
    with pytest.raises(ValueError, match=r"hidden_share must be in 0\.\.1"):
        TrackingConfig(hidden_share=2)


def test_a_damaged_state_is_one_line(tmp_path):
    tracker = Tracker()
    tracker.update(frame(("one", 10, 10, 10, 10))[0])
    state = tracker.state()
    path = tmp_path / "state.json"
    for damage in (
        "{", "[]", "null", json.dumps({**state, "tracker": 9}), json.dumps({**state, "objects": [{}]}),
        json.dumps({**state, "config": {"nothing": 1}}), json.dumps({**state, "size": [1]}),
        json.dumps({**state, "objects": [{**state["objects"][0], "place": ["a", 1]}]}),
        json.dumps({**state, "objects": [{**state["objects"][0], "colors": [1.0]}]}),
        json.dumps({**state, "detector": {"last": [1], "changes": []}}),
    ):  # fmt: skip
        path.write_text(damage, encoding="utf-8")
        with pytest.raises(InputError, match=r"state\.json") as error:
            Tracker.load(path)
        assert "\n" not in str(error.value)

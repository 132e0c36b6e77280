"""Copy-paste: what is pasted is in front, all else stays as it was, and a draw's number decides everything."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from banet.data.copy_paste import CopyPaste, Labeled, paste
from banet.data.samples import AnnotatedImage
from banet.data.scenes.generate import Scenes
from banet.data.transforms import train_transform
from banet.engine.recipe import DataConfig
from banet.engine.training.datasets import InfiniteDataset, training_set
from banet.panoptic.categories import VOID
from banet.panoptic.segments import Segment


@st.composite
def labelled(draw: Any) -> Labeled:
    """A small image of random colours; ids 0..5, of which some are crowd and some are listed without a pixel."""
    height, width = draw(st.integers(1, 6)), draw(st.integers(1, 6))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    ids = rng.integers(0, draw(st.integers(1, 6)), (height, width)).astype(np.int32)
    segments = [Segment(i, 10 + i, True, iscrowd=bool(rng.random() < 0.3)) for i in rng.permutation(5) + 1]
    image = torch.from_numpy(rng.integers(0, 256, (3, height, width), dtype=np.uint8))
    return Labeled(image, torch.from_numpy(ids), tuple(segments))


@given(labelled(), labelled(), st.sets(st.integers(1, 6)), st.integers(-8, 8), st.integers(-8, 8))
def test_pasting_is_what_it_is_pixel_by_pixel(under: Labeled, over: Labeled, chosen: set[int], y: int, x: int) -> None:
    before = under.image.clone(), under.ids.clone()
    result = paste(under, over, chosen, (y, x))
    assert torch.equal(under.image, before[0]) and torch.equal(under.ids, before[1])

    classes = {s.id: (s.category_id, s.iscrowd) for s in result.segments}
    assert len(classes) == len(result.segments)
    assert set(classes) == set(result.ids.unique().tolist()) - {0}  # none is empty, none is missing
    old = {s.id: (s.category_id, s.iscrowd) for s in under.segments}
    new = {s.id: (s.category_id, s.iscrowd) for s in over.segments}
    source: dict[int, int] = {}
    for row in range(under.ids.shape[0]):
        for column in range(under.ids.shape[1]):
            there = row - y, column - x
            inside = 0 <= there[0] < over.ids.shape[0] and 0 <= there[1] < over.ids.shape[1]
            pasted = int(over.ids[there]) if inside and int(over.ids[there]) in chosen else 0
            identity = int(result.ids[row, column])
            if pasted:
                assert torch.equal(result.image[:, row, column], over.image[:, there[0], there[1]])
                assert classes[identity] == new[pasted]
                assert identity not in old
                assert source.setdefault(identity, pasted) == pasted
            else:
                assert torch.equal(result.image[:, row, column], under.image[:, row, column])
                assert identity == int(under.ids[row, column])
                assert identity == 0 or classes[identity] == old[identity]
    assert len(set(source.values())) == len(source)


def test_slivers_stay_slivers_and_are_not_pasted() -> None:
    segments = tuple(Segment(n, 1, True) for n in (1, 2, 3))
    image = torch.zeros(3, 1, 4, dtype=torch.uint8)
    under, over = (
        Labeled(image, torch.tensor([ids], dtype=torch.int32), segments) for ids in ([-1, 2, 0, 3], [1, -2, -2, 0])
    )
    result = paste(under, over, {1, 2})
    assert result.ids.tolist() == [[4, 2, 0, 3]] and [s.id for s in result.segments] == [2, 3, 4]
    kept = paste(under, over, {2})
    assert kept.ids.tolist() == [[-1, 2, 0, 3]] and [s.id for s in kept.segments] == [1, 2, 3]


def scenes(probability: float) -> CopyPaste:
    return CopyPaste(Scenes(3, 6, (64, 64), train_transform([48, 64], 80)), probability)


def test_samples_hold_more_things_and_stay_consistent() -> None:
    bare, pasted = (InfiniteDataset(scenes(p), 5) for p in (0.0, 1.0))
    more = 0
    for draw in range(12):
        target = pasted[draw].target
        more += len(target.labels) - len(bare[draw].target.labels)
        assert len(target.labels) == int(target.instances.max()) + 1
        for row, mask in enumerate(target.masks):
            y, x = torch.nonzero(mask, as_tuple=True)
            assert target.boxes[row].tolist() == [x.min(), y.min(), x.max() + 1, y.max() + 1]
            assert (target.semantic[mask] == target.labels[row]).all()
    assert more > 12


def test_without_pasting_it_is_the_dataset_itself() -> None:
    plain, wrapped = (
        InfiniteDataset(Scenes(3, 6, (64, 64), train_transform([48, 64], 80)), 5),
        InfiniteDataset(scenes(0.0), 5),
    )
    for draw in range(6):
        a, b = plain[draw], wrapped[draw]
        assert torch.equal(a.image, b.image)
        assert torch.equal(a.target.semantic, b.target.semantic)
        assert torch.equal(a.target.boxes, b.target.boxes)
        assert (a.target.image_id, a.target.name) == (b.target.image_id, b.target.name)


def test_a_draw_is_a_function_of_its_number() -> None:
    data = DataConfig(kind="scenes", scene_size=64, train_scenes=6, shorter=(48, 64), longer=80, copy_paste=0.5)
    forward, backward = InfiniteDataset(training_set(data), 1), InfiniteDataset(training_set(data), 1)
    images = [forward[draw].image for draw in range(8)]
    for draw in reversed(range(8)):
        assert torch.equal(backward[draw].image, images[draw])


def test_crowd_stuff_and_void_are_not_pasted() -> None:
    class Files:
        """One image: void, stuff, a crowd and two things."""

        categories, transform, image_ids = Scenes.categories, None, [4]

        def __len__(self) -> int:
            return 1

        def file_name(self, index: int) -> str:
            return "a.png"

        def read_annotated(self, index: int) -> AnnotatedImage:
            thing, stuff = Scenes.categories[0].id, Scenes.categories[-1].id
            ids = np.array([[0, 1, 2, 3, 4]], np.int32)
            segments = [
                Segment(1, stuff, False),
                Segment(2, thing, True, iscrowd=True),
                Segment(3, thing, True),
                Segment(4, thing, True),
            ]
            return AnnotatedImage(np.zeros((1, 5, 3), np.uint8), ids, segments)

    data = CopyPaste(Files(), 1.0)
    for seed in range(10):
        torch.manual_seed(seed)
        target = data[0].target
        # On itself, in the same place: only the two things change.
        assert target.labels.tolist() == [0, 0]
        assert target.boxes[:, 0].sort().values.tolist() == [3, 4]
        assert target.semantic[0, 0] == VOID
        assert target.instances[0, :3].tolist() == [-1, -1, -1]


def test_bad_probabilities() -> None:
    with pytest.raises(ValueError, match="probability must"):
        scenes(1.5)
    with pytest.raises(ValueError, match="copy_paste"):
        DataConfig(copy_paste=-0.1)

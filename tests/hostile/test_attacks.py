"""Small files that ask for much end within 10 s of processor time and 1 GB, in an answer or in one line."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from attack_floods import FLOODS
from attacks import ATTACKS, GIGABYTE, SECONDS, Attack, is_clear, measure

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc")

LONG = ("8192 x 8192", "weights", ".pth", "plain PPM", *(flood.name for flood in FLOODS))  # or loads torch
QUICK = [one for one in ATTACKS if not any(word in one.name for word in LONG)]
OTHERS = [one for one in ATTACKS if one not in QUICK]


def holds(attack: Attack, folder: Path, untrusted: bool = False) -> None:
    outcome = measure(attack, folder, untrusted=untrusted)
    assert is_clear(outcome.said), outcome
    assert outcome.memory < GIGABYTE and outcome.seconds < SECONDS, outcome


@pytest.mark.parametrize("attack", QUICK, ids=lambda one: one.name)
def test_structure_is_bounded(attack, tmp_path):
    holds(attack, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("untrusted", [False, True])
@pytest.mark.parametrize("attack", OTHERS, ids=lambda one: one.name)
def test_attacks_that_take_longer(attack, untrusted, tmp_path):
    holds(attack, tmp_path, untrusted)


@pytest.mark.parametrize("name", ["JPEG in CMYK", "CVAT, 100,000", "bytearray(2**31 - 1)"])
def test_one_of_each_kind(name, tmp_path):
    holds(next(one for one in ATTACKS if name in one.name), tmp_path)

"""The studies of aggregation, as their plans in docs/studies/claim state them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from claim_arms import Arm

from banet.engine.recipe import TrainConfig

KINDS = {"context": True, "control": False}
"""Kinds of data: whether scenes have context."""
BASELINE = Arm("baseline", "baseline, continued", control=True)
Pairs = tuple[tuple[str, str], ...]

_SIM: dict[str, Any] = {"sim": True}
_OCM: dict[str, Any] = {"sim": True, "ocm": True}
_WHOLE: dict[str, Any] = {**_OCM, "s2i": True}
LEARNING = TrainConfig(
    init="random", iterations=800, batch_size=8, optimizer="adamw", lr=0.002, weight_decay=0.02, warmup=50,
    warmup_factor=0.01, schedule="cosine", milestones=(), clip=10.0,
)  # fmt: skip
"""How read-outs learn in study 1."""


@dataclass(frozen=True)
class Plan:
    """One study.

    Attributes:
        number: of the study.
        read_outs: arms of step A: read-outs of one frozen trunk.
        networks: arms of step B: whole networks, trained on from one trunk.
        questions: pairs of read-outs whose differences are reported.
        comparisons: of networks, likewise.
        seed_by_seed: order of step B: all arms of a seed before the next seed, or all seeds of an arm before the next.
        learning: how read-outs learn.
        trunk_iterations: of the baseline that every arm starts from.
        trunk_seed: of its weights and draws.
        found_wanted: fraction of the true boxes that the trunk must find.
        more_iterations: by which it is trained on until it does.
        more_times: at most.
        arm_iterations: of each arm after that.
        read_out_seeds: of step A.
        arm_seeds: of step B.
        gate_scenes: seed and number of the scenes that decide whether the trunk is good enough.
        feature_scenes: of those whose features are cached in step A.
        read_out_scenes: of those that step A is measured on.
        arm_scenes: of those that step B is measured on.
    """

    number: int
    read_outs: tuple[Arm, ...]
    networks: tuple[Arm, ...]
    questions: Pairs
    comparisons: Pairs
    seed_by_seed: bool
    learning: TrainConfig
    trunk_iterations: int
    trunk_seed: int
    found_wanted: float
    more_iterations: int
    more_times: int
    arm_iterations: int
    read_out_seeds: tuple[int, ...]
    arm_seeds: tuple[int, ...]
    gate_scenes: tuple[int, int]
    feature_scenes: tuple[int, int]
    read_out_scenes: tuple[int, int]
    arm_scenes: tuple[int, int]

    def runs(self) -> Iterator[tuple[Arm, str, int]]:
        """Yield the runs of step B in their order: arm, kind of data, seed."""
        if self.seed_by_seed:
            every = [(arm, kind, seed) for seed in self.arm_seeds for kind in KINDS for arm in self.networks]
        else:
            every = [(arm, kind, seed) for arm in self.networks for kind in KINDS for seed in self.arm_seeds]
        yield from (run for run in every if KINDS[run[1]] or run[0].control)


def _study_1() -> Plan:
    compositions = (
        ("sim", "SIM", _SIM),
        ("sim_ocm_linear", "SIM + OCM without ReLU", {**_OCM, "ocm_relu": False}),
        ("sim_ocm", "SIM + OCM", _OCM),
    )
    read_outs = (
        Arm("first", "first logits", control=True),
        Arm("sim_emptied", "SIM, F_inlay empty", _SIM, control=True, emptied=True),
        *(
            Arm(f"{name}_{low}", f"{title}, share {low}–1", model, {"inlay_share": (low, 1.0)}, control=True)
            for low in (0.6, 0.0)
            for name, title, model in compositions
        ),
    )
    networks = (
        BASELINE,
        Arm("sim", "SIM", _SIM, control=True),
        Arm("sim_emptied", "SIM, F_inlay empty", _SIM, emptied=True),
        Arm("sim_ocm", "SIM + OCM", _OCM, control=True),
        Arm("s2i", "S2I", {"s2i": True}),
        Arm("whole", "SIM + OCM + S2I", _WHOLE),
        Arm("baseline_dfm", "baseline + DFM", {"deformable": True}),
        Arm("whole_dfm", "SIM + OCM + S2I + DFM", {**_WHOLE, "deformable": True}),
        Arm("baseline_0.3", "baseline, λ 0.3", loss={"seg_weight": 0.3}),
        Arm("baseline_1.0", "baseline, λ 1.0", loss={"seg_weight": 1.0}),
    )
    return Plan(
        number=1,
        read_outs=read_outs,
        networks=networks,
        questions=(
            ("sim_0.0", "sim_emptied"), ("sim_ocm_0.0", "sim_0.0"), ("sim_ocm_0.0", "sim_ocm_linear_0.0"),
            ("sim_0.0", "sim_0.6"), ("sim_ocm_linear_0.0", "sim_ocm_linear_0.6"), ("sim_ocm_0.0", "sim_ocm_0.6"),
        ),
        comparisons=(
            ("sim", "baseline"), ("sim", "sim_emptied"), ("sim_ocm", "sim"), ("s2i", "baseline"),
            ("whole", "baseline"), ("whole_dfm", "baseline_dfm"), ("baseline_0.3", "baseline"),
            ("baseline_1.0", "baseline"),
        ),
        seed_by_seed=True,
        learning=LEARNING,
        trunk_iterations=6000,
        trunk_seed=100,
        found_wanted=0.6,
        more_iterations=2000,
        more_times=3,
        arm_iterations=1500,
        read_out_seeds=(0, 1, 2, 3, 4),
        arm_seeds=(0, 1, 2),
        gate_scenes=(7101, 200),
        feature_scenes=(7111, 2000),
        read_out_scenes=(7112, 500),
        arm_scenes=(7121, 1000),
    )  # fmt: skip


def _study_2() -> Plan:
    share = {"inlay_share": (0.6, 1.0)}
    linear = {"ocm_relu": False}
    semantic, both = {"seg_weight": 1.0}, {"seg_weight": 0.4, "i2s_weight": 0.6, **share}
    deformable = {"deformable": True}
    read_outs = (
        Arm("first", "first logits", control=True),
        Arm("sim_emptied", "SIM, F_inlay empty", _SIM, emptied=True),
        Arm("sim", "SIM", _SIM, share, control=True),
        Arm("sim_ocm", "SIM + OCM without ReLU", {**_OCM, **linear}, share, control=True),
        Arm("sim_ocm_relu", "SIM + OCM with ReLU", _OCM, share),
    )
    networks = (
        replace(BASELINE, loss=semantic, start="first"),
        Arm("whole", "SIM + OCM + S2I", {**_WHOLE, **linear}, both, start="sim_ocm"),
        Arm("sim_ocm", "SIM + OCM", {**_OCM, **linear}, both, control=True, start="sim_ocm"),
        Arm("sim", "SIM", _SIM, both, control=True, start="sim"),
        Arm("sim_emptied", "SIM, F_inlay empty", _SIM, both, emptied=True, start="sim_emptied"),
        Arm("s2i", "S2I", {"s2i": True}, semantic, start="first"),
        Arm("baseline_dfm", "baseline + DFM", deformable, semantic, start="first"),
        Arm("whole_dfm", "SIM + OCM + S2I + DFM", {**_WHOLE, **linear, **deformable}, both, start="sim_ocm"),
        Arm("baseline_0.5", "baseline, λ 0.5", loss={"seg_weight": 0.5}, start="first"),
        Arm("baseline_2.0", "baseline, λ 2.0", loss={"seg_weight": 2.0}, start="first"),
    )
    return Plan(
        number=2,
        read_outs=read_outs,
        networks=networks,
        questions=(
            ("sim_emptied", "first"), ("sim", "sim_emptied"), ("sim_ocm", "sim"), ("sim_ocm", "first"),
            ("sim_ocm", "sim_ocm_relu"),
        ),
        comparisons=(
            ("sim", "baseline"), ("sim", "sim_emptied"), ("sim_ocm", "sim"), ("sim_ocm", "baseline"),
            ("s2i", "baseline"), ("whole", "sim_ocm"), ("whole", "baseline"), ("whole_dfm", "baseline_dfm"),
            ("baseline_0.5", "baseline"), ("baseline_2.0", "baseline"),
        ),
        seed_by_seed=False,
        learning=replace(LEARNING, iterations=2500),
        trunk_iterations=6000,
        trunk_seed=200,
        found_wanted=0.6,
        more_iterations=2000,
        more_times=3,
        arm_iterations=2000,
        read_out_seeds=(10, 11, 12),
        arm_seeds=(10, 11, 12),
        gate_scenes=(7201, 200),
        feature_scenes=(7211, 5000),
        read_out_scenes=(7212, 1000),
        arm_scenes=(7221, 2000),
    )  # fmt: skip


PLANS: Mapping[int, Plan] = {plan.number: plan for plan in (_study_1(), _study_2())}

"""Which of several processes this one is, as torchrun, SLURM or `--devices` tell it."""

from __future__ import annotations

import os
import socket
import uuid
from collections.abc import Mapping
from dataclasses import dataclass

__all__ = ["LAUNCH", "Process", "this_process"]

LAUNCH = "BANET_LAUNCH"
"""Environment variable in which `--devices` names the processes that it starts together."""


@dataclass(frozen=True)
class Process:
    """One of the processes that were started together.

    Attributes:
        rank: Its number, from 0.
        world: How many there are.
        launch: A name that those started together share, and no others.
        restarted: The launcher started them once more, after a failure: what they find is their own.
    """

    rank: int = 0
    world: int = 1
    launch: str = "alone"
    restarted: bool = False

    @property
    def first(self) -> bool:
        """Whether this is the process that speaks for all at the start."""
        return self.rank == 0

    def __str__(self) -> str:
        return f"process {self.rank} of {self.world} on {socket.gethostname()}"


def this_process(environment: Mapping[str, str] = os.environ) -> Process:
    """Return this process; where no launcher started it, the only one."""
    told = environment.get
    if int(told("WORLD_SIZE", "1")) > 1 and "RANK" in environment:
        restarts = told("TORCHELASTIC_RESTART_COUNT", "0")
        parts = [told(name, "") for name in (LAUNCH, "TORCHELASTIC_RUN_ID", "MASTER_ADDR", "MASTER_PORT")]
        if told("LOCAL_WORLD_SIZE") == told("WORLD_SIZE"):
            parts.append(str(os.getppid()))  # one machine: the launcher tells runs apart that it does not name
        name = "-".join([part for part in parts if part] + [restarts])
        return Process(int(told("RANK", "0")), int(told("WORLD_SIZE", "1")), name, int(restarts) > 0)
    if int(told("SLURM_STEP_NUM_TASKS", "1")) > 1 and "SLURM_PROCID" in environment:
        restarts = told("SLURM_RESTART_COUNT", "0")
        name = f"slurm-{told('SLURM_JOB_ID', '')}-{told('SLURM_STEP_ID', '')}-{restarts}"
        return Process(int(told("SLURM_PROCID", "0")), int(told("SLURM_STEP_NUM_TASKS", "1")), name, int(restarts) > 0)
    return Process(launch=f"alone-{uuid.uuid4().hex}")

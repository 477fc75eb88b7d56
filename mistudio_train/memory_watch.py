"""Warnings of a running job before its memory runs out; the job calls them between blocks.

Compares what is free with a threshold, and what the job holds with its plan. Frees nothing itself.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

from mistudio_core import hostmemory
from mistudio_core.errors import InvalidInput
from mistudio_core.gpus import GB, read_gpus
from mistudio_train.memory_plan import MemoryPlan

WARNING_VARIABLE = "MISTUDIO_MEMORY_WARNING_SHARE"
WARNING_SHARE = 0.05
"""Free share of a memory below which a running job warns, unless the variable says another."""
OVER_PLAN = 1.15
"""A job that holds more than this times its plan is told: the plan promises 15 %."""


@dataclass(frozen=True, kw_only=True, slots=True)
class MemoryReading:
    """One memory as it is now."""

    name: str
    """For people: `RAM`, `gpu_0 (NVIDIA L4)`."""
    total_bytes: int
    """In all."""
    free_bytes: int
    """Free."""
    on_gpu: bool = False
    """Whether it is a GPU's."""
    held_bytes: int = 0
    """What this process holds; 0 where it cannot be read."""


def read_memory(device: str) -> list[MemoryReading]:
    """The memories that a job on `device` (`cpu:0`, `cuda:1`) lives in, as they are now."""
    found = [
        MemoryReading(
            name="RAM",
            on_gpu=False,
            total_bytes=hostmemory.total_bytes(),
            free_bytes=hostmemory.available_bytes(),
            held_bytes=hostmemory.resident_bytes(),
        )
    ]
    if device.startswith("cuda"):
        number = int(device.partition(":")[2] or 0)
        found += [
            MemoryReading(
                name=f"gpu_{g.index} ({g.name})",
                on_gpu=True,
                total_bytes=g.total_bytes,
                free_bytes=g.free_bytes,
                held_bytes=0,
            )
            for g in read_gpus()
            if g.index == number and g.total_bytes
        ]
    return found


def memory_warnings(readings: Sequence[MemoryReading], plan: MemoryPlan, *, share: float | None = None) -> list[str]:
    """One line for each memory that is nearly full or holds more than was planned; empty where all is well.

    `share` is the free share that is too little; None: MISTUDIO_MEMORY_WARNING_SHARE, else 0.05.
    """
    least = warning_share() if share is None else share
    found = []
    for reading in readings:
        if reading.free_bytes < least * reading.total_bytes:
            found.append(
                f"{reading.name} is nearly full: {reading.free_bytes / GB:.1f} of {reading.total_bytes / GB:.1f} GB "
                "are free. The job may end for lack of memory; its last checkpoint stays. "
                "A smaller batch_size, max_sequence_length or hidden_dim takes less."
            )
        planned = plan.gpu_bytes if reading.on_gpu else plan.host_bytes
        if reading.held_bytes > OVER_PLAN * planned:
            found.append(
                f"This job holds {reading.held_bytes / GB:.1f} GB of {reading.name}; "
                f"{planned / GB:.1f} GB were planned."
            )
    return found


class MemoryWatch:
    """The same warnings, each kind once for as long as it lasts."""

    def __init__(self, plan: MemoryPlan, device: str) -> None:
        """For a job with this plan on its device."""
        self._plan = plan
        self._device = device
        self._said: frozenset[str] = frozenset()

    def new_warnings(self) -> list[str]:
        """Warnings that did not hold at the last call."""
        found = {w.split(":")[0].split(" of ")[0]: w for w in memory_warnings(read_memory(self._device), self._plan)}
        fresh = [text for kind, text in found.items() if kind not in self._said]
        self._said = frozenset(found)
        return fresh


def warning_share() -> float:
    """The threshold of this installation. Raises InvalidInput for a variable that is no share."""
    text = os.environ.get(WARNING_VARIABLE, "")
    try:
        share = float(text) if text else WARNING_SHARE
    except ValueError:
        share = -1.0
    if not 0 <= share < 1:
        raise InvalidInput.field(WARNING_VARIABLE, text, "a share from 0 to less than 1, for example 0.05")
    return share

"""How much energy local engines take: NVML's counter of every GPU, else rated power times time.

NVML counts all that a GPU does, also for others, from the driver's start on, in millijoules; GPUs before
Volta have no counter. Where several processes measure at once, each sees the whole.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mistudio_core import clock
from mistudio_core.gpus import read_energy
from mistudio_explain.costs import Energy

_MILLIJOULES = 3.6e6
"""In a watt-hour."""


class EnergyMeter:
    """Measures from its making on. Never raises: what cannot be read is estimated, and the method says so."""

    def __init__(self, rated_watts: Mapping[str, float], *, on_gpu: bool, nvml: Any = None) -> None:
        """`rated_watts` by `gpu` and `cpu`; `on_gpu` where the engine uses one; `nvml` stands in for `pynvml`."""
        self._nvml = nvml
        self._watts = rated_watts["gpu" if on_gpu else "cpu"]
        self._began = clock.monotonic()
        self._first = read_energy(self._nvml) if on_gpu else {}

    def read(self, busy_seconds: float | None = None) -> Energy:
        """What was taken so far; `busy_seconds` count for rated power where given, else all the time since."""
        last = read_energy(self._nvml) if self._first else {}
        spent = [last[uuid] - before for uuid, before in self._first.items() if uuid in last]
        if spent and min(spent) >= 0:
            return Energy(wh=sum(spent) / _MILLIJOULES, method="nvml")
        seconds = clock.monotonic() - self._began if busy_seconds is None else busy_seconds
        return Energy(wh=self._watts * seconds / 3600, method="rated_power")

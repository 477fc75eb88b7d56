"""Devices are leased by the kernel: one flock per device id, held by the process that uses it.

The lock file stands in a folder that every installation of the same user on this machine shares,
so that all services see one set of leases. A lease is an open file: it is passed to the worker and
ends when the worker does, however it ends.
"""

from __future__ import annotations

import fcntl
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mistudio_core import clock
from mistudio_core.errors import LimitReached
from mistudio_core.gpus import GpuReading, best_first, gpu_of, read_gpus
from mistudio_core.home import private_folder
from mistudio_core.jobs.records import DeviceRequest


class DeviceLease:
    """A locked device; `fd` is what the worker inherits."""

    def __init__(self, device: str, fd: int) -> None:
        """Made by DevicePool."""
        self.device = device
        self.fd = fd

    def release(self) -> None:
        """Closes this process's end; the lock lives on in a worker that got the descriptor."""
        os.close(self.fd)


class DevicePool:
    """The devices of this machine."""

    def __init__(self, *, cpu_slots: int = 1, folder: Path | None = None, nvml: Any = None) -> None:
        """`cpu_slots` jobs at a time where there is no GPU; `folder` keeps the locks; `nvml` stands in for pynvml."""
        default = Path(tempfile.gettempdir()) / f"mistudio-devices-{os.getuid()}"
        self._folder = folder or Path(os.environ.get("MISTUDIO_DEVICE_DIR", default))
        private_folder(self._folder)
        self._cpu_slots = cpu_slots
        self._nvml = nvml
        self._refused: float | None = None

    def gpus(self) -> list[GpuReading]:
        """The GPUs as they are now; asks the driver, so call it off the event loop."""
        return read_gpus(self._nvml)

    def check(self, request: DeviceRequest) -> None:
        """Refuses a request that this machine can never meet. Raises InvalidInput, LimitReached."""
        if request.gpu_id is None and not request.min_gpu_memory_gb:
            return
        gpus = self.gpus()
        asked = gpus if request.gpu_id is None else [gpu_of(gpus, request.gpu_id)]
        largest = max((g.total_bytes for g in asked), default=0) / 1e9
        if largest < request.min_gpu_memory_gb:
            raise LimitReached(
                f"No GPU has {request.min_gpu_memory_gb:.1f} GB; the largest has {largest:.1f} GB. "
                "Lower min_gpu_memory_gb or leave it out.",
                reason="INSUFFICIENT_MEMORY",
                facts={"required_gb": request.min_gpu_memory_gb, "available_gb": round(largest, 1)},
            )

    def acquire(self, request: DeviceRequest, *, wants_gpu: bool) -> DeviceLease | None:
        """Locks the best free device that meets the request; None where all are taken."""
        for device, lock in self._candidates(request, wants_gpu):
            lease = self._lock(device, lock)
            if lease is not None:
                self._refused = None  # who still waits asks again in a moment
                return lease
            if device.startswith("cuda"):
                self._refused = clock.monotonic()
        return None

    def lease_gpu(self, index: int) -> DeviceLease | None:
        """Locks one GPU for an engine; None where another process has it. Unlike a job, it makes nobody give way."""
        for device, lock in self._candidates(DeviceRequest(gpu_id=index), True):
            lease = self._lock(device, lock)
            if lease is not None:
                return lease
        return None

    def lease_cores(self, cores: Sequence[int]) -> list[DeviceLease] | None:
        """Locks processor cores for a process pinned to them; None where another process has one of them.

        Jobs do not ask for cores: these leases only keep pinned processes apart.
        """
        held: list[DeviceLease] = []
        for core in cores:
            lease = self._lock(f"cpu:{core}", f"core-{core}")
            if lease is None:
                for taken in held:
                    taken.release()
                return None
            held.append(lease)
        return held

    def gpu_wanted(self, within_seconds: float) -> bool:
        """Whether a job was refused a GPU so recently that it still waits for one."""
        return self._refused is not None and clock.monotonic() - self._refused < within_seconds

    def free_slots(self) -> int:
        """Devices that could take a job now."""
        return sum(self._is_free(*c) for c in self._candidates(DeviceRequest(), wants_gpu=True))

    def free_gpus(self, gpus: Sequence[GpuReading]) -> list[GpuReading]:
        """Those of `gpus` that no job of this machine holds."""
        return [g for g in gpus if self._is_free(f"cuda:{g.index}", _lock_name(g))]

    def _candidates(self, request: DeviceRequest, wants_gpu: bool) -> list[tuple[str, str]]:
        """(device, name of its lock), the best first."""
        gpus = self.gpus() if wants_gpu or request.gpu_id is not None else []
        wanted = best_first(gpus, free_bytes=request.min_gpu_memory_gb * 1e9, gpu_id=request.gpu_id)
        if wanted or request.min_gpu_memory_gb or request.gpu_id is not None:
            return [(f"cuda:{g.index}", _lock_name(g)) for g in wanted]
        return [(f"cpu:{slot}", f"cpu-{slot}") for slot in range(self._cpu_slots)]

    def _is_free(self, device: str, lock: str) -> bool:
        lease = self._lock(device, lock)
        if lease is None:
            return False
        lease.release()
        return True

    def _lock(self, device: str, lock: str) -> DeviceLease | None:
        fd = os.open(self._folder / f"{lock}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(fd)
            return None
        return DeviceLease(device, fd)


def _lock_name(gpu: GpuReading) -> str:
    """The card itself, whatever number CUDA_VISIBLE_DEVICES gives it in this process."""
    return f"cuda-{gpu.uuid.replace('/', '-') or gpu.index}"

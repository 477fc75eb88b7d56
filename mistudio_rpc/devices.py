"""Devices are leased by the kernel: one flock per device id, held by the process that uses it.

The lock file stands in a folder that every installation of the same user on this machine shares,
so that all services see one set of leases. A lease is an open file: it is passed to the worker and
ends when the worker does, however it ends.
"""

from __future__ import annotations

import fcntl
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path

from mistudio_core.errors import InvalidInput, LimitReached
from mistudio_core.home import private_folder
from mistudio_core.jobs.records import DeviceRequest


@dataclass(frozen=True, kw_only=True, slots=True)
class GpuReading:
    """One GPU, as NVML reports it."""

    index: int
    """Number of the GPU, from 0."""
    name: str
    """Product name."""
    total_bytes: int
    """Memory in all."""
    used_bytes: int
    """Memory in use."""
    utilization: float
    """Share of time that it was busy, 0..1."""

    @property
    def free_bytes(self) -> int:
        """Memory free."""
        return self.total_bytes - self.used_bytes


def read_gpus() -> list[GpuReading]:
    """The machine's NVIDIA GPUs; empty where there is no driver."""
    import pynvml

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return []
    try:
        return [_read_gpu(index) for index in range(pynvml.nvmlDeviceGetCount())]
    finally:
        pynvml.nvmlShutdown()


def _read_gpu(index: int) -> GpuReading:
    import pynvml

    handle = pynvml.nvmlDeviceGetHandleByIndex(index)
    memory = pynvml.nvmlDeviceGetMemoryInfo(handle)
    name = pynvml.nvmlDeviceGetName(handle)
    busy = pynvml.nvmlDeviceGetUtilizationRates(handle).gpu / 100
    return GpuReading(index=index, name=name, total_bytes=memory.total, used_bytes=memory.used, utilization=busy)


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

    def __init__(self, *, cpu_slots: int = 1, folder: Path | None = None) -> None:
        """`cpu_slots` jobs at a time where there is no GPU; `folder` keeps the locks."""
        default = Path(tempfile.gettempdir()) / f"mistudio-devices-{os.getuid()}"
        self._folder = folder or Path(os.environ.get("MISTUDIO_DEVICE_DIR", default))
        private_folder(self._folder)
        self._cpu_slots = cpu_slots

    def check(self, request: DeviceRequest) -> None:
        """Refuses a request that this machine can never meet. Raises InvalidInput, LimitReached."""
        gpus = read_gpus() if request.gpu_id is not None or request.min_gpu_memory_gb else []
        if request.gpu_id is not None and request.gpu_id >= len(gpus):
            there = f"0 to {len(gpus) - 1}" if gpus else "none: this machine has no NVIDIA GPU"
            raise InvalidInput.field(
                "gpu_id", request.gpu_id, there, "Leave it out to run on the CPU.", reason="GPU_NOT_FOUND"
            )
        if request.min_gpu_memory_gb:
            asked = [g for g in gpus if request.gpu_id in (None, g.index)]
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
        for device in self._candidates(request, wants_gpu):
            lease = self._lock(device)
            if lease is not None:
                return lease
        return None

    def free_slots(self) -> int:
        """Devices that could take a job now."""
        free = 0
        for device in self._candidates(DeviceRequest(), wants_gpu=True):
            lease = self._lock(device)
            if lease is not None:
                lease.release()
                free += 1
        return free

    def _candidates(self, request: DeviceRequest, wants_gpu: bool) -> list[str]:
        gpus = read_gpus() if wants_gpu else []
        if request.gpu_id is not None:
            return [f"cuda:{request.gpu_id}"]
        fitting = [g for g in gpus if g.free_bytes >= request.min_gpu_memory_gb * 1e9]
        if fitting or request.min_gpu_memory_gb:
            return [f"cuda:{g.index}" for g in sorted(fitting, key=lambda g: -g.free_bytes)]
        return [f"cpu:{slot}" for slot in range(self._cpu_slots)]

    def _lock(self, device: str) -> DeviceLease | None:
        path = self._folder / f"{device.replace(':', '-')}.lock"
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(fd)
            return None
        return DeviceLease(device, fd)

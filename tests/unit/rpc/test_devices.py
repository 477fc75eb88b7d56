"""Leases: one holder a device, the best that fits, and waiting rather than a device that was not asked for."""

from __future__ import annotations

from pathlib import Path

import pytest

from mistudio_core.errors import InvalidInput, LimitReached
from mistudio_core.jobs.records import DeviceRequest
from mistudio_rpc import devices
from mistudio_rpc.devices import DevicePool, GpuReading

GB = 10**9


@pytest.fixture
def two_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    readings = [
        GpuReading(index=0, name="small", total_bytes=24 * GB, used_bytes=4 * GB, utilization=0.0),
        GpuReading(index=1, name="large", total_bytes=80 * GB, used_bytes=60 * GB, utilization=0.9),
    ]
    monkeypatch.setattr(devices, "read_gpus", lambda: readings)


def test_a_device_has_one_holder_until_it_is_released(tmp_path: Path):
    pool, other = DevicePool(folder=tmp_path), DevicePool(folder=tmp_path)
    lease = pool.acquire(DeviceRequest(), wants_gpu=False)
    assert lease is not None and lease.device == "cpu:0"
    assert other.acquire(DeviceRequest(), wants_gpu=False) is None
    assert other.free_slots() == 0
    lease.release()
    again = other.acquire(DeviceRequest(), wants_gpu=False)
    assert again is not None
    again.release()


@pytest.mark.usefixtures("two_gpus")
def test_a_job_that_needs_gpu_memory_waits_rather_than_run_on_the_cpu(tmp_path: Path):
    pool = DevicePool(folder=tmp_path)
    assert pool.acquire(DeviceRequest(min_gpu_memory_gb=40), wants_gpu=True) is None
    lease = pool.acquire(DeviceRequest(min_gpu_memory_gb=18), wants_gpu=True)
    assert lease is not None and lease.device in ("cuda:0", "cuda:1")
    lease.release()


@pytest.mark.usefixtures("two_gpus")
def test_what_can_never_be_met_is_refused(tmp_path: Path):
    pool = DevicePool(folder=tmp_path)
    with pytest.raises(InvalidInput, match="0 to 1"):
        pool.check(DeviceRequest(gpu_id=2))
    with pytest.raises(LimitReached, match="largest has 24"):
        pool.check(DeviceRequest(gpu_id=0, min_gpu_memory_gb=40))
    pool.check(DeviceRequest(min_gpu_memory_gb=40))

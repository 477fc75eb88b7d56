"""Leases: one holder a device, the best that fits, and waiting rather than a device that was not asked for."""

from __future__ import annotations

from pathlib import Path

import pytest

from mistudio_core.errors import InvalidInput, LimitReached
from mistudio_core.jobs.records import DeviceRequest
from mistudio_rpc.devices import DevicePool
from tests.support.fakenvml import FakeCard, FakeNvml

GB = 10**9


@pytest.fixture
def two_gpus(monkeypatch: pytest.MonkeyPatch) -> FakeNvml:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    small = FakeCard(name="small", total=24 * GB, used=4 * GB, uuid="GPU-small")
    return FakeNvml(small, FakeCard(name="large", total=80 * GB, used=60 * GB, uuid="GPU-large"))


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


def test_a_job_that_needs_gpu_memory_waits_rather_than_run_on_the_cpu(tmp_path: Path, two_gpus: FakeNvml):
    pool = DevicePool(folder=tmp_path, nvml=two_gpus)
    assert pool.acquire(DeviceRequest(min_gpu_memory_gb=40), wants_gpu=True) is None
    lease = pool.acquire(DeviceRequest(min_gpu_memory_gb=18), wants_gpu=True)
    assert lease is not None and lease.device in ("cuda:0", "cuda:1")
    lease.release()


def test_what_can_never_be_met_is_refused(tmp_path: Path, two_gpus: FakeNvml):
    pool = DevicePool(folder=tmp_path, nvml=two_gpus)
    with pytest.raises(InvalidInput, match="0 to 1"):
        pool.check(DeviceRequest(gpu_id=2))
    with pytest.raises(LimitReached, match="largest has 24"):
        pool.check(DeviceRequest(gpu_id=0, min_gpu_memory_gb=40))
    pool.check(DeviceRequest(min_gpu_memory_gb=40))


def test_a_gpu_that_a_job_holds_is_neither_free_nor_given_again(
    tmp_path: Path, two_gpus: FakeNvml, monkeypatch: pytest.MonkeyPatch
):
    pool, other = DevicePool(folder=tmp_path, nvml=two_gpus), DevicePool(folder=tmp_path, nvml=two_gpus)
    assert pool.free_slots() == 2
    lease = pool.acquire(DeviceRequest(gpu_id=1), wants_gpu=True)
    assert lease is not None and lease.device == "cuda:1"
    assert [g.index for g in other.free_gpus(other.gpus())] == [0] and other.free_slots() == 1
    assert other.acquire(DeviceRequest(gpu_id=1), wants_gpu=True) is None
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")  # the same card under another number
    assert other.acquire(DeviceRequest(), wants_gpu=True) is None
    lease.release()
    again = other.acquire(DeviceRequest(), wants_gpu=True)
    assert again is not None and again.device == "cuda:0"
    again.release()


def test_cores_are_leased_all_or_none(tmp_path):
    first, second = DevicePool(folder=tmp_path), DevicePool(folder=tmp_path)
    held = first.lease_cores([0, 1])
    assert held is not None
    assert second.lease_cores([1, 2]) is None
    alone = second.lease_cores([2])
    assert alone is not None
    for lease in (*held, *alone):
        lease.release()
    assert second.lease_cores([1, 2]) is not None


def test_a_job_that_was_refused_a_gpu_is_remembered_and_an_engine_is_not(tmp_path):
    pool = DevicePool(folder=tmp_path, nvml=FakeNvml(FakeCard()))
    engine = pool.lease_gpu(0)
    assert engine is not None
    assert pool.lease_gpu(0) is None
    assert not pool.gpu_wanted(60)
    assert pool.acquire(DeviceRequest(), wants_gpu=True) is None
    assert pool.gpu_wanted(60)
    assert not pool.gpu_wanted(0)
    engine.release()
    assert pool.lease_gpu(0) is not None

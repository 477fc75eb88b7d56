"""The hub: cursors over a ring, the database where the ring is too short, nothing lost or doubled."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from mistudio.job.v1 import job_service_pb2

from mistudio_core.home import Home
from mistudio_core.jobs.records import LogWritten, NewJob
from mistudio_core.jobs.worker_store import Lease, Outcome
from mistudio_rpc import watch
from mistudio_rpc.runtime import Runtime


@pytest.fixture
async def runtime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Runtime]:
    monkeypatch.setenv("MISTUDIO_DEVICE_DIR", str(tmp_path / "devices"))
    runtime = await Runtime.open(Home.at(tmp_path / "home"), services=["train"])
    yield runtime
    await runtime.close()


async def running(runtime: Runtime) -> Lease:
    job, _ = await runtime.jobs.start(NewJob(service="train", request=b""))
    claim = await runtime.jobs.claim(job.job_id, "cpu:0")
    assert claim is not None
    return Lease(job_id=job.job_id, attempt=1, token=claim.token)


async def sequences(runtime: Runtime, job_id: str, *, pause: float = 0.0) -> list[int]:
    seen = []
    async for encoded in runtime.hub.watch(job_id, 0):
        event = job_service_pb2.WatchJobResponse.FromString(encoded).event
        if event.sequence:
            seen.append(event.sequence)
        await asyncio.sleep(pause)
    return seen


@pytest.mark.parametrize("ring", [4, 512])
async def test_fast_slow_and_late_watchers_see_the_same(runtime: Runtime, monkeypatch: pytest.MonkeyPatch, ring: int):
    monkeypatch.setattr(watch, "RING_EVENTS", ring)
    lease = await running(runtime)
    watchers = [asyncio.create_task(sequences(runtime, lease.job_id, pause=p)) for p in (0.0, 0.005, 0.02)]
    for batch in range(1, 31):
        await runtime.worker_jobs.report(lease, batch, [LogWritten(message=f"{batch}.{n}") for n in range(3)])
    await runtime.worker_jobs.finish(lease, Outcome(result=b""))
    late = await sequences(runtime, lease.job_id)
    for seen in [late, *await asyncio.gather(*watchers)]:
        assert seen == list(range(1, len(late) + 1))


async def test_a_watcher_that_leaves_does_not_cancel_the_job(runtime: Runtime):
    lease = await running(runtime)
    task = asyncio.create_task(sequences(runtime, lease.job_id))
    await asyncio.sleep(0.05)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert not await runtime.worker_jobs.report(lease, 1, [])


async def test_idle_feeds_are_forgotten(runtime: Runtime, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(watch, "_FEEDS", 3)
    for _ in range(10):
        job, _ = await runtime.jobs.start(NewJob(service="train", request=b""))
        await runtime.jobs.cancel(job.job_id)
        await sequences(runtime, job.job_id)
    assert len(runtime.hub._feeds) <= 4


async def test_the_newest_watcher_hears_everything_when_all_feeds_are_watched(
    runtime: Runtime, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(watch, "_FEEDS", 3)
    leases = [await running(runtime) for _ in range(6)]
    watchers = [asyncio.create_task(sequences(runtime, lease.job_id)) for lease in leases]
    await asyncio.sleep(0.1)
    for lease in leases:
        await runtime.worker_jobs.finish(lease, Outcome(result=b""))
    async with asyncio.timeout(5):
        seen = await asyncio.gather(*watchers)
    assert {tuple(s) for s in seen} == {tuple(range(1, len(seen[0]) + 1))}


async def test_rings_are_bounded_in_bytes(runtime: Runtime):
    lease = await running(runtime)
    for batch in range(1, 6):
        await runtime.worker_jobs.report(lease, batch, [LogWritten(message="x" * 4000)] * 60)
    await asyncio.sleep(0.05)
    feed = runtime.hub._feeds[lease.job_id]
    assert feed.size == sum(len(encoded) for _, encoded, _ in feed.ring) <= watch.RING_BYTES


async def test_feeds_of_ended_jobs_that_nobody_watches_are_dropped(runtime: Runtime):
    lease = await running(runtime)
    await runtime.worker_jobs.finish(lease, Outcome(result=b""))
    await asyncio.sleep(0.05)
    assert lease.job_id not in runtime.hub._feeds

"""Workers that ended with their service count where nobody asked it to stop: no job takes it down for ever."""

from __future__ import annotations

import asyncio

from mistudio_core.home import Home
from mistudio_core.jobs.records import JobRecord, NewJob
from mistudio_rpc.devices import DevicePool
from mistudio_rpc.runtime import Runtime
from mistudio_rpc.server import ServerConfig, running
from tests.support.scratch import scratch_contract, scratch_entry


async def running_job(home: Home) -> str:
    """A job whose worker is gone, as the database has it after everything was killed."""
    runtime = await Runtime.open(home, services=["scratch"])
    job, _ = await runtime.jobs.start(NewJob(service="scratch", request=b""))
    await runtime.jobs.claim(job.job_id, "cpu:0")
    await runtime.close()
    return job.job_id


async def settled(home: Home, job_id: str) -> JobRecord:
    """The job after a control process, which can start no worker, has looked at it."""
    config = ServerConfig(home=home, contract=scratch_contract(), devices=DevicePool(cpu_slots=0))
    async with running(config, [scratch_entry()]) as server:
        while (job := await server.runtime.queries.get(job_id)).status == "running":
            await asyncio.sleep(0.02)
    return job


async def claim_again(home: Home, job_id: str) -> None:
    runtime = await Runtime.open(home, services=["scratch"])
    await runtime.jobs.claim(job_id, "cpu:0")
    await runtime.close()


async def test_a_job_that_takes_its_service_with_it_fails_after_three_times(home: Home):
    job_id = await running_job(home)
    counts = []
    for _ in range(3):
        (home.runtime / "control.stopped").unlink(missing_ok=True)  # killed, not stopped
        job = await settled(home, job_id)
        counts.append((job.status, job.fruitless_attempts))
        if job.status == "queued":
            await claim_again(home, job_id)
    assert counts == [("queued", 1), ("queued", 2), ("failed", 2)]
    assert job.error is not None
    assert job.error.reason == "POISON"
    assert "memory limit" in job.error.message


async def test_a_service_that_was_asked_to_stop_counts_nothing(home: Home):
    job_id = await running_job(home)
    await settled(home, job_id)
    for _ in range(3):
        await claim_again(home, job_id)
        job = await settled(home, job_id)
    assert job.status == "queued"
    assert job.fruitless_attempts == 1

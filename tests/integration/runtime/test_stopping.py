"""A control process whose end ends its workers, as in a container: it asks them for a checkpoint first."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal

from mistudio_core.home import Home
from mistudio_core.jobs.records import JobRecord, LogWritten, NewJob
from mistudio_rpc.devices import DevicePool
from mistudio_rpc.server import ControlServer, ServerConfig, running
from tests.support.processes import running_workers
from tests.support.scratch import scratch_contract, scratch_entry, scratch_pb2


def config(home: Home, seconds: float) -> ServerConfig:
    return ServerConfig(home=home, contract=scratch_contract(), devices=DevicePool(), checkpoint_seconds=seconds)


async def start(server: ControlServer, mode: str, steps: int) -> str:
    request = scratch_pb2().StartScratchRequest(steps=steps, step_seconds=0.02, mode=mode)
    job, _ = await server.runtime.start_job(NewJob(service="scratch", request=request.SerializeToString()))
    return job.job_id


async def at_step(server: ControlServer, job_id: str, step: int) -> JobRecord:
    async with asyncio.timeout(60):
        while (job := await server.runtime.queries.get(job_id)).progress.current < step:
            await asyncio.sleep(0.02)
    return job


def end_container(home: Home) -> None:
    for pid in running_workers(home):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


async def test_a_worker_commits_what_it_has_before_it_is_ended(home: Home):
    async with running(config(home, 10), [scratch_entry()]) as server:
        job_id = await start(server, "patient", 120)
        reached = await at_step(server, job_id, 40)
        assert reached.last_checkpoint.endswith("step_00000005")
    end_container(home)
    async with running(config(home, 0), [scratch_entry()]) as server:
        async with asyncio.timeout(60):
            while (job := await server.runtime.queries.get(job_id)).status != "completed":
                await asyncio.sleep(0.02)
        events = await server.runtime.queries.events_after(job_id, 0)
    lines = [e.payload.message for e in events if isinstance(e.payload, LogWritten)]
    (resumed,) = [int(line.rpartition(" ")[2]) for line in lines if line.startswith("resumed")]
    assert resumed >= 40
    assert job.attempt == 2


async def test_a_worker_that_writes_none_is_not_waited_for_beyond_the_limit(home: Home):
    async with running(config(home, 0.2), [scratch_entry()]) as server:
        job_id = await start(server, "chat", 2000)
        async with asyncio.timeout(60):
            while not await server.runtime.queries.events_after(job_id, 5):
                await asyncio.sleep(0.02)
    job = await _read(home, job_id)
    assert (job.status, job.last_checkpoint) == ("running", "")
    end_container(home)


async def _read(home: Home, job_id: str) -> JobRecord:
    from mistudio_rpc.runtime import Runtime

    runtime = await Runtime.open(home)
    try:
        return await runtime.queries.get(job_id)
    finally:
        await runtime.close()

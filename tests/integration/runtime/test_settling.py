"""Whatever breaks between database, launcher and worker: a job goes on or ends, and is never left running."""

from __future__ import annotations

import asyncio
import os
import signal
import sqlite3
from contextlib import closing

import pytest

from mistudio_core.errors import Unavailable
from mistudio_rpc.launcher import Ended, Launcher


async def ended(control, job_id: str) -> int:
    async with asyncio.timeout(40):
        return (await control.watch(job_id))[-1].finished.status


async def test_a_worker_that_dies_while_the_database_is_locked_is_settled_later(control):
    job_id = await control.start(steps=60, step_seconds=0.05)
    await control.watch(job_id, until="checkpoint")
    (attempt,) = await control.server.runtime.queries.running_attempts(["scratch"])
    with closing(sqlite3.connect(control.home.database, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        os.kill(attempt.pid, signal.SIGKILL)
        await asyncio.sleep(6.5)  # longer than the writer waits for the lock
        other.execute("ROLLBACK")
    assert await ended(control, job_id) == 4


async def test_a_worker_that_cannot_be_started_is_tried_again(control, monkeypatch: pytest.MonkeyPatch):
    real, failures = Launcher.start, iter([BrokenPipeError("the spare is gone")])

    def start(self, job, lease):
        for failure in failures:
            raise failure
        return real(self, job, lease)

    monkeypatch.setattr(Launcher, "start", start)
    job_id = await control.start(steps=3)
    assert await ended(control, job_id) == 4
    assert (await control.job(job_id)).attempt == 2


def test_every_signal_has_a_sentence():
    assert "SIGSEGV" in Ended(code=-signal.SIGSEGV, out_of_memory=False).message
    assert "signal 40" in Ended(code=-40, out_of_memory=False).message


async def test_a_job_whose_secret_cannot_be_sealed_is_refused_and_can_be_started_again(
    control, monkeypatch: pytest.MonkeyPatch
):
    from mistudio_rpc import runtime

    real, failures = runtime.write_sealed, iter([OSError(28, "No space left on device")])

    def write(path, value):
        for failure in failures:
            raise failure
        real(path, value)

    monkeypatch.setattr(runtime, "write_sealed", write)
    with pytest.raises(Exception, match="Disk full"):
        await control.start(mode="secret", token="hf_canary", request_id="r")
    assert list(control.home.secrets.glob("scratch_*")) == []
    job_id = await control.start(mode="secret", token="hf_canary", request_id="r")
    assert await ended(control, job_id) == 4
    assert list(control.home.secrets.glob("scratch_*")) == []


async def test_a_caller_that_leaves_while_its_secret_is_sealed_leaves_nothing_half(
    control, monkeypatch: pytest.MonkeyPatch
):
    import time

    from mistudio_rpc import runtime

    real = runtime.write_sealed
    monkeypatch.setattr(runtime, "write_sealed", lambda path, value: (time.sleep(0.5), real(path, value)))
    task = asyncio.create_task(control.start(mode="secret", token="hf_canary", request_id="r"))
    await asyncio.sleep(0.2)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    job_id = await control.start(mode="secret", token="hf_canary", request_id="r")
    assert await ended(control, job_id) == 4
    assert list(control.home.secrets.glob("scratch_*")) == []


async def test_a_commit_without_a_lease_looks_at_no_file(control):
    import grpc
    from mistudio.worker.v1 import worker_service_pb2

    for folder in ("checkpoint/../../../outside", "checkpoint/" + "0" * 32):
        request = worker_service_pb2.CommitArtifactRequest(folder=folder)
        request.lease.job_id, request.lease.attempt, request.lease.token = "x", 1, "0" * 64
        request.artifact.uri = "/data/x"
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await control.call("/mistudio.worker.v1.WorkerService/CommitArtifact", request)
        assert caught.value.code() in (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.ABORTED)


async def test_watches_end_with_unavailable_when_the_service_stops(control):
    job_id = await control.start(steps=1000, step_seconds=0.05)
    watching = asyncio.create_task(control.watch(job_id))
    await asyncio.sleep(0.5)
    control.server.runtime.hub.close()
    outcome = (await asyncio.gather(watching, return_exceptions=True))[0]
    assert "stopping" in str(outcome)
    with pytest.raises(Unavailable):
        async for _ in control.server.runtime.hub.watch(job_id, 0):
            pass
    await control.cancel(job_id)

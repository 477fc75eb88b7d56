"""Jobs through a real server and real worker processes: run, watch, cancel, fail, crash."""

from __future__ import annotations

import asyncio
import hashlib

import grpc
import pytest

from mistudio_rpc.client import Client
from mistudio_rpc.status import from_rpc_error


def expected(steps: int) -> str:
    digest = ""
    for step in range(1, steps + 1):
        digest = hashlib.sha256(f"{digest}{step}".encode()).hexdigest()
    return digest


def kinds(events) -> list[str]:
    return [e.WhichOneof("event") for e in events]


async def test_a_job_runs_and_its_watch_tells_everything_in_order(control):
    job_id = await control.start(steps=12)
    events = await control.watch(job_id)
    durable = [e for e in events if e.sequence]
    assert kinds(events)[0] == "snapshot"
    assert [e.sequence for e in durable] == list(range(1, len(durable) + 1))
    assert kinds(durable)[-1] == "finished"
    assert kinds(durable).count("finished") == 1
    assert kinds(durable).count("checkpoint") == 2
    job = await control.server.runtime.queries.get(job_id)
    assert job.status == "completed"
    assert job.result == expected(12).encode()


async def test_watching_again_after_a_sequence_gives_the_rest_only(control):
    job_id = await control.start(steps=12)
    events = [e for e in await control.watch(job_id) if e.sequence]
    rest = [e for e in await control.watch(job_id, after=events[2].sequence) if e.sequence]
    assert [e.sequence for e in rest] == [e.sequence for e in events[3:]]


async def test_a_watch_from_the_end_of_a_finished_job_ends(control):
    job_id = await control.start(steps=3)
    last = (await control.watch(job_id))[-1].sequence
    assert kinds(await control.watch(job_id, after=last)) == ["snapshot"]
    client = Client(control.home.control_target, control.home.token())
    events = await asyncio.to_thread(lambda: list(client.watch(job_id, after=last)))
    client.close()
    assert kinds(events) == ["snapshot"]


async def test_a_sequence_from_the_future_is_refused(control):
    job_id = await control.start()
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await control.watch(job_id, after=10_000)
    assert from_rpc_error(caught.value).reason == "SEQUENCE_OUT_OF_RANGE"


async def test_sixteen_starts_with_one_request_id_give_one_job(control):
    ids = await asyncio.gather(*(control.start(request_id="same") for _ in range(16)))
    assert len(set(ids)) == 1


async def test_a_request_id_with_another_body_is_refused(control):
    job_id = await control.start(request_id="mine")
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await control.start(request_id="mine", steps=11)
    error = from_rpc_error(caught.value)
    assert error.reason == "REQUEST_ID_REUSED"
    assert job_id in error.message


async def test_cancel_of_a_running_job_is_quick_and_final(control):
    job_id = await control.start(steps=1000, step_seconds=0.1)
    await control.watch(job_id, until="progress")
    await control.cancel(job_id)
    events = await control.watch(job_id)
    assert kinds(events)[-1] == "finished"
    assert (await control.job(job_id)).status == 6
    again = await control.cancel(job_id)
    assert again.status == 6


async def test_cancel_of_a_queued_job_needs_no_worker(control):
    first = await control.start(steps=1000, step_seconds=0.1)
    second = await control.start(steps=3)
    job = await control.cancel(second)
    assert job.status == 6
    assert job.attempt == 0
    await control.cancel(first)
    await control.watch(first)


async def test_one_job_runs_at_a_time_and_the_other_says_why_it_waits(control):
    first = await control.start(steps=1000, step_seconds=0.1)
    await control.watch(first, until="progress")
    second = await control.start(steps=3)
    await asyncio.sleep(1.5)
    job = await control.job(second)
    assert job.status == 1
    assert "device" in job.queue_reason
    await control.cancel(first)
    await control.watch(second)
    assert (await control.job(second)).status == 4


async def test_a_worker_that_hangs_is_killed_on_cancel(control):
    job_id = await control.start(mode="hang")
    await control.watch(job_id, until="attempt_change")
    await asyncio.sleep(1)
    await control.cancel(job_id)
    async with asyncio.timeout(12):
        await control.watch(job_id)
    assert (await control.job(job_id)).status == 6


async def test_a_typed_error_of_the_job_reaches_its_watcher(control):
    job_id = await control.start(mode="fail")
    last = (await control.watch(job_id))[-1]
    assert last.finished.error.reason == "INVALID_FIELD"
    assert "mode" in last.finished.error.message


async def test_a_defect_shows_an_id_and_no_inside(control):
    job_id = await control.start(mode="bug")
    error = (await control.watch(job_id))[-1].finished.error
    assert error.reason == "INTERNAL"
    assert "/secret" not in error.message
    log = (control.home.logs / "jobs" / f"{job_id}.1.log").read_text()
    assert error.facts[0].value in log


async def test_a_job_that_crashes_its_worker_fails_as_poison(control):
    job_id = await control.start(mode="crash")
    last = (await control.watch(job_id))[-1]
    assert last.finished.error.reason == "POISON"
    assert "exit code 3" in last.finished.error.message
    assert last.attempt == 3


async def test_a_full_disk_pauses_the_job_until_there_is_space(control):
    job_id = await control.start(mode="diskfull", steps=4)
    while (await control.job(job_id)).status != 3:
        await asyncio.sleep(0.1)
    assert "Disk full" in (await control.job(job_id)).queue_reason
    (control.home.root / "space").touch()
    await control.watch(job_id)
    assert (await control.job(job_id)).status == 4


async def test_a_secret_reaches_the_worker_and_nothing_else(control):
    job_id = await control.start(mode="secret", token="hf_canary_0123456789")
    await control.watch(job_id)
    job = await control.server.runtime.queries.get(job_id)
    assert job.result == hashlib.sha256(b"hf_canary_0123456789").hexdigest().encode()
    left = [p for p in control.home.root.rglob("*") if p.is_file() and b"hf_canary" in p.read_bytes()]
    assert left == []

"""A worker's reports over lost answers, refusals and a service that is away: exactly once, or dropped with a word."""

from __future__ import annotations

import asyncio
import threading

import grpc
import pytest

from mistudio_core.errors import MistudioError
from mistudio_core.jobs.records import LogWritten, NewJob, ProgressRecord
from mistudio_rpc.worker.reporter import Reporter


async def reporter_of(control) -> tuple[str, Reporter]:
    """A reporter in this process for a claimed job that no dispatcher knows."""
    runtime = control.server.runtime
    job, _ = await runtime.jobs.start(NewJob(service="other", request=b""))
    claim = await runtime.jobs.claim(job.job_id, "cpu:0")
    assert claim is not None
    return job.job_id, Reporter(control.home.control_target, job.job_id, 1, claim.token)


async def lines(control, job_id: str) -> list[str]:
    events = await control.server.runtime.queries.events_after(job_id, 0)
    return [e.payload.message for e in events if isinstance(e.payload, LogWritten)]


class Lost(grpc.RpcError):
    """What a client sees when the answer is lost after the commit."""

    def code(self):
        return grpc.StatusCode.UNAVAILABLE

    def details(self):
        return "lost"

    def trailing_metadata(self):
        return None


async def test_an_answer_that_is_lost_loses_and_doubles_nothing(control):
    job_id, reporter = await reporter_of(control)
    real, lose = reporter._stub.Report, iter([True])

    def report(request, timeout):
        reply = real(request, timeout=timeout)
        for _ in lose:
            raise Lost
        return reply

    reporter._stub.Report = report
    reporter.log_line(LogWritten(message="A"))
    with pytest.raises(MistudioError):
        await asyncio.to_thread(reporter._flush, final=False)
    reporter.log_line(LogWritten(message="B"))
    await asyncio.to_thread(reporter._flush, final=False)
    assert await lines(control, job_id) == ["A", "B"]
    reporter._channel.close()


async def test_a_refused_report_does_not_make_the_worker_deaf(control):
    job_id, reporter = await reporter_of(control)
    reporter.progress(ProgressRecord(stage="x" * 101))
    with pytest.raises(MistudioError):
        await asyncio.to_thread(reporter._flush, final=False)
    reporter.log_line(LogWritten(message="heard"))
    await control.server.runtime.jobs.cancel(job_id)
    await asyncio.to_thread(reporter._flush, final=False)
    assert await lines(control, job_id) == ["heard"]
    assert reporter.cancel_requested
    reporter._channel.close()


async def test_more_lines_than_a_message_holds_go_in_several(control):
    job_id, reporter = await reporter_of(control)
    for number in range(400):
        reporter.log_line(LogWritten(message=f"{number} " + "語" * 3900))
    await asyncio.to_thread(reporter._flush, final=True)
    assert len(await lines(control, job_id)) == 400
    reporter._channel.close()


def test_a_result_survives_a_service_that_is_away_when_the_worker_ends(home):
    import time

    from mistudio_rpc.client import Client
    from tests.integration.runtime.test_kills import Watch, expected, result, start, wait_for_checkpoint
    from tests.support.processes import control_process

    with control_process(home, "scratch") as control, Client(home.control_target, home.token()) as client:
        job_id = start(client, home, steps=54, step_seconds=0.05)
        watch = Watch(client, job_id)
        wait_for_checkpoint(watch)
        while not any(e.progress.current >= 51 for e in watch.events if e.WhichOneof("event") == "progress"):
            time.sleep(0.01)
        control.kill9()
        threading.Event().wait(13)  # longer than a call's deadline
        control.start()
        watch.durable()
        assert result(home, job_id) == expected(54)
        assert max(e.attempt for e in watch.events) == 1

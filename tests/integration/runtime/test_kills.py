"""kill -9 of worker and service, with real processes: nothing is lost, nothing happens twice."""

from __future__ import annotations

import hashlib
import random
import sqlite3
import threading
import time
from contextlib import closing

import grpc
import pytest

from mistudio_core.errors import MistudioError
from mistudio_core.home import Home
from mistudio_rpc.client import Client
from tests.support.processes import control_process, kill_worker, worker_pid
from tests.support.scratch import scratch_pb2


def start(client: Client, home: Home, **fields) -> str:
    request = scratch_pb2().StartScratchRequest(**{"steps": 10, **fields})
    call = client._channel.unary_unary(
        "/mistudio.scratch.v1.ScratchService/StartScratch",
        request_serializer=type(request).SerializeToString,
        response_deserializer=scratch_pb2().StartScratchResponse.FromString,
    )
    return call(request, timeout=10, metadata=(("authorization", f"Bearer {home.token().reveal()}"),)).job_id


def result(home: Home, job_id: str) -> bytes:
    with closing(sqlite3.connect(home.database)) as connection:
        return connection.execute("SELECT result FROM jobs WHERE job_id = ?", (job_id,)).fetchone()[0]


def expected(steps: int) -> bytes:
    digest = ""
    for step in range(1, steps + 1):
        digest = hashlib.sha256(f"{digest}{step}".encode()).hexdigest()
    return digest.encode()


class Watch(threading.Thread):
    """Watches a job in the background, over every break."""

    def __init__(self, client: Client, job_id: str) -> None:
        super().__init__(daemon=True)
        self._client, self._job_id = client, job_id
        self.events: list = []
        self.start()

    def run(self) -> None:
        for event in self._client.watch(self._job_id):
            self.events.append(event)

    def durable(self) -> list[int]:
        self.join(timeout=60)
        assert not self.is_alive()
        return [e.sequence for e in self.events if e.sequence]


def wait_for_checkpoint(watch: Watch) -> None:
    while not any(e.WhichOneof("event") == "checkpoint" for e in watch.events):
        assert watch.is_alive()
        time.sleep(0.02)


@pytest.mark.parametrize("seed", [1, 2])
def test_five_kills_of_the_worker_give_the_result_of_an_undisturbed_run(home: Home, seed: int):
    rng = random.Random(seed)
    with control_process(home, "scratch"), Client(home.control_target, home.token()) as client:
        job_id = start(client, home, steps=150, step_seconds=0.02)
        watch = Watch(client, job_id)
        wait_for_checkpoint(watch)
        kills = 0
        while kills < 5 and watch.is_alive():
            time.sleep(rng.uniform(0.1, 0.5))
            kills += kill_worker(home, job_id)
        sequences = watch.durable()
        assert kills == 5
        assert sequences == list(range(1, len(sequences) + 1))
        assert result(home, job_id) == expected(150)
        assert client.jobs.GetJob(_get(job_id)).job.attempt >= 4


def test_kill_of_the_service_loses_no_step_and_no_event(home: Home):
    with control_process(home, "scratch") as control, Client(home.control_target, home.token()) as client:
        job_id = start(client, home, steps=200, step_seconds=0.02)
        watch = Watch(client, job_id)
        wait_for_checkpoint(watch)
        worker = worker_pid(home, job_id)
        for _ in range(2):
            control.kill9()
            time.sleep(0.5)
            assert control.start() < 5
            assert worker_pid(home, job_id) == worker, "the worker was adopted, not replaced"
            time.sleep(0.7)
        sequences = watch.durable()
        assert sequences == list(range(1, len(sequences) + 1))
        assert result(home, job_id) == expected(200)
        assert client.jobs.GetJob(_get(job_id)).job.attempt == 1
        resumed = [e for e in watch.events if e.WhichOneof("event") == "log"]
        assert resumed == [], "no step was repeated"


def test_what_was_acknowledged_is_there_after_a_kill(home: Home):
    with control_process(home, "scratch") as control, Client(home.control_target, home.token()) as client:
        acknowledged = [start(client, home, steps=1000, step_seconds=0.1, request_id=f"r{i}") for i in range(8)]
        control.kill9()
        control.start()
        again = [start(client, home, steps=1000, step_seconds=0.1, request_id=f"r{i}") for i in range(8)]
        assert again == acknowledged
        for job_id in acknowledged:
            client.jobs.CancelJob(_cancel(job_id))


def test_a_worker_that_dies_with_its_service_is_replaced_after_the_restart(home: Home):
    with control_process(home, "scratch") as control, Client(home.control_target, home.token()) as client:
        job_id = start(client, home, steps=100, step_seconds=0.02)
        watch = Watch(client, job_id)
        wait_for_checkpoint(watch)
        control.kill9()
        kill_worker(home, job_id)
        control.start()
        sequences = watch.durable()
        assert sequences == list(range(1, len(sequences) + 1))
        assert result(home, job_id) == expected(100)


def test_a_second_service_on_the_same_home_is_refused(home: Home):
    import asyncio

    from mistudio_rpc.server import ServerConfig, running

    async def second() -> None:
        async with running(ServerConfig(home=home), []):
            pass

    with control_process(home, "scratch"):
        with pytest.raises(MistudioError) as caught:
            asyncio.run(second())
        assert caught.value.reason == "ADDRESS_IN_USE"
        assert "mistudio down" in caught.value.message


def _get(job_id: str):
    from mistudio.job.v1 import job_service_pb2

    return job_service_pb2.GetJobRequest(job_id=job_id)


def _cancel(job_id: str):
    from mistudio.job.v1 import job_service_pb2

    return job_service_pb2.CancelJobRequest(job_id=job_id)


def test_the_client_says_what_to_do_when_nothing_answers(home: Home):
    with Client(home.control_target, home.token(), timeout=2) as client, pytest.raises(MistudioError) as caught:
        client.jobs.GetJob(_get("train_20250101_000000_00000000"))
    assert caught.value.reason in ("UNAVAILABLE", "DEADLINE_EXCEEDED")
    assert not isinstance(caught.value, grpc.RpcError)

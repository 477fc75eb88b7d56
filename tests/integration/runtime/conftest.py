"""A control server with the scratch service, inside the test's event loop."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import AsyncIterator

import grpc.aio
import pytest
from mistudio.job.v1 import job_service_pb2

from mistudio_core.home import Home
from mistudio_rpc.channel import open_channel
from mistudio_rpc.contract import Contract
from mistudio_rpc.devices import DevicePool
from mistudio_rpc.server import ControlServer, ServerConfig, running
from tests.support.processes import running_workers
from tests.support.scratch import scratch_contract, scratch_entry, scratch_pb2


class Harness:
    """Talks to the server as a client would, by raw method names: no generated stub is needed."""

    def __init__(self, server: ControlServer, channel: grpc.aio.Channel, home: Home, contract: Contract) -> None:
        self.server, self.channel, self.home, self._contract = server, channel, home, contract
        self.metadata = (("authorization", f"Bearer {home.token().reveal()}"),)

    async def call(self, path: str, request, timeout: float = 20):
        method = self._contract.methods[path]
        rpc = self.channel.unary_unary(
            path,
            request_serializer=method.request_class.SerializeToString,
            response_deserializer=method.response_class.FromString,
        )
        return await rpc(request, timeout=timeout, metadata=self.metadata)

    async def start(self, **fields) -> str:
        request = scratch_pb2().StartScratchRequest(**{"steps": 10, **fields})
        reply = await self.call("/mistudio.scratch.v1.ScratchService/StartScratch", request)
        return reply.job_id

    async def job(self, job_id: str):
        request = job_service_pb2.GetJobRequest(job_id=job_id)
        return (await self.call("/mistudio.job.v1.JobService/GetJob", request)).job

    async def cancel(self, job_id: str):
        request = job_service_pb2.CancelJobRequest(job_id=job_id)
        return (await self.call("/mistudio.job.v1.JobService/CancelJob", request)).job

    async def watch(self, job_id: str, after: int = 0, until: str = "finished"):
        rpc = self.channel.unary_stream(
            "/mistudio.job.v1.JobService/WatchJob",
            request_serializer=job_service_pb2.WatchJobRequest.SerializeToString,
            response_deserializer=job_service_pb2.WatchJobResponse.FromString,
        )
        request = job_service_pb2.WatchJobRequest(job_id=job_id, after_sequence=after)
        call = rpc(request, timeout=60, metadata=self.metadata)
        events = []
        async for response in call:
            events.append(response.event)
            if response.event.WhichOneof("event") == until:
                break
        call.cancel()
        return events


@pytest.fixture
async def control(home: Home) -> AsyncIterator[Harness]:
    contract = scratch_contract()
    config = ServerConfig(home=home, contract=contract, devices=DevicePool())
    async with running(config, [scratch_entry()]) as server, open_channel(home.control_target) as channel:
        yield Harness(server, channel, home, contract)
    for pid in running_workers(home):  # they outlive their service by design, but not their test
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)

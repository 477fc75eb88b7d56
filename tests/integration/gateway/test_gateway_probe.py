"""The health-only listener: what it tells of the gateway, of what is behind it, and nothing else."""

from __future__ import annotations

import asyncio
import socket

import grpc
import grpc.aio
import pytest
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from mistudio.job.v1 import job_service_pb2, job_service_pb2_grpc

from gateway.probe import BACKENDS
from mistudio_core.errors import Unavailable
from mistudio_rpc.probe import serves

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


@pytest.fixture
def address() -> str:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{free.getsockname()[1]}"


async def ask(channel: grpc.aio.Channel, name: str):
    reply = await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(service=name), timeout=5)
    return reply.status


async def test_a_gateway_serves_while_what_is_behind_it_may_not(start, address: str):
    behind = grpc.aio.server()
    servicer = health.aio.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(servicer, behind)
    port = behind.add_insecure_port("127.0.0.1:0")
    await behind.start()
    await start(f"127.0.0.1:{port}", probe_address=address)
    async with grpc.aio.insecure_channel(address) as channel:
        assert [await ask(channel, name) for name in ("", BACKENDS)] == [SERVING, SERVING]
        await servicer.set("", NOT_SERVING)
        assert [await ask(channel, name) for name in ("", BACKENDS)] == [SERVING, NOT_SERVING]
        await behind.stop(0)
        assert [await ask(channel, name) for name in ("", BACKENDS)] == [SERVING, NOT_SERVING]
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await ask(channel, "other")
        assert caught.value.code() is grpc.StatusCode.NOT_FOUND


async def test_the_port_forwards_nothing(start, address: str):
    await start(probe_address=address)
    async with grpc.aio.insecure_channel(address) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await job_service_pb2_grpc.JobServiceStub(channel).ListJobs(job_service_pb2.ListJobsRequest(), timeout=5)
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_a_draining_gateway_does_not_serve(start, address: str):
    gateway = await start(probe_address=address)
    gateway._router.drain()
    async with grpc.aio.insecure_channel(address) as channel:
        assert await ask(channel, "") == NOT_SERVING
    assert not await asyncio.to_thread(serves, address)


async def test_the_probe_of_a_container_asks_the_same(start, address: str):
    assert not await asyncio.to_thread(serves, address)
    await start(probe_address=address)
    assert await asyncio.to_thread(serves, address)
    assert not await asyncio.to_thread(serves, address, BACKENDS)


async def test_an_address_in_use_says_which_option_to_change(start, address: str):
    host, _, port = address.rpartition(":")
    with socket.create_server((host, int(port))), pytest.raises(Unavailable, match="--probe-address"):
        await start(probe_address=address)

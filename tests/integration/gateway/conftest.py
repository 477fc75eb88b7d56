"""A gateway in the test's own loop, in front of a scripted backend; both on free ports."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from typing import Any

import grpc.aio
import httpx
import pytest
from gateway_backend import Backend, client_of, running_gateway

from gateway.server import Gateway


@pytest.fixture
async def backend() -> AsyncIterator[Backend]:
    running = Backend()
    await running.server.start()
    yield running
    await running.server.stop(0)


@pytest.fixture
async def start(backend: Backend) -> AsyncIterator[Callable[..., Any]]:
    """Starts gateways in front of the scripted backend; stops them at the end."""
    async with AsyncExitStack() as stack:

        async def begin(target: str | None = None, **settings: Any) -> Gateway:
            return await stack.enter_async_context(running_gateway(target or backend.target, **settings))

        yield begin


@pytest.fixture
async def gateway(start: Callable[..., Any]) -> Gateway:
    return await start()


@pytest.fixture
async def http(gateway: Gateway) -> AsyncIterator[httpx.AsyncClient]:
    async with client_of(gateway) as client:
        yield client


@pytest.fixture
async def channel(gateway: Gateway) -> AsyncIterator[grpc.aio.Channel]:
    async with grpc.aio.insecure_channel(gateway.grpc_address) as opened:
        yield opened

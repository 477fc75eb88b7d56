"""Health checks alone, on a port of their own and without certificates: what an orchestrator probes.

The empty name asks about this process; `backends` asks whether everything behind it serves too.
"""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import grpc.aio
from grpc_health.v1 import health_pb2, health_pb2_grpc

from gateway.grpc_entry import address_in_use
from gateway.routing import Router
from mistudio_rpc.channel import LIMITS

BACKENDS = "backends"
"""The name that asks about everything behind the gateway."""
_ASK_SECONDS = 2.0
_SERVING = health_pb2.HealthCheckResponse.SERVING
_NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


class Probe(health_pb2_grpc.HealthServicer):  # type: ignore[misc]  # the package has no types
    """Answers Check; there is nothing to watch."""

    def __init__(self, router: Router) -> None:
        """Binds nothing yet."""
        self._router = router
        options = [*LIMITS, ("grpc.so_reuseport", 0)]
        self._server = grpc.aio.server(options=options, maximum_concurrent_rpcs=16)
        health_pb2_grpc.add_HealthServicer_to_server(self, self._server)

    async def start(self, address: str) -> None:
        """Serves. Raises Unavailable (ADDRESS_IN_USE)."""
        try:
            self._server.add_insecure_port(address)
        except RuntimeError as error:
            raise address_in_use(address, "--probe-address") from error
        await self._server.start()

    async def stop(self) -> None:
        """Ends at once."""
        await self._server.stop(0)

    async def Check(self, request: health_pb2.HealthCheckRequest, context: Any) -> health_pb2.HealthCheckResponse:
        """Not serving from the moment that the gateway drains."""
        if request.service not in ("", BACKENDS):
            await context.abort(grpc.StatusCode.NOT_FOUND, f"ask for nothing or {BACKENDS}")
        serving = not self._router.draining
        if serving and request.service == BACKENDS:
            serving = all(await asyncio.gather(*map(_serves, self._router.channels())))
        return health_pb2.HealthCheckResponse(status=_SERVING if serving else _NOT_SERVING)


async def _serves(channel: grpc.aio.Channel) -> bool:
    try:
        call = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=_ASK_SECONDS)
        reply = await call
    except grpc.aio.AioRpcError:
        return False
    return bool(reply.status == _SERVING)

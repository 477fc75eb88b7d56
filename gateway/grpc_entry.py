"""The gRPC listener: bytes in, bytes out, to the backend that owns the call.

Nothing is parsed on the way of a message. Deadline, cancellation, status, details and trailers pass through;
metadata is cut to an allow-list. Internal and unknown RPCs are UNIMPLEMENTED.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
import grpc.aio
from google.rpc import code_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1._async import HealthServicer
from grpc_reflection.v1alpha import reflection
from grpc_status import rpc_status

from gateway.config import GatewayConfig
from gateway.exchange import FORWARDED
from gateway.routing import Router, stopping
from gateway.verdict import true_status
from mistudio_core.address import is_loopback, split_address
from mistudio_core.errors import MistudioError, NotFound, Unavailable
from mistudio_rpc import status
from mistudio_rpc.channel import LIMITS
from mistudio_rpc.contract import Contract, Method

_OPTIONS: list[tuple[str, int]] = [
    *LIMITS,
    ("grpc.so_reuseport", 0),  # a port in use is an error, not a second listener
    ("grpc.compression_enabled_algorithms_bitset", 1),  # identity only: no compressed bombs
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 20_000),
    ("grpc.http2.min_recv_ping_interval_without_data_ms", 10_000),
]
_SERVING = health_pb2.HealthCheckResponse.SERVING


class GrpcEntry:
    """The gRPC server of a gateway."""

    def __init__(self, contract: Contract, router: Router, config: GatewayConfig) -> None:
        """Binds nothing yet."""
        self._config, self._health = config, HealthServicer()
        self._server = grpc.aio.server(options=_OPTIONS, maximum_concurrent_rpcs=config.limits.connections)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        host, _ = split_address("grpc_address", config.grpc_address)
        if is_loopback(host):
            public = [m.descriptor.containing_service for m in contract if not m.is_internal]
            names = sorted({s.full_name for s in public} | {reflection.SERVICE_NAME})
            pool = public[0].file.pool if public else None
            reflection.enable_server_reflection(names, self._server, pool=pool)
        self._server.add_generic_rpc_handlers((_Forwarder(contract, router, config.limits.call_seconds),))

    async def start(self) -> int:
        """Binds, serves, and returns the port. Raises Unavailable (ADDRESS_IN_USE)."""
        address, tls = self._config.grpc_address, self._config.tls
        try:
            if tls is not None and tls.certificate is not None:
                port = self._server.add_secure_port(address, tls.server_credentials())
            else:
                port = self._server.add_insecure_port(address)
        except RuntimeError as error:
            raise address_in_use(address, "--grpc") from error
        await self._server.start()
        await self._health.set("", _SERVING)
        return int(port)

    async def stop(self, seconds: float) -> None:
        """Takes no new call, waits for running ones, then cancels them."""
        await self._health.enter_graceful_shutdown()
        await self._server.stop(seconds)


class _Forwarder(grpc.GenericRpcHandler):
    """Finds the handler of an RPC by its path."""

    def __init__(self, contract: Contract, router: Router, call_seconds: float) -> None:
        self._handlers = {m.path: _Calls(m, router, call_seconds).handler() for m in contract if not m.is_internal}
        self._refuse: Any = grpc.stream_stream_rpc_method_handler(_refuse)

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Any:
        return self._handlers.get(handler_call_details.method, self._refuse)


class _Calls:
    """One RPC, passed on without serializers, so that messages stay bytes; unary calls stay unary."""

    def __init__(self, method: Method, router: Router, call_seconds: float) -> None:
        self._method, self._router, self._call_seconds = method, router, call_seconds

    def handler(self) -> Any:
        """The handler of this RPC's shape."""
        if not self._method.client_streaming:
            if self._method.server_streaming:
                return grpc.unary_stream_rpc_method_handler(self._stream)
            return grpc.unary_unary_rpc_method_handler(self._unary)
        if self._method.server_streaming:
            return grpc.stream_stream_rpc_method_handler(self._both)
        return grpc.stream_unary_rpc_method_handler(self._upload)

    async def _unary(self, request: bytes, context: Any) -> bytes:
        with _Outcome() as outcome:
            start: Any = self._router.channel(self._method, request).unary_unary(self._method.path)
            left = context.time_remaining()
            timeout = self._call_seconds if left is None else left
            return await _reply(start(request, metadata=_metadata(context), timeout=timeout), context)
        return await outcome.fail(context)

    async def _upload(self, requests: AsyncIterator[bytes], context: Any) -> bytes:
        with _Outcome() as outcome:
            start: Any = self._router.channel(self._method, None).stream_unary(self._method.path)
            call = start(requests, metadata=_metadata(context), timeout=context.time_remaining())
            async with true_status(call):
                return await _reply(call, context)
        return await outcome.fail(context)

    async def _stream(self, request: bytes, context: Any) -> None:
        with _Outcome() as outcome:
            start: Any = self._router.channel(self._method, request).unary_stream(self._method.path)
            await self._pump(start(request, metadata=_metadata(context), timeout=context.time_remaining()), context)
            return
        await outcome.fail(context)

    async def _both(self, requests: AsyncIterator[bytes], context: Any) -> None:
        with _Outcome() as outcome:
            start: Any = self._router.channel(self._method, None).stream_stream(self._method.path)
            await self._pump(start(requests, metadata=_metadata(context), timeout=context.time_remaining()), context)
            return
        await outcome.fail(context)

    async def _pump(self, call: Any, context: Any) -> None:
        """Passes messages on, one at a time: a slow reader slows its own stream and nothing else."""
        with self._router.streaming(call, endless=not self._method.sends_chunks):
            try:
                while (message := await call.read()) is not grpc.aio.EOF:
                    await context.write(message)
            except asyncio.CancelledError:
                if self._router.draining and not context.cancelled():
                    raise stopping() from None
                raise
            context.set_trailing_metadata(await call.trailing_metadata())


class _Outcome:
    """Keeps the error of a call, to end it outside of the `except` that caught it."""

    def __enter__(self) -> _Outcome:
        self._error: BaseException | None = None
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> bool:
        self._error = error
        return isinstance(error, MistudioError | grpc.aio.AioRpcError)

    async def fail(self, context: Any) -> bytes:
        """Ends the call as the backend did, or as the gateway found it; gRPC sends nothing after that."""
        error = self._error
        if isinstance(error, grpc.aio.AioRpcError):
            await context.abort(error.code(), error.details() or "", tuple(error.trailing_metadata() or ()))
        elif isinstance(error, MistudioError):
            await context.abort_with_status(rpc_status.to_status(status.to_status(error)))
        return b""


async def _reply(call: Any, context: Any) -> bytes:
    response: bytes = await call
    context.set_trailing_metadata(await call.trailing_metadata())
    return response


def _metadata(context: Any) -> list[tuple[str, str | bytes]]:
    """What of the caller's metadata travels on."""
    return [(key, value) for key, value in context.invocation_metadata() or () if key in FORWARDED]


async def _refuse(_: AsyncIterator[bytes], context: Any) -> None:
    error = NotFound("There is no such RPC here.", reason="ROUTE_NOT_FOUND")
    found = status.to_status(error)
    found.code = code_pb2.UNIMPLEMENTED
    await context.abort_with_status(rpc_status.to_status(found))


def address_in_use(address: str, option: str) -> Unavailable:
    """The error for a listener that cannot have its address."""
    return Unavailable(
        f"Cannot listen on {address}: another process uses this port, or the address is not of this machine. "
        f"Stop that process, or choose another port with {option} HOST:PORT.",
        reason="ADDRESS_IN_USE",
        facts={"address": address, "port": address.rpartition(":")[2], "option": option},
    )

"""What a control process counts, and the listener that tells Prometheus: GET /metrics, nothing else.

Loopback without TLS, or any address with TLS and the installation's bearer token. Services register what
they count in `Metrics`; figures that must be asked for are refreshed right before they are told.
"""

from __future__ import annotations

import asyncio
import hmac
import logging
import ssl
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from mistudio_core.address import is_loopback, split_address
from mistudio_core.errors import InvalidInput
from mistudio_core.secret import Secret
from mistudio_rpc.channel import Tls

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry

log = logging.getLogger("mistudio.metrics")
PART = "mistudio.metrics"
"""Where a Runtime's parts hold the Metrics, in a process that tells them."""
_HEAD_BYTES = 16 * 1024
_SECONDS = 10.0
_NAMES = {200: "OK", 400: "Bad Request", 401: "Unauthorized", 404: "Not Found", 405: "Method Not Allowed"}


def _registry() -> CollectorRegistry:
    from prometheus_client import CollectorRegistry

    return CollectorRegistry()


@dataclass(slots=True)
class Metrics:
    """What is told."""

    registry: CollectorRegistry = field(default_factory=_registry)
    """Counters, gauges and histograms."""
    refresh: list[Callable[[], Awaitable[None]]] = field(default_factory=list)
    """Called before each telling."""


class MetricsListener:
    """A listener for the life of a control process."""

    def __init__(self, address: str, metrics: Metrics, *, tls: Tls | None, token: Secret) -> None:
        """Nothing listens before `start`. Raises InvalidInput for an open address without TLS."""
        self._host, self._asked_port = split_address("metrics-address", address)
        self._open = not is_loopback(self._host)
        if self._open and tls is None:
            raise InvalidInput.field(
                "metrics-address",
                address,
                "a loopback address, or any address with a TLS certificate and key",
                "Listen on 127.0.0.1 or give --tls-cert and --tls-key.",
            )
        self.metrics, self._tls, self._token = metrics, tls, token
        self._server: asyncio.Server | None = None
        self.port = 0

    async def start(self) -> None:
        """Listens. Raises InvalidInput where the address is taken or is none."""
        context = None
        if self._tls is not None:
            context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
            context.load_cert_chain(str(self._tls.certificate), str(self._tls.key))
            if self._tls.authority is not None:
                context.load_verify_locations(str(self._tls.authority))
                context.verify_mode = ssl.CERT_REQUIRED
        try:
            self._server = await asyncio.start_server(
                self._serve, self._host, self._asked_port, ssl=context, limit=_HEAD_BYTES
            )
        except OSError as error:
            raise InvalidInput.field(
                "metrics-address", f"{self._host}:{self._asked_port}", "an address of this machine that is free"
            ) from error
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        """Stops listening."""
        if self._server is not None:
            self._server.close()
            await self._server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(_SECONDS):
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
                status, kind, body = await self._answer(head)
                writer.write(_response(status, kind, body))
                await writer.drain()
        except (TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, OSError) as error:
            log.debug("a request for metrics ended early: %s", error)
        finally:
            writer.close()

    async def _answer(self, head: list[str]) -> tuple[int, str, bytes]:
        words = head[0].split(" ")
        headers = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:])}
        if len(words) != 3:
            return 400, "text/plain", b"This is no HTTP request.\n"
        if words[0] not in ("GET", "HEAD"):
            return 405, "text/plain", b"Send GET.\n"
        if words[1].partition("?")[0] != "/metrics":
            return 404, "text/plain", b"There is /metrics only.\n"
        if self._open and not self._known(headers.get("authorization", "")):
            return 401, "text/plain", b"Send Authorization: Bearer <token>; `mistudio token` prints it.\n"
        from prometheus_client.exposition import choose_encoder

        for refresh in self.metrics.refresh:
            await refresh()
        encode, kind = choose_encoder(headers.get("accept", ""))
        body = bytes(encode(self.metrics.registry))
        return 200, kind, b"" if words[0] == "HEAD" else body

    def _known(self, shown: str) -> bool:
        scheme, _, value = shown.partition(" ")
        valid = hmac.compare_digest(value.strip().encode(), self._token.reveal().encode())
        return scheme.lower() == "bearer" and valid


def _response(status: int, kind: str, body: bytes) -> bytes:
    lines = [
        f"HTTP/1.1 {status} {_NAMES[status]}",
        f"Content-Type: {kind}",
        f"Content-Length: {len(body)}",
        "X-Content-Type-Options: nosniff",
        "Connection: close",
    ]
    return "\r\n".join([*lines, "", ""]).encode() + body

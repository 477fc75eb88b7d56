"""The HTTP client of engines: deadlines, capped bodies, checked addresses; no proxy, no redirect.

Every engine that speaks HTTP takes its client from here, whatever SDK stands above it.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import ssl
from collections.abc import AsyncIterator
from functools import lru_cache
from pathlib import Path

import httpx2

from mistudio_core.errors import Unavailable
from mistudio_explain.engines.addresses import resolve
from mistudio_explain.engines.table import EngineSettings

_SPARE_CONNECTIONS = 4


class TooLarge(Exception):
    """The answer is over its cap."""


class _CappedStream(httpx2.AsyncByteStream):
    """A response body that ends with TooLarge behind its cap: an endless line would fill the memory."""

    def __init__(self, stream: httpx2.AsyncByteStream, cap: int) -> None:
        self._stream, self._left = stream, cap

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for block in self._stream:
            self._left -= len(block)
            if self._left < 0:
                raise TooLarge
            yield block

    async def aclose(self) -> None:
        await self._stream.aclose()


class EngineTransport(httpx2.AsyncHTTPTransport):
    """Caps every response body, and connects only to addresses that the engine may be at.

    A name is looked up once and every address of it checked; requests go to that address, with the
    name in TLS and in the Host header, so that a later answer of the name service changes nothing.
    An address that cannot be connected to gives way to the next.
    """

    def __init__(self, settings: EngineSettings, most_bytes: int = 0) -> None:
        """For one engine; a body may have `most_bytes` instead of what its settings say."""
        count = settings.concurrency + _SPARE_CONNECTIONS
        limits = httpx2.Limits(max_connections=count, max_keepalive_connections=count, keepalive_expiry=30)
        super().__init__(verify=_certificates(settings), trust_env=False, limits=limits)
        self._settings = settings
        self._most = most_bytes or settings.max_response_bytes
        self._addresses: list[str] = []

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        """See httpx2. Raises ForbiddenAddress."""
        host = request.url.host
        address = host if _is_address(host) else await self._address(request.url)
        if address != host:
            request.extensions = {**request.extensions, "sni_hostname": host}
            request.url = request.url.copy_with(host=address)
        try:
            response = await super().handle_async_request(request)
        except (httpx2.ConnectError, httpx2.ConnectTimeout):
            self._addresses = [a for a in self._addresses if a != address]
            raise
        if response.headers.get("content-encoding", "identity") != "identity":
            # The cap counts what arrives; what it would become unpacked has none.
            await response.aclose()
            raise httpx2.DecodingError("compressed, which was not asked for")
        if isinstance(response.stream, httpx2.AsyncByteStream):
            response.stream = _CappedStream(response.stream, self._most)
        return response

    async def _address(self, url: httpx2.URL) -> str:
        if not self._addresses:
            port = url.port or (443 if url.scheme == "https" else 80)
            kind, allow_private = self._settings.kind, self._settings.allow_private
            try:
                async with asyncio.timeout(self._settings.connect_seconds):
                    self._addresses = await resolve(url.host, port, kind, allow_private=allow_private)
            except TimeoutError as error:
                raise httpx2.ConnectTimeout("the name service does not answer") from error
            except (socket.gaierror, UnicodeError) as error:
                raise httpx2.ConnectError("the name is not known") from error
        return self._addresses[0]


def _certificates(settings: EngineSettings) -> ssl.SSLContext:
    """What certificates are checked against. Raises Unavailable (ENGINE_UNAVAILABLE) for a file that has none."""
    if not settings.ca_file:
        return _public_certificates()
    try:
        return ssl.create_default_context(cafile=Path(settings.ca_file).expanduser())
    except OSError as error:  # SSLError too
        raise Unavailable(
            f"The file that ca_file of engine {settings.name!r} names holds no certificates. Correct engines.toml.",
            reason="ENGINE_UNAVAILABLE",
            facts={"engine": settings.name},
        ) from error


@lru_cache(maxsize=1)
def _public_certificates() -> ssl.SSLContext:
    """Read once: it takes longer than everything else about a client."""
    return httpx2.create_ssl_context(trust_env=False)


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def http_client(
    settings: EngineSettings, *, base_url: str = "", silence_seconds: float = 0.0, most_bytes: int = 0
) -> httpx2.AsyncClient:
    """A client for one engine; longest silence and largest body are those of its settings unless given."""
    silence = silence_seconds or settings.first_byte_seconds
    return httpx2.AsyncClient(
        base_url=base_url,
        transport=EngineTransport(settings, most_bytes),
        timeout=httpx2.Timeout(silence, connect=settings.connect_seconds, pool=settings.total_seconds),
        follow_redirects=False,
        trust_env=False,
        headers={"Accept-Encoding": "identity"},
    )

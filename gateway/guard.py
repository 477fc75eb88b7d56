"""What every HTTP request passes first: who it was addressed to, where it came from, how it is encoded.

Against DNS rebinding and cross-site requests the Host and Origin headers must name this gateway; there is no
CORS. Every reply says `nosniff`; no exception gets past this point.
"""

from __future__ import annotations

from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gateway.body import too_large
from gateway.config import GatewayConfig
from gateway.replies import error_reply, known
from mistudio_core.address import is_loopback, split_address
from mistudio_core.errors import Forbidden, InvalidInput, MistudioError

_LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})


class Guard:
    """ASGI middleware around the whole application."""

    def __init__(self, app: ASGIApp, config: GatewayConfig) -> None:
        """Open to every Host name only on a public listener without configured names."""
        host, _ = split_address("http_address", config.http_address)
        self._app = app
        self._open = not is_loopback(host) and not config.host_names
        self._head_bytes = config.limits.header_bytes
        self._names = _LOOPBACK | {n.lower() for n in config.host_names}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Refuses or passes on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = False

        async def marked(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                MutableHeaders(scope=message).setdefault("X-Content-Type-Options", "nosniff")
            await send(message)

        refusal = self._refusal(Headers(scope=scope)) or self._too_long(scope)
        try:
            if refusal is not None:
                await error_reply(refusal, 431 if refusal.reason == "TOO_LARGE" else None)(scope, receive, marked)
            else:
                await self._app(scope, receive, marked)
        except Exception as error:
            reply = known(error)
            if not started:  # else the connection breaks, and the client sees that it did
                await error_reply(reply)(scope, receive, marked)

    def _refusal(self, headers: Headers) -> MistudioError | None:
        hosts, origins = headers.getlist("host"), headers.getlist("origin")
        host = _host_of(f"//{hosts[0]}") if len(hosts) == 1 else None
        if host is None or not (self._open or host in self._names):
            return _foreign("Host", ", ".join(hosts))
        for origin in origins:
            if _host_of(origin) not in ({host} if self._open else self._names):
                return _foreign("Origin", origin)
        if headers.get("content-encoding", "identity").lower() != "identity":
            return InvalidInput.field("content-encoding", headers["content-encoding"], "no encoding of requests")
        return None

    def _too_long(self, scope: Scope) -> MistudioError | None:
        size = len(scope.get("raw_path") or b"") + len(scope["query_string"])
        size += sum(len(name) + len(value) for name, value in scope["headers"])
        return too_large(self._head_bytes) if size > self._head_bytes else None


def _host_of(url: str) -> str | None:
    try:
        return urlsplit(url).hostname
    except ValueError:
        return None


def _foreign(header: str, value: str) -> Forbidden:
    return Forbidden(
        f"The {header} header {value[:100]!r} does not name this gateway. "
        "Use http://127.0.0.1:<port>, or allow the name with --host-name.",
        facts={"header": header.lower(), "value": value[:100]},
    )

"""HTTP routes from bindings: one Starlette route for each path template.

Paths are matched raw, before any decoding, so that an encoded slash stays inside its variable. Which of four
handlers answers follows from the RPC's shape alone.
"""

from __future__ import annotations

from itertools import groupby

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Match
from starlette.types import Receive, Scope, Send

from gateway.binding import Binding, bindings
from gateway.body import Inbox
from gateway.config import Limits
from gateway.download import download
from gateway.exchange import Exchange, Handler
from gateway.replies import error_reply, known
from gateway.routing import Router
from gateway.sse import server_sent_events
from gateway.unary import unary
from gateway.upload import upload
from mistudio_core.errors import NotFound
from mistudio_rpc.contract import Contract, Method


def routes(contract: Contract, router: Router, limits: Limits) -> list[BaseRoute]:
    """Every route of the contract, the most specific template first."""
    found = groupby(bindings(contract), key=lambda b: b.specificity)
    return [RpcRoute(list(group), router, limits) for _, group in found]


def handler_of(method: Method) -> Handler:
    """The adapter for an RPC's shape."""
    if method.receives_chunks:
        return upload
    if method.sends_chunks:
        return download
    return server_sent_events if method.server_streaming else unary


class RpcRoute(BaseRoute):
    """All RPCs behind one path template, by HTTP method."""

    def __init__(self, found: list[Binding], router: Router, limits: Limits) -> None:
        """`found` share their template."""
        self._by_verb = {b.verb: b for b in found}
        self._pattern = found[0]
        self._router, self._limits = router, limits

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        """Full on path and method, partial on the path alone (405)."""
        if scope["type"] != "http":
            return Match.NONE, {}
        raw = scope.get("raw_path") or scope["path"].encode()
        variables = self._pattern.match(raw.decode("latin-1"))
        if variables is None:
            return Match.NONE, {}
        return (Match.FULL if scope["method"] in self._by_verb else Match.PARTIAL), {"rpc_variables": variables}

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers one request."""
        inbox = Inbox(receive)
        request = Request(scope, inbox)
        binding = self._by_verb.get(scope["method"])
        if binding is None:
            await self._wrong_method(request)(scope, receive, send)
            return
        variables = scope["rpc_variables"]
        exchange = Exchange(binding, variables, request, self._router, self._limits)
        try:
            response = await handler_of(binding.method)(exchange)
        except ClientDisconnect:
            return
        except Exception as error:
            response = error_reply(known(error))
            if "expect" not in request.headers:
                await inbox.linger()
        await response(scope, receive, send)

    def _wrong_method(self, request: Request) -> Response:
        allowed = ", ".join(sorted(self._by_verb))
        message = f"{request.method} is not allowed here; use {allowed}."
        error = NotFound(message, reason="ROUTE_NOT_FOUND", facts={"allowed": allowed})
        return error_reply(error, 405, {"Allow": allowed})


async def not_found(scope: Scope, receive: Receive, send: Send) -> None:
    """Answers for a path that no route matches."""
    path = scope["path"][:200].encode("utf-8", "replace").decode()
    error = NotFound(
        f"There is no route {path}. The page at /docs lists the routes there are.",
        reason="ROUTE_NOT_FOUND",
        facts={"path": path},
    )
    await error_reply(error)(scope, receive, send)

"""`/openapi.json` and the page at `/docs`: self-contained, nothing is loaded from elsewhere."""

from __future__ import annotations

import asyncio
from functools import cache
from pathlib import Path

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from gateway.openapi import document
from mistudio_rpc.contract import Contract
from mistudio_rpc.json_out import dumps

_WEB = Path(__file__).parent / "web"
_FILES = {
    "/docs": ("docs.html", "text/html"),
    "/docs/page.css": ("page.css", "text/css"),
    "/docs/page.js": ("page.js", "text/javascript"),
}
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


def routes(contract: Contract) -> list[BaseRoute]:
    """The routes of this module; all open, since they show the contract and no data."""

    @cache
    def rendered() -> bytes:
        return dumps(document(contract))

    async def openapi(_: Request) -> Response:
        return Response(await asyncio.to_thread(rendered), media_type="application/json")

    return [Route("/openapi.json", openapi), *(Route(path, _page) for path in _FILES)]


async def _page(request: Request) -> Response:
    name, media = _FILES[request.url.path]
    return Response(_content(name), media_type=media, headers={"Content-Security-Policy": _POLICY})


@cache
def _content(name: str) -> bytes:
    return (_WEB / name).read_bytes()

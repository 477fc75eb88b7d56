"""Unary RPCs over HTTP: JSON in, JSON out."""

from __future__ import annotations

import asyncio
from typing import Any

from starlette.responses import Response

from gateway.exchange import Exchange, reply_value, serialize
from mistudio_rpc.json_out import dumps, to_json

_IN_LOOP = 64 * 1024  # above, the reply is written off the event loop


async def unary(exchange: Exchange) -> Response:
    """Calls the RPC and answers with its response."""
    method = exchange.binding.method
    request = await exchange.message()
    start: Any = exchange.channel(request).unary_unary(method.path, request_serializer=serialize)
    data: bytes = await start(request, metadata=exchange.metadata(), timeout=exchange.limits.call_seconds)
    body = await asyncio.to_thread(_render, exchange, data) if len(data) > _IN_LOOP else _render(exchange, data)
    return Response(body, media_type="application/json")


def _render(exchange: Exchange, data: bytes) -> bytes:
    binding = exchange.binding
    return dumps(reply_value(binding, to_json(binding.method.response_class.FromString(data))))

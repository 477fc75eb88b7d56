"""A server stream over HTTP as Server-Sent Events.

`id` is the event's sequence, `event` the name of what is set in its oneof, `data` the JSON of the message.
`Last-Event-ID` becomes `after_sequence`. The stream ends when the RPC ends.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
import grpc.aio
from google.protobuf.message import Message
from starlette.responses import Response, StreamingResponse

from gateway.exchange import Exchange, reply_value, serialize
from gateway.replies import error_body, known
from gateway.routing import Router, stopping
from mistudio_core.errors import InvalidInput
from mistudio_rpc.json_out import dumps, to_json

_RESUME_FIELD = "after_sequence"
_HEADERS = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}


async def server_sent_events(exchange: Exchange) -> Response:
    """Attaches to the stream; errors before its first message keep their HTTP status."""
    method, router = exchange.binding.method, exchange.router
    request = await exchange.message()
    _resume(exchange, request)
    stream = exchange.channel(request).unary_stream(
        method.path, request_serializer=serialize, response_deserializer=method.response_class.FromString
    )
    call = stream(request, metadata=exchange.metadata())
    reader = _Reader(call, router, exchange.limits.heartbeat_seconds)
    try:
        first = await reader.next()
    except BaseException:
        call.cancel()
        raise
    return StreamingResponse(_events(exchange, call, reader, first), media_type="text/event-stream", headers=_HEADERS)


class _Reader:
    """Reads messages; None when nothing came for a while."""

    def __init__(self, call: Any, router: Router, patience: float) -> None:
        self._call, self._router, self._patience = call, router, patience
        self._pending: asyncio.Future[Any] | None = None

    async def next(self) -> Any:
        """The next message, `grpc.aio.EOF` at the end, None on silence."""
        self._pending = self._pending or asyncio.ensure_future(self._call.read())
        done, _ = await asyncio.wait({self._pending}, timeout=self._patience)
        if not done:
            return None
        pending, self._pending = self._pending, None
        if pending.cancelled() and self._router.draining:
            raise stopping()
        return pending.result()


async def _events(exchange: Exchange, call: Any, reader: _Reader, message: Any) -> AsyncIterator[bytes]:
    try:
        with exchange.router.streaming(call, endless=True):
            while message is not grpc.aio.EOF:
                yield b": still here\n\n" if message is None else _event(exchange, message)
                message = await reader.next()
    except Exception as error:  # the status line is gone: the error travels as an event
        yield b"event: error\ndata: " + dumps(error_body(known(error))) + b"\n\n"
    finally:
        call.cancel()


def _event(exchange: Exchange, message: Message) -> bytes:
    inner = _single_message(message)
    lines = b""
    sequence = getattr(inner, "sequence", 0)
    if isinstance(sequence, int) and sequence > 0:
        lines += b"id: %d\n" % sequence
    name = _what(inner)
    if name:
        lines += b"event: " + name.encode() + b"\n"
    return lines + b"data: " + dumps(reply_value(exchange.binding, to_json(message))) + b"\n\n"


def _single_message(message: Message) -> Message:
    """The one message inside a response that holds nothing else; the response itself otherwise."""
    fields = message.DESCRIPTOR.fields
    if len(fields) == 1 and fields[0].message_type is not None and not fields[0].is_repeated:
        inner: Message = getattr(message, fields[0].name)
        return inner
    return message


def _what(message: Message) -> str | None:
    """The name of the field that is set in the message's oneof."""
    for oneof in message.DESCRIPTOR.oneofs:
        if not oneof.name.startswith("_"):  # protoc's own oneof around an optional field
            name: str | None = message.WhichOneof(oneof.name)
            return name
    return None


def _resume(exchange: Exchange, request: Message) -> None:
    last = exchange.http.headers.get("last-event-id", "")
    if not last or _RESUME_FIELD not in request.DESCRIPTOR.fields_by_name:
        return
    if not (last.isascii() and last.isdigit() and int(last[:19]) < 2**63 and len(last) < 20):
        raise InvalidInput.field("last-event-id", last, "the id of an event of this stream")
    setattr(request, _RESUME_FIELD, int(last))

"""A stream of chunks to a service, from a multipart upload.

Forwards at most 1 MiB a message and reads on only when the service has taken it: the body is never spooled.
Whatever breaks on the way cancels the call, so that nothing half is stored.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import grpc.aio
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from starlette.responses import Response

from gateway.body import pieces
from gateway.exchange import Exchange, reply_value, serialize
from gateway.json_in import set_texts, unknown_field
from gateway.multipart import FilePart
from gateway.replies import json_reply
from gateway.verdict import true_status
from mistudio_rpc.contract import Method, chunk_field, header_field
from mistudio_rpc.json_out import to_json


async def upload(exchange: Exchange) -> Response:
    """Sends the file on and answers with what the service stored."""
    for name in exchange.http.query_params:
        raise unknown_field(name, name, ())
    method = exchange.binding.method
    part = FilePart(exchange.http.headers.get("content-type", ""), header_fields(method))
    stream = exchange.channel(None).stream_unary(
        method.path, request_serializer=serialize, response_deserializer=method.response_class.FromString
    )
    call = stream(metadata=exchange.metadata())
    try:
        async with true_status(call):
            await _send(exchange, call, part)
            response: Message = await call
    except BaseException:
        await _spoil(call, method)
        raise
    finally:
        call.cancel()
    return json_reply(reply_value(exchange.binding, to_json(response)))


async def _send(exchange: Exchange, call: Any, part: FilePart) -> None:
    """Writes header and chunks; returns early when the service has already answered."""
    limits, method = exchange.limits, exchange.binding.method
    buffer, offset, begun = bytearray(), 0, False
    async for piece in pieces(exchange.http, limits.upload_bytes, limits.idle_seconds):
        for data in part.feed(piece):
            buffer += data
        if part.filename is not None and not begun:
            begun = True
            if not await _write(call, _header(method, part.filename, part.texts)):
                return
        while len(buffer) >= limits.chunk_bytes:
            if not await _write(call, _chunk(method, offset, bytes(buffer[: limits.chunk_bytes]))):
                return
            del buffer[: limits.chunk_bytes]
            offset += limits.chunk_bytes
    part.finish()
    if buffer and not await _write(call, _chunk(method, offset, bytes(buffer))):
        return
    await call.done_writing()


async def _write(call: Any, message: Message) -> bool:
    """Whether the service still listens; where not, its status says why."""
    try:
        await call.write(message)
    except (asyncio.InvalidStateError, grpc.aio.AioRpcError):
        return False
    return True


async def _spoil(call: Any, method: Method) -> None:
    """Makes sure that the service refuses what came so far.

    A service may see a cancelled stream end before it sees the cancellation. An empty message breaks the
    contract's rule and arrives in order, so that no end is taken for the end of the file.
    """
    if not call.done() and await _write(call, method.request_class()):
        await asyncio.wait({asyncio.ensure_future(call.code())}, timeout=1.0)


def header_fields(method: Method) -> dict[str, FieldDescriptor]:
    """The fields of an upload's header that a form may set beside the file."""
    field = header_field(method.descriptor.input_type)
    header = field.message_type if field is not None else None
    fields = header.fields if header is not None else ()
    return {f.name: f for f in fields if f.name != "filename" and f.message_type is None}


def _header(method: Method, filename: str, texts: Mapping[str, list[str]]) -> Message:
    message, field = method.request_class(), header_field(method.descriptor.input_type)
    if field is not None:
        header = getattr(message, field.name)
        header.SetInParent()
        if "filename" in header.DESCRIPTOR.fields_by_name:
            header.filename = filename
        for name, values in texts.items():
            set_texts(header, header_fields(method)[name], values)
    return message


def _chunk(method: Method, offset: int, data: bytes) -> Message:
    message, field = method.request_class(), chunk_field(method.descriptor.input_type)
    if field is not None:
        chunk = getattr(message, field.name)
        chunk.offset, chunk.data = offset, data
    return message

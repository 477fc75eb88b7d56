"""A stream of chunks over HTTP as a file to save.

Every file is an attachment with an inert content policy: nothing in it runs, whatever its type. `Range:
bytes=N-` goes on where a broken download stopped, where the RPC has an `offset`. A whole file of a kind that
shrinks travels compressed to who takes gzip; a part of one never does.
"""

from __future__ import annotations

import asyncio
import re
import zlib
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import quote

import grpc.aio
from google.protobuf.message import Message
from starlette.responses import Response, StreamingResponse

from gateway.exchange import Exchange, serialize
from gateway.replies import error_reply
from mistudio_core.errors import Failed, InvalidInput
from mistudio_rpc.contract import chunk_field, header_field

_FROM = re.compile(r"bytes=(\d{1,18})-")
_MEDIA_TYPE = re.compile(r"[\w.+-]{1,60}/[\w.+-]{1,80}(?:; ?charset=[\w-]{1,30})?", re.ASCII)
# What shrinks by much; weights and archives do not and would only cost time.
_SHRINKS = re.compile(r"text/.+|application/(?:json|xml|x-ndjson|x-tar)(?:;.*)?")
_GZIP = re.compile(r"(?:^|,)\s*(?:gzip|\*)\s*(?:;\s*q=([0-9.]+))?\s*(?=,|$)", re.ASCII)
_GZIP_LEVEL, _GZIP_FORMAT = 2, 31
_WORTH_BYTES = 1024
_INERT = "sandbox; default-src 'none'; style-src 'unsafe-inline'; img-src data:; frame-ancestors 'none'"


async def download(exchange: Exchange) -> Response:
    """Streams the file; errors before its header keep their HTTP status."""
    method = exchange.binding.method
    request = await exchange.message()
    offset = _offset(exchange, request)
    stream = exchange.channel(request).unary_stream(
        method.path, request_serializer=serialize, response_deserializer=method.response_class.FromString
    )
    call = stream(request, metadata=exchange.metadata())
    try:
        header = _header(await call.read(), method.descriptor.output_type)
    except BaseException:
        call.cancel()
        raise
    size = header.size_bytes
    if offset and offset >= size:
        call.cancel()
        error = InvalidInput.field("range", offset, f"less than the file's {size} bytes")
        return error_reply(error, 416, {"Content-Range": f"bytes */{size}"})
    headers = _headers(header, size - offset, resumable="offset" in request.DESCRIPTOR.fields_by_name)
    if offset:
        headers["Content-Range"] = f"bytes {offset}-{size - 1}/{size}"
    media = header.media_type if _MEDIA_TYPE.fullmatch(header.media_type) else "application/octet-stream"
    headers["Content-Type"] = media
    stream_of_bytes = _bytes(call, size - offset)
    if _SHRINKS.fullmatch(media) and size >= _WORTH_BYTES:
        headers["Vary"] = "Accept-Encoding"
        if not offset and "range" not in exchange.http.headers and _takes_gzip(exchange):
            stream_of_bytes = _compressed(stream_of_bytes)
            _describe_compressed(headers)
    return StreamingResponse(stream_of_bytes, 206 if offset else 200, headers)


def _header(message: Any, descriptor: Any) -> Any:
    field = header_field(descriptor)
    if message is grpc.aio.EOF or field is None or not message.HasField(field.name):
        raise Failed("The service sent no header for this file. Try again; if it stays, see the log of the service.")
    return getattr(message, field.name)


async def _bytes(call: Any, size: int) -> AsyncIterator[bytes]:
    """The file's bytes. Raises where the stream ends early, so that the connection breaks visibly."""
    sent, name = 0, ""
    try:
        while (message := await call.read()) is not grpc.aio.EOF:
            if not name:
                field = chunk_field(message.DESCRIPTOR)
                name = field.name if field is not None else ""
            data: bytes = getattr(message, name).data
            sent += len(data)
            yield data
        if sent != size:
            raise Failed(f"The file ended after {sent} of {size} bytes.")
    finally:
        call.cancel()


async def _compressed(source: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """The same bytes with gzip, a chunk at a time; an error of the source leaves it without an end."""
    packer = zlib.compressobj(_GZIP_LEVEL, zlib.DEFLATED, _GZIP_FORMAT)
    async for data in source:
        if packed := await asyncio.to_thread(packer.compress, data):
            yield packed
    yield packer.flush()


def _takes_gzip(exchange: Exchange) -> bool:
    """Whether the client asked for gzip (RFC 9110, 12.5.3)."""
    asked = _GZIP.search(exchange.http.headers.get("accept-encoding", "").lower())
    return asked is not None and (asked[1] is None or asked[1].strip("0.") != "")


def _describe_compressed(headers: dict[str, str]) -> None:
    """Another representation: of unknown length, with a tag of its own, not to be resumed."""
    del headers["Content-Length"]
    headers |= {"Content-Encoding": "gzip", "Accept-Ranges": "none"}
    if "ETag" in headers:
        headers["ETag"] = f'{headers["ETag"][:-1]}-gzip"'


def _offset(exchange: Exchange, request: Message) -> int:
    """Where to begin, from a Range header that this adapter honours; such a request replaces `?offset=`."""
    asked = exchange.http.headers.get("range", "")
    match = _FROM.fullmatch(asked)
    if "offset" not in request.DESCRIPTOR.fields_by_name:
        return 0
    if match and "if-range" not in exchange.http.headers:
        setattr(request, "offset", int(match[1]))  # noqa: B010
    return int(getattr(request, "offset"))  # noqa: B009


def _headers(header: Any, length: int, *, resumable: bool) -> dict[str, str]:
    headers = {
        "Content-Length": str(length),
        "Content-Disposition": disposition(header.filename),
        "Content-Security-Policy": _INERT,
        "Accept-Ranges": "bytes" if resumable else "none",
    }
    if re.fullmatch("[0-9a-f]{64}", header.sha256):
        headers["ETag"] = f'"{header.sha256}"'
    return headers


def disposition(filename: str) -> str:
    """RFC 6266: save as a file of this name, with a plain fallback and without any path."""
    name = re.sub(r"[\x00-\x1f\x7f/\\]", "_", filename).strip(" .") or "download"
    plain = re.sub(r"[^A-Za-z0-9 ._-]", "_", name)
    return f"attachment; filename=\"{plain}\"; filename*=UTF-8''{quote(name, safe='')}"

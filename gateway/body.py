"""Request bodies: read within limits, checked for depth, then parsed as JSON.

Nothing here waits longer than the idle limit or holds more than the size limit.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator
from typing import Any, NoReturn

from starlette.requests import Request
from starlette.types import Message, Receive

from gateway.config import Limits
from mistudio_core.errors import DeadlineExceeded, InvalidInput, LimitReached

_JSON_TYPE = re.compile(r"application/(?:json|[\w.+-]+\+json)(?:\s*;\s*charset=\"?utf-8\"?)?\s*", re.IGNORECASE)
_STRING = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"', re.DOTALL)
_BRACKETS = bytes.maketrans(b"{}", b"[]")
_NO_BRACKETS = bytes(c for c in range(256) if c not in b"[]{}")
_IN_LOOP = 64 * 1024  # above, parsing moves off the event loop
_LINGER_BYTES, _LINGER_SECONDS = 16 * 1024 * 1024, 2.0


async def pieces(request: Request, limit: int, idle_seconds: float) -> AsyncIterator[bytes]:
    """The body piece by piece. Raises LimitReached (TOO_LARGE) beyond `limit`, DeadlineExceeded when it stalls."""
    declared = request.headers.get("content-length", "0")
    if int(declared) > limit if declared.isdigit() else True:
        raise too_large(limit)
    total, stream = 0, request.stream()
    while True:
        try:
            async with asyncio.timeout(idle_seconds):
                piece = await anext(stream, None)
        except TimeoutError as error:
            raise DeadlineExceeded(f"The body stopped arriving for {idle_seconds:.0f} s.") from error
        if piece is None:
            return
        total += len(piece)
        if total > limit:
            raise too_large(limit)
        if piece:
            yield piece


async def read_json(request: Request, limits: Limits) -> Any:
    """The JSON value of a body; an empty object where there is no body."""
    data = bytearray()
    async for piece in pieces(request, limits.json_bytes, limits.idle_seconds):
        data += piece
    if not data:
        return {}
    kind = request.headers.get("content-type", "")
    if not _JSON_TYPE.fullmatch(kind):
        raise InvalidInput.field("content-type", kind, "application/json")
    if len(data) > _IN_LOOP:
        return await asyncio.to_thread(parse_json, bytes(data), limits.json_depth)
    return parse_json(bytes(data), limits.json_depth)


def parse_json(data: bytes, depth: int) -> Any:
    """Strict JSON: UTF-8, no NaN, no repeated names, nested at most `depth` deep."""
    _check_depth(data, depth)
    try:
        return json.loads(data.decode(), parse_constant=_no_constant, object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        fault = InvalidInput.field("body", "", "one JSON object in UTF-8", f"{str(error)[:200]}.")
        raise fault from error


def _check_depth(data: bytes, limit: int) -> None:
    """Peels one layer of brackets a pass, at the speed of bytes.replace; text in strings does not count."""
    if data.count(b"[") + data.count(b"{") <= limit:
        return
    left = _STRING.sub(b"", data).translate(_BRACKETS, _NO_BRACKETS)
    for _ in range(limit):
        peeled = left.replace(b"[]", b"")
        if len(peeled) == len(left):  # nothing left, or brackets that do not match: the parser's matter
            break
        left = peeled
    if left.count(b"[") > limit or b"[]" in left:
        raise InvalidInput.field("body", "", f"JSON nested at most {limit} deep")


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON number")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    out = dict(pairs)
    if len(out) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(n for n in names if names.count(n) > 1)
        raise ValueError(f"the name {twice[:100]!r} stands twice in one object")
    return out


def too_large(limit: int) -> LimitReached:
    """The error for a body or head over its limit."""
    return LimitReached(
        f"The request is over the limit of {limit:,} bytes.", reason="TOO_LARGE", facts={"limit_bytes": limit}
    )


class Inbox:
    """The receiving end of a request, which knows whether its body has ended."""

    def __init__(self, receive: Receive) -> None:
        """Wraps the server's own."""
        self._receive, self._ended = receive, False

    async def __call__(self) -> Message:
        """The next message of the request."""
        message = await self._receive()
        self._ended = message["type"] != "http.request" or not message.get("more_body", False)
        return message

    async def linger(self) -> None:
        """Reads on for a moment, so that a client still sending its body sees the reply."""
        total = 0
        try:
            async with asyncio.timeout(_LINGER_SECONDS):
                while not self._ended and total < _LINGER_BYTES:
                    total += len((await self()).get("body", b""))
        except TimeoutError:
            return

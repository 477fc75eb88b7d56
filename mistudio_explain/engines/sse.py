"""Reads answers that come in pieces: server-sent events and lines of JSON, without a line of cost.

Whole lines only, as bytes; the transport caps them. What is no JSON raises Oddity.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any

import httpx2

from mistudio_explain.engines.failures import Oddity

_DATA = b"data:"
_DONE = b"[DONE]"
_DRAIN_SECONDS = 0.1


async def lines(response: httpx2.Response) -> AsyncIterator[bytes]:
    """Lines without their ends; what stands after the last end is none, except where the body ends."""
    rest = b""
    async for block in response.aiter_raw():
        *whole, rest = (rest + block).split(b"\n")
        for line in whole:
            yield line
    if rest:
        yield rest


async def events(response: httpx2.Response, last: str = "") -> AsyncIterator[dict[str, Any]]:
    """The JSON objects of `data` lines up to `[DONE]` or to one of type `last`. Raises Oddity for another form."""
    if "text/event-stream" not in response.headers.get("content-type", ""):
        raise Oddity("not_json", "sent something that is no stream of events")
    whole = lines(response)
    async for line in whole:
        if line.startswith(_DATA):
            data = line[len(_DATA) :].strip()
            if data == _DONE:
                await _drained(whole)
                return
            found = parsed(data)
            if last and found.get("type") == last:
                await _drained(whole)
                return
            yield found


async def _drained(rest: AsyncIterator[bytes]) -> None:
    """Reads to the end of a body whose answer is whole, so that its connection serves again; never for long."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_DRAIN_SECONDS):
            async for _ in rest:
                pass


async def json_lines(response: httpx2.Response, last: str = "") -> AsyncIterator[dict[str, Any]]:
    """One JSON object a line, up to the one whose key `last` is true. Raises Oddity for another form."""
    whole = lines(response)
    async for line in whole:
        if line.strip():
            found = parsed(line)
            if found.get(last):
                await _drained(whole)
                yield found
                return
            yield found


def parsed(data: bytes) -> dict[str, Any]:
    """One JSON object. Raises Oddity."""
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise Oddity("not_json", "sent something that is not JSON")
    return value

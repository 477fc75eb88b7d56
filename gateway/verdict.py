"""The true end of a call that was still being written to.

When a service answers before it has read all, grpcio may overwrite its status with "Internal error from Core",
before or after the true one arrives. Whoever notes every status as it is set has the true one among them.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import grpc.aio

_OVERWRITTEN = "Internal error from Core"
_TRIES, _PAUSE_SECONDS = 25, 0.02


@asynccontextmanager
async def true_status(call: Any) -> AsyncIterator[None]:
    """Raises the service's own status where the call ends with an error."""
    seen: list[grpc.aio.AioRpcError] = []
    call.add_done_callback(lambda ended: seen.append(_status(ended)))
    try:
        yield
    except grpc.aio.AioRpcError:
        for _ in range(_TRIES):
            own = next((s for s in seen if s.details() != _OVERWRITTEN), None)
            if own is not None:
                raise own from None
            await asyncio.sleep(_PAUSE_SECONDS)
        raise


def _status(call: Any) -> grpc.aio.AioRpcError:
    code, details, trailers = (_now(c()) for c in (call.code, call.details, call.trailing_metadata))
    return grpc.aio.AioRpcError(code, grpc.aio.Metadata(), trailers, details)


def _now(ready: Coroutine[Any, Any, Any]) -> Any:
    """The result of a coroutine that has nothing to wait for: the status is set."""
    try:
        ready.send(None)
    except StopIteration as done:
        return done.value
    ready.close()
    return None

"""Which backend serves a call, and the channels there.

An RPC belongs to the owner named by its package. Calls about jobs and artifacts, which every service
answers, go to the owner in the job id or the artifact's URI. One target for all needs no look inside.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import grpc.aio
from google.protobuf.message import Message

from gateway.config import ANY_OWNER
from mistudio_core import ids
from mistudio_core.errors import InvalidInput, NotFound, Unavailable
from mistudio_rpc.channel import Tls, open_channel
from mistudio_rpc.contract import Method


class Router:
    """Owners, their targets and the open channels."""

    def __init__(self, backends: Mapping[str, str], tls: Tls | None = None) -> None:
        """`backends` maps owners (or `*`) to gRPC targets."""
        self._backends = dict(backends)
        self._tls = tls
        self._channels: dict[str, grpc.aio.Channel] = {}
        self._watches: set[Any] = set()
        self.draining = False
        self.single = len(set(self._backends.values())) == 1
        """Whether every call goes to the same target."""

    def owner(self, method: Method, request: Message) -> str:
        """The owner of a call. Raises NotFound where a job id or URI names none."""
        if method.owner not in {"job", "artifact"}:
            return method.owner
        fields = request.DESCRIPTOR.fields_by_name
        if "job_id" in fields:
            return ids.service_of(getattr(request, "job_id"))  # noqa: B009
        if "uri" in fields:
            return _owner_of_uri(getattr(request, "uri"))  # noqa: B009
        return str(getattr(request, "service", "")) or ids.UPLOAD_OWNER

    def target(self, method: Method, request: Message | bytes | None) -> str:
        """The gRPC target of a call. `request` may be None for a stream of requests."""
        if self.single:
            return next(iter(self._backends.values()))
        if request is None:
            owner = method.owner
        else:
            parsed = method.request_class.FromString(request) if isinstance(request, bytes) else request
            owner = self.owner(method, parsed)
        target = self._backends.get(owner) or self._backends.get(ANY_OWNER)
        if target is None:
            known = ", ".join(sorted(self._backends))
            raise InvalidInput.field("service", owner, f"one of {known}")
        return target

    def channel(self, method: Method, request: Message | bytes | None) -> grpc.aio.Channel:
        """An open channel to the backend of a call; kept for later calls."""
        return self._open(self.target(method, request))

    def channels(self) -> list[grpc.aio.Channel]:
        """An open channel to every backend."""
        return [self._open(target) for target in sorted(set(self._backends.values()))]

    def _open(self, target: str) -> grpc.aio.Channel:
        if target not in self._channels:
            self._channels[target] = open_channel(target, self._tls)
        return self._channels[target]

    @contextmanager
    def streaming(self, call: Any, *, endless: bool) -> Iterator[None]:
        """Cancels a stream when it is left; `drain` ends an endless one at once."""
        if endless and self.draining:
            call.cancel()
            raise stopping()
        if endless:
            self._watches.add(call)
        try:
            yield
        finally:
            self._watches.discard(call)
            call.cancel()

    def drain(self) -> None:
        """Ends every watch; its client attaches again elsewhere or later."""
        self.draining = True
        for call in tuple(self._watches):
            call.cancel()

    async def close(self) -> None:
        """Closes the channels."""
        for channel in self._channels.values():
            await channel.close()
        self._channels.clear()


def stopping() -> Unavailable:
    """What callers read whose stream ends because the gateway stops."""
    return Unavailable("The gateway is stopping. Attach again in a moment; no event is lost.")


def _owner_of_uri(uri: str) -> str:
    owner = ids.owner_of_uri(uri)
    if not owner:
        shown = uri if len(uri) <= 120 else uri[:117] + "..."
        raise NotFound(f"No artifact has the URI {shown}.", reason="ARTIFACT_NOT_FOUND", facts={"uri": shown})
    return owner

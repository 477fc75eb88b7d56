"""One HTTP request on its way to one RPC: request message, metadata, channel.

Only an allow-list of headers travels on; everything else a client may claim about itself stays behind.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import grpc.aio
from google.protobuf.message import Message
from starlette.requests import Request
from starlette.responses import Response

from gateway.binding import Binding, decode_variable
from gateway.body import read_json
from gateway.config import Limits
from gateway.json_in import fill, set_texts, unknown_field
from gateway.routing import Router
from mistudio_core.errors import InvalidInput
from mistudio_rpc.json_out import fields_of

FORWARDED = frozenset({"authorization", "x-request-id", "traceparent", "tracestate"})


@dataclass(frozen=True, slots=True)
class Exchange:
    """What a handler needs to answer one HTTP request."""

    binding: Binding
    """The route."""
    variables: dict[str, str]
    """Path variables, still encoded."""
    http: Request
    """The HTTP request."""
    router: Router
    """The way to the backends."""
    limits: Limits
    """Ceilings."""

    async def message(self) -> Message:
        """The request message from path, query and body. Raises InvalidInput."""
        binding = self.binding
        message = binding.method.request_class()
        fields = fields_of(message.DESCRIPTOR)
        for name, raw in self.variables.items():
            set_texts(message, fields[name], [decode_variable(name, raw)])
        self._read_query(message)
        if binding.body == "*":
            fill(message, await read_json(self.http, self.limits), fixed=binding.variables)
        elif binding.body:
            fill(message, {binding.body: await read_json(self.http, self.limits)})
        elif self.http.headers.get("content-length", "0") != "0" or "transfer-encoding" in self.http.headers:
            raise InvalidInput.field("body", "", "no body: this route takes path and query only")
        return message

    def _read_query(self, message: Message) -> None:
        taken = {*self.binding.variables, self.binding.body}
        fields = {} if self.binding.body == "*" else fields_of(message.DESCRIPTOR)
        valid = [name for name in fields if name not in taken]
        query = self.http.query_params
        for name in dict.fromkeys(query):
            if name not in valid:
                raise unknown_field(name, name, valid)
            set_texts(message, fields[name], query.getlist(name))

    def metadata(self) -> list[tuple[str, str]]:
        """The headers that travel on. Raises InvalidInput for one that stands twice or is not ASCII."""
        out = []
        for name in sorted(FORWARDED):
            values = self.http.headers.getlist(name)
            if not values:
                continue
            if len(values) > 1 or not (values[0].isascii() and values[0].isprintable()):
                raise InvalidInput.field(name, "***", "one header of printable ASCII")
            out.append((name, values[0]))
        return out

    def channel(self, request: Message | None) -> grpc.aio.Channel:
        """The channel to the backend of this call."""
        return self.router.channel(self.binding.method, request)


Handler = Callable[[Exchange], Awaitable[Response]]


def serialize(message: Message) -> bytes:
    """The bytes of a message; a function, since grpc takes one."""
    return message.SerializeToString()


def reply_value(binding: Binding, value: dict[str, Any]) -> Any:
    """The part of a response that the rule names as its body."""
    return value.get(binding.response_body, {}) if binding.response_body else value

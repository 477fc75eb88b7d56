"""What happens around every RPC: token, validation, reserved fields, deadline, errors.

One interceptor, driven by the contract: it looks up the RPC's policy, checks each request message
against buf.validate rules and reserved options, and turns every exception into a status from the
catalogue. Servicers only translate.
"""

from __future__ import annotations

import asyncio
import functools
import hmac
import logging
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc
import grpc.aio
import protovalidate
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from grpc_status import rpc_status
from mistudio.contract.v1 import options_pb2

from mistudio_core.errors import (
    FieldProblem,
    Internal,
    InvalidInput,
    MistudioError,
    Unauthenticated,
    Unsupported,
)
from mistudio_core.secret import Secret
from mistudio_rpc import status
from mistudio_rpc.contract import Contract, Method, reserved_field, reserved_value, short_name
from mistudio_rpc.types import Context, MethodHandler

log = logging.getLogger("mistudio.rpc")
UNARY_SECONDS = 60.0
"""Longest a unary call may take where its caller set no deadline."""

_OPEN_SERVICES = ("/grpc.health.", "/grpc.reflection.")
Handler = Callable[[Any, Any], Any]


class ContractInterceptor(grpc.aio.ServerInterceptor):
    """Guards every RPC of a contract."""

    def __init__(self, contract: Contract, token: Secret | None) -> None:
        """`token` is what callers must show; None lets everyone in (tests only).

        Raises ValueError for an RPC without a policy: deny by default.
        """
        self._contract = contract
        self._token = token
        missing = [m.path for m in contract if m.policy is None]
        if missing:
            raise ValueError(f"RPCs without an access policy: {', '.join(missing)}")

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[MethodHandler | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> MethodHandler | None:
        """Wraps the handler of one call."""
        handler = await continuation(handler_call_details)
        method = self._contract.methods.get(handler_call_details.method)
        if handler is None or method is None or handler_call_details.method.startswith(_OPEN_SERVICES):
            return handler
        return self._wrapped(method, handler)

    def _wrapped(self, method: Method, handler: MethodHandler) -> MethodHandler:
        inner = _inner(handler)
        if method.server_streaming:

            async def stream(request: Any, context: Context) -> AsyncIterator[Any]:
                try:
                    self._authenticate(method, context)
                    async for response in inner(self._checked(method, request), context):
                        yield response
                except Exception as error:
                    await _abort(context, error, method)

            behaviour: Handler = stream
        else:

            async def unary(request: Any, context: Context) -> Any:
                try:
                    self._authenticate(method, context)
                    checked = self._checked(method, request)
                    limit = None if method.client_streaming or context.time_remaining() is not None else UNARY_SECONDS
                    async with asyncio.timeout(limit):
                        return await inner(checked, context)
                except Exception as error:
                    await _abort(context, error, method)

            behaviour = unary
        return method_handler(
            method, behaviour, deserialize=handler.request_deserializer, serialize=handler.response_serializer
        )

    def _authenticate(self, method: Method, context: Context) -> None:
        """Raises Unauthenticated. Worker calls prove themselves by the lease in their message."""
        policy = method.policy
        with_token = (options_pb2.ACCESS_LEVEL_TOKEN, options_pb2.ACCESS_LEVEL_SERVICE)
        if self._token is None or policy is None or policy.access not in with_token:
            return
        shown = next((str(v) for k, v in context.invocation_metadata() or () if k == "authorization"), "")
        if not shown:
            raise Unauthenticated(
                "No bearer token was sent. Send `Authorization: Bearer <token>`; `mistudio token` prints it."
            )
        scheme, _, value = shown.partition(" ")
        valid = hmac.compare_digest(value.strip().encode(), self._token.reveal().encode())
        if scheme.lower() != "bearer" or not valid:
            raise Unauthenticated(
                "The bearer token is wrong. `mistudio token` prints the right one.", reason="TOKEN_INVALID"
            )

    def _checked(self, method: Method, request: Any) -> Any:
        instead = method.reserved
        if instead is not None:
            raise Unsupported(method.name, why="it belongs to a later release", instead=instead)
        if not method.client_streaming:
            check_message(request)
            return request
        return _checked_stream(request)


async def _checked_stream(requests: AsyncIterator[Message]) -> AsyncIterator[Message]:
    async for request in requests:
        check_message(request)
        yield request


def check_message(message: Message) -> None:
    """Checks rules and reserved fields. Raises Unsupported, InvalidInput with every violation."""
    check_reserved(message)
    violations = protovalidate.collect_violations(message)
    if not violations:
        return
    problems = [_problem(v, message) for v in violations]
    first = problems[0]
    text = "; ".join(f"{p.field}: {p.value or 'nothing'} is not allowed; {p.allowed}" for p in problems[:5])
    facts = {"field": first.field, "value": first.value, "allowed": first.allowed}
    raise InvalidInput(text + ".", facts=facts, problems=problems)


def _problem(violation: Any, message: Message) -> FieldProblem:
    proto = violation.proto
    elements = proto.field.elements if proto.field is not None else []
    path = ".".join(e.field_name for e in elements)
    secret = any(_is_secret(message, e.field_name) for e in elements)
    value = "" if secret or violation.field_value is None else _shown(violation.field_value)
    return FieldProblem(field=path or "request", value=value, allowed=proto.message, remedy="")


def _is_secret(message: Message, field: str) -> bool:
    descriptor = message.DESCRIPTOR.fields_by_name.get(field)
    return descriptor is not None and bool(descriptor.GetOptions().debug_redact)


def _shown(value: object) -> str:
    text = repr(value) if isinstance(value, str) else str(value)
    return text if len(text) <= 120 else text[:117] + "..."


def check_reserved(message: Message) -> None:
    """Refuses what this release does not honour. Raises Unsupported."""
    for field, value in message.ListFields():
        if not _has_reserved(message.DESCRIPTOR.full_name, field):
            continue
        instead = reserved_field(field)
        if instead is not None:
            raise Unsupported(field.name, why="it belongs to a later release", instead=instead)
        if field.enum_type is not None:
            numbers = value if field.is_repeated else [value]
            for number in numbers:
                known = field.enum_type.values_by_number.get(number)
                instead = None if known is None else reserved_value(known)
                if known is not None and instead is not None:
                    raise Unsupported(
                        f"{field.name} {short_name(known)}", why="it belongs to a later release", instead=instead
                    )


@functools.cache
def _has_reserved(_message: str, field: FieldDescriptor) -> bool:
    """Whether a field or a value of its enum is reserved: most are not, and are passed over quickly."""
    if reserved_field(field) is not None:
        return True
    return field.enum_type is not None and any(reserved_value(v) is not None for v in field.enum_type.values)


async def _abort(context: Context, error: Exception, method: Method) -> None:
    """Ends the call with the status of `error`. An unexpected one shows only an id."""
    if isinstance(error, grpc.aio.AbortError | asyncio.CancelledError):
        raise error
    if isinstance(error, TimeoutError):
        await context.abort(grpc.StatusCode.DEADLINE_EXCEEDED, f"{method.name} took too long. Try again.")
    if not isinstance(error, MistudioError):
        error_id = uuid.uuid4().hex[:12]
        log.exception("%s failed (id %s)", method.path, error_id, exc_info=error)
        error = Internal(
            f"{method.name} failed inside miStudio (id {error_id}). The service's log has the details under this id.",
            facts={"id": error_id},
        )
    await context.abort_with_status(rpc_status.to_status(status.to_status(error)))


def _inner(handler: MethodHandler) -> Handler:
    found: Handler | None = handler.unary_unary or handler.unary_stream or handler.stream_unary or handler.stream_stream
    if found is None:
        raise ValueError("a handler without a behaviour")
    return found


def method_handler(method: Method, behaviour: Handler, *, deserialize: Any, serialize: Any) -> MethodHandler:
    """A handler of the RPC's shape."""
    makers: dict[tuple[bool, bool], Callable[..., MethodHandler]] = {
        (False, False): grpc.unary_unary_rpc_method_handler,
        (False, True): grpc.unary_stream_rpc_method_handler,
        (True, False): grpc.stream_unary_rpc_method_handler,
        (True, True): grpc.stream_stream_rpc_method_handler,
    }
    make = makers[(method.client_streaming, method.server_streaming)]
    return make(behaviour, request_deserializer=deserialize, response_serializer=serialize)

"""The one map between errors, gRPC status and HTTP status.

A status carries google.rpc.ErrorInfo (reason, domain "mistudio", facts) and, for bad fields, our
BadRequest. `from_rpc_error` raises on the client what the server raised.
"""

from __future__ import annotations

import grpc
from google.protobuf import any_pb2
from google.rpc import code_pb2, error_details_pb2, status_pb2
from grpc_status import rpc_status
from mistudio.error.v1 import error_pb2

from mistudio_core import errors

DOMAIN = "mistudio"

_TABLE: tuple[tuple[type[errors.MistudioError], grpc.StatusCode, int], ...] = (
    # most specific first: the first row whose class matches is taken
    (errors.Unsupported, grpc.StatusCode.INVALID_ARGUMENT, 400),
    (errors.InvalidInput, grpc.StatusCode.INVALID_ARGUMENT, 400),
    (errors.NotFound, grpc.StatusCode.NOT_FOUND, 404),
    (errors.NotReady, grpc.StatusCode.FAILED_PRECONDITION, 409),
    (errors.StaleAttempt, grpc.StatusCode.ABORTED, 409),
    (errors.Conflict, grpc.StatusCode.ABORTED, 409),
    (errors.Unauthenticated, grpc.StatusCode.UNAUTHENTICATED, 401),
    (errors.Forbidden, grpc.StatusCode.PERMISSION_DENIED, 403),
    (errors.DiskFull, grpc.StatusCode.RESOURCE_EXHAUSTED, 429),
    (errors.LimitReached, grpc.StatusCode.RESOURCE_EXHAUSTED, 429),
    (errors.Corrupt, grpc.StatusCode.DATA_LOSS, 500),
    (errors.Unavailable, grpc.StatusCode.UNAVAILABLE, 503),
    (errors.DeadlineExceeded, grpc.StatusCode.DEADLINE_EXCEEDED, 504),
    (errors.Failed, grpc.StatusCode.INTERNAL, 500),
    (errors.Internal, grpc.StatusCode.INTERNAL, 500),
)
_BY_REASON: dict[str, type[errors.MistudioError]] = {
    "UNSUPPORTED": errors.Unsupported,
    "STALE_ATTEMPT": errors.StaleAttempt,
    "DISK_FULL": errors.DiskFull,
    "CORPUS_IN_USE": errors.Conflict,
}
_PLAIN: dict[grpc.StatusCode, tuple[type[errors.MistudioError], str]] = {
    # what grpc itself answers, without our details
    grpc.StatusCode.UNIMPLEMENTED: (errors.NotFound, "ROUTE_NOT_FOUND"),
    grpc.StatusCode.UNAVAILABLE: (errors.Unavailable, "UNAVAILABLE"),
    grpc.StatusCode.DEADLINE_EXCEEDED: (errors.DeadlineExceeded, "DEADLINE_EXCEEDED"),
    grpc.StatusCode.RESOURCE_EXHAUSTED: (errors.LimitReached, "TOO_LARGE"),
}


def code_of(error: errors.MistudioError) -> grpc.StatusCode:
    """The gRPC status code of an error."""
    return next((code for kind, code, _ in _TABLE if isinstance(error, kind)), grpc.StatusCode.INTERNAL)


def http_status_of(error: errors.MistudioError) -> int:
    """The HTTP status of an error. A body over its limit is 413, as HTTP clients expect."""
    if error.reason == "TOO_LARGE":
        return 413
    return next((http for kind, _, http in _TABLE if isinstance(error, kind)), 500)


def to_status(error: errors.MistudioError) -> status_pb2.Status:
    """The error as google.rpc.Status with details."""
    info = error_details_pb2.ErrorInfo(reason=error.reason, domain=DOMAIN, metadata=error.facts)
    details = [_packed(info)]
    if error.problems:
        violations = [
            error_pb2.FieldViolation(field=p.field, value=p.value, allowed=p.allowed, remedy=p.remedy)
            for p in error.problems
        ]
        details.append(_packed(error_pb2.BadRequest(violations=violations)))
    return status_pb2.Status(code=_code_number(code_of(error)), message=error.message, details=details)


def from_status(status: status_pb2.Status) -> errors.MistudioError:
    """The error that a status was made from."""
    info, problems = error_details_pb2.ErrorInfo(), []
    for detail in status.details:
        if detail.Is(error_details_pb2.ErrorInfo.DESCRIPTOR):
            detail.Unpack(info)
        elif detail.Is(error_pb2.BadRequest.DESCRIPTOR):
            bad = error_pb2.BadRequest()
            detail.Unpack(bad)
            problems = [
                errors.FieldProblem(field=v.field, value=v.value, allowed=v.allowed, remedy=v.remedy)
                for v in bad.violations
            ]
    code = next((c for c in grpc.StatusCode if c.value[0] == status.code), grpc.StatusCode.UNKNOWN)
    kind = _BY_REASON.get(info.reason) or next((k for k, c, _ in _TABLE[1:] if c is code), errors.Internal)
    error = kind.__new__(kind)
    errors.MistudioError.__init__(
        error, status.message, reason=info.reason, facts=dict(info.metadata), problems=problems
    )
    return error


def from_rpc_error(error: grpc.RpcError) -> errors.MistudioError:
    """What the server raised, or what grpc itself found (unreachable, deadline, too large)."""
    status = rpc_status.from_call(error) if error.trailing_metadata() is not None else None
    if status is not None:
        return from_status(status)
    code, details = error.code(), error.details() or ""
    kind, reason = _PLAIN.get(code, (errors.Internal, "INTERNAL"))
    return kind(_plain_message(code, details), reason=reason, facts={"grpc_code": code.name})


def _plain_message(code: grpc.StatusCode, details: str) -> str:
    if code is grpc.StatusCode.UNAVAILABLE:
        return "miStudio does not answer. Start it with `mistudio up`, or see `mistudio status`."
    if code is grpc.StatusCode.RESOURCE_EXHAUSTED and "larger than max" in details:
        return "The message is over the limit of 4 MiB. Send large data in chunks."
    return details or code.name.lower().replace("_", " ")


def _packed(message: error_details_pb2.ErrorInfo | error_pb2.BadRequest) -> any_pb2.Any:
    packed = any_pb2.Any()
    packed.Pack(message)
    return packed


def _code_number(code: grpc.StatusCode) -> int:
    return int(getattr(code_pb2, code.name))

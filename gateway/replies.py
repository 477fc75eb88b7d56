"""HTTP replies: JSON values and errors in the published form.

`{"detail", "code", "reason", "metadata"}`, with `problems` where single fields are at fault. What was not
foreseen is logged under an id, and the caller sees the id alone.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Mapping
from typing import Any

import grpc
from starlette.responses import Response

from mistudio_core.errors import Internal, MistudioError
from mistudio_rpc import status
from mistudio_rpc.json_out import dumps

log = logging.getLogger("gateway")


def json_reply(value: object, code: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """A JSON response."""
    return Response(dumps(value), code, headers, media_type="application/json")


def error_reply(error: MistudioError, code: int | None = None, headers: Mapping[str, str] | None = None) -> Response:
    """The response for an error; `code` where HTTP has a finer one than the table."""
    extra = dict(headers or {})
    http = code or status.http_status_of(error)
    if http == 401:
        extra["WWW-Authenticate"] = 'Bearer realm="mistudio"'
    return json_reply(error_body(error), http, extra)


def error_body(error: MistudioError) -> dict[str, Any]:
    """The JSON object of an error."""
    body: dict[str, Any] = {
        "detail": error.message,
        "code": status.code_of(error).name,
        "reason": error.reason,
        "metadata": error.facts,
    }
    if error.problems:
        body["problems"] = [
            {"field": p.field, "value": p.value, "allowed": p.allowed, "remedy": p.remedy} for p in error.problems
        ]
    return body


def known(error: BaseException) -> MistudioError:
    """Any exception as an error that a caller may see."""
    if isinstance(error, MistudioError):
        return error
    if isinstance(error, grpc.RpcError):
        found = status.from_rpc_error(error)
        if not (isinstance(found, Internal) and "grpc_code" in found.facts):
            return found
    mark = secrets.token_hex(8)
    log.error("unexpected error %s", mark, exc_info=error)
    return Internal(f"Something went wrong inside miStudio. The log has the details under {mark}.", facts={"id": mark})

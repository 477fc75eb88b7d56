"""Errors survive the way to the client and back, each with one gRPC and one HTTP status."""

from __future__ import annotations

import grpc
import pytest

from mistudio_core import errors
from mistudio_rpc import status

EVERY = [
    errors.InvalidInput.field("hidden_dim", 0, "8 to 1048576", "Raise it."),
    errors.Unsupported("gated", why="later", instead="Use topk."),
    errors.NotFound("no", facts={"job_id": "x"}),
    errors.NotReady("wait"),
    errors.Conflict("changed"),
    errors.StaleAttempt("old"),
    errors.Unauthenticated("who"),
    errors.Forbidden("no"),
    errors.LimitReached("full"),
    errors.DiskFull("disk"),
    errors.Corrupt("bits"),
    errors.Failed("nan", reason="NON_FINITE_LOSS"),
    errors.Unavailable("gone"),
    errors.DeadlineExceeded("late"),
    errors.Internal("id", facts={"id": "abc"}),
]


@pytest.mark.parametrize("error", EVERY, ids=lambda e: type(e).__name__)
def test_an_error_comes_back_as_it_was(error: errors.MistudioError):
    found = status.from_status(status.to_status(error))
    assert (found.message, found.reason, found.facts, found.problems) == (
        error.message,
        error.reason,
        error.facts,
        error.problems,
    )
    assert status.code_of(found) is status.code_of(error)
    assert status.http_status_of(found) == status.http_status_of(error)


@pytest.mark.parametrize(
    ("error", "code", "http"),
    [
        (errors.InvalidInput("x"), grpc.StatusCode.INVALID_ARGUMENT, 400),
        (errors.Unauthenticated("x"), grpc.StatusCode.UNAUTHENTICATED, 401),
        (errors.Forbidden("x"), grpc.StatusCode.PERMISSION_DENIED, 403),
        (errors.NotFound("x"), grpc.StatusCode.NOT_FOUND, 404),
        (errors.NotReady("x"), grpc.StatusCode.FAILED_PRECONDITION, 409),
        (errors.LimitReached("x", reason="TOO_LARGE"), grpc.StatusCode.RESOURCE_EXHAUSTED, 413),
        (errors.DiskFull("x"), grpc.StatusCode.RESOURCE_EXHAUSTED, 429),
        (errors.Unavailable("x"), grpc.StatusCode.UNAVAILABLE, 503),
    ],
)
def test_the_table(error: errors.MistudioError, code: grpc.StatusCode, http: int):
    assert (status.code_of(error), status.http_status_of(error)) == (code, http)

"""What a status, a header or an error means, whoever raises it."""

from __future__ import annotations

from datetime import timedelta
from email.utils import format_datetime

import httpx2
import pytest

from mistudio_core import clock
from mistudio_explain.engines.failures import failure_of, from_status, retry_after


@pytest.mark.parametrize(
    ("status", "text", "kind"),
    [
        (429, "", "rate_limited"),
        (429, '{"code": "insufficient_quota"}', "refused"),
        (401, "", "refused"),
        (403, "", "refused"),
        (302, "", "refused"),
        (404, "the model x does not exist", "model_missing"),
        (404, "not found", "refused"),
        (400, "maximum context length is 512 tokens", "context_too_small"),
        (400, "prompt is too long: 9000 tokens > 8192", "context_too_small"),
        (400, "odd", "refused"),
        (408, "", "server_error"),
        (500, "", "server_error"),
        (529, "overloaded", "server_error"),
    ],
)
def test_statuses(status, text, kind):
    assert from_status(status, {}, text)[0] == kind


def test_retry_after_in_every_form():
    assert retry_after({}) is None
    assert retry_after({"retry-after": "7"}) == 7
    assert retry_after({"retry-after": "1.5"}) == 1.5
    assert retry_after({"retry-after-ms": "250", "retry-after": "7"}) == 0.25
    assert retry_after({"retry-after": "-3"}) == 0
    assert retry_after({"retry-after": "nan"}) is None
    assert retry_after({"retry-after": "soon"}) is None
    later = format_datetime(clock.now() + timedelta(hours=1), usegmt=True)
    assert 3500 < retry_after({"retry-after": later}) <= 3600
    assert retry_after({"retry-after": "Wed, 21 Oct 2015 07:28:00 GMT"}) == 0


def test_causes_are_looked_through():
    error = RuntimeError("sk-canary-5f1c")
    error.__cause__ = httpx2.ConnectTimeout("sk-canary-5f1c")
    found = failure_of("x", error, clock.monotonic())
    assert found.kind == "unreachable"
    assert "canary" not in repr(found)

"""What went wrong at an engine, as a typed Failure: the same words for every SDK and protocol.

Reads status codes, headers and the types of errors; the server's own words are only searched for
known phrases and never passed on, since they may echo a key or a prompt.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from email.utils import parsedate_to_datetime

import httpx2

from mistudio_core import clock
from mistudio_core.errors import MistudioError, NotFound, Unavailable
from mistudio_explain.engines.addresses import ForbiddenAddress
from mistudio_explain.engines.base import Failure, FailureKind
from mistudio_explain.engines.transport import TooLarge

_MOST_NAMED = 20
KEY = "key"
"""In the facts of an error, as its kind: the key was refused."""
_CONTEXT_PHRASES = (
    "context length",
    "context window",
    "maximum context",
    "context_length",
    "prompt is too long",
    "exceed",
)
_QUOTA_PHRASES = ("insufficient_quota", "billing", "credit balance")


_KEY_REFUSED = ": it refuses the key"
_TOO_LONG = ": the prompt does not fit its context"
_BY_TYPE: tuple[tuple[tuple[type[BaseException], ...], FailureKind, str], ...] = (
    ((TooLarge,), "too_large", "answered with more bytes than are read"),
    ((httpx2.ConnectError, httpx2.ConnectTimeout), "unreachable", "could not be reached"),
    ((httpx2.TimeoutException, TimeoutError), "timeout", "did not answer in time"),
    ((httpx2.HTTPError, httpx2.StreamError), "cut_off", "broke off its answer"),
    ((OSError,), "unreachable", "could not be reached"),
)


class Oddity(ValueError):
    """An answer that does not follow the protocol; `kind` says how."""

    def __init__(self, kind: FailureKind, what: str) -> None:
        """`what` completes "The engine ...", without the server's words."""
        super().__init__(what)
        self.kind: FailureKind = kind
        self.what = what


class BadStatus(ValueError):
    """An answer whose status is no success, where no SDK raises for it."""

    def __init__(self, response: httpx2.Response, body: bytes) -> None:
        """`body` is only searched for known phrases."""
        super().__init__("bad status")
        self.response, self.status_code = response, response.status_code
        self.body = body[:4000].decode("utf-8", "replace")


def refuses(error: Exception, parameter: str) -> bool:
    """Whether a server refused a request because of one parameter."""
    refused = getattr(error, "status_code", 0) in (400, 422)
    return refused and parameter in _text(error)


def is_about_context(text: str) -> bool:
    """Whether an error's text, in lower case, says that a prompt is too long."""
    return _says(text, _CONTEXT_PHRASES)


def failure_of(name: str, error: BaseException, began: float) -> Failure:
    """A Failure from what an SDK, the HTTP client or the reading of an answer raised."""
    kind, what, wait = _classified(error)
    return failure(name, kind, what, began, retry_after=wait)


def failure(
    name: str,
    kind: FailureKind,
    what: str,
    began: float,
    *,
    retry_after: float | None = None,
    prompt_tokens: int = 0,
    completion_tokens: int = 0,
) -> Failure:
    """A Failure of the engine `name` since `began` on the monotonic clock."""
    return Failure(
        kind=kind,
        message=f"The engine {name!r} {what}.",
        latency_seconds=clock.monotonic() - began,
        retry_after_seconds=retry_after,
        prompt_tokens=prompt_tokens,
        completion_tokens=completion_tokens,
    )


def over_tokens(name: str, most: int, began: float, *, prompt_tokens: int, completion_tokens: int) -> Failure:
    """An answer that ran into its token limit: it has no end, but it was paid for."""
    what = f"ran into its limit of {most} tokens; raise max_output_tokens in its table"
    found = failure(name, "cut_off", what, began, prompt_tokens=prompt_tokens, completion_tokens=completion_tokens)
    return replace(found, final=True)


def _classified(error: BaseException) -> tuple[FailureKind, str, float | None]:
    """(kind, what, seconds to wait): first match, from special to general."""
    chain = list(_chain(error))
    odd = next((cause for cause in chain if isinstance(cause, Oddity)), None)
    if odd is not None:
        return odd.kind, odd.what, None
    forbidden = next((cause for cause in chain if isinstance(cause, ForbiddenAddress)), None)
    if forbidden is not None:
        return "refused", f"{forbidden}; set allow_private = true in its table to allow private addresses", None
    response = getattr(error, "response", None)
    if isinstance(response, httpx2.Response) and isinstance(getattr(error, "status_code", None), int):
        return from_status(response.status_code, response.headers, _text(error))
    for types, kind, what in _BY_TYPE:
        if any(isinstance(cause, types) for cause in chain):
            return kind, what, None
    if hasattr(error, "body") and hasattr(error, "request"):  # an error event inside of a stream
        return "server_error", "reported an error instead of an answer", None
    return "not_json", "sent something that is no chat completion", None


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    for _ in range(8):
        if error is None:
            return
        yield error
        error = error.__cause__ or error.__context__


def _text(error: BaseException) -> str:
    body = getattr(error, "body", None)
    return (body if isinstance(body, str) else json.dumps(body, default=str))[:4000].casefold() if body else ""


def from_status(status: int, headers: Mapping[str, str], text: str) -> tuple[FailureKind, str, float | None]:
    """What a status of 300 or more means; `text` is the body in lower case, searched for known phrases."""
    rules: tuple[tuple[bool, FailureKind, str], ...] = (
        (status == 429 and _says(text, _QUOTA_PHRASES), "refused", ": the account has no credit left"),
        (status == 429, "rate_limited", ": too many requests"),
        (status in (401, 403), "refused", _KEY_REFUSED),
        (300 <= status < 400, "refused", ", a redirect, which is not followed; correct base_url"),
        (status == 404 and "model" in text, "model_missing", ": it has no such model"),
        (status in (400, 413, 422, 500) and is_about_context(text), "context_too_small", _TOO_LONG),
        (status == 408 or status >= 500, "server_error", ""),
        (True, "refused", ""),
    )
    kind, what = next((kind, what) for holds, kind, what in rules if holds)
    wait = retry_after(headers) if kind in ("rate_limited", "server_error") else None
    return kind, f"answered with HTTP {status}{what}", wait


def is_key_refused(found: Failure) -> bool:
    """Whether the server did not accept the key."""
    return found.kind == "refused" and found.message.endswith(f"{_KEY_REFUSED}.")


def _says(text: str, phrases: Sequence[str]) -> bool:
    return any(phrase in text for phrase in phrases)


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds of `Retry-After` (seconds or a date) or `retry-after-ms`; None where there is neither."""
    milliseconds, value = headers.get("retry-after-ms", ""), headers.get("retry-after", "")
    for text, unit in ((milliseconds, 0.001), (value, 1.0)):
        try:
            seconds = float(text) * unit
        except ValueError:
            continue
        if math.isfinite(seconds):
            return max(0.0, seconds)
    try:
        return max(0.0, (parsedate_to_datetime(value) - clock.now()).total_seconds())
    except (ValueError, TypeError):
        return None


def unavailable(name: str, problem: str, *, kind: str = "") -> Unavailable:
    """An engine that cannot be used, with what to do; `kind` is the failure's."""
    return Unavailable(
        f"Explanation engine {name!r} {problem}; or use engine lexical, or set allow_lexical_fallback.",
        reason="ENGINE_UNAVAILABLE",
        facts={"engine": name} | ({"kind": kind} if kind else {}),
    )


def model_missing(name: str, model: str, there: list[str], how: str) -> MistudioError:
    """A model that an engine does not have, with those that it has and how to get it."""
    shown = ", ".join(there[:_MOST_NAMED]) + (
        f" and {len(there) - _MOST_NAMED} more" if len(there) > _MOST_NAMED else ""
    )
    return NotFound(
        f"Explanation engine {name!r} has no model {model!r}. There are: {shown or 'none'}. {how}",
        reason="MODEL_NOT_FOUND",
        facts={"engine": name, "model": model, "models": shown},
    )


def check_problem(name: str, url: str, found: Failure) -> Unavailable:
    """A failure of a first request as an error that says what to do."""
    kind: str = found.kind
    if is_key_refused(found):
        kind = KEY
        problem = "refuses the key. Put a valid one into the file that api_key_file names"
    elif found.kind in ("unreachable", "timeout"):
        why = "does not answer" if found.kind == "timeout" else "cannot be reached"
        problem = f"{why} at {url}. Start it, or correct base_url in the engines file"
    else:
        what = found.message.removeprefix(f"The engine {name!r} ").rstrip(".")
        problem = f"{what}. Look into its log, or correct its table in the engines file"
    return unavailable(name, problem, kind=kind)

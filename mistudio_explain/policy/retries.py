"""Asks again after failures that pass, with growing pauses, inside one deadline.

Owns which failures pass and how long to wait; the server's Retry-After counts where it gives one.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from tenacity import AsyncRetrying, RetryCallState, retry_if_result, wait_random_exponential

from mistudio_core import clock
from mistudio_explain.engines.base import Failure, FailureKind, Reply

PASSING: frozenset[FailureKind] = frozenset(
    ("unreachable", "server_error", "cut_off", "rate_limited", "timeout", "not_json")
)
"""Failures after which the same request may succeed."""
_FIRST_WAIT_S, _LONGEST_WAIT_S = 0.2, 8.0
_grow = wait_random_exponential(multiplier=_FIRST_WAIT_S, max=_LONGEST_WAIT_S)
Outcome = Reply | Failure


async def retried(
    attempt: Callable[[], Awaitable[Outcome]], *, attempts: int, seconds: float, patient: bool
) -> Outcome:
    """The first outcome that is final, or the last one of at most `attempts` within `seconds`.

    A pause that would end behind the deadline is not begun; attempts keep to the deadline themselves. Waiting
    for an open breaker is no attempt; where not `patient` it is not waited for.
    """
    began = clock.monotonic()
    made = 0

    async def counted() -> Outcome:
        nonlocal made
        outcome = await attempt()
        made += not (isinstance(outcome, Failure) and outcome.kind == "breaker_open")
        return outcome

    def is_last(state: RetryCallState) -> bool:
        return made >= attempts or clock.monotonic() - began + state.upcoming_sleep >= seconds

    retrying = AsyncRetrying(
        stop=is_last,
        wait=_pause,
        retry=retry_if_result(lambda outcome: _passes(outcome, patient)),
        retry_error_callback=lambda state: state.outcome.result() if state.outcome else None,
    )
    outcome: Outcome = await retrying(counted)
    return outcome


def _passes(outcome: Outcome, patient: bool) -> bool:
    if not isinstance(outcome, Failure) or outcome.final:
        return False
    return outcome.kind in PASSING or (outcome.kind == "breaker_open" and patient)


def _pause(state: RetryCallState) -> float:
    outcome = state.outcome.result() if state.outcome else None
    asked = outcome.retry_after_seconds if isinstance(outcome, Failure) else None
    return _grow(state) if asked is None else asked

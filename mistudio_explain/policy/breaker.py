"""A circuit breaker: leaves an engine alone after failures in a row, then lets one request try.

Closed, it lets everything pass. It opens after a number of failures with no success between, for a
time that doubles up to a limit; then one probe passes, and its outcome closes or opens it again.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from mistudio_core import clock
from mistudio_explain.engines.base import FailureKind

FAULTS: frozenset[FailureKind] = frozenset(
    ("unreachable", "timeout", "server_error", "cut_off", "too_large", "not_json")
)
"""Failures that say that the engine is not well; the others are answers."""
_LONGEST_SECONDS = 30.0
State = Literal["closed", "open", "half_open"]


class Breaker:
    """For one engine; used from one event loop."""

    def __init__(self, *, failures: int, seconds: float, now: Callable[[], float] = clock.monotonic) -> None:
        """Opens after `failures` in a row, for `seconds` at first."""
        self._most, self._first, self._now = failures, seconds, now
        self._row, self._seconds, self._until = 0, seconds, 0.0
        self._open = self._probing = False

    @property
    def state(self) -> State:
        """Where it stands."""
        if not self._open:
            return "closed"
        return "half_open" if self._probing or self._now() >= self._until else "open"

    def enter(self) -> float:
        """0 where a request may go, which must then be ended by `leave`; else seconds to wait before asking again."""
        if not self._open:
            return 0.0
        left = self._until - self._now()
        if left <= 0 and not self._probing:
            self._probing = True
            return 0.0
        return max(left, 0.05 * self._first)

    def leave(self, kind: FailureKind | None, *, known: bool = True) -> None:
        """Ends a request: its failure, None for an answer; `known` False for one that was cancelled."""
        probing, self._probing = self._probing, False
        if not known:
            return
        if kind not in FAULTS:
            self._row, self._open, self._seconds = 0, False, self._first
            return
        self._row += 1
        if probing or (not self._open and self._row >= self._most):
            self._open, self._until = True, self._now() + self._seconds
            self._seconds = min(2 * self._seconds, max(_LONGEST_SECONDS, self._first))

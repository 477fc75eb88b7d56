"""How many requests an engine has at a time, and how many features are taken up together.

Both shrink where the engine says that it is too much (rate limits, timeouts) and grow again with
every answer that comes in time.
"""

from __future__ import annotations

import asyncio
from collections import deque

from mistudio_explain.engines.base import FailureKind

TROUBLE: frozenset[FailureKind] = frozenset(("rate_limited", "timeout"))
"""Failures that say that there was too much at a time."""
LEAST_BATCH, MOST_BATCH = 10, 20
"""Features that are taken up together."""


class Window:
    """Places for requests, handed out in order; used from one event loop.

    Halves on trouble, once for all requests that were under way then; one more place after as many
    answers as there are places.
    """

    def __init__(self, most: int) -> None:
        """`most` places, which is also what it begins with."""
        self.most = self.size = most
        self._taken = self._answers = self._shrunk = 0
        self._entered = 0
        self.troubled = False
        """Whether there was trouble; whoever reads it may set it back."""
        self._waiting: deque[asyncio.Future[None]] = deque()

    async def enter(self) -> int:
        """Waits for a place; gives the request's number, for `heard`. `leave` gives the place back."""
        if self._taken < self.size and not self._waiting:
            self._taken += 1
        else:
            await self._given()
        self._entered += 1
        return self._entered

    async def _given(self) -> None:
        place = asyncio.get_running_loop().create_future()
        self._waiting.append(place)
        try:
            await place
        except asyncio.CancelledError:
            if place.done() and not place.cancelled():
                self.leave()
            elif place in self._waiting:
                self._waiting.remove(place)
            raise

    def leave(self) -> None:
        """Gives a place back."""
        self._taken -= 1
        self._wake()

    def heard(self, number: int, kind: FailureKind | None) -> None:
        """What came of the request of this number: None for an answer."""
        if kind in TROUBLE:
            self.troubled = True
            if number > self._shrunk:
                self.size, self._shrunk, self._answers = max(1, self.size // 2), self._entered, 0
        elif kind is None:
            self._answers += 1
            if self._answers >= self.size and self.size < self.most:
                self.size, self._answers = self.size + 1, 0
                self._wake()

    def _wake(self) -> None:
        while self._waiting and self._taken < self.size:
            place = self._waiting.popleft()
            if not place.done():
                self._taken += 1
                place.set_result(None)


class Batches:
    """Sizes of the next batch of features: smaller after trouble, larger after each batch without."""

    def __init__(self) -> None:
        """Begins with the largest."""
        self.size = MOST_BATCH

    def next(self, trouble: bool) -> int:
        """Features to take up now; `trouble` since the last batch halves it."""
        self.size = max(LEAST_BATCH, self.size // 2) if trouble else min(MOST_BATCH, self.size + 1)
        return self.size

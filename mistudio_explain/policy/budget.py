"""Money: reserved at the worst price before each call, settled after it; never overspent.

Amounts are whole nano-dollars, so that sums are exact. With a journal file a killed run's calls are
counted too: one that was not settled counts at its worst.
"""

from __future__ import annotations

import asyncio
import json
import math
import os
from collections import deque
from pathlib import Path

from mistudio_explain.engines.base import ChatRequest, Failure, FailureKind, Reply
from mistudio_explain.engines.table import EngineSettings

NANO = 1_000_000_000
"""Nano-dollars of a US dollar."""
_TEMPLATE_TOKENS = 512
_UNPAID: frozenset[FailureKind] = frozenset(
    ("unreachable", "refused", "rate_limited", "model_missing", "context_too_small", "breaker_open", "over_budget")
)


def worst_cost(settings: EngineSettings, request: ChatRequest) -> int:
    """Nano-dollars that a call can cost at most: a token has at least one byte, and every answer may be the longest."""
    schema = len(json.dumps(request.schema)) if request.schema else 0
    tokens = len(request.prompt.encode("utf-8", "replace")) + len(request.system.encode("utf-8", "replace")) + schema
    return cost(settings, tokens + _TEMPLATE_TOKENS, request.max_output_tokens)


def cost(settings: EngineSettings, prompt_tokens: int, completion_tokens: int) -> int:
    """Nano-dollars of so many tokens, rounded up."""
    million = NANO // 1_000_000
    return math.ceil(
        million
        * (
            prompt_tokens * (settings.usd_per_million_input or 0.0)
            + completion_tokens * (settings.usd_per_million_output or 0.0)
        )
    )


def real_cost(settings: EngineSettings, outcome: Reply | Failure, worst: int) -> int:
    """Nano-dollars that a call did cost: by its tokens where they are known, nothing where it was turned away.

    Everything else, a timeout or an answer that broke off, may have been worked on: it counts at its worst.
    """
    if outcome.prompt_tokens or outcome.completion_tokens:
        return cost(settings, outcome.prompt_tokens, outcome.completion_tokens)
    unpaid = isinstance(outcome, Failure) and outcome.kind in _UNPAID
    return 0 if unpaid else worst


class Budget:
    """What a run may spend; used from one event loop by any number of callers."""

    def __init__(self, limit_usd: float, journal: Path | None = None) -> None:
        """At most `limit_usd`, what the journal says was spent before included."""
        self.limit = math.floor(limit_usd * NANO)
        self.spent = self.reserved = 0
        self._calls = 0
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._journal = -1
        if journal is not None:
            self.spent, self._calls = _read(journal)
            self._journal = os.open(journal, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)

    async def reserve(self, amount: int) -> int | None:
        """Sets `amount` aside and gives the call's number, for `settle`; None where it is more than is left.

        Where calls under way may yet give some back, it waits for them.
        """
        while self.spent + self.reserved + amount > self.limit:
            if not self.reserved or self.spent + amount > self.limit:
                return None
            place = asyncio.get_running_loop().create_future()
            self._waiting.append(place)
            try:
                await place
            finally:
                if place in self._waiting:
                    self._waiting.remove(place)
        self.reserved += amount
        self._calls += 1
        self._note(self._calls, amount)
        return self._calls

    def settle(self, number: int, amount: int, real: int) -> None:
        """Ends a call of which `amount` was set aside: it cost `real`."""
        self.reserved -= amount
        self.spent += real
        self._note(-number, real)
        waiting, self._waiting = self._waiting, deque()
        for place in waiting:
            if not place.done():
                place.set_result(None)

    @property
    def spent_usd(self) -> float:
        """US dollars spent so far, settled calls only."""
        return self.spent / NANO

    def close(self) -> None:
        """Ends writing."""
        if self._journal >= 0:
            os.close(self._journal)
            self._journal = -1

    def _note(self, number: int, amount: int) -> None:
        if self._journal >= 0:
            os.write(self._journal, f"{number} {amount}\n".encode())


def _read(journal: Path) -> tuple[int, int]:
    """(nano-dollars spent, last call's number): a call without its end counts what was set aside."""
    if not journal.exists():
        return 0, 0
    calls: dict[int, int] = {}
    for line in journal.read_text(encoding="ascii", errors="replace").splitlines():
        number, _, amount = line.partition(" ")
        try:
            calls[abs(int(number))] = int(amount)
        except ValueError:
            continue  # the kill cut this line: its call was never made
    return sum(calls.values()), max(calls, default=0)

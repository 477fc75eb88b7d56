"""An engine with the policy around it: cache, places, breaker, budget, retries inside one deadline.

It is an Engine itself, so whoever asks, explainer or judge, is held to the same limits.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing
from dataclasses import dataclass, replace

from mistudio_core import clock
from mistudio_explain.engines.base import ChatRequest, Engine, Failure, Limits, ModelInfo, Progress, Reply
from mistudio_explain.engines.table import EngineSettings
from mistudio_explain.policy.breaker import Breaker
from mistudio_explain.policy.budget import NANO, Budget, real_cost, worst_cost
from mistudio_explain.policy.cache import AnswerCache, answer_key
from mistudio_explain.policy.retries import retried
from mistudio_explain.policy.window import Window


@dataclass(kw_only=True, slots=True)
class Guards:
    """What all models of one engine share."""

    breaker: Breaker
    """Leaves a failing engine alone."""
    window: Window
    """Places for requests."""
    patient: bool = True
    """Whether to wait, inside the deadline, for a failing engine to come back."""

    @classmethod
    def of(cls, settings: EngineSettings, concurrency: int) -> Guards:
        """For an engine that a run gives `concurrency` requests at a time, and no more than its settings allow."""
        return cls(
            breaker=Breaker(failures=settings.breaker_failures, seconds=settings.breaker_seconds),
            window=Window(min(concurrency, settings.concurrency)),
        )


class GuardedEngine:
    """See Engine; `chat` retries, and says in its outcome what all attempts cost."""

    def __init__(
        self,
        engine: Engine,
        settings: EngineSettings,
        *,
        guards: Guards,
        budget: Budget,
        cache: AnswerCache | None = None,
        readable: Callable[[str], bool] = bool,
    ) -> None:
        """`cache` None for none; only answers that are `readable` are kept in it."""
        self.inner, self.guards = engine, guards
        self.name, self.kind, self.model = engine.name, engine.kind, engine.model
        self._settings, self._budget, self._cache, self._readable = settings, budget, cache, readable

    @property
    def limits(self) -> Limits:
        """See Engine."""
        return self.inner.limits

    async def check(self) -> None:
        """See Engine; costs nothing."""
        await self.inner.check()

    async def models(self) -> list[ModelInfo]:
        """See Engine."""
        return await self.inner.models()

    def load(self, model: str) -> AsyncIterator[Progress]:
        """See Engine."""
        return self.inner.load(model)

    async def unload(self, model: str) -> None:
        """See Engine."""
        await self.inner.unload(model)

    async def close(self) -> None:
        """See Engine."""
        await self.inner.close()

    async def chat(self, request: ChatRequest) -> Reply | Failure:
        """See Engine: the last outcome of at most `attempts`, in one place and inside one deadline."""
        key = answer_key(self._settings, self.model, request) if self._cache else b""
        found = self._cache.get(key) if self._cache else None
        if found is not None:
            return found
        number = await self.guards.window.enter()
        try:
            outcome = await self._within_deadline(request, number)
        finally:
            self.guards.window.leave()
        if self._cache and isinstance(outcome, Reply) and self._readable(outcome.text):
            self._cache.put(key, outcome)
        return outcome

    async def _within_deadline(self, request: ChatRequest, number: int) -> Reply | Failure:
        spent = 0
        until = asyncio.get_running_loop().time() + self._settings.total_seconds

        async def attempt() -> Reply | Failure:
            nonlocal spent
            outcome, cost = await self._attempt(request, number, until)
            spent += cost
            return outcome

        outcome = await retried(
            attempt,
            attempts=self._settings.attempts,
            seconds=self._settings.total_seconds,
            patient=self.guards.patient,
        )
        return replace(outcome, cost_usd=spent / NANO) if spent else outcome

    async def _attempt(self, request: ChatRequest, number: int, until: float) -> tuple[Reply | Failure, int]:
        """One request, if breaker and budget let it pass, and the nano-dollars that it cost."""
        wait = self.guards.breaker.enter()
        if wait:
            return self._alone(wait), 0
        outcome: Reply | Failure | None = None
        try:
            outcome, cost = await self._paid(request, until)
            return outcome, cost
        finally:
            kind = outcome.kind if isinstance(outcome, Failure) and not outcome.final else None
            self.guards.breaker.leave(kind, known=outcome is not None and kind != "over_budget")
            if outcome is not None:
                self.guards.window.heard(number, kind)

    async def _paid(self, request: ChatRequest, until: float) -> tuple[Reply | Failure, int]:
        """The outcome and its cost: reserved at its worst before, settled after; a cancelled call cost its worst."""
        if not self._settings.costs_money:
            return await self._asked(request, until), 0
        worst = real = worst_cost(self._settings, request)
        try:
            async with asyncio.timeout_at(until):
                call = await self._budget.reserve(worst)
        except TimeoutError:
            call = None
        if call is None:
            return self._over_budget(worst), 0
        try:
            outcome = await self._asked(request, until)
            real = min(worst, real_cost(self._settings, outcome, worst))
            return outcome, real
        finally:
            self._budget.settle(call, worst, real)

    async def _asked(self, request: ChatRequest, until: float) -> Reply | Failure:
        began = clock.monotonic()
        try:
            async with asyncio.timeout_at(until):
                return await self.inner.chat(request)
        except TimeoutError:
            message = f"The engine {self.name!r} gave no answer within {self._settings.total_seconds:g} s."
            return Failure(kind="timeout", message=message, latency_seconds=clock.monotonic() - began)

    async def stream(self, request: ChatRequest) -> AsyncGenerator[str | Reply | Failure, None]:
        """See Engine: one attempt, under breaker, places and budget; neither retried nor cached."""
        number = await self.guards.window.enter()
        last: str | Reply | Failure = ""
        entered = False
        try:
            wait = self.guards.breaker.enter()
            entered = not wait
            paid = self._settings.costs_money
            worst = worst_cost(self._settings, request) if paid else 0
            call = await self._budget.reserve(worst) if paid and entered else None
            if wait or (paid and call is None):
                last = self._alone(wait) if wait else self._over_budget(worst)
                yield last
                return
            try:
                async with aclosing(_generator(self.inner.stream(request))) as pieces:
                    async for last in pieces:
                        yield last
            finally:
                if call is not None:
                    real = worst if isinstance(last, str) else min(worst, real_cost(self._settings, last, worst))
                    self._budget.settle(call, worst, real)
        finally:
            if entered:
                kind = last.kind if isinstance(last, Failure) and not last.final else None
                self.guards.breaker.leave(kind, known=not isinstance(last, str) and kind != "over_budget")
                self.guards.window.heard(number, kind)
            self.guards.window.leave()

    def _alone(self, wait: float) -> Failure:
        message = f"The engine {self.name!r} failed several times in a row and is left alone for a while."
        return Failure(kind="breaker_open", message=message, retry_after_seconds=wait)

    def _over_budget(self, worst: int) -> Failure:
        left = max(0.0, (self._budget.limit - self._budget.spent) / NANO)
        message = (
            f"A request to {self.name!r} may cost {worst / NANO:.4f} US dollars and {left:.4f} are left: "
            "raise budget_usd, or use a local engine."
        )
        return Failure(kind="over_budget", message=message)


async def _generator(pieces: AsyncIterator[str | Reply | Failure]) -> AsyncGenerator[str | Reply | Failure, None]:
    """An iterator that can be closed."""
    async for piece in pieces:
        yield piece

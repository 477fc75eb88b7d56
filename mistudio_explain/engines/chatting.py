"""What all engines behind a chat API have in common: deadlines, one attempt, every fault a Failure.

A subclass asks and reads: `_pieces` for an answer in pieces, `_whole` for one in one piece. Owns
neither protocol nor retries.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import dataclass
from typing import ClassVar

import httpx2

from mistudio_core import clock
from mistudio_core.errors import Unsupported
from mistudio_explain.engines import failures
from mistudio_explain.engines.base import ChatRequest, Failure, Limits, ModelInfo, Progress, Reply
from mistudio_explain.engines.table import EngineSettings
from mistudio_explain.engines.transport import TooLarge

CAUGHT: tuple[type[Exception], ...] = (
    TooLarge,
    httpx2.HTTPError,
    httpx2.InvalidURL,
    httpx2.StreamError,
    OSError,  # TimeoutError too
    ValueError,
    TypeError,
    AttributeError,
    KeyError,
    IndexError,
    RecursionError,
)
"""What clients and the reading of answers may raise, beside an SDK's own family."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """How an answer ended."""

    text: str
    """All of it."""
    finish: object
    """Why the model stopped, in the protocol's word."""
    prompt_tokens: int = 0
    """Tokens of the prompt; 0 where unknown."""
    completion_tokens: int = 0
    """Tokens of the answer; 0 where unknown."""


class ChattingEngine(ABC):
    """See Engine."""

    caught: ClassVar[tuple[type[Exception], ...]] = CAUGHT
    """What an attempt may raise."""
    whole, cut = frozenset(("stop",)), frozenset(("length",))
    """Words of the protocol for an answer that is whole, and for one that ran into its token limit."""
    filtered = frozenset(("content_filter",))
    """Words for an answer that was withheld."""
    optional: ClassVar[tuple[str, ...]] = ()
    """Parameters that are left out once a server refuses them by name."""

    def __init__(self, settings: EngineSettings, model: str) -> None:
        """For one model."""
        self.name, self.kind, self.model = settings.name, settings.kind, model
        self._settings = settings
        self._context = settings.context_tokens
        self._left_out: set[str] = set()

    @property
    def limits(self) -> Limits:
        """See Engine."""
        return Limits(
            concurrency=self._settings.concurrency,
            context_tokens=self._context,
            max_output_tokens=self._settings.max_output_tokens,
        )

    @abstractmethod
    def _pieces(self, request: ChatRequest) -> AsyncIterator[str | Answer]:
        """Asks for pieces, gives them and then the Answer; raises any of `caught`."""

    @abstractmethod
    async def _whole(self, request: ChatRequest) -> Answer:
        """Asks for an answer in one piece; raises any of `caught`."""

    @abstractmethod
    async def _list(self) -> list[ModelInfo]:
        """The models there are; raises any of `caught`."""

    @abstractmethod
    async def close(self) -> None:
        """See Engine."""

    async def chat(self, request: ChatRequest) -> Reply | Failure:
        """See Engine."""
        began = clock.monotonic()
        if self._settings.streaming:
            last: str | Reply | Failure = ""
            async for piece in self.stream(request):
                last = piece
            return last if not isinstance(last, str) else self._ended(Answer(text="", finish=None), began, 0.0)
        for _ in range(len(self.optional) + 1):
            try:
                async with asyncio.timeout(self._settings.total_seconds):
                    return self._ended(await self._whole(request), began, 0.0)
            except self.caught as error:
                if not self._leaves_out(error):
                    return failures.failure_of(self.name, error, began)
        return self._ended(Answer(text="", finish=None), began, 0.0)

    async def stream(self, request: ChatRequest) -> AsyncGenerator[str | Reply | Failure, None]:
        """See Engine."""
        began = clock.monotonic()
        first = 0.0
        for _ in range(len(self.optional) + 1):
            try:
                last = Answer(text="", finish=None)
                async with asyncio.timeout(self._settings.total_seconds):
                    async for piece in self._pieces(request):
                        if isinstance(piece, Answer):
                            last = piece
                        else:
                            first = first or clock.monotonic() - began
                            yield piece
            except self.caught as error:
                if not first and self._leaves_out(error):
                    continue
                yield failures.failure_of(self.name, error, began)
            else:
                yield self._ended(last, began, first)
            return

    def _leaves_out(self, error: Exception) -> bool:
        """Whether a server refused an optional parameter, which is then left out from now on."""
        refused = {name for name in self.optional if failures.refuses(error, name)} - self._left_out
        self._left_out |= refused
        return bool(refused)

    def _ended(self, answer: Answer, began: float, first: float) -> Reply | Failure:
        """What an answer is that came to its end, or broke off."""
        prompt, completion = answer.prompt_tokens, answer.completion_tokens
        tokens = {"prompt_tokens": prompt, "completion_tokens": completion}
        if answer.finish in self.cut:
            return failures.over_tokens(self.name, self._settings.max_output_tokens, began, **tokens)
        if answer.finish in self.filtered:
            return failures.failure(self.name, "refused", "withheld its answer", began, **tokens)
        if answer.finish not in self.whole:
            return failures.failure(self.name, "cut_off", "broke off its answer", began, **tokens)
        spent = clock.monotonic() - began
        return Reply(
            text=answer.text,
            model=self.model,
            latency_seconds=spent,
            first_token_seconds=first or spent,
            prompt_tokens=prompt,
            completion_tokens=completion,
        )

    async def models(self) -> list[ModelInfo]:
        """See Engine."""
        began = clock.monotonic()
        try:
            async with asyncio.timeout(self._settings.connect_seconds + self._settings.first_byte_seconds):
                return sorted(await self._list(), key=lambda m: m.name)
        except self.caught as error:
            found = failures.failure_of(self.name, error, began)
            raise failures.check_problem(self.name, self._settings.url, found) from None

    async def load(self, model: str) -> AsyncIterator[Progress]:
        """See Engine: most servers have no call for it."""
        raise self._unsupported("loading a model")
        yield Progress(activity="")

    async def unload(self, model: str) -> None:
        """See Engine: most servers have no call for it."""
        raise self._unsupported("unloading a model")

    def _unsupported(self, what: str) -> Unsupported:
        return Unsupported(
            f"{what} of engine {self.name!r}",
            why=f"a server of kind {self.kind} has no call for it",
            instead="Start the server with the model, or use an engine of kind vllm or ollama.",
        )


def count(usage: object, *names: str) -> int:
    """Tokens of an answer, summed over these keys; 0 for what is no number."""
    values = [usage.get(name, 0) for name in names] if isinstance(usage, dict) else []
    return sum(v for v in values if isinstance(v, int) and not isinstance(v, bool) and 0 <= v < 1 << 31)

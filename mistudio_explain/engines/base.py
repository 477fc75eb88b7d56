"""What a language-model engine is: one small Protocol, its request and its outcomes.

An engine chats; what is asked and what an answer means is decided elsewhere (prompting.py,
explainer.py, judging). Every way to fail is a typed Failure, none raises.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Literal, Protocol

FailureKind = Literal[
    "unreachable",
    "refused",
    "timeout",
    "server_error",
    "rate_limited",
    "cut_off",
    "too_large",
    "not_json",
    "wrong_schema",
    "model_missing",
    "context_too_small",
    "over_budget",
    "breaker_open",
]
"""Why an engine gave no answer."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ChatRequest:
    """One question to a model."""

    prompt: str
    """The user's message; the engine renders it through the model's chat template."""
    system: str = ""
    """The system message; empty for none."""
    schema: Mapping[str, object] | None = None
    """JSON schema that the answer must follow; None for free text. A constant of ours, never from a request."""
    max_output_tokens: int = 400
    """Tokens that the model may write."""
    seed: int = 0
    """Passed to the engine where it takes one."""
    temperature: float = 0.0
    """0 for the likeliest answer."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Reply:
    """A whole answer."""

    text: str
    """What the model wrote."""
    model: str
    """Model that wrote it."""
    prompt_tokens: int = 0
    """Tokens of the prompt; 0 where unknown."""
    completion_tokens: int = 0
    """Tokens of the answer; 0 where unknown."""
    latency_seconds: float = 0.0
    """Seconds from asking to the whole answer."""
    first_token_seconds: float = 0.0
    """Seconds from asking to the first piece."""
    cost_usd: float = 0.0
    """US dollars that it and the failed attempts before it cost; set by the policy, not by engines."""
    cached: bool = False
    """Whether it was taken from the cache; set by the policy."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Failure:
    """Why there is no answer."""

    kind: FailureKind
    """Typed cause."""
    message: str
    """One sentence for people, free of secrets and of the engine's own words."""
    latency_seconds: float = 0.0
    """Seconds until it was given up."""
    retry_after_seconds: float | None = None
    """Seconds that the server asked to wait; None where it did not say."""
    final: bool = False
    """Whether asking again would bring the same, though other failures of its kind pass."""
    prompt_tokens: int = 0
    """Tokens of the prompt, where the engine still said so."""
    completion_tokens: int = 0
    """Tokens that were written all the same."""
    cost_usd: float = 0.0
    """US dollars that it may have cost; set by the policy, not by engines."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelInfo:
    """A model that an engine has."""

    name: str
    """Name to use in requests."""
    loaded: bool = False
    """Whether it is in memory."""
    size_bytes: int = 0
    """Bytes on disk; 0 where unknown."""
    context_tokens: int = 0
    """Tokens of prompt and answer together; 0 where unknown."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """What an engine may be given."""

    concurrency: int
    """Requests at a time."""
    context_tokens: int = 0
    """Tokens of prompt and answer together; 0 where unknown."""
    max_output_tokens: int = 400
    """Tokens that an answer may have."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Progress:
    """How far a load or a pull is."""

    activity: str
    """What is being done, in a few words."""
    done_bytes: int = 0
    """Bytes that are there; 0 where unknown."""
    total_bytes: int = 0
    """Bytes in all; 0 where unknown."""


class Engine(Protocol):
    """A language model behind some interface; every method may be called concurrently.

    `check`, `models`, `load` and `unload` raise Unavailable (ENGINE_UNAVAILABLE) with how to fix it,
    NotFound (MODEL_NOT_FOUND) with the models there are, or Unsupported where the engine cannot do that.
    """

    @property
    def name(self) -> str:
        """Name to use in requests."""
        ...

    @property
    def kind(self) -> str:
        """`vllm`, `ollama`, `openai_compatible`, `openai` or `anthropic`."""
        ...

    @property
    def model(self) -> str:
        """Model that it uses."""
        ...

    @property
    def limits(self) -> Limits:
        """What it may be given; context_tokens is known after `check`."""
        ...

    async def check(self) -> None:
        """Whether it answers, its key is good and its model is there."""
        ...

    async def chat(self, request: ChatRequest) -> Reply | Failure:
        """One attempt inside the engine's deadlines; retries are not its business."""
        ...

    def stream(self, request: ChatRequest) -> AsyncIterator[str | Reply | Failure]:
        """Pieces of the answer, then the Reply or the Failure, inside the same deadlines."""
        ...

    async def models(self) -> list[ModelInfo]:
        """The models that it has, by name."""
        ...

    def load(self, model: str) -> AsyncIterator[Progress]:
        """Loads a model, pulling it first where the engine can; ends when it answers."""
        ...

    async def unload(self, model: str) -> None:
        """Takes a model out of memory."""
        ...

    async def close(self) -> None:
        """Lets go of connections."""
        ...

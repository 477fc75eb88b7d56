"""What an explanation engine is: one Protocol and its two outcomes.

An engine turns evidence into a Draft or says by a Failure why not; it never scores itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

from mistudio_explain.evidence import FeatureEvidence

FailureKind = Literal[
    "unreachable", "refused", "timeout", "server_error", "cut_off", "too_large", "not_json", "wrong_schema"
]
"""Why an engine gave no explanation."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Draft:
    """An explanation as an engine wrote it, not yet scored."""

    explanation: str
    """Two or three sentences."""
    keywords: tuple[str, ...]
    """Words that the engine lists as telling; part of what is judged."""
    engine: str
    """Name of the engine that wrote it."""
    model: str
    """Model that wrote it."""
    prompt_version: str = ""
    """Version of the prompt; empty where there is none."""
    prompt_tokens: int = 0
    """Tokens of the prompt; 0 where unknown."""
    completion_tokens: int = 0
    """Tokens of the answer; 0 where unknown."""
    latency_seconds: float = 0.0
    """Seconds from asking to the whole answer."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Failure:
    """Why there is no explanation of one feature."""

    kind: FailureKind
    """Typed cause."""
    message: str
    """One sentence for people, free of secrets and of the engine's own words."""
    latency_seconds: float = 0.0
    """Seconds until it was given up."""


class Engine(Protocol):
    """Explains one feature at a time; `explain` may be called concurrently."""

    @property
    def name(self) -> str:
        """Name to use in requests."""
        ...

    @property
    def kind(self) -> str:
        """`lexical` or `openai_compatible`."""
        ...

    @property
    def model(self) -> str:
        """Model that it uses."""
        ...

    async def check(self) -> None:
        """Whether it answers at all. Raises Unavailable (ENGINE_UNAVAILABLE) with how to fix it."""
        ...

    async def explain(self, evidence: FeatureEvidence, *, seed: int) -> Draft | Failure:
        """Explains a feature within the engine's deadlines; every failure is an outcome, none raises."""
        ...

    async def close(self) -> None:
        """Lets go of connections."""
        ...

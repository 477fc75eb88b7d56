"""Who explains: one Protocol and its outcome; with a model, or from words alone.

An explainer turns evidence into a Draft or says by a Failure why not; it never scores itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from mistudio_explain.engines.base import Failure
from mistudio_explain.evidence import FeatureEvidence


@dataclass(frozen=True, kw_only=True, slots=True)
class Draft:
    """An explanation as it was written, not yet scored."""

    explanation: str
    """Two or three sentences."""
    keywords: tuple[str, ...]
    """Words listed as telling; part of what is judged."""
    engine: str
    """Name of the engine that wrote it."""
    model: str
    """Model that wrote it."""
    strategy: str = ""
    """Short name of the strategy; empty for the lexical engine."""
    prompt_version: str = ""
    """Version of the prompt; empty where there is none."""
    prompt_tokens: int = 0
    """Tokens of the prompts of all attempts; 0 where unknown."""
    completion_tokens: int = 0
    """Tokens of the answers of all attempts; 0 where unknown."""
    latency_seconds: float = 0.0
    """Seconds from asking to the whole answer."""
    cost_usd: float = 0.0
    """US dollars at a provider, all attempts together."""
    cached: bool = False
    """Whether it was taken from the cache."""


class Explainer(Protocol):
    """Explains one feature at a time; `explain` may be called concurrently."""

    @property
    def name(self) -> str:
        """Name of its engine."""
        ...

    async def check(self) -> None:
        """Whether it can explain at all. Raises Unavailable (ENGINE_UNAVAILABLE) with how to fix it."""
        ...

    async def explain(self, evidence: FeatureEvidence, *, strategy: str, seed: int) -> Draft | Failure:
        """Explains a feature; every failure is an outcome, none raises."""
        ...

    async def close(self) -> None:
        """Lets go of connections."""
        ...

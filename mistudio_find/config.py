"""What a Find job is asked to do, and what it answers.

Field names and meanings are those of mistudio.find.v1; `convert.py` maps one to the other.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from mistudio_core.errors import InvalidInput

METRICS_VERSION = "1"
"""Version of the definitions in docs/metrics.md that this code follows."""

MAX_FEATURE_TOKENS = 100_000
"""Tokens of text kept a feature: its evidence must fit one message of 4 MiB."""

_RANGES = {
    "top_texts": (1, 200),
    "context_tokens": (1, 512),
    "quantiles": (1, 20),
    "contrast_texts": (0, 200),
    "keywords": (1, 100),
    "seed": (0, 2**31 - 1),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class FindConfig:
    """One analysis. Raises InvalidInput for a value outside of its range."""

    training_job_id: str = ""
    """The training job whose features are analysed; recorded as lineage."""
    top_texts: int = 20
    """Top texts kept a feature."""
    context_tokens: int = 32
    """Tokens kept on each side of the strongest token."""
    quantiles: int = 5
    """Quantiles of a feature's activations to sample texts from."""
    contrast_texts: int = 10
    """Texts on which a feature is silent, kept a feature."""
    keywords: int = 10
    """Keywords kept a feature."""
    seed: int = 0
    """Seed of every random choice."""

    def __post_init__(self) -> None:
        for name, (low, high) in _RANGES.items():
            value = getattr(self, name)
            if not low <= value <= high:
                raise InvalidInput.field(name, value, f"{low} to {high}")
        window = 2 * self.context_tokens + 1
        tokens = (self.top_texts + self.quantiles + self.contrast_texts) * window
        if tokens > MAX_FEATURE_TOKENS:
            raise InvalidInput.field(
                "context_tokens",
                self.context_tokens,
                f"at most {MAX_FEATURE_TOKENS:,} tokens of text a feature; these settings keep {tokens:,}",
                "Lower context_tokens, top_texts, quantiles or contrast_texts.",
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class FindResult:
    """Summary of a completed analysis."""

    source_training_job: str
    """The training job that was analysed."""
    model_name: str
    """The model."""
    total_features: int
    """Features in all."""
    live_features: int
    """Features that fired."""
    dead_features: int
    """Features that never fired."""
    mean_coherence: float
    """Mean coherence over live features; 0 where there are none."""
    quality_levels: Mapping[str, int]
    """Live features a tier: excellent, good, fair, poor."""
    categories: Mapping[str, int]
    """Live features a category: technical, conversational, behavioral, temporal, general."""
    processing_time_seconds: float
    """Seconds that the analysis took."""
    tokens: int
    """Tokens that were analysed."""
    documents: int
    """Documents that were analysed."""
    sae_sha256: str
    """SHA-256 of the SAE's weight file."""
    metrics_version: str = METRICS_VERSION
    """Version of the metric definitions."""

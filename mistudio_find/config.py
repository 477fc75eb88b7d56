"""What a Find job is asked to do, and what it answers.

Field names and meanings are those of mistudio.find.v1; `convert.py` maps one to the other.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mistudio_core.errors import InvalidInput

METRICS_VERSION = "2"
"""Version of the definitions in docs/metrics.md that this code follows."""

MAX_FEATURE_TOKENS = 100_000
"""Tokens of text kept a feature: its evidence must fit one message of 4 MiB."""

MAX_TOKENS = 10_000_000
"""Most tokens that go through the model for an imported SAE, unless the caller says otherwise."""

_RANGES = {
    "top_texts": (1, 200),
    "context_tokens": (1, 512),
    "quantiles": (1, 20),
    "contrast_texts": (0, 200),
    "keywords": (1, 100),
    "seed": (0, 2**31 - 1),
    "max_tokens": (1000, 10**9),
}
EVIDENCE_TEXTS = ("full", "redacted", "none")
"""How much corpus text the evidence holds; short names of mistudio.find.v1.EvidenceText."""
_LOCAL = ("model_root", "sae_root", "rules_root")
_BOTH_WAYS = "training_job_id, or sae_uri with model_name and corpus_file"


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
    evidence_text: str = "full"
    """How much corpus text the evidence holds, one of EVIDENCE_TEXTS."""
    sae_uri: str = ""
    """An SAE of another origin, see imported_source.py; empty for one of a training job."""
    model_name: str = ""
    """The model that it reads."""
    corpus_file: str = ""
    """The uploaded corpus on which it is analysed."""
    hook_name: str = ""
    """The hook that it reads; empty: what its files say."""
    max_tokens: int = MAX_TOKENS
    """Most tokens that go through the model for it."""
    model_root: Path | None = None
    """Folder under which local models and SAEs are allowed."""
    sae_root: Path | None = None
    """Folder of imported SAEs."""
    rules: str = ""
    """Name of the rules of categories, tags, behaviours and complexity; empty: the built-in ones."""
    rules_root: Path | None = None
    """Folder of rules that replace the built-in ones."""

    def __post_init__(self) -> None:
        if self.evidence_text not in EVIDENCE_TEXTS:
            raise InvalidInput.field("evidence_text", self.evidence_text, ", ".join(EVIDENCE_TEXTS))
        self._check_origin()
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

    def _check_origin(self) -> None:
        """A training job or an imported SAE. Raises InvalidInput."""
        if not self.sae_uri:
            for name in ("model_name", "corpus_file", "hook_name"):
                if value := getattr(self, name):
                    raise InvalidInput.field(name, value, "nothing, unless sae_uri is set", f"Set {_BOTH_WAYS}.")
            return
        if self.training_job_id:
            allowed = "nothing, where sae_uri is set"
            raise InvalidInput.field("training_job_id", self.training_job_id, allowed, f"Set {_BOTH_WAYS}.")
        for name, what in (("model_name", "the model that the SAE reads"), ("corpus_file", "an uploaded corpus")):
            if not getattr(self, name):
                raise InvalidInput.field(name, "", f"{what}, where sae_uri is set")

    def described(self) -> dict[str, Any]:
        """Everything that the result is a function of, as JSON values: without this machine's own places."""
        return {key: getattr(self, key) for key in self.__slots__ if key not in _LOCAL}


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
    sae_origin: Mapping[str, Any] | None = None
    """Where an imported SAE comes from: the fields of mistudio.find.v1.SaeOrigin; None for one of a training job."""
    metrics_version: str = METRICS_VERSION
    """Version of the metric definitions."""
    lineage: Mapping[str, Any] = field(default_factory=dict)
    """What it is a function of besides its settings: fields of mistudio.find.v1.Lineage."""
    versions: Mapping[str, str] = field(default_factory=dict)
    """Version of each method."""

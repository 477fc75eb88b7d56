"""What an Explain job is asked to do, and what it answers.

Field names and meanings are those of mistudio.explain.v1; `convert.py` maps one to the other.
Which engines there are is not asked for: see engines/settings.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from mistudio_core.errors import InvalidInput

METRICS_VERSION = "2"
"""Version of the definitions in docs/metrics.md that this code follows."""

_RANGES: dict[str, tuple[float, float]] = {
    "max_features": (1, 1_048_576),
    "min_coherence": (0, 1),
    "concurrency": (1, 256),
    "seed": (0, 2**31 - 1),
    "budget_usd": (0, 1_000_000),
    "min_quality": (0, 1),
}
AUDIENCES = ("engineer", "business", "regulator")
"""Whom explanations are written for."""
STRATEGIES = ("top_and_contrast", "quantiles", "contrast_pair", "promoted_tokens", "code")
"""How evidence is put to a model; one template family each in prompts/."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ExplainConfig:
    """One run. Raises InvalidInput for a value outside of its range."""

    find_job_id: str = ""
    """The Find job whose features are explained; recorded as lineage."""
    engine: str = ""
    """Engine by its configured name; empty for the configured default, else lexical."""
    model: str = ""
    """Model of the engine; empty for the engine's own. Refused for lexical."""
    max_features: int = 100
    """Explain at most this many features, best first."""
    min_coherence: float = 0.4
    """Explain features of at least this coherence."""
    feature_ids: tuple[int, ...] = ()
    """Explain exactly these features instead; empty to choose by coherence."""
    allow_lexical_fallback: bool = False
    """Use the lexical engine where the named one does not answer."""
    concurrency: int = 4
    """Explanations asked for at a time."""
    seed: int = 0
    """Seed of every random choice, passed to the engine too."""
    audience: str = "engineer"
    """Whom the explanations are for."""
    strategy: str = "top_and_contrast"
    """How evidence is put to the engine."""
    budget_usd: float = 0.0
    """Most to spend on engines that cost money, US dollars; 0 for none of them."""
    min_quality: float = 0.0
    """Explanations below are asked for again, then flagged; 0 for never."""
    judge_engine: str = ""
    """Engine whose model judges; `lexical`, `embedding`, or empty for the configured one, else lexical."""
    judge_model: str = ""
    """Model of the judging engine; empty for its own."""
    few_shot: str = ""
    """Name of the administrator's set of example explanations; empty for the built-in one."""
    use_cache: bool = True
    """Whether equal explanations of earlier runs are taken."""

    def __post_init__(self) -> None:
        for name, (low, high) in _RANGES.items():
            value = getattr(self, name)
            if not low <= value <= high:
                raise InvalidInput.field(name, value, f"{low:g} to {high:g}")
        for name, known in (("audience", AUDIENCES), ("strategy", STRATEGIES)):
            if getattr(self, name) not in known:
                raise InvalidInput.field(name, getattr(self, name), ", ".join(known))
        if len(set(self.feature_ids)) != len(self.feature_ids):
            raise InvalidInput.field("feature_ids", "a repeated id", "every id once")


@dataclass(frozen=True, kw_only=True, slots=True)
class QualityParts:
    """The parts of explanation_quality; definitions in docs/metrics.md."""

    accuracy: float = 0.0
    """How well it tells held-out activating from random silent texts, AUROC, 0 to 1."""
    clarity: float = 0.0
    """How readable it is, 0 to 1."""
    consistency: float = 0.0
    """How well it agrees with keywords and top texts, 0 to 1."""
    relevance: float = 0.0
    """How specific it is to the feature, 0 to 1."""
    accuracy_method: str = ""
    """How accuracy was measured."""
    activating_texts: int = 0
    """Held-out texts on which it fires that accuracy was measured on."""
    silent_texts: int = 0
    """Held-out texts on which it is silent that accuracy was measured on."""
    accuracy_low: float = 0.0
    """Lower end of accuracy's 95 % interval."""
    accuracy_high: float = 1.0
    """Upper end of accuracy's 95 % interval."""
    accuracy_near: float | None = None
    """AUROC against silent texts of like topic; None where there are none."""
    judge_failures: int = 0
    """Held-out texts that the judge gave no usable answer on; they enter no figure."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Explanation:
    """What a feature means, in plain language, with measured quality."""

    feature_id: int
    """Index of the feature in its SAE."""
    original_coherence: float
    """Coherence that Find measured."""
    explanation: str
    """Two or three sentences; empty where it failed."""
    explanation_quality: float
    """0.4 accuracy + 0.3 clarity + 0.2 consistency + 0.1 relevance."""
    explanation_confidence: float
    """1 minus the width of accuracy's interval."""
    pattern_verification: str
    """confirmed, partial or contradicted; empty where it failed."""
    safety_assessment: str
    """safe, concerning, requires_review or neutral."""
    safety_reason: str
    """Why, one sentence; empty where nothing applies."""
    business_relevance: str
    """low, medium or high."""
    quality_parts: QualityParts
    """The parts of the quality."""
    pattern_category: str
    """Category that Find gave."""
    pattern_keywords: tuple[str, ...]
    """Keywords that Find gave."""
    explanation_keywords: tuple[str, ...]
    """Words that the engine listed with its explanation; the judge sees them and the explanation, nothing else."""
    engine: str
    """Engine that wrote it."""
    model: str
    """Model that wrote it."""
    prompt_version: str = ""
    """Version of the prompt; empty for the lexical engine."""
    prompt_tokens: int = 0
    """Tokens of the prompt."""
    completion_tokens: int = 0
    """Tokens of the answer."""
    latency_seconds: float = 0.0
    """Seconds that the engine took."""
    failure: str = ""
    """Why there is no explanation; empty where there is one."""
    strategy: str = ""
    """How evidence was put to the engine; empty for the lexical engine."""
    attempts: int = 1
    """Explanations asked for before this one was taken, itself included."""
    cost_usd: float = 0.0
    """US dollars that all its attempts cost at providers."""
    cached: bool = False
    """Whether it was taken from the cache."""
    flags: tuple[str, ...] = ()
    """Why a person should look at it, one reason each."""


def record_of(explanation: Explanation) -> dict[str, Any]:
    """Its fields by name, the parts of its quality too; values are shared, not copied."""
    parts = explanation.quality_parts
    record = {f.name: getattr(explanation, f.name) for f in fields(Explanation)}
    return record | {"quality_parts": {f.name: getattr(parts, f.name) for f in fields(QualityParts)}}


def explanation_of(record: Mapping[str, Any]) -> Explanation:
    """An explanation from its fields as JSON has them; what a record has besides is left out."""
    values = {f.name: record[f.name] for f in fields(Explanation) if f.name in record}
    parts = {f.name: record["quality_parts"][f.name] for f in fields(QualityParts) if f.name in record["quality_parts"]}
    values = {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}
    return Explanation(**{**values, "quality_parts": QualityParts(**parts)})


@dataclass(frozen=True, kw_only=True, slots=True)
class EngineSummary:
    """What one engine and model did in a run."""

    engine: str
    """The engine."""
    model: str
    """The model."""
    explanations: int = 0
    """Explanations that it wrote."""
    failed: int = 0
    """Features that it failed on."""
    quality_average: float = 0.0
    """Mean quality of its explanations."""
    accuracy_average: float = 0.0
    """Mean accuracy of its explanations."""
    latency_average: float = 0.0
    """Mean seconds from asking to the whole answer."""
    prompt_tokens: int = 0
    """Tokens of all prompts."""
    completion_tokens: int = 0
    """Tokens of all answers."""
    cost_usd: float = 0.0
    """US dollars at its provider."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Costs:
    """What a run cost and what it would have cost elsewhere; definitions in docs/metrics.md."""

    local_cost: float = 0.0
    """US dollars of the energy that local engines took."""
    openai_cost: float = 0.0
    """US dollars of the same tokens at OpenAI."""
    anthropic_cost: float = 0.0
    """US dollars of the same tokens at Anthropic."""
    savings_vs_openai: float = 0.0
    """openai_cost less local_cost."""
    savings_vs_anthropic: float = 0.0
    """anthropic_cost less local_cost."""
    roi_break_even_features: float | None = None
    """Features after which the hardware's price is saved; None where nothing is saved."""
    energy_wh: float = 0.0
    """Watt-hours of local engines."""
    energy_method: str = "none"
    """`nvml`, `rated_power` or `none`."""
    prices: str = ""
    """Version of the price table."""
    spent_usd: float = 0.0
    """US dollars that were really spent at providers."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SummaryInsights:
    """Counts and averages over a run."""

    high_quality_explanations: int
    """Explanations with a quality of at least 0.8."""
    safety_concerns_identified: int
    """Explanations that are concerning or require review."""
    business_critical_features: int
    """Explanations of high business relevance."""
    technical_pattern_count: int
    """Features of the technical category."""
    behavioral_pattern_count: int
    """Features of the behavioral category."""
    explanation_quality_average: float
    """Mean quality of the explanations that did not fail; 0 where there are none."""
    accuracy_average: float
    """Mean accuracy of the same."""
    failed: int
    """Features whose explanation failed."""
    flagged: int = 0
    """Explanations that a person should look at."""
    engines: tuple[EngineSummary, ...] = ()
    """Each engine and model that was asked."""
    costs: Costs | None = None
    """What it cost."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ExplainResult:
    """Summary of a completed run."""

    source_find_job: str
    """The Find job that was explained."""
    total_features_processed: int
    """Features that were taken."""
    processing_time_seconds: float
    """Seconds that the run took."""
    summary_insights: SummaryInsights
    """Counts and averages."""
    engine: str
    """Engine that was used."""
    metrics_version: str = METRICS_VERSION
    """Version of the metric definitions."""

"""What a run came to: counts, averages, and what each engine and model did.

Owns the sums and the reasons why a person should look; every figure in them is measured elsewhere.
Failures and what the cache gave enter no average of quality or latency.
"""

from __future__ import annotations

from collections.abc import Sequence

from mistudio_explain.config import Costs, EngineSummary, Explanation, SummaryInsights

HIGH_QUALITY = 0.8
"""From here on an explanation counts as high in quality."""
CONCERNS = ("requires_review", "concerning")
"""Assessments that a person looks at, the more urgent one first."""
_SAFETY, _CONTRADICTED = "Safety:", "Held-out texts contradict it"
_REASONS = {
    "requires_review": f"{_SAFETY} a person must look.",
    "concerning": f"{_SAFETY} it touches a subject that a safety team follows.",
}


def reasons(explanation: Explanation) -> tuple[str, ...]:
    """Why a person should look at it: its flags, then what assessment and verification say and none of them does."""
    found = [*explanation.flags]
    if explanation.safety_assessment in _REASONS and not any(flag.startswith(_SAFETY) for flag in found):
        found.append(_REASONS[explanation.safety_assessment])
    if explanation.pattern_verification == "contradicted" and not any(f.startswith(_CONTRADICTED) for f in found):
        found.append(f"{_CONTRADICTED}.")
    return tuple(dict.fromkeys(found))


def summarise(explanations: Sequence[Explanation], costs: Costs | None = None) -> SummaryInsights:
    """Counts and averages over the explanations of a run, or of a part of it."""
    done = [e for e in explanations if not e.failure]
    return SummaryInsights(
        high_quality_explanations=sum(e.explanation_quality >= HIGH_QUALITY for e in done),
        safety_concerns_identified=sum(e.safety_assessment in CONCERNS for e in explanations),
        business_critical_features=sum(e.business_relevance == "high" for e in done),
        technical_pattern_count=sum(e.pattern_category == "technical" for e in explanations),
        behavioral_pattern_count=sum(e.pattern_category == "behavioral" for e in explanations),
        explanation_quality_average=_mean([e.explanation_quality for e in done]),
        accuracy_average=_mean([e.quality_parts.accuracy for e in done]),
        failed=len(explanations) - len(done),
        flagged=sum(bool(reasons(e)) for e in explanations),
        engines=engine_summaries(explanations),
        costs=costs,
    )


def engine_summaries(explanations: Sequence[Explanation]) -> tuple[EngineSummary, ...]:
    """One summary an engine and model, those that wrote most first."""
    groups: dict[tuple[str, str], list[Explanation]] = {}
    for explanation in explanations:
        groups.setdefault((explanation.engine, explanation.model), []).append(explanation)
    found = [_summary(*names, group) for names, group in groups.items()]
    return tuple(sorted(found, key=lambda s: (-s.explanations, s.engine, s.model)))


def _summary(engine: str, model: str, group: Sequence[Explanation]) -> EngineSummary:
    done = [e for e in group if not e.failure]
    asked = [e for e in group if not e.cached]
    return EngineSummary(
        engine=engine,
        model=model,
        explanations=len(done),
        failed=len(group) - len(done),
        quality_average=_mean([e.explanation_quality for e in done]),
        accuracy_average=_mean([e.quality_parts.accuracy for e in done]),
        latency_average=_mean([e.latency_seconds for e in done if not e.cached]),
        prompt_tokens=sum(e.prompt_tokens for e in asked),
        completion_tokens=sum(e.completion_tokens for e in asked),
        cost_usd=round(sum(e.cost_usd for e in asked), 6),
    )


def _mean(values: Sequence[float]) -> float:
    return round(sum(values) / max(1, len(values)), 4)

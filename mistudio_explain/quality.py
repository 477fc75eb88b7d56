"""How good an explanation is: accuracy, clarity, consistency, relevance, and their sum.

Every part is measured, none is a self-grade; formulas stand in docs/metrics.md. The judge has its
own file. A failed explanation gets no quality and enters no average.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace

from mistudio_core.corpus.words import stem
from mistudio_explain.config import Explanation, QualityParts
from mistudio_explain.engines.base import Draft, Failure
from mistudio_explain.evidence import FeatureEvidence
from mistudio_explain.judge import METHOD, judge, stems, terms
from mistudio_explain.safety import assess_safety, business_relevance

_SENTENCE_END = re.compile(r"[.!?。！？]+(?:[\"”’')\]]*)(?:\s|$)")
_PLAIN = re.compile(r"[\w\s.,;:!?'’\"“”()\-–—%/&+。、！？]")
_CONFIRMED, _CONTRADICTED, _CHANCE = 0.75, 0.55, 0.5
_TERMS = 8


def clarity(text: str) -> float:
    """Mean of four marks: 2-3 sentences, 6-32 words in each, 60-700 characters, plain signs; 0 to 1."""
    sentences = max(1, len(_SENTENCE_END.findall(text)))
    per_sentence = len(text.split()) / sentences
    plain = len(_PLAIN.findall(text)) / max(1, len(text))
    marks = (
        1.0 if sentences in (2, 3) else 0.6 if sentences in (1, 4) else 0.2,
        _within(per_sentence, 6, 32),
        _within(len(text), 60, 700),
        max(0.0, 1 - 5 * (1 - plain)),
    )
    return sum(marks) / len(marks)


def _within(value: float, low: float, high: float) -> float:
    """1 inside low..high, falling in proportion outside."""
    return value / low if value < low else high / value if value > high else 1.0


def consistency(draft: Draft, evidence: FeatureEvidence, weights: dict[str, float]) -> float:
    """0.6 share of the five best keywords that it names + 0.4 share of its weightiest terms in a top text."""
    named = stems(" . ".join([draft.explanation, *draft.keywords]))
    best = [stem(k) for k in evidence.keywords[:5]]
    agreed = sum(k in named for k in best) / len(best) if best else 0.0
    there = {key for t in evidence.top for key in stems(t.text)}
    own = _weightiest(weights)
    grounded = sum(k in there for k in own) / len(own) if own else 0.0
    return 0.6 * agreed + 0.4 * grounded


def relevance(evidence: FeatureEvidence, weights: dict[str, float]) -> float:
    """How specific: share of top texts with one of its three weightiest terms, less that of contrast texts."""
    own = set(_weightiest(weights)[:3])
    top, contrast = [stems(t.text) for t in evidence.top], [stems(t) for t in evidence.contrast]
    hit = sum(bool(own & t) for t in top) / max(1, len(top))
    miss = sum(bool(own & t) for t in contrast) / max(1, len(contrast))
    return max(0.0, hit - miss)


def _weightiest(weights: dict[str, float]) -> list[str]:
    return sorted(weights, key=lambda k: (-weights[k], k))[:_TERMS]


def verification(accuracy: float, low: float) -> str:
    """Confirmed from 0.75 with an interval above 0.5; contradicted below 0.55; else partial."""
    if accuracy >= _CONFIRMED and low > _CHANCE:
        return "confirmed"
    return "contradicted" if accuracy < _CONTRADICTED else "partial"


def assess(
    outcome: Draft | Failure,
    evidence: FeatureEvidence,
    idf: Callable[[str], float],
    *,
    engine: str,
    model: str,
    seed: int,
) -> Explanation:
    """The explanation with all that is measured about it; a Failure gives one without quality."""
    safety, reason = assess_safety(evidence)
    blank = Explanation(
        feature_id=evidence.feature_id,
        original_coherence=evidence.coherence,
        explanation="",
        explanation_quality=0.0,
        explanation_confidence=0.0,
        pattern_verification="",
        safety_assessment=safety,
        safety_reason=reason,
        business_relevance=business_relevance(evidence),
        quality_parts=QualityParts(),
        pattern_category=evidence.category,
        pattern_keywords=evidence.keywords,
        explanation_keywords=(),
        engine=engine,
        model=model,
        latency_seconds=round(outcome.latency_seconds, 4),
    )
    if isinstance(outcome, Failure):
        return replace(blank, failure=outcome.message)
    parts = measure(outcome, evidence, idf, seed=seed)
    quality = 0.4 * parts.accuracy + 0.3 * parts.clarity + 0.2 * parts.consistency + 0.1 * parts.relevance
    known = parts.activating_texts > 0 and parts.silent_texts > 0
    return replace(
        blank,
        explanation=outcome.explanation,
        explanation_keywords=outcome.keywords,
        explanation_quality=round(quality, 4),
        explanation_confidence=round(1 - (parts.accuracy_high - parts.accuracy_low), 4),
        pattern_verification=verification(parts.accuracy, parts.accuracy_low) if known else "partial",
        quality_parts=parts,
        engine=outcome.engine,
        model=outcome.model,
        prompt_version=outcome.prompt_version,
        prompt_tokens=outcome.prompt_tokens,
        completion_tokens=outcome.completion_tokens,
    )


def measure(draft: Draft, evidence: FeatureEvidence, idf: Callable[[str], float], *, seed: int) -> QualityParts:
    """The four parts of the quality."""
    found = judge(draft.explanation, draft.keywords, evidence.judge, idf, seed=seed + evidence.feature_id)
    weights = terms(draft.explanation, draft.keywords, idf)
    return QualityParts(
        accuracy=round(found.value, 4),
        clarity=round(clarity(draft.explanation), 4),
        consistency=round(consistency(draft, evidence, weights), 4),
        relevance=round(relevance(evidence, weights), 4),
        accuracy_method=METHOD,
        activating_texts=found.activating,
        silent_texts=found.silent,
        accuracy_low=round(found.low, 4),
        accuracy_high=round(found.high, 4),
        accuracy_near=None if found.near is None else round(found.near, 4),
    )

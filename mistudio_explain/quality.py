"""How good an explanation is: accuracy, clarity, consistency, relevance, their sum, and what to flag.

Every part is measured, none is a self-grade; formulas stand in docs/metrics.md. Judges have files of
their own (judging/). A failed explanation gets no quality and enters no average.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import lru_cache
from importlib import resources

from mistudio_core.corpus.words import words
from mistudio_explain.config import Explanation, QualityParts
from mistudio_explain.engines.base import Failure
from mistudio_explain.evidence import FeatureEvidence
from mistudio_explain.explainer import Draft
from mistudio_explain.judging import Accuracy
from mistudio_explain.judging.reading import Reading, known_stem, read, stems
from mistudio_explain.safety import SafetyRules, assess_safety, business_relevance
from mistudio_explain.suspicion import suspicions

_SENTENCE_END = re.compile(r"[.!?。！？]+(?:[\"”’')\]]*)(?:\s|$)")
_QUOTED = re.compile(r"[\"“„«][^\"“”„«»]{1,80}[\"”»]")
_PLAIN = re.compile(r"[\w\s.,;:!?'’\"“”()\-–—%/&+。、！？]")
_CONFIRMED, _CONTRADICTED, _CHANCE = 0.75, 0.55, 0.5
_TERMS, _MAIN_TERMS, _KEYWORDS = 8, 3, 5
_MOST_ATTEMPTS = 3
_MOST_FAILURES = 1 / 3
_BY_CATEGORY: dict[str, tuple[str, ...]] = {"technical": ("code", "quantiles", "contrast_pair", "top_and_contrast")}
_OTHERS: tuple[str, ...] = ("quantiles", "contrast_pair", "top_and_contrast")


def clarity(text: str) -> float:
    """Mean of four marks: 2-3 sentences, 6-32 words in each, 60-700 characters, plain signs; 0 to 1.

    What stands between quotes counts as one word and as plain: it is shown, not said.
    """
    said = _QUOTED.sub(" word ", text)
    sentences = max(1, len(_SENTENCE_END.findall(said)))
    per_sentence = len(said.split()) / sentences
    plain = len(_PLAIN.findall(said)) / max(1, len(said))
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


def consistency(draft: Draft, evidence: FeatureEvidence, reading: Reading) -> float:
    """0.5 share of the best keywords that it names + 0.3 share of its weightiest terms in a top text + 0.2 category.

    Category: 1 unless it names words of other categories (rules/categories.v1.json) and none of the feature's own.
    """
    named = stems(" . ".join([draft.explanation, *draft.keywords]))
    best = [known_stem(k) for k in evidence.keywords[:_KEYWORDS]]
    agreed = sum(k in named for k in best) / len(best) if best else 0.0
    own = _weightiest(reading)[:_TERMS]
    grounded = sum(any(_holds(t.text, k) for t in evidence.top) for k in own) / len(own) if own else 0.0
    return 0.5 * agreed + 0.3 * grounded + 0.2 * _category_agrees(named, evidence.category)


def _category_agrees(named: frozenset[str], category: str) -> float:
    found = {name for name, known in _category_words().items() if known & named}
    return 0.0 if found and category in _category_words() and category not in found else 1.0


@lru_cache(maxsize=1)
def _category_words() -> dict[str, frozenset[str]]:
    path = resources.files("mistudio_explain").joinpath("rules/categories.v1.json")
    body = json.loads(path.read_text(encoding="utf-8"))
    return {name: frozenset(known_stem(w) for w in known) for name, known in body["words"].items()}


def relevance(evidence: FeatureEvidence, reading: Reading) -> float:
    """How specific: share of top texts with one of its three weightiest terms, less that of contrast texts."""
    own = _weightiest(reading)[:_MAIN_TERMS]

    def share(texts: Sequence[str]) -> float:
        return sum(any(_holds(t, k) for k in own) for t in texts) / max(1, len(texts))

    return max(0.0, share([t.text for t in evidence.top]) - share(evidence.contrast))


def _weightiest(reading: Reading) -> list[str]:
    """Stems and signs by weight."""
    weights = {**reading.words, **reading.signs}
    return sorted(weights, key=lambda k: (-weights[k], k))


def _holds(text: str, term: str) -> bool:
    """Whether a text holds a stem or a sign."""
    return term in stems(text) or (term in text and not any(words(term)))


def verification(accuracy: float, low: float) -> str:
    """Confirmed from 0.75 with an interval above 0.5; contradicted below 0.55; else partial."""
    if accuracy >= _CONFIRMED and low > _CHANCE:
        return "confirmed"
    return "contradicted" if accuracy < _CONTRADICTED else "partial"


def assess(
    outcome: Draft | Failure,
    evidence: FeatureEvidence,
    idf: Callable[[str], float],
    accuracy: Accuracy | None = None,
    *,
    engine: str,
    model: str,
    rules: SafetyRules | None = None,
) -> Explanation:
    """The explanation with all that is measured about it; a Failure gives one without quality.

    `accuracy` is what a judge found: a Draft needs it, a Failure has none. `rules` None for the built-in ones.
    """
    said = outcome.explanation if isinstance(outcome, Draft) else ""
    safety, reason = assess_safety(evidence, explanation=said, rules=rules)
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
        prompt_tokens=outcome.prompt_tokens,
        completion_tokens=outcome.completion_tokens,
        latency_seconds=round(outcome.latency_seconds, 4),
        cost_usd=outcome.cost_usd,
        flags=(f"Safety: {reason}",) if safety == "requires_review" else (),
    )
    if isinstance(outcome, Failure):
        return replace(blank, failure=outcome.message)
    if accuracy is None:
        raise ValueError("a draft needs the accuracy that a judge found")
    return _scored(blank, outcome, accuracy, measure(outcome, evidence, idf, accuracy))


def _scored(blank: Explanation, draft: Draft, found: Accuracy, parts: QualityParts) -> Explanation:
    """The draft with its quality, verdict and flags."""
    quality = 0.4 * parts.accuracy + 0.3 * parts.clarity + 0.2 * parts.consistency + 0.1 * parts.relevance
    known = parts.activating_texts > 0 and parts.silent_texts > 0
    verdict = verification(parts.accuracy, parts.accuracy_low) if known else "partial"
    return replace(
        blank,
        explanation=draft.explanation,
        explanation_keywords=draft.keywords,
        explanation_quality=round(quality, 4),
        explanation_confidence=round(1 - (parts.accuracy_high - parts.accuracy_low), 4),
        pattern_verification=verdict,
        quality_parts=parts,
        engine=draft.engine,
        model=draft.model,
        prompt_version=draft.prompt_version,
        strategy=draft.strategy,
        cached=draft.cached,
        flags=(*blank.flags, *_flags(draft, verdict, found)),
    )


def _flags(draft: Draft, verdict: str, found: Accuracy) -> list[str]:
    """Why a person should look at it: what held-out texts, its own words, or the judge give cause for."""
    flags = []
    if verdict == "contradicted":
        flags.append(f"Held-out texts contradict it: accuracy {found.value:.2f}.")
    found_in_it = suspicions(draft.explanation, draft.keywords)
    flags += [f"Injection suspected: it holds {what}." for what in found_in_it]
    texts = found.activating + found.silent + found.failures
    if found.failures > _MOST_FAILURES * texts:
        flags.append(f"The judge gave no usable answer on {found.failures} held-out texts.")
    elif not found.activating or not found.silent:
        flags.append("There are too few held-out texts to judge it.")
    return flags


def measure(draft: Draft, evidence: FeatureEvidence, idf: Callable[[str], float], found: Accuracy) -> QualityParts:
    """The four parts of the quality, with the accuracy that a judge found."""
    reading = read(draft.explanation, draft.keywords, idf)
    return QualityParts(
        accuracy=round(found.value, 4),
        clarity=round(clarity(draft.explanation), 4),
        consistency=round(consistency(draft, evidence, reading), 4),
        relevance=round(relevance(evidence, reading), 4),
        accuracy_method=found.method,
        activating_texts=found.activating,
        silent_texts=found.silent,
        accuracy_low=round(found.low, 4),
        accuracy_high=round(found.high, 4),
        accuracy_near=None if found.near is None else round(found.near, 4),
        judge_failures=found.failures,
    )


def next_attempt(explanation: Explanation, tried: Sequence[str]) -> str | None:
    """The strategy to ask with after an explanation that is not good enough; None after three, or where all were tried.

    Technical features are put as code first. Where it fails on texts of like topic alone, a similar feature is
    shown beside it first; else weaker texts are.
    """
    if explanation.failure or len(tried) >= _MOST_ATTEMPTS:
        return None
    order = _BY_CATEGORY.get(explanation.pattern_category, _OTHERS)
    near = explanation.quality_parts.accuracy_near
    if near is not None and near < _CONTRADICTED <= explanation.quality_parts.accuracy:
        order = ("contrast_pair", *(s for s in order if s != "contrast_pair"))
    return next((s for s in order if s not in tried), None)

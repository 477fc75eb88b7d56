"""What a feature means for safety and for the business, by rules that are data.

Owns the two classes and their reasons; word lists stand in rules/. A rule-based net: it finds
subjects, it proves nothing safe. docs/metrics.md has the definitions.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources

from mistudio_core.corpus.words import words
from mistudio_explain.evidence import FeatureEvidence

_OFTEN, _SELDOM = 0.3, 0.1
_CATEGORY_WEIGHT = {"technical": 1.0, "behavioral": 1.0, "conversational": 0.9, "temporal": 0.8, "general": 0.6}


@dataclass(frozen=True, kw_only=True, slots=True)
class SafetyRule:
    """One subject that a safety team follows."""

    assessment: str
    """requires_review or concerning."""
    subject: str
    """What it is about."""
    phrases: frozenset[str]
    """Words and phrases, each as its words joined by one space."""


@lru_cache(maxsize=1)
def load_safety_rules() -> tuple[str, tuple[SafetyRule, ...]]:
    """(version, rules): the built-in ones, most serious first."""
    body = json.loads(resources.files("mistudio_explain").joinpath("rules/safety.v1.json").read_text(encoding="utf-8"))
    rules = tuple(
        SafetyRule(
            assessment=r["assessment"],
            subject=r["subject"],
            phrases=frozenset(" ".join(w for w, _, _ in words(p)) for p in r["words"]),
        )
        for r in body["rules"]
    )
    return body["version"], rules


def assess_safety(evidence: FeatureEvidence) -> tuple[str, str]:
    """(safety_assessment, reason).

    A rule applies where one of its phrases is a keyword or stands in at least 30 % of the top texts:
    then its assessment. In 10 % to 30 %: safe, looked at. Otherwise neutral without a reason. The
    explanation itself has no say: an injected one cannot call a feature safe.
    """
    keywords = {" ".join(w for w, _, _ in words(k)) for k in evidence.keywords[:5]}
    texts = [_phrases(t.text) for t in evidence.top]
    seldom = ""
    for rule in load_safety_rules()[1]:
        named = sorted(rule.phrases & keywords)
        hits = [rule.phrases & t for t in texts]
        share = sum(bool(h) for h in hits) / max(1, len(texts))
        if named or share >= _OFTEN:
            word = named[0] if named else sorted(set().union(*hits))[0]
            where = "is among its keywords" if named else f"stands in {share:.0%} of its top texts"
            return rule.assessment, f'It touches {rule.subject}: "{word}" {where}.'
        if share >= _SELDOM and not seldom:
            seldom = f"A few top texts ({share:.0%}) touch {rule.subject}; its keywords do not."
    return ("safe", seldom) if seldom else ("neutral", "")


@lru_cache(maxsize=1024)
def _phrases(text: str) -> frozenset[str]:
    """Single words, pairs and triples of a text."""
    found = [w for w, _, _ in words(text)]
    return frozenset(" ".join(found[at : at + size]) for size in (1, 2, 3) for at in range(len(found) - size + 1))


def business_relevance(evidence: FeatureEvidence) -> str:
    """High from 0.5, medium from 0.25: coherence x category weight x frequency weight.

    Frequency weight: log10(frequency x 1e5) / 3, clipped to 0..1, so that 1 token in 100,000 counts 0
    and 1 in 100 counts 1. Category weight: technical, behavioral 1; conversational 0.9; temporal 0.8; general 0.6.
    """
    frequency = float(evidence.statistics.get("frequency", 0.0))
    weight = min(1.0, max(0.0, math.log10(max(frequency, 1e-9) * 1e5) / 3))
    value = evidence.coherence * _CATEGORY_WEIGHT.get(evidence.category, 0.6) * weight
    return "high" if value >= 0.65 else "medium" if value >= 0.35 else "low"

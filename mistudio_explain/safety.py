"""What a feature means for safety and for the business, by rules that are data.

Owns the two classes and their reasons; word lists stand in rules/. A rule-based net: it finds
subjects, it proves nothing safe. docs/metrics.md has the definitions.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from functools import cached_property, lru_cache
from importlib import resources
from pathlib import Path
from typing import Any

from mistudio_core.corpus.words import words
from mistudio_core.errors import InvalidInput
from mistudio_explain.evidence import FeatureEvidence

SAFETY_FILE = "safety.json"
"""Name of the administrator's rules in `<home>/rules`."""
_OFTEN, _SELDOM = 0.3, 0.1
_ASSESSMENTS = ("requires_review", "concerning")
_MOST_BYTES, _MOST_PHRASES = 1 << 20, 4
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


@dataclass(frozen=True, kw_only=True)
class SafetyRules:
    """The rules of an installation."""

    version: str
    """Name and version."""
    rules: tuple[SafetyRule, ...]
    """Most serious first."""

    @cached_property
    def starts(self) -> frozenset[str]:
        """The words that phrases begin with."""
        return frozenset(p.partition(" ")[0] for rule in self.rules for p in rule.phrases)


def safety_rules(folder: Path | None = None) -> SafetyRules:
    """`safety.json` of a folder of rules where there is one, else the built-in ones.

    Raises InvalidInput that names what is wrong with the administrator's file.
    """
    own = folder / SAFETY_FILE if folder is not None else None
    return _parsed(own) if own is not None and own.is_file() else _built_in()


@lru_cache(maxsize=1)
def _built_in() -> SafetyRules:
    path = resources.files("mistudio_explain").joinpath("rules/safety.v1.json")
    return _rules(json.loads(path.read_text(encoding="utf-8")))


def _parsed(path: Path) -> SafetyRules:
    try:
        raw = path.read_bytes()
        return _rules(json.loads(raw) if len(raw) <= _MOST_BYTES else None)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InvalidInput.field(
            f"rules/{SAFETY_FILE}",
            str(error),
            '{"version": "...", "rules": [{"assessment": "requires_review or concerning", "subject": "...", '
            '"words": ["...", "..."]}]}, most serious first',
        ) from error


def _rules(body: Any) -> SafetyRules:
    """Raises ValueError, KeyError, TypeError or AttributeError for another form."""
    unknown = set(body) - {"version", "rules"}
    found = []
    for rule in body["rules"]:
        unknown |= set(rule) - {"assessment", "subject", "words"}
        if rule["assessment"] not in _ASSESSMENTS:
            raise ValueError(f"assessment {rule['assessment']!r}")
        phrases = frozenset(" ".join(w for w, _, _ in words(p)) for p in rule["words"]) - {""}
        if not phrases:
            raise ValueError(f"no words for {rule['subject']!r}")
        found.append(SafetyRule(assessment=rule["assessment"], subject=str(rule["subject"])[:200], phrases=phrases))
    if unknown:
        raise ValueError(f"unknown keys {', '.join(sorted(unknown))}")
    return SafetyRules(version=str(body["version"])[:100], rules=tuple(found))


def assess_safety(
    evidence: FeatureEvidence, *, explanation: str = "", rules: SafetyRules | None = None
) -> tuple[str, str]:
    """(safety_assessment, reason).

    A rule applies where one of its phrases is among the five best keywords, stands in at least 30 % of the top
    texts or in the explanation: then its assessment. In 10 % to 30 % of the texts: safe, looked at. Otherwise
    neutral without a reason. The explanation can only raise it: an injected one cannot call a feature safe.
    """
    known = rules or _built_in()
    keywords = {" ".join(w for w, _, _ in words(k)) for k in evidence.keywords[:5]}
    texts = [_phrases(t.text, known.starts) for t in evidence.top]
    said = _phrases(explanation, known.starts)
    seldom = ""
    for rule in known.rules:
        hits = [rule.phrases & t for t in texts]
        share = sum(bool(h) for h in hits) / max(1, len(texts))
        for named, where in (
            (rule.phrases & keywords, "is among its keywords"),
            (frozenset().union(*hits) if share >= _OFTEN else frozenset(), f"stands in {share:.0%} of its top texts"),
            (rule.phrases & said, "stands in its explanation"),
        ):
            if named:
                return rule.assessment, f'It touches {rule.subject}: "{min(named)}" {where}.'
        if share >= _SELDOM and not seldom:
            seldom = f"A few top texts ({share:.0%}) touch {rule.subject}; its keywords do not."
    return ("safe", seldom) if seldom else ("neutral", "")


@lru_cache(maxsize=1024)
def _phrases(text: str, starts: frozenset[str]) -> frozenset[str]:
    """Words of a text that are among `starts`, alone and with up to three words behind them."""
    found = [w for w, _, _ in words(text)]
    sizes = range(1, _MOST_PHRASES + 1)
    places = [at for at, word in enumerate(found) if word in starts]
    return frozenset(" ".join(found[at : at + size]) for at in places for size in sizes)


def business_relevance(evidence: FeatureEvidence) -> str:
    """High from 0.65, medium from 0.35: coherence x category weight x frequency weight.

    Frequency weight: log10(frequency x 1e5) / 3, clipped to 0..1, so that 1 token in 100,000 counts 0
    and 1 in 100 counts 1. Category weight: technical, behavioral 1; conversational 0.9; temporal 0.8; general 0.6.
    """
    frequency = float(evidence.statistics.get("frequency", 0.0))
    weight = min(1.0, max(0.0, math.log10(max(frequency, 1e-9) * 1e5) / 3))
    value = evidence.coherence * _CATEGORY_WEIGHT.get(evidence.category, 0.6) * weight
    return "high" if value >= 0.65 else "medium" if value >= 0.35 else "low"

"""Category and complexity of a feature's pattern, from rules that are data.

The rules are a JSON file (package data by default): words and patterns a category. Owns how hits
become a category with a confidence; docs/metrics.md has the formula.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources

import numpy as np

from mistudio_core.errors import InvalidInput
from mistudio_find.corpus_index import Array

GENERAL = "general"
"""The category of what no rule takes."""
_THRESHOLD = 0.25
_KEYWORD_WEIGHT = 0.6
_TEXTS_MATCHED = 5
_FLAGGED_WORDS = 2


@dataclass(frozen=True, kw_only=True, slots=True)
class Rules:
    """Compiled category rules."""

    version: str
    """Name and version of the rules, recorded with every result."""
    names: tuple[str, ...]
    """Categories in order of precedence between equals; `general` is not among them."""
    words: Mapping[str, frozenset[str]]
    """Words of each category, casefolded."""
    word_patterns: Mapping[str, re.Pattern[str]]
    """What a whole word may match instead."""
    text_patterns: Mapping[str, re.Pattern[str]]
    """What a text may hold instead of words."""

    def flags(self, vocabulary: Sequence[str]) -> Array:
        """Which words belong to which category, bool (C, V)."""
        out = np.zeros((len(self.names), len(vocabulary)), bool)
        for row, name in enumerate(self.names):
            known, pattern = self.words[name], self.word_patterns[name]
            out[row] = [word in known or pattern.fullmatch(word) is not None for word in vocabulary]
        return out


def load_rules(text: str | None = None) -> Rules:
    """The rules in `text`, or the built-in ones. Raises InvalidInput for rules that cannot be used."""
    if text is None:
        text = resources.files("mistudio_find").joinpath("rules/categories.v1.json").read_text(encoding="utf-8")
    try:
        body = json.loads(text)
        names, parts = tuple(body["order"]), body["categories"]
        return Rules(
            version=str(body["version"]),
            names=names,
            words={n: frozenset(w.casefold() for w in parts[n]["words"]) for n in names},
            word_patterns={n: _any_of(parts[n]["word_patterns"]) for n in names},
            text_patterns={n: _any_of(parts[n]["text_patterns"]) for n in names},
        )
    except (ValueError, KeyError, TypeError, AttributeError, re.error) as error:
        raise InvalidInput(
            f"The category rules cannot be used: {error}. See mistudio_find/rules for the form."
        ) from error


def _any_of(patterns: Sequence[str]) -> re.Pattern[str]:
    """One pattern that matches what any of them does; none where there are none."""
    return re.compile("|".join(f"(?:{p})" for p in patterns) if patterns else r"(?!)", re.MULTILINE)


def categorise(rules: Rules, *, keyword_flags: Array, window_flags: Array, texts: Sequence[str]) -> tuple[str, float]:
    """(category, confidence 0..1).

    `keyword_flags` bool (C, k), best keyword first; `window_flags` int (C, n), flagged words in the
    windows of n top texts. Score = 0.6 rank-weighted share of keywords + 0.4 share of texts with two
    flagged words or a text pattern; below 0.25 for all: general, as sure as the best score is low.
    """
    ranks = 1 / (1 + np.arange(keyword_flags.shape[1]))
    by_keyword = keyword_flags @ ranks / max(1e-9, ranks.sum())
    hits = window_flags >= _FLAGGED_WORDS
    for row, name in enumerate(rules.names):
        for at, text in enumerate(texts[:_TEXTS_MATCHED]):
            hits[row, at] = hits[row, at] or rules.text_patterns[name].search(text) is not None
    by_text = hits.mean(axis=1) if hits.shape[1] else np.zeros(len(rules.names))
    scores = _KEYWORD_WEIGHT * by_keyword + (1 - _KEYWORD_WEIGHT) * by_text
    best = int(scores.argmax())
    if scores[best] < _THRESHOLD:
        return GENERAL, round(float(1 - scores[best]), 4)
    second = float(np.delete(scores, best).max(initial=0.0))
    return rules.names[best], round(float(scores[best] / (scores[best] + second + 0.1)), 4)


def complexity(units: Array) -> str:
    """Low to 2, medium to 8, else high: the effective number of different activating tokens (e to the entropy)."""
    counts = np.array(list(Counter(units.tolist()).values()), np.float64)
    if not len(counts):
        return "low"
    shares = counts / counts.sum()
    effective = float(np.exp(-(shares * np.log(shares)).sum()))
    return "low" if effective <= 2 else "medium" if effective <= 8 else "high"

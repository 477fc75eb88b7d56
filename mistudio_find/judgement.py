"""What a feature's pattern is about by the rules: category, subjects, behaviours, complexity.

One `Judge` a job; `about` gives the fields of records. Formulas stand in docs/metrics.md; the rules
themselves are data, see rulebook.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from mistudio_find.corpus_index import Array, CorpusIndex
from mistudio_find.render import number
from mistudio_find.rulebook import MEASURES, Lexicon, Rules

GENERAL = "general"
"""The category of what no rule takes."""
TAGS_VERSION, COMPLEXITY_VERSION = "lexicon/1", "complexity/1"
"""Names and versions of the methods behind category, tags and behaviours, and behind complexity."""
_TEXTS_MATCHED = 5
_KEYWORD_WEIGHT = 0.6
_CATEGORY_FROM, _TAG_FROM, _BEHAVIOR_FROM = 0.25, 0.15, 0.1
_MOST_TAGS, _MOST_BEHAVIORS = 5, 10
_NEIGHBOURS = 2
_WINDOW = 17
_LONGEST_RUN = 16
_NOTHING: Mapping[str, Any] = {
    "pattern_category": GENERAL,
    "category_confidence": 0.0,
    "semantic_tags": [],
    "behavioral_indicators": [],
    "complexity": "low",
    "complexity_measures": [],
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Evidence:
    """What a pattern is judged by: n top texts, strongest first."""

    keywords: Sequence[str]
    """Best first."""
    words: Array
    """int32 (n, w): words around each activating one, which stands in the middle."""
    inside: Array
    """bool (n, w): which of them are in the document."""
    texts: Sequence[str]
    """The texts, as far as they may be shown."""
    units: Array
    """int32 (n,): the activating words."""
    spans: Array
    """int64 (n,): tokens of the run of activating tokens that each stands in."""
    places: Array
    """float64 (n,): where in its document each stands, 0 to 1."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Matcher:
    """A lexicon on a corpus, G groups."""

    lexicon: Lexicon
    """Its words and patterns."""
    known: Array
    """bool (G, V): which words of the corpus are in which group."""
    chance: Array
    """float64 (G,): share of windows that hold at least `least` of a group's words anyway."""
    least: int
    """Words of a group that a text must hold."""
    _columns: dict[str, Array] = field(default_factory=dict)
    """Groups of each keyword, filled on demand."""

    def scores(self, given: Sequence[Evidence]) -> Array:
        """float64 (G, F): how strongly each group shows in the evidence of each of F features, 0 to 1.

        0.6 of the share of keywords (weighted 1 / rank) and 0.4 of that of top texts that hold `least` words of it
        near the token, or match one of its text patterns (first 5 texts), beyond what texts of the corpus do.
        """
        by_keyword = np.stack([self._by_keyword(one.keywords) for one in given], axis=1)
        sizes = np.array([len(one.words) for one in given])
        words, inside = (np.concatenate([getattr(one, name) for one in given]) for name in ("words", "inside"))
        hits = np.zeros((len(self.lexicon.names), len(words)), bool)
        if self.known.shape[1]:
            hits = (self.known[:, words] & inside).sum(axis=2) >= self.least
        for one, end in zip(given, np.cumsum(sizes).tolist(), strict=True):
            start = end - len(one.words)
            for row, matched in self.lexicon.matching(one.texts[:_TEXTS_MATCHED]):
                hits[row, start : start + len(matched)] |= matched
        shares = np.add.reduceat(hits, np.cumsum(sizes) - sizes, axis=1, dtype=np.float64) / sizes
        beyond = np.maximum(0, shares - self.chance[:, None]) / np.maximum(1e-9, 1 - self.chance[:, None])
        scores: Array = _KEYWORD_WEIGHT * by_keyword + (1 - _KEYWORD_WEIGHT) * beyond
        return scores

    def _by_keyword(self, keywords: Sequence[str]) -> Array:
        """float64 (G,): the share of keywords that are of the group."""
        ranks = 1 / (1 + np.arange(len(keywords)))
        columns = [self._column(word) for word in keywords]
        flags = np.stack(columns, axis=1) if columns else np.zeros((len(self.lexicon.names), 0), bool)
        share: Array = flags @ ranks / max(1e-9, ranks.sum())
        return share

    def _column(self, word: str) -> Array:
        """Which groups a word belongs to, bool (G,)."""
        if word not in self._columns:
            self._columns[word] = self.lexicon.flags([word])[:, 0]
        return self._columns[word]


def runs_of(positions: Array, tokens: Array, docs: Array) -> Array:
    """int64 (n,): tokens of the unbroken run of activating ones that each of `tokens` stands in, at most 33.

    `positions` (m,) ascending hold every activating token, `docs` (T,) the document of each token.
    """
    steps = np.arange(-_LONGEST_RUN, _LONGEST_RUN + 1)
    at = np.searchsorted(positions, tokens)[:, None] + steps
    known = positions[np.clip(at, 0, max(0, len(positions) - 1))]
    same = (known == tokens[:, None] + steps) & (docs[known] == docs[tokens][:, None])
    after = np.cumprod(same[:, _LONGEST_RUN + 1 :], axis=1).sum(axis=1)
    before = np.cumprod(same[:, :_LONGEST_RUN][:, ::-1], axis=1).sum(axis=1)
    lengths: Array = 1 + after + before
    return lengths


def build_matcher(lexicon: Lexicon, index: CorpusIndex, least: int) -> Matcher:
    """A lexicon on a corpus; the chance level takes words as independent draws, 17 a window."""
    known = lexicon.flags(index.vocabulary)
    counts = index.unit_counts[: len(index.vocabulary)].astype(np.float64)
    share = known @ counts / max(1.0, float(counts.sum()))
    none = (1 - share) ** _WINDOW
    one = _WINDOW * share * (1 - share) ** (_WINDOW - 1)
    return Matcher(lexicon=lexicon, known=known, chance=1 - none - (one if least > 1 else 0), least=least)


@dataclass(frozen=True, kw_only=True, slots=True)
class Judge:
    """Applies rules to features."""

    rules: Rules
    """The rules."""
    categories: Matcher
    """Of categories: two words a text."""
    tags: Matcher
    """Of subjects: one word."""
    behaviors: Matcher
    """Of behaviours: one word."""

    @property
    def versions(self) -> dict[str, str]:
        """What the metadata of a job records."""
        return {"categories": self.rules.version, "tags": TAGS_VERSION, "complexity": COMPLEXITY_VERSION}

    def about(self, given: Sequence[Evidence]) -> list[dict[str, Any]]:
        """Fields of each feature's record: category with confidence, tags, behaviours, complexity with its measures."""
        shown = [one for one in given if len(one.words)]
        matchers = (self.categories, self.tags, self.behaviors)
        scores = [matcher.scores(shown).T for matcher in matchers] if shown else [np.zeros((0, 0))] * len(matchers)
        found = (self._about(one, *rows) for one, *rows in zip(shown, *scores, strict=True))
        return [next(found) if len(one.words) else dict(_NOTHING) for one in given]

    def _about(self, given: Evidence, categories: Array, tags: Array, behaviors: Array) -> dict[str, Any]:
        """The fields of one feature from the scores (G,) of the groups."""
        category, confidence = category_of(self.rules, categories)
        indicators = _best(self.behaviors, behaviors, _BEHAVIOR_FROM, _MOST_BEHAVIORS)
        measures = complexity_measures(given)
        return {
            "pattern_category": category,
            "category_confidence": number(confidence),
            "semantic_tags": [name for name, _ in _best(self.tags, tags, _TAG_FROM, _MOST_TAGS)],
            "behavioral_indicators": [{"name": name, "score": number(score)} for name, score in indicators],
            "complexity": complexity(self.rules, measures),
            "complexity_measures": [{"name": name, "score": number(measures[name])} for name in MEASURES],
        }


def build_judge(rules: Rules, index: CorpusIndex) -> Judge:
    """Rules on a corpus."""
    return Judge(
        rules=rules,
        categories=build_matcher(rules.categories, index, 2),
        tags=build_matcher(rules.tags, index, 1),
        behaviors=build_matcher(rules.behaviors, index, 1),
    )


def _best(matcher: Matcher, scores: Array, least: float, most: int) -> list[tuple[str, float]]:
    """(group, score) of those that show, strongest first."""
    order = np.argsort(-scores, kind="stable")[:most]
    return [(matcher.lexicon.names[at], float(scores[at])) for at in order if scores[at] >= least]


def category_of(rules: Rules, scores: Array) -> tuple[str, float]:
    """(category, confidence 0..1): the best from 0.25 on, else general, as sure as the best score is low."""
    best = int(scores.argmax()) if len(scores) else -1
    if best < 0 or scores[best] < _CATEGORY_FROM:
        return GENERAL, float(1 - scores[best]) if best >= 0 else 1.0
    second = float(np.delete(scores, best).max(initial=0.0))
    return rules.categories.names[best], float(scores[best] / (scores[best] + second + 0.1))


def complexity_measures(given: Evidence) -> Mapping[str, float]:
    """Each of MEASURES, 0 (simple) to 1: varieties are entropies over ln n.

    token_variety of the activating words; context_variety of the words up to two away; span_length 1 - 1 / mean
    tokens of a run; position_freedom of the tenths of their documents.
    """
    middle = given.words.shape[1] // 2 if given.words.ndim == 2 else 0
    near = slice(max(0, middle - _NEIGHBOURS), middle + _NEIGHBOURS + 1)
    kept = given.inside[:, near].copy()
    kept[:, kept.shape[1] // 2] = False
    tenths = np.minimum(9, (np.asarray(given.places) * 10).astype(np.int64))
    run = float(np.mean(given.spans)) if len(given.spans) else 1.0
    return {
        "token_variety": variety(given.units),
        "context_variety": variety(given.words[:, near][kept]),
        "span_length": 1 - 1 / max(1.0, run),
        "position_freedom": variety(tenths, 10),
    }


def variety(values: Array, kinds: int = 0) -> float:
    """Entropy over its largest value, that of n different ones, or of `kinds` where these are fewer; 0 for one."""
    n = len(values)
    most = min(n, kinds) if kinds else n
    if most < 2:
        return 0.0
    ordered = np.sort(values)
    bounds = np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1], [True]]))
    shares = np.diff(bounds) / n
    return min(1.0, max(0.0, float(-(shares * np.log(shares)).sum() / np.log(most))))


def complexity(rules: Rules, measures: Mapping[str, float]) -> str:
    """low, medium or high by the weighted mean of the measures."""
    value = sum(rules.weights[name] * measures[name] for name in MEASURES)
    return "high" if value >= rules.high else "medium" if value >= rules.medium else "low"

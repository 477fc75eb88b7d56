"""Coherence: whether a person would see one pattern in a feature's top texts, 0 to 1.

Two texts are alike as far as their topic is closer than chance, or their activating words or
tokens are the same; coherence is the share of texts that such pairs imply, corrected for chance. The definition
with its formula stands in docs/metrics.md; the topic space itself in topics.py.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from mistudio_core.corpus.words import stem
from mistudio_find.corpus_index import Array, CorpusIndex
from mistudio_find.topics import TopicSpace

FEWEST_TEXTS = 3
"""Fewer texts show no pattern: their coherence is 0."""
TIERS = (("excellent", 0.8), ("good", 0.6), ("fair", 0.4), ("poor", -1.0))
"""Tier names and the coherence above which they begin; good and fair include their lower bound."""
_SAMPLE = 3000
_NULL_SETS = 200
_NULL_QUANTILE = 0.95
_LIKE_LOW, _LIKE_HIGH = 0.98, 0.998
_COSINE_LOW, _COSINE_HIGH = 0.45, 0.65
_SAME_WORD, _SAME_TOKEN, _COMMON_SHARE = 0.7, 0.5, 0.3
_RARE = 1e-4


def tier(coherence: float) -> str:
    """The tier of a coherence: above 0.8 excellent, from 0.6 good, from 0.4 fair, below poor."""
    if coherence > TIERS[0][1]:
        return TIERS[0][0]
    return next(name for name, bound in TIERS[1:] if coherence >= bound)


@dataclass(frozen=True, kw_only=True, slots=True)
class CoherenceMeter:
    """Measures sets of activating tokens against random sets of the same corpus."""

    index: CorpusIndex
    """The corpus."""
    topics: TopicSpace
    """Its topic space."""
    like_low: float
    """Cosine that 2 % of random pairs of windows exceed: likeness begins."""
    like_high: float
    """Cosine that 0.2 % of random pairs exceed: fully alike."""
    unit_stems: Array
    """int64 (units,): the stem of each unit, under which forms of one word meet."""
    stem_weights: Array
    """float32 (stems,): likeness of two texts whose activating tokens are in words of this stem."""
    token_weights: Array
    """float32 (ids,): likeness of two texts whose activating tokens are this one."""
    sample_vectors: Array
    """float32 (n, r): random windows, for the chance level."""
    sample_tokens: Array
    """int64 (n,): their middle tokens."""
    seed: int
    """Seed of the random sets."""
    _chance: dict[int, float] = field(default_factory=dict)
    """Chance level by number of texts, filled on demand."""

    def measure(self, vectors: Array, tokens: Array) -> float:
        """Coherence of n texts, given by window vectors (n, r) and activating tokens (n,).

        sqrt(max(0, (A - C) / (1 - C))): A the mean likeness of all pairs, C the 95th percentile of A
        over 200 random sets of n windows. A share p of texts with one pattern gives about p.
        """
        n = len(tokens)
        if n < FEWEST_TEXTS:
            return 0.0
        if n not in self._chance:
            self._chance[n] = self._chance_level(n)
        chance = self._chance[n]
        return float(np.sqrt(max(0.0, (self._agreement(vectors, tokens) - chance) / max(1e-9, 1 - chance))))

    def _agreement(self, vectors: Array, tokens: Array) -> float:
        """Mean likeness over all pairs of different texts, 0 to 1."""
        alike = np.clip((vectors @ vectors.T - self.like_low) / (self.like_high - self.like_low), 0, 1)
        for keys, weights in (
            (self.unit_stems[self.index.token_unit[tokens]], self.stem_weights),
            (self.index.token_ids[tokens], self.token_weights),
        ):
            np.maximum(alike, np.where(keys[:, None] == keys, weights[keys], 0), out=alike)
        np.fill_diagonal(alike, 0)
        n = len(tokens)
        return min(1.0, float(alike.sum()) / (n * (n - 1)))

    def _chance_level(self, n: int) -> float:
        rng = np.random.default_rng([self.seed, n])
        chosen = rng.integers(0, len(self.sample_tokens), size=(_NULL_SETS, n))
        values = [self._agreement(self.sample_vectors[c], self.sample_tokens[c]) for c in chosen]
        return float(np.quantile(values, _NULL_QUANTILE))


def build_meter(index: CorpusIndex, topics: TopicSpace, doc_tokens: Array, *, seed: int) -> CoherenceMeter:
    """Draws the random windows of evidence documents; `doc_tokens` int64 (D + 1,) are token offsets."""
    rng = np.random.default_rng([seed, 1])
    lengths = np.diff(doc_tokens)
    candidates = np.flatnonzero(~index.judge & (lengths > 0))
    if not len(candidates):
        candidates = np.flatnonzero(lengths > 0)
    docs = rng.choice(candidates, size=_SAMPLE) if len(candidates) else np.zeros(0, np.int64)
    tokens = doc_tokens[docs] + (rng.random(len(docs)) * lengths[docs]).astype(np.int64)
    vectors = topics.windows(index, index.token_word[tokens], docs)
    low, high = _likeness_bounds(vectors, docs)
    unit_stems = _unit_stems(index)
    return CoherenceMeter(
        index=index,
        topics=topics,
        like_low=low,
        like_high=high,
        unit_stems=unit_stems,
        stem_weights=_weights(_SAME_WORD, unit_stems[index.token_unit]),
        token_weights=_weights(_SAME_TOKEN, index.token_ids),
        sample_vectors=vectors,
        sample_tokens=tokens,
        seed=seed,
    )


def _likeness_bounds(vectors: Array, docs: Array) -> tuple[float, float]:
    """Cosines that 2 % and 0.2 % of pairs of windows of different documents exceed, at most 0.45 and 0.65."""
    cosines = (vectors @ vectors.T)[docs[:, None] < docs]
    if not len(cosines):
        return 0.5, 0.9
    low, high = np.quantile(cosines, [_LIKE_LOW, _LIKE_HIGH])
    # The caps are for a corpus of few topics, where many random pairs share one: chance is taken off
    # later. The floor is for a corpus without topics.
    high = min(max(float(high), 0.3), _COSINE_HIGH)
    return min(float(low), high - 0.05, _COSINE_LOW), high


def _unit_stems(index: CorpusIndex) -> Array:
    """int64 (units,): units of one stem share a number, and so do all numbers; tokens in no word keep their own."""
    numbers: dict[str, int] = {}
    stems = [numbers.setdefault("0" if word.isdigit() else stem(word), len(numbers)) for word in index.vocabulary]
    size = max(int(index.token_unit.max(initial=-1)) + 1, len(stems))
    return np.concatenate([np.array(stems, np.int64), np.arange(len(stems), size)])


def _weights(most: float, keys: Array) -> Array:
    """Likeness by key: `most` for keys of at most 0.01 % of all tokens, falling with the logarithm to 0.3 of it."""
    shares = np.bincount(keys) / max(1, len(keys))
    rarity = np.log(np.maximum(shares, _RARE)) / np.log(_RARE)
    weights: Array = (most * (_COMMON_SHARE + (1 - _COMMON_SHARE) * rarity)).astype(np.float32)
    return weights

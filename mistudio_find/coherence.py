"""Coherence: whether a person would see one pattern in a feature's top texts, 0 to 1.

Two texts are alike as far as they are about the same, or their activating tokens are the same word; coherence
is the share of texts that such pairs imply, corrected for chance. The definition with its formula stands in
docs/metrics.md; the topic space itself in topics.py.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from mistudio_find.corpus_index import Array, CorpusIndex
from mistudio_find.topics import TopicSpace

COHERENCE_VERSION = "coherence/2"
"""Name and version of the definition, recorded with every result."""
FEWEST_TEXTS = 3
"""Fewer texts show no pattern: their coherence is 0."""
FOLLOWING = 40
"""Documents after the top texts that are compared with them."""
TIERS = (("excellent", 0.8), ("good", 0.6), ("fair", 0.4), ("poor", -1.0))
"""Tier names and the coherence above which they begin; good and fair include their lower bound."""
_SAMPLE = 3000
_NULL_SETS = 200
_NULL_QUANTILE = 0.9
_OWN_SHARE, _LEAST_COSINE, _COPY_COSINE = 0.6, 0.1, 0.95
_HOW = np.array([_OWN_SHARE, _LEAST_COSINE, _COPY_COSINE])
_SAME_WORD = 0.06
_RARE = 1e-4
_ALIKE_SETS, _ALIKE_TEXTS, _ALIKE_QUANTILE = 200, 20, 0.1
_ALIKE_LEAST, _ALIKE_MOST = 0.15, 0.3


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
    centre: Array
    """float32 (r,): mean context of random tokens."""
    alike: float
    """Mean likeness of texts of one topic: of a text and its nearest in the corpus."""
    unit_stems: Array
    """int64 (units,): the stem of each unit, under which forms of one word meet."""
    stem_weights: Array
    """float32 (stems,): likeness of two texts whose activating tokens are in words of this stem."""
    sample_vectors: Array
    """float32 (n, r): contexts of random tokens, for the chance level."""
    sample_tokens: Array
    """int64 (n,): these tokens."""
    seed: int
    """Seed of the random sets."""
    _chance: dict[tuple[int, int], tuple[float, float]] = field(default_factory=dict)
    """Chance level by number of texts and of following ones, filled on demand."""

    def contexts(self, tokens: Array) -> Array:
        """float32 (n, r): what the text around tokens is about."""
        index = self.index
        docs = index.token_doc[tokens].astype(np.int64)
        return self.topics.contexts(index, index.token_word[tokens], docs, self.centre)

    def measure(self, tokens: Array, following: Array | None = None) -> float:
        """Coherence of the texts around `tokens` (n,), one a document; see `measure_many`."""
        tokens = np.asarray(tokens, np.int64)
        more = np.zeros(0, np.int64) if following is None else np.asarray(following, np.int64)
        bounds = np.array([0, len(tokens) + len(more)])
        return float(self.measure_many(np.concatenate([tokens, more]), bounds, bounds[:1] + len(tokens))[0])

    def measure_many(self, tokens: Array, first: Array, last: Array) -> Array:
        """float64 (S,): coherence of S sets, 0 for fewer than 3 texts.

        Set s are the texts around tokens[first[s] : last[s]], strongest activation of their document; up to
        first[s + 1] stand those of the documents that follow, which support them and may be none.
        """
        different, places = np.unique(tokens, return_inverse=True)
        vectors, stems = self.contexts(different)[places], self.unit_stems[self.index.token_unit[tokens]]
        found = self._likeness(vectors, stems, first, last)
        counts = zip((last - first[:-1]).tolist(), (first[1:] - last).tolist(), strict=True)
        chance = np.array([self._chance_level(*count) for count in counts]).reshape(-1, 2)
        full = np.maximum([self.alike, 1.0], chance + _LEAST_COSINE / 2)
        parts = np.clip((found - chance) / (full - chance), 0, 1)
        values: Array = np.sqrt(np.minimum(1, parts[:, 0] + _SAME_WORD * parts[:, 1]))
        return np.where(last - first[:-1] < FEWEST_TEXTS, 0.0, values)

    def _likeness(self, vectors: Array, stems: Array, first: Array, last: Array) -> Array:
        """float64 (S, 2): mean likeness of the texts of each set by topic, and by word."""
        from mistudio_find.passes.topics import mean_likeness

        parts = np.zeros((len(last), 2))
        mean_likeness(first, last, vectors, stems, self.stem_weights[stems], _HOW, parts)
        return parts

    def _chance_level(self, texts: int, following: int) -> tuple[float, float]:
        """The likeness by topic, and that by word, which 10 % of random sets of this size exceed."""
        key = (texts, following)
        if key not in self._chance:
            size = texts + following
            if texts < FEWEST_TEXTS or not len(self.sample_tokens):
                return 0.0, 0.0
            rng = np.random.default_rng([self.seed, *key])
            chosen = rng.integers(0, len(self.sample_tokens), size=_NULL_SETS * size)
            first = np.arange(_NULL_SETS + 1) * size
            stems = self.unit_stems[self.index.token_unit[self.sample_tokens[chosen]]]
            found = self._likeness(self.sample_vectors[chosen], stems, first, first[:-1] + texts)
            topic, word = np.quantile(found, _NULL_QUANTILE, axis=0).tolist()
            self._chance[key] = (topic, word)
        return self._chance[key]


def build_meter(index: CorpusIndex, topics: TopicSpace, doc_tokens: Array, *, seed: int) -> CoherenceMeter:
    """Draws random tokens of evidence documents; `doc_tokens` int64 (D + 1,) are token offsets."""
    rng = np.random.default_rng([seed, 1])
    lengths = np.diff(doc_tokens)
    candidates = np.flatnonzero(~index.judge & (lengths > 0))
    if not len(candidates):
        candidates = np.flatnonzero(lengths > 0)
    docs = rng.choice(candidates, size=_SAMPLE) if len(candidates) else np.zeros(0, np.int64)
    tokens = doc_tokens[docs] + (rng.random(len(docs)) * lengths[docs]).astype(np.int64)
    words = index.token_word[tokens]
    plain = topics.contexts(index, words, docs)
    centre = (plain.sum(axis=0) / max(1, len(plain))).astype(np.float32)
    vectors = topics.contexts(index, words, docs, centre)
    unit_stems = _unit_stems(index, topics)
    return CoherenceMeter(
        index=index,
        topics=topics,
        centre=centre,
        alike=_alike(vectors, docs),
        unit_stems=unit_stems,
        stem_weights=_weights(index, unit_stems),
        sample_vectors=vectors,
        sample_tokens=tokens,
        seed=seed,
    )


def _alike(vectors: Array, docs: Array) -> float:
    """Mean likeness within sets of a random text and its 19 nearest of other documents; that of the loosest tenth."""
    from mistudio_find.passes.topics import mean_likeness

    single = np.unique(docs, return_index=True)[1]
    size = min(_ALIKE_TEXTS, len(single))
    if size < FEWEST_TEXTS:
        return _ALIKE_LEAST
    vectors = vectors[single]
    middles = np.linspace(0, len(vectors) - 1, min(_ALIKE_SETS, len(vectors))).astype(np.int64)
    cosines = vectors[middles] @ vectors.T
    cosines[np.arange(len(middles)), middles] = 2
    nearest = np.argsort(-cosines, axis=1, kind="stable")[:, :size]
    first = np.arange(len(middles) + 1) * size
    found = np.zeros((len(middles), 2))
    keys = np.arange(nearest.size)
    none = np.zeros(nearest.size, np.float32)
    mean_likeness(first, first[1:], np.ascontiguousarray(vectors[nearest.ravel()]), keys, none, _HOW, found)
    # The bounds are for a corpus without topics, and for one of near copies.
    return min(max(float(np.quantile(found[:, 0], _ALIKE_QUANTILE)), _ALIKE_LEAST), _ALIKE_MOST)


def _unit_stems(index: CorpusIndex, topics: TopicSpace) -> Array:
    """int64 (units,): the stem of each unit; tokens in no word keep a number of their own."""
    stems = topics.stems.astype(np.int64)
    others = max(0, index.units - len(stems))
    return np.concatenate([stems, int(stems.max(initial=-1)) + 1 + np.arange(others)])


def _weights(index: CorpusIndex, unit_stems: Array) -> Array:
    """Likeness by stem: 1 for stems of at most 0.01 % of the tokens, falling with the logarithm of the share to 0."""
    shares = np.bincount(unit_stems, index.unit_counts[: len(unit_stems)]) / max(1, index.evidence_tokens)
    rarity = np.log(np.clip(shares, _RARE, 1)) / np.log(_RARE)
    weights: Array = rarity.astype(np.float32)
    return weights

"""Which tokens of the corpus stand for a feature: top, quantile, judging and silent ones.

Picks are positions; texts are cut in render.py. Everything is a function of (codes, config, seed).
At most one token a document is picked, its strongest.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mistudio_find.corpus_index import Array, CorpusIndex
from mistudio_find.topics import TopicSpace
from mistudio_torch.codes import CodesReader, FeatureCodes

CLEAR_SHARE = 0.3
"""A judging text counts as firing from this share of the feature's largest activation on."""
JUDGE_TEXTS = 10
"""Held-out texts kept a feature: as many on which it fires, silent random ones, and half as many silent near ones."""
_POOL = 2000


@dataclass(frozen=True, kw_only=True, slots=True)
class Picks:
    """Tokens, one a document, strongest first."""

    docs: Array
    """int64 (n,): documents."""
    tokens: Array
    """int64 (n,): global token indices."""
    values: Array
    """float32 (n,): activations."""

    def __len__(self) -> int:
        return len(self.docs)

    def take(self, at: Array) -> Picks:
        """The picks at these indices, in their order."""
        return Picks(docs=self.docs[at], tokens=self.tokens[at], values=self.values[at])


def first_of_runs(keys: Array) -> Array:
    """Indices at which a new run of equal keys begins; the first is one where there is any."""
    new = np.ones(len(keys), bool)
    np.not_equal(keys[1:], keys[:-1], out=new[1:])
    return np.flatnonzero(new)


def strongest_by_document(codes: FeatureCodes, docs: Array) -> Picks:
    """The strongest token of every document in which the feature fires; the first of equals."""
    if not len(docs):
        return Picks(docs=docs, tokens=codes.positions, values=codes.values)
    first = first_of_runs(docs)
    best = np.maximum.reduceat(codes.values, first)
    hits = np.flatnonzero(codes.values == np.repeat(best, np.diff(first, append=len(docs))))
    at = hits[first_of_runs(docs[hits])]
    order = at[np.argsort(-codes.values[at], kind="stable")]
    return Picks(docs=docs[order], tokens=codes.positions[order], values=codes.values[order])


def without_copies(picks: Picks, index: CorpusIndex, limit: int) -> Picks:
    """The first `limit` picks whose surroundings (five words each side) differ."""
    kept: list[int] = []
    seen: set[bytes] = set()
    size = len(index.word_ids)
    for at in range(len(picks)):
        doc, word = int(picks.docs[at]), int(index.token_word[picks.tokens[at]])
        start = max(int(index.doc_words[doc]), word - 5)
        key = index.word_ids[start : min(int(index.doc_words[doc + 1]), word + 6, size)].tobytes()
        if key not in seen:
            seen.add(key)
            kept.append(at)
            if len(kept) == limit:
                break
    return picks.take(np.array(kept, np.int64))


def quantile_picks(picks: Picks, used: int, quantiles: int, rng: np.random.Generator) -> Picks:
    """One pick from each of `quantiles` equal groups of the documents after the first `used`, strong to weak."""
    rest = len(picks) - used
    groups = min(quantiles, rest)
    if groups <= 0:
        return picks.take(np.zeros(0, np.int64))
    edges = used + np.linspace(0, rest, groups + 1).astype(np.int64)
    return picks.take(edges[:-1] + (rng.random(groups) * np.diff(edges)).astype(np.int64))


def clearly_firing(picks: Picks, largest: float, fewest: int) -> Picks:
    """The picks of at least 30 % of `largest`; the strongest `fewest` where these are fewer."""
    clear = int((picks.values >= CLEAR_SHARE * largest).sum())
    return picks.take(np.arange(min(len(picks), max(clear, fewest))))


def spread(picks: Picks, count: int) -> Picks:
    """`count` picks evenly over the ranks, the strongest among them."""
    if len(picks) <= count:
        return picks
    return picks.take(np.unique(np.linspace(0, len(picks) - 1, count).astype(np.int64)))


@dataclass(frozen=True, kw_only=True, slots=True)
class SilentPool:
    """Random windows, at most 2,000 and one a document, of which each feature gets silent ones."""

    docs: Array
    """int64 (n,): documents in random order."""
    tokens: Array
    """int64 (n,): global index of each window's middle token."""
    windows: Array
    """int64 (n, 2): first token of each window and the one after its last."""
    vectors: Array
    """float32 (n, r): topic vectors of the windows."""

    def choose(
        self, codes: FeatureCodes, fires: Array, like: Array, *, count: int, near: int, start: int
    ) -> tuple[Array, Array]:
        """Indices of `count` random and `near` similar windows without the feature.

        `fires` bool (D,) marks its documents, `like` (r,) is what near means. Windows of documents
        in which it is silent throughout come first; where these are too few, silent windows follow.
        """
        silent = ~fires[self.docs]
        if silent.sum() < count + near:
            low, high = (np.searchsorted(codes.positions, self.windows[:, side]) for side in (0, 1))
            silent = low == high
        ranked = np.flatnonzero(silent)
        first = int(np.searchsorted(ranked, start % max(1, len(self.docs))))
        random = np.concatenate([ranked[first:], ranked[:first]])[:count]
        silent[random] = False
        left = np.flatnonzero(silent)
        if not near or not len(left):
            return random, left[:0]
        likeness = (self.vectors @ like)[left]
        bound = np.partition(likeness, -near)[-near] if len(left) > near else -np.inf
        close = np.flatnonzero(likeness >= bound)
        return random, left[close[np.argsort(-likeness[close], kind="stable")[:near]]]


def build_pool(
    codes: CodesReader, index: CorpusIndex, topics: TopicSpace, *, judge: bool, context: int, seed: int
) -> SilentPool:
    """Windows of judging or of evidence documents, `context` tokens each side of a random token."""
    rng = np.random.default_rng([seed, 2 + judge])
    offsets = np.array([codes.doc_tokens(d) for d in range(codes.n_documents)], np.int64).reshape(-1, 2)
    lengths = offsets[:, 1] - offsets[:, 0]
    docs = rng.permutation(np.flatnonzero((index.judge == judge) & (lengths > 0)))[:_POOL]
    tokens = offsets[docs, 0] + (rng.random(len(docs)) * lengths[docs]).astype(np.int64)
    low = np.maximum(offsets[docs, 0], tokens - context)
    high = np.minimum(offsets[docs, 1], tokens + context + 1)
    vectors = topics.windows(index, index.token_word[tokens], docs)
    return SilentPool(docs=docs, tokens=tokens, windows=np.stack([low, high], axis=1), vectors=vectors)

"""Keywords: the words that set a feature's activating windows apart from the corpus.

Owns the weighting (near words and strong activations count more, common words less), which
docs/metrics.md defines. Words of one stem appear once, in their best form.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

import numpy as np

from mistudio_core.corpus.words import stem
from mistudio_find.corpus_index import Array, CorpusIndex
from mistudio_find.evidence import first_of_runs

MOST_WINDOWS = 100
"""Windows looked at: the strongest of as many documents."""
_REACH = 8
_KERNEL = np.array([0.3] * 6 + [0.5, 0.7, 1.0, 0.7, 0.5] + [0.3] * 6, np.float32)
_SMOOTH = 0.01
_WINDOW_SHARE = 0.5
_stem = lru_cache(maxsize=200_000)(stem)


@dataclass(frozen=True, kw_only=True, slots=True)
class Keyword:
    """One word with its weight."""

    word: str
    """The word, casefolded."""
    score: float
    """f ln((f + 0.01) / (b + 0.01)): f its weighted share of windows, b its share of the corpus."""


def window_words(index: CorpusIndex, tokens: Array, docs: Array) -> tuple[Array, Array]:
    """(word ids int32 (n, 17), inside bool (n, 17)) of the eight words each side of tokens of these documents."""
    at = index.token_word[tokens][:, None].astype(np.int64) + np.arange(-_REACH, _REACH + 1)
    inside = (at >= index.doc_words[docs][:, None]) & (at < index.doc_words[docs + 1][:, None])
    if not len(index.word_ids):
        return np.zeros(at.shape, np.int32), inside
    return index.word_ids[np.clip(at, 0, len(index.word_ids) - 1)], inside


def keywords(index: CorpusIndex, tokens_FS: Array, values_FS: Array, count: int) -> list[list[Keyword]]:
    """At most `count` keywords of each of F features, best first, from its strong tokens and their activations.

    tokens_FS are tokens of evidence, strongest first, -1 where there are no more.
    """
    tokens_FS, values_FS = tokens_FS[:, :MOST_WINDOWS], values_FS[:, :MOST_WINDOWS]
    owners, rows = np.nonzero(tokens_FS >= 0)
    tokens, values = tokens_FS[owners, rows], values_FS[owners, rows]
    ids, inside = window_words(index, tokens, index.token_doc[tokens])
    counts = np.bincount(owners, minlength=len(tokens_FS))
    totals = np.array([values_FS[f, :n].sum() for f, n in enumerate(counts.tolist())], np.float64)
    size = max(1, len(index.vocabulary))
    keys = ((owners * size)[:, None] + ids) * MOST_WINDOWS + rows[:, None]
    weights = np.broadcast_to(_KERNEL, ids.shape) * values[:, None]
    words, sums, windows = _summed(keys[inside], weights[inside])
    owner, words = np.divmod(words, size)
    shares = sums / np.maximum(totals, 1e-300)[owner]
    background = _WINDOW_SHARE * (index.documents_with[words] + 1) / (index.evidence_documents + 2)
    scores = shares * np.log((shares + _SMOOTH) / (background + _SMOOTH))
    shown = np.flatnonzero((windows >= np.minimum(2, counts)[owner]) & (scores > 0))
    bounds = np.searchsorted(owner[shown], np.arange(len(tokens_FS) + 1))
    parts = [shown[low:high] for low, high in pairwise(bounds.tolist())]
    return [_best_forms(index, words[part], scores[part], count) for part in parts]


def _summed(keys: Array, weights: Array) -> tuple[Array, Array, Array]:
    """Words of features, rising, the sum over their windows of the best weight in each, and how many windows.

    A key is that of the word times MOST_WINDOWS plus the window.
    """
    if not len(keys):
        return np.zeros(0, np.int64), np.zeros(0), np.zeros(0, np.int64)
    order = np.argsort(keys)
    keys, weights = keys[order], weights[order]
    first = first_of_runs(keys)
    best = np.maximum.reduceat(weights, first)
    words = keys[first] // MOST_WINDOWS
    starts = first_of_runs(words)
    windows = np.diff(starts, append=len(words))
    return words[starts], np.add.reduceat(best, starts).astype(np.float64), windows


def _best_forms(index: CorpusIndex, words: Array, scores: Array, count: int) -> list[Keyword]:
    found: dict[str, Keyword] = {}
    for at in np.argsort(-scores, kind="stable").tolist():
        if len(found) == count:
            break
        word = index.vocabulary[words[at]]
        found.setdefault(_stem(word), Keyword(word=word[:100], score=float(f"{scores[at]:.4g}")))
    return list(found.values())

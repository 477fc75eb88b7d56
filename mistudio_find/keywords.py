"""Keywords: the words that set a feature's activating windows apart from the corpus.

Owns the weighting (near words and strong activations count more, common words less), which
docs/metrics.md defines. Words of one stem appear once, in their best form.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from mistudio_core.corpus.words import stem
from mistudio_find.corpus_index import Array, CorpusIndex
from mistudio_find.evidence import Picks, first_of_runs

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


def window_words(index: CorpusIndex, picks: Picks) -> tuple[Array, Array]:
    """(word ids int32 (n, 17), inside bool (n, 17)) of the eight words each side of every pick."""
    at = index.token_word[picks.tokens][:, None].astype(np.int64) + np.arange(-_REACH, _REACH + 1)
    inside = (at >= index.doc_words[picks.docs][:, None]) & (at < index.doc_words[picks.docs + 1][:, None])
    if not len(index.word_ids):
        return np.zeros(at.shape, np.int32), inside
    return index.word_ids[np.clip(at, 0, len(index.word_ids) - 1)], inside


def keywords(index: CorpusIndex, picks: Picks, count: int) -> Sequence[Keyword]:
    """At most `count` keywords, best first; `picks` are evidence, strongest first."""
    picks = picks.take(np.arange(min(len(picks), MOST_WINDOWS)))
    if not len(picks):
        return []
    ids, inside = window_words(index, picks)
    weights = np.broadcast_to(_KERNEL, ids.shape) * picks.values[:, None]
    rows = np.broadcast_to(np.arange(len(picks))[:, None], ids.shape)
    words, shares, windows = _shares(ids[inside], rows[inside], weights[inside], float(picks.values.sum()))
    background = _WINDOW_SHARE * (index.documents_with[words] + 1) / (index.evidence_documents + 2)
    scores = shares * np.log((shares + _SMOOTH) / (background + _SMOOTH))
    scores[(windows < min(2, len(picks))) | (scores <= 0)] = 0
    return _best_forms(index, words, scores, count)


def _shares(ids: Array, rows: Array, weights: Array, total: float) -> tuple[Array, Array, Array]:
    """Distinct words, their weighted share of windows (best place in each), and windows that hold them."""
    if not len(ids) or total <= 0:
        return np.zeros(0, np.int64), np.zeros(0), np.zeros(0, np.int64)
    order = np.lexsort((rows, ids))
    ids, rows, weights = ids[order], rows[order], weights[order]
    first = first_of_runs(ids.astype(np.int64) * len(_KERNEL) * MOST_WINDOWS + rows)
    best = np.maximum.reduceat(weights, first)
    owners = ids[first]
    starts = first_of_runs(owners)
    windows = np.diff(starts, append=len(owners))
    return owners[starts], np.add.reduceat(best, starts).astype(np.float64) / total, windows


def _best_forms(index: CorpusIndex, words: Array, scores: Array, count: int) -> list[Keyword]:
    found: dict[str, Keyword] = {}
    for at in np.argsort(-scores, kind="stable"):
        if scores[at] <= 0 or len(found) == count:
            break
        word = index.vocabulary[words[at]]
        found.setdefault(_stem(word), Keyword(word=word[:100], score=float(f"{scores[at]:.4g}")))
    return list(found.values())

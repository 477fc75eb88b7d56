"""A topic space of the corpus: latent semantic analysis of its evidence documents, in numpy.

Words get a vector from a truncated SVD of the tf-idf matrix (randomised, seeded); a window of text
is the idf-weighted mean of its words. Owns vectors and their likeness, not what coherence means.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mistudio_find.corpus_index import Array, CorpusIndex

RANK = 128
"""Dimensions of the topic space."""
WINDOW_WORDS = 30
"""Words on each side of a position that make its window."""
_OVERSAMPLE = 16
_POWER_ITERATIONS = 1
_MAX_ENTRIES = 2_000_000
_MAX_SHARE = 0.25
_CHUNK = 100_000


@dataclass(frozen=True, kw_only=True, slots=True)
class TopicSpace:
    """Vectors of words, ready to be summed."""

    word_vectors: Array
    """float32 (V, r): idf times the word's direction; zeros for words that say nothing about topic."""

    def windows(self, index: CorpusIndex, words: Array, docs: Array) -> Array:
        """float32 (n, r): unit vectors of the windows around word occurrences; zero for empty ones."""
        from mistudio_find.passes.texts import sum_windows

        units: Array = np.zeros((len(words), self.word_vectors.shape[1]), np.float32)
        if len(index.word_ids):
            where = (words.astype(np.int64), docs.astype(np.int64), index.word_ids, index.doc_words)
            sum_windows(*where, self.word_vectors, WINDOW_WORDS, units)
        return units


def build_topics(index: CorpusIndex, *, seed: int) -> TopicSpace:
    """The topic space; memory is bounded by reading at most 2 million (document, word) entries."""
    docs, words, counts = _entries(index, seed)
    frequency = index.documents_with
    useful = (frequency >= 3) & (frequency <= max(3.0, _MAX_SHARE * index.evidence_documents))
    kept = useful[words]
    docs, words, counts = docs[kept], words[kept], counts[kept]
    idf = index.idf()
    size = len(index.vocabulary)
    n_docs = int(docs.max()) + 1 if len(docs) else 0
    rank = min(RANK, n_docs - 1, int(useful.sum()) - 1)
    if rank < 1:
        return TopicSpace(word_vectors=np.zeros((size, 1), np.float32))
    values = ((1 + np.log(counts)) * idf[words]).astype(np.float32)
    norms = np.sqrt(np.bincount(docs, values.astype(np.float64) ** 2, minlength=n_docs))
    values = (values / norms[docs]).astype(np.float32)
    vectors = _right_singular(docs, words, values, (n_docs, size), rank, seed)
    return TopicSpace(word_vectors=np.where(useful[:, None], vectors * idf[:, None], 0).astype(np.float32))


def _entries(index: CorpusIndex, seed: int) -> tuple[Array, Array, Array]:
    """(row, word, count) of evidence documents, sorted by row; rows are renumbered from 0."""
    lengths = np.diff(index.doc_words)
    chosen = np.flatnonzero(~index.judge & (lengths > 0))
    order = np.random.default_rng(seed).permutation(chosen)
    chosen = np.sort(order[np.cumsum(lengths[order]) <= _MAX_ENTRIES])
    rows = np.full(len(lengths), -1, np.int64)
    rows[chosen] = np.arange(len(chosen))
    docs = np.repeat(rows, lengths)
    words, docs = index.word_ids[docs >= 0].astype(np.int64), docs[docs >= 0]
    keys, counts = np.unique(docs * (len(index.vocabulary) + 1) + words, return_counts=True)
    return keys // (len(index.vocabulary) + 1), keys % (len(index.vocabulary) + 1), counts


def _right_singular(docs: Array, words: Array, values: Array, shape: tuple[int, int], rank: int, seed: int) -> Array:
    """float32 (V, rank): leading right singular vectors of the sparse matrix (Halko et al. 2011, alg. 4.4)."""
    by_word = np.argsort(words, kind="stable")
    transposed = (words[by_word], docs[by_word], values[by_word], shape[1])
    straight = (docs, words, values, shape[0])
    width = min(rank + _OVERSAMPLE, *shape)
    basis = np.random.default_rng(seed).standard_normal((shape[1], width)).astype(np.float32)
    for _ in range(_POWER_ITERATIONS):
        left = np.linalg.qr(_multiply(*straight, basis))[0]
        basis = np.linalg.qr(_multiply(*transposed, left))[0]
    left = np.linalg.qr(_multiply(*straight, basis))[0]
    small = _multiply(*transposed, left)
    return np.linalg.svd(small, full_matrices=False)[0][:, :rank].astype(np.float32)


def _multiply(rows: Array, columns: Array, values: Array, n_rows: int, dense: Array) -> Array:
    """float32 (n_rows, k): a sparse matrix with sorted rows times a dense one, a chunk at a time."""
    out = np.zeros((n_rows, dense.shape[1]), np.float32)
    for start in range(0, len(rows), _CHUNK):
        part = slice(start, start + _CHUNK)
        here = rows[part]
        first = np.flatnonzero(np.diff(here, prepend=-1) != 0)
        sums = np.add.reduceat(dense[columns[part]] * values[part, None], first, axis=0)
        out[here[first]] += sums
    return out

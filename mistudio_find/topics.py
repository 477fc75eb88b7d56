"""A topic space of the corpus: latent semantic analysis of its evidence documents.

Words get a vector from a truncated SVD of the tf-idf matrix (randomised, seeded), one for all forms of a stem;
a text is the sum of its words. Owns vectors and their likeness, not what coherence means.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mistudio_core.corpus.words import stem
from mistudio_find.corpus_index import Array, CorpusIndex

RANK = 128
"""Dimensions of the topic space."""
WINDOW_WORDS = 30
"""Words on each side of a position that make its window."""
_OVERSAMPLE = 16
_POWER_ITERATIONS = 2
_MAX_ENTRIES = 2_000_000
_LEAST_DOCUMENTS = 2
# The power of its singular value that a dimension is scaled with: broad topics count more than narrow ones.
_EMPHASIS = 0.3
_CONTEXT_REACH, _OPENING_WORDS = 20, 12
_CONTEXT_WEIGHTS = np.array([1.0, 3.0, 0.3], np.float32)


@dataclass(frozen=True, kw_only=True, slots=True)
class TopicSpace:
    """Vectors of words, ready to be summed."""

    word_vectors: Array
    """float32 (V, r): idf times the direction of the word's stem; zeros for what says nothing about topic."""
    stems: Array
    """int32 (V,): the stem of each word; all numbers share one."""

    def windows(self, index: CorpusIndex, words: Array, docs: Array) -> Array:
        """float32 (n, r): unit vectors of the windows around word occurrences; zero for empty ones."""
        from mistudio_find.passes.texts import sum_windows

        units: Array = np.zeros((len(words), self.word_vectors.shape[1]), np.float32)
        if len(index.word_ids):
            where = (words.astype(np.int64), docs.astype(np.int64), index.word_ids, index.doc_words)
            sum_windows(*where, self.word_vectors, WINDOW_WORDS, units)
        return units

    def contexts(self, index: CorpusIndex, words: Array, docs: Array, centre: Array | None = None) -> Array:
        """float32 (n, r): what the text around word occurrences is about; zero where nothing is known.

        20 words each side of it, and with weight 3 the first 12 words of the document, which name its subject more
        often than others do; words of its own stem count 0.3, so that a shared word alone makes no topic. Unit
        vectors; `centre` (r,) is taken off, and the rest is scaled to length 1 again.
        """
        from mistudio_find.passes.topics import sum_contexts

        rank = self.word_vectors.shape[1]
        units: Array = np.zeros((len(words), rank), np.float32)
        if len(index.word_ids):
            off = np.zeros(rank, np.float32) if centre is None else centre
            where = (words.astype(np.int64), docs.astype(np.int64), index.word_ids, index.doc_words)
            how = (_CONTEXT_REACH, _OPENING_WORDS, _CONTEXT_WEIGHTS, off)
            sum_contexts(*where, self.stems, self.word_vectors, *how, units)
        return units


def word_stems(vocabulary: list[str]) -> Array:
    """int32 (V,): words of one stem share a number, and so do all numbers."""
    numbers: dict[str, int] = {}
    found = [numbers.setdefault("0" if word.isdigit() else stem(word), len(numbers)) for word in vocabulary]
    return np.array(found, np.int32)


def build_topics(index: CorpusIndex, *, seed: int) -> TopicSpace:
    """The topic space; memory is bounded by reading at most 2 million (document, word) entries."""
    stems = word_stems(index.vocabulary)
    size = int(stems.max(initial=-1)) + 1
    docs, terms, counts = _entries(index, stems, size, seed)
    n_docs = int(docs.max(initial=-1)) + 1
    frequency = np.bincount(terms, minlength=size)
    idf = np.where(frequency >= _LEAST_DOCUMENTS, np.log((1 + n_docs) / (1 + frequency)), 0).astype(np.float32)
    rank = min(RANK, n_docs - 1, int((idf > 0).sum()) - 1)
    if rank < 1:
        return TopicSpace(word_vectors=np.zeros((len(stems), 1), np.float32), stems=stems)
    values = ((1 + np.log(counts)) * idf[terms]).astype(np.float32)
    norms = np.sqrt(np.bincount(docs, values.astype(np.float64) ** 2, minlength=n_docs))
    values = (values / np.where(norms > 0, norms, 1)[docs]).astype(np.float32)
    directions, strengths = _right_singular(docs, terms, values, (n_docs, size), rank, seed)
    strengths = (strengths / max(1e-9, float(strengths[0]))) ** _EMPHASIS
    vectors = (directions * strengths * idf[:, None]).astype(np.float32)
    return TopicSpace(word_vectors=vectors[stems], stems=stems)


def _entries(index: CorpusIndex, stems: Array, size: int, seed: int) -> tuple[Array, Array, Array]:
    """(row, stem, count) of evidence documents, sorted by row; rows are renumbered from 0."""
    lengths = np.diff(index.doc_words)
    chosen = np.flatnonzero(~index.judge & (lengths > 0))
    order = np.random.default_rng(seed).permutation(chosen)
    chosen = np.sort(order[np.cumsum(lengths[order]) <= _MAX_ENTRIES])
    # Document by document: the words lie in a file, and most of a large one are not needed.
    parts = [stems[index.word_ids[index.doc_words[doc] : index.doc_words[doc + 1]]] for doc in chosen]
    rows = np.repeat(np.arange(len(chosen)), lengths[chosen])
    terms = np.concatenate(parts).astype(np.int64) if parts else np.zeros(0, np.int64)
    keys, counts = np.unique(rows * (size + 1) + terms, return_counts=True)
    return keys // (size + 1), keys % (size + 1), counts


def _right_singular(
    rows: Array, columns: Array, values: Array, shape: tuple[int, int], rank: int, seed: int
) -> tuple[Array, Array]:
    """(float32 (V, rank), (rank,)): leading right singular vectors and values (Halko et al. 2011, alg. 4.4)."""
    from mistudio_find.passes.topics import multiply

    def product(first: Array, at: Array, value: Array, dense: Array) -> Array:
        out = np.zeros((len(first) - 1, dense.shape[1]), np.float32)
        multiply(first, at, value, np.ascontiguousarray(dense), out)
        return out

    by_column = np.argsort(columns, kind="stable")
    straight = (np.searchsorted(rows, np.arange(shape[0] + 1)), columns, values)
    starts = np.searchsorted(columns[by_column], np.arange(shape[1] + 1))
    transposed = (starts, rows[by_column], values[by_column])
    width = min(rank + _OVERSAMPLE, *shape)
    basis = np.random.default_rng(seed).standard_normal((shape[1], width)).astype(np.float32)
    for _ in range(_POWER_ITERATIONS):
        left = np.linalg.qr(product(*straight, basis))[0]
        basis = np.linalg.qr(product(*transposed, left))[0]
    left = np.linalg.qr(product(*straight, basis))[0]
    directions, strengths, _ = np.linalg.svd(product(*transposed, left), full_matrices=False)
    return directions[:, :rank].astype(np.float32), strengths[:rank]

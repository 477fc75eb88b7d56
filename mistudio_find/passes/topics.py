"""Compiled kernels of the topic space and of coherence: sparse products, contexts of tokens, likeness of pairs.

Plain loops; tests/unit/find/topic_twins.py holds a readable twin of each. N tokens, D documents, V words,
W word occurrences, R dimensions, S sets of texts.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import prange

from mistudio_torch.compiled import compiled

Array = np.ndarray[Any, np.dtype[Any]]


@compiled
def multiply(
    first_N: Array, column_E: Array, value_E: Array, dense_MR: Array, out_NR: Array
) -> None:  # pragma: no cover  (compiled)
    """A sparse matrix, row n in the entries first_N[n] to first_N[n + 1], times a dense one."""
    for n in prange(len(out_NR)):
        row = out_NR[n]
        row[:] = 0
        for e in range(first_N[n], first_N[n + 1]):
            value, dense = value_E[e], dense_MR[column_E[e]]
            for r in range(len(row)):
                row[r] += value * dense[r]


@compiled
def sum_contexts(
    word_N: Array,
    doc_N: Array,
    word_W: Array,
    words_D: Array,
    stem_V: Array,
    vector_VR: Array,
    reach: int,
    opening: int,
    weights: Array,
    centre_R: Array,
    out_NR: Array,
) -> None:  # pragma: no cover  (compiled)
    """Contexts of word occurrences, of length 1, less the centre, of length 1 again; zero for those without a topic.

    Words at most `reach` away weigh weights[0], the first `opening` of the document weights[1] in addition;
    those of the word's own stem weights[2] times as much.
    """
    for n in prange(len(out_NR)):
        row, word, doc = out_NR[n], word_N[n], doc_N[n]
        row[:] = 0
        low, high = words_D[doc], words_D[doc + 1]
        if low == high:
            continue
        own = stem_V[word_W[word]]
        for part in range(2):
            start = max(low, word - reach) if part == 0 else low
            end = min(high, word + reach + 1) if part == 0 else min(high, low + opening)
            for at in range(start, end):
                weight = weights[part] * (weights[2] if stem_V[word_W[at]] == own else np.float32(1))
                vector = vector_VR[word_W[at]]
                for r in range(len(row)):
                    row[r] += weight * vector[r]
        for centred in range(2):
            norm = np.float32(0)
            for r in range(len(row)):
                norm += row[r] * row[r]
            if norm == 0:
                break
            scale = np.float32(1) / np.sqrt(norm)
            for r in range(len(row)):
                row[r] = row[r] * scale - (centre_R[r] if centred == 0 else np.float32(0))


@compiled
def pair_means(
    first_S: Array, vector_NR: Array, key_KN: Array, weight_KN: Array, least: float, out_S2: Array
) -> None:  # pragma: no cover  (compiled)
    """Means over all pairs of each set of N texts: cosine beyond `least`, and the largest weight of a shared key."""
    for s in prange(len(out_S2)):
        start, end = first_S[s], first_S[s + 1]
        topic, word = 0.0, 0.0
        for i in range(start, end):
            for j in range(i + 1, end):
                cosine = np.float32(0)
                for r in range(vector_NR.shape[1]):
                    cosine += vector_NR[i, r] * vector_NR[j, r]
                topic += max(0.0, cosine - least)
                shared = np.float32(0)
                for k in range(len(key_KN)):
                    if key_KN[k, i] == key_KN[k, j]:
                        shared = max(shared, weight_KN[k, i])
                word += shared
        pairs = max(1, (end - start) * (end - start - 1) // 2)
        out_S2[s, 0] = topic / pairs
        out_S2[s, 1] = word / pairs

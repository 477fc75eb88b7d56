"""Compiled kernels of the topic space and of coherence: sparse products, contexts of tokens, likeness of pairs.

Plain loops; tests/unit/find/topic_twins.py holds a readable twin of each. N tokens, D documents, V words,
W word occurrences, R dimensions, S sets of texts.
"""

from __future__ import annotations

import numpy as np
from numba import prange

from mistudio_find.corpus_index import Array
from mistudio_torch.compiled import compiled


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
def mean_likeness(
    first_S: Array, last_S: Array, vector_NR: Array, key_N: Array, weight_N: Array, how: Array, out_S2: Array
) -> None:  # pragma: no cover  (compiled)
    """Mean likeness of each set's texts by topic, and by key: first_S to last_S, others follow to the next first_S.

    By topic: how[0] of the mean over pairs of texts of the cosine beyond how[1], and the rest of the mean over a text
    and one that follows, copies (a cosine beyond how[2]) left out. By key: the mean weight of pairs that share one.
    """
    for s in prange(len(out_S2)):
        start, middle, end = first_S[s], last_S[s], first_S[s + 1]
        topic, keys, beside = 0.0, 0.0, 0.0
        pairs, across = 0, 0
        for i in range(start, middle):
            for j in range(i + 1, end):
                cosine = np.float32(0)
                for r in range(vector_NR.shape[1]):
                    cosine += vector_NR[i, r] * vector_NR[j, r]
                if j < middle:
                    pairs += 1
                    topic += max(0.0, cosine - how[1])
                    if key_N[i] == key_N[j]:
                        keys += weight_N[i]
                elif cosine <= how[2]:
                    across += 1
                    beside += max(0.0, cosine - how[1])
        topic, keys = topic / max(1, pairs), keys / max(1, pairs)
        if across:
            topic = how[0] * topic + (1 - how[0]) * beside / across
        out_S2[s, 0], out_S2[s, 1] = topic, keys

"""Compiled loops over words: topic vectors of windows, runs of words and how often they stand in the corpus.

W word occurrences, word_W their words, words_D where each document's begin. A run of two or three words
is known by a hash; two that share one count as one, which the table's size makes rare.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import prange

from mistudio_find.corpus_index import Array
from mistudio_torch.compiled import compiled, inlined

SLOTS = 1 << 22
"""Places in the table of runs."""
_LONGEST = 3


@inlined
def _run(word_W: Array, at: int, length: int) -> Any:  # pragma: no cover  (compiled)
    """The place of the run of `length` words from `at` on in a table of SLOTS."""
    h = np.uint64(length)
    for k in range(length):
        h = (h ^ np.uint64(word_W[at + k])) * np.uint64(0x9E3779B97F4A7C15)
        h = h ^ (h >> np.uint64(29))
    return np.int64(h & np.uint64(SLOTS - 1))


@compiled
def count_runs(word_W: Array, words_D: Array, judge_D: Array, count_S: Array) -> None:  # pragma: no cover  (compiled)
    """Adds every run of two and of three words in evidence documents to the table."""
    for half in prange(2):  # each thread takes one length: no two write the same place of its half
        length = half + 2
        for doc in range(len(judge_D)):
            if judge_D[doc]:
                continue
            for at in range(words_D[doc], words_D[doc + 1] - length + 1):
                count_S[half, _run(word_W, at, length)] += 1


@compiled
def find_phrases(
    token_CS: Array,
    value_CS: Array,
    word_T: Array,
    doc_T: Array,
    word_W: Array,
    words_D: Array,
    count_S: Array,
    words: int,
    start_CP: Array,
    length_CP: Array,
    met_CP: Array,
    share_CP: Array,
    lift_CP: Array,
    parts: int,
) -> None:  # noqa: PLR0912  # pragma: no cover  (compiled: calls would copy what they are given)
    """The P runs that most set the words at the strong tokens apart: highest share * ln(lift), met at least twice.

    share: of the strong tokens' activation, what stands in the run. lift: the share of strong tokens in
    the run over the share of the corpus's `words` words that are. start is a word occurrence.
    """
    strong, most = token_CS.shape[1], start_CP.shape[1]
    room = strong * 5
    for part in prange(parts):
        slot, start = np.zeros(room, np.int64), np.zeros(room, np.int64)
        length, met = np.zeros(room, np.int64), np.zeros(room, np.int64)
        mass = np.zeros(room, np.float64)
        for f in range(part, len(token_CS), parts):
            n, total, held = 0, 0.0, 0
            tokens = 0
            for s in range(strong):
                token = token_CS[f, s]
                if token < 0:
                    break
                tokens += 1
                total += value_CS[f, s]
                word, doc = word_T[token], doc_T[token]
                for size in range(2, _LONGEST + 1):
                    for back in range(size):
                        first = word - back
                        if first < words_D[doc] or first + size > words_D[doc + 1]:
                            continue
                        here = _run(word_W, first, size)
                        at = 0
                        while at < n and (slot[at] != here or length[at] != size):
                            at += 1
                        if at == n:
                            slot[at], start[at], length[at], met[at], mass[at] = here, first, size, 0, 0.0
                            n += 1
                        met[at] += 1
                        mass[at] += value_CS[f, s]
            for i in range(n):
                if met[i] < 2 or total <= 0:
                    continue
                corpus = max(met[i], count_S[length[i] - 2, slot[i]]) * length[i] / max(1, words)
                lift = met[i] / tokens / corpus
                share = mass[i] / total
                score = share * np.log(max(lift, 1e-9))
                if score <= 0:
                    continue
                at = held
                while at > 0 and score > share_CP[f, at - 1] * np.log(lift_CP[f, at - 1]):
                    at -= 1
                if at < most:
                    held = min(held + 1, most)
                    for k in range(held - 1, at, -1):
                        start_CP[f, k], length_CP[f, k] = start_CP[f, k - 1], length_CP[f, k - 1]
                        met_CP[f, k], share_CP[f, k] = met_CP[f, k - 1], share_CP[f, k - 1]
                        lift_CP[f, k] = lift_CP[f, k - 1]
                    start_CP[f, at], length_CP[f, at], met_CP[f, at] = start[i], length[i], met[i]
                    share_CP[f, at], lift_CP[f, at] = share, lift


@compiled
def sum_windows(
    word_n: Array, doc_n: Array, word_W: Array, words_D: Array, vector_VR: Array, reach: int, out_nR: Array
) -> None:  # pragma: no cover  (compiled)
    """Sum of the word vectors within `reach` words of each occurrence in its document, at length 1 or 0."""
    for i in prange(len(word_n)):
        doc = doc_n[i]
        row = out_nR[i]
        for at in range(max(words_D[doc], word_n[i] - reach), min(words_D[doc + 1], word_n[i] + reach + 1)):
            vector = vector_VR[word_W[at]]
            for r in range(len(row)):
                row[r] += vector[r]
        norm = 0.0
        for r in range(len(row)):
            norm += row[r] * row[r]
        if norm > 0:
            scale = np.float32(1 / np.sqrt(norm))
            for r in range(len(row)):
                row[r] *= scale

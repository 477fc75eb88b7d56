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


@inlined
def _add_run(
    run_R3: Array, mass_R: Array, n: int, here: int, first: int, length: int, value: float
) -> Any:  # pragma: no cover  (compiled)
    """Counts one run: run_R3 is (place in the table, first word, length) and how often; how many there are now."""
    at = 0
    while at < n and (run_R3[at, 0] != here or run_R3[at, 2] != length):
        at += 1
    if at == n:
        run_R3[at, 0], run_R3[at, 1], run_R3[at, 2], run_R3[at, 3] = here, first, length, 0
        mass_R[at] = 0.0
        n += 1
    run_R3[at, 3] += 1
    mass_R[at] += value
    return n


@inlined
def _keep_best(
    run_R3: Array,
    mass_R: Array,
    n: int,
    tokens: int,
    total: float,
    count_S: Array,
    words: int,
    run_P3: Array,
    figure_P2: Array,
) -> None:  # pragma: no cover  (compiled)
    """The P runs of the highest share * ln(lift) that were met at least twice; figure_P2 is (share, lift)."""
    most, held = len(run_P3), 0
    for i in range(n):
        met, length = run_R3[i, 3], run_R3[i, 2]
        if met < 2 or total <= 0:
            continue
        corpus = max(met, count_S[length - 2, run_R3[i, 0]]) * length / max(1, words)
        lift, share = met / tokens / corpus, mass_R[i] / total
        score = share * np.log(max(lift, 1e-9))
        if score <= 0:
            continue
        at = held
        while at > 0 and score > figure_P2[at - 1, 0] * np.log(figure_P2[at - 1, 1]):
            at -= 1
        if at < most:
            held = min(held + 1, most)
            for k in range(held - 1, at, -1):
                for c in range(3):
                    run_P3[k, c] = run_P3[k - 1, c]
                figure_P2[k, 0], figure_P2[k, 1] = figure_P2[k - 1, 0], figure_P2[k - 1, 1]
            run_P3[at, 0], run_P3[at, 1], run_P3[at, 2] = run_R3[i, 1], length, met
            figure_P2[at, 0], figure_P2[at, 1] = share, lift


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
    run_CP3: Array,
    figure_CP2: Array,
    parts: int,
) -> None:  # pragma: no cover  (compiled)
    """The P runs that most set the words at the strong tokens apart: run (first word, length, met), (share, lift).

    share: of the strong tokens' activation, what stands in the run. lift: the share of strong tokens in the
    run over the share of the corpus's `words` words that are.
    """
    strong = token_CS.shape[1]
    for part in prange(parts):
        run, mass = np.zeros((strong * 5, 4), np.int64), np.zeros(strong * 5, np.float64)
        for f in range(part, len(token_CS), parts):
            n, total, tokens = 0, 0.0, 0
            for s in range(strong):
                token = token_CS[f, s]
                if token < 0:
                    break
                tokens += 1
                total += value_CS[f, s]
                word, doc = word_T[token], doc_T[token]
                for length in range(2, _LONGEST + 1):
                    for back in range(length):
                        first = word - back
                        if words_D[doc] <= first and first + length <= words_D[doc + 1]:
                            n = _add_run(run, mass, n, _run(word_W, first, length), first, length, value_CS[f, s])
            _keep_best(run, mass, n, tokens, total, count_S, words, run_CP3[f], figure_CP2[f])


@inlined
def _window(
    word: int, doc: int, word_W: Array, words_D: Array, vector_VR: Array, reach: int, out_R: Array
) -> None:  # pragma: no cover  (compiled)
    """Sum of the word vectors within `reach` words of an occurrence in its document, at length 1 or 0."""
    out_R[:] = 0
    for at in range(max(words_D[doc], word - reach), min(words_D[doc + 1], word + reach + 1)):
        vector = vector_VR[word_W[at]]
        for r in range(len(out_R)):
            out_R[r] += vector[r]
    norm = np.float32(0)
    for r in range(len(out_R)):
        norm += out_R[r] * out_R[r]
    scale = np.float32(1 / np.sqrt(norm)) if norm > 0 else np.float32(0)
    for r in range(len(out_R)):
        out_R[r] *= scale


@compiled
def sum_windows(
    word_n: Array, doc_n: Array, word_W: Array, words_D: Array, vector_VR: Array, reach: int, out_nR: Array
) -> None:  # pragma: no cover  (compiled)
    """The window of each occurrence, see `_window`."""
    for i in prange(len(word_n)):
        _window(word_n[i], doc_n[i], word_W, words_D, vector_VR, reach, out_nR[i])


@compiled
def direct(
    top_CK: Array,
    word_T: Array,
    doc_T: Array,
    word_W: Array,
    words_D: Array,
    vector_VR: Array,
    reach: int,
    like_CR: Array,
) -> None:  # pragma: no cover  (compiled)
    """Sum over each feature's top tokens of their windows, see `_window`."""
    for f in prange(len(top_CK)):
        window = np.empty(like_CR.shape[1], np.float32)
        for k in range(top_CK.shape[1]):
            token = top_CK[f, k]
            if token < 0:
                break
            _window(word_T[token], doc_T[token], word_W, words_D, vector_VR, reach, window)
            for r in range(len(window)):
                like_CR[f, r] += window[r]

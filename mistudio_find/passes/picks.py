"""Compiled loops over the ranked peaks of a chunk of features: picks, outliers, silent windows.

Names as in figures.py.
"""

from __future__ import annotations

import numpy as np
from numba import prange

from mistudio_find.corpus_index import Array
from mistudio_torch.compiled import compiled, inlined

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


@inlined
def _chance(seed: int, feature: int, at: int) -> float:  # pragma: no cover  (compiled)
    """A number in 0..1 that is a function of its arguments (splitmix64, Steele et al. 2014)."""
    z = np.uint64(seed) * _GOLDEN + np.uint64(feature)
    for step in range(2):
        z = (z ^ np.uint64(at)) + _GOLDEN * np.uint64(step + 1)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        z = z ^ (z >> np.uint64(31))
    return np.float64(z >> np.uint64(11)) / 9007199254740992.0


@inlined
def _same_words(
    a: int, b: int, doc_a: int, doc_b: int, word_W: Array, words_D: Array, reach: int
) -> bool:  # pragma: no cover  (compiled)
    """Whether the words within `reach` of two occurrences are the same, documents' edges included."""
    low_a, low_b = max(words_D[doc_a], a - reach), max(words_D[doc_b], b - reach)
    high_a, high_b = min(words_D[doc_a + 1], a + reach + 1), min(words_D[doc_b + 1], b + reach + 1)
    if high_a - low_a != high_b - low_b:
        return False
    for k in range(high_a - low_a):  # noqa: SIM110  (numba compiles loops)
        if word_W[low_a + k] != word_W[low_b + k]:
            return False
    return True


@inlined
def _keep_different(
    peak_n: Array,
    positions_N: Array,
    doc_N: Array,
    word_T: Array,
    word_W: Array,
    words_D: Array,
    reach: int,
    top_K: Array,
) -> int:  # pragma: no cover  (compiled)
    """The first K peaks no two of which have the same words around them; how many there are."""
    kept, r = 0, 0
    while r < len(peak_n) and kept < len(top_K):
        at, copy = peak_n[r], False
        for k in range(kept):
            other = top_K[k]
            one, two = word_T[positions_N[at]], word_T[positions_N[other]]
            copy = copy or _same_words(one, two, doc_N[at], doc_N[other], word_W, words_D, reach)
        if not copy:
            top_K[kept] = at
            kept += 1
        r += 1
    return kept


@compiled
def pick(
    offsets_C: Array,
    positions_N: Array,
    values_N: Array,
    doc_N: Array,
    peaks_C2: Array,
    peak_N: Array,
    word_T: Array,
    word_W: Array,
    words_D: Array,
    largest_C: Array,
    first_feature: int,
    seed: int,
    reach: int,
    clear: float,
    top_CK: Array,
    quantile_CQ: Array,
    judge_CJ: Array,
    strong_CS: Array,
) -> None:  # pragma: no cover  (compiled)
    """Indices into N of the peaks that stand for each feature; -1 where there are no more.

    strong: the strongest in evidence documents. top: the strongest whose surroundings differ. quantile:
    one from each of Q equal groups of the evidence documents after as many as top has, its place drawn
    from (seed, feature, group). judge: J of the judging documents, evenly over the ranks of those that
    reach `clear` of the largest, or of the first J where these are fewer.
    """
    for f in prange(len(peaks_C2)):
        evidence, judging = peaks_C2[f, 0], peaks_C2[f, 1]
        peaks = peak_N[offsets_C[f] : offsets_C[f] + evidence + judging]
        for r in range(min(evidence, strong_CS.shape[1])):
            strong_CS[f, r] = peaks[r]
        kept = _keep_different(peaks[:evidence], positions_N, doc_N, word_T, word_W, words_D, reach, top_CK[f])
        groups = min(quantile_CQ.shape[1], evidence - kept)
        for group in range(groups):
            first = kept + (evidence - kept) * group // groups
            last = kept + (evidence - kept) * (group + 1) // groups
            quantile_CQ[f, group] = peaks[first + int(_chance(seed, first_feature + f, group) * (last - first))]
        firing = 0
        while firing < judging and values_N[peaks[evidence + firing]] >= clear * largest_C[f]:
            firing += 1
        usable = min(judging, max(firing, judge_CJ.shape[1]))
        wanted = min(usable, judge_CJ.shape[1])
        for j in range(wanted):
            judge_CJ[f, j] = peaks[evidence + (j * (usable - 1) // (wanted - 1) if wanted > 1 else 0)]


@compiled
def find_outliers(
    offsets_C: Array,
    values_N: Array,
    peaks_C2: Array,
    peak_N: Array,
    least: float,
    outlier_CO: Array,
    away_CO: Array,
) -> None:  # pragma: no cover  (compiled)
    """Peaks of evidence documents at least `least` scaled median absolute deviations above their median.

    The deviations of sorted peaks are two sorted runs that meet at the median, so that their median is
    found by walking outwards. Without any spread there are none.
    """
    for f in prange(len(peaks_C2)):
        low, n = offsets_C[f], peaks_C2[f, 0]
        if n < 8:
            continue
        middle = np.float64(values_N[peak_N[low + n // 2]])
        up, down, away = n // 2, n // 2 + 1, 0.0
        for _ in range(n // 2 + 1):
            above = values_N[peak_N[low + up]] - middle if up >= 0 else np.inf
            below = middle - values_N[peak_N[low + down]] if down < n else np.inf
            if above <= below:
                away = above
                up -= 1
            else:
                away = below
                down += 1
        scaled = 1.4826 * away
        if scaled <= 0:
            continue
        for k in range(min(outlier_CO.shape[1], n)):
            at = peak_N[low + k]
            deviations = (values_N[at] - middle) / scaled
            if deviations < least:
                break
            outlier_CO[f, k], away_CO[f, k] = at, deviations


@inlined
def _choose(
    quiet_P: Array, silent_P: Array, likeness_P: Array, start: float, random_R: Array, near_S: Array
) -> None:  # pragma: no cover  (compiled)
    """See `contrast`; takes what it chooses off `quiet_P`."""
    left = 0
    for p in range(len(quiet_P)):
        left += quiet_P[p]
    if left < len(random_R) + len(near_S):
        quiet_P[:] = silent_P
    p, got = int(start * len(quiet_P)), 0
    for _ in range(len(quiet_P)):
        if got == len(random_R):
            break
        if quiet_P[p]:
            random_R[got] = p
            quiet_P[p] = False
            got += 1
        p = p + 1 if p + 1 < len(quiet_P) else 0
    held, least = 0, np.float32(-np.inf)
    for p in range(len(quiet_P)):
        likeness = likeness_P[p]
        if not quiet_P[p] or (held == len(near_S) and likeness <= least):
            continue
        at = held
        while at > 0 and likeness > likeness_P[near_S[at - 1]]:
            at -= 1
        if at < len(near_S):
            held = min(held + 1, len(near_S))
            for k in range(held - 1, at, -1):
                near_S[k] = near_S[k - 1]
            near_S[at] = p
            least = likeness_P[near_S[held - 1]]


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
    """Sum over each feature's top tokens of the topic vector around them, each of length 1 (see `sum_windows`)."""
    for f in prange(len(top_CK)):
        window = np.zeros(like_CR.shape[1], np.float32)
        for k in range(top_CK.shape[1]):
            token = top_CK[f, k]
            if token < 0:
                break
            word, doc = word_T[token], doc_T[token]
            window[:] = 0
            for at in range(max(words_D[doc], word - reach), min(words_D[doc + 1], word + reach + 1)):
                vector = vector_VR[word_W[at]]
                for r in range(len(window)):
                    window[r] += vector[r]
            norm = np.float32(0)
            for r in range(len(window)):
                norm += window[r] * window[r]
            scale = np.float32(1 / np.sqrt(norm)) if norm > 0 else np.float32(0)
            for r in range(len(window)):
                like_CR[f, r] += window[r] * scale


@compiled
def contrast(
    offsets_C: Array,
    positions_N: Array,
    doc_N: Array,
    slot_D: Array,
    window_P2: Array,
    likeness_CP: Array,
    bound: int,
    first_feature: int,
    seed: int,
    random_CR: Array,
    near_CS: Array,
    judge_random_CR: Array,
    judge_near_CS: Array,
    parts: int,
) -> None:  # pragma: no cover  (compiled)
    """Windows of the pool on which each feature is silent: R from a random place on, then the S most alike.

    -1 where there are no more. The pool's first `bound` windows are of evidence documents, the others of
    judging ones; slot_D is the place of each document's window, -1 without one. Windows of documents in
    which the feature is silent throughout come first; where these are too few, any without its activations.
    """
    pool = len(window_P2)
    for part in prange(parts):
        quiet, silent = np.zeros(pool, np.bool_), np.zeros(pool, np.bool_)
        for f in range(part, len(likeness_CP), parts):
            quiet[:] = True
            silent[:] = True
            for i in range(offsets_C[f], offsets_C[f + 1]):
                slot = slot_D[doc_N[i]]
                if slot >= 0:
                    quiet[slot] = False
                    if window_P2[slot, 0] <= positions_N[i] < window_P2[slot, 1]:
                        silent[slot] = False
            start = _chance(seed, first_feature + f, 1 << 20)
            _choose(quiet[:bound], silent[:bound], likeness_CP[f, :bound], start, random_CR[f], near_CS[f])
            _choose(quiet[bound:], silent[bound:], likeness_CP[f, bound:], start, judge_random_CR[f], judge_near_CS[f])

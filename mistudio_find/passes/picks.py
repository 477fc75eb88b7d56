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
def _same_words(low_a: int, high_a: int, low_b: int, high_b: int, word_W: Array) -> bool:  # pragma: no cover
    """Whether two runs of words are the same."""
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
    run_K2: Array,
    top_K: Array,
) -> int:  # pragma: no cover  (compiled)
    """The first K peaks no two of which have the same words around them, documents' edges included; how many.

    run_K2 is room for the first word around each and the one after its last.
    """
    kept, r = 0, 0
    while r < len(peak_n) and kept < len(top_K):
        at = peak_n[r]
        word, doc = word_T[positions_N[at]], doc_N[at]
        low, high = max(words_D[doc], word - reach), min(words_D[doc + 1], word + reach + 1)
        copy = False
        for k in range(kept):
            copy = copy or _same_words(low, high, run_K2[k, 0], run_K2[k, 1], word_W)
        if not copy:
            top_K[kept], run_K2[kept, 0], run_K2[kept, 1] = at, low, high
            kept += 1
        r += 1
    return kept


@inlined
def _as_positions(places_K: Array, positions_N: Array) -> None:  # pragma: no cover  (compiled)
    """Indices into N as tokens; -1 stays."""
    for k in range(len(places_K)):
        if places_K[k] >= 0:
            places_K[k] = positions_N[places_K[k]]


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
    strong_value_CS: Array,
) -> None:  # pragma: no cover  (compiled)
    """Tokens of the peaks that stand for each feature; -1 where there are no more.

    strong: the strongest in evidence documents, with their activations. top: the strongest whose surroundings
    differ. quantile: one from each of Q equal groups of the evidence documents after as many as top has, its place
    drawn from (seed, feature, group). judge: J of the judging documents, evenly over the ranks of those that
    reach `clear` of the largest, or of the first J where these are fewer.
    """
    for f in prange(len(peaks_C2)):
        evidence, judging = peaks_C2[f, 0], peaks_C2[f, 1]
        peaks = peak_N[offsets_C[f] : offsets_C[f] + evidence + judging]
        for r in range(min(evidence, strong_CS.shape[1])):
            strong_CS[f, r], strong_value_CS[f, r] = positions_N[peaks[r]], values_N[peaks[r]]
        run_K2 = np.empty((top_CK.shape[1], 2), np.int64)
        kept = _keep_different(peaks[:evidence], positions_N, doc_N, word_T, word_W, words_D, reach, run_K2, top_CK[f])
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
        _as_positions(top_CK[f], positions_N)
        _as_positions(quantile_CQ[f], positions_N)
        _as_positions(judge_CJ[f], positions_N)


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
    quiet_P: Array, likeness_P: Array, start: float, random_R: Array, near_S: Array
) -> None:  # pragma: no cover
    """See `contrast`; takes what it chooses off `quiet_P`."""
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


@inlined
def _count(flags_P: Array) -> int:  # pragma: no cover  (compiled)
    """How many are set."""
    found = 0
    for p in range(len(flags_P)):
        found += flags_P[p]
    return found


@inlined
def _silence(
    low: int, high: int, positions_N: Array, doc_N: Array, slot_D: Array, window_P2: Array, silent_P: Array
) -> None:  # pragma: no cover  (compiled)
    """Clears the windows that an activation of low..high-1 stands in."""
    for i in range(low, high):
        slot = slot_D[doc_N[i]]
        if slot >= 0:  # half of the activations lie in a window: a branch on that would be guessed wrong
            silent_P[slot] &= (positions_N[i] < window_P2[slot, 0]) | (positions_N[i] >= window_P2[slot, 1])


@compiled
def contrast(
    offsets_C: Array,
    positions_N: Array,
    doc_N: Array,
    peaks_C2: Array,
    peak_N: Array,
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
            low, high = offsets_C[f], offsets_C[f + 1]
            quiet[:] = True
            for r in range(low, low + peaks_C2[f, 0] + peaks_C2[f, 1]):
                slot = slot_D[doc_N[peak_N[r]]]
                if slot >= 0:
                    quiet[slot] = False
            few = _count(quiet[:bound]) < random_CR.shape[1] + near_CS.shape[1]
            judge_few = _count(quiet[bound:]) < judge_random_CR.shape[1] + judge_near_CS.shape[1]
            if few or judge_few:
                silent[:] = True
                _silence(low, high, positions_N, doc_N, slot_D, window_P2, silent)
            if few:
                quiet[:bound] = silent[:bound]
            if judge_few:
                quiet[bound:] = silent[bound:]
            start = _chance(seed, first_feature + f, 1 << 20)
            _choose(quiet[:bound], likeness_CP[f, :bound], start, random_CR[f], near_CS[f])
            _choose(quiet[bound:], likeness_CP[f, bound:], start, judge_random_CR[f], judge_near_CS[f])

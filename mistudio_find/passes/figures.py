"""Compiled loops over the activations of a chunk of features: figures, peaks in order, driving units.

C features with N activations together, feature f at offsets_C[f]..offsets_C[f + 1]; D documents; a peak is
the strongest activation of a document, of which feature f has peaks_C[f], from peak_N[offsets_C[f]] on.
Every feature is the work of one thread. Readable twins stand in tests/unit/find/pass_twins.py.
"""

from __future__ import annotations

import numpy as np
from numba import prange

from mistudio_find.corpus_index import Array
from mistudio_find.passes import BINS, TENTHS
from mistudio_torch.compiled import compiled, inlined

_FEW = 32


@compiled
def widen(bits_N: Array, exponents_N: Array) -> None:  # pragma: no cover  (compiled)
    """Bits of non-negative float16 numbers as bits of float32 numbers 2**112 times too small."""
    for i in prange(len(bits_N)):
        exponents_N[i] = np.uint32(bits_N[i]) << np.uint32(13)


@compiled
def gather(
    offsets_C: Array,
    cursors_C: Array,
    positions_N: Array,
    low: int,
    high: int,
    doc_T: Array,
    unit_T: Array,
    doc_N: Array,
    unit_N: Array,
) -> None:  # pragma: no cover  (compiled)
    """Document and unit of each activation at the tokens low..high-1, whose columns doc_T and unit_T are.

    Positions rise within a feature; cursors_C says where each feature stands, and is moved on.
    """
    for f in prange(len(cursors_C)):
        at, end = cursors_C[f], offsets_C[f + 1]
        while at < end and positions_N[at] < high:
            token = positions_N[at] - low
            doc_N[at], unit_N[at] = doc_T[token], unit_T[token]
            at += 1
        cursors_C[f] = at


@inlined
def _sums(values_n: Array, moments_4: Array) -> None:  # pragma: no cover  (compiled)
    """Sum, largest, sums of squared and of cubed deviations from the mean."""
    top, s1, s2, s3 = np.float32(0), 0.0, 0.0, 0.0
    for i in range(len(values_n)):
        top = max(top, values_n[i])
        v = np.float64(values_n[i])
        s1 += v
        s2 += v * v
        s3 += v * v * v
    mean = s1 / max(1, len(values_n))
    moments_4[0], moments_4[1] = s1, top
    moments_4[2] = max(0.0, s2 - s1 * mean)
    moments_4[3] = s3 - 3 * mean * s2 + 2 * mean * mean * s1


@inlined
def _count_bins(values_n: Array, top: float, histogram_B: Array) -> None:  # pragma: no cover  (compiled)
    """Adds values to bins between 0 and `top`; four tables in turn, so that no count waits for the one before."""
    scale = np.float32(BINS) / top if top > 0 else np.float32(0)
    counts_4B = np.zeros((4, BINS), np.int64)
    for i in range(len(values_n)):
        counts_4B[i & 3, min(np.uint32(values_n[i] * scale), np.uint32(BINS - 1))] += 1
    for b in range(BINS):
        histogram_B[b] += counts_4B[0, b] + counts_4B[1, b] + counts_4B[2, b] + counts_4B[3, b]


@inlined
def _count_tenths(
    positions_n: Array, values_n: Array, doc_n: Array, starts_D: Array, tenths_D: Array, tenths_T: Array
) -> float:  # pragma: no cover  (compiled)
    """Adds activations to the tenths of their documents; the sum of those on first tokens."""
    first = 0.0
    for i in range(len(values_n)):
        doc = doc_n[i]
        place = np.int32(positions_n[i] - starts_D[doc])
        tenths_T[min(np.uint32(np.float32(place) * tenths_D[doc]), np.uint32(TENTHS - 1))] += 1
        first += values_n[i] * (place == 0)
    return first


@inlined
def _peaks(bits_n: Array, doc_n: Array, peak_n: Array) -> int:  # pragma: no cover  (compiled)
    """Place of each document's largest activation, the first of equals; how many.

    What is compared is the bits with, below them, how far the place is from the last one there can be.
    """
    last = np.uint64(0xFFFFFFFF)
    doc, best, n = -1, np.uint64(0), -1
    for i in range(len(bits_n)):
        key = np.uint64(bits_n[i]) << np.uint64(32) | (last - np.uint64(i))
        new = doc_n[i] != doc
        doc = doc_n[i]
        n += new
        best = key if new else max(best, key)
        peak_n[n] = last - (best & last)
    return n + 1


@inlined
def _part(peak_n: Array, doc_N: Array, judge_D: Array) -> int:  # pragma: no cover  (compiled)
    """Puts peaks of judging documents behind the others, both in their order; how many the others are."""
    judging, evidence = 0, 0
    aside = np.empty(len(peak_n), peak_n.dtype)
    for k in range(len(peak_n)):
        i = peak_n[k]
        held_back = judge_D[doc_N[i]]
        aside[judging] = i
        peak_n[evidence] = i
        judging += held_back
        evidence += not held_back
    for k in range(judging):
        peak_n[evidence + k] = aside[k]
    return evidence


@compiled
def measure(
    offsets_C: Array,
    positions_N: Array,
    bits_N: Array,
    values_N: Array,
    doc_N: Array,
    starts_D: Array,
    tenths_D: Array,
    judge_D: Array,
    moments_C4: Array,
    histogram_CB: Array,
    tenths_CT: Array,
    first_C: Array,
    peaks_C2: Array,
    peak_N: Array,
) -> None:  # pragma: no cover  (compiled)
    """Moments (see `_sums`), histogram, tenths, sum on first tokens; peaks.

    Peaks, the first of equals, are those of evidence documents, then those of judging ones; peaks_C2 counts
    both. tenths_D is TENTHS over a document's tokens. Several short loops: each stays free of guesses and waits.
    """
    for f in prange(len(first_C)):
        low, high = offsets_C[f], offsets_C[f + 1]
        _sums(values_N[low:high], moments_C4[f])
        _count_bins(values_N[low:high], np.float32(moments_C4[f, 1]), histogram_CB[f])
        first_C[f] = _count_tenths(
            positions_N[low:high], values_N[low:high], doc_N[low:high], starts_D, tenths_D, tenths_CT[f]
        )
        n = _peaks(bits_N[low:high], doc_N[low:high], peak_N[low:high])
        for k in range(low, low + n):
            peak_N[k] += low
        evidence = _part(peak_N[low : low + n], doc_N, judge_D)
        peaks_C2[f, 0], peaks_C2[f, 1] = evidence, n - evidence


@inlined
def _sort(peak_n: Array, bits_N: Array, packed_n: Array, spare_n: Array, counts_2B: Array) -> None:  # pragma: no cover
    """Puts peaks in order, largest first, stable: two passes over bytes of the bits, kept beside each peak."""
    n = len(peak_n)
    if n <= _FEW:
        for i in range(1, n):
            this = peak_n[i]
            j = i
            while j > 0 and bits_N[peak_n[j - 1]] < bits_N[this]:
                peak_n[j] = peak_n[j - 1]
                j -= 1
            peak_n[j] = this
        return
    counts_2B[:] = 0
    for i in range(n):
        key = np.uint64(0xFFFF) - np.uint64(bits_N[peak_n[i]])
        packed_n[i] = np.uint64(peak_n[i]) << np.uint64(16) | key
        counts_2B[0, (key & np.uint64(255)) + np.uint64(1)] += 1
        counts_2B[1, (key >> np.uint64(8)) + np.uint64(1)] += 1
    for b in range(255):
        counts_2B[0, b + 1] += counts_2B[0, b]
        counts_2B[1, b + 1] += counts_2B[1, b]
    for i in range(n):
        byte = packed_n[i] & np.uint64(255)
        spare_n[counts_2B[0, byte]] = packed_n[i]
        counts_2B[0, byte] += 1
    for i in range(n):
        byte = (spare_n[i] >> np.uint64(8)) & np.uint64(255)
        peak_n[counts_2B[1, byte]] = np.int64(spare_n[i] >> np.uint64(16))
        counts_2B[1, byte] += 1


@compiled
def rank(offsets_C: Array, bits_N: Array, peaks_C2: Array, peak_N: Array, parts: int) -> None:  # pragma: no cover
    """Puts the peaks of evidence documents in order, largest first, earlier first of equals; then the others."""
    widest = max(1, np.max(peaks_C2)) if len(peaks_C2) else 1
    for part in prange(parts):
        packed, spare = np.zeros(widest, np.uint64), np.zeros(widest, np.uint64)
        counts = np.zeros((2, 257), np.int64)
        for f in range(part, len(peaks_C2), parts):
            low, middle = offsets_C[f], offsets_C[f] + peaks_C2[f, 0]
            _sort(peak_N[low:middle], bits_N, packed, spare, counts)
            _sort(peak_N[middle : middle + peaks_C2[f, 1]], bits_N, packed, spare, counts)


@inlined
def _keep_heaviest(
    sums_U2: Array, touched_n: Array, unit_K: Array, count_K: Array, mass_K: Array
) -> None:  # pragma: no cover  (compiled)
    """The K touched units of the largest mass, lower numbers first of equals; clears what was touched."""
    most, held, least = len(unit_K), 0, -1.0
    for t in range(len(touched_n)):
        u = touched_n[t]
        count, mass = sums_U2[u, 0], sums_U2[u, 1]
        sums_U2[u, 0] = sums_U2[u, 1] = 0.0
        if held == most and mass < least:
            continue
        at = held
        while at > 0 and (mass > mass_K[at - 1] or (mass == mass_K[at - 1] and u < unit_K[at - 1])):
            at -= 1
        if at < most:
            held = min(held + 1, most)
            for k in range(held - 1, at, -1):
                unit_K[k], count_K[k], mass_K[k] = unit_K[k - 1], count_K[k - 1], mass_K[k - 1]
            unit_K[at], count_K[at], mass_K[at] = u, count, mass
            least = mass_K[held - 1]


@compiled
def drive(
    offsets_C: Array,
    values_N: Array,
    doc_N: Array,
    unit_N: Array,
    judge_D: Array,
    units: int,
    unit_CK: Array,
    count_CK: Array,
    mass_CK: Array,
    evidence_C2: Array,
    parts: int,
) -> None:  # pragma: no cover  (compiled)
    """The K units with the largest sum of activations in evidence documents, lower numbers first of equals.

    evidence_C2 are the activations there: how many, and their sum. A place without a unit keeps -1.
    """
    for part in prange(parts):
        sums = np.zeros((units, 2), np.float64)  # activations and their sum, side by side in the cache
        touched = np.zeros(units, np.int32)
        for f in range(part, len(unit_CK), parts):
            met, total, n = 0, 0.0, 0
            for i in range(offsets_C[f], offsets_C[f + 1]):
                if judge_D[doc_N[i]]:
                    continue
                u, v = unit_N[i], values_N[i]
                known = sums[u, 0]
                touched[met] = u
                met += known == 0
                sums[u, 0] = known + 1
                sums[u, 1] += v
                total += v
                n += 1
            evidence_C2[f, 0], evidence_C2[f, 1] = n, total
            _keep_heaviest(sums, touched[:met], unit_CK[f], count_CK[f], mass_CK[f])

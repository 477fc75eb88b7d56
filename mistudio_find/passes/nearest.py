"""Compiled loops that keep the K largest of many: cosines of directions, of activations, effects on logits.

Kept values fall, the first one met comes first of equals; a place that nothing is in yet has the id -1.
Every row is the work of one thread. Readable twins stand in tests/unit/find/test_relations.py.
"""

from __future__ import annotations

import numpy as np
from numba import prange

from mistudio_find.corpus_index import Array
from mistudio_torch.compiled import compiled, inlined


@inlined
def _keep(ids_K: Array, values_K: Array, new: int, value: float) -> None:  # pragma: no cover  (compiled)
    """Puts a value in its place among the largest; one that is not larger than the last is not kept."""
    at = len(ids_K) - 1
    while at > 0 and value > values_K[at - 1]:
        ids_K[at], values_K[at] = ids_K[at - 1], values_K[at - 1]
        at -= 1
    ids_K[at], values_K[at] = new, value


@compiled
def keep_largest(
    values_RC: Array, first_row: int, first_column: int, ids_RK: Array, kept_RK: Array
) -> None:  # pragma: no cover  (compiled)
    """Adds columns first_column.. to what rows first_row.. keep; a row does not meet itself."""
    for r in prange(len(ids_RK)):
        least = kept_RK[r, -1]
        for c in range(values_RC.shape[1]):
            if values_RC[r, c] > least and first_column + c != first_row + r:
                _keep(ids_RK[r], kept_RK[r], first_column + c, values_RC[r, c])
                least = kept_RK[r, -1]


@compiled
def keep_both_ends(
    values_RC: Array, columns_C: Array, top_RK: Array, raised_RK: Array, low_RK: Array, lowered_RK: Array
) -> None:  # pragma: no cover  (compiled)
    """Adds columns, known by columns_C, to the largest and to the smallest that rows keep; these are negated."""
    for r in prange(len(top_RK)):
        least, most = raised_RK[r, -1], -lowered_RK[r, -1]
        for c in range(values_RC.shape[1]):
            value = values_RC[r, c]
            if value > least:
                _keep(top_RK[r], raised_RK[r], columns_C[c], value)
                least = raised_RK[r, -1]
            if value < most:
                _keep(low_RK[r], lowered_RK[r], columns_C[c], -value)
                most = -lowered_RK[r, -1]


@compiled
def in_sample(
    offsets_C: Array, positions_N: Array, starts_S: Array, ends_S: Array, bases_S: Array, token_N: Array, count_C: Array
) -> None:  # pragma: no cover  (compiled)
    """Places in the sample of the activations of C features, -1 for those outside; count_C counts those inside.

    The sample are the tokens starts_S..ends_S-1 of S documents, of which the first has the place bases_S.
    """
    for f in prange(len(count_C)):
        at, n = 0, 0
        for i in range(offsets_C[f], offsets_C[f + 1]):
            position = positions_N[i]
            while at < len(starts_S) and ends_S[at] <= position:
                at += 1
            inside = at < len(starts_S) and starts_S[at] <= position
            token_N[i] = position - starts_S[at] + bases_S[at] if inside else -1
            n += inside
        count_C[f] = n


@compiled
def by_token(
    offsets_F: Array,
    token_N: Array,
    value_N: Array,
    starts_T: Array,
    feature_N: Array,
    turned_N: Array,
    bounds_P: Array,
) -> None:  # pragma: no cover  (compiled)
    """Turns activations sorted by feature into ones sorted by token; starts_T is where each token's begin.

    Part p takes the tokens bounds_P[p]..bounds_P[p + 1] - 1 of all features.
    """
    for p in prange(len(bounds_P) - 1):
        low, high = bounds_P[p], bounds_P[p + 1]
        filled = starts_T[low : high + 1].copy()
        for f in range(len(offsets_F) - 1):
            begin, end = offsets_F[f], offsets_F[f + 1]
            at = begin + np.searchsorted(token_N[begin:end], low)
            while at < end and token_N[at] < high:
                place = filled[token_N[at] - low]
                feature_N[place], turned_N[place] = f, value_N[at]
                filled[token_N[at] - low] += 1
                at += 1


@compiled
def correlate(
    offsets_F: Array,
    token_N: Array,
    value_N: Array,
    starts_T: Array,
    feature_M: Array,
    value_M: Array,
    mean_F: Array,
    scale_F: Array,
    mean_G: Array,
    scale_G: Array,
    same: bool,
    ids_FK: Array,
    kept_FK: Array,
    parts: int,
) -> None:  # pragma: no cover  (compiled)
    """The G features most alike each of F features: sum of products less mean_F * mean_G, over both scales.

    mean is the sum over the root of the number of tokens, scale the root of the sum of squares less its
    square: Pearson's correlation; with means of 0 it is the cosine. `same`: both are one set, and a
    feature does not meet itself. Only features that fire together are met, with a figure above 0.
    """
    for p in prange(parts):
        sums = np.zeros(len(mean_G), np.float64)
        for f in range(p, len(offsets_F) - 1, parts):
            for i in range(offsets_F[f], offsets_F[f + 1]):
                token, value = token_N[i], np.float64(value_N[i])
                for j in range(starts_T[token], starts_T[token + 1]):
                    sums[feature_M[j]] += value * value_M[j]
            least = kept_FK[f, -1]
            for g in range(len(sums)):
                if sums[g] == 0:
                    continue
                scale = scale_F[f] * scale_G[g]
                figure = (sums[g] - mean_F[f] * mean_G[g]) / scale if scale > 0 else 0.0
                sums[g] = 0
                if figure > least and figure > 0 and not (same and g == f):
                    _keep(ids_FK[f], kept_FK[f], g, figure)
                    least = kept_FK[f, -1]

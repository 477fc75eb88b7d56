"""Compiled CPU kernels of the sparse step: selection, decoding with its gradients, sums by feature.

Each is a plain loop that numba compiles; `sparse_torch` holds the readable twin of each in plain
torch, which also runs on GPUs. Arrays only, no tensors. B tokens, D widths, F features, G nested
groups, N pairs (token, feature). `parts` is the number of threads that share the work; every sum
is made by one of them in a fixed order, so results do not depend on it.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
from numba import prange

from mistudio_torch.compiled import compiled, inlined

Array = np.ndarray[Any, np.dtype[Any]]


@inlined
def _kth(values: Array, n: int, k: int, most: Any) -> Any:  # pragma: no cover  (compiled)
    """Largest t in 0..most with at least k of values[:n] >= t, by bisection: counting vectorises."""
    low, high = np.int64(0), np.int64(most) + 1
    while high - low > 1:
        middle = (low + high) >> 1
        t = values.dtype.type(middle)
        count = np.int32(0)
        for i in range(n):
            count += np.int32(values[i] >= t)
        if count >= k:
            low = middle
        else:
            high = middle
    return low


@inlined
def _group_maxima(row: Array, maxima: Array) -> None:  # pragma: no cover  (compiled)
    """Largest entry of each strided group: column g of `row` seen as rows of len(maxima) entries."""
    groups = len(maxima)
    for g in range(groups):
        maxima[g] = row[g]
    for start in range(groups, len(row) - groups + 1, groups):
        for g in range(groups):
            maxima[g] = max(maxima[g], row[start + g])


@inlined
def _reaching(row: Array, maxima: Array, bound: Any, found: Array, where: Array) -> Any:  # pragma: no cover  (compiled)
    """Entries of at least `bound`, into `found` and `where`; how many. Groups below it are passed over."""
    groups, n = len(maxima), np.int64(0)
    whole = len(row) // groups * groups
    for g in range(groups):
        if maxima[g] >= bound:
            for f in range(g, whole, groups):
                found[n] = row[f]
                where[n] = f
                n += np.int64(row[f] >= bound)
    for f in range(whole, len(row)):  # the rest that no group holds
        found[n] = row[f]
        where[n] = f
        n += np.int64(row[f] >= bound)
    return n


@inlined
def _keep(
    found: Array, where: Array, n: Any, cut: Any, bits_K: Array, feature_K: Array
) -> None:  # pragma: no cover  (compiled)
    """Those above `cut`, then those at it while there is room; the rest of the outputs is 0."""
    kept = 0
    for i in range(n):
        if found[i] > cut and kept < len(bits_K):
            bits_K[kept] = found[i]
            feature_K[kept] = where[i]
            kept += 1
    for i in range(n):
        if found[i] == cut and kept < len(bits_K):
            bits_K[kept] = found[i]
            feature_K[kept] = where[i]
            kept += 1
    bits_K[kept:] = 0
    feature_K[kept:] = 0


@compiled
def top_k(
    bits_BF: Array, k: int, groups: int, bits_NK: Array, feature_NK: Array, first: int, parts: int
) -> None:  # pragma: no cover  (compiled)
    """The k largest positive entries of each row, to rows `first`.. of the outputs; 0 where there are fewer.

    `bits_BF` are the bits of floats as signed integers, whose order is that of positive floats.
    Maxima over `groups` (>= k) strided groups bound the k-th largest from below, so that only groups
    which reach it are looked into. Of equal entries the first in memory order are kept.
    """
    rows, width = bits_BF.shape
    for part in prange(parts):
        maxima = np.empty(groups, bits_BF.dtype)
        found = np.empty(width + 1, bits_BF.dtype)
        where = np.empty(width + 1, np.int32)
        for b in range(part * rows // parts, (part + 1) * rows // parts):
            row = bits_BF[b]
            _group_maxima(row, maxima)
            most = np.int64(max(maxima.max(), 0))
            bound = max(_kth(maxima, groups, k, most), 1)
            n = _reaching(row, maxima, bound, found, where)
            cut = bound
            if n > k:
                cut = _kth(found, n, k, np.int64(found[:n].max()))
            _keep(found, where, n, cut, bits_NK[first + b], feature_NK[first + b])


@compiled
def count_above(bits_BF: Array, floor: int, count_B: Array, parts: int) -> None:  # pragma: no cover  (compiled)
    """How many entries of each row are at least `floor` (>= 1)."""
    rows, width = bits_BF.shape
    t = bits_BF.dtype.type(floor)
    for part in prange(parts):
        for b in range(part * rows // parts, (part + 1) * rows // parts):
            row = bits_BF[b]
            count = np.int32(0)
            for f in range(width):
                count += np.int32(row[f] >= t)
            count_B[b] = count


@compiled
def take_above(
    bits_BF: Array, floor: int, start_B: Array, bits_N: Array, feature_N: Array, parts: int
) -> None:  # pragma: no cover  (compiled)
    """The entries of each row that are at least `floor`, from `start_B[b]` on, features rising."""
    rows, width = bits_BF.shape
    t = bits_BF.dtype.type(floor)
    for part in prange(parts):
        for b in range(part * rows // parts, (part + 1) * rows // parts):
            row = bits_BF[b]
            at = start_B[b]
            for block in range(0, width, 64):
                end = min(block + 64, width)
                hits = np.int32(0)
                for f in range(block, end):
                    hits += np.int32(row[f] >= t)
                if hits > 0:
                    for f in range(block, end):
                        if row[f] >= t:
                            bits_N[at] = row[f]
                            feature_N[at] = f
                            at += 1


@compiled
def decode(
    target_BD: Array,
    W_dec_FD: Array,
    b_dec_D: Array,
    start_B: Array,
    feature_N: Array,
    value_N: Array,
    group_G: Array,
    factor_G: Array,
    gradient_GBD: Array,
    gradient_N: Array,
    parts: int,
) -> Array:  # pragma: no cover  (compiled)
    """Reconstruction of each token by each nested group, and the gradients that follow from its error.

    Group g decodes with features below `group_G[g]`. The loss is sum_g factor_G[g]/2 * ||error_g||^2.
    `gradient_GBD[g]` becomes the gradient to what group g's own features add (the sum over the groups
    that contain them), `gradient_N` that to each value. A token's decoder rows are read twice while
    they are in the cache. Returns float64 (G,): sums of squared errors.
    """
    groups, rows, width = gradient_GBD.shape
    squares = np.zeros((parts, groups))
    for part in prange(parts):
        error = np.empty(width, np.float32)
        for b in range(part * rows // parts, (part + 1) * rows // parts):
            for d in range(width):
                error[d] = b_dec_D[d] - target_BD[b, d]
            first, last = start_B[b], start_B[b + 1]
            below = np.int64(0)
            for g in range(groups):
                _add_rows(error, W_dec_FD, feature_N, value_N, first, last, below, group_G[g])
                below = group_G[g]
                square = np.float32(0)
                out = gradient_GBD[g, b]
                for d in range(width):
                    square += error[d] * error[d]
                    out[d] = factor_G[g] * error[d]
                squares[part, g] += square
            for g in range(groups - 2, -1, -1):
                for d in range(width):
                    gradient_GBD[g, b, d] += gradient_GBD[g + 1, b, d]
            below = np.int64(0)
            for g in range(groups):
                _dot_rows(gradient_GBD[g, b], W_dec_FD, feature_N, value_N, gradient_N, first, last, below, group_G[g])
                below = group_G[g]
    total: Array = squares.sum(0)
    return total


@inlined
def _add_rows(
    out: Array, table: Array, feature_N: Array, value_N: Array, first: int, last: int, low: Any, high: Any
) -> None:  # pragma: no cover  (compiled)
    """Adds value * row for the pairs first..last-1 whose feature is in low..high-1, four rows at a time."""
    at = first
    while at + 4 <= last:
        f0, f1, f2, f3 = feature_N[at], feature_N[at + 1], feature_N[at + 2], feature_N[at + 3]
        v0 = value_N[at] if low <= f0 < high else np.float32(0)
        v1 = value_N[at + 1] if low <= f1 < high else np.float32(0)
        v2 = value_N[at + 2] if low <= f2 < high else np.float32(0)
        v3 = value_N[at + 3] if low <= f3 < high else np.float32(0)
        if v0 != 0 or v1 != 0 or v2 != 0 or v3 != 0:
            r0, r1, r2, r3 = table[f0], table[f1], table[f2], table[f3]
            for d in range(len(out)):
                out[d] += v0 * r0[d] + v1 * r1[d] + v2 * r2[d] + v3 * r3[d]
        at += 4
    for i in range(at, last):
        f0 = feature_N[i]
        if low <= f0 < high:
            v0, r0 = value_N[i], table[f0]
            for d in range(len(out)):
                out[d] += v0 * r0[d]


@inlined
def _dot_rows(
    vector: Array,
    table: Array,
    feature_N: Array,
    value_N: Array,
    out_N: Array,
    first: int,
    last: int,
    low: Any,
    high: Any,
) -> None:  # pragma: no cover  (compiled)
    """Sets out = vector . row for the pairs first..last-1 with a feature in low..high-1; 0 where a value is 0.

    Four rows at a time where all four are wanted.
    """
    at = first
    while at < last:
        f0 = feature_N[at]
        whole = at + 4 <= last
        if whole:
            for i in range(at, at + 4):
                whole = whole and low <= feature_N[i] < high
        if whole:
            r0, r1, r2, r3 = table[f0], table[feature_N[at + 1]], table[feature_N[at + 2]], table[feature_N[at + 3]]
            s0, s1, s2, s3 = np.float32(0), np.float32(0), np.float32(0), np.float32(0)
            for d in range(len(vector)):
                s0 += vector[d] * r0[d]
                s1 += vector[d] * r1[d]
                s2 += vector[d] * r2[d]
                s3 += vector[d] * r3[d]
            out_N[at] = s0 if value_N[at] > 0 else np.float32(0)
            out_N[at + 1] = s1 if value_N[at + 1] > 0 else np.float32(0)
            out_N[at + 2] = s2 if value_N[at + 2] > 0 else np.float32(0)
            out_N[at + 3] = s3 if value_N[at + 3] > 0 else np.float32(0)
            at += 4
            continue
        if low <= f0 < high:
            row = table[f0]
            total = np.float32(0)
            for d in range(len(vector)):
                total += vector[d] * row[d]
            out_N[at] = total if value_N[at] > 0 else np.float32(0)
        at += 1


@functools.partial(compiled, parallel=False)
def by_feature(
    start_B: Array, feature_N: Array, value_N: Array, start_F: Array, pair_N: Array, token_N: Array
) -> None:  # pragma: no cover  (compiled)
    """Sorts the pairs of positive value by feature, tokens rising (a counting sort).

    `start_F` (F + 1, zeros at first) becomes the first pair of each feature; `pair_N` and `token_N`
    the number and the token of each sorted pair.
    """
    for i in range(len(feature_N)):
        if value_N[i] > 0:
            start_F[feature_N[i] + 1] += 1
    for f in range(len(start_F) - 1):
        start_F[f + 1] += start_F[f]
    free = start_F[:-1].copy()
    for b in range(len(start_B) - 1):
        for i in range(start_B[b], start_B[b + 1]):
            if value_N[i] > 0:
                at = free[feature_N[i]]
                pair_N[at] = i
                token_N[at] = b
                free[feature_N[i]] = at + 1


@compiled
def sum_by_feature(
    x_BD: Array,
    gradient_GBD: Array,
    group_G: Array,
    value_N: Array,
    gradient_N: Array,
    start_F: Array,
    pair_N: Array,
    token_N: Array,
    share_P: Array,
    W_dec_grad_FD: Array,
    W_enc_grad_FD: Array,
    b_enc_grad_F: Array,
) -> None:  # pragma: no cover  (compiled)
    """Gradients of decoder, encoder and encoder bias: sums over the tokens on which a feature fires.

    Features `share_P[p]`..`share_P[p + 1]` are one thread's. Everything is overwritten.
    """
    d_in, d_out = x_BD.shape[1], gradient_GBD.shape[2]
    for part in prange(len(share_P) - 1):
        for f in range(share_P[part], share_P[part + 1]):
            decoder, encoder = W_dec_grad_FD[f], W_enc_grad_FD[f]
            for d in range(d_out):
                decoder[d] = 0
            for d in range(d_in):
                encoder[d] = 0
            g = 0
            while group_G[g] <= f:
                g += 1
            bias = np.float32(0)
            at, last = start_F[f], start_F[f + 1]
            while at + 2 <= last:
                i0, i1 = pair_N[at], pair_N[at + 1]
                t0, t1 = token_N[at], token_N[at + 1]
                v0, v1, u0, u1 = value_N[i0], value_N[i1], gradient_N[i0], gradient_N[i1]
                e0, e1, x0, x1 = gradient_GBD[g, t0], gradient_GBD[g, t1], x_BD[t0], x_BD[t1]
                for d in range(d_out):
                    decoder[d] += v0 * e0[d] + v1 * e1[d]
                for d in range(d_in):
                    encoder[d] += u0 * x0[d] + u1 * x1[d]
                bias += u0 + u1
                at += 2
            if at < last:
                i0, t0 = pair_N[at], token_N[at]
                v0, u0 = value_N[i0], gradient_N[i0]
                e0, x0 = gradient_GBD[g, t0], x_BD[t0]
                for d in range(d_out):
                    decoder[d] += v0 * e0[d]
                for d in range(d_in):
                    encoder[d] += u0 * x0[d]
                bias += u0
            b_enc_grad_F[f] = bias


@compiled
def remove_along(gradient_FD: Array, rows_FD: Array, parts: int) -> None:  # pragma: no cover  (compiled)
    """Takes the part along each unit row out of its gradient, in place."""
    features, width = rows_FD.shape
    for part in prange(parts):
        for f in range(part * features // parts, (part + 1) * features // parts):
            along = np.float32(0)
            for d in range(width):
                along += gradient_FD[f, d] * rows_FD[f, d]
            for d in range(width):
                gradient_FD[f, d] -= along * rows_FD[f, d]


@compiled
def unit_rows(rows_FD: Array, parts: int) -> None:  # pragma: no cover  (compiled)
    """Divides each row by its norm, or by 1e-8 where that is less, in place."""
    features, width = rows_FD.shape
    for part in prange(parts):
        for f in range(part * features // parts, (part + 1) * features // parts):
            square = np.float32(0)
            for d in range(width):
                square += rows_FD[f, d] * rows_FD[f, d]
            factor = np.float32(1) / max(np.sqrt(square), np.float32(1e-8))
            for d in range(width):
                rows_FD[f, d] *= factor

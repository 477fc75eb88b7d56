"""A map in two dimensions of all decoder directions, on which those that point the same way stand together.

A neighbour embedding as in UMAP (McInnes et al. 2018): the graph of nearest directions, laid out from
their two main components by pulls and pushes. It is written here and not taken from a package: umap-learn
and scikit-learn's t-SNE bring a large dependency, and both give another map on another number of threads.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from mistudio_find.corpus_index import Array
from mistudio_find.weights import Decoder, Nearest

NEIGHBOURS = 15
"""Nearest directions of each that make the graph, UMAP's default."""
_ROUNDS, _WIDE_ROUNDS, _WIDE = 400, 200, 10_000
"""Rounds of pulls and pushes; fewer from so many features on."""
_PUSHES = 10
_EXTRA, _POWER_ROUNDS = 6, 4
_BISECTIONS = 40
_START_WIDTH = 10.0


def lay_out(decoder: Decoder, nearest: Nearest, *, seed: int, tick: Callable[[float], None]) -> Array:
    """float64 (F, 2), across and upwards, within 0..1 and as wide as high in scale; `nearest` by decoder cosine.

    A direction of length 0 stands where chance puts it.
    """
    from mistudio_find.passes.layout import settle

    count = len(nearest.ids_FK)
    starts_F, neighbour_E, weight_E = _graph(nearest)
    where_F2 = _start(decoder, seed)
    moved_F2 = np.empty_like(where_F2)
    rounds = _ROUNDS if count < _WIDE else _WIDE_ROUNDS
    for number in range(rounds):
        tick(number / rounds)
        rate = 1.0 - number / rounds
        settle(starts_F, neighbour_E, weight_E, where_F2, moved_F2, _PUSHES, rate, number, seed)
        where_F2, moved_F2 = moved_F2, where_F2
    return _framed(where_F2)


def _framed(where_F2: Array) -> Array:
    """Moved and scaled into the unit square, alike in both directions."""
    low, high = where_F2.min(axis=0), where_F2.max(axis=0)
    extent = float((high - low).max())
    middle = (low + high) / 2
    return np.clip(0.5 + (where_F2 - middle) / extent, 0, 1) if extent > 0 else np.full_like(where_F2, 0.5)


def _graph(nearest: Nearest) -> tuple[Array, Array, Array]:
    """(int64 (F + 1,) starts, int32 (E,) neighbours, float64 (E,) weights within 0..1), the same both ways.

    UMAP's fuzzy union: a neighbour's weight falls with its distance, one less the cosine, on a scale on which a
    feature has log2(K) neighbours; of the two weights of a pair w + v - w v counts.
    """
    ids_FK, count = nearest.ids_FK, len(nearest.ids_FK)
    there_FK = ids_FK >= 0
    away_FK = np.where(there_FK, 1.0 - nearest.values_FK.astype(np.float64), np.inf)
    own_FK = _weights(away_FK)
    row_E = np.repeat(np.arange(count), there_FK.sum(axis=1))
    column_E, weight_E = ids_FK[there_FK].astype(np.int64), own_FK[there_FK]
    keys = np.concatenate([row_E * count + column_E, column_E * count + row_E])
    both = np.concatenate([weight_E, weight_E])
    order = np.argsort(keys, kind="stable")
    keys, both = keys[order], both[order]
    first = np.flatnonzero(np.diff(keys, prepend=-1))
    sums = np.add.reduceat(both, first) if len(first) else both
    products = (
        np.where(np.diff(np.append(first, len(keys))) == 2, np.multiply.reduceat(both, first), 0)
        if len(first)
        else both
    )
    rows, columns = np.divmod(keys[first], max(1, count))
    starts = np.searchsorted(rows, np.arange(count + 1))
    return starts.astype(np.int64), columns.astype(np.int32), sums - products


def _weights(away_FK: Array) -> Array:
    """The exponential of minus the distance behind the nearest over the scale, found by halving."""
    closest_F1 = np.min(np.where(np.isfinite(away_FK), away_FK, 2), axis=1, keepdims=True, initial=2.0)
    behind_FK = np.maximum(0, away_FK - closest_F1)
    target = np.log2(max(2, away_FK.shape[1]))
    low_F1, high_F1 = np.full_like(closest_F1, 1e-6), np.full_like(closest_F1, 1e3)
    for _ in range(_BISECTIONS):
        middle_F1 = np.sqrt(low_F1 * high_F1)
        many_F1 = np.exp(-behind_FK / middle_F1).sum(axis=1, keepdims=True) > target
        low_F1, high_F1 = np.where(many_F1, low_F1, middle_F1), np.where(many_F1, middle_F1, high_F1)
    weights_FK: Array = np.exp(-behind_FK / high_F1)
    return weights_FK


def _start(decoder: Decoder, seed: int) -> Array:
    """float64 (F, 2): the two main components of the directions, with a little chance so that equals can part."""
    rng = np.random.default_rng([seed, 12])
    features, width = decoder.shape
    many = min(2 + _EXTRA, features, width)
    basis_DR = np.linalg.qr(rng.standard_normal((width, many)))[0].astype(np.float32)
    for _ in range(_POWER_ROUNDS):  # orthogonal iteration (Golub and Van Loan 2013, section 8.2.4)
        product_DR = np.zeros((width, many), np.float64)
        for first, last in decoder.blocks():
            unit_RD = decoder.unit(first, last)
            product_DR += unit_RD.T @ (unit_RD @ basis_DR)
        basis_DR = np.linalg.qr(product_DR)[0].astype(np.float32)
    parts_FR = np.concatenate([decoder.unit(first, last) @ basis_DR for first, last in decoder.blocks()])
    where_F2 = np.zeros((features, 2))
    where_F2[:, : min(2, many)] = parts_FR[:, :2]
    where_F2 -= where_F2.mean(axis=0)
    where_F2 *= _START_WIDTH / max(1e-12, float(np.abs(where_F2).max(initial=0)))
    where_F2 += rng.normal(0, 1e-2, where_F2.shape)
    return where_F2

"""A compiled loop that moves points of a map: neighbours pull each other together, all others push apart.

All points move at once from where they were, each by one thread: the map is a function of its start
and the seed. F points at where_F2; the neighbours of f are those from starts_F[f] on.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import prange

from mistudio_find.corpus_index import Array
from mistudio_torch.compiled import compiled, inlined

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


@inlined
def _place(seed: int, at: int, count: int) -> Any:  # pragma: no cover  (compiled)
    """A number in 0..count - 1 that is a function of its arguments (splitmix64, Steele et al. 2014)."""
    z = np.uint64(seed) * _GOLDEN + np.uint64(at) * np.uint64(0xD1342543DE82EF95)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.int64((z ^ (z >> np.uint64(31))) % np.uint64(count))


@inlined
def _bounded(step: float) -> float:  # pragma: no cover  (compiled)
    """A step of at most 4, as in UMAP."""
    return min(4.0, max(-4.0, step))


@compiled
def settle(
    starts_F: Array,
    neighbour_E: Array,
    weight_E: Array,
    where_F2: Array,
    moved_F2: Array,
    pushes: int,
    rate: float,
    round_number: int,
    seed: int,
) -> None:  # pragma: no cover  (compiled)
    """One round into moved_F2: the forces of UMAP (McInnes et al. 2018, section 4.2) with a = b = 1.

    Each neighbour pulls by its weight. `pushes` points drawn at random push as five for each pull would.
    """
    count = len(where_F2)
    for f in prange(count):
        x, y = where_F2[f, 0], where_F2[f, 1]
        go_x, go_y, pulled = 0.0, 0.0, 0.0
        for e in range(starts_F[f], starts_F[f + 1]):
            other, weight = neighbour_E[e], weight_E[e]
            away_x, away_y = x - where_F2[other, 0], y - where_F2[other, 1]
            force = -2.0 / (1.0 + away_x * away_x + away_y * away_y)
            go_x += weight * _bounded(force * away_x)
            go_y += weight * _bounded(force * away_y)
            pulled += weight
        share = 5.0 * pulled / pushes
        for k in range(pushes):
            other = _place(seed + round_number * pushes + k, f, count)
            if other == f:
                continue
            away_x, away_y = x - where_F2[other, 0], y - where_F2[other, 1]
            square = away_x * away_x + away_y * away_y
            force = 2.0 / ((0.001 + square) * (1.0 + square))
            go_x += share * _bounded(force * away_x)
            go_y += share * _bounded(force * away_y)
        moved_F2[f, 0] = x + rate * go_x
        moved_F2[f, 1] = y + rate * go_y

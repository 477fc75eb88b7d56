"""Statistics that several services share: AUROC, a mean, and their bootstrap intervals.

Pure numpy. Owns formulas, not what the scores mean; docs/metrics.md names where each is used.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]
"""Any numpy array; shapes and types stand in the docstrings."""
_MOST_DRAWN = 1_000_000


def auroc(positive: Sequence[float] | Array, negative: Sequence[float] | Array) -> float:
    """Probability that a positive scores above a negative, ties counted half (Mann-Whitney U / nm).

    0.5 where either side is empty: nothing was told apart. Raises ValueError for a non-finite score.
    """
    wins = _wins(positive, negative)
    return float(wins.mean()) if wins.size else 0.5


def auroc_interval(
    positive: Sequence[float] | Array,
    negative: Sequence[float] | Array,
    *,
    seed: int,
    resamples: int = 400,
    level: float = 0.95,
) -> tuple[float, float]:
    """A percentile bootstrap interval of `auroc`, resampling both sides, seeded.

    Each side gets one pseudo-text that ties with every other: otherwise a perfect score of ten
    texts would have an interval of width 0. (0, 1) where either side is empty.
    """
    wins = _wins(positive, negative)
    if not wins.size:
        return 0.0, 1.0
    padded = np.full((wins.shape[0] + 1, wins.shape[1] + 1), 0.5)
    padded[:-1, :-1] = wins
    rng = np.random.default_rng(seed)
    rows, columns = padded.shape
    row_counts = rng.multinomial(rows, np.full(rows, 1 / rows), size=resamples)
    column_counts = rng.multinomial(columns, np.full(columns, 1 / columns), size=resamples)
    means = ((row_counts @ padded) * column_counts).sum(axis=1) / (rows * columns)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    point = float(wins.mean())
    return min(float(low), point), max(float(high), point)


def mean_interval(
    values: Sequence[float] | Array, *, seed: int, resamples: int = 2000, level: float = 0.95
) -> tuple[float, float]:
    """A percentile bootstrap interval of the mean, seeded (Efron and Tibshirani 1993, chapter 13).

    (0, 0) for no values. Raises ValueError for a value that is not finite.
    """
    found = np.asarray(values, np.float64)
    if not np.isfinite(found).all():
        raise ValueError("values must be finite")
    if not found.size:
        return 0.0, 0.0
    rng = np.random.default_rng(seed)
    # a block of resamples at a time: many values do not need a matrix of all of them
    block = max(1, _MOST_DRAWN // found.size)
    means: list[float] = []
    while len(means) < resamples:
        drawn = rng.integers(found.size, size=(min(block, resamples - len(means)), found.size))
        means += found[drawn].mean(axis=1).tolist()
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def _wins(positive: Sequence[float] | Array, negative: Sequence[float] | Array) -> Array:
    """float64 (n, m): 1 where a positive is above a negative, 0.5 where they tie."""
    above, below = np.asarray(positive, np.float64), np.asarray(negative, np.float64)
    if not (np.isfinite(above).all() and np.isfinite(below).all()):
        raise ValueError("scores must be finite")
    wins: Array = (above[:, None] > below) + 0.5 * (above[:, None] == below)
    return wins

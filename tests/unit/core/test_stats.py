"""AUROC against its definition, and intervals that are honest about few texts."""

from __future__ import annotations

import numpy as np
import pytest

from mistudio_core.stats import auroc, auroc_interval, mean_interval


def test_auroc_is_the_share_of_pairs_won():
    assert auroc([3, 4], [1, 2]) == 1.0
    assert auroc([1, 2], [3, 4]) == 0.0
    assert auroc([1, 1], [1]) == 0.5
    rng = np.random.default_rng(0)
    a, b = rng.integers(0, 9, 30), rng.integers(0, 9, 40)
    pairs = [(x > y) + 0.5 * (x == y) for x in a for y in b]
    assert auroc(a, b) == pytest.approx(np.mean(pairs))


def test_an_empty_side_tells_nothing_apart():
    assert auroc([], [1.0]) == 0.5
    assert auroc_interval([1.0], [], seed=0) == (0.0, 1.0)


def test_scores_must_be_finite():
    with pytest.raises(ValueError, match="finite"):
        auroc([float("nan")], [1.0])


def test_interval_holds_the_point_is_seeded_and_narrows_with_texts():
    rng = np.random.default_rng(1)

    def interval(n):
        return auroc_interval(rng.normal(1, 1, n), rng.normal(0, 1, n), seed=3)

    few, many = interval(10), interval(300)
    assert few[1] - few[0] > 2 * (many[1] - many[0])
    a, b = [1.0, 2, 3], [0.0, 1, 2]
    low, high = auroc_interval(a, b, seed=5)
    assert low <= auroc(a, b) <= high
    assert (low, high) == auroc_interval(a, b, seed=5)


def test_a_perfect_score_of_few_texts_is_not_certain():
    low, high = auroc_interval([1.0] * 10, [0.0] * 10, seed=0)
    assert high == 1.0
    assert low < 0.95


def test_the_interval_of_a_mean_covers_it_as_often_as_it_says():
    rng = np.random.default_rng(0)
    covered = 0
    for trial in range(200):
        low, high = mean_interval(rng.exponential(1.0, 60), seed=trial, resamples=300)
        covered += low <= 1.0 <= high
    assert 0.87 <= covered / 200 <= 0.99
    assert mean_interval([2.0, 2.0], seed=0) == (2.0, 2.0)
    assert mean_interval([], seed=0) == (0.0, 0.0)
    with pytest.raises(ValueError, match="finite"):
        mean_interval([float("inf")], seed=0)

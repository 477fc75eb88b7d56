"""Figures against closed forms."""

import pytest
import torch

from mistudio_torch.metrics import MetricAccumulator
from mistudio_torch.sae import SparseCodes


def codes(tokens, features, values):
    return SparseCodes(torch.tensor(tokens), torch.tensor(features), torch.tensor(values, dtype=torch.float32))


def nothing():
    return codes([], [], [])._replace(
        token_N=torch.zeros(0, dtype=torch.int64), feature_N=torch.zeros(0, dtype=torch.int64)
    )


def test_mean_predictor_has_fvu_one_and_perfection_zero():
    torch.manual_seed(0)
    x = torch.randn(300, 7) + 5
    mean, perfect = MetricAccumulator(7, 3), MetricAccumulator(7, 3)
    for part in x.split(64):
        mean.add(part, x.mean(0).expand_as(part), nothing())
        perfect.add(part, part, nothing())
    assert mean.result().fvu == pytest.approx(1.0, abs=1e-6)
    assert perfect.result().fvu == 0 and perfect.result().cosine == pytest.approx(1)
    assert perfect.result().dead_features == 3 and perfect.result().l0 == 0


def test_shrinkage_by_a_half_leaves_a_quarter():
    torch.manual_seed(0)
    x = torch.randn(5000, 4, dtype=torch.float64)
    x -= x.mean(0)
    sums = MetricAccumulator(4, 1)
    sums.add(x, x / 2, nothing())
    assert sums.result().fvu == pytest.approx(0.25) and sums.result().explained_variance == pytest.approx(0.75)


def test_batches_add_up_even_far_from_the_origin():
    torch.manual_seed(0)
    x = torch.randn(1000, 5) + 1e4
    x_hat = x + 0.1 * torch.randn(1000, 5)
    one, many = MetricAccumulator(5, 1), MetricAccumulator(5, 1)
    one.add(x, x_hat, nothing())
    for a, b in zip(x.split(10), x_hat.split(10), strict=True):
        many.add(a, b, nothing())
    expected = float((x - x_hat).double().square().sum() / (x.double() - x.double().mean(0)).square().sum())
    assert one.result().fvu == pytest.approx(expected, rel=1e-9)
    assert many.result().fvu == pytest.approx(expected, rel=1e-7)


def test_counts():
    sums = MetricAccumulator(1, 4)
    x = torch.tensor([[1.0], [2.0]])
    sums.add(x, x, codes([0, 0, 1], [1, 2, 1], [2.0, 4.0, 2.0]))
    result = sums.result()
    assert (result.tokens, result.l0, result.density) == (2, 1.5, 0.375)
    assert (result.active_features, result.dead_features) == (2, 2)
    assert result.mean_activation == 1.0 and sums.fired_F.tolist() == [0, 2, 1, 0]


def test_nothing_added():
    with pytest.raises(ValueError, match="no batch"):
        MetricAccumulator(1, 1).result()

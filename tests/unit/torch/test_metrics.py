"""Reconstruction and sparsity figures: closed forms, the slow twin, plain numpy, and any cut into batches."""

import dataclasses
import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mistudio_core.errors import Failed
from mistudio_torch.metrics import DENSITY_LOG10_EDGES, METRICS_VERSION, MetricAccumulator, reference
from mistudio_torch.metrics.reconstruction import density_histogram
from mistudio_torch.sae import SparseCodes


def sparse(codes_NF):
    token_N, feature_N = torch.nonzero(codes_NF, as_tuple=True)
    return SparseCodes(token_N, feature_N, codes_NF[token_N, feature_N])


def measured(y_ND, y_hat_ND, codes_NF=None, cuts=()):
    """Figures with the rows cut into batches at `cuts`."""
    codes_NF = torch.zeros(len(y_ND), 3) if codes_NF is None else codes_NF
    sums = MetricAccumulator(y_ND.shape[1], codes_NF.shape[1])
    edges = [0, *sorted(cuts), len(y_ND)]
    for start, end in itertools.pairwise(edges):
        sums.add(y_ND[start:end], y_hat_ND[start:end], sparse(codes_NF[start:end]))
    return sums.result()


def example(seed, tokens=60, width=5, features=7, offset=0.0):
    """Random targets, reconstructions of them and codes, with a dead, a dense and a rare feature."""
    torch.manual_seed(seed)
    y_ND = torch.randn(tokens, width) * torch.rand(width) + offset
    codes_NF = torch.relu(torch.randn(tokens, features) - 1)
    codes_NF[:, 0], codes_NF[:, 1] = 0, torch.rand(tokens) + 0.1
    codes_NF[:, 2] = 0
    codes_NF[tokens // 2, 2] = 3.0
    return y_ND, 0.9 * y_ND + 0.2 * torch.randn(tokens, width), codes_NF


def test_mean_predictor_has_fvu_one_and_perfection_zero():
    y = example(0, tokens=300, offset=5.0)[0]
    mean, perfect = measured(y, y.mean(0).expand_as(y), cuts=(64, 100)), measured(y, y, cuts=(7, 9))
    assert mean.fvu == pytest.approx(1.0, abs=1e-6) and mean.explained_variance == pytest.approx(0.0, abs=1e-6)
    assert mean.explained_variance_uncentred > 0.9, "the mean alone explains much about zero, and nothing centred"
    assert perfect.fvu == 0 and perfect.explained_variance == perfect.explained_variance_uncentred == 1
    assert perfect.cosine == pytest.approx(1) and perfect.norm_ratio == 1
    assert (perfect.dead_features, perfect.active_features, perfect.l0, perfect.l1) == (3, 0, 0, 0)
    assert sum(perfect.density_histogram) == 0 and METRICS_VERSION == "2"


def test_shrinkage_by_a_half_leaves_a_quarter():
    torch.manual_seed(0)
    y = torch.randn(5000, 4, dtype=torch.float64)
    y -= y.mean(0)
    half = measured(y, y / 2, cuts=(1000,))
    assert half.fvu == pytest.approx(0.25) and half.explained_variance == pytest.approx(0.75)
    assert half.norm_ratio == pytest.approx(0.5) and half.cosine == pytest.approx(1)
    assert half.explained_variance_uncentred == pytest.approx(0.75), "the same number where the mean is zero"


def test_angles_and_lengths():
    y = torch.tensor([[3.0, 4.0], [1.0, 0.0], [0.0, 2.0], [0.0, 0.0]])
    y_hat = torch.tensor([[4.0, 3.0], [0.0, 5.0], [0.0, -1.0], [1.0, 1.0]])
    found = measured(y, y_hat)
    assert found.cosine == pytest.approx((24 / 25 + 0 - 1 + 0) / 4), "a zero vector has cosine 0"
    assert found.norm_ratio == pytest.approx((1 + 5 + 0.5) / 3), "and no ratio"


def test_counts_and_activations():
    codes = torch.zeros(20, 4)
    codes[0, 1], codes[0, 2], codes[1, 1], codes[2, 1] = 2.0, 4.0, 2.0, 2.0
    y = torch.arange(20.0)[:, None]
    found = measured(y, y, codes, cuts=(1, 2, 19))
    assert (found.tokens, found.l0, found.l1) == (20, 4 / 20, 10 / 20)
    assert (found.density, found.mean_activation) == (4 / 80, 10 / 80)
    assert (found.active_features, found.dead_features) == (2, 2)
    assert found.dense_features == 1, "3 of 20 is more than a tenth, 1 of 20 is not"
    codes[2, 1] = 0
    assert measured(y, y, codes).dense_features == 0, "a tenth is not more than a tenth"


def test_density_histogram():
    assert DENSITY_LOG10_EDGES[0] == -7 and DENSITY_LOG10_EDGES[-1] == 0 and len(DENSITY_LOG10_EDGES) == 29
    fired = torch.tensor([0, 1, 10, 999, 1000, 10_000, 10**7, 1_000_000])
    bins = density_histogram(fired, 10**7)
    by_edge = {edge: count for edge, count in zip(DENSITY_LOG10_EDGES, bins, strict=False) if count}
    assert by_edge == {-7.0: 1, -6.0: 1, -4.25: 1, -4.0: 1, -3.0: 1, -1.0: 1, -0.25: 1}
    assert density_histogram(torch.tensor([1]), 10**9)[0] == 1, "what is rarer still lies in the first bin"


@pytest.mark.parametrize("offset", (0.0, 30.0))
@pytest.mark.parametrize("seed", range(3))
def test_the_slow_twin_agrees(seed, offset):
    y, y_hat, codes = example(seed, offset=offset)
    found = dataclasses.asdict(measured(y, y_hat, codes, cuts=(11, 12, 50)))
    expected = reference.sae_figures(y.numpy(), y_hat.numpy(), codes.numpy())
    assert set(found) == set(expected)
    assert list(found.pop("density_histogram")) == expected.pop("density_histogram")
    assert found == pytest.approx(expected, rel=1e-9)
    assert expected["dead_features"] == 1 and 1 <= expected["dense_features"] < 7


def test_plain_numpy_agrees():
    y, y_hat, codes = example(9, tokens=400, width=16, features=40)
    a, b, f = y.double().numpy(), y_hat.double().numpy(), codes.double().numpy()
    found = measured(y, y_hat, codes, cuts=range(37, 400, 37))
    assert found.fvu == pytest.approx(np.square(a - b).sum() / (a.var(axis=0) * len(a)).sum(), rel=1e-12)
    assert found.cosine == pytest.approx(np.mean(np.einsum("nd,nd->n", a, b) / np.sqrt((a**2).sum(1) * (b**2).sum(1))))
    assert found.norm_ratio == pytest.approx(np.mean(np.linalg.norm(b, axis=1) / np.linalg.norm(a, axis=1)))
    assert found.l0 == np.count_nonzero(f) / 400 and found.l1 == pytest.approx(f.sum() / 400)
    frequency = np.count_nonzero(f, axis=0) / 400
    counts, _ = np.histogram(np.log10(frequency[frequency > 0]), np.array(DENSITY_LOG10_EDGES))
    assert list(found.density_histogram) == counts.tolist() and found.dense_features == (frequency > 0.1).sum()


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 1000),
    offset=st.sampled_from((0.0, 1.0, 1e4)),
    cuts=st.lists(st.integers(0, 60), max_size=12),
)
def test_no_cut_into_batches_changes_a_figure(seed, offset, cuts):
    y, y_hat, codes = example(seed, offset=offset)
    whole, parts = (dataclasses.asdict(measured(y, y_hat, codes, cuts=c)) for c in ((), cuts))
    assert whole.pop("density_histogram") == parts.pop("density_histogram")
    for name in ("tokens", "l0", "density", "dead_features", "active_features", "dense_features"):
        assert whole.pop(name) == parts.pop(name)
    assert parts == pytest.approx(whole, rel=1e-9, abs=1e-12)


def test_mean_and_variance_far_from_the_origin():
    y, y_hat, codes = example(1, tokens=1000, offset=1e4)
    sums = MetricAccumulator(5, 7)
    for start in range(0, 1000, 10):
        sums.add(y[start : start + 10], y_hat[start : start + 10], sparse(codes[start : start + 10]))
    a = y.double()
    assert sums.result().fvu == pytest.approx(
        float((a - y_hat.double()).square().sum() / (a - a.mean(0)).square().sum()), rel=1e-10
    )
    torch.testing.assert_close(sums.mean_D, a.mean(0), rtol=1e-14, atol=0)
    assert sums.fired_F.tolist() == (codes > 0).sum(0).tolist()


def test_targets_that_are_not_the_input():
    torch.manual_seed(0)
    target, reconstruction = torch.randn(50, 3), torch.randn(50, 3)
    codes = torch.relu(torch.randn(50, 11))
    found = measured(target, reconstruction, codes)
    error = (target - reconstruction).double().square().sum() / (target - target.mean(0)).double().square().sum()
    assert found.fvu == pytest.approx(float(error), rel=1e-6) and found.l0 == int((codes > 0).sum()) / 50


@pytest.mark.parametrize(("error", "fvu"), ((0.0, 0.0), (0.5, 1.0)))
def test_targets_without_spread(error, fvu):
    y = torch.ones(4, 2)
    found = measured(y, y + error)
    assert found.fvu == fvu and math.isfinite(found.explained_variance)


def test_what_cannot_be_measured():
    with pytest.raises(ValueError, match="no batch"):
        MetricAccumulator(1, 1).result()
    y = torch.tensor([[1.0], [float("nan")]])
    with pytest.raises(Failed, match="NaN"):
        measured(y, y)
    y = torch.tensor([[1.0], [2.0]])
    with pytest.raises(Failed, match="NaN"):
        measured(y, y * float("inf"))

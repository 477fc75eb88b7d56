"""SAEs of every architecture: training that works, folding, inference, dead features."""

import pytest
import torch

from mistudio_core.errors import InvalidInput, Unsupported
from mistudio_torch.sae import ARCHITECTURES, SaeShape, make_sae
from mistudio_torch.sae.base import PENALISED, TOP_K_FAMILY
from mistudio_torch.sae.normalisation import Normalisation, geometric_median
from mistudio_torch.sae.resample import resample

B, D, F, K = 512, 12, 40, 3
EVERY = pytest.mark.parametrize("architecture", sorted(ARCHITECTURES))


def activations(width=D):
    generator = torch.Generator().manual_seed(0)
    chosen = torch.rand(B, 20, generator=generator) * (torch.rand(B, 20, generator=generator) < 0.15)
    return chosen @ torch.randn(20, width, generator=generator)


def trained(architecture, steps=250, target=None, seed=1):
    raw = activations()
    norm = Normalisation.of(raw)
    x = norm.apply(raw)
    out = x if target is None else target
    sae = make_sae(
        SaeShape(
            architecture=architecture,
            d_in=D,
            d_sae=F,
            d_out=out.shape[1],
            k=K,
            sparsity_coeff=2e-3 if architecture == "jumprelu" else 2e-2,
        )
    )
    sae.initialise(seed, x, out)
    optimizer = torch.optim.Adam(sae.parameters(), lr=1e-2)
    losses = []
    for step in range(steps):
        losses.append(sae.backward(x, out, torch.zeros(F, dtype=torch.bool), min(1.0, step / 25)))
        sae.before_step()
        optimizer.step()
        sae.after_step()
    return sae, x, losses, norm


def unexplained(target, found):
    return float((target - found).square().sum() / (target - target.mean(0)).square().sum())


@EVERY
def test_training_reconstructs_with_few_features(architecture):
    sae, x, losses, _ = trained(architecture)
    assert float(losses[-1].fvu) < 0.35 and float(losses[-1].fvu) < 0.5 * float(losses[0].fvu)
    found, codes = sae.reconstruct(x)
    assert (codes.value_N > 0).all() and len(codes.value_N) / B < 0.4 * F
    assert unexplained(x, found) == pytest.approx(float(losses[-1].fvu), abs=0.06)
    assert losses[-1].fired_F.dtype == torch.bool and float(losses[-1].total) > 0
    if architecture in TOP_K_FAMILY:
        torch.testing.assert_close(sae.W_dec_FD.norm(dim=1), torch.ones(F))
        assert float(losses[-1].l0) <= K


@EVERY
def test_training_is_the_same_bit_for_bit_and_a_matter_of_the_seed(architecture):
    one, other, third = (trained(architecture, 20, seed=seed)[0].state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert not torch.equal(one["W_dec_FD"], third["W_dec_FD"])


@EVERY
def test_folding_reads_and_writes_raw_activations(architecture):
    sae, x, _, norm = trained(architecture, 60)
    raw = activations()
    folded = sae.folded(norm, norm)
    inner, codes = sae.reconstruct(x)
    outer, outer_codes = folded.reconstruct(raw)
    torch.testing.assert_close(outer, inner / norm.scale + norm.mean_D, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(outer_codes.value_N * norm.scale, codes.value_N, rtol=1e-3, atol=1e-3)
    assert torch.equal(outer_codes.feature_N, codes.feature_N)


@EVERY
def test_transcoders_write_another_width(architecture):
    target = activations(9) * 3 + 5
    out = Normalisation.of(target)
    sae, x, losses, norm = trained(architecture, target=out.apply(target))
    assert float(losses[-1].fvu) < 0.5
    found, _ = sae.folded(norm, out).reconstruct(activations())
    inner, _ = sae.reconstruct(x)
    torch.testing.assert_close(found, inner / out.scale + out.mean_D, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("architecture", TOP_K_FAMILY)
def test_the_auxiliary_loss_reaches_dead_features_only(architecture):
    sae, x, _, _ = trained(architecture, 5)
    dead_F = torch.zeros(F, dtype=torch.bool)
    dead_F[[3, 7]] = True
    with torch.no_grad():
        sae.b_enc_F[dead_F] = -5.0
        sae.W_enc_FD[dead_F] *= 0.1
    gradients = []
    for marked in (torch.zeros_like(dead_F), dead_F):
        with torch.no_grad():
            sae.b_enc_F[dead_F] = 0.01 if marked.any() else -5.0
        loss = sae.backward(x, x, marked, 1.0)
        gradients.append(sae.W_dec_FD.grad.clone())
    assert gradients[1][dead_F].abs().sum() > 0 and not gradients[0][dead_F].any()
    assert float(loss.total) > float(loss.fvu) or architecture == "matryoshka"


@pytest.mark.parametrize("architecture", PENALISED)
def test_dead_features_start_anew_where_the_error_is(architecture):
    sae, x, _, _ = trained(architecture, 30)
    optimizer = torch.optim.Adam(sae.parameters(), lr=1e-2)
    sae.backward(x, x, torch.zeros(F, dtype=torch.bool), 1.0)
    optimizer.step()
    dead_F = torch.zeros(F, dtype=torch.bool)
    dead_F[:5] = True
    with torch.no_grad():
        sae.W_dec_FD[:5] = 0
    before = sae.W_dec_FD.detach().clone()
    assert resample(sae, optimizer, x, x, dead_F, seed=0) == 5
    torch.testing.assert_close(sae.W_dec_FD[:5].norm(dim=1), torch.ones(5))
    assert torch.equal(sae.W_dec_FD[5:], before[5:])
    moments = optimizer.state[sae.W_dec_FD]["exp_avg"]
    assert not moments[:5].any() and moments[5:].any()
    assert resample(sae, optimizer, x, x, torch.zeros_like(dead_F), seed=0) == 0


def test_thresholds_of_batch_top_k_give_k_at_inference():
    sae, x, _, _ = trained("batchtopk")
    assert len(sae.encode(x).value_N) / B == pytest.approx(K, rel=0.15)


@pytest.mark.parametrize("smaller", (1, 20))
def test_some_features_of_jump_relu_fire_at_first(smaller):
    x = torch.randn(B, D, generator=torch.Generator().manual_seed(0))
    target = x if smaller == 1 else torch.randn(B, 9, generator=torch.Generator().manual_seed(1)) / smaller
    sae = make_sae(SaeShape(architecture="jumprelu", d_in=D, d_sae=F, d_out=target.shape[1]))
    sae.initialise(0, x, target)
    assert len(set(sae.threshold_F.tolist())) == 1 and 0 < sae.threshold_F.tolist()[0] <= 1
    assert 0.01 < len(sae.encode(x).value_N) / (B * F) < 0.2


def test_matryoshka_prefixes_reconstruct_by_themselves():
    sae, x, _, _ = trained("matryoshka")
    codes = sae.encode(x)
    fvus = []
    for end in sae.group_ends:
        keep = codes.feature_N < end
        fvus.append(unexplained(x, sae.decode(type(codes)(*(c[keep] for c in codes)), B)))
    assert sae.group_ends == (2, 5, 10, 20, 40)
    assert fvus == sorted(fvus, reverse=True) and fvus[0] < 0.95 and fvus[-1] < 0.35


def test_normalisation_ignores_sinks_and_finds_the_median():
    x = torch.randn(1000, 6, generator=torch.Generator().manual_seed(0)) * 0.5 + 3
    usual = Normalisation.of(x)
    with_sinks = torch.cat([x, torch.full((5, 6), 1e4)])
    robust = Normalisation.of(with_sinks)
    torch.testing.assert_close(robust.mean_D, usual.mean_D, rtol=1e-3, atol=1e-3)
    assert robust.scale == pytest.approx(usual.scale, rel=1e-3)
    assert usual.apply(x).square().sum(1).mean() == pytest.approx(6, rel=1e-3)
    line = torch.tensor([[0.0], [1.0], [2.0], [3.0], [1000.0]])
    assert float(geometric_median(line)) == pytest.approx(2.0, abs=1e-2)
    assert Normalisation.of(torch.ones(4, 3)).scale == 1.0


def test_shapes_are_checked():
    for architecture in TOP_K_FAMILY:
        with pytest.raises(InvalidInput, match="hidden_dim"):
            SaeShape(architecture=architecture, d_in=4, d_sae=3, k=4)
    with pytest.raises(Unsupported):
        make_sae(SaeShape(architecture="crosscoder", d_in=4, d_sae=4))

"""The sparse step: compiled kernels against plain torch, and both against autograd over dense codes."""

import numpy as np
import pytest
import torch

from mistudio_torch.sae import SaeShape, kernels, make_sae, sparse, sparse_torch

B, D, F, K = 70, 12, 331, 5
"""No multiple of anything: the rest that no group, block or pair of rows holds takes part."""


def untrained(architecture, d_out=D):
    sae = make_sae(SaeShape(architecture=architecture, d_in=D, d_sae=F, d_out=d_out, k=K))
    generator = torch.Generator().manual_seed(0)
    for parameter in sae.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator) * 0.3
    return sae, torch.randn(B, D, generator=generator), torch.randn(B, d_out, generator=generator)


def dense(selection):
    codes = torch.zeros(B, F, dtype=torch.float64)
    token_N = torch.repeat_interleave(torch.arange(B), selection.start_B.diff())
    return codes.index_put((token_N, selection.feature_N.long()), selection.value_N.double(), accumulate=True)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("width", "k"), [(331, 5), (64, 64), (7, 3), (4096, 32)])
def test_top_k_keeps_the_largest(dtype, width, k):
    pre = torch.randn(50, width, generator=torch.Generator().manual_seed(1)).to(dtype)
    pre[3] = -1.0  # nothing positive
    pre[4] = 1.0  # all equal
    pre[5, :2] = 7.0
    bits, features = torch.empty(50, k, dtype=dtype), torch.empty(50, k, dtype=torch.int32)
    kernels.top_k(sparse._bits(pre), k, sparse._groups(width, k), sparse._bits(bits), features.numpy(), 0, 2)
    expected = pre.float().topk(k, dim=1).values.relu()
    assert torch.equal(bits.float().sort(descending=True).values, expected)
    taken = pre.float().gather(1, features.long()) * (bits > 0)
    assert torch.equal(taken, bits.float())
    alive = (bits > 0).sum(1).tolist()
    assert all(len(set(row[:n])) == n for row, n in zip(features.tolist(), alive, strict=True))


@pytest.mark.parametrize("floor", [0.0, 1e-4, 0.5, 50.0])
def test_top_of_batch_is_exact_whatever_the_guess(floor):
    sae, x, _ = untrained("batchtopk")
    found, least = sparse.top_of_batch(x, sae.W_enc_FD.data, sae.b_enc_F.data, K, floor=floor)
    slices = sparse.pre_activations(x, sae.W_enc_FD.data, sae.b_enc_F.data, exact=False)
    twin, twin_least = sparse_torch.top_of_batch(slices, B, B * K)
    assert least == pytest.approx(float(twin_least))
    assert len(found.value_N) == B * K and float(found.value_N.sum()) == pytest.approx(float(twin.value_N.sum()))
    above = dense(twin) > least  # of equal values at the edge either may be kept
    torch.testing.assert_close(dense(found)[above], dense(twin)[above])


def test_top_of_batch_of_equal_or_negative_pre_activations():
    zero = torch.zeros(F, D)
    found, least = sparse.top_of_batch(torch.randn(B, D), zero, torch.ones(F), K, floor=0.3)
    assert len(found.value_N) == B * K and least == 1.0
    found, _ = sparse.top_of_batch(torch.randn(B, D), zero, -torch.ones(F), K, floor=0.3)
    assert not found.value_N.any()


@pytest.mark.parametrize("architecture", ["topk", "batchtopk", "matryoshka"])
@pytest.mark.parametrize("d_out", [D, 9])
def test_gradients_are_those_of_dense_autograd(architecture, d_out):
    sae, x, target = untrained(architecture, d_out)
    selection = sae.select(x)
    factor = torch.linspace(0.5, 1.5, len(sae.group_ends))
    fast = sparse.gradients(sae, x, target, selection, factor)
    twin = sparse_torch.gradients(sae, x, target, selection, factor)
    weights = [w.detach().double().requires_grad_() for w in (sae.W_enc_FD, sae.b_enc_F, sae.W_dec_FD, sae.b_dec_D)]
    codes = dense(selection)
    pre = x.double() @ weights[0].t() + weights[1]
    codes = torch.where(codes > 0, codes + pre - pre.detach(), 0)  # the rounded value, the exact gradient
    loss, squares = 0.0, []
    for end, weight in zip(sae.group_ends, factor, strict=True):
        error = codes[:, :end] @ weights[2][:end] + weights[3] - target.double()
        squares.append(error.square().sum())
        loss = loss + weight / 2 * squares[-1]
    expected = torch.autograd.grad(loss, weights)
    for found in (fast, twin):
        for got, want in zip((found.W_enc_FD, found.b_enc_F, found.W_dec_FD, found.b_dec_D), expected, strict=True):
            torch.testing.assert_close(got, want.float(), rtol=2e-4, atol=2e-4)
        torch.testing.assert_close(found.squares_G.double(), torch.stack(squares), rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(found.error_BD, error.float(), rtol=1e-4, atol=1e-4)
        assert torch.equal(found.fired_F, (codes > 0).any(0))


def test_results_do_not_depend_on_the_number_of_threads():
    sae, x, target = untrained("matryoshka")
    before, results = torch.get_num_threads(), []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        selection = sae.select(x)
        results.append(sparse.gradients(sae, x, target, selection, torch.ones(len(sae.group_ends))))
    torch.set_num_threads(before)
    for name in ("W_enc_FD", "b_enc_F", "W_dec_FD", "b_dec_D", "error_BD"):
        assert torch.equal(getattr(results[0], name), getattr(results[1], name))


def test_decoder_rows_keep_their_norm_and_the_gradient_its_tangent():
    sae, x, target = untrained("topk")
    sae.after_step()
    torch.testing.assert_close(sae.W_dec_FD.norm(dim=1), torch.ones(F))
    sae.backward(x, target, torch.zeros(F, dtype=torch.bool), 1.0)
    sae.before_step()
    along_F = (sae.W_dec_FD.grad * sae.W_dec_FD.detach()).sum(1)
    assert float(along_F.abs().max()) < 1e-5


def test_what_is_not_a_number_reaches_the_loss():
    sae, x, _ = untrained("topk")
    x[3, 2] = torch.nan
    assert not torch.isfinite(sae.backward(x, x, torch.zeros(F, dtype=torch.bool), 1.0).total)


def test_pre_activations_come_in_slices():
    x, W, b = torch.randn(100, D), torch.randn(F, D), torch.randn(F)
    slices = [(first, pre.clone()) for first, pre in sparse.pre_activations(x, W, b, exact=True)]
    assert [first for first, _ in slices] == list(range(0, 100, len(slices[0][1])))
    torch.testing.assert_close(torch.cat([pre for _, pre in slices]), x @ W.t() + b)
    assert np.array_equal(np.argsort(sparse._bits(torch.tensor([0.5, 2.0, 1.0]))), [0, 2, 1])

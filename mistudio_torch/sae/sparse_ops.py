"""Fast paths for codes with exactly K active features a token, each with a slow readable twin.

A batch's gradients to a feature's weights are sums over the tokens where it fires. Sorted by
feature they are one `embedding_bag` each: no dense (B, F) product, no atomic adds, so the result
is the same from run to run. `tests/unit/torch/test_sparse_ops.py` compares the twins.
"""

from __future__ import annotations

import warnings
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import embedding_bag


class FeatureMajor(NamedTuple):
    """The pairs (token, feature) of a batch, sorted by feature, tokens rising."""

    order_N: Tensor
    """int64: where each sorted pair lies in the flat (B*K) codes."""
    token_N: Tensor
    """int64: token of each sorted pair."""
    offsets_F: Tensor
    """int64: first pair of each feature."""
    counts_F: Tensor
    """int64: pairs of each feature."""


def feature_major(index_BK: Tensor, d_sae: int) -> FeatureMajor:
    """Sorts the pairs of a batch by feature, stably."""
    flat_N = index_BK.reshape(-1)
    order_N = torch.argsort(flat_N.to(torch.int32), stable=True)
    counts_F = torch.bincount(flat_N, minlength=d_sae)
    return FeatureMajor(order_N, order_N // index_BK.shape[1], torch.cumsum(counts_F, 0) - counts_F, counts_F)


def sum_by_feature(rows_BD: Tensor, weight_BK: Tensor, pairs: FeatureMajor) -> Tensor:
    """(F, D): for each feature the sum of weight * row over the tokens where it fires."""
    weights_N = weight_BK.reshape(-1)[pairs.order_N]
    return embedding_bag(pairs.token_N, rows_BD, pairs.offsets_F, mode="sum", per_sample_weights=weights_N)


def dots(rows_BD: Tensor, table_FD: Tensor, index_BK: Tensor) -> Tensor:
    """(B, K): row b of `rows_BD` times row index_BK[b, j] of `table_FD`, as one sampled product."""
    batch, k = index_BK.shape
    starts_B1 = torch.arange(0, batch * k + 1, k, device=index_BK.device)
    zeros_N = torch.zeros(batch * k, dtype=rows_BD.dtype, device=index_BK.device)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # torch says once that CSR is beta
        mask = torch.sparse_csr_tensor(
            starts_B1, index_BK.reshape(-1), zeros_N, (batch, len(table_FD)), check_invariants=False
        )
    products: Tensor = torch.sparse.sampled_addmm(mask, rows_BD, table_FD.t(), beta=0.0)
    return products.values().view(batch, k)


class SparseDecode(torch.autograd.Function):
    """x_hat_BD = sum over j of value_BK[:, j] * W_dec_FD[index_BK[:, j]]."""

    @staticmethod
    def forward(ctx: Any, value_BK: Tensor, W_dec_FD: Tensor, index_BK: Tensor, pairs: FeatureMajor) -> Tensor:
        """See the class."""
        ctx.save_for_backward(value_BK, W_dec_FD, index_BK)
        ctx.pairs = pairs
        return embedding_bag(index_BK, W_dec_FD, mode="sum", per_sample_weights=value_BK)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None, None]:
        """Gradients to values and decoder; none to indices."""
        value_BK, W_dec_FD, index_BK = ctx.saved_tensors
        grad_BD = grads[0].contiguous()
        return dots(grad_BD, W_dec_FD, index_BK), sum_by_feature(grad_BD, value_BK, ctx.pairs), None, None


class SparseEncode(torch.autograd.Function):
    """value_BK = relu(pre_BF)[index_BK] for pre_BF = x_BD W_enc^T + b_enc_F, which the caller has computed.

    No gradient flows to x_BD: activations of the language model are data.
    """

    @staticmethod
    def forward(
        ctx: Any, value_BK: Tensor, x_BD: Tensor, W_enc_FD: Tensor, b_enc_F: Tensor, pairs: FeatureMajor
    ) -> Tensor:
        """`value_BK`: the kept pre-activations after ReLU, made without gradients."""
        ctx.save_for_backward(value_BK, x_BD)
        ctx.pairs = pairs
        return value_BK.clone()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[None, None, Tensor, Tensor, None]:
        """Gradients to the encoder's weights and biases."""
        value_BK, x_BD = ctx.saved_tensors
        grad_BK = grads[0] * (value_BK > 0)
        weights_N1 = grad_BK.reshape(-1, 1)
        sums_F1 = embedding_bag(ctx.pairs.order_N, weights_N1, ctx.pairs.offsets_F, mode="sum")
        return None, None, sum_by_feature(x_BD, grad_BK, ctx.pairs), sums_F1.squeeze(1), None


def topk_slow(x_BD: Tensor, W_enc_FD: Tensor, b_enc_F: Tensor, W_dec_FD: Tensor, k: int) -> Tensor:
    """The twin of `topk_fast`: dense codes, plain autograd. Returns x_hat_BD before b_dec."""
    pre_BF = x_BD @ W_enc_FD.t() + b_enc_F
    top = pre_BF.topk(k, dim=1)
    codes_BF = torch.zeros_like(pre_BF).scatter(1, top.indices, top.values.relu())
    return codes_BF @ W_dec_FD


def topk_fast(
    x_BD: Tensor, W_enc_FD: Tensor, b_enc_F: Tensor, W_dec_FD: Tensor, k: int
) -> tuple[Tensor, Tensor, FeatureMajor]:
    """x_hat_BD before b_dec, the kept values_BK and the sorted pairs, with gradients to the weights."""
    with torch.no_grad():
        pre_BF = torch.addmm(b_enc_F, x_BD, W_enc_FD.t())
        top = pre_BF.topk(k, dim=1, sorted=False)
        value_BK, index_BK = top.values.relu(), top.indices
        pairs = feature_major(index_BK, len(b_enc_F))
    kept_BK: Tensor = SparseEncode.apply(  # type: ignore[no-untyped-call]
        value_BK, x_BD, W_enc_FD, b_enc_F, pairs
    )
    x_hat_BD: Tensor = SparseDecode.apply(kept_BK, W_dec_FD, index_BK, pairs)  # type: ignore[no-untyped-call]
    return x_hat_BD, value_BK, pairs

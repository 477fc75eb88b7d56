"""The sparse step in plain torch: the readable twin of `kernels`, and what runs on GPUs.

Sums over the tokens of a feature are one `embedding_bag` over pairs sorted by feature: no dense
(B, F) product and no atomic adds. Nothing here waits for the device. Shapes as in `sparse`.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn.functional import embedding_bag

from mistudio_torch.sae.sparse import Selection, SparseGradients

if TYPE_CHECKING:
    from mistudio_torch.sae.base import SparseSae

_PAIRS_A_TIME = 1 << 17
"""Pairs whose decoder rows are gathered at a time."""


def top_k(slices: Iterator[tuple[int, Tensor]], n_tokens: int, k: int) -> tuple[Tensor, Tensor]:
    """(feature_BK int32, value_BK float32) of the k largest of each row, negative ones as 0."""
    features, values = [], []
    for _, pre_CF in slices:
        top = pre_CF.topk(k, dim=1, sorted=False)
        features.append(top.indices.int())
        values.append(top.values.float().relu())
    return torch.cat(features)[:n_tokens], torch.cat(values)[:n_tokens]


def top_of_batch(slices: Iterator[tuple[int, Tensor]], n_tokens: int, wanted: int) -> tuple[Selection, Tensor]:
    """The `wanted` largest positive entries of all slices, and the least of them (a scalar on the device)."""
    values, places, width = [], [], 0
    for first, pre_CF in slices:
        width = pre_CF.shape[1]
        top = pre_CF.flatten().topk(min(wanted, pre_CF.numel()), sorted=False)
        values.append(top.values.float())
        places.append(top.indices + first * width)
    top = torch.cat(values).topk(wanted, sorted=False)
    place_N, order_N = torch.cat(places)[top.indices].sort()
    value_N = top.values[order_N].relu()
    edges_B = torch.arange(n_tokens + 1, device=place_N.device) * width
    selection = Selection(
        start_B=torch.searchsorted(place_N, edges_B), feature_N=(place_N % width).int(), value_N=value_N
    )
    return selection, value_N.min()


def gradients(
    sae: SparseSae, x_BD: Tensor, target_BD: Tensor, selection: Selection, factor_G: Tensor
) -> SparseGradients:
    """See `sparse.gradients`."""
    feature_N, value_N = selection.feature_N.long(), selection.value_N
    pairs = torch.arange(len(feature_N), device=x_BD.device)
    token_N = torch.searchsorted(selection.start_B, pairs, right=True) - 1
    ends_G = _on_device(tuple(sae.group_ends), x_BD.device)
    group_N = torch.searchsorted(ends_G, feature_N, right=True)
    W_dec_FD = sae.W_dec_FD.detach()
    errors, x_hat_BD = [], sae.b_dec_D.detach()
    for g in range(len(sae.group_ends)):
        part_BD = embedding_bag(
            feature_N, W_dec_FD, selection.start_B[:-1], mode="sum", per_sample_weights=value_N * (group_N == g)
        )
        x_hat_BD = x_hat_BD + part_BD
        errors.append(x_hat_BD - target_BD)
    error_GBD = torch.stack(errors)
    squares_G = error_GBD.double().square().sum((1, 2))
    weighted_GBD = error_GBD * factor_G.to(error_GBD)[:, None, None]
    grad_GBD = weighted_GBD.flip(0).cumsum(0).flip(0)
    grad_N = _dots(grad_GBD, W_dec_FD, group_N, token_N, feature_N) * (value_N > 0)
    order_N = torch.argsort(feature_N, stable=True)
    sorted_N = feature_N[order_N]
    start_F = torch.searchsorted(sorted_N, torch.arange(sae.shape.d_sae, device=x_BD.device))

    def sums(rows_RD: Tensor, row_N: Tensor, weight_N: Tensor) -> Tensor:
        return embedding_bag(row_N[order_N], rows_RD, start_F, mode="sum", per_sample_weights=weight_N[order_N])

    rows_N = group_N * len(x_BD) + token_N
    fires_N = (value_N > 0).to(value_N.dtype)
    ones_N1 = torch.ones(len(x_BD), 1, device=x_BD.device)
    return SparseGradients(
        W_enc_FD=sums(x_BD, token_N, grad_N),
        b_enc_F=sums(ones_N1, token_N, grad_N).squeeze(1),
        W_dec_FD=sums(grad_GBD.flatten(0, 1), rows_N, value_N),
        b_dec_D=grad_GBD[0].sum(0),
        squares_G=squares_G,
        error_BD=error_GBD[-1],
        fired_F=sums(ones_N1, token_N, fires_N).squeeze(1) > 0,
    )


@lru_cache(maxsize=64)
def _on_device(values: tuple[int, ...], device: torch.device) -> Tensor:
    """Numbers as a tensor; sent to a GPU once, since the host waits for that."""
    return torch.tensor(values, device=device)


def _dots(grad_GBD: Tensor, W_dec_FD: Tensor, group_N: Tensor, token_N: Tensor, feature_N: Tensor) -> Tensor:
    """(N,): gradient of the pair's token and group . decoder row of its feature, a part at a time."""
    out = torch.empty(len(feature_N), device=grad_GBD.device)
    for first in range(0, len(feature_N), _PAIRS_A_TIME):
        part = slice(first, first + _PAIRS_A_TIME)
        torch.sum(grad_GBD[group_N[part], token_N[part]] * W_dec_FD[feature_N[part]], 1, out=out[part])
    return out

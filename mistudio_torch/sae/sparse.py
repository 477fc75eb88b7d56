"""The sparse step of the top-k family: which pairs fire, what they reconstruct, all gradients.

The encoder product is the only dense one, and it is made a slice of the batch at a time: memory
does not grow with B x F. On the CPU the rest is `kernels`, elsewhere `sparse_torch`, its readable
twin. B tokens, D widths, F features, G nested groups, N pairs (token, feature).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:
    from mistudio_torch.sae.base import SparseSae

Array = np.ndarray[Any, np.dtype[Any]]

_GUESSES = 12
_SLICE_BYTES = 8 << 20
"""Pre-activations held at a time: what stays in a processor's cache."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Selection:
    """The pairs of a batch that fire, token-major."""

    start_B: Tensor
    """int64 (B + 1,): first pair of each token."""
    feature_N: Tensor
    """int32 (N,): feature of each pair."""
    value_N: Tensor
    """float32 (N,): activation; a pair of value 0 does not fire."""

    @staticmethod
    def empty(n_tokens: int) -> Selection:
        """Nothing fires."""
        starts_B = torch.zeros(n_tokens + 1, dtype=torch.int64)
        return Selection(start_B=starts_B, feature_N=torch.empty(0, dtype=torch.int32), value_N=torch.empty(0))


@dataclass(frozen=True, kw_only=True, slots=True)
class SparseGradients:
    """What one backward pass gives, without autograd."""

    W_enc_FD: Tensor
    """Gradient of the encoder."""
    b_enc_F: Tensor
    """Gradient of its bias."""
    W_dec_FD: Tensor
    """Gradient of the decoder."""
    b_dec_D: Tensor
    """Gradient of its bias."""
    squares_G: Tensor
    """float64: sum of squared errors of each group."""
    error_BD: Tensor
    """Reconstruction minus target of the whole dictionary (the last group)."""
    fired_F: Tensor
    """bool: features that fired."""


def has_fast_bfloat16() -> bool:
    """Whether the processor multiplies bfloat16 matrices in hardware."""
    capabilities = torch.cpu.get_capabilities()
    return any(capabilities.get(name) for name in ("avx512_bf16", "amx_bf16", "arm_bf16", "bf16"))


def pre_activations(x_BD: Tensor, W_enc_FD: Tensor, b_enc_F: Tensor, *, exact: bool) -> Iterator[tuple[int, Tensor]]:
    """(first token, pre_CF) of slices of the batch, in bfloat16 where that is fast and `exact` is not asked for.

    A slice is overwritten by the next one.
    """
    dtype = torch.bfloat16 if not exact and (x_BD.is_cuda or has_fast_bfloat16()) else torch.float32
    x_BD, W_enc_FD, b_enc_F = x_BD.to(dtype), W_enc_FD.to(dtype), b_enc_F.to(dtype)
    rows = max(16, _SLICE_BYTES // (len(b_enc_F) * dtype.itemsize))
    if x_BD.is_cuda:
        rows = max(rows, (1 << 30) // (len(b_enc_F) * dtype.itemsize))
    out_CF = torch.empty(min(rows, len(x_BD)), len(b_enc_F), dtype=dtype, device=x_BD.device)
    for first in range(0, len(x_BD), rows):
        part_CD = x_BD[first : first + rows]
        yield first, torch.addmm(b_enc_F, part_CD, W_enc_FD.t(), out=out_CF[: len(part_CD)])


def top_k(x_BD: Tensor, W_enc_FD: Tensor, b_enc_F: Tensor, k: int, *, exact: bool = False) -> Selection:
    """The k largest positive pre-activations of each token."""
    start_B = torch.arange(0, len(x_BD) * k + 1, k, device=x_BD.device)
    if x_BD.device.type != "cpu":
        from mistudio_torch.sae import sparse_torch

        slices = pre_activations(x_BD, W_enc_FD, b_enc_F, exact=exact)
        feature_BK, value_BK = sparse_torch.top_k(slices, len(x_BD), k)
        return Selection(start_B=start_B, feature_N=feature_BK.reshape(-1), value_N=value_BK.reshape(-1))
    from mistudio_torch.compiled import threads
    from mistudio_torch.sae import kernels

    parts = threads(torch.get_num_threads())
    feature_BK = torch.empty(len(x_BD), k, dtype=torch.int32)
    value_BK = torch.empty(0)
    for first, pre_CF in pre_activations(x_BD, W_enc_FD, b_enc_F, exact=exact):
        if first == 0:
            value_BK = torch.empty(len(x_BD), k, dtype=pre_CF.dtype)
        kernels.top_k(_bits(pre_CF), k, _groups(pre_CF.shape[1], k), _bits(value_BK), feature_BK.numpy(), first, parts)
    return Selection(start_B=start_B, feature_N=feature_BK.view(-1), value_N=value_BK.float().view(-1))


def _bits(values: Tensor) -> Array:
    """The bits of floats as signed integers: in the order of the floats where these are positive."""
    return values.detach().view(torch.int16 if values.element_size() == 2 else torch.int32).numpy()


def _groups(width: int, k: int) -> int:
    """Strided groups whose maxima bound the k-th largest: at least 4 k of them, at most 16 entries each."""
    return min(width, max(4 * k, width // 16))


def top_of_batch(
    x_BD: Tensor, W_enc_FD: Tensor, b_enc_F: Tensor, k: int, *, floor: float
) -> tuple[Selection, Tensor | float]:
    """The B * k largest positive pre-activations of the batch, and the least of them.

    `floor` is a guess from below of the least one kept: only what reaches it is looked at; a guess
    that was too high or too low costs another pass, never exactness.
    """
    wanted = len(x_BD) * k
    if x_BD.device.type != "cpu":
        from mistudio_torch.sae import sparse_torch

        return sparse_torch.top_of_batch(pre_activations(x_BD, W_enc_FD, b_enc_F, exact=False), len(x_BD), wanted)
    floor = floor if floor > 0 else _guess(x_BD, W_enc_FD, b_enc_F, k)
    low, high = 0.0, float("inf")  # too much lies above `low`, too little above `high`
    for _ in range(_GUESSES):
        found = _above(x_BD, W_enc_FD, b_enc_F, floor, most=max(4 * wanted, 1 << 20))
        if found is None:
            low, floor = floor, 1.5 * floor if high == float("inf") else (floor + high) / 2
        elif len(found.value_N) < wanted and floor > 0:
            high, floor = floor, (low + floor) / 2 if floor > 1e-3 else 0.0
        else:
            return _cut(found, wanted)
    found = _above(x_BD, W_enc_FD, b_enc_F, low, most=1 << 62)  # many equal values: take them all, then cut
    return _cut(found, wanted) if found is not None else (Selection.empty(len(x_BD)), 0.0)


def _guess(x_BD: Tensor, W_enc_FD: Tensor, b_enc_F: Tensor, k: int) -> float:
    """A little less than what the first 64 tokens would keep."""
    some_RF = torch.addmm(b_enc_F, x_BD[:64], W_enc_FD.t())
    return 0.9 * max(float(some_RF.flatten().topk(len(some_RF) * k).values[-1]), 0.0)


def _above(x_BD: Tensor, W_enc_FD: Tensor, b_enc_F: Tensor, floor: float, *, most: int) -> Selection | None:
    """Every pre-activation that is positive and at least `floor`; None where there are more than `most`."""
    from mistudio_torch.compiled import threads
    from mistudio_torch.sae import kernels

    parts = threads(torch.get_num_threads())
    counts, features, values, total = [], [], [], 0
    for _, pre_CF in pre_activations(x_BD, W_enc_FD, b_enc_F, exact=False):
        bits_CF = _bits(pre_CF)
        least = max(1, int(_bits(torch.tensor([floor], dtype=pre_CF.dtype))[0]))
        count_C = np.empty(len(bits_CF), np.int64)
        kernels.count_above(bits_CF, least, count_C, parts)
        total += int(count_C.sum())
        if total > most:
            return None
        ends_C = np.cumsum(count_C)
        bits_N, feature_N = np.empty(ends_C[-1], bits_CF.dtype), np.empty(ends_C[-1], np.int32)
        kernels.take_above(bits_CF, least, ends_C - count_C, bits_N, feature_N, parts)
        counts.append(count_C)
        features.append(feature_N)
        values.append(torch.from_numpy(bits_N).view(pre_CF.dtype))
    start_B = np.concatenate([np.zeros(1, np.int64), np.cumsum(np.concatenate(counts))])
    return Selection(
        start_B=torch.from_numpy(start_B),
        feature_N=torch.from_numpy(np.concatenate(features)),
        value_N=torch.cat(values).float(),
    )


def _cut(found: Selection, wanted: int) -> tuple[Selection, float]:
    """The `wanted` largest of the pairs found; of equal ones the first."""
    if len(found.value_N) <= wanted:
        least = float(found.value_N.min()) if len(found.value_N) else 0.0
        return found, least
    order = found.value_N.argsort(descending=True, stable=True)[:wanted]
    least = float(found.value_N[order[-1]])
    kept_N = order.sort().values
    sums = torch.zeros(len(found.value_N) + 1, dtype=torch.int64)
    sums[kept_N + 1] = 1
    start_B = sums.cumsum(0)[found.start_B]
    return Selection(start_B=start_B, feature_N=found.feature_N[kept_N], value_N=found.value_N[kept_N]), least


def gradients(
    sae: SparseSae, x_BD: Tensor, target_BD: Tensor, selection: Selection, factor_G: Tensor
) -> SparseGradients:
    """All gradients of sum_g factor_G[g]/2 * ||reconstruction_g - target||^2; see `kernels.decode`."""
    groups = sae.group_ends
    if x_BD.device.type != "cpu":
        from mistudio_torch.sae import sparse_torch

        return sparse_torch.gradients(sae, x_BD, target_BD, selection, factor_G)
    from mistudio_torch.compiled import threads
    from mistudio_torch.sae import kernels

    parts = threads(torch.get_num_threads())
    start_B, feature_N, value_N = (t.numpy() for t in (selection.start_B, selection.feature_N, selection.value_N))
    group_G, factors_G = np.asarray(groups, np.int64), factor_G.float().numpy()
    features, d_in, d_out = sae.shape.d_sae, x_BD.shape[1], target_BD.shape[1]
    grad_GBD = torch.empty(len(groups), len(x_BD), d_out)
    grad_N = np.zeros(len(feature_N), np.float32)
    x, target = x_BD.contiguous().numpy(), target_BD.contiguous().numpy()
    squares_G = kernels.decode(
        target,
        sae.W_dec_FD.detach().numpy(),
        sae.b_dec_D.detach().numpy(),
        start_B,
        feature_N,
        value_N,
        group_G,
        factors_G,
        grad_GBD.numpy(),
        grad_N,
        parts,
    )
    start_F, pairs = _sorted_pairs(start_B, feature_N, value_N, features)
    W_dec_FD, W_enc_FD, b_enc_F = torch.empty(features, d_out), torch.empty(features, d_in), torch.empty(features)
    kernels.sum_by_feature(
        x,
        grad_GBD.numpy(),
        group_G,
        value_N,
        grad_N,
        start_F,
        *pairs,
        _shares(start_F, parts),
        W_dec_FD.numpy(),
        W_enc_FD.numpy(),
        b_enc_F.numpy(),
    )
    last = float(factors_G[-1])
    return SparseGradients(
        W_enc_FD=W_enc_FD,
        b_enc_F=b_enc_F,
        W_dec_FD=W_dec_FD,
        b_dec_D=grad_GBD[0].sum(0),
        squares_G=torch.from_numpy(squares_G),
        error_BD=grad_GBD[-1] / last,
        fired_F=torch.from_numpy(np.diff(start_F) > 0),
    )


def _sorted_pairs(start_B: Array, feature_N: Array, value_N: Array, features: int) -> tuple[Array, tuple[Array, Array]]:
    """First sorted pair of each feature, and number and token of each sorted pair."""
    from mistudio_torch.sae import kernels

    start_F = np.zeros(features + 1, np.int64)
    pair_N, token_N = (np.empty(len(feature_N), np.int32) for _ in range(2))
    kernels.by_feature(start_B, feature_N, value_N, start_F, pair_N, token_N)
    return start_F, (pair_N, token_N)


def _shares(start_F: Array, parts: int) -> Array:
    """Features in shares of equal numbers of pairs, more shares than threads so that none waits long."""
    share_P = np.searchsorted(start_F, np.linspace(0, start_F[-1], 4 * parts + 1)).astype(np.int64)
    share_P[0], share_P[-1] = 0, len(start_F) - 1
    return share_P

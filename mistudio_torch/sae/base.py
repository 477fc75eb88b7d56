"""What every sparse autoencoder shares: shape, weights, one training step's loss, the way to raw activations.

An SAE maps x_BI to codes and to y_hat_BO: pre_BF = x_BI W_enc^T + b_enc_F, y_hat = codes_BF W_dec + b_dec_O
(+ x W_skip^T). An autoencoder has y = x; a transcoder reads one hook and writes another. Both matrices
are kept feature-major. Owns no optimiser, data or files.
"""

from __future__ import annotations

import abc
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor, nn

from mistudio_core.errors import InvalidInput
from mistudio_torch.sae import sparse
from mistudio_torch.sae.normalisation import Normalisation

TOP_K_FAMILY = ("topk", "batchtopk", "matryoshka")
"""Architectures whose sparsity is set by `k`."""
PENALISED = ("standard", "jumprelu", "gated")
"""Architectures whose sparsity is set by `sparsity_coeff`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SaeShape:
    """What an SAE is before it has weights."""

    architecture: str
    """Name in the registry, for example `topk`."""
    d_in: int
    """Width I of what it reads."""
    d_sae: int
    """Number of features F."""
    d_out: int = 0
    """Width O of what it writes; 0: that of what it reads."""
    k: int = 32
    """Features that fire a token, top-k family only."""
    sparsity_coeff: float = 1e-3
    """Weight of the sparsity penalty; standard, jumprelu and gated only."""
    skip: bool = False
    """Whether a linear map from input to output runs beside the features (skip transcoders, import only)."""

    def __post_init__(self) -> None:
        if self.d_in < 1 or self.d_sae < 1:
            raise InvalidInput.field("hidden_dim", self.d_sae, "at least 1")
        if not self.d_out:
            object.__setattr__(self, "d_out", self.d_in)
        if self.architecture in TOP_K_FAMILY and not 1 <= self.k <= self.d_sae:
            raise InvalidInput.field(
                "k", self.k, f"1 to hidden_dim, which is {self.d_sae}", "Lower k or raise hidden_dim."
            )


class SparseCodes(NamedTuple):
    """Non-zero codes of a batch, token-major."""

    token_N: Tensor
    """int64: row of the batch."""
    feature_N: Tensor
    """int64: feature that fires."""
    value_N: Tensor
    """float32: activation, positive."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StepLoss:
    """What one backward pass leaves beside the gradients; tensors on the SAE's device, detached."""

    total: Tensor
    """Scalar that was differentiated."""
    fvu: Tensor
    """Scalar: ||y - y_hat||^2 / ||y - mean(y)||^2 over the batch."""
    l0: Tensor
    """Scalar: mean number of features that fire on a token."""
    fired_F: Tensor
    """bool: features that fired in the batch."""


class Sae(nn.Module, abc.ABC):
    """Base of the architectures: weights and their handling."""

    def __init__(self, shape: SaeShape) -> None:
        """Zero weights of the right shapes."""
        super().__init__()
        self.shape = shape
        self.W_enc_FD = nn.Parameter(torch.zeros(shape.d_sae, shape.d_in))
        self.b_enc_F = nn.Parameter(torch.zeros(shape.d_sae))
        self.W_dec_FD = nn.Parameter(torch.zeros(shape.d_sae, shape.d_out))
        self.b_dec_D = nn.Parameter(torch.zeros(shape.d_out))
        self.W_skip_OI = nn.Parameter(torch.zeros(shape.d_out, shape.d_in)) if shape.skip else None

    @torch.no_grad()
    def initialise(self, seed: int, x_BD: Tensor, target_BD: Tensor) -> None:
        """Directions of features from the data, see `start_directions`; the bias is the targets' geometric median.

        An autoencoder's encoder starts as the transpose of its decoder (Gao et al. 2024, A.1).
        """
        from mistudio_torch.sae.start import start_directions

        encoder_FD, decoder_FD, bias_D = start_directions(self.shape, seed, x_BD, target_BD)
        self.W_enc_FD.copy_(encoder_FD)
        self.W_dec_FD.copy_(decoder_FD)
        self.b_enc_F.zero_()
        self.b_dec_D.copy_(bias_D)

    def pre_activations(self, x_BD: Tensor) -> Tensor:
        """pre_BF, before any non-linearity."""
        return torch.addmm(self.b_enc_F, x_BD, self.W_enc_FD.t())

    @abc.abstractmethod
    def encode(self, x_BD: Tensor) -> SparseCodes:
        """Non-zero codes as at inference, without gradients."""

    @abc.abstractmethod
    def backward(self, x_BD: Tensor, target_BD: Tensor, dead_F: Tensor, sparsity: float) -> StepLoss:
        """Loss of a training batch; leaves its gradients in `.grad` of the parameters, whatever was there.

        `dead_F` (bool) marks the features that have not fired for long; `sparsity` (0..1) scales the
        penalty while it warms up.
        """

    @torch.no_grad()
    def decode(self, codes: SparseCodes, n_tokens: int) -> Tensor:
        """What the features write, y_hat_BO without the skip map, no gradients."""
        counts_B = torch.bincount(codes.token_N, minlength=n_tokens)
        offsets_B = torch.cumsum(counts_B, 0) - counts_B
        sums_BD = nn.functional.embedding_bag(
            codes.feature_N, self.W_dec_FD, offsets_B, mode="sum", per_sample_weights=codes.value_N
        )
        return sums_BD + self.b_dec_D

    @torch.no_grad()
    def reconstruct(self, x_BD: Tensor) -> tuple[Tensor, SparseCodes]:
        """(y_hat_BO, codes) of inputs, no gradients."""
        codes = self.encode(x_BD)
        y_hat_BD = self.decode(codes, len(x_BD))
        return (y_hat_BD if self.W_skip_OI is None else y_hat_BD + x_BD @ self.W_skip_OI.t()), codes

    def before_step(self) -> None:
        """Called between backward and the optimiser's step."""

    def after_step(self) -> None:
        """Called after the optimiser's step."""

    def for_inference(self) -> Sae:
        """The SAE in the form in which it is saved; itself where training and inference agree."""
        return self

    @torch.no_grad()
    def folded(self, source: Normalisation, target: Normalisation) -> Sae:
        """A copy in its inference form that reads and writes raw activations, where this one does normalised ones.

        Its codes are 1/source.scale of the codes here. With s = source.scale, t = target.scale:
        b_enc' = b_enc/s - W_enc mean_x, W_dec' = W_dec s/t, b_dec' = b_dec/t + mean_y. An
        autoencoder's decoder keeps its norms, as s = t.
        """
        inner = self.for_inference()
        copy = type(inner)(inner.shape)
        copy.load_state_dict(inner.state_dict())
        s, t, mean_x, mean_y = source.scale, target.scale, source.mean_D.double(), target.mean_D.double()
        copy.fold_encoder(s, copy.W_enc_FD.double() @ mean_x)
        copy.W_dec_FD.mul_(s / t)
        copy.b_dec_D.copy_(inner.b_dec_D.double() / t + mean_y)
        if copy.W_skip_OI is not None:
            copy.W_skip_OI.mul_(s / t)
            copy.b_dec_D.sub_((copy.W_skip_OI.double() @ mean_x).float())
        return copy

    def fold_encoder(self, scale: float, shift_F: Tensor) -> None:
        """Makes pre-activations of raw inputs 1/scale of what they were: b_enc' = b_enc/scale - shift_F (float64)."""
        self.b_enc_F.data.copy_(self.b_enc_F.double() / scale - shift_F)


class SparseSae(Sae):
    """Base of the top-k family: unit decoder rows, the sparse step, an auxiliary loss for dead features.

    Gao et al. 2024, "Scaling and evaluating sparse autoencoders" (arXiv:2406.04093), sections 2.3 and A.2.
    """

    AUX_WEIGHT = 1 / 32
    AUX_DEAD_MOST = 512
    """Dead features that take part in a step's auxiliary loss, so that a step costs about the same with many dead."""

    @property
    def group_ends(self) -> tuple[int, ...]:
        """Past-last feature of each nested dictionary; one for all where there is no nesting."""
        return (self.shape.d_sae,)

    @abc.abstractmethod
    def select(self, x_BD: Tensor) -> sparse.Selection:
        """The pairs that fire in training."""

    @torch.no_grad()
    def backward(self, x_BD: Tensor, target_BD: Tensor, dead_F: Tensor, sparsity: float) -> StepLoss:
        """Mean FVU of the nested dictionaries + 1/32 of the auxiliary FVU; `sparsity` plays no part."""
        selection = self.select(x_BD)
        variance = (target_BD - target_BD.mean(0)).square().sum().clamp_min(1e-12)
        groups = len(self.group_ends)
        factor_G = (2.0 / groups / variance).expand(groups)
        found = sparse.gradients(self, x_BD, target_BD, selection, factor_G)
        self.W_enc_FD.grad, self.b_enc_F.grad = found.W_enc_FD, found.b_enc_F
        self.W_dec_FD.grad, self.b_dec_D.grad = found.W_dec_FD, found.b_dec_D
        fvu_G = (found.squares_G / variance).float()
        total = fvu_G.mean()
        if x_BD.is_cuda or bool(dead_F.any()):  # asking would make the host wait for a GPU
            total = total + self._auxiliary(x_BD, -found.error_BD, dead_F)
        fires = (selection.value_N > 0).sum()
        return StepLoss(total=total, fvu=fvu_G[-1], l0=fires / len(x_BD), fired_F=found.fired_F)

    def _auxiliary(self, x_BD: Tensor, residual_BD: Tensor, dead_F: Tensor) -> Tensor:
        """Adds the gradients of 1/32 of the FVU of the residual as up to d/2 dead features reconstruct it."""
        count = min(self.AUX_DEAD_MOST, self.shape.d_sae)
        chosen_M = torch.topk(dead_F.float(), count, sorted=False).indices
        is_dead_M = dead_F[chosen_M]
        weights = [w[chosen_M].detach().requires_grad_() for w in (self.W_enc_FD, self.b_enc_F, self.W_dec_FD)]
        with torch.enable_grad():
            pre_BM = torch.addmm(weights[1], x_BD, weights[0].t()).masked_fill(~is_dead_M, -torch.inf)
            top = pre_BM.topk(min(self.shape.d_in // 2 or 1, count), dim=1)
            codes_BM = torch.zeros_like(pre_BM).scatter(1, top.indices, top.values.relu())
            loss = self.AUX_WEIGHT * fraction_unexplained(residual_BD, codes_BM @ weights[2])
            found = torch.autograd.grad(loss, weights)
        for parameter, gradient in zip((self.W_enc_FD, self.b_enc_F, self.W_dec_FD), found, strict=True):
            if parameter.grad is not None:
                parameter.grad.index_add_(0, chosen_M, gradient)
        return loss.detach()

    @torch.no_grad()
    def before_step(self) -> None:
        """Takes the part along each decoder row out of its gradient: the norm is fixed."""
        gradient_FD, rows_FD = self.W_dec_FD.grad, self.W_dec_FD.detach()
        if gradient_FD is None:
            return
        if gradient_FD.is_cuda:
            gradient_FD.sub_((gradient_FD * rows_FD).sum(1, keepdim=True) * rows_FD)
            return
        from mistudio_torch.compiled import threads
        from mistudio_torch.sae import kernels

        kernels.remove_along(gradient_FD.numpy(), rows_FD.numpy(), threads(torch.get_num_threads()))

    @torch.no_grad()
    def after_step(self) -> None:
        """Unit decoder rows."""
        rows_FD = self.W_dec_FD.detach()
        if rows_FD.is_cuda:
            rows_FD.div_(rows_FD.norm(dim=1, keepdim=True).clamp_min(1e-8))
            return
        from mistudio_torch.compiled import threads
        from mistudio_torch.sae import kernels

        kernels.unit_rows(rows_FD.numpy(), threads(torch.get_num_threads()))


def leave_gradients(sae: Sae, total: Tensor) -> None:
    """Autograd for architectures without a step of their own: `.grad` is overwritten."""
    sae.zero_grad(set_to_none=True)
    total.backward()  # type: ignore[no-untyped-call]


def to_codes(codes_BF: Tensor) -> SparseCodes:
    """The non-zero entries of dense codes."""
    token_N, feature_N = torch.nonzero(codes_BF, as_tuple=True)
    return SparseCodes(token_N, feature_N, codes_BF[token_N, feature_N])


def with_architecture(shape: SaeShape, architecture: str) -> SaeShape:
    """The same sizes under another name."""
    return replace(shape, architecture=architecture)


def fraction_unexplained(x_BD: Tensor, x_hat_BD: Tensor) -> Tensor:
    """Batch FVU = ||x - x_hat||^2 / ||x - mean(x)||^2, differentiable in x_hat; a constant batch divides by 1e-12."""
    variance = (x_BD - x_BD.mean(0)).square().sum().clamp_min(1e-12)
    return (x_BD - x_hat_BD).square().sum() / variance

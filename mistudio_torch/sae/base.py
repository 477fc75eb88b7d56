"""What every sparse autoencoder shares: shape, weights, initialisation, folding of the normalisation.

An SAE maps x_BD to codes and back: pre_BF = x_BD W_enc^T + b_enc_F, x_hat_BD = codes_BF W_dec + b_dec_D.
Both weight matrices are kept feature-major (F, D). Owns no optimiser, data or files.
"""

from __future__ import annotations

import abc
import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from mistudio_core.errors import InvalidInput


@dataclass(frozen=True, kw_only=True, slots=True)
class SaeShape:
    """What an SAE is before it has weights."""

    architecture: str
    """Name in the registry: `topk`, `standard`."""
    d_in: int
    """Width of the residual stream D."""
    d_sae: int
    """Number of features F."""
    k: int = 32
    """Features that fire a token; top-k family only."""
    sparsity_coeff: float = 1e-3
    """Weight of the L1 penalty; standard only."""

    def __post_init__(self) -> None:
        if self.d_in < 1 or self.d_sae < 1:
            raise InvalidInput.field("hidden_dim", self.d_sae, "at least 1")
        if self.architecture == "topk" and not 1 <= self.k <= self.d_sae:
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
    """Loss of one batch and what was seen on the way."""

    total: Tensor
    """Scalar to differentiate."""
    fvu: Tensor
    """Scalar, detached: ||x - x_hat||^2 / ||x - mean(x)||^2 over the batch."""
    l0: Tensor
    """Scalar, detached: mean number of features that fire on a token."""
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
        self.W_dec_FD = nn.Parameter(torch.zeros(shape.d_sae, shape.d_in))
        self.b_dec_D = nn.Parameter(torch.zeros(shape.d_in))

    def initialise(self, seed: int) -> None:
        """Random unit decoder directions, the encoder their transpose (Gao et al. 2024, appendix A.1)."""
        generator = torch.Generator().manual_seed(seed)
        directions_FD = torch.randn(self.W_dec_FD.shape, generator=generator)
        with torch.no_grad():
            self.W_dec_FD.copy_(directions_FD / directions_FD.norm(dim=1, keepdim=True))
            self.W_enc_FD.copy_(self.W_dec_FD)
            self.b_enc_F.zero_()
            self.b_dec_D.zero_()

    def pre_activations(self, x_BD: Tensor) -> Tensor:
        """pre_BF, before any non-linearity."""
        return torch.addmm(self.b_enc_F, x_BD, self.W_enc_FD.t())

    @abc.abstractmethod
    def encode(self, x_BD: Tensor) -> SparseCodes:
        """Non-zero codes, without gradients."""

    @abc.abstractmethod
    def loss(self, x_BD: Tensor, dead_F: Tensor) -> StepLoss:
        """Training loss; `dead_F` (bool) marks the features that have not fired for long."""

    def decode(self, codes: SparseCodes, n_tokens: int) -> Tensor:
        """x_hat_BD of sparse codes, without gradients."""
        counts_B = torch.bincount(codes.token_N, minlength=n_tokens)
        offsets_B = torch.cumsum(counts_B, 0) - counts_B
        with torch.no_grad():
            sums_BD = nn.functional.embedding_bag(
                codes.feature_N, self.W_dec_FD, offsets_B, mode="sum", per_sample_weights=codes.value_N
            )
            return sums_BD + self.b_dec_D

    def before_step(self) -> None:
        """Called between backward and the optimiser's step."""

    def after_step(self) -> None:
        """Called after the optimiser's step."""

    @torch.no_grad()
    def folded(self, mean_D: Tensor, scale: float) -> Sae:
        """A copy that reads raw activations, where this one reads (x - mean_D) * scale.

        Codes of the copy are 1/scale of the codes here, so the decoder keeps its norms:
        b_enc' = b_enc/scale - mean W_enc^T, b_dec' = b_dec/scale + mean.
        """
        copy = type(self)(self.shape)
        mean_64D, scale = mean_D.double(), float(scale)
        copy.W_enc_FD.copy_(self.W_enc_FD)
        copy.W_dec_FD.copy_(self.W_dec_FD)
        copy.b_enc_F.copy_(self.b_enc_F.double() / scale - self.W_enc_FD.double() @ mean_64D)
        copy.b_dec_D.copy_(self.b_dec_D.double() / scale + mean_64D)
        return copy


@dataclass(frozen=True, slots=True, kw_only=True)
class Normalisation:
    """x_n = (x - mean_D) * scale, so that E[x_n] = 0 and E||x_n||^2 = D."""

    mean_D: Tensor
    """float32 (D,): mean activation."""
    scale: float
    """Factor after centring."""

    @staticmethod
    def of(x_BD: Tensor) -> Normalisation:
        """Measured in float64 on a sample of activations."""
        x_64BD = x_BD.double()
        mean_64D = x_64BD.mean(0)
        variance = float((x_64BD - mean_64D).square().sum(1).mean())
        scale = math.sqrt(x_BD.shape[1] / variance) if variance > 0 else 1.0
        return Normalisation(mean_D=mean_64D.float(), scale=float(torch.tensor(scale, dtype=torch.float32)))

    @staticmethod
    def identity(d_in: int) -> Normalisation:
        """Leaves activations as they are."""
        return Normalisation(mean_D=torch.zeros(d_in), scale=1.0)

    def apply(self, x_BD: Tensor) -> Tensor:
        """x_n of x."""
        return (x_BD - self.mean_D) * self.scale


def fraction_unexplained(x_BD: Tensor, x_hat_BD: Tensor) -> Tensor:
    """Batch FVU = ||x - x_hat||^2 / ||x - mean(x)||^2, differentiable in x_hat; a constant batch divides by 1e-12."""
    variance = (x_BD - x_BD.mean(0)).square().sum().clamp_min(1e-12)
    return (x_BD - x_hat_BD).square().sum() / variance

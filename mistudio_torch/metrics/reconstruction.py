"""Reconstruction and sparsity figures of an SAE, accumulated in float64 over batches.

Definitions: docs/metrics.md, version METRICS_VERSION. N tokens, D width of the target, F features.
Owns sums and formulas, not where activations come from; `reference` is the slow twin.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from mistudio_core.errors import Failed
from mistudio_torch.sae.base import SparseCodes

METRICS_VERSION = "2"
"""Version of the definitions of Train's figures; changes whenever one of them does."""

DENSITY_LOG10_EDGES = tuple(-7.0 + 0.25 * i for i in range(29))
"""Edges of the density histogram: log10 of the firing frequency from -7 to 0, 28 bins of a quarter."""

_DENSE_ONE_IN = 10


@dataclass(frozen=True, kw_only=True, slots=True)
class SaeMetrics:
    """Figures over all tokens that were added; y the target, ŷ its reconstruction, f its code."""

    tokens: int
    """Number of tokens N."""
    fvu: float
    """sum ||y - ŷ||² / sum ||y - mean(y)||², the mean over the same tokens; targets that do not vary: 0 or 1."""
    explained_variance: float
    """1 - fvu."""
    explained_variance_uncentred: float
    """1 - sum ||y - ŷ||² / sum ||y||²; larger, because the mean counts as explained. For comparison only."""
    cosine: float
    """Mean of cos(y, ŷ), not centred; 0 for a token where either is the zero vector."""
    norm_ratio: float
    """Mean of ||ŷ|| / ||y|| over tokens with y other than zero; below 1 is shrinkage."""
    l0: float
    """Mean number of features that fire on a token."""
    l1: float
    """Mean over tokens of the sum of f, in units of the saved SAE."""
    dead_features: int
    """Features that never fired."""
    active_features: int
    """Features that fired at least once."""
    dense_features: int
    """Features that fired on more than 10 % of the tokens."""
    density: float
    """l0 / F."""
    density_histogram: tuple[int, ...]
    """Features in each bin of DENSITY_LOG10_EDGES, by log10 of their firing frequency; dead ones in none."""
    mean_activation: float
    """Mean of f over tokens and features, zeros included: l1 / F."""


class MetricAccumulator:
    """Streaming sums; `add` each batch, then `result`. Nothing is copied off the device before that."""

    def __init__(self, d_out: int, d_sae: int) -> None:
        """For targets of width `d_out` and `d_sae` features."""
        self.tokens = 0
        self._d_out, self._d_sae = d_out, d_sae
        self._sums: _Sums | None = None

    @property
    def fired_F(self) -> Tensor:
        """int64 (F,), CPU: tokens on which each feature fired."""
        return torch.zeros(self._d_sae, dtype=torch.int64) if self._sums is None else self._sums.fired_F.cpu()

    @property
    def mean_D(self) -> Tensor:
        """float64 (D,), CPU: mean of the targets."""
        return torch.zeros(self._d_out, dtype=torch.float64) if self._sums is None else self._sums.mean_D.cpu()

    @torch.no_grad()
    def add(self, y_ND: Tensor, y_hat_ND: Tensor, codes: SparseCodes) -> None:
        """Adds a batch: targets (for an SAE its input), their reconstruction, and the codes it was made from."""
        if not len(y_ND):
            return
        if self._sums is None:
            self._sums = _Sums(self._d_out, self._d_sae, y_ND.device)
        self._sums.add(y_ND.double(), y_hat_ND.double(), codes, before=self.tokens)
        self.tokens += len(y_ND)

    def result(self) -> SaeMetrics:
        """The figures so far. Raises ValueError before the first batch; Failed where a sum is no finite number."""
        if self._sums is None:
            raise ValueError("no batch was added")
        sums, tokens, features = self._sums, self.tokens, self._d_sae
        sums.check()
        fired_F = self.fired_F
        active = int((fired_F > 0).sum())
        fvu = _ratio(float(sums.error), float(sums.variance))
        l0, l1 = int(fired_F.sum()) / tokens, float(sums.activation) / tokens
        return SaeMetrics(
            tokens=tokens,
            fvu=fvu,
            explained_variance=1.0 - fvu,
            explained_variance_uncentred=1.0 - _ratio(float(sums.error), float(sums.power)),
            cosine=float(sums.cosine) / tokens,
            norm_ratio=float(sums.norm_ratio) / max(int(sums.with_norm), 1),
            l0=l0,
            l1=l1,
            dead_features=features - active,
            active_features=active,
            dense_features=int((fired_F * _DENSE_ONE_IN > tokens).sum()),
            density=l0 / features,
            density_histogram=density_histogram(fired_F, tokens),
            mean_activation=l1 / features,
        )


class _Sums:
    """The sums themselves, float64 on the device of the targets."""

    def __init__(self, d_out: int, d_sae: int, device: torch.device) -> None:
        zeros = torch.zeros(7, dtype=torch.float64, device=device)
        self.error, self.variance, self.power, self.cosine, self.norm_ratio, self.with_norm, self.activation = zeros
        self.mean_D = torch.zeros(d_out, dtype=torch.float64, device=device)
        self.fired_F = torch.zeros(d_sae, dtype=torch.int64, device=device)

    def check(self) -> None:
        """Raises Failed where targets, reconstructions or codes held NaN or an infinity."""
        if not all(math.isfinite(float(s)) for s in (self.error, self.variance, self.power, self.activation)):
            raise Failed(
                "Activations or their reconstruction are NaN or infinite: no figure of them means anything. "
                "Use dtype float32 or bfloat16.",
                reason="NON_FINITE_LOSS",
            )

    def add(self, y_ND: Tensor, y_hat_ND: Tensor, codes: SparseCodes, *, before: int) -> None:
        """Adds a batch of float64 to the sums over `before` tokens.

        Mean and squared deviations merge as in Chan, Golub, LeVeque 1983: exact however far the
        targets lie from the origin.
        """
        count = len(y_ND)
        mean_D = y_ND.mean(0)
        shift_D = mean_D - self.mean_D
        between = shift_D.square().sum() * (before * count / (before + count))
        self.variance = self.variance + (y_ND - mean_D).square().sum() + between
        self.mean_D = self.mean_D + shift_D * (count / (before + count))
        norm_N, norm_hat_N = y_ND.norm(dim=1), y_hat_ND.norm(dim=1)
        has_norm_N = norm_N > 0
        cosine_N = (y_ND * y_hat_ND).sum(1) / (norm_N * norm_hat_N)
        self.error = self.error + (y_ND - y_hat_ND).square().sum()
        self.power = self.power + norm_N.square().sum()
        self.cosine = self.cosine + cosine_N.nan_to_num(nan=0.0, posinf=0.0, neginf=0.0).sum()
        self.norm_ratio = self.norm_ratio + torch.where(has_norm_N, norm_hat_N / norm_N, 0.0).sum()
        self.with_norm = self.with_norm + has_norm_N.sum()
        fires_N = codes.value_N > 0
        self.fired_F += torch.bincount(codes.feature_N[fires_N], minlength=len(self.fired_F)).to(self.fired_F.device)
        self.activation = self.activation + codes.value_N.double().sum().to(self.activation.device)


def density_histogram(fired_F: Tensor, tokens: int) -> tuple[int, ...]:
    """Features a bin of DENSITY_LOG10_EDGES by log10(fired / tokens); dead ones are in none.

    A bin holds its lower edge; the last one its upper edge too, the first one everything below.
    """
    frequency_F = fired_F[fired_F > 0].double() / tokens
    inner_E = torch.tensor([10.0**edge for edge in DENSITY_LOG10_EDGES[1:-1]], dtype=torch.float64)
    bins_F = torch.bucketize(frequency_F, inner_E.to(frequency_F.device), right=True)
    return tuple(torch.bincount(bins_F, minlength=len(DENSITY_LOG10_EDGES) - 1).tolist())


def _ratio(error: float, whole: float) -> float:
    """Share of the whole; of targets without any spread 0 for a perfect reconstruction, else 1."""
    return error / whole if whole > 0 else float(error > 0)

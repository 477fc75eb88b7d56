"""Reconstruction and sparsity figures of an SAE, accumulated in float64 over batches.

Definitions: docs/metrics.md, version METRICS_VERSION. N tokens, D model width, F features.
Owns sums and formulas, not where activations come from.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from mistudio_torch.sae.base import SparseCodes

METRICS_VERSION = "1"
"""Changes whenever a definition does."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SaeMetrics:
    """Figures over all tokens that were added."""

    tokens: int
    """Number of tokens N."""
    fvu: float
    """sum ||x - x_hat||^2 / sum ||x - mean(x)||^2, the mean over the same tokens."""
    explained_variance: float
    """1 - fvu."""
    cosine: float
    """Mean of cos(x, x_hat), not centred."""
    l0: float
    """Mean number of features that fire on a token."""
    dead_features: int
    """Features that never fired."""
    active_features: int
    """Features that fired at least once."""
    density: float
    """l0 / F."""
    mean_activation: float
    """Mean of the activation over all tokens and features, zeros included."""


class MetricAccumulator:
    """Streaming sums; `add` each batch, then `result`."""

    def __init__(self, d_in: int, d_sae: int) -> None:
        """For activations of width `d_in` and `d_sae` features."""
        self.tokens = 0
        self.fired_F = torch.zeros(d_sae, dtype=torch.int64)
        self._shift_D: Tensor | None = None
        self._sum_D = torch.zeros(d_in, dtype=torch.float64)
        self._squares = 0.0
        self._error = 0.0
        self._cosine = 0.0
        self._activation = 0.0

    def add(self, x_ND: Tensor, x_hat_ND: Tensor, codes: SparseCodes) -> None:
        """Adds a batch."""
        x, x_hat = x_ND.double(), x_hat_ND.double()
        if self._shift_D is None:
            self._shift_D = x.mean(0)  # sums about a nearby point keep the variance exact
        centred = x - self._shift_D
        self.tokens += len(x)
        self._sum_D += centred.sum(0)
        self._squares += float(centred.square().sum())
        self._error += float((x - x_hat).square().sum())
        norms = (x.norm(dim=1) * x_hat.norm(dim=1)).clamp_min(1e-30)
        self._cosine += float(((x * x_hat).sum(1) / norms).sum())
        self.fired_F += torch.bincount(codes.feature_N, minlength=len(self.fired_F))
        self._activation += float(codes.value_N.double().sum())

    def result(self) -> SaeMetrics:
        """The figures so far. Raises ValueError before the first batch."""
        if not self.tokens:
            raise ValueError("no batch was added")
        features = len(self.fired_F)
        variance = self._squares - float(self._sum_D.square().sum()) / self.tokens
        fvu = self._error / max(variance, 1e-30)
        active = int((self.fired_F > 0).sum())
        l0 = int(self.fired_F.sum()) / self.tokens
        return SaeMetrics(
            tokens=self.tokens,
            fvu=fvu,
            explained_variance=1.0 - fvu,
            cosine=self._cosine / self.tokens,
            l0=l0,
            dead_features=features - active,
            active_features=active,
            density=l0 / features,
            mean_activation=self._activation / (self.tokens * features),
        )

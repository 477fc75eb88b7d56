"""The top-k SAE: the K largest pre-activations of each token, after ReLU, and an auxiliary loss for dead features.

Gao et al. 2024, "Scaling and evaluating sparse autoencoders" (arXiv:2406.04093), sections 2.3 and A.2.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mistudio_torch.sae.base import Sae, SparseCodes, StepLoss, fraction_unexplained
from mistudio_torch.sae.sparse_ops import topk_fast

_AUX_WEIGHT = 1 / 32
_AUX_DEAD_MOST = 512
"""Dead features that take part in a step's auxiliary loss, so that a step costs about the same with many dead."""


class TopKSae(Sae):
    """ReLU(TopK(x W_enc^T + b_enc)), unit decoder rows."""

    @torch.no_grad()
    def encode(self, x_BD: Tensor) -> SparseCodes:
        """See Sae. At most K codes a token; a kept pre-activation <= 0 is no code."""
        top = self.pre_activations(x_BD).topk(self.shape.k, dim=1, sorted=False)
        token_N, column_N = torch.nonzero(top.values > 0, as_tuple=True)
        return SparseCodes(token_N, top.indices[token_N, column_N], top.values[token_N, column_N])

    def loss(self, x_BD: Tensor, dead_F: Tensor) -> StepLoss:
        """FVU + 1/32 of the auxiliary FVU: the residual predicted by the most active dead features."""
        x_hat_BD, value_BK, pairs = topk_fast(x_BD, self.W_enc_FD, self.b_enc_F, self.W_dec_FD, self.shape.k)
        x_hat_BD = x_hat_BD + self.b_dec_D
        fvu = fraction_unexplained(x_BD, x_hat_BD)
        total = fvu
        if bool(dead_F.any()):
            total = fvu + _AUX_WEIGHT * self._auxiliary(x_BD, (x_BD - x_hat_BD).detach(), dead_F)
        with torch.no_grad():
            fired_N = (value_BK > 0).reshape(-1)
            fired_F = torch.zeros_like(dead_F)
            fired_F[self._features(pairs.counts_F)[fired_N[pairs.order_N]]] = True
            l0 = fired_N.sum() / len(x_BD)
        return StepLoss(total=total, fvu=fvu.detach(), l0=l0, fired_F=fired_F)

    def before_step(self) -> None:
        """Takes the part along each decoder row out of its gradient: the norm is fixed."""
        gradient_FD = self.W_dec_FD.grad
        if gradient_FD is not None:
            along_F1 = (gradient_FD * self.W_dec_FD.detach()).sum(1, keepdim=True)
            gradient_FD.sub_(along_F1 * self.W_dec_FD.detach())

    @torch.no_grad()
    def after_step(self) -> None:
        """Unit decoder rows."""
        self.W_dec_FD.div_(self.W_dec_FD.norm(dim=1, keepdim=True).clamp_min(1e-8))

    def _auxiliary(self, x_BD: Tensor, residual_BD: Tensor, dead_F: Tensor) -> Tensor:
        """FVU of the residual as d/2 dead features reconstruct it; zero gradient to living ones."""
        dead_M = torch.nonzero(dead_F).squeeze(1)[:_AUX_DEAD_MOST]
        pre_BM = x_BD @ self.W_enc_FD[dead_M].t() + self.b_enc_F[dead_M]
        k_aux = min(self.shape.d_in // 2 or 1, len(dead_M))
        top = pre_BM.topk(k_aux, dim=1)
        codes_BM = torch.zeros_like(pre_BM).scatter(1, top.indices, top.values.relu())
        return fraction_unexplained(residual_BD, codes_BM @ self.W_dec_FD[dead_M])

    @staticmethod
    def _features(counts_F: Tensor) -> Tensor:
        """int64 (N,): the feature of each sorted pair."""
        return torch.repeat_interleave(torch.arange(len(counts_F), device=counts_F.device), counts_F)

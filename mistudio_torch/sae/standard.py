"""The standard SAE: ReLU with an L1 penalty weighted by decoder norms.

Anthropic, "Circuits Updates April 2024", with the reconstruction error as FVU, so that
`sparsity_coeff` means the same at every width: about 5 / d_in gives what the update calls lambda = 5.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mistudio_torch.sae.base import Sae, SparseCodes, StepLoss, fraction_unexplained


class StandardSae(Sae):
    """ReLU(x W_enc^T + b_enc), decoder rows of any norm."""

    @torch.no_grad()
    def encode(self, x_BD: Tensor) -> SparseCodes:
        """See Sae."""
        codes_BF = self.pre_activations(x_BD).relu()
        token_N, feature_N = torch.nonzero(codes_BF, as_tuple=True)
        return SparseCodes(token_N, feature_N, codes_BF[token_N, feature_N])

    def loss(self, x_BD: Tensor, dead_F: Tensor) -> StepLoss:
        """FVU + sparsity_coeff * mean over tokens of the sum over f of codes_f ||W_dec_f||; `dead_F` plays no part."""
        codes_BF = self.pre_activations(x_BD).relu()
        x_hat_BD = torch.addmm(self.b_dec_D, codes_BF, self.W_dec_FD)
        fvu = fraction_unexplained(x_BD, x_hat_BD)
        penalty = (codes_BF @ self.W_dec_FD.norm(dim=1)).mean()
        with torch.no_grad():
            fires_BF = codes_BF > 0
        return StepLoss(
            total=fvu + self.shape.sparsity_coeff * penalty,
            fvu=fvu.detach(),
            l0=fires_BF.sum() / len(x_BD),
            fired_F=fires_BF.any(0),
        )

"""The standard SAE: ReLU with an L1 penalty weighted by decoder norms.

Anthropic, "Circuits Updates April 2024", with the reconstruction error as FVU, so that
`sparsity_coeff` means the same at every width: about 5 / d_in gives what the update calls lambda = 5.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mistudio_torch.sae.base import Sae, SparseCodes, StepLoss, fraction_unexplained, leave_gradients, to_codes
from mistudio_torch.sae.dense import decoded, encoded


class StandardSae(Sae):
    """ReLU(x W_enc^T + b_enc), decoder rows of any norm."""

    @torch.no_grad()
    def encode(self, x_BD: Tensor) -> SparseCodes:
        """See Sae."""
        return to_codes(self.pre_activations(x_BD).relu())

    def backward(self, x_BD: Tensor, target_BD: Tensor, dead_F: Tensor, sparsity: float) -> StepLoss:
        """FVU + sparsity_coeff * mean over tokens of the sum over f of codes_f ||W_dec_f||."""
        codes_BF = encoded(x_BD, self.W_enc_FD, self.b_enc_F).relu()
        fvu = fraction_unexplained(target_BD, decoded(codes_BF, self.W_dec_FD, self.b_dec_D))
        penalty = (codes_BF.mean(0, dtype=torch.float32) * self.W_dec_FD.norm(dim=1)).sum()
        total = fvu + sparsity * self.shape.sparsity_coeff * penalty
        leave_gradients(self, total)
        with torch.no_grad():
            count_F = torch.count_nonzero(codes_BF, 0)
        return StepLoss(total=total.detach(), fvu=fvu.detach(), l0=count_F.sum() / len(x_BD), fired_F=count_F > 0)

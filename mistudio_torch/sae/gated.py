"""The gated SAE: one path decides which features fire, another how strongly.

Rajamanoharan et al. 2024, "Improving dictionary learning with gated sparse autoencoders"
(arXiv:2404.16014). The gate's bias is `b_enc_F`; decoder rows have norm 1, so that no penalty is
saved by small rows and large magnitudes.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mistudio_torch.sae.base import (
    Sae,
    SaeShape,
    SparseCodes,
    StepLoss,
    fraction_unexplained,
    leave_gradients,
    to_codes,
)
from mistudio_torch.sae.dense import decoded, encoded


class GatedSae(Sae):
    """[x W^T + b_gate > 0] * ReLU(exp(r_mag) * x W^T + b_mag)."""

    def __init__(self, shape: SaeShape) -> None:
        """See Sae."""
        super().__init__(shape)
        self.r_mag_F = nn.Parameter(torch.zeros(shape.d_sae))
        self.b_mag_F = nn.Parameter(torch.zeros(shape.d_sae))

    @torch.no_grad()
    def encode(self, x_BD: Tensor) -> SparseCodes:
        """See Sae."""
        product_BF = x_BD @ self.W_enc_FD.t()
        size_BF = (product_BF * self.r_mag_F.exp() + self.b_mag_F).relu()
        return to_codes(size_BF * (product_BF + self.b_enc_F > 0))

    def backward(self, x_BD: Tensor, target_BD: Tensor, dead_F: Tensor, sparsity: float) -> StepLoss:
        """FVU + sparsity_coeff * mean sum of ReLU(gate) + FVU of the gate's own codes, decoder held still."""
        product_BF = encoded(x_BD, self.W_enc_FD, torch.zeros_like(self.b_enc_F)).float()
        gate_BF = product_BF + self.b_enc_F
        open_BF = gate_BF.detach() > 0
        codes_BF = (product_BF * self.r_mag_F.exp() + self.b_mag_F).relu() * open_BF
        gates_BF = gate_BF.relu()
        fvu = fraction_unexplained(target_BD, decoded(codes_BF, self.W_dec_FD, self.b_dec_D))
        by_gate_BD = decoded(gates_BF, self.W_dec_FD.detach(), self.b_dec_D.detach())
        penalty = gates_BF.mean(0).sum()
        total = fvu + sparsity * self.shape.sparsity_coeff * penalty + fraction_unexplained(target_BD, by_gate_BD)
        leave_gradients(self, total)
        with torch.no_grad():
            count_F = torch.count_nonzero(codes_BF, 0)
        return StepLoss(total=total.detach(), fvu=fvu.detach(), l0=count_F.sum() / len(x_BD), fired_F=count_F > 0)

    @torch.no_grad()
    def after_step(self) -> None:
        """Unit decoder rows."""
        self.W_dec_FD.div_(self.W_dec_FD.norm(dim=1, keepdim=True).clamp_min(1e-8))

    def fold_encoder(self, scale: float, shift_F: Tensor) -> None:
        """See Sae, for both biases."""
        super().fold_encoder(scale, shift_F)
        shift_mag_F = shift_F * self.r_mag_F.detach().double().exp()
        self.b_mag_F.data.copy_(self.b_mag_F.double() / scale - shift_mag_F)

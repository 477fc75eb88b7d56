"""Lets dead features of penalised SAEs start anew, in the direction of what is reconstructed worst.

Bricken et al. 2023, "Towards monosemanticity", appendix "Neuron resampling": decoder rows become the
errors of tokens drawn in proportion to their squared error; the optimiser forgets the old ones.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mistudio_torch.sae.base import Sae

_ENCODER_SHARE = 0.2
"""Norm of a new encoder row, as a share of the mean of the living."""


@torch.no_grad()
def resample(
    sae: Sae, optimizer: torch.optim.Optimizer, x_BD: Tensor, target_BD: Tensor, dead_F: Tensor, *, seed: int
) -> int:
    """Gives every dead feature new weights from one batch; returns how many. Waits for a GPU."""
    dead_M = torch.nonzero(dead_F).squeeze(1)
    if not len(dead_M) or len(dead_M) == len(dead_F):
        return 0
    error_BD = target_BD - sae.reconstruct(x_BD)[0]
    chances_B = error_BD.double().square().sum(1).cpu()
    if float(chances_B.sum()) <= 0:
        return 0
    generator = torch.Generator().manual_seed(seed)
    chosen_M = torch.multinomial(chances_B, len(dead_M), replacement=True, generator=generator).to(x_BD.device)
    size = _ENCODER_SHARE * sae.W_enc_FD[~dead_F].norm(dim=1).mean()
    sae.W_dec_FD[dead_M] = _unit(error_BD[chosen_M])
    sae.W_enc_FD[dead_M] = size * _unit(x_BD[chosen_M] if sae.shape.d_in != sae.shape.d_out else error_BD[chosen_M])
    for name, parameter in sae.named_parameters():
        if parameter.shape[:1] != dead_F.shape or parameter.dim() > 2:
            continue
        if parameter.dim() == 1:  # biases at 0, thresholds at the usual of the living
            parameter[dead_M] = parameter[~dead_F].median() if name == "threshold_F" else 0.0
        for key, moment in optimizer.state.get(parameter, {}).items():
            if key != "step":
                moment[dead_M] = 0.0
    return len(dead_M)


def _unit(rows_MD: Tensor) -> Tensor:
    unit_MD: Tensor = rows_MD / rows_MD.norm(dim=1, keepdim=True).clamp_min(1e-8)
    return unit_MD

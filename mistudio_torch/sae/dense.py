"""Dense products of the penalised architectures, in bfloat16 where the processor is fast at it.

Weights, biases, sums and the optimiser stay float32: only the operands of the products are rounded.
"""

from __future__ import annotations

from contextlib import AbstractContextManager

import torch
from torch import Tensor

from mistudio_torch.sae.sparse import has_fast_bfloat16


def fast_products(device: torch.device) -> AbstractContextManager[None]:
    """Autocast to bfloat16 on GPUs and on processors that have it; nothing elsewhere."""
    context: AbstractContextManager[None] = torch.autocast(
        device.type, dtype=torch.bfloat16, enabled=device.type == "cuda" or has_fast_bfloat16()
    )
    return context


def encoded(x_BD: Tensor, W_enc_FD: Tensor, b_enc_F: Tensor) -> Tensor:
    """pre_BF = x W_enc^T + b_enc_F, with gradients to the weights."""
    with fast_products(x_BD.device):
        return torch.nn.functional.linear(x_BD, W_enc_FD, b_enc_F)


def decoded(codes_BF: Tensor, W_dec_FD: Tensor, b_dec_D: Tensor) -> Tensor:
    """y_hat_BD float32 = codes W_dec + b_dec, with gradients to codes and weights."""
    with fast_products(codes_BF.device):
        sums_BD = codes_BF @ W_dec_FD
    return sums_BD.float() + b_dec_D

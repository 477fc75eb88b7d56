"""The batch top-k SAE: the B * K largest pre-activations of a batch fire; a threshold at inference.

Bussmann et al. 2024, "BatchTopK sparse autoencoders" (arXiv:2412.06410). The threshold is the mean
of the least activation kept, over the last ten batches or so.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mistudio_torch.sae import sparse
from mistudio_torch.sae.base import SaeShape, SparseCodes, SparseSae, with_architecture
from mistudio_torch.sae.jumprelu import JumpReluSae

_BATCHES = 10


class BatchTopKSae(SparseSae):
    """K features a token on average, unit decoder rows."""

    def __init__(self, shape: SaeShape) -> None:
        """See Sae."""
        super().__init__(shape)
        self.register_buffer("threshold", torch.zeros(()))
        self.register_buffer("batches", torch.zeros(()))
        self.threshold: Tensor
        self.batches: Tensor

    def select(self, x_BD: Tensor) -> sparse.Selection:
        """See SparseSae; moves the threshold."""
        selection, least = sparse.top_of_batch(
            x_BD,
            self.W_enc_FD.detach(),
            self.b_enc_F.detach(),
            self.shape.k,
            floor=0.0 if x_BD.is_cuda else 0.8 * float(self.threshold),
        )
        self.batches.add_(1)
        self.threshold.lerp_(torch.as_tensor(least).to(self.threshold), 1.0 / self.batches.clamp(max=_BATCHES))
        return selection

    def encode(self, x_BD: Tensor) -> SparseCodes:
        """See Sae: what lies above the threshold."""
        return self.for_inference().encode(x_BD)

    @torch.no_grad()
    def for_inference(self) -> JumpReluSae:
        """A JumpReLU SAE with one threshold for all features, as SAELens saves it."""
        copy = JumpReluSae(with_architecture(self.shape, "jumprelu")).to(self.W_enc_FD.device)
        for name in ("W_enc_FD", "b_enc_F", "W_dec_FD", "b_dec_D"):
            getattr(copy, name).copy_(getattr(self, name))
        copy.threshold_F.fill_(self.threshold)
        return copy

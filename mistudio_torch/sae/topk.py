"""The top-k SAE: the K largest pre-activations of each token, after ReLU.

Gao et al. 2024, "Scaling and evaluating sparse autoencoders" (arXiv:2406.04093).
"""

from __future__ import annotations

import torch
from torch import Tensor

from mistudio_torch.sae import sparse
from mistudio_torch.sae.base import SparseCodes, SparseSae


class TopKSae(SparseSae):
    """ReLU(TopK(x W_enc^T + b_enc)), unit decoder rows."""

    def select(self, x_BD: Tensor) -> sparse.Selection:
        """See SparseSae."""
        return sparse.top_k(x_BD, self.W_enc_FD.detach(), self.b_enc_F.detach(), self.shape.k)

    @torch.no_grad()
    def encode(self, x_BD: Tensor) -> SparseCodes:
        """See Sae. At most K codes a token; a kept pre-activation <= 0 is no code. Exact float32."""
        found = sparse.top_k(x_BD, self.W_enc_FD, self.b_enc_F, self.shape.k, exact=True)
        place_N = torch.nonzero(found.value_N > 0).squeeze(1)
        return SparseCodes(place_N // self.shape.k, found.feature_N[place_N].long(), found.value_N[place_N])

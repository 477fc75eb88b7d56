"""The Matryoshka SAE: nested dictionaries of growing width, each of which reconstructs; batch top-k.

Bussmann et al. 2025, "Learning multi-level features with Matryoshka sparse autoencoders"
(arXiv:2503.17547), with fixed prefixes of F/16, F/8, F/4, F/2 and F.
"""

from __future__ import annotations

from mistudio_torch.sae.batchtopk import BatchTopKSae

_SHARES = (16, 8, 4, 2, 1)


class MatryoshkaSae(BatchTopKSae):
    """Batch top-k over all features; the loss is the mean FVU of the five prefixes."""

    @property
    def group_ends(self) -> tuple[int, ...]:
        """Past-last feature of each prefix."""
        return tuple(sorted({max(1, self.shape.d_sae // share) for share in _SHARES}))
